"""What the command line can do, as functions of words and numbers that return what will be JSON.

info(model)   schemes()   layer(layer, scheme, ...)   evaluate(scheme, ...)
"""

from __future__ import annotations

import platform
import time
from dataclasses import asdict
from importlib import metadata
from typing import Any

import torch
from torch import Tensor

from quantcore.calibrate import calibrate, layer_inputs, momenta_of
from quantcore.convert import quantize_model, static_qparams
from quantcore.evaluate import compare, device_name
from quantcore.formats import FORMATS
from quantcore.inventory import inventory
from quantcore.models import (
    REFERENCE,
    TEXT_KINDS,
    TEXT_SPLITS,
    WINDOW,
    LoadedModel,
    bundled_text,
    devices,
    linear_named,
    load_model,
    read_text,
    token_windows,
)
from quantcore.scheme import PRESETS, Gptq, Scheme
from quantcore.studies.layer import LayerStudy, layer_study

PACKAGES = ("torch", "transformers", "tokenizers", "safetensors", "numpy", "streamlit", "plotly")
MAX_TOKENS = 2560
CALIBRATION_TOKENS = 2560
GPTQ_TOKENS = 16384
WORST = 5
GRANULARITIES = {
    "tensor": "one scale for the whole tensor; weights and activations",
    "channel": "one scale for each output row; weights",
    "token": "one scale for each token, at run time; activations",
    "group128": "one scale for each 128 (or any other number) neighbours along in_features; weights and activations",
    "block128x128": "one scale for each 128 x 128 (or other) block, rows x columns; weights",
}
OBSERVERS = {
    "minmax": "the range is [min, max]; the default, never written",
    "p99.9": "leaves 0.1% of the values out at each end; any percentage above 50",
    "mse": "the min-max range shrunk to the least squared error",
    "ema0.01": "moving average of each window's min and max, momentum 0.01 (or another); static activations",
}


def info(model: str = REFERENCE) -> dict[str, Any]:
    """versions, devices, the model's blocks and Linears (from its headers), our own texts"""
    return {
        "versions": {"python": platform.python_version(), **{name: _version(name) for name in PACKAGES}},
        "devices": [{"device": name, "name": device_name(torch.device(name))} for name in devices()],
        "model": asdict(inventory(model)),
        "texts": {
            split: {kind: {"characters": len(bundled_text(split, kind))} for kind in TEXT_KINDS}
            for split in TEXT_SPLITS
        },
    }


def schemes() -> dict[str, Any]:
    """everything that a scheme's text may say"""
    return {
        "presets": {name: str(scheme) for name, scheme in PRESETS.items()},
        "formats": [
            {"name": fmt.name, "bits": fmt.bits, "qmin": fmt.qmin, "qmax": fmt.qmax, "levels": len(fmt.grid())}
            for fmt in FORMATS.values()
        ],
        "granularities": GRANULARITIES,
        "observers": OBSERVERS,
    }


def layer(
    layer: str,
    scheme: str,
    model: str = REFERENCE,
    text: str | None = None,
    max_tokens: int = MAX_TOKENS,
    device: str | None = None,
) -> dict[str, Any]:
    """one layer under one scheme: errors of weight, input and output, worst channels and tokens"""
    wanted, own_text = Scheme.parse(scheme), _own_text(text, max_tokens)
    loaded = _load(model, device)
    linear = linear_named(loaded.model, layer)
    tokens = _tokens(loaded, own_text, max_tokens)
    started = time.perf_counter()
    calibration, stats = _calibration_tokens(loaded, wanted), {}
    if calibration is not None:
        by_gptq = isinstance(wanted.method, Gptq)
        stats = calibrate(loaded.model, calibration, [layer], hessian=by_gptq, momenta=momenta_of(wanted))
    try:
        static = static_qparams(wanted.activations, stats.get(layer))
        hessian = stats[layer].hessian if layer in stats else None
        study = layer_study(linear, layer_inputs(loaded.model, tokens, layer).flatten(0, 1), wanted, static, hessian)
    except ValueError as error:
        raise ValueError(f"layer {layer!r}: {error}") from error
    return {
        "model": model,
        "layer": layer,
        "scheme": study.scheme,
        "skipped_in_a_model": wanted.skips(layer),
        "text": _text_facts(text, tokens),
        "calibration": _calibration_facts(calibration),
        **_study_facts(study),
        "worst_tokens": _worst_tokens(study, loaded, tokens),
        "seconds": time.perf_counter() - started,
        "device": device_name(loaded.device),
    }


