"""Times of one layer's products: measured here and now, or recorded elsewhere, and what the hardware promises."""

from __future__ import annotations

from collections.abc import Sequence

import streamlit as st
from streamlit.delta_generator import DeltaGenerator

from quantcore.lab.hardware import LOADED, Speed
from quantcore.lab.lab import Lab
from quantcore.matmul.humming import installed
from quantcore.scheme.fitting import fitting_grain
from quantcore.studies.gpus import GPUS, Machine, gpu_named
from quantcore.studies.hardware import best_machine
from quantcore.studies.speed import HUMMING, REORDERED, SpeedReport
from quantcore.studies.speed_curves import best_of
from ui import frame, kept
from ui import widgets as controls
from ui.answers import answer, job_key
from ui.components.chart import chart
from ui.figures import speed as figures
from ui.markdown import as_is
from ui.words import speed as speed_words

HERE = "this machine, measured"
QUICK, THOROUGH = "quick", "thorough"
LAYERS = {
    "Llama-3-8B gate": (14336, 4096),
    "Llama-3-8B q, o": (4096, 4096),
    "Llama-3-8B down": (4096, 14336),
    "Llama-3-70B gate": (28672, 8192),
    "Llama-3-70B q, o": (8192, 8192),
}
TOKENS = {QUICK: (1, 16, 256), THOROUGH: tuple(2**power for power in range(14))}
CPU_TOKENS = {QUICK: (1, 16), THOROUGH: (1, 4, 16, 64)}  # of a large layer
LARGE = 4_000_000  # weights: a layer that a CPU takes minutes for
ROUNDS = 3  # each shown as soon as it is there: the best of what has been measured so far


def schemes_for(width: int, device: str = "cpu") -> tuple[str, ...]:
    """The page's schemes, with the group that fits the layer; on a GPU that has them vLLM's kernels too."""
    grain = fitting_grain({"": (width, width)})
    by_humming = (f"w:int4/{grain}{HUMMING}", f"w:int4/channel,a:int8/token/dynamic{HUMMING}")
    return (
        "W8A8",
        "w:int8/channel,a:int8/tensor/static",
        "FP8_DYNAMIC",
        "FP8",
        f"w:int4/{grain}",
        f"w:int4/{grain}{REORDERED}",
        f"w:int8/{grain}",
        *(by_humming if device != "cpu" and installed() else ()),
    )


def measure_here(lab: Lab, layer: str, row: DeltaGenerator) -> Speed | None:
    """Controls of a live run, in a row, and its rounds; None while there is no result."""
    with row:
        name = controls.select("Layer that is timed", [LOADED, *LAYERS], LOADED, "shape")
        care = controls.pick("Measure", [QUICK, THOROUGH], QUICK, "care")
        again = st.container(width="content")
    shape = lab.layers()[layer] if name == LOADED else LAYERS[name]
    large = lab.device == "cpu" and shape[0] * shape[1] > LARGE
    counts, rounds = (CPU_TOKENS if large else TOKENS)[care], 1 if large else ROUNDS
    if large:
        st.warning(
            f"{shape[0]} x {shape[1]} weights are much for a CPU: {max(counts)} tokens at most are timed, and it "
            "takes a minute or more. You may leave the page meanwhile."
        )
    asked = (shape, counts, schemes_for(shape[1], lab.device))
    keys = [job_key(lab, Lab.speed, *asked, turn=turn) for turn in range(rounds)]
    again.button("Measure again", on_click=measure_again, args=(keys,), key="again")
    found: list[Speed] = []
    for turn in range(rounds):
        title = f"{shape[0]} x {shape[1]}, up to {max(counts)} tokens, round {turn + 1} of {rounds}"
        start = turn > 0 or (care == QUICK and not large)
        one = answer(title, lab, Lab.speed, *asked, turn=turn, start=start).whole
        if one is None:
            break
        found.append(one)
    if not found:
        return None
    report = best_of([one.report for one in found])
    return Speed(best_machine([one.machine for one in found], report), report, found[0].closed)


