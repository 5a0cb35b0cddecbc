"""Backup of an installation's data while its services run, and restore of it."""
