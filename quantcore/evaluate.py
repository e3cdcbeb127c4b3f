"""How far a quantized thing is from the original: tensors by SQNR, MSE, cosine, largest error; models by perplexity,
KL and top-1 agreement.

    SQNR = 10 log10( sum x^2 / sum (x_hat - x)^2 )  dB           6.02 dB are one bit
    perplexity = exp( mean over predicted tokens of -log p(token) ), whole text in non-overlapping windows; not per word
    KL = mean over positions of sum_v p(v) log( p(v) / q(v) ), p the float model, q the quantized one, in nats
"""

from __future__ import annotations

import math
import platform
import time
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from quantcore.layers import QuantLinear
from quantcore.models import batches

CHECKPOINT_FLOAT_BITS = 16


class TensorError(NamedTuple):
    """The distance of x_hat from x. sqnr_db is inf where they are equal, cosine 1; relative_mse = mse / mean(x^2)."""

    sqnr_db: float
    mse: float
    relative_mse: float
    cosine: float
    max_error: float


def tensor_error(x: Tensor, x_hat: Tensor) -> TensorError:
    """Every distance at once, summed in float64; x and x_hat have one shape.

    Raises: ValueError if the shapes differ."""
    if x.shape != x_hat.shape:
        raise ValueError(f"cannot compare shapes {tuple(x.shape)} and {tuple(x_hat.shape)}")
    x, x_hat = x.double(), x_hat.double()
    error = x_hat - x
    signal, noise = float(x.square().sum()), float(error.square().sum())
    norms = float(x.norm() * x_hat.norm())
    return TensorError(
        sqnr_db=sqnr_db(signal, noise),
        mse=noise / x.numel(),
        relative_mse=noise / signal if signal else math.inf if noise else 0.0,
        cosine=float((x * x_hat).sum()) / norms if norms else float(not noise),
        max_error=float(error.abs().max()),
    )


def sqnr_db(signal: float, noise: float) -> float:
    """10 log10(signal / noise) of two sums of squares; inf without noise, -inf without signal."""
    if noise == 0:
        return math.inf
    return 10 * math.log10(signal / noise) if signal else -math.inf


def sqnr_db_each(signal: Tensor, noise: Tensor) -> Tensor:
    """`sqnr_db` of many pairs of sums of squares at once, such as those of each row of a matrix."""
    return torch.where(noise == 0, math.inf, 10 * torch.log10(signal / noise))


@dataclass(frozen=True)
class ModelReport:
    """A quantized model beside its float original on one text. Bytes are a checkpoint's: see `checkpoint_bytes`."""

    tokens: int
    float_perplexity: float
    perplexity: float
    kl: float
    kl_p99: float
    top1_agreement: float
    float_bytes: int
    bytes: int
    bits_per_weight: float
    seconds: float
    device: str
    versions: dict[str, str]


def perplexity(model: nn.Module, tokens: Tensor) -> float:
    """exp of the mean negative log-likelihood of tokens 1.. of each window. Shape of tokens: (windows, T)."""
    total, count = 0.0, 0
    with torch.inference_mode():
        for batch in batches(tokens, _device(model)):
            nll = token_nll(_logits(model, batch), batch)
            total, count = total + float(nll.double().sum()), count + nll.numel()
    return math.exp(total / count)


def token_nll(logits: Tensor, tokens: Tensor) -> Tensor:
    """-log p of each token given those before it, nats. Shapes: (B, T, V), (B, T) -> (B, T-1)."""
    return F.cross_entropy(logits[:, :-1].float().flatten(0, 1), tokens[:, 1:].flatten(), reduction="none").view(
        len(tokens), -1
    )


def token_kl(logits: Tensor, logits_hat: Tensor) -> Tensor:
    """KL(float || quantized) of the next-token distribution at each position, nats, never below 0.

    Shapes: (B, T, V) twice -> (B, T)."""
    log_p, log_q = logits.float().log_softmax(-1), logits_hat.float().log_softmax(-1)
    return (log_p.exp() * (log_p - log_q)).sum(-1).clamp(min=0)


