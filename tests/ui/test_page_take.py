"""The page Take it with you: recipe, commands and bytes without a click; the checkpoint is the command line's."""

import shutil
import time
from pathlib import Path
from typing import Any

import pytest
import yaml
from streamlit.testing.v1 import AppTest
from transformers import GPT2Config, GPT2LMHeadModel

from quantcore.cli import verbs
from quantcore.cli.texts import TextOptions
from quantcore.export import trial
from quantcore.export.promise import promise
from quantcore.export.recipe import plan_from_recipe, recipe, script
from quantcore.export.tensors import stored_type
from quantcore.lab.lab import Lab
from quantcore.lab.take import slug
from quantcore.matmul.size import bits_per_weight, checkpoint_bytes
from quantcore.measure.store import home
from quantcore.model.loading import LoadedModel
from quantcore.pipeline.convert import quantize_model
from quantcore.studies.written import Written
from tests.apptest_helpers import figure_of, figures_of, lab_of, new_server, settle, values
from tests.apptest_helpers import page as open_page
from tests.tiny import VOCAB, tiny_tokenizer
from ui import job_view

SCHEME = "w:int4/group16"


@pytest.fixture(autouse=True)
def own_home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("QUANT_HOME", str(tmp_path / "home"))
    new_server()


def take(folder: Path, **state: object) -> AppTest:
    at = open_page("16_Take_it_with_you", model=folder, **{"scheme": SCHEME, **state})
    at.session_state["layer_report"] = True  # the layer's report is open
    return settle(at)


def codes(at: AppTest) -> list[str]:
    return [one.value for one in at.code]


def press(at: AppTest, label: str) -> AppTest:
    next(button for button in at.button if button.label == label).click().run()
    return settle(at)


def said(at: AppTest) -> str:
    return "\n".join(one.value for one in at.markdown)


def test_alive_without_a_click_and_true(tiny_model_dir: Path, tiny_lm: LoadedModel) -> None:
    at = take(tiny_model_dir)
    assert not at.error
    assert not at.warning
    name = lab_of(at).short_name(SCHEME)
    shown = codes(at)
    assert recipe(SCHEME).strip() in [one.strip() for one in shown]
    assert script(SCHEME, str(tiny_model_dir), name, 256).strip() in [one.strip() for one in shown]
    assert f"python -m quantcore quantize --model {tiny_model_dir} --scheme {SCHEME} --out {name}" in shown
    assert f"vllm serve {name} --max-model-len 256" in shown
    parts = promise(tiny_lm.model, SCHEME, stored_type(tiny_lm.model))
    bars = {trace["name"]: values(trace["x"]).tolist() for trace in figure_of(at, "bytes")["figure"]["data"]}
    assert sum(bar[0] for bar in bars.values()) == pytest.approx(parts.float_bytes / 1e6)
    assert sum(bar[1] for bar in bars.values()) == pytest.approx(parts.bytes / 1e6)
    assert bars["codes"] == [0, parts.parts["codes"] / 1e6]
    assert f"**{parts.size.bits_per_weight:.4g} bits**" in said(at)
    assert "runs **weights only** on " in said(at)
    assert "tokens' outputs keeps" in said(at)


def test_the_figures_of_other_pages_stand_beside_a_files_of_32_bits(tiny_model_dir: Path, tiny_lm: LoadedModel) -> None:
    coded = quantize_model(tiny_lm.model, SCHEME)[0]
    counted = f"{checkpoint_bytes(coded) / 1e6:.2f} MB, {bits_per_weight(coded):.4g} bits a quantized weight."
    assert f"count 16 bits for each such number and each scale: {counted}" in said(take(tiny_model_dir))


