"""Names beside points: where each stands, in boxes that a reader can draw."""

import random

from ui.figures.names import LETTER, cross, ends, marker_box, name_box, positions, share

PLOT = (400.0, 200.0)


def test_a_name_stands_above_and_right_where_nothing_is() -> None:
    assert positions([(0.5, 0.5)], ["W4A16"], PLOT) == ["top right"]
    assert positions([(0.5, 0.5)], [""], PLOT) == [None]


def test_of_two_points_in_one_spot_both_are_read() -> None:
    assert positions([(0.5, 0.5)] * 2, ["one", "other"], PLOT) == ["top right", "bottom right"]


def test_a_name_does_not_stand_where_it_would_be_taken_for_a_neighbours() -> None:
    lower, upper = (0.5, 0.5), (0.5, 0.55)  # 10 pixels above: right of the lower one's top it stands, too
    assert positions([lower, upper], ["plan", "W4A16"], PLOT) == ["bottom right", "top right"]


def test_a_name_goes_where_it_stays_in_the_plot() -> None:
    wide = "n" * round(0.4 * 400 / LETTER)  # reaches beyond the right edge from 0.9, and beyond neither from the left
    assert positions([(0.9, 0.5)], [wide], PLOT) == ["top left"]
    assert positions([(0.5, 0.99)], ["W4A16"], PLOT) == ["bottom right"]  # 2 pixels below the upper edge
    assert positions([(0.5, 0.5)], ["n" * 60], PLOT) == [None]  # 456 pixels


def test_names_stand_beside_a_line_where_they_can() -> None:
    rising = [(0.0, 0.0), (0.5, 0.5), (1.0, 1.0)]  # through the upper right of the point
    assert positions([(0.5, 0.5)], ["W4A16"], PLOT, rising) == ["bottom right"]


def test_the_first_name_finds_room_and_a_later_one_is_left_out() -> None:
    crowd = [(0.5 + 0.002 * n, 0.5) for n in range(12)]
    found = positions(crowd, ["w:int4/group128"] * len(crowd), PLOT)
    assert found[0] == "top left"  # the others lie to its right
    assert None in found


def test_a_sure_name_rather_stands_near_another_point_than_not_at_all() -> None:
    ring = [(0.5 + 0.03 * x, 0.5 + 0.06 * y) for x in (-1, 0, 1) for y in (-1, 0, 1) if x or y]  # 12 pixels around
    points, words = [(0.5, 0.5), *ring], ["W4A16", *[""] * len(ring)]
    assert positions(points, words, PLOT)[0] is None
    assert positions([(0.5, 0.5), (0.5, 0.56), (0.5, 0.44)], words[:3], PLOT)[0] is None
    assert positions([(0.5, 0.5), (0.5, 0.56), (0.5, 0.44)], words[:3], PLOT, sure=1)[0] == "top right"


def test_no_name_crosses_another_or_a_point_whatever_the_points() -> None:
    draw = random.Random(0)
    for _ in range(50):
        points = [(draw.random(), draw.random()) for _ in range(14)]
        words = ["n" * draw.randint(3, 30) for _ in points]
        found = positions(points, words, PLOT)
        assert sum(side is not None for side in found) > 3
        middles = [(400 * x, 200 * (1 - y)) for x, y in points]
        boxes = [
            name_box(middle, side, LETTER * len(word))
            for middle, side, word in zip(middles, found, words, strict=True)
            if side
        ]
        dots = [marker_box(*middle) for middle in middles]
        assert not any(cross(box, other) for place, box in enumerate(boxes) for other in boxes[:place])
        assert not any(cross(box, dot) for box in boxes for dot in dots)


def test_the_ends_of_an_axis_leave_a_margin_of_its_span() -> None:
    assert ends([2.0, 1.0, 5.0], 0.25) == (0.0, 6.0)  # a quarter of 4 on either side
    assert ends([3.0, 3.0], 0.25) == (2.0, 4.0)
    assert [share(value, (0.0, 6.0)) for value in (0.0, 1.5, 6.0)] == [0.0, 0.25, 1.0]
