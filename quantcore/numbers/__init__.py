"""What one number and one tensor become: formats, granularities, scales, codes."""
