"""How long the server works for each page with a real model: the first draw, then moves of its controls.

    python -m benchmarks.pages_gpu                                      8 blocks of Llama-3-8B's shapes on a GPU
    python -m benchmarks.pages_gpu --model reference --device cpu
    python -m benchmarks.pages_gpu --model SmolLM2.gguf --device cpu --pages 2_Granularity 6_GPTQ_step_by_step

Streamlit's AppTest runs the pages in this process, without a browser: what is measured is the script's time, not the
drawing. The model is loaded first, and on a GPU the kernels are warm, as in a server that has been up for a minute.
Each page is opened by a visitor of its own whose answers nobody has asked for before; then its controls are moved one
after another, each to values not seen before.

    run_s      one run of the page: what the visitor waits for before anything is drawn
    answer_s   until all jobs that the run began are over and the page has drawn their results; else run_s

The bars: the first run of every page, and the answers to moves. A control that is not on the page, and whatever a page
shows as an error, ends up in `problems`: then the figures are not what they seem.
"""

from __future__ import annotations

import argparse
import logging
import statistics
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

from streamlit.testing.v1 import AppTest

from benchmarks.llama_files import LLAMA_3_8B, TINY, write_random_llama
from benchmarks.machine import describe
from benchmarks.rows import RESULTS, write
from ui.job import Job
from ui.jobs import Jobs

ROOT = Path(__file__).parents[1]
PATIENCE_S = 600.0
KINDS = ("select_slider", "slider", "segmented_control", "selectbox", "text_input", "text_area", "toggle")
GPTQ_SCHEMES = ["w:int4/group64,gptq", "w:int3/group64,gptq/actorder=weight", "w:int4/channel,gptq"]
BARS = {"first draw": 2.0, "median of moves": 0.3, "p95 of moves": 0.6}  # seconds, on a GPU


class Page(NamedTuple):
    """Values for each control, by its key; `start`: its work may wait for a button."""

    moves: dict[str, list[Any]]
    start: bool = False


