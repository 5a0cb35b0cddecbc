"""POST /predict/file: an uploaded table in, the same rows with forecasts out."""
