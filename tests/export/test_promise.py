"""Bytes from shapes alone equal the bytes of the file that is written; a written checkpoint is read, zipped, hashed."""

import hashlib
import zipfile
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from transformers import LlamaConfig, LlamaForCausalLM

from quantcore.export.checkpoint import export_checkpoint
from quantcore.export.promise import promise
from quantcore.export.tensors import stored_type
from quantcore.matmul.size import checkpoint_bytes, quantized_linears
from quantcore.model.loading import LoadedModel
from quantcore.pipeline.convert import quantize_model
from quantcore.scheme.scheme import PRESETS
from quantcore.studies.footprint import ModelShape, footprint
from quantcore.studies.written import as_zip, read_back, written
from quantcore.text.windows import bundled_text, token_windows
from tests.tiny import VOCAB, tiny_tokenizer

SCHEMES = [  # every layout, packed and plain zero points, static ranges, a mixture, a tied head
    "w:int4/group16",
    "w:int4/group16/asym",
    "w:int3/channel/asym",
    "w:int5/block16x32/asym",
    "w:int4/group16,a:int8/token/dynamic",
    "w:int8/channel,a:int8/tensor/static/ema0.1",
    "w:int8/channel,a:int8/tensor/asym/static",
    "w:fp8_e4m3/block16x16,a:fp8_e4m3/group16/dynamic",
    "w:int4/group16@down_proj=w:int8/channel,a:int8/tensor/static@layers.0=w:fp8_e4m3/channel",
    "w:int4/group16/asym@layers.1=w:int8/channel@up_proj=float",
    "w:int8/channel,skip=none",
]


@pytest.mark.parametrize("scheme", SCHEMES)
def test_shapes_alone_tell_every_byte_of_the_file(scheme: str, tiny_lm: LoadedModel, tmp_path: Path) -> None:
    tokens = token_windows(tiny_lm.tokenizer, bundled_text("calibration"), 64, 128)
    parts = promise(tiny_lm.model, scheme, stored_type(tiny_lm.model))
    export_checkpoint(tiny_lm, scheme, tmp_path / "out", tokens)
    tensors = load_file(tmp_path / "out" / "model.safetensors")

    def held(*ends: str) -> int:
        return sum(tensor.nbytes for name, tensor in tensors.items() if name.endswith(ends))

    assert parts.bytes == sum(tensor.nbytes for tensor in tensors.values())
    assert parts.parts["scales"] == held("weight_scale")
    assert parts.parts["zero points"] == held("weight_zero_point")
    assert parts.parts["input ranges"] == held("input_scale", "input_zero_point")
    assert parts.layouts
    assert parts.dtype == "float32"


