"""Where the large activations are, which tokens and channels pay for them, and what clipping or taking them out repairs.

study = channel_study(x)                                  x (N tokens, K channels): what really enters a layer
payers = who_pays(x, weight, "int8")                      one scale, a scale per token, a scale per group
curves = remedies(x, weight, "int8")                      every percentile and every number of channels kept in float

Two kinds of outliers need two kinds of help. A *channel* that is large on every token stretches each token's own scale
too, so per-token scales do not help; a *token* that is large alone (a massive activation, often the first) spoils only
a scale that others share with it. Sources: Dettmers et al. 2022, arXiv:2208.07339 (channels kept in float, `keep`); Sun et
al. 2024, arXiv:2402.17762 (massive activations). Weights stay float here, so that only the input's error shows.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from quantcore.calibrate import LayerStats, outlier_ratio
from quantcore.evaluate import sqnr_db, sqnr_db_along
from quantcore.formats import format_named
from quantcore.granularity import largest_divisor
from quantcore.models import place_of
from quantcore.qtensor import fake_quantize, qparams_for
from quantcore.scheme import QuantSpec, Scheme

TOP_CHANNELS = 12
GROUP_SIZE, SMALLEST_GROUP = 128, 16
CLIPS = ("p90", "p95", "p97", "p98", "p99", "p99.5", "p99.7", "p99.9", "p99.95", "p99.97", "p99.99", "p100")
NO_CLIP = CLIPS[-1]
KEEPS = (0, 1, 2, 3, 4, 5, 6, 7, 8, 10, 12, 16, 20, 24, 28, 32)
GRAINS = ("tensor", "token")
MOST_OUTPUTS = 1024
FLOAT_BITS = 16


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
    ratio, token_ratio              largest over median of the two; `ratio` is `calibrate.outlier_ratio`
    top                             the channels with the largest maxima, largest first
    """

    channel_absmax: Tensor
    token_absmax: Tensor
    ratio: float
    token_ratio: float
    top: tuple[ChannelRow, ...]


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
        channel_absmax=channel_absmax,
        token_absmax=token_absmax,
        ratio=outlier_ratio(LayerStats(channel_absmax=channel_absmax)),
        token_ratio=outlier_ratio(LayerStats(channel_absmax=token_absmax)),
        top=tuple(
            ChannelRow(
                channel=channel,
                absmax=float(channel_absmax[channel]),
                over_median=float(channel_absmax[channel]) / median if median else torch.inf,
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

    input_sqnr_db, output_sqnr_db    of x and of the layer's output x @ W^T
    token_sqnr_db, channel_sqnr_db   (N,) and (K,): of each token's row, of each channel's column
    codes, median_codes              how many values the format has, and how many of them lie within the reach of the
                                     median channel (by its maximum) at the median scale
    """

    granularity: str
    input_sqnr_db: float
    output_sqnr_db: float
    token_sqnr_db: Tensor
    channel_sqnr_db: Tensor
    codes: int
    median_codes: int


def who_pays(x: Tensor, weight: Tensor, fmt: str) -> tuple[Payer, ...]:
    """x (N, K) in `fmt` with one scale, a scale per token and, where a group fits, per group; ranges from x itself.

    Raises: ValueError for an unknown format, NaN or Inf."""
    group = largest_divisor(x.shape[1], GROUP_SIZE)
    groups = (f"group{group}",) if SMALLEST_GROUP <= group < x.shape[1] else ()
    output = _Output(x, weight)
    return tuple(_payer(x, output, activations_of(fmt, grain)) for grain in (*GRAINS, *groups))


def _payer(x: Tensor, output: _Output, spec: QuantSpec) -> Payer:
    x_hat = fake_quantize(x, spec)
    grid = spec.fmt.grid()
    scale = float(qparams_for(x, spec).scale.median())
    reach = float(x.abs().amax(0).median()) / scale
    return Payer(
        granularity=str(spec.granularity),
        input_sqnr_db=sqnr_db(_power(x), _power(x_hat - x)),
        output_sqnr_db=output.sqnr_db(x_hat - x),
        token_sqnr_db=sqnr_db_along(x, x_hat, dim=1),
        channel_sqnr_db=sqnr_db_along(x, x_hat, dim=0),
        codes=len(grid),
        median_codes=int((spec.fmt.round_to_grid(torch.tensor(reach).clamp(max=spec.fmt.qmax)) >= grid.abs()).sum()),
    )


@dataclass(frozen=True)
class Remedy:
    """What is left of the input and of the output x @ W^T, with `keep` channels in float and the others clipped.

    bits_per_number counts the codes and FLOAT_BITS for a kept number; the few scales of a dynamic range are not stored.
    """

    granularity: str
    clip: str
    keep: int
    bits_per_number: float
    input_sqnr_db: float
    output_sqnr_db: float


@dataclass(frozen=True)
class Remedies:
    """Each remedy alone, per granularity of GRAINS: `clips` over CLIPS with no channel kept, `keeps` over the KEEPS that
    the layer allows, without clipping."""

    clips: tuple[Remedy, ...]
    keeps: tuple[Remedy, ...]


def remedies(x: Tensor, weight: Tensor, fmt: str) -> Remedies:
    """Both curves for x (N, K) in `fmt`; ranges from x itself."""
    output = _Output(x, weight)
    power = _power(x)

    def row(grain: str, clip: str, keep: int) -> Remedy:
        return _remedy(x, output, power, activations_of(fmt, grain, clip), clip, keep)

    return Remedies(
        clips=tuple(row(grain, clip, 0) for grain in GRAINS for clip in CLIPS),
        keeps=tuple(row(grain, NO_CLIP, keep) for grain in GRAINS for keep in keeps_of(x.shape[1])),
    )


def remedy(x: Tensor, weight: Tensor, fmt: str, clip: str, keep: int) -> tuple[Remedy, ...]:
    """Both remedies at once, one row per granularity of GRAINS: the `keep` channels with the largest maxima stay float,
    the others are clipped at `clip` (an observer such as p99.9) and quantized.

    The kept columns are taken out (set to 0) before the range of the others is read, as in LLM.int8().
    Raises: ValueError if `keep` is not in 0..K-1. Source: Dettmers et al. 2022, arXiv:2208.07339, section 3.2, with the
    channels chosen by rank instead of by a threshold."""
    if not 0 <= keep < x.shape[1]:
        raise ValueError(f"cannot keep {keep} of {x.shape[1]} channels in float; keep 0 to {x.shape[1] - 1}")
    output = _Output(x, weight)
    return tuple(
        _remedy(x, output, _power(x), activations_of(fmt, grain, clip), clip, keep) for grain in GRAINS
    )


def keeps_of(channels: int) -> list[int]:
    """The KEEPS that leave at least half of the channels to quantize."""
    return [keep for keep in KEEPS if 2 * keep <= channels]


def activations_of(fmt: str, grain: str, clip: str = NO_CLIP) -> QuantSpec:
    """The dynamic activation spec of the scheme text a:fmt/grain/dynamic/clip. Raises: ValueError."""
    observer = "" if clip == NO_CLIP else f"/{clip}"
    spec = Scheme.parse(f"a:{format_named(fmt).name}/{grain}/dynamic{observer}").activations
    assert spec is not None
    return spec


def _remedy(x: Tensor, output: _Output, power: float, spec: QuantSpec, clip: str, keep: int) -> Remedy:
    rest = x.clone()
    rest[:, output.loudest[:keep]] = 0
    error = fake_quantize(rest, spec).sub_(rest)
    kept = keep / x.shape[1]
    return Remedy(
        granularity=str(spec.granularity),
        clip=clip,
        keep=keep,
        bits_per_number=kept * FLOAT_BITS + (1 - kept) * spec.fmt.bits,
        input_sqnr_db=sqnr_db(power, _power(error)),
        output_sqnr_db=output.sqnr_db(error),
    )


class _Output:
    """The layer's output on x, ready to weigh errors of x: at most MOST_OUTPUTS of its rows, evenly spread."""

    def __init__(self, x: Tensor, weight: Tensor) -> None:
        self.weight = weight[:: -(-len(weight) // MOST_OUTPUTS)]
        self.power = _power(F.linear(x, self.weight))
        self.loudest = x.abs().amax(0).argsort(descending=True, stable=True)

    def sqnr_db(self, error: Tensor) -> float:
        """SQNR of the output when x has this error (N, K): the layer is linear, so the output's error is error @ W^T."""
        return sqnr_db(self.power, _power(F.linear(error, self.weight)))


def _power(x: Tensor) -> float:
    """The sum of squares, in float64."""
    return float(x.square().sum(dtype=torch.float64))
