"""How the bundled teacher was made: ``python -m pretraining.train``."""
