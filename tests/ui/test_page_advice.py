"""The page Which scheme should I ship?: full without a click, moves with the load, writes what it advises."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from streamlit.testing.v1 import AppTest

from quantcore.advice.catalog import shape_of
from quantcore.advice.choice import advise
from quantcore.advice.load import Load
from quantcore.export.recipe import plan_from_recipe
from quantcore.export.recipe import script as quantize_script
from quantcore.scheme.plan import Plan
from quantcore.studies.gpus import GPUS
from tests.apptest_helpers import click, figure_of, figures_of, lab_of, new_server, settle, values
from tests.apptest_helpers import page as open_page
from ui.words import advice as words
from ui.words.take import measured

PAGE = "14_Which_scheme_should_I_ship"
SMALL, FREE = "meta-llama/Llama-3.2-1B", "whatever fits"


@pytest.fixture(autouse=True)
def own_home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("QUANT_HOME", str(tmp_path / "home"))
    new_server()


def said(at: AppTest) -> str:
    return "\n".join(one.value for one in at.markdown)


def codes(at: AppTest) -> list[str]:
    return [one.value for one in at.code]


def test_alive_without_a_click_on_the_loaded_model(tiny_model_dir: Path) -> None:
    at = open_page(PAGE, model=tiny_model_dir, limit=FREE, goal="memory").run()
    assert not at.exception
    assert not at.error
    assert {shown["key"] for shown in figures_of(at)} == {"canvas", "bar"}
    assert "Ship **" in said(at)
    assert "not measured here" in said(at)
    assert any(button.label == "Measure the candidates on this model" for button in at.button)


def test_a_config_alone_is_advised_on(tiny_model_dir: Path) -> None:
    at = open_page(PAGE, shape="another: hub id, folder or config.json").run()
    assert not at.error
    assert "Ship" not in said(at)
    at.text_input(key="config").set_value(str(tiny_model_dir / "config.json")).run()
    assert not at.error
    assert "Ship **" in said(at)
    at.text_input(key="config").set_value("nothing at all").run()
    assert "no folder with a config.json and no hub id" in at.error[0].value


def test_a_tolerance_that_nothing_is_held_to_is_said(tiny_model_dir: Path) -> None:
    at = open_page(PAGE, model=tiny_model_dir, limit="perplexity + 1%").run()
    assert any(
        "That perplexity + 1% is kept to is not known yet: the losses of some" in one.value for one in at.caption
    )


def test_what_the_words_are_where_nothing_fits_and_where_all_is_slow() -> None:
    mixture = shape_of("Qwen/Qwen3-30B-A3B")
    nothing = advise(mixture, GPUS["RTX 4090"], Load(), tolerance=FREE)
    assert words.title(nothing).endswith(
        "It fits on 2 of them, or with 6 sequences at once, or with 6,144 tokens of context."
    )
    huge = advise(shape_of("deepseek-ai/DeepSeek-V3"), GPUS["T4"], Load(), tolerance=FREE)
    assert words.title(huge).endswith("Take a smaller model, or more memory.")
    a100 = advise(mixture, GPUS["A100 80GB"], Load(), tolerance=FREE)
    fp8 = next(one for one in a100.verdicts if one.candidate.name == "FP8_DYNAMIC")
    assert words.card(fp8)[-1].startswith("Inputs stay 16-bit on this GPU")
    assert [words.duration(ms) for ms in (6.04, 999.4, 1300.0, 105_000.0, 2_351_000.0)] == [
        "6.04 ms", "999 ms", "1.3 s", "105 s", "2,350 s",
    ]  # fmt: skip


def test_beside_the_model_that_comes_along_it_opens_where_there_is_a_choice() -> None:
    """A model that fits everywhere as it is teaches nothing; and no limit is asked for that nothing can be held to."""
    at = open_page(PAGE).run()
    assert not at.error
    assert at.selectbox(key="shape").value.endswith("70B-Instruct")
    assert "Ship **W4A16 GPTQ**" in said(at)
    assert "does not fit by" in "\n".join(at.table[0].value["why not"])
    assert "limit" not in {box.key for box in at.selectbox}
    at.selectbox(key="shape").set_value("loaded").run()
    assert at.selectbox(key="limit").value == "perplexity + 1%"
    assert set(at.table[0].value["KL of"]) == {"", "the reference model, recorded"}  # which the loaded one is, too


def test_what_is_written_is_what_was_advised(tiny_model_dir: Path) -> None:
    """Recipe and command hold the very scheme, for a model that is known by its shape alone."""
    at = open_page(PAGE, model=tiny_model_dir, shape=SMALL, gpu="L4", goal="memory", gpus=2).run()
    assert not at.error
    found = advise(shape_of(SMALL), GPUS["L4"], Load(), 2, "memory", FREE)
    assert found.chosen is not None
    text = found.chosen.candidate.text
    assert f"`{text}`" in said(at)
    recipe, script, serve = codes(at)[:3]
    assert plan_from_recipe(recipe) == Plan.parse(text)
    assert SMALL in script
    assert f"model.save_pretrained('{serve.split()[2]}'" in script  # what is served is what the program writes
    assert "--tensor-parallel-size 2" in serve
    assert f"--max-model-len {found.load.context} --max-num-seqs {found.load.sequences}" in serve


def test_every_button_leaves_with_what_was_advised(tiny_model_dir: Path) -> None:
    """Of the loaded model: recipe, program, served line, checkpoint as transformers reads it, and report."""
    at = settle(open_page(PAGE, model=tiny_model_dir, limit=FREE, goal="memory"))
    lab = lab_of(at)
    found = lab.advise(goal="memory", tolerance=FREE, load=str(Load()))
    assert found.chosen is not None
    text = found.chosen.candidate.text
    assert text.startswith("w:int4/")
    recipe, script, serve = codes(at)[:3]
    assert plan_from_recipe(recipe) == Plan.parse(text)
    assert script.strip() == quantize_script(text, str(tiny_model_dir), lab.short_name(text), 256).strip()
    assert serve.startswith(f"vllm serve {lab.short_name(text)} ")
    folder = lab.checkpoint_folder(text)
    for label in ("Write the checkpoint", "Load it again: does it say the same?"):
        next(button for button in at.button if button.label == label).click().run()
        settle(at)
        assert not at.error
    assert str(folder) in codes(at)
    kept = lab.kept_checkpoint(text)
    assert kept is not None
    tensors = load_file(folder / "model.safetensors").values()
    served = [2 * one.numel() if one.dtype == torch.float32 else one.nbytes for one in tensors]
    assert sum(served) == found.chosen.memory.weights
    assert kept.facts["calibration_tokens"] == 10240
    back = lab.read_back(text)
    assert back.kl < 1e-4  # the very codes: another scheme's are far beyond
    measure = next(button for button in at.button if "for the report" in button.label)
    measure.click().run()
    settle(at)
    duel = lab.kept_duel((text,))
    assert duel is not None
    assert measured(duel.reports[text], text) in said(at)
    assert "Report as HTML" in [one.label for one in at.get("download_button")]


def test_the_load_moves_the_points_and_a_click_shows_a_card(tiny_model_dir: Path) -> None:
    at = open_page(PAGE, model=tiny_model_dir, shape=SMALL, gpu="T4").run()
    before = values(figure_of(at, "canvas")["figure"]["data"][0]["x"])[0]
    at.select_slider(key="context").set_value(65536).run()
    after = values(figure_of(at, "canvas")["figure"]["data"][0]["x"])[0]
    assert after > before
    click(at, "canvas", customdata=["W8A8"])
    at.run()
    assert "**W8A8**, which you clicked" in said(at)
    table = at.table[0].value
    assert "does not fit by" in "\n".join(table["why not"])


def test_a_load_that_cannot_be_is_a_sentence(tiny_model_dir: Path) -> None:
    at = open_page(PAGE, model=tiny_model_dir, shape=SMALL, context=1024, prompt_tokens=1024).run()
    assert "are more than a context of 1024; take a longer context" in at.error[0].value


def test_figures_are_written_out() -> None:
    """A small model on a large GPU: no powers of ten."""
    found = advise(shape_of(SMALL), GPUS["H100 SXM"], Load(sequences=64), tolerance=FREE)
    assert found.chosen is not None
    assert found.chosen.time is not None
    fast = replace(found.chosen, time=replace(found.chosen.time, tokens_s=137_142.4))
    assert "**137,100 tokens/s** for all sequences" in words.card(fast)[1]
    slow = replace(fast, time=replace(found.chosen.time, tokens_s=3951.6))
    assert "**3,952 tokens/s** for all sequences" in words.card(slow)[1]
    losses = [one.loss for one in found.verdicts if one.loss and one.loss.kl]
    assert "KL **0.000050** (" in words.loss(replace(losses[0], kl=5e-5))


def test_a_server_is_asked_for_no_longer_context_than_the_model_has() -> None:
    """vLLM refuses a --max-model-len beyond what config.json says."""
    found = advise(shape_of("meta-llama/Meta-Llama-3.1-8B"), GPUS["H100 SXM"], Load(context=8192))
    assert words.serve_line("m", found, 1024).startswith("vllm serve m --max-model-len 1024 --max-num-seqs")
    assert words.serve_line("m", found, 131072).startswith("vllm serve m --max-model-len 8192 ")
    assert words.serve_line("m", found).startswith("vllm serve m --max-model-len 8192 ")
    assert words.serve_line("o/m@v1", found).startswith("vllm serve o/m --revision v1 --max-model-len 8192 ")
    assert words.serve_line("/at/o@home/m", found).startswith("vllm serve /at/o@home/m --max-model-len 8192 ")
