"""Facts placed early in a text and asked late, of the loaded model with coded KV caches."""

from __future__ import annotations

import torch

from quantcore.lab.bench import LEARNED, Bench
from quantcore.lab.context import frozen_caches, question_of, require_caches
from quantcore.lab.whole import SoFar
from quantcore.measure.store import Answer, shape_of
from quantcore.pipeline.calibration import Progress, part_of
from quantcore.studies.context_lens import FLOAT
from quantcore.studies.retrieval import Retrieval, haystacks
from quantcore.studies.retrieval import retrieval as retrieval_of
from quantcore.text.reading import LONG

KIND = f"retrieval {shape_of(Retrieval)}"  # of the store's questions


def retrieval(
    lab: Bench,
    caches: tuple[str, ...],
    reading: str = str(LONG),
    calibration: str = LEARNED,
    progress: Progress | None = None,
    so_far: SoFar | None = None,
) -> Retrieval:
    """Whether facts in the windows of `reading` are found again, with one to six caches, kv:... each.

    Raises: ValueError as `require_caches`, and for windows too short to hold facts and questions."""
    require_caches(lab, caches)
    if (kept := kept_retrieval(lab, caches, reading, calibration)) is not None:
        return kept
    windows = haystacks(lab.whole.tokenizer, lab.tokens(reading))
    frozen = frozen_caches(lab, caches, calibration, part_of(progress, 0, 10, "ranges"))

    def tell(share: float, doing: str) -> None:
        if progress:
            progress(0.1 + 0.9 * share, doing)

    found = retrieval_of(lab.model, frozen, windows, tell, so_far)
    arrays = {f"said {name}": one.numpy() for name, one in found.said.items()}
    arrays |= {f"named {name}": one.numpy() for name, one in found.named.items()}
    arrays |= {"misled": found.misled.numpy(), "back": found.back.numpy()}
    question = question_of(lab, KIND, caches, reading, calibration)
    lab.store(reading, calibration).put(question, {"caches": list(caches)}, arrays)
    return found


def kept_retrieval(
    lab: Bench, caches: tuple[str, ...], reading: str = str(LONG), calibration: str = LEARNED
) -> Retrieval | None:
    """What was kept of the same question."""
    question = question_of(lab, KIND, caches, reading, calibration)
    answer = lab.store(reading, calibration).get(question, _read)
    return None if answer is None else _read(answer)


def _read(answer: Answer) -> Retrieval:
    def of(part: str) -> dict[str, torch.Tensor]:
        return {name: torch.from_numpy(answer.arrays[f"{part} {name}"]) for name in (FLOAT, *answer.figures["caches"])}

    misled, back = (torch.from_numpy(answer.arrays[part]) for part in ("misled", "back"))
    return Retrieval(of("said"), of("named"), misled, back)
