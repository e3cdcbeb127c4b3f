"""What one side of a scheme says, from its text."""

from quantcore.numbers.spec import QuantSpec
from quantcore.scheme.scheme import Scheme


def weights_spec(text: str) -> QuantSpec:
    """`int4/group128` as the spec of a scheme's weights."""
    spec = Scheme.parse(f"w:{text}").weights
    assert spec is not None
    return spec


def activations_spec(text: str) -> QuantSpec:
    """`int8/tensor/static` as the spec of a scheme's activations."""
    spec = Scheme.parse(f"a:{text}").activations
    assert spec is not None
    return spec
