"""quantcore: quantize language models for real, and measure what it costs.

    from quantcore import load_model, quantize_model, compare

The names below are stable. A name brings its module when it is first asked for, and torch with it; transformers comes
when a model is loaded. So two threads that import parts of this package never wait for each other in a circle.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from quantcore.calibration import calibrate
    from quantcore.convert import quantize_model
    from quantcore.evaluate import compare
    from quantcore.export import export_checkpoint
    from quantcore.models import load_model
    from quantcore.plan import Plan
    from quantcore.qtensor import QTensor, dequantize, fake_quantize, quantize
    from quantcore.scheme import QuantSpec, Scheme

_HOMES = {
    "Plan": "plan",
    "QTensor": "qtensor",
    "QuantSpec": "scheme",
    "Scheme": "scheme",
    "calibrate": "calibration",
    "compare": "evaluate",
    "dequantize": "qtensor",
    "export_checkpoint": "export",
    "fake_quantize": "qtensor",
    "load_model": "models",
    "quantize": "qtensor",
    "quantize_model": "convert",
}

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


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'quantcore' has no attribute {name!r}")
    value = globals()[name] = getattr(importlib.import_module(f"quantcore.{_HOMES[name]}"), name)
    return value
