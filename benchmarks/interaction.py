"""How fast the pages answer: measured in a real Chromium on a real server, and with thirty sessions at once.

    python -m benchmarks.interaction                       prints the table, writes results/interaction.json

- start        from launching the server (imports warm on disk) to the first chart on the screen
- visitor      a new browser on a warm server: first text, first chart
- slider       key press to repainted chart: median of 20 moves to values not seen before, where a slider has that many;
               back: the same values again, answered from the cache
- wire         bytes that one move sends; largest: the largest single message of the page
- sessions     30 WebSocket clients, each moving a slider every 5 s: median and 95th percentile of a rerun on the server
"""

from __future__ import annotations

import argparse
import json
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from playwright.sync_api import Page, sync_playwright

from benchmarks import machine, sessions
from tests.browser_fixtures import FLAGS, NAMES, ROOT, serving

RESULTS = Path(__file__).parent / "results"


@dataclass(frozen=True)
class Place:
    """A page, the slider to move there (its label), and the chart that must follow."""

    name: str
    path: str
    slider: str
    chart: str


PLACES = [
    Place("Start here", "", "Bits", "row"),
]

# Resolves with the milliseconds from the key press to the frame after the chart was drawn.
ARM = """chart => { const host = document.querySelector(`.lab-chart[data-key="${chart}"]`);
  window.repainted = new Promise(resolve => { let start;
    addEventListener("keydown", () => { start = performance.now(); }, { capture: true, once: true });
    const seen = new MutationObserver(() => { seen.disconnect();
      requestAnimationFrame(() => resolve(performance.now() - start)); });
    seen.observe(host, { attributes: true, attributeFilter: ["data-drawn"] }); }); }"""


class Wire:
    """Counts the bytes of the WebSocket messages that a page receives."""

    def __init__(self, page: Page) -> None:
        self.total = 0
        self.largest = 0
        page.on("websocket", lambda socket: socket.on("framereceived", self._count))

    def _count(self, payload: str | bytes) -> None:
        self.total += len(payload)
        self.largest = max(self.largest, len(payload))


def wait_chart(page: Page, chart: str) -> None:
    page.wait_for_selector(f'.lab-chart[data-key="{chart}"]:not([data-drawn="0"])', timeout=60_000)


def visit(page: Page, url: str, place: Place) -> dict[str, float]:
    """Open a page in a new tab: seconds to its title and to its first chart."""
    started = time.perf_counter()
    page.goto(f"{url}/{place.path}", wait_until="commit")
    page.wait_for_selector("h1", timeout=60_000)
    text = time.perf_counter() - started
    wait_chart(page, place.chart)
    return {"text_s": text, "chart_s": time.perf_counter() - started}


def press(page: Page, place: Place, key: str) -> float | None:
    """One slider step: milliseconds to the repainted chart, None where the slider was at its end."""
    slider = page.get_by_role("slider", name=place.slider)
    slider.focus()
    before = slider.input_value()
    page.evaluate(ARM, place.chart)
    page.keyboard.press(key)
    if slider.input_value() == before:
        return None
    elapsed: float = page.evaluate("window.repainted")
    page.wait_for_function("!document.querySelector('[data-testid=stStatusWidget]')")
    page.wait_for_timeout(150)
    return elapsed


def sweep(page: Page, place: Place, moves: int) -> tuple[list[float], list[float]]:
    """`moves` steps up and down the slider: milliseconds at values seen for the first time, and at values seen before."""
    slider = page.get_by_role("slider", name=place.slider)
    seen = {slider.input_value()}
    first: list[float] = []
    again: list[float] = []
    key = "ArrowLeft"
    while len(first) + len(again) < moves:
        elapsed = press(page, place, key)
        value = slider.input_value()
        if elapsed is None:
            key = "ArrowRight" if key == "ArrowLeft" else "ArrowLeft"
            continue
        (again if value in seen else first).append(elapsed)
        seen.add(value)
    return first, again


