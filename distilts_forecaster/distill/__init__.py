"""The pipeline: from series and a teacher to a fitted student."""
