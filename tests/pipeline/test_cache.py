"""A KV cache of codes: by hand on one row, laws on the tiny model, and what is refused."""

import math
from copy import deepcopy
from pathlib import Path

import pytest
import torch
from torch import Tensor
from transformers import (
    DynamicCache,
    GPT2Config,
    GPT2LMHeadModel,
    LlamaConfig,
    MistralConfig,
    MistralForCausalLM,
    StaticCache,
)

from quantcore.export.checkpoint import export_checkpoint
from quantcore.export.recipe import recipe
from quantcore.lab.lab import Lab
from quantcore.measure.evaluate import compare, perplexity
from quantcore.measure.side_by_side import compare_plans
from quantcore.measure.store import Store
from quantcore.model.held import held
from quantcore.model.loading import LoadedModel
from quantcore.model.streamed import StreamedModel
from quantcore.numbers.bits import cache_size
from quantcore.numbers.qtensor import dequantize, fake_quantize
from quantcore.pipeline.blocks import BlockWalk
from quantcore.pipeline.cache import Coded, CodedCache, coded_cache, require_cache, turned_head, with_cache
from quantcore.pipeline.cache_ranges import cache_tensors, calibrate_cache
from quantcore.pipeline.convert import quantize_model
from quantcore.scheme.cache import CacheSpec
from quantcore.scheme.plan import Plan
from quantcore.scheme.scheme import Scheme

TOKENS = torch.arange(2 * 48).reshape(2, 48) * 7 % 290 + 3
READ, LEARNED = "evaluation/story|3x64", "calibration/story|3x64"


def spec_of(text: str) -> CacheSpec:
    kv = Scheme.parse(text).kv
    assert kv is not None
    return kv


def filled(kv: CacheSpec, x: Tensor, pieces: list[int], scales: object = None) -> CodedCache:
    """A cache of a model of one layer with x as keys and -x as values, in pieces."""
    heads, width = x.shape[1], x.shape[3]
    config = LlamaConfig(
        num_hidden_layers=1, num_key_value_heads=heads, num_attention_heads=heads, head_dim=width, hidden_size=heads * 8
    )
    cache = coded_cache(config, kv, scales)  # type: ignore[arg-type]
    for part in x.split(pieces, -2):
        cache.update(part, -part, 0)
    return cache


def test_int8_by_hand() -> None:
    """A row of absmax 255: scale 255 / 127.5 = 2. 7 is 3.5 steps, which rounds to 4 (half to even), so 8; 255 is 127.5
    steps, clamped to 127: 254."""
    side = Coded(spec_of("kv:int8/token").keys)
    side.append(torch.tensor([[[[255.0, 7.0, -3.0, 0.0], [1.275, 0.1, 0.0, 0.0]]]]))
    codes = side.codes()
    assert codes.scale.flatten().tolist() == pytest.approx([2.0, 0.01])
    assert codes.q[0, 0].tolist() == [[127, 4, -2, 0], [127, 10, 0, 0]]
    assert side.read()[0, 0, 0].tolist() == [254.0, 8.0, -4.0, 0.0]
    assert side.held_bytes == 8 + 2 * 4


EVERY = [
    "kv:int8/token",
    "kv:int4/group16/asym",
    "kv:int3/group8",
    "kv:fp8_e4m3/token",
    "kv:fp4_e2m1/group32/e8m0",
    "k:int4/group16,v:int8/token",
    "k:int8/token",
]


@pytest.mark.parametrize("text", EVERY)
def test_pieces_of_any_size_hold_what_one_piece_holds(text: str) -> None:
    x = torch.randn(2, 3, 12, 32) * torch.tensor([1.0, 20.0, 0.1])[:, None, None]
    whole, parts = (filled(spec_of(text), x, pieces) for pieces in ([12], [1, 5, 4, 1, 1]))
    kv = spec_of(text)
    for place, (side, signed) in enumerate(zip(kv.sides, (x, -x), strict=True)):
        one, other = (cache.layers[0].sides[place].read() for cache in (whole, parts))
        assert torch.equal(one, other)
        assert torch.equal(one, signed if side is None else fake_quantize(signed, side))
    assert (
        whole.held_bytes
        == parts.held_bytes
        == 2 * sum(cache_size(side, 3, 12, 32, float_bits=32).bytes for side in kv.sides)
    )


def test_float_in_the_cache_changes_no_logit(tiny_lm: LoadedModel) -> None:
    plain = tiny_lm.model(TOKENS, use_cache=False).logits
    for cache in (coded_cache(tiny_lm.model.config, None), DynamicCache(config=tiny_lm.model.config)):
        assert torch.equal(tiny_lm.model(TOKENS, cache=cache, use_cache=True).logits, plain)


