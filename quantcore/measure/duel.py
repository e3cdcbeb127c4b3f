"""Several schemes or plans on a whole model over one text; what is already in the store is not measured again.

found = duel(lm, ["W4A16", "W8A8"], tokens, calibration, Store())
found.reports["W8A8"].kl, found.kl_difference("W8A8", "W4A16").significant

A model of any size, whole in memory or in its files: a large one goes block by block (`side_by_side`).
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import lru_cache

import torch
from torch import Tensor, nn

from quantcore.measure.evaluate import compare
from quantcore.measure.kept_scores import KeptScores, questions
from quantcore.measure.scores import Comparison, Scores
from quantcore.measure.side_by_side import Layers, compare_plans
from quantcore.measure.store import Store
from quantcore.model.held import Held, WholeModel, held
from quantcore.model.linears import head_of, linear_shapes
from quantcore.pipeline.calibration import Progress
from quantcore.pipeline.convert import quantize_model
from quantcore.pipeline.layers import LayerReport
from quantcore.pipeline.parts import Source
from quantcore.pipeline.ranks import ranks
from quantcore.scheme.fitting import sorted_out
from quantcore.scheme.plan import Plan
from quantcore.scheme.scheme import Scheme

LIKELIEST = 5
LONGEST = 34  # letters of a short name
LAYER_WINDOWS, LAYER_TOKENS = 5, 128  # of the calibration text, evenly spread: what layers' own errors are measured on
SMALL_MODEL = 50_000_000  # parameters; of a larger model only a block lives under every scheme


@dataclass(frozen=True)
class Duel(Comparison):
    """A Comparison, by scheme text, with what quantizing said of each layer and took; `made`: when, UTC.

    Of a duel under way (`so_far`), `reports` and `scores` tell of the windows that all schemes have read by then;
    before the first, there are none, and `layers` holds the schemes quantized by then. `refused`: of each scheme that
    the model cannot take, as it was asked for, the reason."""

    layers: dict[str, tuple[LayerReport, ...]]
    quantize_s: dict[str, float]
    made: dict[str, str]
    refused: dict[str, str] = field(default_factory=dict)


@lru_cache(4096)  # a table of a plan asks for the same few names hundreds of times
def short_label(text: str, longest: int = LONGEST) -> str:
    """A scheme or plan as a short name: its preset's, else its text, cut where it is long."""
    name = Plan.parse(text).label
    return name if len(name) <= longest else f"{name[: longest - 4]} ..."


def duel(
    source: Source,
    schemes: Sequence[str],
    tokens: Tensor,
    calibration: Tensor,
    store: Store,
    hashed: str | None = None,
    progress: Progress | None = None,
    so_far: Callable[[Duel], None] | None = None,
) -> Duel:
    """Every scheme on the model: from the store where it is there, else measured, all in one pass, and kept. One that
    the model cannot take is in `refused`, and the others go on; figures are kept under the scheme's text in full, in
    which presets have the model's own grain (`fitting`).

    tokens        (windows, T): what is measured on            calibration   (windows, T): what GPTQ and ranges see
    hashed        the model's `model_hash`, where it is known already
    so_far        called with the duel of those that are being measured, as far as it is
    Raises: ValueError where the model can take none of them, with the first one's reason."""
    model = held(source)
    able, refused = sorted_out(schemes, linear_shapes(model.skeleton), head_of(model.skeleton))
    if not able:
        raise ValueError("there is no scheme to measure; give at least one" if not refused else _first(refused))
    kept = KeptScores(store, model, list(able.values()), tokens, calibration, hashed)
    missing = ranks().all_said(kept.missing)[0]  # what the first rank's store lacks
    if missing:

        def tell(found: Duel) -> None:
            if so_far:
                so_far(replace(found, refused={**refused, **found.refused}))

        measured = _measure(model, missing, tokens, calibration, progress, tell if so_far else None)
        if not ranks().first:
            return ranks().all_said(measured)[0]
        lines = {text: line for line, text in able.items()}
        refused |= {lines[text]: reason for text, reason in measured.refused.items()}
        _keep(measured, kept)
    elif not ranks().first:
        return ranks().all_said(Duel(_NONE_YET, {}, {}, {}, {}, {}))[0]
    there = {text: kept.scheme(text) for line, text in able.items() if line not in refused}
    found = Duel(
        float_scores=kept.float_scores,
        scores={text: one.scores for text, one in there.items()},
        reports={text: one.report for text, one in there.items()},
        layers={text: one.layers for text, one in there.items()},
        quantize_s={text: one.quantize_s for text, one in there.items()},
        made={text: one.made for text, one in there.items()},
        refused=refused,
    )
    return ranks().all_said(found)[0]


def _keep(measured: Duel, kept: KeptScores) -> None:
    kept.keep_float(measured.float_scores)
    for text, report in measured.reports.items():
        kept.keep(text, measured.scores[text], report, measured.layers[text], measured.quantize_s[text])


