"""The synthetic demo chain."""
