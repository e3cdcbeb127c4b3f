"""The process that others are forked from (tests/forked.py): it imports what they need, and forks whenever it is asked.

    python -m tests.fork_server ADDRESS LISTENER       LISTENER: the number of a socket that listens at ADDRESS

It ends with its standard input, which who began it holds open. A forked process ends with the line on which it was
asked for, at the latest.
"""

import atexit
import contextlib
import json
import os
import runpy
import selectors
import signal
import socket
import sys
import traceback
from typing import Any

code = 0


def leave() -> None:
    """End at once: to take apart all that is imported would take longer than most commands do."""
    with contextlib.suppress(ValueError):  # closed
        sys.stdout.flush()
        sys.stderr.flush()
    os._exit(code)


atexit.register(leave)  # the first that is registered is the last to be called

from tests import forked, preloaded  # noqa: E402, F401, I001  (it says how transformers is imported)
import torch  # noqa: E402

from quantcore.model import bounded_process  # noqa: E402


def serve(listener: socket.socket) -> dict[str, Any] | None:
    """Fork for each who asks. In a forked process: what it is asked for; None when there is nobody any more."""
    lines: dict[int, socket.socket] = {}
    woken, wakes = os.pipe()
    os.set_blocking(wakes, False)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGCHLD, lambda *_: None)
    signal.set_wakeup_fd(wakes)
    with selectors.DefaultSelector() as ready:
        for one in (0, woken, listener):
            ready.register(one, selectors.EVENT_READ)
        while True:
            for key, _ in ready.select():
                if key.fileobj == 0:
                    for pid in lines:
                        os.kill(pid, signal.SIGTERM)
                    return None
                if key.fileobj is listener:
                    line = listener.accept()[0]
                    ends, asked = heard(line)
                    if (pid := os.fork()) == 0:
                        stand_alone(ends, (woken, wakes), (listener, line, *lines.values()))
                        return asked
                    for end in ends:
                        os.close(end)
                    tell(line, pid)
                    lines[pid] = line
                    ready.register(line, selectors.EVENT_READ, pid)
                elif key.data in lines:  # who asked for it has hung up
                    ready.unregister(key.fileobj)
                    os.kill(key.data, signal.SIGTERM)
                elif key.fileobj == woken:
                    os.read(woken, 4096)
                    while lines and (ended := os.waitpid(-1, os.WNOHANG))[0]:
                        line = lines.pop(ended[0])
                        with contextlib.suppress(KeyError):  # it has hung up
                            ready.unregister(line)
                        tell(line, os.waitstatus_to_exitcode(ended[1]))
                        line.close()


def heard(line: socket.socket) -> tuple[list[int], dict[str, Any]]:
    """Where a process is to read and write, and what it is to be."""
    ends = socket.recv_fds(line, 1, 3)[1]
    with line.makefile("rb") as asked:
        return ends, json.loads(asked.readline())


def tell(line: socket.socket, number: int) -> None:
    with contextlib.suppress(OSError):  # nobody listens
        line.sendall(forked.NUMBER.pack(number))


def stand_alone(ends: list[int], pipe: tuple[int, int], lines: tuple[socket.socket, ...]) -> None:
    """Let go of what this process was forked from, and read and write at `ends`."""
    os.setsid()  # Ctrl-C is for who asked
    signal.set_wakeup_fd(-1)
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    signal.signal(signal.SIGINT, signal.default_int_handler)
    for number, end in enumerate(ends):
        os.dup2(end, number)
    for one in (*ends, *pipe):
        os.close(one)
    for line in lines:
        line.close()


def become(command: list[str], env: dict[str, str], cwd: str) -> int:
    """Be `python COMMAND`; its exit code. The processes of tokenizers that it starts are forked too."""
    vars(bounded_process)["subprocess"] = forked.POPEN
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
            sys.argv = arguments
            runpy.run_module(arguments[0], run_name="__main__", alter_sys=True)
        elif what == "-c":
            sys.argv = ["-c", *arguments[1:]]
            exec(compile(arguments[0], "<string>", "exec"), {"__name__": "__main__"})
        else:
            sys.argv = command
            runpy.run_path(what, run_name="__main__")
    except SystemExit as end:
        if not isinstance(end.code, int | None):
            print(end.code, file=sys.stderr)
        return end.code if isinstance(end.code, int) else int(end.code is not None)
    except BaseException:
        traceback.print_exc()
        return 1
    return 0


if __name__ == "__main__":
    forked.server = sys.argv[1]
    asked = serve(socket.socket(fileno=int(sys.argv[2])))
    if asked is not None:
        code = become(**asked)
