"""Which channels of a decoder block can be scaled in one module and scaled back in others, so that nothing changes.

    for link in links(block, run):      norm -> q, k, v          v -> o          norm -> gate, up          up -> down
        link.source, link.readers

Nobody looks at names. A module's outputs are doubled channel by channel, by powers of two, which every float type does
exactly; where what enters a Linear doubles with them, to the last bit and on every token, the path between is linear in
each channel, and which output became which input is read from the bits: doubled where bit k of the channel's number is
1, once for each k. So v -> o is found through attention, also where several heads read one v, and up -> down through
the gate's product, and gate -> down is not. What else reads the channel is seen at last: the block with random powers
of two folded in must say what it said before, or the link is left out.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from quantcore.model.experts import every_token
from quantcore.model.inputs import watch_inputs
from quantcore.model.linears import every_linear, every_reader

Run = Callable[[nn.Module], Tensor]
APART = 1e-3  # of its size, by which a block may change where a fold rounds
NARROW = (torch.bfloat16, torch.float16)
POWERS = (0.5, 1.0, 2.0)


class Link(NamedTuple):
    """source   a norm, or a Linear, by its name in the block, whose output channels are scaled
    readers     by name each Linear or router that reads them, (K,): which channel of the source each of its columns is
    channels    how many the source has
    base        of a norm: what is added to its weight to give the factor, 0, or 1 as Gemma has it; None: a Linear"""

    source: str
    readers: dict[str, Tensor]
    channels: int
    base: int | None

    @property
    def is_norm(self) -> bool:
        return self.base is not None

    def gathered(self, found: Mapping[str, Tensor]) -> Tensor:
        """The largest over all columns that read a channel, (channels,); found: by reader's name (K,)."""
        out = torch.zeros(self.channels, device=next(iter(found.values())).device)
        for name, values in found.items():
            out.scatter_reduce_(0, self.readers[name].to(values.device), values.float(), "amax")
        return out


def folded(block: nn.Module, link: Link, scales: Tensor) -> dict[str, Tensor]:
    """The tensors of a block, by name, that a link's scales (channels,) change: the source's outputs / scales, the
    readers' columns * scales. Each is worked out in float32 and rounded once to its own type."""
    layers, found = every_reader(block), dict[str, Tensor]()
    s = scales.float()
    source: Any = block.get_submodule(link.source)
    if link.base is not None:
        found[f"{link.source}.weight"] = (source.weight.float() + link.base) / s - link.base
    else:
        found[f"{link.source}.weight"] = layers[link.source].weight.float() / s[:, None]
    if getattr(source, "bias", None) is not None:
        found[f"{link.source}.bias"] = source.bias.float() / s
    for name, columns in link.readers.items():
        found[f"{name}.weight"] = layers[name].weight.float() * s[columns.to(s.device)]
    return {name: stored(block, layers, name, tensor) for name, tensor in found.items()}


def stored(block: nn.Module, layers: Mapping[str, nn.Linear], name: str, tensor: Tensor) -> Tensor:
    """As the module keeps it: GPT-2's Conv1D keeps a Linear's weight transposed."""
    old = block.get_parameter(name)
    layer = layers.get(name.removesuffix(".weight"))
    turned = layer is not None and layer.weight is not old
    return (tensor.T if turned and name.endswith(".weight") else tensor).contiguous().to(old.dtype)


def storable(block: nn.Module, link: Link, scales: Tensor) -> Tensor:
    """The scales next to those asked for by which a norm's weight stays a number of the type that it is stored in, so
    that a checkpoint loses nothing by them; the weights behind become codes in any case."""
    if link.base is None:
        return scales
    weight = block.get_submodule(link.source).get_parameter("weight").detach()
    narrow = weight.dtype
    if narrow == torch.float32:
        narrow = next((one for one in NARROW if torch.equal(weight.to(one).float(), weight)), narrow)
    factor = weight.float() + link.base
    stored = (factor / scales - link.base).to(narrow).float() + link.base
    return torch.where((stored == 0) | (factor == 0), torch.ones_like(scales), factor / stored)


def copy_of(module: nn.Module, tensors: Mapping[str, Tensor]) -> nn.Module:
    """A copy of the module that shares all tensors but those, by name; what is tied to one of them gets the new one."""
    instead: dict[int, object] = {id(one): one for one in (*module.parameters(), *module.buffers())}
    for name, tensor in tensors.items():
        instead[id(module.get_parameter(name))] = nn.Parameter(tensor, requires_grad=False)
    return copy.deepcopy(module, instead)


