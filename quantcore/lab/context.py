"""The KV cache of the loaded model along its context, the weights left float."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from quantcore.lab.bench import LEARNED, Bench
from quantcore.lab.whole import SoFar
from quantcore.measure.store import Answer, Question, shape_of, tokens_hash
from quantcore.model.config_file import head_dim_of
from quantcore.model.held import held
from quantcore.model.machine import device_name, versions
from quantcore.pipeline.calibration import Progress, part_of
from quantcore.scheme.cache import CacheSpec
from quantcore.studies.context_lens import FLOAT, RECALLED, ContextLens
from quantcore.studies.context_lens import context_lens as lens_of
from quantcore.text.reading import LONG, Reading

if TYPE_CHECKING:
    from quantcore.pipeline.cache import Scales  # transformers takes long to import

MOST = 6
PARTS = ("kl", "flips", "said")  # of a lens, by cache
GROUPS = (64, 32, 16)
LENGTHS = (128, 256, 512, 1024, 2048, 4096, 8192, 16384, 32768)
KIND = f"context lens {shape_of(ContextLens)}"  # of the store's questions


def usual_caches(lab: Bench) -> list[str]:
    """Three caches that every head of the model takes."""
    width = head_dim_of(lab.model.config)
    group = next((size for size in GROUPS if width % size == 0), None)
    return ["kv:fp8_e4m3/tensor", "kv:int8/token", f"kv:int4/group{group}" if group else "kv:int4/token"]


def lengths_on(lab: Bench) -> list[int]:
    """Windows, in tokens, that the model was made for."""
    longest = lab.loaded.context
    return [one for one in LENGTHS if longest is None or one <= longest] or [LENGTHS[0]]


def reading_of(read: Reading, length: int) -> str:
    """As many windows of `length` tokens as the reading has."""
    return str(read.at_most(read.windows * length, length))


def usual_question(lab: Bench) -> tuple[tuple[str, ...], str, str]:
    """What the page asks without a click: the caches in full, what is read, what is learned from."""
    length = min(LONG.length, lengths_on(lab)[-1])
    return tuple(str(cache_of(lab, one)) for one in usual_caches(lab)), reading_of(LONG, length), LEARNED


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
    require_caches(lab, caches)
    tokens, context = lab.tokens(reading), lab.loaded.context
    if context is not None and tokens.shape[1] + RECALLED > context:
        tokens = tokens[:, : context - RECALLED]
    if (kept := kept_context_lens(lab, caches, reading, calibration)) is not None:
        return kept
    question = question_of(lab, KIND, caches, reading, calibration)
    frozen = frozen_caches(lab, caches, calibration, part_of(progress, 0, 10, "ranges"))

    def tell(share: float, doing: str) -> None:
        if progress:
            progress(0.1 + 0.9 * share, doing)

    found = lens_of(lab.model, frozen, tokens, tell, so_far)
    arrays = {f"{part} {name}": one.numpy() for part in PARTS for name, one in getattr(found, part).items()}
    lab.store(reading, calibration).put(question, {"held": found.held}, arrays)
    return found


def require_caches(lab: Bench, caches: tuple[str, ...]) -> dict[str, CacheSpec]:
    """What each text says of the cache. Raises: ValueError as `cache_of`, and for none or more than MOST."""
    if not 1 <= len(caches) <= MOST:
        raise ValueError(f"{len(caches)} caches cannot be seen at once; give one to {MOST}")
    return {text: cache_of(lab, text) for text in caches}


def frozen_caches(
    lab: Bench, caches: tuple[str, ...], calibration: str, progress: Progress | None
) -> dict[str, tuple[CacheSpec | None, Scales]]:
    """What each cache holds, and the static scales of those that have such, learned from the calibration text.

    Raises: ValueError as `require_caches`."""
    from quantcore.pipeline.cache_ranges import calibrate_cache

    asked = require_caches(lab, caches)
    needing = [text for text, one in asked.items() if one.needs_ranges]
    learned = lab.tokens(calibration) if needing else None
    found: dict[str, tuple[CacheSpec | None, Scales]] = {}
    for text, one in asked.items():
        part = part_of(progress, needing.index(text), len(needing)) if text in needing else None
        found[text] = one, calibrate_cache(held(lab.loaded), one, learned, part)
    return found


def kept_context_lens(
    lab: Bench, caches: tuple[str, ...], reading: str = str(LONG), calibration: str = LEARNED
) -> ContextLens | None:
    """The lens that was kept of the same question."""
    answer = lab.store(reading, calibration).get(question_of(lab, KIND, caches, reading, calibration), _read)
    return None if answer is None else _read(answer)


def _read(answer: Answer) -> ContextLens:
    held = dict(answer.figures["held"])
    parts = {
        part: {
            name: torch.from_numpy(answer.arrays[f"{part} {name}"]) for name in held if part == "said" or name != FLOAT
        }
        for part in PARTS
    }
    return ContextLens(held=held, **parts)


def question_of(lab: Bench, kind: str, caches: tuple[str, ...], reading: str, calibration: str) -> Question:
    """How the store knows a question of these caches."""
    asked = require_caches(lab, caches)
    learned = (lab.tokens(calibration),) if any(one.needs_ranges for one in asked.values()) else ()
    return Question(
        kind=kind,
        scheme=" ".join(caches),
        model=lab.id,
        model_hash=lab.hash,
        text_hash=tokens_hash(lab.tokens(reading), *learned),
        device=device_name(lab.loaded.device),
        versions=versions(),
    )
