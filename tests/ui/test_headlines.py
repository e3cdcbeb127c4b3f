"""What pages say first, from reports with numbers that a reader sees through."""

from types import SimpleNamespace
from typing import Any

import pytest

from quantcore.measure.luck import USUAL
from quantcore.measure.rules import EQUAL, FAILS, HOLDS, UNCHALLENGED, Bout
from quantcore.measure.statistics import Interval
from quantcore.measure.told_apart import Apart
from quantcore.studies.gpus import GPUS
from ui.words import gptq, granularity, rules, take


def row(name: str, sqnr_db: float, bits: float) -> Any:
    return SimpleNamespace(granularity=name, token_sqnr_db=sqnr_db, bits_per_weight=bits)


def test_granularity_sets_the_chosen_tiles_beside_one_scale_for_all() -> None:
    rows = row("tensor", 5.0, 4.0), row("channel", 12.0, 4.03), row("group64", 21.0, 4.25)
    said = granularity.headline(SimpleNamespace(rows=rows, chosen=rows[2]))  # type: ignore[arg-type]
    assert said == (
        "Of the median token's output **group64** keeps **21.0 dB** at **4.250 bits** a weight; tensor keeps 5.0 dB at "
        "4.000 bits a weight."
    )
    said = granularity.headline(SimpleNamespace(rows=rows, chosen=rows[0]))  # type: ignore[arg-type]
    assert "**tensor** keeps **5.0 dB**" in said
    assert "group64 keeps 21.0 dB" in said


def test_rules_count_verdicts_and_what_waits() -> None:
    def results(*verdicts: str) -> Any:
        return {str(place): SimpleNamespace(verdict=verdict) for place, verdict in enumerate(verdicts)}

    assert rules.headline(results(HOLDS, HOLDS, EQUAL), 8) == (
        "Of 3 rules run on this model **2** held, **1** made no difference beyond chance; 5 wait below."
    )
    assert rules.headline(results(FAILS), 1) == "Of 1 rule run on this model **1** did not hold here."
    assert "**1** had no rival" in rules.headline(results(UNCHALLENGED), 1)


@pytest.mark.parametrize(
    ("share", "luck", "may"),
    [(0.9 * USUAL, None, True), (-0.9 * USUAL, None, True), (1.1 * USUAL, None, False), (0.9 * USUAL, 0.01, False)],
)
def test_a_rules_difference_that_luck_may_make_says_so(share: float, luck: float | None, may: bool) -> None:
    apart = Apart(Interval(0.1, 0.05, 0.15, 0.001), share, luck, 0.001)
    said = rules.bout_words(Bout("w:int4/channel", apart))
    assert ("which luck alone may make" in said) == may
    assert ("rounding luck not measured" in said) == (luck is None)
    assert f"**{100 * share:+.3g}%** of its KL" in said


def test_gptq_says_what_is_left_of_rtns_loss() -> None:
    losses = 100.0, 31.0, 28.0, 27.0
    study: Any = SimpleNamespace(courses=[SimpleNamespace(loss=loss) for loss in losses])
    said = gptq.headline(study, "layers.0")
    assert said == (
        "On `layers.0` GPTQ is left with **31%** of the loss of rounding to nearest, with the loud columns first "
        "**28%**."
    )
    study.courses[2].loss = 33.0
    assert "no less (33%)" in gptq.headline(study, "layers.0")


def test_gpus_are_named_by_generation_where_all_of_it_is_meant() -> None:
    assert take.kinds(list(GPUS)) == f"all {len(GPUS)} GPUs of the table"
    hopper = [one.name for one in GPUS.values() if one.family.startswith("Hopper")]
    assert take.kinds([*hopper, "T4"]) == "T4, Hopper"  # a generation of one row is called by its name
    assert take.kinds(hopper[:-1]) == ", ".join(hopper[:-1])