def links(block: nn.Module, run: Run) -> list[Link]:
    """The links of a block; `run` runs it, or a copy, over a few tokens and gives the hidden states behind it."""
    with torch.inference_mode():
        said = run(block)
        found = [link for source in _sources(block) if (link := _link(block, run, source)) is not None]
        return [link for link in found if _changes_nothing(block, run, link, said)]


def _sources(block: nn.Module) -> list[str]:
    """Linears, and modules whose own weight is one number a channel."""
    layers = every_linear(block)
    norms = [
        name
        for name, module in block.named_modules()
        if isinstance(getattr(module, "weight", None), Tensor) and module.weight.ndim == 1
    ]
    return [name for name, _ in block.named_modules() if name and (name in layers or name in norms)]


def _link(block: nn.Module, run: Run, source: str) -> Link | None:
    names = [name for name in every_reader(block) if name != source]
    module: Any = block.get_submodule(source)
    width: int = module.weight.shape[0]
    if (layer := every_linear(block).get(source)) is not None:
        width = layer.out_features
    plain = _inputs(block, run, names, source, None)
    whole = _inputs(block, run, names, source, torch.full((width,), 2.0))
    able = [name for name, x in plain.items() if name in whole and torch.equal(whole[name], 2 * x) and x.any()]
    if not able:
        return None
    columns = {name: torch.zeros(plain[name].shape[-1], dtype=torch.int64) for name in able}
    dead = {name: (plain[name] == 0).flatten(0, -2).all(0).cpu() for name in able}
    for bit in range(max(1, (width - 1).bit_length())):
        marked = (torch.arange(width) >> bit) & 1
        seen = _inputs(block, run, able, source, 1.0 + marked)
        for name in able:
            doubled = (seen[name] == 2 * plain[name]).flatten(0, -2).all(0).cpu()
            same = (seen[name] == plain[name]).flatten(0, -2).all(0).cpu()
            if not bool((doubled | same).all()):
                return None
            columns[name] += (doubled & ~dead[name]).long() << bit
    for name, places in columns.items():
        if dead[name].any():  # what no token woke: only a path that is the identity elsewhere says what it is
            if not torch.equal(places[~dead[name]], torch.arange(len(places))[~dead[name]]):
                return None
            columns[name] = torch.arange(len(places))
    if any(int(places.max()) >= width for places in columns.values()):
        return None
    return Link(source, columns, width, None if layer is not None else _base(module, width))


def _inputs(block: nn.Module, run: Run, names: list[str], source: str, factors: Tensor | None) -> dict[str, Tensor]:
    """What enters the Linears where the source's outputs are multiplied by factors (channels,)."""
    found: dict[str, Tensor] = {}
    with watch_inputs(block, names, lambda name, x: found.setdefault(name, x)), every_token(block, True):
        with _multiplied(block.get_submodule(source), factors):
            run(block)
    return found


@contextmanager
def _multiplied(module: nn.Module, factors: Tensor | None) -> Iterator[None]:
    def hook(_: nn.Module, __: object, out: Any) -> Any:
        assert factors is not None
        return out * factors.to(out.device, out.dtype) if isinstance(out, Tensor) else out  # a router says several

    handle = None if factors is None else module.register_forward_hook(hook)
    try:
        yield
    finally:
        if handle is not None:
            handle.remove()


def _base(norm: Any, width: int) -> int:
    """What a norm adds to its weight: with its weight set to 0 it says nothing, unless it adds 1."""
    silent = copy_of(norm, {"weight": torch.zeros_like(norm.weight)})
    if getattr(silent, "bias", None) is not None:
        silent = copy_of(silent, {"bias": torch.zeros_like(norm.bias)})
    x = torch.linspace(-1, 1, width, device=norm.weight.device, dtype=norm.weight.dtype)[None, None]
    return 1 if bool(silent(x).any()) else 0


def _changes_nothing(block: nn.Module, run: Run, link: Link, said: Tensor) -> bool:
    draw = torch.Generator().manual_seed(0)
    scales = torch.tensor(POWERS)[torch.randint(len(POWERS), (link.channels,), generator=draw)]
    changed = run(copy_of(block, folded(block, link, scales.to(said.device))))
    return bool((changed - said).abs().max() <= APART * said.abs().max())
