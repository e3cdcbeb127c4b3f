"""Checkpoints: transformers loads them and computes the same logits; what goes wrong leaves nothing behind."""

import json
import os
import shutil
import signal
import subprocess
import tempfile
import weakref
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor, nn
from transformers import AutoModelForCausalLM, AutoTokenizer, GPT2Config, GPT2LMHeadModel

from quantcore import dequantize
from quantcore.export import writing
from quantcore.export.beside import Beside
from quantcore.export.checkpoint import export_checkpoint
from quantcore.export.checkpoint_format import as_stored, group, why_not
from quantcore.export.export_report import ExportReport
from quantcore.export.kernels import KERNELS
from quantcore.export.shards import Shards
from quantcore.export.tensors import checkpoint_parts, require_scales, stored_type
from quantcore.export.vllm import serving
from quantcore.matmul.layers import QuantLinear
from quantcore.matmul.size import quantized_linears
from quantcore.model.loading import LoadedModel, load_model
from quantcore.pipeline.convert import quantize_model
from quantcore.scheme.plan import Plan
from quantcore.scheme.scheme import PRESETS, Scheme
from quantcore.text.windows import bundled_text, token_windows
from tests import forked
from tests.model.test_architectures import tiny
from tests.tiny import VOCAB, tiny_tokenizer

unpack_from_int32 = pytest.importorskip("compressed_tensors.compressors.pack_quantized").unpack_from_int32

SMALL = [  # for the tiny models, whose rows hold 32 or 64 numbers
    "w:int4/group16",
    "w:int4/group16/asym",
    "w:int4/group16,gptq/actorder=weight",
    "w:int8/group32",
    "w:int8/channel,a:int8/token/dynamic",
    "w:int8/channel,a:int8/tensor/static",
    "w:fp8_e4m3/tensor,a:fp8_e4m3/tensor/static",
    "w:fp8_e4m3/channel,a:fp8_e4m3/token/dynamic",
    "w:fp8_e4m3/block16x16,a:fp8_e4m3/group16/dynamic",
    "w:int4/group16@down_proj=w:int8/channel,a:int8/tensor/static@layers.0=w:fp8_e4m3/channel",
]
MORE = [
    "w:int3/channel/asym",
    "w:int4/group16/asym,gptq/moving",
    "w:int4/group16,a:int8/token/dynamic",
    "w:int4_narrow/tensor",
    "w:int5/block16x32/asym",
    "w:int4/group16/asym@layers.1=w:int8/channel@up_proj=float",
    "w:int8/channel,skip=none",  # its head is tied to the embedding
]
WHOLE = [  # W4A16 lies in test_what_lies_in_the_folder; what else there is, the tiny models have above
    "W4A16_ASYM",
    "W4A16@layers.0,layers.7=W4A16,gptq/actorder=weight",  # all of it by GPTQ takes half a minute
    "W8A16",
    "W8A8",
    "FP8",
    "FP8_BLOCK",
    "W4A16@down_proj=W8A16@layers.0=FP8_DYNAMIC",
]
FORMATS = {
    "W4A16_ASYM": "pack",
    "W8A16": "pack",
    "W8A8": "int",
    "FP8": "float",
}


@pytest.fixture(scope="module")
def reference() -> LoadedModel:
    return load_model("reference", "cpu")


def reader(folder: str | Path) -> nn.Module:
    return AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)


def exported(lm: LoadedModel, scheme: str, folder: Path, tokens: Tensor) -> tuple[nn.Module, ExportReport]:
    """The quantized copy of the model, and what is written of it."""
    reader = "vllm" if "/token/" in scheme and hasattr(lm.model.config, "ffn_dim") else "transformers"
    report = export_checkpoint(lm, scheme, folder, tokens, reader=reader)
    return quantize_model(lm.model, scheme, calibration=tokens)[0], report


def logits(model: nn.Module, tokens: Tensor) -> Tensor:
    with torch.inference_mode():
        return model(tokens).logits


