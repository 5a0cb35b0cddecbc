"""Metrics, access log, traces and the recording of predictions."""
