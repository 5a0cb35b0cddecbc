"""Raw tables: reading, validation, cleaning, increments."""
