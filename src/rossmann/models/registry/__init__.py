"""Versions, stages and promotion: the only users of MLflow's aliases and tags."""
