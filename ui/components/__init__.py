"""Two pictures that Streamlit does not have: a chart that keeps its camera, and a number line that can be dragged."""