def test_a_folded_report_asks_nothing_of_the_layer(tiny_model_dir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    drawn: list[object] = []
    monkeypatch.setattr("ui.sections.take.layer_report", lambda *asked: drawn.append(asked))
    at = take(tiny_model_dir)
    assert drawn
    drawn.clear()
    at.session_state["layer_report"] = False
    at.text_input(key="scheme").set_value("w:int5/group16").run()
    assert not drawn


@pytest.mark.parametrize(
    ("plan", "layers"), [("W8A8", 1), ("w:int4/group32,gptq/actorder=weight@down_proj=W8A16@layers.0.mlp=float", 3)]
)
def test_a_plan_in_the_link(plan: str, layers: int, tiny_model_dir: Path) -> None:
    at = take(tiny_model_dir, scheme=plan)
    assert not at.error
    assert at.text_input(key="scheme").value == plan
    found = next(one for one in codes(at) if one.startswith("quantization_stage"))
    assert plan_from_recipe(found) == lab_of(at).plan_of(plan)
    assert yaml.safe_load(found)
    command = next(one for one in codes(at) if one.startswith("python -m"))
    assert command.endswith("--max-tokens 10240") == (layers > 1)


def test_codes_that_are_not_packed_are_told(tiny_model_dir: Path) -> None:
    assert "one code a byte" in said(take(tiny_model_dir, scheme="w:int4/group16,a:int8/token/dynamic"))
    assert "one code a byte" not in said(take(tiny_model_dir, scheme="W8A8"))


def test_what_the_format_cannot_hold_leaves_the_rest_alive(tiny_model_dir: Path) -> None:
    at = take(tiny_model_dir, scheme="w:fp4_e2m1/group32")
    assert [one.value for one in at.warning] == [
        "a compressed-tensors checkpoint cannot hold this: it has fp4_e2m1 with coded scales alone; write fp4_e2m1/"
        "group32/e8m0 or fp4_e2m1/group16/e4m3"
    ]
    assert ["llm-compressor has no recipe" in one.value for one in at.error] == [True]
    assert [one["key"] for one in figures_of(at)] == ["bytes"]
    assert not [one for one in at.button if one.label == "Write the checkpoint"]
    assert "tokens' outputs keeps" in said(at)


def test_a_model_that_no_reader_looks_at_is_refused_before_the_work(tmp_path: Path) -> None:
    """GPT-2's Conv1D: neither a checkpoint nor llm-compressor's targets would reach it."""
    GPT2LMHeadModel(
        GPT2Config(vocab_size=VOCAB, n_embd=64, n_layer=1, n_head=4, n_positions=64, bos_token_id=0, eos_token_id=0)
    ).save_pretrained(tmp_path)
    tiny_tokenizer().save_pretrained(tmp_path)
    at = take(tmp_path, scheme="W8A16")
    sentence = "'transformer.h.0.attn.c_attn' is a Conv1D and readers of compressed-tensors look for codes in"
    assert [one.value.startswith(sentence) for one in at.warning] == [True]
    assert [one.value.startswith(sentence) for one in at.error] == [True]  # in the recipe's place
    assert not [one for one in codes(at) if "quantize" in one or "serve" in one]
    assert not [one for one in at.button if one.label == "Write the checkpoint"]
    with pytest.raises(ValueError, match="is a Conv1D and readers"):
        verbs.recipe("W8A16", model=str(tmp_path))


def test_why_no_checkpoint_was_written_stays(tiny_model_dir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also where the refusal comes after the page was drawn with the job's progress, and when anything else moves."""

    def refused(*_: Any, **__: Any) -> None:
        time.sleep(0.1)
        raise ValueError("no reader takes it")

    monkeypatch.setattr(job_view, "PATIENCE_S", 0.01)
    monkeypatch.setattr("quantcore.lab.take.export", refused)
    at = press(take(tiny_model_dir), "Write the checkpoint")
    assert [one.value for one in at.error] == ["no reader takes it"]
    assert [one.value for one in at.run().error] == ["no reader takes it"]


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("w:int4/rows", "no granularity is called 'rows'"),
        ("w:int4/group48", "group48 does not divide model.layers.0.self_attn.q_proj"),
        ("W8A8@no.such=float", "no layer fits 'no.such'"),
        ("float", "nothing is quantized"),
    ],
)
def test_a_mistake_is_told_and_can_be_mended(text: str, sentence: str, tiny_model_dir: Path) -> None:
    at = take(tiny_model_dir, scheme=text)
    assert sentence in "\n".join(one.value for one in at.error)
    at.text_input(key="scheme").set_value(SCHEME).run()
    assert not settle(at).error


