"""A KV cache's frozen scales in a checkpoint: as compressed-tensors registers them, and it computes what ours does."""

import copy
import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor
from transformers import AutoModelForCausalLM
from transformers.models.llama.modeling_llama import LlamaAttention

from quantcore.export.checkpoint import export_checkpoint
from quantcore.export.promise import promise
from quantcore.lab.lab import Lab
from quantcore.model.held import held
from quantcore.model.loading import LoadedModel
from quantcore.model.streamed import StreamedModel
from quantcore.numbers.affine import QParams
from quantcore.pipeline.cache import coded_cache
from quantcore.pipeline.cache_ranges import cache_tensors, calibrate_cache
from quantcore.pipeline.convert import quantize_model
from quantcore.scheme.plan import Plan

pytest.importorskip("compressed_tensors")

TOKENS = torch.arange(2 * 48).reshape(2, 48) * 7 % 290 + 3
CACHES = ["kv:fp8_e4m3/tensor", "kv:fp8_e4m3/head", "kv:int8/tensor", "kv:int8/head/static/p99"]


def theirs(config: Any, dtype: torch.dtype, args: Any) -> Any:
    """A Llama's first attention with compressed-tensors' cache. Its own search for attention modules finds
    none in transformers 5.24, so that its parts are put together by hand."""
    from compressed_tensors.modeling.kvcache import QuantizedKVCache
    from compressed_tensors.quantization import QuantizationScheme, QuantizationStatus
    from compressed_tensors.quantization.lifecycle.initialize import initialize_attn_qparams

    module: Any = LlamaAttention(config, 0).to(dtype)
    module.register_module("kv_cache", QuantizedKVCache(config, module))
    module.quantization_scheme = QuantizationScheme(targets=["Linear"], input_activations=args)
    module.quantization_status = QuantizationStatus.COMPRESSED
    initialize_attn_qparams(module, module.quantization_scheme, force_zero_point=False)
    return module


def with_scale(frozen: QParams | None, scale: Tensor) -> QParams:
    assert frozen is not None
    assert torch.allclose(scale.float().flatten(), frozen.scale.flatten(), rtol=2**-8, atol=0)
    return frozen._replace(scale=scale.float().reshape(frozen.scale.shape))


def outside(x: Tensor) -> Tensor:
    """Keys or values with numbers beyond what was calibrated, on both sides, and zeros."""
    made = x.clone()
    made[0, 0, 3], made[1, -1, 5], made[0, :, 7] = 40 * made[0, 0, 3], -40 * made[1, -1, 5], 0
    return made


@pytest.mark.parametrize("kv", CACHES)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_their_cache_computes_the_same_bits(kv: str, dtype: torch.dtype, tiny_lm: LoadedModel, tmp_path: Path) -> None:
    """In float32, with the scales as stored. (In bfloat16 theirs rounds x / scale to bfloat16 before it rounds to a
    code, ours divides in float32.)"""
    from compressed_tensors.quantization import QuantizationConfig

    scheme = f"w:int8/channel,{kv}"
    report = export_checkpoint(tiny_lm, scheme, tmp_path / "out", TOKENS, dtype=dtype)
    tensors = load_file(tmp_path / "out" / "model.safetensors")
    promised = promise(tiny_lm.model, scheme, dtype)
    scales = {name: one for name, one in tensors.items() if name.endswith((".k_scale", ".v_scale"))}
    assert promised.bytes == sum(one.nbytes for one in tensors.values())
    assert promised.parts["cache ranges"] == sum(one.nbytes for one in scales.values()) > 0
    assert promised.size.bits_per_weight == promise(tiny_lm.model, "w:int8/channel", dtype).size.bits_per_weight

    said = QuantizationConfig.model_validate(
        json.loads((tmp_path / "out" / "config.json").read_text())["quantization_config"]
    )
    module = theirs(tiny_lm.model.config, dtype, said.kv_cache_scheme)
    own = {
        f"model.layers.0.self_attn.{name}": one for name, one in module.named_parameters() if name.endswith("_scale")
    }
    assert {name: (one.shape, one.dtype) for name, one in own.items()} == {
        name: (one.shape, one.dtype) for name, one in scales.items() if ".0." in name
    }
    assert len(scales) == 2 * len(own) == 4
    for name, one in own.items():
        one.data.copy_(scales[name])

    spec = Plan.parse(scheme).kv
    assert spec is not None
    exact = calibrate_cache(held(tiny_lm), spec, TOKENS)
    k, v = (
        with_scale(one, scales[f"model.layers.0.self_attn.{end}_scale"])
        for one, end in zip(exact[0], "kv", strict=True)
    )
    keys, values = (outside(one) for one in cache_tensors(held(tiny_lm), TOKENS, (0,))[0])
    cache = coded_cache(tiny_lm.model.config, spec, {**exact, 0: (k, v)})
    ours = cache.update(keys, values, 0)
    for mine, other, x in zip(ours, module.float().kv_cache(keys, values), (keys, values), strict=True):
        assert torch.equal(mine, other)
        assert not torch.equal(mine, x)
    assert 0 <= report.scale_rounding <= report.scale_rounding_limit


