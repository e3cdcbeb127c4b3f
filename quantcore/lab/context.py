"""The KV cache of the loaded model along its context, the weights left float."""

from __future__ import annotations

from quantcore.lab.bench import LEARNED, Bench
from quantcore.lab.whole import SoFar
from quantcore.model.held import held
from quantcore.pipeline.calibration import Progress, part_of
from quantcore.scheme.cache import CacheSpec
from quantcore.studies.context_lens import RECALLED, ContextLens
from quantcore.studies.context_lens import context_lens as lens_of
from quantcore.text.reading import LONG

MOST = 6


def cache_of(lab: Bench, text: str) -> CacheSpec:
    """What a text such as kv:int8/token says of the cache. Raises: ValueError for one that speaks of anything else, and
    for a cache that the model cannot have."""
    from quantcore.pipeline.cache import require_cache  # transformers takes long to import

    plan = lab.plan_of(text)
    if plan.kv is None or any(one.weights or one.activations or one.transforms for one in plan.schemes):
        raise ValueError(f"{text!r} must speak of the cache alone; write kv:int8/token, or k: and v: each its own")
    require_cache(lab.model.config, plan.kv)
    return plan.kv


def context_lens(
    lab: Bench,
    caches: tuple[str, ...],
    reading: str = str(LONG),
    calibration: str = LEARNED,
    progress: Progress | None = None,
    so_far: SoFar | None = None,
) -> ContextLens:
    """KL, flips and recall of one to MOST caches, kv:... each, along the windows of `reading`.

    Raises: ValueError as `cache_of`, and for windows that leave no room for what is to be recalled."""
    from quantcore.pipeline.cache_ranges import calibrate_cache

    if not 1 <= len(caches) <= MOST:
        raise ValueError(f"{len(caches)} caches cannot be seen at once; give one to {MOST}")
    asked = {text: cache_of(lab, text) for text in caches}
    tokens, context = lab.tokens(reading), lab.loaded.context
    if context is not None and tokens.shape[1] + RECALLED > context:
        tokens = tokens[:, : context - RECALLED]
    ranges = part_of(progress, 0, 10, "ranges")
    learned = lab.tokens(calibration) if any(one.needs_ranges for one in asked.values()) else None
    frozen = {text: (one, calibrate_cache(held(lab.loaded), one, learned, ranges)) for text, one in asked.items()}

    def tell(share: float, doing: str) -> None:
        if progress:
            progress(0.1 + 0.9 * share, doing)

    return lens_of(lab.model, frozen, tokens, tell, so_far)