def plainly(quantized: nn.Module, dtype: torch.dtype) -> nn.Module:
    """What a reader should compute: the codes as they are, scales as stored, fake quantization in float32."""
    for name, layer in quantized_linears(quantized).items():
        stored = as_stored(layer, dtype)
        stored.path = "dequantize"
        quantized.set_submodule(name, stored)
    return quantized


def stored_codes(folder: Path, name: str, layer: QuantLinear) -> Tensor:
    tensors = {key: value for file in folder.glob("*.safetensors") for key, value in load_file(file).items()}
    packed = tensors.get(f"{name}.weight_packed")
    if packed is None:
        return tensors[f"{name}.weight"]
    shape = tensors[f"{name}.weight_shape"]
    return unpack_from_int32(packed, layer.weight_spec.fmt.bits, torch.Size(shape.tolist()))


@pytest.mark.parametrize(
    ("kind", "scheme"),
    [
        *((kind, scheme) for kind in ("Llama", "OPT") for scheme in SMALL),
        *(("OPT", scheme) for scheme in MORE),
        *(("Qwen3", scheme) for scheme in SMALL[-1:]),  # to a reader it is Llama with norms on queries and keys
    ],
)
def test_a_reader_computes_the_same_to_the_last_bit(kind: str, scheme: str, tmp_path: Path) -> None:
    random_lm = LoadedModel("random", tiny(kind), tiny_tokenizer(), torch.device("cpu"))
    opt = kind == "OPT"
    scheme = scheme.replace("up_proj", "fc1").replace("down_proj", "fc2") if opt else scheme
    tokens = torch.randint(3, 128, (4, 24))
    quantized, report = exported(random_lm, scheme, tmp_path / "out", tokens)
    assert (report.dtype, report.scale_rounding) == ("float32", 0)
    for name, layer in quantized_linears(quantized).items():
        assert torch.equal(
            stored_codes(tmp_path / "out", name, layer).view(torch.int8), layer.qweight.q.view(torch.int8)
        )
    if opt and "/token/" in scheme:  # the reader's one scale for inputs of two dimensions
        scheme = f"{scheme}@fc1,fc2={scheme.replace('/token/', '/tensor/')}"
        quantized, _ = quantize_model(random_lm.model, scheme, calibration=tokens)
    expected = logits(plainly(quantized, torch.float32), tokens)
    assert torch.equal(logits(reader(tmp_path / "out"), tokens), expected)
    assert not torch.equal(expected, logits(random_lm.model, tokens))


MICRO = ["NVFP4A16", "NVFP4", "MXFP4A16", "MXFP4", "MXFP6A16", "MXFP6A8", "MXFP8A16", "MXFP8"]


@pytest.mark.parametrize("scheme", MICRO)
def test_coded_scales_lie_as_theirs_and_are_read_alike(scheme: str, tmp_path: Path) -> None:
    from compressed_tensors.compressors import BaseCompressor

    random_lm = LoadedModel("random", tiny("Llama"), tiny_tokenizer(), torch.device("cpu"))
    quantized, report = exported(random_lm, scheme, tmp_path / "out", torch.randint(3, 128, (4, 24)))
    assert report.logits_apart == 0
    assert report.scale_rounding == 0
    compressor, args = BaseCompressor.get_value_from_registry(report.format), group(Scheme.parse(scheme), ["Linear"])
    stored = {key: value for file in (tmp_path / "out").glob("*.safetensors") for key, value in load_file(file).items()}
    for name, layer in quantized_linears(quantized).items():
        q = layer.qweight
        scale = q.scale if q.global_scale is None else q.scale * q.global_scale
        given = {"weight": random_lm.model.get_submodule(name).weight.detach(), "weight_scale": scale}
        if q.global_scale is not None:
            given["weight_global_scale"] = q.global_scale
        for key, value in compressor.compress(given, args).items():
            found = stored[f"{name}.{key}"]
            assert (found.dtype, found.shape) == (value.dtype, value.shape), key
            if key in ("weight", "weight_packed"):  # there a zero has the sign of what it was
                continue
            assert torch.equal(found.view(torch.uint8), value.contiguous().view(torch.uint8)), key
        own = {key: stored[f"{name}.{key}"] for key in compressor.compression_param_names(args) if "input" not in key}
        assert torch.equal(compressor.decompress(own, args)["weight"].float(), dequantize(q).bfloat16().float())
        assert (f"{name}.input_global_scale" in stored) == (scheme == "NVFP4")


