"""The page Outliers: its numbers are the engine's, each control moves what it should, a click opens a layer."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from streamlit.testing.v1 import AppTest

from quantcore.model.loading import REFERENCE_LAYER, LoadedModel
from quantcore.pipeline.calibration import layer_inputs
from quantcore.studies.outliers import CLIPS, channel_study, who_pays
from quantcore.text.windows import bundled_text, token_windows
from tests.apptest_helpers import figure_of, figures_of, lab_of, metrics, page, said, values
from tests.tiny import LOUD_CHANNEL

LAYER = "model.layers.1.self_attn.q_proj"  # reads the channel whose gain was planted
CHARTS = ["layer_map", "surface", "token_errors", "channel_errors", "clip_curve", "keep_curve"]


@pytest.fixture
def at(tiny_model_dir: Path) -> AppTest:
    return page("3_Outliers", model=tiny_model_dir, layer=LAYER)


def decibels(at: AppTest, label: str) -> float:
    return float(metrics(at)[label].split()[0])


def payload(at: AppTest, key: str) -> dict[str, Any]:
    return {**figure_of(at, key), "alt": ""}


def test_shows_the_engines_numbers(at: AppTest, tiny_lm: LoadedModel) -> None:
    at.run()
    assert [error.value for error in at.error] == []
    tokens = token_windows(tiny_lm.tokenizer, bundled_text("evaluation", "encyclopedia"), 256, 512)
    x = layer_inputs(tiny_lm.model, tokens, LAYER).flatten(0, 1)
    study, (tensor, *_) = channel_study(x), who_pays(x, "int8")
    assert study.top[0].channel == LOUD_CHANNEL
    assert metrics(at)["Largest / median channel"] == f"{study.ratio:.1f}"
    assert metrics(at)["Input SQNR, median, shared scale"] == f"{float(tensor.token_sqnr_db.median()):.1f} dB"
    assert decibels(at, "Input, one scale for all") == pytest.approx(tensor.input_sqnr_db, abs=0.051)
    assert any(f"channel **{LOUD_CHANNEL}** reaches" in text.value for text in at.markdown)


def test_every_picture_is_there_says_its_finding_and_is_small(at: AppTest) -> None:
    at.run()
    for key in CHARTS:
        shown = figure_of(at, key)
        assert any(character.isdigit() for character in shown["alt"])
        assert len(str(shown["figure"])) < 400_000


def test_the_surface_keeps_the_loudest_value_and_names_it(at: AppTest) -> None:
    at.run()
    surface, mark = figure_of(at, "surface")["figure"]["data"]
    z = values(surface["z"])
    row, col = divmod(int(z.argmax()), z.shape[1])
    assert f"<br>channel {LOUD_CHANNEL}<br>token " in surface["text"][row][col]
    assert surface["text"][row][col].startswith(f"|x| {z.max():.3g}<br>")
    assert mark["z"] == [pytest.approx(float(z.max()))]
    at.segmented_control(key="height").set_value("log").run()
    scene = figure_of(at, "surface")["figure"]["layout"]["scene"]
    assert scene["zaxis"]["type"] == "log"


def test_the_format_moves_the_errors_and_leaves_map_and_surface(at: AppTest) -> None:
    at.run()
    label = "Input SQNR, median, shared scale"
    before, still = decibels(at, label), (payload(at, "layer_map"), payload(at, "surface"))
    at.segmented_control(key="act").set_value("int4").run()
    assert decibels(at, label) < before - 15  # four bits are 24 dB
    assert (payload(at, "layer_map"), payload(at, "surface")) == still


def test_keeping_the_loud_channel_lifts_the_input_and_moves_one_mark(at: AppTest) -> None:
    at.run()
    clip_curve = payload(at, "clip_curve")
    lines = figure_of(at, "keep_curve")["figure"]["data"][:2]
    at.select_slider(key="keep").set_value(1).run()
    label = "Input, a scale per token"
    gain = float(metrics(at)[label].split("(")[1].strip(")"))
    assert gain > 3
    data = figure_of(at, "keep_curve")["figure"]["data"]
    assert data[:2] == lines
    assert data[2]["x"] == [1, 1]
    assert data[2]["y"] == [line["y"][1] for line in lines]
    assert payload(at, "clip_curve") == clip_curve


def test_both_remedies_at_once_are_computed_together(at: AppTest) -> None:
    at.query_params.update({"clip": "p99", "keep": "2"})
    at.run()
    both = metrics(at)["Output, one scale for all"]
    assert any("clip **p99**, **2** of 64 channels" in text.value for text in at.markdown)
    at.select_slider(key="clip").set_value(CLIPS[-1]).run()
    assert metrics(at)["Output, one scale for all"] != both


def test_what_is_watched_is_what_is_drawn(at: AppTest) -> None:
    at.run()
    assert figure_of(at, "clip_curve")["figure"]["layout"]["yaxis"]["title"]["text"] == "SQNR of the output, dB"
    at.segmented_control(key="watch").set_value("median token").run()
    drawn = figure_of(at, "clip_curve")["figure"]
    assert drawn["layout"]["yaxis"]["title"]["text"] == "SQNR of the median token, dB"
    assert drawn["data"][0]["y"][-1] == pytest.approx(decibels(at, "Median token, one scale for all"), abs=0.051)


def test_a_layer_asked_for_by_the_page_is_opened_once(at: AppTest) -> None:
    at.run()
    at.session_state["_open_layer"] = "model.layers.0.mlp.down_proj"
    at.run()
    assert at.selectbox(key="layer").value == "model.layers.0.mlp.down_proj"
    assert "_open_layer" not in at.session_state
    assert any("`model.layers.0.mlp.down_proj`" in text.value for text in at.markdown)


@pytest.mark.parametrize(
    ("key", "value"), [("act", "int99"), ("clip", "p50"), ("keep", "33"), ("watch", "x"), ("height", "")]
)
def test_bad_link_gets_a_sentence(at: AppTest, key: str, value: str) -> None:
    at.query_params[key] = value
    at.run()
    assert [warning.value.split(", but")[0] for warning in at.warning] == [f"The link asks for {key}={value!r}"]
    assert len(at.metric) == 10


def test_a_followed_link_moves_back_what_it_does_not_name(at: AppTest) -> None:
    at.run()
    at.select_slider(key="keep").set_value(3).run()
    at.query_params["watch"] = "input"
    at.run()
    assert at.select_slider(key="keep").value == 0


def test_it_opens_on_a_wall() -> None:
    at = page("3_Outliers").run()
    assert at.selectbox(key="layer").value.endswith("q_proj")
    assert "A channel that is loud on many tokens" in said(at)


def test_the_reference_has_a_massive_activation_that_all_others_pay_for() -> None:
    at = page("3_Outliers", layer=REFERENCE_LAYER).run()
    assert decibels(at, "Largest / median token") > 10
    assert decibels(at, "Input SQNR, median, own scale") > decibels(at, "Input SQNR, median, shared scale") + 10


def test_a_wall_is_smoothed_on_the_real_layer(tiny_model_dir: Path) -> None:
    """Both surfaces are of the real layer, in the model as it was and smoothed, and end at one height."""
    at = page("3_Outliers", model=tiny_model_dir, layer=LAYER, treat="smooth", alpha=0.7).run()
    assert [error.value for error in at.error] == []
    before, after = (figure_of(at, key)["figure"] for key in ("surface_before", "surface_after"))
    assert before["layout"]["scene"]["zaxis"]["range"] == after["layout"]["scene"]["zaxis"]["range"]
    assert values(after["data"][0]["z"]).max() < values(before["data"][0]["z"]).max()
    assert len(figure_of(at, "difficulty")["figure"]["data"]) == 4
    paid, pays = (figure_of(at, key) for key in ("pay_before", "pay_after"))
    assert paid["figure"]["layout"]["yaxis"]["range"] == pays["figure"]["layout"]["yaxis"]["range"]
    lost, kept = (float(one["alt"].split("keeps ")[1].split(" dB")[0]) for one in (paid, pays))
    assert kept > lost
    assert any("W8A8,smooth=0.7/all" in text.value for text in at.markdown)


def test_a_wall_is_turned_into_a_plain(tiny_model_dir: Path) -> None:
    at = page("3_Outliers", model=tiny_model_dir, layer=LAYER, treat="rotate=hadamard").run()
    assert [error.value for error in at.error] == []
    ratio = float(figure_of(at, "difficulty")["alt"].split(" to ")[1].split(",")[0])
    assert ratio < 3


def test_the_caches_tensors_are_the_models_own(at: AppTest, tiny_lm: LoadedModel) -> None:
    """Values are what v_proj gives; of keys the rotary position keeps each pair of numbers' length."""
    assert not [shown for shown in figures_of(at.run()) if shown["key"] == "surface_keys"]
    at.session_state["cache_tensors"] = True
    at.run()
    assert not at.exception
    assert not at.error
    lab = lab_of(at)
    (keys, key_channels), (held, value_channels) = lab.cache_sides(1)
    attention = "model.layers.1.self_attn"
    x = lab.inputs(f"{attention}.v_proj")
    assert torch.allclose(held, x @ tiny_lm.model.get_submodule(f"{attention}.v_proj").weight.T, atol=1e-5)
    plain = (x @ tiny_lm.model.get_submodule(f"{attention}.k_proj").weight.T).unflatten(1, (-1, 2, 8))
    assert torch.allclose(keys.unflatten(1, (-1, 2, 8)).norm(dim=2), plain.norm(dim=2), atol=1e-4)
    text = said(at)
    assert f"**{key_channels.ratio:.1f}** times the median one, of the **values** {value_channels.ratio:.1f}" in text
    with pytest.raises(ValueError, match="block 7 hands no keys and values to a cache"):
        lab.cache_sides(7)


