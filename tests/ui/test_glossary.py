"""The glossary: every word of the field that stands in a page's headings has its two lines."""

import re
from pathlib import Path

import pandas as pd
import pytest
from streamlit.testing.v1 import AppTest

from tests.apptest_helpers import page
from ui import frame
from ui.course.scene import scenes
from ui.menu import sections
from ui.words.glossary import ALIKE, MOST_CHARACTERS, WORDS, defined, first_defined, pattern

WORD = re.compile(r"[A-Za-z_][\w()]*(?:-[a-z]+)*")
PLAIN = set(
    """a about above acc across after again all alone an and another answer are as at available away axis bar be beat
    been best better between bits blocks both break breaks budget buy by bytes can certain choose class column columns
    come cost costs could count counted course cut do does done each eight end engine error errors every everything
    exist exists family few fewest first fit fits float for format formats found from get gets giant given go hand
    happens hardware has have here hold how hurt hurts i if in input inputs int into is it its jobs join keep keeps
    kinds know lab land largest last least leave left less line loaded long look loses loud machine many match matter mb
    me measured median memory model more most much my need new next no not nothing now number numbers of off on one
    ones only open or order other out output outputs over own page pages parameters pay pays peak per picture play
    practice predictions push pushing question real recorded report reports rests right round rounding row rows rule
    rules runs s same save sentence sequences share shared shares ship should show shows side six small smallest
    speed spend start stays step steps still tabs take taken tested text than that the their them then there these
    they this time to together tokens total two under use used uses value values waits waste wastes what when where
    which who whole whose why will with within words would writing you your
    lens lose others""".split()
)


@pytest.mark.parametrize("word", WORDS)
def test_a_word_has_two_lines_and_ends(word: str) -> None:
    said = WORDS[word]
    assert 20 < len(said) <= MOST_CHARACTERS
    assert said.endswith(".")


def test_other_forms_lead_to_a_word() -> None:
    assert set(ALIKE.values()) <= set(WORDS)
    assert not set(ALIKE) & set(WORDS)
    assert defined("Outliers") == WORDS["outlier"]
    assert defined("house") is None
    assert defined("group64") == defined("groups") == WORDS["group"]
    assert defined("p99.97") == WORDS["percentile"]
    assert (defined("fp4_e2m1"), defined("fp8_e5m2")) == (WORDS["fp4"], WORDS["fp8"])
    assert defined("W3A16") == WORDS["W4A16"]


def test_a_column_has_the_lines_of_its_first_word() -> None:
    assert first_defined("input_sqnr_db") == WORDS["SQNR"]
    assert first_defined("g_idx, bytes") == WORDS["g_idx"]
    assert first_defined("bits a weight") == WORDS["bits per weight"]
    assert first_defined("MB") is None
    assert frame.heads(pd.DataFrame({"KL": [0.1], "MB": [1.0]}))["KL"]["help"] == WORDS["KL"]


def headings(at: AppTest) -> list[str]:
    """Title, subheadings, and the names of the main numbers."""
    return [one.value for one in (*at.title, *at.subheader)] + [one.label for one in at.metric]


def undefined(texts: list[str]) -> list[str]:
    """The words of headings that are neither everyday English nor explained."""
    found = set()
    for text in texts:
        for explained in sorted((*WORDS, *ALIKE), key=len, reverse=True):
            text = re.sub(rf"(?<!\w)(?:{pattern(explained)})(?!\w)", " ", text, flags=re.IGNORECASE)
        found |= {word for word in WORD.findall(text) if word.lower() not in PLAIN}
    return sorted(found)


def test_undefined_words_are_found() -> None:
    """Or the test below could not fail."""
    assert undefined(["SQNR of the spinquant, zero points"]) == ["spinquant"]


def test_every_word_of_the_menu_and_of_the_scenes_is_explained() -> None:
    titles = [title for pages in sections().values() for title in pages]
    asked = [text for scene in scenes() for text in (scene.title, scene.ask)]
    assert undefined(titles + [re.sub(r"x = S \(q - Z\)|\bq\b", "", one) for one in asked]) == []


@pytest.mark.parametrize("path", [path for pages in sections().values() for path in pages.values() if "pages/" in path])
def test_every_word_of_a_pages_headings_is_explained(path: str, tiny_model_dir: Path) -> None:
    at = page(Path(path).stem, model=tiny_model_dir).run()
    assert headings(at)
    assert undefined(headings(at)) == []
