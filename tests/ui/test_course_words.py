"""What the course says of what was measured: who wins the last game, which rules win, what blocks and layers are."""

from types import SimpleNamespace
from typing import Any

import pytest

from quantcore.lab.lab import Lab
from quantcore.measure.rules import EQUAL, FAILS, HOLDS, LEADS, TRAILS
from quantcore.model.loading import LoadedModel
from ui.course import game
from ui.course.scenes import s14_ship
from ui.course.stage import built, kinds_of, short

KEYS = ("int4-groups", "int8-tokens", "fp8-weights")


ENGINE = game.Engines("bar", "free")


@pytest.mark.parametrize(
    ("mine", "beyond", "said"),
    [
        (
            0.2,
            True,
            "You **beat** the engine: your plan 0.2, with the same sliders the engine's 0.36 nats, more than the",
        ),
        (
            0.35,
            False,
            "A **tie** with the engine: your plan 0.35, with the same sliders the engine's 0.36 nats, a differe",
        ),
        (
            0.38,
            False,
            "A **tie** with the engine: your plan 0.38, with the same sliders the engine's 0.36 nats, a differe",
        ),
        (
            0.5,
            True,
            "The engine keeps the lead: your plan 0.5, with the same sliders the engine's 0.36 nats, more than",
        ),
    ],
)
def test_who_wins_the_last_game(mine: float, beyond: bool, said: str, monkeypatch: pytest.MonkeyPatch) -> None:
    kl = {"bar": 0.36, "free": 0.3, "mine": mine}
    duel: Any = SimpleNamespace(reports={plan: SimpleNamespace(kl=one) for plan, one in kl.items()})
    apart = SimpleNamespace(difference=SimpleNamespace(value=mine - 0.36), beyond=beyond)
    monkeypatch.setattr(game, "told_apart", lambda _: {("mine", "bar"): apart})
    assert game.verdict(duel, ENGINE, ["an earlier plan", "mine"]).startswith(said)
    beyond_sliders = "Layer by layer, as no slider here can, it comes to 0.3."
    assert game.verdict(duel, ENGINE, ["mine", "bar"]) == (
        f"You **found** the engine's own plan for these sliders, 0.36 nats. {beyond_sliders}"
    )
    assert game.verdict(duel, ENGINE, []) == (
        f"The bar to beat: with your sliders the engine chose a plan that loses **0.36** nats. {beyond_sliders}"
    )


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
