"""Coded scales refined: each tile's scale in turn becomes the code that leaves the outputs the least error, the other
tiles being as they are by then; every weight goes to the nearest code.

    loss = sum over rows of e H e^T,  e = w - w_hat,  H = X^T X
    the part of a tile g's columns:  x H_gg x^T + 2 x p^T,  p = sum over the other tiles of e_h H_hg

x is what is left of the tile under a scale. All scales around the present one are tried (`ScaleFormat.near`; in later
rounds the next few), tile after tile from the left, so the loss never grows. It begins where the spec's own observer
ends: with search=h at each tile's best by diag(H) alone, which sees no other tile. `clip` is the same question of float
scales, by H_gg alone.

Source: coordinate descent on GPTQ's objective (Frantar et al. 2022, arXiv:2210.17323, eq. 1), over scales.
"""

from __future__ import annotations

import torch
from torch import Tensor

from quantcore.methods.gptq import Findings, examine, refuse_all
from quantcore.numbers.affine import QParams, round_trip
from quantcore.numbers.qtensor import QTensor, fake_quantize, qparams_for, quantize
from quantcore.numbers.spec import QuantSpec

ROUNDS = 2
NEXT = (2, 3)  # codes down and up that rounds after the first try


def refined(
    weight: Tensor, spec: QuantSpec, hessian: Tensor, global_scale: Tensor | None = None, name: str = "this layer"
) -> QTensor:
    """The codes of a weight (O, K) under refined scales; hessian (K, K) = X^T X of the layer's inputs.

    Raises: ValueError for scales that are no codes, NaN or Inf in the weight, a Hessian with NaN or all zero."""
    if not spec.scales.is_coded:
        raise ValueError(
            f"{name}: refine goes from code to code of scales, and {spec.scales} has none; use clip, or e8m0"
        )
    refuse_all([Findings(examine(hessian), [], [], name)])
    w, h = weight.float(), hessian.float()
    start = qparams_for(w, spec, global_scale, power=h.diagonal())
    high, wide = spec.granularity.tile(weight.shape)
    scale, error = start.scale.clone(), w - fake_quantize(w, spec, start)
    for number in range(ROUNDS):
        tried = torch.stack(list(spec.scales.neighbours(scale, start.global_scale, NEXT if number else None)))
        pulled = error @ h
        for tile in range(scale.shape[1]):
            here = slice(tile * wide, (tile + 1) * wide)
            own, e = h[here, here], error[:, here]
            others = pulled[:, here] - e @ own
            each = tried[:, :, tile].repeat_interleave(high, 1)[..., None]  # (tried, O, 1)
            left = torch.cat([e[None], w[:, here] - round_trip(w[:, here], QParams(each, None), spec.fmt)])
            lost = ((left @ own + 2 * others) * left).sum(-1).view(len(left), -1, high).sum(-1)
            best = lost.argmin(0)  # of equals the first: what is there already
            scale[:, tile] = torch.cat([scale[None, :, tile], tried[:, :, tile]]).gather(0, best[None])[0]
            chosen = best.repeat_interleave(high)[None, :, None].expand(1, -1, wide)
            moved = left.gather(0, chosen)[0]
            pulled += (moved - e) @ h[here]
            error[:, here] = moved
    return quantize(weight, spec, start._replace(scale=scale))
