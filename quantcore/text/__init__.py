"""A text, once: files, windows."""
