"""From a trained folder to a registered MLflow version."""