def measure_again(keys: list[str]) -> None:
    """Let go of what was measured; a callback."""
    for key in keys:
        kept.jobs().forget(key)


def shown_schemes(report: SpeedReport) -> list[str]:
    """The schemes of the report that the pictures show."""
    texts = list(dict.fromkeys(row.scheme for row in report.rows))
    names = {speed_words.label(text): text for text in texts}
    by_humming = [text for text in texts if text.endswith(HUMMING)]
    usual = {speed_words.label(text) for text in (*schemes_for(report.shape[1]), *by_humming)}
    default = [name for name in names if name in usual] or list(names)
    chosen = controls.several("Schemes", list(names), default, "schemes", most=len(names))
    return [names[name] for name in chosen]


def times_part(report: SpeedReport, schemes: Sequence[str], closed: Sequence[str]) -> None:
    words, extras = speed_words.measured(report, schemes), speed_words.extras(report, schemes)
    frame.headline(speed_words.headline(report, schemes))
    st.markdown("\n".join(f"- {sentence}" for sentence in words))
    counts = sorted({row.tokens for row in report.rows})
    with st.grid(2, min_column_width=430):
        chart(figures.times(report, schemes), key="times", alt=" ".join(words).replace("*", ""))
        with st.container():
            at = controls.steps("Tokens at once", counts, counts[-1], "at") if counts[1:] else counts[0]
            chart(figures.split(report, schemes, at), key="split", alt=speed_words.split(report, schemes, at))
    st.caption(
        f"Layer {report.shape[0]} x {report.shape[1]} (output x input), activations in {report.dtype}, "
        f"{report.device}. Dashes: ranges frozen before, or reordered groups. Encode and product are timed apart, "
        "then together."
    )
    st.markdown("\n".join(f"- {sentence}" for sentence in extras))
    for sentence in closed:
        st.caption(sentence)
    for text, reason in report.refused.items():
        st.caption(f"`{text}` could not be measured: {as_is(reason)}")
    with st.expander("Where each scheme meets bf16"):
        st.markdown("\n".join(f"- {sentence}" for sentence in speed_words.meetings(report, schemes)))


def roof_part(
    live: bool, machine: Machine | None, report: SpeedReport | None, shape: tuple[int, int], schemes: list[str]
) -> None:
    """Roofline and bounds of one machine: the one at hand, or a named GPU."""
    st.header("What the hardware promises")
    own = machine if live else gpu_named("" if report is None else report.device)
    names = [HERE, *GPUS] if live else list(GPUS)
    picked = controls.select("Roof of", names, HERE if live else own.name if own else "H100 SXM", "gpu")
    chosen = machine if picked == HERE else GPUS[picked]
    if chosen is None:
        st.caption("Bandwidth and rates of this machine are being measured; the named GPUs are there at once.")
        return
    here = own is not None and chosen.name == own.name
    words = speed_words.promised(chosen, shape, schemes)
    with st.grid(2, min_column_width=430):
        chart(
            figures.roofline(chosen, report, schemes, here),
            key="roofline",
            alt=f"{chosen.name}: {chosen.bandwidth_gb_s:.4g} GB/s, "
            + ", ".join(f"{name} {rate:.4g} TFLOP/s" for name, rate in chosen.rates.items()),
        )
        chart(figures.bounds(chosen, shape, schemes), key="bounds", alt=" ".join(words).replace("*", ""))
    notes = [words[0], f"Roof of {chosen.name}: {chosen.source}; {chosen.bandwidth_gb_s:,.4g} GB/s."]
    if report is not None:
        of_this = "measured here" if live else "recorded on this GPU"
        notes.append(f"Points: {of_this}." if here else f"Hollow points: measured elsewhere, {report.device}.")
        above = speed_words.above_the_roof(chosen, report) if here else None
        notes += [above] if above else []
    st.caption(" ".join(notes))
    with st.expander("What each scheme can gain, and why"):
        st.markdown("\n".join(f"- {sentence}" for sentence in words[1:]))
