"""What does a scheme buy on hardware, and when does it buy nothing? Times measured here, rooflines, bytes, budgets."""

from collections.abc import Sequence
from typing import NamedTuple

import streamlit as st
from streamlit.delta_generator import DeltaGenerator

from quantcore.model.linears import linear_named
from quantcore.numbers.granularity import largest_divisor
from quantcore.studies.footprint import BUDGETS_GB, PRESET_SHAPES, gptq_memory
from quantcore.studies.hardware import GPUS, LOOKED_UP, Machine, best_machine, gpu_named, measure_machine
from quantcore.studies.speed import REORDERED, SpeedReport, measure_paths
from quantcore.studies.speed_curves import Recorded, best_of
from ui import cached, frame, job_view, python_code
from ui import widgets as controls
from ui.components.chart import chart
from ui.figures import speed as figures
from ui.markdown import as_is
from ui.words import speed as speed_words

PATH = "pages/10_Speed_and_memory.py"
NOW, HERE, LOADED, CUSTOM = "this machine, now", "this machine, measured", "loaded", "typed"
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
CARDS = "float\nW8A8\nFP8_DYNAMIC\nW4A16\nW4A16@down_proj=W8A16"
CALIBRATION = (8192, 32768, 131072, 262144, 1048576)
CONTEXTS = (1024, 2048, 4096, 8192, 16384, 32768, 65536, 131072)

LOOK_FOR = (
    "A few tokens wait for the weight to come from memory: fewer bytes win. Many tokens wait for arithmetic: only a "
    "product of 8-bit or 4-bit codes wins, and codes that are unpacked first buy nothing. Look where the lines cross."
)
TRIES = [
    ("a chat: one token at a time", {"at": 1, "gpu": "H100 SXM", "batch": 1}),
    ("an fp8 model on an A100", {"gpu": "A100 80GB", "why": "FP8"}),
    ("70B on 48 GB", {"card": "Llama-3-70B", "context": 8192, "batch": 1}),
]


class Live(NamedTuple):
    """A measurement on the device at hand; `closed`: sentences on the paths that this device has not. Everything that
    touches the device is done by the job, so that nothing else runs there while the clock does."""

    machine: Machine
    report: SpeedReport
    closed: list[str]


def schemes_for(width: int) -> list[str]:
    """The page's schemes, groups of 128 where they divide the layer."""
    group = largest_divisor(width, 128)
    return [
        "W8A8",
        "w:int8/channel,a:int8/tensor/static",
        "FP8_DYNAMIC",
        "FP8",
        f"w:int4/group{group}",
        f"w:int4/group{group}{REORDERED}",
        f"w:int8/group{group}",
    ]


def measure_here(choice: controls.Choice, row: DeltaGenerator) -> Live | None:
    """Controls of a live run, in a row, and its job; None while there is no result."""
    with row:
        name = controls.select("Layer that is timed", [LOADED, *LAYERS], LOADED, "shape")
        care = controls.pick("Measure", [QUICK, THOROUGH], QUICK, "care")
        again = st.container(width="content")
    weight = linear_named(cached.model(choice.model_id, choice.device).model, choice.layer).weight
    shape = (weight.shape[0], weight.shape[1]) if name == LOADED else LAYERS[name]
    large = choice.device == "cpu" and shape[0] * shape[1] > LARGE
    counts, rounds = (CPU_TOKENS if large else TOKENS)[care], 1 if large else ROUNDS
    if large:
        st.warning(
            f"{shape[0]} x {shape[1]} weights are much for a CPU: {max(counts)} tokens at most are timed, and it "
            "takes a minute or more. You may leave the page meanwhile."
        )
    schemes, device = schemes_for(shape[1]), choice.device

    def work(progress: job_view.Progress) -> Live:
        progress(0.0, "bandwidth and rates")
        machine, report = measure_machine(device), measure_paths(shape, counts, schemes, device, progress=progress)
        return Live(machine, report, speed_words.closed(report, device))

    keys = [f"speed|{device}|{shape}|{counts}|{turn}" for turn in range(rounds)]
    again.button("Measure again", on_click=measure_again, args=(keys,), key="again")
    found = []
    for turn, key in enumerate(keys):
        title = f"{shape[0]} x {shape[1]}, up to {max(counts)} tokens, round {turn + 1} of {rounds}"
        start = turn > 0 or (care == QUICK and not large)
        one = job_view.result_of(device, key, title, work, start)
        if one is None:
            break
        found.append(one)
    if not found:
        return None
    report = best_of([one.report for one in found])
    return Live(best_machine([one.machine for one in found], report), report, found[0].closed)