def measure_pages(url: str, browser: Any, moves: int) -> dict[str, Any]:
    results = {}
    for place in PLACES:
        page = browser.new_context(viewport={"width": 1440, "height": 1000}).new_page()
        wire = Wire(page)
        opened = visit(page, url, place)
        page.wait_for_timeout(1500)
        sent_before = wire.total
        first, again = sweep(page, place, moves)
        results[place.name] = {
            **opened,
            "slider": place.slider,
            "first_ms": statistics.median(first) if first else None,
            "back_ms": statistics.median(again) if again else None,
            "all_ms": statistics.median(first + again),
            "first_moves": len(first),
            "back_moves": len(again),
            "bytes_per_move": round((wire.total - sent_before) / moves),
            "largest_message_bytes": wire.largest,
        }
        print(f"{place.name:20s} {results[place.name]}", flush=True)
        page.context.close()
    return results


def measure_cli(runs: int = 3) -> float:
    """Median seconds of `python -m quantcore info`."""
    times = []
    for _ in range(runs):
        started = time.perf_counter()
        subprocess.run([sys.executable, "-m", "quantcore", "info"], cwd=ROOT, check=True, capture_output=True)
        times.append(time.perf_counter() - started)
    return statistics.median(times)


def chromium_path() -> str:
    path = next(filter(None, map(shutil.which, NAMES)), None)
    if path is None:
        raise SystemExit("no Chromium on the PATH; install one")
    return path


def server_pid(url: str) -> int:
    """The process that listens on the address."""
    port = url.rsplit(":", 1)[1]
    for status in Path("/proc").glob("[0-9]*/cmdline"):
        if f"--server.port={port}".encode() in status.read_bytes().split(b"\0"):
            return int(status.parent.name)
    raise RuntimeError(f"no process serves {url}")


def run(args: argparse.Namespace) -> dict[str, Any]:
    report: dict[str, Any] = {"machine": machine.describe(), "cli_info_s": measure_cli()}
    with sync_playwright() as playwright, tempfile.TemporaryDirectory() as home:
        browser = playwright.chromium.launch(executable_path=chromium_path(), args=FLAGS)
        starts = []
        for _ in range(3):
            launched = time.perf_counter()
            with serving(ROOT / "serve.py", Path(home)) as url:
                visit(browser.new_context().new_page(), url, PLACES[0])
                starts.append(time.perf_counter() - launched)
        report["start_to_chart_s"] = statistics.median(starts)
        with serving(ROOT / "serve.py", Path(home)) as url:
            visit(browser.new_context().new_page(), url, PLACES[0])
            visitors = [visit(browser.new_context().new_page(), url, PLACES[0]) for _ in range(5)]
            report["visitor"] = {key: statistics.median(v[key] for v in visitors) for key in visitors[0]}
            report["pages"] = measure_pages(url, browser, args.moves)
            report["server_rss_bytes"] = machine.resident_bytes(server_pid(url))
            browser.close()
            places = [(place.path, place.slider, 6) for place in PLACES]
            times = sorted(sessions.measure(url, places, args.sessions, args.seconds, 5.0))
            report["sessions"] = {
                "sessions": args.sessions,
                "reruns": len(times),
                "p50_ms": 1e3 * statistics.median(times),
                "p95_ms": 1e3 * times[int(0.95 * len(times))],
                "max_ms": 1e3 * times[-1],
            }
            report["server_rss_after_sessions_bytes"] = machine.resident_bytes(server_pid(url))
    return report


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--moves", type=int, default=20)
    parser.add_argument("--sessions", type=int, default=30)
    parser.add_argument("--seconds", type=float, default=60)
    parser.add_argument("--out", type=Path, default=RESULTS / "interaction.json")
    args = parser.parse_args()
    report = run(args)
    args.out.parent.mkdir(parents=True, exist_ok=True)
    args.out.write_text(json.dumps(report, indent=1) + "\n")
    print(json.dumps(report, indent=1))


if __name__ == "__main__":
    main()
