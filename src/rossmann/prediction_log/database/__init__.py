"""Engine, tables, inserts and retention of the prediction log."""
