"""A turn of what enters a Linear, done when the model runs: x T^-1, against W T^T in the weight, block by block.

    turn = hadamard_turn(128)           x' = turn.of_inputs(x)        W' = turn.of_weight(W)        x' W'^T = x W^T

What is spread so is spread before it is rounded, and nobody before the layer need know of it.
"""

from __future__ import annotations

import weakref
from typing import Any

import torch
from torch import Tensor

from quantcore.methods.transforms.fwht import turned
from quantcore.methods.transforms.hadamard import has_hadamard

DAMP = 0.01  # of the mean diagonal, added to second moments


class Turn:
    """What is done to a layer's inputs and to its weight; copies of a model share it.

    block   neighbouring channels that are turned together"""

    def __init__(self, block: int) -> None:
        self.block = block
        self._last: tuple[weakref.ref[Tensor], Tensor] | None = None  # what entered last, and what became of it

    @property
    def held_bytes(self) -> int:
        """Bytes that the turn takes beside the layer when the model runs."""
        return 0

    def of_inputs(self, x: Tensor) -> Tensor:
        """x T^-1, the shape and type of x (..., K)."""
        raise NotImplementedError

    def of_weight(self, weight: Tensor) -> Tensor:
        """W T^T, the shape of W (O, K), in float32 or float64."""
        raise NotImplementedError

    def before(self, _: object, inputs: tuple[Any, ...]) -> tuple[Any, ...]:
        """A forward pre-hook. Layers that read one tensor (q, k, v) get one that is turned once."""
        x, last = inputs[0], self._last
        if last is None or last[0]() is not x:
            last = self._last = (weakref.ref(x, self._forget), self.of_inputs(x))
        return (last[1], *inputs[1:])

    def _forget(self, gone: weakref.ref[Tensor]) -> None:
        if self._last is not None and self._last[0] is gone:
            self._last = None

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_last": None}

    def __deepcopy__(self, memo: dict[int, Any]) -> Turn:
        return self


class HadamardTurn(Turn):
    """T the Hadamard matrix of the block's width, times signs (width,) where it has any: T = H diag(signs)."""

    def __init__(self, block: int, signs: Tensor | None = None) -> None:
        """Raises: ValueError for a width without a known matrix."""
        super().__init__(block)
        if not has_hadamard(block):
            raise ValueError(f"no Hadamard matrix of width {block} is known here; turn blocks of a power of two")
        self.signs = signs

    def of_inputs(self, x: Tensor) -> Tensor:
        if self.signs is not None:
            x = (x.reshape(-1, self.block) * self.signs.to(x)).view(x.shape)
        return turned(x, self.block)

    def of_weight(self, weight: Tensor) -> Tensor:
        return self.of_inputs(weight if weight.dtype == torch.float64 else weight.float())


class BlockTurn(Turn):
    """A matrix of its own for each block: of_weight multiplies by (blocks, width, width), of_inputs by its inverse,
    transposed."""

    def __init__(self, weights: Tensor, inputs: Tensor) -> None:
        super().__init__(weights.shape[-1])
        self._weights, self._inputs = weights, inputs.float()

    @property
    def held_bytes(self) -> int:
        return self._inputs.nbytes

    def of_inputs(self, x: Tensor) -> Tensor:
        return self._by_blocks(x, self._inputs).to(x.dtype)

    def of_weight(self, weight: Tensor) -> Tensor:
        return self._by_blocks(weight, self._weights)

    def _by_blocks(self, x: Tensor, matrices: Tensor) -> Tensor:
        work = matrices.to(x.device, torch.float64 if x.dtype == torch.float64 else torch.float32)
        blocks = x.reshape(-1, len(matrices), self.block).transpose(0, 1).to(work.dtype)
        found: Tensor = torch.bmm(blocks, work).transpose(0, 1).reshape(x.shape)
        return found


def moments_of(rows: Tensor, block: int) -> Tensor:
    """rows^T rows of each block of columns by itself, (K / block, block, block), in the type of rows (N, K).

    Raises: ValueError for a block that does not divide K."""
    if rows.shape[1] % block:
        raise ValueError(f"blocks of {block} do not divide {rows.shape[1]} channels; use a block that does")
    blocks = rows.view(len(rows), -1, block).transpose(0, 1)
    return torch.bmm(blocks.mT, blocks)


def wush_turn(weight: Tensor, moments: Tensor) -> BlockTurn:
    """WUSH's turn of a layer: what a block's channels carry is made equally large in the weight and in the inputs, and
    spread over the block.

        W^T W = L L^T    X^T X = M M^T    M^T L = U S V^T        T = H S^1/2 V^T L^-1        T^-T = H S^-1/2 V^T L^T

    Then T W^T W T^T = T^-T X^T X T^-1 = H S H: the same second moments on both sides. Shapes: weight (O, K), moments
    (K / block, block, block) = X^T X of each block; both with DAMP of their mean diagonal. In float64.
    Source: Chen et al. 2025, arXiv:2512.00956 (WUSH), theorem for a block of weights and activations."""
    block = moments.shape[-1]
    lower_w, lower_x = (_lower(one) for one in (moments_of(weight.double(), block), moments.double()))
    _, s, vh = torch.linalg.svd(lower_x.mT @ lower_w)
    spread = turned(torch.eye(block, dtype=torch.float64, device=weight.device), block)
    root = s.sqrt()[..., None]
    of_weights = spread @ (root * torch.linalg.solve_triangular(lower_w, vh, upper=False, left=False))
    of_inputs = spread @ (vh @ lower_w.mT / root)
    return BlockTurn(of_weights.mT.contiguous(), of_inputs.mT.contiguous())


def _lower(moments: Tensor) -> Tensor:
    """The Cholesky factors of damped moments, (blocks, block, block)."""
    mean = moments.diagonal(dim1=1, dim2=2).mean(1)
    damped = moments.clone()
    damped.diagonal(dim1=1, dim2=2).add_(DAMP * torch.where(mean > 0, mean, torch.ones_like(mean))[:, None])
    factor: Tensor = torch.linalg.cholesky(damped)
    return factor
