"""Memory: known parameter counts, bytes by hand, and the engine's own checkpoint as the measure."""

from dataclasses import replace

import pytest
import torch
from transformers import GPT2Config, GPT2LMHeadModel, LlamaConfig, LlamaForCausalLM

from quantcore.matmul.size import checkpoint_bytes
from quantcore.model.experts import taken_apart
from quantcore.model.loading import LoadedModel
from quantcore.model.token_cache import Cache
from quantcore.numbers.bits import weight_size
from quantcore.numbers.qtensor import quantize
from quantcore.pipeline.convert import quantize_model
from quantcore.scheme.scheme import Scheme
from quantcore.studies.footprint import (
    LLAMA_3_8B,
    LLAMA_3_70B,
    Footprint,
    ModelShape,
    footprint,
    gptq_memory,
)
from tests.model.test_experts import made
from ui.words.speed import fits, written_cards


def test_parameters_of_the_presets() -> None:
    """What the models' own checkpoints count."""
    assert LLAMA_3_8B.parameters == 8_030_261_248
    assert LLAMA_3_70B.parameters == 70_553_706_496


def test_a_typed_shape_is_the_preset() -> None:
    typed = ModelShape.parse("32, 4096, 32, 8, 14336, 128256")
    assert typed.linears == LLAMA_3_8B.linears
    assert typed.parameters == LLAMA_3_8B.parameters


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("32,4096", "is not six whole numbers"),
        ("a,b,c,d,e,f", "is not six whole numbers"),
        ("32,4096,33,8,14336,128256", "heads must divide hidden"),
        ("32,4096,32,5,14336,128256", "kv_heads must divide heads"),
        ("0,4096,32,8,14336,128256", "every number is at least 1"),
        ("5000,4096,32,8,14336,128256", "5000 layers are more"),
    ],
)
def test_a_shape_that_cannot_be(text: str, sentence: str) -> None:
    with pytest.raises(ValueError, match=sentence):
        ModelShape.parse(text)


@pytest.mark.parametrize("text", ["w:int8/channel", "w:int4/group32/asym", "w:fp8_e4m3/tensor", "w:int3/block32x64"])
def test_weight_bits_are_the_qtensors(text: str) -> None:
    spec = Scheme.parse(text).weights
    assert spec is not None
    q = quantize(torch.randn(64, 128), spec)
    assert weight_size(spec, (64, 128)).bits == pytest.approx(q.bits_per_weight * q.q.numel())


def test_a_group_number_for_each_column() -> None:
    spec = Scheme.parse("w:int4/group4").weights
    assert spec is not None
    assert weight_size(spec, (2, 8)).bits == 4 * 16 + 16 * 4
    assert weight_size(spec, (2, 8), g_idx=True).bits == 4 * 16 + 16 * 4 + 32 * 8


PLANS = ["w:int8/channel", "w:int4/group32/asym", "w:int8/channel,skip=none", "w:int4/group32@down_proj=w:int8/channel"]


@pytest.mark.parametrize("plan", [*PLANS, "w:int4/group32@layers.0=float"])
def test_weights_are_the_checkpoints(tiny_lm: LoadedModel, plan: str) -> None:
    shape = ModelShape.of(tiny_lm.model, "tiny")
    quantized, _ = quantize_model(tiny_lm.model, plan)
    assert footprint(shape, plan, 128).weights_bytes == checkpoint_bytes(quantized)
    assert footprint(shape, "float", 128).weights_bytes == checkpoint_bytes(tiny_lm.model)


@pytest.mark.parametrize("plan", ["w:int8/channel", "w:int8/channel,skip=none"])
def test_a_tied_head_is_counted_once(plan: str) -> None:
    config = LlamaConfig(
        vocab_size=48,
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        tie_word_embeddings=True,
    )
    model = LlamaForCausalLM(config).eval().requires_grad_(False)
    shape = ModelShape.of(model, "tied")
    assert shape.parameters == sum(parameter.numel() for parameter in model.parameters())
    typed = ModelShape.llama("typed", 2, 32, 4, 2, 64, 48, tied=True)
    assert typed.parameters == shape.parameters
    expected = checkpoint_bytes(quantize_model(model, plan)[0])
    assert footprint(shape, plan, 8).weights_bytes == footprint(typed, plan, 8).weights_bytes == expected


