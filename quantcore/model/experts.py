"""Experts that transformers keeps in one parameter of three dimensions, taken apart: each is a Linear over its slice.

    model = taken_apart(model)            model.layers.0.mlp.experts.5.gate_proj is a Linear now, and shares its numbers

So an expert is found, watched, calibrated, quantized and written as any other Linear. `Experts` stands where the fused
module was and computes what it computed: tokens are sorted by the expert that the router chose, each expert that was
chosen works on its own tokens, and the sum over a token's experts, weighed by the router, is handed on.

How a fused module keeps them is in `fused_experts`; the names are the hub's: see `expert_names`.
"""

from __future__ import annotations

import copy
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, cast

import torch
from torch import Tensor, nn

from quantcore.matmul.grouped import grouped_product, stacked_weights, why_not_grouped
from quantcore.methods.transforms.turn import Turn
from quantcore.model.expert_names import expert_names
from quantcore.model.fused_experts import Layout, Slice, fused_experts
from quantcore.model.memory import free_memory
from quantcore.model.places import copy_with
from quantcore.model.routes import Routes
from quantcore.model.turned import turn_of

GROUPED_TOKENS = 16  # an expert, on average: from there on a GPU multiplies all experts at once
KEPT_SHARE = 0.2  # of the free memory, for one part's weights of all experts, kept as a grouped product wants them
SeeSorted = Callable[[tuple[str, ...], Tensor, Tensor], object]
"""Told what enters all experts at once: the parts that read it ("gate" and "up", or "down"), the rows (P, K) sorted by
expert, and where each expert's end (E,)."""


