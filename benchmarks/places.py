"""Where the pages are measured: a control that is moved, the chart that must follow, page by page."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass

from playwright.sync_api import Locator, Page


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
