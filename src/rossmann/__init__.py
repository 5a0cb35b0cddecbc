"""Rossmann Forecasting: daily sales forecasts for a retail chain, tested as they are served."""

__version__ = "0.1.0"
