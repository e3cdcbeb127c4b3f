"""Questions about outliers of what enters a layer: where they are, who pays, what clipping or sparing them mends."""

from __future__ import annotations

from quantcore.lab.bench import READ, Bench
from quantcore.lab.memo import remembered
from quantcore.pipeline.calibration import outlier_ratio
from quantcore.studies.outliers import (
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
    return who_pays(lab.inputs(layer, reading), fmt)


@remembered(128)
def remedies(lab: Bench, layer: str, fmt: str, reading: str = READ) -> Remedies:
    """Clipping at every percentile, and every number of channels kept in float, each alone."""
    return _trial(lab, layer, reading).remedies(fmt)


@remembered(512)
def remedy(lab: Bench, layer: str, fmt: str, clip: str, keep: int, reading: str = READ) -> tuple[Remedy, ...]:
    """Both remedies at once."""
    return _trial(lab, layer, reading).remedy(fmt, clip, keep)


@remembered(16)
def _trial(lab: Bench, layer: str, reading: str) -> Trial:
    return Trial(lab.inputs(layer, reading), lab.weight(layer))
