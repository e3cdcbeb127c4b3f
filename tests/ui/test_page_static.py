"""The page Static or dynamic: the engine's numbers, moves that change what they should, links, and its lesson."""

from pathlib import Path

import numpy as np
import plotly.graph_objects as go
import pytest
from streamlit.testing.v1 import AppTest

from quantcore.model.loading import LoadedModel
from quantcore.pipeline.calibration import layer_inputs
from quantcore.scheme.scheme import Scheme
from quantcore.studies.ranges import observe, watch
from quantcore.text.windows import TEXT_KINDS, bundled_text, token_windows
from tests.apptest_helpers import figure_of, metrics, page, values
from ui.figures.ranges import Axis
from ui.sidebar import OWN

LAYER = "model.layers.1.mlp.down_proj"
CHARTS = ("steps_picture", "tokens_picture", "clip_map", "error_picture", "cost_picture")


@pytest.fixture
def at(tiny_model_dir: Path) -> AppTest:
    return page("4_Static_or_dynamic", model=tiny_model_dir, layer=LAYER)


def traces(at: AppTest, key: str) -> dict[str, dict]:
    return {trace.get("name", ""): trace for trace in figure_of(at, key)["figure"]["data"]}


def test_shows_the_engines_numbers(at: AppTest, tiny_lm: LoadedModel) -> None:
    at.run()
    assert [error.value for error in at.error] == []
    calibration = token_windows(tiny_lm.tokenizer, bundled_text("calibration", "encyclopedia"), 256, 2048)
    spec = Scheme.parse("a:int8/tensor/static/p99.99").activations
    assert spec is not None
    lo, hi = observe(watch(tiny_lm.model, calibration, LAYER), spec, 32).frozen
    reach = max(-lo, hi)
    tokens = token_windows(tiny_lm.tokenizer, bundled_text("evaluation", "encyclopedia"), 256, 512)
    x = layer_inputs(tiny_lm.model, tokens, LAYER).flatten(0, 1)
    outside = x.abs() > reach
    assert metrics(at)["Values clipped, percentile 99.99"] == f"{float(outside.double().mean()) * 1e6:,.0f} ppm"
    assert metrics(at)["Tokens with a clipped value"] == f"{float(outside.any(1).double().mean()):.1%}"
    crosses = traces(at, "tokens_picture")["clipped by percentile 99.99"]
    assert values(crosses["customdata"]) == pytest.approx(x.abs().amax(1)[outside.any(1)].numpy())


def test_more_steps_make_longer_trails(at: AppTest) -> None:
    at.run()
    assert len(values(traces(at, "steps_picture")["min-max"]["x"])) == 32
    at.slider(key="steps").set_value(8).run()
    assert len(values(traces(at, "steps_picture")["min-max"]["x"])) == 8
    assert list(values(traces(at, "steps_picture")["percentile 99.99"]["x"])) == [1, 2, 4, 8]


def test_a_lower_percentile_clips_more(at: AppTest) -> None:
    at.run()
    before = metrics(at)["Values clipped, percentile 99.99"]
    at.select_slider(key="percentile").set_value("99").run()
    after = metrics(at)["Values clipped, percentile 99"]
    assert float(after.split()[0].replace(",", "")) > 10 * float(before.split()[0].replace(",", ""))


def test_the_map_of_clips_has_the_tokens_touched_where_they_belong(at: AppTest) -> None:
    at.query_params["text"] = "code"
    at.run()
    cells = figure_of(at, "clip_map")["figure"]["data"][0]
    row, column = list(cells["y"]).index("code"), list(cells["x"]).index("percentile<br>99.99")
    assert f"{values(cells['z'])[row, column] / 100:.1%}" == metrics(at)["Tokens with a clipped value"]
    clipped = metrics(at)["Values clipped, percentile 99.99"]
    assert cells["text"][row][column] == f"{clipped}<br>{metrics(at)['Tokens with a clipped value']}"


def test_a_mix_reads_a_step_of_each_kind_in_turn(at: AppTest) -> None:
    def steps(kind: str) -> np.ndarray:
        at.selectbox(key="cal").set_value(kind).run()
        return values(traces(at, "steps_picture")["largest |value| of the step itself"]["customdata"])

    at.run()
    kinds = [steps(kind)[0] for kind in TEXT_KINDS]
    assert steps("mix")[:5] == pytest.approx(kinds)


