"""Fit, backtest and save a version; scheduled retraining."""
