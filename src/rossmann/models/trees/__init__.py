"""Numba kernels that evaluate the members' trees."""