class Experts(nn.Module):
    """Experts apart: `experts.5.gate_proj` and the like are Linears. What the fused module has beside them (its
    activation, its way to join gate and up, a norm) is taken from it.

    kind          the name of the fused module's class; shapes: of its parameters that hold the experts
    every_token   the threads in which each expert is given every token now; see `every_token`
    given         by thread, which of the call's tokens the expert at work was given: for those who watch it
    sorted_seen   by thread, who watches all experts at once where they are multiplied at once; see `watch_sorted`
    kept          by thread, their weights as a grouped product wants them, by part; see `weights_kept`"""

    def __init__(self, fused: nn.Module, layout: Layout, names: Mapping[str, str]) -> None:
        """names: of an expert's Linears, by "gate", "up", "down"."""
        super().__init__()
        holder = fused.get_submodule(layout.holder)
        rest = copy.copy(holder)
        rest._parameters, rest._modules = {}, dict(holder._modules)
        for name, module in rest._modules.items():
            self.add_module(name, cast(nn.Module, module))
        self.kind = type(fused).__name__
        self.shapes = {name: tuple(fused.get_parameter(name).shape) for name in layout.parts}
        biases = [bias.fused for _, bias in layout.own.values() if bias is not None]
        self.shapes |= {name: tuple(fused.get_parameter(name).shape) for name in biases}
        self.layout, self.num_experts = layout, layout.experts
        self.names = {part: names[part] for part in layout.own}
        self.every_token: set[int] = set()
        self.given: dict[int, Tensor] = {}
        self.sorted_seen: dict[int, SeeSorted] = {}
        self.kept: dict[int, dict[str, Tensor]] = {}
        for expert in range(layout.experts):
            one = nn.Module()
            for part, (weight, bias) in layout.own.items():
                own = [_cut(fused, cut._replace(expert=expert)) for cut in (weight, bias) if cut is not None]
                one.add_module(names[part], _linear(*own))
            self.add_module(str(expert), one)
        self._rest = (rest,)  # in a tuple, so that it is no submodule

    def layers(self, place: str) -> list[str]:
        """The names of all experts' Linears in the model, where this stands at `place`."""
        return [f"{place}.{expert}.{own}" for expert in range(self.num_experts) for own in self.names.values()]

    def slices(self) -> dict[str, Slice]:
        """Where each of the experts' weights and biases lies in the fused parameters, by its name in this module."""
        found: dict[str, Slice] = {}
        for expert in range(self.num_experts):
            for part, (weight, bias) in self.layout.own.items():
                found[f"{expert}.{self.names[part]}.weight"] = weight._replace(expert=expert)
                if bias is not None:
                    found[f"{expert}.{self.names[part]}.bias"] = bias._replace(expert=expert)
        return found

    def linear(self, expert: int, part: str) -> nn.Module:
        """One expert's "gate", "up" or "down", float or quantized."""
        found: nn.Module = cast(nn.Module, self._modules[str(expert)])._modules[self.names[part]]  # type: ignore[assignment]
        return found

    def forward(
        self, hidden_states: Tensor, top_k_index: Tensor | None = None, top_k_weights: Tensor | None = None
    ) -> Tensor:
        """hidden_states (N, H), top_k_index and top_k_weights (N, k); an index past the last expert is none. Without
        them, as Llama 4: hidden_states (E N, H), for each expert all tokens, in rows of zeros those of others."""
        everything = threading.get_ident() in self.every_token
        try:
            return self._answer(hidden_states, top_k_index, top_k_weights, everything)
        finally:
            self.given.pop(threading.get_ident(), None)

    def _answer(
        self, hidden_states: Tensor, top_k_index: Tensor | None, top_k_weights: Tensor | None, everything: bool
    ) -> Tensor:
        if top_k_index is None or top_k_weights is None:
            return self._dense(hidden_states, everything)
        shape, x = hidden_states.shape, hidden_states.reshape(-1, hidden_states.shape[-1])
        routes = Routes.of(top_k_index, self.num_experts)
        if not everything and self._goes_grouped(routes, x):
            y = self._grouped(x[routes.tokens], routes)
            return routes.summed(y, top_k_index, top_k_weights).to(hidden_states.dtype).view(shape)
        out = torch.zeros_like(x, dtype=torch.promote_types(x.dtype, top_k_weights.dtype))
        weights, ends = top_k_weights.reshape(-1), routes.ends.tolist()
        for expert, (start, end) in enumerate(zip([0, *ends], ends, strict=False)):
            pairs, tokens = routes.pairs[start:end], routes.tokens[start:end]
            if everything:
                y = self._one(expert, x, None)[tokens]
            elif start < end:
                y = self._one(expert, x[tokens], tokens)
            else:
                continue
            out.index_add_(0, tokens, (y * weights[pairs, None]).to(out.dtype))
        return out.to(hidden_states.dtype).view(shape)

    def _dense(self, hidden_states: Tensor, everything: bool) -> Tensor:
        """A row of zeros belongs to an expert that was not chosen: without biases its answer is zero."""
        given = hidden_states.view(self.num_experts, -1, hidden_states.shape[-1])
        chosen = given.ne(0).any(-1)
        out = torch.zeros_like(given)
        for expert in range(self.num_experts):
            rows = chosen[expert].nonzero()[:, 0]
            if everything:
                out[expert, rows] = self._one(expert, given.sum(0), None)[rows]
            elif len(rows):
                out[expert, rows] = self._one(expert, given[expert, rows], rows)
        return out.view(hidden_states.shape)

    def _one(self, expert: int, x: Tensor, tokens: Tensor | None) -> Tensor:
        """One expert's answer to its tokens, (n, H) -> (n, H); `tokens`: which of the call's they are, None: all."""
        if tokens is not None:
            self.given[threading.get_ident()] = tokens
        up = self.linear(expert, "up")
        gate = self.linear(expert, "gate")(x) if "gate" in self.layout.own else None
        return self._after(self.linear(expert, "down")(self._joined(gate, up(x))))

    def _goes_grouped(self, routes: Routes, x: Tensor) -> bool:
        """Whether all experts are multiplied at once: on a GPU, for many tokens, where nobody watches one of them; and
        for any number of tokens where someone watches all of them."""
        if not x.is_cuda:
            return False
        parts = [[self.linear(expert, part) for expert in range(self.num_experts)] for part in self.layout.own]
        if threading.get_ident() not in self.sorted_seen:
            if any(_watched(one) for part in parts for one in part):
                return False
            if len(routes.pairs) < GROUPED_TOKENS * self.num_experts:
                return False
        return self.turns_by_part() is not None and all(why_not_grouped(x, part) is None for part in parts)

    def turns_by_part(self) -> dict[str, Turn | None] | None:
        """What turns the inputs of a part ("gate", "up", "down") of every expert; None where experts differ in it, or
        gate and up, which read one tensor, do."""
        every = range(self.num_experts)
        found = {part: {turn_of(self.linear(one, part)) for one in every} for part in self.layout.own}
        before = {turn for part, turns in found.items() if part != "down" for turn in turns}
        if len(before) > 1 or len(found["down"]) > 1:
            return None
        return {part: next(iter(turns)) for part, turns in found.items()}

    def _grouped(self, x: Tensor, routes: Routes) -> Tensor:
        """Every expert's answer to its tokens; x (P, H), sorted by expert."""
        see = self.sorted_seen.get(threading.get_ident())
        ends, turns = routes.all_ends, self.turns_by_part() or {}

        def entering(part: str, rows: Tensor) -> Tensor:
            turn = turns.get(part)
            return rows if turn is None else turn.of_inputs(rows)

        def product(part: str, rows: Tensor) -> Tensor:
            layers = [self.linear(one, part) for one in range(self.num_experts)]
            return grouped_product(rows, ends, layers, self._stacked(part, layers, rows.dtype))

        x = entering("up", x)
        if see:
            see(tuple(part for part in self.layout.own if part != "down"), x, routes.ends)
        gate = product("gate", x) if "gate" in self.layout.own else None
        inside = entering("down", self._joined(gate, product("up", x)))
        if see:
            see(("down",), inside, routes.ends)
        return self._after(product("down", inside))

    def _stacked(self, part: str, layers: Sequence[nn.Module], dtype: torch.dtype) -> Tensor:
        """The weights of one part of all experts, (E, O, K); kept where `weights_kept` says so and memory allows."""
        kept = self.kept.get(threading.get_ident())
        if kept is not None and part in kept:
            return kept[part]
        made = stacked_weights(layers, dtype)
        free = free_memory(made.device) if kept is not None else None
        if kept is not None and free is not None and made.nbytes < KEPT_SHARE * free[0]:
            kept[part] = made
        return made

    def _joined(self, gate: Tensor | None, up: Tensor) -> Tensor:
        """What enters an expert's last Linear, as the fused module makes it of gate and up."""
        rest: Any = self._rest[0]
        if gate is None:
            return cast(Tensor, rest.act_fn(up))
        if not hasattr(rest, "_apply_gate"):
            act = rest.activation_fn if self.layout.holder else rest.act_fn
            return cast(Tensor, act(gate) * up)
        turns = not getattr(rest, "is_concatenated", True)
        both = torch.stack([gate, up], -1).flatten(-2) if turns else torch.cat([gate, up], -1)
        return cast(Tensor, rest._apply_gate(both))

    def _after(self, y: Tensor) -> Tensor:
        return cast(Tensor, self.post_expert_norm(y)) if getattr(self._rest[0], "has_post_expert_norm", False) else y

    def __getattr__(self, name: str) -> Any:
        try:
            return super().__getattr__(name)
        except AttributeError:
            if name == "_rest" or "_rest" not in self.__dict__:
                raise
            return getattr(self._rest[0], name)


