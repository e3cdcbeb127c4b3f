"""What the command line can do, as functions of words and numbers that return what will be JSON.

info(model)   schemes()   layer(layer, scheme, ...)   evaluate(scheme, ...)   compare(schemes, ...)
sensitivity(schemes, ...)   quantize(scheme, out, ...)   recipe(scheme, ...)
"""

from __future__ import annotations

import platform
import shlex
import sys
import time
from collections.abc import Sequence
from dataclasses import asdict
from importlib import metadata
from typing import Any

import torch
from torch import Tensor

from quantcore.cli.labs import checked_plan, loaded_lab, look_ahead, opened_lab, sorted_lines
from quantcore.cli.outputs import new_file, new_folder, progress_bar, write_whole
from quantcore.cli.texts import TextOptions
from quantcore.export.new_folder import require_place
from quantcore.lab.advice import GPU
from quantcore.lab.lab import Lab
from quantcore.measure.planning import plan_for_budget, require_budget
from quantcore.model.inventory import inventory
from quantcore.model.linears import linears, measured_together
from quantcore.model.loading import REFERENCE, devices, source_path
from quantcore.model.machine import device_name
from quantcore.numbers.formats import FORMATS
from quantcore.pipeline.ranks import ranks
from quantcore.scheme.plan import Plan
from quantcore.scheme.scheme import PRESETS, Scheme
from quantcore.studies.layer import LayerStudy
from quantcore.text.reading import EACH_LAYER, EVALUATE, PLANNED, STUDY, Reading
from quantcore.text.windows import TEXT_KINDS, TEXT_SPLITS, bundled_text

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
    "search": "of scales in e8m0 or e4m3, that around min-max's with the least squared error; weights",
    "search=h": "the same, each column's error weighted with how loud its inputs are, diag(X^T X)",
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
        "luck": {"jitter3": "weights: each scale moved within half a 16-bit grain by seed 3: other rounding luck"},
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
    reading, learning = texts.measured(STUDY), texts.learned()
    wanted = Lab(model, device).scheme_of(scheme)
    target = None if out is None else new_file(out, force)
    readings = [reading, *([learning] if wanted.needs_text else [])]
    look_ahead(model, texts, *readings, layer=layer)
    lab = loaded_lab(model, device, texts.texts)
    texts.require_window(lab.whole, *readings)
    started = time.perf_counter()
    lab.linear(layer)
    try:
        study = lab.layer_study(layer, str(wanted), str(reading), str(learning))
    except ValueError as error:
        raise ValueError(f"layer {layer!r}: {error}") from error
    tokens = lab.tokens(str(reading))
    read = {
        "model": model,
        "revision": lab.loaded.revision,
        "notices": list(lab.loaded.notices),
        "text": texts.facts(reading, tokens),
        "calibration": _learned(lab, [wanted], learning, texts),
    }
    if target is not None:
        from quantcore.lab.report import layer_document, to_html

        about = {**read, "model hash": lab.hash, "device": device_name(lab.loaded.device)}
        write_whole(target, to_html(layer_document(study, layer, about)))
    return {
        **read,
        "layer": layer,
        "scheme": study.scheme,
        "skipped_in_a_model": wanted.skips(layer),
        **_study_facts(study),
        "worst_tokens": _worst_tokens(study, lab, tokens),
        "seconds": time.perf_counter() - started,
        "device": device_name(lab.loaded.device),
    }


def evaluate(
    scheme: str,
    texts: TextOptions,
    model: str = REFERENCE,
    device: str | None = None,
    stream: bool = False,
) -> dict[str, Any]:
    """a quantized copy beside its model on one text: perplexity, KL, agreement, bytes; a report for each layer"""
    reading, learning = texts.measured(EVALUATE), texts.learned()
    wanted = checked_plan(scheme, model)
    readings = [reading, *([learning] if wanted.needs_text else [])]
    look_ahead(model, texts, *readings)
    lab, facts = opened_lab(model, device, texts.texts, stream)
    texts.require_window(lab.whole, *readings)
    with progress_bar("quantizing") as tell:
        found = lab.evaluate(str(wanted), str(reading), str(learning), progress=tell)
    return {
        "model": model,
        "revision": lab.whole.revision,
        **facts,
        "scheme": str(wanted),
        "text": texts.facts(reading, lab.tokens(str(reading))),
        "calibration": _learned(lab, wanted.schemes, learning, texts),
        "report": asdict(found.report),
        "layers": [asdict(one) for one in found.layers],
    }


