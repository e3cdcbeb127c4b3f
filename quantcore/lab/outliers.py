"""Questions about outliers of what enters a layer: where they are, who pays, what clipping or sparing them mends."""

from __future__ import annotations

from torch import Tensor

from quantcore.lab.bench import LEARNED, READ, Bench
from quantcore.lab.memo import remembered
from quantcore.model.held import held
from quantcore.model.linears import linear_named
from quantcore.pipeline.calibration import layer_inputs, outlier_ratio
from quantcore.studies.outliers import (
    GROUP_SIZE,
    ChannelStudy,
    OutlierMap,
    Payer,
    Remedies,
    Remedy,
    Trial,
    channel_study,
    who_pays,
)
from quantcore.studies.outliers import outlier_map as map_of
from quantcore.studies.treatment import Smoothing, TreatmentStudy, treatment_study

MOST_LOOKED_AT = 12  # layers whose channels are looked at for walls


@remembered(16)
def outlier_map(lab: Bench, reading: str = READ) -> OutlierMap:
    """The outlier ratio of every layer's input, laid out block by block."""
    return map_of(lab.stats(reading))


@remembered(16)
def layer_with_walls(lab: Bench, reading: str = READ) -> str:
    """The layer of the largest outlier ratio whose loudest channel is loud on many tokens: a wall, not a needle. The
    default layer where none of the loudest has one."""
    seen = lab.stats(reading)
    loudest = sorted(seen, key=lambda name: outlier_ratio(seen[name]), reverse=True)[:MOST_LOOKED_AT]
    walled = (name for name in loudest if channels(lab, name, reading).pattern == "channel")
    return next(walled, None) or lab.default_layer()


@remembered(64)
def channels(lab: Bench, layer: str, reading: str = READ) -> ChannelStudy:
    """Channel and token maxima of a layer's input, and its loudest channels in detail."""
    return channel_study(lab.inputs(layer, reading))


@remembered(64)
def payers(lab: Bench, layer: str, fmt: str, reading: str = READ) -> tuple[Payer, ...]:
    """What is left of every token and channel under one scale, a scale per token, a scale per group."""
    return who_pays(lab.inputs(layer, reading), fmt, _most(lab))


@remembered(128)
def remedies(lab: Bench, layer: str, fmt: str, reading: str = READ) -> Remedies:
    """Clipping at every percentile, and every number of channels kept in float, each alone."""
    return _trial(lab, layer, reading).remedies(fmt)


@remembered(512)
def remedy(lab: Bench, layer: str, fmt: str, clip: str, keep: int, reading: str = READ) -> tuple[Remedy, ...]:
    """Both remedies at once."""
    return _trial(lab, layer, reading).remedy(fmt, clip, keep)


@remembered(32)
def treatment(
    lab: Bench, layer: str, words: str, fmt: str, reading: str = READ, calibration: str = LEARNED
) -> TreatmentStudy:
    """A layer before and after a transform (`smooth=0.5`, `awq`, `rotate=hadamard`), which looks at the calibration
    text. awq chooses for int4 in groups, the others for any codes."""
    x, weight = treated_layer(lab, layer, words, reading, calibration)
    return treatment_study((lab.inputs(layer, reading), lab.weight(layer)), (x, weight), fmt, _most(lab))


@remembered(32)
def treated_layer(
    lab: Bench, layer: str, words: str, reading: str = READ, calibration: str = LEARNED
) -> tuple[Tensor, Tensor]:
    """What enters the layer, (N, K), and its weight, (O, K), in the model as the transform leaves it."""
    lab.linear(layer)  # refuses a name that is none
    model = lab.transformed(f"W4A16,{words}", calibration)
    x = layer_inputs(model, lab.tokens(reading), layer).flatten(0, 1)
    return x, linear_named(model, layer).weight.detach().float()


@remembered(32)
def smoothing(lab: Bench, layer: str, reading: str = READ, calibration: str = LEARNED) -> Smoothing:
    """What smooth=alpha/all divides the layer's channels by, for every alpha: read from the model smoothed twice."""
    half, whole = (treated_layer(lab, layer, f"smooth={alpha}/all", reading, calibration)[0] for alpha in ("0.5", "1"))
    return Smoothing.of(lab.inputs(layer, reading), half, whole)


@remembered(8, "Reading what the cache holds ...")
def cache_sides(lab: Bench, block: int, reading: str = READ) -> tuple[tuple[Tensor, ChannelStudy], ...]:
    """Keys and values of a block's attention as the cache gets them, (N tokens, heads x head_dim), with their channels.

    Raises: ValueError for a block without keys and values."""
    from quantcore.pipeline.cache_ranges import cache_tensors  # transformers takes long to import

    found = cache_tensors(held(lab.loaded), lab.tokens(reading), (block,))
    if block not in found:
        raise ValueError(f"block {block} hands no keys and values to a cache; choose a layer of another block")
    rows = [side.transpose(1, 2).flatten(0, 1).flatten(1).float() for side in found[block]]
    return tuple((x, channel_study(x)) for x in rows)


@remembered(16)
def _trial(lab: Bench, layer: str, reading: str) -> Trial:
    return Trial(lab.inputs(layer, reading), lab.weight(layer))


def _most(lab: Bench) -> int:
    """The group that all of the model's layers take; 128 where there is none."""
    size = lab.grain.removeprefix("group")
    return int(size) if size.isdigit() else GROUP_SIZE
