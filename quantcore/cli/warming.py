"""The verb that compiles the GPU's kernels before anybody waits for them."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

from quantcore.cli.outputs import progress_bar
from quantcore.lab.warm_works import COMMON
from quantcore.model.inventory import inventory
from quantcore.model.loading import devices


def warm(model: str | None = None, device: str | None = None) -> dict[str, Any]:
    """compile the GPU's kernels now and keep them, so that nobody waits for them later"""
    from quantcore.lab import warm as warming

    here = devices()[1:]
    if not here:
        raise ValueError("there is no GPU on this machine, so there are no kernels to compile; nothing waits for them")
    shapes = COMMON if model is None else tuple(inventory(model).linears.values())
    with progress_bar("compiling") as tell:
        done = warming.warm(device or here[0], shapes, tell)
    if done.failed:
        work, problem = next(iter(done.failed.items()))
        raise ValueError(f"{len(done.failed)} of {done.works} works failed, the first is {work}: {problem[:200]}")
    return asdict(done)
