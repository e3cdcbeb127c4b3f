"""What the tokens of a text do in a model: which Linears they reach, and whose weight other code reads.

    found = probe(model, names)
    found.called            those that the tokens reach; a vision tower's are not among them
    found.read              those whose `.weight` is read by somebody but themselves, so that it must stay what it is
    found.written           those whose weight the model changes as it runs (RWKV scales some of its own)
    found.flat              those that get tokens in another shape than (windows, T, K): (tokens, K), or head by head

The model itself is not touched, and no weight is read: the run is on a hollow copy, the model's own modules in which
every weight is one number seen through its whole shape, and in which a Linear makes its output without a product. So a
model in memory, one in its files and one on the meta device give the same answer, in a fraction of a second. Of the
decoder blocks the first of each kind run, the others hand on what they get; where a model does not bear that, all run,
and where it does not bear weights of one number, it gets small ones of its own, if it is no larger than FULL.
What is found for `layers.0` holds for `layers.1`: names that differ in numbers alone are one kind; but in a block that
the model passes over nothing is reached (Llama 3.2 Vision has some that attend to pictures).
"""

from __future__ import annotations

import copy
import logging
import re
import warnings
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from quantcore.model.layer_names import block_of
from quantcore.model.making import making
from quantcore.model.places import BlockPlace

TOKENS = 8
WEIGHT = 0.02  # what every weight of the hollow copy is
FULL = 2**28  # parameters of a model whose hollow copy may be filled
KEPT_BUFFER = 2**20  # numbers; larger buffers are shared with the model, not copied


@dataclass(frozen=True)
class Probed:
    """Names of Linears. `error`: why the model could not be run, so that nothing is known; else ""."""

    called: frozenset[str]
    read: frozenset[str]
    written: frozenset[str] = frozenset()
    flat: frozenset[str] = frozenset()
    error: str = ""


def probe(model: nn.Module, names: Collection[str], blocks: Sequence[str]) -> Probed:
    """Run a few tokens through a causal language model. `names` are its Linears, `blocks` its decoder blocks."""
    error = ""
    for few, full in ((True, False), (False, False), (False, True)):
        if full and sum(weight.numel() for weight in model.parameters()) > FULL:
            break
        seen, hollow = _Seen(), _hollow(model, full)
        for name in names:
            _watch(hollow.get_submodule(name), name, seen)
        with quietly():
            try:
                if few:
                    _hand_on_all_but_the_first(hollow, blocks)
                for name in blocks:
                    hollow.get_submodule(name).register_forward_pre_hook(seen.entering(name))
                _run(hollow)
            except Exception as failure:  # whatever a stranger's module does
                error = f"{type(failure).__name__}: {failure}"
                continue
        written = [name for name in names if hollow.get_submodule(name)._parameters["weight"]._version]
        kinds = [set(map(kind_of, found)) for found in (seen.called, seen.read, written, seen.flat)]
        called, read, changed, flat = (frozenset(name for name in names if kind_of(name) in one) for one in kinds)
        return Probed(called - seen.passed_over(blocks, called), read, changed, flat)
    return Probed(frozenset(), frozenset(), error=error)


def kind_of(name: str) -> str:
    """The name with its numbers left open: `layers.3.q_proj` and `layers.4.q_proj` are of one kind."""
    return re.sub(r"\d+", "*", name)


def block_kind(block: nn.Module) -> object:
    """Equal for blocks of the same modules with parameters of the same shapes."""
    modules = tuple((name, type(part).__qualname__) for name, part in block.named_modules())
    return modules, tuple((name, tuple(one.shape)) for name, one in block.named_parameters())


def is_a_product(layer: nn.Module) -> bool:
    """Whether a Linear's class computes x W^T + b and no more, also where it has a `forward` of its own: tried on a few
    random numbers, in a copy of the layer that is narrower."""
    kind = type(layer)
    if kind.forward is nn.Linear.forward:
        return True
    generator = torch.Generator().manual_seed(0)
    weight, bias, x = (torch.randn(shape, generator=generator) for shape in ((4, 6), (4,), (3, 6)))
    narrow = copy.copy(layer)
    narrow.__dict__["_parameters"] = {
        **layer._parameters,
        "weight": nn.Parameter(weight, requires_grad=False),
        "bias": None if layer.bias is None else nn.Parameter(bias, requires_grad=False),
    }
    narrow.__dict__ |= {"in_features": 6, "out_features": 4}
    try:
        with torch.no_grad():
            said = kind.forward(narrow, x)
    except Exception:  # it wants other inputs than one
        return False
    wanted = F.linear(x, weight, None if layer.bias is None else bias)
    return isinstance(said, Tensor) and said.shape == wanted.shape and torch.allclose(said, wanted, atol=1e-5)


