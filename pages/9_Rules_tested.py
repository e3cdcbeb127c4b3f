"""Do the rules of best practice hold on this model? Eight of them, each run against what one would do otherwise."""

import streamlit as st

from quantcore.lab.lab import Lab
from quantcore.measure.rules import Rule, RuleResult, best_practice
from quantcore.text.reading import EVALUATE
from ui import frame, job_view
from ui import widgets as controls
from ui.answers import answer
from ui.components.chart import chart
from ui.figures import rules as figures
from ui.ready import RULE_TOKENS, RULES
from ui.sections.luck import luck_part
from ui.sidebar import Choice
from ui.words import duel as duel_words
from ui.words import rules as words

TITLE = "Rules, tested"
SECTION = "Lab"
ALL = "all eight"

LOOK_FOR = (
    "A rule is a starting point that somebody found on other models. Here each one runs on the loaded model, and the "
    "verdict is the paired difference of KL over windows of one text: real only beyond the chance of the text and of "
    "rounding luck, which a button measures."
)
TRIES: frame.Tries = [
    ("fp8 weights: has it changed?", {"rule": "fp8-weights"}),
    ("run all eight", {"rule": ALL, "run": "true"}),
    ("more text, surer verdicts", {"tokens": 16384}),
]


def card(rule: Rule, choice: Choice, reading: str, run: bool) -> RuleResult | None:
    """One rule: words, run, verdict, picture, what has changed since."""
    st.markdown(f"**{rule.text}**")
    st.markdown(rule.why)
    lines = [words.spelled(text, choice.lab) for text in (rule.scheme, *rule.challengers)]
    st.caption(f"`{lines[0]}` against {', '.join(f'`{text}`' for text in lines[1:])}")
    title = f"Rule: {rule.text.rstrip('.')}"
    found = answer(
        title, choice.lab, Lab.rule, rule.key, reading, choice.calibration, start=run, place=f"rule {rule.key}"
    )
    result, so_far = found.whole, found.so_far
    if result is not None:
        said = st.container()
        if any(bout.apart for bout in result.bouts):
            spreads = luck_part(choice.lab, tuple(result.duel.reports), reading, choice.calibration)
            result = result if spreads is None else result.with_luck(spreads)
        said.markdown(words.verdict(rule, result))
        said.markdown("\n".join(f"- {words.bout_words(bout)}" for bout in result.bouts))
    elif so_far is not None:
        st.markdown(duel_words.so_far(so_far.duel, choice.lab.tokens(reading).numel()))
    if (drawn := result or so_far) is not None:
        chart(figures.bouts(drawn), key=f"rule_{rule.key}", alt=words.alt(drawn))
    st.caption(f"What has changed since (looked up {rule.as_of}): {rule.since}")
    return result


def body(choice: Choice) -> None:
    rules = {rule.key: rule.on(choice.lab.shapes()) for rule in best_practice()}
    with frame.controls_in_sight():
        wanted = controls.select("Rule", [ALL, *rules], ALL, "rule")
        reading = str(EVALUATE.at_most(controls.pick("Tokens", RULE_TOKENS, RULE_TOKENS[0], "tokens")))
        run_all = controls.switch("Run all without asking", False, "run")
    top = st.container()
    job_view.kept_notice()
    results: dict[str, RuleResult] = {}
    shown = list(rules) if wanted == ALL else [wanted]
    with st.grid(min(2, len(shown)), min_column_width=430):  # two stacks: no card waits for a taller one beside it
        stacks = [st.container() for _ in shown[:2]]
    half = -(-len(shown) // 2)
    for place, key in enumerate(shown):
        with stacks[place // half], st.container(border=True, key=f"card_{key}"), frame.problems():
            run = run_all or key in RULES or wanted == key
            if (found := card(rules[key], choice, reading, run)) is not None:
                results[key] = found
    if results:
        with top:
            frame.headline(words.headline(results, len(shown)))
        frame.numbers(words.table(results), "rules")


frame.show(__file__, "Do the rules of best practice hold here?", LOOK_FOR, TRIES, body)
