"""The only caches: strings and numbers in, models, tensors and frozen reports out.

Keys are text (model id, layer name, scheme text, text id) because Streamlit hashes large arrays by sampling and cannot
hash tensors. What is returned is shared by every session and never changed.
"""

from __future__ import annotations

import gc
import hashlib
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path

import plotly.graph_objects as go
import streamlit as st
import torch
from streamlit.runtime.scriptrunner import get_script_run_ctx
from torch import Tensor, nn

from quantcore.export.checkpoint import stored_type
from quantcore.export.promise import Promise, promise
from quantcore.lab.warm import keep_compiled
from quantcore.matmul.size import checkpoint_bytes
from quantcore.measure.duel import Duel, duel, known
from quantcore.measure.rules import RuleResult, best_practice
from quantcore.measure.sensitivity import Sensitivity, joined, plan_for_budget
from quantcore.measure.store import Store, model_hash
from quantcore.methods.options import Gptq
from quantcore.model.inventory import block_order, inventory
from quantcore.model.linears import linear_named, linears
from quantcore.model.loading import REFERENCE, REFERENCE_LAYER, LoadedModel, devices, load_model, reference_weight
from quantcore.model.sources import Place, locate
from quantcore.numbers.formats import format_named
from quantcore.numbers.granularity import PerTensor
from quantcore.numbers.qtensor import fake_quantize
from quantcore.numbers.spec import QuantSpec
from quantcore.pipeline.calibration import LayerStats, calibrate, layer_inputs, momenta_of, outlier_ratio
from quantcore.pipeline.convert import quantize_model
from quantcore.pipeline.layers import static_qparams
from quantcore.scheme.plan import Plan
from quantcore.scheme.scheme import Scheme
from quantcore.studies.anatomy import Anatomy, anatomy
from quantcore.studies.dynamic_cost import DynamicCost, measure_cost
from quantcore.studies.footprint import PRESET_SHAPES, Footprint, ModelShape, footprint
from quantcore.studies.gptq_cost import OrderCosts, measure_order_cost
from quantcore.studies.gptq_map import OrderMap, order_map
from quantcore.studies.gptq_order import OrderStudy, order_study
from quantcore.studies.gptq_steps import TileSteps, companions, neighbours, tile_rows, tile_steps
from quantcore.studies.gptq_toy import Toy, toy
from quantcore.studies.granularity import GranularityRow, GranularityStudy, every_granularity, granularity_study
from quantcore.studies.layer import LayerStudy, layer_study
from quantcore.studies.next_tokens import NextTokens, next_tokens
from quantcore.studies.number_formats import CodeUse, Grid, Snap, code_use, fit, snap
from quantcore.studies.outliers import (
    ChannelStudy,
    Payer,
    Remedies,
    Remedy,
    Trial,
    channel_study,
    outlier_map,
    who_pays,
)
from quantcore.studies.plans import kept_costs
from quantcore.studies.ranges import (
    MOST_STEPS,
    STEP_TOKENS,
    Clip,
    RangeStudy,
    Trail,
    Unfrozen,
    Watched,
    clipping,
    observe,
    range_study,
    unfrozen,
    watch,
)
from quantcore.studies.row import RowStudy, loud_row, row_study
from quantcore.studies.speed_curves import Recorded, read_run
from quantcore.text.files import LoadedText, hub_text
from quantcore.text.reading import CALIBRATE, EVALUATE, STUDY, Reading, Texts
from quantcore.text.windows import TEXT_KINDS
from ui import exports, memory
from ui.classroom import model_source
from ui.figures import outliers as figures
from ui.jobs import Jobs
from ui.kept import OWN, is_private, kept
from ui.visitors import rules, sessions

FIRST_VISIT_S = 8.0  # a visitor who waits for the start gets both cores before the first page's other bits are made
PREVIEW_CHARACTERS = 600
LOAD_AT_ONCE_BYTES = 100_000_000
MIX = "mix"  # a calibration text of every kind
OWN_CALIBRATION = str(CALIBRATE)  # the reading of our own calibration text
OUR_PROMPTS = ("Once upon a time, there was a little girl named", "He played football for Manchester")
START, START_BITS = 4, range(2, 9)  # bits per weight on the first page
SMALL_MODEL = 50_000_000  # parameters; of a larger model only one quantized copy is kept