def compare(model: nn.Module, candidate: nn.Module, tokens: Tensor) -> ModelReport:
    """Both models over the same windows, once: perplexities, KL, top-1 agreement, bytes.

    Shape of tokens: (windows, T). Logits live for one batch only. Raises: ValueError for windows of one token."""
    if tokens.shape[1] < 2:
        raise ValueError(f"windows of {tokens.shape[1]} token predict nothing; use at least two tokens")
    started = time.perf_counter()
    nll: list[Tensor] = []
    nll_hat: list[Tensor] = []
    kl: list[Tensor] = []
    agree: list[Tensor] = []
    with torch.inference_mode():
        for batch in batches(tokens, _device(model), 2048):
            logits, logits_hat = _logits(model, batch), _logits(candidate, batch)
            nll.append(token_nll(logits, batch).flatten().cpu())
            nll_hat.append(token_nll(logits_hat, batch).flatten().cpu())
            kl.append(token_kl(logits[:, :-1], logits_hat[:, :-1]).flatten().cpu())
            agree.append((logits[:, :-1].argmax(-1) == logits_hat[:, :-1].argmax(-1)).flatten().cpu())
    divergence = torch.cat(kl).double()
    return ModelReport(
        tokens=tokens.numel(),
        float_perplexity=math.exp(float(torch.cat(nll).double().mean())),
        perplexity=math.exp(float(torch.cat(nll_hat).double().mean())),
        kl=float(divergence.mean()),
        kl_p99=float(divergence.kthvalue(math.ceil(0.99 * len(divergence))).values),
        top1_agreement=float(torch.cat(agree).double().mean()),
        float_bytes=checkpoint_bytes(model),
        bytes=checkpoint_bytes(candidate),
        bits_per_weight=bits_per_weight(candidate),
        seconds=time.perf_counter() - started,
        device=device_name(_device(model)),
        versions=versions(),
    )


def checkpoint_bytes(model: nn.Module) -> int:
    """Bytes the model takes in a checkpoint: 16 bits a float parameter (tied ones once), codes, scales and zero points
    of the quantized layers as QTensor.bits_per_weight counts them."""
    bits = 0.0
    inside: set[int] = set()
    for layer in quantized_linears(model).values():
        qweight = layer.qweight
        bits += (
            qweight.bits_per_weight * qweight.q.numel()
            if qweight
            else CHECKPOINT_FLOAT_BITS * layer.weight_hat().numel()
        )
        bits += CHECKPOINT_FLOAT_BITS * (layer.bias.numel() if isinstance(layer.bias, Tensor) else 0)
        inside.update(id(parameter) for parameter in layer.parameters())
    bits += sum(CHECKPOINT_FLOAT_BITS * p.numel() for p in model.parameters() if id(p) not in inside)
    return math.ceil(bits / 8)


def bits_per_weight(model: nn.Module) -> float:
    """Mean bits a weight over the quantized layers, scales and zero points counted; 16 if none is quantized."""
    weights = [q for layer in quantized_linears(model).values() if (q := layer.qweight) is not None]
    numbers = sum(q.q.numel() for q in weights)
    return sum(q.bits_per_weight * q.q.numel() for q in weights) / numbers if numbers else float(CHECKPOINT_FLOAT_BITS)


def quantized_linears(model: nn.Module) -> dict[str, QuantLinear]:
    return {name: module for name, module in model.named_modules() if isinstance(module, QuantLinear)}


def versions() -> dict[str, str]:
    """Versions that a figure depends on."""
    import transformers

    return {"python": platform.python_version(), "torch": torch.__version__, "transformers": transformers.__version__}


def device_name(device: torch.device) -> str:
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    return f"{platform.machine()} CPU, {torch.get_num_threads()} threads"


def _device(model: nn.Module) -> torch.device:
    return next(model.parameters()).device


def _logits(model: nn.Module, batch: Tensor) -> Tensor:
    logits: Tensor = model(batch, use_cache=False).logits
    return logits
