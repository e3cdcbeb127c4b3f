"""Our schemes in the words of compressed-tensors, and a layer's codes in its layouts: what a checkpoint holds.

    format             weights of a Linear on disk                                 chosen for
    pack-quantized     weight_packed: int32 words, 32 codes of b bits in b words   integer weights alone
    int-quantized      weight: int8, one code each                                 integer weights with activations
    float-quantized    weight: fp8 e4m3                                            fp8 weights with activations
    naive-quantized    weight: fp8 e4m3                                            fp8 weights alone
    mxfp4-, nvfp4-     weight_packed: bytes of two codes, the first in the low     fp4 with coded scales
    pack-quantized     bits; weight_scale: e8m0 or e4m3 bytes
    mxfp6-             weight_packed: three bytes of four codes                    fp6 with e8m0 scales
    pack-quantized
    mxfp8-quantized    weight: fp8 e4m3; weight_scale: e8m0 bytes                  fp8 with e8m0 scales
    mixed-precision    each group of layers its own of these                       a plan that needs several

Beside them: weight_scale ((1,) per tensor, (O, 1), (O, K/g) or blocks), weight_zero_point where asymmetric (packed
along the rows in pack-quantized), input_scale and input_zero_point where activations are static; under nvfp4
weight_global_scale, and input_global_scale where the inputs are fp4 too. The library's own classes say which format a
scheme takes, and its packing makes the words. Codes are stored as they are; scales are rounded to the checkpoint's
float type, since that is what every reader computes with; coded ones are stored exactly.

A reader computes what `as_stored` computes, to the last bit in float32. Named exceptions: packed zero points are
dequantized in the checkpoint's float type, one more rounding a weight, and fp4 and fp6 in bfloat16, which changes
nvfp4's alone; asymmetric activations are round(x/s + z), not round(x/s) + z (see `affine`); inputs of two dimensions
(OPT's fc1, fc2) get one dynamic scale instead of one a token.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from importlib import metadata
from typing import Any

import torch
from compressed_tensors.compressors.format import infer_module_format
from compressed_tensors.compressors.mxfp6.helpers import pack_fp6_to_uint8
from compressed_tensors.compressors.pack_quantized import pack_to_int32
from compressed_tensors.quantization import (
    QuantizationArgs,
    QuantizationConfig,
    QuantizationScheme,
    QuantizationStatus,
)
from torch import Tensor, nn

from quantcore.export.cache_words import require_words, scheme_entry
from quantcore.export.words import LAYOUTS, PACKED, UNPACKED, arguments, options_of, strategy, whole, why_no_words
from quantcore.matmul.layers import QuantLinear
from quantcore.numbers.bits import Layout, in_bytes, in_words
from quantcore.numbers.granularity import PerTensor
from quantcore.numbers.packing import pack
from quantcore.numbers.qtensor import QTensor
from quantcore.numbers.scales import local_codes
from quantcore.numbers.spec import MinMax, QuantSpec
from quantcore.scheme.cache import CacheSpec
from quantcore.scheme.scheme import Scheme

PACK_CHUNK = 2**18  # codes that a CPU packs at once
GPU_PACK_CHUNK = 2**24
MIXED = "mixed-precision"


def why_not(scheme: Scheme) -> str | None:
    """Why compressed-tensors cannot hold a scheme, in a sentence; None where it can."""
    if scheme.weights is None:
        return f"{scheme} leaves the weights float, and this format is about weights; add w:int8/channel"
    for spec in filter(None, (scheme.weights, scheme.activations)):
        if (lacking := why_no_words(spec)) is not None:
            return f"it has {lacking}"
    if scheme.method.keeps_g_idx:
        return (
            "actorder=group needs each column's group at run time, which compressed-tensors 0.20 no longer stores; "
            "use actorder=weight"
        )
    inputs = scheme.activations
    if inputs is not None and inputs.fmt.name.endswith("_narrow"):
        wide = whole(inputs.fmt)
        return f"readers quantize activations on all codes of {wide}, not on {inputs.fmt.name}; use a:{wide}/..."
    if inputs is not None and inputs.dynamic and inputs.observer != MinMax():
        return f"readers take a dynamic range as min and max, not by {inputs.observer}; leave {inputs.observer} out"
    return None


def require_exportable(schemes: Sequence[Scheme], kv: CacheSpec | None = None) -> None:
    """Raises: ValueError for the first scheme, or a cache, that the format cannot hold, and for no scheme at all."""
    require_words(kv)
    if not schemes and kv is not None:
        raise ValueError(
            f"no layer would be quantized, and {kv} alone makes no checkpoint here; give a scheme such as W8A16,{kv}"
        )
    if not schemes:
        raise ValueError("nothing would be quantized, so the model is its own checkpoint; give a scheme such as W4A16")
    for scheme in schemes:
        if (reason := why_not(scheme)) is not None:
            raise ValueError(f"a compressed-tensors checkpoint cannot hold this: {reason}")


def group(scheme: Scheme, targets: Sequence[str], alone: bool = True, packed: bool = True) -> Any:
    """The scheme as the library's QuantizationScheme over `targets`, in the format that the library gives it; without
    `packed` weights alone are stored one code a byte.

    Zero points that are packed load in transformers 5.24 only by dequantizing at once, and that only where one scheme
    is `alone` in the model; beside others such weights are int-quantized."""
    assert scheme.weights is not None
    order, inputs = options_of(scheme.method).get("actorder"), scheme.activations
    made = QuantizationScheme(
        targets=list(targets),
        weights=QuantizationArgs(**arguments(scheme.weights), actorder=order),
        input_activations=None if inputs is None else QuantizationArgs(**arguments(inputs)),
    )
    made.format = infer_module_format(nn.Linear, made).value
    if made.format == PACKED and not (packed and (alone or not packs_zero_points(scheme.weights))):
        made.format = UNPACKED
    return made


def formats(schemes: Mapping[str, Scheme], packed: bool = True) -> dict[str, str]:
    """The format of each layer's codes in a checkpoint of these schemes, by name."""
    different = set(schemes.values())
    found = {scheme: str(group(scheme, ["Linear"], len(different) == 1, packed).format) for scheme in different}
    return {name: found[scheme] for name, scheme in schemes.items()}


