"""Start the dashboard: ``cd deployment/streamlit && streamlit run Home.py``."""

from rossmann.dashboard.app import run

run()
