"""How do I leave with this scheme? A recipe, a checkpoint, a report, and the command lines."""

import json
import math
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import streamlit as st
from streamlit.delta_generator import DeltaGenerator
from torch import Tensor

from quantcore import export_checkpoint, quantize_model
from quantcore.export.checkpoint import ExportReport
from quantcore.export.plain import plain
from quantcore.export.recipe import recipe, script
from quantcore.export.serving import CHECKED, serving
from quantcore.lab.report import Document, duel_document, layer_document, to_html
from quantcore.measure.duel import Duel, duel, short_label
from quantcore.measure.store import tokens_hash
from quantcore.model.loading import REFERENCE, source_path
from quantcore.model.machine import device_name
from quantcore.numbers.granularity import largest_divisor
from quantcore.scheme.plan import Plan
from quantcore.scheme.scheme import Scheme
from quantcore.studies.written import ReadBack, as_zip, read_back, written
from quantcore.text.reading import CALIBRATE, Reading
from ui import cached, exports, frame, job_view, python_code
from ui import widgets as controls
from ui.classroom import classroom
from ui.components.chart import chart
from ui.figures import take as figures
from ui.kept import is_private
from ui.markdown import as_is
from ui.scheme_builder import scheme_line, scheme_menus
from ui.words import take as take_words

PATH = "pages/11_Take_it_with_you.py"
LEARNED = (2560, CALIBRATE.windows * CALIBRATE.length, 16384)  # tokens of calibration text
READ, MEASURED = 512, 2560
ZIP_BYTES = 200_000_000
Learned = str | None  # the reading of a calibration text, or nothing

LOOK_FOR = (
    "A recipe runs elsewhere, on a model of any size; a checkpoint is this model, quantized now. Look at what the "
    "bytes are for, and whether your GPU multiplies the codes themselves or only stores them."
)
TRIES = [
    ("4 bits by GPTQ", {"scheme": "W4A16,gptq/actorder=weight"}),
    ("8 bits on both sides", {"scheme": "W8A8"}),
    ("one layer kind spared", {"scheme": "W4A16@down_proj=W8A16"}),
    ("what no checkpoint holds", {"scheme": "w:fp4_e2m1/group32"}),
]


def chosen_plan(choice: controls.Choice, menus: DeltaGenerator) -> Plan:
    """A scheme by text, preset or menus (which stand in a place of their own), or a plan by text.

    Raises: ValueError where the text is neither."""
    shapes = cached.layers(choice.model_id, choice.device).values()
    shape = math.gcd(*(out for out, _ in shapes)), math.gcd(*(width for _, width in shapes))
    group = largest_divisor(shape[1], 128)
    try:
        scheme = scheme_line("**Scheme or plan**", "W4A16" if group == 128 else f"w:int4/group{group}", "scheme")
    except ValueError:
        return Plan.parse(st.session_state["scheme"])  # a plan's exceptions have no menus
    with menus, st.expander("Build it with menus"):
        scheme_menus(scheme, "scheme", shape)
    return Plan.of(scheme)


def refusal(schemes: dict[str, Scheme]) -> str | None:
    """Why no checkpoint can be written, in the exporter's own words."""
    from quantcore.export.checkpoint_format import require_exportable

    try:
        require_exportable(list(dict.fromkeys(schemes.values())))
    except ValueError as error:
        return str(error)
    return None


def model_words(model_id: str) -> str:
    """How a program elsewhere names the model: in a class, whose server's paths are its own, by its name."""
    if classroom() is None:
        return source_path(model_id)
    return "assets/reference-lm" if model_id == REFERENCE else model_id


def where(folder: Path) -> None:
    """Where on the server a checkpoint lies, for the server's own user."""
    if classroom() is None:
        st.code(str(folder), language=None, wrap_lines=True)


