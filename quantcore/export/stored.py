"""What a model stores in a checkpoint: every tensor once, under its module, in one type where it is no code."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping

import torch
from torch import Tensor, nn

from quantcore.export.experts import put_together, read_as_linears
from quantcore.matmul.layers import QuantLinear
from quantcore.model.experts import Experts
from quantcore.model.held import held
from quantcore.pipeline.parts import Source

STORED_TYPES = (torch.bfloat16, torch.float16, torch.float32)


def stored_type(source: Source) -> torch.dtype:
    """The narrowest of bfloat16, float16 and float32 that holds every parameter of the model exactly. What a model's
    file keeps in that type is not read."""
    model = held(source)
    names, tensors = [name for name, _ in model.skeleton.named_parameters()], model.state_dict()

    def holds(dtype: torch.dtype, name: str) -> bool:
        if model.file_dtype(name) == dtype:
            return True
        tensor = tensors[name]
        return not tensor.is_floating_point() or torch.equal(tensor.to(dtype).to(tensor.dtype), tensor)

    return next((dtype for dtype in STORED_TYPES[:-1] if all(holds(dtype, name) for name in names)), STORED_TYPES[-1])


def checkpoint_parts(
    module: nn.Module, layouts: Mapping[str, str], dtype: torch.dtype, leave: Collection[str] = ()
) -> Iterator[tuple[str, dict[str, Tensor]]]:
    """Module by module, its name and the tensors that it stores; tied tensors once. Nothing is kept between two.

    leave   modules that are passed over"""
    from quantcore.export.checkpoint_format import layer_tensors

    seen: set[int] = set()
    together: list[str] = []  # modules whose experts are float, and so are written in one
    for name, part in module.named_modules():
        if name in leave or name.startswith(tuple(together)):
            continue
        if isinstance(part, Experts) and not read_as_linears(part) and (fused := put_together(part)) is not None:
            together += [f"{name}.{one}." for one in range(part.num_experts)]
            yield name, {key: cast_to(value, dtype) for key, value in fused.items()}
            continue
        if isinstance(part, QuantLinear):
            try:
                yield name, layer_tensors(part, layouts[name], dtype)
            except ValueError as error:
                raise ValueError(f"layer {name!r}: {error}") from error
            continue
        own = dict(part.named_parameters(recurse=False))
        passing = part._non_persistent_buffers_set
        own |= {key: value for key, value in part.named_buffers(recurse=False) if key not in passing}
        new = {key: value for key, value in own.items() if id(value) not in seen}
        seen.update(id(value) for value in new.values())
        if new:
            yield name, {key: cast_to(value.detach(), dtype) for key, value in new.items()}


def scale_rounding(layer: QuantLinear, dtype: torch.dtype) -> float:
    """The largest relative change of a layer's scales in `dtype`."""
    static = layer.static_qparams
    scales = [one for one in (layer.scale, static and static.scale) if isinstance(one, Tensor)]
    return max(float((one.to(dtype).double() / one.double() - 1).abs().max()) for one in scales)


def cast_to(tensor: Tensor, dtype: torch.dtype) -> Tensor:
    return tensor.to(dtype) if tensor.is_floating_point() else tensor
