"""How do I leave with this scheme? A recipe, a checkpoint, a report, and the command lines."""

import math

import streamlit as st
from streamlit.delta_generator import DeltaGenerator

from quantcore.export.experts import experts_in, fused_on_the_hub
from quantcore.export.vllm import CHECKED, serving
from quantcore.lab.bench import LEARNED
from quantcore.measure.duel import short_label
from quantcore.model.layer_names import place_of
from quantcore.model.mixture import known_mixture
from quantcore.scheme.plan import Plan
from quantcore.text.reading import CALIBRATE, Reading
from ui import frame
from ui import widgets as controls
from ui.components.chart import chart
from ui.figures import take as figures
from ui.markdown import as_is
from ui.scheme_builder import grain_words, scheme_line, scheme_menus
from ui.sections.take import checkpoint_part, recipe_part, report_part
from ui.sidebar import PASTED, Choice
from ui.words import take as take_words
from ui.words.names import named

TITLE = "Take it with you"
SECTION = "Decide"
TOKENS = (2560, CALIBRATE.windows * CALIBRATE.length, 16384)  # of our own calibration text

LOOK_FOR = (
    "A recipe runs elsewhere, on a model of any size; a checkpoint is this model, quantized now. Look at what the "
    "bytes are for, and whether your GPU multiplies the codes themselves or only stores them."
)


def tries(choice: Choice) -> frame.Tries:
    """On the loaded model: the kind of layer whose input has the outliers is spared."""
    kind = place_of(choice.lab.default_layer())[1]
    return [
        ("4 bits by GPTQ", {"scheme": "W4A16,gptq/actorder=weight"}),
        ("8 bits on both sides", {"scheme": "W8A8"}),
        (f"{kind} spared", {"scheme": f"W4A16@{kind}=W8A16"}),
        ("what no checkpoint holds", {"scheme": "w:fp4_e2m1/channel"}),
    ]


def chosen_plan(choice: Choice, menus: DeltaGenerator) -> Plan:
    """A scheme by text, preset or menus (which stand in a place of their own), or a plan by text.

    Raises: ValueError where the text is neither."""
    shapes = choice.lab.layers().values()
    shape = math.gcd(*(out for out, _ in shapes)), math.gcd(*(width for _, width in shapes))
    try:
        scheme = scheme_line("**Scheme or plan**", "W4A16", "scheme", choice.lab)
    except ValueError:
        return choice.lab.plan_of(st.session_state["scheme"])  # a plan's exceptions have no menus
    finally:
        st.caption(grain_words(choice.lab))
    with menus, frame.opened("Build it with menus", "menus") as is_open:
        if is_open:
            scheme_menus(scheme, "scheme", shape)
    return Plan.of(scheme)


def learns_from(plan: Plan, choice: Choice) -> str:
    """What the plan learns from; of our own text how much, where it learns at all."""
    if not plan.needs_text:
        return LEARNED
    lab, reading, source = choice.lab, choice.calibration, take_words.OUR_OWN
    if reading == LEARNED:
        reading = str(CALIBRATE.at_most(controls.pick("Tokens to calibrate on", TOKENS, TOKENS[1], "learn")))
    else:
        source = Reading.parse(reading).words(lab.texts)
    st.caption(as_is(take_words.calibrated(plan, lab.tokens(reading).numel(), source)))
    return reading


def command(plan: Plan, choice: Choice, calibration: str) -> str:
    """The shell's line that writes the same checkpoint."""
    lab, reading = choice.lab, Reading.parse(calibration)
    name = lab.texts[reading.source].name if reading.own else None
    own = "your-text.txt" if name == PASTED else name
    learned = reading if plan.needs_text else None
    return take_words.quantize_command(lab.id, plan, lab.short_name(str(plan)), learned, own)


def body(choice: Choice) -> None:
    lab, editor, first, menus = choice.lab, st.container(), st.container(), st.container()
    with editor:
        plan = chosen_plan(choice, menus)
        plan.require_layers(list(lab.layers()))
        calibration = learns_from(plan, choice)
    text, label = str(plan), named(str(plan), 70)
    schemes = plan.schemes_of(lab.layers(), lab.head)
    parts, refused = lab.promise(text), take_words.refusal(lab.model, schemes, plan.kv)
    places, fused = list(experts_in(lab.model)), fused_on_the_hub(lab.model)
    mixture = known_mixture(lab.model)
    served = serving(lab.short_name(text), schemes, lab.loaded.context, places, lab.layers(), fused, plan.kv, mixture)
    said, left = take_words.price(parts, label, schemes.values())
    with first:
        frame.headline(said)
    with first, st.grid(2, min_column_width=480):
        with st.container():
            if left:
                st.markdown(left)
            if refused is not None:
                st.warning(as_is(refused))
            st.markdown("\n".join(f"- {sentence}" for sentence in take_words.runs(served, schemes)))
            chart(figures.bytes_by_part(parts, short_label(text, 24)), key="bytes", alt=said.replace("*", ""))
            if refused is None:
                st.code(command(plan, choice, calibration), "bash", wrap_lines=True)
                st.code(served.command, "bash", wrap_lines=True)
        with st.container(), frame.problems():
            recipe_part(plan, lab)
    if refused is None:
        st.header("The checkpoint")
        with frame.problems():
            checkpoint_part(text, choice, calibration)
    st.header("Reports")
    report_part(plan, choice)
    st.caption(f"{take_words.CAPABILITIES} Read in: vendors' datasheets; {CHECKED}. Nothing was run with vLLM here.")
    frame.numbers(take_words.parts_table(parts), "take_it_with_you")


frame.show(__file__, "How do I leave with this scheme?", LOOK_FOR, tries, body)