def warm_up() -> None:
    """Load the reference model before the first visitor comes, and take it out of the garbage collector's rounds, which
    may begin from then on."""
    device = default_device()
    quantized(REFERENCE, device, start_scheme(START))
    memory.freeze(len(sessions()), collect=False)
    gc.enable()
    time.sleep(FIRST_VISIT_S)
    stats(REFERENCE, device, "evaluation/encyclopedia")
    for bits in START_BITS:
        quantized(REFERENCE, device, start_scheme(bits))
    memory.freeze(len(sessions()))


def default_device() -> str:
    """The first GPU where there is one, else the CPU."""
    return devices()[:2][-1]


@st.cache_resource(max_entries=3, show_spinner="Loading the model ...")
def model(model_id: str, device: str) -> LoadedModel:
    """The model, ready to run; gc.freeze, because Streamlit collects after each rerun and would walk all of torch."""
    keep_compiled()
    job = jobs().get(load_key(model_id, device))
    loaded: LoadedModel | None = job.result if job is not None and job.state == "done" else None
    loaded = replace(loaded or load_model(model_source(model_id), device), id=model_id)
    _loaded().add((model_id, device))
    jobs().forget(load_key(model_id, device))
    memory.freeze(len(sessions()))
    return loaded


@st.cache_resource
def _loaded() -> set[tuple[str, str]]:
    """The models that this server has had in memory, each with its device."""
    return set()


def load_key(model_id: str, device: str) -> str:
    """The job that loads a model."""
    return f"load|{model_id}|{device}"


def takes_long(model_id: str, device: str) -> bool:
    """Whether the model must be downloaded first, or is large: then a job loads it and the page shows how far it is.

    Raises: ValueError for what is no model."""
    if model_id == REFERENCE or (model_id, device) in _loaded():
        return False
    place = locate(model_source(model_id))
    return place is None or place.gguf is not None or _bytes(place) > LOAD_AT_ONCE_BYTES


def _bytes(place: Place) -> int:
    return sum(file.stat().st_size for file in place.folder.glob("*.safetensors"))


OURS = Texts()


def texts() -> Texts:
    """The texts that readings name: ours, and the own ones of the visitor who asks."""
    return OURS if get_script_run_ctx(suppress_warning=True) is None else _own_texts()


@st.cache_resource(scope="session")
def _own_texts() -> Texts:
    """One visitor's; they go with the session."""
    return Texts()


@st.cache_resource(max_entries=8, show_spinner="Asking the hub for the data set ...")
def data_set(name: str) -> LoadedText:
    return hub_text(name)


def has_chat_template(model_id: str, device: str) -> bool:
    return bool(getattr(model(model_id, device).tokenizer, "chat_template", None))


def loaded_text(text_id: str) -> LoadedText:
    """The text of a reading. Raises: ValueError for one of a visitor's that the server no longer has."""
    return texts()[Reading.parse(text_id).source]


def source_of(text_id: str) -> str:
    """A text in words: its name; of a visitor's also the hash, and the commit of a hub's."""
    return Reading.parse(text_id).words(texts())


@dataclass(frozen=True)
class TextFacts:
    """tokens: of the whole text, as this model's tokenizer counts; `read` (sequences, length) of them are read."""

    documents: int
    tokens: int
    read: tuple[int, int]
    hash: str
    start: str


@kept(max_entries=32)
def text_facts(model_id: str, device: str, text_id: str) -> TextFacts:
    """What the sidebar says of a text; `start` is how it begins, as the model reads it."""
    loaded, found = model(model_id, device), loaded_text(text_id)
    written = found.joined(loaded.tokenizer, Reading.parse(text_id).chat)
    count = len(loaded.tokenizer(written, add_special_tokens=False, verbose=False)["input_ids"])
    windows = tokens(model_id, device, text_id)
    return TextFacts(
        len(found.documents), count, (len(windows), windows.shape[1]), found.hash, written[:PREVIEW_CHARACTERS]
    )


@kept(max_entries=64)
def tokens(model_id: str, device: str, text_id: str) -> Tensor:
    """Token windows of a reading, (windows, T)."""
    return Reading.parse(text_id).tokens(model(model_id, device), texts())


@kept(max_entries=16, show_spinner="Running the model over the text ...")
def inputs(model_id: str, device: str, layer: str, text_id: str) -> Tensor:
    """What enters a layer while the model reads a text, (N, K), float32 on the CPU."""
    loaded = model(model_id, device)
    return layer_inputs(loaded.model, tokens(model_id, device, text_id), layer).flatten(0, 1)


