"""What the command line can do, as functions of words and numbers that return what will be JSON.

info(model)   schemes()   layer(layer, scheme, ...)   evaluate(scheme, ...)   compare(schemes, ...)
sensitivity(schemes, ...)   quantize(scheme, out, ...)   recipe(scheme, ...)
"""

from __future__ import annotations

import platform
import shlex
import time
from collections.abc import Sequence
from dataclasses import asdict
from importlib import metadata
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from quantcore.cli.outputs import new_file, progress_bar, write_whole
from quantcore.cli.texts import TextOptions
from quantcore.cli.verb_inputs import load, opened
from quantcore.export.new_folder import require_place
from quantcore.measure.duel import duel
from quantcore.measure.side_by_side import compare_plans
from quantcore.measure.store import Store, model_hash
from quantcore.model.held import held as as_held
from quantcore.model.inventory import inventory
from quantcore.model.linears import linear_named
from quantcore.model.loading import REFERENCE, LoadedModel, devices, source_path
from quantcore.model.machine import device_name
from quantcore.model.streamed import StreamedModel
from quantcore.numbers.formats import FORMATS
from quantcore.pipeline.calibration import calibrate, layer_inputs, momenta_of
from quantcore.pipeline.layers import static_qparams
from quantcore.pipeline.ranks import ranks
from quantcore.scheme.plan import Plan
from quantcore.scheme.scheme import PRESETS, Scheme
from quantcore.studies.layer import LayerStudy, layer_study
from quantcore.text.reading import EACH_LAYER, EVALUATE, STUDY, Reading
from quantcore.text.windows import TEXT_KINDS, TEXT_SPLITS, bundled_text, read_text

PACKAGES = (
    "torch", "transformers", "tokenizers", "safetensors", "compressed-tensors", "numpy", "streamlit", "plotly",
)  # fmt: skip
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
    texts: TextOptions,
    model: str = REFERENCE,
    device: str | None = None,
    out: str | None = None,
    force: bool = False,
) -> dict[str, Any]:
    """one layer under one scheme: errors of weight, input and output, worst channels and tokens; --out as HTML"""
    wanted, reading, learning = Scheme.parse(scheme), texts.measured(STUDY), texts.learned()
    target = None if out is None else new_file(out, force)
    loaded = load(model, device)
    linear = linear_named(loaded.model, layer)
    tokens = reading.tokens(loaded, texts.texts)
    started = time.perf_counter()
    calibration, facts = _calibration(loaded, [wanted], learning, texts)
    stats = {}
    if calibration is not None:
        stats = calibrate(loaded.model, calibration, [layer], hessian=wanted.needs_hessian, momenta=momenta_of(wanted))
    try:
        static = static_qparams(wanted.activations, stats.get(layer))
        hessian = stats[layer].hessian if layer in stats else None
        study = layer_study(linear, layer_inputs(loaded.model, tokens, layer).flatten(0, 1), wanted, static, hessian)
    except ValueError as error:
        raise ValueError(f"layer {layer!r}: {error}") from error
    read = {
        "model": model,
        "revision": loaded.revision,
        "notices": list(loaded.notices),
        "text": texts.facts(reading, tokens),
        "calibration": facts,
    }
    if target is not None:
        from quantcore.lab.report import layer_document, to_html

        about = {**read, "model hash": model_hash(loaded.model), "device": device_name(loaded.device)}
        write_whole(target, to_html(layer_document(study, layer, about)))
    return {
        **read,
        "layer": layer,
        "scheme": study.scheme,
        "skipped_in_a_model": wanted.skips(layer),
        **_study_facts(study),
        "worst_tokens": _worst_tokens(study, loaded, tokens),
        "seconds": time.perf_counter() - started,
        "device": device_name(loaded.device),
    }


def evaluate(
    scheme: str,
    texts: TextOptions,
    model: str = REFERENCE,
    device: str | None = None,
    stream: bool = False,
) -> dict[str, Any]:
    """a quantized copy beside its model on one text: perplexity, KL, agreement, bytes; a report for each layer"""
    wanted, reading, learning = Plan.parse(scheme), texts.measured(EVALUATE), texts.learned()
    held = opened(model, device, stream)
    loaded = held.model
    tokens = reading.tokens(loaded, texts.texts)
    calibration, facts = _calibration(loaded, wanted.schemes, learning, texts)
    name = wanted.label
    with progress_bar("quantizing") as tell:
        walked = compare_plans(loaded, {name: wanted}, tokens, calibration, measured=tokens, progress=tell)
    return {
        "model": model,
        "revision": loaded.revision,
        **held.facts(),
        "scheme": str(wanted),
        "text": texts.facts(reading, tokens),
        "calibration": facts,
        "report": asdict(walked.comparison.reports[name]),
        "layers": [asdict(one) for one in walked.layers[name]],
    }


