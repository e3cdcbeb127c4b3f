"""The page Layer lab: text and builder are one state, a broken side leaves the other alive, pictures share axes."""

from pathlib import Path

import numpy as np
import pytest
from streamlit.testing.v1 import AppTest

from quantcore.scheme.scheme import PRESETS, Scheme
from tests.apptest_helpers import figure_of, figures_of, lab_of, said, values
from tests.apptest_helpers import page as open_page
from ui.words import layer as layer_words

LOUD = "model.layers.1.mlp.down_proj"
CHARTS = ["shares", "weights", "errors", "channels", "tokens"]


@pytest.fixture
def page(tiny_model_dir: Path) -> AppTest:
    return open_page("5_Layer_lab", model=tiny_model_dir, layer=LOUD)


def run(at: AppTest, **params: str) -> AppTest:
    for key, value in params.items():
        at.query_params[key] = value
    at.run()
    assert not at.exception
    return at


def text_of(at: AppTest, key: str) -> str:
    return at.text_input(key=key).value


def test_alive_without_a_click(page: AppTest) -> None:
    run(page)
    assert not page.error
    assert not page.warning
    assert [shown["key"] for shown in figures_of(page)] == CHARTS
    assert "of the median token's output" in said(page)
    assert "was recorded on the calibration text" in said(page)


def test_the_reference_model_teaches_without_a_click() -> None:
    at = run(open_page("5_Layer_lab"))
    assert not at.error
    shares = {trace["name"][0]: values(trace["y"]) for trace in figure_of(at, "shares")["figure"]["data"]}
    assert shares["B"][2] > shares["A"][2]  # dynamic ranges per token beat a frozen one
    assert all(len(at_bytes) < 400_000 for at_bytes in _sizes(at))


def test_the_picture_shows_what_the_headline_says(page: AppTest) -> None:
    """Of the median token both, as one token may rule the whole output."""
    run(page)
    lab = lab_of(page)
    studies = {side: lab.layer_study(LOUD, str(lab.scheme_of(text_of(page, side.lower())))) for side in "AB"}
    bars = {trace["name"][0]: values(trace["y"]) for trace in figure_of(page, "shares")["figure"]["data"]}
    assert {side: bar[2] for side, bar in bars.items()} == {
        side: pytest.approx(study.token_sqnr_db) for side, study in studies.items()
    }
    assert all(f"**{layer_words.decibels(study.token_sqnr_db)}**" in said(page) for study in studies.values())
    assert "of the power of the median token's output" in said(page)


def _sizes(at: AppTest) -> list[bytes]:
    return [element.proto.bytes for element in at.get("bidi_component")]


@pytest.mark.parametrize(
    ("menu", "choice", "expected"),
    [
        ("a.weights.format", "int8", "w:int8/channel"),
        ("a.weights.format", "fp8_e4m3", "w:fp8_e4m3/channel"),
        ("a.weights.granularity", "tensor", "w:int4/tensor"),
        ("a.weights.granularity", "group", "w:int4/group128"),
        ("a.weights.granularity", "block", "w:int4/block64x128"),
        ("a.weights.observer", "mse", "w:int4/channel/mse"),
        ("a.weights.zero point", "asymmetric", "w:int4/channel/asym"),
        ("a.method", "gptq/actorder=weight", "w:int4/channel,gptq/actorder=weight"),
        ("a.preset", "W8A8", str(PRESETS["W8A8"])),
        ("a.preset", "NVFP4", str(PRESETS["NVFP4"])),
    ],
)
def test_a_menu_rewrites_the_text(page: AppTest, menu: str, choice: str, expected: str) -> None:
    run(page, a="w:int4/channel")
    page.selectbox(key=menu).set_value(choice).run()
    assert not page.exception
    assert not page.error
    assert text_of(page, "a") == expected
    assert page.query_params["a"] == expected


