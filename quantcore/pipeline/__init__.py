"""The road: model, plan and text to quantized parts."""
