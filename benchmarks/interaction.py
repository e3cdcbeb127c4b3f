"""How fast the pages answer: measured in a real Chromium on a real server, and with thirty sessions at once.

    python -m benchmarks.interaction                       prints the table, writes results/interaction.json
    python -m benchmarks.interaction --only start sessions "Which layers hurt"      in pieces, on one day and machine

- start        from launching the server (imports warm on disk) to the first chart on the screen
- visitor      a new browser on a warm server: first text, first chart
- slider       key press to repainted chart: median of 20 moves to values not seen before, where a slider has that many;
               back: the same values again, answered from the cache; the server has nothing left to measure ahead
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
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from playwright.sync_api import Browser, Page, sync_playwright

from benchmarks import machine, sessions
from benchmarks.places import PLACES, Place
from benchmarks.rows import RESULTS, write
from benchmarks.served import ROOT, pid_of, serving
from tests.browser_fixtures import FLAGS, NAMES

START, SESSIONS, START_S = "start", "sessions", "start_to_chart_s"


# Resolves with the milliseconds from the key press (or click) to the frame after the chart was drawn.
ARM = """chart => { window.repainted = new Promise((resolve, reject) => { let start;
    setTimeout(() => reject(new Error(`the chart ${chart} was not drawn anew within a minute`)), 60000);
    for (const event of ["keydown", "pointerdown"])
      addEventListener(event, () => { start ??= performance.now(); }, { capture: true, once: true });
    const seen = new MutationObserver(changes => {
      if (!changes.some(({ target }) => target.dataset.key === chart && target.dataset.drawn !== "0")) return;
      seen.disconnect();
      requestAnimationFrame(() => resolve(performance.now() - start)); });
    seen.observe(document.body, { subtree: true, attributes: true, attributeFilter: ["data-drawn"] }); }); }"""


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
    chart = time.perf_counter() - started
    if place.fold is not None:
        page.get_by_text(place.fold, exact=True).click()
    return {"text_s": text, "chart_s": chart}


def sweep(page: Page, place: Place, moves: int) -> tuple[list[float], list[float]]:
    """Milliseconds to the repainted chart of `moves` moves: to values seen for the first time, and to others."""
    control = place.control()
    seen: set[str] = set()
    first: list[float] = []
    again: list[float] = []
    while len(first) + len(again) < moves:
        control.aim(page)
        page.wait_for_timeout(150)
        page.evaluate(ARM, place.chart)
        value = control.fire(page)
        if value is None:
            continue
        (again if value in seen else first).append(page.evaluate("window.repainted"))
        seen.add(value)
        page.wait_for_timeout(350)
    return first, again


def measure_pages(url: str, browser: Any, places: Sequence[Place], moves: int) -> dict[str, Any]:
    results = {}
    for place in places:
        page = browser.new_context(viewport={"width": 1440, "height": 1000}).new_page()
        wire = Wire(page)
        opened = visit(page, url, place)
        page.wait_for_selector('[data-testid="stProgress"]', state="detached", timeout=180_000)  # its first job is over
        page.wait_for_timeout(1500)
        sent_before = wire.total
        first, again = sweep(page, place, moves)
        results[place.name] = {
            **opened,
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


def measure_cli() -> float:
    """Seconds of `python -m quantcore info`, median of three."""
    times = []
    for _ in range(3):
        started = time.perf_counter()
        subprocess.run([sys.executable, "-m", "quantcore", "info"], cwd=ROOT, check=True, capture_output=True)
        times.append(time.perf_counter() - started)
    return statistics.median(times)


def chromium_path() -> str:
    path = next(filter(None, map(shutil.which, NAMES)), None)
    if path is None:
        raise SystemExit("no Chromium on the PATH; install one")
    return path


@contextmanager
def _browser() -> Iterator[Browser]:
    """Gone before sessions are measured, which have an event loop of their own, as Playwright has."""
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=chromium_path(), args=FLAGS)
        yield browser
        browser.close()


def run(asked: Sequence[str], kept: dict[str, Any], args: argparse.Namespace) -> dict[str, Any]:
    """What is asked, beside what is kept: pages by name, START, SESSIONS."""
    report, places = dict(kept), [place for place in PLACES if place.name in asked]
    with tempfile.TemporaryDirectory() as folder:
        home = Path(folder)
        if START in asked:
            with _browser() as browser:
                report |= measure_starts(browser, home)
        with serving(home, QUANT_AHEAD="off") as url:
            with _browser() as browser:
                if places or START in asked:
                    visit(browser.new_context().new_page(), url, PLACES[0])
                if START in asked:
                    visitors = [visit(browser.new_context().new_page(), url, PLACES[0]) for _ in range(5)]
                    report["visitor"] = {key: statistics.median(v[key] for v in visitors) for key in visitors[0]}
                pages = report["pages"] | measure_pages(url, browser, places, args.moves)
                report["pages"] = {place.name: pages[place.name] for place in PLACES if place.name in pages}
            if places == PLACES:
                report["server_rss_bytes"] = machine.resident_bytes(pid_of(url))
            if SESSIONS in asked:
                report["sessions"] = measure_sessions(url, args.sessions, args.seconds)
    return report


def measure_starts(browser: Any, home: Path) -> dict[str, float]:
    """Seconds from a launch to the first chart, median of three; and of the command line."""
    starts = []
    for _ in range(3):
        launched = time.perf_counter()
        with serving(home) as url:
            visit(browser.new_context().new_page(), url, PLACES[0])
            starts.append(time.perf_counter() - launched)
    return {START_S: statistics.median(starts), "cli_info_s": measure_cli()}


def measure_sessions(url: str, count: int, seconds: float) -> dict[str, float]:
    """Rerun times on the server of `count` visitors, each moving a slider every 5 s; no browser runs meanwhile."""
    places = [(place.path, *place.classroom) for place in PLACES if place.classroom]
    times = sorted(sessions.measure(url, places, count, seconds, 5.0))
    return {
        "sessions": count,
        "reruns": len(times),
        "p50_ms": 1e3 * statistics.median(times),
        "p95_ms": 1e3 * times[int(0.95 * len(times))],
        "max_ms": 1e3 * times[-1],
    }


def table(report: dict[str, Any]) -> str:
    """The report as the README's Markdown table: what of it was measured."""
    about, rows = report["machine"], []
    if START_S in report:
        visitor = report["visitor"]
        rows += [
            ("server start to first chart (warm imports)", f"{report[START_S]:.1f} s"),
            ("new visitor, warm server: text / chart", f"{visitor['text_s']:.1f} / {visitor['chart_s']:.1f} s"),
            ("`python -m quantcore info`", f"{report['cli_info_s']:.1f} s"),
        ]
    for name, one in report["pages"].items():
        back = "" if one["back_ms"] is None else f"; {one['back_ms']:.0f} ms back from the cache"
        rows.append((f"move to repaint, {name}", f"{one['all_ms']:.0f} ms{back}"))
    if report["pages"]:
        largest = max(one["largest_message_bytes"] for one in report["pages"].values())
        rows.append(("largest figure on the wire", f"{largest / 1e3:.0f} kB"))
    if "server_rss_bytes" in report:
        rows.append(("server memory, all pages visited", f"{report['server_rss_bytes'] / 1e6:.0f} MB"))
    if crowd := report.get(SESSIONS):
        many = f"{crowd['sessions']} sessions, a move every 5 s: rerun p50 / p95"
        rows.append((many, f"{crowd['p50_ms']:.0f} / {crowd['p95_ms']:.0f} ms"))
    head = (
        f"Measured {about['date']} on {about['cores']} cores ({about['processor']}), {about['memory_gib']:.0f} GiB, "
        f"headless Chromium drawing WebGL in software; medians of 20 moves.\n\n| | |\n|---|---:|\n"
    )
    return head + "\n".join(f"| {what} | {value} |" for what, value in rows)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--moves", type=int, default=20)
    parser.add_argument("--sessions", type=int, default=30)
    parser.add_argument("--seconds", type=float, default=60)
    parser.add_argument("--out", type=Path, default=RESULTS / "interaction.json")
    every = [START, *(place.name for place in PLACES), SESSIONS]
    parser.add_argument(
        "--only", nargs="+", choices=every, help="what the file has of the others stays, if of this day"
    )
    args = parser.parse_args()
    about = machine.describe()
    before = json.loads(args.out.read_text()) if args.only and args.out.exists() else {}
    kept = before if before.get("machine") == about else {"machine": about, "pages": {}}
    report = run(args.only or every, kept, args)
    write(args.out, report)
    print(table(report))


if __name__ == "__main__":
    main()