def test_what_transformers_makes_of_it(tiny_lm: LoadedModel, tmp_path: Path) -> None:
    """It loads the layers and leaves the scales: its attention takes `cache`, where compressed-tensors looks for
    past_key_values. Should this test fail, transformers reads the cache, and `cached.UNREAD` is no longer true."""
    from compressed_tensors.quantization.lifecycle.initialize import is_cached_attention_module

    report = export_checkpoint(tiny_lm, "w:int8/channel,kv:fp8_e4m3/head", tmp_path / "out", TOKENS)
    loaded, found = AutoModelForCausalLM.from_pretrained(
        tmp_path / "out", dtype=torch.float32, output_loading_info=True
    )
    ends = [f"model.layers.{block}.self_attn.{side}_scale" for block in (0, 1) for side in "kv"]
    assert (found["missing_keys"], sorted(found["unexpected_keys"])) == (set(), ends)
    attention = loaded.model.layers[0].self_attn
    assert not is_cached_attention_module(attention)
    assert not hasattr(attention, "quantization_scheme")
    assert any("reads no scales of a cache" in note for note in report.notes)
    plain, _ = quantize_model(tiny_lm.model, "w:int8/channel")
    with torch.inference_mode():
        assert torch.allclose(loaded(TOKENS).logits, plain(TOKENS).logits, atol=1e-4)


def test_nobody_turns_keys(tiny_lm: LoadedModel, tmp_path: Path) -> None:
    """R3 in compressed-tensors' words, as llm-compressor's SpinQuantModifier writes it: queries are turned and keys are
    not. Should this test fail, transformers' attention turns both, and R3 can be written (`cache_words`)."""
    from compressed_tensors.transform import TransformConfig, apply_transform_config

    def said(*locations: str) -> torch.Tensor:
        model = copy.deepcopy(tiny_lm.model)
        places = [{"targets": ["re:.*self_attn$"], "location": one} for one in locations]
        r3 = {"type": "hadamard", "head_dim": 16, "apply": places}
        apply_transform_config(model, TransformConfig.model_validate({"config_groups": {"R3": r3}}))
        with torch.inference_mode():
            return model(TOKENS).logits  # type: ignore[no-any-return]

    with torch.inference_mode():
        plain = tiny_lm.model(TOKENS).logits
    assert torch.equal(said("k_cache"), plain)
    both = said("q_attn", "k_cache")
    assert torch.equal(both, said("q_attn"))
    assert (both - plain).abs().max() > 0.1 * plain.abs().max()
    with pytest.raises(ValueError, match="no reader turns keys .* compressed-tensors turns queries alone; leave /r3"):
        export_checkpoint(tiny_lm, "W8A8,kv:fp8_e4m3/tensor/r3", tmp_path / "out", TOKENS)


def test_their_token_is_no_token_of_a_cache(tiny_lm: LoadedModel) -> None:
    """Of keys (windows, heads, tokens, head_dim) their strategy token reduces tokens, too; so it is not written."""
    from compressed_tensors.quantization import QuantizationArgs
    from compressed_tensors.quantization.utils import compute_dynamic_scales_and_zp

    keys, _ = cache_tensors(held(tiny_lm), TOKENS, (0,))[0]
    args = QuantizationArgs(num_bits=8, type="int", strategy="token", dynamic=True)
    scale, _ = compute_dynamic_scales_and_zp(keys, args, torch.nn.Module())
    assert scale.shape == (2, 2, 1, 1)
    with pytest.raises(ValueError, match="leave it out, and tell vLLM --kv-cache-dtype int8_per_token_head"):
        export_checkpoint(tiny_lm, "W8A8,kv:int8/token", "nowhere")


