"""GPTQ step by step: a sweep by hand, the losses against the definition, the map and the toy against the engine."""

from dataclasses import astuple

import pytest
import torch
from torch import Tensor

from quantcore import dequantize, fake_quantize
from quantcore.methods.gptq import gptq_loss, gptq_plain, gptq_quantize
from quantcore.methods.options import Gptq
from quantcore.studies.gptq_cost import measure_order_cost, median_interval
from quantcore.studies.gptq_map import order_map
from quantcore.studies.gptq_order import METHODS, ORDERS, Factor, order_study
from quantcore.studies.gptq_steps import companions, damped, inverse_factor, neighbours, tile_rows, tile_steps
from quantcore.studies.gptq_toy import REACH, WAYS, toy, toy_hessian
from tests.gptq_laws import problem
from tests.specs import weights_spec as spec


def e_h_e(error: Tensor, hessian: Tensor) -> float:
    return float(torch.trace(error @ hessian @ error.T))


# ---------------------------------------------------------------- the tile


def test_a_tile_by_hand() -> None:
    """H = [[1, .5, 0], [.5, 1, 0], [0, 0, 1]], int4, scale 7.5 / 7.5 = 1, no damping to speak of.

    H^-1 = [[4, -2, 0], [-2, 4, 0], [0, 0, 3]] / 3 = U^T U: U_00 = sqrt(4/3), U_01 = -2/3 / U_00, U_11 = 1.
    Column 0: .4 -> 0 costs .4^2 = .16; err = .4 / U_00; w_1 gets -err U_01 = .4 * .5 = .2, then the loss is
    .4^2 - 2 * .4 * .2 * .5 + .2^2 = .12. Column 1: .6 -> 1, errors .4 and -.6: .16 + .36 - .24 = .28, nothing to take
    back. Column 2: 7.5 -> 7 adds .25. Rounding to nearest: .4 and .4 -> .16, .16 + .16 + .16 = .48, .73."""
    weight = torch.tensor([[0.4, 0.4, 7.5]])
    hessian = torch.tensor([[1, 0.5, 0], [0.5, 1, 0], [0, 0, 1]])
    steps = tile_steps(weight, hessian, (0,), (0, 1, 2), spec("int4/channel"), Gptq(damp=1e-12))
    assert steps.columns == (0, 1, 2)
    assert steps.adjusted[0].tolist() == pytest.approx([0.4, 0.6, 7.5])
    assert steps.quantized[0].tolist() == pytest.approx([0, 1, 7])
    assert steps.err[0].tolist() == pytest.approx([0.4 / (4 / 3) ** 0.5, -0.4, 0.5])
    assert (-steps.err[0, 0] * steps.factor[0]).tolist()[1:] == pytest.approx([0.2, 0])
    assert steps.rounded_loss.tolist() == pytest.approx([0.16, 0.28, 0.53])
    assert steps.loss.tolist() == pytest.approx([0, 0.12, 0.28, 0.53])
    assert steps.rtn_loss.tolist() == pytest.approx([0, 0.16, 0.48, 0.73])


@pytest.mark.parametrize("actorder", ORDERS)
@pytest.mark.parametrize("together", [True, False])
def test_the_losses_of_a_tile_end_at_the_definition(actorder, together: bool) -> None:  # type: ignore[no-untyped-def]
    weight, hessian = problem("outlier")
    columns = (companions if together else neighbours)(hessian)
    rows = tile_rows(len(weight))
    steps = tile_steps(weight, hessian, rows, columns, spec("int3/group16"), Gptq(actorder))
    at = torch.tensor(steps.columns)
    part = hessian[at][:, at]
    assert torch.equal(steps.original, weight[list(rows)][:, at])
    assert float(steps.loss[-1]) == pytest.approx(e_h_e(steps.original - steps.quantized, part))
    assert float(steps.rtn_loss[-1]) == pytest.approx(e_h_e(steps.original - steps.rtn, part))
    assert len(steps.loss) == len(columns) + 1 == 49
    # the pushes add up to where the engine says each column had been moved
    pushes = torch.cat(
        [torch.zeros(1, *steps.original.shape).double(), steps.err.T[:, :, None] * steps.factor[:, None]]
    )
    for k in (1, 17, 47):
        assert torch.allclose(steps.adjusted[:, k], steps.original[:, k] - pushes[: k + 1, :, k].sum(0))
    # half-way: the left part rounded, the right part moved by all pushes so far
    half = torch.cat([steps.quantized[:, :24], (steps.original - pushes[:25].sum(0))[:, 24:]], 1)
    assert float(steps.loss[24]) == pytest.approx(e_h_e(steps.original - half, part))


