"""Guesses as texts: what is read, what is refused, what is right, how a class's answers are counted."""

import plotly.graph_objects as go
import pytest

from ui.course.controls import bars
from ui.course.guess import Number, Order, Pick, Rows
from ui.course.stage import ROW, marks

DB = Number("dB", 0, 30, 0.5, near=2)
TWO = Rows((("small", ("int8", "fp8")), ("large", ("int8", "fp8"))))
CARDS = Order(("a", "b", "c"))
HOSTILE = [
    "",
    " ",
    "nan",
    "inf",
    "-1",
    "31",
    "1e999",
    "<b>1</b>",
    "1,",
    ",",
    "0,1",
    "1;2",
    "²",
    "9" * 5000,
    "1\n2",
    "--1",
    "0x1",
]


@pytest.mark.parametrize("text", HOSTILE)
@pytest.mark.parametrize("guess", [DB, TWO, CARDS, Pick("yes", "no")])
def test_what_is_no_guess_is_refused(guess: Number | Rows | Order, text: str) -> None:
    assert guess.read(text) is None


def test_a_number_goes_to_its_step_and_says_how_far_off_it_is() -> None:
    assert DB.read("12.2") == "12"
    assert DB.read("12.3") == "12.5"
    assert DB.words("12") == "12.0 dB"
    share = Number("%", 0, 100, 1, near=5)
    assert share.words("7") == "7%"
    assert share.verdict("90", "12") == "You said 90%: 78 points too high."
    assert DB.right("12", "14")  # within 2 dB
    assert not DB.right("12", "14.5")
    assert DB.verdict("12", "17.4") == "You said 12.0 dB: 5.4 dB too low."
    assert DB.verdict("20", "17.4") == "You said 20.0 dB: 2.6 dB too high."


def test_numbers_fall_into_bars_of_whole_steps() -> None:
    tally = Number("%", 0, 10, 1, near=1).tally(["0", "3", "3", "10"], "4.4")
    assert tally.labels == tuple(f"{i}%" for i in range(11))
    assert tally.counts == (1, 0, 0, 2, 0, 0, 0, 0, 0, 0, 1)
    assert tally.true == (4,)
    wide = Number("%", 0, 100, 1, near=1).tally(["0", "5", "100"], "99")
    assert sum(wide.counts) == 3
    assert wide.counts[0] == 2  # 0 to 5 share a bar: 101 steps in 17 bars
    assert wide.true == (16,)


def test_one_option_a_row() -> None:
    assert TWO.read("2,1") == "2,1"
    assert TWO.read("02,1") == "2,1"
    assert TWO.words("2,1") == "small: fp8, large: int8"
    assert TWO.of("fp8", "int8") == "2,1"
    assert TWO.verdict("1,1", "2,1") == "1 of 2 right. Not so: small: int8."
    assert TWO.verdict("2,1", "2,1") == "Both right."
    assert Pick("yes", "no").verdict("1", "2") == "You said yes; it is no."
    assert TWO.tally(["2,1", "1,1"], "2,1").counts == (1, 1, 2, 0)
    assert TWO.tally([], "2,1").true == (1, 2)


def test_an_order_is_judged_by_its_pairs() -> None:
    assert CARDS.read("3,1,2") == "3,1,2"
    assert CARDS.read("1,1,2") is None
    assert CARDS.pairs("1,2,3", "1,2,3") == 3
    assert CARDS.pairs("3,2,1", "1,2,3") == 0
    assert CARDS.pairs("2,1,3", "1,2,3") == 2  # all but the pair (1, 2)
    assert CARDS.words("3,1,2") == "c, a, b"
    assert CARDS.tally(["1,2,3", "3,2,1", "2,1,3"], "1,2,3").counts == (1, 0, 1, 1)


def test_marks_lie_over_a_picture_and_leave_it_as_it_is() -> None:
    """The same as plotly's own add_vline and add_hline; on a logarithmic axis it puts the name elsewhere."""
    fig = go.Figure(go.Scatter(x=[1, 100], y=[0, 3]), {"xaxis": {"type": "log"}})
    for axis, drawn in (("x", go.Figure().add_vline), ("y", go.Figure().add_hline)):
        over = marks(fig, axis, None, 10.0)
        line = {"width": 3, "dash": "solid", **over["shapes"][0]["line"]}
        own = drawn(10.0, line=line, annotation={"text": "measured"}, annotation_position="top right").to_dict()
        assert over["shapes"] == own["layout"]["shapes"]
        mine = {name: value for name, value in over["annotations"][0].items() if name != "font"}
        assert mine == {**own["layout"]["annotations"][0], axis: 1.0 if axis == "x" else 10.0}
    guessed = marks(fig, "x", 90.0, 10.0)
    assert [one["text"] for one in guessed["annotations"]] == ["measured", "your guess"]
    assert [one["xanchor"] for one in guessed["annotations"]] == ["left", "right"]  # into the picture, not out of it
    assert [one.get("yshift", 0) for one in guessed["annotations"]] == [0, -ROW]  # nor over each other
    assert len(marks(fig, "x", 10.0, 10.0)["shapes"]) == 1
    assert not fig.layout.shapes


def test_the_truth_is_seen_where_nobody_has_guessed_it() -> None:
    """7 bits and 4.5: the bar of 4.5 (the third of 4 to 8) is empty, and marked all the same."""
    fig = bars(Number("bits", 4, 8, 0.25, near=0.01), ("7", "7.75"), "4.5", 180)
    assert list(fig.data[0].y)[2] == 0
    assert [(one.x0, one.x1) for one in fig.layout.shapes] == [(1.5, 2.5)]
    assert [(one.text, one.x) for one in fig.layout.annotations] == [("the truth", 2)]
    assert not bars(Pick("a", "b"), ("1",), "2", 180).layout.shapes  # there the name says it
