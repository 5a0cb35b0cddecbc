"""Public benchmarks of others, run by their rules through the path that serves."""
