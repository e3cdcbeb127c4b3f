"""How vLLM keeps a KV cache: its flag, where it runs, and what it would read wrongly.

As vLLM's documentation ("Quantized KV Cache", docs.vllm.ai, main) and its code and pull requests said in November 2026;
nothing here was run with vLLM. A checkpoint that says kv_cache_scheme is taken as fp8 also without the flag, and
whatever its codes are, since the loader lets every cache of 8 bits pass.
"""

from __future__ import annotations

from typing import NamedTuple

from quantcore.scheme.cache import CacheSpec
from quantcore.scheme.spec_text import when_of


class CacheRow(NamedTuple):
    """A cache of this text: vLLM's word for it, where it runs, and who says so."""

    cache: str
    flag: str
    gpus: str
    source: str


TRITON = "with the Triton attention backend alone; vLLM takes the scales itself"
PER_TOKEN = "vLLM pull request 38378, March 2026"
CACHES = (
    CacheRow(
        "fp8_e4m3/tensor/static",
        "fp8",
        "an fp8 cache with a scale a layer: NVIDIA from CUDA 11.8 on, AMD",
        "vLLM documentation, November 2026; pull request 6528, July 2024",
    ),
    CacheRow(
        "fp8_e4m3/head/static",
        "fp8",
        "an fp8 cache with a scale a head: with the Flash Attention backend alone",
        "vLLM documentation, November 2026; pull request 30141, December 2025",
    ),
    CacheRow("int8/token/dynamic", "int8_per_token_head", f"an int8 cache with a scale a token: {TRITON}", PER_TOKEN),
    CacheRow("fp8_e4m3/token/dynamic", "fp8_per_token_head", f"an fp8 cache with a scale a token: {TRITON}", PER_TOKEN),
)


def cache_row(kv: CacheSpec) -> CacheRow | None:
    """The row of a cache; None where vLLM has none for it."""
    spec = kv.keys
    if spec is None or spec != kv.values:
        return None
    said = f"{spec.fmt.name}/{spec.granularity}/{when_of(spec)}"
    plain = spec.symmetric and not spec.scales.is_coded
    return next((row for row in CACHES if plain and row.cache == said), None)


def cache_flag(kv: CacheSpec | None) -> str:
    """What the command says of a cache, with the blank before it; empty for one of floats."""
    row = None if kv is None else cache_row(kv)
    return "" if row is None else f" --kv-cache-dtype {row.flag}"


def cache_problems(kv: CacheSpec | None) -> list[str]:
    """Why vLLM would not keep it so."""
    if kv is None or cache_row(kv) is not None:
        return []
    if kv.keys is not None and kv.keys.fmt.name == "int8" and kv.keys.static:
        return [
            f"vLLM keeps a cache with frozen scales in fp8 alone, and would put fp8 codes under the scales of {kv}; "
            "write kv:fp8_e4m3/tensor/static for it"
        ]
    return [f"vLLM lists no cache such as {kv}; write kv:fp8_e4m3/tensor/static"]
