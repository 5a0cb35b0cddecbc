"""Door of the dashboard: ``streamlit run Home.py``."""

from rossmann.dashboard.app import run

run()
