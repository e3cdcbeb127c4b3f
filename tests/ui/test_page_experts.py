"""A mixture on the pages: its experts in the menu, their maps, and one of them opened."""

from pathlib import Path
from urllib.parse import parse_qs

import pytest
import transformers
from streamlit.testing.v1 import AppTest

from benchmarks.zoo_models import build, save
from tests.apptest_helpers import figure_of, figures_of, new_server, settle
from tests.apptest_helpers import page as open_page
from tests.model.test_experts import KINDS
from tests.tiny import VOCAB, tiny_tokenizer
from ui.sections.experts import EVERY, GPTQ

UP = "model.layers.0.mlp.experts.{}.w3"
IDLE = "model.layers.0.mlp.experts.3.up_proj"


@pytest.fixture(scope="module")
def mixture(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("mixture")
    config = transformers.MixtralConfig(
        **{**KINDS["Mixtral"], "vocab_size": VOCAB, "num_hidden_layers": 1, "intermediate_size": 64}
    )
    transformers.AutoModelForCausalLM.from_config(config).save_pretrained(folder)
    tiny_tokenizer().save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def with_idle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A mixture whose router never chooses expert 3."""
    model = build("gpt_oss")
    for block in model.model.layers:
        block.mlp.router.bias[3] = -1e4
    return save(model, tmp_path_factory.mktemp("idle"))


@pytest.fixture(autouse=True)
def _server(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("QUANT_HOME", str(tmp_path))
    new_server()


def test_the_maps_of_experts(mixture: Path) -> None:
    page = open_page("8_Which_layers_hurt", model=mixture, group=32)
    settle(page)
    assert [one.value for one in page.error] == []
    assert [shown["key"] for shown in figures_of(page)][2:4] == ["load_map", "damage_map"]
    (row,) = figure_of(page, "load_map")["figure"]["data"][0]["text"]
    assert len(row) == 4
    assert all("tokens" in cell for cell in row)
    assert any("loses most" in one.value for one in page.markdown)


def test_an_expert_is_opened_as_any_layer(mixture: Path) -> None:
    """The menu has a line for each kind of layer; a link may name an expert in full."""
    page = open_page("3_Outliers", model=mixture, layer=UP.format(2))
    page.run()
    assert not page.error
    menu = page.selectbox(key="layer")
    assert menu.value == UP.format("*")
    assert len([one for one in menu.options if ".experts." in one]) == 3
    assert page.selectbox(key="expert").value == 2
    before = figure_of(page, "surface")["figure"]
    page.selectbox(key="expert").select(1).run()
    assert not page.error
    assert figure_of(page, "surface")["figure"] != before


def test_an_expert_is_kept_by_the_address_and_on_the_way_to_another_page(mixture: Path) -> None:
    page = open_page("2_Granularity", model=mixture, layer=UP.format(2)).run()
    assert page.query_params["expert"] == "2"
    (link,) = [one.proto for one in page.get("page_link") if one.proto.label == "Outliers"]
    asked = parse_qs(link.query_string)
    assert (asked["layer"], asked["expert"]) == ([UP.format("*")], ["2"])


def test_no_experts_no_second_menu(tiny_model_dir: Path) -> None:
    page: AppTest = open_page("3_Outliers", model=tiny_model_dir)
    page.run()
    assert "expert" not in {box.key for box in page.selectbox}


def test_experts_with_too_few_tokens_are_named(with_idle: Path) -> None:
    """Under GPTQ the page says from how many tokens each expert learns; with every token to each, none has too few."""
    page = open_page("8_Which_layers_hurt", model=with_idle, experts=GPTQ)
    settle(page)
    assert not page.error
    (said,) = (one.value for one in page.warning)
    assert said.startswith(
        "Fewer calibration tokens than the 64 columns of their weights: block 0 expert 3 (0), block 1"
    )
    assert "2 of 8 experts are given none." in "".join(one.value for one in page.markdown)
    ((*_, idle), _) = figure_of(page, "damage_map")["figure"]["data"][0]["text"]
    assert idle == "block 0, expert 3<br>no token reached it"
    page.segmented_control(key="experts").set_value(EVERY).run()
    settle(page)
    assert not page.warning


@pytest.mark.parametrize(
    "name", ["2_Granularity", "3_Outliers", "4_Static_or_dynamic", "5_Layer_lab", "6_GPTQ_step_by_step"]
)
def test_a_layer_that_no_token_reached_says_so(name: str, with_idle: Path) -> None:
    """One sentence, no infinite figure, and no error of the page's own."""
    page = open_page(name, model=with_idle, layer=IDLE)
    settle(page)
    said = [one.value for one in page.error]
    assert any(f"no token reached '{IDLE}', of " in one for one in said), said
    assert not any("error of its own" in one for one in said)
    assert not page.exception