def _watched(layer: nn.Module) -> bool:
    """Whether a hook watches the layer, beside the one that turns its inputs."""
    turns = turn_of(layer) is not None
    return len(layer._forward_pre_hooks) > turns or bool(layer._forward_hooks)


def _cut(module: nn.Module, cut: Slice) -> Tensor:
    fused = module.get_parameter(cut.fused).detach()
    return cut.of(fused, fused.shape)


def _linear(weight: Tensor, bias: Tensor | None = None) -> nn.Linear:
    made = nn.Linear(weight.shape[1], weight.shape[0], bias is not None, device="meta")
    made.weight = nn.Parameter(weight, requires_grad=False)
    if bias is not None:
        made.bias = nn.Parameter(bias, requires_grad=False)
    return made


def take_apart(model: nn.Module) -> dict[str, Experts]:
    """Put `Experts` where the model keeps experts fused; the new modules by name. The model is changed."""
    layouts = fused_experts(model)
    if not layouts:
        return {}
    names = expert_names(model, {name: layout.parts for name, layout in layouts.items()})
    made = {name: Experts(model.get_submodule(name), layout, names[name]) for name, layout in layouts.items()}
    for name, module in made.items():
        model.set_submodule(name, module)
    return made


def taken_apart(model: nn.Module) -> nn.Module:
    """The model with its experts apart, in a copy that shares its tensors; the model itself where none are fused."""
    if not fused_experts(model):
        return model
    made = copy_with(model, {})
    take_apart(made)
    return made


@contextmanager
def every_token(module: nn.Module, wanted: bool = True) -> Iterator[None]:
    """While the context lasts, in this thread, each expert works on every token, for those who watch what enters it;
    what the experts hand on is what it was, the sum over those that the router chose. Not `wanted`: nothing changes."""
    here = threading.get_ident()
    found = [one for one in module.modules() if isinstance(one, Experts)] if wanted else []
    for one in found:
        one.every_token.add(here)
    try:
        yield
    finally:
        for one in found:
            one.every_token.discard(here)


@contextmanager
def weights_kept(module: nn.Module) -> Iterator[None]:
    """While the context lasts, in this thread, experts that are multiplied at once keep their weights in the form that
    this takes: for many batches through a module whose weights do not change meanwhile."""
    here = threading.get_ident()
    found = [one for one in module.modules() if isinstance(one, Experts)]
    for one in found:
        one.kept[here] = {}
    try:
        yield
    finally:
        for one in found:
            one.kept.pop(here, None)


@contextmanager
def watch_sorted(experts: Experts, see: SeeSorted) -> Iterator[None]:
    """While the context lasts, in this thread, `see` is told what enters experts that are multiplied at once; hooks of
    their Linears are not called then. Where they are multiplied one by one, the hooks are called and `see` is not."""
    here = threading.get_ident()
    experts.sorted_seen[here] = see
    try:
        yield
    finally:
        experts.sorted_seen.pop(here, None)
