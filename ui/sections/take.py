"""Ways to leave with a plan: a recipe, a checkpoint that is written and read again, reports."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import streamlit as st

from quantcore.export.recipe import script
from quantcore.lab.lab import Lab
from quantcore.lab.report import duel_document, layer_document
from quantcore.lab.start import SMALL_MODEL
from quantcore.measure.duel import short_label
from quantcore.model.locate import REFERENCE, source_in_full
from quantcore.scheme.plan import Plan
from quantcore.studies.written import as_zip
from quantcore.text.reading import EVALUATE, Reading
from ui import exports, frame, kept
from ui.answers import answer, job_key
from ui.classroom import classroom
from ui.markdown import as_is
from ui.sections.downloads import downloads
from ui.settled import settled
from ui.sidebar import Choice
from ui.words import take as take_words
from ui.words.names import named

READ = 512  # tokens, of the checkpoint and of the model that it was written from
ZIP_BYTES = 200_000_000


def recipe_part(plan: Plan, lab: Lab) -> None:
    """The llm-compressor recipe of the loaded model, and the program that runs it."""
    text = str(plan)
    program = script(plan, model_words(lab.id), lab.short_name(text), lab.loaded.context)
    two_files(lab.recipe(text), program)


def two_files(recipe: str, program: str) -> None:
    """A recipe and the program that runs it, each to be read and downloaded."""
    texts = {
        "recipe.yaml": (recipe, "yaml", "Recipe for llm-compressor"),
        "quantize.py": (program, "python", "and the program that runs it"),
    }
    for name, (text, language, title) in texts.items():
        with st.container(horizontal=True, vertical_alignment="center", horizontal_alignment="distribute"):
            st.markdown(f"**{title}**")
            st.download_button(f"Download {name}", text, name, "text/plain", on_click="ignore", key=f"get_{name}")
        st.code(text, language=language, height=270 if name == "recipe.yaml" else 210)


def model_words(model_id: str) -> str:
    """How a program elsewhere names the model: in a class, whose server's paths are its own, by its name."""
    if classroom() is None:
        return source_in_full(model_id)
    return "quantcore/assets/reference-lm" if model_id == REFERENCE else model_id


def checkpoint_part(plan: str, choice: Choice, calibration: str) -> None:
    """Write the checkpoint as a job; show what was written."""
    lab, asked = choice.lab, (plan, calibration)
    folder = lab.checkpoint_folder(*asked)
    exports.look(folder)
    if not folder.is_dir():
        written = kept.jobs().get(key := job_key(lab, Lab.checkpoint, *asked))
        if written is not None and written.state == "done":  # somebody has taken it away
            kept.jobs().forget(key)
        place = f"a .zip; the server keeps the latest {exports.limit_text()}" if classroom() else "it will lie in"
        st.markdown(f"The whole model, quantized on {lab.device}, for transformers and vLLM; {place}")
        where(folder)
    title, button = f"the checkpoint {folder.name}", "Write the checkpoint"
    found = answer(title, lab, Lab.checkpoint, *asked, start=False, button=button).whole
    if found is None:
        return
    st.markdown(take_words.landed(found))
    if notes := take_words.noted(found):
        st.caption(notes)
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
    read_back_part(plan, choice, calibration)


def where(folder: Path) -> None:
    """Where on the server a checkpoint lies, for the server's own user."""
    if classroom() is None:
        st.code(str(folder), language=None, wrap_lines=True)


def read_back_part(plan: str, choice: Choice, calibration: str) -> None:
    """The checkpoint, loaded by transformers, beside the quantized model."""
    if (parameters := choice.lab.contents().parameters) > SMALL_MODEL:
        st.caption(
            f"Loading it again is offered up to {SMALL_MODEL / 1e6:.0f} M parameters; this model has "
            f"{parameters / 1e6:.0f} M."
        )
        return
    reading = str(Reading.parse(choice.reading).at_most(READ))
    title, button = "loading the checkpoint again", "Load it again: does it say the same?"
    asked = (plan, calibration, reading)
    found = answer(title, choice.lab, Lab.read_back, *asked, start=False, button=button).whole
    if found is not None:
        st.markdown(take_words.read_back(found))


def report_part(plan: Plan, choice: Choice) -> None:
    with st.grid(2, min_column_width=430):
        with st.container(), frame.problems():
            st.markdown("**The whole model**, beside the float one")
            model_report(str(plan), choice)
        with frame.opened("One layer, the sidebar's", "layer_report") as is_open, frame.problems():
            if is_open:
                layer_report(plan, choice)


def model_report(plan: str, choice: Choice) -> None:
    """The plan beside the float model, kept or from a job that a button begins."""
    lab, asked = choice.lab, (str(EVALUATE), choice.calibration)
    title = f"{short_label(plan)} on {EVALUATE.windows * EVALUATE.length:,} tokens"
    button = f"Measure it on {EVALUATE.windows * EVALUATE.length:,} tokens for the report"
    found = answer(title, lab, Lab.duel, (plan,), *asked, start=False, button=button).whole
    if found is not None:
        st.markdown(take_words.measured(found.reports[plan], plan))
        of = f"{short_label(plan)} on {lab.id}"
        downloads(lambda: replace(duel_document(found, lab.facts([plan], *asked)), title=of), "model_report")


def layer_report(plan: Plan, choice: Choice) -> None:
    lab, layer, asked = choice.lab, choice.layer, (choice.reading, choice.calibration)
    scheme = plan.scheme_for(layer, choice.lab.head)
    if scheme is None:
        st.caption(f"{layer} stays float under {named(str(plan))}; choose another in the sidebar.")
        return
    wanted, title = (layer, str(scheme), *asked), f"{short_label(str(scheme))} on {layer}"
    drawn = settled("layer report", title, lab, wanted, lambda *one: [(Lab.layer_study, *one)])
    if drawn is None:
        return
    document = layer_document(lab.layer_study(*drawn), drawn[0], lab.facts([drawn[1]], *drawn[2:]))
    st.markdown(as_is(document.sentences[0]))
    downloads(lambda: document, "layer_report")
