"""The script that Streamlit runs; it lies in the package so that an installed copy has it too."""

from rossmann.dashboard.pages import run

run()
