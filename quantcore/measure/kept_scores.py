"""How a scheme's scores are kept in the store: one answer for the float model, one for each scheme."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from quantcore.measure.scores import ModelReport, Scores
from quantcore.measure.statistics import Interval
from quantcore.measure.store import Answer, Question, Store, model_hash, shape_of, tokens_hash
from quantcore.model.held import Held
from quantcore.model.machine import device_name, versions
from quantcore.pipeline.layers import LayerReport
from quantcore.pipeline.ranks import ranks

FLOAT = "float"  # a scheme's text like others
FLOAT_MODEL = "the float model"  # what all schemes are compared with; no scheme's text, so that both can be kept
INTERVALS = ("log_perplexity", "log_perplexity_change")
KIND = f"scores {shape_of(Scores, ModelReport, Interval, LayerReport)}"  # of the store's questions


class SchemeScores(NamedTuple):
    """What is kept of one scheme; `made`: when, UTC."""

    scores: Scores
    report: ModelReport
    layers: tuple[LayerReport, ...]
    quantize_s: float
    made: str


class KeptScores:
    """What the store knows of a float model and of schemes on it, over one text."""

    def __init__(
        self, store: Store, model: Held, texts: Sequence[str], tokens: Tensor, calibration: Tensor, hashed: str | None
    ) -> None:
        """texts: of schemes, in full. tokens, calibration: (windows, T), measured on and learned from."""
        self._store, self._texts = store, texts
        self._questions = questions(model, [FLOAT_MODEL, *texts], tokens, calibration, hashed)
        self._answers = {
            text: store.get(question, _scores if text == FLOAT_MODEL else _figures)
            for text, question in self._questions.items()
        }

    @property
    def missing(self) -> list[str]:
        """The schemes to measure: all where the float model's scores are not there, since they come of one pass."""
        return [text for text in self._texts if self._answers[text] is None or self._answers[FLOAT_MODEL] is None]

    @property
    def float_scores(self) -> Scores:
        return _scores(self._answer(FLOAT_MODEL))

    def scheme(self, text: str) -> SchemeScores:
        """Raises: KeyError for a scheme that is neither in the store nor was kept since."""
        answer = self._answer(text)
        report, layers, quantize_s = _figures(answer)
        return SchemeScores(_scores(answer), report, layers, quantize_s, answer.made)

    def keep_float(self, scores: Scores) -> None:
        self._keep(FLOAT_MODEL, {}, scores)

    def keep(
        self, text: str, scores: Scores, report: ModelReport, layers: Sequence[LayerReport], quantize_s: float
    ) -> None:
        rows = [asdict(row) for row in layers]
        self._keep(text, {"report": asdict(report), "layers": rows, "quantize_s": quantize_s}, scores)

    def _answer(self, text: str) -> Answer:
        answer = self._answers[text]
        if answer is None:
            raise KeyError(f"nothing is kept of {text!r}")
        return answer

    def _keep(self, text: str, figures: dict[str, Any], scores: Scores) -> None:
        arrays = {name: tensor.numpy() for name, tensor in vars(scores).items()}
        question = self._questions[text]
        self._store.put(question, figures, arrays)
        self._answers[text] = self._store.get(question) or Answer(figures, arrays, "just now, not kept")


def questions(
    model: Held, texts: Sequence[str], tokens: Tensor, calibration: Tensor, hashed: str | None
) -> dict[str, Question]:
    """What the store is asked for, by the text of a scheme, or FLOAT_MODEL."""
    hashed = hashed or model_hash(model)
    device, used = ranks().named(device_name(model.device)), versions()
    read = tokens_hash(tokens), tokens_hash(tokens, calibration)
    return {text: Question(KIND, text, model.id, hashed, read[text != FLOAT_MODEL], device, used) for text in texts}


def report_of(figures: Mapping[str, Any]) -> ModelReport:
    """A scheme's report of the figures that are kept. Raises whatever figures of another shape make it raise."""
    report = dict(figures["report"])
    return ModelReport(**{**report, **{name: Interval(**report[name]) for name in INTERVALS}})


def _scores(answer: Answer) -> Scores:
    return Scores(**{name: torch.from_numpy(np.ascontiguousarray(array)) for name, array in answer.arrays.items()})


def _figures(answer: Answer) -> tuple[ModelReport, tuple[LayerReport, ...], float]:
    """Raises whatever an answer of another shape makes it raise; the store then takes it for none."""
    _scores(answer)
    return (
        report_of(answer.figures),
        tuple(_layer(row) for row in answer.figures["layers"]),
        float(answer.figures["quantize_s"]),
    )


def _layer(row: dict[str, Any]) -> LayerReport:
    windows = row.get("output_sqnr_windows")
    tuples = {"shape": tuple(row["shape"]), "notes": tuple(row["notes"])}
    return LayerReport(**{**row, **tuples, "output_sqnr_windows": windows and tuple(windows)})
