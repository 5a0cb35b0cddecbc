"""Starts the three services in order, watches them, and ends what it started, and only that."""
