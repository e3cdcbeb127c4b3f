"""What compressed-tensors and llm-compressor say of a KV cache: kv_cache_scheme, one for keys and values.

    kv:fp8_e4m3/tensor/static      {num_bits: 8, type: float, strategy: tensor, dynamic: false, symmetric: true}
    kv:int8/head/static            {num_bits: 8, type: int, strategy: attn_head, ...}

The library's classes would bear more; here stands what means the same there, and what a reader of checkpoints takes:
vLLM wants one frozen scale a layer or a head, and no zero points (its compressed-tensors loader, November 2026).

R3 (/r3) would be a transform of keys (k_cache) and of queries (q_attn) in transform_config, and is refused: vLLM asks
for the transforms of Linears alone, and codes keys unturned by the scales of turned ones; compressed-tensors 0.20 hands
its cache to attention as past_key_value, which transformers 5.24 does not read, so that queries alone are turned.
"""

from __future__ import annotations

from quantcore.export import words
from quantcore.export.words import Entry, arguments, observed
from quantcore.numbers.granularity import PerHead, PerTensor, PerToken
from quantcore.numbers.spec import QuantSpec
from quantcore.scheme.cache import CacheSpec

CODES = ("fp8_e4m3", "int8")
OUT = "write kv:fp8_e4m3/tensor/static, or leave it out"


def why_not(kv: CacheSpec | None) -> str | None:
    """Why compressed-tensors and vLLM, who alone reads it, have no words for a cache; None where they have."""
    if kv is None:
        return None
    if kv.turned:
        return (
            f"no reader turns keys before it codes them, as {kv} does: vLLM passes over transform_config's q_attn and "
            "k_cache, and under transformers 5.24 compressed-tensors turns queries alone; leave /r3 out"
        )
    spec = kv.keys
    if spec is None or kv.keys != kv.values:
        return f"kv_cache_scheme says one thing of keys and values, and here each has its own ({kv}); {OUT}"
    if isinstance(spec.granularity, PerToken) and spec.fmt.name in CODES and spec.symmetric:
        flag = f"{spec.fmt.name.partition('_')[0]}_per_token_head"
        return (
            f"kv_cache_scheme's token is one scale for all the tokens of a head, not {kv}; leave it out, and tell vLLM "
            f"--kv-cache-dtype {flag}, which needs nothing in a checkpoint"
        )
    if not isinstance(spec.granularity, PerTensor | PerHead):
        return f"vLLM reads one frozen scale a layer or a head of it, not {kv}; {OUT}"
    if spec.fmt.name not in CODES:
        return f"a stored cache has codes of {' or '.join(CODES)}, not {kv}; {OUT}"
    if not spec.symmetric:
        return f"vLLM reads no zero points of a cache, and {kv} has them; leave asym out, or leave kv: out"
    return None


def require_words(kv: CacheSpec | None) -> None:
    """Raises: ValueError for a cache that they have no words for."""
    if (reason := why_not(kv)) is not None:
        raise ValueError(f"neither checkpoint nor recipe says this cache: {reason}")


def scheme_entry(kv: CacheSpec) -> Entry:
    """kv_cache_scheme's fields. Raises: as `require_words`."""
    return arguments(spec_of(kv))


def recipe_entry(kv: CacheSpec) -> Entry:
    """kv_cache_scheme in a recipe, with the observer of its range. Raises: as `require_words`."""
    return observed(spec_of(kv), False)


def cache_of(entry: Entry) -> CacheSpec:
    """The cache that a recipe's kv_cache_scheme says. Raises: ValueError for what this lab has not."""
    if entry.get("strategy") == "token":
        raise ValueError(
            "the recipe's kv_cache_scheme has the strategy token, there one scale for all the tokens of a head, which "
            "this lab has not; use tensor or attn_head, dynamic: false"
        )
    spec = words.spec_of(entry, False)
    try:
        return CacheSpec(spec, spec)
    except ValueError as error:
        raise ValueError(f"the recipe's kv_cache_scheme: {error}") from error


def spec_of(kv: CacheSpec) -> QuantSpec:
    """What it says of keys and of values. Raises: as `require_words`."""
    require_words(kv)
    assert kv.keys is not None
    return kv.keys