@st.cache_data(max_entries=8, show_spinner=False)
def layers(model_id: str, device: str) -> dict[str, tuple[int, int]]:
    """The shape (O, K) of each of the model's Linears, block by block; of the reference model from its file's header,
    so that the first page need not wait for transformers."""
    if model_id == REFERENCE:
        return inventory(REFERENCE).linears
    found = linears(model(model_id, device).model)
    return {name: (found[name].out_features, found[name].in_features) for name in sorted(found, key=block_order)}


def weight(model_id: str, device: str, layer: str) -> Tensor:
    """A layer's weight, (O, K), float32 on the CPU; of the reference model from its file, as `layers`."""
    if model_id == REFERENCE:
        return reference_weight(layer)
    return linear_named(model(model_id, device).model, layer).weight.detach().float().cpu()


@kept(max_entries=16, show_spinner="Reading what enters every layer ...")
def stats(model_id: str, device: str, text_id: str) -> dict[str, LayerStats]:
    """Ranges and channel maxima of every layer's input while the model reads a text; no Hessians."""
    return calibrate(model(model_id, device).model, tokens(model_id, device, text_id), hessian=False)


@st.cache_data(max_entries=16, show_spinner=False)
def default_layer(model_id: str, device: str) -> str:
    """The layer whose input has the strongest outlier channel: largest over median of the channels' maxima."""
    if model_id == REFERENCE:
        return REFERENCE_LAYER
    seen = stats(model_id, device, "evaluation/encyclopedia")
    return max(seen, key=lambda name: outlier_ratio(seen[name]))


@st.cache_resource(max_entries=64, show_spinner=False)
def coarsest_error(model_id: str, device: str, layer: str, fmt: str) -> float:
    """Largest error of a format's per-tensor rounding: the common end of the error maps' colours."""
    tensor = weight(model_id, device, layer)
    return float((fake_quantize(tensor, weights_of(f"w:{fmt}/tensor")) - tensor).abs().max())


@kept(max_entries=64)
def granularity(model_id: str, device: str, layer: str, text_id: str, scheme: str) -> GranularityStudy:
    spec = weights_of(scheme)
    rows = _granularity_rows(model_id, device, layer, text_id, str(Scheme(replace(spec, granularity=PerTensor()))))
    return granularity_study(weight(model_id, device, layer), inputs(model_id, device, layer, text_id), spec, rows)


@kept(max_entries=64)
def _granularity_rows(model_id: str, device: str, layer: str, text_id: str, scheme: str) -> tuple[GranularityRow, ...]:
    """The table of all granularities, which no move of the granularity changes."""
    return every_granularity(
        weight(model_id, device, layer), inputs(model_id, device, layer, text_id), weights_of(scheme)
    )


@kept(max_entries=64)
def token_texts(model_id: str, device: str, text_id: str) -> tuple[str, ...]:
    """The text of each token that `inputs` has a row for, control characters written out."""
    ids = tokens(model_id, device, text_id).flatten().tolist()
    decode = model(model_id, device).tokenizer.decode
    return tuple("".join(c if c.isprintable() else repr(c)[1:-1] for c in decode([one])) for one in ids)


@kept(max_entries=64)
def channels(model_id: str, device: str, layer: str, text_id: str) -> ChannelStudy:
    return channel_study(inputs(model_id, device, layer, text_id))


@kept(max_entries=64)
def payers(model_id: str, device: str, layer: str, text_id: str, fmt: str) -> tuple[Payer, ...]:
    return who_pays(inputs(model_id, device, layer, text_id), fmt)


@kept(max_entries=32)
def outlier_pictures(
    model_id: str, device: str, layer: str, text_id: str, fmt: str, log: bool
) -> tuple[go.Figure, go.Figure, go.Figure, go.Figure]:
    """The pictures that no remedy moves: the map, the surface, the errors by token and by channel. Building them takes
    half of a rerun."""
    study, texts = channels(model_id, device, layer, text_id), token_texts(model_id, device, text_id)
    by_whom = payers(model_id, device, layer, text_id, fmt)
    return (
        figures.layer_map(outlier_map(stats(model_id, device, text_id)), layer),
        figures.surface(inputs(model_id, device, layer, text_id), study, texts, log),
        figures.token_errors(by_whom, study, texts),
        figures.channel_errors(by_whom, study),
    )


@kept(max_entries=16)
def outlier_trial(model_id: str, device: str, layer: str, text_id: str) -> Trial:
    return Trial(inputs(model_id, device, layer, text_id), weight(model_id, device, layer))


