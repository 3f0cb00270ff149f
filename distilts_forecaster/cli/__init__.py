"""The command ``distilts``."""
