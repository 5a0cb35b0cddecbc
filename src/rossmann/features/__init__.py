"""As-of features and Kalman filters; all their numba kernels are in this one folder."""
