"""The ensemble: fit, blend, backtest, and the registry of its versions."""
