"""The dashboard page that forecasts a file of store-days."""
