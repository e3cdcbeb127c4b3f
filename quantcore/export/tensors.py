"""What a model stores in a checkpoint: every tensor once, under its module, in one type where it is no code."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import cast

import torch
from torch import Tensor, nn

from quantcore.export.experts import put_together, read_as_linears
from quantcore.matmul.layers import QuantLinear
from quantcore.model.experts import Experts
from quantcore.model.held import held
from quantcore.numbers.qtensor import qparams_for
from quantcore.numbers.spec import MinMax
from quantcore.pipeline.parts import Source
from quantcore.scheme.scheme import Scheme

STORED_TYPES = (torch.bfloat16, torch.float16, torch.float32)


def require_plain_linears(model: nn.Module, names: Iterable[str]) -> None:
    """Raises: ValueError for a layer that readers of the format do not look at, because it is no torch Linear."""
    for name in names:
        if not isinstance(layer := model.get_submodule(name), nn.Linear):
            raise ValueError(
                f"{name!r} is a {type(layer).__name__} and readers of compressed-tensors look for codes in torch's "
                "Linear only; leave it out with skip=, or export a model of another kind"
            )


def exact_types(source: Source) -> tuple[torch.dtype, ...]:
    """Those of STORED_TYPES, narrowest first, that hold every parameter of the model exactly; float32 always does. What
    a model's file keeps in a type is not read to see that it fits."""
    model = held(source)
    names, tensors = [name for name, _ in model.skeleton.named_parameters()], model.state_dict()

    def holds(dtype: torch.dtype, name: str) -> bool:
        if model.file_dtype(name) == dtype:
            return True
        tensor = tensors[name]
        return not tensor.is_floating_point() or torch.equal(tensor.to(dtype).to(tensor.dtype), tensor)

    able = [dtype for dtype in STORED_TYPES[:-1] if all(holds(dtype, name) for name in names)]
    return (*able, STORED_TYPES[-1])


def stored_type(
    source: Source, schemes: Mapping[str, Scheme] | None = None, exact: Sequence[torch.dtype] | None = None
) -> torch.dtype:
    """The narrowest type that holds every parameter of the model exactly, and no scale of `schemes`, by layer, as 0 or
    infinite. `exact`: the model's `exact_types`, where they are known."""
    able = exact_types(source) if exact is None else exact
    return next(dtype for dtype in able if dtype == able[-1] or lost_scales(source, schemes or {}, dtype) is None)


def lost_scales(source: Source, schemes: Mapping[str, Scheme], dtype: torch.dtype) -> str | None:
    """The first layer of which a scale would become 0 or infinite in `dtype`, and why, half a sentence; None where none
    does. bfloat16 and float32 reach as far as any weight, so weights are read for float16 alone; ranges that an
    observer narrows are taken for a quarter of what they are."""
    if dtype != torch.float16 or not schemes:
        return None
    tensors = held(source).state_dict()
    for name, scheme in schemes.items():
        if (spec := scheme.weights) is None or spec.scales.is_coded:
            continue
        narrowed = 1 if spec.observer == MinMax() else 4
        scale = qparams_for(tensors[f"{name}.weight"].float(), replace(spec, observer=MinMax())).scale
        least, most = float(scale.min()) / narrowed, float(scale.max())
        if not (float(torch.tensor(least).to(dtype)) > 0 and most <= torch.finfo(dtype).max):
            return f"layer {name!r} has scales from {least:.3g} to {most:.3g}, and float16 holds 6e-08 to 65504"
    return None


def require_scales(source: Source, schemes: Mapping[str, Scheme], dtype: torch.dtype) -> None:
    """Raises: ValueError, before any work, for a type that was asked for and does not hold the scales."""
    if (lost := lost_scales(source, schemes, dtype)) is not None:
        raise ValueError(f"{lost}; write --dtype bfloat16, or leave it out: the narrowest that holds all is taken then")


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
        passing = part._non_persistent_buffers_set
        buffers = {key: value for key, value in part.named_buffers(recurse=False) if key not in passing}
        own = {**dict(part.named_parameters(recurse=False)), **buffers}
        new = {key: value for key, value in own.items() if id(value) not in seen}
        seen.update(id(value) for value in new.values())
        if new:
            yield (
                name,
                {
                    key: cast_exactly(value, dtype) if key in buffers else cast_to(value.detach(), dtype)
                    for key, value in new.items()
                },
            )


def scale_rounding(layer: QuantLinear, dtype: torch.dtype) -> Tensor:
    """The largest relative change of a layer's scales in `dtype`: a float64 scalar on the device, not waited for."""
    static, qweight = layer.static_qparams, layer.weight_spec
    scales = [] if qweight is None or qweight.scales.is_coded else [cast(Tensor, layer.scale)]
    scales += [] if static is None or static.global_scale is not None else [static.scale]
    if not scales:
        return torch.zeros((), dtype=torch.float64, device=cast(Tensor, layer.codes).device)
    return torch.stack([(one.to(dtype).double() / one.double() - 1).abs().max() for one in scales]).max()


def cast_exactly(buffer: Tensor, dtype: torch.dtype) -> Tensor:
    """A buffer in the type, where that holds its numbers, else as it is: what a router adds to its scores (DeepSeek) is
    float32 beside parameters of 16 bits, and rounded it would choose other experts."""
    cast = cast_to(buffer, dtype)
    return cast if buffer.is_meta or torch.equal(cast.to(buffer.dtype), buffer) else buffer


def cast_to(tensor: Tensor, dtype: torch.dtype) -> Tensor:
    return tensor.to(dtype) if tensor.is_floating_point() else tensor
