"""POST /predict and POST /explain."""
