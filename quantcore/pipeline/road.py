"""One plan on its way through the parts: which layers of each it quantizes, by what, and how long that takes."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn

from quantcore.matmul.layers import QuantLinear
from quantcore.model.held import Held
from quantcore.model.layer_names import by_block, expert_of, served_as_one
from quantcore.model.linears import every_linear, linear_shapes, why_float
from quantcore.model.places import copy_with
from quantcore.pipeline.calibration import LayerStats
from quantcore.pipeline.clock import Clock
from quantcore.pipeline.hessians import SharedHessian, hessians_of, portioned
from quantcore.pipeline.layers import (
    LayerReport,
    Made,
    counted,
    left_float_report,
    quantize_sets,
    quantize_together,
    reports_of,
    static_qparams,
)
from quantcore.pipeline.owners import Members, Sums, solve_shared
from quantcore.pipeline.ranks import ranks
from quantcore.pipeline.seen import Passing, Seen
from quantcore.pipeline.treated import changed
from quantcore.scheme.scheme import Scheme

READ, CALIBRATE, SOLVE = "read", "calibrate", "solve"
DRIFT_ROWS = 4  # tokens for a column of the widest layer: from so many is learned how far its inputs have moved


@dataclass(frozen=True)
class Part:
    """A decoder block, or (name "") what lies outside of the blocks.

    original   float, as the model has it, on the device until the next part is asked for
    module     its quantized form, which shares what stays float; `original` itself where all stays float
    root       a module that holds `module` under its full name
    treated    float tensors that the plan's transforms changed, by full name
    layers     every QuantLinear of it by full name
    reports    of each of them, then of each matrix that stays float because it cannot be quantized
    seconds    READ: waiting for its weights, CALIBRATE: the text through it, SOLVE: its codes; on the device"""

    name: str
    original: nn.Module
    module: nn.Module
    root: nn.Module
    treated: dict[str, Tensor]
    layers: dict[str, QuantLinear]
    reports: tuple[LayerReport, ...]
    seconds: dict[str, float]


class Road:
    """One plan on its way: which layers of each part it quantizes, and the text behind what it has quantized."""

    def __init__(
        self,
        label: str,
        model: Held,
        schemes: dict[str, Scheme],
        calibration: Tensor | None,
        read: int,
        weighed: bool = True,
    ) -> None:
        """calibration: for Hessians behind the quantized blocks; None where they come from elsewhere. read: tokens of
        the calibration text. weighed: whether reports say what the weights lost."""
        self.label, self.model, self.schemes, self.clock = label, model, schemes, Clock(model.device)
        self.names = by_block(model.blocks, schemes)
        self._why_float = why_float(model.skeleton) if schemes else {}
        self._left = by_block(model.blocks, self._why_float)
        self._sets: dict[str, list[str]] = {}  # by its first layer, what was solved together
        self._read, self._weighed = read, weighed
        by_hessian = [name for name, one in schemes.items() if one.needs_hessian]
        self._text = self._float_text = None
        by_drift = [name for name, one in schemes.items() if one.needs_drift]
        if by_hessian and calibration is not None:
            text = ranks().share(calibration)
            if by_drift:
                few, rest = self._for_drift(calibration, by_drift)
                text = torch.cat([few, rest])
                self._float_text = Passing(model, few, by_drift)
            self._text = Passing(model, text, by_hessian)
        self._moved = False  # whether what is quantized already moves the inputs of the next part

    def _for_drift(self, calibration: Tensor, names: list[str]) -> tuple[Tensor, Tensor]:
        """This rank's windows: those whose float inputs are looked at too, and the others. In all, whatever the number
        of ranks, these are the same windows, evenly spread: DRIFT_ROWS tokens a column. A regression on some rows a
        column costs a quarter of one on all, and loses 0 to 5% by it."""
        shapes = linear_shapes(self.model.skeleton)
        count, length = calibration.shape
        wanted = math.ceil(DRIFT_ROWS * max(shapes[name][1] for name in names) / length)
        wanted = min(count, max(wanted, ranks().size))
        self._more = count / wanted
        taken = torch.zeros(count, dtype=torch.bool)
        taken[torch.arange(wanted) * count // wanted] = True
        mine, taken = ranks().share(calibration), ranks().share(taken).to(calibration.device)
        return mine[taken], mine[~taken]

    def make(self, name: str, root: nn.Module, module: nn.Module, floats: Seen) -> dict[str, Made]:
        """The layers of a part, quantized; those that read one input together."""
        layers, found = every_linear(root), dict[str, Made]()
        schemes = {one: self.schemes[one] for one in self.names[name]}
        portions = [schemes] if self._text is None else portioned(schemes, layers, module)
        for portion in portions:
            found |= self._made(name, layers, module, floats, portion)
        return {one: found[one] for one in self.names[name]}

    def _made(
        self, name: str, layers: Mapping[str, nn.Linear], module: nn.Module, floats: Seen, schemes: Mapping[str, Scheme]
    ) -> dict[str, Made]:
        """Those of a part's layers whose Hessians are held at a time."""
        found: dict[str, Made] = {}
        ranges, mine = floats.ranges_for(schemes), floats.hessians_for(schemes)
        if self._text is not None:
            with self.clock.piece(CALIBRATE):
                mine = self._hessians(name, module, self._text, schemes)
        members = {one: (layers[one], scheme) for one, scheme in schemes.items()}
        tokens = self._tokens(mine, ranges, schemes)
        if not ranks().alone and any(scheme.needs_hessian for scheme in schemes.values()):
            found = self._shared(mine, members, ranges, summed=self._text is None and floats.whole)
            mine = []
        known = {*found, *(one for shared in mine for one in shared.layers)}
        for sets in _alike(mine, members):
            first = sets[0].layers[0]
            with self.clock.piece(first):
                found |= quantize_sets(
                    [({one: members[one] for one in each.layers}, each.hessian, each.drift) for each in sets],
                    ranges,
                    self._weighed,
                )
            self._sets[first] = [one for each in sets for one in each.layers]
        plain = {  # of a layer that no token came to, too
            one: (layer, scheme.without_text if scheme.needs_hessian else scheme)
            for one, (layer, scheme) in members.items()
            if one not in known
        }
        for together in under_one_global(plain):
            with self.clock.piece(together[0]):
                found |= quantize_together({one: plain[one] for one in together}, ranges, None, self._weighed)
            self._sets[together[0]] = together
        for one, count in tokens.items():
            found[one].report = counted(found[one].report, self.schemes[one], count, self._read)
        return found

    def _hessians(
        self, name: str, module: nn.Module, text: Passing, schemes: Mapping[str, Scheme]
    ) -> list[SharedHessian]:
        """Those of a part, behind what is quantized already."""
        wanted = [one for one in text.wanted[name] if one in schemes]
        found: list[SharedHessian] = []
        ways = list(dict.fromkeys((schemes[one].every_token, schemes[one].needs_drift) for one in wanted))
        for every, drift in ways:
            rest = [one for one in ways if one[1] and one != (every, drift)]
            mine = [one for one in wanted if (schemes[one].every_token, schemes[one].needs_drift) == (every, drift)]
            floats = None
            if drift and self._float_text is not None and self._moved:
                floats = self._float_text.passing(module, last=len(schemes) == len(self.names[name]) and not rest)
            sums = hessians_of(module, name, mine, text.walk, every, floats)
            found += [one if one.drift is None else one._replace(drift=one.drift * self._more) for one in sums]
        return found

    def _tokens(
        self, mine: list[SharedHessian], ranges: Mapping[str, LayerStats], schemes: Mapping[str, Scheme]
    ) -> dict[str, int]:
        """How many tokens of the calibration text each layer of a part has seen that needs to, on all ranks."""
        seen = dict.fromkeys((one for shared in mine for one in shared.layers), 0)
        for shared in mine:
            seen |= dict.fromkeys(shared.layers, shared.tokens)
        said = ranks().all_said(seen) if any(scheme.needs_hessian for scheme in schemes.values()) else [seen]
        return {
            one: sum(counts.get(one, 0) for counts in said) if scheme.needs_hessian else ranges[one].tokens
            for one, scheme in schemes.items()
            if scheme.needs_hessian or (scheme.needs_ranges and one in ranges)
        }

    def _shared(
        self, mine: list[SharedHessian], members: Members, ranges: Mapping[str, LayerStats], summed: bool
    ) -> dict[str, Made]:
        """The sets of layers with a Hessian, each solved by one of the ranks."""
        statics = {one: static_qparams(scheme.activations, ranges.get(one)) for one, (_, scheme) in members.items()}

        def solve(together: Members, hessian: Tensor, drift: Tensor | None) -> dict[str, Made]:
            return quantize_sets([(together, hessian, drift)], ranges, self._weighed)

        first = next(iter(members))
        with self.clock.piece(first):
            if self._text is None:  # another plan wants them too
                mine = [shared._replace(hessian=shared.hessian.clone()) for shared in mine]
            sets = [Sums(shared.hessian, shared.layers, shared.drift) for shared in mine]
            found = solve_shared(sets, members, statics, solve, summed)
        self._sets[first] = list(found)
        return found

    def part(
        self, name: str, original: nn.Module, root: nn.Module, made: Mapping[str, Made], windows: int, read_s: float
    ) -> Part:
        """What `make` made, once the device is done with it; `root` holds the part as the transforms left it."""
        reports = dict(zip(made, reports_of(made.values(), windows), strict=True))
        seconds = self.clock.seconds()
        calibrate = seconds.pop(CALIBRATE, 0.0)
        for first, spent in seconds.items():
            together = {one: math.prod(reports[one].shape) for one in self._sets.pop(first)}
            for one, numbers in together.items():
                reports[one] = replace(reports[one], seconds=spent * numbers / sum(together.values()))
        layers = {one: layer.layer for one, layer in made.items()}
        copied = copy_with(root, layers) if layers else root
        after = {} if root.get_submodule(name) is original else changed(original, root.get_submodule(name))
        full = {f"{name}.{key}".removeprefix("."): one for key, one in after.items()}
        floats = {key: one for key, one in full.items() if key.rpartition(".")[0] not in layers}
        rest = [left_float_report(key, root.get_parameter(key), self._why_float[key]) for key in self._left[name]]
        return Part(
            name, original, copied.get_submodule(name), copied, floats, layers, (*reports.values(), *rest),
            {READ: read_s, CALIBRATE: calibrate, SOLVE: sum(seconds.values())},
        )  # fmt: skip

    def advance(self, floats: nn.Module, block: nn.Module) -> None:
        """Take the texts past a block, in float and quantized."""
        self._moved |= block is not floats
        with self.clock.piece(CALIBRATE):
            if self._float_text is not None:
                self._float_text.advance(floats)
            if self._text is not None:
                self._text.advance(block)


def _alike(sets: list[SharedHessian], members: Members) -> list[list[SharedHessian]]:
    """The sets, those together whose layers are experts of the same shapes and schemes."""
    found: dict[object, list[SharedHessian]] = {}
    for one in sets:
        likeness: object = one.layers[0]
        if all(expert_of(name) for name in one.layers):
            likeness = tuple((tuple(members[name][0].weight.shape), members[name][1]) for name in one.layers)
        found.setdefault(likeness, []).append(one)
    return list(found.values())


def under_one_global(members: Members) -> list[list[str]]:
    """The layers whose coded scales stand under one global scale, since servers join them (`served_as_one`); any other
    layer by itself."""
    found: list[list[str]] = []
    for unit in served_as_one(members).values():
        weights = [members[one][1].weights for one in unit]
        joined = any(spec is not None and spec.scales.has_global for spec in weights)
        found += [unit] if joined else [[one] for one in unit]
    return found