def test_coded_scales_beside_other_schemes(tmp_path: Path) -> None:
    random_lm = LoadedModel("random", tiny("Llama"), tiny_tokenizer(), torch.device("cpu"))
    scheme = "NVFP4A16,gptq@down_proj=w:int8/channel,a:int8/token/dynamic@up_proj=MXFP8"
    _, report = exported(random_lm, scheme, tmp_path / "out", torch.randint(3, 128, (4, 24)))
    assert report.format == "mixed-precision"
    assert report.logits_apart < 0.01  # the int8 layers' scales go through bfloat16 as well
    assert any("in bfloat16 and in no other type" in note for note in report.notes)


@pytest.mark.parametrize("scheme", WHOLE)
def test_the_reference_model(reference: LoadedModel, scheme: str, tmp_path: Path) -> None:
    calibration = token_windows(reference.tokenizer, bundled_text("calibration"), 128, 512)
    tokens = token_windows(reference.tokenizer, bundled_text("evaluation"), 64, 128)
    quantized, report = exported(reference, scheme, tmp_path / "out", calibration)
    assert (report.dtype, report.scale_rounding_limit) == ("bfloat16", 2**-8)
    assert 0 < report.scale_rounding <= report.scale_rounding_limit
    assert scheme not in FORMATS or report.format == f"{FORMATS[scheme]}-quantized"
    assert report.bytes == sum(file.bytes for file in report.files)
    ours = logits(quantized, tokens)
    stored = logits(plainly(quantized, torch.bfloat16), tokens)
    read = logits(reader(report.folder), tokens)
    if "ASYM" in scheme:  # one more rounding a weight
        assert (read - stored).abs().max() < 0.01 * stored.abs().max()
        assert (read - stored).abs().max() > 0
    else:
        assert torch.equal(read, stored)
    if all(one.activations is None for one in Plan.parse(scheme).schemes):  # quantized activations flip codes
        assert (read - ours).norm() <= 2 * report.scale_rounding_limit * ours.norm()
    text = reference.tokenizer(["The lamp was lit"], return_tensors="pt")["input_ids"]
    assert torch.equal(
        AutoTokenizer.from_pretrained(report.folder)(["The lamp was lit"], return_tensors="pt")["input_ids"], text
    )


def test_what_lies_in_the_folder(reference: LoadedModel, tmp_path: Path) -> None:
    report = export_checkpoint(reference, "W4A16", tmp_path / "out")
    names = {path.name for path in (tmp_path / "out").iterdir()}
    assert names == {"config.json", "generation_config.json", "model.safetensors", "tokenizer.json",
                     "tokenizer_config.json", "export.json"}  # fmt: skip
    config = json.loads((tmp_path / "out" / "config.json").read_text())
    entry = config["quantization_config"]
    assert (config["dtype"], config["tie_word_embeddings"]) == ("bfloat16", True)
    assert (entry["quant_method"], entry["format"], entry["ignore"]) == (
        "compressed-tensors",
        "pack-quantized",
        ["lm_head"],
    )
    assert entry["config_groups"]["group_0"]["weights"]["group_size"] == 128
    assert "lm_head.weight" not in load_file(tmp_path / "out" / "model.safetensors")  # tied to the embedding
    said = json.loads((tmp_path / "out" / "export.json").read_text())
    assert (said["scheme"], said["model_hash"]) == ("w:int4/group128", report.model_hash)
    assert said["versions"]["compressed-tensors"]
    assert {file["name"] for file in said["files"]} == names - {"config.json", "export.json"}