@pytest.mark.parametrize("scheme", ["w:int4/group16/asym", "w:int4/group16,gptq/actorder=weight"])
def test_the_checkpoint_is_the_command_lines(scheme: str, tiny_model_dir: Path, tmp_path: Path) -> None:
    at = press(take(tiny_model_dir, scheme=scheme), "Write the checkpoint")
    assert not at.error
    (folder,) = (home() / "exports").iterdir()
    assert str(folder) in codes(at)
    known = verbs.quantize(scheme, str(tmp_path / "out"), TextOptions(), str(tiny_model_dir))
    ours = at.dataframe[0].value["SHA-256"]
    theirs = {one["name"]: one["sha256"] for one in known["files"]}
    assert ours["model.safetensors"] == theirs["model.safetensors"]
    assert set(ours.index) == {path.name for path in folder.iterdir()}
    assert [one.label for one in at.get("download_button") if "zip" in one.label]
    assert f"moved one by **{100 * known['scale_rounding']:.3f}%**" in said(at)
    press(at, "Load it again: does it say the same?")
    assert "Loaded by transformers, the checkpoint has perplexity **" in said(at)
    again = take(tiny_model_dir, scheme=scheme)  # a later visitor finds it there
    assert not [one for one in again.button if one.label == "Write the checkpoint"]


def test_what_is_not_as_usual_in_a_checkpoint_is_said(tiny_model_dir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(trial, "MOST_NUMBERS", 1)
    at = press(take(tiny_model_dir, scheme="w:int8/channel"), "Write the checkpoint")
    assert any("Transformers was not asked for its logits: " in one.value for one in at.caption)


def test_a_cancelled_checkpoint_leaves_nothing(tiny_model_dir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(job_view, "PATIENCE_S", 0.01)
    monkeypatch.setattr("quantcore.export.checkpoint.parts", lambda *a, progress, **k: _crawl(progress))
    at = take(tiny_model_dir)
    next(button for button in at.button if button.label == "Write the checkpoint").click().run()
    next(button for button in at.button if str(button.key).startswith("cancel_")).click().run()
    settle(at)
    assert any("cancelled" in info.value for info in at.info)
    assert list((home() / "exports").iterdir()) == []


def _crawl(progress: job_view.Progress) -> None:
    for step in range(2000):
        progress(step / 2000, "model.layers.0")
        time.sleep(0.01)


def test_the_reports(tiny_model_dir: Path) -> None:
    at = press(take(tiny_model_dir), "Measure it on 2,560 tokens for the report")
    found = lab_of(at).kept_duel([SCHEME])
    assert found is not None
    assert f"KL **{found.reports[SCHEME].kl:.4f}** nats" in said(at)
    assert [one.label for one in at.get("download_button")].count("Report as HTML") == 2


def test_the_python_writes_the_same(tiny_model_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """On the page's own machine it finds the checkpoint, on another it writes it."""
    scheme = "w:int8/channel,a:int8/tensor/static"
    at = press(take(tiny_model_dir, scheme=scheme), "Write the checkpoint")
    (folder,) = (home() / "exports").iterdir()
    kept_there, recipe_there = printed(at, Written), printed(at, str)
    assert kept_there.folder == folder
    assert recipe_there == recipe(scheme)
    monkeypatch.setenv("QUANT_HOME", str(tmp_path / "elsewhere"))
    made = printed(at, Written)
    assert (made.folder.name, made.folder.parents[1]) == (folder.name, tmp_path / "elsewhere")
    assert {one.name: one.sha256 for one in made.files if one.name != "export.json"} == {
        one.name: one.sha256 for one in kept_there.files if one.name != "export.json"
    }
    assert made.facts["calibration_tokens"] == 10240


def printed(at: AppTest, kind: type) -> Any:
    """What the page's program prints of a kind."""
    said: list[object] = []
    code = next(one for one in at.expander if one.label == "Python").code[0].value
    exec(compile(code, "the expander", "exec"), {"print": said.append})
    return next(one for one in said if isinstance(one, kind))


def test_other_pages_lead_here(tiny_model_dir: Path) -> None:
    at = settle(open_page("5_Layer_lab", model=tiny_model_dir, a="w:int4/group16", b="W8A8"))
    links = [one.proto for one in at.get("page_link") if one.proto.page == "Take_it_with_you"]
    assert [link.label for link in links] == ["A", "B", "Take it with you"]  # the menu's is last
    assert "scheme=w%3Aint4%2Fgroup16" in links[0].query_string


def test_names_of_folders(tiny_model_dir: Path, tmp_path: Path) -> None:
    folder = tmp_path / "My Model"
    shutil.copytree(tiny_model_dir, folder)
    lab = Lab(f"{folder}/")
    assert lab.short_name("W4A16") == "My-Model-w-int4-group64"
    assert lab.short_name("w:int4/group16@o_proj=float") == "My-Model-w-int4-group16-o-proj-float"
    assert slug("../../etc/passwd") == "etc-passwd"
    assert len(slug("a1-" * 99)) <= 40