@pytest.mark.parametrize(
    ("start", "menu", "choice", "expected"),
    [
        ("a:int8/token/dynamic", "range", "static", "a:int8/tensor/static"),
        ("a:int8/tensor/static/ema0.1", "range", "dynamic", "a:int8/tensor/dynamic"),
        ("a:int8/tensor/static", "observer", "ema0.5", "a:int8/tensor/static/ema0.5"),
        ("a:int8/token/dynamic", "granularity", "group", "a:int8/group128/dynamic"),
        ("a:int8/group128/dynamic", "size", "group32", "a:int8/group32/dynamic"),
        ("a:fp4_e2m1/group16/dynamic/mse", "scales", "e4m3", "a:fp4_e2m1/group16/e4m3/local"),
        ("a:fp4_e2m1/group16/e4m3/local/ema0.1", "scales", "float", "a:fp4_e2m1/group16/dynamic"),
        ("a:int8/group32/asym/dynamic", "scales", "e8m0", "a:int8/group32/e8m0/dynamic"),
        ("a:int8/token/asym/dynamic", "format", "fp8_e5m2", "a:fp8_e5m2/token/dynamic"),
    ],
)
def test_the_activations_menus(page: AppTest, start: str, menu: str, choice: str, expected: str) -> None:
    run(page, a=start)
    page.selectbox(key=f"a.activations.{menu}").set_value(choice).run()
    assert not page.exception
    assert not page.error
    assert text_of(page, "a") == expected


def test_the_text_moves_the_menus(page: AppTest) -> None:
    run(page, a="w:int4/channel")
    page.text_input(key="a").set_value("w:int8/group32/asym,a:fp8_e4m3/token/dynamic,skip=none").run()
    assert page.selectbox(key="a.weights.format").value == "int8"
    assert page.selectbox(key="a.weights.size").value == "group32"
    assert page.selectbox(key="a.weights.zero point").value == "asymmetric"
    assert page.selectbox(key="a.activations.granularity").value == "token"
    page.selectbox(key="a.weights.size").set_value("group64").run()
    assert text_of(page, "a") == "w:int8/group64/asym,a:fp8_e4m3/token/dynamic,skip=none"  # skip= is not lost


def test_the_menus_work_after_a_return_to_the_default(page: AppTest) -> None:
    """The text at its default leaves the address; the page's own writing there must not count as a followed link."""
    run(page, layer="model.layers.0.self_attn.q_proj")
    start = text_of(page, "b")
    assert start.startswith("w:int4/group64,")
    for kind in ["channel", "group", "channel", "tensor", "group", "tensor"]:
        page.selectbox(key="b.weights.granularity").set_value(kind).run()
        assert text_of(page, "b") == start.replace("group64", "group64" if kind == "group" else kind)


def test_what_cannot_be_is_not_offered(page: AppTest) -> None:
    run(page, a="w:fp8_e4m3/group32,a:int8/tensor/static", layer="model.layers.0.self_attn.q_proj")
    keys = {box.key for box in page.selectbox}
    assert "a.weights.zero point" not in keys  # a float format has none
    assert page.selectbox(key="a.weights.size").options == ["group16", "group32", "group64"]  # what divides 64
    assert page.selectbox(key="a.activations.granularity").options == ["tensor"]  # static is per tensor
    assert "ema0.1" in page.selectbox(key="a.activations.observer").options
    assert "ema0.1" not in page.selectbox(key="a.weights.observer").options


def test_either_part_can_stay_float(page: AppTest) -> None:
    run(page, a="w:int4/channel,a:int8/token/dynamic")
    page.toggle(key="a.activations").set_value(False).run()
    assert text_of(page, "a") == "w:int4/channel"
    page.toggle(key="a.weights").set_value(False).run()
    assert text_of(page, "a") == "float"
    assert "A leaves the layer without error." in said(page)
    assert "no error" in figure_of(page, "errors")["figure"]["layout"]["annotations"][0]["text"]
    page.toggle(key="a.activations").set_value(True).run()
    assert text_of(page, "a") == "a:int8/token/dynamic"
    assert not page.exception


def test_weights_that_stay_float_need_no_method(page: AppTest) -> None:
    run(page, a="w:int4/channel,a:int8/token/dynamic,gptq/damp=0.05")
    assert page.selectbox(key="a.method").value == "gptq/damp=0.05"
    page.toggle(key="a.weights").set_value(False).run()
    assert not page.exception
    assert text_of(page, "a") == "a:int8/token/dynamic"


def test_copy_swap_reset(page: AppTest) -> None:
    run(page, a="w:int2/tensor", b="w:int8/channel")
    page.button(key="swap_ab").click().run()
    assert (text_of(page, "a"), text_of(page, "b")) == ("w:int8/channel", "w:int2/tensor")
    page.button(key="copy_ab").click().run()
    assert (text_of(page, "a"), text_of(page, "b")) == ("w:int8/channel", "w:int8/channel")
    assert "keep the same of the median token's output" in said(page)
    page.button(key="reset").click().run()
    assert Scheme.parse(text_of(page, "b")) == Scheme.parse("W4A8")