def test_shards(tiny_lm: LoadedModel, tmp_path: Path) -> None:
    whole = export_checkpoint(tiny_lm, "w:int8/channel", tmp_path / "whole")
    export_checkpoint(tiny_lm, "w:int8/channel", tmp_path / "parts", shard_bytes=50_000)
    files = sorted((tmp_path / "parts").glob("*.safetensors"))
    assert len(files) > 2
    assert [file.name for file in files][0] == f"model-00001-of-{len(files):05d}.safetensors"
    index = json.loads((tmp_path / "parts" / "model.safetensors.index.json").read_text())["weight_map"]
    tensors = load_file(Path(whole.folder) / "model.safetensors")
    assert index.keys() == tensors.keys()
    assert len({file.stat().st_mode for file in (tmp_path / "parts").iterdir()}) == 1  # who reads one reads all
    assert all(torch.equal(load_file(tmp_path / "parts" / index[name])[name], tensors[name]) for name in tensors)
    tokens = torch.randint(0, VOCAB, (2, 16))
    assert torch.equal(logits(reader(tmp_path / "parts"), tokens), logits(reader(tmp_path / "whole"), tokens))


def test_never_more_than_a_shard_in_memory(tmp_path: Path) -> None:
    alive: weakref.WeakSet[Tensor] = weakref.WeakSet()
    most = 0

    shards = Shards(tmp_path, 3 * 1024, Beside(0))
    for place in range(20):
        tensor = torch.full((256,), float(place))  # 1024 bytes
        alive.add(tensor)
        most = max(most, len(alive))
        shards.add(f"layer.{place}", {"weight": tensor})
        del tensor
    files, _ = shards.finish()
    assert len(set(files.values())) == 7
    assert most <= 5  # a shard, and the one that no longer fits


def test_parts_come_module_by_module_and_are_not_kept(tiny_lm: LoadedModel) -> None:
    quantized, _ = quantize_model(tiny_lm.model, "w:int4/group32")
    layouts = dict.fromkeys(quantized_linears(quantized), "pack-quantized")
    gone: list[weakref.ref[Tensor]] = []
    for name, tensors in checkpoint_parts(quantized, layouts, torch.float32):
        assert not any(one() is not None for one in gone)
        if name in layouts:
            gone += [weakref.ref(tensors["weight_packed"])]
        del tensors
    assert len(gone) == len(layouts)


def test_the_type_of_what_is_no_code() -> None:
    model = nn.Linear(3, 1)
    for weight, expected in (
        ([1.0, 0.5, -3.0], torch.bfloat16),
        ([1.0, 1 + 2**-10, 0.0], torch.float16),
        ([2**-100, 1 + 2**-7, 0.0], torch.bfloat16),
        ([2**-100, 1 + 2**-10, 0.0], torch.float32),
    ):
        nn.init.zeros_(model.bias)
        model.weight = nn.Parameter(torch.tensor([weight]))
        assert stored_type(model) == expected


def test_a_scale_that_the_type_cannot_hold(tiny_lm: LoadedModel, tmp_path: Path) -> None:
    import copy

    model = copy.deepcopy(tiny_lm.model)
    with torch.no_grad():
        model.model.layers[1].mlp.up_proj.weight.mul_(1e-9)
    loaded = LoadedModel("random", model, tiny_lm.tokenizer, tiny_lm.device)
    with pytest.raises(
        ValueError, match=r"layer 'model.layers.1.mlp.up_proj' has scales from .*; write --dtype bfloat16, or leave it"
    ):
        export_checkpoint(
            loaded,
            "w:int8/channel",
            tmp_path / "out",
            dtype=torch.float16,
            progress=lambda *_: pytest.fail("work was done"),
        )
    assert list(tmp_path.iterdir()) == []


