"""The course in real browsers: keys, a hand on the controls, the glossary, and a class of three."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.browser_fixtures import ROOT, serving, wait_drawn, wait_link, wait_until, wait_words
from ui.course.scene import scenes

pytestmark = pytest.mark.browser

WORD = "a-word-of-the-teachers"
CLIP, TOKEN = (1 + [scene.key for scene in scenes()].index(key) for key in ("clip", "token"))
GUESSED = "text => document.body.innerText.includes(text)"


def has_title(page: Any, title: str) -> None:
    wait_until(page, "title => document.querySelector('h1')?.innerText === title", title)


def test_arrow_keys_walk_show_and_go_back(page: Any, server_url: str) -> None:
    page.set_viewport_size({"width": 1280, "height": 720})
    page.goto(f"{server_url}/Course?scene={CLIP}")
    has_title(page, scenes()[CLIP - 1].ask)
    slider = page.get_by_role("slider", name=scenes()[CLIP - 1].ask)
    slider.focus()
    page.keyboard.press("ArrowLeft")  # the control's own key, not the page's
    wait_link(page, "guess=")
    wait_link(page, f"scene={CLIP}")
    assert "shown" not in page.url
    slider.blur()
    page.keyboard.press("ArrowRight")
    wait_drawn(page, "shown_clip_0")
    wait_link(page, "shown=true")
    wait_words(page, "You said")
    main = "document.querySelector('[data-testid=stMain]')"
    over = f"{main}.scrollHeight - {main}.clientHeight"
    assert page.evaluate(over) <= 1  # nothing scrolls on a projector
    page.set_viewport_size({"width": 1440, "height": 900})
    picture = "document.querySelector('[data-key=shown_clip_0] .main-svg')"
    wait_until(page, f"{picture}.clientHeight === 420 + 900 - 720")  # a larger screen, a larger picture
    assert page.evaluate(over) <= 1
    page.set_viewport_size({"width": 1280, "height": 720})
    page.keyboard.press("PageDown")
    has_title(page, scenes()[CLIP].ask)
    page.get_by_test_id("stMain").get_by_role("radio", name="int8").first.click()
    page.keyboard.press("ArrowRight")  # the mouse has chosen: the radio button has no use for the key
    wait_drawn(page, f"shown_{scenes()[CLIP].key}_0")
    page.keyboard.press("ArrowLeft")
    has_title(page, scenes()[CLIP - 1].ask)


def test_the_words_of_a_page_are_listed_and_explained(page: Any, server_url: str) -> None:
    page.goto(f"{server_url}/Granularity")
    wait_drawn(page, "error_map")
    button = page.get_by_role("button", name="Words")
    wait_until(page, "document.querySelector('.lab-words')?.dataset.words?.includes('SQNR')")
    button.focus()
    page.keyboard.press("Enter")
    assert "Signal to quantization noise" in page.get_by_role("region", name="Words on this page").inner_text()
    page.keyboard.press("Escape")
    assert button.get_attribute("aria-expanded") == "false"
    place = page.evaluate(
        """(() => { const walker = document.createTreeWalker(document.querySelector('[data-testid=stMain]'), 4);
        for (let node = walker.nextNode(); node; node = walker.nextNode()) {
          const at = node.data.indexOf("SQNR"); if (at < 0) continue;
          const range = new Range(); range.setStart(node, at); range.setEnd(node, at + 4);
          node.parentElement.scrollIntoView({ block: "center" });
          const box = range.getBoundingClientRect();
          if (box.width) return [box.x + box.width / 2, box.y + box.height / 2];
        } })()"""
    )
    page.mouse.move(*place)
    page.mouse.move(place[0] + 1, place[1])
    wait_until(page, "document.querySelector('.lab-word-tip:not([hidden])')?.innerText.startsWith('SQNR')")
    page.keyboard.press("Shift")  # who goes on by key leaves the word behind
    wait_until(page, "document.querySelector('.lab-word-tip').hidden")


@pytest.fixture
def class_url(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    monkeypatch.setenv("QUANT_CLASS", "reference")
    monkeypatch.setenv("QUANT_TEACHER", WORD)
    with serving(ROOT / "serve.py", tmp_path) as url:
        yield url


def guess_by_hand(student: Any, option: str) -> None:
    """Click an option until the page says that it is the guess: a click meets no control where the page is being drawn,
    as on a busy machine a second after its title came."""
    said = f"Your guess: {option}"
    for _ in range(8):
        student.get_by_role("radio", name=option).click()
        for _ in range(60):
            if student.evaluate(GUESSED, said):
                return
            student.wait_for_timeout(500)
    raise AssertionError(f"eight clicks of {option!r} were no guess")


def test_a_class_of_three_browsers(browser_context: Any, class_url: str) -> None:
    """Three browsers, each with cookies of its own: a teacher, and two students who guess."""
    contexts = [browser_context.browser.new_context(viewport={"width": 1280, "height": 720}) for _ in range(3)]
    teacher, *students = [context.new_page() for context in contexts]
    try:
        for tab in (teacher, *students):
            tab.set_default_timeout(240_000)
        teacher.goto(f"{class_url}/Course?scene={TOKEN}&teacher={WORD}")
        has_title(teacher, scenes()[TOKEN - 1].ask)
        teacher.locator("button:has-text('Class')").first.click()
        teacher.get_by_role("button", name="Present to a class").click()
        teacher.locator(".course-code").wait_for()
        code = teacher.locator(".course-code").inner_text()
        assert WORD not in teacher.url
        teacher.keyboard.press("Escape")
        for student, option in zip(students, ("the giant token", "all the other tokens"), strict=True):
            student.goto(f"{class_url}/Course?join={code}")
            has_title(student, scenes()[TOKEN - 1].ask)
            guess_by_hand(student, option)
            assert student.get_by_role("button", name="Show", exact=True).count() == 0
        wait_until(teacher, GUESSED, "2 of 2 guessed")
        teacher.get_by_role("button", name="Show", exact=True).click()
        wait_until(teacher, GUESSED, "2 guesses, 1 of them right")
        for student, said in zip(students, ("it is all the other tokens", "all the other tokens: right"), strict=True):
            wait_until(student, GUESSED, said)
            wait_until(student, GUESSED, "2 guesses, 1 of them right")
        teacher.get_by_role("button", name="Next").click()
        for student in students:
            has_title(student, scenes()[TOKEN].ask)
    finally:
        for context in contexts:
            context.close()