@kept(max_entries=128)
def outlier_remedies(model_id: str, device: str, layer: str, text_id: str, fmt: str) -> Remedies:
    return outlier_trial(model_id, device, layer, text_id).remedies(fmt)


@kept(max_entries=512)
def outlier_remedy(
    model_id: str, device: str, layer: str, text_id: str, fmt: str, clip: str, keep: int
) -> tuple[Remedy, ...]:
    return outlier_trial(model_id, device, layer, text_id).remedy(fmt, clip, keep)


def start_scheme(bits: int) -> str:
    """What the first page does to the whole model: every row of every Linear gets 2^bits evenly spaced levels."""
    return f"w:int{bits}/channel"


def quantized(model_id: str, device: str, scheme: str) -> nn.Module:
    """The model with its weights rounded to nearest under a scheme; it shares what stays float and packs the codes."""
    small = sum(p.numel() for p in model(model_id, device).model.parameters()) <= SMALL_MODEL
    return (_quantized_small if small else _quantized_large)(model_id, device, scheme)


@st.cache_resource(max_entries=8, show_spinner=False)
def _quantized_small(model_id: str, device: str, scheme: str) -> nn.Module:
    return quantize_model(model(model_id, device).model, scheme)[0]


@st.cache_resource(max_entries=1, show_spinner="Quantizing the model ...")
def _quantized_large(model_id: str, device: str, scheme: str) -> nn.Module:
    return quantize_model(model(model_id, device).model, scheme)[0]


@st.cache_data(max_entries=64, show_spinner=False)
def quantized_bytes(model_id: str, device: str, scheme: str) -> int:
    """Bytes of the quantized model's checkpoint."""
    return checkpoint_bytes(quantized(model_id, device, scheme))


def likeliest(model_id: str, device: str, scheme: str, prompt: str) -> NextTokens:
    """What both models write next; a prompt of the visitor's own is kept as an own text is."""
    return _likeliest(model_id, device, scheme, prompt if prompt in OUR_PROMPTS else OWN + prompt)


@kept(max_entries=256)
def _likeliest(model_id: str, device: str, scheme: str, prompt: str) -> NextTokens:
    return next_tokens(model(model_id, device), quantized(model_id, device, scheme), prompt.removeprefix(OWN))


@st.cache_data(max_entries=256, show_spinner=False)
def _loud_row(model_id: str, device: str, layer: str, share: float) -> int:
    return loud_row(weight(model_id, device, layer), share)


@st.cache_resource(max_entries=128, show_spinner=False)
def row(model_id: str, device: str, layer: str, scheme: str, share: float) -> RowStudy:
    """The row of a layer that is louder than `share` of its rows, quantized; see `loud_row`."""
    number = _loud_row(model_id, device, layer, share)
    return row_study(weight(model_id, device, layer), number, weights_of(scheme))


@st.cache_resource(max_entries=4, show_spinner=False)
def contents(model_id: str, device: str) -> Anatomy:
    return anatomy(model(model_id, device))


@kept(max_entries=4, show_spinner="Recording ranges on the calibration text ...")
def recorded(model_id: str, device: str, momentum: float, calibration: str = OWN_CALIBRATION) -> dict[str, LayerStats]:
    """What enters every layer on the calibration text: what a static scheme freezes."""
    read = tokens(model_id, device, calibration)
    return calibrate(model(model_id, device).model, read, hessian=False, momenta=(momentum,))


@kept(max_entries=96)
def layer_lab(
    model_id: str, device: str, layer: str, text_id: str, scheme: str, calibration: str = OWN_CALIBRATION
) -> LayerStudy:
    """One layer under a scheme; static ranges and GPTQ's Hessian come from the calibration text, the errors from the
    text named."""
    chosen, static, hessian = Scheme.parse(scheme), None, None
    if chosen.needs_ranges:
        static = static_qparams(chosen.activations, recorded(model_id, device, *momenta_of(chosen), calibration)[layer])
    if chosen.needs_hessian:
        hessian = hessian_of(model_id, device, layer, calibration=calibration)
    linear = linear_named(model(model_id, device).model, layer)
    return layer_study(linear, inputs(model_id, device, layer, text_id), chosen, static, hessian)