def quantize(
    scheme: str,
    out: str,
    texts: TextOptions,
    model: str = REFERENCE,
    device: str | None = None,
    stream: bool = False,
    dtype: str | None = None,
    reader: str = "transformers",
    force: bool = False,
) -> dict[str, Any]:
    """write the quantized model as a compressed-tensors checkpoint, which transformers and vLLM load"""
    plan = checked_plan(scheme, model)
    if not plan.needs_text and texts.line():
        raise ValueError(
            f"{plan.label} needs no calibration text; leave out --text, --max-tokens, --window, --seed and --chat"
        )
    reading = texts.quantized_on()
    if ranks().first:
        require_place(out, model, force)
    readings = [reading] if plan.needs_text else []
    look_ahead(model, texts, *readings)
    lab, facts = opened_lab(model, device, texts.texts, stream)
    texts.require_window(lab.whole, *readings)
    stored_as = None if dtype is None else getattr(torch, dtype)
    with progress_bar("quantizing") as tell:
        report = lab.export(str(plan), out, str(reading), force, stored_as, reader, progress=tell)
    return {
        **asdict(report),
        **facts,
        "calibration": _learned(lab, plan.schemes, reading, texts),
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
    luck: bool = False,
) -> dict[str, Any]:
    """several schemes or plans on one text, paired, with intervals; --luck measures their rounding luck too, without
    which no difference is called real; --out writes it as one HTML file. One that the
    model cannot take is left out, with its reason"""
    from quantcore.lab.report import duel_document, to_html

    reading, learning = texts.measured(EVALUATE), texts.learned()
    target = None if out is None or not ranks().first else new_file(out, force)
    able, refused = sorted_lines(schemes, model)
    if ranks().first:
        for line, reason in refused.items():
            print(f"quantcore: {line} is left out: {reason}", file=sys.stderr)
    if not able:
        line, reason = next(iter(refused.items()))
        raise ValueError(f"{line}: {reason}")
    wanted = list(able.values())
    readings = [reading, *([learning] if any(Plan.parse(one).needs_text for one in wanted) else [])]
    look_ahead(model, texts, *readings)
    lab, opened = opened_lab(model, device, texts.texts, stream)
    texts.require_window(lab.whole, *readings)
    read = str(reading), str(learning)
    with progress_bar("comparing") as tell:
        found = lab.duel(wanted, *read, progress=tell)
    spreads = {}
    if luck:
        with progress_bar("rounding luck") as tell:
            spreads = lab.luck(list(found.reports), *read, progress=tell)
    elif ranks().alone:  # several processes read no store by themselves
        spreads = lab.known_luck(list(found.reports), *read)
    facts = {
        "model": model,
        "model hash": lab.hash,
        "revision": lab.whole.revision,
        **opened,
        "text": texts.facts(reading, lab.tokens(read[0])),
        "calibration": texts.facts(learning, lab.tokens(read[1])),
        "device": ranks().named(device_name(lab.whole.device)),
        "command": shlex.join(
            ["python", "-m", "quantcore", "compare", "--model", model, "--schemes", *wanted, *texts.line()]
            + ["--stream"] * stream
            + ["--luck"] * luck
        ),
    }
    document = duel_document(found, facts, spreads)
    if target is not None:
        write_whole(target, to_html(document))
    return {
        "out": None if target is None else str(target),
        "notice": lab.store(*read).notice,
        "refused": {**refused, **found.refused},
        **asdict(document),
    }


