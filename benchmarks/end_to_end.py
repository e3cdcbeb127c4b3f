"""From a model folder to a written checkpoint: ours, and llm-compressor on the same files, tokens and device.

    python -m benchmarks.end_to_end                         8 blocks of Llama-3-8B's shapes, 128 x 2048 tokens: all
    python -m benchmarks.end_to_end --blocks 32 --windows 512 --runs "ours streamed: W4A16,gptq"
    python -m benchmarks.end_to_end --blocks 32 --runs "ours: W4A16" "ours streamed: W4A16"
    python -m benchmarks.end_to_end --blocks 32 --runs "ours: W4A16,gptq" "ours, 2 GPUs: W4A16,gptq"
    python -m benchmarks.end_to_end --peer FOLDER           where llm-compressor is installed, apart from our packages
    python -m benchmarks.end_to_end --tiny --device cpu     a model of two small blocks, to see that all of it works

The model is made on the spot, of random weights. A run is CONTESTANT: SCHEME, a process of its own that does the same
work twice; the second is counted, the first is noted with the time of imports (--once: it is the only one, and its
kernels had better been compiled before). `ours, 2 GPUs` are two processes, by torchrun; the figures are the first
one's. Memory: the device's peak as torch counts it, and the host's peak (VmHWM, mapped files included) of the process,
in the second. The floor is what the arithmetic takes at this GPU's own measured rate (see `floor`).
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from benchmarks.llama_files import LLAMA_3_8B, TINY, write_random_llama
from benchmarks.machine import describe
from benchmarks.rows import RESULTS, write

if TYPE_CHECKING:
    from benchmarks.contestants import Job

ROOT = Path(__file__).parents[1]
SCHEME = "W4A16,gptq"
RUNS = (f"ours: {SCHEME}", f"ours streamed: {SCHEME}", f"llm-compressor: {SCHEME}", "duel")
TURNS = ("first", "second")
SECONDS = ("read_s", "quantize_s", "calibrate_s", "solve_s", "write_s")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--blocks", type=int, default=8)
    parser.add_argument("--windows", type=int, default=128)
    parser.add_argument("--length", type=int, default=2048)
    parser.add_argument("--vocabulary", type=int, default=LLAMA_3_8B.vocabulary)
    parser.add_argument("--runs", nargs="+", default=RUNS, metavar="CONTESTANT: SCHEME")
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--tiny", action="store_true")
    parser.add_argument("--peer", help="a folder with llm-compressor and its packages, before all others on its path")
    parser.add_argument("--folder", help="where models and checkpoints go; a temporary folder by default")
    parser.add_argument("--once", action="store_true", help="each run once only, with the time of imports")
    parser.add_argument("--minutes", type=float, default=60.0, help="no run is begun after so many")
    parser.add_argument("--out", type=Path, default=RESULTS / "end_to_end.json")
    parser.add_argument("--measure", help=argparse.SUPPRESS)
    chosen = parser.parse_args()
    if chosen.measure:
        measure(json.loads(chosen.measure))
        return
    shape = TINY if chosen.tiny else LLAMA_3_8B._replace(blocks=chosen.blocks, vocabulary=chosen.vocabulary)
    windows, length = (4, 64) if chosen.tiny else (chosen.windows, chosen.length)
    end = time.monotonic() + 60 * chosen.minutes
    with tempfile.TemporaryDirectory(dir=chosen.folder) as folder:
        model = Path(folder) / "model"
        weights = write_random_llama(model, shape, device=chosen.device)
        found: dict[str, Any] = {
            "machine": describe(),
            "shape": shape._asdict(),
            "weights_gb": weights / 1e9,
            "calibration": [windows, length],
            "runs": [],
        }
        job = {"model": str(model), "device": chosen.device, "windows": windows, "length": length}
        job["vocabulary"] = shape.vocabulary
        turns = ("only",) if chosen.once else TURNS
        for number, run in enumerate(chosen.runs):
            contestant, _, scheme = (part.strip() for part in run.partition(":"))
            contestant, _, gpus = contestant.partition(",")
            if time.monotonic() > end:
                row: dict[str, Any] = {"run": run, "not run": f"{chosen.minutes} minutes were over"}
            elif reason := why_not(contestant, chosen.peer):
                row = {"run": run, "not run": reason}
            else:
                out = str(Path(folder) / f"out{number}")
                task = job | {"scheme": scheme, "out": out}
                ranks = int(gpus.split()[0]) if gpus else 1
                row = {"run": run, **in_process(contestant, task, chosen.peer, ranks, turns)}
            found["runs"].append(row)
            print(line(row), flush=True)
            write(chosen.out, found)
        _add_floor(found, shape, windows, length, chosen.device, Path(folder))
    write(chosen.out, found)
    print("\n".join(summary(found)))


def why_not(contestant: str, peer: str | None) -> str | None:
    if not contestant.startswith("llm-compressor") or peer or importlib.util.find_spec("llmcompressor"):
        return None
    return "llm-compressor is not installed; pip install llmcompressor==0.14.0.1, or give --peer FOLDER"


def in_process(
    contestant: str, job: dict[str, Any], peer: str | None, ranks: int, turns: Sequence[str] = TURNS
) -> dict[str, Any]:
    """`measure` in a process of its own, or in several, one a GPU; what it said where it failed."""
    path = os.environ.get("PYTHONPATH", "")
    if contestant.startswith("llm-compressor") and peer:
        path = f"{peer}{os.pathsep}{path}"
    task = json.dumps({"contestant": contestant, "job": job, "turns": turns})
    launcher = ["-m", "torch.distributed.run", "--nproc-per-node", str(ranks)] if ranks > 1 else []
    started = time.perf_counter()
    done = subprocess.run(
        [sys.executable, *launcher, "-m", "benchmarks.end_to_end", "--measure", task],
        cwd=ROOT, env={**os.environ, "PYTHONPATH": path}, capture_output=True, text=True,
    )  # fmt: skip
    process_s = time.perf_counter() - started
    if done.returncode:
        return {"failed": done.stderr.strip().splitlines()[-12:], "process_s": process_s}
    answer: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return {**answer, "process_s": process_s}


def measure(task: dict[str, Any]) -> None:
    """The work, here; one line of JSON. Under torchrun with the other processes, the first of which speaks."""
    import torch

    from benchmarks.contestants import CONTESTANTS, Job
    from quantcore.cli import torchrun
    from quantcore.lab.warm import keep_compiled

    keep_compiled()  # as the command line does
    device = torchrun.device_here(task["job"]["device"])
    job, contestant = Job(**(task["job"] | {"device": device})), CONTESTANTS[task["contestant"]]
    torch.set_num_threads(max(1, (os.cpu_count() or 2) // int(os.environ.get("WORLD_SIZE", "1"))))
    with torchrun.joined(device) as those:
        found = timed(contestant, job, those.first, task["turns"])
    if those.first:
        print(json.dumps(found))


def timed(contestant: Callable[[Job], dict[str, Any]], job: Job, first: bool, turns: Sequence[str]) -> dict[str, Any]:
    """All turns by name; `first`: whether this process may clear the place of the result."""
    import shutil

    import torch

    from benchmarks.streaming import memory

    on_gpu = torch.device(job.device).type == "cuda"
    found: dict[str, Any] = {}
    for turn in turns:
        if first:
            shutil.rmtree(job.out, ignore_errors=True)
        if on_gpu:
            torch.cuda.empty_cache()
            torch.cuda.reset_peak_memory_stats(job.device)
        reset_host_peak()
        started = time.perf_counter()
        phases = contestant(job)
        seconds = time.perf_counter() - started
        found[turn] = {
            "seconds": seconds,
            **phases,
            "device_peak_gb": torch.cuda.max_memory_allocated(job.device) / 1e9 if on_gpu else None,
            "host_peak_gb": memory("VmHWM") / 1e9,
            "written_gb": sum(file.stat().st_size for file in Path(job.out).glob("*")) / 1e9,
        }
    return found


def reset_host_peak() -> None:
    """The kernel counts the peak anew, where it lets a process ask for that."""
    try:
        Path("/proc/self/clear_refs").write_text("5", encoding="ascii")
    except OSError as error:
        print(f"the host's peak is that of the whole process: {error}", file=sys.stderr)


def counted(row: dict[str, Any]) -> dict[str, Any] | None:
    """The turn of a run that counts: the last; None of one that was not run, or failed."""
    found: dict[str, Any] | None = row.get("second") or row.get("only")
    return found


def _add_floor(found: dict[str, Any], shape: Any, windows: int, length: int, device: str, folder: Path) -> None:
    from benchmarks.floor import floor, rates, solve_block_s

    found["rates"] = rates(device, folder)
    found["floor"] = floor(shape, windows, length, found["rates"], solve_block_s(shape, device))


def line(row: dict[str, Any]) -> str:
    if (second := counted(row)) is None:
        return f"{row['run']:32s} {row.get('not run') or 'FAILED: ' + ' | '.join(row['failed'])}"
    phases = "  ".join(f"{name[:-2]} {second[name]:.2f}" for name in SECONDS if isinstance(second.get(name), float))
    before = f" (first {row['first']['seconds']:.1f})" if "first" in row else ""
    peak = "" if second["device_peak_gb"] is None else f"  device {second['device_peak_gb']:.1f} GB"
    return f"{row['run']:32s} {second['seconds']:7.2f} s{before}  {phases}{peak}  host {second['host_peak_gb']:.1f} GB"


def summary(found: dict[str, Any]) -> list[str]:
    """Each run beside the floor, and ours beside llm-compressor's."""
    least = found["floor"]["floor_s"]
    rate = found["rates"]["product_tflops"]
    lines = [f"floor {least:.2f} s at {rate:.0f} TFLOP/s"]
    timed = {row["run"]: its["seconds"] for row in found["runs"] if (its := counted(row)) is not None}
    for run, seconds in timed.items():
        contestant, _, scheme = run.partition(":")
        peer, alone = timed.get(f"llm-compressor:{scheme}"), timed.get(f"{contestant.partition(',')[0]}:{scheme}")
        beside = f", {peer / seconds:.1f} times llm-compressor" if peer and contestant.startswith("ours") else ""
        beside += f", {alone / seconds:.2f} times one GPU" if alone and "," in contestant else ""
        over = f", {seconds / least:.1f} floors" if scheme.strip() == SCHEME else ""
        lines.append(f"{run:32s} {seconds:.2f} s{over}{beside}")
    return lines


if __name__ == "__main__":
    main()
