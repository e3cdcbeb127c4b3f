"""The page GPTQ step by step: its numbers are the engine's, each control moves what it should, pictures are small."""

import json
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from streamlit.testing.v1 import AppTest

from quantcore import dequantize, fake_quantize
from quantcore.methods.gptq import gptq_loss, gptq_plain, gptq_quantize
from quantcore.methods.options import Gptq
from quantcore.model.linears import linear_named
from quantcore.model.loading import LoadedModel
from quantcore.pipeline.calibration import calibrate
from quantcore.studies.gptq_cost import OrderCost, Spread
from quantcore.studies.gptq_steps import companions, tile_rows, tile_steps
from quantcore.text.reading import CALIBRATE
from quantcore.text.windows import TEXT_KINDS, bundled_text, token_windows
from tests.apptest_helpers import figure_of, figures_of, lab_of, metrics, said, values
from tests.apptest_helpers import page as open_page
from tests.specs import weights_spec
from tests.tiny import LOUD_CHANNEL
from ui.components.column_player import describe
from ui.words import gptq as gptq_words

LAYER = "model.layers.1.self_attn.q_proj"  # reads the channel whose gain was planted
CHARTS = ["toy", "courses", "diagonal", "sorted", "groups", "cost", "map"]
TOKENS = 160


@pytest.fixture
def at(tiny_model_dir: Path) -> AppTest:
    return open_page("6_GPTQ_step_by_step", model=tiny_model_dir, layer=LAYER, tokens=TOKENS)


def run(at: AppTest, **params: Any) -> AppTest:
    for key, value in params.items():
        at.query_params[key] = str(value)
    at.run()
    assert not at.exception
    assert [error.value for error in at.error] == []
    assert [warning.value for warning in at.warning] == []
    return at


def player_of(at: AppTest) -> dict[str, Any]:
    messages = [one.proto for one in at.get("bidi_component") if one.proto.component_name == "lab_column_player"]
    assert len(messages) == 1
    found: dict[str, Any] = json.loads(messages[0].bytes)
    return found


def layer_of(lm: LoadedModel) -> tuple[torch.Tensor, torch.Tensor]:
    """The weight and the Hessian over TOKENS calibration tokens."""
    share = TOKENS // len(TEXT_KINDS)
    kinds = [token_windows(lm.tokenizer, bundled_text("calibration", kind), share, share) for kind in TEXT_KINDS]
    hessian = calibrate(lm.model, torch.cat(kinds), [LAYER])[LAYER].hessian
    assert hessian is not None
    return linear_named(lm.model, LAYER).weight.detach(), hessian


def test_alive_without_a_click_and_small(at: AppTest) -> None:
    run(at)
    assert [shown["key"] for shown in figures_of(at)] == CHARTS
    assert all(any(c.isdigit() for c in shown["alt"]) for shown in [*figures_of(at), player_of(at)])
    assert all(len(element.proto.bytes) < 400_000 for element in at.get("bidi_component"))
    assert f"Outlier channel **{LOUD_CHANNEL}**" in said(at)
    assert "is number **1**" in said(at)


def test_the_reference_model_teaches_without_a_click() -> None:
    at = run(open_page("6_GPTQ_step_by_step"))
    shown = player_of(at)
    assert shown["loss"][-1] < 0.9
    assert shown["loss"][shown["start"]] < shown["rounded_loss"][shown["start"] - 1] - 0.1  # a push that can be seen
    losses = [float(value.rstrip("%")) for value in metrics(at).values()]
    assert losses[0] > losses[1] > losses[2]


def test_losses_are_the_engines(at: AppTest, tiny_lm: LoadedModel) -> None:
    run(at, bits=2, group=32, damp=0.1)
    weight, hessian = layer_of(tiny_lm)
    power = gptq_loss(weight, torch.zeros_like(weight), hessian)
    rtn = gptq_loss(weight, fake_quantize(weight, weights_spec("int2/group32")), hessian)
    expected = {"Loss of RTN": gptq_words.percent(rtn / power)}
    ends = [100 * rtn / power]
    for label, actorder in (("GPTQ", None), ("GPTQ, order weight", "weight"), ("GPTQ, order group", "group")):
        codes = gptq_quantize(weight, hessian, weights_spec("int2/group32"), Gptq(actorder, 0.1))
        loss = gptq_loss(weight, dequantize(codes), hessian)
        expected[f"{label}: {loss / rtn:.0%} of RTN's"] = gptq_words.percent(loss / power)
        ends.append(100 * loss / power)
    assert len(expected) == 4
    assert metrics(at) == expected
    lines = [trace for trace in figure_of(at, "courses")["figure"]["data"] if trace["mode"] == "lines"]
    assert [values(trace["y"])[-1] for trace in lines] == pytest.approx(ends, rel=1e-3)


