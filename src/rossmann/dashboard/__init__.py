"""Pages for people who do not code; clients of the HTTP API, like any other."""
