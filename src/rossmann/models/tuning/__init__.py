"""Hyper-parameter and blend-weight search."""
