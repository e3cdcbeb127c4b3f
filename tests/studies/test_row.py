"""One row and its levels: values by hand, the law of half a step, the choice of row and window."""

import pytest
import torch

from quantcore.numbers.formats import FP4_E2M1, int_format
from quantcore.numbers.granularity import PerChannel, PerTensor
from quantcore.numbers.spec import QuantSpec
from quantcore.studies.row import WINDOW, loud_row, row_study, window_around


def per_row(bits: int) -> QuantSpec:
    return QuantSpec(int_format(bits), PerChannel())


def test_a_row_by_hand() -> None:
    # int4 on -8..7: step = 3.75 / 7.5 = 0.5. In steps the row is 0.5, -1.5, 3.5, -7.5, 3: ties go to the even code,
    # so the codes are 0, -2, 4, -8, 3: five of sixteen levels, one weight in five at zero.
    weight = torch.tensor([[9.0, 9, 9, 9, 9], [0.25, -0.75, 1.75, -3.75, 1.5]])
    study = row_study(weight, 1, per_row(4))
    assert (study.row, study.columns, study.first) == (1, 5, 0)
    assert study.step == 0.5
    assert study.levels.tolist() == [code / 2 for code in range(-8, 8)]
    assert study.restored.tolist() == [0, -1, 2, -4, 1.5]
    assert study.error.tolist() == [-0.25, -0.25, 0.25, -0.25, 0]
    assert study.used == 5
    assert study.zeros == pytest.approx(0.2)


def test_a_row_of_zeros_stays_zero_without_error() -> None:
    study = row_study(torch.zeros(1, 6), 0, per_row(4))
    assert study.restored.tolist() == [0] * 6
    assert (study.step, study.used, study.zeros, study.sqnr_db) == (1, 1, 1, float("inf"))


@pytest.mark.parametrize("bits", range(2, 9))
def test_no_error_exceeds_half_a_step_even_beside_an_outlier(bits: int) -> None:
    weight = torch.randn(1, 300)
    weight[0, 100] = 20
    study = row_study(weight, 0, per_row(bits))
    assert study.error.abs().max() <= study.step / 2 * (1 + 1e-5)
    assert len(study.levels) == 2**bits
    assert study.used <= 2**bits
    assert all(value in study.levels for value in study.restored)


def test_a_bit_less_doubles_the_step_and_never_lowers_the_share_of_zeros() -> None:
    weight = torch.randn(1, 1000)
    studies = [row_study(weight, 0, per_row(bits)) for bits in range(8, 1, -1)]
    for finer, coarser in zip(studies, studies[1:], strict=False):
        # step = 2 max / (2^bits - 1): a bit less multiplies it by 255/127 = 2.01 at first, by 7/3 = 2.33 in the end
        assert 2 < coarser.step / finer.step < 2.4
        assert coarser.zeros > finer.zeros
        assert coarser.sqnr_db < finer.sqnr_db


def test_counts_speak_of_the_whole_row_not_of_the_window() -> None:
    weight = torch.zeros(1, 500)
    weight[0, 0], weight[0, 250], weight[0, 499] = 1, 7.5, -2
    study = row_study(weight, 0, per_row(4))
    assert len(study.weight) == WINDOW
    assert 7.5 in study.weight
    assert study.used == 4  # codes 0, 1, 7 and -2, two of them outside the window
    assert study.zeros == pytest.approx(497 / 500)


def test_float_formats_have_their_own_levels() -> None:
    study = row_study(torch.tensor([[6.0, 0.4, -3.3]]), 0, QuantSpec(FP4_E2M1, PerChannel()))
    assert study.restored.tolist() == [6, 0.5, -3]
    assert len(study.levels) == 15


def test_what_cannot_be_shown_is_refused() -> None:
    weight = torch.ones(2, 4)
    with pytest.raises(ValueError, match="row 2 is outside a weight of 2 rows"):
        row_study(weight, 2, per_row(4))
    with pytest.raises(ValueError, match="not under int4/tensor; try int4/channel"):
        row_study(weight, 0, QuantSpec(int_format(4), PerTensor()))
    with pytest.raises(ValueError, match="not under int4/channel/asym"):
        row_study(weight, 0, QuantSpec(int_format(4), PerChannel(), symmetric=False))
    with pytest.raises(ValueError, match="NaN or Inf"):
        row_study(torch.tensor([[1.0, float("nan")]]), 0, per_row(4))


def test_rows_are_ordered_by_how_far_one_weight_stands_out() -> None:
    # max / median: row 0 4/2 = 2, row 1 9/1 = 9, row 2 5/1 = 5, row 3 0 (all zeros), row 4 8/1 = 8
    weight = torch.tensor([[2.0, 2, -4], [1, -9, 1], [1, 1, 5], [0, 0, 0], [-1, 1, 8]])
    assert [loud_row(weight, share) for share in (0, 0.25, 0.5, 0.75, 1)] == [3, 0, 2, 4, 1]
    assert loud_row(weight) == 1
    assert loud_row(torch.tensor([[0.0, 0, 1], [1, 1, 9]])) == 0  # one weight alone is infinitely loud
    with pytest.raises(ValueError, match=r"share=1.5 is outside 0..1"):
        loud_row(weight, 1.5)


@pytest.mark.parametrize(
    ("column", "columns", "expected"),
    [(50, 100, (45, 55)), (0, 100, (0, 10)), (99, 100, (90, 100)), (3, 7, (0, 7)), (5, 10, (0, 10))],
)
def test_the_window_holds_its_column_and_stays_inside(column: int, columns: int, expected: tuple[int, int]) -> None:
    window = window_around(column, columns, width=10)
    assert (window.start, window.stop) == expected
    assert column in range(window.start, window.stop)
