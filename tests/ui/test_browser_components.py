"""The components in a real browser: cameras that stay, colours that follow the theme, a number that can be dragged."""

import re
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
import torch

from tests.browser_fixtures import ROOT, serving, wait_drawn, wait_until
from ui.components.bridge import WEB_FOLDER

pytestmark = pytest.mark.browser

CAMERA = "key => JSON.stringify(document.querySelector(`[data-key=${key}] .js-plotly-plot`)._fullLayout.scene.camera)"
CARDS = "() => [...document.querySelectorAll('.lab-line-card')].map(card => Number(card.dataset.xHat))"
FLAT, SOLID = ("bars", "heat"), ("before", "after")


@pytest.fixture(scope="module")
def url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    with serving(ROOT / "tests" / "component_page.py", tmp_path_factory.mktemp("home")) as address:
        yield address


@pytest.fixture
def lab(page: Any, url: str) -> Any:
    """The component page with its flat charts drawn."""
    page.goto(url)
    for key in FLAT:
        wait_drawn(page, key)
    return page


def open_surfaces(page: Any, url: str, how: str) -> None:
    """The component page with its two surfaces, `linked` or `free`."""
    page.goto(f"{url}/?surfaces={how}")
    for key in FLAT + SOLID:
        wait_drawn(page, key)


def chart(page: Any, key: str) -> Any:
    return page.locator(f'.lab-chart[data-key="{key}"]')


def turn(page: Any, key: str) -> None:
    """Drag a 3-D chart by its middle."""
    chart(page, key).scroll_into_view_if_needed()
    box = chart(page, key).bounding_box()
    x, y = box["x"] + box["width"] * 0.4, box["y"] + box["height"] * 0.5
    page.mouse.move(x, y)
    page.mouse.down()
    for step in range(1, 6):
        page.mouse.move(x + 15 * step, y + 5 * step)
        page.wait_for_timeout(50)
    page.mouse.up()


def more_outlier(page: Any) -> None:
    page.get_by_role("slider", name="outlier").focus()
    page.keyboard.press("ArrowRight")
    page.get_by_text("outlier is 4").wait_for()


# ---------------------------------------------------------------- charts


def test_a_data_change_keeps_the_camera_and_the_node(page: Any, url: str) -> None:
    open_surfaces(page, url, "free")
    start = page.evaluate(CAMERA, "after")
    turn(page, "before")
    wait_until(page, f"start => ({CAMERA})('before') !== start", start)
    turned = page.evaluate(CAMERA, "before")
    page.evaluate("document.querySelector('[data-key=before] .js-plotly-plot').mark = 'same node'")

    drawn = wait_drawn(page, "before")
    more_outlier(page)
    wait_drawn(page, "before", after=drawn)

    assert page.evaluate(CAMERA, "before") == turned
    assert page.evaluate(CAMERA, "after") == start
    assert page.evaluate("document.querySelector('[data-key=before] .js-plotly-plot').mark") == "same node"
    assert chart(page, "before").get_attribute("aria-label") == "channel 4 is a wall 4 high"


def test_linked_cameras_turn_together(page: Any, url: str) -> None:
    open_surfaces(page, url, "linked")
    start = page.evaluate(CAMERA, "after")
    turn(page, "before")
    wait_until(page, f"start => ({CAMERA})('after') !== start", start)
    wait_until(page, f"() => ({CAMERA})('after') === ({CAMERA})('before')")


def test_a_hand_moves_the_picture_and_tells_when_it_lets_go(lab: Any) -> None:
    """The browser has each step's numbers: nothing is told while it is held, and keys move it as well."""
    heights = "document.querySelector('[data-key=heat] .js-plotly-plot').calcdata[0][0].z"
    peak = f"() => Math.max(...{heights}.flatMap((row) => [...row]))"
    slider = chart(lab, "heat").get_by_role("slider", name="times")
    box, drawn = slider.bounding_box(), int(chart(lab, "heat").get_attribute("data-drawn"))
    assert lab.evaluate(peak) == pytest.approx(3)
    lab.mouse.move(box["x"] + 4, box["y"] + box["height"] / 2)
    lab.mouse.down()
    lab.mouse.move(box["x"] + box["width"] / 2, box["y"] + box["height"] / 2)
    wait_drawn(lab, "heat", after=drawn)
    assert lab.evaluate(peak) == pytest.approx(6)
    assert chart(lab, "heat").locator(".gtitle").text_content() == "errors x 2"
    assert lab.get_by_text("not held").is_visible()
    lab.mouse.up()
    lab.get_by_text("let go at 2").wait_for()
    slider.press("ArrowRight")
    lab.get_by_text("let go at 3").wait_for()
    wait_until(lab, f"() => Math.abs(({peak})() - 9) < 1e-6")


