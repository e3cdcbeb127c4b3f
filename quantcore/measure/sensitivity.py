"""Which layers hurt? Each layer is quantized alone, and the model's next-token distributions are compared with float.

    alone[l, s]    = KL(float || float model with only layer l under scheme s)      nats, mean over predicted tokens
    all_but[l, s]  = KL(float || model wholly under s, but layer l float)

A run starts at the block that holds the layer: what enters it is the same as without the change, so the blocks before
it hand out what they gave last time. A model whose blocks pass values on by other ways than their outputs cannot be
measured so: one layer of each scheme is run in full as well, and a difference is an error, not a figure.

All experts of a block count as one layer: a large mixture has thousands, most of which a short text hardly reaches.

GPTQ's codes depend on what enters a layer: alone it was calibrated behind a float model, in `whole` and `all_but` block
by block behind quantized ones.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from quantcore.matmul.layers import QuantLinear
from quantcore.matmul.size import quantized_linears
from quantcore.measure.evaluate import BATCH_TOKENS, next_log_p, require_windows
from quantcore.measure.scores import divergence
from quantcore.measure.swaps import recalling, require_shortcut, swapped
from quantcore.model.experts import taken_apart
from quantcore.model.held import held
from quantcore.model.layer_names import measured_together
from quantcore.model.linears import batches, block_names, linear_shapes
from quantcore.numbers.bits import FLOAT_BITS
from quantcore.pipeline.calibration import Progress, part_of
from quantcore.pipeline.convert import quantized_copy
from quantcore.pipeline.ranks import ranks
from quantcore.pipeline.treated import treated, treated_model
from quantcore.scheme.fitting import fitting_grain
from quantcore.scheme.plan import Plan
from quantcore.scheme.scheme import Scheme

SoFar = Callable[[str, dict[str, float]], None]
NO_SCHEME = "there is no scheme to measure; give at least one, such as w:int4/group128"


@dataclass(frozen=True)
class Sensitivity:
    """KL per layer and scheme, nats; the schemes by their texts, the layers by their names, in the model's order. All
    experts of a block are one layer here, by the name of the module that holds them.

    bits, weights   bits per weight of a layer under a scheme, and how many weights it has
    all_but         only for the schemes that it was asked for
    whole           KL with all layers under a scheme: what the sum of `alone` predicts
    float_bits      bits per weight of a layer that stays float
    tokens          predicted tokens that were measured"""

    schemes: tuple[str, ...]
    layers: tuple[str, ...]
    weights: dict[str, int]
    bits: dict[tuple[str, str], float]
    alone: dict[tuple[str, str], float]
    all_but: dict[tuple[str, str], float]
    whole: dict[str, float]
    float_bits: float
    tokens: int

    def ranked(self, scheme: str) -> list[str]:
        """The layers under a scheme, the one that hurts most first."""
        return sorted(self.layers, key=lambda layer: -self.alone[layer, scheme])

    def mean_bits(self, choice: dict[str, str]) -> float:
        """Mean bits per weight where each layer has its scheme; layers without one stay float."""
        spent = sum(
            self.weights[layer] * (self.bits[layer, choice[layer]] if layer in choice else self.float_bits)
            for layer in self.layers
        )
        return spent / sum(self.weights.values())


@dataclass(frozen=True)
class LayerCosts:
    """One scheme's part of a Sensitivity, by layer; see there."""

    scheme: str
    weights: dict[str, int]
    bits: dict[str, float]
    alone: dict[str, float]
    all_but: dict[str, float]
    whole: float
    tokens: int


def sensitivity(
    model: nn.Module,
    schemes: Sequence[str],
    tokens: Tensor,
    *,
    all_but: Sequence[str] = (),
    calibration: Tensor | None = None,
    progress: Progress | None = None,
) -> Sensitivity:
    """The KL that each layer costs under each scheme, over `tokens` (windows, T).

    all_but       schemes for which "everything but this layer" is measured too
    calibration   text (windows, T) for schemes that need one: static activations, GPTQ
    progress      called with the share done and the layer
    Raises: ValueError for no scheme, a scheme that quantizes nothing, windows of one token."""
    texts = tuple(texts_on(model, schemes))
    require_measurable(texts, tokens)
    both = set(texts_on(model, all_but))
    costs = []
    for place, text in enumerate(texts):
        tell = part_of(progress, place, len(texts))
        costs.append(layer_costs(model, text, tokens, all_but=text in both, calibration=calibration, progress=tell))
    return joined(costs)


def require_measurable(texts: Sequence[str], tokens: Tensor) -> None:
    """Raises: ValueError for no scheme, and windows of one token."""
    if not texts:
        raise ValueError(NO_SCHEME)
    require_windows(tokens)


def texts_on(model: nn.Module, schemes: Sequence[str]) -> list[str]:
    """The schemes' texts in full, each once; presets have the model's own grain."""
    grain = fitting_grain(linear_shapes(model))
    asked = [Scheme.parse(text, grain) for text in schemes]
    require_of_linears(asked)
    return list(dict.fromkeys(map(str, asked)))


def require_of_linears(schemes: Iterable[Scheme]) -> None:
    """Raises: ValueError for a scheme that speaks of the cache, or of nothing."""
    for one in schemes:
        if one.kv is not None:
            raise ValueError(
                f"what each layer costs is asked of Linears, and {one.kv} speaks of the whole cache; leave it out"
            )
        if one.is_float:
            raise ValueError(_nothing(str(one)))