@pytest.mark.parametrize("text", ["kv:int8/token", "k:int4/group8,v:int8/token", "kv:fp8_e4m3/head", "kv:int8/tensor"])
def test_reading_at_once_is_prefill_and_decoding(tiny_lm: LoadedModel, text: str) -> None:
    copy, _ = quantize_model(tiny_lm.model, text, TOKENS)
    copy = deepcopy(copy).double()  # it shares the tiny model's tensors
    with torch.inference_mode():
        whole = copy(TOKENS).logits
        cache, said = None, []
        for piece in TOKENS.split([20, 11, *[1] * 17], 1):
            out = copy(piece, cache=cache, use_cache=True)
            cache = out.cache
            said.append(out.logits)
    own = DynamicCache()  # whoever keeps a cache of his own finds codes in it
    with torch.inference_mode():
        mine = [copy(piece, cache=own, use_cache=True).logits for piece in TOKENS.split([40, 8], 1)]
    assert torch.allclose(torch.cat(mine, 1), whole, atol=1e-9)
    assert isinstance(cache, CodedCache)
    assert torch.allclose(torch.cat(said, 1), whole, atol=1e-9)
    assert not torch.allclose(whole, tiny_lm.model(TOKENS).logits.double(), atol=1e-5)


def test_a_finer_cache_is_nearer(tiny_lm: LoadedModel) -> None:
    copies = {
        text: quantize_model(tiny_lm.model, text)[0] for text in ("kv:int8/token", "kv:int4/token", "kv:int2/token")
    }
    found = compare(tiny_lm.model, copies, TOKENS)
    kl = [report.kl for report in found.reports.values()]
    assert 0 < kl[0] < kl[1] < kl[2]
    assert perplexity(copies["kv:int8/token"], TOKENS) == pytest.approx(found.reports["kv:int8/token"].perplexity)
    assert perplexity(tiny_lm.model, TOKENS) == pytest.approx(found.reports["kv:int8/token"].float_perplexity)


@pytest.mark.parametrize("text", ["kv:int4/token", "W4A16,k:fp8_e4m3/head,v:int4/group16", "W8A8,kv:int8/tensor/p99"])
def test_block_by_block_finds_what_the_whole_model_finds(tiny_lm: LoadedModel, text: str) -> None:
    text = text.replace("W4A16", "w:int4/group32")
    copy, _ = quantize_model(tiny_lm.model, text, calibration=TOKENS)
    whole = compare(tiny_lm.model, copy, TOKENS)
    walked = compare_plans(held(tiny_lm), {"it": Plan.parse(text)}, TOKENS, TOKENS).comparison.reports["it"]
    assert walked.kl == pytest.approx(whole.kl, rel=1e-3)
    assert walked.bytes == whole.bytes


def test_static_scales_by_hand(tiny_lm: LoadedModel) -> None:
    """Those of the largest |value| that the float model hands to its cache: over 127.5, and 448 for e4m3."""
    seen = cache_tensors(held(tiny_lm), TOKENS)
    cache = DynamicCache(config=tiny_lm.model.config)
    tiny_lm.model(TOKENS, cache=cache, use_cache=True)
    scales = calibrate_cache(held(tiny_lm), spec_of("k:int8/tensor,v:fp8_e4m3/head"), TOKENS)
    for place, layer in enumerate(cache.layers):
        keys, values = seen[place]
        assert torch.allclose(keys, layer.keys, atol=1e-5)
        assert torch.allclose(values, layer.values, atol=1e-5)
        k, v = scales[place]
        assert k is not None
        assert v is not None
        assert k.scale.item() == pytest.approx(float(keys.abs().max()) / 127.5)
        assert v.scale.flatten().tolist() == pytest.approx((values.abs().amax((0, 2, 3)) / 448).tolist())


def test_a_local_scale_under_a_frozen_global_one(tiny_lm: LoadedModel) -> None:
    kv = spec_of("kv:fp4_e2m1/group16/e4m3")
    scales = calibrate_cache(held(tiny_lm), kv, TOKENS)
    cache = coded_cache(tiny_lm.model.config, kv, scales)
    tiny_lm.model(TOKENS, cache=cache, use_cache=True)
    keys = cache_tensors(held(tiny_lm), TOKENS, (0,))[0][0]
    assert kv.keys is not None
    assert torch.allclose(cache.layers[0].sides[0].read(), fake_quantize(keys, kv.keys, scales[0][0]), atol=1e-6)