def recipe_part(plan: Plan, choice: controls.Choice) -> None:
    """The llm-compressor recipe and the program that runs it."""
    texts = {
        "recipe.yaml": (recipe(plan), "yaml", "Recipe for llm-compressor"),
        "quantize.py": (script(plan, model_words(choice.model_id)), "python", "and the program that runs it"),
    }
    for name, (text, language, title) in texts.items():
        with st.container(horizontal=True, vertical_alignment="center", horizontal_alignment="distribute"):
            st.markdown(f"**{title}**")
            st.download_button(f"Download {name}", text, name, "text/plain", on_click="ignore", key=f"get_{name}")
        st.code(text, language=language, height=270 if name == "recipe.yaml" else 210)


def checkpoint_part(plan: Plan, choice: controls.Choice, learned: Learned, folder: Path, needed: int) -> None:
    """Write the checkpoint, of about `needed` bytes, as a job; show what was written."""
    exports.look(folder)
    jobs, key = cached.jobs(), f"export|{folder}"
    found, job = written(folder), cached.jobs().get(key)
    if found is None and job is not None and job.state == "done":
        jobs.forget(key)  # somebody has taken the folder away
    if found is None:
        loaded, calibration = cached.model(choice.model_id, choice.device), calibration_of(choice, learned)

        def work(progress: job_view.Progress) -> ExportReport:
            with exports.room_for(folder, needed):
                return export_checkpoint(loaded, plan, folder, calibration(), progress=progress)

        place = f"a .zip; the server keeps the latest {exports.limit_text()}" if classroom() else "it will lie in"
        st.markdown(f"The whole model, quantized on {choice.device}, for transformers and vLLM; {place}")
        where(folder)
        if by_button("Write the checkpoint", choice, key, f"the checkpoint {folder.name}", work) is None:
            return
        found = written(folder)
        if found is None:
            raise ValueError(f"{str(folder)!r} is gone; write the checkpoint again")
    st.markdown(take_words.landed(found))
    where(folder)
    st.dataframe(take_words.files_table(found), width="stretch")
    if found.bytes <= ZIP_BYTES:
        st.download_button(
            f"Download it as one .zip, {found.bytes / 1e6:.1f} MB",
            lambda: as_zip(folder),
            f"{folder.name}.zip",
            "application/zip",
            on_click="ignore",
            key="zip",
            type="primary",
        )
    else:
        other = "copy this folder from the machine" if classroom() is None else "write it on a machine of yours"
        st.caption(f"A .zip is offered up to {ZIP_BYTES / 1e6:.0f} MB; {other} instead.")
    read_back_part(plan, choice, learned, folder)


def read_back_part(plan: Plan, choice: controls.Choice, learned: Learned, folder: Path) -> None:
    """The checkpoint, loaded by transformers, beside the quantized model."""
    loaded = cached.model(choice.model_id, choice.device)
    if (parameters := sum(one.numel() for one in loaded.model.parameters())) > cached.SMALL_MODEL:
        st.caption(
            f"Loading it again is offered up to {cached.SMALL_MODEL / 1e6:.0f} M parameters; this model has "
            f"{parameters / 1e6:.0f} M."
        )
        return
    reading = str(Reading.parse(choice.text_id).at_most(READ))
    tokens = cached.tokens(choice.model_id, choice.device, reading)
    calibration = calibration_of(choice, learned)

    def work(progress: job_view.Progress) -> ReadBack:
        quantized, _ = quantize_model(
            loaded.model,
            plan,
            calibration=calibration(),
            progress=lambda share, doing: progress(0.8 * share, doing),
        )
        progress(0.8, "loading the checkpoint")
        return read_back(folder, quantized, tokens)

    key = f"read_back|{folder}|{choice.text_id}"
    found = by_button("Load it again: does it say the same?", choice, key, "loading the checkpoint again", work)
    if found is not None:
        st.markdown(take_words.read_back(found))


def by_button(label: str, choice: controls.Choice, key: str, title: str, work: job_view.Work) -> Any:
    """The result of a job that begins with a button; None while there is none."""
    jobs = cached.jobs()
    if jobs.get(key) is None:
        name = f"begin_{key.partition('|')[0]}"
        st.button(label, on_click=job_view.ask, args=(choice.device, key, title, work), key=name, type="primary")
        return None
    return job_view.result_of(choice.device, key, title, work, start=False)


