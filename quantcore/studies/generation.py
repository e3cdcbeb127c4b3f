"""Two models write on from one prompt; where do they part?

Greedy takes the likeliest token. With a seed, token t is argmax_v( log p_t(v) + g_t(v) ), g Gumbel noise from the seed:
that draws from p, and because both models see the same noise, they part only where their p's differ enough. Source:
Gumbel-max trick, Maddison et al. 2014, arXiv:1411.0030.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from quantcore.model.loading import LoadedModel
from quantcore.pipeline.calibration import Progress
from quantcore.text.windows import prompt_tokens

LONGEST = 256


@dataclass(frozen=True)
class Written:
    """What the float model and the quantized one wrote, token by token.

    parted    index of the first token in which they differ, None if they do not
    texts     each token as text, both models'"""

    prompt: str
    tokens: tuple[int, ...]
    tokens_hat: tuple[int, ...]
    texts: tuple[str, ...]
    texts_hat: tuple[str, ...]

    @property
    def parted(self) -> int | None:
        return parts_at(self.tokens, self.tokens_hat)


def parts_at(one: tuple[int, ...], other: tuple[int, ...]) -> int | None:
    """The first place where two answers differ, one that ends earlier among them; None where they are the same."""
    first = next((place for place, (a, b) in enumerate(zip(one, other, strict=False)) if a != b), None)
    return min(len(one), len(other)) if first is None and len(one) != len(other) else first


def write_on(
    loaded: LoadedModel,
    model_hat: nn.Module,
    prompt: str,
    count: int = 60,
    seed: int | None = None,
    progress: Progress | None = None,
) -> Written:
    """`count` tokens of each model after the prompt, greedy or, with a seed, drawn; ends early at the end mark.
    `progress` is called after each token.

    Raises: ValueError for an empty prompt or a count outside 1..LONGEST."""
    if not 1 <= count <= LONGEST:
        raise ValueError(f"{count} tokens cannot be written; ask for 1 to {LONGEST}")
    ids, _ = prompt_tokens(loaded.tokenizer, prompt, None if loaded.context is None else max(2, loaded.context - count))
    ends = {loaded.tokenizer.eos_token_id}
    ids = ids.to(loaded.device)

    def tell(before: int) -> Callable[[int], None]:
        return lambda done: progress((before + done) / (2 * count), f"token {done}") if progress else None

    tokens = _write(loaded.model, ids, count, seed, ends, tell(0))
    tokens_hat = _write(model_hat, ids, count, seed, ends, tell(count))
    decode = loaded.tokenizer.decode
    return Written(
        prompt, tokens, tokens_hat, tuple(decode([t]) for t in tokens), tuple(decode([t]) for t in tokens_hat)
    )


def _write(
    model: Any, ids: Tensor, count: int, seed: int | None, ends: set[int | None], tell: Callable[[int], None]
) -> tuple[int, ...]:
    written: list[int] = []
    cache, step = None, ids
    noise = None if seed is None else torch.Generator().manual_seed(seed)
    with torch.inference_mode():
        while len(written) < count and (not written or written[-1] not in ends):
            out = model(step, cache=cache, use_cache=True)
            scores: Tensor = out.logits[0, -1].float().cpu().log_softmax(-1)
            if noise is not None:
                scores = scores - torch.log(
                    -torch.log(torch.rand(scores.shape, generator=noise).clamp(1e-12, 1 - 1e-7))
                )
            cache = out.cache
            written.append(int(scores.argmax()))
            step = torch.tensor([[written[-1]]], device=ids.device)
            tell(len(written))
    return tuple(written)
