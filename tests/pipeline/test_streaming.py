"""A model block by block: the codes, figures and files of the whole model, within a limit that the kernel enforces."""

import json
import os
import re
import subprocess
import sys
from dataclasses import asdict, replace
from pathlib import Path

import pytest
import torch
import transformers
from safetensors.torch import load_file, save_file

from benchmarks.llama_files import Shape, write_random_llama
from quantcore import compare, load_model, quantize_model
from quantcore.export.checkpoint import export_checkpoint
from quantcore.matmul.layers import QuantLinear
from quantcore.matmul.size import checkpoint_bytes, quantized_linears
from quantcore.measure.scores import ModelReport
from quantcore.measure.side_by_side import compare_plans
from quantcore.measure.store import model_hash
from quantcore.model.linears import block_names
from quantcore.model.loading import LoadedModel
from quantcore.model.streamed import StreamedModel
from quantcore.pipeline.layers import LayerReport
from quantcore.pipeline.parts import parts, planned
from quantcore.scheme.plan import Plan
from quantcore.text.windows import bundled_text, token_windows
from tests.model.test_architectures import fused
from tests.tiny import VOCAB, tiny_tokenizer

MODEL_MB, LIMIT_MB = 120, 60
PLANS = [
    "w:int4/group32",
    "w:int3/group32/asym,gptq",
    "w:int4/group32,gptq/actorder=group,skip=none",
    "w:int8/channel,a:int8/tensor/static/p99.9",
    "w:int4/group32,a:int8/tensor/static,gptq/actorder=weight,skip=none"
    "@down_proj=w:int8/channel,a:int8/tensor/static/ema0.1@layers.0.self_attn=float",
]


@pytest.fixture
def text() -> torch.Tensor:
    torch.manual_seed(1)
    return torch.randint(3, 200, (20, 256))  # two calibration batches


@pytest.fixture
def short() -> torch.Tensor:
    torch.manual_seed(2)
    return torch.randint(3, 128, (40, 32))


def folder_of(kind: str, path: Path) -> Path:
    tiny_tokenizer().save_pretrained(path)
    fused(kind, vocab_size=VOCAB).save_pretrained(path)
    return path


def walked(source: str, plan: str, tokens: torch.Tensor, calibration: torch.Tensor | None = None) -> ModelReport:
    """The report of one plan on a model that stays in its files."""
    found = compare_plans(StreamedModel(source, "cpu"), {plan: Plan.parse(plan)}, tokens, calibration)
    return found.comparison.reports[plan]


def on_meta(streamed: StreamedModel) -> bool:
    return all(parameter.is_meta for parameter in streamed.skeleton.parameters())


@pytest.mark.parametrize("plan", PLANS)
def test_codes_are_quantize_models_bit_for_bit(
    tiny_lm: LoadedModel, tiny_model_dir: Path, text: torch.Tensor, plan: str
) -> None:
    quantized, expected = quantize_model(tiny_lm.model, plan, calibration=text)
    streamed, steps = StreamedModel(str(tiny_model_dir), "cpu"), list[float]()
    layers: dict[str, QuantLinear] = {}
    reports: list[LayerReport] = []
    for part in parts(streamed, plan, text, progress=lambda done, _: steps.append(done)):
        assert on_meta(streamed) == (part.name == ""), "exactly the block at hand is loaded"
        layers |= part.layers
        reports += part.reports
    assert on_meta(streamed)
    assert layers.keys() == quantized_linears(quantized).keys()
    for name, layer in quantized_linears(quantized).items():
        for key, tensor in layer.state_dict().items():
            assert torch.equal(layers[name].state_dict()[key], tensor), (name, key)
    assert {one.name: replace(one, seconds=0) for one in reports} == {r.name: replace(r, seconds=0) for r in expected}
    assert steps == pytest.approx([(index + 1) / len(layers) for index in range(len(layers))])
    assert planned(streamed, Plan.of(plan))[1].bytes == checkpoint_bytes(quantized)


def test_reads_what_load_model_loads(tiny_lm: LoadedModel, tiny_model_dir: Path) -> None:
    streamed = StreamedModel(str(tiny_model_dir), "cpu")
    assert list(streamed.state_dict()) == list(tiny_lm.model.state_dict())
    assert model_hash(streamed) == model_hash(tiny_lm.model)
    assert streamed.blocks == block_names(tiny_lm.model)
    buffers = dict(streamed.skeleton.named_buffers())
    assert all(torch.equal(buffers[name], buffer) for name, buffer in tiny_lm.model.named_buffers())