@pytest.mark.parametrize("order", ["none", "weight", "group"])
def test_the_player_holds_the_tiles_sweep(at: AppTest, tiny_lm: LoadedModel, order: str) -> None:
    run(at, order=order, bits=3)
    weight, hessian = layer_of(tiny_lm)
    columns = list(companions(hessian))
    shown = player_of(at)
    part = hessian.double()[columns][:, columns]
    options = Gptq(None if order == "none" else order)
    plain = gptq_plain(weight.double()[list(tile_rows(64))][:, columns], part, weights_spec("int3/group16"), options)
    places = [columns.index(c) for c in shown["columns"]]
    assert np.allclose(shown["quantized"], dequantize(plain)[:, places], atol=1e-6)
    losses = [
        gptq_loss(torch.tensor(shown["original"]), torch.tensor(shown[hat]), part[places][:, places])
        for hat in ("quantized", "rtn")
    ]
    assert shown["loss"][-1] == pytest.approx(losses[0] / losses[1], rel=1e-4)
    assert shown["rtn_loss"][-1] == 1
    assert f"{losses[0] / losses[1]:.0%} of RTN's" in said(at)


def test_group_sizes_are_those_that_fit(at: AppTest) -> None:
    run(at)
    assert at.select_slider(key="group").options == ["32", "row"]  # of 64 inputs
    at.select_slider(key="group").set_value("row").run()
    assert not at.error
    assert "group 0" not in said(at)
    assert figure_of(at, "groups")["alt"].startswith("1 groups")


def test_each_control_moves_what_it_should_and_nothing_else(at: AppTest) -> None:
    run(at)

    def state() -> dict[str, str]:
        found = {shown["key"]: json.dumps(shown["figure"]) for shown in figures_of(at)}
        return {**found, "player": json.dumps(player_of(at))}

    def moved(change: Any) -> set[str]:
        before = state()
        change.run()
        assert not at.error
        after = state()
        return {key for key in after if after[key] != before[key]}

    assert moved(at.slider(key="bits").set_value(4)) == {"player", "courses"}
    assert moved(at.select_slider(key="damp").set_value(0.3)) == {"player", "courses"}
    assert moved(at.segmented_control(key="order").set_value("weight")) == {"player"}
    assert moved(at.segmented_control(key="tile").set_value("around the loudest column")) == {"player"}
    assert moved(at.slider(key="r").set_value(-0.5)) == {"toy"}
    assert moved(at.slider(key="w1").set_value(1.2)) == {"toy"}
    assert {"groups", "cost", "courses"} <= moved(at.select_slider(key="group").set_value("row"))
    assert {"player", "courses", "diagonal", "sorted", "map"} <= moved(at.select_slider(key="tokens").set_value(640))


def test_a_measurement_is_kept_until_it_is_asked_for_again(at: AppTest) -> None:
    run(at)
    first = figure_of(at, "cost")["figure"]
    at.slider(key="bits").set_value(5).run()
    assert figure_of(at, "cost")["figure"] == first
    at.button(key="again").click().run()
    assert figure_of(at, "cost")["figure"] != first


def test_the_map_says_and_marks_its_best(at: AppTest) -> None:
    run(at)
    heat = figure_of(at, "map")["figure"]["data"][0]
    cells = [text for row in heat["text"] for text in row]
    assert len(cells) == 3 * 2 * 3 * 3  # bits, groups that fit, orders, dampings
    assert sum("★" in text for text in cells) == 3
    learned = str(CALIBRATE.at_most(TOKENS))
    found = lab_of(at).gptq_map(LAYER, (2, 3, 4), ("group32", "channel"), (0.001, 0.01, 0.1), learned)
    best = found.best(2)
    assert f"2 bits: {best.granularity}, order **{best.actorder or 'none'}**, damping {best.damp:g}" in said(at)
    assert values(heat["z"]).min() == pytest.approx(100 * min(cell.over_rtn for cell in found.cells), rel=1e-5)


