"""Every page opens without a refusal on a model that is not ours: width 96, three blocks, other names of layers, and
weights that lie the other way round (GPT-2). Groups of 128 and 64 do not divide it; those of 32 do."""

from pathlib import Path
from urllib.parse import parse_qs

import pytest
import torch
from streamlit.testing.v1 import AppTest
from transformers import GPT2Config, GPT2LMHeadModel

from quantcore.lab.lab import Lab
from tests.apptest_helpers import errors, page, said
from tests.tiny import CONTEXT, VOCAB, tiny_tokenizer

PAGES = (
    "0_Course", "1_Number_formats", "2_Granularity", "3_Outliers", "4_Static_or_dynamic", "5_Layer_lab",
    "6_GPTQ_step_by_step", "7_Scheme_duel", "8_Which_layers_hurt", "9_Rules_tested", "10_Speed_and_memory",
    "16_Take_it_with_you", "14_Which_scheme_should_I_ship", "15_What_has_been_measured", "13_Context_lens",
)  # fmt: skip
SHOWS_A_REFUSAL = {"what no checkpoint holds"}
CONV1D = "is a Conv1D and readers of compressed-tensors look for codes in torch's Linear only"  # in a recipe's place
GRAIN = "groups of 32, because 96 / 64 is no whole number"


@pytest.fixture(scope="module")
def narrow_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("narrow-lm")
    config = GPT2Config(
        vocab_size=VOCAB, n_positions=CONTEXT, n_embd=96, n_layer=3, n_head=4, bos_token_id=0, eos_token_id=0
    )
    torch.manual_seed(0)
    model = GPT2LMHeadModel(config)
    with torch.no_grad():
        for block in model.transformer.h:
            block.ln_2.weight[5] = 12.0
    model.save_pretrained(folder)
    tiny_tokenizer().save_pretrained(folder)
    return folder


@pytest.mark.usefixtures("fresh")
@pytest.mark.parametrize("name", ["", *PAGES])
def test_a_page_and_every_preset_work_on_it(name: str, narrow_dir: Path) -> None:
    at = page(name, model=narrow_dir).run()
    assert not at.exception
    assert [one for one in errors(at) if CONV1D not in one] == []
    assert at.warning.values == [] or all("no such choice" not in one for one in at.warning.values)
    assert "down_proj" not in said(at)  # a name of other models' layers
    if name in ("7_Scheme_duel", "16_Take_it_with_you"):
        assert any(GRAIN in one.value for one in at.caption)
    found = presets(at)
    assert bool(found) == (name != "0_Course")
    for label, state in found.items():
        at = page(name, **state).run()
        assert not at.exception, label
        assert state["model"] == [str(narrow_dir)]  # a preset keeps the model
        warnings = [one for one in at.warning.values if CONV1D not in one]
        assert warnings == [] or label in SHOWS_A_REFUSAL, (label, warnings)
        assert [one for one in errors(at) if CONV1D not in one] == [] or label in SHOWS_A_REFUSAL, (label, errors(at))


@pytest.mark.usefixtures("fresh")
def test_every_scene_of_the_course_finds_its_example_on_it(narrow_dir: Path) -> None:
    """Or says that there is none; the last number, 15, is the game."""
    for number in range(1, 16):
        at = page("0_Course", model=narrow_dir, scene=number, shown="true").run()
        assert not at.exception, number
        assert errors(at) == [], (number, errors(at))


def test_who_pays_has_the_groups_of_the_whole_model(narrow_dir: Path) -> None:
    """Not those that fit this layer alone: 384 / 128 is a whole number, 96 / 128 is none."""
    lab = Lab(str(narrow_dir))
    layer = next(name for name, (_, width) in lab.layers().items() if width == 384)
    assert [one.granularity for one in lab.payers(layer, "int8")] == ["tensor", "token", "group32"]


def presets(at: AppTest) -> dict[str, dict[str, list[str]]]:
    """The links under "Try this", label to state."""
    links = [one.proto for one in at.get("page_link")]
    return {one.label: parse_qs(one.query_string) for one in links if "try=" in one.query_string}
