"""Python commands in processes of their own, begun in a moment: each is forked from one that has imported torch,
transformers, the package and the pages (tests/preloaded.py), where a new process would take seconds for that.

    done = run("-m", "quantcore", "schemes")           as subprocess.run([sys.executable, ...], capture_output=True)
    process = start("-m", "streamlit", "run", "serve.py", out=log, err=log)

What the environment decides while huggingface_hub is imported (HF_HOME, HF_ENDPOINT) holds here too. Not for what it
decides while others are (TRITON_INTERPRET, the allocator's limits), nor for a test of what is imported: those start
Python anew.
"""

import atexit
import contextlib
import multiprocessing
import os
import runpy
import subprocess
import sys
import tempfile
from collections.abc import Callable, Mapping
from multiprocessing import forkserver, spawn
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]
forking = multiprocessing.get_context("forkserver")
forking.set_forkserver_preload(["tests.preloaded"])
SHARED = "TESTS_FORK_FROM"  # the address of a process to fork from that another has begun
_forks: Any = forkserver._forkserver  # multiprocessing gives its address to nobody
_preparation = spawn.get_preparation_data


def _without_main(name: str) -> dict[str, Any]:
    """A forked process would import the program of this one, be it pytest or the page that AppTest ran last."""
    return {key: value for key, value in _preparation(name).items() if not key.startswith("init_main")}


spawn.get_preparation_data = _without_main


def share() -> None:
    """Begin the process that others are forked from, for the tests' processes that this one starts."""
    os.environ[SHARED] = _address()


def _address() -> str:
    with contextlib.chdir(ROOT):  # where tests.preloaded is found, should this be the first
        _forks.ensure_running()
    return str(_forks._forkserver_address)


def _fork_from(address: str) -> None:
    """Fork from a process that is not this one's child."""
    _forks._forkserver_address, _forks.ensure_running = address, lambda: None
    if _forks._forkserver_alive_fd is None:
        _forks._forkserver_alive_fd = os.pipe()[1]  # each child is given one


if SHARED in os.environ:
    _fork_from(os.environ[SHARED])


def start(
    *command: str,
    out: Path,
    err: Path,
    env: Mapping[str, str] | None = None,
    cwd: Path = ROOT,
) -> BaseProcess:
    """Begin `python COMMAND`, which writes to the files `out` and `err`, behind what they hold."""
    own = dict(os.environ if env is None else env)
    return begin(_become, command, own, cwd, out, err, _address())


def begin(what: Callable[..., None], *args: object, daemon: bool = False) -> BaseProcess:
    """Call a function in a process of its own; a daemon ends with this one."""
    _address()
    process = forking.Process(target=what, args=args, daemon=daemon)
    process.start()
    return process


def run(
    *command: str, env: Mapping[str, str] | None = None, cwd: Path = ROOT, timeout: float = 600
) -> "subprocess.CompletedProcess[str]":
    """Run `python COMMAND` to its end: its exit code, and what it wrote.

    Raises: subprocess.TimeoutExpired where it takes longer than `timeout` seconds; it is killed then."""
    with tempfile.TemporaryDirectory() as folder:
        out, err = Path(folder) / "out", Path(folder) / "err"
        process = start(*command, out=out, err=err, env=env, cwd=cwd)
        process.join(timeout)
        if process.exitcode is None:
            process.kill()
            process.join()
            raise subprocess.TimeoutExpired(command, timeout, out.read_text(), err.read_text())
        return subprocess.CompletedProcess(command, process.exitcode, out.read_text(), err.read_text())


def instead(command: list[str], cwd: Path, env: Mapping[str, str], **_: object) -> "subprocess.CompletedProcess[str]":
    """In the place of subprocess.run, for a module whose processes are Python's."""
    return run(*command[1:], cwd=cwd, env=env)


def _become(command: tuple[str, ...], env: dict[str, str], cwd: Path, out: Path, err: Path, address: str) -> None:
    """Be `python COMMAND` in this forked process; the tokenizers' processes that it starts are forked too, from where
    it came itself."""
    import torch

    from quantcore.model import bounded_process
    from tests.forked_children import Subprocess

    _fork_from(address)
    vars(bounded_process)["subprocess"] = Subprocess
    for number, file in ((1, out), (2, err)):
        with file.open("a") as opened:
            os.dup2(opened.fileno(), number)
    os.environ.clear()
    os.environ.update(env)
    os.chdir(cwd)
    if "HF_HOME" in env:  # our own code imports the hub's library where it asks the hub: then it is read anew
        for name in [one for one in sys.modules if one.partition(".")[0] == "huggingface_hub"]:
            del sys.modules[name]
    if "OMP_NUM_THREADS" in env:
        torch.set_num_threads(int(env["OMP_NUM_THREADS"]))
    what, *arguments = command
    try:
        if what == "-m":
            module, *arguments = arguments
            sys.argv = [module, *arguments]
            runpy.run_module(module, run_name="__main__", alter_sys=True)
        elif what == "-c":
            program, *arguments = arguments
            sys.argv = ["-c", *arguments]
            exec(compile(program, "<string>", "exec"), {"__name__": "__main__"})
        else:
            sys.argv = list(command)
            runpy.run_path(what, run_name="__main__")
    finally:
        atexit._run_exitfuncs()  # which a forked process leaves out
