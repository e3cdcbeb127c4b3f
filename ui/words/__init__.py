"""Sentences and tables with live numbers, one file a page."""