def test_a_click_comes_back_with_its_point(lab: Any) -> None:
    box = lab.locator('[data-key="bars"] .nsewdrag').bounding_box()
    lab.mouse.move(box["x"] + box["width"] * 0.5, box["y"] + box["height"] * 0.6)
    lab.locator('[data-key="bars"] .hoverlayer text').first.wait_for()
    lab.mouse.down()
    lab.mouse.up()
    lab.get_by_text("clicked b in bar 1").wait_for()


def test_dark_repaints(lab: Any) -> None:
    bar = lab.locator('[data-key="bars"] .bars path').first
    assert "rgb(0, 111, 174)" in bar.get_attribute("style")
    drawn = wait_drawn(lab, "bars")
    lab.emulate_media(color_scheme="dark")
    wait_drawn(lab, "bars", after=drawn)
    assert "rgb(75, 163, 227)" in bar.get_attribute("style")


FITS = """key => {
  const chart = document.querySelector(`[data-key=${key}]`);
  const drawn = [chart.querySelector(".main-svg").clientWidth, chart.scrollWidth];
  return drawn.every((width) => width === chart.clientWidth);
}"""


def test_charts_fit_a_wide_and_a_narrow_page(page: Any, url: str) -> None:
    open_surfaces(page, url, "free")
    for width in (1440, 900):
        page.set_viewport_size({"width": width, "height": 900})
        for key in FLAT + SOLID:
            wait_until(page, FITS, key)
        assert chart(page, "bars").bounding_box()["height"] == 260


def test_one_tab_stop_per_chart(lab: Any) -> None:
    stops = "key => [...document.querySelectorAll(`[data-key=${key}] button`)].filter(b => b.tabIndex >= 0).length"
    assert [lab.evaluate(stops, key) for key in FLAT] == [1, 1]
    assert chart(lab, "heat").get_attribute("role") == "figure"


def test_a_chart_can_be_downloaded(lab: Any) -> None:
    chart(lab, "bars").hover()
    with lab.expect_download() as download:
        chart(lab, "bars").get_by_role("button", name="Download as PNG").click()
    assert download.value.suggested_filename == "bars.png"


def test_a_missing_library_is_a_sentence(page: Any, url: str) -> None:
    page.route("**/plotly.min.js", lambda route: route.abort())
    page.goto(url)
    page.get_by_text("This picture could not be drawn: the drawing library did not arrive").first.wait_for()


# ---------------------------------------------------------------- the number line


@pytest.fixture
def line(page: Any, url: str) -> Any:
    page.goto(url)
    page.locator(".lab-line-card").nth(2).wait_for()
    page.locator(".lab-line").scroll_into_view_if_needed()
    return page


def test_the_sums_have_this_numbers_in_them(line: Any) -> None:
    # 0.437 / 0.1 = 4.37 -> int4 code 4; asymmetric 4 - 3 = 1, the same value; fp4 has 4 and then 6 -> 4
    assert line.evaluate(CARDS) == pytest.approx([0.4, 0.4, 0.4])
    text = line.locator(".lab-line-card").nth(1).inner_text()
    assert "clamp(round(x / s) + z, −8, 7) = round(0.437 / 0.1) + (−3) = 1" in text
    assert "s * (q − z) = 0.1 * (1 − (−3)) = 0.4" in text
    assert "x_hat − x = −0.037" in text


def test_keys_move_x_and_the_server_follows(line: Any) -> None:
    handle = line.get_by_role("slider", name="The number x")
    handle.focus()
    for _ in range(8):
        line.keyboard.press("ArrowRight")  # 8 steps of 0.01
    # 0.517 / 0.1 = 5.17 -> int4 5; fp4: 5.17 lies between 4 and 6, nearer to 6
    assert line.evaluate(CARDS) == pytest.approx([0.5, 0.5, 0.6])
    assert handle.get_attribute("aria-valuetext").startswith("x = 0.517; int4: 0.5, error −0.017;")
    line.get_by_text("server has x=0.517").wait_for()


def test_beyond_the_last_level_it_says_clipped(line: Any) -> None:
    line.get_by_role("slider", name="The number x").focus()
    line.keyboard.press("End")
    # 1.0 / 0.1 = 10: int4 ends at 7, so 0.7; with z = -3 it ends at (7 + 3) * 0.1 = 1.0; fp4 ends at 6
    assert line.evaluate(CARDS) == pytest.approx([0.7, 1.0, 0.6])
    cards = line.locator(".lab-line-card")
    assert "Clipped: 10 is above the largest code, 7." in cards.nth(0).inner_text()
    assert "Clipped" not in cards.nth(1).inner_text()
    assert "Clipped: 10 is above the largest code, 6." in cards.nth(2).inner_text()


