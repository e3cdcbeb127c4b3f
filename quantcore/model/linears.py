"""What a Linear is, what stays float and why, what a decoder block is: nobody else guesses."""

from __future__ import annotations

import threading
from collections.abc import Iterable, Iterator
from typing import Any, cast
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn

from quantcore.model.experts import Experts
from quantcore.model.layer_names import short_names
from quantcore.model.probe import Probed, is_a_product, probe
from quantcore.model.sentences import and_more, cut
from quantcore.model.turned import TURN, turn_of
from quantcore.scheme.plan import Plan


def linears(model: nn.Module) -> dict[str, nn.Linear]:
    """The Linears that may be quantized, under their dotted names, in the model's order: of a whole language model
    those that `why_float` names no reason for, of a part of one `every_linear`.

    GPT-2's `Conv1D` is a Linear that stores its weight as (in, out); it is given as a Linear that shares this weight,
    transposed. Such a view has no part in the model's own run: to watch or replace, take the submodule of that name."""
    found = every_linear(model)
    if not _is_whole(model):
        return found
    left = _reasons(model)
    return {name: linear for name, linear in found.items() if name not in left}


def every_linear(model: nn.Module) -> dict[str, nn.Linear]:
    """Every Linear of a module by its class, also one that must stay float."""
    found = {name: _as_linear(module) for name, module in model.named_modules()}
    return {name: linear for name, linear in found.items() if linear is not None}


def every_reader(model: nn.Module) -> dict[str, nn.Linear]:
    """`every_linear`, and behind them what may multiply its inputs by a matrix of its own though its class is another:
    routers, each given as a Linear that has the module's very weight. Whether it does is for the caller to try."""
    found = every_linear(model)
    for name, module in model.named_modules():
        weight = module._parameters.get("weight")
        if weight is not None and weight.ndim == 2 and name not in found and not isinstance(module, nn.Embedding):
            found[name] = nn.Linear(weight.shape[1], weight.shape[0], bias=False, device="meta")
            found[name].weight = weight
    return found


def linear_shapes(model: nn.Module) -> dict[str, tuple[int, int]]:
    """(out_features, in_features) of every Linear of `linears`, by name."""
    return {name: (layer.out_features, layer.in_features) for name, layer in linears(model).items()}


def left_float(model: nn.Module) -> dict[str, Tensor]:
    """The model's matrices that nothing here quantizes, embeddings aside, under their names: those of Linears that must
    stay float, experts fused into one parameter of three dimensions, convolutions. `why_float` says why."""
    able = linears(model)
    return {
        f"{name}.{kind}".removeprefix("."): parameter
        for name, module in model.named_modules()
        if not isinstance(module, nn.Embedding) and name not in able
        for kind, parameter in module.named_parameters(recurse=False)
        if parameter.ndim > 1
    }


def why_float(model: nn.Module) -> dict[str, str]:
    """For each matrix of `left_float` the reason, half a sentence."""
    reasons = _reasons(model) if _is_whole(model) else {}
    return {name: reasons.get(name.rpartition(".")[0], NO_LINEAR) for name in left_float(model)}


def require_plan(model: nn.Module, plan: Plan) -> None:
    """Raises: ValueError where the model has no Linear that may be quantized, and where the plan wants codes for a
    weight that the model changes."""
    if plan.is_float or not _is_whole(model):
        return
    reasons, error = _reasons(model), _found(model)[0].error
    if error or not linears(model):
        why = next(iter(reasons.values()), "it has none")
        raise ValueError(f"no Linear of this {type(model).__name__} can be quantized: {why}; take another model")
    head = head_of(model)
    changed = [name for name, why in reasons.items() if why == CHANGED and plan.scheme_for(name, head) is not None]
    if changed:
        ends = short_names(changed)
        raise ValueError(
            f"this {type(model).__name__} changes the weights of {and_more(changed)} as it runs, so codes "
            f"cannot stand for them; leave them float with {','.join(f'skip={end}' for end in ends)}"
        )


def head_of(model: Any) -> str | None:
    """The name of the Linear that makes the logits, whatever the model calls it; None where it has none."""
    try:
        head = model.get_output_embeddings()
    except (AttributeError, NotImplementedError):
        return None
    return next((name for name, module in model.named_modules() if module is head), None) if head is not None else None


NO_LINEAR = "it is a parameter of its own (fused experts, a router, a convolution), no Linear's weight"
ANOTHER_FORWARD = "its class {} computes something else than a Linear"
READ_DIRECTLY = "other code of the model reads its weight"
CHANGED = "the model changes its weight as it runs"
NOT_RUN = "the model does not run on a few tokens ({})"
NOT_REACHED = "the tokens of a text do not reach it"
ROUTER = "it chooses among experts"

_probed: WeakKeyDictionary[nn.Module, tuple[Probed, dict[str, str]]] = WeakKeyDictionary()
_probing = threading.RLock()


