"""Eight columns in an order made by hand, and a pair of real ones."""

import pytest
import torch

from quantcore.methods.options import Gptq
from quantcore.numbers.spec import QuantSpec
from quantcore.scheme.scheme import Scheme
from quantcore.studies.few_columns import by_hand, real_pair, spread
from quantcore.studies.gptq_toy import toy


def spec(text: str = "w:int3/channel") -> QuantSpec:
    found = Scheme.parse(text).weights
    assert found is not None
    return found


def test_spread_takes_loudest_quietest_and_even_ranks_between() -> None:
    hessian = torch.diag(torch.tensor([5.0, 1.0, 9.0, 3.0, 7.0]))
    assert spread(hessian, 3) == (0, 1, 2)  # ranks 0, 2, 4: columns 2, 0, 1
    assert spread(hessian) == (0, 1, 2, 3, 4)  # all, where there are fewer than eight


def test_without_correlation_no_order_gains_or_loses() -> None:
    weight = torch.randn(16, 8)
    hessian = torch.diag(torch.rand(8) + 0.5)
    for order in ((0, 1, 2, 3), (3, 1, 0, 2)):
        assert by_hand(weight, hessian, (0, 2, 4, 6), order, spec(), Gptq()) == pytest.approx(1.0)


def test_the_order_matters_where_inputs_go_together() -> None:
    x = torch.randn(256, 8)
    x[:, 0] *= 6
    x[:, 1:] += 0.5 * x[:, :1]
    weight, hessian = torch.randn(32, 8), x.T @ x
    found = {
        order: by_hand(weight, hessian, range(8), order, spec(), Gptq())
        for order in (tuple(range(8)), tuple(range(7, -1, -1)))
    }
    loud_first, loud_last = found.values()
    assert loud_first < 1
    assert loud_first != pytest.approx(loud_last)


def test_what_is_no_order_is_refused() -> None:
    with pytest.raises(ValueError, match="is no order of 2 columns"):
        by_hand(torch.randn(4, 4), torch.eye(4), (0, 1), (0, 0), spec(), Gptq())


def test_the_pair_goes_together_most_and_gptq_gains_on_its_row() -> None:
    x = torch.randn(512, 6)
    x[:, 4] = 0.9 * x[:, 1] + 0.3 * x[:, 4]
    x[:, 5] = 30 * x[:, 0]  # goes together more, but is 30 times louder: its picture would be a needle
    weight, hessian = torch.randn(32, 6), x.T @ x
    pair = real_pair(weight, hessian, spec("w:int4/channel"))
    assert pair.columns == (1, 4)
    assert pair.correlation == pytest.approx(float(hessian[1, 4] / (hessian[1, 1] * hessian[4, 4]).sqrt()), rel=1e-5)
    assert all(0 <= one < 1 for one in pair.weights)
    step = float(weight[pair.row].abs().max()) / 7.5
    for column, whole, part in zip(pair.columns, pair.moved, pair.weights, strict=True):
        assert float(weight[pair.row, column]) == pytest.approx((whole + part) * step, abs=1e-5)
    found = toy(*pair.weights, pair.correlation, pair.scale)
    assert min(found.points[1].loss, found.points[2].loss) < found.points[0].loss
