"""Rules, plan, table and advice judge as the duel does: equal schemes are told apart on none of them, different on all.

Equal are draws of one scheme's luck: the same scheme, its scales moved within half a grain. Of five the two are taken
that the text alone sets furthest apart.
"""

from itertools import combinations

import pytest

from quantcore.advice.catalog import shape_of
from quantcore.advice.choice import advise
from quantcore.advice.load import Load
from quantcore.advice.losses import Loss
from quantcore.lab.lab import Lab
from quantcore.measure.duel import Duel
from quantcore.measure.luck import Spread, jittered
from quantcore.measure.measured import aparts, measured
from quantcore.measure.planning import PlannedChoice
from quantcore.measure.rules import EQUAL, HOLDS, LEADS, Rule
from quantcore.measure.store import Store
from quantcore.measure.told_apart import BY_TEXT, CHANCE, REAL, told_apart
from quantcore.model.loading import LoadedModel
from quantcore.scheme.plan import Plan
from quantcore.studies.gpus import GPUS
from quantcore.text.reading import EVALUATE
from ui.words import measured as table_words
from ui.words import sensitivity as plan_words

SCHEME, BETTER = "w:int3/channel", "w:int8/channel"
READ = str(EVALUATE.at_most(1280))
LLAMA = "meta-llama/Meta-Llama-3.1-8B"


@pytest.fixture(scope="module")
def lab(tiny_lm: LoadedModel, tmp_path_factory: pytest.TempPathFactory) -> Lab:
    return Lab(tiny_lm, store=Store(tmp_path_factory.mktemp("judge")))


@pytest.fixture(scope="module")
def draws(lab: Lab) -> Duel:
    return lab.duel([BETTER, SCHEME, *jittered(SCHEME), *jittered(BETTER, 2)], READ, READ)


@pytest.fixture(scope="module", params=["equal", "different"])
def case(request: pytest.FixtureRequest, lab: Lab, draws: Duel) -> tuple[str, str, dict[str, Spread], bool]:
    """Two schemes, the lower KL first; their spreads; whether they are equal."""
    kl = {text: report.kl for text, report in draws.reports.items()}
    lucky = [SCHEME, *jittered(SCHEME)]
    spreads = {text: Spread((kl[text], *(kl[one] for one in lucky if one != text))) for text in lucky}
    if request.param == "different":
        spreads[BETTER] = Spread((kl[BETTER], *(kl[text] for text in jittered(BETTER, 2))))
        return BETTER, SCHEME, spreads, False
    by_text = {pair: draws.kl_difference(*pair).p for pair in combinations(lucky, 2)}
    one, other = sorted(min(by_text, key=lambda pair: by_text[pair]), key=lambda text: kl[text])
    assert told_apart(lab.duel([one, other], READ, READ))[one, other].verdict == BY_TEXT
    return one, other, spreads, True


def test_the_rules(case: tuple[str, str, dict[str, Spread], bool], lab: Lab, tiny_lm: LoadedModel) -> None:
    one, other, spreads, equal = case
    tokens = lab.tokens(READ)
    found = Rule("k", "t.", "w", one, (other,), "", "", "2026-11").test(tiny_lm, tokens, tokens, lab.store())
    assert found.verdict == LEADS
    assert found.with_luck(spreads).verdict == (EQUAL if equal else HOLDS)


def test_the_plan(case: tuple[str, str, dict[str, Spread], bool], lab: Lab) -> None:
    one, other, spreads, equal = case
    chosen, found = PlannedChoice(Plan.parse(one), 0.1, 3.0, {}), lab.duel([one, other], READ, READ)
    by_text = plan_words.plan_words(chosen, found, other, "3 bits", "3 bits")[0]
    assert by_text.endswith(f"{BY_TEXT}.")
    assert "**" not in by_text  # no claim in bold
    said = plan_words.plan_words(chosen, found, other, "3 bits", "3 bits", spreads)[0]
    assert said.startswith("**Within chance**" if equal else "**The plan loses less")


def test_the_table(case: tuple[str, str, dict[str, Spread], bool], lab: Lab) -> None:
    one, other, spreads, equal = case
    rows = {row.scheme: row for row in measured(lab.store())}
    pair = rows[one], rows[other]
    by_key = {rows[text].key: spread for text, spread in spreads.items()}
    apart = aparts(lab.store(), pair, by_key)[pair[0].key, pair[1].key]
    assert table_words.difference(*pair, apart).endswith(f": {CHANCE if equal else REAL}")
    apart = aparts(lab.store(), pair)[pair[0].key, pair[1].key]
    assert table_words.difference(*pair, apart).endswith(f": {BY_TEXT}")


def test_the_advice(case: tuple[str, str, dict[str, Spread], bool], draws: Duel, lab: Lab) -> None:
    """The two stand for two candidates; the order is the figures', the words are the judge's."""
    one, other, spreads, equal = case
    found = lab.duel([one, other], READ, READ)
    first = advise(shape_of(LLAMA), GPUS["H100 SXM"], Load(), goal="memory", tolerance="whatever fits")
    assert first.chosen is not None
    assert first.runner_up is not None
    names = first.chosen.candidate.text, first.runner_up.candidate.text
    kl = [found.reports[text].kl for text in (one, other)]
    losses = {name: Loss(each, each, each, 0.0, 1.0, "here") for name, each in zip(names, kl, strict=True)}

    def why(spreads: dict[str, Spread] | None) -> str:
        apart = told_apart(found, spreads)
        pairs = {names: apart[one, other], names[::-1]: apart[other, one]}
        asked = (shape_of(LLAMA), GPUS["H100 SXM"], Load(), 1, "memory", "whatever fits")
        verdicts = advise(*asked, losses, aparts=pairs).verdicts
        return next(each.why or "" for each in verdicts if each.candidate.text == names[1])

    assert why(None).endswith(f"as much KL ({BY_TEXT})")
    said = why(spreads)
    assert ("is not told from the chosen's" in said) == equal
    assert said.endswith("as much KL") != equal


def test_a_scheme_whose_scales_have_no_grain_to_move_in_has_no_luck(lab: Lab) -> None:
    """Powers of two and inputs alone: nothing to move, so nothing is asked, and nothing is called real. e4m3's codes
    stand under a global scale, which moves."""
    for text in ("w:fp4_e2m1/group32/e8m0", "a:int8/token/dynamic", "float"):
        assert jittered(text) == []
    mixed = jittered(f"{SCHEME}@down_proj=w:fp4_e2m1/group32/e8m0", 1)
    assert mixed == ["w:int3/channel/jitter1@down_proj=w:fp4_e2m1/group32/e8m0"]
    assert jittered("w:fp4_e2m1/group16/e4m3", 1) == ["w:fp4_e2m1/group16/e4m3/jitter1"]


def test_a_plan_that_is_one_scheme_for_all_says_so() -> None:
    chosen = PlannedChoice(Plan.parse("W4A16"), 0.1, 4.125, {})
    took = plan_words.bits_words(4.125)
    assert plan_words.plan_words(chosen, None, "w:int4/group128", took, took) == [
        "**The plan is W4A16 for all**: it takes **4.125** bits a weight, and nothing saves more elsewhere. The "
        "layers' own costs add up to **0.1** nats on the text that it was chosen on."
    ]
    assert plan_words.plan_words(chosen, None, "W8A16", took, "8 bits")[0].startswith("The plan takes")
