"""Script that Streamlit runs; part of the package, so that an installed copy has it."""

from rossmann.dashboard.pages import run

run()
