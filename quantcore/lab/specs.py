"""What a question about one tensor asks of a scheme: codes for it, and nothing that would change it before.

Raises: ValueError, each, with the way out.
"""

from __future__ import annotations

from quantcore.lab.bench import Bench
from quantcore.numbers.spec import QuantSpec
from quantcore.scheme.scheme import Scheme


def activations_of(lab: Bench, scheme: str) -> QuantSpec:
    """How a scheme quantizes activations."""
    asked = lab.scheme_of(scheme)
    if asked.activations is None:
        raise ValueError(f"{scheme!r} leaves the activations float; add a:..., as in a:int8/tensor/static")
    _require_untransformed(asked)
    return asked.activations


def weights_of(lab: Bench, scheme: str) -> QuantSpec:
    """How a scheme quantizes weights."""
    asked = lab.scheme_of(scheme)
    if asked.weights is None:
        raise ValueError(f"{scheme!r} leaves the weights float; add w:..., as in w:int4/group128")
    _require_untransformed(asked)
    return asked.weights


def _require_untransformed(scheme: Scheme) -> None:
    if scheme.transforms:
        words = ",".join(map(str, scheme.transforms))
        raise ValueError(f"this looks at one tensor as the model has it, and {words} would change it; leave it out")
    require_of_layers(scheme)


def require_of_layers(scheme: Scheme) -> None:
    """That a scheme, of which a question about layers is asked, does not speak of the cache."""
    if scheme.kv is not None:
        raise ValueError(f"this looks at layers, and {scheme.kv} speaks of the whole model's cache; leave it out")
