"""The teacher that comes with the package: NumPy only."""
