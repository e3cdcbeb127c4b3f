"""Will it fit? Bytes of weights, cache and activations against a card's memory, and what GPTQ itself needs."""

from __future__ import annotations

import re

import streamlit as st

from quantcore.lab.hardware import LOADED
from quantcore.lab.lab import Lab
from quantcore.studies.footprint import BUDGETS_GB, PRESET_SHAPES, ModelShape, gptq_memory
from ui import frame
from ui import widgets as controls
from ui.components.chart import chart
from ui.figures import speed as figures
from ui.words import speed as speed_words

CUSTOM = "typed"
CARDS = ("float", "W8A8", "FP8_DYNAMIC", "W4A16")
CALIBRATION = (8192, 32768, 131072, 262144, 1048576)


@st.fragment
def memory_part(lab: Lab) -> None:
    """Sizes, bytes and budgets: its controls move nothing else on the page, so nothing else runs again."""
    with frame.problems():
        st.header("Will it fit?")
        _cards(lab)
    controls.end()


def cards_for(shape: ModelShape) -> list[str]:
    """The schemes that the card opens on; the last is a plan that spares the model's first block, by its own name:
    `layers.0` or GPT-2's `h.0`."""
    first = next(filter(None, (re.search(r"\w+\.\d+(?=\.)", name) for name in shape.linears)), None)
    return [*CARDS, *([f"W4A16@{first[0]}=W8A16"] if first else [])]


def _cards(lab: Lab) -> None:
    with st.container(horizontal=True, vertical_alignment="bottom"):
        name = controls.pick("Model", [LOADED, *PRESET_SHAPES, CUSTOM], "Llama-3-8B", "card")
        if name == CUSTOM:
            name = controls.line(
                "Layers, hidden, heads, kv heads, FFN, vocabulary", "28,3072,24,8,8192,128256", "typed"
            )
        context = controls.steps("Context, tokens", controls.CONTEXTS, 8192, "context")
        batch = controls.slide("Sequences at once", 1, 64, 4, "batch")
        kv_bits = controls.pick("KV cache, bits", [16, 8], 16, "kv")
    shape = lab.shape_named(name)
    with st.expander("Schemes or plans, one a line"), frame.problems():
        usual = controls.follow_default("plans", "\n".join(cards_for(shape)))
        plans = controls.one_a_line("Schemes", usual, "plans", height=150)
    if not 1 <= len(plans) <= 8:
        raise ValueError(f"the list has {len(plans)} schemes; the card takes one to 8")
    cards = []
    for plan in plans:
        with frame.problems():  # one line that does not fit the model leaves the others alive
            cards.append(lab.footprint(name, plan, context, batch, kv_bits))
    if not cards:
        return
    words = speed_words.fits(shape, cards)
    st.markdown("\n".join(f"- {sentence}" for sentence in words))
    with st.grid(2, min_column_width=430):
        chart(figures.memory(cards), key="memory", alt=" ".join(words).replace("*", ""))
        with st.container():
            tokens = controls.steps("Calibration tokens for GPTQ", CALIBRATION, 262144, "calibration")
            found = gptq_memory(shape, tokens)
            said = speed_words.gptq_words(shape, found, tokens)
            chart(figures.gptq(found, 2 * shape.parameters), key="gptq", alt=said.replace("*", ""))
            st.markdown(said)
    st.table(speed_words.written_cards(cards))
    st.caption(
        f"Budgets: {', '.join(map(str, BUDGETS_GB))} GB of 10^9 bytes. A runtime's own memory (CUDA, fragments) comes "
        "on top. Tokens: of KV cache beside the weights, over all sequences; 0 where the weights alone do not fit."
    )
