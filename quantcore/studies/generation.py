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
AT_ONCE = 16  # prompts that are written on together


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

    def write(model: nn.Module, before: int) -> tuple[int, ...]:
        return written_on(model, ids, count, ends, tell(before), None if seed is None else _drawn(seed))[0]

    tokens, tokens_hat = write(loaded.model, 0), write(model_hat, count)
    decode = loaded.tokenizer.decode
    return Written(
        prompt, tokens, tokens_hat, tuple(decode([t]) for t in tokens), tuple(decode([t]) for t in tokens_hat)
    )


def written_on(
    model: Any,
    prompts: Tensor,
    count: int,
    ends: set[int | None],
    tell: Callable[[int], None],
    choose: Callable[[Tensor], Tensor] | None = None,
) -> tuple[tuple[int, ...], ...]:
    """At most `count` tokens behind each prompt (P, T), to the end mark. `choose` takes the logits (P, V) of the next
    token and gives one of each row, the likeliest where nothing is said; `tell` hears of each step, of which there are
    `count` for every AT_ONCE prompts, fewer where all of those have ended."""
    found: list[tuple[int, ...]] = []
    with torch.inference_mode():
        for begun, some in enumerate(torch.split(prompts, AT_ONCE)):
            step, cache, rows = some, None, [list[int]() for _ in some]
            for done in range(count):
                out = model(step, cache=cache, use_cache=True)
                logits, cache = out.logits[:, -1], out.cache
                chosen = logits.argmax(-1) if choose is None else choose(logits)
                for row, token in zip(rows, chosen.tolist(), strict=True):
                    if not row or row[-1] not in ends:
                        row.append(token)
                tell(begun * count + done + 1)
                if all(row[-1] in ends for row in rows):
                    break
                step = chosen[:, None].to(some.device)
            found += map(tuple, rows)
    return tuple(found)


def _drawn(seed: int) -> Callable[[Tensor], Tensor]:
    """Draws from p with the noise of the seed: another at each step, the same for every model."""
    noise = torch.Generator().manual_seed(seed)

    def choose(logits: Tensor) -> Tensor:
        log_p = logits.float().cpu().log_softmax(-1)
        even = torch.rand(log_p.shape, generator=noise).clamp(1e-12, 1 - 1e-7)
        return (log_p - torch.log(-torch.log(even))).argmax(-1)

    return choose
