"""The only caches: strings and numbers in, models, tensors and frozen reports out.

Keys are text (model id, layer name, scheme text, text id) because Streamlit hashes large arrays by sampling and cannot
hash tensors. What is returned is shared by every session and never changed.
"""

from __future__ import annotations

import gc
import hashlib

import streamlit as st
from torch import Tensor

from quantcore.calibrate import LayerStats, calibrate, layer_inputs, outlier_ratio
from quantcore.models import REFERENCE, LoadedModel, bundled_text, linear_named, load_model, token_windows
from quantcore.qtensor import fake_quantize
from quantcore.scheme import QuantSpec, Scheme
from quantcore.studies.granularity import GranularityStudy, granularity_study

STUDY_TOKENS = 512


def warm_up() -> None:
    """Load the reference model before the first visitor comes, and take it out of the garbage collector's rounds."""
    model(REFERENCE, "cpu")


@st.cache_resource(max_entries=3, show_spinner="Loading the model ...")
def model(model_id: str, device: str) -> LoadedModel:
    """The model, ready to run; gc.freeze, because Streamlit collects after each rerun and would walk all of torch."""
    loaded = load_model(model_id, device)
    gc.collect()
    gc.freeze()
    return loaded


@st.cache_resource(max_entries=64)
def _own_texts() -> dict[str, str]:
    return {}


def keep_text(text: str) -> str:
    """The id under which a visitor's own text is known from now on."""
    text_id = f"own:{hashlib.sha256(text.encode()).hexdigest()[:16]}"
    _own_texts()[text_id] = text
    return text_id


def text(text_id: str) -> str:
    """The text of an id: `evaluation/story`, `calibration/all`, or `own:<hash>`. Raises: ValueError."""
    if not text_id.startswith("own:"):
        return bundled_text(*text_id.split("/", 1))
    if text_id not in _own_texts():
        raise ValueError("the server has forgotten your text; paste or upload it again in the sidebar")
    return _own_texts()[text_id]


@st.cache_resource(max_entries=64, show_spinner=False)
def tokens(model_id: str, device: str, text_id: str, limit: int = STUDY_TOKENS, window: int = 512) -> Tensor:
    """Token windows of a text, (windows, T), at most `limit` tokens."""
    loaded = model(model_id, device)
    return token_windows(loaded.tokenizer, text(text_id), min(window, loaded.context), limit)


@st.cache_resource(max_entries=48, show_spinner="Running the model over the text ...")
def inputs(model_id: str, device: str, layer: str, text_id: str, limit: int = STUDY_TOKENS) -> Tensor:
    """What enters a layer while the model reads a text, (N, K), float32 on the CPU."""
    loaded = model(model_id, device)
    return layer_inputs(loaded.model, tokens(model_id, device, text_id, limit), layer).flatten(0, 1)


def weight(model_id: str, device: str, layer: str) -> Tensor:
    """A layer's weight, (O, K), float32 on the CPU."""
    return linear_named(model(model_id, device).model, layer).weight.detach().float().cpu()


@st.cache_resource(max_entries=16, show_spinner="Reading what enters every layer ...")
def stats(model_id: str, device: str, text_id: str, limit: int = STUDY_TOKENS) -> dict[str, LayerStats]:
    """Ranges and channel maxima of every layer's input while the model reads a text; no Hessians."""
    return calibrate(model(model_id, device).model, tokens(model_id, device, text_id, limit), hessian=False)


@st.cache_data(max_entries=16, show_spinner=False)
def default_layer(model_id: str, device: str) -> str:
    """The layer whose input has the strongest outlier channel: largest over median of the channels' maxima."""
    seen = stats(model_id, device, "evaluation/encyclopedia")
    return max(seen, key=lambda name: outlier_ratio(seen[name]))


@st.cache_resource(max_entries=64, show_spinner=False)
def coarsest_error(model_id: str, device: str, layer: str, fmt: str) -> float:
    """Largest error of a format's per-tensor rounding: the common end of the error maps' colours."""
    tensor = weight(model_id, device, layer)
    return float((fake_quantize(tensor, weights_of(f"w:{fmt}/tensor")) - tensor).abs().max())


@st.cache_resource(max_entries=64, show_spinner=False)
def granularity(model_id: str, device: str, layer: str, text_id: str, scheme: str) -> GranularityStudy:
    return granularity_study(
        weight(model_id, device, layer), inputs(model_id, device, layer, text_id), weights_of(scheme)
    )


def weights_of(scheme: str) -> QuantSpec:
    spec = Scheme.parse(scheme).weights
    if spec is None:
        raise ValueError(f"{scheme!r} leaves the weights float; add w:..., as in w:int4/group128")
    return spec
