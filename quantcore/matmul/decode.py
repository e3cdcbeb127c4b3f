"""Greedy text, one token a step, with every step's launches recorded once in a CUDA graph and replayed.

A step of a small batch is hundreds of short kernels; launching them one by one from Python takes longer than running
them. The step reads and writes fixed tensors (token, position, a key-value cache of fixed length), so it can be
recorded.
"""

from __future__ import annotations

from typing import Any, cast

import torch
from torch import Tensor, nn

from quantcore.numbers.kernels.launch import recording

WARM_STEPS = 2  # taken one by one first: kernels are compiled, libraries set up


class GreedyDecoder:
    """A model, and room for `length` tokens. On a GPU steps are replayed from a graph unless `graph` is False."""

    def __init__(self, model: nn.Module, length: int, graph: bool = True) -> None:
        from transformers import StaticCache

        self.model = model
        self.length = length
        device = next(model.parameters()).device
        self.cache = StaticCache(config=cast(Any, model).config, max_cache_len=length)
        self.token = torch.zeros(1, 1, dtype=torch.int64, device=device)
        self.position = torch.zeros(1, dtype=torch.int64, device=device)
        self.places = torch.arange(length, device=device)
        self.records = graph and device.type == "cuda"

    @torch.inference_mode()
    def continue_(self, prompt: Tensor, count: int) -> Tensor:
        """The next `count` tokens, each the likeliest one. Shapes: prompt (1, T), result (count,); for a single use.

        Raises: ValueError if T + count tokens do not fit `length`."""
        prompt_length = prompt.shape[1]
        if prompt_length + count > self.length:
            raise ValueError(f"{prompt_length} + {count} tokens do not fit a cache of {self.length}; make it longer")
        self._forward(prompt.to(self.token.device))
        tokens = [self.token.clone()]
        recorded = None
        for step in range(count - 1):
            if self.records and step == WARM_STEPS:
                recorded = self._record()
            if recorded is None:
                self._forward(self.token)
            else:
                recorded.replay()
            tokens.append(self.token.clone())
        return torch.cat(tokens).flatten()

    def _record(self) -> torch.cuda.CUDAGraph:
        """One step as a graph; recording runs nothing, so the text goes on where it stood."""
        graph = torch.cuda.CUDAGraph()
        with recording(graph, self.token.device):
            self._forward(self.token)
        return graph

    def _forward(self, tokens: Tensor) -> None:
        """Read tokens at `position`, leave the likeliest next one in `token`, move `position` behind them."""
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
        self.token.copy_(out.logits[:, -1:].argmax(-1))
        self.position.add_(count)