class _Seen:
    def __init__(self) -> None:
        self.called: set[str] = set()
        self.read: set[str] = set()
        self.flat: set[str] = set()
        self._entered: set[str] = set()

    def entering(self, block: str) -> Callable[..., None]:
        return lambda *_: self._entered.add(block)

    def passed_over(self, blocks: Sequence[str], names: Collection[str]) -> set[str]:
        """Those of the Linears that are in blocks which the model does not call, though it calls others."""
        inside = {name: block_of(name, blocks) for name in names}
        alive = self._entered | {block for name, block in inside.items() if block and name in self.called}
        return {name for name, block in inside.items() if self._entered and block and block not in alive}


def _hollow(model: nn.Module, full: bool) -> Any:
    """A copy of the model's modules on the CPU, in which a weight takes four bytes; `full`: in which it takes all."""
    one = torch.tensor(WEIGHT)
    instead: dict[int, object] = {}
    for weight in model.parameters():
        floating = weight.is_floating_point()
        number = one if floating else torch.zeros((), dtype=weight.dtype)
        whole = number.expand(weight.shape)
        instead[id(weight)] = nn.Parameter(whole.clone() if full else whole, requires_grad=False)
    for buffer in model.buffers():
        instead[id(buffer)] = _real(buffer)
    hollow: Any = copy.deepcopy(model, instead)
    if hasattr(hollow.config, "_experts_implementation"):
        hollow.config._experts_implementation = "eager"  # others want weights without overlap
    for module in hollow.modules():
        module._forward_hooks.clear()
        module._forward_pre_hooks.clear()
        module.__dict__.pop("forward", None)  # put on this one module from outside, and bound to the model itself
    return hollow.eval()


def _real(buffer: Tensor) -> Tensor:
    if buffer.is_meta:
        return torch.zeros((), dtype=buffer.dtype).expand(buffer.shape).clone()
    return buffer if buffer.numel() > KEPT_BUFFER and buffer.device.type == "cpu" else buffer.detach().cpu().clone()


def _watch(layer: Any, name: str, seen: _Seen) -> None:
    """Let a Linear of the hollow copy tell of itself: it becomes one of a class that does."""
    kind, plain = type(layer), is_a_product(layer) if isinstance(layer, nn.Linear) else True
    width, taken = (
        (layer.out_features, layer.in_features) if isinstance(layer, nn.Linear) else (*layer.weight.shape[::-1],)
    )
    inside = False

    class Watched(kind):  # type: ignore[misc, valid-type]
        @property
        def weight(self) -> Tensor:
            if not inside:
                seen.read.add(name)
            found: Tensor = self._parameters["weight"]
            return found

        def forward(self, x: Tensor, *more: Any, **named: Any) -> Any:
            nonlocal inside
            seen.called.add(name)
            if x.ndim != 3:
                seen.flat.add(name)
            if plain and not more and not named:
                if x.shape[-1] != taken:
                    raise ValueError(f"{name!r} is given {x.shape[-1]} numbers and takes {taken}")
                return x.mean(-1, keepdim=True) + torch.linspace(-0.1, 0.1, width, dtype=x.dtype)
            inside = True
            try:
                return super().forward(x, *more, **named)
            finally:
                inside = False

    Watched.__name__, Watched.__qualname__, Watched.__module__ = kind.__name__, kind.__qualname__, kind.__module__
    layer.__class__ = Watched


def _hand_on_all_but_the_first(hollow: nn.Module, blocks: Sequence[str]) -> None:
    """Put a place where each block is whose kind was there before."""
    kinds: set[object] = set()
    places: list[BlockPlace] = []
    first = None
    for name in blocks:
        block = hollow.get_submodule(name)
        kind = block_kind(block)
        if kind in kinds:
            places.append(BlockPlace(block))
            hollow.set_submodule(name, places[-1])
        kinds.add(kind)
        first = first or block

    def tell(_module: nn.Module, _inputs: object, out: object) -> None:
        for place in places:
            place.extra = len(out) - 1 if isinstance(out, tuple) else None

    if first is not None:
        first.register_forward_hook(tell)


def few_tokens(model: Any) -> Tensor:
    """TOKENS different tokens of the model's vocabulary, (1, T), behind the ones that often mean something special."""
    size = int(model.get_input_embeddings().num_embeddings)
    return (torch.arange(TOKENS) % max(1, size - 4) + 3).clamp(max=size - 1)[None]


def _run(hollow: Any) -> None:
    """Read a few tokens, and write on if the model can: some read a weight only then."""
    tokens = few_tokens(hollow)
    with torch.inference_mode():
        hollow(input_ids=tokens, use_cache=False)
        with suppress(Exception):
            few = {"max_new_tokens": 2, "do_sample": False, "pad_token_id": 0}
            hollow.generate(input_ids=tokens, attention_mask=torch.ones_like(tokens), **few)


@contextmanager
def quietly() -> Iterator[None]:
    """What transformers says of a model is said where the model is used."""
    with making():  # two threads at once would put back each other's silence
        before = logging.root.manager.disable
        logging.disable(logging.CRITICAL)
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                yield
        finally:
            logging.disable(before)