@kept(max_entries=8, show_spinner="Summing the Hessian over the calibration text ...")
def hessian_of(model_id: str, device: str, layer: str, calibration: str = OWN_CALIBRATION) -> Tensor:
    """X^T X of a layer's inputs on the calibration text; from the float model. (K, K), float32."""
    seen = calibrate(model(model_id, device).model, tokens(model_id, device, calibration), [layer])[layer].hessian
    assert seen is not None
    return seen


@kept(max_entries=4, show_spinner="Recording ranges on the calibration text ...")
def watched(model_id: str, device: str, layer: str, kind: str) -> Watched:
    """One layer's input on a calibration text, step by step; MIX reads the kinds side by side, a step of each. `kind`
    may be the id of a visitor's text."""
    running, read = model(model_id, device).model, tokens(model_id, device, watched_reading(kind))
    if kind == MIX:
        return watch(running, _abreast(read), layer, abreast=len(TEXT_KINDS))
    return watch(running, read, layer)


def watched_reading(kind: str) -> str:
    """The steps of a calibration text of one kind, of MIX, or of a visitor's."""
    if kind == MIX:
        return str(CALIBRATE.at_most(len(TEXT_KINDS) * STUDY.length))
    text = Reading.parse(kind if is_private(kind) else f"calibration/{kind}")
    return str(text.at_most(STEP_TOKENS * MOST_STEPS))


def _abreast(windows: Tensor) -> Tensor:
    """Windows kind by kind -> one window of every kind, then the next of every kind."""
    return windows.unflatten(0, (len(TEXT_KINDS), -1)).transpose(0, 1).flatten(0, 1)


@kept(max_entries=256)
def range_trail(model_id: str, device: str, layer: str, kind: str, steps: int, scheme: str) -> Trail:
    """What a static scheme's observer would freeze over the first steps of the calibration text."""
    return observe(watched(model_id, device, layer, kind), activations_of(scheme), steps)


@kept(max_entries=128)
def unfrozen_rows(model_id: str, device: str, layer: str, text_id: str, scheme: str, call: int) -> Unfrozen:
    x = inputs(model_id, device, layer, text_id)
    return unfrozen(x, weight(model_id, device, layer), activations_of(scheme), call)


@kept(max_entries=128)
def ranges(
    model_id: str, device: str, layer: str, text_id: str, kind: str, steps: int, schemes: tuple[str, ...], call: int
) -> RangeStudy:
    return range_study(
        watched(model_id, device, layer, kind),
        [range_trail(model_id, device, layer, kind, steps, scheme) for scheme in schemes],
        inputs(model_id, device, layer, text_id),
        weight(model_id, device, layer),
        unfrozen_rows(model_id, device, layer, text_id, schemes[0], call),
    )


@kept(max_entries=128)
def clips(
    model_id: str, device: str, layer: str, text_ids: tuple[str, ...], kind: str, steps: int, schemes: tuple[str, ...]
) -> tuple[Clip, ...]:
    """What the frozen ranges clip on each of several texts, which are named by the kind in their id."""
    bases = {one: Reading.parse(one).source for one in text_ids}
    names = {one: "your own" if is_private(base) else base.rpartition("/")[2] for one, base in bases.items()}
    read = {name: inputs(model_id, device, layer, one) for one, name in names.items()}
    return clipping([range_trail(model_id, device, layer, kind, steps, scheme) for scheme in schemes], read)


@st.cache_resource(max_entries=64, show_spinner="Measuring the time ...")
def dynamic_cost(model_id: str, device: str, layer: str, scheme: str) -> DynamicCost:
    """A measurement: kept until it is cleared, so that one picture does not tremble from move to move."""
    x = inputs(model_id, device, layer, "evaluation/encyclopedia")
    return measure_cost(linear_named(model(model_id, device).model, layer).weight.detach(), x, activations_of(scheme))


def activations_of(scheme: str) -> QuantSpec:
    spec = Scheme.parse(scheme).activations
    if spec is None:
        raise ValueError(f"{scheme!r} leaves the activations float; add a:..., as in a:int8/tensor/static")
    return spec


def weights_of(scheme: str) -> QuantSpec:
    spec = Scheme.parse(scheme).weights
    if spec is None:
        raise ValueError(f"{scheme!r} leaves the weights float; add w:..., as in w:int4/group128")
    return spec


@dataclass(frozen=True)
class Histogram:
    """A tensor's values counted in equal bins between lo and hi."""

    lo: float
    hi: float
    counts: tuple[int, ...]
    edges: tuple[float, ...]


