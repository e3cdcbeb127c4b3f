"""Where the large activations are, which tokens and channels pay for them, and what clipping or sparing them repairs.

study = channel_study(x)                                  x (N tokens, K channels): what really enters a layer
payers = who_pays(x, "int8")                              one scale, a scale per token, a scale per group
curves = Trial(x, weight).remedies("int8")                percentiles to clip at, numbers of channels kept in float

Two kinds of outliers need two kinds of help. A *channel* that is large on every token stretches each token's own scale
too, so per-token scales do not help; a *token* that is large alone (a massive activation, often the first) spoils only
a scale that others share with it. Weights stay float here, so that only the input's error shows.
Sources: Dettmers et al. 2022, arXiv:2208.07339 (channels kept in float); Sun et al. 2024, arXiv:2402.17762 (massive
activations).
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor
from torch.nn import functional as F

from quantcore.model.layer_names import place_of
from quantcore.numbers.affine import QParams, choose_qparams, to_grid
from quantcore.numbers.bits import FLOAT_BITS
from quantcore.numbers.distance import sqnr_db, sqnr_db_each
from quantcore.numbers.granularity import largest_divisor
from quantcore.numbers.observers import tile_range
from quantcore.numbers.qtensor import fake_quantize, qparams_for
from quantcore.numbers.spec import QuantSpec
from quantcore.pipeline.calibration import LayerStats, outlier_ratio, over_median
from quantcore.scheme.scheme import Scheme

TOP_CHANNELS = 10
CHANNEL_RATIO, CHANNEL_SHARE, TOKEN_RATIO = 3.0, 0.1, 3.0
GROUP_SIZE, SMALLEST_GROUP = 128, 16
CLIPS = ("p90", "p95", "p98", "p99", "p99.5", "p99.7", "p99.9", "p99.95", "p99.97", "p99.99", "p100")
NO_CLIP = CLIPS[-1]
KEEPS = (0, 1, 2, 3, 4, 5, 6, 8, 10, 12, 16, 20, 24, 32)
GRAINS = ("tensor", "token")
MOST_OUTPUTS = 1024


@dataclass(frozen=True, eq=False)
class OutlierMap:
    """Outlier ratios of a model's layers, laid out: ratio (blocks, modules), NaN where there is no such layer.

    blocks     block numbers in order; None, last, for layers outside any block
    names      of the layer in each cell, "" where none; of several layers in one cell the one with the largest ratio"""

    blocks: tuple[int | None, ...]
    modules: tuple[str, ...]
    ratio: Tensor
    names: tuple[tuple[str, ...], ...]

    def cell_of(self, layer: str) -> tuple[int, int] | None:
        """(row, column) of a layer; None if another layer has its cell."""
        cells = ((r, c) for r, row in enumerate(self.names) for c, name in enumerate(row) if name == layer)
        return next(cells, None)


def outlier_map(stats: Mapping[str, LayerStats]) -> OutlierMap:
    """Lay out `outlier_ratio` of every layer: a row per block, a column per module, both in the model's order."""
    places = {name: place_of(name) for name in stats}
    blocks = sorted({block for block, _ in places.values()}, key=lambda block: (block is None, block or 0))
    modules = list(dict.fromkeys(module for _, module in places.values()))
    ratio = torch.full((len(blocks), len(modules)), torch.nan)
    names = [[""] * len(modules) for _ in blocks]
    for name, (block, module) in places.items():
        row, col = blocks.index(block), modules.index(module)
        value = outlier_ratio(stats[name])
        if not names[row][col] or value > float(ratio[row, col]):
            ratio[row, col], names[row][col] = value, name
    return OutlierMap(tuple(blocks), tuple(modules), ratio, tuple(tuple(row) for row in names))


@dataclass(frozen=True)
class ChannelRow:
    """One channel: its largest |x|, that over the median of all channels' largest, its kurtosis (see `kurtosis`), the
    token where it peaks, and the share of tokens on which it is above half of its peak."""

    channel: int
    absmax: float
    over_median: float
    kurtosis: float
    token: int
    share_above_half: float


@dataclass(frozen=True, eq=False)
class ChannelStudy:
    """The input of one layer in numbers.

    channel_absmax, token_absmax    (K,) and (N,): the largest |x| of each channel and of each token
    ratio, token_ratio              largest over median of the two; `ratio` is `calibration.outlier_ratio`
    top                             the channels with the largest maxima, largest first
    """

    channel_absmax: Tensor
    token_absmax: Tensor
    ratio: float
    token_ratio: float
    top: tuple[ChannelRow, ...]

    @property
    def pattern(self) -> Literal["channel", "token", "scattered"]:
        """What stands out, by two thresholds of ours: a channel at least CHANNEL_RATIO times the median one and above
        half of its peak on CHANNEL_SHARE of the tokens; else a token at least TOKEN_RATIO times the median one."""
        if self.ratio >= CHANNEL_RATIO and self.top[0].share_above_half >= CHANNEL_SHARE:
            return "channel"
        return "token" if self.token_ratio >= TOKEN_RATIO else "scattered"


