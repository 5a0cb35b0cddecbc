"""Backtest windows, baselines and error metrics."""