def test_figures_are_compares_on_the_reference_model() -> None:
    loaded = load_model("reference", "cpu")
    tokens = token_windows(loaded.tokenizer, bundled_text("evaluation", "story"), 128, limit=512)
    quantized, _ = quantize_model(loaded.model, "W4A16")
    expected, found = (
        asdict(report)
        for report in (
            compare(loaded.model, quantized, tokens),
            walked("reference", "W4A16", tokens),
        )
    )
    for name in ("kl", "kl_p99", "kl_max", "perplexity", "float_perplexity", "top1_agreement", "bits_per_weight"):
        assert found[name] == pytest.approx(expected[name], rel=1e-5), name
    for name in ("tokens", "bytes", "float_bytes", "device", "versions"):
        assert found[name] == expected[name], name
    assert found["kl"] > 0.01


@pytest.mark.parametrize("kind", ["Llama", "Qwen3", "GPT2", "OPT", "Gemma", "Mixtral"])
def test_figures_and_codes_of_other_architectures(kind: str, tmp_path: Path, short: torch.Tensor) -> None:
    folder = str(folder_of(kind, tmp_path))
    loaded, scheme = load_model(folder, "cpu"), "w:int3/group16,a:int8/tensor/static,gptq"
    quantized, _ = quantize_model(loaded.model, scheme, calibration=short)
    expected, found = compare(loaded.model, quantized, short), walked(folder, scheme, short)
    assert replace(found, seconds=0) == replace(expected, seconds=0)
    assert found.kl > 1e-4


def test_blocks_of_two_kinds_each_get_their_own_mask(tmp_path: Path, short: torch.Tensor) -> None:
    """Gemma 3: local attention over 8 tokens in block 0, global in block 1, each with its own rotary frequencies."""
    config = transformers.Gemma3TextConfig(
        vocab_size=VOCAB, hidden_size=32, intermediate_size=64, num_hidden_layers=2, num_attention_heads=4,
        num_key_value_heads=2, head_dim=8, max_position_embeddings=64, sliding_window=8, pad_token_id=0,
        layer_types=["sliding_attention", "full_attention"], initializer_range=0.1,
    )  # fmt: skip
    tiny_tokenizer().save_pretrained(tmp_path)
    transformers.AutoModelForCausalLM.from_config(config).save_pretrained(tmp_path)
    loaded = load_model(str(tmp_path), "cpu")
    quantized, _ = quantize_model(loaded.model, "w:int3/group16")
    expected = compare(loaded.model, quantized, short)
    found = walked(str(tmp_path), "w:int3/group16", short)
    assert replace(found, seconds=0) == replace(expected, seconds=0)


@pytest.mark.parametrize("plan", ["w:int4/group32", "w:int4/group32,gptq,skip=none@down_proj=w:int8/channel"])
def test_export_writes_the_files_of_export_checkpoint(
    tiny_lm: LoadedModel, tiny_model_dir: Path, text: torch.Tensor, tmp_path: Path, plan: str
) -> None:
    streamed = StreamedModel(str(tiny_model_dir), "cpu")
    expected = export_checkpoint(tiny_lm, plan, tmp_path / "whole", text)
    found = export_checkpoint(streamed, plan, tmp_path / "streamed", text)
    assert found.files == expected.files
    configs = [json.loads((tmp_path / name / "config.json").read_text()) for name in ("whole", "streamed")]
    assert configs[0] == configs[1]
    for name in ("model_hash", "calibration_hash", "scale_rounding", "dtype", "format", "bytes", "scheme"):
        assert getattr(found, name) == getattr(expected, name), name
    small = export_checkpoint(streamed, plan, tmp_path / "shards", text, shard_bytes=20_000)
    shards = [one.name for one in small.files if one.name.endswith(".safetensors")]
    assert len(shards) > 2
    tensors = {name: tensor for shard in shards for name, tensor in load_file(tmp_path / "shards" / shard).items()}
    whole = load_file(tmp_path / "whole" / "model.safetensors")
    assert tensors.keys() == whole.keys()
    assert all(torch.equal(tensors[name], tensor) for name, tensor in whole.items())
    with pytest.raises(ValueError, match="is there already"):
        export_checkpoint(streamed, plan, tmp_path / "shards", text)


