"""What a KV cache holds, as text: every text comes back, what a growing cache cannot have is refused."""

import pytest

from quantcore.numbers.bits import cache_size
from quantcore.numbers.granularity import PerGroup, PerHead, PerTensor, PerToken
from quantcore.scheme.cache import CacheSpec
from quantcore.scheme.plan import Plan
from quantcore.scheme.scheme import Scheme


@pytest.mark.parametrize(
    "text",
    [
        "kv:fp8_e4m3/tensor/static",
        "kv:fp8_e4m3/head/static/p99.9",
        "kv:int8/token/dynamic",
        "kv:int4/group64/asym/dynamic",
        "kv:fp4_e2m1/group16/e4m3/local",
        "kv:fp4_e2m1/group32/e8m0/dynamic",
        "k:int8/token/dynamic,v:int4/group32/dynamic",
        "v:int4/group32/dynamic",
        "w:int4/group128,a:int8/token/dynamic,kv:int8/token/dynamic,smooth=0.5,gptq,skip=down_proj",
    ],
)
def test_texts_come_back(text: str) -> None:
    scheme = Scheme.parse(text)
    assert str(scheme) == text
    assert Scheme.parse(str(scheme)) == scheme


def test_what_the_granularity_says_may_be_left_out() -> None:
    for short, whole in {
        "kv:fp8_e4m3/tensor": "kv:fp8_e4m3/tensor/static",
        "kv:int8/head/mse": "kv:int8/head/static/mse",
        "k:int8/token,v:int4/group64": "k:int8/token/dynamic,v:int4/group64/dynamic",
        "v:int8/token,k:int8/token": "kv:int8/token/dynamic",
        "float,kv:fp4_e2m1/group16/e4m3": "kv:fp4_e2m1/group16/e4m3/local",
    }.items():
        assert str(Scheme.parse(short)) == whole


def test_keys_and_values_and_what_they_need() -> None:
    found = Scheme.parse("W4A16,k:fp8_e4m3/head,v:int4/group64").kv
    assert found is not None
    assert found.keys is not None
    assert found.values is not None
    assert (found.keys.granularity, found.values.granularity) == (PerHead(), PerGroup(64))
    assert found.needs_ranges
    assert not Scheme.parse("kv:int8/token").needs_text
    assert Scheme.parse("kv:fp4_e2m1/group16/e4m3").needs_text  # its global scale
    assert Scheme.parse("W4A16,kv:int8/token").label == "W4A16,kv:int8/token/dynamic"
    assert {PerTensor(), PerToken()} == {
        spec.granularity
        for spec in Scheme.parse("k:int8/tensor,v:int8/token").kv.sides  # type: ignore[union-attr]
    }


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("kv:int8/channel/dynamic", "per channel: its scale would span tokens that have not come yet"),
        ("kv:int8/tensor/dynamic", "it grows, and its range is not known before its end; try tensor/static"),
        ("kv:int8/token/static", "cannot be static: tomorrow's tokens have no recorded scale; try token/dynamic"),
        ("kv:int8/token,k:int4/token", "kv: speaks of keys and values, and k: says one of them again"),
        ("k:int8/token,k:int4/token", "says 'k' twice"),
        ("kv:int8/token/jitter3", "jitter moves the scales of weights|not stored"),
        ("kv:fp4_e2m1/group32/e8m0/dynamic/search", "search takes too long|search is for weights"),
        ("kv:fp4_e2m1/group16/e4m3/static", "has its global scale frozen and the others taken at run time"),
        ("kv:int8", "lacks its granularity"),
        ("w:int8/head", "weights have no heads of a cache"),
        ("a:int8/head/dynamic", "what enters a Linear has no heads"),
        ("smooth=0.5,kv:int8/token", "nothing is quantized; add w:int8/channel"),
        ("kv:int8/tensor,experts=all", "says what experts see"),
        ("v:int8/token/r3", "cannot read 'r3'"),
    ],
)
def test_refusals(text: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Scheme.parse(text)
    with pytest.raises(ValueError, match="needs no word"):
        CacheSpec()


def test_a_plan_has_one_cache_and_its_layers_none() -> None:
    plan = Plan.parse("W4A16,kv:int8/token@down_proj=W8A8")
    assert str(plan.kv) == "kv:int8/token/dynamic"
    assert Plan.parse(str(plan)) == plan
    assert all(one.kv is None for one in plan.schemes_of(["a.q_proj", "a.down_proj"]).values())
    with pytest.raises(ValueError, match="the cache is the whole model's; write it once, before the first @"):
        Plan.parse("W4A16@down_proj=W8A8,kv:int8/token")
    alone = Plan.parse("kv:int8/token")
    assert alone.is_float
    assert alone.schemes_of(["a.q_proj"]) == {}


def test_bytes_of_a_cache_by_hand() -> None:
    """2 heads, 10 tokens, 64 numbers a row: 1280 numbers."""

    def bytes_of(text: str) -> int:
        kv = Scheme.parse(text).kv
        assert kv is not None
        return cache_size(kv.keys, 2, 10, 64).bytes

    assert cache_size(None, 2, 10, 64).bytes == 2560
    assert bytes_of("kv:int8/token") == 1280 + 20 * 4
    assert bytes_of("kv:int4/group32") == 640 + 40 * 4
    assert bytes_of("kv:int4/group32/asym") == 640 + 40 * 4 + 40
    assert bytes_of("kv:int3/token") == 640 + 20 * 4  # two codes a byte, as four bits
    assert bytes_of("kv:fp8_e4m3/tensor") == 1280 + 4
    assert bytes_of("kv:fp8_e4m3/head") == 1280 + 2 * 4
    assert bytes_of("kv:fp4_e2m1/group32/e8m0") == 640 + 40
    assert bytes_of("kv:fp4_e2m1/group16/e4m3") == 640 + 80 + 4


@pytest.mark.parametrize(
    "text", ["kv:int4/token/dynamic/r3", "k:int4/group16/dynamic/r3,v:int8/token/dynamic", "k:int8/tensor/static/r3"]
)
def test_turned_keys_are_part_of_the_text(text: str) -> None:
    kv = Scheme.parse(f"W4A16,{text}").kv
    assert kv is not None
    assert kv.turned
    assert str(kv) == text
    assert Scheme.parse(f"W4A16,{str(kv).replace('/r3', '')}").kv != kv
    with pytest.raises(ValueError, match="turns keys before they are coded, and these stay float"):
        CacheSpec(None, kv.keys, True)
