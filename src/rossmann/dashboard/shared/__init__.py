"""What the dashboard's pages share: charts, input widgets, service state."""
