"""What the command line can do, as functions of words and numbers that return what will be JSON.

layer(layer, scheme, ...)   evaluate(scheme, ...)   compare(schemes, ...)   quantize(scheme, out, ...)   recipe(...)
info and schemes stand in about.py, sensitivity in costs.py, answers and lens in behaviour.py, advise in advise.py.
"""

from __future__ import annotations

import shlex
import sys
import time
from dataclasses import asdict
from typing import Any

import torch
from torch import Tensor

from quantcore.cli.labs import checked_plan, known_model, loaded_lab, look_ahead, opened_lab, plan_on, sorted_lines
from quantcore.cli.outputs import new_file, new_folder, progress_bar, write_whole
from quantcore.cli.texts import TextOptions
from quantcore.export.new_folder import require_place
from quantcore.lab.lab import Lab
from quantcore.lab.specs import require_of_layers
from quantcore.model.config_file import context_of
from quantcore.model.linears import head_of, linear_shapes
from quantcore.model.locate import REFERENCE, source_in_full
from quantcore.model.machine import device_name
from quantcore.pipeline.ranks import ranks
from quantcore.scheme.plan import Plan
from quantcore.scheme.scheme import Scheme
from quantcore.studies.layer import LayerStudy
from quantcore.text.reading import EVALUATE, STUDY

WORST = 5


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
    asked = Lab(model, device)
    wanted = asked.scheme_of(scheme)
    require_of_layers(wanted)
    target = None if out is None else new_file(out, force)
    readings = [reading, *([learning] if wanted.needs_text else [])]
    look_ahead(model, texts, *readings, layer=layer)
    _require_tiles(wanted, layer, asked.shapes().get(layer))
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
        "calibration": texts.learned_facts(lab, [wanted], learning),
    }
    if target is not None:
        from quantcore.lab.report import layer_document
        from quantcore.lab.report_html import to_html

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
        "calibration": texts.learned_facts(lab, wanted.schemes, learning),
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
        "calibration": texts.learned_facts(lab, plan.schemes, reading),
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
    which no difference is called real; --out writes it as one HTML file. One that the model cannot take is left out,
    with its reason"""
    from quantcore.lab.report import duel_document
    from quantcore.lab.report_html import to_html

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
    from quantcore.export.tensors import require_plain_linears

    said = None if read is None else plan_from_recipe(recipe_file(read))
    context, known = None, known_model(model)
    plan = plan_on(scheme or "", known) if said is None else said
    if known is not None:
        context, head = context_of(known.config), head_of(known)
        require_plain_linears(known, (one for one in linear_shapes(known) if plan.scheme_for(one, head)))
    program = script(plan, source_in_full(model), context=context)
    texts = {"recipe.yaml": recipe_of(plan), "quantize.py": program}
    if out is not None:
        folder = new_folder(out)
        targets = {name: new_file(folder / name, force, folder) for name in texts}
        folder.mkdir(exist_ok=True)
        for name, target in targets.items():
            write_whole(target, texts[name])
    return {"scheme": str(plan), "recipe": texts["recipe.yaml"], "script": texts["quantize.py"], "out": out}


def _require_tiles(scheme: Scheme, layer: str, shape: tuple[int, int] | None) -> None:
    """Raises: ValueError for a tile that does not divide the layer of that shape, before the model is loaded."""
    for spec in (scheme.weights, scheme.activations):
        try:
            if spec is not None and shape is not None:
                spec.granularity.tile(shape)
        except ValueError as error:
            raise ValueError(f"layer {layer!r}: {error}") from error


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
