"""The dashboard page that forecasts one store and day."""
