"""Which scheme should I ship? This model, this GPU, this load: one card, one canvas, and why not the others."""

import streamlit as st

from quantcore.advice.catalog import catalogue
from quantcore.advice.choice import GOALS, Advice, Verdict
from quantcore.advice.load import Load
from quantcore.advice.losses import TOLERANCES
from quantcore.lab.advice import GOAL, GPU, HERE, TOLERANCE
from quantcore.lab.bench import LEARNED, MEASURED
from quantcore.lab.hardware import LOADED
from quantcore.lab.lab import Lab
from quantcore.measure.luck import JITTERS
from quantcore.model.locate import REFERENCE
from quantcore.scheme.plan import Plan
from quantcore.studies.gpus import GPUS
from ui import frame
from ui import widgets as controls
from ui.answers import answer
from ui.classroom import classroom
from ui.components.chart import chart
from ui.figures import advice as figures
from ui.sections.advice import leave_part, serve_part
from ui.settled import Question, settled
from ui.sidebar import Choice
from ui.words import advice as words

TITLE = "Which scheme to ship"
SECTION = "Decide"
LARGE = "meta-llama/Llama-3.3-70B-Instruct"  # instead of the model that comes along, which fits everywhere as it is
OTHER = "another: hub id, folder or config.json"
FREE = "whatever fits"
FINALISTS_LUCK = f"Measure the finalists' rounding luck too: each {JITTERS} times more"
PROMPTS, ANSWERS = (32, 128, 256, 512, 1024, 2048, 4096, 8192), (16, 64, 128, 256, 512, 1024)

LOOK_FOR = (
    "Few sequences wait for the weights to arrive, many for arithmetic: move the load and watch which scheme wins. "
    "Right of the wall nothing fits; a larger point loses more; bars hold eight in ten of the true times."
)
TRIES: frame.Tries = [
    ("70B on two H100, losing least", {"shape": LARGE, "gpu": "H100 SXM", "gpus": 2, "goal": "quality"}),
    ("8B on an RTX 4090", {"shape": "meta-llama/Meta-Llama-3.1-8B", "gpu": "RTX 4090"}),
    ("a busy server", {"shape": "Qwen/Qwen3-32B", "gpu": "H200", "at_once": 64, "context": 4096}),
    ("the loaded model, on a T4", {"shape": LOADED, "gpu": "T4"}),
]


def asked_for(choice: Choice) -> tuple[tuple[str, int, str, str, str], str]:
    """What an advice is asked for, and of which model. Only the loaded one's loss can be held to a limit: it alone can
    be measured."""
    usual = Load()
    first = controls.follow_default("shape", LARGE if choice.lab.source == REFERENCE else LOADED)
    with st.container(horizontal=True, vertical_alignment="bottom", gap="small"):
        others = [] if classroom() is not None else [OTHER]  # a visitor of a class reads no files of the server
        model = controls.select("Model", [LOADED, *catalogue(), *others], first, "shape", width=310)
        if model == OTHER:
            model = controls.line(
                "Hub id, folder or config.json", "", "config", width=310, placeholder="Qwen/Qwen3-8B"
            ).strip()
        gpu = controls.select("GPU", [*GPUS, HERE], GPU, "gpu", width=190)
        gpus = controls.pick("How many", (1, 2, 4, 8), 1, "gpus")
        goal = controls.pick("What matters", GOALS, GOAL, "goal")
        limit = FREE
        if model == LOADED:
            limit = controls.select("How much may be lost", list(TOLERANCES), TOLERANCE, "limit")
    with frame.controls_in_sight(stacked=True), st.grid(4, min_column_width=180, gap="small"):
        context = controls.steps("Context, tokens", controls.CONTEXTS, usual.context, "context")
        sequences = controls.steps("Sequences at once", controls.SEQUENCES, usual.sequences, "at_once")
        prompt = controls.steps("Prompt, tokens", PROMPTS, usual.prompt, "prompt_tokens")
        reply = controls.steps("Answer, tokens", ANSWERS, usual.answer, "answer_tokens")
    longest = choice.lab.loaded.context if model == LOADED else None
    if not model:
        st.caption("Shapes are enough: of a hub id only the config.json is read, of a folder too.")
    if longest is not None and context > longest:
        st.caption(f"The loaded model was made for {longest:,} tokens; a longer context is counted all the same.")
    return (gpu, gpus, str(Load(sequences, context, prompt, reply)), goal, limit), model


