"""How far a quantized thing is from the original: tensors by SQNR, MSE, cosine, largest error; models by perplexity,
KL and top-1 agreement, each difference with its interval.

    SQNR = 10 log10( sum x^2 / sum (x_hat - x)^2 )  dB           6.02 dB are one bit
    perplexity = exp( mean over predicted tokens of -log p(token) ), whole text in non-overlapping windows; not per word
    KL = mean over positions of sum_v p(v) log( p(v) / q(v) ), p the float model, q the quantized one, in nats
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any, NamedTuple, overload

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from quantcore.matmul.size import bits_per_weight, checkpoint_bytes
from quantcore.measure.statistics import Interval, paired_interval, percentile, window_interval
from quantcore.model.linears import batches
from quantcore.model.machine import device_name, versions
from quantcore.model.memory import free_memory
from quantcore.pipeline.calibration import Progress

BATCH_TOKENS = 1024
HELD_LOGITS_BYTES = 2**28  # at least; more where more is free
MOST_HELD_BYTES = 2**31
SO_FAR_S = 1.0  # seconds between two looks at what has been measured so far


@dataclass(frozen=True)
class ModelReport:
    """A quantized model beside its float original on one text. Bytes are a checkpoint's: see `checkpoint_bytes`.

    log_perplexity        interval over windows of the mean NLL; exp of its ends are the perplexity's
    log_perplexity_change paired: mean NLL of the quantized model minus the float model's, token by token
    kl, kl_p50 ... kl_max over all predicted tokens, nats
    seconds               the candidate's own time, quantizing not counted; the float model's as well if it is alone
    """

    tokens: int
    float_perplexity: float
    perplexity: float
    log_perplexity: Interval
    log_perplexity_change: Interval
    kl: float
    kl_p50: float
    kl_p95: float
    kl_p99: float
    kl_max: float
    top1_agreement: float
    float_bytes: int
    bytes: int
    bits_per_weight: float
    seconds: float
    device: str
    versions: dict[str, str]


@dataclass(frozen=True)
class Scores:
    """One model on every predicted token, all (windows, T - 1) on the CPU: position t tells of token t + 1.

    nll           -log p(token), nats                 kl           KL(float || this model), nats; 0 for the float model
    likeliest     ids of the k likeliest next tokens, (windows, T - 1, k), first first, and their probabilities"""

    nll: Tensor
    kl: Tensor
    likeliest: Tensor
    probabilities: Tensor

    @property
    def top1(self) -> Tensor:
        return self.likeliest[..., 0]


@dataclass(frozen=True)
class Comparison:
    """Several candidates beside one float model on the same tokens, by the names that the caller gave them."""

    float_scores: Scores
    scores: dict[str, Scores]
    reports: dict[str, ModelReport]

    def log_perplexity_difference(self, name: str, other: str) -> Interval:
        """Mean NLL of `name` minus that of `other`, paired; `.significant` tells whether it is more than chance."""
        return paired_interval(self.scores[name].nll, self.scores[other].nll)

    def kl_difference(self, name: str, other: str) -> Interval:
        """Mean KL of `name` minus that of `other`, paired."""
        return paired_interval(self.scores[name].kl, self.scores[other].kl)


Candidate = nn.Module | Callable[[], nn.Module]
Candidates = Mapping[str, Candidate]


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
    return (log_p.exp() * (log_p - log_q)).sum(-1).clamp(min=0)


@overload
def compare(
    model: nn.Module, candidates: nn.Module, tokens: Tensor, *, likeliest: int = 1, progress: Progress | None = None
) -> ModelReport: ...
@overload
def compare(
    model: nn.Module,
    candidates: Candidates,
    tokens: Tensor,
    *,
    likeliest: int = 1,
    progress: Progress | None = None,
    so_far: Callable[[Comparison], None] | None = None,
) -> Comparison: ...
def compare(
    model: nn.Module,
    candidates: nn.Module | Candidates,
    tokens: Tensor,
    *,
    likeliest: int = 1,
    progress: Progress | None = None,
    so_far: Callable[[Comparison], None] | None = None,
) -> ModelReport | Comparison:
    """The float model and one or several candidates over the same windows, in one pass, the float model run once.

    candidates   one module gives its ModelReport; a mapping of names to modules gives a Comparison. A candidate may
                 also be a function that builds it: it is called when its turn comes and the module is dropped after
                 it, so that only the float model and one candidate live at a time
    tokens       (windows, T)
    likeliest    how many of each position's likeliest next tokens are kept
    progress     called with the share done and the candidate's name
    so_far       called, at most every SO_FAR_S, with the comparison on the windows that all have read by then
    Memory: logits live for one batch of BATCH_TOKENS; where a candidate must be built, the float model's are held for
    as many batches as HELD_LOGITS_BYTES (more where memory is free) takes, and the candidate is built once for each
    such stretch. Candidates given as modules all live at once; quantized copies share what stays float and hold packed
    codes.
    Raises: ValueError for windows of one token, and for no candidate."""
    if tokens.shape[1] < 2:
        raise ValueError(f"windows of {tokens.shape[1]} token predict nothing; use at least two tokens")
    alone = isinstance(candidates, nn.Module)
    named: Candidates = {"": candidates} if isinstance(candidates, nn.Module) else candidates
    if not named:
        raise ValueError("there is no candidate to compare; give at least one")
    started = time.perf_counter()
    reference, kept = _Tally(), {name: _Tally() for name in named}
    steps, done = len(named) * math.ceil(len(tokens) / _windows_a_batch(tokens)), 0
    facts = _Facts(tokens.numel(), checkpoint_bytes(model), device_name(_device(model)), versions())
    seen, told = 0, -math.inf
    with torch.inference_mode():
        for stretch in _stretches(model, named, tokens):
            held = [(batch, _log_p(model, batch)) for batch in batches(stretch, _device(model), BATCH_TOKENS)]
            for batch, log_p in held:
                reference.add(log_p, log_p, batch, likeliest)
            for name, candidate in named.items():
                built = candidate if isinstance(candidate, nn.Module) else candidate()
                begun = time.perf_counter()
                kept[name].describe(built)
                for batch, log_p in held:
                    kept[name].add(log_p, _log_p(built, batch), batch, likeliest)
                    done += 1
                    if progress:
                        progress(done / steps, name)
                kept[name].seconds += time.perf_counter() - begun
                del built
            seen += len(stretch)
            if so_far and seen < len(tokens) and time.perf_counter() - told >= SO_FAR_S:
                so_far(_comparison(reference, kept, facts._replace(tokens=seen * tokens.shape[1])))
                told = time.perf_counter()
    found = _comparison(reference, kept, facts)
    return replace(found.reports[""], seconds=time.perf_counter() - started) if alone else found


class _Tally:
    """What is kept of one model while the batches pass."""

    def __init__(self) -> None:
        self.parts: list[tuple[Tensor, Tensor, Tensor, Tensor]] = []
        self.seconds, self.bytes, self.bits_per_weight = 0.0, 0, 0.0

    def describe(self, model: nn.Module) -> None:
        self.bytes, self.bits_per_weight = checkpoint_bytes(model), bits_per_weight(model)

    def add(self, log_p: Tensor, log_q: Tensor, batch: Tensor, likeliest: int) -> None:
        """Shapes: log_p, log_q (B, T - 1, V), batch (B, T)."""
        nll = F.nll_loss(log_q.flatten(0, 1), batch[:, 1:].flatten(), reduction="none").view(len(batch), -1)
        same = log_q is log_p
        kl = torch.zeros_like(nll) if same else (log_p.exp() * (log_p - log_q)).sum(-1).clamp(min=0)
        if likeliest == 1:
            best, ids = log_q.max(-1, keepdim=True)
        else:
            best, ids = log_q.topk(min(likeliest, log_q.shape[-1]))
        self.parts.append((nll.cpu(), kl.cpu(), ids.int().cpu(), best.exp().cpu()))

    def scores(self) -> Scores:
        nll, kl, ids, chances = (torch.cat(part) for part in zip(*self.parts, strict=True))
        return Scores(nll, kl, ids, chances)


class _Facts(NamedTuple):
    tokens: int
    float_bytes: int
    device: str
    versions: dict[str, str]


def _comparison(reference: _Tally, kept: dict[str, _Tally], facts: _Facts) -> Comparison:
    floats, scores = reference.scores(), {name: tally.scores() for name, tally in kept.items()}
    return Comparison(floats, scores, {name: _report(floats, scores[name], kept[name], facts) for name in kept})


def _report(floats: Scores, scores: Scores, tally: _Tally, facts: _Facts) -> ModelReport:
    kl = scores.kl.double()
    log_perplexity = window_interval(scores.nll)
    return ModelReport(
        tokens=facts.tokens,
        float_perplexity=math.exp(window_interval(floats.nll).value),
        perplexity=math.exp(log_perplexity.value),
        log_perplexity=log_perplexity,
        log_perplexity_change=paired_interval(scores.nll, floats.nll),
        kl=float(kl.mean()),
        kl_p50=percentile(kl, 50),
        kl_p95=percentile(kl, 95),
        kl_p99=percentile(kl, 99),
        kl_max=float(kl.max()),
        top1_agreement=float((scores.top1 == floats.top1).double().mean()),
        float_bytes=facts.float_bytes,
        bytes=tally.bytes,
        bits_per_weight=tally.bits_per_weight,
        seconds=tally.seconds,
        device=facts.device,
        versions=facts.versions,
    )


def _windows_a_batch(tokens: Tensor) -> int:
    return max(1, BATCH_TOKENS // tokens.shape[1])


def _stretches(model: nn.Module, candidates: Candidates, tokens: Tensor) -> Iterator[Tensor]:
    """The windows, in stretches over which the float model's log-probabilities are held: one batch, unless a
    candidate must be built for each."""
    windows = _windows_a_batch(tokens)
    if not all(isinstance(candidate, nn.Module) for candidate in candidates.values()):
        config: Any = model.config
        vocabulary = int(getattr(config.get_text_config(), "vocab_size", 1))
        batch_bytes = windows * tokens.shape[1] * vocabulary * 4
        windows *= max(1, _held_bytes(_device(model)) // batch_bytes)
    yield from torch.split(tokens, windows)


def _held_bytes(device: torch.device) -> int:
    """How many bytes of the float model's log-probabilities are held: an eighth of what is free, between bounds."""
    free = free_memory(device)
    return max(HELD_LOGITS_BYTES, min(MOST_HELD_BYTES, free[0] // 8 if free else 0))


def _log_p(model: nn.Module, batch: Tensor) -> Tensor:
    """log p of every next token that the batch can check, (B, T - 1, V), float32."""
    return _logits(model, batch)[:, :-1].float().log_softmax(-1)


def _device(model: nn.Module) -> torch.device:
    return next(model.parameters()).device


def _logits(model: nn.Module, batch: Tensor) -> Tensor:
    logits: Tensor = model(batch, use_cache=False).logits
    return logits
