"""GPTQ step by step in a real browser: slider and Play draw every step themselves; the link follows the hand."""

import re
from typing import Any

import pytest

from tests.browser_fixtures import wait_drawn, wait_link, wait_until

pytestmark = pytest.mark.browser

PLAYER = ".lab-player"


def opened(page: Any, url: str, query: str = "") -> None:
    page.goto(f"{url}/GPTQ_step_by_step?tokens=160{query}")
    wait_until(page, f"Number(document.querySelector('{PLAYER}')?.dataset.drawn) > 0")


def shown(page: Any, name: str) -> float:
    return float(page.locator(PLAYER).get_attribute(f"data-{name}"))


def wait_step(page: Any, step: int) -> None:
    wait_until(page, f"document.querySelector('{PLAYER}').dataset.step === '{step}'")


def slider(page: Any) -> Any:
    return page.get_by_role("slider", name="Columns quantized so far")


def colour_at(page: Any, picture: int, row: int, column: int) -> list[int]:
    """The middle of a cell of the player's n-th picture, [r, g, b]."""
    script = """([n, r, k]) => {
      const canvas = document.querySelectorAll('.lab-player canvas')[n], ratio = devicePixelRatio;
      const cell = (canvas.clientWidth - 34) / 48;
      const at = [34 + (k + 0.5) * cell, (r + 0.5) * 12].map((pixel) => Math.round(pixel * ratio));
      return [...canvas.getContext('2d').getImageData(...at, 1, 1).data.slice(0, 3)];
    }"""
    found: list[int] = page.evaluate(script, [picture, row, column])
    return found


def test_the_slider_follows_the_hand_and_the_link_follows_the_slider(page: Any, server_url: str) -> None:
    sent: list[Any] = []
    page.once("websocket", lambda socket: socket.on("framesent", lambda frame: sent.append(frame)))
    opened(page, server_url)
    wait_drawn(page, "toy")  # the page has come to rest
    assert sent  # the page came that way
    sent.clear()
    slider(page).focus()
    page.keyboard.press("Home")
    wait_step(page, 0)
    assert shown(page, "loss") == shown(page, "rtn") == 0
    assert page.get_by_text("nothing quantized yet").count() == 1
    page.keyboard.press("ArrowRight")
    wait_step(page, 1)
    assert shown(page, "rtn") > 0
    page.keyboard.press("End")
    wait_step(page, 48)
    assert shown(page, "rtn") == 1
    words = page.locator('[data-testid="stMarkdown"]', has_text="In the end GPTQ's loss is").first.inner_text()
    said = re.search(r"loss is (\d+)% of RTN's", words)
    assert said is not None
    assert round(100 * shown(page, "loss")) == int(said[1])
    wait_link(page, "step=48")
    assert 1 <= len(sent) <= 16  # a message where the hand stops, a few looks at jobs; none for each of 48 steps
    opened(page, page.url.partition("/GPTQ")[0], "&step=7")  # and who follows such a link sees that step
    wait_step(page, 7)


def test_play_goes_to_the_end_and_pause_stops_it(page: Any, server_url: str) -> None:
    opened(page, server_url)
    slider(page).focus()
    page.keyboard.press("Home")
    wait_step(page, 0)
    page.get_by_role("button", name="Play").click()
    wait_until(page, f"Number(document.querySelector('{PLAYER}').dataset.step) >= 3")
    page.get_by_role("button", name="Pause").click()
    at = shown(page, "step")
    page.wait_for_timeout(700)
    assert shown(page, "step") - at <= 1
    at = int(shown(page, "step"))
    page.get_by_role("button", name="One column back").click()
    wait_step(page, at - 1)
    page.get_by_role("button", name="One column on").click()
    wait_step(page, at)
    slider(page).press("End")
    wait_step(page, 48)
    page.get_by_role("button", name="Play").click()  # from the end it begins anew
    wait_until(page, f"Number(document.querySelector('{PLAYER}').dataset.step) < 40")
    page.get_by_role("button", name="Pause").click()


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_the_maps_show_what_is_done_and_no_more(page: Any, server_url: str, scheme: str) -> None:
    page.emulate_media(color_scheme=scheme)
    opened(page, server_url)
    slider(page).press("End")
    wait_step(page, 48)
    done = {(r, k): colour_at(page, 2, r, k) for r in (1, 9) for k in (3, 40)}
    slider(page).press("Home")
    for _ in range(10):
        slider(page).press("ArrowRight")
    wait_step(page, 10)
    empty = colour_at(page, 2, 1, 40)
    assert colour_at(page, 2, 1, 3) == done[1, 3] != empty  # a rounded column keeps its error
    assert colour_at(page, 2, 9, 40) == empty != done[9, 40]  # a column to come has none
    assert colour_at(page, 0, 9, 3) == colour_at(page, 3, 9, 40) == empty  # behind the push; RTN's map
    assert any(colour_at(page, 0, r, 12) != empty for r in range(16))  # the push reaches the right
    assert (max(empty) > 128) == (scheme == "light")


def test_a_change_of_bits_keeps_the_step(page: Any, server_url: str) -> None:
    opened(page, server_url)
    slider(page).press("Home")
    for _ in range(5):
        slider(page).press("ArrowRight")
    wait_step(page, 5)
    wait_link(page, "step=5")
    before = shown(page, "loss")
    bits = page.get_by_role("slider", name="Bits per weight")
    bits.focus()
    page.keyboard.press("ArrowRight")
    wait_until(page, f"Number(document.querySelector('{PLAYER}').dataset.loss) !== {before!r}")
    assert shown(page, "step") == 5
    wait_link(page, "bits=4")
    assert page.locator(".stException").count() == 0
