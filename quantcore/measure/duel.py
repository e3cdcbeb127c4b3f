"""Several schemes or plans on a whole model over one text; what is already in the store is not measured again.

found = duel(lm, ["W4A16", "W8A8"], tokens, calibration, Store())
found.reports["W8A8"].kl, found.kl_difference("W8A8", "W4A16").significant

A large model's text is read in stretches (`evaluate.compare`), and at each every candidate is needed again. It is
quantized once: its layers wait on disk in between, so that memory holds the float model and one candidate.
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from quantcore.matmul.size import quantized_linears
from quantcore.matmul.waiting import WaitingLayers
from quantcore.measure.evaluate import Comparison, ModelReport, Scores, compare
from quantcore.measure.statistics import Interval
from quantcore.measure.store import Answer, Question, Store, model_hash, tokens_hash
from quantcore.model.loading import LoadedModel
from quantcore.model.machine import device_name, versions
from quantcore.pipeline.calibration import Progress
from quantcore.pipeline.convert import LayerReport, copy_with, quantize_model
from quantcore.scheme.plan import Plan
from quantcore.scheme.scheme import Scheme

FLOAT = "float"
LIKELIEST = 5
LAYER_TOKENS = 128  # of each calibration window: what the layers' own errors are measured on
SMALL_MODEL = 50_000_000  # parameters; of a larger model one candidate lives at a time
INTERVALS = ("log_perplexity", "log_perplexity_change")


@dataclass(frozen=True)
class Duel(Comparison):
    """A Comparison, by scheme text, with what quantizing said of each layer and took; `made`: when, UTC.

    Of a duel under way (`so_far`), `reports` and `scores` tell of the windows that all schemes have read by then;
    before the first, there are none, and `layers` holds the schemes quantized by then."""

    layers: dict[str, tuple[LayerReport, ...]]
    quantize_s: dict[str, float]
    made: dict[str, str]


def short_label(text: str, longest: int = 34) -> str:
    """A scheme or plan as a short name: its preset's, else its text, cut where it is long."""
    name = Plan.parse(text).label
    return name if len(name) <= longest else f"{name[: longest - 4]} ..."


def texts_of(schemes: Sequence[str]) -> list[str]:
    """The schemes and plans in the one way of writing them, each once."""
    return list(dict.fromkeys(str(Plan.parse(text)) for text in schemes))


def duel(
    loaded: LoadedModel,
    schemes: Sequence[str],
    tokens: Tensor,
    calibration: Tensor,
    store: Store,
    hashed: str | None = None,
    progress: Progress | None = None,
    so_far: Callable[[Duel], None] | None = None,
) -> Duel:
    """Every scheme on the model: from the store where it is there, else measured, all in one pass, and kept.

    tokens        (windows, T): what is measured on            calibration   (windows, T): what GPTQ and ranges see
    hashed        the model's `model_hash`, where it is known already
    so_far        called with the duel of those that are being measured, as far as it is
    Raises: ValueError, with the scheme's name, for one that the model cannot take."""
    texts = texts_of(schemes)
    questions = _questions(loaded, [FLOAT, *texts], tokens, calibration, hashed)
    kept = {text: store.get(question) for text, question in questions.items()}
    missing = [text for text in texts if kept[text] is None or kept[FLOAT] is None]
    if missing:
        measured = _measure(loaded, missing, tokens, calibration, progress, so_far)
        _keep(store, questions[FLOAT], {}, measured.float_scores, kept, FLOAT)
        for text in missing:
            figures = {
                "report": asdict(measured.reports[text]),
                "layers": [asdict(row) for row in measured.layers[text]],
                "quantize_s": measured.quantize_s[text],
            }
            _keep(store, questions[text], figures, measured.scores[text], kept, text)
    answers = {text: answer for text, answer in kept.items() if answer is not None}
    return Duel(
        float_scores=_scores(answers[FLOAT]),
        scores={text: _scores(answers[text]) for text in texts},
        reports={text: _report(answers[text]) for text in texts},
        layers={text: tuple(_layer(row) for row in answers[text].figures["layers"]) for text in texts},
        quantize_s={text: answers[text].figures["quantize_s"] for text in texts},
        made={text: answers[text].made for text in texts},
    )


def known(
    loaded: LoadedModel,
    schemes: Sequence[str],
    tokens: Tensor,
    calibration: Tensor,
    store: Store,
    hashed: str | None = None,
) -> list[str]:
    """Those of the schemes whose answer is kept."""
    questions = _questions(loaded, texts_of(schemes), tokens, calibration, hashed)
    return [text for text, there in zip(questions, store.kept(questions.values()), strict=True) if there]


