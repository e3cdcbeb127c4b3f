"""Matrices that turn a space and lose nothing: Hadamard's of +1 and -1, or random orthogonal ones.

    h = hadamard(384)             384 = 32 * 12: Sylvester's of 32 beside Paley's of 12, as a Kronecker product
    r = h / sqrt(384)             r r = identity: every matrix here is symmetric, so it undoes itself

An outlier in one channel, x e_j, becomes x / sqrt(n) in all of them. Known orders are 1, 2, q + 1 for a prime q = 3 mod
4, 2 (q + 1) for a prime q = 1 mod 4, and their products; which leaves out 92, 156 and a few more.

Sources: Paley 1933, On orthogonal matrices; Sylvester 1867. Rotations of language models: Ashkboos et al. 2024,
arXiv:2404.00456 (QuaRot).
"""

from __future__ import annotations

from functools import lru_cache

import torch
from torch import Tensor

LARGEST_PRIME = 2000


def rotation(kind: str, width: int) -> Tensor:
    """An orthogonal matrix (width, width), float64: "hadamard", or "random" (always the same one).

    Raises: ValueError for a width without a known Hadamard matrix."""
    if kind == "random":
        return _random(width)
    if not has_hadamard(width):
        raise ValueError(f"no Hadamard matrix of width {width} is known here; use rotate=random, which takes any width")
    return hadamard(width).double().div(width**0.5)


def has_hadamard(width: int) -> bool:
    return width in (1, 2) or (width > 2 and _split(width) is not None)


@lru_cache(maxsize=8)
def hadamard(width: int) -> Tensor:
    """A symmetric Hadamard matrix, (width, width) int8 of +1 and -1: H H = width I. `has_hadamard` says whether."""
    if width == 1:
        return torch.ones(1, 1, dtype=torch.int8)
    if width == 2:
        return torch.tensor([[1, 1], [1, -1]], dtype=torch.int8)
    found = _split(width)
    if found is None:
        raise ValueError(f"no Hadamard matrix of order {width} is known here")
    own, rest = found
    return torch.kron(hadamard(rest), _paley(own)) if own > 2 else torch.kron(hadamard(2), hadamard(rest))


def factors(width: int) -> list[int]:
    """The orders whose Hadamard matrices' Kronecker product, in this order, is that of the width; powers of two in one.

    factors(14336) = [64, 224]. Raises: ValueError for a width without a known one."""
    if width & (width - 1) == 0:
        return [width]
    found = _split(width)
    if found is None:
        raise ValueError(f"no Hadamard matrix of order {width} is known here")
    own, rest = found
    return ([own] if rest == 1 else [*factors(rest), own]) if own > 2 else _doubled(factors(rest))


def _doubled(rest: list[int]) -> list[int]:
    first = rest[0]
    return [2 * first, *rest[1:]] if first & (first - 1) == 0 else [2, *rest]


def _split(width: int) -> tuple[int, int] | None:
    """A known order and what is left when it is divided out, as a product of known orders; the least doublings last."""
    if width & (width - 1) == 0:
        return 2, width // 2
    own = width
    while own % 4 == 0 or own == width:
        if _prime_of(own) is not None:
            return own, width // own
        if own % 2:
            break
        own //= 2
    for other in range(12, width // 2 + 1, 4):  # two of Paley's, such as 12 * 12
        if width % other == 0 and _prime_of(other) is not None and has_hadamard(width // other):
            return other, width // other
    return None


def _prime_of(order: int) -> int | None:
    """The prime that makes Paley's matrix of this order; negative where it is his second way."""
    if order % 4 or order > LARGEST_PRIME:
        return None
    if (order - 1) % 4 == 3 and _is_prime(order - 1):
        return order - 1
    half = order // 2 - 1
    return -half if half % 4 == 1 and _is_prime(half) else None


def _is_prime(number: int) -> bool:
    return number > 1 and all(number % one for one in range(2, int(number**0.5) + 1))


def _paley(order: int) -> Tensor:
    """Paley's symmetric matrix. chi(x) = 1 for a square, -1 for none, 0 for 0, modulo q.

    q = 3 mod 4    a border of ones around -chi(i + j), whose zeros (i + j = 0) become -1
    q = 1 mod 4    C = chi(i - j) with a border of ones and a corner of 0:  C (x) [[1, 1], [1, -1]] + I (x) [[1, -1],
                   [-1, -1]]"""
    prime = _prime_of(order)
    assert prime is not None
    q = abs(prime)
    places = torch.arange(q)
    squares = torch.full((q,), -1, dtype=torch.int64)
    squares[places**2 % q] = 1
    squares[0] = 0
    if prime > 0:
        inside = -squares[(places[:, None] + places) % q]
        inside[inside == 0] = -1
        found = torch.ones(order, order, dtype=torch.int8)
        found[1:, 1:] = inside.to(torch.int8)
        return found
    conference = torch.ones(q + 1, q + 1, dtype=torch.int64)
    conference[0, 0] = 0
    conference[1:, 1:] = squares[(places[:, None] - places) % q]
    one, other = torch.tensor([[1, 1], [1, -1]]), torch.tensor([[1, -1], [-1, -1]])
    return (torch.kron(conference, one) + torch.kron(torch.eye(q + 1, dtype=torch.int64), other)).to(torch.int8)


@lru_cache(maxsize=4)
def _random(width: int) -> Tensor:
    """Uniform over all rotations: the Q of a Gaussian matrix with R's diagonal made positive (Mezzadri 2006)."""
    drawn = torch.randn(width, width, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    q, r = torch.linalg.qr(drawn)
    found: Tensor = q * r.diagonal().sign()
    return found
