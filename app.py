"""What happens when a layer keeps only 16 values? The first page: one control, one row of weights, five next tokens."""

import pandas as pd
import streamlit as st

from quantcore.lab.lab import Lab
from quantcore.lab.start import PROMPTS, START, START_BITS, start_scheme
from quantcore.studies.anatomy import Anatomy
from quantcore.studies.next_tokens import NextTokens
from quantcore.studies.row import RowStudy
from ui import frame
from ui import widgets as controls
from ui.components.chart import chart
from ui.figures import home as figures
from ui.settled import settled
from ui.sidebar import Choice
from ui.words import start as words

TITLE = "Start here"
QUESTION = "What happens when a layer keeps only {} values?"
LOOK_FOR = (
    "**A lab for LLM quantization.** A real model, its real weights and inputs, and every scheme at work on them: "
    "take bits away below, and see its weights and its next words change."
)
WAYS = (
    ("Learn", "guess, then see; alone or in class", "The course", "pages/0_Course.py"),
    ("Experiment", "any scheme on your model", "Two schemes on one layer", "pages/5_Layer_lab.py"),
    ("Decide", "what to ship on which GPU", "Which scheme should I ship?", "pages/14_Which_scheme_should_I_ship.py"),
)
TRIES: frame.Tries = [
    ("8 bits: can you see it?", {"bits": 8}),
    ("3 bits: does it lose the thread?", {"bits": 3, "prompt": PROMPTS[1]}),
    ("2 bits: four values", {"bits": 2}),
]
ROW_SHARE = 0.9  # the row that is louder than nine in ten: its largest weight is seen to set the scale


def tokens_picture(report: NextTokens, name: str) -> None:
    chart(
        figures.next_token_picture(report, name),
        key="tokens",
        alt=f"float: {report.likeliest[0].text}; {name}: {report.likeliest_hat[0].text}; KL {report.kl:.3g} nats",
    )
    st.markdown(words.tokens_words(report, name))


def table(row: RowStudy, report: NextTokens | None) -> pd.DataFrame:
    """The numbers of both pictures: float, quantized, difference."""
    weights = [
        (f"weight, row {row.row}, input {row.first + i}", float(w), float(w_hat))
        for i, (w, w_hat) in enumerate(zip(row.weight, row.restored, strict=True))
    ]
    likeliest = () if report is None else dict.fromkeys((*report.likeliest, *report.likeliest_hat))
    chances = [(f"probability of {one.text}", one.probability, one.probability_hat) for one in likeliest]
    numbers = pd.DataFrame([*chances, *weights], columns=["what", "float", "quantized"])
    return numbers.assign(difference=numbers["quantized"] - numbers["float"])


def loaded_model(model: Anatomy, scheme: str, bytes_hat: int | None) -> None:
    st.header("What is loaded")
    quantized = {} if bytes_hat is None else {f"Checkpoint, {scheme.removeprefix('w:')}": f"{bytes_hat / 1e6:.1f} MB"}
    frame.metrics(
        {
            "Blocks": f"{model.blocks}",
            "Linears": f"{model.linears}",
            "Parameters": f"{model.parameters / 1e6:.1f} M",
            "Checkpoint, 16 bits": f"{model.bytes_float / 1e6:.1f} MB",
            **quantized,
        }
    )
    shapes = [
        {
            "shape [out, in]": " x ".join(map(str, one.shape)),
            "Linears": f"{one.count}",
            "called": ", ".join(one.modules),
            "weights": f"{one.weights:,}",
            "bytes at 16 bits": f"{one.bytes_float:,}",
        }
        for one in model.shapes
    ]
    st.table(pd.DataFrame(shapes).set_index("shape [out, in]"))
    context = "no limit to its context" if model.context is None else f"a context of {model.context:,}"
    versions = ", ".join(f"{name} {version}" for name, version in model.versions.items())
    st.caption(
        f"{model.architecture} with a tokenizer of {model.vocabulary:,} tokens and {context}, on "
        f"{model.device}; {versions}. For another model, name its folder or hub id in the sidebar."
    )