def test_a_type_that_holds_the_weights_and_not_their_scales_is_not_taken() -> None:
    """2^-20 (1 + 2^-10) is a float16; an int8 scale of a row of it, over 127.5, is 2^-27, which float16 rounds to 0."""
    model = nn.Sequential(nn.Linear(2, 1, bias=False))
    model[0].weight = nn.Parameter(torch.tensor([[2.0**-20, 2.0**-24]]))
    model.append(nn.Linear(1, 1, bias=False))
    model[1].weight = nn.Parameter(torch.tensor([[1 + 2**-10]]))  # no bfloat16
    assert stored_type(model) == torch.float16
    assert stored_type(model, {"1": Scheme.parse("w:int8/channel")}) == torch.float16
    assert stored_type(model, {"0": Scheme.parse("w:int8/channel")}) == torch.float32
    with pytest.raises(ValueError, match="layer '0' has scales from 7.48e-09 to 7.48e-09"):
        require_scales(model, {"0": Scheme.parse("w:int8/channel")}, torch.float16)


@pytest.mark.parametrize(
    ("scheme", "sentence"),
    [
        ("float", "nothing would be quantized"),
        ("a:int8/token/dynamic", "leaves the weights float"),
        ("w:fp8_e5m2/channel", "it has no fp8_e5m2; use int2 to int8, fp8_e4m3, or fp4_e2m1 and fp6_e2m3 with"),
        ("w:fp4_e2m1/group16", "fp4_e2m1 with coded scales alone; write fp4_e2m1/group32/e8m0 or .*group16/e4m3"),
        ("w:int8/group32/e8m0", "e8m0 scales for group32 of fp4_e2m1, fp6_e2m3, fp8_e4m3 alone; write fp4_e2m1/group"),
        ("MXFP4A16,a:fp4_e2m1/token/dynamic", "it has fp4_e2m1 with coded scales alone"),
        ("w:int4/group16,gptq/actorder=group", "use actorder=weight"),
        ("w:int8/channel,a:int8_narrow/token/dynamic", "use a:int8/"),
        ("w:int8/channel,a:int8/token/dynamic/mse", "leave mse out"),
        ("w:int8/channel@down_proj=w:fp8_e5m2/channel", "it has no fp8_e5m2"),
        ("w:int8/channel@nope=w:int4/channel", "no layer fits 'nope'"),
    ],
)
def test_what_the_format_cannot_hold(tiny_lm: LoadedModel, tmp_path: Path, scheme: str, sentence: str) -> None:
    with pytest.raises(ValueError, match=sentence):
        export_checkpoint(tiny_lm, scheme, tmp_path / "out")
    assert list(tmp_path.iterdir()) == []


def test_layers_that_no_reader_looks_at(tmp_path: Path) -> None:
    """GPT-2's Conv1D: transformers would load fresh random weights instead."""
    config = GPT2Config(vocab_size=128, n_embd=32, n_layer=1, n_head=4, n_positions=64, bos_token_id=1, eos_token_id=2)
    gpt2 = LoadedModel("random", GPT2LMHeadModel(config).eval(), tiny_tokenizer(), torch.device("cpu"))
    with pytest.raises(ValueError, match="'transformer.h.0.attn.c_attn' is a Conv1D and readers .* skip="):
        export_checkpoint(gpt2, "w:int8/channel", tmp_path / "out")
    assert list(tmp_path.iterdir()) == []


def test_every_preset_fits() -> None:
    assert {name: why_not(scheme) for name, scheme in PRESETS.items()} == dict.fromkeys(PRESETS)


