"""A/B and shadow deployments of a challenger version."""
