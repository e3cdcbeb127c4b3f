"""What a model would write next, before and after quantization: the likeliest tokens of both, and how far apart.

report = next_tokens(loaded, quantize_model(loaded.model, "w:int4/channel")[0], "Once upon a time")
"""

from __future__ import annotations

import inspect
import json
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from quantcore.measure.evaluate import token_kl
from quantcore.model.loading import LoadedModel
from quantcore.text.windows import prompt_tokens


@dataclass(frozen=True)
class NextToken:
    """One candidate for the next token, seen by both models; ranks count from 1, probabilities are of all tokens."""

    token: int
    text: str
    probability: float
    probability_hat: float
    rank: int
    rank_hat: int


@dataclass(frozen=True)
class NextTokens:
    """The float model's k likeliest tokens (`likeliest`, first first) beside the quantized model's (`likeliest_hat`).

    tokens, dropped    how many tokens of the prompt were read, how many were cut from its start to fit the context
    kl                 KL(float || quantized) of the whole distribution, nats
    same_first         whether both would write the same token
    shared             how many of the k stand in both lists
    """

    tokens: int
    dropped: int
    likeliest: tuple[NextToken, ...]
    likeliest_hat: tuple[NextToken, ...]
    kl: float
    same_first: bool
    shared: int


def next_tokens(
    loaded: LoadedModel, model_hat: nn.Module, prompt: str, k: int = 5, logits: Tensor | None = None
) -> NextTokens:
    """Both models' distributions over the token after `prompt`. `model_hat` shares the tokenizer of `loaded`; `logits`
    of the float model after this prompt, (V,), where they are known.

    Raises: ValueError for an empty prompt, or k below 1 or beyond the vocabulary."""
    ids, dropped = prompt_tokens(loaded.tokenizer, prompt, loaded.context)
    ids = ids.to(loaded.device)
    if logits is None:
        logits = last_logits(loaded.model, ids)
    logits_hat = last_logits(model_hat, ids)
    if not 1 <= k <= len(logits):
        raise ValueError(f"k={k} tokens cannot be listed from a vocabulary of {len(logits)}; try k=5")
    p, p_hat = logits.softmax(-1), logits_hat.softmax(-1)
    best, best_hat = p.topk(k).indices.tolist(), p_hat.topk(k).indices.tolist()

    def candidate(token: int) -> NextToken:
        text = token_text(loaded.tokenizer, token)
        return NextToken(token, text, float(p[token]), float(p_hat[token]), _rank(p, token), _rank(p_hat, token))

    return NextTokens(
        tokens=ids.shape[1],
        dropped=dropped,
        likeliest=tuple(map(candidate, best)),
        likeliest_hat=tuple(map(candidate, best_hat)),
        kl=float(token_kl(logits, logits_hat)),
        same_first=best[0] == best_hat[0],
        shared=len(set(best) & set(best_hat)),
    )


def last_logits(model: Any, ids: Tensor) -> Tensor:
    """The scores of the token that follows `ids` (1, T). Shape (V,), float32 on the CPU."""
    last_only = {"logits_to_keep": 1} if "logits_to_keep" in inspect.signature(model.forward).parameters else {}
    with torch.inference_mode():
        logits: Tensor = model(ids, use_cache=False, **last_only).logits
    return logits[0, -1].float().cpu()


def token_text(tokenizer: Any, token: int) -> str:
    """A token as a reader can tell it from its neighbours: in quotes, so that a leading space or a newline shows."""
    text = tokenizer.decode([token])
    if "\ufffd" in text:
        return f"<part of a character, token {token}>"
    return json.dumps(text, ensure_ascii=False)


def _rank(p: Tensor, token: int) -> int:
    return int((p > p[token]).sum()) + 1
