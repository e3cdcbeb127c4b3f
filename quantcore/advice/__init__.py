"""This model, this GPU, this load: what fits, how fast, and which scheme to ship."""