@pytest.mark.parametrize(
    ("kv", "sentence"),
    [
        ("kv:fp8_e4m3/token", "--kv-cache-dtype fp8_per_token_head"),
        ("kv:int4/group16", "one frozen scale a layer or a head of it, not kv:int4/group16/dynamic; write kv:fp8"),
        ("kv:int4/token", "one frozen scale a layer or a head"),
        ("kv:fp4_e2m1/group16/e4m3", "one frozen scale a layer or a head"),
        ("kv:int4/tensor", "codes of fp8_e4m3 or int8, not kv:int4/tensor/static; write kv:fp8_e4m3/tensor/static"),
        ("kv:int8_narrow/tensor", "codes of fp8_e4m3 or int8"),
        ("kv:int8/tensor/asym", "reads no zero points of a cache"),
        ("k:int8/tensor", "one thing of keys and values"),
        ("k:int8/tensor,v:fp8_e4m3/tensor", "one thing of keys and values"),
    ],
)
def test_what_it_cannot_say_is_refused_before_the_work(
    kv: str, sentence: str, tiny_lm: LoadedModel, tmp_path: Path
) -> None:
    with pytest.raises(ValueError, match=sentence) as refused:
        export_checkpoint(tiny_lm, f"W8A8,{kv}", tmp_path / "out", TOKENS)
    assert len(str(refused.value)) < 400
    assert list(tmp_path.iterdir()) == []
    assert promise(tiny_lm.model, f"W8A8,{kv}", torch.bfloat16).layouts == ()


def test_refused_for_want_of_layers_text_or_attention(tiny_lm: LoadedModel, tmp_path: Path) -> None:
    from transformers import GPTNeoXConfig, GPTNeoXForCausalLM

    with pytest.raises(ValueError, match="give a scheme such as W8A16,kv:int8/tensor/static"):
        export_checkpoint(tiny_lm, "kv:int8/tensor", tmp_path / "out", TOKENS)
    with pytest.raises(ValueError, match="freezes ranges of the cache, so it needs calibration tokens"):
        export_checkpoint(tiny_lm, "W8A8,kv:int8/tensor", tmp_path / "out")
    config = GPTNeoXConfig(
        vocab_size=300, hidden_size=32, intermediate_size=64, num_hidden_layers=2, num_attention_heads=2
    )
    other = GPTNeoXForCausalLM(config).eval()
    with pytest.raises(ValueError, match="2 layers of this GPTNeoXForCausalLM have none .*; leave kv: out"):
        export_checkpoint(other, "w:int8/channel,kv:int8/tensor", tmp_path / "out", TOKENS)
    assert list(tmp_path.iterdir()) == []


def test_whichever_way_it_is_written(tiny_lm: LoadedModel, tiny_model_dir: Path, tmp_path: Path) -> None:
    """In memory or from the files: the same bytes; a transformed model has its own scales."""
    scheme = "w:int8/channel,kv:fp8_e4m3/head"
    first = export_checkpoint(tiny_lm, scheme, tmp_path / "one", TOKENS).files
    streamed = export_checkpoint(StreamedModel(str(tiny_model_dir), "cpu"), scheme, tmp_path / "two", TOKENS).files
    weights = {file.sha256 for files in (first, streamed) for file in files if file.name.endswith("tensors")}
    assert len(weights) == 1
    export_checkpoint(tiny_lm, f"{scheme},rotate=hadamard", tmp_path / "turned", TOKENS)
    name = "model.layers.0.self_attn.{}_scale"
    plain, turned = (load_file(tmp_path / folder / "model.safetensors") for folder in ("one", "turned"))
    assert torch.allclose(plain[name.format("k")], turned[name.format("k")], rtol=1e-3)
    assert not torch.allclose(plain[name.format("v")], turned[name.format("v")], rtol=1e-3)  # R2 turns values


def test_a_lab_reads_back_what_is_read(tiny_lm: LoadedModel) -> None:
    """transformers' cache is of floats, and so is what it is held against."""
    lab, plan = Lab(tiny_lm), "w:int8/channel,kv:int8/tensor"
    lab.checkpoint(plan, "calibration/story|3x64")
    assert lab.read_back(plan, "calibration/story|3x64", "evaluation/story|3x64").kl < 1e-6