def test_one_token_a_call_is_per_token(at: AppTest) -> None:
    at.query_params["call"] = "1"
    at.run()
    median = traces(at, "error_picture")["layer's output, median token"]
    by_way = dict(zip(median["y"], values(median["x"]), strict=True))
    assert by_way["dynamic: per tensor of 1"] == pytest.approx(by_way["dynamic: per token"])


def test_a_link_sets_everything(at: AppTest) -> None:
    calibration = {"cal": "mix", "steps": "12", "momentum": "0.3", "percentile": "99.9", "freeze": "ema"}
    codes = {"format": "int4", "symmetric": "false"}
    text = {"text": OWN, "own": "Where did you put the key?"}
    for key, value in {**calibration, **codes, **text}.items():
        at.query_params[key] = value
    at.run()
    assert [error.value for error in at.error] == []
    assert "Values clipped, moving average 0.3" in metrics(at)
    assert figure_of(at, "clip_map")["figure"]["data"][0]["y"][0] == "your own"
    assert "recorded on mix" in figure_of(at, "clip_map")["figure"]["layout"]["title"]["text"]
    assert {"max of the step itself", "min of the step itself"} <= set(traces(at, "steps_picture"))
    assert all(figure_of(at, key)["alt"] for key in CHARTS)


def test_a_bad_link_is_told(at: AppTest) -> None:
    at.query_params["cal"] = "klingon"
    at.query_params["steps"] = "1000"
    at.run()
    assert [error.value for error in at.error] == []
    assert any("cal='klingon'" in warning.value for warning in at.warning)
    assert any("steps='1000'" in warning.value and "from 4 to 64" in warning.value for warning in at.warning)


def test_the_time_is_kept_until_it_is_measured_again(at: AppTest) -> None:
    """The drawn numbers, not the sentence: two measurements may round to the same words."""
    at.run()
    before = figure_of(at, "cost_picture")["figure"]["data"]
    at.slider(key="steps").set_value(8).run()
    assert figure_of(at, "cost_picture")["figure"]["data"] == before
    at.button(key="again").click().run()
    assert figure_of(at, "cost_picture")["figure"]["data"] != before


def test_the_default_state_teaches() -> None:
    """The reference model's giant first token: min-max clips nothing and leaves the median token almost nothing."""
    at = page("4_Static_or_dynamic").run()
    assert [error.value for error in at.error] == []
    median = traces(at, "error_picture")["layer's output, median token"]
    by_way = dict(zip(median["y"], values(median["x"]), strict=True))
    assert by_way["static: min-max"] < by_way["dynamic: per tensor of 64"] - 6 < by_way["dynamic: per token"] - 12
    assert float(metrics(at)["Tokens with a clipped value"].rstrip("%")) > 5


def test_dots_stand_where_the_ticks_of_the_stretched_axis_say() -> None:
    at = page("4_Static_or_dynamic").run()
    axis = figure_of(at, "tokens_picture")["figure"]["layout"]["yaxis"]
    ticks = dict(zip(axis["ticktext"], values(axis["tickvals"]), strict=True))
    dots = [trace for name, trace in traces(at, "tokens_picture").items() if "token" in name or "clipped" in name]
    reach = np.concatenate([values(trace["customdata"]) for trace in dots])
    drawn = np.concatenate([values(trace["y"]) for trace in dots])
    order = reach.argsort()
    assert len(reach) == 512
    assert np.interp(1.0, reach[order], drawn[order]) == pytest.approx(ticks["1"], abs=0.02)
    assert np.interp(5.0, reach[order], drawn[order]) == pytest.approx(np.arcsinh(5.0), abs=0.02)


def test_stretched_axis_by_hand() -> None:
    axis, fig = Axis(unit=0.1, low=-5.0, high=300.0), go.Figure()
    assert axis.draw(np.array([0.1, -0.2, 0.0])) == pytest.approx([0.8814, -1.4436, 0.0], abs=1e-4)  # asinh 1, -asinh 2
    axis.dress(fig)
    assert fig.layout.yaxis.ticktext == ("-1", "-0.1", "0", "0.1", "1", "10", "100")
    assert fig.layout.yaxis.tickvals[-1] == pytest.approx(np.log(2 * 100 / 0.1), abs=1e-4)  # asinh x -> log 2x
    plain = Axis(unit=0.0, low=-5.0, high=15.0).dress(go.Figure())
    assert plain.layout.yaxis.range == pytest.approx((-6, 16))
    assert plain.layout.yaxis.tickvals is None
