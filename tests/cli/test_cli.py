"""The command line: one JSON value on stdout, or exit code 2 and one sentence on stderr, never a stack trace."""

import json
import math
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoConfig, AutoModelForCausalLM, PretrainedConfig, PreTrainedModel
from transformers.modeling_outputs import CausalLMOutput

from quantcore.cli.command import main
from quantcore.export.plain import plain
from quantcore.model.inventory import inventory
from quantcore.model.linears import linears
from quantcore.model.loading import LoadedModel, load_model
from quantcore.numbers.formats import FORMATS
from quantcore.numbers.granularity import parse_granularity
from quantcore.numbers.spec import parse_observer
from quantcore.scheme.scheme import PRESETS, Scheme
from tests import forked
from tests.tiny import BLOCKS, HIDDEN, VOCAB, tiny_tokenizer

LAYER = "model.layers.1.mlp.down_proj"
FEW = ["--max-tokens", "60"]


def good(capsys: pytest.CaptureFixture[str], *argv: Any) -> dict[str, Any]:
    assert main([str(arg) for arg in argv]) == 0
    return json.loads(capsys.readouterr().out, parse_constant=_no_constant)


def bad(capsys: pytest.CaptureFixture[str], *argv: Any) -> str:
    """The sentence; stdout stays empty."""
    assert main([str(arg) for arg in argv]) == 2
    out, err = capsys.readouterr()
    assert out == ""
    sentence = err.splitlines()[-1]
    assert sentence.startswith("quantcore: ")
    assert "Traceback" not in err
    return sentence


def _no_constant(name: str) -> None:
    raise AssertionError(f"{name} is no JSON")


@pytest.fixture
def damaged_copy(tiny_model_dir: Path, tmp_path: Path) -> Any:
    """A copy of the tiny model with one tensor changed: damaged_copy(name, change) -> its folder."""

    def make(name: str, change: Any) -> Path:
        folder = tmp_path / "damaged"
        shutil.copytree(tiny_model_dir, folder)
        weights = load_file(folder / "model.safetensors")
        change(weights[name])
        save_file(weights, folder / "model.safetensors", {"format": "pt"})
        return folder

    return make


def test_info_agrees_with_the_loaded_model(
    capsys: pytest.CaptureFixture[str], tiny_model_dir: Path, tiny_lm: LoadedModel
) -> None:
    model = good(capsys, "info", "--model", tiny_model_dir)["model"]
    assert {name: tuple(shape) for name, shape in model["linears"].items()} == {
        name: (layer.out_features, layer.in_features) for name, layer in linears(tiny_lm.model).items()
    }
    assert model["parameters"] == sum(p.numel() for p in tiny_lm.model.parameters())
    assert (model["blocks"], model["vocabulary"], model["tokens"]) == (BLOCKS, VOCAB, len(tiny_lm.tokenizer))
    assert (model["context"], model["tied_head"]) == (tiny_lm.context, False)
    assert model["bytes"] == (tiny_model_dir / "model.safetensors").stat().st_size


def test_info_of_the_reference_model(capsys: pytest.CaptureFixture[str]) -> None:
    found = good(capsys, "info")
    loaded = load_model("reference", "cpu")
    assert found["model"]["tied_head"] is True
    assert {name: tuple(shape) for name, shape in found["model"]["linears"].items()} == {
        name: (layer.out_features, layer.in_features) for name, layer in linears(loaded.model).items()
    }
    assert found["model"]["parameters"] == sum(p.numel() for p in loaded.model.parameters())
    assert found["model"]["tokens"] == len(loaded.tokenizer)
    # the version that pip knows; 2.13.0 of torch's CUDA build says 2.13.0+cu130 of itself
    assert found["versions"]["torch"].split("+")[0] == torch.__version__.split("+")[0]
    assert found["devices"][0]["device"] == "cpu"
    assert set(found["texts"]["calibration"]) == set(found["texts"]["evaluation"])