def channel_study(x: Tensor, count: int = TOP_CHANNELS) -> ChannelStudy:
    """Channel and token maxima of x (N, K), and its `count` largest channels in detail."""
    magnitude = x.abs()
    channel_absmax, peaks = magnitude.max(0)
    token_absmax = magnitude.amax(1)
    median = float(channel_absmax.median())
    largest = channel_absmax.argsort(descending=True, stable=True)[:count]
    shares = (magnitude[:, largest] > channel_absmax[largest] / 2).double().mean(0)
    tails = kurtosis(x[:, largest])
    return ChannelStudy(
        channel_absmax=channel_absmax.cpu(),
        token_absmax=token_absmax.cpu(),
        ratio=over_median(channel_absmax),
        token_ratio=over_median(token_absmax),
        top=tuple(
            ChannelRow(
                channel=channel,
                absmax=float(channel_absmax[channel]),
                over_median=float(channel_absmax[channel]) / median if median else math.inf,
                kurtosis=float(tails[i]),
                token=int(peaks[channel]),
                share_above_half=float(shares[i]),
            )
            for i, channel in enumerate(largest.tolist())
        ),
    )


def kurtosis(x: Tensor) -> Tensor:
    """Pearson's kurtosis of each column: mean((x - mu)^4) / mean((x - mu)^2)^2; 3 for a normal, 1 at least.

    Shapes: (N, K) -> (K,), float64. A column of equal values has none: NaN. Source: Pearson 1905, Biometrika 4, 169."""
    centred = x.double() - x.double().mean(0)
    return centred.pow(4).mean(0) / centred.square().mean(0).square()


@dataclass(frozen=True, eq=False)
class Payer:
    """One granularity, on the input as it is.

    input_sqnr_db                    of x as a whole
    token_sqnr_db, channel_sqnr_db   (N,) and (K,): of each token's row, of each channel's column
    codes, median_codes              how many values the format has, and how many of them lie within the reach of the
                                     median channel (by its maximum) at the median scale
    """

    granularity: str
    input_sqnr_db: float
    token_sqnr_db: Tensor
    channel_sqnr_db: Tensor
    codes: int
    median_codes: int


def who_pays(x: Tensor, fmt: str, most: int = GROUP_SIZE) -> tuple[Payer, ...]:
    """x (N, K) in `fmt` with one scale, a scale per token and, where one of at most `most` channels fits, per group;
    ranges from x itself.

    Raises: ValueError for an unknown format, NaN or Inf."""
    group = largest_divisor(x.shape[1], most)
    groups = (f"group{group}",) if SMALLEST_GROUP <= group < x.shape[1] else ()
    return tuple(_payer(x, activations_of(fmt, grain)) for grain in (*GRAINS, *groups))


def _payer(x: Tensor, spec: QuantSpec) -> Payer:
    error = fake_quantize(x, spec).sub_(x)
    grid = spec.fmt.grid()
    reach = to_grid(x.abs().amax(0).median(), QParams(qparams_for(x, spec).scale.median(), None), spec.fmt)
    signal, noise = _power(x, 1), _power(error, 1)
    return Payer(
        granularity=str(spec.granularity),
        input_sqnr_db=sqnr_db(float(signal.sum()), float(noise.sum())),
        token_sqnr_db=sqnr_db_each(signal, noise).cpu(),
        channel_sqnr_db=sqnr_db_each(_power(x, 0), _power(error, 0)).cpu(),
        codes=len(grid),
        median_codes=int((grid.abs() <= float(reach)).sum()),
    )


@dataclass(frozen=True)
class Remedy:
    """What is left of x with `keep` channels in float and the others clipped at `clip` and quantized.

    bits_per_number     codes, and FLOAT_BITS for a kept number; the few scales of a dynamic range are not stored
    input_sqnr_db, output_sqnr_db, token_sqnr_db    of x, of the layer's output x @ W^T, of the median token's row
    """

    granularity: str
    clip: str
    keep: int
    bits_per_number: float
    input_sqnr_db: float
    output_sqnr_db: float
    token_sqnr_db: float


@dataclass(frozen=True)
class Remedies:
    """Each remedy alone, for every granularity of GRAINS: `clips` over CLIPS with no channel kept, `keeps` over
    `keeps_of` without clipping. `outputs` of `all_outputs` output channels were looked at."""

    clips: tuple[Remedy, ...]
    keeps: tuple[Remedy, ...]
    outputs: int
    all_outputs: int

    def at(self, clip: str, keep: int) -> tuple[Remedy, ...]:
        """The rows of one setting, in the order of GRAINS; none where both remedies are at work."""
        return tuple(row for row in (self.keeps if keep else self.clips) if (row.clip, row.keep) == (clip, keep))

    def kindest_clip(self, grain: str) -> Remedy:
        """The percentile that leaves the median token the most; the least clipping among equals."""
        rows = [row for row in self.clips if row.granularity == grain]
        return max(reversed(rows), key=lambda row: row.token_sqnr_db)


