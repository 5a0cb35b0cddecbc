"""What was answered, and how it compares with what happened."""