def _questions(
    loaded: LoadedModel, texts: Sequence[str], tokens: Tensor, calibration: Tensor, hashed: str | None
) -> dict[str, Question]:
    hashed = hashed or model_hash(loaded.model)
    device, used = device_name(loaded.device), versions()
    read = tokens_hash(tokens), tokens_hash(tokens, calibration)
    return {text: Question("scores", text, loaded.id, hashed, read[text != FLOAT], device, used) for text in texts}


def _measure(
    loaded: LoadedModel,
    missing: Sequence[str],
    tokens: Tensor,
    calibration: Tensor,
    progress: Progress | None,
    so_far: Callable[[Duel], None] | None,
) -> Duel:
    layers: dict[str, tuple[LayerReport, ...]] = {}
    seconds: dict[str, float] = {}
    waiting: dict[str, WaitingLayers] = {}
    shares = _quantize_shares(missing, tokens, calibration)

    def quantized(text: str) -> nn.Module:
        before, mine = sum(shares[: missing.index(text)]), shares[missing.index(text)]

        def tell(share: float, layer: str) -> None:
            if progress:
                progress(before + mine * share, f"{short_label(text)}: quantizing {layer}")

        started = time.perf_counter()
        try:
            few = calibration[:, :LAYER_TOKENS]
            model, rows = quantize_model(loaded.model, text, few, progress=tell, calibration=calibration)
        except ValueError as error:
            raise ValueError(f"{short_label(text)}: {error}") from error
        layers[text], seconds[text] = tuple(rows), time.perf_counter() - started
        if so_far:
            so_far(Duel(_NONE_YET, {}, {}, dict(layers), dict(seconds), {}))
        return model

    def evaluated(share: float, text: str) -> None:
        if progress:
            progress(sum(shares) + (1 - sum(shares)) * share, f"{short_label(text)}: reading the text")

    def read(found: Comparison) -> None:
        if so_far:
            so_far(as_duel(found))

    def as_duel(found: Comparison) -> Duel:
        return Duel(found.float_scores, found.scores, found.reports, dict(layers), dict(seconds), {})

    with tempfile.TemporaryDirectory(prefix="duel-", ignore_cleanup_errors=True) as folder:

        def build(text: str) -> nn.Module:
            """Quantized the first time, from disk afterwards."""
            if text in waiting:
                return copy_with(loaded.model, waiting[text].read(loaded.device))
            model = quantized(text)
            waiting[text] = WaitingLayers(quantized_linears(model), Path(folder) / str(missing.index(text)))
            return model

        small = sum(p.numel() for p in loaded.model.parameters()) <= SMALL_MODEL
        candidates: dict[str, Any] = {
            text: quantized(text) if small else (lambda one=text: build(one)) for text in missing
        }
        return as_duel(compare(loaded.model, candidates, tokens, likeliest=LIKELIEST, progress=evaluated, so_far=read))


def _quantize_shares(missing: Sequence[str], tokens: Tensor, calibration: Tensor) -> list[float]:
    """The part of the work that each scheme's quantizing is, counted in tokens that a model reads."""

    def reads(scheme: Scheme) -> int:
        if scheme.needs_hessian:
            return 3 * calibration.numel()  # each block for its Hessians, again for the next one's inputs; the sweep
        return calibration.numel() if scheme.needs_ranges else 0

    layers_read = 2 * calibration[:, :LAYER_TOKENS].numel()  # the layers' own errors: float and quantized
    costs = [layers_read + max(reads(one) for one in Plan.parse(text).schemes) for text in missing]
    whole = sum(costs) + (len(missing) + 1) * tokens.numel()
    return [cost / whole for cost in costs]


_NONE_YET = Scores(*(torch.empty(0, 0) for _ in range(2)), *(torch.empty(0, 0, LIKELIEST) for _ in range(2)))


def _keep(
    store: Store,
    question: Question,
    figures: dict[str, Any],
    scores: Scores,
    kept: dict[str, Answer | None],
    text: str,
) -> None:
    arrays = {
        "nll": scores.nll.numpy(),
        "kl": scores.kl.numpy(),
        "likeliest": scores.likeliest.numpy(),
        "probabilities": scores.probabilities.numpy(),
    }
    store.put(question, figures, arrays)
    kept[text] = store.get(question) or Answer(figures, arrays, "just now, not kept")


def _scores(answer: Answer) -> Scores:
    return Scores(**{name: torch.from_numpy(np.ascontiguousarray(array)) for name, array in answer.arrays.items()})


def _report(answer: Answer) -> ModelReport:
    figures = dict(answer.figures["report"])
    return ModelReport(**{**figures, **{name: Interval(**figures[name]) for name in INTERVALS}})


def _layer(row: dict[str, Any]) -> LayerReport:
    windows = row.get("output_sqnr_windows")
    tuples = {"shape": tuple(row["shape"]), "notes": tuple(row["notes"])}
    return LayerReport(**{**row, **tuples, "output_sqnr_windows": windows and tuple(windows)})