@pytest.fixture(scope="module")
def wide_lm() -> LoadedModel:
    """A block whose rows and columns the presets' groups and blocks divide, and a head that is the embedding."""
    config = LlamaConfig(
        vocab_size=VOCAB,
        hidden_size=128,
        intermediate_size=256,
        num_hidden_layers=1,
        num_attention_heads=4,
        num_key_value_heads=4,
        max_position_embeddings=64,
        tie_word_embeddings=True,
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = LlamaForCausalLM(config).eval().requires_grad_(False)
    return LoadedModel("wide", model, tiny_tokenizer(), torch.device("cpu"))


@pytest.mark.parametrize("scheme", [*PRESETS, "W4A16,skip=none", "W4A16@o_proj=W8A8", "W4A16,gptq/actorder=weight"])
def test_what_is_promised_is_written(scheme: str, wide_lm: LoadedModel, tmp_path: Path) -> None:
    tokens = token_windows(wide_lm.tokenizer, bundled_text("calibration"), 64, 512)
    parts = promise(wide_lm.model, scheme, torch.bfloat16)
    export_checkpoint(wide_lm, scheme, tmp_path / "out", tokens, dtype=torch.bfloat16)
    tensors = load_file(tmp_path / "out" / "model.safetensors").values()
    assert parts.bytes == sum(tensor.nbytes for tensor in tensors)


@pytest.mark.parametrize("scheme", ["w:int4/group32,gptq/actorder=group", "w:fp4_e2m1/group32", "w:int4/group32/asym"])
def test_what_no_file_holds_is_counted_as_the_layers_hold_it(scheme: str, wide_lm: LoadedModel) -> None:
    """Codes of 4 bits lie in the layers without gaps, too; scales take 16 bits, zero points 4, group numbers 32. The
    pages' three ways of asking give one number."""
    tokens = token_windows(wide_lm.tokenizer, bundled_text("calibration"), 64, 2048)
    quantized, _ = quantize_model(wide_lm.model, scheme, calibration=tokens)
    layers = quantized_linears(quantized)
    bits = 16 * sum(parameter.numel() for parameter in quantized.parameters())
    for layer in layers.values():
        zero_points = 0 if layer.zero_point is None else layer.zero_point.numel()
        groups = 0 if layer.g_idx is None else 8 * layer.g_idx.nbytes
        bits += 8 * layer.codes.nbytes + 16 * layer.scale.numel() + 4 * zero_points + groups
    assert any(layer.g_idx is not None for layer in layers.values()) == ("actorder" in scheme)
    assert checkpoint_bytes(quantized) == bits / 8
    assert footprint(ModelShape.of(wide_lm.model, "wide"), scheme, 1).weights_bytes == bits / 8
    promised = promise(wide_lm.model, scheme, torch.bfloat16)
    assert promised.bytes == bits / 8 or promised.layouts == ("pack-quantized",)


def test_bits_by_hand(tiny_lm: LoadedModel) -> None:
    parts = promise(tiny_lm.model, "w:int8/channel,a:int8/token/dynamic", torch.bfloat16)
    rows = 2 * (64 + 32 + 32 + 64 + 128 + 128 + 64)
    assert parts.size.numbers == parts.parts["codes"] == 2 * (64 * 64 * 2 + 32 * 64 * 2 + 128 * 64 * 3)
    assert parts.parts["scales"] == 2 * rows
    assert parts.size.bits_per_weight == 8 + 16 * rows / parts.size.numbers
    everything = sum(one.numel() for one in tiny_lm.model.parameters())
    assert parts.float_bytes == 2 * everything
    assert parts.bytes == footprint(ModelShape.of(tiny_lm.model, "tiny"), "W8A8", 1).weights_bytes


def test_a_packed_files_shapes_are_bytes_but_no_bits_a_weight(tiny_lm: LoadedModel) -> None:
    parts = promise(tiny_lm.model, "w:int4/group16", torch.bfloat16)
    assert parts.size.bits_per_weight == 4 + 16 / 16  # as a duel says of the same scheme
    assert parts.parts["codes"] == parts.size.numbers // 2 + 14 * 2 * 8  # seven Linears a block, two int64 each


def test_what_no_checkpoint_holds_is_counted_without_gaps(tiny_lm: LoadedModel) -> None:
    parts = promise(tiny_lm.model, "w:fp4_e2m1/group32", torch.bfloat16)
    assert parts.layouts == ()
    assert parts.parts["codes"] == parts.size.numbers // 2
    assert parts.size.bits_per_weight == 4 + 16 / 32
    nothing = promise(tiny_lm.model, "float", torch.bfloat16)
    assert nothing.size.numbers == 0
    assert nothing.bytes == nothing.float_bytes


@pytest.mark.parametrize(
    ("scheme", "sentence"),
    [
        ("w:int4/group48", "group48 does not divide model.layers.0.self_attn.q_proj, 64 x 64"),
        ("W8A8@layers.7=float", "no layer fits"),
    ],
)
def test_what_does_not_fit_is_told(scheme: str, sentence: str, tiny_lm: LoadedModel) -> None:
    with pytest.raises(ValueError, match=sentence):
        promise(tiny_lm.model, scheme, torch.bfloat16)


def test_a_written_checkpoint(tiny_lm: LoadedModel, tmp_path: Path) -> None:
    folder = tmp_path / "out"
    assert written(folder) is None
    export_checkpoint(tiny_lm, "w:int3/channel", folder)
    found = written(folder)
    assert found is not None
    assert found.facts["scheme"] == "w:int3/channel"
    for file in found.files:
        assert file.sha256 == hashlib.sha256((folder / file.name).read_bytes()).hexdigest()
    assert found.bytes == sum(path.stat().st_size for path in folder.iterdir())
    with as_zip(folder) as file, zipfile.ZipFile(file) as archive:
        assert {name: len(archive.read(name)) for name in archive.namelist()} == {
            f"out/{one.name}": one.bytes for one in found.files
        }
    tokens = token_windows(tiny_lm.tokenizer, bundled_text("evaluation"), 64, 256)
    same = read_back(folder, quantize_model(tiny_lm.model, "w:int3/channel")[0], tokens)
    assert same.perplexity_loaded == pytest.approx(same.perplexity, rel=1e-6)
    assert same.kl < 1e-9
    other = read_back(folder, quantize_model(tiny_lm.model, "w:int8/channel")[0], tokens)
    assert other.kl > 1e-3


@pytest.mark.parametrize("scheme", ["MXFP4", "w:int4/group64@down_proj=MXFP8"])
def test_what_transformers_makes_bfloat16_of_is_read_back(scheme: str, tiny_lm: LoadedModel, tmp_path: Path) -> None:
    export_checkpoint(tiny_lm, scheme, tmp_path / "out")
    tokens = token_windows(tiny_lm.tokenizer, bundled_text("evaluation"), 64, 128)
    same = read_back(tmp_path / "out", quantize_model(tiny_lm.model, scheme)[0], tokens)
    other = read_back(tmp_path / "out", tiny_lm.model, tokens)
    assert same.kl < 0.2 * other.kl
