"""How far the reconstructed numbers are from the real ones: errors and SQNR."""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor

ERROR_CHUNK = 2**18  # numbers that a CPU works on at a time


class TensorError(NamedTuple):
    """The distance of x_hat from x. sqnr_db is inf where they are equal, cosine 1; relative_mse = mse / mean(x^2)."""

    sqnr_db: float
    mse: float
    relative_mse: float
    cosine: float
    max_error: float


def tensor_error(x: Tensor, x_hat: Tensor) -> TensorError:
    """Every distance at once, summed in float64; x and x_hat have one shape. On a CPU ERROR_CHUNK numbers at a time: a
    large matrix is never there in float64, and what is at work stays in the cache.

    Raises: ValueError if the shapes differ."""
    if x.shape != x_hat.shape:
        raise ValueError(f"cannot compare shapes {tuple(x.shape)} and {tuple(x_hat.shape)}")
    sums, largest = torch.zeros(4, dtype=torch.float64, device=x.device), []
    step = ERROR_CHUNK if x.device.type == "cpu" else max(1, x.numel())
    for part, part_hat in zip(torch.split(x.reshape(-1), step), torch.split(x_hat.reshape(-1), step), strict=True):
        a, b = part.double(), part_hat.double()
        error = b - a
        sums += torch.stack([a @ a, b @ b, a @ b, error @ error])
        largest.append(torch.linalg.vector_norm(error, math.inf))
    signal, signal_hat, product, noise, most = torch.cat([sums, torch.stack(largest).amax(0, True)]).tolist()
    norms = math.sqrt(signal) * math.sqrt(signal_hat)
    return TensorError(
        sqnr_db=sqnr_db(signal, noise),
        mse=noise / x.numel(),
        relative_mse=noise / signal if signal else math.inf if noise else 0.0,
        cosine=product / norms if norms else float(not noise),
        max_error=most,
    )


def signal_and_noise(x: Tensor, x_hat: Tensor) -> tuple[Tensor, Tensor]:
    """sum x^2 and sum (x_hat - x)^2 as float64 scalars on the device, which nobody waited for: `sqnr_db` makes SQNR of
    them. On a CPU the sums are `tensor_error`'s, on a GPU the squares are float32."""
    if x.is_cuda:
        x = x.float()
        return x.square().sum(dtype=torch.float64), (x_hat - x).square().sum(dtype=torch.float64)
    sums = torch.zeros(2, dtype=torch.float64)
    for part, part_hat in zip(
        torch.split(x.reshape(-1), ERROR_CHUNK), torch.split(x_hat.reshape(-1), ERROR_CHUNK), strict=True
    ):
        a = part.double()
        error = part_hat.double() - a
        sums += torch.stack([a @ a, error @ error])
    return sums[0], sums[1]


def sqnr_db(signal: float, noise: float) -> float:
    """10 log10(signal / noise) of two sums of squares; inf without noise, -inf without signal."""
    if noise == 0:
        return math.inf
    return 10 * math.log10(signal / noise) if signal else -math.inf


def sqnr_db_each(signal: Tensor, noise: Tensor) -> Tensor:
    """`sqnr_db` of many pairs of sums of squares at once, such as those of each row of a matrix."""
    return torch.where(noise == 0, math.inf, 10 * torch.log10(signal / noise))


def token_sqnr_db(y: Tensor, y_hat: Tensor) -> Tensor:
    """SQNR of each token, a row of y (N, features). Their median is what most tokens see: of the whole matrix one loud
    token can hold nearly all the power, and then its SQNR is that token's alone."""
    return sqnr_db_each(y.double().square().sum(-1), (y_hat - y).double().square().sum(-1))


class Giant(NamedTuple):
    """The token that holds most of a matrix's power, and its share."""

    token: int
    share: float

    @property
    def rules(self) -> bool:
        """Whether the SQNR of the whole is this token's more than all others' together."""
        return self.share > 0.5


def giant_of(y: Tensor) -> Giant:
    """Of y (N, features)."""
    power = y.double().square().sum(-1)
    token = int(power.argmax())
    whole = float(power.sum())
    return Giant(token, float(power[token]) / whole if whole and len(power) > 1 else 0.0)
