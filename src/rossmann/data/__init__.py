"""From raw tables to checked history and as-of arrays."""