def finished(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def test_an_existing_folder_needs_force(tiny_lm: LoadedModel, tmp_path: Path) -> None:
    out = tmp_path / "out"
    export_checkpoint(tiny_lm, "w:int8/channel", out)
    before = finished(out)
    with pytest.raises(ValueError, match="is there already and stays as it is; .* --force"):
        export_checkpoint(tiny_lm, "w:int4/channel", out)
    assert finished(out) == before
    report = export_checkpoint(tiny_lm, "w:int4/channel", out, force=True)
    assert finished(out).keys() == before.keys()
    assert json.loads((out / "export.json").read_text())["scheme"] == report.scheme == "w:int4/channel"
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


def test_force_replaces_only_models_and_never_the_source(tiny_lm: LoadedModel, tmp_path: Path) -> None:
    (tmp_path / "letters").mkdir()
    (tmp_path / "letters" / "to a friend.txt").write_text("dear")
    (tmp_path / "file").write_text("text")
    (tmp_path / "app").mkdir()
    (tmp_path / "app" / "config.json").write_text('{"port": 80}')
    for place in ("letters", "file", "app"):
        with pytest.raises(ValueError, match="is no model's folder, so it is not replaced"):
            export_checkpoint(tiny_lm, "w:int8/channel", tmp_path / place, force=True)
    with pytest.raises(ValueError, match="is the model that is being quantized"):
        export_checkpoint(tiny_lm, "w:int8/channel", tiny_lm.id, force=True)
    outer = shutil.copytree(tiny_lm.id, tmp_path / "outer")
    inner = replace(tiny_lm, id=str(shutil.copytree(tiny_lm.id, outer / "inner")))
    with pytest.raises(ValueError, match="outer' is the model that is being quantized, or has it inside"):
        export_checkpoint(inner, "w:int8/channel", outer, force=True)
    with pytest.raises(ValueError, match="is no folder, so nothing can be written into it"):
        export_checkpoint(tiny_lm, "w:int8/channel", tmp_path / "no" / "such")
    with pytest.raises(ValueError, match="is no folder"):
        export_checkpoint(tiny_lm, "w:int8/channel", tmp_path / "file" / "under")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["app", "file", "letters", "outer"]


@pytest.mark.parametrize("error", [OSError(28, "No space left on device"), KeyboardInterrupt()])
@pytest.mark.parametrize("there_before", [False, True])
def test_an_export_that_fails_midway(
    tiny_lm: LoadedModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: BaseException, there_before: bool
) -> None:
    if there_before:
        export_checkpoint(tiny_lm, "w:int8/channel", tmp_path / "out")
    before = {path: finished(path) for path in tmp_path.iterdir()}

    def fail(*_: Any) -> None:
        raise error

    monkeypatch.setattr(type(tiny_lm.model.config), "save_pretrained", fail)  # the last that is written
    with pytest.raises(ValueError if isinstance(error, OSError) else KeyboardInterrupt) as caught:
        export_checkpoint(tiny_lm, "w:int4/channel", tmp_path / "out", force=True)
    if isinstance(error, OSError):
        assert "is full; nothing was kept" in str(caught.value)
    assert {path: finished(path) for path in tmp_path.iterdir()} == before


def test_a_killed_export_leaves_nothing_that_looks_finished(tiny_model_dir: Path, tmp_path: Path) -> None:
    program = (
        "import os, sys\n"
        "from quantcore import export_checkpoint, load_model\n"
        "lm = load_model(sys.argv[1], 'cpu')\n"
        "type(lm.model.config).save_pretrained = lambda *_: os.kill(os.getpid(), 9)\n"
        "export_checkpoint(lm, 'w:int8/channel', sys.argv[2])\n"
    )
    done = forked.run("-c", program, str(tiny_model_dir), str(tmp_path / "out"))
    assert done.returncode == -signal.SIGKILL
    left = list(tmp_path.iterdir())
    assert not (tmp_path / "out").exists()
    assert [path.name.startswith(".out.partial-") for path in left] == [True]
    assert not (left[0] / "config.json").exists()
    assert (left[0] / "model.safetensors").exists()


def test_a_disk_that_is_full(tiny_lm: LoadedModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    disk = tmp_path / "disk"
    disk.mkdir()
    if subprocess.run(["mount", "-t", "tmpfs", "-o", "size=100k", "tmpfs", str(disk)], capture_output=True).returncode:
        pytest.skip("mounting a small tmpfs is not permitted here")
    try:
        with pytest.raises(ValueError, match=r"needs about 0\.\d MB and .* has 0\.1 MB free; make room"):
            export_checkpoint(tiny_lm, "w:int8/channel", disk / "out")
        monkeypatch.setattr(writing, "require_space", lambda *_: None)
        with pytest.raises(ValueError, match="is full; nothing was kept"):
            export_checkpoint(tiny_lm, "w:int8/channel", disk / "out")
        assert list(disk.iterdir()) == []
    finally:
        subprocess.run(["umount", str(disk)], check=True)


def test_a_folder_without_permission(tiny_lm: LoadedModel) -> None:
    with tempfile.TemporaryDirectory() as place:
        closed = Path(place) / "closed"
        closed.mkdir()
        closed.chmod(0o555)
        Path(place).chmod(0o755)
        as_root = os.geteuid() == 0
        if as_root:  # root may write anywhere
            os.seteuid(65534)
        try:
            with pytest.raises(ValueError, match="cannot write .*Permission denied|no permission to write in"):
                export_checkpoint(tiny_lm, "w:int8/channel", closed / "out")
        finally:
            if as_root:
                os.seteuid(0)
        assert list(closed.iterdir()) == []


def test_serving() -> None:
    def of(**schemes: str) -> Any:
        return serving("my models/out", {f"m.layers.0.{k}": Scheme.parse(v) for k, v in schemes.items()}, 2048)

    assert of(q_proj="W4A16").command == "vllm serve 'my models/out' --max-model-len 2048"
    assert of(o_proj="W4A16").gpus[0].startswith("4-bit integer weights alone: NVIDIA 7.5 and above")
    assert all("202" in kernel.source or "0.32" in kernel.source for kernel in KERNELS)  # each row has its date
    assert "not Blackwell" in of(o_proj="W8A8").gpus[0]
    assert "8.9 and above" in of(o_proj="FP8_BLOCK").gpus[0]
    assert of(o_proj="W8A8").problems == ()
    assert of(o_proj="W3A16").problems == ()  # Humming
    assert "compressed_tensors_wNa8" in of(o_proj="W4A8").gpus[0]
    assert of(o_proj="w:fp4_e2m1/group32").problems == ("vLLM lists no kernel for w:fp4_e2m1/group32",)
    odd = of(o_proj="w:int4/group96")
    assert odd.gpus == ()
    assert odd.problems == ("vLLM's kernel for w:int4/group96 takes groups of 32, 64, 128 and whole rows, not group96",)
    narrow = {"m.layers.0.o_proj": (576, 576)}
    slow = serving("out", {"m.layers.0.o_proj": Scheme.parse("w:int4/group64")}, 2048, shapes=narrow)
    assert "m.layers.0.o_proj is 576 x 576 (output x input), so a slower one must serve" in slow.problems[0]
    assert "one code a byte" in of(o_proj="W4AFP8").problems[0]
    assert "wants asymmetric weights alone packed" in of(o_proj="W4A16_ASYM", up_proj="W8A8").problems[0]
    assert of(o_proj="W4A16_ASYM").problems == ()
    torn = of(q_proj="W4A16", k_proj="W4A16", v_proj="W8A16")
    assert torn.problems == ("vLLM joins q_proj, k_proj, v_proj of m.layers.0 and wants one scheme for them",)
    assert of(q_proj="W4A16", k_proj="W4A16", v_proj="W4A16").problems == ()


def test_a_report_says_everything(tiny_lm: LoadedModel, tmp_path: Path) -> None:
    tokens = torch.randint(0, VOCAB, (2, 16))
    first = export_checkpoint(tiny_lm, "w:int4/group32,gptq", tmp_path / "one", tokens)
    second = export_checkpoint(tiny_lm, "w:int4/group32,gptq", tmp_path / "two", tokens)
    assert first.files == second.files  # the same bytes, by their hashes
    assert (first.calibration_tokens, first.calibration_hash) == (32, second.calibration_hash)
    assert all(layer.loss is not None for layer in first.layers)


def test_an_exported_checkpoint_is_not_taken_for_a_float_model(tmp_path: Path, tiny_lm: LoadedModel) -> None:
    export_checkpoint(tiny_lm, "w:int8/channel", tmp_path / "codes")
    with pytest.raises(ValueError, match="is quantized already .by compressed-tensors.*give the float model"):
        load_model(str(tmp_path / "codes"), "cpu")
