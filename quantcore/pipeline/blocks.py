"""Walk through a model's decoder blocks one after another, with every block's inputs at hand.

GPTQ wants block b's Hessians taken behind the blocks that are already quantized. Running the whole model again for each
block would cost blocks^2 / 2 passes; here the hidden states are kept between two blocks, and every block runs alone.

What a block is called with beside the hidden states (masks, rotary angles, positions) comes from the model's own
forward pass, run once with a `BlockPlace` where each block was: blocks of several kinds each get their own.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, MutableMapping, Sequence
from contextlib import contextmanager, suppress
from typing import Any

import torch
from torch import Tensor, nn

from quantcore.model.experts import weights_kept
from quantcore.model.held import Held
from quantcore.model.layer_names import by_block, expert_of
from quantcore.model.linears import linears
from quantcore.model.places import BlockPlace, places_of
from quantcore.pipeline.waiting import Waiting

CPU_TOKENS = 4096  # a batch
GPU_TOKENS = 16384  # at most
MOST_CHOSEN = 8  # experts that a token is given to, of a usual mixture
GPU_SHARE = 0.1  # of the free memory, which one batch inside a block may take
_More = tuple[tuple[Any, ...], dict[str, Any]]


class _Reached(Exception):
    """Thrown at a place: the rest of that forward pass is not needed."""


class Enough(Exception):
    """Thrown by a hook inside a block that has seen all it came for: the rest of that pass need not be run."""


class BlockWalk:
    """The hidden states that enter the next block, batch by batch, with what else each block is called with.

    Memory: tokens x hidden numbers in the model's type, on its device or beside it (`Waiting`).
    Raises: ValueError where the walk comes to a block for a model that does not call its blocks one after another."""

    def __init__(
        self,
        held: Held,
        tokens: Tensor,
        tokens_a_batch: int | None = None,
        cache: Callable[[], Any] | None = None,
    ) -> None:
        """tokens   (windows, T). Nothing is run before the first block is.
        cache    makes an empty KV cache through which a block reads a batch; None: blocks read without one"""
        self._held, self._device, self._cache = held, held.device, cache
        width = max(1, (tokens_a_batch or batch_tokens(held)) // tokens.shape[1])
        self._batches = torch.split(tokens.to(self._device), width) if len(tokens) else ()
        self._states = Waiting(held.device, len(tokens))
        self._more: list[list[_More | None]] = []  # of each batch, what comes with the hidden states: of all blocks, or
        #                                             of any; None: the model passes this block over
        self._place = 0

    @property
    def batches(self) -> list[Tensor]:
        """The tokens batch by batch, on the device."""
        return list(self._batches)

    def run(self, module: nn.Module, tick: Callable[[float], None] | None = None) -> None:
        """Run the next block over every batch and let its outputs go: for hooks that watch what happens inside, and may
        throw `Enough`. Behind the last block, `module` is the model `around` the blocks."""
        with weights_kept(module):
            for index in self.running(module):
                if tick:
                    tick((index + 1) / len(self._batches))

    def running(self, module: nn.Module) -> Iterator[int]:
        """`run`, batch by batch, as far as the caller takes them."""
        for index in range(len(self._batches)):
            with suppress(Enough):
                self._output(module, index)
            yield index

    def advance(self, block: nn.Module) -> None:
        """Run the next block over every batch; its outputs are what enters the one behind it."""
        with weights_kept(block):
            for _ in self.advancing(block):
                pass

    def advancing(self, block: nn.Module) -> Iterator[int]:
        """`advance`, batch by batch; the walk stands behind the block when there are no more."""
        for index in range(len(self._batches)):
            out = self._output(block, index)
            if self._place == 0 and index == 0:
                for place in places_of(self._held.around, self._held.blocks):
                    place.extra = len(out) - 1 if isinstance(out, tuple) else None
            self._states[index] = out[0] if isinstance(out, tuple) else out
            yield index
        self._place += 1

    def answers(self, model: nn.Module) -> Iterator[Any]:
        """Behind the last block: what the model says of each batch; `model` is `around`, or its quantized form."""
        for index in range(len(self._batches)):
            yield self._output(model, index)

    def _output(self, module: nn.Module, index: int) -> Any:
        if self._place == len(self._held.blocks):
            return self._answer(module, index)
        if not self._more:
            self._enter()
        elif self._place == 1 and len(self._more[0]) == 1:
            self._look_ahead()
        more = self._more[index][min(self._place, len(self._more[index]) - 1)]
        if more is None:
            return self._states[index]
        args, kwargs = more
        if self._cache is not None:
            new = self._cache()
            args = tuple(new if isinstance(one, type(new)) else one for one in args)
            kwargs = {name: new if isinstance(one, type(new)) else one for name, one in kwargs.items()}
        with torch.inference_mode():
            return module(self._states[index], *args, **kwargs)

    def _enter(self) -> None:
        """Run what comes before the first block."""
        for index in range(len(self._batches)):
            hidden, more = self._caught(index, 1)[0]
            self._states.append(hidden)
            self._more.append([self._lean(more, 0)])

    def _look_ahead(self) -> None:
        """Learn what each of the other blocks is called with: of one batch, and of all where blocks differ."""
        count = len(self._held.blocks)
        for index in range(len(self._batches)):
            calls = self._caught(index, count)
            if index == 0 and len(calls) == count and all(_same(more, calls[0][1]) for _, more in calls.values()):
                return
            (entered,) = self._more[index]
            assert entered is not None
            self._more[index] = [
                self._lean(_carried(calls[place][1], entered), place) if place in calls else None
                for place in range(count)
            ]

    def _caught(self, index: int, count: int) -> dict[int, tuple[Tensor, _More]]:
        """What the first `count` blocks are called with where each hands on what it gets, by their place. Blocks may be
        passed over: those that attend to pictures are, where there is none (Llama 3.2 Vision)."""
        calls: dict[int, tuple[Tensor, _More]] = {}
        places = places_of(self._held.around, self._held.blocks)[:count]

        def at(place: BlockPlace, number: int) -> Callable[..., Any]:
            def run(*args: Any, **kwargs: Any) -> Any:
                hidden, *rest = args if args else [kwargs["hidden_states"]]
                if (last := max(calls, default=-1)) >= number or (calls and calls[last][0] is not hidden):
                    raise ValueError(_NOT_IN_TURN.format(self._held.blocks[number]))
                others = {name: kwargs[name] for name in kwargs if name != "hidden_states"}
                calls[number] = hidden, (tuple(rest), others)
                if number == count - 1:
                    raise _Reached
                return place.returned(hidden)

            return run

        empty = None if self._cache is None else self._cache()
        with _filled(places, at), torch.inference_mode(), suppress(_Reached):
            if self._cache is None:
                self._held.around(input_ids=self._batches[index], use_cache=False)
            else:
                self._held.around(input_ids=self._batches[index], cache=empty, use_cache=True)
        if 0 not in calls:
            raise ValueError(_NOT_IN_TURN.format(self._held.blocks[0]))
        if self._cache is not None and not any(one is empty for one in (*calls[0][1][0], *calls[0][1][1].values())):
            raise ValueError(_NO_CACHE.format(self._held.blocks[0]))
        return calls

    def _calls(self, index: int, place: int) -> bool:
        """Whether the model calls a block, or passes it over."""
        known = self._more[index]
        return known[min(place, len(known) - 1)] is not None

    def _lean(self, more: _More, place: int) -> _More:
        """The same call; what equals the first batch's (masks, angles) is that object, and is kept once."""
        known = self._more[0][place] if self._more and len(self._more[0]) > place else None
        if known is None:
            return more
        (args, kwargs), (others, named) = more, known
        lean = tuple(_kept(a, b) for a, b in zip(args, others, strict=True)) if len(args) == len(others) else args
        return lean, {name: _kept(value, named.get(name)) for name, value in kwargs.items()}

    def _answer(self, model: nn.Module, index: int) -> Any:
        last = places_of(model, self._held.blocks)
        if last:  # the last that the model calls
            last = [last[max(place for place in range(len(last)) if self._calls(index, place))]]

        def handed_on(place: BlockPlace, _: int) -> Callable[..., Any]:
            return lambda *_, **__: place.returned(self._states[index])

        with _filled(last, handed_on), torch.inference_mode():
            return model(input_ids=self._batches[index], use_cache=False)