def test_a_sliding_window_keeps_its_window() -> None:
    torch.manual_seed(0)
    config = MistralConfig(
        vocab_size=300, hidden_size=32, intermediate_size=64, num_hidden_layers=2, num_attention_heads=2,
        num_key_value_heads=1, sliding_window=8,
    )  # fmt: skip
    model = MistralForCausalLM(config).double().eval()
    plain = model(TOKENS, use_cache=False).logits
    cache = coded_cache(config, None)
    said = [model(piece, cache=cache, use_cache=True).logits for piece in TOKENS.split([5, 20, 1, 22], 1)]
    assert torch.allclose(torch.cat(said, 1), plain, atol=1e-9)
    coded = coded_cache(config, spec_of("kv:int8/token"))
    model(TOKENS, cache=coded, use_cache=True)
    assert coded.layers[0].sides[0].codes().q.shape == (2, 1, 7, 16)
    assert coded.get_seq_length() == 48


def test_generate_goes_through_the_codes(tiny_lm: LoadedModel) -> None:
    copy, _ = quantize_model(tiny_lm.model, "kv:int4/group8")
    asked = {"max_new_tokens": 6, "do_sample": False, "pad_token_id": 0}
    out = copy.generate(TOKENS[:1], attention_mask=torch.ones_like(TOKENS[:1]), **asked)  # type: ignore[operator]
    written = TOKENS[:1]
    with torch.inference_mode():
        for _ in range(6):
            written = torch.cat([written, copy(written).logits[:, -1:].argmax(-1)], 1)
    assert out.tolist() == written[:, : out.shape[1]].tolist()


def test_what_is_refused(tiny_lm: LoadedModel) -> None:
    with pytest.raises(ValueError, match="does not divide head_dim=16 of the cache; write token"):
        quantize_model(tiny_lm.model, "kv:int4/group64")
    with pytest.raises(ValueError, match="freezes ranges of the cache, so it needs calibration tokens"):
        quantize_model(tiny_lm.model, "kv:int8/tensor")
    with pytest.raises(ValueError, match="none was recorded"):
        coded_cache(tiny_lm.model.config, spec_of("kv:int8/tensor"))
    copy, _ = quantize_model(tiny_lm.model, "kv:int8/token")
    other = DynamicCache(config=tiny_lm.model.config)
    tiny_lm.model(TOKENS, cache=other, use_cache=True)
    with pytest.raises(ValueError, match="no DynamicCache of floats; give none, or an empty one"):
        copy(TOKENS, cache=other)
    with pytest.raises(ValueError, match="no StaticCache of floats"):
        copy(TOKENS, cache=StaticCache(config=tiny_lm.model.config, max_cache_len=64))
    cache = coded_cache(tiny_lm.model.config, spec_of("kv:int8/token"))
    with pytest.raises(ValueError, match="takes no tokens back"):
        cache.crop(-1)
    assert math.isfinite(perplexity(with_cache(copy, spec_of("kv:int8/token"), None), TOKENS))


def test_models_that_keep_something_else_are_refused() -> None:
    from transformers import DeepseekV3Config, MambaConfig, Qwen3NextConfig

    for config, said in (
        (DeepseekV3Config(), "keeps one latent of 512 numbers a token"),
        (MambaConfig(), "keep a state or more than keys and values|has no cache of layers"),
        (Qwen3NextConfig(), "of its 48 layers keep a state or more than keys and values"),
    ):
        with pytest.raises(ValueError, match=said) as refused:
            require_cache(config, spec_of("kv:int8/token"))
        assert len(str(refused.value)) < 400


def test_who_cannot_honour_it_refuses(tiny_lm: LoadedModel, tmp_path: Path) -> None:
    lab, layer = Lab(tiny_lm), "model.layers.0.mlp.down_proj"
    plan = "w:int8/channel,kv:int8/token"
    for ask in (
        lambda: lab.layer_study(layer, plan),
        lambda: lab.granularity(layer, plan),
        lambda: lab.sensitivity([plan]),
        lambda: recipe(plan),
        lambda: export_checkpoint(tiny_lm, plan, tmp_path / "out"),
    ):
        with pytest.raises(ValueError, match="kv:int8/token/dynamic.*leave it out"):
            ask()
    assert not (tmp_path / "out").exists()


