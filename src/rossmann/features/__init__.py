"""The 46 features: pure functions, arrays in and arrays out."""
