"""What each layer costs, and the plan that spends bits where they help; see `verbs`."""

from __future__ import annotations

import math
from typing import Any

from quantcore.cli.labs import loaded_lab, look_ahead
from quantcore.cli.outputs import progress_bar
from quantcore.cli.texts import TextOptions
from quantcore.lab.advice import GPU
from quantcore.lab.lab import Lab
from quantcore.measure.planning import plan_for_budget, require_budget
from quantcore.measure.sensitivity import require_of_linears
from quantcore.model.layer_names import measured_together
from quantcore.model.linears import linears
from quantcore.model.locate import REFERENCE
from quantcore.model.machine import device_name
from quantcore.pipeline.ranks import ranks
from quantcore.text.reading import EACH_LAYER, PLANNED


def sensitivity(
    schemes: list[str],
    texts: TextOptions,
    model: str = REFERENCE,
    device: str | None = None,
    budget: float | None = None,
    estimated: bool = False,
    probe: bool = False,
    milliseconds: float | None = None,
    gpu: str | None = None,
    sequences: int | None = None,
    megabytes: float | None = None,
) -> dict[str, Any]:
    """what each layer costs when it alone is quantized; --budget spends bits where they help, as a plan"""
    if probe and budget is None and megabytes is None:
        raise ValueError("--probe mends a plan, and there is none without a budget; say --budget 4.5, or so")
    if sum(one is not None for one in (milliseconds, megabytes, budget)) > 1:
        raise ValueError(
            "a plan is within bits, bytes or milliseconds; give one of --budget, --megabytes and --milliseconds"
        )
    if milliseconds is None and (gpu, sequences) != (None, None):
        raise ValueError("--gpu and --sequences say where --milliseconds are spent; give those too, or leave them out")
    if megabytes is not None and not 0 < megabytes < math.inf:
        raise ValueError(f"--megabytes {megabytes:g} are no budget; give a number above 0")
    gpu, sequences = gpu or GPU, 1 if sequences is None else sequences
    estimated = estimated or probe or milliseconds is not None  # such plans begin with estimates
    reading, learning = texts.measured(PLANNED if estimated else EACH_LAYER), texts.learned()
    asked = Lab(model, device)
    asked.require_fits(*schemes)
    wanted = [asked.scheme_of(one) for one in schemes]
    require_of_linears(wanted)
    if milliseconds is not None:
        asked.require_time(schemes, milliseconds, gpu, sequences)
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
        "calibration": texts.learned_facts(lab, wanted, learning),
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
                "kl_by_round": list(probed.kls),
                "kl_by_costs_alone": probed.start_kl,
                "kl_of_uniform": probed.uniform_kl,
            },
        },
        "device": ranks().named(device_name(lab.loaded.device)),
    }