def _is_whole(model: nn.Module) -> bool:
    """Whether this is a language model of transformers, which a text can be run through."""
    return hasattr(model, "get_output_embeddings") and hasattr(model, "config")


def _reasons(model: nn.Module) -> dict[str, str]:
    """Why Linears of a whole model must stay float, by their names."""
    return _found(model)[1]


def flat_inputs(model: nn.Module) -> frozenset[str]:
    """The Linears of a whole model that get tokens in another shape than (windows, T, K)."""
    return _found(model)[0].flat


def _found(model: nn.Module) -> tuple[Probed, dict[str, str]]:
    """What a run tells, and why Linears must stay float; found once a model."""
    with _probing:
        if model not in _probed:
            experts = tuple(f"{name}." for name, module in model.named_modules() if isinstance(module, Experts))
            names = [name for name in every_linear(model) if not name.startswith(experts)]  # experts are plain Linears
            found = probe(model, names, block_names(model))
            _probed[model] = found, _why(model, names, found)
        return _probed[model]


def _why(model: nn.Module, names: list[str], found: Probed) -> dict[str, str]:
    routers = _routers(model, names)
    reasons: dict[str, str] = {}
    for name in names:
        module = model.get_submodule(name)
        if found.error:
            reasons[name] = NOT_RUN.format(cut(found.error, 120))
        elif name in found.written:
            reasons[name] = CHANGED
        elif name in found.read:
            reasons[name] = READ_DIRECTLY
        elif name not in found.called:
            reasons[name] = NOT_REACHED
        elif name in routers:
            reasons[name] = ROUTER
        elif isinstance(module, nn.Linear) and not is_a_product(module):
            reasons[name] = ANOTHER_FORWARD.format(type(module).__name__)
    return reasons


def _routers(model: nn.Module, names: Iterable[str]) -> set[str]:
    """Linears beside experts that have one output an expert, or one in all (the gate of a shared expert), and no other
    Linear with them in the same submodule, as a shared expert's have."""
    experts: dict[str, set[int]] = {}  # by the module that they are in, how many
    for name, module in model.named_modules():
        if isinstance(module, nn.modules.conv._ConvNd):
            continue
        held = {one.shape[0] for one in module.parameters(recurse=False) if one.ndim == 3}
        if isinstance(module, Experts):
            held.add(module.num_experts)
        if isinstance(module, nn.ModuleList) and name.rpartition(".")[2] == "experts":
            held.add(len(module))
        for count in held:
            experts.setdefault(name, set()).add(count)
    found: set[str] = set()
    for place, counts in experts.items():
        beside = f"{place.rpartition('.')[0]}."
        children: dict[str, list[str]] = {}
        for name in names:
            if name.startswith(beside) and not name.startswith(f"{place}."):
                children.setdefault(name.removeprefix(beside).partition(".")[0], []).append(name)
        for alone in (inside[0] for inside in children.values() if len(inside) == 1):
            if cast(nn.Linear, model.get_submodule(alone)).out_features in {1, *counts}:
                found.add(alone)
    return found


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
    if (turn := turn_of(module)) is not None:
        setattr(linear, TURN, turn)  # the view says so; the module does it
    return linear


def linear_named(model: nn.Module, name: str) -> nn.Linear:
    """The Linear of that name. Raises: ValueError that names a few which exist."""
    layers = linears(model)
    if name not in layers:
        some = ", ".join(list(layers)[:3])
        raise ValueError(f"no Linear layer is called {name!r}; this model has {len(layers)}, such as {some}")
    return layers[name]


def batches(tokens: Tensor, device: torch.device, tokens_a_batch: int = 4096) -> Iterator[Tensor]:
    """The windows in batches of about `tokens_a_batch` tokens, on the device."""
    for rows in torch.split(tokens, max(1, tokens_a_batch // tokens.shape[1])):
        if len(rows):  # no windows are one batch of none
            yield rows.to(device)


def block_names(model: nn.Module) -> list[str]:
    """Dotted names of the decoder blocks in order: the members of the ModuleList that holds the most numbers (experts
    are lists, too, but inside of it) of what transformers says is the decoder: a tower for pictures may be larger."""
    decoder = _decoder(model)
    lists = {name: module for name, module in model.named_modules() if isinstance(module, nn.ModuleList)}
    inside = {id(module) for module in decoder.modules()}
    lists = {name: module for name, module in lists.items() if id(module) in inside} or lists
    if not lists:
        return []
    numbers = {name: sum(one.numel() for one in module.parameters()) for name, module in lists.items()}
    most = max(lists, key=numbers.__getitem__)
    return [f"{most}.{place}" for place in range(len(lists[most]))]


def _decoder(model: Any) -> nn.Module:
    """The part of a model that reads text; the model itself where it has no other."""
    try:
        found = model.get_decoder()
    except (AttributeError, NotImplementedError, TypeError):
        return cast(nn.Module, model)
    return found if isinstance(found, nn.Module) else cast(nn.Module, model)
