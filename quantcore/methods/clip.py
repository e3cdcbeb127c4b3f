"""AWQ's clip search: how far each tile's range may shrink before the layer's outputs lose more than they gain.

    loss(c) = sum over rows of the tile of e_g H_gg e_g^T        e = w - w_hat under the range c * [lo, hi]
    c = 1, 0.95, ... 0.55

H_gg is X^T X of the tile's own columns: the tile's part of the outputs is compared, not the sum over all tiles, as in
AutoAWQ, which takes 512 tokens of X where this has all. The weights are then rounded to nearest: those beyond the range
go to its end. AutoAWQ leaves q_proj and k_proj unclipped; here every layer is searched. llm-compressor has no such
search.

Source: Lin et al. 2023, arXiv:2306.00978, section 4.1 (weight clipping); the grid as in AutoAWQ.
"""

from __future__ import annotations

import torch
from torch import Tensor

from quantcore.methods.gptq import Findings, examine, refuse_all
from quantcore.numbers.affine import QParams, choose_qparams, qparams_of_range
from quantcore.numbers.qtensor import QTensor, fake_quantize, global_scale_of, quantize, range_of_tiles
from quantcore.numbers.spec import QuantSpec

SHRINKS = tuple(1 - step / 20 for step in range(10))


def clipped(
    weight: Tensor, spec: QuantSpec, hessian: Tensor, global_scale: Tensor | None = None, name: str = "this layer"
) -> QTensor:
    """The codes of a weight (O, K) under the ranges that lose least, the widest of several that lose as little; hessian
    (K, K) = X^T X of the layer's inputs.

    Raises: ValueError for NaN or Inf in the weight, and a Hessian with NaN or all zero."""
    refuse_all([Findings(examine(hessian), [], [], name)])
    if global_scale is None:
        global_scale = global_scale_of(weight, spec)
    lo, hi = range_of_tiles(weight, spec, global_scale, hessian.diagonal())
    found = choose_qparams(lo, hi, spec, global_scale)
    tile = spec.granularity.tile(weight.shape)
    blocks = _own_columns(hessian.float(), tile[1])
    least = _losses(weight, spec, found, tile, blocks)
    for shrink in SHRINKS[1:]:
        tried = qparams_of_range(lo * shrink, hi * shrink, spec, found.global_scale)
        loss = _losses(weight, spec, tried, tile, blocks)
        found, least = _better(loss < least, tried, found), torch.minimum(loss, least)
    return quantize(weight, spec, found)


def _own_columns(hessian: Tensor, wide: int) -> Tensor:
    """The diagonal blocks of H, (K / wide, wide, wide)."""
    groups = len(hessian) // wide
    return hessian.view(groups, wide, groups, wide).diagonal(dim1=0, dim2=2).permute(2, 0, 1).contiguous()


def _losses(weight: Tensor, spec: QuantSpec, qparams: QParams, tile: tuple[int, ...], blocks: Tensor) -> Tensor:
    """What each tile's part of the outputs loses, in the shape of the scales."""
    high, wide = tile
    error = weight.float() - fake_quantize(weight.float(), spec, qparams)
    by_group = error.view(len(error), -1, wide).transpose(0, 1)
    lost = (torch.bmm(by_group, blocks) * by_group).sum(-1)
    return lost.view(len(blocks), -1, high).sum(-1).T


def _better(where: Tensor, one: QParams, other: QParams) -> QParams:
    zeros = None
    if one.zero_point is not None and other.zero_point is not None:
        zeros = torch.where(where, one.zero_point, other.zero_point)
    return QParams(torch.where(where, one.scale, other.scale), zeros, other.global_scale)