def layout(scheme: Scheme, form: str) -> Layout:
    """How a format keeps the codes of a scheme, to be counted."""
    assert scheme.weights is not None
    return LAYOUTS[form] if packs_zero_points(scheme.weights) else replace(LAYOUTS[form], zero_points=in_bytes)


def packs_zero_points(spec: QuantSpec) -> bool:
    """Whether pack-quantized stores the spec's zero points as packed words."""
    return not spec.symmetric and strategy(spec) in ("group", "channel")


def configuration(
    schemes: Mapping[str, Scheme],
    floats: Sequence[str],
    targets_of: Callable[[Sequence[str]], list[str]] = list,
    packed: bool = True,
    kv: CacheSpec | None = None,
) -> Any:
    """The library's QuantizationConfig for layers by name: the most used scheme is for every Linear, the others name
    their layers, `floats` (modules that stay as they are) are ignored. `targets_of` writes names as targets; where
    there are several schemes, patterns among those of the most used one stand beside its "Linear", since transformers
    finds the scheme of experts by them. `kv`: what a cache holds (`cached`).

    Raises: ValueError for a scheme that the format cannot hold."""
    layers: dict[Scheme, list[str]] = {}
    for name, scheme in schemes.items():
        layers.setdefault(scheme, []).append(name)
    require_exportable(list(layers))
    most = max(layers, key=lambda scheme: len(layers[scheme]))
    targets = {scheme: targets_of(layers[scheme]) for scheme in layers}
    named = [one for one in targets[most] if one.startswith("re:") and len(layers) > 1]
    del targets[most]
    targets[most] = ["Linear", *named]
    groups = [group(scheme, names, len(layers) == 1, packed) for scheme, names in targets.items()]
    formats = {one.format for one in groups}
    return QuantizationConfig(
        config_groups={f"group_{place}": one for place, one in enumerate(groups)},
        quantization_status=QuantizationStatus.COMPRESSED,
        format=MIXED if len(formats) > 1 else formats.pop(),
        ignore=targets_of(floats),
        kv_cache_scheme=None if kv is None else QuantizationArgs(**scheme_entry(kv)),
    )


def config_entry(config: Any, dequantize: bool = False) -> dict[str, Any]:
    """What config.json says under quantization_config. dequantize: that transformers makes floats of the codes when it
    loads them, which vLLM does not read; packed zero points need it in any case."""
    entry: dict[str, Any] = config.model_dump(mode="json")
    entry["version"] = metadata.version("compressed-tensors")
    if dequantize or (
        config.format == PACKED and not all(one.weights.symmetric for one in config.config_groups.values())
    ):
        entry["dequantize"] = True
    return entry


def layer_tensors(layer: QuantLinear, layout: str, dtype: torch.dtype) -> dict[str, Tensor]:
    """A quantized layer's tensors under the names that readers look for; scales and bias in `dtype`.

    Raises: ValueError for a scale that `dtype` cannot hold."""
    qweight = layer.qweight
    assert qweight is not None
    packed = layout == PACKED
    found = _codes(qweight, layout)
    found["weight_scale"] = _shaped(_stored_scale(qweight, dtype), qweight.spec)
    if qweight.global_scale is not None:
        found["weight_global_scale"] = qweight.global_scale.clone()  # layers of one input share it
    if qweight.zero_point is not None:
        zero_point = _shaped(qweight.zero_point.to(torch.int8), qweight.spec)
        if packed and packs_zero_points(qweight.spec):
            zero_point = pack_to_int32(zero_point, qweight.spec.fmt.bits, packed_dim=0)
        found["weight_zero_point"] = zero_point
    if (static := layer.static_qparams) is not None and static.global_scale is not None:
        found["input_global_scale"] = static.global_scale.clone()
    elif static is not None:
        found["input_scale"] = rounded_scale(static.scale, dtype).flatten()
        if static.zero_point is not None:
            found["input_zero_point"] = static.zero_point.to(torch.int8).flatten()
    if isinstance(layer.bias, Tensor):
        found["bias"] = layer.bias.to(dtype)
    return found