def quantize(
    scheme: str,
    out: str,
    texts: TextOptions,
    model: str = REFERENCE,
    device: str | None = None,
    stream: bool = False,
    dtype: str | None = None,
    force: bool = False,
) -> dict[str, Any]:
    """write the quantized model as a compressed-tensors checkpoint, which transformers and vLLM load"""
    from quantcore.export.checkpoint import export_checkpoint

    plan = Plan.parse(scheme)
    if not plan.needs_text and texts.line():
        raise ValueError(
            f"{plan.label} needs no calibration text; leave out --text, --max-tokens, --window, --seed and --chat"
        )
    reading = texts.quantized_on() if plan.needs_text else None
    if ranks().first:
        require_place(out, model, force)
    held = opened(model, device, stream)
    loaded = held.model
    calibration = None if reading is None else reading.tokens(loaded, texts.texts)
    stored_as = None if dtype is None else getattr(torch, dtype)
    with progress_bar("quantizing") as tell:
        more: dict[str, Any] = {"force": force, "dtype": stored_as, "progress": tell}
        report = export_checkpoint(loaded, plan, out, calibration, **more)
    return {
        **asdict(report),
        **held.facts(),
        "calibration": None if reading is None or calibration is None else texts.facts(reading, calibration),
        "load": f"AutoModelForCausalLM.from_pretrained({report.folder!r})",
    }


def compare(
    schemes: list[str],
    texts: TextOptions,
    model: str = REFERENCE,
    device: str | None = None,
    stream: bool = False,
    out: str | None = None,
    force: bool = False,
) -> dict[str, Any]:
    """several schemes or plans on one text, paired, with intervals; --out writes it as one HTML file"""
    from quantcore.lab.report import duel_document, to_html

    plans, reading, learning = [Plan.parse(one) for one in schemes], texts.measured(EVALUATE), texts.learned()
    target = None if out is None or not ranks().first else new_file(out, force)
    held, store = opened(model, device, stream), Store()
    loaded = held.model
    tokens, calibration = (one.tokens(loaded, texts.texts) for one in (reading, learning))
    hashed = model_hash(as_held(loaded))
    wanted = [str(plan) for plan in plans]
    with progress_bar("comparing") as tell:
        found = duel(loaded, wanted, tokens, calibration, store, hashed, tell)
    facts = {
        "model": model,
        "model hash": hashed,
        "revision": loaded.revision,
        **held.facts(),
        "text": texts.facts(reading, tokens),
        "calibration": texts.facts(learning, calibration),
        "device": ranks().named(device_name(loaded.device)),
        "command": shlex.join(
            ["python", "-m", "quantcore", "compare", "--model", model, "--schemes", *wanted, *texts.line()]
            + ["--stream"] * stream
        ),
    }
    document = duel_document(found, facts)
    if target is not None:
        write_whole(target, to_html(document))
    return {"out": None if target is None else str(target), "notice": store.notice, **asdict(document)}


def sensitivity(
    schemes: list[str],
    texts: TextOptions,
    model: str = REFERENCE,
    device: str | None = None,
    budget: float | None = None,
) -> dict[str, Any]:
    """what each layer costs when it alone is quantized; --budget spends bits where they help, as a plan"""
    from quantcore.measure.sensitivity import plan_for_budget
    from quantcore.studies.plans import kept_sensitivity

    wanted, reading, learning = [Scheme.parse(one) for one in schemes], texts.measured(EACH_LAYER), texts.learned()
    loaded, store = load(model, device), Store()
    tokens, calibration = (one.tokens(loaded, texts.texts) for one in (reading, learning))
    with progress_bar("measuring layers") as tell:
        found = kept_sensitivity(loaded, [str(one) for one in wanted], tokens, calibration, store, progress=tell)
    chosen = None if budget is None else plan_for_budget(found, budget)
    return {
        "model": model,
        "revision": loaded.revision,
        "notices": list(loaded.notices),
        "text": texts.facts(reading, tokens),
        "calibration": texts.facts(learning, calibration) if any(one.needs_text for one in wanted) else None,
        "layers": {
            layer: {
                "weights": found.weights[layer],
                "schemes": {
                    one: {"kl": found.alone[layer, one], "bits_per_weight": found.bits[layer, one]}
                    for one in found.schemes
                },
            }
            for layer in found.layers
        },
        "ranked": {one: found.ranked(one) for one in found.schemes},
        "whole": found.whole,
        "plan": None
        if chosen is None
        else {
            "scheme": str(chosen.plan),
            "predicted_kl": chosen.predicted_kl,
            "bits_per_weight": chosen.bits_per_weight,
        },
        "device": ranks().named(device_name(loaded.device)),
    }


def recipe(
    scheme: str | None = None,
    read: str | None = None,
    model: str = REFERENCE,
    out: str | None = None,
    force: bool = False,
) -> dict[str, Any]:
    """an llm-compressor recipe and the script that runs it; --read tells the scheme of a recipe"""
    from quantcore.export.recipe import plan_from_recipe, script
    from quantcore.export.recipe import recipe as recipe_of

    plan = plan_from_recipe(read_text(read)) if read is not None else Plan.parse(scheme or "")
    texts = {"recipe.yaml": recipe_of(plan), "quantize.py": script(plan, source_path(model))}
    if out is not None:
        folder = Path(out).expanduser().absolute()
        targets = {name: new_file(folder / name, force, folder) for name in texts}
        folder.mkdir(exist_ok=True)
        for name, target in targets.items():
            write_whole(target, texts[name])
    return {"scheme": str(plan), "recipe": texts["recipe.yaml"], "script": texts["quantize.py"], "out": out}


def _calibration(
    loaded: LoadedModel | StreamedModel, schemes: Sequence[Scheme], reading: Reading, texts: TextOptions
) -> tuple[Tensor | None, dict[str, Any] | None]:
    """The calibration text's tokens and its facts, where a scheme needs it."""
    if not any(scheme.needs_text for scheme in schemes):
        return None, None
    tokens = reading.tokens(loaded, texts.texts)
    return tokens, texts.facts(reading, tokens)


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
