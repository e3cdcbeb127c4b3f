"""quantcore: quantize language models for real, and measure what it costs.

    from quantcore import Lab, load_model, quantize_model, compare

The names below are stable. A name brings its module when it is first asked for, and torch with it; transformers comes
when a model is loaded. So two threads that import parts of this package never wait for each other in a circle.
"""

from __future__ import annotations

import importlib
import os
from typing import TYPE_CHECKING, Any

# Torch's threads on a CPU that others use, too: while they wait for one another they sleep, not spin, which takes the
# core from the very thread that is waited for: three to ten times as fast on two busy cores, no slower on idle ones.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

if TYPE_CHECKING:
    from quantcore.export.checkpoint import export_checkpoint
    from quantcore.lab.lab import Lab
    from quantcore.measure.evaluate import compare
    from quantcore.model.loading import load_model
    from quantcore.numbers.qtensor import QTensor, dequantize, fake_quantize, quantize
    from quantcore.numbers.spec import QuantSpec
    from quantcore.pipeline.calibration import calibrate
    from quantcore.pipeline.convert import quantize_model
    from quantcore.scheme.plan import Plan
    from quantcore.scheme.scheme import Scheme

_HOMES = {
    "Lab": "lab.lab",
    "Plan": "scheme.plan",
    "QTensor": "numbers.qtensor",
    "QuantSpec": "numbers.spec",
    "Scheme": "scheme.scheme",
    "calibrate": "pipeline.calibration",
    "compare": "measure.evaluate",
    "dequantize": "numbers.qtensor",
    "export_checkpoint": "export.checkpoint",
    "fake_quantize": "numbers.qtensor",
    "load_model": "model.loading",
    "quantize": "numbers.qtensor",
    "quantize_model": "pipeline.convert",
}

__all__ = [
    "Lab",
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
