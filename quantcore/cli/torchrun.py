"""A verb under torchrun: this process joins the others, the first reports, and an end of one is the end of all.

    torchrun --nproc-per-node 2 -m quantcore quantize --model owner/name --scheme W4A16,gptq --out folder

torchrun ends every process when one has failed, by SIGTERM. Whoever writes may sit in a call of a library just then and
would not hear it; so a thread waits for the signal, takes away what is half written, and ends the process.
"""

from __future__ import annotations

import atexit
import os
import signal
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, NoReturn

import torch

from quantcore.export.new_folder import drop_partial
from quantcore.pipeline.ranks import ALONE, Ranks, sharing

STOPPED = 143  # what a process that SIGTERM ended says
SHARED = ("quantize", "evaluate", "compare", "sensitivity")  # verbs whose work is shared out
ENDED = "a process of this run has ended, so all of it has; nothing was kept; its own message, if any, stands above"
_told: list[Any] = []  # what all processes of the run can count on together, once they have met


def under_torchrun() -> bool:
    """Whether torchrun has started this process with others."""
    return int(os.environ.get("WORLD_SIZE", "1")) > 1


def require_shared(verb: str) -> None:
    """Raises: ValueError under torchrun for a verb whose work is not shared out."""
    if under_torchrun() and verb not in SHARED:
        raise ValueError(f"{verb} is no work for several processes; torchrun shares out {', '.join(SHARED)}")


def lost_another(error: BaseException) -> bool:
    """Whether this is what a rank meets that waits for one that is gone."""
    from torch import distributed

    return (
        under_torchrun()
        and isinstance(error, distributed.DistError | RuntimeError)
        and any(
            mark in str(error)
            for mark in ("Connection closed by peer", "Connection reset by peer", "Broken pipe", "NCCL")
        )
    )


def device_here(device: str | None) -> str | None:
    """The device of this rank: its own GPU of this machine where GPUs are asked for, or there are enough of them.

    Raises: ValueError for one GPU named for all ranks."""
    if not under_torchrun() or device == "cpu":
        return device
    here, count = int(os.environ["LOCAL_RANK"]), torch.cuda.device_count()
    if device not in (None, "cuda"):
        raise ValueError(f"under torchrun every process takes a GPU of its own; leave out --device {device}")
    if here < count:
        return f"cuda:{here}"
    if device == "cuda" or count:
        raise ValueError(
            f"torchrun started more processes on this machine than it has GPUs, {count}; use --nproc-per-node {count}"
        )
    return "cpu"


@contextmanager
def joined(device: str | None) -> Iterator[Ranks]:
    """Work with the other processes on `device` (see `device_here`); alone, where there are none."""
    if not under_torchrun():
        yield ALONE
        return
    from torch import distributed

    on_gpu = device is not None and device.startswith("cuda")
    if on_gpu:
        torch.cuda.set_device(device)
    distributed.init_process_group("cpu:gloo,cuda:nccl" if on_gpu else "gloo")
    _told.append(distributed.distributed_c10d._get_default_store())
    _listen()
    with sharing(Ranks(distributed.get_rank(), distributed.get_world_size())) as those:
        yield those
    distributed.barrier()
    distributed.destroy_process_group()
    atexit.register(leave, 0)  # torch's threads, taken apart with the interpreter, can end it by SIGABRT


def tells() -> bool:
    """Whether this process is the one that says why all end: the first that asks."""
    if not under_torchrun():
        return True
    try:
        return int(_told[0].add("quantcore/told", 1)) == 1
    except (IndexError, RuntimeError):  # they have not met yet, or the machine that keeps the count is gone
        return int(os.environ["RANK"]) == 0


def leave(code: int) -> NoReturn:
    """End this process without a word to the others: torchrun ends those that wait for it."""
    sys.stderr.flush()
    os._exit(code)


def _listen() -> None:
    """End this process at SIGTERM, whatever its main thread is at: Python notes the signal in a pipe at once."""
    heard, noted = os.pipe()
    os.set_blocking(noted, False)
    signal.set_wakeup_fd(noted, warn_on_full_buffer=False)
    signal.signal(signal.SIGTERM, lambda *_: None)

    def wait() -> None:
        while os.read(heard, 1)[0] != signal.SIGTERM:
            pass
        drop_partial()
        if tells():
            print(f"quantcore: {ENDED}", file=sys.stderr, flush=True)
        os._exit(STOPPED)

    threading.Thread(target=wait, name="waits for SIGTERM", daemon=True).start()
