"""A model in turned coordinates: R1 turns the hidden states, R2 what each head carries from v to o. Both are folded.

    hidden states   h R1         embeddings E R1, writers R1^T W, readers W diag(g) R1, and the norm's own weight g is 1
    values          v R2         per head: v_proj R2^T W, o_proj W R2

An RMSNorm without a weight only divides a vector by its length, which a rotation leaves as it is; so the model says
what it said. A tied head is untied, since it has the last norm's weight in it. Which Linears read and write the hidden
states is not looked up by name: readers are behind a norm (`wiring`), other Linears of that width write, and whether
the block then says what it said, turned, is tried on a few tokens.

Sources: Ashkboos et al. 2024, arXiv:2404.00456 (QuaRot); Liu et al. 2024, arXiv:2405.16406 (SpinQuant's R1 and R2).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from quantcore.methods.transforms.hadamard import rotation
from quantcore.methods.transforms.options import Rotate
from quantcore.model.linears import every_linear, every_reader, head_of
from quantcore.model.places import copy_with
from quantcore.model.wiring import Link, stored

APART = {torch.float32: 1e-4, torch.float16: 2e-2, torch.bfloat16: 1e-1}  # of its size, what a turned block may differ


def untied(model: Any) -> Any:
    """A copy of a model whose head has a weight of its own, which shares its numbers with the embeddings'."""
    made: Any = copy_with(model, {})
    head, embeddings = made.get_output_embeddings(), made.get_input_embeddings()
    if head is not None and head.weight is embeddings.weight:
        head.weight = nn.Parameter(embeddings.weight.detach(), requires_grad=False)
        made.config.tie_word_embeddings = made.config.get_text_config().tie_word_embeddings = False
    return made


class Rotation:
    """R1 and R2 of a model; the matrices are made in float64 and kept in float32 where the weights are."""

    def __init__(self, transform: Rotate, width: int, device: torch.device) -> None:
        """Raises: ValueError for a width without a Hadamard matrix."""
        self.transform, self.width, self._device = transform, width, device
        self.matrix = self._made(width)

    def _made(self, width: int) -> Tensor:
        return rotation(self.transform.kind, width).to(self._device, torch.float32)

    def around(self, model: Any, blocks: Sequence[str]) -> dict[str, Tensor]:
        """What is changed outside of the blocks, by name; `model` has a head of its own.

        Raises: ValueError for a model that has something else there than one norm before its head."""
        head, embeddings = head_of(model), model.get_input_embeddings()
        name = next((name for name, module in model.named_modules() if module is embeddings), "")
        inside = tuple(f"{block}." for block in blocks)
        norms = [
            one
            for one, module in model.named_modules()
            if not f"{one}.".startswith(inside) and getattr(getattr(module, "weight", None), "ndim", 0) == 1
        ]
        if head is None or len(norms) != 1 or embeddings.weight.shape[1] != self.width:
            raise ValueError(
                f"{self.transform} turns embeddings, one last norm and the head, and outside of its blocks this "
                f"{type(model).__name__} has {len(norms)} norms; leave it out"
            )
        norm: Any = model.get_submodule(norms[0])
        base = base_of_rms(norm, self.transform)
        weight = model.get_submodule(head).weight
        gain = norm.weight.float() + base
        return {
            f"{name}.weight": (embeddings.weight.float() @ self.matrix).to(embeddings.weight.dtype),
            f"{norms[0]}.weight": torch.full_like(norm.weight, 1 - base),
            f"{head}.weight": ((weight.float() * gain) @ self.matrix).to(weight.dtype),
        }

    def inside(
        self, block: nn.Module, links: Sequence[Link], heads: Sequence[Link], head_width: int
    ) -> dict[str, Tensor]:
        """The tensors of a block that are changed, by name; whether it still says the same is to be tried.

        heads   those of the links that carry values, head by head of that width"""
        layers = every_reader(block)
        norms = [one for one in links if one.is_norm and one.channels == self.width]
        turned: dict[str, Tensor] = {}
        biases: dict[str, Tensor] = {}
        for link in norms:
            gain = block.get_parameter(f"{link.source}.weight").float() + (link.base or 0)
            for name in link.readers:
                turned[name] = (layers[name].weight.float() * gain) @ self.matrix
        for name, layer in every_linear(block).items():
            if name not in turned and layer.out_features == self.width:
                turned[name] = self.matrix.T @ layer.weight.float()
                if layer.bias is not None:
                    biases[name] = layer.bias.float() @ self.matrix
        for link in heads:
            self._turn_heads(link, layers, turned, biases, head_width)
        found = _all_stored(block, layers, turned, biases)
        for link in norms:
            weight = block.get_parameter(f"{link.source}.weight")
            found[f"{link.source}.weight"] = torch.full_like(weight, 1 - (link.base or 0))
        return found

    def heads_alone(self, block: nn.Module, link: Link, head_width: int) -> dict[str, Tensor]:
        """The tensors that R2 changes alone, to be tried: a gate's product is no path for a turned head."""
        layers, turned, biases = every_linear(block), dict[str, Tensor](), dict[str, Tensor]()
        self._turn_heads(link, layers, turned, biases, head_width)
        return _all_stored(block, layers, turned, biases)

    def _turn_heads(
        self, link: Link, layers: dict[str, nn.Linear], turned: dict[str, Tensor], biases: dict[str, Tensor], width: int
    ) -> None:
        turn, source = self._made(width), layers[link.source]
        weight = turned.get(link.source, source.weight.float())
        turned[link.source] = (turn.T @ weight.view(-1, width, weight.shape[1])).flatten(0, 1)
        if source.bias is not None:
            bias = biases.get(link.source, source.bias.float())
            biases[link.source] = (bias.view(-1, width) @ turn).flatten()
        for name in link.readers:
            weight = turned.get(name, layers[name].weight.float())
            turned[name] = (weight.view(len(weight), -1, width) @ turn).flatten(1)


def base_of_rms(norm: Any, transform: Rotate) -> int:
    """What the norm adds to its weight, 0 or 1. Raises: ValueError for one that does more than divide by a length."""
    width = len(norm.weight)
    x = torch.randn(2, 3, width, generator=torch.Generator().manual_seed(0)).to(norm.weight)
    said = norm(x).float()
    for base in (0, 1):
        gain = norm.weight.float() + base
        wanted = x.float() / x.float().square().mean(-1, keepdim=True).sqrt() * gain
        if getattr(norm, "bias", None) is None and bool((said - wanted).abs().max() <= 0.02 * wanted.abs().max()):
            return base
    raise ValueError(
        f"{transform} needs norms that only divide by a length, and this model has a {type(norm).__name__}, which does "
        "more (a mean, a bias); leave it out"
    )


def _all_stored(
    block: nn.Module, layers: dict[str, nn.Linear], weights: dict[str, Tensor], biases: dict[str, Tensor]
) -> dict[str, Tensor]:
    found = {f"{name}.weight": stored(block, layers, f"{name}.weight", one) for name, one in weights.items()}
    return found | {f"{name}.bias": one.to(layers[name].bias.dtype) for name, one in biases.items()}


def by_heads(link: Link, width: int) -> bool:
    """Whether the readers' columns are whole heads of the source, one after another."""
    if link.channels % width or any(len(columns) % width for columns in link.readers.values()):
        return False
    heads = [columns.view(-1, width) for columns in link.readers.values()]
    return all(
        bool((one == one[:, :1] + torch.arange(width)).all() and (one[:, 0] % width == 0).all()) for one in heads
    )
