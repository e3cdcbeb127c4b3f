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
import re
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from playwright.sync_api import Locator, Page, sync_playwright

from benchmarks import machine, sessions
from benchmarks.rows import write
from benchmarks.served import ROOT, pid_of, serving
from tests.browser_fixtures import FLAGS, NAMES

RESULTS = Path(__file__).parent / "results"


@dataclass
class Slider:
    """A slider moved with the arrow keys, to its end and back."""

    label: str
    key: str = "ArrowLeft"

    def on(self, page: Page) -> Locator:
        return page.get_by_role("slider", name=re.compile(f"^{re.escape(self.label)}"))

    def aim(self, page: Page) -> None:
        self.on(page).focus()

    def fire(self, page: Page) -> str | None:
        """Press; the new value, None where the slider was at its end (it then turns round)."""
        slider = self.on(page)
        value = "node => node.value ?? node.getAttribute('aria-valuenow')"
        before = slider.evaluate(value)
        page.keyboard.press(self.key)
        after: str = slider.evaluate(value)
        if after == before:
            self.key = "ArrowRight" if self.key == "ArrowLeft" else "ArrowLeft"
            return None
        return after


@dataclass
class Track(Slider):
    """A slider moved by clicks on its track, from `first` to `last` of its length in `steps` steps, and again: a step
    too small changes nothing that is drawn, such as a thousandth of a bit where a plan moves whole layers."""

    first: float = 0.0
    last: float = 1.0
    steps: int = 10
    count: int = 0  # at `first` the plan may be the one that is drawn

    def on_track(self, page: Page) -> Locator:
        return self.on(page).locator("xpath=ancestor::*[@data-orientation][1]")  # the input is a pixel

    def aim(self, page: Page) -> None:
        self.count += 1
        self.on_track(page).scroll_into_view_if_needed()  # a click outside the window hits nothing

    def fire(self, page: Page) -> str | None:
        box = self.on_track(page).bounding_box()
        assert box is not None
        place = self.count % self.steps
        at = self.first + (self.last - self.first) * place / self.steps
        page.mouse.click(box["x"] + at * box["width"], box["y"] + box["height"] / 2)
        return f"{place}"


@dataclass
class Buttons:
    """A row of buttons, pressed in turn."""

    options: list[str]
    count: int = 0

    def aim(self, page: Page) -> None:
        self.count += 1

    @property
    def value(self) -> str:
        return self.options[self.count % len(self.options)]

    def fire(self, page: Page) -> str | None:
        page.get_by_role("radio", name=self.value, exact=True).click()
        return self.value


@dataclass
class Line:
    """A text line, given one text after another."""

    label: str
    texts: list[str]
    count: int = -1

    def aim(self, page: Page) -> None:
        self.count += 1
        page.get_by_label(self.label, exact=True).fill(self.texts[self.count % len(self.texts)])

    def fire(self, page: Page) -> str | None:
        page.keyboard.press("Enter")
        return self.texts[self.count % len(self.texts)]


@dataclass(frozen=True)
class Place:
    """A page, the control to move there, the chart that must follow, and the slider for the classroom (with its range
    of positions), None where the control is no slider of Streamlit's; the part of the page that must be opened to reach
    the control."""

    name: str
    path: str
    control: Callable[[], Slider | Buttons | Line]
    chart: str
    classroom: tuple[str, float, float] | None = None
    fold: str | None = None


