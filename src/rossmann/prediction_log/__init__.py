"""The prediction log: every answered row, kept in SQLite or PostgreSQL."""
