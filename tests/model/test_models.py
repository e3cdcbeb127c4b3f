"""Loading a model and cutting its text: every failure is a sentence, every window keeps the laws."""

import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM, PretrainedConfig

from quantcore.model import loading as models
from quantcore.model import memory, skeleton
from quantcore.model.layer_names import place_of
from quantcore.model.linears import batches, linear_named, linears
from quantcore.model.loading import WINDOW, LoadedModel, load_model
from quantcore.model.locate import source_path
from quantcore.pipeline.calibration import calibrate, outlier_ratio
from quantcore.text.windows import TEXT_KINDS, TEXT_SPLITS, bundled_text, prompt_tokens, token_windows
from tests.browser_fixtures import ROOT

BOS = 0
STORY = "The lighthouse keeper climbed the stairs and lit the lamp before the storm came in. " * 40


def letters(text: str, **_: Any) -> dict[str, list[int]]:
    """A tokenizer without a first token: one id a character."""
    return {"input_ids": [ord(letter) for letter in text]}


# ---------------------------------------------------------------- loading


def test_a_loaded_model_is_float32_ready_and_without_gradients(tiny_model_dir: Path) -> None:
    loaded = load_model(str(tiny_model_dir), "cpu")
    assert loaded.id == str(tiny_model_dir)
    assert {parameter.dtype for parameter in loaded.model.parameters()} == {torch.float32}
    assert not any(parameter.requires_grad for parameter in loaded.model.parameters())
    assert not loaded.model.training
    assert loaded.context == 256
    assert len(linears(loaded.model)) == 2 * 7 + 1


def test_a_configuration_that_says_no_context_has_none() -> None:
    model: Any = torch.nn.Module()
    model.config = PretrainedConfig()
    assert LoadedModel("x", model, None, torch.device("cpu")).context is None


@pytest.mark.parametrize("source", ["a b", "../nothing/here/at/all", "owner/name/more", "https://host/x"])
def test_a_source_that_is_neither_folder_nor_id(source: str) -> None:
    with pytest.raises(ValueError, match="is neither a folder that exists nor a hub id; try 'reference'"):
        load_model(source)


def test_a_hub_id_is_passed_on() -> None:
    assert source_path("owner/name-1.0") == "owner/name-1.0"


def test_folders_that_are_no_model(tmp_path: Path, tiny_model_dir: Path) -> None:
    with pytest.raises(ValueError, match=r"is a folder without config.json, so it is no model"):
        load_model(str(tmp_path))
    shutil.copy(tiny_model_dir / "config.json", tmp_path)
    (tmp_path / "pytorch_model.bin").write_bytes(b"pickle")
    with pytest.raises(ValueError, match=r"no \*.safetensors weights but pytorch_model.bin, a pickle.*save_pretrained"):
        load_model(str(tmp_path))


@pytest.mark.parametrize(
    ("file", "content"), [("model.safetensors", b"not weights"), ("config.json", b"{"), ("tokenizer.json", b"{}")]
)
def test_a_damaged_file_is_one_sentence(tmp_path: Path, tiny_model_dir: Path, file: str, content: bytes) -> None:
    folder = tmp_path / "copy"
    shutil.copytree(tiny_model_dir, folder)
    (folder / file).write_bytes(content)
    with pytest.raises(ValueError, match=r"could not load .*copy'") as caught:
        load_model(str(folder))
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 500


def test_what_pins_a_model_is_known_with_it(tiny_model_dir: Path, tmp_path: Path) -> None:
    loaded = load_model(str(tiny_model_dir), "cpu")
    assert re.fullmatch("sha256:[0-9a-f]{16}", loaded.revision)
    assert loaded.revision == load_model(str(shutil.copytree(tiny_model_dir, tmp_path / "copy")), "cpu").revision
    assert loaded.notices == ()


