"""URL routes and the OpenAPI document."""
