"""Typed HTTP client of the prediction service."""

from rossmann.serving.client.client import Client

__all__ = ["Client"]
