"""What a quantized model loses, and results that are kept."""