PAGES: dict[str, Page] = {
    "": Page({"bits": [2, 3, 5, 6]}),
    "1_Number_formats": Page({"of": ["inputs"], "formats": [["int8"], ["fp8_e4m3"]]}),
    "2_Granularity": Page({"group": [32, 64], "grain": ["tensor", "channel", "block"], "format": ["int3", "int8"]}),
    "3_Outliers": Page({"clip": ["99.9", "99"], "keep": [1, 2], "act": ["int4"], "height": ["log"]}),
    "4_Static_or_dynamic": Page({"steps": [2, 5], "percentile": ["99"], "momentum": ["1"], "call": [1, 16]}),
    "5_Layer_lab": Page(
        {"a": ["w:int4/group64", "w:int8/channel,a:int8/token/dynamic", *GPTQ_SCHEMES], "order": ["in order"]}
    ),
    "6_GPTQ_step_by_step": Page(
        {"bits": [2, 4, 5], "damp": [0.03, 0.1], "order": ["weight", "group"], "group": ["128", "row"], "tokens": [640]}
    ),
    "7_Scheme_duel": Page({"token": [3, 40, 77]}, start=True),
    "8_Which_layers_hurt": Page({"budget": [4.5, 5.0]}),
    "9_Rules_tested": Page({}),
    "10_Speed_and_memory": Page({"batch": [1, 16], "context": [4096], "kv": [8]}),
    "16_Take_it_with_you": Page({"scheme": ["W8A8", "w:int4/group64"]}),
    "14_Which_scheme_should_I_ship": Page({"at_once": [1, 64], "context": [4096]}),
    "15_What_has_been_measured": Page({}),
    "13_Context_lens": Page({"at_once": [16, 64]}, start=True),
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", help="`reference`, a folder, a GGUF file; by default made on the spot")
    parser.add_argument("--blocks", type=int, default=8, help="of the model that is made")
    parser.add_argument("--tiny", action="store_true", help="make a tiny model instead")
    parser.add_argument("--device", default="cuda:0")
    parser.add_argument("--layer", help="the sidebar's layer; the page's own choice by default")
    parser.add_argument(
        "--pages", nargs="+", default=list(PAGES), metavar="PAGE", help="of pages/, or '' for the first"
    )
    parser.add_argument("--minutes", type=float, default=30.0, help="no page is begun after so many")
    parser.add_argument("--out", type=Path, default=RESULTS / "pages_gpu.json")
    chosen = parser.parse_args()
    if unknown := [page for page in chosen.pages if page not in PAGES]:
        parser.error(f"no page is called {unknown[0]!r}; there are {', '.join(PAGES)}")
    end = time.monotonic() + 60 * chosen.minutes
    logging.getLogger("streamlit").setLevel(logging.ERROR)  # it warns of running without a server
    with tempfile.TemporaryDirectory() as folder, fresh_results(folder):
        model = chosen.model or str(Path(folder) / "model")
        if not chosen.model:
            shape = TINY if chosen.tiny else LLAMA_3_8B._replace(blocks=chosen.blocks)
            write_random_llama(Path(model), shape, device=chosen.device)
        found: dict[str, Any] = {"machine": describe(), "model": chosen.model or shape._asdict(), "pages": {}}
        found["device"] = chosen.device
        state = {"model": model, "device": chosen.device, **({"layer": chosen.layer} if chosen.layer else {})}
        with watched_jobs() as jobs:
            found["ready_s"] = ready(state, jobs)
            for name in chosen.pages:
                if time.monotonic() > end:
                    found["pages"][name] = {"problems": [f"not opened: {chosen.minutes} minutes were over"]}
                else:
                    found["pages"][name] = drive(name, PAGES[name], state, jobs)
                print(line(name, found["pages"][name]), flush=True)
                write(chosen.out, found | {"together": together(found)})
    print("\n".join(verdicts(found)))
    sys.exit(int(any(page.get("problems") for page in found["pages"].values())))


def ready(state: dict[str, str], jobs: list[Job]) -> dict[str, float]:
    """What a server does before its visitors come, and how long it took: kernels, and the model by its job."""
    import torch

    took = {}
    if torch.device(state["device"]).type == "cuda":
        from quantcore.lab.warm import warm

        started = time.perf_counter()
        warm(state["device"])
        took["kernels"] = time.perf_counter() - started
    at = opened("9_Rules_tested", state)  # the page that asks for least
    took["model"] = settled(at, jobs)[1]
    if problems := problems_of(at):
        raise SystemExit(f"the model could not be loaded: {problems[0]}")
    return took


def drive(name: str, page: Page, state: dict[str, str], jobs: list[Job]) -> dict[str, Any]:
    """One page by a new visitor: its first draw, and every move."""
    at = opened(name, state)
    run_s, answer_s = settled(at, jobs)
    found: dict[str, Any] = {"first": {"run_s": run_s, "answer_s": answer_s}, "moves": [], "problems": problems_of(at)}
    if page.start:
        button = next((one for one in at.button if one.label == "Run it"), None)
        if button is not None:  # else it has begun by itself
            button.click()
            found["started"] = settled(at, jobs)[1]
    for key, values in page.moves.items():
        for value in values:
            control = control_of(at, key)
            if control is None:
                found["problems"].append(f"there is no control {key!r} for {value!r}")
                break
            control.set_value(value)
            run_s, answer_s = settled(at, jobs)
            found["moves"].append({"key": key, "value": value, "run_s": run_s, "answer_s": answer_s})
            found["problems"] += [f"{key}={value!r}: {problem}" for problem in problems_of(at)]
    return found


def opened(name: str, state: dict[str, str]) -> AppTest:
    """A new visitor's page, not run yet."""
    at = AppTest.from_file(str(ROOT / "app.py"), default_timeout=PATIENCE_S)
    if name:
        at.switch_page(f"pages/{name}.py")
    for key, value in state.items():
        at.query_params[key] = value
    return at


def settled(at: AppTest, jobs: list[Job]) -> tuple[float, float]:
    """Run the page; seconds of that run, and until no job is under way and the page has drawn what they found."""
    started = time.perf_counter()
    at.run()
    run_s = answer_s = time.perf_counter() - started
    while live := [job for job in jobs if not job.over]:
        live[0].ended.wait(PATIENCE_S)
        at.run()
        answer_s = time.perf_counter() - started
    jobs.clear()
    return run_s, answer_s


def control_of(at: AppTest, key: str) -> Any:
    """The control with that key, of whatever kind; None where the page has none."""
    for kind in KINDS:
        for control in at.get(kind):
            if control.key == key:
                return control
    return None


def problems_of(at: AppTest) -> list[str]:
    return [element.message for element in at.exception] + [element.value for element in at.error]


@contextmanager
def watched_jobs() -> Iterator[list[Job]]:
    """Every job that is submitted meanwhile."""
    seen: list[Job] = []
    submit = Jobs.submit

    def noted(self: Jobs, *args: Any, **more: Any) -> Job | None:
        job = submit(self, *args, **more)
        if job is not None:
            seen.append(job)
        return job

    Jobs.submit = noted  # type: ignore[method-assign]
    try:
        yield seen
    finally:
        Jobs.submit = submit  # type: ignore[method-assign]


@contextmanager
def fresh_results(folder: str) -> Iterator[None]:
    """No answer is taken from this user's kept results, and none is added; compiled kernels stay where they are."""
    import os

    from quantcore.lab.warm import keep_compiled

    keep_compiled()
    before = os.environ.get("QUANT_HOME")
    os.environ["QUANT_HOME"] = folder
    try:
        yield
    finally:
        os.environ.pop("QUANT_HOME")
        if before is not None:
            os.environ["QUANT_HOME"] = before


def together(found: dict[str, Any]) -> dict[str, float]:
    """Over all pages: the slowest first draw; of all moves' runs and answers the median and the 95th percentile."""
    pages = [page for page in found["pages"].values() if "first" in page]
    moves = [move for page in pages for move in page["moves"]]
    figures = {"slowest first run_s": max((page["first"]["run_s"] for page in pages), default=0.0)}
    figures["slowest first answer_s"] = max((page["first"]["answer_s"] for page in pages), default=0.0)
    for kind in ("run_s", "answer_s"):
        times = [move[kind] for move in moves] or [0.0]
        figures |= {f"move {kind} median": statistics.median(times), f"move {kind} p95": p95(times)}
    return figures


def p95(times: list[float]) -> float:
    ordered = sorted(times)
    return ordered[min(len(ordered) - 1, round(0.95 * (len(ordered) - 1)))]


def line(name: str, page: dict[str, Any]) -> str:
    shown = name or "Start here"
    if "first" not in page:
        return f"{shown:22s} {page['problems'][0]}"
    first, moves = page["first"], [move["answer_s"] for move in page["moves"]]
    moved = f"moves {statistics.median(moves):6.3f} median {max(moves):6.3f} worst" if moves else "no moves"
    notes = "".join(f"\n    ! {problem[:300]}" for problem in page["problems"])
    return f"{shown:22s} first {first['run_s']:6.3f} ({first['answer_s']:6.3f} with its jobs)  {moved}{notes}"


def verdicts(found: dict[str, Any]) -> list[str]:
    figures = together(found)
    rows = zip(BARS, ("slowest first run_s", "move answer_s median", "move answer_s p95"), strict=True)
    return [
        f"{'reached' if figures[key] <= BARS[bar] else 'MISSED '} {bar}: {figures[key]:.3f} s, at most {BARS[bar]} s"
        for bar, key in rows
    ]


if __name__ == "__main__":
    main()
