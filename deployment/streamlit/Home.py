"""Start the dashboard: ``cd deployment/streamlit && streamlit run Home.py``."""

from streamlit.starlette import App

from rossmann.dashboard.web_app import MIDDLEWARE, SCRIPT

app = App(SCRIPT, middleware=MIDDLEWARE)
