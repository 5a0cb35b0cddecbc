"""Atomic writes, file locks and process identity."""
