"""How modules of transformers keep their experts fused, and where in that an expert's weights lie.

    gate_up_proj (E, 2 I, H), down_proj (E, H, I)     y = down(act(gate x) * up x)
    without a gate: up_proj (E, I, H)                 y = down(act(up x))
    transposed: (E, H, 2 I), (E, I, H)                interleaved: gate and up take turns (GPT-OSS)
    Llama 4: every expert is given every token, those of others as rows of zeros
    DBRX: w1, v1, w2 as (E I, H) each, inside a module of their own

Which layout it is, the module says (`is_transposed`, `is_concatenated`: what transformers' own kernels go by), or its
parameters' names and shapes do. A module of another layout stays as it is.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

from torch import Tensor, nn


class Slice(NamedTuple):
    """Where an expert's weight (O, K) or bias (O,) lies in a fused parameter, (experts, ...): fused[expert], transposed
    where `turned`, of that the rows `rows`. `flat`: of a parameter (flat x n, ...) that keeps so many experts below one
    another; else 0."""

    fused: str
    expert: int
    rows: slice
    turned: bool = False
    flat: int = 0

    def of(self, fused: Any, shape: Sequence[int]) -> Tensor:
        """The slice of a tensor of that shape, whose memory it shares, or of a file's."""
        count = shape[0] // self.flat if self.flat else 1
        place = slice(self.expert * count, (self.expert + 1) * count) if self.flat else self.expert
        one: Tensor = fused[place]
        return (one.T if self.turned else one)[self.rows]


class Layout(NamedTuple):
    """How a fused module keeps its experts. experts: how many. own: for each Linear of an expert ("gate", "up",
    "down"), its weight's and its bias' slice, of expert 0. dense: whether the module is given every token for every
    expert (Llama 4). holder: the submodule that holds the parameters; "": the module itself."""

    experts: int
    own: dict[str, tuple[Slice, Slice | None]]
    dense: bool = False
    holder: str = ""

    @property
    def parts(self) -> dict[str, list[str]]:
        """For each fused parameter the parts of an expert that lie in it."""
        found: dict[str, list[str]] = {}
        for part, (weight, _) in self.own.items():
            found.setdefault(weight.fused, []).append(part)
        return found


def layout_of(module: nn.Module) -> Layout | None:
    """The layout of fused experts; None for a module that is none, or keeps them in a way that nobody here knows."""
    if type(module).__name__ == "DbrxExperts":
        return _dbrx_layout(module)
    down, gate_up, up = (module._parameters.get(name) for name in ("down_proj", "gate_up_proj", "up_proj"))
    first = gate_up if gate_up is not None else up
    if down is None or first is None or down.ndim != 3 or first.ndim != 3 or len(first) != len(down):
        return None
    gated = gate_up is not None
    dense = type(module).__name__ == "Llama4TextExperts"
    if not (dense or hasattr(module, "is_transposed") or hasattr(module, "_apply_gate")):
        return None
    turned = bool(getattr(module, "is_transposed", first.shape[2] == (2 if gated else 1) * down.shape[1]))
    name, inside = ("gate_up_proj", first.shape[2 if turned else 1] // 2) if gated else ("up_proj", 0)
    if not gated:
        parts = {"up": slice(None)}
    elif getattr(module, "is_concatenated", True):
        parts = {"gate": slice(inside), "up": slice(inside, None)}
    else:
        parts = {"gate": slice(0, None, 2), "up": slice(1, None, 2)}
    parts_of = {**{part: (name, rows) for part, rows in parts.items()}, "down": ("down_proj", slice(None))}

    def bias(fused: str, rows: slice) -> Slice | None:
        there = module._parameters.get(f"{fused}_bias") is not None
        return Slice(f"{fused}_bias", 0, rows) if there else None

    own = {part: (Slice(fused, 0, rows, turned), bias(fused, rows)) for part, (fused, rows) in parts_of.items()}
    return Layout(len(down), own, dense)


def _dbrx_layout(module: Any) -> Layout:
    count = int(module.num_experts)
    own = {"gate": ("mlp.w1", False), "up": ("mlp.v1", False), "down": ("mlp.w2", True)}
    slices = {part: (Slice(fused, 0, slice(None), turned, count), None) for part, (fused, turned) in own.items()}
    return Layout(count, dict(slices), holder="mlp")


def fused_experts(model: nn.Module) -> dict[str, Layout]:
    """The modules of a model that keep experts fused and can be taken apart, by name."""
    found = {name: layout_of(module) for name, module in model.named_modules()}
    return {name: layout for name, layout in found.items() if layout is not None}