LAB_SCHEMES = [f"w:int{bits}/group{size},a:int8/token/dynamic" for size in (32, 64, 128) for bits in range(2, 9)]
PLANS = [f"w:int{bits}/group{size}" for size in (32, 64, 128) for bits in range(2, 9)]
PLACES = [
    Place("Start here", "", lambda: Slider("Bits per weight"), "row", ("Bits per weight", 0, 6)),
    Place("Number formats", "Number_formats", lambda: Slider("Scale of int4, in doublings"), "codes_blue"),
    Place(
        "Granularity",
        "Granularity",
        lambda: Slider("Group size, along the input"),
        "error_map",
        ("Group size, along the input", 0, 6),
    ),
    Place(
        "Outliers",
        "Outliers",
        lambda: Slider("Clip beyond this percentile, at either end"),
        "clip_curve",
        ("Clip beyond this percentile, at either end", 0, 6),
    ),
    Place("Outliers, 3-D surface", "Outliers", lambda: Buttons(["linear", "log"]), "surface"),
    Place(
        "Static or dynamic",
        "Static_or_dynamic",
        lambda: Slider("Calibration steps"),
        "steps_picture",
        fold="Finer controls",
    ),
    Place("Layer lab", "Layer_lab", lambda: Line("scheme B", LAB_SCHEMES), "shares"),
    Place("GPTQ step by step", "GPTQ_step_by_step", lambda: Slider("Weight 1, steps"), "toy"),
    Place("Scheme duel", "Scheme_duel", lambda: Slider("Token"), "along"),
    Place(
        "Which layers hurt",
        "Which_layers_hurt",
        lambda: Track("Bits per weight, scales counted", first=0.2, last=0.44, steps=6),  # 3.4 to 4.9 bits
        "plan_map",
    ),
    Place("Speed and memory", "Speed_and_memory", lambda: Slider("Sequences at once"), "memory"),
    Place("Take it with you", "Take_it_with_you", lambda: Line("scheme SCHEME", PLANS), "bytes"),
]

# Resolves with the milliseconds from the key press (or click) to the frame after the chart was drawn.
ARM = """chart => { window.repainted = new Promise((resolve, reject) => { let start;
    setTimeout(() => reject(new Error(`the chart ${chart} was not drawn anew within 10 s`)), 10000);
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


def measure_pages(url: str, browser: Any, moves: int) -> dict[str, Any]:
    results = {}
    for place in PLACES:
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


def run(args: argparse.Namespace) -> dict[str, Any]:
    report: dict[str, Any] = {"machine": machine.describe(), "cli_info_s": measure_cli()}
    with tempfile.TemporaryDirectory() as home:
        with sync_playwright() as playwright:
            browser = playwright.chromium.launch(executable_path=chromium_path(), args=FLAGS)
            starts = []
            for _ in range(3):
                launched = time.perf_counter()
                with serving(Path(home)) as url:
                    visit(browser.new_context().new_page(), url, PLACES[0])
                    starts.append(time.perf_counter() - launched)
            report["start_to_chart_s"] = statistics.median(starts)
        with serving(Path(home)) as url:
            with sync_playwright() as playwright:
                browser = playwright.chromium.launch(executable_path=chromium_path(), args=FLAGS)
                visit(browser.new_context().new_page(), url, PLACES[0])
                visitors = [visit(browser.new_context().new_page(), url, PLACES[0]) for _ in range(5)]
                report["visitor"] = {key: statistics.median(v[key] for v in visitors) for key in visitors[0]}
                report["pages"] = measure_pages(url, browser, args.moves)
            report["server_rss_bytes"] = machine.resident_bytes(pid_of(url))
            report["sessions"] = measure_sessions(url, args.sessions, args.seconds)
            report["server_rss_after_sessions_bytes"] = machine.resident_bytes(pid_of(url))
    return report


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
    """The report as the README's Markdown table."""
    about, visitor, crowd = report["machine"], report["visitor"], report["sessions"]
    rows = [
        ("server start to first chart (warm imports)", f"{report['start_to_chart_s']:.1f} s"),
        ("new visitor, warm server: text / chart", f"{visitor['text_s']:.1f} / {visitor['chart_s']:.1f} s"),
    ]
    for name, one in report["pages"].items():
        back = "" if one["back_ms"] is None else f"; {one['back_ms']:.0f} ms back from the cache"
        rows.append((f"move to repaint, {name}", f"{one['all_ms']:.0f} ms{back}"))
    largest = max(one["largest_message_bytes"] for one in report["pages"].values())
    rows += [
        ("largest figure on the wire", f"{largest / 1e3:.0f} kB"),
        ("`python -m quantcore info`", f"{report['cli_info_s']:.1f} s"),
        ("server memory, all pages visited", f"{report['server_rss_bytes'] / 1e6:.0f} MB"),
        (
            f"{crowd['sessions']} sessions, a move every 5 s: rerun p50 / p95",
            f"{crowd['p50_ms']:.0f} / {crowd['p95_ms']:.0f} ms",
        ),
    ]
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
    args = parser.parse_args()
    report = run(args)
    write(args.out, report)
    print(table(report))


if __name__ == "__main__":
    main()
