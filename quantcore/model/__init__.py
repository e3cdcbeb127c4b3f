"""A model: where its files are, what is in them, how it is loaded."""
