"""How long the advice takes, and every candidate measured on the whole text: what tests hold the advice to.

    python -m benchmarks.advice time                      the reference model: seconds to each stage of `Lab.tried`
    python -m benchmarks.advice losses                    every candidate's loss on the short text and on the whole one
    python -m benchmarks.advice losses --model FILE.gguf --name SmolLM2-135M --learned 5120 --device cuda

What is measured is kept in QUANT_HOME, a candidate at a time, so a run that was cut off goes on where it stood, and is
written at once: `benchmarks/results/advice.json`. `time` measures in a folder of its own, where nothing is kept.
"""

from __future__ import annotations

import argparse
import json
import os
import tempfile
import time
from dataclasses import asdict
from pathlib import Path
from typing import Any

from benchmarks.machine import describe
from benchmarks.rows import RESULTS, put_row
from quantcore.advice.candidates import candidates
from quantcore.advice.shape import served_shape
from quantcore.lab.advice import FEW, losses_of
from quantcore.lab.bench import EACH, MEASURED
from quantcore.lab.lab import Lab
from quantcore.measure.store import Store
from quantcore.model.locate import REFERENCE
from quantcore.text.reading import CALIBRATE


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("part", choices=("time", "losses"))
    parser.add_argument("--model", default=REFERENCE)
    parser.add_argument("--name", help="what the model is called in the file")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--learned", type=int, default=CALIBRATE.windows * CALIBRATE.length, help="tokens")
    parser.add_argument("--out", type=Path, default=RESULTS / "advice.json")
    options = parser.parse_args()
    name = options.name or options.model
    if options.part == "time":
        put_row(options.out, "time", name, timed(options.model, options.device))
    else:
        losses(Lab(options.model, options.device), name, str(CALIBRATE.at_most(options.learned)), options.out)


def timed(model: str, device: str) -> dict[str, Any]:
    """Seconds from the question to the advice from what is known, to that from the short text, and to the last."""
    with tempfile.TemporaryDirectory() as folder:
        lab = Lab(model, device, store=Store(Path(folder)))
        started, worked, heard = time.perf_counter(), time.process_time(), []
        lab.advise()
        first = time.perf_counter() - started
        shares: list[float] = []

        def tell(share: float, _: str) -> None:
            shares.append(time.perf_counter() - started)

        found = lab.tried(progress=tell, so_far=lambda _: heard.append(time.perf_counter() - started))
        whole = time.perf_counter() - started
    longest = max((after - before for before, after in zip(shares, shares[1:], strict=False)), default=0.0)
    worked = time.process_time() - worked  # seconds of all cores: what an idle machine shares out among its own
    chosen = found.chosen.candidate.name if found.chosen else None
    row = {
        "first_s": first,
        "short_text_s": heard[0],
        "whole_s": whole,
        "cpu_s": worked,
        "longest_silence_s": longest,
        "chosen": chosen,
    }
    print(json.dumps(row))
    return row | {"load": os.getloadavg()[0], "machine": describe()}


def losses(lab: Lab, name: str, learned: str, out: Path) -> None:
    shape = served_shape(lab.id, lab.model)
    for text in (one.text for one in candidates(shape) if one.text != "float"):
        for stage, reading, calibration in (("short", EACH, FEW), ("whole", MEASURED, learned)):
            started = time.perf_counter()
            found = losses_of(lab.duel((text,), reading, calibration))[text]
            print(f"{stage} {text}: {found.kl:.4g}, {time.perf_counter() - started:.0f} s", flush=True)
            asked = {"text": reading, "learned": calibration, "machine": describe()}
            put_row(out, f"losses of {name}", f"{stage} {text}", asdict(found) | asked)


if __name__ == "__main__":
    main()
