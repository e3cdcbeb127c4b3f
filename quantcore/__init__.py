"""quantcore: quantize language models for real, and measure what it costs.

    from quantcore import load_model, quantize_model, compare

The names below are stable. Importing this package imports torch; transformers is imported when a model is loaded.
"""

from quantcore.calibrate import calibrate
from quantcore.convert import quantize_model
from quantcore.evaluate import compare
from quantcore.export import export_checkpoint
from quantcore.models import load_model
from quantcore.plan import Plan
from quantcore.qtensor import QTensor, dequantize, fake_quantize, quantize
from quantcore.scheme import QuantSpec, Scheme

__all__ = [
    "Plan",
    "QTensor",
    "QuantSpec",
    "Scheme",
    "calibrate",
    "compare",
    "dequantize",
    "export_checkpoint",
    "fake_quantize",
    "load_model",
    "quantize",
    "quantize_model",
]