def test_a_tie_goes_to_the_even_code(line: Any) -> None:
    line.get_by_role("spinbutton", name="x").fill("0.5")
    line.keyboard.press("Enter")
    # x / s = 5, half-way between fp4's 4 (code 0110) and 6 (code 0111): the even code is 4
    assert line.evaluate(CARDS) == pytest.approx([0.5, 0.5, 0.4])
    assert "A tie: x / s = 5 lies half-way" in line.locator(".lab-line-card").nth(2).inner_text()


def test_dragging_is_live_and_answers_once(line: Any) -> None:
    stage = line.locator(".lab-line-stage").bounding_box()
    line.mouse.move(stage["x"] + stage["width"] * 0.6, stage["y"] + 150)
    line.mouse.down()
    line.mouse.move(stage["x"] + stage["width"] * 0.5, stage["y"] + 150)
    assert line.evaluate(CARDS) == pytest.approx([0, 0, 0])  # the middle of -1..1
    assert line.get_by_text("server has x=0.437").is_visible()  # not told yet
    line.mouse.up()
    line.get_by_text(re.compile(r"server has x=-?0(\.00\d)? ")).wait_for()


def test_clip_scale_and_zero_point_act_on_their_lines(line: Any) -> None:
    line.get_by_label("Range kept").fill("50")
    # scale 0.05: 0.437 / 0.05 = 8.74 -> 9, above int4's 7 -> 0.35; asymmetric 9 - 3 = 6 -> 0.45; fp4 ends at 6 -> 0.3
    assert line.evaluate(CARDS) == pytest.approx([0.35, 0.45, 0.3])
    line.get_by_label("Scale of int4, in doublings").fill("1")
    line.get_by_label("Zero point of int4 asym").fill("0")
    # int4 back at 0.1 -> 0.4; asymmetric ends at 7 * 0.05
    assert line.evaluate(CARDS) == pytest.approx([0.4, 0.35, 0.3])
    line.get_by_text("scales=[0.1, 0.05, 0.05] zeros=(None, 0, None)").wait_for()
    line.get_by_role("button", name="Start again").click()
    line.get_by_text("scales=[0.1, 0.1, 0.1] zeros=(None, -3, None)").wait_for()


def test_a_card_says_how_many_values_there_are(line: Any) -> None:
    heads = [card.locator("small").inner_text().strip() for card in line.locator(".lab-line-card").all()]
    assert heads == ["16 values", "16 values", "15 values"]  # two codes of fp4 are 0


# ---------------------------------------------------------------- the arithmetic, against float32 elsewhere

QUANTIZE = """async ([url, line, scale, zero, xs]) => {
  const { quantize } = await import(url);
  return xs.map((x) => { const r = quantize(line, scale, zero, x); return [r.q, r.xHat]; });
}"""


def in_browser(page: Any, url: str, line: dict, scale: float, zero: int | None, xs: np.ndarray) -> np.ndarray:
    module = f"{url}/component/ui.components.bridge.{WEB_FOLDER}/quantize.js"
    return np.array(page.evaluate(QUANTIZE, [module, line, scale, zero, xs.tolist()]))


@pytest.mark.parametrize(("scale", "zero"), [(0.1, None), (0.0371, -3), (1.0, 5), (1 / 7.5, 0)])
def test_integers_agree_with_float32_bit_for_bit(line: Any, url: str, scale: float, zero: int | None) -> None:
    x = np.random.default_rng(0).normal(0, 5 * scale, 2000).astype(np.float32)
    x = np.concatenate([x, np.arange(-20, 20, dtype=np.float32) * np.float32(scale) / 2])  # with ties
    grid = {"codes": list(range(-8, 8)), "even": [c % 2 == 0 for c in range(-8, 8)], "integer": True}
    q = np.clip(np.rint(x / np.float32(scale)) + (zero or 0), -8, 7)
    x_hat = np.float32(scale) * (q - (zero or 0)).astype(np.float32)
    assert np.array_equal(in_browser(line, url, grid, scale, zero, x), np.stack([q, x_hat], 1))


def test_fp8_agrees_with_torch_bit_for_bit(line: Any, url: str) -> None:
    bits = torch.arange(256, dtype=torch.uint8)
    real = bits.view(torch.float8_e4m3fn).float()
    code_of = {value: bit for value, bit in zip(real.tolist(), bits.tolist(), strict=True) if value == value}
    codes = sorted(code_of)
    grid = {"codes": codes, "even": [code_of[c] % 2 == 0 for c in codes], "integer": False}
    t = np.random.default_rng(0).standard_t(2, 4000).astype(np.float32) * 20
    ties = (np.array(codes[1:]) + np.array(codes[:-1])) / 2
    t = np.concatenate([t, ties.astype(np.float32), np.float32([0, 448, 460, 1e6, -1e6])])
    q = torch.from_numpy(t).clamp(-448, 448).to(torch.float8_e4m3fn).float().numpy()
    assert len(codes) == 253
    assert np.array_equal(in_browser(line, url, grid, 1.0, None, t)[:, 0], q)
