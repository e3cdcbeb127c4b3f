"""A mixture's experts, block by block: shown where the model has any."""

from __future__ import annotations

import pandas as pd
import streamlit as st

from quantcore.lab.lab import Lab
from quantcore.scheme.scheme import Scheme
from quantcore.studies.experts import has_experts
from ui import frame
from ui import widgets as controls
from ui.answers import answer
from ui.components.chart import chart
from ui.figures import experts as figures
from ui.sidebar import Choice
from ui.words import experts as words

NEAREST, GPTQ, EVERY = "rounded to nearest", "GPTQ", "GPTQ, each on every token"
WAYS = {NEAREST: "", GPTQ: ",gptq", EVERY: ",gptq,experts=all"}


def experts_part(choice: Choice, scheme: str) -> None:
    """The two maps, what they say, and the table behind them; nothing for a model without experts."""
    if not has_experts(choice.lab.layers()):
        return
    st.subheader("Experts")
    scheme += WAYS[controls.pick("Their codes", list(WAYS), NEAREST, "experts")]
    with st.container():
        title = f"The experts under {Scheme.parse(scheme).label}"
        found = answer(
            title, choice.lab, Lab.experts, scheme, choice.reading, choice.calibration, place="experts"
        ).whole
    if found is None:
        return
    st.markdown(f"{words.load(found)} {words.damage(found)}")
    if too_few := words.scarce(found):
        st.warning(too_few)
    with st.grid(2, min_column_width=430):
        chart(figures.load_map(found), key="load_map", alt=words.load(found).replace("*", ""))
        chart(figures.damage_map(found), key="damage_map", alt=words.damage(found).replace("*", ""))
    frame.numbers(pd.DataFrame(found.records()), "experts")