def test_shards_are_those_that_the_index_names(tiny_model_dir: Path, tmp_path: Path) -> None:
    folder = tmp_path / "sharded"
    shutil.copytree(tiny_model_dir, folder)
    weights = load_file(folder / "model.safetensors")
    names = sorted(weights)
    half = {name: weights[name] for name in names[::2]}
    save_file(half, folder / "model-00001-of-00002.safetensors")
    save_file({name: weights[name] for name in names[1::2]}, folder / "model-00002-of-00002.safetensors")
    index = {name: f"model-0000{1 if name in half else 2}-of-00002.safetensors" for name in names}
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": index}))
    assert inventory(str(folder)).parameters == inventory(str(tiny_model_dir)).parameters  # not counted twice
    (folder / "model-00002-of-00002.safetensors").unlink()
    with pytest.raises(ValueError, match="lacks 'model-00002-of-00002.safetensors', which its index names"):
        inventory(str(folder))


def test_schemes_can_all_be_parsed(capsys: pytest.CaptureFixture[str]) -> None:
    found = good(capsys, "schemes")
    assert {name: Scheme.parse(text) for name, text in found["presets"].items()} == PRESETS
    assert [fmt["name"] for fmt in found["formats"]] == list(FORMATS)
    assert next(fmt for fmt in found["formats"] if fmt["name"] == "int4") == {
        "name": "int4",
        "bits": 4,
        "qmin": -8,
        "qmax": 7,
        "levels": 16,
    }
    assert [str(parse_granularity(text)) for text in found["granularities"]] == list(found["granularities"])
    assert [str(parse_observer(text)) for text in found["observers"]] == list(found["observers"])


def test_layer(capsys: pytest.CaptureFixture[str], tiny_model_dir: Path) -> None:
    found = good(
        capsys, "layer", "--model", tiny_model_dir, "--layer", LAYER, "--scheme", "w:int4/group32,a:int8/tensor/static",
        *FEW,
    )  # fmt: skip
    assert (found["shape"], found["bits_per_weight"]) == ([HIDDEN, 2 * HIDDEN], 4.5)
    assert {key: found["text"][key] for key in ("source", "tokens", "windows", "seed")} == {
        "source": "bundled evaluation/encyclopedia", "tokens": 60, "windows": 1, "seed": None,
    }  # fmt: skip
    assert found["calibration"]["tokens"] > 60
    assert found["static_range"][0] < 0 < found["static_range"][1]
    assert found["output"]["sqnr_db"] < min(found["weights_alone"]["sqnr_db"], found["activations_alone"]["sqnr_db"])
    errors = [channel["rms_error"] for channel in found["worst_channels"]]
    assert errors == sorted(errors, reverse=True)
    assert isinstance(found["worst_tokens"][0]["token"], str)
    assert found["skipped_in_a_model"] is False


def test_infinity_is_a_word(capsys: pytest.CaptureFixture[str], tiny_model_dir: Path) -> None:
    found = good(capsys, "layer", "--model", tiny_model_dir, "--layer", "lm_head", "--scheme", "w:int8/channel", *FEW)
    assert found["input"]["sqnr_db"] == "inf"
    assert found["calibration"] is None
    assert found["skipped_in_a_model"] is True
    assert plain({"x": [math.inf, -math.inf, 1.5, None, "a", True]}) == {"x": ["inf", "-inf", 1.5, None, "a", True]}
    with pytest.raises(ValueError, match=r"result\.x\[1\] is NaN"):
        plain({"x": [1.0, math.nan]})


@pytest.mark.parametrize("scheme", ["w:int4/channel", "FP8", "float"])
def test_evaluate(capsys: pytest.CaptureFixture[str], tiny_model_dir: Path, scheme: str) -> None:
    found = good(capsys, "evaluate", "--model", tiny_model_dir, "--scheme", scheme, *FEW)
    assert found["report"]["tokens"] == 60
    names = [layer["name"] for layer in found["layers"]]
    if scheme == "float":
        assert names == []
        assert (found["report"]["kl"], found["report"]["top1_agreement"]) == (0, 1)
        assert found["report"]["perplexity"] == found["report"]["float_perplexity"]
    else:
        assert len(names) == 7 * BLOCKS
        assert "lm_head" not in names
        assert all(layer["output_sqnr_db"] > 0 for layer in found["layers"])
        assert found["report"]["bytes"] < found["report"]["float_bytes"]
    assert (found["calibration"] is None) == (scheme != "FP8")