def joined(costs: Sequence[LayerCosts]) -> Sensitivity:
    """The costs of several schemes as one Sensitivity. Raises: ValueError for none, or not over the same layers."""
    if not costs:
        raise ValueError(NO_SCHEME)
    first = costs[0]
    for cost in costs:
        if set(cost.alone) != set(first.alone):
            raise ValueError(f"{cost.scheme} leaves other layers float than {first.scheme}; give all the same skip=")
    return Sensitivity(
        schemes=tuple(cost.scheme for cost in costs),
        layers=tuple(first.alone),
        weights=dict(first.weights),
        bits={(layer, cost.scheme): bits for cost in costs for layer, bits in cost.bits.items()},
        alone={(layer, cost.scheme): kl for cost in costs for layer, kl in cost.alone.items()},
        all_but={(layer, cost.scheme): kl for cost in costs for layer, kl in cost.all_but.items()},
        whole={cost.scheme: cost.whole for cost in costs},
        float_bits=float(FLOAT_BITS),
        tokens=first.tokens,
    )


def layer_costs(
    model: nn.Module,
    text: str,
    tokens: Tensor,
    *,
    all_but: bool = False,
    calibration: Tensor | None = None,
    progress: Progress | None = None,
    so_far: SoFar | None = None,
    only: Sequence[str] | None = None,
) -> LayerCosts:
    """One scheme over the whole text, batch by batch; in each batch every layer in its turn. As `sensitivity`.

    only     of these layers alone, by their names in a Sensitivity
    so_far   called after each layer with the scheme and the costs measured by then, of `all_but` where it is asked"""
    asked = Scheme.parse(text)
    model = transformed(taken_apart(model), asked, calibration)
    quantized = quantized_copy(model, asked.plain, calibration=calibration)
    apart = quantized
    if asked.needs_hessian:
        apart = quantized_copy(model, asked.plain, calibration=calibration, sequential=False)
    alone = quantized_linears(apart)
    base = quantized_copy(model, "float")  # modules of our own to swap layers in; the tensors are the model's
    layers = quantized_linears(quantized)
    require_layers(text, layers)
    units = {name: of for name, of in measured_together(layers).items() if only is None or name in only}
    if not units:
        raise ValueError(f"{text} quantizes none of {', '.join(only or ())[:80]}; name layers that it does")
    sums = {kind: dict.fromkeys(units, 0.0) for kind in ("alone", "all_but")}
    shown = sums["all_but" if all_but else "alone"]
    heard = dict.fromkeys(units, 0)  # tokens
    whole, counted, done = 0.0, 0, 0
    blocks = block_names(model)
    parts = list(batches(ranks().share(tokens), next(model.parameters()).device, BATCH_TOKENS))
    for batch in parts:
        with (
            torch.inference_mode(),
            recalling(base, blocks) as from_float,
            recalling(quantized, blocks) as from_quantized,
        ):
            log_p = next_log_p(base, batch)
            whole += kl_sum(log_p, next_log_p(quantized, batch))
            counted += log_p.shape[0] * log_p.shape[1]
            if batch is parts[0]:
                last, members = list(units.items())[-1]
                require_shortcut(base, last, {one: alone[one] for one in members}, batch, from_float)
            for name, members in units.items():
                with swapped(base, {one: alone[one] for one in members}), from_float(name):
                    sums["alone"][name] += kl_sum(log_p, next_log_p(base, batch))
                if all_but:
                    floats = {one: model.get_submodule(one) for one in members}
                    with swapped(quantized, floats), from_quantized(name):
                        sums["all_but"][name] += kl_sum(log_p, next_log_p(quantized, batch))
                done += 1
                heard[name] = counted
                if progress:
                    progress(done / (len(units) * len(parts)), name)
                if so_far:
                    so_far(text, {one: shown[one] / heard[one] for one in units if heard[one]})
    told = ranks().all_said((sums, whole, counted))
    whole, counted = sum(one[1] for one in told), sum(one[2] for one in told)
    sums = {kind: {name: sum(one[0][kind][name] for one in told) for name in units} for kind in sums}
    weights, bits = sizes_of(units, layers)
    return LayerCosts(
        scheme=text,
        weights=weights,
        bits=bits,
        alone={name: total / counted for name, total in sums["alone"].items()},
        all_but={name: total / counted for name, total in sums["all_but"].items()} if all_but else {},
        whole=whole / counted,
        tokens=counted,
    )


def transformed(model: nn.Module, scheme: Scheme, calibration: Tensor | None) -> nn.Module:
    """The float model as the scheme's transforms leave it: what one layer's codes are put into."""
    if not scheme.transforms:
        return model
    return taken_apart(treated_model(treated(held(model), Plan(scheme), calibration)))


def require_layers(text: str, layers: Mapping[str, QuantLinear]) -> None:
    """Raises: ValueError for a scheme that quantizes none."""
    if not layers:
        raise ValueError(_nothing(text))


def _nothing(text: str) -> str:
    return f"{text} quantizes nothing, so no layer can hurt; give a scheme such as w:int4/group128"


def sizes_of(
    units: Mapping[str, Sequence[str]], layers: Mapping[str, QuantLinear]
) -> tuple[dict[str, int], dict[str, float]]:
    """How many weights each unit of `measured_together` has, and its bits per weight."""
    weights = {name: layer.out_features * layer.in_features for name, layer in layers.items()}
    held = {name: layer.qweight for name, layer in layers.items()}
    bits = {name: weights[name] * (FLOAT_BITS if q is None else q.bits_per_weight) for name, q in held.items()}
    numbers = {name: sum(weights[one] for one in members) for name, members in units.items()}
    return numbers, {name: sum(bits[one] for one in members) / numbers[name] for name, members in units.items()}


def kl_sum(log_p: Tensor, log_q: Tensor) -> float:
    return float(divergence(log_p, log_q).double().sum())
