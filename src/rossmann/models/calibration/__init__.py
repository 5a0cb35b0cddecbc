"""Interval coverage, bias correction and covariance of totals."""
