"""Small problems that make every kernel compile which the pages and a whole model's GPTQ launch.

A kernel is compiled for the types, the format and the tile at hand. So the real functions are called, once for each
combination that a Linear's shape leads to: no list of kernels has to be kept in step with them.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import cast

import torch

from quantcore.matmul.paths import open_paths
from quantcore.methods.gptq import GptqProblem, gptq_quantize_many
from quantcore.methods.options import Gptq
from quantcore.methods.sweep import GPU_BLOCK
from quantcore.numbers.kernels.launch import on_device
from quantcore.numbers.qtensor import qparams_for, quantize
from quantcore.scheme.scheme import Scheme

Shape = tuple[int, int]
TOKENS = (1, 8, 16, 24, 32, 40, 64, 100, 256, 2048)  # one alone; of each tile fewer than it holds, and as many
PAGES = ("w:int4/channel", "w:int4/group64")  # what the first page and the page of GPTQ begin with
SCHEMES = ("W4A16", "W4A16_ASYM", "W8A16", "W8A8", "FP8_DYNAMIC", "FP8", "FP8_BLOCK", *PAGES)
PROMPT = 16  # tokens: the tile that the first page's sentence fills
SLIDER = tuple(f"w:int{bits}/channel" for bits in range(2, 9))  # of the first page
REFERENCE = ((384, 384), (128, 384), (1024, 384), (384, 1024))
LLAMAS = ((4096, 4096), (1024, 4096), (14336, 4096), (4096, 14336), (2048, 2048), (512, 2048), (8192, 2048))
COMMON: tuple[Shape, ...] = (*REFERENCE, *LLAMAS, (2048, 8192))
WIDE = 8192  # rows and columns beyond it are many: a tile of their own


@dataclass(frozen=True)
class Work:
    """A small problem for the real functions. kind: `gptq` or `product`."""

    kind: str
    scheme: str
    shape: Shape
    tokens: int = 0

    def __str__(self) -> str:
        tokens = f", {self.tokens} tokens" if self.tokens else ""
        return f"{self.kind} {self.scheme}, {self.shape[0]} x {self.shape[1]}{tokens}"


def works(shapes: Iterable[Shape] = COMMON) -> list[Work]:
    """All that Linears of these shapes, (O, K), lead to: first GPTQ, which takes longest to compile."""
    shapes = list(dict.fromkeys(shapes))
    ways = [f"w:int4/group128{zero},gptq{order}" for order in ("", "/actorder=weight") for zero in ("", "/asym")]
    sizes = [(64, 512), (WIDE + 64, 512)]  # many rows have a tile of their own, and so has a wide Hessian
    sizes += [(64, GPU_BLOCK)] * any(width <= GPU_BLOCK for _, width in shapes)  # one block: no products between blocks
    found = [Work("gptq", ways[0], (64, WIDE + 128))] if any(width > WIDE for _, width in shapes) else []
    found += [Work("gptq", way, size) for size in sizes for way in ways]
    cut = dict.fromkeys((out if out <= WIDE else WIDE + out % 128, width) for out, width in shapes)
    products = [Work("product", scheme, shape, count) for scheme in SCHEMES for shape in cut for count in TOKENS]
    products += [Work("product", scheme, shape, PROMPT) for scheme in SLIDER if scheme not in PAGES for shape in cut]
    return found + [work for work in products if _fits(work)]


def _fits(work: Work) -> bool:
    """Whether the scheme's tiles divide such a weight."""
    weights = Scheme.parse(work.scheme).weights
    assert weights is not None
    try:
        weights.granularity.tile(work.shape)
    except ValueError:
        return False
    return True


def run(work: Work, device: torch.device) -> None:
    """Do it, once."""
    scheme = Scheme.parse(work.scheme)
    spec = scheme.weights
    assert spec is not None
    generator = torch.Generator(device).manual_seed(0)
    with on_device(device):
        weight = torch.randn(work.shape, device=device, dtype=torch.bfloat16, generator=generator)
        if work.kind == "product":
            x = torch.randn(work.tokens, work.shape[1], device=device, dtype=torch.bfloat16, generator=generator)
            acts = scheme.activations
            static = None if acts is None or not acts.static else qparams_for(x, acts)
            q = quantize(weight, spec)
            open_paths(x, q, acts)[0].run(x, q, acts, static)
        else:
            hessian = torch.eye(work.shape[1], device=device)
            gptq_quantize_many([GptqProblem(weight, spec, cast(Gptq, scheme.method))], hessian)
        if device.type == "cuda":
            torch.cuda.synchronize(device)