def ways_in() -> None:
    """For whom the lab is, and where each begins."""
    with st.grid(3, min_column_width=240, gap="small"):
        for name, what, label, path in WAYS:
            with st.container(border=True, gap=None, height="stretch", key=f"way_{name.lower()}"):
                st.markdown(f"**{name}**: {what}")
                frame.link(label, path, {})


def where_next() -> None:
    st.header("Where to go next")
    with st.grid(3, min_column_width=270, border=True):
        with st.container():
            st.markdown("**You experiment.** Any layer, any scheme: see what it loses, and which part of it to blame.")
            frame.link("One layer under any scheme", "pages/5_Layer_lab.py", {})
            frame.link("Every group size at once", "pages/2_Granularity.py", {"format": "int3", "grain": "group"})
            frame.link("Clip outliers, or spare channels", "pages/3_Outliers.py", {"act": "int8", "keep": 2})
            frame.link("GPTQ, column by column", "pages/6_GPTQ_step_by_step.py", {})
            frame.link("The cache, in fewer bits", "pages/13_Context_lens.py", {})
        with st.container():
            st.markdown("**You teach.** Four lessons; each link puts every browser in the class in the same state.")
            frame.link("1. Which values exist?", "pages/1_Number_formats.py", {})
            frame.link(
                "2. One scale for all: who pays?", "pages/2_Granularity.py", {"format": "int4", "grain": "tensor"}
            )
            frame.link("3. Outliers at 4 bits", "pages/3_Outliers.py", {"act": "int4"})
            frame.link("4. Frozen range, one token at a time", "pages/4_Static_or_dynamic.py", {"call": 1})
            frame.link("Or the course: guess, then see", "pages/0_Course.py", {})
        with st.container():
            st.markdown("**You choose a scheme.** Two to six of them on the whole model, with error bars; then leave.")
            frame.link("Schemes side by side", "pages/7_Scheme_duel.py", {})
            frame.link("Which layers deserve more bits", "pages/8_Which_layers_hurt.py", {})
            frame.link("Do the usual rules hold here?", "pages/9_Rules_tested.py", {})
            frame.link("What to ship on your GPU", "pages/14_Which_scheme_should_I_ship.py", {})
            frame.link("A checkpoint, a recipe, a report", "pages/16_Take_it_with_you.py", {})


def body(choice: Choice) -> None:
    with frame.controls_in_sight():
        bits = controls.steps("Bits per weight", START_BITS, START, "bits")
    frame.ask(QUESTION.format(2**bits), __file__)
    lab, name, scheme = choice.lab, f"int{bits}", start_scheme(bits)
    row = lab.row(choice.layer, scheme, ROW_SHARE)
    report, bytes_hat, fresh = None, None, False
    said = st.container()
    pictures = st.grid(2, min_column_width=400)
    with pictures.cell():
        chart(
            figures.row_picture(row, choice.layer, name),
            key="row",
            alt=f"{name}: levels {row.step:.3g} apart, {row.used} are taken; {row.zeros:.0%} of the weights become 0",
        )
        st.markdown(words.row_words(row, lab.row(choice.layer, scheme), scheme, choice.layer))
    with pictures.cell(), frame.problems():
        prompt = controls.lines("Your sentence: how does it go on?", PROMPTS[0], "prompt", max_chars=4000, height=72)
        drawn = settled(
            "tokens", f"{name} for the whole model", lab, (scheme,), lambda one: [(Lab.quantized_bytes, one)]
        )
        if drawn is not None:
            fresh, scheme = drawn[0] == scheme, drawn[0]
            bytes_hat, report = lab.quantized_bytes(scheme), lab.likeliest(scheme, prompt)
            tokens_picture(report, scheme.removeprefix("w:").partition("/")[0])
    with said:
        frame.headline(words.headline(bits, row, report if fresh else None))
    loaded_model(lab.contents(), scheme, bytes_hat)
    where_next()
    frame.numbers(table(row, report), "start")


frame.show(__file__, QUESTION.format(2**START), LOOK_FOR, TRIES, body, ways_in)