def test_the_cache_by_hand() -> None:
    """Llama-3-8B: keys and values, 32 layers, 8 heads of 128, 2 bytes: 131,072 bytes a token."""
    card = footprint(LLAMA_3_8B, "W4A16", context=1000, batch=3)
    assert card.kv_bytes_per_token == 2 * 32 * 8 * 128 * 2 == 131_072
    assert card.kv_bytes == 3000 * 131_072
    assert footprint(LLAMA_3_8B, "W4A16", 1000, 3, kv_bits=8).kv_bytes * 2 == card.kv_bytes


def test_the_cache_of_a_window_by_hand() -> None:
    """One block keeps all tokens, one at most 100, one a state: 8 numbers of two bytes a token each, 5 a sequence."""
    caches = (Cache(8), Cache(8, window=100), Cache(0, state=5))
    shape = replace(ModelShape.llama("mine", 3, 32, 4, 2, 64, 48), caches=caches, head_dim=4)
    card = footprint(shape, "float", context=1000, batch=3)
    assert card.kv_bytes_per_token == 2 * 2 * 8
    assert card.kv_bytes == 3 * 2 * (8 * 1000 + 8 * 100 + 5)
    without = card.weights_bytes + card.activation_bytes
    assert card.tokens_within((without + 3 * 2 * (5 + 16 * 50)) / 1e9) == 3 * 50
    assert card.tokens_within((without + 3 * 2 * (5 + 16 * 100 + 8 * 900)) / 1e9) == 3 * 1000
    assert card.tokens_within(without / 1e9) == 0
    coded = footprint(shape, "kv:int8/token", 1000)  # a head of four codes and a scale of four bytes, twice
    assert coded.kv_bytes == 2 * (4 + 4) * (1000 + 100) + 2 * 5
    sliding = footprint(replace(shape, caches=caches[1:]), "float", 1000)
    assert sliding.tokens_within(1e-6) == 0
    assert sliding.tokens_within(1) is None
    assert "any" in str(written_cards([sliding])["tokens, 8 GB"].iloc[0])
    with pytest.raises(ValueError, match="mine keeps 9 numbers a token in a block, no keys and values of 4 each"):
        footprint(replace(shape, caches=(Cache(9),)), "kv:int8/token", 8)


def test_a_weight_that_lies_turned_is_counted_once() -> None:
    """GPT-2's Conv1D."""
    model = GPT2LMHeadModel(GPT2Config(vocab_size=64, n_embd=32, n_layer=2, n_head=4, n_positions=16)).eval()
    assert ModelShape.of(model, "mine").parameters == model.num_parameters()


def test_activations_by_hand() -> None:
    """10 tokens: (2 * 4096 + 2 * 14336) * 2 bytes each; and logits of 2 sequences, 128256 * 4 bytes each."""
    card = footprint(LLAMA_3_8B, "float", context=5, batch=2)
    assert card.activation_bytes == 10 * (2 * 4096 + 2 * 14336) * 2 + 2 * 128_256 * 4
    long = footprint(LLAMA_3_8B, "float", context=100_000, batch=2)
    assert long.activation_bytes == 2048 * (2 * 4096 + 2 * 14336) * 2 + 2 * 128_256 * 4


def test_what_fits() -> None:
    full, small = footprint(LLAMA_3_8B, "float", 8192), footprint(LLAMA_3_8B, "W4A16", 8192)
    assert full.weights_bytes == 2 * 8_030_261_248
    assert (full.budget_gb(), small.budget_gb()) == (24, 8)
    assert footprint(LLAMA_3_70B, "float", 8192).budget_gb() is None
    assert full.tokens_within(16) == 0
    room = small.tokens_within(8)
    assert small.weights_bytes + small.activation_bytes + room * 131_072 <= 8e9
    assert small.weights_bytes + small.activation_bytes + (room + 1) * 131_072 > 8e9
    assert small.bits_per_weight == 4.125
    assert full.bits_per_weight is None


def test_a_gb_is_ten_to_the_nine() -> None:
    assert Footprint("float", 8_000_000_000, 0, 0, 1, None).budget_gb() == 8
    assert Footprint("float", 8_000_000_000, 0, 1, 1, None).budget_gb() == 16  # below 8 GiB, above 8 GB


