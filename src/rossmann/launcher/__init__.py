"""The launcher: starts, watches and ends the three services from one command."""
