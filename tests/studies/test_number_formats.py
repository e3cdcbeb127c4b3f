"""The study behind Number formats: counts per code and one number's fate, by hand."""

import math

import pytest
import torch

from quantcore.numbers.formats import format_named
from quantcore.studies.number_formats import Grid, code_use, fit, snap


def test_fit_reaches_both_ends() -> None:
    grid = fit(torch.tensor([-1.0, 0.5, 2.0]), format_named("int2"), symmetric=False)
    assert (grid.scale, grid.zero_point, grid.label) == (1.0, -1, "int2 asym")
    assert grid.levels().tolist() == [-1, 0, 1, 2]
    assert fit(torch.tensor([-1.0, 7.5]), format_named("int4"), symmetric=True) == Grid(format_named("int4"), 1.0, None)


def test_codes_are_counted_by_hand() -> None:
    use = code_use(torch.tensor([0.0, 0.2, 0.9, 1.0, 1.4, 3.0, -0.4]), Grid(format_named("int2"), 1.0, None))
    # codes -2 -1 0 1: 0, .2, -.4 -> 0; .9, 1, 1.4 and the clipped 3 -> 1
    assert use.counts == (0, 0, 3, 4)
    assert use.unused == 2
    assert use.clipped_share == pytest.approx(1 / 7)
    noise = 0.2**2 + 0.1**2 + 0.4**2 + 2**2 + 0.4**2
    signal = 0.2**2 + 0.9**2 + 1 + 1.4**2 + 9 + 0.4**2
    assert use.sqnr_db == pytest.approx(10 * math.log10(signal / noise), rel=1e-5)


def test_float_codes_are_counted_where_they_stand() -> None:
    use = code_use(torch.tensor([0.0, 6.0, -6.0, 2.4]), Grid(format_named("fp4_e2m1"), 1.0, None))
    assert sum(use.counts) == 4
    assert [float(level) for level, n in zip(use.grid.levels(), use.counts, strict=True) if n] == [-6, 0, 2, 6]
    assert use.unused == 11


def test_one_number_by_hand() -> None:
    one = snap(0.437, Grid(format_named("int4"), 0.1, None))
    assert (one.q, one.clipped) == (4, False)
    assert one.steps == pytest.approx(4.37)
    assert one.x_hat == pytest.approx(0.4)
    assert one.error == pytest.approx(-0.037, abs=1e-6)
    high = snap(2.0, Grid(format_named("int4"), 0.1, -3))
    assert (high.q, high.clipped) == (7, True)
    assert high.x_hat == pytest.approx(1.0)
