"""Backtest report and model card."""