def evaluate(
    scheme: str,
    model: str = REFERENCE,
    text: str | None = None,
    max_tokens: int = MAX_TOKENS,
    device: str | None = None,
) -> dict[str, Any]:
    """a quantized copy beside its model on one text: perplexity, KL, agreement, bytes; a report for each layer"""
    wanted, own_text = Scheme.parse(scheme), _own_text(text, max_tokens)
    loaded = _load(model, device)
    tokens = _tokens(loaded, own_text, max_tokens)
    calibration = _calibration_tokens(loaded, wanted)
    quantized, reports = quantize_model(loaded.model, wanted, tokens, calibration=calibration)
    return {
        "model": model,
        "scheme": str(wanted),
        "text": _text_facts(text, tokens),
        "calibration": _calibration_facts(calibration),
        "report": asdict(compare(loaded.model, quantized, tokens)),
        "layers": [asdict(report) for report in reports],
    }


def _load(model: str, device: str | None) -> LoadedModel:
    known = devices()
    if device not in (None, *known, *(["cuda"] if len(known) > 1 else [])):
        raise ValueError(f"device {device!r} is not on this machine; it has {', '.join(known)}")
    return load_model(model, device)


def _own_text(path: str | None, max_tokens: int) -> str | None:
    """The text of a file; read before the model is, so that a wrong file is told at once."""
    if max_tokens < 2 * len(TEXT_KINDS):
        raise ValueError(f"--max-tokens {max_tokens} is too few; give at least {2 * len(TEXT_KINDS)}")
    return None if path is None else read_text(path)


def _tokens(loaded: LoadedModel, text: str | None, most: int) -> Tensor:
    """At most `most` tokens of the text, (windows, T); of our own text an equal share of each kind."""
    if text is None:
        return _bundled_tokens(loaded, "evaluation", most)
    return token_windows(loaded.tokenizer, text, min(WINDOW, loaded.context, most), most)


def _bundled_tokens(loaded: LoadedModel, split: str, most: int) -> Tensor:
    share = most // len(TEXT_KINDS)
    length = min(WINDOW, loaded.context, share)
    return torch.cat([token_windows(loaded.tokenizer, bundled_text(split, kind), length, share) for kind in TEXT_KINDS])


def _calibration_tokens(loaded: LoadedModel, scheme: Scheme) -> Tensor | None:
    """Our own calibration text for a scheme that needs it; GPTQ's Hessians need more of it than ranges do."""
    if not scheme.needs_text:
        return None
    most = GPTQ_TOKENS if isinstance(scheme.method, Gptq) else CALIBRATION_TOKENS
    return _bundled_tokens(loaded, "calibration", most)


def _text_facts(path: str | None, tokens: Tensor) -> dict[str, Any]:
    return {"source": path or "bundled evaluation", "tokens": tokens.numel(), "windows": len(tokens)}


def _calibration_facts(tokens: Tensor | None) -> dict[str, Any] | None:
    return None if tokens is None else {"source": "bundled calibration", "tokens": tokens.numel()}


def _study_facts(study: LayerStudy) -> dict[str, Any]:
    """The study's numbers, tensor errors as objects, the output channels with the largest errors by name."""
    names = ("shape", "bits_per_weight", "checkpoint_bytes", "held_bytes", "static_range", "outside")
    errors = ("weight", "input", "output", "weights_alone", "activations_alone")
    worst = study.channel_error.topk(min(WORST, len(study.channel_error))).indices.tolist()
    return {
        **{name: getattr(study, name) for name in names},
        **{name: getattr(study, name)._asdict() for name in errors},
        "worst_channels": [
            {"channel": c, "rms_error": float(study.channel_error[c]), "rms": float(study.channel_size[c])}
            for c in worst
        ],
    }


def _worst_tokens(study: LayerStudy, loaded: LoadedModel, tokens: Tensor) -> list[dict[str, Any]]:
    ids = tokens.flatten()
    worst = study.token_error.topk(min(WORST, len(study.token_error))).indices.tolist()
    return [
        {"position": t, "token": loaded.tokenizer.decode([int(ids[t])]), "relative_error": float(study.token_error[t])}
        for t in worst
    ]


def _version(package: str) -> str | None:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None