def test_too_little_memory_is_told_before_anything_is_loaded(
    tiny_model_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The tiny model: 112,128 parameters, each four bytes as float32, so 0.4 MiB."""
    monkeypatch.setattr(memory, "free_memory", lambda _: (448_511, 2**30))
    monkeypatch.setattr(AutoModelForCausalLM, "from_pretrained", None)
    with pytest.raises(
        ValueError, match=r"0\.1 M parameters as float32, needs 0\.4 MiB of memory and this machine has"
    ):
        load_model(str(tiny_model_dir), "cpu")


def test_progress_counts_the_tensors_and_may_end_the_load(tiny_model_dir: Path) -> None:
    told: list[tuple[float, str]] = []
    load_model(str(tiny_model_dir), "cpu", lambda share, doing: told.append((share, doing)))
    assert told[-1] == (1.0, "reading tensor 21 of 21")
    assert [share for share, _ in told] == sorted(share for share, _ in told)

    def stop(_share: float, doing: str) -> None:
        if doing.startswith("reading tensor 3 "):
            raise KeyError("cancelled")

    with pytest.raises(KeyError, match="cancelled"):
        load_model(str(tiny_model_dir), "cpu", stop)
    assert load_model(str(tiny_model_dir), "cpu").revision  # the next one is not in its way


def test_a_model_without_linears(tiny_model_dir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(skeleton, "every_linear", lambda _: {})
    with pytest.raises(ValueError, match="has no Linear layer, so there is nothing to quantize; try 'reference'"):
        load_model(str(tiny_model_dir), "cpu")


def test_a_layer_by_name(tiny_lm: LoadedModel) -> None:
    assert linear_named(tiny_lm.model, "model.layers.1.mlp.down_proj").weight.shape == (64, 128)
    with pytest.raises(ValueError, match=r"no Linear layer is called 'up'; this model has 15, such as model.layers.0"):
        linear_named(tiny_lm.model, "up")


@pytest.mark.parametrize(
    ("name", "place"),
    [
        ("model.layers.3.mlp.up_proj", (3, "mlp.up_proj")),
        ("transformer.h.11.attn.c_attn", (11, "attn.c_attn")),
        ("model.layers.2.mlp.experts.5.w1", (2, "mlp.experts.5.w1")),
        ("0.fc", (0, "fc")),
        ("lm_head", (None, "lm_head")),
        ("model.layers.3", (None, "model.layers.3")),
    ],
)
def test_place_of_a_layer(name: str, place: tuple[int | None, str]) -> None:
    assert place_of(name) == place


# ---------------------------------------------------------------- texts


@pytest.mark.parametrize("split", TEXT_SPLITS)
def test_every_kind_of_bundled_text_is_there(split: str) -> None:
    texts = [bundled_text(split, kind) for kind in TEXT_KINDS]
    assert all(len(text) > 1000 for text in texts)
    assert bundled_text(split) == "".join(texts)


def test_calibration_and_evaluation_share_no_line() -> None:
    lines = [{line for line in bundled_text(split).splitlines() if len(line) > 40} for split in TEXT_SPLITS]
    assert lines[0].isdisjoint(lines[1])


def test_unknown_bundled_texts() -> None:
    with pytest.raises(ValueError, match="no bundled text is called 'test'; try calibration or evaluation"):
        bundled_text("test")
    with pytest.raises(ValueError, match="no kind of text is called 'poem'; try all, encyclopedia, story"):
        bundled_text("evaluation", "poem")


# ---------------------------------------------------------------- windows


def test_windows_begin_with_bos_and_do_not_overlap(tiny_lm: LoadedModel) -> None:
    ids = tiny_lm.tokenizer(STORY, add_special_tokens=False)["input_ids"]
    tokens = token_windows(tiny_lm.tokenizer, STORY, 64)
    assert tokens.shape == (len(ids) // 63, 64)
    assert tokens.dtype == torch.int64
    assert (tokens[:, 0] == BOS).all()
    assert tokens[:, 1:].flatten().tolist() == ids[: tokens[:, 1:].numel()]


def test_windows_of_a_tokenizer_without_bos() -> None:
    tokens = token_windows(letters, "abcdefgh", 3)
    assert tokens.tolist() == [[97, 98, 99], [100, 101, 102]]  # g and h are left out: less than a window


@pytest.mark.parametrize(("limit", "windows"), [(None, 4), (64, 4), (63, 3), (32, 2), (16, 1), (1, 1)])
def test_limit_keeps_whole_windows_from_the_start(limit: int | None, windows: int) -> None:
    text = "".join(chr(97 + i % 26) for i in range(64))
    tokens = token_windows(letters, text, 16, limit)
    assert tokens.shape == (windows, 16)
    assert tokens.flatten().tolist() == [ord(letter) for letter in text[: 16 * windows]]


@pytest.mark.parametrize("make", [lambda lm: lm.tokenizer, lambda _: letters])
def test_a_short_text_is_one_short_window(tiny_lm: LoadedModel, make: Callable[[LoadedModel], Any]) -> None:
    tokens = token_windows(make(tiny_lm), "key", 64)
    assert tokens.shape[0] == 1
    assert 2 <= tokens.shape[1] <= 4


def test_a_window_exactly_as_long_as_the_text() -> None:
    assert token_windows(letters, "abcd", 4).tolist() == [[97, 98, 99, 100]]


def test_one_token_after_bos_is_enough(tiny_lm: LoadedModel) -> None:
    assert token_windows(tiny_lm.tokenizer, "a", 64).shape == (1, 2)


@pytest.mark.parametrize("text", ["", "  \n"])
def test_an_empty_text_is_refused(tiny_lm: LoadedModel, text: str) -> None:
    with pytest.raises(ValueError, match="the text gives 0 tokens and a model needs two to predict one"):
        token_windows(tiny_lm.tokenizer, text)


def test_one_token_without_bos_is_refused() -> None:
    with pytest.raises(ValueError, match="the text gives 1 tokens and a model needs two"):
        token_windows(letters, "a")


def test_50_mb_are_refused_before_they_are_tokenized() -> None:
    def never(*_: Any, **__: Any) -> None:
        raise AssertionError("tokenized a text that is too long")

    with pytest.raises(ValueError, match=r"the text has 50.0 MB, the limit is 20 MB; give a part of it"):
        token_windows(never, "a" * 50_000_000)


def test_odd_characters_become_tokens(tiny_lm: LoadedModel) -> None:
    tokens = token_windows(tiny_lm.tokenizer, "\U0001f600 \u0645\u0631 \x00", 64)
    assert tokens.shape[0] == 1
    assert tiny_lm.tokenizer.decode(tokens[0, 1:]) == "\U0001f600 \u0645\u0631 \x00"


def test_a_context_shorter_than_the_window_is_respected(tiny_lm: LoadedModel) -> None:
    length = min(WINDOW, tiny_lm.context)
    tokens = token_windows(tiny_lm.tokenizer, STORY, length, 600)
    assert tokens.shape == (2, 256)
    assert tiny_lm.model(tokens).logits.shape == (2, 256, 300)


def test_batches_hold_all_windows_in_order() -> None:
    tokens = torch.arange(70).reshape(7, 10)
    parts = list(batches(tokens, torch.device("cpu"), tokens_a_batch=30))
    assert [len(part) for part in parts] == [3, 3, 1]
    assert torch.cat(parts).equal(tokens)
    assert len(next(batches(tokens, torch.device("cpu"), tokens_a_batch=1))) == 1


def test_the_reference_model_reads_its_text_from_bos() -> None:
    """The reference model was trained with a first token before every text; without it perplexity more than doubles."""
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(source_path("reference"))
    tokens = token_windows(tokenizer, bundled_text("evaluation", "story"), 64, 640)
    assert (tokens[:, 0] == tokenizer.bos_token_id).all()


# ---------------------------------------------------------------- prompts


def test_a_prompt_keeps_its_end_and_its_bos(tiny_lm: LoadedModel) -> None:
    ids = tiny_lm.tokenizer("The key on the table", add_special_tokens=False)["input_ids"]
    whole, dropped = prompt_tokens(tiny_lm.tokenizer, "The key on the table", 256)
    assert (whole.tolist(), dropped) == ([[BOS, *ids]], 0)
    part, dropped = prompt_tokens(tiny_lm.tokenizer, "The key on the table", 4)
    assert (part.tolist(), dropped) == ([[BOS, *ids[-3:]]], len(ids) - 3)
    assert prompt_tokens(letters, "abcdef", 4)[0].tolist() == [[99, 100, 101, 102]]


def test_prompts_of_nothing_or_of_no_character(tiny_lm: LoadedModel) -> None:
    with pytest.raises(ValueError, match="the prompt is empty"):
        prompt_tokens(tiny_lm.tokenizer, " \n", 256)
    lone, _ = prompt_tokens(tiny_lm.tokenizer, "a\ud800b", 256)
    assert tiny_lm.tokenizer.decode(lone[0, 1:]) == "a?b"


# ---------------------------------------------------------------- the reference model without transformers


def test_the_reference_models_weights_from_its_file() -> None:
    loaded = load_model("reference", "cpu")
    for name, layer in linears(loaded.model).items():
        assert torch.equal(models.reference_weight(name), layer.weight), name
    with pytest.raises(ValueError, match="no Linear layer of the reference model is called 'up'"):
        models.reference_weight("up")


def test_the_reference_layer_has_the_strongest_outlier_channel() -> None:
    loaded = load_model("reference", "cpu")
    tokens = token_windows(loaded.tokenizer, bundled_text("evaluation", "encyclopedia"), limit=512)
    seen = calibrate(loaded.model, tokens, hessian=False)
    assert max(seen, key=lambda name: outlier_ratio(seen[name])) == models.REFERENCE_LAYER


def test_importing_is_light_and_the_first_picture_needs_no_transformers() -> None:
    """In a process of its own: what the first page waits for must not import what takes seconds."""
    heavy = "{'transformers', 'scipy', 'matplotlib', 'compressed_tensors'} & set(sys.modules)"
    code = (
        f"import sys, quantcore; assert not {heavy}, {heavy};"
        "from ui import kept; lab = kept.shared_lab('reference', 'cpu');"
        "layer = lab.default_layer(); assert layer in lab.layers();"
        f"lab.row(layer, 'w:int4/channel', 0.9); assert not {heavy}, {heavy};"
        "import quantcore.matmul.layers; assert 'quantcore.matmul.kernels.codes_matmul' not in sys.modules"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-600:]
