"""How a job ends that did not succeed: its sentence, and the memory that it must not keep.

An error may be anything, also one whose own words cannot be had: a panic in a library's native code is a BaseException.
"""

from __future__ import annotations

import gc
import logging
import traceback

import torch

from quantcore.model.memory import asked_for, free_memory, is_lack_of_memory

LONGEST = 240  # characters of an error's own words


def sentence(error: BaseException, title: str, device: str) -> str:
    """What ended a job, for its page: what was asked, what was free, what to try."""
    words = own_words(error)
    if isinstance(error, ValueError):
        return words
    if is_lack_of_memory(error, words):
        more = f"{asked} more were asked for and " if (asked := asked_for(words)) else ""
        return (
            f"There was not enough memory on {device} for {title}: {more}{free_text(device)}. Try fewer tokens, fewer "
            "schemes at once, or a smaller model."
        )
    said = f"{type(error).__name__}: {words[:LONGEST]}" if words else type(error).__name__
    return f"{title} met an error of its own ({said}); try other settings."


def own_words(error: BaseException) -> str:
    """What an error says of itself; nothing where it cannot."""
    try:
        return str(error)
    except BaseException:
        return ""


def log(error: BaseException, title: str) -> None:
    """Note in the server's log what is no refusal of ours."""
    if not isinstance(error, ValueError):
        words = own_words(error)[:LONGEST]
        logging.getLogger(__name__).warning("%s failed: %s: %s", title, type(error).__name__, words)


def let_go(error: BaseException | None) -> None:
    """Empty the frames that an error, and those behind it, passed through: they hold the tensors."""
    seen: set[int] = set()
    while error is not None and id(error) not in seen:
        seen.add(id(error))
        traceback.clear_frames(error.__traceback__)
        error.__traceback__ = None
        error = error.__cause__ or error.__context__


def free_text(device: str) -> str:
    """How much memory a device has free, in words; of a line that is no device's, as the loader's, the machine's."""
    name = device.partition(" ")[0]  # of "cuda:0 (moves)"
    known = name.partition(":")[0] in ("cpu", "cuda")
    found = free_memory(torch.device(name if known else "cpu"))
    if found is None:
        return "how much was free is not known"
    free, total = found
    return f"{free / 2**30:.1f} of {total / 2**30:.1f} GiB were free"


def clear_memory(device: str) -> None:
    """Give back what a job that ended early has left behind."""
    gc.collect()
    if device.startswith("cuda"):
        torch.cuda.empty_cache()
