"""What rows may be in doubt for, as bits: apart from the kernel that finds them, which compiles."""

from typing import Final

FAR: Final = 1
"""Days beyond the longest horizon that members learned."""
SHORT: Final = 2
"""Stores with few days of sales."""
QUIET: Final = 4
"""Stores that sold on few days of late."""
UNPLANNED: Final = 8
"""Days that no schedule tells of."""
