"""From rows to forecasts: origin, warnings, intervals, attributions, totals."""