def test_what_gptq_needs() -> None:
    """q, k, v read one tensor, o another, gate and up one, down one: three Hessians of 4096^2 and one of 14336^2."""
    found = gptq_memory(LLAMA_3_8B, 1000)
    assert found.hessians == (4096, 4096, 4096, 14336)
    assert found.hessian_bytes == 4 * (3 * 4096**2 + 14336**2)
    attention = 2 * 4096**2 + 2 * 1024 * 4096
    assert found.block_bytes == 2 * (attention + 3 * 14336 * 4096)
    assert found.hidden_bytes == 1000 * 4096 * 2
    assert found.widest == (4096, 14336)
    assert found.work_bytes == 14 * 14336**2 + 11 * 4096 * 14336
    assert found.total_bytes < 2 * LLAMA_3_8B.parameters


def test_refusals() -> None:
    with pytest.raises(ValueError, match="a KV cache of 4 bits"):
        footprint(LLAMA_3_8B, "W4A16", 8, kv_bits=4)
    with pytest.raises(ValueError, match="context=0"):
        footprint(LLAMA_3_8B, "W4A16", 0)
    with pytest.raises(ValueError, match=r"q_proj of odd: group128 does not divide in_features=96"):
        footprint(ModelShape.llama("odd", 1, 96, 4, 2, 128, 300), "w:int4/group128", 8)
    odd = footprint(ModelShape.llama("odd", 1, 96, 4, 2, 128, 300), "W4A16", 8)
    assert odd.bits_per_weight == 4.5  # groups of 32
    with pytest.raises(ValueError, match="no layer fits 'down_prj'"):
        footprint(LLAMA_3_8B, "W4A16@down_prj=float", 8)


def test_a_token_reads_the_experts_that_are_chosen() -> None:
    """Two of four experts in each of two blocks, three matrices of 48 x 32 each: half of their numbers lie idle. The
    table of embeddings, 128 x 32, is not read. In 16 bits a number is two bytes."""
    shape = ModelShape.of(taken_apart(made("Mixtral")), "mixture")
    experts, table = 2 * 4 * 3 * 48 * 32, 128 * 32
    assert shape.chosen == (2, 4)
    assert shape.active == shape.parameters - experts // 2 - table
    plain = footprint(shape, "float", 64)
    assert plain.read_bytes == plain.weights_bytes - 2 * (experts // 2 + table)
    coded = footprint(shape, "w:int8/channel", 64)  # a byte each, and a scale of two bytes a row
    assert plain.read_bytes - coded.read_bytes > experts // 2 - 2 * 4 * (2 * 48 + 32)
    (_, said, *_) = fits(shape, [plain, coded])
    assert said.startswith("A token passes 2 of 4 experts a block, **")


def test_a_dense_model_reads_all_but_its_table() -> None:
    assert LLAMA_3_8B.chosen is None
    assert LLAMA_3_8B.active == LLAMA_3_8B.parameters - 128256 * 4096
    assert footprint(LLAMA_3_8B, "float", 64).read_bytes == 2 * LLAMA_3_8B.active
    assert not any("experts" in one for one in fits(LLAMA_3_8B, [footprint(LLAMA_3_8B, "float", 64)]))


def test_a_cache_of_codes_is_counted_with_its_scales() -> None:
    """Llama-3-8B: 32 layers of 8 heads of 128 numbers, keys and values; a row has one 32-bit scale."""
    card = footprint(LLAMA_3_8B, "W4A16,kv:int8/token", 1000, 3)
    assert card.kv_bytes_per_token == 2 * 32 * 8 * (128 + 4)
    assert card.kv_bytes == 3000 * card.kv_bytes_per_token
    halves = footprint(LLAMA_3_8B, "kv:int4/group64", 1000)
    assert halves.kv_bytes == 1000 * 2 * 32 * 8 * (64 + 2 * 4)
    frozen = footprint(LLAMA_3_8B, "v:fp8_e4m3/tensor", 1000)
    assert frozen.kv_bytes == 1000 * 32 * 8 * (2 * 128 + 128) + 32 * 4
    with pytest.raises(ValueError, match="says what the cache holds, and kv_bits=8 says it again"):
        footprint(LLAMA_3_8B, "kv:int8/token", 1000, kv_bits=8)