def measure_again(keys: list[str]) -> None:
    """Let go of what was measured; a callback."""
    for key in keys:
        cached.jobs().forget(key)


def recorded(run: Recorded, file: str, row: DeltaGenerator) -> SpeedReport:
    """Which layer of a recorded run, and the words that say that it is one."""
    with row:
        name = controls.select("Layer that was timed", list(run.reports), next(iter(run.reports)), "recorded")
    st.info(f"**Recorded**, not measured now: {run.about}. File `benchmarks/results/{file}`. {run.note}")
    return run.reports[name]


def shown_schemes(report: SpeedReport) -> list[str]:
    """The schemes of the report that the pictures show."""
    texts = list(dict.fromkeys(row.scheme for row in report.rows))
    names = {figures.label(text): text for text in texts}
    usual = {figures.label(text) for text in schemes_for(report.shape[1])}
    default = [name for name in names if name in usual] or list(names)
    chosen = controls.several("Schemes", list(names), default, "schemes", most=len(names))
    return [names[name] for name in chosen]


def times_part(report: SpeedReport, schemes: Sequence[str], closed: Sequence[str]) -> None:
    words, extras = speed_words.measured(report, schemes), speed_words.extras(report, schemes)
    st.markdown("\n".join(f"- {sentence}" for sentence in words))
    counts = sorted({row.tokens for row in report.rows})
    with st.grid(2, min_column_width=430):
        chart(figures.times(report, schemes), key="times", alt=" ".join(words).replace("*", ""))
        with st.container():
            at = controls.steps("Tokens at once", counts, counts[-1], "at") if counts[1:] else counts[0]
            chart(figures.split(report, schemes, at), key="split", alt=split_words(report, schemes, at))
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


def split_words(report: SpeedReport, schemes: Sequence[str], at: int) -> str:
    rows = [row for row in report.rows if row.scheme in schemes and row.tokens == at]
    parts = [f"{figures.label(row.scheme)} {row.encode_ms:.3g} + {row.product_ms:.3g} ms" for row in rows]
    return f"encode + product at {at} tokens: {', '.join(parts)}; bf16 {report.floats[at]:.3g} ms"


def roof_part(
    live: bool, machine: Machine | None, report: SpeedReport | None, shape: tuple[int, int], schemes: list[str]
) -> None:
    """Roofline and bounds of one machine: the one at hand, or a named GPU."""
    st.subheader("What the hardware promises")
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


def native_part() -> None:
    st.subheader("Which GPU multiplies which codes itself")
    st.table(speed_words.native_table().set_index("GPU"))
    why = controls.select("Why", list(speed_words.TABLE_SCHEMES), "FP8", "why")
    st.markdown("\n".join(f"- {sentence}" for sentence in speed_words.reasons(speed_words.TABLE_SCHEMES[why])))
    st.caption(f"Dense rates, TFLOP/s (TOP/s for integers), looked up {LOOKED_UP} in the vendor's papers:")
    st.dataframe(speed_words.rates_table(), hide_index=True, width="stretch")
    st.caption(speed_words.sources())


