"""How far quantized models are from their float original, read side by side: perplexity, KL, top-1 agreement.

    report = compare(model, quantized, tokens)
    found = compare(model, {"W4A16": one, "W8A8": other}, tokens)
    found.kl_difference("W8A8", "W4A16").significant

Each report's formulas: `scores`. Of models too large to have several at once: `side_by_side`.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import overload

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from quantcore.matmul.size import bits_per_weight, checkpoint_bytes
from quantcore.measure.scores import (
    Comparison,
    Facts,
    ModelReport,
    Tally,
    comparison,
    divergence,
    log_probabilities,
    pool,
)
from quantcore.measure.statistics import window_interval
from quantcore.model.linears import batches
from quantcore.model.machine import device_name, versions
from quantcore.pipeline.calibration import Progress
from quantcore.pipeline.ranks import ranks

BATCH_TOKENS = 1024
SO_FAR_S = 1.0  # seconds between two looks at what has been measured so far


def perplexity(model: nn.Module, tokens: Tensor) -> float:
    """exp of the mean negative log-likelihood of tokens 1.. of each window. Shape of tokens: (windows, T)."""
    with torch.inference_mode():
        nll = [token_nll(_logits(model, batch), batch).cpu() for batch in batches(tokens, _device(model))]
    return math.exp(window_interval(torch.cat(nll)).value)


def token_nll(logits: Tensor, tokens: Tensor) -> Tensor:
    """-log p of each token given those before it, nats. Shapes: (B, T, V), (B, T) -> (B, T-1)."""
    return F.cross_entropy(logits[:, :-1].float().flatten(0, 1), tokens[:, 1:].flatten(), reduction="none").view(
        len(tokens), -1
    )


def token_kl(logits: Tensor, logits_hat: Tensor) -> Tensor:
    """KL(float || quantized) of the next-token distribution at each position, nats, never below 0.

    Shapes: (B, T, V) twice -> (B, T)."""
    log_p, log_q = logits.float().log_softmax(-1), logits_hat.float().log_softmax(-1)
    return divergence(log_p, log_q)


@overload
def compare(
    model: nn.Module, candidates: nn.Module, tokens: Tensor, *, likeliest: int = 1, progress: Progress | None = None
) -> ModelReport: ...
@overload
def compare(
    model: nn.Module,
    candidates: Mapping[str, nn.Module],
    tokens: Tensor,
    *,
    likeliest: int = 1,
    progress: Progress | None = None,
    so_far: Callable[[Comparison], None] | None = None,
) -> Comparison: ...
def compare(
    model: nn.Module,
    candidates: nn.Module | Mapping[str, nn.Module],
    tokens: Tensor,
    *,
    likeliest: int = 1,
    progress: Progress | None = None,
    so_far: Callable[[Comparison], None] | None = None,
) -> ModelReport | Comparison:
    """The float model and one or several candidates over the same windows, in one pass, the float model run once.

    candidates   one module gives its ModelReport; a mapping of names to modules gives a Comparison
    tokens       (windows, T)
    likeliest    how many of each position's likeliest next tokens are kept
    progress     called with the share done and the candidate's name
    so_far       called, at most every SO_FAR_S, with the comparison on the windows that all have read by then
    Memory: logits live for one batch of BATCH_TOKENS. Quantized copies share what stays float and hold packed codes.
    Raises: ValueError for windows of one token, and for no candidate."""
    require_windows(tokens)
    alone = isinstance(candidates, nn.Module)
    named: Mapping[str, nn.Module] = {"": candidates} if isinstance(candidates, nn.Module) else candidates
    if not named:
        raise ValueError("there is no candidate to compare; give at least one")
    started = time.perf_counter()
    device = _device(model)
    reference = Tally()
    kept = {name: Tally(checkpoint_bytes(one), bits_per_weight(one)) for name, one in named.items()}
    facts = Facts(tokens.numel(), checkpoint_bytes(model), ranks().named(device_name(device)), versions())
    parts = list(batches(ranks().share(tokens), device, BATCH_TOKENS))
    seen, done, told = 0, 0, -math.inf
    with torch.inference_mode():
        for batch in parts:
            log_p = next_log_p(model, batch)
            reference.add(log_p, log_p, batch, likeliest)
            for name, candidate in named.items():
                begun = time.perf_counter()
                kept[name].add(log_p, next_log_p(candidate, batch), batch, likeliest)
                done += 1
                if progress:
                    progress(done / (len(named) * len(parts)), name)
                kept[name].seconds += time.perf_counter() - begun
            seen += len(batch)
            if so_far and seen < len(tokens) and time.perf_counter() - told >= SO_FAR_S:
                so_far(comparison(reference, kept, facts._replace(tokens=seen * tokens.shape[1])))
                told = time.perf_counter()
    pool([reference, *kept.values()])
    found = comparison(reference, kept, facts)
    return replace(found.reports[""], seconds=time.perf_counter() - started) if alone else found


def require_windows(tokens: Tensor) -> None:
    """Raises: ValueError for windows of one token."""
    if tokens.shape[1] < 2:
        raise ValueError(f"windows of {tokens.shape[1]} token predict nothing; use at least two tokens")


def next_log_p(model: nn.Module, batch: Tensor) -> Tensor:
    """log p of every next token that the batch can check, (B, T - 1, V), float32."""
    return log_probabilities(_logits(model, batch))


def _device(model: nn.Module) -> torch.device:
    return next(model.parameters()).device


def _logits(model: nn.Module, batch: Tensor) -> Tensor:
    logits: Tensor = model(batch, use_cache=False).logits
    return logits
