"""The page Granularity: one move changes the number it should, a bad link gets a sentence."""

from pathlib import Path

import pytest
from streamlit.testing.v1 import AppTest

from quantcore import fake_quantize
from quantcore.model.linears import linear_named
from quantcore.model.loading import LoadedModel
from quantcore.numbers.distance import tensor_error
from quantcore.scheme.scheme import Scheme
from tests.apptest_helpers import figure_of, metrics, page, values

LAYER = "model.layers.1.mlp.down_proj"


@pytest.fixture
def at(tiny_model_dir: Path) -> AppTest:
    return page("2_Granularity", model=tiny_model_dir, layer=LAYER, group=32)


def test_shows_the_engines_numbers(at: AppTest, tiny_lm: LoadedModel) -> None:
    at.run()
    assert [error.value for error in at.error] == []
    weight = linear_named(tiny_lm.model, LAYER).weight
    error = tensor_error(weight, fake_quantize(weight, Scheme.parse("w:int4/group32").weights))
    assert metrics(at)["Bits per weight"] == "4.500"
    assert metrics(at)["SQNR of the weight"] == f"{error.sqnr_db:.2f} dB"


def test_one_move_changes_scale_shape_and_error(at: AppTest) -> None:
    at.run()
    before = metrics(at)
    at.segmented_control(key="grain").set_value("channel").run()
    after = metrics(at)
    assert after["Bits per weight"] == "4.125"  # 16 bits of scale over 128 columns
    assert float(after["SQNR of the weight"].split()[0]) < float(before["SQNR of the weight"].split()[0])
    assert any("`[64, 1]`" in text.value for text in at.markdown)


def test_the_large_weight_is_in_the_picture_and_in_the_worst_tile(at: AppTest) -> None:
    at.run()
    trace = figure_of(at, "weight_map")["figure"]["data"][0]
    assert values(trace["z"]).max() == pytest.approx(1.5)  # planted at row 3, column 40
    frame = figure_of(at, "weight_map")["figure"]["data"][-1]
    assert (min(frame["x"]), max(frame["x"]), min(frame["y"]), max(frame["y"])) == (31.5, 63.5, 2.5, 3.5)


def test_group_that_does_not_divide_is_one_sentence_and_the_page_lives(at: AppTest) -> None:
    at.query_params["group"] = "256"
    at.run()
    assert "group=" in at.warning[0].value  # what the layer cannot have is not offered, and the link's wish answered
    assert "no such choice (it has 16, 32, 64, 128)" in at.warning[0].value
    at.segmented_control(key="grain").set_value("tensor").run()
    assert len(at.error) == 0
    assert metrics(at)["Bits per weight"] == "4.002"


@pytest.mark.parametrize(("key", "value"), [("grain", "rows"), ("format", "int99"), ("layer", "nope"), ("group", "x")])
def test_bad_link_gets_a_sentence(at: AppTest, key: str, value: str) -> None:
    at.query_params[key] = value
    at.run()
    assert len(at.warning) == 1
    assert at.warning[0].value.startswith(f"The link asks for {key}={value!r}, but this page ")
    assert len(at.metric) == 4


def test_unknown_model_is_one_sentence(tmp_path: Path) -> None:
    at = page("2_Granularity", model=tmp_path).run()
    assert [error.value for error in at.error] == [
        f"'{tmp_path}' is a folder without config.json, so it is no model; name a transformers folder"
    ]


def test_reset_brings_the_defaults_back(at: AppTest) -> None:
    at.run()
    at.segmented_control(key="format").set_value("int2").run()
    assert metrics(at)["Bits per weight"] == "2.500"
    at.button(key="reset").click().run()
    assert at.segmented_control(key="format").value == "int4"


def test_how_a_scale_is_stored(at: AppTest, tiny_lm: LoadedModel) -> None:
    """8 bits in place of 16 for 32 weights: 4.25 bits, and a coarser grid under every tile. All are in one picture."""
    at.run()
    float_db = float(metrics(at)["SQNR of the weight"].split()[0])
    at.segmented_control(key="stored").set_value("e8m0").run()
    assert [error.value for error in at.error] == []
    assert metrics(at)["Bits per weight"] == "4.250"
    weight = linear_named(tiny_lm.model, LAYER).weight
    error = tensor_error(weight, fake_quantize(weight, Scheme.parse("w:int4/group32/e8m0").weights))
    assert metrics(at)["SQNR of the weight"] == f"{error.sqnr_db:.2f} dB"
    assert error.sqnr_db < float_db
    drawn = {one["name"]: one for one in figure_of(at, "cost_curve")["figure"]["data"]}
    assert list(drawn["per group, scales in e8m0"]["text"]) == [f"group{size}/e8m0" for size in (128, 64, 32, 16)]
    assert "chosen: group32/e8m0" in drawn
    assert values(drawn["per group, scales in e4m3"]["x"])[-1] == pytest.approx(4.5, abs=0.01)
    at.toggle(key="symmetric").set_value(False).run()
    assert "stored" not in {one.key for one in at.segmented_control}
    assert [error.value for error in at.error] == []
