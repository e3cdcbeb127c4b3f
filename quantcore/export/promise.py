"""What a checkpoint of a plan takes, byte by byte, before it is written: nothing is quantized, only shapes are read.

    parts = promise(model, "W4A16", torch.bfloat16)
    parts.bytes, parts.size.bits_per_weight, parts.float_bytes

Codes are counted in the layout that compressed-tensors gives each scheme (`words.LAYOUTS`). What it cannot hold is
counted as if codes were packed without gaps, and `layouts` is empty.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import nn

from quantcore.export.cache_words import why_not as why_no_cache
from quantcore.matmul.size import model_size
from quantcore.model.linears import head_of, linear_shapes
from quantcore.numbers.bits import Size
from quantcore.pipeline.treated import skeleton_under
from quantcore.scheme.fitting import plan_for, require_fits
from quantcore.scheme.plan import Plan
from quantcore.scheme.scheme import Scheme, coded_under


@dataclass(frozen=True)
class Promise:
    """size: by part. float_bytes: the model before; dtype: of all that is no code; layouts: the formats in use, empty
    where compressed-tensors has none for the plan. counted: the size as measurements count it, codes without gaps and
    16 bits for every other number."""

    size: Size
    counted: Size
    float_bytes: int
    dtype: str
    layouts: tuple[str, ...]

    @property
    def bytes(self) -> int:
        return self.size.bytes

    @property
    def parts(self) -> dict[str, int]:
        """Bytes by what they are for."""
        size = self.size
        bits = {
            "codes": size.codes + size.shapes,
            "scales": size.scales,
            "zero points": size.zero_points,
            "groups of columns": size.g_idx,
            "input ranges": size.inputs,
            "cache ranges": size.cache_scales,
            "float rest": size.floats,
        }
        return {part: -(-count // 8) for part, count in bits.items()}


def promise(model: nn.Module, plan: Plan | Scheme | str, dtype: torch.dtype) -> Promise:
    """The bytes of the tensors that `export_checkpoint(..., dtype=dtype)` would write.

    Raises: ValueError for a pattern that fits no layer, and a tile that does not divide one, with the layer's name."""
    from quantcore.export.cached import scale_shapes
    from quantcore.export.checkpoint_format import formats, layout, why_not  # compressed-tensors takes 2 s to import

    shapes, head, bits = linear_shapes(model), head_of(model), 8 * dtype.itemsize
    plan = plan_for(plan, shapes)
    model = skeleton_under(model, plan)
    require_fits(plan, shapes, head)
    schemes = {name: one for name, one in plan.schemes_of(shapes, head).items() if one.weights is not None}
    sayable = why_no_cache(plan.kv) is None and all(why_not(scheme) is None for scheme in set(schemes.values()))
    used = formats(schemes) if sayable else {}
    frozen = scale_shapes(model, plan.kv, dtype).values() if sayable else ()
    layouts = {name: layout(schemes[name], form) for name, form in used.items()}
    coded = coded_under(shapes, schemes)
    return Promise(
        size=model_size(model, coded, layouts, bits) + Size(cache_scales=8 * sum(one.nbytes for one in frozen)),
        counted=model_size(model, coded),
        float_bytes=model_size(model, {}, float_bits=bits).bytes,
        dtype=str(dtype).removeprefix("torch."),
        layouts=tuple(dict.fromkeys(used.values())),
    )
