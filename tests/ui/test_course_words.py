"""What the course says of what was measured: who wins the last game, which rules win, what blocks and layers are."""

from types import SimpleNamespace
from typing import Any

import pytest

from quantcore.lab.lab import Lab
from quantcore.measure.rules import EQUAL, FAILS, HOLDS, LEADS, TRAILS
from quantcore.measure.statistics import Interval
from quantcore.model.loading import LoadedModel
from ui.course import game
from ui.course.scenes import s14_ship
from ui.course.stage import built, kinds_of, short

KEYS = ("int4-groups", "int8-tokens", "fp8-weights")


ENGINE = game.Engines("quick", "bar", "free")
BEYOND_SLIDERS = "Layer by layer, as no slider here can, it comes to 0.3."


def _duel(mine: float) -> Any:
    """Of plans by their KL on 40 windows alike: what lies .02 apart is beyond chance, .002 is not."""
    kl = {"quick": 0.4, "bar": 0.36, "free": 0.3, "mine": mine}

    def difference(one: str, other: str) -> Interval:
        value = kl[one] - kl[other]
        return Interval(value, value - 0.01, value + 0.01, 0.5 if abs(value) < 0.01 else 1e-6)

    return SimpleNamespace(
        reports={plan: SimpleNamespace(kl=one) for plan, one in kl.items()}, kl_difference=difference
    )


@pytest.mark.parametrize(
    ("mine", "said"),
    [
        (0.2, "0.2 nats, **beats** the quick plan's 0.4; it **beats** the engine's 0.36. Layer"),
        (0.358, "0.358 nats, **beats** the quick plan's 0.4; it **ties** with the engine's 0.36. A tie: the diff"),
        (0.38, "0.38 nats, **beats** the quick plan's 0.4; it **loses** to the engine's 0.36. Layer"),
        (0.402, "0.402 nats, **ties** with the quick plan's 0.4; it **loses** to the engine's 0.36. A tie: the diff"),
        (0.5, "0.5 nats, **loses** to the quick plan's 0.4; it **loses** to the engine's 0.36. Layer"),
    ],
)
def test_who_wins_the_last_game(mine: float, said: str) -> None:
    assert game.verdict(_duel(mine), ENGINE, ["an earlier plan", "mine"]).startswith(f"Your plan, {said}")


def test_who_found_a_plan_of_the_game() -> None:
    found = f"You **found** the engine's own plan for these sliders, 0.36 nats. {BEYOND_SLIDERS}"
    assert game.verdict(_duel(0.5), ENGINE, ["mine", "bar"]) == found
    assert game.verdict(_duel(0.5), ENGINE, ["quick"]) == (
        f"Your plan, 0.4 nats, is the quick plan; it **loses** to the engine's 0.36. {BEYOND_SLIDERS}"
    )
    assert game.verdict(_duel(0.5), ENGINE, []) == (
        "With your sliders the quick plan loses **0.4** nats, which you can beat; the engine's **0.36**, which is hard "
        f"to reach. {BEYOND_SLIDERS}"
    )
    same = "With your sliders the quick plan and the engine's are the same here: **0.36** nats."
    assert game.verdict(_duel(0.5), game.Engines("bar", "bar", "free"), []) == f"{same} {BEYOND_SLIDERS}"


@pytest.mark.parametrize(
    ("ends", "said"),
    [
        ((HOLDS, HOLDS, FAILS), "**win** for int4 weights and int8 inputs; **are beaten** for fp8 weights."),
        ((HOLDS, HOLDS, LEADS), "**win** for int4 weights, int8 inputs and fp8 weights."),
        ((LEADS, EQUAL, TRAILS), "**win** for int4 weights; **cannot be told from their rivals** for int8 inputs;"),
    ],
)
def test_which_rules_win(ends: tuple[str, ...], said: str) -> None:
    results: Any = {key: SimpleNamespace(verdict=end) for key, end in zip(KEYS, ends, strict=True)}
    words = s14_ship.verdicts(results)
    assert said in words
    assert ("the chance of rounding was not measured" in words) is bool({LEADS, TRAILS} & set(ends))


def test_blocks_and_layers_are_explained_on_the_model(tiny_lm: LoadedModel) -> None:
    lab = Lab(tiny_lm)
    assert kinds_of(lab) == ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]
    assert built(lab) == (
        "The model is 2 blocks, one behind another; each has its **layers**, which are tables of weights, of 7 kinds: "
        "q_proj to down_proj."
    )


def test_a_layer_is_said_by_its_block_and_expert() -> None:
    assert short("model.layers.3.mlp.down_proj") == "block 3, down_proj"
    assert short("model.layers.3.mlp.experts.5.up_proj") == "block 3, expert 5, up_proj"
    assert short("lm_head") == "lm_head"