def calibration_of(choice: controls.Choice, learned: Learned) -> Callable[[], Tensor | None]:
    """What a job calls for the windows of the calibration text. Those of an own text are cut here and now: only the
    visitor's session has it. None where the plan learns nothing from text."""
    if learned is None:
        return lambda: None
    if is_private(learned):
        own = cached.tokens(choice.model_id, choice.device, learned)
        return lambda: own
    return lambda: cached.tokens(choice.model_id, choice.device, learned)


def command(plan: Plan, choice: controls.Choice, short: str, learned: Learned) -> str:
    """The shell's line that writes the same checkpoint."""
    if learned is None:
        return take_words.quantize_command(choice.model_id, plan, short, None)
    name, reading = None, Reading.parse(learned)
    if reading.own:
        source = cached.loaded_text(learned)
        name = "your-text.txt" if source.name == controls.PASTED else source.name
    return take_words.quantize_command(choice.model_id, plan, short, reading, name)


def code(plan: Plan, choice: controls.Choice, short: str, learned: Learned) -> str:
    """The page's calls as a program that runs as it stands."""
    calibration = "None" if learned is None else python_code.windows(learned)
    return python_code.program(f"""\
{python_code.load(choice)}plan = {str(plan)!r}
parts = promise(lm.model, plan, stored_type(lm.model))
print(f"{{parts.bytes / 1e6:.2f}} MB instead of {{parts.float_bytes / 1e6:.2f}} MB")
report = export_checkpoint(lm, plan, {short!r}, {calibration})
print(f"{{report.bytes / 1e6:.2f}} MB in {{report.folder}}")
Path("recipe.yaml").write_text(recipe(plan))
Path("quantize.py").write_text(script(plan, {choice.model_id!r}))
""")


def facts(choice: controls.Choice, text_id: str, tokens: Tensor, plan: Plan) -> dict[str, Any]:
    """What a report says of the model, the texts and the device."""
    place = (choice.model_id, choice.device)
    learning = cached.tokens(*place, choice.calibration)
    source = cached.source_of(choice.calibration)
    needs = plan.needs_text
    return {
        "model": choice.model_id,
        "revision": cached.model(*place).revision,
        "model hash": cached.hash_of(*place),
        "text": f"{cached.source_of(text_id)}: {tokens.numel()} tokens in {len(tokens)} windows of {tokens.shape[1]}, "
        f"hash {tokens_hash(tokens)}",
        "calibration": f"{source}: {learning.numel()} tokens in {len(learning)} windows of {learning.shape[1]}, hash "
        f"{tokens_hash(learning)}"
        if needs
        else "none is needed",
        "device": device_name(cached.model(*place).device),
    }


def whole_model(plan: Plan, choice: controls.Choice) -> Duel | None:
    """The plan beside the float model, from the store or from a job that a button begins."""
    text, place = str(plan), (choice.model_id, choice.device)
    found = cached.kept_duel(*place, "evaluation/all", MEASURED, (text,), choice.calibration)
    if found is not None:
        return found
    loaded, store, hashed = cached.model(*place), cached.store_for(choice.calibration), cached.hash_of(*place)
    learning = cached.tokens(*place, choice.calibration)
    texts = cached.duel_tokens(*place, "evaluation/all", MEASURED), learning
    key = f"duel|{'|'.join(place)}|evaluation/all|{MEASURED}|{choice.calibration}|{text}"
    return by_button(
        f"Measure it on {MEASURED:,} tokens for the report",
        choice,
        key,
        f"{short_label(text)} on {MEASURED:,} tokens",
        lambda progress: duel(loaded, [text], *texts, store, hashed, progress),
    )


