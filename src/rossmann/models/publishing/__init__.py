"""Trained folders, and their registration as MLflow versions."""
