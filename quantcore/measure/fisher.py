"""What each layer will cost under each scheme, all of them at once from a few backward passes.

A small change d of what the layers give moves the next-token distributions p by

    KL(p || p changed) ~ 1/2 d^T F d,     F = E[g g^T],  g = gradient of log p(drawn tokens),  tokens drawn from p

(F is the Fisher information; Kullback 1959, section 2.6). Of a window one drawn token at each position is enough: the
draws are independent and their gradients have mean 0, so the squared sum has in the mean what the positions add up to.
With d = x (W_q - W)^T of one layer, its score in a draw is one number for a scheme,

    s = sum over tokens and outputs of g d

so a backward pass serves all layers and any number of schemes: alone = mean(s^2) / 2 a token. d is computed once a
window; where inputs are quantized as well, it is y_q - y.

Limits: second order, so low where the damage is large (at 2 bits the ranks are less sure); the mean of W windows and D
draws is off by about sqrt(2 / (W D)) of itself. `sensitivity` measures what this estimates, at a run a layer.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from quantcore.matmul.layers import QuantLinear
from quantcore.matmul.size import quantized_linears
from quantcore.measure.sensitivity import (
    LayerCosts,
    require_layers,
    require_measurable,
    sizes_of,
    texts_on,
    transformed,
)
from quantcore.model.experts import take_apart
from quantcore.model.layer_names import measured_together
from quantcore.model.linears import linears
from quantcore.model.places import copy_with
from quantcore.numbers.qtensor import dequantize
from quantcore.pipeline.calibration import Progress
from quantcore.pipeline.convert import quantized_copy
from quantcore.pipeline.ranks import ranks
from quantcore.scheme.scheme import Scheme

DRAWS = 8  # of a window; a draw is a backward pass
QUANTIZING = 0.3  # the share of the work, for progress


def estimated_costs(
    model: nn.Module,
    schemes: Sequence[str],
    tokens: Tensor,
    *,
    calibration: Tensor | None = None,
    draws: int = DRAWS,
    seed: int = 0,
    progress: Progress | None = None,
) -> list[LayerCosts]:
    """The KL that each layer alone costs, scheme by scheme; arguments as `sensitivity` has them. `whole` is the sum of
    all layers: what they do to each other is not estimated.

    draws   of next tokens, for each window; seed: of the draws
    Memory: the codes of the model under all schemes, one window's activations, and its outputs once a scheme.
    Raises: ValueError for no scheme, one that quantizes nothing, windows of one token, no draws."""
    texts = texts_on(model, schemes)
    require_measurable(texts, tokens)
    if draws < 1:
        raise ValueError(f"{draws} draws of a window say nothing; use at least one")
    ways = dict.fromkeys(Scheme.parse(text).transforms for text in texts)
    if len(ways) > 1:  # each on a float model of its own
        known: dict[str, LayerCosts] = {}
        for way in ways:
            alike = [text for text in texts if Scheme.parse(text).transforms == way]
            some = estimated_costs(
                model, alike, tokens, calibration=calibration, draws=draws, seed=seed, progress=progress
            )
            known |= {one.scheme: one for one in some}
        return [known[text] for text in texts]
    model = transformed(model, Scheme.parse(texts[0]), calibration)
    copies: dict[str, dict[str, QuantLinear]] = {}
    for place, text in enumerate(texts):
        if progress:
            progress(QUANTIZING * place / len(texts), f"quantizing: {text}")
        plain = Scheme.parse(text).plain
        copy = quantized_copy(model, plain, calibration=calibration, sequential=False)
        copies[text] = quantized_linears(copy)
    layers = _same_layers(copies)
    units = measured_together(layers)
    own = copy_with(model, {})  # hooks of our own; the tensors are the model's
    take_apart(own)
    mine, found = ranks().share(tokens), list[Tensor]()
    random = torch.Generator(next(own.parameters()).device).manual_seed(seed + ranks().rank)
    for place, window in enumerate(mine):
        with _scoring(own, units, copies) as scores:
            for _ in _drawn(own, window[None].to(random.device), draws, random):
                found.append(scores.clone())
                scores.zero_()
        if progress:
            progress(QUANTIZING + (1 - QUANTIZING) * (place + 1) / len(mine), "reading the text backward")
    everywhere = [one for some in ranks().all_said([one.cpu() for one in found]) for one in some]
    alone = torch.stack(everywhere).square().mean(0) / 2 / (tokens.shape[1] - 1)
    sizes = {text: sizes_of(units, copies[text]) for text in texts}
    return [
        LayerCosts(
            scheme=text,
            weights=sizes[text][0],
            bits=sizes[text][1],
            alone=dict(zip(units, alone[:, place].tolist(), strict=True)),
            all_but={},
            whole=float(alone[:, place].sum()),
            tokens=len(tokens) * (tokens.shape[1] - 1),
        )
        for place, text in enumerate(texts)
    ]


def _same_layers(copies: Mapping[str, dict[str, QuantLinear]]) -> dict[str, QuantLinear]:
    """The layers under the first scheme. Raises: ValueError where there are none, or others under another one."""
    first, layers = next(iter(copies.items()))
    require_layers(first, layers)
    for text, others in copies.items():
        if set(others) != set(layers):
            raise ValueError(f"{text} leaves other layers float than {first}; give all the same skip=")
    return layers


def _drawn(model: nn.Module, window: Tensor, draws: int, random: torch.Generator) -> Iterator[None]:
    """One run of the model and a backward pass for each draw, between which the caller looks at the scores."""
    embeddings: Any = model.get_input_embeddings()  # type: ignore[operator]
    rooted = embeddings.register_forward_hook(lambda _module, _inputs, given: given.detach().requires_grad_())
    try:
        with torch.enable_grad():
            log_p = model(window, use_cache=False).logits[0, :-1].float().log_softmax(-1)
            chances = log_p.detach().exp()
            for draw in range(draws):
                drawn = torch.multinomial(chances, 1, generator=random)
                log_p.gather(1, drawn).sum().backward(retain_graph=draw < draws - 1)
                yield
    finally:
        rooted.remove()


@contextmanager
def _scoring(
    model: nn.Module, units: Mapping[str, Sequence[str]], copies: Mapping[str, Mapping[str, QuantLinear]]
) -> Iterator[Tensor]:
    """While the context lasts, a backward pass adds each layer's scores to what is yielded, (units, schemes). What a
    layer's outputs move by is computed once, as the window passes: each draw is then one backward pass and a dot
    product."""
    device = next(model.parameters()).device
    weights = {name: layer.weight.detach() for name, layer in linears(model).items()}
    scores = torch.zeros(len(units), len(copies), dtype=torch.float64, device=device)

    def score(unit: int, moved: Tensor, g: Tensor) -> None:
        scores[unit] += (moved @ g.flatten().float()).double()

    @torch.no_grad()
    def watch(unit: int, name: str, _: nn.Module, inputs: tuple[Tensor, ...], given: Tensor) -> None:
        if given.requires_grad:  # an expert that no token reached gives nothing
            apart = [moved_by(layers[name], weights[name], inputs[0], given) for layers in copies.values()]
            moved = torch.stack([one.flatten().float() for one in apart])
            given.register_hook(partial(score, unit, moved))  # type: ignore[no-untyped-call]

    hooks = [
        model.get_submodule(name).register_forward_hook(partial(watch, unit, name))
        for unit, members in enumerate(units.values())
        for name in members
    ]
    try:
        yield scores
    finally:
        for hook in hooks:
            hook.remove()


def moved_by(layer: QuantLinear, weight: Tensor, x: Tensor, y: Tensor) -> Tensor:
    """How far a layer's outputs move under codes: of weights alone x (W_q - W)^T, which a 16-bit y would round away.
    weight (O, K) as a Linear keeps it: a Conv1D's lies the other way round."""
    if layer.activation_spec is not None:
        moved: Tensor = layer.forward(x) - y  # past the hook that turns: x is turned
        return moved
    if layer.qweight is None:
        return torch.zeros_like(y)
    return x @ (dequantize(layer.qweight) - weight).to(x.dtype).T
