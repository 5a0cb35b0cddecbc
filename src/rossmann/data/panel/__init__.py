"""Dense store-by-day arrays, memory-mapped."""