def known(
    source: Source,
    schemes: Sequence[str],
    tokens: Tensor,
    calibration: Tensor,
    store: Store,
    hashed: str | None = None,
) -> list[str]:
    """The texts in full of those schemes whose answer is kept."""
    model = held(source)
    able, _ = sorted_out(schemes, linear_shapes(model.skeleton), head_of(model.skeleton))
    asked = questions(model, list(able.values()), tokens, calibration, hashed)
    return [text for text, there in zip(asked, store.kept(asked.values()), strict=True) if there]


def _measure(
    model: Held,
    missing: Sequence[str],
    tokens: Tensor,
    calibration: Tensor,
    progress: Progress | None,
    so_far: Callable[[Duel], None] | None,
) -> Duel:
    if isinstance(model, WholeModel) and model.parameters <= SMALL_MODEL:
        return _measure_small(model.skeleton, missing, tokens, calibration, progress, so_far)

    refused: dict[str, str] = {}

    def as_duel(found: Comparison | None, layers: Layers, seconds: dict[str, float]) -> Duel:
        found = found or Comparison(_NONE_YET, {}, {})
        return Duel(found.float_scores, found.scores, found.reports, layers, seconds, {}, dict(refused))

    def refuse(text: str, error: ValueError) -> None:
        refused[text] = str(error)

    walked = compare_plans(
        model,
        {text: Plan.parse(text) for text in missing},
        tokens,
        calibration,
        measured=_few(calibration),
        labels={text: short_label(text) for text in missing},
        likeliest=LIKELIEST,
        progress=progress,
        so_far=None if so_far is None else lambda *known: so_far(as_duel(*known)),
        refuse=refuse,
    )
    return as_duel(*walked)


def _measure_small(
    model: nn.Module,
    missing: Sequence[str],
    tokens: Tensor,
    calibration: Tensor,
    progress: Progress | None,
    so_far: Callable[[Duel], None] | None,
) -> Duel:
    """All quantized copies live at once and read the text window by window, so that all figures are there early."""
    layers: dict[str, tuple[LayerReport, ...]] = {}
    seconds: dict[str, float] = {}
    refused: dict[str, str] = {}
    shares = _quantize_shares(missing, tokens, calibration)

    def quantized(text: str) -> nn.Module | None:
        before, mine = sum(shares[: missing.index(text)]), shares[missing.index(text)]

        def tell(share: float, layer: str) -> None:
            if progress:
                progress(before + mine * share, f"{short_label(text)}: quantizing {layer}")

        started = time.perf_counter()
        try:
            few = _few(calibration)
            copy, rows = quantize_model(model, text, few, progress=tell, calibration=calibration)
        except ValueError as error:
            refused[text] = str(error)
            return None
        layers[text], seconds[text] = tuple(rows), time.perf_counter() - started
        if so_far:
            so_far(Duel(_NONE_YET, {}, {}, dict(layers), dict(seconds), {}, dict(refused)))
        return copy

    def evaluated(share: float, text: str) -> None:
        if progress:
            progress(sum(shares) + (1 - sum(shares)) * share, f"{short_label(text)}: reading the text")

    def read(found: Comparison) -> None:
        if so_far:
            so_far(as_duel(found))

    def as_duel(found: Comparison) -> Duel:
        return Duel(found.float_scores, found.scores, found.reports, dict(layers), dict(seconds), {}, dict(refused))

    candidates = {text: copy for text in missing if (copy := quantized(text)) is not None}
    if not candidates:
        raise ValueError(_first(refused))
    return as_duel(compare(model, candidates, tokens, likeliest=LIKELIEST, progress=evaluated, so_far=read))


def _first(refused: Mapping[str, str]) -> str:
    """What is said where every scheme is refused."""
    text, reason = next(iter(refused.items()))
    return f"{text}: {reason}"


def _few(calibration: Tensor) -> Tensor:
    """The start of LAYER_WINDOWS of the windows, or a few more; of a text of as many kinds one of each."""
    return calibration[:: max(1, len(calibration) // LAYER_WINDOWS), :LAYER_TOKENS]


def _quantize_shares(missing: Sequence[str], tokens: Tensor, calibration: Tensor) -> list[float]:
    """The part of the work that each scheme's quantizing is, counted in tokens that a model reads."""

    def reads(scheme: Scheme) -> int:
        if scheme.needs_hessian:
            return 3 * calibration.numel()  # each block for its Hessians, again for the next one's inputs; the sweep
        return calibration.numel() if scheme.needs_ranges else 0

    layers_read = 2 * _few(calibration).numel()  # the layers' own errors: float and quantized
    costs = [layers_read + max(reads(one) for one in Plan.parse(text).schemes) for text in missing]
    whole = sum(costs) + (len(missing) + 1) * tokens.numel()
    return [cost / whole for cost in costs]


_NONE_YET = Scores(*(torch.empty(0, 0) for _ in range(2)), *(torch.empty(0, 0, LIKELIEST) for _ in range(2)))