_NOT_IN_TURN = (
    "this model does not hand the output of each block to the next one (see {!r}), so it cannot be run block by block; "
    "use a scheme that needs no text, such as W4A16"
)


_NO_CACHE = (
    "this model does not hand its cache to its blocks (see {!r}), so what the cache holds cannot be quantized; leave "
    "kv: out"
)


def batch_tokens(held: Held) -> int:
    """How many tokens go through a block at once: many on a GPU, where the memory that a block takes for them is free,
    since its kernels fill it better then."""
    if held.device.type != "cuda":
        return CPU_TOKENS
    layers = linears(held.skeleton)
    inside = [names for block, names in by_block(held.blocks, layers).items() if block or not held.blocks]
    widest = max(_numbers_a_token(names, layers) for names in inside)
    token_bytes: int = widest * next(held.skeleton.parameters()).element_size()
    free, _ = torch.cuda.mem_get_info(held.device)
    return max(1, min(GPU_TOKENS, int(GPU_SHARE * free) // token_bytes))


def _numbers_a_token(names: Sequence[str], layers: Mapping[str, nn.Linear]) -> int:
    """What enters and leaves these layers for one token; of a mixture's experts MOST_CHOSEN at most see it."""
    plain, experts = 0, dict[str, int]()
    for name in names:
        numbers, place = sum(layers[name].weight.shape), expert_of(name)
        if place is None:
            plain += numbers
        elif place[1] < MOST_CHOSEN:
            experts[place[0]] = experts.get(place[0], 0) + numbers
    return plain + sum(experts.values())


@contextmanager
def _filled(places: list[BlockPlace], run_of: Callable[[BlockPlace, int], Callable[..., Any]]) -> Iterator[None]:
    for number, place in enumerate(places):
        place.run = run_of(place, number)
    try:
        yield
    finally:
        for place in places:
            place.run = None


def _kept(value: Any, first: Any) -> Any:
    if isinstance(value, tuple) and isinstance(first, tuple) and len(value) == len(first):
        return tuple(_kept(one, other) for one, other in zip(value, first, strict=True))
    alike = isinstance(value, Tensor) and isinstance(first, Tensor) and value.shape == first.shape
    return first if alike and torch.equal(value, first) else value


def _carried(more: _More, entered: _More) -> _More:
    """The same call, with the mapping in which the first block has written: some blocks hand on more than hidden states
    through one that a whole pass shares (keys and values, Gemma 3n's last blocks)."""
    (args, kwargs), (_, first) = more, entered
    shared = {name for name, value in kwargs.items() if isinstance(value, MutableMapping)}
    return args, {name: first.get(name, value) if name in shared else value for name, value in kwargs.items()}


def _same(one: _More, other: _More) -> bool:
    """Whether two calls come with the very same objects; a number that counts the blocks is another one each time."""
    (args, kwargs), (others, more) = one, other
    pairs = [*zip(args, others, strict=False), *((kwargs[name], more.get(name)) for name in kwargs)]
    return len(args) == len(others) and kwargs.keys() == more.keys() and all(a is b for a, b in pairs)
