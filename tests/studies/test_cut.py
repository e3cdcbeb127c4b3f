"""The error against the cut: ends by hand, a least place between."""

import pytest
import torch

from quantcore.numbers.distance import tensor_error
from quantcore.numbers.qtensor import fake_quantize
from quantcore.numbers.spec import QuantSpec
from quantcore.scheme.scheme import Scheme
from quantcore.studies.cut import CUTS, cut_curve


def spec(text: str = "w:int4/tensor") -> QuantSpec:
    found = Scheme.parse(text).weights
    assert found is not None
    return found


def test_a_cut_of_one_is_the_schemes_own_rounding() -> None:
    x = torch.randn(64, 32)
    curve = cut_curve(x, spec())
    assert curve.cuts[-1] == 1.0
    assert curve.sqnr_db[-1] == pytest.approx(tensor_error(x, fake_quantize(x, spec())).sqnr_db)
    assert curve.clipped[-1] == 0.0


def test_what_is_cut_off_becomes_the_last_code() -> None:
    """int4, values 1 (a hundred times) and 100. Cut at 4%: s = 4 / 7.5; 1 -> code 2 (1.875) -> 1.0667, off by 1/15;
    100 -> code 7 -> 3.7333. Noise: 100 / 225 + 96.2667^2 = 9267.7 of 10100: 0.37 dB."""
    curve = cut_curve(torch.tensor([1.0] * 100 + [100.0]), spec())
    assert CUTS[0] == 0.04
    assert curve.sqnr_db[0] == pytest.approx(0.3734, abs=1e-3)
    assert curve.clipped[0] == pytest.approx(1 / 101)
    assert curve.reach == 100.0


def test_one_outlier_among_many_moves_the_best_cut_inward() -> None:
    x = torch.randn(4096)
    plain = cut_curve(x, spec())
    x[0] = 40.0
    loud = cut_curve(x, spec())
    assert loud.cuts[loud.best] < plain.cuts[plain.best]
    assert loud.sqnr_db[loud.best] > loud.sqnr_db[-1] + 3


def test_zeros_have_no_range() -> None:
    with pytest.raises(ValueError, match="all 4 values are 0"):
        cut_curve(torch.zeros(4), spec())
