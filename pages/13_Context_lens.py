"""What does a coded KV cache lose, and where? KL along the context, what is still recalled, and the bytes it saves."""

import streamlit as st

from quantcore.lab.context import MOST, cache_of, lengths_on, reading_of, usual_caches
from quantcore.lab.hardware import LOADED
from quantcore.lab.lab import Lab
from quantcore.model.locate import REFERENCE
from quantcore.studies.context_lens import FLOAT
from quantcore.studies.footprint import PRESET_SHAPES
from quantcore.studies.gpus import GPUS
from quantcore.text.reading import LONG
from ui import frame
from ui import widgets as controls
from ui.answers import answer
from ui.components.chart import chart
from ui.figures import context as figures
from ui.sidebar import Choice
from ui.words import context as words

TITLE = "Context lens"
SECTION = "Lab"

LOOK_FOR = (
    "The cache keeps keys and values of every token that was read, and grows with the context. Coded, it takes a half "
    "or a quarter of the bytes. Each line is one way to code it, the weights stay float: does the loss grow with the "
    "distance, and are keys or values to blame?"
)


def tries(choice: Choice) -> frame.Tries:
    try:
        fine = usual_caches(choice.lab)[-1].removeprefix("kv:")
    except ValueError:  # a model without a cache: the page says so, once
        return []
    return [
        ("keys or values: who is to blame?", {"caches": f"k:{fine}\nv:{fine}\nkv:{fine}"}),
        ("one scale for a layer, or one a head", {"caches": "kv:fp8_e4m3/tensor\nkv:fp8_e4m3/head\nkv:int8/token"}),
        ("how few bits?", {"caches": "kv:int8/token\nkv:int4/token\nkv:int3/token\nkv:int2/token"}),
    ]


def asked_for(choice: Choice) -> tuple[tuple[str, ...], str]:
    """The caches, one a line, and what is read. Raises: ValueError for a line that says no cache."""
    with st.grid(2, min_column_width=430):
        lines = controls.one_a_line(
            f"Caches, one a line (one to {MOST})", "\n".join(usual_caches(choice.lab)), "caches", height=120
        )
        with st.container(horizontal=True, vertical_alignment="bottom"):
            lengths = lengths_on(choice.lab)
            length = controls.steps("Window, tokens", lengths, min(LONG.length, lengths[-1]), "window")
            read = choice.kind_of_text(LONG)
    named = list(dict.fromkeys(str(cache_of(choice.lab, line)) for line in lines))
    return tuple(named), reading_of(read, length)


def lens_part(choice: Choice, caches: tuple[str, ...], reading: str) -> None:
    lab = choice.lab
    with st.container():
        title = f"{len(caches)} caches along {lab.tokens(reading).shape[1]:,} tokens"
        found = answer(title, lab, Lab.context_lens, caches, reading, choice.calibration)
    drawn = found.whole or found.so_far
    if drawn is None:
        return
    frame.headline(" ".join(filter(None, (words.blame(drawn), words.headline(drawn)))))
    with st.grid(2, min_column_width=430):
        chart(figures.along(drawn), key="along", alt=words.headline(drawn).replace("*", ""))
        with st.container():
            chart(figures.flips(drawn), key="flips", alt="the share of next tokens that change, along the context")
    st.table(words.rows(drawn, 8 * next(lab.model.parameters()).element_size()))
    st.header("Is what stands far back still found?")
    st.markdown(words.recalled(drawn))
    chart(figures.recall(drawn), key="recall", alt=words.recalled(drawn).replace("*", ""))


def facts_part(choice: Choice, caches: tuple[str, ...], reading: str) -> None:
    """A job that is asked for: it takes as long as the lens itself."""
    lab = choice.lab
    st.header("Is a fact found that was placed early?")
    st.markdown("*The secret number of Anna is 48213.* and the like are put into each window, and asked for behind it.")
    asked = (caches, reading, choice.calibration)
    found = answer("asking for the facts", lab, Lab.retrieval, *asked, start=False, button="Ask for facts placed early")
    if (drawn := found.whole or found.so_far) is not None:
        said = words.facts(drawn)
        st.markdown(said)
        chart(figures.facts(drawn), key="facts", alt=said.replace("*", ""))


@st.fragment
def growth_part(lab: Lab, caches: tuple[str, ...]) -> None:
    """Bytes against context and sequences; nothing is run for them."""
    with frame.problems():
        st.header("Where is the GPU full?")
        with st.container(horizontal=True, vertical_alignment="bottom"):
            usual = next(iter(PRESET_SHAPES)) if lab.source == REFERENCE else LOADED
            model = controls.pick("Model", [LOADED, *PRESET_SHAPES], controls.follow_default("card", usual), "card")
            gpu = controls.select("GPU", list(GPUS), "H100 SXM", "gpu")
            sequences = controls.steps("Sequences at once", controls.SEQUENCES, 8, "at_once")
        totals, fits, wall = {}, {}, GPUS[gpu].memory_gb
        for name in (FLOAT, *caches):
            each = [lab.footprint(model, name, context, sequences) for context in controls.CONTEXTS]
            totals[name] = [one.total_bytes for one in each]
            if wall is not None:
                most = each[0].tokens_within(wall)
                fits[name] = None if most is None else most // sequences
        weights = lab.footprint(model, FLOAT, controls.CONTEXTS[0], sequences).weights_bytes
        said = words.reach(fits, sequences, gpu, wall)
        st.markdown(said)
        chart(figures.growth(controls.CONTEXTS, totals, weights, gpu, wall), key="growth", alt=said.replace("*", ""))
    controls.end()


def body(choice: Choice) -> None:
    caches, reading = asked_for(choice)
    lens_part(choice, caches, reading)
    facts_part(choice, caches, reading)
    growth_part(choice.lab, caches)
    frame.link("Open them in the duel", "pages/7_Scheme_duel.py", {"duel": "\n".join(caches)})


frame.show(__file__, "What does a coded cache lose, and where?", LOOK_FOR, tries, body)
