"""The first page: the number in its question follows the one control, both pictures follow the engine."""

from pathlib import Path

import numpy as np
import pytest
from streamlit.testing.v1 import AppTest

from quantcore import quantize_model
from quantcore.matmul.size import checkpoint_bytes
from quantcore.model.linears import linear_named
from quantcore.model.loading import REFERENCE_LAYER, LoadedModel, load_model
from quantcore.scheme.scheme import Scheme
from quantcore.studies.next_tokens import next_tokens
from quantcore.studies.row import loud_row, row_study
from tests.apptest_helpers import errors, figure_of, figures_of, page, said, values

LAYER = "model.layers.1.mlp.down_proj"


@pytest.fixture
def at(tiny_model_dir: Path) -> AppTest:
    return page("", model=tiny_model_dir, layer=LAYER)


def test_shows_the_engines_numbers(at: AppTest, tiny_lm: LoadedModel) -> None:
    at.run()
    assert errors(at) == []
    assert at.title[0].value == "What happens when a layer keeps only 16 values?"
    weight = linear_named(tiny_lm.model, LAYER).weight
    row = row_study(weight, loud_row(weight, 0.9), Scheme.parse("w:int4/channel").weights)
    assert f"**{row.step:.3g}** apart" in said(at)
    data = figure_of(at, "row")["figure"]["data"]
    points = {trace["name"]: values(trace["y"]) for trace in data if trace.get("mode") == "markers"}
    np.testing.assert_allclose(points["float weight"], row.weight.numpy())
    np.testing.assert_allclose(points["int4 weight"], row.restored.numpy())
    bars = [values(trace["y"]) for trace in data if trace["type"] == "bar"]
    np.testing.assert_allclose(bars[0], row.error.numpy())
    quantized, _ = quantize_model(tiny_lm.model, "w:int4/channel")
    megabytes = {metric.label: metric.value for metric in at.metric}["Checkpoint, int4/channel"]
    assert megabytes == f"{checkpoint_bytes(quantized) / 1e6:.1f} MB"


def test_one_move_changes_the_question_and_both_pictures(at: AppTest) -> None:
    at.run()
    before = {shown["key"]: shown["figure"]["data"] for shown in figures_of(at)}
    at.select_slider(key="bits").set_value(2).run()
    assert at.title[0].value == "What happens when a layer keeps only 4 values?"
    after = {shown["key"]: shown["figure"]["data"] for shown in figures_of(at)}
    assert before.keys() == after.keys() == {"row", "tokens"}
    assert all(before[key] != after[key] for key in before)
    assert "`w:int2/channel`" in said(at)


def test_the_users_sentence_reaches_both_models(at: AppTest, tiny_lm: LoadedModel) -> None:
    at.query_params["bits"] = "3"
    at.query_params["prompt"] = "The key on the"
    at.run()
    assert at.title[0].value.endswith("only 8 values?")
    report = next_tokens(tiny_lm, quantize_model(tiny_lm.model, "w:int3/channel")[0], "The key on the")
    left, right = [trace for trace in figure_of(at, "tokens")["figure"]["data"] if trace["type"] == "bar"]
    np.testing.assert_allclose(values(left["x"]), [one.probability for one in report.likeliest], rtol=1e-5)
    np.testing.assert_allclose(values(right["x"]), [one.probability_hat for one in report.likeliest_hat], rtol=1e-5)
    assert f"= **{report.kl:.3g}** nats" in said(at)


def test_a_prompt_beyond_the_context_is_cut_and_said_so(at: AppTest) -> None:
    at.query_params["prompt"] = "storm " * 400
    at.run()
    assert errors(at) == []
    assert "The context holds 256 tokens, so the first " in said(at)


@pytest.mark.parametrize("prompt", ["\U0001f600 <b>bold</b> `$x$` var(--nothing)", "\x00\u200f\u0645"])
def test_odd_prompts_are_drawn(at: AppTest, prompt: str) -> None:
    at.query_params["prompt"] = prompt
    at.run()
    assert errors(at) == []
    assert len(figures_of(at)) == 2


def test_an_empty_prompt_gets_a_sentence_and_leaves_the_row(at: AppTest) -> None:
    at.run()
    at.text_area(key="prompt").set_value("  ").run()
    assert errors(at) == ["the prompt is empty and a model continues what it has read; type the start of a sentence"]
    assert [shown["key"] for shown in figures_of(at)] == ["row"]
    assert at.header[0].value == "What is loaded"


def test_a_bad_link_value_is_told(at: AppTest) -> None:
    at.query_params["bits"] = "9"
    at.run()
    assert "bits='9'" in at.warning[0].value
    assert at.title[0].value.endswith("only 16 values?")


def test_the_reference_model_breaks_between_four_bits_and_two() -> None:
    """The lesson of the first screen: 8 bits change nothing, 2 bits leave not one likely token in place."""
    at = page("", bits=8).run()
    assert "write the **same** next token" in said(at)
    at.select_slider(key="bits").set_value(2).run()
    assert "The next token is **another one**; **0 of 5**" in said(at)


def test_the_drawing_library_is_asked_for_before_any_picture(at: AppTest) -> None:
    at.run()
    names = [element.proto.component_name for element in at.get("bidi_component")]
    assert names[0] == "lab_head_start"
    assert "lab_chart" in names


def test_the_reference_models_first_picture_is_that_of_the_loaded_model() -> None:
    """It is drawn from the file, before the model is there."""
    at = page("", layer=REFERENCE_LAYER).run()
    assert errors(at) == []
    assert at.selectbox(key="layer").value == REFERENCE_LAYER
    weight = linear_named(load_model("reference", "cpu").model, REFERENCE_LAYER).weight
    row = row_study(weight, loud_row(weight, 0.9), Scheme.parse("w:int4/channel").weights)
    points = {
        trace["name"]: values(trace["y"])
        for trace in figure_of(at, "row")["figure"]["data"]
        if trace.get("mode") == "markers"
    }
    np.testing.assert_array_equal(points["float weight"], row.weight.numpy())
    np.testing.assert_array_equal(points["int4 weight"], row.restored.numpy())
