"""The Streamlit dashboard: pages for planners, a client of the HTTP API."""