def test_a_duel_and_an_evaluation_of_caches(tiny_lm: LoadedModel, tmp_path: Path) -> None:
    lab = Lab(tiny_lm, store=Store(tmp_path))
    found = lab.duel(
        ["kv:int8/token", "kv:int2/token", "kv:int4/group64", "kv:fp8_e4m3/tensor"],
        READ,
        LEARNED,
    )
    assert "does not divide head_dim=16" in found.refused["kv:int4/group64"]
    kl = {text: report.kl for text, report in found.reports.items()}
    assert 0 < kl["kv:int8/token/dynamic"] < kl["kv:int2/token/dynamic"]
    again = lab.kept_duel(["kv:int8/token"], READ, LEARNED)
    assert again is not None
    assert again.reports["kv:int8/token/dynamic"].kl == kl["kv:int8/token/dynamic"]
    walked = lab.evaluate("kv:fp8_e4m3/tensor", READ, LEARNED).report
    assert walked.kl == pytest.approx(kl["kv:fp8_e4m3/tensor/static"], rel=1e-3)


def test_a_model_in_its_files_reads_the_same(tiny_lm: LoadedModel, tiny_model_dir: Path) -> None:
    plans = {"it": Plan.parse("k:fp8_e4m3/head,v:int4/group8")}
    streamed, whole = (
        compare_plans(source, plans, TOKENS, TOKENS).comparison.reports["it"].kl
        for source in (StreamedModel(str(tiny_model_dir), "cpu"), tiny_lm)
    )
    assert streamed == pytest.approx(whole, rel=1e-4)


def test_a_block_may_be_run_before_the_walk_goes_on(tiny_lm: LoadedModel) -> None:
    """Each run has an empty cache: tokens are never coded twice."""
    made: list[CodedCache] = []

    def empty() -> CodedCache:
        made.append(coded_cache(tiny_lm.model.config, spec_of("kv:int4/token")))
        return made[-1]

    model = held(tiny_lm)
    walk = BlockWalk(model, TOKENS, cache=empty)
    for _, block in model.in_turn():
        walk.run(block)
        walk.advance(block)
    assert {layer.get_seq_length() for cache in made for layer in cache.layers} == {0, TOKENS.shape[1]}


def test_blocks_that_get_their_cache_by_place() -> None:
    config = GPT2Config(vocab_size=300, n_embd=32, n_layer=2, n_head=2, n_positions=64, bos_token_id=0, eos_token_id=0)
    model = GPT2LMHeadModel(config).eval()
    copy, _ = quantize_model(model, "kv:int2/head", TOKENS)
    walked = compare_plans(model, {"it": Plan.parse("kv:int2/head")}, TOKENS, TOKENS).comparison.reports["it"]
    assert walked.kl > 0
    assert walked.kl == pytest.approx(compare(model, copy, TOKENS).kl, rel=1e-3)


def test_a_loud_channel_of_keys_is_spread_before_it_is_coded() -> None:
    """(8, 1, 1, 1) H / 2 = (5.5, 3.5, 3.5, 3.5): steps of 5.5 / 7, codes (7, 4, 4, 4). As it comes, steps of 8 / 7 and
    codes (7, 1, 1, 1). Values stay as they come."""
    x = torch.tensor([8.0, 1.0, 1.0, 1.0]).view(1, 1, 1, 4)
    turned, plain = (filled(spec_of(f"k:int4_narrow/token{more}"), x, [1]) for more in ("/r3", ""))
    assert plain.layers[0].sides[0].read().flatten().tolist() == pytest.approx([8, 8 / 7, 8 / 7, 8 / 7])
    keys = turned.layers[0].sides[0]
    assert dequantize(keys.codes()).flatten().tolist() == pytest.approx([5.5, 5.5 / 7 * 4, 5.5 / 7 * 4, 5.5 / 7 * 4])
    assert torch.allclose(keys.read(), turned_head(dequantize(keys.codes())))
    assert turned.layers[0].sides[1].read().flatten().tolist() == [-8, -1, -1, -1]


def test_turned_keys_lose_less_of_the_model(tiny_lm: LoadedModel) -> None:
    """With frozen scales too, which are of turned keys; what is read in pieces is what is read at once."""
    copies = {
        text: quantize_model(tiny_lm.model, text, calibration=TOKENS)[0]
        for text in ("k:int3/tensor/static", "k:int3/tensor/static/r3")
    }
    plain, turned = (one.kl for one in compare(tiny_lm.model, copies, TOKENS).reports.values())
    assert turned < plain
    x = torch.randn(1, 2, 6, 16)
    kv = spec_of("kv:int4/token/r3")
    once, pieces = (filled(kv, x, split).layers[0].sides[0].read() for split in ([6], [1, 2, 3]))
    assert torch.equal(once, pieces)
    with pytest.raises(ValueError, match="no reader turns keys before it codes them"):
        recipe("W8A16,kv:fp8_e4m3/tensor/static/r3")
