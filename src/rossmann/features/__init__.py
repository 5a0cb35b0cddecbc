"""As-of features and Kalman filters; all numba kernels of the features lie in this one folder."""
