"""transformers' report of a load as one sentence: what is not there, what is left over, what does not fit.

transformers itself only warns, and goes on with random numbers where a tensor is not there. The same report comes of
the questions that are put to headers (`integrity`) and of the load itself (`loading`), so both say it here.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from quantcore.model.sentences import and_more, quoted

AGAIN = "download config.json and weights again, from one place"


def require_complete(
    missing: Iterable[str],
    left: Iterable[str],
    mismatched: Iterable[tuple[str, Any, Any]] = (),
    unmade: Iterable[str] = (),
) -> None:
    """That a load left nothing out and nothing over. mismatched: name, the files' shape, the model's; unmade: what the
    files' tensors should have been put together to. Raises: ValueError that names a tensor, and the way out."""
    lacking, over = sorted(missing, key=_in_order), sorted(left, key=_in_order)
    if found_as := _prefixed(lacking, over):
        name, prefix = found_as
        raise ValueError(
            f"its files name their tensors {quoted(prefix + name)} where the model's are {quoted(name)}; "
            f"rename them without {quoted(prefix)}, which torch.compile or a trainer adds, or save the model anew"
        )
    if wrong := sorted(mismatched, key=lambda one: _in_order(one[0])):
        name, found, described = wrong[0]
        raise ValueError(
            f"{quoted(name)} has shape {tuple(found)} in its files and its config.json says {tuple(described)}; {AGAIN}"
        )
    if not_made := sorted(unmade, key=_in_order):
        raise ValueError(f"transformers cannot make {and_more(not_made)} of what its files hold; {AGAIN}")
    if lacking == ["lm_head.weight"]:
        raise ValueError(
            "its files lack 'lm_head.weight', which its config.json does not tie to the embedding table; set "
            "tie_word_embeddings to true where the table is its head, or download it again"
        )
    if lacking:
        raise ValueError(f"its files lack {and_more(lacking)}, which would be random numbers; {AGAIN}")
    if over:
        raise ValueError(
            f"its files hold {and_more(over)}, for which the model of its config.json has no place, so they are "
            f"another model's; {AGAIN}"
        )


def _in_order(name: str) -> list[tuple[bool, int, str]]:
    """Sorts names by the numbers in them: block 2 before block 10."""
    return [(not part.isdecimal(), int(part) if part.isdecimal() else 0, part) for part in name.split(".")]


def _prefixed(missing: list[str], left: list[str]) -> tuple[str, str] | None:
    """A tensor that is missing, and what stands before its name, and most others, in the files. A tied head is missing
    without a counterpart there, so every name is tried."""
    held = set(left)
    prefixes = {one.removesuffix(missing[-1]) for one in left if one.endswith(f".{missing[-1]}")} if missing else ()
    for prefix in prefixes:
        if name := next((one for one in missing if prefix + one in held), None):
            return (name, prefix) if sum(one.startswith(prefix) for one in left) * 2 > len(missing) else None
    return None
