"""Do the rules of best practice hold on this model? Eight of them, each run against what one would do otherwise."""

import pandas as pd
import streamlit as st

from quantcore.measure.duel import short_label
from quantcore.measure.rules import EQUAL, FAILS, HOLDS, Bout, Rule, RuleResult, best_practice
from ui import cached, frame, job_view, python_code
from ui import widgets as controls
from ui.components.chart import chart
from ui.figures import rules as figures
from ui.words import duel as duel_words

PATH = "pages/9_Rules_tested.py"
TOKENS = (2560, 5120, 16384)
ALL = "all eight"
FIRST = ("int4-groups", "int8-tokens")  # run without a click: rounding to nearest, a few seconds
MARKS = {
    HOLDS: ":green[**✓ holds**]",
    FAILS: ":red[**✗ does not hold here**]",
    EQUAL: ":gray[**≈ no significant difference**]",
}

LOOK_FOR = (
    "A rule is a starting point that somebody found on other models. Here each one runs on the loaded model, and the "
    "verdict is the paired difference of KL over windows of one text: beyond chance, or not told apart."
)


def card(rule: Rule, choice: controls.Choice, limit: int, run: bool) -> tuple[str, RuleResult] | None:
    """One rule: words, run, verdict, picture, what has changed since."""
    place = (choice.model_id, choice.device)
    loaded, store, hashed = cached.model(*place), cached.store_for(choice.calibration), cached.hash_of(*place)
    texts = cached.duel_texts(*place, "evaluation/all", limit, choice.calibration)
    st.markdown(f"**{rule.text}**")
    st.markdown(rule.why)
    st.caption(f"`{rule.scheme}` against {', '.join(f'`{text}`' for text in rule.challengers)}")
    result, so_far = cached.kept_rule(*place, limit, rule.key, choice.calibration), None
    if result is None:
        key = f"rule|{'|'.join(place)}|{limit}|{choice.calibration}|{rule.key}"
        result = job_view.result_of(
            choice.device,
            key,
            f"Rule: {rule.text.rstrip('.')}",
            lambda tell: rule.test(loaded, *texts, store, hashed, tell, tell.show),
            start=run,
        )
        so_far = job_view.so_far(key)
    if result is not None:
        st.markdown(f"{MARKS[result.verdict]}{f' - {rule.when_equal}' if result.verdict == EQUAL else ''}")
        st.markdown("\n".join(f"- {bout_words(bout)}" for bout in result.bouts))
    elif so_far is not None:
        st.markdown(duel_words.so_far(so_far.duel, limit))
    if (drawn := result or so_far) is not None:
        said = f"{drawn.verdict}: " + "; ".join(bout_words(bout) for bout in drawn.bouts)
        chart(figures.bouts(drawn, rule.scheme), key=f"rule_{rule.key}", alt=said.replace("`", ""))
    st.caption(f"What has changed since (looked up {rule.as_of}): {rule.since}")
    return None if result is None else (rule.key, result)


def code(choice: controls.Choice, keys: list[str], limit: int) -> str:
    return python_code.program(f"""\
{python_code.texts(choice, "evaluation/all", limit)}for rule in best_practice():
    if rule.key in {keys!r}:
        result = rule.test(lm, tokens, calibration, Store())
        print(rule.key, result.verdict, *[bout.difference or bout.refused for bout in result.bouts], sep="\\n  ")
""")


def bout_words(bout: Bout) -> str:
    if bout.difference is None:
        return f"`{bout.challenger}` cannot be built: {bout.refused}"
    difference = bout.difference
    how = "beyond chance" if difference.significant else "within chance"
    return (
        f"KL {difference.value:+.4g} nats against `{short_label(bout.challenger, 60)}`, {how} "
        f"(95%: {difference.lo:+.3g} to {difference.hi:+.3g})"
    )


rules = best_practice()
TRIES = [
    ("fp8 weights: has it changed?", {"rule": "fp8-weights"}),
    ("run all eight", {"rule": ALL, "run": "true"}),
    ("more text, surer verdicts", {"tokens": 16384}),
]


def body(choice: controls.Choice) -> None:
    with st.container(horizontal=True, vertical_alignment="bottom"):
        wanted = controls.select("Rule", [ALL, *(rule.key for rule in rules)], ALL, "rule")
        limit = controls.pick("Tokens", TOKENS, TOKENS[0], "tokens")
        run_all = controls.switch("Run all without asking", False, "run")
    job_view.kept_notice()
    results: dict[str, RuleResult] = {}
    with st.grid(1 if wanted != ALL else 2, min_column_width=430, border=True):
        for rule in rules:
            if wanted in (ALL, rule.key):
                with st.container(key=f"card_{rule.key}"), frame.problems():
                    run = run_all or rule.key in FIRST or wanted == rule.key
                    if (found := card(rule, choice, limit, run)) is not None:
                        results[found[0]] = found[1]
    shown = [rule.key for rule in rules if wanted in (ALL, rule.key)]
    frame.python(code(choice, list(results) or shown, limit))
    if results:
        rows = [
            {
                "rule": key,
                "verdict": result.verdict,
                "challenger": bout.challenger,
                "KL difference": None if bout.difference is None else bout.difference.value,
                "lo": None if bout.difference is None else bout.difference.lo,
                "hi": None if bout.difference is None else bout.difference.hi,
                "refused": bout.refused,
            }
            for key, result in results.items()
            for bout in result.bouts
        ]
        frame.numbers(pd.DataFrame(rows), "rules")


frame.show("Do the rules of best practice hold here?", LOOK_FOR, TRIES, PATH, body)