def test_the_groups_are_the_engines(at: AppTest, tiny_lm: LoadedModel) -> None:
    run(at)
    weight, hessian = layer_of(tiny_lm)
    codes = gptq_quantize(weight, hessian, weights_spec("int3/group32"), Gptq("group"))
    assert codes.g_idx is not None
    scattered, side_by_side = values(figure_of(at, "groups")["figure"]["data"][0]["customdata"])
    assert scattered.tolist() == codes.g_idx.tolist()
    assert side_by_side.tolist() == [k // 32 for k in range(64)]


def test_the_toy_says_its_sums(at: AppTest) -> None:
    run(at)
    assert "weight 2 moves to 0.45 + (0.4 - 0) * 1.8 / 1 = **1.17** and is rounded to **1**" in said(at)
    assert "RTN **1.49**, GPTQ with weight 1 first **0.15**" in said(at)
    at.slider(key="scale").set_value(0.5).run()
    assert "diag(H) puts weight 2 first." in said(at)


@pytest.mark.parametrize(
    ("share", "words"),
    [(1.2, "120%"), (0.1234, "12.3%"), (0.014, "1.40%"), (0.00559, "0.559%"), (2.01e-7, "0.201 ppm"), (0, "0.000%")],
)
def test_percentages_keep_three_digits(share: float, words: str) -> None:
    assert gptq_words.percent(share) == words


def test_ratios() -> None:
    found = [gptq_words.ratio(*pair) for pair in ((3, 5), (0.0961, 1), (0.0123, 1), (0.00123, 1), (0, 1), (0, 0))]
    assert found == ["60%", "10%", "1%", "0.12%", "0%", "100%"]


def test_noise_is_called_noise() -> None:
    quick, slow, wild = Spread(1.0, 0.9, 1.1), Spread(1.5, 1.4, 1.6), Spread(3.0, 1.0, 9.0)

    def words(group: Spread, *ratio: float) -> str:
        return gptq_words.one_cost(OrderCost(1, 9, "dequantize", quick, group, quick, *ratio))

    assert "within the noise" in words(quick, 1.02, 0.9, 1.1)
    assert "**1.50 times** as slow" in words(slow, 1.5, 1.4, 1.6)
    assert "is not slower" in words(quick, 0.9, 0.8, 0.95)
    assert "busy with other work** (quartiles 1 to 9 ms" in words(wild, 3.0, 1.5, 9.0)


def test_a_link_with_a_group_that_does_not_fit_is_told(at: AppTest) -> None:
    at.query_params["group"] = "128"
    at.run()
    assert any("group='128'" in warning.value for warning in at.warning)
    assert not at.error


def test_a_sweep_that_does_not_pay_is_told() -> None:
    """The same tile with a loss above RTN's, and one below it whose weights err less."""
    weight, hessian = torch.randn(4, 32).double(), torch.eye(32).double()
    hessian += 0.3
    steps = tile_steps(weight, hessian, range(4), range(32), weights_spec("int3/group16"), Gptq())
    assert "makes the errors cancel" in gptq_words.tile(steps, (4, 32), True)
    worse = replace(steps, loss=2 * steps.rtn_loss)
    assert "**200% of RTN's**" in gptq_words.tile(worse, (4, 32), True)
    assert "do not pay" in gptq_words.tile(worse, (4, 32), True)
    exact = replace(steps, quantized=steps.original)
    assert "its weights do not err more: 0.000%" in gptq_words.tile(exact, (4, 32), True)


def test_the_players_message() -> None:
    weight = torch.tensor([[0.4, 0.4, 7.5]])
    hessian = torch.tensor([[1, 0.5, 0], [0.5, 1, 0], [0, 0, 1]])
    steps = tile_steps(weight, hessian, (0,), (0, 1, 2), weights_spec("int4/channel"), Gptq(damp=1e-12))
    shown = describe(steps, key="k", alt="39%")
    assert shown["start"] == 1  # the only push that takes something back: .16 to .12
    assert shown["loss"] == pytest.approx([0, 0.12 / 0.73, 0.28 / 0.73, 0.53 / 0.73], rel=1e-5)
    with pytest.raises(ValueError, match="player 'k' has an empty alt"):
        describe(steps, key="k", alt=" ")


def test_presets_name_no_layer_of_one_model() -> None:
    pages = sorted((Path(__file__).parents[2] / "pages").glob("*.py"))
    assert len(pages) > 10
    assert not [page.name for page in pages if re.search(r'"layer": "', page.read_text(encoding="utf-8"))]


def test_qronos_mends_what_layers_before_have_moved(at: AppTest) -> None:
    """Once the layers before are rounded: the three losses along the columns, Qronos' from its first correction on, and
    bars of both texts: the float weight on moved inputs, corrected, and four ways to codes."""
    run(at, before="rounded to nearest")
    bars = {bar["name"]: dict(zip(bar["x"], values(bar["y"]).tolist(), strict=True)) for bar in drift_of(at)}
    learned = bars["learned from"]
    assert list(learned) == ["float weight", "corrected, in float", "RTN", "GPTQ", "GPTAQ", "Qronos"]
    assert learned["corrected, in float"] < learned["float weight"]
    assert learned["Qronos"] < learned["GPTAQ"] < learned["GPTQ"] < learned["RTN"]
    assert gptq_words.percent(learned["Qronos"] / 100) in figure_of(at, "drift")["alt"]
    lines = {one["name"]: values(one["y"]).tolist() for one in figure_of(at, "drift_courses")["figure"]["data"]}
    for name in ("RTN", "GPTQ", "Qronos"):
        assert lines[name][0] == pytest.approx(learned["float weight"], rel=1e-4)
        assert lines[name][-1] == pytest.approx(learned[name], rel=0.01)
    assert lines["Qronos"][1] == pytest.approx(learned["corrected, in float"], rel=0.01)
    assert lines["GPTQ"][1] == pytest.approx(learned["float weight"], rel=0.01)


def drift_of(at: AppTest) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = figure_of(at, "drift")["figure"]["data"]
    return found
