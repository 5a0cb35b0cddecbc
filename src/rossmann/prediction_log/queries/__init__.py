"""Reading and exporting logged predictions."""
