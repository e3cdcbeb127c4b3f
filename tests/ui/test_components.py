"""The components as Python sees them: what is sent to the browser, and what is refused before it is sent."""

import json
from pathlib import Path

import numpy as np
import plotly.graph_objects as go
import pytest
from streamlit.testing.v1 import AppTest

from tests.apptest_helpers import click, figure_of, figures_of, move_number_line, number_lines_of, values
from ui.components import palette
from ui.components.chart import encode_chart
from ui.components.hand import round_places
from ui.components.number_line import Line, describe, read

PAGE = Path(__file__).parents[1] / "component_page.py"
SURFACE = {"light": "#fcfbf8", "dark": "#15191e"}  # backgroundColor in .streamlit/config.toml
INT4 = Line("int4", "blue", range(-8, 8), [code % 2 == 0 for code in range(-8, 8)], scale=0.1)
AXIS = {"key": "grid", "lo": -1.0, "hi": 1.0, "x": 0.5, "counts": [1], "edges": [-1.0, 1.0], "label": ""}


def encoded(fig: go.Figure, alt: str = "three points") -> dict:
    return json.loads(encode_chart(fig, key="k", alt=alt, height=300, on_click=False, link=None))


# ---------------------------------------------------------------- the chart's message


def test_arrays_are_packed_and_the_template_stays_here() -> None:
    shown = encoded(go.Figure(go.Heatmap(z=np.arange(6, dtype=np.float32).reshape(2, 3))))
    z = shown["figure"]["data"][0]["z"]
    assert z["dtype"] == "f4"
    assert z["shape"] == "2, 3"
    assert values(z).tolist() == [[0, 1, 2], [3, 4, 5]]
    assert "template" not in shown["figure"]["layout"]


def test_text_and_holes_survive() -> None:
    fig = go.Figure(go.Scatter(y=[1.0, np.nan], customdata=np.array([["q_proj", 1], ["k_proj", 2]], dtype=object)))
    trace = encoded(fig)["figure"]["data"][0]
    assert trace["y"] == [1.0, None]
    assert trace["customdata"] == [["q_proj", 1], ["k_proj", 2]]


def test_float16_is_refused_with_its_place() -> None:
    fig = go.Figure([go.Bar(y=[1]), go.Heatmap(z=np.zeros((2, 3), dtype=np.float16))])
    with pytest.raises(TypeError, match=r"figure\.data\[1\]\.z is float16 of shape \(2, 3\).*astype\('float32'\)"):
        encoded(fig)


@pytest.mark.parametrize("alt", ["", "  "])
def test_alt_is_required(alt: str) -> None:
    with pytest.raises(ValueError, match="chart 'k' has an empty alt"):
        encoded(go.Figure(), alt=alt)


# ---------------------------------------------------------------- colours


def luminance(colour: str) -> float:
    channels = [int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5)]
    linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in channels]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


@pytest.mark.parametrize("name", palette.SERIES)
@pytest.mark.parametrize(("theme", "which"), [("light", 0), ("dark", 1)])
def test_every_series_colour_stands_out(name: str, theme: str, which: int) -> None:
    """WCAG 1.4.3: they colour words too, which need a contrast of 4.5:1 against the page."""
    dark, bright = sorted([luminance(palette.SERIES[name][which]), luminance(SURFACE[theme])])
    assert (bright + 0.05) / (dark + 0.05) >= 4.5


def test_streamlit_has_the_same_colours() -> None:
    config = (PAGE.parents[1] / ".streamlit" / "config.toml").read_text(encoding="utf-8")
    for which, theme in enumerate(("light", "dark")):
        row = ", ".join(f'"{pair[which]}"' for pair in palette.SERIES.values())
        assert f"chartCategoricalColors = [{row}]" in config
        assert f'backgroundColor = "{SURFACE[theme]}"' in config


def test_token() -> None:
    assert palette.token("blue") == palette.BLUE == "var(--blue)"
    assert palette.token("blue", 0.4) == "var(--blue/0.4)"
    assert palette.token("ink", 0) == "var(--ink/0)"


@pytest.mark.parametrize(("name", "opacity", "says"), [("bluu", 1, "known: blue, verm"), ("blue", 2, "outside 0..1")])
def test_token_refuses(name: str, opacity: float, says: str) -> None:
    with pytest.raises(ValueError, match=says):
        palette.token(name, opacity)


