"""Windows of series: cut, filled, normalised, in batches."""
