"""A group of Hopper's warps that multiplies codes, in torch: operands lie in stages that are filled when they are
waited for and spoiled when they are let go, and a product is done no sooner than it is waited for. Triton's interpreter
runs no Gluon."""

from types import ModuleType, SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor

from quantcore.matmul.kernels import hopper_bring, hopper_parts, hopper_results
from quantcore.matmul.kernels.hopper_parts import piece_of
from quantcore.matmul.kernels.tile_order import place

SPOILED = 77.0


class Shared:
    """Buffers, of which a kernel takes one, a part of it, turned or not; what it gets follows what lies there."""

    def __init__(self, whole: Tensor) -> None:
        self.whole, self.shape = whole, whole.shape

    def index(self, at: int) -> "Shared":
        return Shared(self.whole[at])

    def slice(self, first: int, rows: int) -> "Shared":
        return Shared(self.whole[first : first + rows])

    def permute(self, order: list[int]) -> "Shared":
        return Shared(self.whole.permute(order))

    def load(self, _layout: Any) -> Tensor:
        return self.whole.clone()


class Numbers:
    """A pointer to them."""

    def __init__(self, numbers: Tensor, at: Any = 0) -> None:
        self.numbers, self.at = numbers, at

    def __add__(self, more: Any) -> "Numbers":
        return Numbers(self.numbers, self.at + more)


class Product:
    """Sums that the tensor cores have not given yet."""

    def __init__(self, left: Any, right: Shared, before: Any) -> None:
        self.left, self.right, self.before = left, right, before
        self.sums: Tensor | None = None

    def end(self) -> None:
        left = self.left.whole if isinstance(self.left, Shared) else self.left
        self.sums = left @ self.right.whole + self.before