def test_evaluate_reads_your_text(capsys: pytest.CaptureFixture[str], tiny_model_dir: Path, tmp_path: Path) -> None:
    text = tmp_path / "mine.txt"
    text.write_text("The keeper lit the lamp. " * 20, encoding="utf-8")
    found = good(
        capsys, "evaluate", "--model", tiny_model_dir, "--scheme", "W8A8", "--text", text, "--max-tokens", "50"
    )
    assert (found["text"]["source"], found["text"]["tokens"], found["text"]["windows"]) == (str(text), 50, 1)


def test_a_tile_of_zeros_is_no_error(capsys: pytest.CaptureFixture[str], damaged_copy: Any) -> None:
    folder = damaged_copy(f"{LAYER}.weight", lambda weight: weight[:8].zero_())
    found = good(capsys, "layer", "--model", folder, "--layer", LAYER, "--scheme", "w:int4/group32", *FEW)
    assert found["weight"]["sqnr_db"] > 10


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_a_damaged_weight_is_named(capsys: pytest.CaptureFixture[str], damaged_copy: Any, value: float) -> None:
    folder = damaged_copy(f"{LAYER}.weight", lambda weight: weight[3, 5:6].fill_(value))
    for verb in (["layer", "--layer", LAYER], ["evaluate"]):
        sentence = bad(capsys, *verb, "--model", folder, "--scheme", "w:int4/channel", *FEW)
        assert f"layer '{LAYER}': the values to quantize hold NaN or Inf" in sentence
    sentence = bad(capsys, "layer", "--layer", LAYER, "--model", folder, "--scheme", "a:int8/token/dynamic", *FEW)
    assert f"layer '{LAYER}': the layer's weight holds NaN or Inf" in sentence
    assert "NaN" in bad(capsys, "evaluate", "--model", folder, "--scheme", "float", *FEW)


@pytest.mark.parametrize(
    ("argv", "sentence"),
    [
        ([], "the following arguments are required: verb; see python -m quantcore --help"),
        (["grow"], "invalid choice: 'grow'"),
        (["layer", "--scheme", "W4A16"], "the following arguments are required: --layer"),
        (["layer", "--layer", "nope", "--scheme", "W4A16"], "no Linear layer is called 'nope'; this model has 15"),
        (["layer", "--layer", LAYER, "--scheme", "w:int4"], "'int4' lacks its granularity"),
        (["layer", "--layer", LAYER, "--scheme", ""], "the scheme text is empty"),
        (
            ["layer", "--layer", LAYER, "--scheme", "w:int4/group48"],
            f"layer '{LAYER}': group48 does not divide in_features=128; try group32",
        ),
        (
            ["evaluate", "--scheme", "w:int4/group128"],
            "group128 does not divide model.layers.0.self_attn.q_proj, 64 x 64 (output x input); try group64",
        ),
        (["evaluate", "--scheme", "W8A8", "--text", "no/such/file.txt"], "no file is called 'no/such/file.txt'"),
        (["evaluate", "--scheme", "W8A8", "--max-tokens", "many"], "invalid int value: 'many'"),
        (["evaluate", "--scheme", "W8A8", "--max-tokens", "3"], "--max-tokens 3 is too few; give at least 10"),
        (["evaluate", "--scheme", "W8A8", "--device", "cuda:99"], "device 'cuda:99' is not on this machine"),
        (["evaluate", "--scheme", "w:int4/channel,skip=model,skip=lm_head"], "skips every Linear"),
    ],
)
def test_mistakes(capsys: pytest.CaptureFixture[str], tiny_model_dir: Path, argv: list[str], sentence: str) -> None:
    model = ["--model", str(tiny_model_dir)] if argv[:1] in (["layer"], ["evaluate"]) else []
    assert sentence in bad(capsys, *argv, *model)


