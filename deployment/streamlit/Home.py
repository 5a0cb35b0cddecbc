"""Door of the dashboard: ``streamlit run Home.py``."""

from rossmann.dashboard.pages import run

run()
