"""What pages say first, from reports with numbers that a reader sees through."""

from types import SimpleNamespace
from typing import Any

import pytest

from quantcore.measure.luck import USUAL
from quantcore.measure.rules import EQUAL, FAILS, HOLDS, UNCHALLENGED, Bout
from quantcore.measure.statistics import Interval
from quantcore.measure.told_apart import Apart
from quantcore.studies.gpus import GPUS
from ui.figures.sensitivity import code_bits
from ui.words import gptq, granularity, layer, rules, speed, start, take
from ui.words import range as range_words


def row(name: str, sqnr_db: float, bits: float) -> Any:
    return SimpleNamespace(name=name, token_sqnr_db=sqnr_db, bits_per_weight=bits)


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


def next_word(kl: float, same: bool) -> Any:
    return SimpleNamespace(kl=kl, same_first=same, likeliest=[SimpleNamespace(text='" Lily"')])


def test_the_first_page_says_what_bits_cost_a_row_and_the_next_token() -> None:
    a_row: Any = SimpleNamespace(zeros=0.218)
    assert start.headline(4, a_row, None) == "**4 bits** set **21.8%** of this row's weights to 0."
    assert start.headline(4, a_row, next_word(0.2046, True)) == (
        "**4 bits** set **21.8%** of this row's weights to 0; in the whole model they move the next token's chances by "
        '**0.205 nats**, and `" Lily"` stays the likeliest.'
    )
    assert '`" Lily"` is the likeliest no more.' in start.headline(2, a_row, next_word(3.1, False))


def test_a_frozen_range_is_set_beside_one_for_each_token() -> None:
    frozen = SimpleNamespace(name="min and max", token_sqnr_db=12.0), SimpleNamespace(name="mse", token_sqnr_db=26.1)
    others = SimpleNamespace(token=SimpleNamespace(token_sqnr_db=32.7))
    said = range_words.headline(SimpleNamespace(static=frozen, others=others))  # type: ignore[arg-type]
    assert "the best frozen range, mse, keeps **26.1 dB**" in said
    assert "found at run time, keeps **32.7 dB**" in said


def test_of_two_schemes_on_a_layer_the_better_is_named() -> None:
    def study(sqnr_db: float, bits: float) -> Any:
        return SimpleNamespace(token_sqnr_db=sqnr_db, bits_per_weight=bits, output=SimpleNamespace(sqnr_db=sqnr_db + 1))

    said = layer.headline({"A": study(2.0, 4.02), "B": study(21.27, 4.125)})
    assert said == (
        "**B keeps more than A** of the median token's output: **21.3 dB** against **2.0 dB** (the whole output: 22.3 "
        "dB and 3.0 dB), for 4.125 and 4.020 bits a weight."
    )
    assert "keep the same of the median token's output, **2.0 dB**" in layer.headline(
        {"A": study(2.01, 4.0), "B": study(2.04, 5.0)}
    )
    assert layer.headline({"B": study(2.0, 4.0)}) == (
        "B keeps **2.0 dB** of the median token's output (the whole: 3.0 dB), for 4.000 bits a weight."
    )


def test_speed_names_the_fastest_with_few_tokens_and_with_many() -> None:
    def run(scheme: str, tokens: int, gain: float) -> Any:
        return SimpleNamespace(scheme=scheme, tokens=tokens, gain=gain)

    rows = [run("W4A16", 1, 1.88), run("FP8", 1, 1.5), run("W4A16", 8192, 0.8), run("FP8", 8192, 1.04)]
    report: Any = SimpleNamespace(rows=rows, device="NVIDIA H200")
    assert speed.headline(report, ["W4A16", "FP8"]) == (
        "Fastest on NVIDIA H200: **W4A16** at 1 token, **1.88x** bf16; **bf16** itself at 8,192 tokens, where nothing "
        "gains 5%."
    )
    assert "**FP8 static** at 1 token, **1.50x** bf16" in speed.headline(report, ["FP8"])


def test_the_plans_map_writes_the_bits_of_codes_and_not_of_their_scales() -> None:
    assert [code_bits(one) for one in ("w:int4/group32", "w:int4/group2", "w:fp8_e4m3/channel", "float")] == [
        4,
        4,
        8,
        16,
    ]