@pytest.mark.parametrize("verb", [["info"], ["layer", "--layer", LAYER, "--scheme", "W8A8"]])
def test_what_is_no_model(capsys: pytest.CaptureFixture[str], tmp_path: Path, verb: list[str]) -> None:
    assert "is a folder without config.json, so it is no model" in bad(capsys, *verb, "--model", tmp_path)
    (tmp_path / "config.json").write_text("{}")
    assert "holds no *.safetensors weights" in bad(capsys, *verb, "--model", tmp_path)
    (tmp_path / "model.safetensors").write_text("this is not a header")
    sentence = bad(capsys, *verb, "--model", tmp_path)
    assert "is no safetensors file" in sentence or "could not load" in sentence
    (tmp_path / "config.json").write_text("no json")
    sentence = bad(capsys, *verb, "--model", tmp_path)
    assert "is no JSON" in sentence or "could not load" in sentence


def test_info_needs_a_folder(capsys: pytest.CaptureFixture[str]) -> None:
    assert "is no folder on this machine" in bad(capsys, "info", "--model", "owner/name")
    assert "is neither a folder that exists nor a hub id" in bad(capsys, "info", "--model", "a/b/c")


@pytest.mark.parametrize(
    ("content", "sentence"),
    [
        (b"", "is empty"),
        (b"  \n\n ", "is empty"),
        (b"a" * 50_000_000, "the text has 50.0 MB, the limit is 20 MB"),
        (b"caf\xe9", "is not UTF-8 text (byte 3)"),
    ],
)
def test_texts_that_cannot_be_read(
    capsys: pytest.CaptureFixture[str], tiny_model_dir: Path, tmp_path: Path, content: bytes, sentence: str
) -> None:
    text = tmp_path / "text.txt"
    text.write_bytes(content)
    for verb in (["layer", "--layer", LAYER], ["evaluate"]):
        assert sentence in bad(capsys, *verb, "--model", tiny_model_dir, "--scheme", "W8A8", "--text", text)


class TableConfig(PretrainedConfig):
    model_type = "table-lm"


class TableLM(PreTrainedModel):
    """A language model of one table: no Linear anywhere."""

    config_class = TableConfig

    def __init__(self, config: TableConfig) -> None:
        super().__init__(config)
        self.embed_tokens = torch.nn.Embedding(VOCAB, VOCAB)
        self.post_init()

    def forward(self, input_ids: torch.Tensor, **_: Any) -> CausalLMOutput:
        return CausalLMOutput(logits=self.embed_tokens(input_ids))


def test_a_model_without_linear_layers(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    AutoConfig.register("table-lm", TableConfig, exist_ok=True)
    AutoModelForCausalLM.register(TableConfig, TableLM, exist_ok=True)
    TableLM(TableConfig()).save_pretrained(tmp_path)
    tiny_tokenizer().save_pretrained(tmp_path)
    for verb in (["layer", "--layer", LAYER, "--scheme", "W8A8"], ["evaluate", "--scheme", "W8A8"]):
        assert "has no Linear layer, so there is nothing to quantize" in bad(capsys, *verb, "--model", tmp_path)


def test_from_a_shell_stdout_is_json_and_stderr_bars_and_a_sentence(tiny_model_dir: Path) -> None:
    def shell(*argv: str) -> subprocess.CompletedProcess[str]:
        return forked.run("-m", "quantcore", *argv)

    done = shell("evaluate", "--model", str(tiny_model_dir), "--scheme", "FP8", *FEW)
    assert done.returncode == 0
    assert all(line.split(":")[0] in ("", "loading", "quantizing") for line in done.stderr.splitlines())
    assert json.loads(done.stdout)["report"]["tokens"] == 60
    failed = shell("layer", "--model", str(tiny_model_dir), "--layer", "nope", "--scheme", "FP8")
    assert (failed.returncode, failed.stdout) == (2, "")
    *bars, sentence = failed.stderr.splitlines()
    assert sentence.startswith("quantcore: no Linear layer is called 'nope'")
    assert all(line.split(":")[0] in ("", "loading") for line in bars)
    assert shell("--help").returncode == 0
