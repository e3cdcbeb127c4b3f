"""A KV cache in a checkpoint: what config.json says of it, and its frozen scales beside each attention's Linears.

    quantization_config.kv_cache_scheme        compressed-tensors' QuantizationArgs, one for keys and values
    model.layers.0.self_attn.k_scale, v_scale  (1,) per tensor, (heads, 1, 1) per head, in the checkpoint's float type

They lie where compressed-tensors 0.20 registers them, and vLLM reads them there. Codes are none of a checkpoint's: they
come as tokens come. transformers 5.24 reads no such scales: compressed-tensors looks for attention by an argument
past_key_values, which is called cache now, so that what it loads runs with a cache of floats.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn
from transformers.cache_utils import DummyLayer

from quantcore.export.cache_words import spec_of
from quantcore.export.checkpoint_format import rounded_scale
from quantcore.model.held import held
from quantcore.model.layer_names import block_of
from quantcore.numbers.granularity import PerHead, PerTensor
from quantcore.pipeline.cache import Scales, plain_layers
from quantcore.scheme.cache import CacheSpec

PROJECTIONS = ("k_proj", "v_proj", "qkv_proj", "kv_b_proj")  # by one of which the library knows an attention
ENDS = (".k_scale", ".v_scale")
UNREAD = "transformers reads no scales of a cache, so it runs this with one of floats; vLLM reads them"


def scale_shapes(model: nn.Module, kv: CacheSpec | None, dtype: torch.dtype) -> dict[str, Tensor]:
    """The scales that a checkpoint will hold, on the meta device.

    Raises: ValueError for a model whose attention readers do not find."""
    if kv is None:
        return {}
    spec, config = spec_of(kv), held(model).skeleton.config
    decoder = config.get_text_config(decoder=True)
    heads = int(getattr(decoder, "num_key_value_heads", None) or decoder.num_attention_heads)
    shape = (heads, 1, 1) if isinstance(spec.granularity, PerHead) else (1,)
    kept = [place for place, one in enumerate(plain_layers(config)) if not isinstance(one, DummyLayer)]
    names = _attentions(model, kept)
    return {f"{names[place]}{end}": torch.empty(shape, dtype=dtype, device="meta") for place in kept for end in ENDS}


def scale_tensors(model: nn.Module, kv: CacheSpec, scales: Scales, dtype: torch.dtype) -> dict[str, Tensor]:
    """The calibrated scales by the names under which they are stored, in `dtype`.

    Raises: ValueError for a scale that `dtype` does not hold."""
    spec, names = spec_of(kv), _attentions(model, list(scales))
    found = {}
    for place, sides in scales.items():
        for end, frozen in zip(ENDS, sides, strict=True):
            assert frozen is not None
            stored = rounded_scale(frozen.scale, dtype)
            found[f"{names[place]}{end}"] = stored.flatten() if isinstance(spec.granularity, PerTensor) else stored
    return found


def rounding(stored: Mapping[str, Tensor], scales: Scales) -> float:
    """The largest relative change of a scale by being stored."""
    exact = [one.scale.flatten() for sides in scales.values() for one in sides if one is not None]
    pairs = zip(stored.values(), exact, strict=True)
    return max((float((one.flatten().double() / it.double() - 1).abs().max()) for one, it in pairs), default=0.0)


def _attentions(model: nn.Module, places: list[int]) -> dict[int, str]:
    """The attention that fills each layer of the cache, by compressed-tensors' criterion: a class called ...Attention
    with a projection of one of the known names. Raises: ValueError where a layer has none."""
    whole = held(model)
    found: dict[int, str] = {}
    for name, module in whole.skeleton.named_modules():
        place: Any = getattr(module, "layer_idx", None)
        if not isinstance(place, int) or block_of(f"{name}.", whole.blocks) is None:
            continue
        if "attention" in type(module).__name__.lower() and any(hasattr(module, one) for one in PROJECTIONS):
            found.setdefault(place, name)
    if lacking := [place for place in places if place not in found]:
        raise ValueError(
            f"readers look for a cache's scales in a module called ...Attention with one of {', '.join(PROJECTIONS)}, "
            f"and {len(lacking)} layers of this {type(whole.skeleton).__name__} have none (the first is "
            f"{lacking[0]}); leave kv: out"
        )
    return found