def layer_shapes(
    layer: Any, scheme: Scheme, layout: str, dtype: torch.dtype
) -> Iterator[tuple[str, tuple[tuple[int, ...], torch.dtype]]]:
    """Names, shapes and types of what `layer_tensors` will give for a Linear under a scheme."""
    spec, inputs, (rows, columns) = scheme.weights, scheme.activations, (layer.out_features, layer.in_features)
    assert spec is not None
    tile = spec.granularity.tile((rows, columns))
    tiles = (rows // tile[0], columns // tile[1])
    scales = (1,) if isinstance(spec.granularity, PerTensor) else tiles
    if layout == PACKED:
        yield "weight_packed", ((rows, in_words(spec.fmt.bits, columns) // 32), torch.int32)
        yield "weight_shape", ((2,), torch.int64)
    elif layout.endswith(PACKED):
        yield "weight_packed", ((rows, spec.fmt.bits * columns // 8), torch.uint8)
    else:
        yield "weight", ((rows, columns), torch.float8_e4m3fn if spec.fmt.is_float else torch.int8)
    kinds = {"e8m0": torch.uint8, "e4m3": torch.float8_e4m3fn}
    yield "weight_scale", (scales, kinds.get(spec.scales.name, dtype))
    if spec.scales.has_global:
        yield "weight_global_scale", ((1,), torch.float32)
    if not spec.symmetric:
        words = layout == PACKED and packs_zero_points(spec)
        packed = (in_words(spec.fmt.bits, tiles[0]) // 32, tiles[1])
        yield "weight_zero_point", (packed if words else scales, torch.int32 if words else torch.int8)
    if inputs is not None and inputs.local:
        yield "input_global_scale", ((1,), torch.float32)
    elif inputs is not None and inputs.static:
        yield "input_scale", ((1,), dtype)
        if not inputs.symmetric:
            yield "input_zero_point", ((1,), torch.int8)
    if layer.bias is not None:
        yield "bias", ((rows,), dtype)


def as_stored(layer: QuantLinear, dtype: torch.dtype) -> QuantLinear:
    """The layer that a reader of the checkpoint computes with: the same codes, scales rounded to `dtype`."""
    qweight, static = layer.qweight, layer.static_qparams
    assert qweight is not None
    scale = qweight.scale if qweight.spec.scales.is_coded else rounded_scale(qweight.scale, dtype).float()
    if static is not None and static.global_scale is None:
        static = static._replace(scale=rounded_scale(static.scale, dtype).float())
    bias = layer.bias if isinstance(layer.bias, Tensor) else None
    stored = replace(qweight, scale=scale)
    return QuantLinear(stored, bias, layer.activation_spec, static)


def rounded_scale(scale: Tensor, dtype: torch.dtype) -> Tensor:
    """Scales in `dtype`. Raises: ValueError for one that becomes 0 or infinite there."""
    stored = scale.to(dtype)
    if not bool((torch.isfinite(stored) & (stored > 0)).all()):
        raise ValueError(
            f"scales from {float(scale.min()):.3g} to {float(scale.max()):.3g} do not fit into {dtype}; "
            "write --dtype bfloat16, or float32"
        )
    return stored


def _stored_scale(qweight: QTensor, dtype: torch.dtype) -> Tensor:
    if qweight.spec.scales.is_coded:
        return local_codes(qweight.scale, qweight.global_scale)
    return rounded_scale(qweight.scale, dtype)


def _codes(qweight: QTensor, layout: str) -> dict[str, Tensor]:
    """The codes as the format keeps them: words, bytes of several, or one a byte."""
    if layout == PACKED:
        return _packed(qweight)
    if not layout.endswith(PACKED):
        return {"weight": qweight.q}
    if qweight.spec.fmt.bits == 4:
        return {"weight_packed": pack(qweight.q, 4)}
    rows = torch.split(qweight.q, max(1, PACK_CHUNK // qweight.q.shape[1]))
    return {"weight_packed": torch.cat([pack_fp6_to_uint8(qweight.spec.fmt.decode(part)) for part in rows])}


def _packed(qweight: QTensor) -> dict[str, Tensor]:
    """A few rows at a time: packing takes many times the room of the codes, and each row has words of its own."""
    chunk = GPU_PACK_CHUNK if qweight.q.is_cuda else PACK_CHUNK
    rows = torch.split(qweight.q, max(1, chunk // qweight.q.shape[1]))
    return {
        "weight_packed": torch.cat([pack_to_int32(part, qweight.spec.fmt.bits) for part in rows]),
        "weight_shape": torch.tensor(qweight.q.shape, dtype=torch.int64),
    }


def _shaped(values: Tensor, spec: QuantSpec) -> Tensor:
    return values.flatten() if isinstance(spec.granularity, PerTensor) else values
