"""What the frame does in a browser: controls stay in sight, a preset shows what it moved, a map goes by keyboard."""

from pathlib import Path
from typing import Any
from urllib.parse import quote

import pytest

from tests.browser_fixtures import wait_drawn, wait_until

pytestmark = pytest.mark.browser


ON_THE_AXIS = """() => [...document.querySelectorAll('.lab-chart')].filter((chart) => {
  const [words, axis] = ['.legend', '.g-xtitle'].map((part) => chart.querySelector(part)?.getBoundingClientRect());
  return words?.height && axis?.height && words.top < axis.bottom && axis.top < words.bottom;
}).map((chart) => chart.dataset.key)"""
STICKY = {  # page -> one of its charts
    "Rules_tested": "rule_int4-groups",
    "Layer_lab": "tokens",
    "GPTQ_step_by_step": "courses",
    "Which_scheme_should_I_ship": "canvas",
}


def test_no_legend_lies_on_an_axis_when_the_window_changes(page: Any, server_url: str) -> None:
    """Its rows become fewer in a wider picture; drawn anew, it must move down with them."""
    page.goto(f"{server_url}/Granularity")
    before = wait_drawn(page, "cost_curve")
    assert page.evaluate(ON_THE_AXIS) == []
    page.set_viewport_size({"width": 900, "height": 900})  # one picture a row: wider ones than before
    wait_drawn(page, "cost_curve", after=before)
    assert page.evaluate(ON_THE_AXIS) == []


@pytest.mark.parametrize("name", STICKY)
def test_long_pages_keep_their_controls_in_sight(page: Any, server_url: str, tiny_model_dir: Path, name: str) -> None:
    page.set_viewport_size({"width": 1280, "height": 720})
    page.goto(f"{server_url}/{name}?model={quote(str(tiny_model_dir))}")
    wait_drawn(page, STICKY[name])
    row = "document.querySelector('.st-key-controls').getBoundingClientRect()"
    page.evaluate("document.querySelector('[data-testid=stMain]').scrollTop = 1e6")
    wait_until(page, f"{row}.top === 40")
    assert page.evaluate(f"{row}.height") < 0.25 * 720


def test_controls_stay_in_sight_and_a_narrow_window_folds_the_menu(page: Any, server_url: str) -> None:
    page.set_viewport_size({"width": 900, "height": 900})
    page.goto(f"{server_url}/Granularity")
    wait_drawn(page, "cost_curve")
    wait_until(page, "document.querySelector('[data-testid=stSidebar]').dataset.collapsed === 'true'")
    page.evaluate("document.querySelector('[data-testid=stMain]').scrollTop = 700")
    wait_until(page, "document.querySelector('.st-key-controls').getBoundingClientRect().top === 40")


def test_a_preset_scrolls_to_what_it_moved(page: Any, server_url: str) -> None:
    page.emulate_media(reduced_motion="no-preference")
    page.goto(f"{server_url}/Outliers")
    wait_drawn(page, "keep_curve")
    page.get_by_role("link", name="spare the loudest channel").click()
    wait_until(page, "document.querySelector('.st-key-keep')?.dataset.marked === '1'")
    height = "document.querySelector('.st-key-keep').getBoundingClientRect().top"
    wait_until(page, f"{height} > 0 && {height} < window.innerHeight")


def test_the_cells_of_a_map_are_reached_by_keyboard(page: Any, server_url: str) -> None:
    page.goto(f"{server_url}/Outliers")
    wait_drawn(page, "layer_map")
    cell = page.locator('[data-key="layer_map"] .lab-chart-cell')
    cell.focus()
    for key in ("ArrowDown", "ArrowDown", "ArrowRight"):
        page.keyboard.press(key)
    assert "layers.2.self_attn.k_proj: 15.5" in cell.get_attribute("aria-label")
    page.keyboard.press("Enter")
    page.wait_for_url("**/Outliers?layer=model.layers.2.self_attn.k_proj")
