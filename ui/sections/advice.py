"""Ways to leave with what was advised, to the letter: recipe, script, the line that serves it, checkpoint, report."""

from __future__ import annotations

import streamlit as st

from quantcore.advice.choice import Advice
from quantcore.export.recipe import recipe, script
from quantcore.lab.hardware import LOADED
from quantcore.lab.take import slug
from quantcore.scheme.plan import Plan
from ui import frame
from ui.sections.take import checkpoint_part, model_report, model_words, recipe_part, two_files
from ui.sidebar import Choice
from ui.words import advice as words


def serve_part(found: Advice, plan: Plan, choice: Choice, model: str) -> None:
    """The recipe, the program that runs it, and vLLM's line."""
    st.header("Take it with you")
    longest = choice.lab.loaded.context if model == LOADED else None
    if plan.is_float:
        st.markdown("The model as it is: nothing to quantize.")
        name = model_words(choice.lab.id) if model == LOADED else model
        st.code(words.serve_line(name, found, longest), "bash", wrap_lines=True)
        return
    if model == LOADED:
        recipe_part(plan, choice.lab)
        folder = choice.lab.short_name(str(plan))
    else:
        folder = f"{slug(model.rpartition('/')[2])}-{slug(plan.label)}"
        two_files(recipe(plan), script(plan, model, folder))
    st.markdown("**Serve it**")
    st.code(words.serve_line(folder, found, longest), "bash", wrap_lines=True)


def leave_part(plan: Plan, choice: Choice) -> None:
    """The checkpoint and the report, of the loaded model."""
    if plan.is_float:
        return
    with st.grid(2, min_column_width=430):
        with st.container(), frame.problems():
            st.markdown("**The checkpoint**")
            checkpoint_part(str(plan), choice, choice.calibration)
        with st.container(), frame.problems():
            st.markdown("**The report**, beside the float model")
            model_report(str(plan), choice)
