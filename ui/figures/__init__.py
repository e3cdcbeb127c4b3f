"""Figures: a report in, a plotly Figure out. No streamlit here, so a test can read every trace."""