def test_the_tile_is_the_engines_sweep_of_that_submatrix() -> None:
    weight, hessian = problem("random")
    columns = companions(hessian)
    steps = tile_steps(weight, hessian, (0, 5), columns, spec("int3/group16"), Gptq("group"))
    plain = gptq_plain(
        weight[[0, 5]][:, columns], hessian[list(columns)][:, columns], spec("int3/group16"), Gptq("group")
    )
    order = [columns.index(c) for c in steps.columns]
    assert torch.allclose(steps.quantized, dequantize(plain).double()[:, order])
    assert plain.g_idx is not None
    assert list(steps.group) == plain.g_idx[order].tolist()
    assert steps.group == tuple(k // 16 for k in range(48))


def test_a_push_never_makes_the_damped_loss_larger() -> None:
    weight, hessian = problem("random")
    steps = tile_steps(weight, hessian, tile_rows(24), neighbours(hessian), spec("int2/group16"), Gptq(damp=1e-9))
    assert bool((steps.loss[1:] <= steps.rounded_loss + 1e-9).all())
    assert bool((steps.loss[1:-1] < steps.rounded_loss[:-1]).any())
    assert float(steps.loss[-1]) < float(steps.rtn_loss[-1])


def test_which_columns_and_rows() -> None:
    hessian = torch.eye(60)
    hessian[50, 50] = 9
    hessian[3, 40] = hessian[40, 3] = 0.5
    assert neighbours(hessian) == tuple(range(12, 60))  # 50 cannot be in the middle of 48 any more
    assert {3, 40} <= set(companions(hessian))
    assert len(companions(hessian)) == 48
    assert neighbours(torch.eye(40)) == tuple(range(32))  # whole groups of 16
    assert neighbours(torch.eye(5)) == (0, 1, 2, 3, 4)
    assert tile_rows(4) == (0, 1, 2, 3)
    assert tile_rows(160) == tuple(range(0, 160, 10))


def test_factor_of_the_inverse() -> None:
    hessian = damped(torch.tensor([[2.0, 1.0], [1.0, 2.0]]).double(), 0.5)  # 0.5 * 2 on the diagonal
    assert hessian.tolist() == [[3, 1], [1, 3]]
    upper = inverse_factor(hessian)
    assert torch.allclose(upper.T @ upper, torch.linalg.inv(hessian))
    assert upper[1, 0] == 0


# ---------------------------------------------------------------- the whole layer


@pytest.mark.parametrize("text", ["int3/group32", "int4/channel"])
@pytest.mark.parametrize("damp", [0.01, 0.3])
def test_the_courses_end_at_the_engines_loss(text: str, damp: float) -> None:
    weight, hessian = problem("outlier")
    weight, hessian = weight.float(), hessian.float()
    study = order_study(weight, hessian, spec(text), damp, 384, (41, 3), torch.randn(50, 96))
    rtn = gptq_loss(weight, fake_quantize(weight, spec(text)), hessian)
    assert study.course("RTN").loss == pytest.approx(rtn, rel=1e-4)
    for method, actorder in zip(METHODS[1:], ORDERS, strict=True):
        qtensor = gptq_quantize(weight, hessian, spec(text), Gptq(actorder, damp))
        loss = gptq_loss(weight, dequantize(qtensor), hessian)
        course = study.course(method)
        assert course.steps[-1] == 96
        assert course.loss == pytest.approx(loss, rel=1e-3)
        assert study.over_rtn(method) == pytest.approx(loss / rtn, rel=1e-3)
        if qtensor.g_idx is not None:
            assert torch.equal(course.group, qtensor.g_idx.long())
    assert study.power == pytest.approx(gptq_loss(weight, torch.zeros_like(weight), hessian), rel=1e-4)
    assert study.course("GPTQ, order weight").loud_steps[0] == 1  # column 41 is 300 times as loud
    assert study.course("GPTQ").loud_steps == (42, 4)
    assert {41, 42, 3, 4} <= set(study.course("RTN").steps)


def test_half_way_a_course_is_the_loss_of_the_weight_as_it_stands() -> None:
    weight, hessian = problem("random")
    weight, hessian = weight.float(), hessian.float()
    study = order_study(weight, hessian, spec("int3/group32"), 0.05, 384)
    course = study.course("GPTQ")
    step = course.steps[len(course.steps) // 2]
    q = dequantize(gptq_quantize(weight, hessian, spec("int3/group32"), Gptq(None, 0.05)))
    free = damped(hessian.double(), 0.05)
    error = torch.zeros(weight.shape, dtype=torch.float64)
    error[:, :step] = (weight - q)[:, :step].double()  # the free columns take their best place in the damped H
    error[:, step:] = -torch.linalg.solve(free[step:, step:], free[step:, :step] @ error[:, :step].T).T
    place = course.steps.index(step)
    assert course.losses[place] == pytest.approx(e_h_e(error, hessian.double()), rel=1e-4)
    rtn, seen = study.course("RTN"), (weight - fake_quantize(weight, spec("int3/group32"))).double()
    seen[:, step:] = 0
    assert rtn.losses[place] == pytest.approx(e_h_e(seen, hessian.double()), rel=1e-5)


def test_unseen_inputs_are_measured_as_they_are() -> None:
    weight, hessian = problem("random")
    x = torch.randn(30, 96)
    study = order_study(weight, hessian, spec("int3/group32"), 0.01, 384, (), x)
    hat = fake_quantize(weight.float(), spec("int3/group32"))
    expected = (x @ (weight.float() - hat).T).square().sum() / (x @ weight.float().T).square().sum()
    assert study.course("RTN").unseen == pytest.approx(float(expected), rel=1e-5)
    assert study.course("GPTQ").unseen != study.course("RTN").unseen


def test_a_factor_is_asked_for_once_an_order_and_may_be_remembered() -> None:
    weight, hessian = problem("random")
    asked: list[bool] = []

    def factor_of(by_diagonal: bool) -> Factor:
        asked.append(by_diagonal)
        return Factor.of(hessian.float(), 0.05, by_diagonal)

    study = order_study(weight, hessian, spec("int3/group32"), 0.05, 384, factor_of=factor_of)
    assert asked == [False, True, True]
    alone = order_study(weight, hessian, spec("int3/group32"), 0.05, 384)
    assert [course.losses for course in study.courses] == [course.losses for course in alone.courses]
    factor = Factor.of(hessian.float(), 0.05, True)
    in_order = damped(hessian.double(), 0.05)[factor.order.columns][:, factor.order.columns]
    assert torch.allclose((factor.mixing.T @ factor.mixing).double(), in_order, rtol=1e-4, atol=1e-4)
    assert torch.allclose(factor.mixing.T @ factor.inverse, torch.eye(96), atol=1e-3)


# ---------------------------------------------------------------- the map, the cost


def test_every_cell_of_the_map_is_the_engines_loss() -> None:
    weight, hessian = problem("outlier")
    weight, hessian = weight.float(), hessian.float()
    found = order_map(weight, hessian, (2, 4), ("group32", "channel"), (0.01, 0.3))
    assert (found.rows, found.all_rows, len(found.cells)) == (24, 24, 2 * 2 * 3 * 2)
    power = gptq_loss(weight, torch.zeros_like(weight), hessian)
    for cell in found.cells:
        text = f"int{cell.bits}/{cell.granularity}"
        qtensor = gptq_quantize(weight, hessian, spec(text), Gptq(cell.actorder, cell.damp))
        loss = gptq_loss(weight, dequantize(qtensor), hessian) / power
        rtn = gptq_loss(weight, fake_quantize(weight, spec(text)), hessian) / power
        assert cell.loss == pytest.approx(loss, rel=1e-3)
        assert cell.over_rtn == pytest.approx(loss / rtn, rel=1e-3)
        assert cell.bits_per_weight == qtensor.bits_per_weight
    assert found.best(2).loss == min(cell.loss for cell in found.cells if cell.bits == 2)


def test_of_a_wide_layer_rows_are_drawn_by_what_rounding_loses(monkeypatch: pytest.MonkeyPatch) -> None:
    """Three rows of 240 hold nearly all of the loss, so rows that are evenly spread would tell of the others: the share
    from 40 drawn rows is that of all within its interval (one in 20 may miss), and the loss with it."""
    _, hessian = problem("random")
    weight = torch.randn(240, 96)
    weight[[7, 100, 201]] *= 30
    asked = (weight, hessian.float(), (2, 3), ("channel", "group32"), (0.01, 0.1))
    whole = order_map(*asked)
    monkeypatch.setattr("quantcore.studies.gptq_map.FEWEST_ROWS", 40)
    monkeypatch.setattr("quantcore.studies.gptq_map.MOST_NUMBERS", 1)
    found = order_map(*asked)
    assert (found.rows, found.all_rows) == (40, 240)
    misses = 0
    for cell, true in zip(found.cells, whole.cells, strict=True):
        assert true.share.lo == true.share.hi
        assert cell.rtn_loss == pytest.approx(true.rtn_loss)
        assert cell.bits_per_weight == true.bits_per_weight
        assert cell.share.value == pytest.approx(true.share.value, rel=0.3)
        misses += not cell.share.lo <= true.share.value <= cell.share.hi
    assert misses <= 6  # of 24, which share the drawn rows
    monkeypatch.setattr("quantcore.studies.gptq_map.TILE", {"cpu": 64})
    filled = order_map(*asked)
    for cell, same in zip(filled.cells, found.cells, strict=True):
        assert astuple(cell.share) == pytest.approx(astuple(same.share), rel=1e-4)
    assert whole.as_good(2) == ()


def test_the_interval_of_a_median() -> None:
    """n = 25: k = floor((25 - 1.96 * 5) / 2) = 7, so the 7th from either end; few values: the extremes."""
    assert median_interval([float(i) for i in range(25)]) == (12, 6, 18)
    assert median_interval([3.0, 1.0, 2.0]) == (2, 1, 3)


def test_both_layouts_are_timed_on_equal_terms() -> None:
    weight, hessian = problem("outlier")
    costs = measure_order_cost(weight.float(), hessian.float(), spec("int4/group32"), torch.randn(5, 96), seconds=0.01)
    assert [row.tokens for row in costs.rows] == [1, 64]
    assert costs.g_idx_bytes == 4 * 96
    for row in costs.rows:
        assert row.rounds >= 9
        assert row.ratio_lo <= row.ratio <= row.ratio_hi
        assert 0 < row.group.low_ms <= row.group.median_ms <= row.group.high_ms
        assert row.within_noise == (row.ratio_lo <= 1 <= row.ratio_hi)


def test_the_ratio_is_taken_round_by_round(monkeypatch: pytest.MonkeyPatch) -> None:
    """Rounds (weight, group, float) in seconds: group / weight is 2, 3 and 2, though the medians are 2 ms and 4 ms."""
    rounds = [[0.001, 0.002, 0.0005], [0.002, 0.006, 0.0005], [0.002, 0.004, 0.0005]]
    monkeypatch.setattr("quantcore.studies.gptq_cost.timed_rounds", lambda ways, device, seconds: rounds)
    weight, hessian = problem("random")
    row = measure_order_cost(weight.float(), hessian.float(), spec("int4/group32"), torch.randn(5, 96)).rows[0]
    assert (row.ratio, row.ratio_lo, row.ratio_hi) == (2, 2, 3)
    assert not row.within_noise
    assert not row.unsteady
    assert (row.weight.median_ms, row.group.median_ms, row.plain.median_ms) == (2, 4, 0.5)


# ---------------------------------------------------------------- two weights


@pytest.mark.parametrize(
    ("w1", "w2", "r", "s"), [(0.4, 0.45, 0.9, 2.0), (-1.3, 0.6, -0.7, 0.5), (1.45, -0.55, 0.98, 4)]
)
def test_the_toys_points_are_the_plain_forms(w1: float, w2: float, r: float, s: float) -> None:
    found = toy(w1, w2, r, s)
    hessian = toy_hessian(r, s)
    pinned = torch.tensor([[w1, w2], [7.5, 0.0]], dtype=torch.float64)  # the second row makes the scale 1
    for way, turn in (("GPTQ, 1 first", [0, 1]), ("GPTQ, 2 first", [1, 0])):
        plain = gptq_plain(pinned[:, turn], hessian[turn][:, turn], spec("int4/tensor"), Gptq(damp=1e-9))
        assert plain.scale.item() == 1
        assert found.point(way).point == tuple(dequantize(plain)[0, turn].tolist())
    assert found.point("RTN").point == (round(w1), round(w2))
    for one in found.points:
        error = torch.tensor([[w1 - one.point[0], w2 - one.point[1]]], dtype=torch.float64)
        assert one.loss == pytest.approx(e_h_e(error, hessian))
        assert found.point("best").loss <= one.loss
    assert found.first == (0 if s > 1 else 1)


def test_the_toy_by_hand() -> None:
    """w = (.4, .45), H = [[4, 1.8], [1.8, 1]]. RTN: (0, 0): 4 * .16 + 2 * 1.8 * .4 * .45 + .2025 = 1.4905.
    1 first: .45 + .4 * 1.8 = 1.17 -> (0, 1): .64 - 2 * 1.8 * .4 * .55 + .3025 = .1505. 2 first: .4 + .45 * 1.8 / 4 =
    .6025 -> (1, 0): 4 * .36 - 2 * 1.8 * .6 * .45 + .2025 = .6705."""
    found = toy(0.4, 0.45, 0.9, 2.0)
    assert [one.loss for one in found.points] == pytest.approx([1.4905, 0.1505, 0.6705, 0.1505])
    assert found.point("GPTQ, 1 first").moved == pytest.approx((0, 1.17))
    assert found.point("GPTQ, 2 first").moved == pytest.approx((0.6025, 0))
    assert found.mean_loss["best"] <= found.mean_loss["GPTQ, 1 first"] < found.mean_loss["GPTQ, 2 first"] < 1
    assert set(found.mean_loss) == set(WAYS)


def test_without_correlation_all_ways_are_one() -> None:
    found = toy(0.4, 1.2, 0.0, 3.0)
    assert {one.point for one in found.points} == {(0, 1)}
    assert list(found.mean_loss.values()) == pytest.approx([1, 1, 1, 1])


@pytest.mark.parametrize(
    ("numbers", "words"),
    [((0, 0, 1.0, 1), "correlation=1"), ((0, 0, 0, 0), "scale=0"), ((REACH + 1, 0, 0, 1), "within 3 steps")],
)
def test_bad_toys(numbers: tuple[float, float, float, float], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        toy(*numbers)