@pytest.mark.parametrize(
    ("broken", "sentence"),
    [
        ("w:int4/grp", "no granularity is called 'grp'"),
        ("w:int4/group100", "group100 does not divide in_features=128; try group64"),
        ("a:int8/token/static", "static per-token activations cannot be"),
        ("w:fp8_e4m3/tensor/asym", "fp8_e4m3 has a sign and no zero point"),
    ],
)
def test_a_broken_side_leaves_the_other_alive(page: AppTest, broken: str, sentence: str) -> None:
    run(page, a=broken, b="w:int4/channel")
    assert [error.value for error in page.error if sentence in error.value]
    assert [shown["key"] for shown in figures_of(page)] == CHARTS
    assert {trace["name"] for trace in figure_of(page, "errors")["figure"]["data"]} == {"B"}
    run(page, b="w:int4/grp")
    page.text_input(key="b").set_value("w:int4/grp").run()
    assert any("neither scheme can be used" in error.value for error in page.error)
    page.text_input(key="a").set_value("w:int4/channel").run()  # the line is still there to mend it
    assert [shown["key"] for shown in figures_of(page)] == CHARTS


def test_both_sides_share_their_edges(page: AppTest) -> None:
    run(page, a="w:int2/tensor", b="w:int8/channel")
    a, b = figure_of(page, "errors")["figure"]["data"]
    assert np.array_equal(values(a["x"]), values(b["x"]))
    occupied = values(b["x"])[:-1][values(b["customdata"])[:-1] > 0]
    assert np.abs(occupied).max() < 0.02  # int8: half of 1.5 / 127.5 = 0.006, and a bin of A's
    assert np.abs(values(a["x"])).max() > 0.2
    before, *after = figure_of(page, "weights")["figure"]["data"]
    assert before["name"] == "before"
    assert [trace["line"]["dash"] for trace in after] == ["solid", "dash"]
    assert all(values(trace["customdata"])[:-1].sum() == 64 * 128 for trace in (before, *after, a, b))


@pytest.mark.parametrize(("chart", "count"), [("channels", 64), ("tokens", 512)])
def test_worst_first_or_in_order(page: AppTest, chart: str, count: int) -> None:
    run(page, a="w:int4/tensor", b="w:int4/channel")
    first = figure_of(page, chart)["figure"]["data"][0]
    assert np.all(np.diff(values(first["y"])) <= 0)
    page.segmented_control(key="order").set_value("in order").run()
    second = figure_of(page, chart)["figure"]["data"][0]
    assert sorted(values(second["y"])) == sorted(values(first["y"]))
    assert values(second["x"]).tolist() == list(range(count))
    pairs = dict(zip(first["text"], values(first["y"]), strict=True))
    assert pairs == dict(zip(second["text"], values(second["y"]), strict=True))  # each keeps its own error
    assert [text.split()[1].rstrip(",") for text in second["text"]] == [str(place) for place in range(count)]


def test_a_link_with_a_bad_choice_is_told(page: AppTest) -> None:
    run(page, order="sideways")
    assert any("order='sideways'" in warning.value for warning in page.warning)


def test_a_head_that_models_leave_float_is_told(page: AppTest) -> None:
    run(page, layer="lm_head", a="w:int4/channel")
    assert "would leave `lm_head` float" in said(page)


def test_the_table_of_numbers(page: AppTest) -> None:
    run(page, a="w:int4/channel", b="w:int8/channel")
    shown = page.table[0].value
    assert shown.loc["bits per weight, scales counted", ["A", "B", "B - A"]].tolist() == ["4.125", "8.125", "+4"]
    assert shown.loc["SQNR of the input", "A"] == "exact"
    exported = page.dataframe[0].value
    assert exported.loc[exported["number"] == "this layer in a checkpoint", "A"].item() == 64 * 128 * 4.125 / 8


def test_a_difference_from_infinity_is_left_blank() -> None:
    frame = layer_words.pd.DataFrame({"number": ["x"], "unit": ["dB"], "A": [np.inf], "B": [3.0], "B - A": [-np.inf]})
    assert layer_words.written(frame).loc["x", ["A", "B", "B - A"]].tolist() == ["exact", "3.00", ""]
