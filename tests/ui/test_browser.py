"""The app in a real browser, as `make run` starts it: first load, a slider move, deep links good and bad, the link."""

from pathlib import Path
from typing import Any

import pytest

from tests.browser_fixtures import ROOT, serving, wait_drawn, wait_link, wait_until, wait_words

pytestmark = pytest.mark.browser

BITS = '[data-testid="stMetric"]:has-text("Bits per weight") [data-testid="stMetricValue"]'


def title(page: Any) -> str:
    return str(page.locator("h1").first.inner_text())


def test_first_load_is_alive_without_a_click(page: Any, server_url: str) -> None:
    page.goto(server_url)
    wait_drawn(page, "row")
    wait_drawn(page, "tokens")
    assert title(page) == "What happens when a layer keeps only 16 values?"
    assert page.locator(".stException").count() == 0


def test_one_slider_move_changes_the_number_it_should(page: Any, server_url: str) -> None:
    page.goto(server_url)
    before = wait_drawn(page, "row")
    slider = page.get_by_role("slider", name="Bits per weight")
    slider.focus()
    page.keyboard.press("ArrowLeft")
    wait_drawn(page, "row", after=before)
    wait_until(page, "document.querySelector('h1').innerText.includes('only 8 values')")
    wait_link(page, "bits=3")


def test_reset_brings_back_the_page_the_sidebar_and_the_link(page: Any, server_url: str) -> None:
    """The button is in the body, which runs alone; the sidebar is outside of it, and the block's sides are hidden."""
    page.goto(f"{server_url}/Granularity?format=int3&grain=block&text=story")
    before = wait_drawn(page, "error_map")
    wait_words(page, "one scale for 128 x 128")
    page.get_by_role("button", name="Reset", exact=True).click()
    wait_drawn(page, "error_map", after=before)
    wait_until(page, "location.search === ''")
    checked = [name for name in ("int4", "group", "encyclopedia") if page.get_by_role("radio", name=name).is_checked()]
    assert checked == ["int4", "group", "encyclopedia"]
    wait_words(page, "one scale for 1 x 128")


def test_the_menu_opens_one_page_after_another(page: Any, server_url: str) -> None:
    page.goto(server_url)
    wait_drawn(page, "row")
    for name, chart in [
        ("Granularity", "weight_map"),
        ("Static or dynamic", "steps_picture"),
        ("Speed and memory", "memory"),
    ]:
        page.get_by_role("link", name=name, exact=True).first.click()
        wait_drawn(page, chart)
        assert page.locator(".stException").count() == 0
        assert page.get_by_role("alert").all_inner_texts() == []


def test_the_menu_and_the_way_back_keep_what_the_sidebar_says(page: Any, server_url: str) -> None:
    layer = "layer=model.layers.3.mlp.gate_proj"
    page.goto(f"{server_url}/Granularity?{layer}&format=int3")
    wait_drawn(page, "weight_map")
    page.get_by_role("link", name="Number formats", exact=True).first.click()
    wait_until(page, "location.pathname === '/Number_formats'")
    wait_words(page, "weights of model.layers.3.mlp.gate_proj")
    wait_until(page, f"location.search === '?{layer}'")  # the other page's format is not this one's
    page.go_back()
    wait_until(page, "location.pathname === '/Granularity'")
    wait_drawn(page, "weight_map")
    wait_until(page, f"location.search === '?{layer}'")


def test_a_link_carries_nothing_of_the_page_that_is_left(page: Any, server_url: str) -> None:
    """Both pages have a control for the GPU."""
    page.goto(f"{server_url}/Context_lens?gpu=T4&text=story")
    wait_words(page, "Beside 16-bit weights, all 16 GB of the T4")
    page.get_by_role("link", name="Which scheme to ship", exact=True).first.click()
    wait_until(page, "location.pathname === '/Which_scheme_should_I_ship'")
    wait_until(page, "location.search === '?text=story'")


def test_a_deep_link_is_the_first_thing_a_fresh_server_is_asked(page: Any, tmp_path: Path) -> None:
    with serving(ROOT / "serve.py", tmp_path) as url:
        page.goto(f"{url}/Granularity?grain=channel&format=int3&layer=model.layers.2.mlp.up_proj")
        wait_drawn(page, "cost_curve")
        assert title(page) == "Who shares a scale?"
        assert page.locator(BITS).inner_text() == "3.042"  # 3 + 16 bits of scale over 384 columns
        assert page.get_by_text("Page not found").count() == 0
        assert page.get_by_role("combobox").first.input_value() == "model.layers.2.mlp.up_proj"


def test_a_bad_deep_link_gets_a_sentence_and_a_page(page: Any, server_url: str) -> None:
    page.goto(f"{server_url}/Granularity?grain=rows&group=77&layer=model.layers.99.mlp.up_proj")
    wait_drawn(page, "cost_curve")
    alerts = page.get_by_role("alert").all_inner_texts()
    assert any("grain='rows'" in text for text in alerts)
    assert any("layer='model.layers.99.mlp.up_proj'" in text for text in alerts)
    page.locator(BITS).wait_for(timeout=60_000)  # one; the page may be drawing itself anew
    assert page.locator(".stException").count() == 0


def test_an_impossible_scheme_in_the_link_leaves_the_other_side_alive(page: Any, server_url: str) -> None:
    page.goto(f"{server_url}/Layer_lab?a=w:int4/rows")
    wait_drawn(page, "shares")
    assert any("no granularity is called 'rows'" in text for text in page.get_by_role("alert").all_inner_texts())


def test_a_dragged_number_goes_into_the_link_and_comes_back(page: Any, server_url: str) -> None:
    page.goto(f"{server_url}/Number_formats")
    wait_drawn(page, "codes_blue")
    handle = page.locator('.lab-line [role="slider"]').first
    handle.focus()
    for _ in range(3):
        page.keyboard.press("ArrowRight")
    wait_link(page, "x=")
    there = page.evaluate("location.href")
    said = page.locator(".lab-line-card").first.get_attribute("data-x-hat")
    page.goto(there)
    wait_drawn(page, "codes_blue")
    page.wait_for_selector(".lab-line-card")
    assert page.locator(".lab-line-card").first.get_attribute("data-x-hat") == said


def test_a_preset_keeps_the_layer_and_changes_the_state(page: Any, server_url: str) -> None:
    page.goto(f"{server_url}/Granularity?layer=model.layers.3.mlp.gate_proj")
    before = wait_drawn(page, "cost_curve")
    page.get_by_role("link", name="one scale for all").click()
    wait_drawn(page, "cost_curve", after=before)
    wait_link(page, "grain=tensor")
    wait_link(page, "layer=model.layers.3.mlp.gate_proj")
    assert page.locator(BITS).inner_text() == "4.000"


def test_a_click_on_the_map_opens_the_layer(page: Any, server_url: str) -> None:
    page.goto(f"{server_url}/Outliers")
    wait_drawn(page, "keep_curve")
    before = wait_drawn(page, "surface")
    plot = page.locator('.lab-chart[data-key="layer_map"] .nsewdrag').bounding_box()
    page.mouse.click(plot["x"] + plot["width"] * 0.5 / 8, plot["y"] + plot["height"] * 2.5 / 9)  # block 2, first module
    drawn = wait_drawn(page, "surface", after=before)
    page.wait_for_url("**/Outliers?layer=model.layers.2.self_attn.q_proj")
    page.wait_for_timeout(2000)
    assert wait_drawn(page, "surface") == drawn  # and no rerun after rerun
