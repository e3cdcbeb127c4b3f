"""A layer behind quantized layers: its inputs are moved, and Qronos makes up for that before it rounds.

    study = drift_study(weight, learned, read, spec, 0.01)        learned, read: (X, X~), (N, K) each

X is what enters the layer in the float model, X~ behind layers whose weights are rounded. All losses are |X w - X~ q|^2
over |X w|^2: of the float weight w itself, of the corrected w' = w + (H + damp)^-1 X~^T (X - X~) w, and of codes by
rounding to nearest, by GPTQ, which knows X~ alone, by GPTAQ, which hands on what each column's input has lost, and by
Qronos, which is GPTQ on w'. See `methods.qronos` and `methods.gptaq`.

Along the columns, with v what the sweep begins with (w, or w'), e0 = w - v, z = (v - q) M and U = M^-1 as in
`gptq_order`, the error e = w - w_t behind some columns is e0 + (z of the visited) U, and with D = X~^T (X - X~)

    |X w - X~ w_t|^2 = |(X - X~) w|^2 + 2 e . D w + e H e^T

which is a sum over visited columns again, so that no sweep is repeated.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from quantcore.methods.gptaq import gptaq_quantize_many
from quantcore.methods.gptq import GptqProblem, gptq_quantize_many
from quantcore.methods.options import Gptaq, Gptq
from quantcore.methods.qronos import Step, corrected
from quantcore.numbers.products import product
from quantcore.numbers.qtensor import dequantize, fake_quantize
from quantcore.numbers.spec import QuantSpec
from quantcore.pipeline.gram import drift_of, gram_of
from quantcore.studies.gptq_order import POINTS, Factor, column_powers, powers_of_moved

Inputs = tuple[Tensor, Tensor]
AS_IT_IS, CORRECTED, ROUNDED, BY_GPTQ, BY_GPTAQ, BY_QRONOS = (
    "float weight", "corrected, in float", "RTN", "GPTQ", "GPTAQ", "Qronos",
)  # fmt: skip


@dataclass(frozen=True)
class DriftStudy:
    """learned, read     by AS_IT_IS ... BY_QRONOS: the losses on the text that the codes learned from, and on another
    moved                |X - X~|^2 over |X|^2, of the text that is learned from
    corrected            |w' - w|^2 over |w|^2
    steps, courses       after how many columns the loss on that text is looked at, and the losses of RTN, GPTQ and
                         Qronos, whose first is that of what they begin with"""

    learned: dict[str, float]
    read: dict[str, float]
    moved: float
    corrected: float
    steps: tuple[int, ...]
    courses: dict[str, tuple[float, ...]]


def drift_study(weight: Tensor, learned: Inputs, read: Inputs, spec: QuantSpec, damp: float, step: Step) -> DriftStudy:
    """step: the correction's, see `options.Qronos`. Raises: ValueError as `gptq_quantize`."""
    with torch.inference_mode():
        weight = weight.float()
        x, moved = (one.float() for one in learned)
        hessian, drift = gram_of(moved), drift_of(moved, x)
        (mended,) = corrected([weight], hessian, drift, step.ridge, "this layer", step.share)
        problems = [GptqProblem(one, spec, Gptq(damp=damp)) for one in (weight, mended)]
        by_gptq, by_qronos = map(dequantize, gptq_quantize_many(problems, hessian))
        (by_gptaq,) = map(dequantize, gptaq_quantize_many(problems[:1], hessian, drift, [Gptaq.alpha]))
        found = {
            AS_IT_IS: weight,
            CORRECTED: mended,
            ROUNDED: fake_quantize(weight, spec),
            BY_GPTQ: by_gptq,
            BY_GPTAQ: by_gptaq,
            BY_QRONOS: by_qronos,
        }
        along = _Along(weight, hessian, drift, damp, x - moved)
        power = product(x, weight.T).square().sum(dtype=torch.float64)
        courses = {
            ROUNDED: along.rounded(found[ROUNDED]),
            BY_GPTQ: along.swept(weight, by_gptq),
            BY_QRONOS: along.swept(mended, by_qronos),
        }
        return DriftStudy(
            steps=tuple(along.steps),
            courses={name: tuple((one / power).tolist()) for name, one in courses.items()},
            learned=_lost(weight, found, learned),
            read=_lost(weight, found, read),
            moved=float((moved - x).square().sum() / x.square().sum()),
            corrected=float((mended - weight).square().sum() / weight.square().sum()),
        )


class _Along:
    """The loss of a layer (O, K) along its columns, before the first and behind each of `steps`."""

    def __init__(self, weight: Tensor, hessian: Tensor, drift: Tensor, damp: float, apart: Tensor) -> None:
        """apart (N, K): X - X~."""
        self._weight, self._hessian = weight, hessian
        self._factor = Factor.of(hessian, damp, False)
        self._ridge = damp * hessian.diagonal().mean().double()
        self._pull = product(weight, drift.T)  # D w of each row, (O, K)
        self._start = product(apart, weight.T).square().sum(dtype=torch.float64)
        width = len(hessian)
        self.steps = sorted({round(width * i / POINTS) for i in range(POINTS + 1)})

    def rounded(self, quantized: Tensor) -> Tensor:
        """Rounding to nearest: the unvisited columns stay."""
        error = self._weight - quantized
        both = product(error, 2 * self._hessian.triu(1)).addcmul_(error, self._hessian.diagonal())
        return self._summed(self._start, (error * (both + 2 * self._pull)).sum(0))

    def swept(self, begun: Tensor, quantized: Tensor) -> Tensor:
        """GPTQ's sweep from the weight `begun`."""
        mixing, inverse = self._factor.mixing.T, self._factor.inverse
        before, rounded = self._weight - begun, begun - quantized
        z = product(rounded, mixing)
        pulled = product(self._pull - self._ridge.float() * before, inverse.T)
        start = (before * (2 * self._pull + product(before, self._hessian))).sum(dtype=torch.float64)
        added = (z * (z + 2 * product(before, mixing) + 2 * pulled)).sum(0).double()
        found = self._summed(self._start + start, added - self._ridge * column_powers(rounded))
        found[1:] -= self._ridge * torch.stack(powers_of_moved(z, inverse, self.steps))
        return found

    def _summed(self, start: Tensor, columns: Tensor) -> Tensor:
        """(steps,) float64."""
        along = torch.cat([start[None], start + columns.double().cumsum(0)])
        return along[torch.tensor(self.steps, device=along.device)]


def _lost(weight: Tensor, others: Mapping[str, Tensor], inputs: Inputs) -> dict[str, float]:
    x, moved = (one.float() for one in inputs)
    wanted = product(x, weight.T)
    power = wanted.square().sum()
    return {name: float((product(moved, one.T) - wanted).square().sum() / power) for name, one in others.items()}
