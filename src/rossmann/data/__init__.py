"""Raw tables to a checked, dense panel; the only layer that knows files of data."""
