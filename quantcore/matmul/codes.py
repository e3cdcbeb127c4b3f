"""What the paths of `matmul` hand to each other: the codes of tokens and the codes of a weight, ready to be
multiplied."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from quantcore.numbers.spec import QuantSpec

MULTIPLE = 128  # K is padded to a multiple of it
ROOM = 256  # tokens of the largest tile
ROWS_A_TURN = 16  # rows of a weight for which there is a turn to count
LEAST_TURNS = 512  # two for each tile that programs share on Hopper: fewer tiles than it has multiprocessors


class Coding(NamedTuple):
    """How tokens become codes: under `spec`, kept in `dtype`."""

    spec: QuantSpec
    dtype: torch.dtype


class TokenCodes(NamedTuple):
    """Codes of N tokens.

    codes        (N, padded K), in their format's type; or (N, K) in 16-bit floats, for products in those
    scale        (N,), (1,) or (N, K / group), float32
    zero_point   like scale, int32; None where symmetric
    sums         (N,), int32: the sum of q - zero_point over each token; None where nobody asked
    """

    codes: Tensor
    scale: Tensor
    zero_point: Tensor | None
    sums: Tensor | None


def a_token(tokens: int, dtype: torch.dtype, device: torch.device) -> Tensor:
    """Memory for one number a token, with room behind the last one: kernels read whole tiles of them, pairs at once."""
    return torch.empty(-(-tokens // ROOM) * ROOM, dtype=dtype, device=device)[:tokens]


def has_room(numbers: Tensor, wanted: int) -> bool:
    """Whether so many may be read."""
    return numbers.untyped_storage().nbytes() >= (numbers.storage_offset() + wanted) * numbers.element_size()


def no_turns(rows: int, device: torch.device) -> Tensor:
    """Zeros to count in how many pieces of each tile of a weight are done."""
    return torch.zeros(max(-(-rows // ROWS_A_TURN), LEAST_TURNS), dtype=torch.int32, device=device)


class CodedWeight(NamedTuple):
    """Codes of a weight, both dimensions padded by zero codes.

    codes        (padded O, padded K)
    scale        (padded O,), (1,) or (O / rows, K / 128), float32
    zero_point   (padded O,) or (1,), int32; None where symmetric
    sums         (padded O,), int32: the sum of each row's codes; None where activations are symmetric
    out          O
    turns        zeros: how many pieces of a tile are done, so no weight is for two products at the same time
    rows         rows of a block that share a scale; 0 where scales leave the sum over K
    kept         whether codes were written long ago, so that kernels may read them before the one before has ended
    """

    codes: Tensor
    scale: Tensor
    zero_point: Tensor | None
    sums: Tensor | None
    out: int
    turns: Tensor
    rows: int = 0
    kept: bool = False
