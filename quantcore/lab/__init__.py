"""Every composition, once."""