def test_alpha_under_the_hand_is_what_is_applied(tiny_model_dir: Path) -> None:
    """Each step's heights are those of the layer that is really smoothed so; both surfaces have one camera. Letting go
    at another alpha moves the page's own."""
    at = page("3_Outliers", model=tiny_model_dir, layer=LAYER, treat="smooth", alpha=0.5).run()
    assert [error.value for error in at.error] == []
    before, after = (figure_of(at, key) for key in ("surface_before", "surface_after"))
    assert before["link"] == after["link"] == "treatment"
    assert before.get("hand") is None
    hand = after["hand"]
    assert (hand["steps"][hand["at"]], len(hand["frames"])) == ("0.5", 10)
    assert hand["titles"][hand["at"]] == after["figure"]["layout"]["title"]["text"]
    assert [f"smooth={step}/all" in title for step, title in zip(hand["steps"], hand["titles"], strict=True)] == [
        True
    ] * 10
    here = values(after["figure"]["data"][0]["z"])
    assert np.allclose(values(hand["frames"][hand["at"]][0]["z"]), here, rtol=0.01)
    lab = lab_of(at)
    for alpha in (0.2, 0.8):
        x = lab.treated_layer(LAYER, f"smooth={alpha}/all")[0]
        assert torch.allclose(lab.inputs(LAYER) / lab.smoothing(LAYER).scales(alpha), x, rtol=0.02, atol=1e-4)
    at.session_state["_alpha_let_go"] = 0.8
    at.run()
    assert at.select_slider(key="alpha").value == 0.8
    assert "smooth=0.8/all" in figure_of(at, "surface_after")["figure"]["layout"]["title"]["text"]


def test_the_very_next_tokens_before_and_after(tiny_model_dir: Path) -> None:
    at = page("3_Outliers", model=tiny_model_dir, layer=LAYER, treat="quip=hadamard", act="int4").run()
    assert not [shown for shown in figures_of(at) if shown["key"] == "next_before"]
    at.session_state["next"] = True
    at.run()
    assert [error.value for error in at.error] == []
    alts = [figure_of(at, key)["alt"] for key in ("next_before", "next_after")]
    lab = lab_of(at)
    plain = "w:int4/channel,a:int4/tensor/dynamic"
    for alt, scheme in zip(alts, (plain, f"{plain},quip=hadamard"), strict=True):
        assert f"{lab.likeliest(scheme).kl:.3g} nats" in alt
    assert alts[0] != alts[1]