def prepared(gpu: str, model: str) -> list[Question]:
    """What an advice takes time for: the GPU, where it is this machine, and what each candidate would weigh."""
    return [(Lab.machine_named, gpu), *([(Lab.candidate_bytes,)] if model == LOADED else [])]


def card(found: Advice, shown: Verdict | None) -> None:
    """The advice, or the point that was clicked."""
    frame.headline(words.title(found))
    if shown is None:
        return
    if shown != found.chosen:
        st.markdown(f"**{shown.candidate.name}**, which you clicked: {shown.why or 'the advice'}")
    chart(figures.memory(shown), key="bar", alt=words.card(shown)[0].replace("*", ""))
    st.markdown("\n".join(f"- {line}" for line in words.card(shown)))
    if found.runner_up is not None:
        st.markdown(f"Runner-up: **{found.runner_up.candidate.name}**, {found.runner_up.why}.")


def body(choice: Choice) -> None:
    asked, model = asked_for(choice)
    if not model:
        return
    lab = choice.lab
    drawn = settled("advice", f"The candidates on {asked[0]}", lab, (asked[0], model), prepared)
    if drawn is None:
        return
    asked, model = (drawn[0], *asked[1:]), drawn[1]
    top = st.container()
    found = lab.advise(*asked, model)
    if model == LOADED and found.chosen is not None:
        title, button = f"candidates of {lab.id}", "Measure the candidates on this model"
        got = answer(title, lab, Lab.tried, *asked, start=False, button=button)
        found = got.whole or got.so_far or found
        if got.whole is not None and got.whole.chosen is not None:
            with_luck = (*asked, MEASURED, LEARNED, True)
            found = answer(title, lab, Lab.tried, *with_luck, start=False, button=FINALISTS_LUCK).whole or found
    with top, st.grid(2, min_column_width=430):
        place = st.container()
        clicked = chart(figures.canvas(found), key="canvas", alt=words.title(found).replace("*", ""), on_click=True)
        name = clicked["customdata"] if clicked else None
        named = {one.candidate.name: one for one in found.verdicts}
        with place:
            card(found, named.get(name[0] if isinstance(name, list) else str(name), found.chosen))
    if found.tolerance != FREE and not found.held:
        st.caption(
            f"That {found.tolerance} is kept to is not known yet: the losses of some candidates were not measured on "
            "this model. Measure the candidates above."
        )
    st.header("Why not the others")
    table = words.table(found)
    st.table(table[["candidate", "why not", "GB", "tokens/s", "KL", "KL of"]].set_index("candidate"))
    st.caption(words.elsewhere(found))
    if found.chosen is not None:
        with frame.problems():
            plan = Plan.parse(found.chosen.candidate.text)
            serve_part(found, plan, choice, model)
            if model == LOADED:
                leave_part(plan, choice)
    with st.expander("Whose figures these are"):
        st.markdown(words.trust(found))
        st.markdown("How vLLM's own backend did beside bf16, on an H200, for a weight of 14336 x 4096:")
        st.table(words.others().set_index("tokens"))
        st.markdown(words.GUIDE)
        gpu = GPUS.get(found.gpu)
        if gpu is not None:
            st.caption(f"{gpu.name}: {gpu.source}, looked up {gpu.looked_up}. {gpu.note}")
    frame.numbers(table, "advice")


frame.show(__file__, "Which scheme should I ship?", LOOK_FOR, TRIES, body)
