"""What was answered, kept for later: the prediction log."""