def test_a_figure_with_an_unknown_colour_is_refused() -> None:
    with pytest.raises(ValueError, match=r"unknown colour var\(--chartreuse\)"):
        encoded(go.Figure(go.Bar(y=[1], marker_color="var(--chartreuse)")))


# ---------------------------------------------------------------- the number line's message


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"colour": "mauve"}, "colour 'mauve'; known colours: blue"),
        ({"scale": 0.0}, "scale 0.0; a scale is a positive number"),
        ({"codes": [1, 1]}, "ascending order"),
        ({"even": [True]}, "16 codes but 1 even"),
        ({"integer": False, "zero_point": 3}, "float format with zero_point 3"),
    ],
)
def test_a_line_refuses(change: dict, says: str) -> None:
    fields = {name: getattr(INT4, name) for name in INT4.__dataclass_fields__}
    with pytest.raises(ValueError, match=says):
        Line(**{**fields, **change})


@pytest.mark.parametrize(
    ("count", "change", "says"),
    [
        (0, {}, "got 0 lines; it draws 1 to 3"),
        (4, {}, "got 4 lines; it draws 1 to 3"),
        (1, {"x": 2.0}, "x=2.0 must lie on an axis from -1.0 up to 1.0"),
        (1, {"edges": [0.0]}, "1 counts need 2 edges, got 1"),
    ],
)
def test_a_number_line_refuses(count: int, change: dict, says: str) -> None:
    with pytest.raises(ValueError, match=says):
        describe([INT4] * count, **{**AXIS, **change})


def test_an_answer_counts_only_for_the_question_it_answers() -> None:
    sent = describe([INT4], **AXIS)
    answer = {"x": 0.25, "clip": 0.5, "lines": [{"scale": 0.2, "zero_point": None}]}
    ids = {"lines_id": sent["lines_id"], "axis_id": sent["axis_id"]}

    fresh = read({**answer, **ids}, sent)
    assert (fresh.x, fresh.clip, fresh.scales) == (0.25, 0.5, (0.2,))

    stale = read({**answer, **ids, "lines_id": "another format's", "axis_id": "another tensor's"}, sent)
    assert (stale.x, stale.clip, stale.scales) == (0.5, 0.5, (0.05,))  # x and scale as sent, half the range kept

    assert read(None, sent).scales == (0.1,)


# ---------------------------------------------------------------- under AppTest


def test_apptest_sees_figures_and_lines() -> None:
    at = AppTest.from_file(str(PAGE), default_timeout=30)
    at.query_params["surfaces"] = "linked"
    at.run()
    assert not at.exception
    assert [shown["key"] for shown in figures_of(at)] == ["bars", "heat", "before", "after"]
    assert [line["label"] for line in number_lines_of(at)[0]["lines"]] == ["int4", "int4 asym", "fp4"]

    at.slider(key="outlier").set_value(7).run()
    bars = figure_of(at, "bars")
    assert bars["alt"] == "channel 3 has absmax 7"
    assert values(bars["figure"]["data"][0]["y"]).tolist() == [4, 5, 7]
    assert values(figure_of(at, "before")["figure"]["data"][0]["z"])[:, 4].tolist() == [7.0] * 8
    with pytest.raises(KeyError, match="no chart 'histogram' on this page; it has"):
        figure_of(at, "histogram")


def test_apptest_can_click_and_drag() -> None:
    at = AppTest.from_file(str(PAGE), default_timeout=30).run()
    assert [text.value for text in at.text][1] == "nothing clicked"
    click(at, "bars", customdata="b", point=1)
    move_number_line(at, "grid", x=0.25, scales=[0.2, 0.1, 0.1])
    at.run()
    assert not at.exception
    assert [text.value for text in at.text][1:] == [
        "clicked b in bar 1",
        "not held",
        "server has x=0.25 scales=[0.2, 0.1, 0.1] zeros=(None, -3, None)",
    ]


@pytest.mark.parametrize(
    ("lo", "hi", "places"),
    [
        (0, 130, [0, 20, 40, 60, 80, 100, 120]),
        (0, 100, [0, 20, 40, 60, 80, 100]),
        (0.3, 0.55, [0.3, 0.35, 0.4, 0.45, 0.5, 0.55]),
        (-8, 7, [-8, -6, -4, -2, 0, 2, 4, 6]),
        (4, 100, [20, 40, 60, 80, 100]),
    ],
)
def test_a_rulers_marks_are_round(lo: float, hi: float, places: list[float]) -> None:
    assert round_places(lo, hi) == pytest.approx(places)
