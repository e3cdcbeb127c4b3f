"""What is measured of a quantized model beside its float original on one text, token by token and as a report.

perplexity = exp( mean over predicted tokens of -log p(token) ), whole text in non-overlapping windows; not per word
KL = mean over positions of sum_v p(v) log( p(v) / q(v) ), p the float model, q the quantized one, in nats
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

from quantcore.measure.statistics import Interval, paired_interval, percentile, window_interval
from quantcore.numbers.bits import FLOAT_BITS
from quantcore.pipeline.ranks import ranks


@dataclass(frozen=True)
class ModelReport:
    """A quantized model beside its float original on one text. Bytes are a checkpoint's: see `checkpoint_bytes`.

    log_perplexity        interval over windows of the mean NLL; exp of its ends are the perplexity's
    log_perplexity_change paired: mean NLL of the quantized model minus the float model's, token by token
    kl, kl_p50 ... kl_max over all predicted tokens, nats
    model_bits            bits of the checkpoint for each number of the float model: embeddings, norms and all
    bits_per_weight       of the quantized weights alone, scales and zero points counted
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
    model_bits: float
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


def divergence(log_p: Tensor, log_q: Tensor) -> Tensor:
    """sum_v p (log p - log q) over the last dimension, at least 0; a token that p never says adds nothing, also where
    its log is -inf on both sides: padded vocabularies have such tokens."""
    each = log_p.exp() * (log_p - log_q)
    return each.masked_fill_(log_p == -math.inf, 0).sum(-1).clamp(min=0)


class Tally:
    """What is kept of one model while the batches pass; bytes, bits_per_weight and seconds are its report's."""

    def __init__(self, count: int = 0, bits: float = 0.0) -> None:
        self.parts: list[tuple[Tensor, ...]] = []
        self.bytes, self.bits_per_weight, self.seconds = count, bits, 0.0

    def add(self, log_p: Tensor, log_q: Tensor, batch: Tensor, likeliest: int) -> None:
        """Shapes: log_p, log_q (B, T - 1, V), batch (B, T)."""
        nll = F.nll_loss(log_q.flatten(0, 1), batch[:, 1:].flatten(), reduction="none").view(len(batch), -1)
        same = log_q is log_p
        kl = torch.zeros_like(nll) if same else divergence(log_p, log_q)
        if likeliest == 1:
            best, ids = log_q.max(-1, keepdim=True)
        else:
            best, ids = log_q.topk(min(likeliest, log_q.shape[-1]))
        self.parts.append((nll, kl, ids.int(), best.exp()))

    def scores(self) -> Scores:
        """Here is waited for the device."""
        nll, kl, ids, chances = (torch.cat(part).cpu() for part in zip(*self.parts, strict=True))
        return Scores(nll, kl, ids, chances)


def pool(tallies: Sequence[Tally]) -> None:
    """Let every tally hold what all ranks have kept, in the order of their windows; the longest time counts."""
    if ranks().alone:
        return
    mine = [(one.seconds, [tuple(x.cpu() for x in part) for part in one.parts]) for one in tallies]
    for one, told in zip(tallies, zip(*ranks().all_said(mine), strict=True), strict=True):
        one.seconds = max(seconds for seconds, _ in told)
        one.parts = [part for _, parts in told for part in parts]


class Facts(NamedTuple):
    """What a report says beside its scores."""

    tokens: int
    float_bytes: int
    device: str
    versions: dict[str, str]


def log_probabilities(logits: Tensor) -> Tensor:
    """log p of every next token that a batch can check, (B, T - 1, V), float32."""
    return logits[:, :-1].float().log_softmax(-1)


def comparison(reference: Tally, kept: dict[str, Tally], facts: Facts) -> Comparison:
    floats, scores = reference.scores(), {name: tally.scores() for name, tally in kept.items()}
    return Comparison(floats, scores, {name: _report(floats, scores[name], kept[name], facts) for name in kept})


def _report(floats: Scores, scores: Scores, tally: Tally, facts: Facts) -> ModelReport:
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
        model_bits=FLOAT_BITS * tally.bytes / facts.float_bytes,
        bits_per_weight=tally.bits_per_weight,
        seconds=tally.seconds,
        device=facts.device,
        versions=facts.versions,
    )
