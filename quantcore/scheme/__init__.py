"""The language: one line of text for a scheme or a plan."""