def sensitivity(
    schemes: list[str],
    texts: TextOptions,
    model: str = REFERENCE,
    device: str | None = None,
    budget: float | None = None,
    estimated: bool = False,
    probe: bool = False,
    milliseconds: float | None = None,
    gpu: str = GPU,
    sequences: int = 1,
    megabytes: float | None = None,
) -> dict[str, Any]:
    """what each layer costs when it alone is quantized; --budget spends bits where they help, as a plan"""
    if probe and budget is None and megabytes is None:
        raise ValueError("--probe mends a plan, and there is none without a budget; say --budget 4.5, or so")
    if sum(one is not None for one in (milliseconds, megabytes, budget)) > 1:
        raise ValueError(
            "a plan is within bits, bytes or milliseconds; give one of --budget, --megabytes and --milliseconds"
        )
    estimated = estimated or probe or milliseconds is not None  # such plans begin with estimates
    reading, learning = texts.measured(PLANNED if estimated else EACH_LAYER), texts.learned()
    asked = Lab(model, device)
    asked.require_fits(*schemes)
    wanted = [asked.scheme_of(one) for one in schemes]
    if megabytes is not None:
        budget = megabytes * 8e6 / asked.planned_weights(tuple(schemes))
    if budget is not None:
        require_budget(budget, wanted, {})
    readings = [reading, *([learning] if any(one.needs_text for one in wanted) else [])]
    look_ahead(model, texts, *readings)
    lab, read = loaded_lab(model, device, texts.texts), (str(reading), str(learning))
    if budget is not None:
        require_budget(budget, wanted, linears(lab.model))
    texts.require_window(lab.whole, *readings)
    with progress_bar("measuring layers") as tell:
        found = lab.sensitivity([str(one) for one in wanted], False, *read, estimated, progress=tell)
    chosen = None if budget is None else plan_for_budget(found, budget)
    probed = None
    if probe and budget is not None:
        with progress_bar("trying layers in the plan") as tell:
            probed = lab.probed_plan(found.schemes, budget, *read, progress=tell)
        chosen = probed.chosen
    timed = None
    if milliseconds is not None:
        timed = lab.plan_in_time(found.schemes, milliseconds, gpu, sequences, *read)
        chosen = timed.chosen
    return {
        "model": model,
        "revision": lab.loaded.revision,
        "notices": list(lab.loaded.notices),
        "text": texts.facts(reading, lab.tokens(read[0])),
        "calibration": _learned(lab, wanted, learning, texts),
        "layers_in_one": {one: len(of) for one, of in measured_together(lab.layers()).items() if len(of) > 1},
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
        "estimated": estimated,
        "plan": None
        if chosen is None
        else {
            "scheme": str(chosen.plan),
            "predicted_kl": chosen.predicted_kl,
            "bits_per_weight": chosen.bits_per_weight,
            "milliseconds": timed
            and {"plan": timed.ms, "gpu": timed.gpu, "sequences": sequences, "one_for_all": dict(timed.uniform_ms)},
            "probed": probed
            and {
                "tries": probed.probes,
                "changed": probed.changed,
                "kl_by_costs_alone": probed.start_kl,
                "kl_of_uniform": probed.uniform_kl,
            },
        },
        "device": ranks().named(device_name(lab.loaded.device)),
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
    from quantcore.export.recipe_text import recipe_file

    plan = plan_from_recipe(recipe_file(read)) if read is not None else checked_plan(scheme or "", model)
    texts = {"recipe.yaml": recipe_of(plan), "quantize.py": script(plan, source_path(model))}
    if out is not None:
        folder = new_folder(out)
        targets = {name: new_file(folder / name, force, folder) for name in texts}
        folder.mkdir(exist_ok=True)
        for name, target in targets.items():
            write_whole(target, texts[name])
    return {"scheme": str(plan), "recipe": texts["recipe.yaml"], "script": texts["quantize.py"], "out": out}


def _learned(lab: Lab, schemes: Sequence[Scheme], reading: Reading, texts: TextOptions) -> dict[str, Any] | None:
    """Where the calibration tokens are from, where a scheme needs some."""
    if not any(scheme.needs_text for scheme in schemes):
        return None
    return texts.facts(reading, lab.tokens(str(reading)))


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


def _worst_tokens(study: LayerStudy, lab: Lab, tokens: Tensor) -> list[dict[str, Any]]:
    ids = tokens.flatten()
    worst = study.token_error.topk(min(WORST, len(study.token_error))).indices.tolist()
    return [
        {"position": t, "token": lab.decode(int(ids[t])), "relative_error": float(study.token_error[t])} for t in worst
    ]


def _version(package: str) -> str | None:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None