def _tensor(model_id: str, device: str, layer: str, text_id: str, of: str) -> Tensor:
    """A layer's weight, or what enters it."""
    return weight(model_id, device, layer) if of == "weight" else inputs(model_id, device, layer, text_id)


@kept(max_entries=64)
def tensor_histogram(model_id: str, device: str, layer: str, text_id: str, of: str, bins: int = 161) -> Histogram:
    """The values of a weight or of a layer's inputs over an axis that holds 0 and both ends."""
    values = _tensor(model_id, device, layer, text_id, of)
    reach = float(values.abs().max()) * 1.05 or 1.0
    counts = torch.histc(values, bins, -reach, reach)
    edges = torch.linspace(-reach, reach, bins + 1)
    return Histogram(-reach, reach, tuple(int(c) for c in counts), tuple(edges.tolist()))


@kept(max_entries=256)
def fitted_grid(model_id: str, device: str, layer: str, text_id: str, of: str, name: str) -> Grid:
    """The format `name` (`_asym`: with a zero point) over the tensor's min-max range."""
    values = _tensor(model_id, device, layer, text_id, of)
    return fit(values, format_named(name.removesuffix("_asym")), symmetric=not name.endswith("_asym"))


@kept(max_entries=512)
def format_use(
    model_id: str,
    device: str,
    layer: str,
    text_id: str,
    of: str,
    name: str,
    scale: float,
    zero_point: int | None,
    x: float,
) -> tuple[CodeUse, Snap]:
    """How the tensor's values fall on the codes at this scale and zero point, and what becomes of x."""
    grid = Grid(format_named(name.removesuffix("_asym")), scale, zero_point)
    return code_use(_tensor(model_id, device, layer, text_id, of), grid), snap(x, grid)


@st.cache_resource
def jobs() -> Jobs:
    """The long work of this server."""
    return Jobs(rules())


@st.cache_resource
def store() -> Store:
    """The file of kept results."""
    return Store()


def store_for(*text_ids: str) -> Store:
    """Where the answers on these texts are kept: on a visitor's own in memory, and only as long as the session."""
    return _own_store() if is_private(*text_ids) else store()


@st.cache_resource(scope="session")
def _own_store() -> Store:
    return Store.in_memory()


@st.cache_data(max_entries=8, show_spinner=False)
def hash_of(model_id: str, device: str) -> str:
    """The hash of a model's contents."""
    return model_hash(model(model_id, device).model)


def duel_reading(text_id: str, limit: int) -> str:
    """What a whole model is measured on: windows for an interval, of the text that `text_id` names."""
    return str(EVALUATE.of(Reading.parse(text_id)).at_most(limit))


def duel_tokens(model_id: str, device: str, text_id: str, limit: int) -> Tensor:
    return tokens(model_id, device, duel_reading(text_id, limit))


@st.cache_resource(max_entries=3, show_spinner=False)
def decoder(model_id: str, device: str) -> Callable[[int], str]:
    """A token's id -> its text, each asked of the tokenizer once."""
    decode = model(model_id, device).tokenizer.decode
    return lru_cache(maxsize=2**17)(lambda token: decode([token]))


def calibration_reading(calibration: str, limit: int) -> str:
    """At most `limit` tokens of what static ranges and GPTQ learn from; of a visitor's text no more than it says."""
    reading = Reading.parse(calibration)
    return str(reading.at_most(min(limit, reading.windows * reading.length) if reading.own else limit))


def duel_texts(
    model_id: str, device: str, text_id: str, limit: int, calibration: str = OWN_CALIBRATION
) -> tuple[Tensor, Tensor]:
    """What a whole model is measured on, and what static ranges and GPTQ see."""
    return duel_tokens(model_id, device, text_id, limit), tokens(model_id, device, calibration)


def kept_schemes(
    model_id: str,
    device: str,
    text_id: str,
    limit: int,
    schemes: tuple[str, ...],
    calibration: str = OWN_CALIBRATION,
) -> tuple[str, ...]:
    """Those of the schemes whose answers are in the store already."""
    read = duel_texts(model_id, device, text_id, limit, calibration)
    kept_in = store_for(text_id, calibration)
    return tuple(known(model(model_id, device), schemes, *read, kept_in, hash_of(model_id, device)))