def downloads(document: Document, name: str) -> None:
    """A report as one HTML file and as JSON."""
    files = {
        "HTML": (lambda: to_html(document), f"{name}.html", "text/html"),
        "JSON": (lambda: json.dumps(plain(document), indent=2), f"{name}.json", "application/json"),
    }
    with st.container(horizontal=True):
        for kind, (data, file, mime) in files.items():
            st.download_button(f"Report as {kind}", data, file, mime, on_click="ignore", key=file)


def report_part(plan: Plan, choice: controls.Choice) -> None:
    place = (choice.model_id, choice.device)
    with st.grid(2, min_column_width=430):
        with st.container(), frame.problems():
            st.markdown("**The whole model**, beside the float one")
            found = whole_model(plan, choice)
            if found is not None:
                st.markdown(take_words.measured(found.reports[str(plan)]))
                tokens = cached.duel_tokens(*place, "evaluation/all", MEASURED)
                document = duel_document(found, facts(choice, "evaluation/all", tokens, plan))
                title = f"{short_label(str(plan))} on {choice.model_id}"
                downloads(replace(document, title=title), "model_report")
        with st.container(), frame.problems():
            st.markdown("**One layer**, the sidebar's")
            scheme = plan.scheme_for(choice.layer)
            if scheme is None:
                st.caption(f"{choice.layer} stays float under {short_label(str(plan))}; choose another in the sidebar.")
                return
            study = cached.layer_lab(*place, choice.layer, choice.text_id, str(scheme), choice.calibration)
            tokens = cached.tokens(*place, choice.text_id)
            about = facts(choice, choice.text_id, tokens, Plan.of(scheme))
            document = layer_document(study, choice.layer, about)
            st.markdown(as_is(document.sentences[0]))
            downloads(document, "layer_report")


def body(choice: controls.Choice) -> None:
    editor, first, menus = st.container(), st.container(), st.container()
    with editor:
        plan = chosen_plan(choice, menus)
    text, place = str(plan), (choice.model_id, choice.device)
    names = list(cached.layers(*place))
    plan.require_layers(names)
    schemes = {name: found for name in names if (found := plan.scheme_for(name)) is not None}
    learned: Learned = None
    if plan.needs_text:
        with editor:
            learned, limit = choice.calibration, None
            if learned == cached.OWN_CALIBRATION:
                limit = controls.pick("Tokens to calibrate on", LEARNED, LEARNED[1], "learn")
                learned = cached.calibration_reading(learned, limit)
            source = take_words.OUR_OWN if limit else cached.source_of(learned)
            st.caption(as_is(take_words.calibrated(plan, cached.tokens(*place, learned).numel(), source)))
    short = take_words.short_name(choice.model_id, plan)
    parts, refused = cached.promised(*place, text), refusal(schemes)
    served = serving(short, schemes, cached.model(*place).context)
    with first, st.grid(2, min_column_width=480):
        with st.container():
            said = take_words.price(parts, short_label(text), schemes.values())
            st.markdown(said)
            if refused is not None:
                st.warning(as_is(refused))
            st.markdown("\n".join(f"- {sentence}" for sentence in take_words.runs(served, schemes)))
            chart(figures.bytes_by_part(parts, short_label(text, 24)), key="bytes", alt=said.replace("*", ""))
            if refused is None:
                st.code(command(plan, choice, short, learned), "bash", wrap_lines=True)
                st.code(served.command, "bash", wrap_lines=True)
        with st.container(), frame.problems():
            recipe_part(plan, choice)
    if refused is None:
        st.subheader("The checkpoint")
        with frame.problems():
            folder = cached.export_folder(*place, text, learned, short)
            checkpoint_part(plan, choice, learned, folder, parts.bytes)
    st.subheader("Reports")
    report_part(plan, choice)
    st.caption(f"{take_words.CAPABILITIES} Read in: vendors' datasheets; {CHECKED}. Nothing was run with vLLM here.")
    frame.numbers(take_words.parts_table(parts), "take_it_with_you")
    if refused is None:
        frame.python(code(plan, choice, short, learned))


frame.show("How do I leave with this scheme?", LOOK_FOR, TRIES, PATH, body)
