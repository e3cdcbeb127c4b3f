"""The bench of a lab: one model on one device, and what every question needs of it: layers, weights, tokens, inputs,
what calibration saw. Each is found once and kept while there is room (`memo`).

A weight and what enters a layer stay where the model is; a study brings to the CPU what is drawn.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from copy import copy
from dataclasses import dataclass, replace
from typing import Self

from torch import Tensor, nn

from quantcore.lab.house import House, Visit, default_device, require_device
from quantcore.lab.memo import Key, Memo, T, key_of, remembered, room_on
from quantcore.lab.warm import keep_compiled
from quantcore.measure.store import Store, model_hash
from quantcore.methods.transforms.options import Smooth
from quantcore.model.held import Held, held
from quantcore.model.inventory import inventory, outline
from quantcore.model.layer_names import expert_of
from quantcore.model.linears import head_of, linear_named, linear_shapes
from quantcore.model.loading import REFERENCE_LAYER, LoadedModel, load_model, reference_weight
from quantcore.model.locate import REFERENCE, Progress, quiet
from quantcore.model.streamed import StreamedModel
from quantcore.numbers.granularity import PerChannel, PerGroup
from quantcore.pipeline.calibration import (
    LayerStats,
    NotReached,
    calibrate,
    layer_inputs,
    outlier_ratio,
    tokens_of_layer,
)
from quantcore.pipeline.scaling import Reaches
from quantcore.pipeline.treated import treated, treated_model
from quantcore.scheme.fitting import fitting_grain, require_fits, sorted_out
from quantcore.scheme.plan import Plan
from quantcore.scheme.scheme import HEAD, Scheme
from quantcore.text.decoder import Decoder
from quantcore.text.files import LoadedText, named_text
from quantcore.text.pieces import ids_of
from quantcore.text.reading import CALIBRATE, EACH_LAYER, EVALUATE, OWN, PLANNED, STUDY, Reading, Texts

PREVIEW_CHARACTERS = 600
COUNTED = 50_000  # tokens of a text, so that a page need not wait for the millions that nobody reads
READ, MEASURED, EACH, PLANNED_ON, LEARNED = map(str, (STUDY, EVALUATE, EACH_LAYER, PLANNED, CALIBRATE))


@dataclass(frozen=True)
class TextFacts:
    """A reading in figures: documents and tokens of the whole text, as this model's tokenizer counts; `more`: there are
    more tokens, which nobody counted; `read` (windows, length) of them are read; `start` is how it begins, as the model
    reads it."""

    documents: int
    tokens: int
    more: bool
    read: tuple[int, int]
    hash: str
    start: str


AnyModel = LoadedModel | StreamedModel


class _Held:
    """The model, once it is there, in memory or in its files: one for a bench and all who visit it."""

    def __init__(self, model: AnyModel | None) -> None:
        self.model = model
        self.hash: str | None = None
        self.lock = threading.RLock()


class Bench:
    """model, device    what `load_model` takes, or a model that is loaded already; it is loaded when first needed
    store, texts     where measured results are kept, and the texts that readings name
    name             what the model is called, where that is not what is loaded
    house            for a server that holds labs for others"""

    def __init__(
        self,
        model: str | AnyModel = REFERENCE,
        device: str | None = None,
        store: Store | None = None,
        texts: Texts | None = None,
        name: str | None = None,
        house: House | None = None,
    ) -> None:
        known = None if isinstance(model, str) else model
        self.source = model if isinstance(model, str) else model.id
        self.id = name or self.source
        self.device = str(known.device) if known else default_device() if device is None else device
        require_device(self.device)
        self._held, self.house = _Held(known), house or House()
        self.texts, self._memo, self._store = texts or Texts(), Memo(room_on(self.device)), store or Store()
        self._own_memo, self._own_store = self._memo, self._store

    def for_visitor(self, visit: Visit) -> Self:
        """The same bench for one visitor: the model and all answers are shared, but for what is made of a text of the
        visitor's own."""
        found = copy(self)
        found.texts, found._own_memo, found._own_store = visit.texts, visit.memo, visit.store
        return found

    @property
    def is_loaded(self) -> bool:
        return self._held.model is not None

    @property
    def held_bytes(self) -> int:
        """What the model holds in memory and what is remembered of it; nothing of weights that stay in their files."""
        found = self._held.model
        weights: dict[str, Tensor] = found.model.state_dict() if isinstance(found, LoadedModel) else {}
        return self._memo.bytes + sum({one.data_ptr(): one.nbytes for one in weights.values()}.values())

    def load(self, progress: Progress = quiet) -> AnyModel:
        """The model, loaded if it was not yet. Raises: ValueError as `load_model`."""
        with self._held.lock:
            if self._held.model is None:
                keep_compiled()
                with self.house.doing("Loading the model ..."):
                    self._held.model = replace(load_model(self.source, self.device, progress), id=self.id)
                self.house.after_load()
            return self._held.model

    def stream(self, progress: Progress = quiet) -> AnyModel:
        """The model, left in its files if it was not loaded yet. Raises: ValueError as `StreamedModel`."""
        with self._held.lock:
            if self._held.model is None:
                keep_compiled()
                self._held.model = StreamedModel(self.source, self.device, progress)
            return self._held.model

    @property
    def whole(self) -> AnyModel:
        """The model, in memory or in its files: for questions that go block by block."""
        return self.load()

    @property
    def loaded(self) -> LoadedModel:
        """The model in memory. Raises: ValueError where it stays in its files."""
        model = self.load()
        if not isinstance(model, LoadedModel):
            raise ValueError(
                f"{self.id!r} stays in its files, where a duel or an export goes through it block by block; for one of "
                "its layers it must be loaded"
            )
        return model

    @property
    def model(self) -> nn.Module:
        return self.loaded.model

    @remembered(1)
    def by_block(self) -> Held:
        """The model as those see it who go through it block by block: its blocks and experts are looked for once."""
        return held(self.load())

    @property
    def hash(self) -> str:
        """The hash of the model's contents."""
        model = self.load()
        with self._held.lock:
            if self._held.hash is None:
                self._held.hash = model_hash(held(model))
            return self._held.hash

    def store(self, *readings: str) -> Store:
        """Where the answers on these readings are kept."""
        return self._own_store if any(map(is_own, readings)) else self._store

    def remember(self, key: Key, most: int, compute: Callable[[], T], words: str | None = None) -> T:
        """The answer to a question, from memory where it is there; see `remembered`."""

        def found() -> T:
            with nullcontext() if words is None else self.house.doing(words):
                return compute()

        memo, key = self._place(key)
        return memo.ask(key, most, found)

    def forget(self, question: Callable[..., object], *args: object) -> None:
        """Let the next who asks measure anew."""
        memo, key = self._place(key_of(question, *args))
        memo.forget(key)

    def remembers(self, question: Callable[..., object], *args: object) -> bool:
        """Whether the answer is remembered, so that asking takes no time."""
        memo, key = self._place(key_of(question, *args))
        return key in memo

    def _place(self, key: Key) -> tuple[Memo, Key]:
        """Where an answer is remembered; a visitor's memo serves several models."""
        return (self._own_memo, (*key, self.id, self.device)) if is_own(key) else (self._memo, key)

    def read(self, text: str | LoadedText) -> str:
        """The source by which readings name a text: a file's or a data set's name, or a text that was read before.

        Raises: ValueError as `named_text`."""
        return self.texts.keep(named_text(text) if isinstance(text, str) else text)

    @remembered(32)
    def text_facts(self, reading: str) -> TextFacts:
        asked, windows = Reading.parse(reading), self.tokens(reading)
        found, tokenizer = self.texts[asked.source], self.whole.tokenizer
        count = len(ids_of(tokenizer, found.parts(tokenizer, asked.chat), COUNTED + 1))
        start = next(found.parts(tokenizer, asked.chat))[:PREVIEW_CHARACTERS]
        read = len(windows), windows.shape[1]
        return TextFacts(len(found.documents), min(count, COUNTED), count > COUNTED, read, found.hash, start)

    @remembered(64)
    def tokens(self, reading: str) -> Tensor:
        """The windows of a reading, (windows, T)."""
        return Reading.parse(reading).tokens(self.whole, self.texts)

    @remembered(64)
    def token_texts(self, reading: str, layer: str = "") -> tuple[str, ...]:
        """The text of each token that `inputs` has a row for, control characters written out; of an expert's layer only
        the tokens that the router gives it."""
        ids = self.tokens(reading).flatten()
        if expert_of(layer) is not None:
            ids = ids[tokens_of_layer(self.model, self.tokens(reading), layer)]
        texts = self.decode.all(ids.tolist())
        return tuple("".join(c if c.isprintable() else repr(c)[1:-1] for c in text) for text in texts)

    @property
    def decode(self) -> Decoder:
        """A token's id -> its text, each asked of the tokenizer once."""
        return self.remember(("decode",), 1, lambda: Decoder(self.whole.tokenizer))

    @remembered(1)
    def layers(self) -> dict[str, tuple[int, int]]:
        """The shape (O, K) of each of the model's Linears, in the model's order; of the reference model from its file's
        header, so that the first page need not wait for transformers."""
        if self.source == REFERENCE:
            return inventory(REFERENCE).linears
        return linear_shapes(self.model)

    @remembered(1)
    def shapes(self) -> dict[str, tuple[int, int]]:
        """As `layers`, in the model's order; of a model on this machine that is not loaded yet, without its weights."""
        if self.source == REFERENCE:
            return inventory(REFERENCE).linears
        return linear_shapes(self._outline())

    @property
    def head(self) -> str | None:
        """What the model calls its output head."""
        return HEAD if self.source == REFERENCE else head_of(self._outline())

    @property
    def can_turn(self) -> bool:
        """Whether hidden states may be turned (rotate=): a norm that takes a mean away sees other coordinates."""
        return self.source == REFERENCE or not any(isinstance(one, nn.LayerNorm) for one in self._outline().modules())

    @remembered(1)
    def _outline(self) -> nn.Module:
        """The model without its weights."""
        found = None if self.is_loaded else outline(self.source)
        return held(self.whole).skeleton if found is None else found

    @property
    def grain(self) -> str:
        """The granularity that presets and defaults have on this model: `group128`, or what fits it."""
        return str(self._grain())

    @remembered(1)
    def _grain(self) -> PerGroup | PerChannel:
        return fitting_grain(self.shapes())

    def plan_of(self, text: str) -> Plan:
        """The plan that a text says on this model. Raises: ValueError where it is none."""
        Plan.parse(text)  # what is no plan anywhere is refused before the model is looked at
        return Plan.parse(text, self._grain())

    def scheme_of(self, text: str) -> Scheme:
        """The scheme likewise."""
        Scheme.parse(text)
        return Scheme.parse(text, self._grain())

    def sorted_out(self, lines: Sequence[str]) -> tuple[dict[str, str], dict[str, str]]:
        """Which of some schemes or plans this model can take, and why not the others: see `fitting.sorted_out`."""
        return sorted_out(lines, self.shapes(), self.head)

    def able(self, schemes: Sequence[str]) -> list[str]:
        """The texts in full of those that it can take, each once."""
        return list(self.sorted_out(schemes)[0].values())

    def text_for(self, plan: str, calibration: str) -> Tensor | None:
        """The calibration windows that a plan learns from; None where it learns from no text."""
        return self.tokens(calibration) if self.plan_of(plan).needs_text else None

    def require_fits(self, *plans: str) -> None:
        """Raises: ValueError, before anything is loaded or read, for a plan that this model cannot take."""
        for text in plans:
            require_fits(self.plan_of(text), self.shapes(), self.head)

    @remembered(1)
    def default_layer(self) -> str:
        """The layer whose input has the strongest outlier channel: largest over median of the channels' maxima."""
        if self.source == REFERENCE:
            return REFERENCE_LAYER
        seen = self.stats(READ)
        return max(seen, key=lambda name: outlier_ratio(seen[name]))

    def linear(self, layer: str) -> nn.Linear:
        """Raises: ValueError for a name that is no Linear of the model."""
        return linear_named(self.model, layer)

    def weight(self, layer: str) -> Tensor:
        """A layer's weight, (O, K), float32; of the reference model from its file, as `layers`."""
        if self.source == REFERENCE:
            return reference_weight(layer)
        return self.linear(layer).weight.detach().float()

    @remembered(2, "Transforming the model ...")
    def transformed(self, scheme: str, calibration: str = LEARNED) -> nn.Module:
        """The float model as a scheme's transforms leave it; they look at the calibration text."""
        plan, learned = self.plan_of(scheme), self.text_for(scheme, calibration)
        alike = tuple(replace(one, alpha=1.0) if isinstance(one, Smooth) else one for one in plan.transforms)
        any_alpha = Plan(replace(plan.default, transforms=alike), plan.overrides)
        reaches = self._reaches(str(any_alpha), calibration)
        return treated_model(treated(held(self.loaded), plan, learned, reaches), self.house.step)

    @remembered(4)
    def _reaches(self, any_alpha: str, calibration: str) -> Reaches:
        """What smoothing sees of a text: filled at its first use, for every alpha of a plan."""
        return []

    @remembered(16, "Running the model over the text ...")
    def inputs(self, layer: str, reading: str = READ) -> Tensor:
        """What enters a layer while the model reads, (N, K), float32."""
        return layer_inputs(self.model, self.tokens(reading), layer).flatten(0, 1)

    @remembered(16, "Reading what enters every layer ...")
    def stats(self, reading: str = READ) -> dict[str, LayerStats]:
        """Ranges and channel maxima of every layer's input while the model reads; no Hessians."""
        return calibrate(self.model, self.tokens(reading), hessian=False, progress=self.house.step)

    @remembered(12, "Reading what enters the layer on the calibration text ...")
    def learned(
        self,
        layer: str,
        calibration: str = LEARNED,
        hessian: bool = True,
        momenta: tuple[float, ...] = (),
        every_token: bool = False,
    ) -> LayerStats:
        """What a static range (with `momenta` for moving averages) or GPTQ (with the Hessian) learns from;
        `every_token`: an expert from all tokens, not only from those that the router gives it."""
        tokens = self.tokens(calibration)
        found = calibrate(self.model, tokens, [layer], hessian, momenta, self.house.step, every_token)
        if layer not in found:
            raise NotReached(layer, tokens.numel(), learning=True)
        return found[layer]

    def hessian(self, layer: str, calibration: str = LEARNED) -> Tensor:
        """X^T X of a layer's inputs on the calibration text, (K, K), float32."""
        found = self.learned(layer, calibration).hessian
        assert found is not None
        return found


def is_own(value: object) -> bool:
    """Whether a reading, or one of several or of a key, is of somebody's own text."""
    if isinstance(value, str):
        return value.startswith(OWN)
    return isinstance(value, tuple) and any(map(is_own, value))
