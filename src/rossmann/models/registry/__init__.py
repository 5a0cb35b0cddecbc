"""Registered versions: stages, promotion, lineage, local copies; only it uses MLflow's aliases."""
