"""Checks that decide whether a version may become Production."""
