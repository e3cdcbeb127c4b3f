"""What a frozen range costs: a layer's input watched step by step, the ranges frozen, and a test text put under them.

watched = watch(model, tokens, layer)                           the calibration text, in steps of STEP_TOKENS tokens
trail = observe(watched, spec, 16)                              what `spec.observer` would freeze, over 16 steps
others = unfrozen(x, weight, spec, call=64)                     x enters the layer on the test text: run-time ranges
study = range_study(watched, [trail, ...], x, weight, others)   and the frozen ones
clips = clipping([trail, ...], {"code": x, ...})                the same frozen ranges on texts of every kind

A static range goes wrong in two ways: too narrow, and the values beyond it are clipped; wide enough for the largest
value ever seen, and every other token pays with coarse steps. A dynamic range is taken from the tensor at hand: it
clips nothing, and per token it is as wide as that token needs. Weights stay float here, so that only the input's error
shows. Source: Nagel et al. 2021, arXiv:2106.08295, sections 2.2 and 3.1.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from quantcore.numbers.affine import choose_qparams
from quantcore.numbers.distance import sqnr_db, sqnr_db_each
from quantcore.numbers.granularity import Granularity, PerBlock, PerTensor, PerToken
from quantcore.numbers.observers import RangeRecorder
from quantcore.numbers.qtensor import fake_quantize
from quantcore.numbers.spec import MinMax, MovingAverage, Mse, Observer, Percentile, QuantSpec
from quantcore.pipeline.calibration import NotReached, layer_inputs
from quantcore.scheme.scheme import Scheme

STEP_TOKENS = 32
MOST_STEPS = 64
STEP_CHOICE = 4
SNAPSHOTS = frozenset((1, 2, *range(STEP_CHOICE, MOST_STEPS + 1, STEP_CHOICE)))
CALL_TOKENS = 64
HINDSIGHT = "min-max of this very text"


@dataclass(frozen=True, eq=False)
class Watched:
    """A calibration text as one recorder saw it.

    step_lo, step_hi    (S,): min and max of each step alone
    after               {number of steps: the recorder as it was then}, at SNAPSHOTS and after the last step
    """

    step_lo: Tensor
    step_hi: Tensor
    after: dict[int, RangeRecorder]


def watch(model: nn.Module, tokens: Tensor, layer: str, abreast: int = 1) -> Watched:
    """Read `tokens` (windows, T) and record the layer's input; a step is STEP_TOKENS tokens of one window.

    abreast     so many windows are read side by side, a step of each in turn: with one window of every kind of text,
                the first few steps have already seen every kind
    Stops after MOST_STEPS. Raises: ValueError for NaN or Inf, or a layer that does not exist."""
    recorder = RangeRecorder(())
    bounds: list[tuple[float, float]] = []
    after: dict[int, RangeRecorder] = {}
    for windows in torch.split(tokens, abreast):
        try:
            seen = layer_inputs(model, windows, layer)
        except NotReached:  # an expert that no token of these windows needs
            continue
        for place in torch.split(seen, STEP_TOKENS, dim=1):
            for step in place[: MOST_STEPS - len(bounds)]:
                recorder.update(step)
                bounds.append((float(step.min()), float(step.max())))
                if len(bounds) in SNAPSHOTS:
                    after[len(bounds)] = copy.deepcopy(recorder)
        if len(bounds) == MOST_STEPS:
            break
    if not bounds:
        raise NotReached(layer, tokens.numel())
    after[len(bounds)] = recorder
    step_lo, step_hi = torch.tensor(bounds).unbind(1)
    return Watched(step_lo, step_hi, after)


@dataclass(frozen=True)
class Trail:
    """The range [lo, hi] that the observer of a static `spec` would freeze after each of `steps`, in order."""

    spec: QuantSpec
    steps: tuple[int, ...]
    lo: tuple[float, ...]
    hi: tuple[float, ...]

    @property
    def frozen(self) -> tuple[float, float]:
        """The last range, which stays."""
        return self.lo[-1], self.hi[-1]


def observe(watched: Watched, spec: QuantSpec, steps: int = MOST_STEPS) -> Trail:
    """The trail of `spec.observer` over the first `steps` steps, or as many up to the last snapshot before.

    Min-max and the moving average know of a step only its min and max, so a fresh recorder is fed those, step by step.
    Percentile and mse ask the recorder's histogram: after 1, 2, 4, 8 ... steps and at the end.
    Raises: ValueError for fewer than one step."""
    if steps < 1:
        raise ValueError(f"{steps} steps record no range; calibrate over one step or more")
    last = max(step for step in watched.after if step <= steps)
    points: tuple[int, ...]
    if isinstance(spec.observer, MinMax | MovingAverage):
        points = tuple(range(1, last + 1))
        recorder = RangeRecorder((spec.observer.momentum,) if isinstance(spec.observer, MovingAverage) else ())
        ranges = []
        for step in torch.stack([watched.step_lo, watched.step_hi], 1)[:last]:
            recorder.update(step)
            ranges.append(recorder.range(spec))
    else:
        points = tuple(step for step in watched.after if step == last or (step < last and step.bit_count() == 1))
        ranges = [watched.after[step].range(spec) for step in points]
    return Trail(spec, points, tuple(float(lo) for lo, _ in ranges), tuple(float(hi) for _, hi in ranges))


def observer_name(observer: Observer) -> str:
    """`moving average 0.1` for ema0.1, and so on: the observer in words."""
    match observer:
        case MovingAverage(momentum):
            return f"moving average {momentum:g}"
        case Percentile(percent):
            return f"percentile {percent:.10g}"
        case Mse():
            return "least squared error"
        case _:
            return "min-max"


@dataclass(frozen=True)
class RangeRow:
    """One way to find the range, on the test text; `way` is static or dynamic.

    lo, hi              what the codes cover: the frozen range widened to hold 0, and to both sides alike where
                        symmetric; None where the range is taken at run time
    scale               the real value of one step of the codes; None at run time, where it changes
    clipped, touched    share of values outside the range; share of tokens that hold such a value
    input_sqnr_db       of the layer's input, signal and noise summed over all tokens
    output_sqnr_db      of its output: x_hat @ W^T against x @ W^T
    token_sqnr_db       of its output, token by token, the median: one huge token does not decide it
    """

    way: str
    name: str
    scheme: str
    lo: float | None
    hi: float | None
    scale: float | None
    clipped: float
    touched: float
    input_sqnr_db: float
    output_sqnr_db: float
    token_sqnr_db: float


class Unfrozen(NamedTuple):
    """The rows beside the frozen ones: static min-max, had the test text itself been the calibration text; dynamic per
    tensor; dynamic per token."""

    hindsight: RangeRow
    tensor: RangeRow
    token: RangeRow


def unfrozen(x: Tensor, weight: Tensor, spec: QuantSpec, call: int = CALL_TOKENS) -> Unfrozen:
    """Quantize x (N, K) in the format of `spec` with its own range; with one per tensor of `call` tokens, which come at
    once; with one per token. Raises: ValueError for an empty x."""
    frozen = replace(spec, observer=MinMax(), granularity=PerTensor(), dynamic=False)
    per_tensor = replace(frozen, dynamic=True)
    per_token = replace(per_tensor, granularity=PerToken())
    weight = weight.to(x.device)
    with torch.inference_mode():
        y = F.linear(x, weight)
        return Unfrozen(
            _static_row(HINDSIGHT, frozen, (float(x.min()), float(x.max())), x, weight, y),
            _row(f"per tensor of {call}", per_tensor, x, call_by_call(x, per_tensor, call), weight, y),
            _row("per token", per_token, x, fake_quantize(x, per_token), weight, y),
        )


@dataclass(frozen=True, eq=False)
class RangeStudy:
    """Frozen ranges and run-time ranges on one test text of N tokens.

    tokens              how many calibration tokens the ranges were recorded on
    step_lo, step_hi    (S,): min and max of each calibration step that was used
    trails, static      one per observer, ended at the last of those steps, and the row of what it froze
    others              the rows that need no calibration
    token_lo, token_hi  (N,): least and greatest value of each test token
    """

    tokens: int
    step_lo: Tensor
    step_hi: Tensor
    trails: tuple[Trail, ...]
    static: tuple[RangeRow, ...]
    others: Unfrozen
    token_lo: Tensor
    token_hi: Tensor

    @property
    def rows(self) -> tuple[RangeRow, ...]:
        return (*self.static, *self.others)

    @property
    def reach(self) -> Tensor:
        """(N,): the largest |value| of each test token."""
        return torch.maximum(-self.token_lo, self.token_hi)


def range_study(watched: Watched, trails: Sequence[Trail], x: Tensor, weight: Tensor, others: Unfrozen) -> RangeStudy:
    """Quantize the test text's x (N, K), input of a layer with weight (O, K), under each trail's last range; `others`
    are the rows of `unfrozen` for the same x, weight and format.

    Raises: ValueError for trails of different formats, or an empty x."""
    if len({(trail.spec.fmt.name, trail.spec.symmetric) for trail in trails}) != 1:
        raise ValueError(f"the {len(trails)} trails must share one number format to be compared; observe them with one")
    used, weight = trails[0].steps[-1], weight.to(x.device)
    with torch.inference_mode():
        y = F.linear(x, weight)
        static = [
            _static_row(observer_name(trail.spec.observer), trail.spec, trail.frozen, x, weight, y) for trail in trails
        ]
    return RangeStudy(
        tokens=watched.after[used].count // x.shape[1],
        step_lo=watched.step_lo[:used],
        step_hi=watched.step_hi[:used],
        trails=tuple(trails),
        static=tuple(static),
        others=others,
        token_lo=x.amin(1).cpu(),
        token_hi=x.amax(1).cpu(),
    )


@dataclass(frozen=True)
class Clip:
    """What a frozen range cuts from one text: share of values outside it, share of tokens that hold such a value."""

    name: str
    text: str
    clipped: float
    touched: float


def clipping(trails: Sequence[Trail], texts: Mapping[str, Tensor]) -> tuple[Clip, ...]:
    """Every trail's last range on every text's x (N, K): trail by trail, the texts in their order."""
    return tuple(
        Clip(observer_name(trail.spec.observer), text, *_outside(x, *covered(*trail.frozen, trail.spec.symmetric)))
        for trail in trails
        for text, x in texts.items()
    )


def covered(lo: float, hi: float, symmetric: bool) -> tuple[float, float]:
    """The real interval that a scale made for [lo, hi] covers; what lies outside is clipped."""
    lo, hi = min(lo, 0.0), max(hi, 0.0)
    return (-max(-lo, hi), max(-lo, hi)) if symmetric else (lo, hi)


def call_by_call(x: Tensor, spec: QuantSpec, call: int) -> Tensor:
    """x (N, K) after a round trip in which every `call` tokens share a range, the rest at the end its own."""
    whole = len(x) - len(x) % call
    parts: list[tuple[Tensor, Granularity]] = [(x[:whole], PerBlock(call, x.shape[1])), (x[whole:], PerTensor())]
    return torch.cat([fake_quantize(part, replace(spec, granularity=grain)) for part, grain in parts if len(part)])


def _static_row(
    name: str, spec: QuantSpec, bounds: tuple[float, float], x: Tensor, weight: Tensor, y: Tensor
) -> RangeRow:
    lo, hi = covered(*bounds, spec.symmetric)
    least, most = (torch.tensor([[end]], device=x.device) for end in bounds)
    qparams = choose_qparams(least, most, spec)
    clipped, touched = _outside(x, lo, hi)
    row = _row(name, spec, x, fake_quantize(x, spec, qparams), weight, y)
    return replace(row, lo=lo, hi=hi, scale=float(qparams.scale), clipped=clipped, touched=touched)


def _outside(x: Tensor, lo: float, hi: float) -> tuple[float, float]:
    """Share of the values of x (N, K) outside [lo, hi], share of its rows that hold one."""
    outside = ((x < lo) | (x > hi)).sum(1)
    return int(outside.sum()) / x.numel(), int((outside > 0).sum()) / len(x)


def _row(name: str, spec: QuantSpec, x: Tensor, x_hat: Tensor, weight: Tensor, y: Tensor) -> RangeRow:
    signal, noise = _energy(y), _energy(F.linear(x_hat, weight) - y)
    return RangeRow(
        way="dynamic" if spec.dynamic else "static",
        name=name,
        scheme=str(Scheme(activations=spec)),
        lo=None,
        hi=None,
        scale=None,
        clipped=0.0,
        touched=0.0,
        input_sqnr_db=sqnr_db(float(_energy(x).sum()), float(_energy(x_hat - x).sum())),
        output_sqnr_db=sqnr_db(float(signal.sum()), float(noise.sum())),
        token_sqnr_db=float(sqnr_db_each(signal, noise).median()),
    )


def _energy(x: Tensor) -> Tensor:
    """Sum of squares of each token, (N, K) -> (N,), float64."""
    return x.square().sum(1, dtype=torch.float64)
