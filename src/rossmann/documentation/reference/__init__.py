"""The pages below ``docs/reference/``, written from the code."""

from rossmann.documentation.reference.pages import reference_pages

__all__ = ["reference_pages"]
