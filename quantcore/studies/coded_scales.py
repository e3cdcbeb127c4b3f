"""One real block of weights under a coded scale: the element's grid, the scale's grid, and their product.

block = coded_block(weight, PRESETS["MXFP4A16"].weights, times=1.3)
block.scale, block.used                                           0.015625, 0.61: the block reaches 61% of its grid

The block is the one of median reach, so that neither the tensor's loudest nor its quietest number is in it. `times`
makes all its numbers larger alike, as another block of the same shape would be: an e8m0 scale follows in steps of two.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from quantcore.numbers.affine import qparams_of_range, round_trip
from quantcore.numbers.distance import tensor_error
from quantcore.numbers.qtensor import global_scale_of
from quantcore.numbers.spec import QuantSpec

SHOWN = 4  # codes of the scale to each side


@dataclass(frozen=True)
class CodedBlock:
    """values: of the block, ascending. exact: max(|x|) / qmax, the scale that would fit; scale: the coded one.
    scales: the codes around it, as real numbers. element: the format's values; levels: times the scale. used: what the
    block reaches of its largest level. sqnr_db: of the block."""

    values: tuple[float, ...]
    exact: float
    scale: float
    scales: tuple[float, ...]
    element: tuple[float, ...]
    levels: tuple[float, ...]
    used: float
    sqnr_db: float


def coded_block(weight: Tensor, spec: QuantSpec, times: float = 1.0, size: int = 32) -> CodedBlock:
    """Of a weight (O, K), the first tile of the block of `size` columns that has the median reach.

    Raises: ValueError where `size` does not divide K, or the spec's tile `size`."""
    if weight.shape[-1] % size:
        raise ValueError(f"blocks of {size} do not divide rows of {weight.shape[-1]} weights; open another layer")
    blocks = weight.float().reshape(-1, size)
    chosen = blocks[int(blocks.abs().amax(1).median(0).indices)]
    x = chosen[: spec.granularity.tile((1, size))[-1]] * times
    whole = global_scale_of(weight, spec)
    qparams = qparams_of_range(x.amin().view(1), x.amax().view(1), spec, whole)
    near = torch.cat(list(spec.scales.neighbours(qparams.scale, whole, (SHOWN, SHOWN))))
    levels = spec.fmt.grid().to(x.device) * qparams.scale
    reach = x.abs().amax()
    return CodedBlock(
        values=tuple(x.sort().values.tolist()),
        exact=float(reach / spec.fmt.half_range),
        scale=float(qparams.scale),
        scales=tuple(sorted(set(near.tolist()))),
        element=tuple(spec.fmt.grid().tolist()),
        levels=tuple(levels.tolist()),
        used=float(reach / levels.max()),
        sqnr_db=tensor_error(x, round_trip(x, qparams, spec.fmt)).sqnr_db,
    )
