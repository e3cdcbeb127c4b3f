"""X^T X of what enters a block's Linears: what GPTQ weighs the columns' errors with.

hessians = hessians_of(block, "model.layers.0", names, walk)        [(H, the layers that read this input), ...]
"""

from __future__ import annotations

from torch import Tensor, nn

from quantcore.model.linears import SharedInputs, watch_inputs
from quantcore.pipeline.blocks import BlockWalk, Enough
from quantcore.pipeline.gram import Gram


def hessians_of(module: nn.Module, block: str, names: list[str], walk: BlockWalk) -> list[tuple[Tensor, list[str]]]:
    """X^T X of the named layers of a block (or, "", of what lies around the blocks), each with the layers that it
    belongs to: those that read one tensor.

    Once a batch has called each layer once, a later one goes no further than the last of them."""
    if not names:
        return []
    prefix = f"{block}." if block else ""
    local = [name.removeprefix(prefix) for name in names]
    shared, sums = SharedInputs(), dict[str, Gram]()
    calls: list[str] = []
    once = False

    def see(name: str, x: Tensor) -> None:
        calls.append(name)
        if shared.is_first(name, x):
            sums.setdefault(name, Gram()).add(x)
        if once and len(calls) >= len(local) and set(calls) == set(local):
            raise Enough

    def next_batch(_: float) -> None:
        nonlocal once
        once = once or sorted(calls) == sorted(local)
        calls.clear()

    with watch_inputs(module, local, see):
        walk.run(module, next_batch)
    return [
        (gram.total, [f"{prefix}{name}" for name, leader in shared.first.items() if leader == first])
        for first, gram in sums.items()
    ]