def kept_duel(
    model_id: str,
    device: str,
    text_id: str,
    limit: int,
    schemes: tuple[str, ...],
    calibration: str = OWN_CALIBRATION,
) -> Duel | None:
    """The duel, where every answer is in the store already."""
    kept = kept_schemes(model_id, device, text_id, limit, schemes, calibration)
    if len(kept) < len({str(Plan.parse(scheme)) for scheme in schemes}):
        return None
    return _kept_duel(model_id, device, text_id, limit, schemes, calibration)


@kept(max_entries=16)
def _kept_duel(
    model_id: str, device: str, text_id: str, limit: int, schemes: tuple[str, ...], calibration: str
) -> Duel:
    read = duel_texts(model_id, device, text_id, limit, calibration)
    kept_in = store_for(text_id, calibration)
    return duel(model(model_id, device), schemes, *read, kept_in, hash_of(model_id, device))


def kept_rule(
    model_id: str, device: str, limit: int, key: str, calibration: str = OWN_CALIBRATION
) -> RuleResult | None:
    """The verdict on a rule of good practice, where every answer that it needs is in the store already."""
    rule = next(one for one in best_practice() if one.key == key)
    able = [text for text in (rule.scheme, *rule.challengers) if _is_plan(text)]
    if len(kept_schemes(model_id, device, "evaluation/all", limit, tuple(able), calibration)) < len(able):
        return None
    return _kept_rule(model_id, device, limit, key, calibration)


@kept(max_entries=64)
def _kept_rule(model_id: str, device: str, limit: int, key: str, calibration: str) -> RuleResult:
    rule = next(one for one in best_practice() if one.key == key)
    read = duel_texts(model_id, device, "evaluation/all", limit, calibration)
    return rule.test(model(model_id, device), *read, store_for(calibration), hash_of(model_id, device))


def _is_plan(text: str) -> bool:
    try:
        Plan.parse(text)
    except ValueError:
        return False
    return True


def kept_sensitivity(
    model_id: str, device: str, text_id: str, limit: int, schemes: tuple[str, ...], all_but: bool
) -> Sensitivity | None:
    """The sensitivities, where all of them are in the store already."""
    read = duel_texts(model_id, device, text_id, limit)
    place = (store_for(text_id), all_but, hash_of(model_id, device))
    costs = [kept_costs(model(model_id, device), scheme, *read, *place) for scheme in schemes]
    return joined([cost for cost in costs if cost is not None]) if all(costs) else None


TRAIL = 25  # budgets


@kept(max_entries=16)
def plan_trail(
    model_id: str, device: str, text_id: str, limit: int, schemes: tuple[str, ...]
) -> list[tuple[float, float]]:
    """Bits per weight and predicted KL of the plans at TRAIL budgets, from the smallest scheme's to the largest's.

    Raises: ValueError where the sensitivities are not in the store."""
    found = kept_sensitivity(model_id, device, text_id, limit, schemes, False)
    if found is None:
        raise ValueError(f"the layers of {model_id} were not measured under {', '.join(schemes)} yet; run them first")
    uniform = [found.mean_bits(dict.fromkeys(found.layers, text)) for text in schemes]
    least, most = min(uniform), max(uniform)
    plans = [plan_for_budget(found, least + (most - least) * (step / (TRAIL - 1)) ** 2) for step in range(TRAIL)]
    return [(plan.bits_per_weight, plan.predicted_kl) for plan in plans]


RECORDED = Path(__file__).resolve().parents[1] / "benchmarks" / "results"


def recorded_runs() -> dict[str, Recorded | str]:
    """What `benchmarks.matmul` left, by file name: the run, or the sentence that says what is wrong with the file."""
    return {path.name: _recorded(str(path), path.stat().st_mtime_ns) for path in sorted(RECORDED.glob("matmul*.json"))}


@st.cache_resource(max_entries=16, show_spinner=False)
def _recorded(path: str, changed_ns: int) -> Recorded | str:
    try:
        return read_run(Path(path))
    except ValueError as error:
        return str(error)


@st.cache_resource(max_entries=4, show_spinner=False)
def model_shape(model_id: str, device: str) -> ModelShape:
    return ModelShape.of(model(model_id, device).model, "The loaded model")


@st.cache_resource(max_entries=256, show_spinner=False)
def memory_card(shape: str, model_id: str, device: str, plan: str, context: int, batch: int, kv_bits: int) -> Footprint:
    """The footprint of a preset's name, of `loaded`, or of a typed shape. Raises: ValueError."""
    return footprint(shape_named(shape, model_id, device), plan, context, batch, kv_bits)


