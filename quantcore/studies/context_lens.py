"""What a coded KV cache loses along the context: KL and flips at each position, and what is recalled from far back.

    found = context_lens(model, {"kv:int8/token": (spec, scales)}, tokens)
    found.kl["kv:int8/token"]       (windows, T): KL(float || with this cache) of the next token, nats
    found.flips[...]                (windows, T): whether another next token is the likeliest
    found.recall("kv:int8/token")   nats a token

The weights stay float. Each window is read in pieces of PIECE tokens through a cache that stays, as a server reads a
long prompt: whatever a token attends to, it reads from the cache, its own piece included. So a position is measured as
it would be decoded, and memory holds the logits of one piece.

Recall: the first RECALLED tokens of a window stand once more behind it. A model that finds them in its cache predicts
them better there than the first time: log p at the end - log p at the beginning. What a coded cache leaves of that says
whether far tokens can still be found.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from itertools import pairwise
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from torch import Tensor

from quantcore.measure.scores import divergence
from quantcore.measure.statistics import Interval, mean_interval
from quantcore.pipeline.calibration import Progress
from quantcore.scheme.cache import CacheSpec

if TYPE_CHECKING:
    from quantcore.pipeline.cache import Scales  # transformers takes long to import

PIECE = 512
AT_ONCE = 1024  # tokens of all windows that are read together, a piece at a time
BINS = 16
RECALLED = 32
FLOAT = "float"

Caches = Mapping[str, "tuple[CacheSpec | None, Scales]"]
"""By name what a cache holds, None floats, and its frozen scales."""


@dataclass(frozen=True, eq=False)
class ContextLens:
    """kl, flips   by cache, (windows, T) on the CPU
    said           by cache, FLOAT among them, (windows, T + RECALLED - 1): log p of each token given those before it
    held           by cache, FLOAT among them, bytes that one window's cache holds at its end"""

    kl: dict[str, Tensor]
    flips: dict[str, Tensor]
    said: dict[str, Tensor]
    held: dict[str, int]

    @property
    def length(self) -> int:
        return int(next(iter(self.kl.values())).shape[1])

    @property
    def edges(self) -> list[int]:
        """The positions at which the bins begin, and the end."""
        return sorted({round(self.length * place / BINS) for place in range(BINS + 1)})

    @property
    def middles(self) -> list[float]:
        """Of the bins."""
        return [(lo + hi) / 2 for lo, hi in pairwise(self.edges)]

    def along(self, values: Tensor) -> list[Interval]:
        """The mean of (windows, T) in each bin of positions, with its interval over windows."""
        return [mean_interval(values[:, lo:hi].double().mean(1).numpy()) for lo, hi in pairwise(self.edges)]

    def recall(self, name: str) -> Interval:
        """How much likelier the window's first tokens are where they come again, nats a token, over windows."""
        return mean_interval(self._gain(name).numpy())

    def recall_lost(self, name: str) -> Interval:
        """What of float's recall is lost, nats a token, window by window against float's own."""
        return mean_interval((self._gain(FLOAT) - self._gain(name)).numpy())

    def _gain(self, name: str) -> Tensor:
        said, count = self.said[name].double(), RECALLED - 1
        return said[:, -count:].mean(1) - said[:, :count].mean(1)


class _Read(NamedTuple):
    """Of one cache and some windows."""

    kl: Tensor
    flips: Tensor
    said: Tensor


def context_lens(
    model: Any,
    caches: Caches,
    tokens: Tensor,
    progress: Progress | None = None,
    so_far: Callable[[ContextLens], None] | None = None,
) -> ContextLens:
    """Each cache beside one of floats, over (windows, T). `so_far` hears what the windows read by then say.

    Raises: ValueError for no cache, windows too short to be recalled, and as `coded_cache`."""
    from quantcore.pipeline.cache import coded_cache

    length = tokens.shape[1]
    if not caches or not len(tokens):
        raise ValueError(f"{len(caches)} caches and {len(tokens)} windows say nothing; give at least one of each")
    if length < 2 * RECALLED:
        raise ValueError(f"windows of {length} tokens are too short for a lens; take {2 * RECALLED} or more")
    parts = list(torch.split(tokens, max(1, AT_ONCE // min(PIECE, length))))
    rows: dict[str, list[_Read]] = {}
    held: dict[str, int] = {}
    for number, part in enumerate(parts):
        windows = torch.cat([part, part[:, :RECALLED]], 1).to(next(model.parameters()).device)
        running = {name: coded_cache(model.config, *one) for name, one in {FLOAT: (None, {}), **caches}.items()}
        pieces = list(torch.split(windows, PIECE, dim=1))
        found: dict[str, list[_Read]] = {name: [] for name in running}
        for place, piece in enumerate(pieces):
            behind = windows[:, place * PIECE + 1 : (place + 1) * PIECE + 1]
            log_p: Tensor | None = None
            for name, cache in running.items():
                log_q = log_p_of(model, piece, cache)
                log_p = log_q if log_p is None else log_p
                found[name].append(_look(log_p, log_q, behind))
            if progress:
                share = (number + (place + 1) / len(pieces)) / len(parts)
                progress(share, f"token {min(length, (place + 1) * PIECE):,} of {length:,}")
        held = {name: cache.held_bytes // len(part) for name, cache in running.items()}
        for name, its in found.items():
            rows.setdefault(name, []).append(_Read(*(torch.cat(one, 1) for one in zip(*its, strict=True))))
        if so_far and number + 1 < len(parts):
            so_far(_lens(rows, held, length))
    return _lens(rows, held, length)


def _look(log_p: Tensor, log_q: Tensor, behind: Tensor) -> _Read:
    """behind (B, t): the token behind each of the piece; the last one of all has none."""
    said = log_q[:, : behind.shape[1]].gather(-1, behind[..., None])[..., 0]
    return _Read(divergence(log_p, log_q).cpu(), (log_p.argmax(-1) != log_q.argmax(-1)).cpu(), said.cpu())


def _lens(rows: Mapping[str, list[_Read]], held: dict[str, int], length: int) -> ContextLens:
    whole = {name: _Read(*map(torch.cat, zip(*its, strict=True))) for name, its in rows.items()}
    return ContextLens(
        kl={name: one.kl[:, :length] for name, one in whole.items() if name != FLOAT},
        flips={name: one.flips[:, :length] for name, one in whole.items() if name != FLOAT},
        said={name: one.said for name, one in whole.items()},
        held=held,
    )


def log_p_of(model: Any, piece: Tensor, cache: Any) -> Tensor:
    """log p of the next token behind each of a piece, (B, t, V) float32; the cache grows by the piece."""
    with torch.inference_mode():
        log_p: Tensor = model(piece, cache=cache, use_cache=True).logits.float().log_softmax(-1)
        return log_p
