"""Start the dashboard: ``cd deployment/streamlit && streamlit run Home.py``."""

from streamlit.starlette import App

from rossmann.dashboard.web_app import MIDDLEWARE, SCRIPT, routes

app = App(SCRIPT, middleware=MIDDLEWARE, routes=routes())
