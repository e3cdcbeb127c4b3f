"""How much memory a streamed export takes: a random Llama, written to disk, larger than the memory it is quantized in.

    python -m benchmarks.streaming                                        the model of the recorded run
    python -m benchmarks.streaming --blocks 3 --runs "export W4A16,gptq"   a smaller one, by GPTQ

Each run is a process of its own. Its peak is VmHWM, the most memory that the kernel ever counted for it (mapped file
pages included), set back to the present once torch and transformers are imported; what it held then is subtracted. The
run `load` loads the whole model as `load_model` does, for comparison.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from benchmarks.llama_files import Shape, write_random_llama
from benchmarks.machine import describe
from benchmarks.rows import RESULTS, write

SHAPE = Shape(2048, 5632, 16, 16, 24, 8192)
RUNS = ("export W4A16", "evaluate W4A16", "load")
TOKENS = (2, 256)  # windows, length: of calibration and evaluation


def measure(model: str, run: str, out: str) -> dict[str, Any]:
    """One run in this process: seconds, and the peak above what the process held once all was imported."""
    import torch
    import transformers  # noqa: F401
    from transformers import AutoModelForCausalLM, AutoTokenizer, LlamaForCausalLM  # noqa: F401

    from quantcore.export import checkpoint_format  # noqa: F401
    from quantcore.export.checkpoint import export_checkpoint
    from quantcore.measure.side_by_side import compare_plans
    from quantcore.model.loading import load_model
    from quantcore.model.streamed import StreamedModel
    from quantcore.scheme.plan import Plan

    verb, _, scheme = run.partition(" ")
    vocabulary = json.loads((Path(model) / "config.json").read_text(encoding="utf-8"))["vocab_size"]
    tokens = torch.randint(0, vocabulary, TOKENS, generator=torch.Generator().manual_seed(1))
    Path("/proc/self/clear_refs").write_text("5", encoding="ascii")  # the peak starts anew
    before, started = memory("VmRSS"), time.perf_counter()
    found: dict[str, Any] = {}
    if verb == "export":
        source = StreamedModel(model, "cpu")
        report = export_checkpoint(source, scheme, out, tokens if "gptq" in scheme else None)
        found = {"stored_mb": round(report.bytes / 1e6, 1), "files": len(report.files)}
    elif verb == "evaluate":
        plans = {scheme: Plan.parse(scheme)}
        result = compare_plans(StreamedModel(model, "cpu"), plans, tokens).comparison.reports[scheme]
        found = {"kl": result.kl, "tokens": result.tokens}
    else:
        load_model(model, "cpu")
    seconds = time.perf_counter() - started
    peak_mb = round((memory("VmHWM") - before) / 1e6, 1)
    return {"run": run, "peak_mb": peak_mb, "imports_mb": round(before / 1e6, 1), "seconds": round(seconds, 1), **found}


def memory(kind: str) -> int:
    """VmRSS or VmHWM of this process, bytes."""
    lines = Path("/proc/self/status").read_text(encoding="ascii").splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(f"{kind}:"))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--blocks", type=int, default=SHAPE.blocks)
    parser.add_argument("--runs", nargs="+", default=RUNS, help="export SCHEME, evaluate SCHEME, load")
    parser.add_argument("--folder", help="where the model and its copies are written; a temporary folder by default")
    parser.add_argument("--out", type=Path, help=f"JSON file; the recorded one is {RESULTS.name}/streaming.json")
    parser.add_argument("--measure", nargs=3, metavar=("MODEL", "RUN", "OUT"), help=argparse.SUPPRESS)
    chosen = parser.parse_args()
    if chosen.measure:
        print(json.dumps(measure(*chosen.measure)))
        return
    shape = SHAPE._replace(blocks=chosen.blocks)
    with tempfile.TemporaryDirectory(dir=chosen.folder) as folder:
        model = Path(folder) / "model"
        weight_bytes = write_random_llama(model, shape)
        print(f"{shape}: {weight_bytes / 1e6:,.0f} MB of bf16 weights")
        runs = []
        for place, run in enumerate(chosen.runs):
            arguments = ["--measure", str(model), run, str(Path(folder) / f"out{place}")]
            done = subprocess.run(
                [sys.executable, "-m", "benchmarks.streaming", *arguments],
                stdout=subprocess.PIPE,
                text=True,
                check=True,
            )
            runs.append(json.loads(done.stdout.splitlines()[-1]))
            print(f"{run:20s} peak {runs[-1]['peak_mb']:8,.1f} MB above the imports, {runs[-1]['seconds']:7.1f} s")
            if chosen.out:
                facts = {"machine": describe(), "shape": shape._asdict(), "weights_mb": round(weight_bytes / 1e6, 1)}
                result = facts | {"tokens": TOKENS, "runs": runs}
                write(chosen.out, result)


if __name__ == "__main__":
    main()
