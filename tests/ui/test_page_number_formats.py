"""The page Number formats: grids over a real tensor, the engine's numbers, state in the link."""

from pathlib import Path

import pytest
from streamlit.testing.v1 import AppTest

from quantcore.model.linears import linear_named
from quantcore.model.loading import LoadedModel
from quantcore.numbers.formats import format_named
from quantcore.studies.number_formats import code_use, fit
from tests.apptest_helpers import figures_of, lab_of, number_lines_of, page

LAYER = "model.layers.1.mlp.down_proj"


@pytest.fixture
def at(tiny_model_dir: Path) -> AppTest:
    return page("1_Number_formats", model=tiny_model_dir, layer=LAYER)


def test_shows_three_grids_with_the_engines_scales(at: AppTest, tiny_lm: LoadedModel) -> None:
    at.run()
    assert [error.value for error in at.error] == []
    weight = linear_named(tiny_lm.model, LAYER).weight
    line = number_lines_of(at)[0]
    assert [one["label"] for one in line["lines"]] == ["int4", "int4 asym", "fp4_e2m1"]
    assert line["lines"][0]["scale"] == fit(weight, format_named("int4"), symmetric=True).scale
    assert sum(line["counts"]) == weight.numel()
    use = code_use(weight, fit(weight, format_named("int4"), symmetric=True))
    layout = figures_of(at)[0]["figure"]["layout"]
    assert layout["title"]["text"] == f"int4: SQNR {use.sqnr_db:.1f} dB"
    assert layout["xaxis"]["title"]["text"] == f"value; {use.unused} of 16 unused (x)"


def test_the_case_for_a_zero_point_is_found_on_the_model(at: AppTest) -> None:
    at.run()
    found = lab_of(at).one_sided()
    links = [one.proto for one in at.get("page_link") if "zero point wins" in one.proto.label]
    assert len(links) == (found is not None)
    if found is not None:
        assert f"layer={found.layer}" in links[0].query_string
        assert "formats=int8&formats=int8_asym" in links[0].query_string


def test_a_zero_point_wins_where_the_preset_says_so() -> None:
    """On the reference model, and with few formats on offer."""
    at = page(
        "1_Number_formats", formats=["int8", "int8_asym"], of="inputs", layer="model.layers.7.mlp.gate_proj"
    ).run()
    plain, zero = (float(shown["alt"].split("SQNR ")[1].split()[0]) for shown in figures_of(at)[:2])
    assert zero > plain + 4
    assert len(at.segmented_control(key="formats").options) == 7


def test_choosing_formats_changes_the_lines(at: AppTest) -> None:
    at.query_params["formats"] = ["int8", "fp8_e4m3"]
    at.run()
    assert [one["label"] for one in number_lines_of(at)[0]["lines"]] == ["int8", "fp8_e4m3"]
    assert [len(one["codes"]) for one in number_lines_of(at)[0]["lines"]] == [256, 253]
    at.segmented_control(key="of").set_value("inputs").run()
    assert number_lines_of(at)[0]["label"] == f"inputs of {LAYER}"


def test_link_places_the_value_and_the_scales(at: AppTest, tiny_model_dir: Path) -> None:
    at.query_params["x"] = "0.25"
    at.query_params["scales"] = "0.5,1,2"
    at.run()
    line = number_lines_of(at)[0]
    assert line["x"] == 0.25
    plain = page("1_Number_formats", model=tiny_model_dir, layer=LAYER).run()
    scales = [one["scale"] for one in number_lines_of(plain)[0]["lines"]]
    assert [one["scale"] for one in line["lines"]] == pytest.approx([0.5 * scales[0], scales[1], 2 * scales[2]])


@pytest.mark.parametrize(("key", "value"), [("x", "abc"), ("scales", "1,2"), ("formats", "int99")])
def test_bad_link_gets_a_sentence(at: AppTest, key: str, value: str) -> None:
    at.query_params[key] = value
    at.run()
    assert len(at.warning) == 1
    assert value in at.warning[0].value
    assert len(figures_of(at)) == 4


def test_too_many_formats_is_one_sentence(at: AppTest) -> None:
    at.query_params["formats"] = ["int2", "int3", "int4", "int8"]
    at.run()
    assert [error.value for error in at.error] == ["Formats on the axis (up to three): 4 are chosen; choose one to 3"]


def test_a_power_of_two_waits_and_doubles(at: AppTest) -> None:
    at.query_params["times"] = "1.0"
    at.run()
    assert not at.exception
    alts = []
    for times in (1.0, 2.0):
        at.slider(key="times").set_value(times).run()
        assert not at.exception
        alts.append(next(one["alt"] for one in figures_of(at) if one["alt"].startswith("MXFP4")))
    first, second = (float(alt.split("scale ")[1].split()[0]) for alt in alts)
    assert second == pytest.approx(2 * first, rel=1e-3)
    assert any("of its grid" in one.value for one in at.markdown)
