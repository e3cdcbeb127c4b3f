"""Qronos: make up for what the layers before have done to the inputs first, then quantize as GPTQ does.

Behind quantized layers a layer reads X~ where the float model has X. What is wanted is X w; the weights that come
closest to it on X~ are not w, but w' = argmin |X w - X~ w'|^2. With H = X~^T X~, D = X~^T (X - X~):

    w' = w + (H + ridge mean(diag H) I)^-1 D w                |X w - X~ q|^2 = const + (q - w') H (q - w')

so that GPTQ's sweep on w' with H is left to do. The step from w to w' is a regression on the calibration text, and
overfits where that is short, or where a few giant tokens weigh as much as all others. So only a share of it is taken,
and it is held to w by far more than the sweep's damping (`options.Qronos`). The ridge pulls towards w, not towards 0:
where X~ = X, D is 0, w' is w, and the codes are GPTQ's. GPTQ alone only makes its own error small on X~, and leaves
that of the inputs. On the road D is summed over some windows alone where the text is long (`road.DRIFT_ROWS`), and
taken for as many as H has.

Source: Zhang et al. 2025, arXiv:2505.11695 (Qronos), proposition 1; Li et al. 2025, arXiv:2504.02692 (GPTAQ) has the
same aim with another path to it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import NamedTuple

import torch
from torch import Tensor

from quantcore.methods.gptq import CholeskyError, GptqProblem, factorize, gptq_quantize_many
from quantcore.methods.sweep_state import Order
from quantcore.numbers.products import product, solved
from quantcore.numbers.qtensor import QTensor


class Step(NamedTuple):
    """From w to w': the share of it that is taken, and the ridge that holds it to w, a share of mean(diag H)."""

    share: float
    ridge: float


def corrected(
    weights: Sequence[Tensor], hessian: Tensor, drift: Tensor, ridge: float, name: str, share: float = 1.0
) -> list[Tensor]:
    """w' of weights (O, K) that read the same inputs, or what a share of the step gives; hessian (K, K) = X~^T X~,
    drift (K, K) = X~^T (X - X~).

    ridge holds each to its weight, a share of mean(diag H). float64 weights are worked on in float64, others in
    float32. Raises: CholeskyError where the ridge does not make H positive definite; on a GPU the sweep says so, which
    factorizes the same H, so that nobody waits here."""
    work = torch.float64 if any(one.dtype == torch.float64 for one in weights) else torch.float32
    pull, diagonal, without = factorize(hessian.to(work), Order.of(hessian, False), ridge)
    if not pull.is_cuda and bool(without):
        raise CholeskyError(
            f"{name}: the Hessian is not positive definite with ridge={ridge:g}; use a larger one, such as "
            f"{10 * ridge:g}, or calibrate on more tokens"
        )
    together = torch.cat([one.to(work) for one in weights])
    pulled = product(drift, together.T) if work == torch.float32 else drift.to(work) @ together.T
    moved = together + share * solved(pull * diagonal[:, None], pulled).T
    return list(torch.split(moved, [len(one) for one in weights]))


def qronos_quantize_many(
    problems: Sequence[GptqProblem],
    hessian: Tensor,
    drift: Tensor | None,
    steps: Sequence[Step],
    name: str = "this layer",
) -> list[QTensor]:
    """The codes of weights that read the same inputs, each with its step of the correction. drift: see `corrected`;
    None where nothing before is quantized.

    Raises: as `gptq_quantize`."""
    problems = list(problems)
    if drift is not None:
        for step in dict.fromkeys(steps):
            mine = [place for place, one in enumerate(steps) if one == step]
            weights = [problems[place].weight for place in mine]
            found = corrected(weights, hessian, drift, step.ridge, name, step.share)
            for place, weight in zip(mine, found, strict=True):
                problems[place] = replace(problems[place], weight=weight)
    return gptq_quantize_many(problems, hessian, name)
