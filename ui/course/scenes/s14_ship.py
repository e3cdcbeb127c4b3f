"""Ship it: which scheme for int4, int8, fp8? The rules of best practice, run on this model."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import plotly.graph_objects as go

from quantcore.lab.lab import Lab
from quantcore.measure.rules import (
    EQUAL,
    FAILS,
    HOLDS,
    LEADS,
    TRAILS,
    UNCHALLENGED,
    Rule,
    RuleResult,
    best_practice,
)
from quantcore.pipeline.calibration import Progress, part_of
from quantcore.text.reading import EVALUATE
from ui.components.palette import BLUE, GREEN, INK
from ui.course.guess import Rows
from ui.course.scene import Missing, Reveal, Scene, Shown, Specimen
from ui.course.stage import picture
from ui.words.digits import shown_tail

READING = str(EVALUATE.at_most(2560))
GROUPS = "int4-groups"
ASKED = {GROUPS: "int4 weights", "int8-tokens": "int8 inputs", "fp8-weights": "fp8 weights"}
WORDS = {
    "W4A16": "a scale a group",
    "w:int4/channel": "a scale a row",
    "w:int4/tensor": "one scale",
    "w:int8/channel,a:int8/token/dynamic": "a scale a token",
    "w:int8/channel,a:int8/tensor/dynamic": "one scale, at run time",
    "w:int8/channel,a:int8/tensor/static": "one scale, frozen",
    "w:fp8_e4m3/tensor": "one scale",
    "w:fp8_e4m3/channel": "a scale a row",
}


ENDS = {
    **dict.fromkeys((HOLDS, LEADS), "win"),
    **dict.fromkeys((FAILS, TRAILS), "are beaten"),
    EQUAL: "cannot be told from their rivals",
    UNCHALLENGED: "have no rival",
}


def rules() -> dict[str, Rule]:
    return {rule.key: rule for rule in best_practice() if rule.key in ASKED}


def schemes(rule: Rule) -> tuple[str, ...]:
    return (rule.scheme, *rule.challengers)


def runs(lab: Lab, rule: Rule) -> bool:
    """Whether its schemes are different ones on this model, and all fit it."""
    able, refused = lab.sorted_out(schemes(rule))
    return not refused and len(able) == len(schemes(rule))


def find(lab: Lab) -> Specimen | Missing:
    able = {key: rule for key, rule in rules().items() if runs(lab, rule)}
    if not able:
        return Missing("None of the three rules can run on this model: their schemes do not divide its weights.")
    group = f"A group is {lab.grain.removeprefix('group')} weights of a row."
    if GROUPS not in able:
        group = "No rule for int4: this model takes no groups of 32, 64 or 128."
    said = (
        f"The whole model now, all its layers, on {lab.tokens(READING).numel():,} tokens of five kinds of text. For "
        "each number format pick whose scale it is; the one whose predictions stay nearest to the float model's "
        f"(least KL) is right. {group}"
    )
    rows = tuple((ASKED[key], tuple(WORDS[text] for text in schemes(rule))) for key, rule in able.items())
    return Specimen(said, Rows(rows), of=tuple(able))


def reveal(lab: Lab, found: Specimen) -> Reveal:
    results = {key: lab.rule(key, READING) for key in found.of}
    guess = found.guess
    assert isinstance(guess, Rows)
    best = {key: nearest(lab, rules()[key], one) for key, one in results.items()}
    truth = guess.of(*(WORDS[best[key]] for key in results))
    answer = "; ".join(f"{ASKED[key]}: **{WORDS[text]}**" for key, text in best.items()) + "."
    why = f"Striped are the usual rules. {verdicts(results)}"
    changed = [rules()[key] for key in results if not rules()[key].since.startswith("Nothing")]
    since = " ".join(f"{ASKED[rule.key]}: {rule.since}" for rule in changed[-2:])
    twist = f"Rules age; as of {changed[-1].as_of}: {since}" if changed else ""
    shown = Shown(bars(lab, results), answer.replace("*", ""), 430)
    return Reveal(truth, answer, why, (shown,), twist, more=("pages/9_Rules_tested.py", {}))


def verdicts(results: dict[str, RuleResult]) -> str:
    """Which rules win here, which are beaten, and by whose chance that is judged."""
    ends: dict[str, list[str]] = {}
    for key, result in results.items():
        ends.setdefault(ENDS[result.verdict], []).append(ASKED[key])
    said = "; ".join(f"**{end}** for {listed(keys)}" for end, keys in ends.items())
    by_text = {LEADS, TRAILS} & {result.verdict for result in results.values()}
    chance = "this text; the chance of rounding was not measured" if by_text else "this text and of rounding"
    return f"On this model they {said}. A win is one beyond the chance of {chance}."


def listed(keys: Sequence[str]) -> str:
    *others, last = keys
    return f"{', '.join(others)} and {last}" if others else last


def measure(lab: Lab, found: Specimen, tell: Progress) -> None:
    """All rules, one after another."""
    keys: tuple[str, ...] = found.of
    for place, key in enumerate(keys):
        lab.rule(key, READING, progress=part_of(tell, place, len(keys), ASKED[key]))


def nearest(lab: Lab, rule: Rule, result: RuleResult) -> str:
    kl = {text: kl_of(lab, result, text) for text in schemes(rule)}
    return min(kl, key=lambda text: kl[text])


def kl_of(lab: Lab, result: RuleResult, text: str) -> float:
    return result.duel.reports[str(lab.plan_of(text))].kl


def bars(lab: Lab, results: dict[str, RuleResult]) -> go.Figure:
    """KL of every scheme, rule by rule, on a log axis: the rule's own scheme is striped."""
    fig = picture("KL, nats (log): less is nearer", "", 430, showlegend=False, bargap=0.3)
    names, values, numbers, colours, shapes = [], [], [], [], []
    for key, result in reversed(results.items()):
        rule = rules()[key]
        best = nearest(lab, rule, result)
        for text in reversed(schemes(rule)):
            names.append(f"{ASKED[key]}: {WORDS[text]}")
            values.append(max(kl_of(lab, result, text), 1e-9))
            numbers.append(shown_tail(str(lab.plan_of(text)), values[-1]))
            colours.append(GREEN if text == best else BLUE)
            shapes.append("/" if text == rule.scheme else "")
    fig.add_trace(
        go.Bar(
            x=values,
            y=names,
            orientation="h",
            marker={"color": colours, "pattern": {"shape": shapes}},
            text=numbers,
            textposition="outside",
            textfont={"color": INK},
            cliponaxis=False,
        )
    )
    ends = float(np.log10(min(values))) - 0.4, float(np.log10(max(values))) + 0.5  # room for the numbers
    fig.update_xaxes(type="log", dtick=1, range=ends)
    fig.add_annotation(
        text="striped: the rule's", x=1, y=1.0, xref="paper", yref="paper", xanchor="right", yanchor="bottom",
        showarrow=False,
    )  # fmt: skip
    return fig


SCENE = Scene(
    "ship",
    "Ship it",
    "Which scheme would you ship, for int4, int8 and fp8?",
    find,
    reveal,
    slow="Three rules on the whole model",
    measure=measure,
)
