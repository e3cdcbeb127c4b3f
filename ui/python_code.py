"""The lines that the pages' Python examples have in common: imports, the model, its text as tokens, one layer.

Every value is written by `repr`, so a page's example runs as it stands wherever quantcore is installed.
"""

from __future__ import annotations

import re

from quantcore.text.reading import Reading
from ui import cached
from ui.widgets import Choice

LONGEST_QUOTE = 4000  # characters of a visitor's own text; a longer one is read from a file
HOMES = {
    "quantcore": "Scheme load_model quantize_model",
    "quantcore.pipeline.calibration": "calibrate layer_inputs",
    "quantcore.pipeline.layers": "static_qparams",
    "quantcore.measure.duel": "duel",
    "quantcore.export.checkpoint": "export_checkpoint stored_type",
    "quantcore.export.promise": "promise",
    "quantcore.numbers.formats": "format_named",
    "quantcore.model.linears": "linear_named",
    "quantcore.export.recipe": "recipe script",
    "quantcore.measure.rules": "best_practice",
    "quantcore.measure.sensitivity": "plan_for_budget",
    "quantcore.measure.store": "Store",
    "quantcore.studies.footprint": "PRESET_SHAPES ModelShape footprint",
    "quantcore.studies.generation": "write_on",
    "quantcore.studies.gptq_order": "order_study",
    "quantcore.studies.granularity": "granularity_study",
    "quantcore.studies.hardware": "measure_machine",
    "quantcore.studies.layer": "layer_study",
    "quantcore.studies.next_tokens": "next_tokens",
    "quantcore.studies.number_formats": "Grid code_use snap",
    "quantcore.studies.outliers": "Trial channel_study who_pays",
    "quantcore.studies.plans": "kept_sensitivity",
    "quantcore.studies.ranges": "observe range_study unfrozen watch",
    "quantcore.studies.row": "loud_row row_study",
    "quantcore.studies.speed": "measure_paths",
    "quantcore.studies.speed_curves": "read_run",
    "quantcore.text.files": "LoadedText hub_text read_text_file",
    "quantcore.text.reading": "Reading Texts",
}


def program(body: str) -> str:
    """The body below the imports of the names that it uses."""
    used = set(re.findall(r"(?<![.\w])\w+", body))
    lines = [line for name, line in (("Path", "from pathlib import Path"), ("torch", "import torch")) if name in used]
    for module, names in HOMES.items():
        if found := [name for name in names.split() if name in used]:
            lines.append(f"from {module} import {', '.join(found)}")
    return "\n".join([*lines, "", body])


def load(choice: Choice) -> str:
    """lm, and the texts that readings name, the visitor's own among them."""
    own = dict.fromkeys(one for one in (choice.text_id, choice.calibration) if Reading.parse(one).own)
    kept = "".join(f"texts.keep({_own(one)})\n" for one in own)
    return f"lm, texts = load_model({choice.model_id!r}, {choice.device!r}), Texts()\n{kept}"


def windows(reading: str) -> str:
    """The expression of a reading's token windows."""
    return f"Reading.parse({reading!r}).tokens(lm, texts)"


def layer(choice: Choice) -> str:
    """lm, weight (O, K) and x (N, K): what the study of one layer needs."""
    return (
        load(choice)
        + f"weight = linear_named(lm.model, {choice.layer!r}).weight.float().cpu()\n"
        + f"tokens = {windows(choice.text_id)}\n"
        + f"x = layer_inputs(lm.model, tokens, {choice.layer!r}).flatten(0, 1)\n"
    )


def texts(choice: Choice, text_id: str, limit: int) -> str:
    """lm, tokens and calibration: what the study of a whole model needs."""
    tokens = windows(cached.duel_reading(text_id, limit))
    return f"{load(choice)}tokens = {tokens}\ncalibration = {windows(choice.calibration)}\n"


def _own(reading: str) -> str:
    """The expression of a visitor's text."""
    own = cached.loaded_text(reading)
    if own.revision is not None:
        return f"hub_text({own.name!r})"
    if own.characters > LONGEST_QUOTE:
        return f"read_text_file({own.name!r})"
    return f"LoadedText({own.name!r}, {own.documents!r})"
