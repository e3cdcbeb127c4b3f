"""Several schemes or plans on a whole model over one text; what is already in the store is not measured again.

found = duel(lm, ["W4A16", "W8A8"], tokens, calibration, Store())
found.reports["W8A8"].kl, found.kl_difference("W8A8", "W4A16").significant
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from quantcore.calibration import Progress
from quantcore.convert import LayerReport, quantize_model
from quantcore.evaluate import Comparison, ModelReport, Scores, compare, device_name, versions
from quantcore.models import LoadedModel
from quantcore.plan import Plan
from quantcore.statistics import Interval
from quantcore.store import Answer, Question, Store, model_hash, tokens_hash

FLOAT = "float"
LIKELIEST = 5
QUANTIZE_SHARE = 0.3  # of the progress bar
LAYER_TOKENS = 128  # of each calibration window: what the layers' own errors are measured on
SMALL_MODEL = 50_000_000  # parameters; of a larger model one candidate lives at a time
INTERVALS = ("log_perplexity", "log_perplexity_change")


@dataclass(frozen=True)
class Duel(Comparison):
    """A Comparison, by scheme text, with what quantizing said of each layer and took; `made`: when, UTC."""

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
) -> Duel:
    """Every scheme on the model: from the store where it is there, else measured, all in one pass, and kept.

    tokens        (windows, T): what is measured on            calibration   (windows, T): what GPTQ and ranges see
    hashed        the model's `model_hash`, where it is known already
    Raises: ValueError, with the scheme's name, for one that the model cannot take."""
    texts = texts_of(schemes)
    questions = _questions(loaded, [FLOAT, *texts], tokens, calibration, hashed)
    kept = {text: store.get(question) for text, question in questions.items()}
    missing = [text for text in texts if kept[text] is None or kept[FLOAT] is None]
    if missing:
        _measure(loaded, missing, tokens, calibration, questions, store, progress, kept)
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
    return [text for text, question in questions.items() if store.has(question)]


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
    questions: dict[str, Question],
    store: Store,
    progress: Progress | None,
    kept: dict[str, Answer | None],
) -> None:
    small = sum(p.numel() for p in loaded.model.parameters()) <= SMALL_MODEL
    layers: dict[str, list[LayerReport]] = {}
    seconds = dict.fromkeys(missing, 0.0)

    def build(text: str) -> nn.Module:
        place, first = missing.index(text), text not in layers

        def tell(share: float, layer: str) -> None:
            done = QUANTIZE_SHARE * (place + share) / len(missing)
            if progress:
                progress(done if small or first else QUANTIZE_SHARE, f"{short_label(text)}: quantizing {layer}")

        started = time.perf_counter()
        try:
            few = calibration[:, :LAYER_TOKENS]
            model, layers[text] = quantize_model(loaded.model, text, few, progress=tell, calibration=calibration)
        except ValueError as error:
            raise ValueError(f"{short_label(text)}: {error}") from error
        seconds[text] += time.perf_counter() - started
        return model

    def evaluated(share: float, text: str) -> None:
        if progress:
            progress(QUANTIZE_SHARE + (1 - QUANTIZE_SHARE) * share, f"{short_label(text)}: reading the text")

    candidates: dict[str, Any] = {text: build(text) if small else (lambda one=text: build(one)) for text in missing}
    found = compare(loaded.model, candidates, tokens, likeliest=LIKELIEST, progress=evaluated)
    _keep(store, questions[FLOAT], {}, found.float_scores, kept, FLOAT)
    for text in missing:
        figures = {
            "report": asdict(found.reports[text]),
            "layers": [asdict(row) for row in layers[text]],
            "quantize_s": seconds[text],
        }
        _keep(store, questions[text], figures, found.scores[text], kept, text)


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
    return LayerReport(**{**row, "shape": tuple(row["shape"]), "notes": tuple(row["notes"])})