def keeps_of(channels: int) -> list[int]:
    """The KEEPS that leave at least half of the channels to quantize."""
    return [keep for keep in KEEPS if 2 * keep <= channels]


def activations_of(fmt: str, grain: str, clip: str = NO_CLIP) -> QuantSpec:
    """The dynamic activation spec of the scheme text a:fmt/grain/dynamic/clip. Raises: ValueError."""
    observer = "" if clip == NO_CLIP else f"/{clip}"
    spec = Scheme.parse(f"a:{fmt}/{grain}/dynamic{observer}").activations
    assert spec is not None
    return spec


class Trial:
    """A layer and its input, ready to try remedies on; weight (O, K), x (N, K).

    Of the outputs at most MOST_OUTPUTS, evenly spread, are looked at; their error is error @ W^T, because the layer is
    linear. The ranges of every percentile are taken once: they are the same for all formats."""

    def __init__(self, x: Tensor, weight: Tensor) -> None:
        self.x = x
        self.weight = weight[:: -(-len(weight) // MOST_OUTPUTS)].to(x.device)
        self.outputs, self.all_outputs = len(self.weight), len(weight)
        self.loudest = x.abs().amax(0).argsort(descending=True, stable=True)
        self.token_power = _power(x, 1)
        self.output_power = float(_power(F.linear(x, self.weight), 1).sum())
        self.ranges = {(grain, clip): _clipped_range(x, grain, clip) for grain in GRAINS for clip in CLIPS}

    def remedies(self, fmt: str) -> Remedies:
        """Both curves; ranges from x itself. Raises: ValueError for an unknown format, NaN or Inf."""
        return Remedies(
            clips=tuple(self._remedy(fmt, grain, clip, 0) for grain in GRAINS for clip in CLIPS),
            keeps=tuple(
                self._remedy(fmt, grain, NO_CLIP, keep) for grain in GRAINS for keep in keeps_of(self.x.shape[1])
            ),
            outputs=self.outputs,
            all_outputs=self.all_outputs,
        )

    def remedy(self, fmt: str, clip: str, keep: int) -> tuple[Remedy, ...]:
        """Both remedies at once, one row per granularity of GRAINS: the `keep` channels with the largest maxima stay
        float, the others are clipped at `clip` (an observer such as p99.9) and quantized.

        The kept columns are taken out (set to 0) before the range of the others is read, as in LLM.int8().
        Raises: ValueError if `keep` is not in 0..K-1. Source: Dettmers et al. 2022, arXiv:2208.07339, section 3.2, with
        the channels chosen by rank instead of by a threshold."""
        channels = self.x.shape[1]
        if not 0 <= keep < channels:
            raise ValueError(f"cannot keep {keep} of {channels} channels in float; keep 0 to {channels - 1}")
        return tuple(self._remedy(fmt, grain, clip, keep) for grain in GRAINS)

    def _remedy(self, fmt: str, grain: str, clip: str, keep: int) -> Remedy:
        spec = activations_of(fmt, grain)
        rest = self.x.clone()
        rest[:, self.loudest[:keep]] = 0
        known = self.ranges.get((grain, clip)) if keep == 0 else None
        lo, hi = known or _clipped_range(rest, grain, clip)
        error = fake_quantize(rest, spec, choose_qparams(lo, hi, spec)).sub_(rest)
        token_noise = _power(error, 1)
        kept = keep / self.x.shape[1]
        return Remedy(
            granularity=grain,
            clip=clip,
            keep=keep,
            bits_per_number=kept * FLOAT_BITS + (1 - kept) * spec.fmt.bits,
            input_sqnr_db=sqnr_db(float(self.token_power.sum()), float(token_noise.sum())),
            output_sqnr_db=sqnr_db(self.output_power, float(_power(F.linear(error, self.weight), 1).sum())),
            token_sqnr_db=float(sqnr_db_each(self.token_power, token_noise).median()),
        )


def _clipped_range(x: Tensor, grain: str, clip: str) -> tuple[Tensor, Tensor]:
    """What the observer `clip` sees of x (N, K), for every tile of a granularity of GRAINS: (1, 1) or (N, 1)."""
    spec = activations_of("int8", grain, clip)  # the format has no part in a percentile
    return tile_range(x.reshape(-1, math.prod(spec.granularity.tile(x.shape))), spec)


def _power(x: Tensor, dim: int) -> Tensor:
    """Sums of squares along a dimension; what is added up further is float64."""
    return x.square().sum(dim).double()
