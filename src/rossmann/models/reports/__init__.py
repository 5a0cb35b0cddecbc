"""Backtest report and model card, as tables, figures and HTML pages."""
