"""Decision tree ensembles as plain arrays, evaluated by numba kernels."""
