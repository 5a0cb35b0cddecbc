"""The prediction service and its client."""
