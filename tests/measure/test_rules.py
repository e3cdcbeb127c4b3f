"""Eight rules as data; a verdict follows from the differences alone; a rule runs on a model."""

from pathlib import Path

import pytest
import torch

from quantcore.measure.luck import Spread
from quantcore.measure.rules import (
    EQUAL,
    FAILS,
    HOLDS,
    LEADS,
    TRAILS,
    UNCHALLENGED,
    Bout,
    Rule,
    best_practice,
    verdict_of,
)  # fmt: skip
from quantcore.measure.statistics import Interval
from quantcore.measure.store import Store
from quantcore.measure.told_apart import Apart
from quantcore.model.loading import LoadedModel
from quantcore.scheme.scheme import Scheme

BETTER, WORSE, SAME = Interval(-2, -3, -1, 0.01), Interval(2, 1, 3, 0.01), Interval(0.1, -1, 1.2, 0.8)


def test_there_are_eight_and_each_says_all() -> None:
    rules = best_practice()
    assert len(rules) == len({rule.key for rule in rules}) == 8
    for rule in rules:
        Scheme.parse(rule.scheme)
        assert rule.challengers
        assert rule.text.endswith(".")
        assert rule.since.endswith((".", "can."))
        assert rule.as_of.startswith("2026-")
    parsed = [text for rule in rules if rule.key != "static-tensor" for text in rule.challengers]
    assert [str(Scheme.parse(text)) for text in parsed]


@pytest.mark.parametrize(
    ("differences", "verdict"),
    [
        ([BETTER, BETTER], HOLDS),
        ([BETTER, SAME], EQUAL),
        ([BETTER, WORSE], FAILS),
        ([SAME, WORSE], FAILS),
        ([None, None], UNCHALLENGED),
        ([None, BETTER], HOLDS),
        ([None, SAME], EQUAL),
    ],
)
def test_the_verdict(differences: list[Interval | None], verdict: str) -> None:
    by_text = {HOLDS: LEADS, FAILS: TRAILS}
    for luck, said in ((0.5, verdict), (None, by_text.get(verdict, verdict))):
        aparts = [None if one is None else Apart(one, None, luck, one.p) for one in differences]
        assert verdict_of(tuple(Bout("x", one, None if one else "why") for one in aparts)) == said


def _rule(scheme: str, *challengers: str) -> Rule:
    return Rule("k", "t.", "w", scheme, challengers, "", "", "2026-11")


def test_a_rule_runs_on_a_model(tiny_lm: LoadedModel, tmp_path: Path) -> None:
    tokens, store = torch.randint(3, 200, (12, 40)), Store(tmp_path)
    good, bad = "w:int8/channel", "w:int2/tensor"
    holds = _rule(good, bad).test(tiny_lm, tokens, tokens, store)
    assert holds.verdict == LEADS
    kl = {text: report.kl for text, report in holds.duel.reports.items()}
    assert holds.with_luck({text: Spread((one, 1.01 * one, 0.99 * one)) for text, one in kl.items()}).verdict == HOLDS
    assert holds.with_luck({text: Spread((one, 3 * one, one / 3)) for text, one in kl.items()}).verdict == EQUAL
    apart = holds.bouts[0].apart
    assert apart is not None
    assert apart.share == pytest.approx(holds.duel.reports[good].kl / holds.duel.reports[bad].kl - 1)
    assert apart.difference.value == pytest.approx(holds.duel.reports[good].kl - holds.duel.reports[bad].kl)
    assert _rule(bad, good).test(tiny_lm, tokens, tokens, store).verdict == TRAILS
    itself = _rule("W4A16", "w:int4/group64").test(tiny_lm, tokens, tokens, store)
    assert itself.verdict == UNCHALLENGED
    assert itself.bouts[0].refused == (
        "on this model it is the rule's own scheme: it has groups of 64, because 64 / 128 is no whole number"
    )


def test_what_cannot_be_built_has_its_reason_and_challenges_nothing(tiny_lm: LoadedModel, tmp_path: Path) -> None:
    rule = next(rule for rule in best_practice() if rule.key == "static-tensor")
    tokens = torch.randint(3, 200, (6, 40))
    result = _rule(rule.scheme, *rule.challengers).test(tiny_lm, tokens, tokens, Store(tmp_path))
    assert result.verdict == UNCHALLENGED
    assert all("tomorrow's tokens have no recorded scale" in (bout.refused or "") for bout in result.bouts)
    assert result.bouts[1].challenger.endswith("a:int8/group64/static")  # the tiny model's own group: 64 / 128 is none


@pytest.mark.parametrize(("width", "group"), [(256, "group128"), (576, "group64"), (100, "group32")])
def test_a_challenger_has_the_models_own_group(width: int, group: str) -> None:
    rule = next(rule for rule in best_practice() if rule.key == "static-tensor").on({"a.b": (64, width)})
    assert rule.challengers[1] == f"w:int8/channel,a:int8/{group}/static"
