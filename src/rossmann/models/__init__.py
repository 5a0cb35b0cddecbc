"""Training, evaluation, inference and the model registry."""
