"""What a Linear is, what a decoder block is, and what stays float: nobody else guesses from names."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from typing import cast

import torch
from torch import Tensor, nn

from quantcore.model.sources import ASSETS as ASSETS
from quantcore.model.sources import REFERENCE as REFERENCE
from quantcore.model.sources import source_path as source_path


def linears(model: nn.Module) -> dict[str, nn.Linear]:
    """Every Linear of the model under its dotted name, in the model's order.

    GPT-2's `Conv1D` is a Linear that stores its weight as (in, out); it is given as a Linear that shares this weight,
    transposed. Such a view has no part in the model's own run: to watch or replace, take the submodule of that name."""
    found = {name: _as_linear(module) for name, module in model.named_modules()}
    return {name: linear for name, linear in found.items() if linear is not None}


def linear_shapes(model: nn.Module) -> dict[str, tuple[int, int]]:
    """(out_features, in_features) of every Linear, by name."""
    return {name: (layer.out_features, layer.in_features) for name, layer in linears(model).items()}


def left_float(model: nn.Module) -> dict[str, Tensor]:
    """The model's matrices that are no Linear's and no embedding's, under their names: experts fused into one parameter
    of three dimensions, their routers, convolutions. Nothing here quantizes them."""
    return {
        f"{name}.{kind}".removeprefix("."): parameter
        for name, module in model.named_modules()
        if not isinstance(module, nn.Embedding) and _as_linear(module) is None
        for kind, parameter in module.named_parameters(recurse=False)
        if parameter.ndim > 1
    }


def _as_linear(module: nn.Module) -> nn.Linear | None:
    if isinstance(module, nn.Linear):
        return module
    kind = type(module)
    if (kind.__module__, kind.__name__) != ("transformers.pytorch_utils", "Conv1D"):  # by name: importing it takes 1 s
        return None
    stored = cast(Tensor, module.weight)
    linear = nn.Linear(stored.shape[0], stored.shape[1], device="meta")
    linear.weight = nn.Parameter(stored.detach().T, requires_grad=False)
    linear.bias = cast(nn.Parameter, module.bias)
    return linear


def linear_named(model: nn.Module, name: str) -> nn.Linear:
    """The Linear of that name. Raises: ValueError that names a few which exist."""
    layers = linears(model)
    if name not in layers:
        some = ", ".join(list(layers)[:3])
        raise ValueError(f"no Linear layer is called {name!r}; this model has {len(layers)}, such as {some}")
    return layers[name]


def place_of(name: str) -> tuple[int | None, str]:
    """A layer's place on a map: (block number or None, module within the block), `model.layers.3.mlp.up_proj` ->
    (3, `mlp.up_proj`)."""
    match = re.fullmatch(r"(?:.*?\.)?(\d+)\.(.+)", name)
    return (int(match[1]), match[2]) if match else (None, name)


def batches(tokens: Tensor, device: torch.device, tokens_a_batch: int = 4096) -> Iterator[Tensor]:
    """The windows in batches of about `tokens_a_batch` tokens, on the device."""
    for rows in torch.split(tokens, max(1, tokens_a_batch // tokens.shape[1])):
        yield rows.to(device)


def block_names(model: nn.Module) -> list[str]:
    """Dotted names of the decoder blocks in order: the members of the ModuleList that holds the most numbers (experts
    are lists, too, but inside of it; a tower for images is a smaller one)."""
    lists = {name: module for name, module in model.named_modules() if isinstance(module, nn.ModuleList)}
    if not lists:
        return []
    numbers = {name: sum(one.numel() for one in module.parameters()) for name, module in lists.items()}
    most = max(lists, key=numbers.__getitem__)
    return [f"{most}.{place}" for place in range(len(lists[most]))]


def block_of(layer: str, blocks: Sequence[str]) -> str | None:
    """The block that a layer is in, of `block_names`; None for one outside of them."""
    return next((block for block in blocks if layer.startswith(f"{block}.")), None)