def test_what_is_refused_and_before_any_work(tiny_model_dir: Path, tmp_path: Path, text: torch.Tensor) -> None:
    streamed = StreamedModel(str(tiny_model_dir), "cpu")
    for scheme, sentence in (
        ("w:int4/group32,gptq", "so it needs text"),
        ("W8A8@dwn_proj=float", "no layer fits 'dwn_proj'"),
        ("w:int4/group48", r"group48 does not divide model\.layers\.0\.self_attn\.q_proj"),
        ("W8A8,skip=model,skip=lm_head", "skips every Linear"),
    ):
        with pytest.raises(ValueError, match=sentence):
            parts(streamed, scheme)
    with pytest.raises(ValueError, match="windows of 1 token predict nothing"):
        compare_plans(streamed, {"": Plan.parse("W8A8")}, text[:, :1])
    folder = folder_of("Llama", tmp_path / "wrong")
    tensors = load_file(folder / "model.safetensors")
    tensors["model.norm.weight"] = torch.ones(31)
    save_file(tensors, folder / "model.safetensors", {"format": "pt"})
    with pytest.raises(
        ValueError, match=r"'model\.norm\.weight' has shape \(31,\) in its files and its config.json says \(32,\)"
    ):
        StreamedModel(str(folder), "cpu")


def test_a_walk_that_ends_early_lets_its_block_go(tiny_model_dir: Path, text: torch.Tensor) -> None:
    streamed = StreamedModel(str(tiny_model_dir), "cpu")
    road = parts(streamed, "w:int4/group32,gptq", text)
    next(road)
    assert not on_meta(streamed)
    road.close()
    assert on_meta(streamed)


LIMITED = """
import resource, sys, torch
from transformers import AutoModelForCausalLM, AutoTokenizer, LlamaForCausalLM
from benchmarks.streaming import memory
from pathlib import Path
from quantcore.export import checkpoint_format
from quantcore import export_checkpoint, load_model
from quantcore.export.forms import loadable
from quantcore.model.streamed import StreamedModel
from quantcore.scheme.scheme import Scheme
from transformers import LlamaConfig
tiny = LlamaConfig(vocab_size=8, hidden_size=8, intermediate_size=8, num_hidden_layers=1, num_attention_heads=1)
scheme = Scheme.parse("w:int8/channel")
loadable(LlamaForCausalLM(tiny), {"model.layers.0.mlp.up_proj": scheme}, torch.float32)  # what is imported late
model, out, limit = sys.argv[1], sys.argv[2], int(sys.argv[3])
torch.ones(2**20).sqrt()  # the pool of threads has its stacks
Path("/proc/self/clear_refs").write_text("5")
before = memory("VmRSS")
allowed = memory("VmData") + limit
resource.setrlimit(resource.RLIMIT_DATA, (allowed, allowed))
try:
    load_model(model, "cpu")
except ValueError as refusal:
    print(refusal)
export_checkpoint(StreamedModel(model, "cpu"), "w:int4/group128", out, shard_bytes=4 * 10**6)
print(memory("VmHWM") - before)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="the kernel's limit on a process's data is Linux's")
def test_exports_a_model_twice_as_large_as_the_memory_it_may_take(tmp_path: Path) -> None:
    """The kernel's limit on what the process allocates is the proof; it counts from what the imports took, and loading
    the model whole fails under it. Pages of the mapped files are no allocation, and how many of them are resident is
    the kernel's affair: of all together it is only asked that they stay below the model's own size. glibc is told to
    give every freed matrix back at once: else it keeps some for later, and what it keeps counts."""
    written = write_random_llama(tmp_path / "model", Shape(256, 768, 4, 4, 72, 512))
    assert written > MODEL_MB * 10**6
    done = subprocess.run(
        [sys.executable, "-c", LIMITED, str(tmp_path / "model"), str(tmp_path / "out"), str(LIMIT_MB * 10**6)],
        capture_output=True,
        text=True,
        cwd=Path(__file__).parents[2],
        env=os.environ | {"OMP_NUM_THREADS": "2", "MALLOC_MMAP_THRESHOLD_": "1048576"},
    )
    assert done.returncode == 0, done.stderr[-2000:]
    *refused, resident = done.stdout.splitlines()
    assert int(resident) < written
    assert re.search(r"needs .* of memory and this machine has .* of .* free", "\n".join(refused))