def memory_part(choice: controls.Choice) -> str:
    """Sizes, bytes and budgets; the call of the cards, as a line of Python."""
    st.subheader("Will it fit?")
    with st.container(horizontal=True, vertical_alignment="bottom"):
        name = controls.pick("Model", [LOADED, *PRESET_SHAPES, CUSTOM], "Llama-3-8B", "card")
        if name == CUSTOM:
            name = controls.line(
                "Layers, hidden, heads, kv heads, FFN, vocabulary", "28,3072,24,8,8192,128256", "typed"
            )
        context = controls.steps("Context, tokens", CONTEXTS, 8192, "context")
        batch = controls.slide("Sequences at once", 1, 64, 4, "batch")
        kv_bits = controls.pick("KV cache, bits", [16, 8], 16, "kv")
    with st.expander("Schemes or plans, one a line"), frame.problems():
        text = controls.lines("Schemes", CARDS, "plans", height=150)
    plans = list(dict.fromkeys(line.strip() for line in text.splitlines() if line.strip()))
    if not 1 <= len(plans) <= 8:
        raise ValueError(f"the list has {len(plans)} schemes; the card takes one to 8")
    place = (name, choice.model_id, choice.device)
    shape = cached.shape_named(*place)
    cards = [cached.memory_card(*place, plan, context, batch, kv_bits) for plan in plans]
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
    st.dataframe(speed_words.card_table(cards), hide_index=True, width="stretch")
    st.caption(
        f"Budgets: {', '.join(map(str, BUDGETS_GB))} GB of 10^9 bytes. A runtime's own memory (CUDA, fragments) comes "
        "on top. Tokens: of KV cache beside the weights, over all sequences; 0 where the weights alone do not fit."
    )
    of = f"PRESET_SHAPES[{name!r}]" if name in PRESET_SHAPES else f"ModelShape.parse({name!r})"
    if name == LOADED:
        of = f'ModelShape.of(load_model({choice.model_id!r}, {choice.device!r}).model, "loaded")'
    return (
        f"for plan in {plans!r}:\n"
        f"    card = footprint({of}, plan, {context}, {batch}, {kv_bits})\n"
        '    print(f"{plan}: {card.total_bytes / 1e9:.2f} GB, {card.weights_bytes / 1e9:.2f} of them weights")\n'
    )


def times_code(report: SpeedReport, device: str, file: str | None) -> str:
    """The call of the times, or of the file that holds them, as lines of Python."""
    counts = sorted({row.tokens for row in report.rows})
    schemes = list(dict.fromkeys(row.scheme for row in report.rows))
    if file is not None:
        path = f'Path("benchmarks/results/{file}")  # of the lab\'s own folder'
        took = f"run = read_run({path})\nreport = list(run.reports.values())[0]\n"
    else:
        took = (
            f"print(measure_machine({device!r}))\n"
            f"report = measure_paths({report.shape}, {counts}, {schemes!r}, {device!r})\n"
        )
    return f"""\
{took}for row in report.rows:
    print(f"{{row.scheme}}, {{row.tokens}} tokens: {{row.total_ms:.3g}} ms, bf16 {{row.float_ms:.3g}} ms")

"""


def body(choice: controls.Choice) -> None:
    runs = cached.recorded_runs()
    by_label = {
        f"recorded: {one.device}, {file.removesuffix('.json')}": file
        for file, one in runs.items()
        if isinstance(one, Recorded)
    }
    for problem in [one for one in runs.values() if isinstance(one, str)]:
        st.caption(problem)
    row = st.container(horizontal=True, vertical_alignment="bottom")
    with row:
        source = controls.select("Times from", [NOW, *by_label], NOW, "run")
    found, report, file = None, None, None
    if source == NOW:
        found = measure_here(choice, row)
        report = None if found is None else found.report
    else:
        file = by_label[source]
        run = runs[file]
        assert isinstance(run, Recorded)
        report = recorded(run, file, row)
    times_here = st.container()  # there before its pictures are: those below keep their place, and so their zoom
    if report is None:
        shape, schemes = LAYERS["Llama-3-8B gate"], schemes_for(4096)
    else:
        shape, schemes = report.shape, shown_schemes(report)
        with times_here:
            times_part(report, schemes, [] if found is None else found.closed)
        frame.numbers(speed_words.times_table(report, schemes), "speed")
    roof_part(source == NOW, None if found is None else found.machine, report, shape, schemes)
    times = "" if report is None else times_code(report, choice.device, file)
    with frame.problems():
        frame.python(python_code.program(times + memory_part(choice)))
    native_part()


frame.show("What does a scheme buy on hardware?", LOOK_FOR, TRIES, PATH, body)
