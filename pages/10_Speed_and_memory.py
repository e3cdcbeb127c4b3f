"""What does a scheme buy on hardware, and when does it buy nothing? Times measured here, rooflines, bytes, budgets."""

import streamlit as st
from streamlit.delta_generator import DeltaGenerator

from quantcore.studies.gpus import LOOKED_UP
from quantcore.studies.speed import SpeedReport
from quantcore.studies.speed_curves import Recorded
from ui import frame, kept
from ui import widgets as controls
from ui.sections.memory import memory_part
from ui.sections.times import LAYERS, measure_here, roof_part, schemes_for, shown_schemes, times_part
from ui.sidebar import Choice
from ui.words import speed as speed_words
from ui.words.advice import others

TITLE = "Speed and memory"
SECTION = "Decide"
NOW = "this machine, now"

LOOK_FOR = (
    "A few tokens wait for the weight to come from memory: fewer bytes win. Many tokens wait for arithmetic: only a "
    "product of 8-bit or 4-bit codes wins, and codes that are unpacked first buy nothing. Look where the lines cross."
)
TRIES: frame.Tries = [
    ("a chat: one token at a time", {"at": 1, "gpu": "H100 SXM", "batch": 1}),
    ("an fp8 model on an A100", {"gpu": "A100 80GB", "why": "FP8"}),
    ("70B on 48 GB", {"card": "Llama-3-70B", "context": 8192, "batch": 1}),
]


def recorded(run: Recorded, file: str, row: DeltaGenerator) -> SpeedReport:
    """Which layer of a recorded run, and the words that say that it is one."""
    with row:
        name = controls.select("Layer that was timed", list(run.reports), next(iter(run.reports)), "recorded")
    st.info(f"**Recorded**, not measured now: {run.about}.")
    st.caption(f"File `benchmarks/results/{file}`. {run.note}")
    return run.reports[name]


def undisturbed(report: SpeedReport) -> SpeedReport | None:
    """The measured times; None, and the sentence, where something else was running: such times are no result."""
    if words := speed_words.disturbance(report):
        st.warning(words)
        return None
    return report


def native_part() -> None:
    st.header("Which GPU multiplies which codes itself")
    st.table(speed_words.native_table().set_index("GPU"))
    why = controls.select("Why", list(speed_words.TABLE_SCHEMES), "FP8", "why")
    st.markdown("\n".join(f"- {sentence}" for sentence in speed_words.reasons(speed_words.TABLE_SCHEMES[why])))
    with st.expander("Rates and memory of each GPU, and where they are from"):
        st.caption(f"Dense rates, TFLOP/s (TOP/s for integers), looked up {LOOKED_UP} in the vendor's papers:")
        st.table(speed_words.rates_table().set_index("GPU"))
        st.caption(speed_words.sources())


def body(choice: Choice) -> None:
    runs = kept.recorded_runs()
    for problem in [one for one in runs.values() if isinstance(one, str)]:
        st.caption(problem)
    known = {file: run for file, run in runs.items() if isinstance(run, Recorded)}
    files = {f"recorded: {run.device}, {file.removesuffix('.json')}": file for file, run in known.items()}
    row = st.container(horizontal=True, vertical_alignment="bottom")
    with row:
        here = choice.lab.device != "cpu" or not files  # a CPU's times answer another question than most visitors have
        source = controls.select("Times from", [NOW, *files], NOW if here else list(files)[-1], "run")
    found, report = None, None
    if source == NOW:
        found = measure_here(choice.lab, choice.layer, row)
        report = None if found is None else undisturbed(found.report)
    else:
        report = recorded(known[files[source]], files[source], row)
    times_here = st.container()  # there before its pictures are: those below keep their place, and so their zoom
    shape, schemes = LAYERS["Llama-3-8B gate"], list(schemes_for(4096))
    if report is not None:
        shape, schemes = report.shape, shown_schemes(report)
        with times_here:
            times_part(report, schemes, [] if found is None else speed_words.closed(found.closed))
        frame.numbers(speed_words.times_table(report, schemes), "speed")
    with st.expander("vLLM's own kernels beside ours, recorded"):
        st.markdown(speed_words.VLLMS)
        st.table(others().set_index("tokens"))
    roof_part(source == NOW, None if found is None else found.machine, report, shape, schemes)
    memory_part(choice.lab)
    native_part()


frame.show(__file__, "What does a scheme buy on hardware?", LOOK_FOR, TRIES, body)
