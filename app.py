"""What happens when a layer keeps only 16 values? The first page: one control, one row, five next words."""

from ui import frame

with frame.page("What happens when a layer keeps only 16 values?", "soon", [], "app.py"):
    pass