def shape_named(shape: str, model_id: str, device: str) -> ModelShape:
    if shape == "loaded":
        return model_shape(model_id, device)
    return PRESET_SHAPES.get(shape) or ModelShape.parse(shape)


@kept(max_entries=8, show_spinner="Summing the Hessian over the calibration text ...")
def gptq_stats(model_id: str, device: str, layer: str, limit: int, calibration: str = OWN_CALIBRATION) -> LayerStats:
    """What enters a layer on the calibration text, with X^T X: about `limit` tokens."""
    read = tokens(model_id, device, calibration_reading(calibration, limit))
    return calibrate(model(model_id, device).model, read, [layer])[layer]


@kept(max_entries=64)
def gptq_tile(
    model_id: str,
    device: str,
    layer: str,
    limit: int,
    scheme: str,
    together: bool,
    calibration: str = OWN_CALIBRATION,
) -> TileSteps:
    """GPTQ over a tile of the layer; `together`: the columns that go together most, else neighbours of the loudest."""
    chosen, hessian = Scheme.parse(scheme), _hessian_over(model_id, device, layer, limit, calibration)
    tensor = linear_named(model(model_id, device).model, layer).weight
    columns = companions(hessian) if together else neighbours(hessian)
    return tile_steps(tensor, hessian, tile_rows(len(tensor)), columns, weights_of(scheme), Gptq.of(chosen.method))


@kept(max_entries=64)
def gptq_order(
    model_id: str,
    device: str,
    layer: str,
    text_id: str,
    limit: int,
    scheme: str,
    loud: tuple[int, ...],
    calibration: str = OWN_CALIBRATION,
) -> OrderStudy:
    """The layer in every order; the losses are on the calibration text, `unseen` on the text named."""
    chosen, seen = Scheme.parse(scheme), gptq_stats(model_id, device, layer, limit, calibration)
    return order_study(
        linear_named(model(model_id, device).model, layer).weight,
        _hessian_over(model_id, device, layer, limit, calibration),
        weights_of(scheme),
        Gptq.of(chosen.method).damp,
        seen.tokens,
        loud,
        inputs(model_id, device, layer, text_id),
    )


@kept(max_entries=16, show_spinner="Quantizing in every way ...")
def gptq_map(
    model_id: str,
    device: str,
    layer: str,
    limit: int,
    bits: tuple[int, ...],
    granularities: tuple[str, ...],
    damps: tuple[float, ...],
    calibration: str = OWN_CALIBRATION,
) -> OrderMap:
    tensor = linear_named(model(model_id, device).model, layer).weight
    return order_map(tensor, _hessian_over(model_id, device, layer, limit, calibration), bits, granularities, damps)


@st.cache_resource(max_entries=32, show_spinner="Measuring the time ...")
def gptq_cost(model_id: str, device: str, layer: str, limit: int, scheme: str) -> OrderCosts:
    """A measurement: kept until it is cleared."""
    return measure_order_cost(
        linear_named(model(model_id, device).model, layer).weight.detach(),
        _hessian_over(model_id, device, layer, limit),
        weights_of(scheme),
        inputs(model_id, device, layer, "evaluation/encyclopedia"),
    )


@st.cache_resource(max_entries=256, show_spinner=False)
def gptq_toy(w1: float, w2: float, correlation: float, scale: float) -> Toy:
    return toy(w1, w2, correlation, scale)


def _hessian_over(model_id: str, device: str, layer: str, limit: int, calibration: str = OWN_CALIBRATION) -> Tensor:
    hessian = gptq_stats(model_id, device, layer, limit, calibration).hessian
    assert hessian is not None
    return hessian


@st.cache_resource(max_entries=8, show_spinner=False)
def stored_type_of(model_id: str, device: str) -> torch.dtype:
    """The float type of the model's checkpoints."""
    return stored_type(model(model_id, device).model)


@st.cache_resource(max_entries=64, show_spinner=False)
def promised(model_id: str, device: str, plan: str) -> Promise:
    return promise(model(model_id, device).model, plan, stored_type_of(model_id, device))


def export_folder(model_id: str, device: str, plan: str, learned: str | None, name: str) -> Path:
    """Where the page's checkpoint of a plan goes: `name`, and a hash of all that its contents depend on; `learned`: the
    reading of the calibration text."""
    asked = f"{hash_of(model_id, device)}|{device}|{plan}|{learned}"
    return exports.root() / f"{name}-{hashlib.sha256(asked.encode()).hexdigest()[:8]}"