class Stages:
    """What one group sees: `l_bufs` (2 a stage), `r_bufs` (`boxes` a stage), `s_bufs`, and the barriers."""

    def __init__(self, count: int, boxes: int, block_r: int) -> None:
        self.count, self.boxes = count, boxes
        self.l = torch.full((2 * count, 64, 128), SPOILED)
        self.r = torch.full((boxes * count, block_r // boxes, 128), SPOILED)
        self.s = torch.full((count, 128), SPOILED)
        self.blocks: list[
            tuple[Tensor, Tensor, Tensor]
        ] = []  # what comes, in its order: (128, 128), (rows, 128), (128)
        self.came = self.gone = 0
        self.full, self.empty = Shared(torch.arange(count)), Shared(torch.arange(count))

    def wait(self, barrier: Shared, parity: int, pred: bool = True) -> None:
        if not pred:
            return
        step = self.came if int(barrier.whole) == self.came % self.count else self.came - 1
        assert (int(barrier.whole), parity) == (step % self.count, step // self.count & 1), "waits for another block"
        if step == self.came:
            assert self.came < len(self.blocks), "waits for a block that never comes"
            assert self.came - self.gone < self.count, "waits for a block that has no room"
            left, right, scale = self.blocks[step]
            at = step % self.count
            self.l[2 * at : 2 * at + 2] = left.view(2, 64, 128)
            self.r[self.boxes * at : self.boxes * (at + 1)] = right.view(self.boxes, -1, 128)
            self.s[at] = scale
            self.came += 1

    def arrive(self, barrier: Shared, count: int) -> None:
        at = self.gone % self.count
        assert (int(barrier.whole), count) == (at, 1), "lets another stage go"
        assert self.gone < self.came, "lets a stage go that was not there"
        self.l[2 * at : 2 * at + 2] = self.r[self.boxes * at : self.boxes * (at + 1)] = self.s[at] = SPOILED
        self.gone += 1


def emulate(
    monkeypatch: pytest.MonkeyPatch, modules: list[ModuleType], stages: Stages, number: int, programs: int
) -> list[tuple[Any, ...]]:
    """Let `modules` run in Python; what their program leaves: (where, sums), as `write` and `keep_part` are given, and
    when it counts, and lets the next kernel begin. Of split tiles every other one is done with this program's piece;
    the sum of its parts is the number of the first."""
    doing: list[Product] = []
    left: list[tuple[Any, ...]] = []
    counted: list[int] = []

    def is_last(turns: Numbers, splits: int) -> bool:
        left.append(("turn", turns.at, splits, torch.zeros(0)))
        counted.append(turns.at)
        return len(counted) % 2 == 0

    def multiply(a: Any, b: Shared, before: Any, use_acc: bool, is_async: bool) -> Product:
        doing.append(Product(a, b, before if use_acc else 0))
        return doing[-1]

    def wait(pending: int, deps: tuple[Any, ...]) -> Any:
        while len(doing) > pending:
            doing.pop(0).end()
        found = tuple(one.sums if isinstance(one, Product) else one for one in deps)
        assert all(one is not None for one in found), "taken before it is done"
        return found if len(found) > 1 else found[0]

    def load(at: Numbers, mask: Tensor | None = None, other: float = 0.0) -> Tensor:
        if mask is None:
            return at.numbers.view(-1)[at.at]
        return torch.where(mask, at.numbers[at.at.clamp(max=len(at.numbers) - 1)], other)

    gl = SimpleNamespace(
        cdiv=lambda a, b: -(-a // b), static_range=range, program_id=lambda _axis: number,
        num_programs=lambda _axis: programs, float32=torch.float32, int32=torch.float32,
        zeros=lambda shape, dtype, _layout: torch.zeros(shape, dtype=dtype),
        arange=lambda first, behind, _layout: torch.arange(first, behind),
        minimum=lambda a, b: a.clamp(max=b) if isinstance(a, Tensor) else min(a, b),
        load=load, join=lambda a, b: torch.stack([a, b], -1),
        convert_layout=lambda x, _layout, **_: x,
        where=lambda which, a, b: a if which else torch.zeros_like(a) + b, bfloat16=torch.float32,
        NVMMADistributedLayout=lambda *_, **__: None, DotOperandLayout=lambda *_, **__: None,
        DistributedLinearLayout=lambda **_: None, SliceLayout=lambda *_: None,
    )  # fmt: skip
    fakes = {
        "gl": gl, "mbarrier": SimpleNamespace(wait=stages.wait, arrive=stages.arrive), "after_last": lambda _: None,
        "tma": SimpleNamespace(store_wait=lambda _: None), "warpgroup_mma": multiply, "warpgroup_mma_wait": wait,
        "piece_of": piece_of.fn, "place": place.fn, "planes_of": lambda words, _: (words, None),
        "operand_of": lambda sizes, *_: sizes, "unpacked_codes": lambda words, *_: words,
        "asked_for": lambda scale: scale,
        "left_scales": lambda *_: None, "results": lambda sums, *_: sums,
        "let_next": lambda _: left.append(("next", 0, 0, torch.zeros(0))), "is_last": is_last,
        "keep_part": lambda _parts, sums, part: left.append(("part", part, 0, sums)),
        "sum_of_parts": lambda _parts, like, first, splits, apart: torch.full_like(like, first + splits * apart / 64),
        "write": lambda sums, _buf, _desc, at_l, at_r, _turned: left.append(("tile", at_l, at_r, sums)),
    }  # fmt: skip
    monkeypatch.setattr(torch.Tensor, "expand_dims", torch.Tensor.unsqueeze, raising=False)
    for module in (hopper_bring, hopper_results, *modules):
        for name, one in list(vars(module).items()):
            if name in fakes and module is not hopper_results:
                monkeypatch.setattr(module, name, fakes[name])
            elif hasattr(one, "fn"):
                monkeypatch.setattr(module, name, one.fn)
    monkeypatch.setattr(hopper_results, "gl", gl)
    return left


def emulate_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let `hopper_parts` keep and add parts in Python; the layout of numbers is nothing there."""

    def store(at: Numbers, numbers: Tensor) -> None:
        at.numbers.view(-1)[at.at] = numbers

    gl = SimpleNamespace(
        constexpr=int, SliceLayout=lambda *_: None, arange=lambda first, behind, _layout: torch.arange(first, behind),
        load=lambda at, **_: at.numbers.view(-1)[at.at], store=store, convert_layout=lambda x, _layout, **_: x,
    )  # fmt: skip
    monkeypatch.setattr(torch.Tensor, "expand_dims", torch.Tensor.unsqueeze, raising=False)
    monkeypatch.setattr(torch.Tensor, "type", SimpleNamespace(layout=None))
    monkeypatch.setattr(hopper_parts, "gl", gl)
    for name in ("_by_thread", "_by_row", "_places"):
        monkeypatch.setattr(hopper_parts, name, getattr(hopper_parts, name).fn)
