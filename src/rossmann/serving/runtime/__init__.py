"""State of a running service: loaded versions, panel, registry polling."""
