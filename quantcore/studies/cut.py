"""Where to cut a range: the error of a tensor against the share of its reach that the codes cover.

    curve = cut_curve(x, spec)          the range is f * [lo, hi] for every f of CUTS; what lies beyond is clipped

A wide range has wide steps, a narrow one clips: the error has a least place between, and where depends on the tensor.
"""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from quantcore.numbers.affine import choose_qparams, round_trip
from quantcore.numbers.distance import tensor_error
from quantcore.numbers.spec import QuantSpec

CUTS = tuple(step / 50 for step in range(2, 51))  # 0.04, 0.06 ... 1


@dataclass(frozen=True)
class CutCurve:
    """For each of CUTS: SQNR in dB, share of values clipped. `reach` is the largest |value|, which a cut of 1 keeps."""

    cuts: tuple[float, ...]
    sqnr_db: tuple[float, ...]
    clipped: tuple[float, ...]
    reach: float

    @property
    def best(self) -> int:
        """The index of the least error."""
        return max(range(len(self.cuts)), key=lambda place: self.sqnr_db[place])


def cut_curve(x: Tensor, spec: QuantSpec) -> CutCurve:
    """Quantize all of x with one scale at every cut. Raises: ValueError for a tensor of zeros."""
    lo, hi = x.min(), x.max()
    reach = float(x.abs().max())
    if reach == 0:
        raise ValueError(f"all {x.numel():,} values are 0, so there is no range to cut")
    errors, clipped = [], []
    for cut in CUTS:
        qparams = choose_qparams(lo * cut, hi * cut, spec)
        errors.append(tensor_error(x, round_trip(x, qparams, spec.fmt)).sqnr_db)
        clipped.append(float((x.abs() > cut * reach).double().mean()))
    return CutCurve(CUTS, tuple(errors), tuple(clipped), reach)
