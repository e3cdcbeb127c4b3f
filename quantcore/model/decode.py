"""Greedy text, one token a step, with every step's launches recorded once in a CUDA graph and replayed.

A step of a small batch is hundreds of short kernels; launching them one by one from Python takes longer than running
them. The step reads and writes fixed tensors (token, position, a key-value cache of fixed length), so it can be
recorded. Where the model allows it the step itself is fused (`decode_step`); prompts always pass by `transformers`.
"""

from __future__ import annotations

from typing import Any, cast

import torch
from torch import Tensor, nn

from quantcore.model.decode_step import FusedStep, why_not_fused
from quantcore.numbers.kernels.launch import recording

WARM_STEPS = 2  # taken one by one first: kernels are compiled, libraries set up


class GreedyDecoder:
    """A model, and room for `length` tokens of each of `sequences`. On a GPU steps are replayed from a graph unless
    `graph` is False, and fused unless `fuse` is; `why_not_fused` says why they are not."""

    def __init__(
        self, model: nn.Module, length: int, graph: bool = True, sequences: int = 1, fuse: bool = True
    ) -> None:
        from transformers import StaticCache

        self.model = model
        self.why_not_fused = why_not_fused(model) if fuse else "it was asked not to be"
        self.fused: FusedStep | None = None
        self.length = length
        device = next(model.parameters()).device
        self.cache = StaticCache(config=cast(Any, model).config, max_cache_len=length)
        self.token = torch.zeros(sequences, 1, dtype=torch.int64, device=device)
        self.position = torch.zeros(1, dtype=torch.int64, device=device)
        self.places = torch.arange(length, device=device)
        self.records = graph and device.type == "cuda"

    @torch.inference_mode()
    def continue_(self, prompt: Tensor, count: int) -> Tensor:
        """The next `count` tokens, each the likeliest one; for a single use.

        Shapes: prompt (N, T), result (N, count), of one sequence (count,).

        Raises: ValueError if T + count tokens do not fit `length`."""
        prompt_length = prompt.shape[1]
        if prompt_length + count > self.length:
            raise ValueError(f"{prompt_length} + {count} tokens do not fit a cache of {self.length}; make it longer")
        self.read(prompt.to(self.token.device))
        tokens = [self.token.clone()]
        recorded = None
        for step in range(count - 1):
            if self.records and step == WARM_STEPS:
                recorded = self._record()
            if recorded is None:
                self._step()
            else:
                recorded.replay()
            tokens.append(self.token.clone())
        return torch.cat(tokens, 1).squeeze(0)

    def _record(self) -> torch.cuda.CUDAGraph:
        """One step as a graph; recording runs nothing, so the text goes on where it stood."""
        graph = torch.cuda.CUDAGraph()
        with recording(graph, self.token.device):
            self._step()
        return graph

    @torch.inference_mode()
    def read(self, prompt: Tensor) -> None:
        """The prompt's keys and values into the cache, and its likeliest next token into `token`."""
        self.take(self._logits(prompt))

    def _step(self) -> None:
        self.take(self.logits(self.token))

    def take(self, logits: Tensor) -> None:
        """Leave the likeliest next token in `token`."""
        self.token.copy_(logits[:, -1:].argmax(-1))

    def logits(self, tokens: Tensor) -> Tensor:
        """Logits (N, 1, V) of one token each, (N, 1), behind what has been read."""
        if self.why_not_fused is not None:
            return self._logits(tokens)
        self.fused = self.fused or FusedStep(self.model, self.cache)
        logits = self.fused(tokens, self.position)
        self.position.add_(1)
        return logits

    def _logits(self, tokens: Tensor) -> Tensor:
        """The model's own, of tokens that begin at `position`, which is moved behind them."""
        count = tokens.shape[1]
        at = self.position + torch.arange(count, device=tokens.device)
        mask = (self.places[None, :] <= at[:, None])[None, None]
        out = self.model(
            tokens,
            position_ids=at[None],
            cache_position=at,
            cache=self.cache,
            attention_mask=mask,
            use_cache=True,
        )
        self.position.add_(count)
        return cast(Tensor, out.logits)
