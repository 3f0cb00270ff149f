"""The forecaster for Darts, sktime and scikit-learn: each converts to arrays and back."""
