"""The lines that the pages' Python examples have in common: imports, the model, its text as tokens, one layer.

Every value is written by `repr`, so a page's example runs as it stands wherever quantcore is installed.
"""

from __future__ import annotations

import re

from quantcore.text.windows import TEXT_KINDS
from ui import cached
from ui.widgets import Choice

LONGEST_QUOTE = 4000  # characters of a visitor's own text; a longer one is read from a file
HOMES = {
    "quantcore": "Scheme load_model quantize_model",
    "quantcore.pipeline.calibration": "calibrate layer_inputs",
    "quantcore.pipeline.convert": "static_qparams",
    "quantcore.measure.duel": "duel",
    "quantcore.export.checkpoint": "export_checkpoint stored_type",
    "quantcore.numbers.formats": "format_named",
    "quantcore.model.linears": "linear_named",
    "quantcore.text.windows": "TEXT_KINDS bundled_text token_windows",
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
    "quantcore.studies.stored": "stored",
    "quantcore.text.files": "LoadedText hub_text read_text_file",
    "quantcore.cli.verb_inputs": "text_of",
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
    return f"lm = load_model({choice.model_id!r}, {choice.device!r})\n"


def windows(text_id: str, limit: int | None = None, window: int | None = None) -> str:
    """The expression of a text's token windows, as `cached.tokens` cuts them."""
    reading = cached.Reading.parse(text_id)
    cut = (window or reading.length, limit or reading.sequences * reading.length)
    if not reading.text_id.startswith("own:"):
        split, kind = reading.text_id.split("/")
        return _windows(f"bundled_text({split!r}, {kind!r})", *cut)
    own = cached.loaded_text(text_id)
    if own.revision is not None:
        text = f"hub_text({own.name!r})"
    elif own.characters > LONGEST_QUOTE:
        text = f"read_text_file({own.name!r})"
    else:
        text = f"LoadedText({own.name!r}, {own.documents!r})"
    return _windows(f"{text}.joined({'lm.tokenizer, chat=True' if reading.chat else ''})", *cut)


def calibration(choice: Choice, limit: int | None = None, window: int | None = None) -> str:
    """The expression of the calibration windows, as `cached.calibration_tokens` cuts them."""
    if choice.calibration == cached.OWN_CALIBRATION:
        share = cached.STUDY_TOKENS if limit is None else limit // len(TEXT_KINDS)
        return f"torch.cat({each_kind('calibration', share, window or cached.STUDY_TOKENS)})"
    reading = cached.Reading.parse(choice.calibration)
    most = reading.sequences * reading.length
    return windows(choice.calibration, most if limit is None else min(most, limit))


def each_kind(split: str, share: int, window: int = cached.STUDY_TOKENS) -> str:
    """The expression of the windows of our own text, at most `share` tokens of each kind."""
    return f"[{_windows(f'bundled_text({split!r}, kind)', window, share)} for kind in TEXT_KINDS]"


def _windows(text: str, window: int, limit: int) -> str:
    return f"token_windows(lm.tokenizer, {text}, min({window}, lm.context), {limit})"


def layer(choice: Choice) -> str:
    """lm, weight (O, K) and x (N, K): what the study of one layer needs."""
    return (
        load(choice)
        + f"weight = linear_named(lm.model, {choice.layer!r}).weight.float().cpu()\n"
        + f"tokens = {windows(choice.text_id)}\n"
        + f"x = layer_inputs(lm.model, tokens, {choice.layer!r}).flatten(0, 1)\n"
    )


def texts(choice: Choice, text_id: str, limit: int) -> str:
    """lm, tokens and calibration: what the study of a whole model needs; `text_id` as in `cached.duel_tokens`."""
    split, _, kind = text_id.partition("/")
    if kind == "all":
        tokens = f"torch.cat({each_kind(split, *cached.duel_cut(limit))})"
    else:
        tokens = windows(text_id, limit, cached.DUEL_WINDOW)
    return f"{load(choice)}tokens = {tokens}\ncalibration = {calibration(choice)}\n"
