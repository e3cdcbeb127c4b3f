"""A budget spent exactly: what trying all finds, and what an integer program finds where trying all takes too long."""

import itertools

import numpy as np
import pytest

from quantcore.measure import allocation
from quantcore.measure.allocation import allocate, hull, optimal_at_their_price

Array = np.ndarray


def _some(seed: int, units: int, options: int) -> tuple[Array, Array]:
    """Prices near whole bits, costs that fall about fourfold a bit, some dominated: units of several sizes."""
    random = np.random.default_rng(seed)
    sizes, bits = random.choice([1.0, 2.7, 5.3], units), np.linspace(3, 6.5, options)
    prices = sizes[:, None] * bits * (1 + 0.02 * random.random((units, options)))
    costs = random.lognormal(0, 1.5, units)[:, None] * 4.0**-bits * (1 + 0.5 * random.random((units, options)))
    return prices, costs


def _sums(prices: Array, costs: Array, choice: list[int]) -> tuple[float, float]:
    at = np.arange(len(choice)), choice
    return float(prices[at].sum()), float(costs[at].sum())


def test_the_hull_by_hand() -> None:
    """Prices 1, 2, 3, 4 cost 10, 9, 2, 1: the option of price 2 lies above the line from 1 to 3."""
    start, steps = hull([[1, 2, 3, 4]], [[10, 9, 2, 1]])
    assert start.tolist() == [0]
    assert [(step.before, step.after, step.slope) for step in steps] == [(0, 2, 4.0), (2, 3, 1.0)]
    assert optimal_at_their_price([[1, 2, 3, 4]], [[10, 9, 2, 1]]).tolist() == [[1, 10], [3, 2], [4, 1]]


def test_a_choice_off_the_hull_is_found() -> None:
    """A budget of 2 pays for no step of the hull; the option above it saves 1 all the same."""
    assert allocate([[1, 2, 3, 4]], [[10, 9, 2, 1]], 2) == [1]


def test_equal_prices_take_the_lower_cost_and_what_costs_more_is_left() -> None:
    assert allocate([[2, 2, 3]], [[5, 4, 6]], 9) == [1]
    assert allocate([[1, 2], [1, 2]], [[-1, -1], [0, -3]], 3) == [0, 1]  # costs may be negative: changes are


@pytest.mark.parametrize("seed", range(6))
def test_it_finds_what_trying_all_finds(seed: int) -> None:
    prices, costs = _some(seed, 6, 5)
    every = [_sums(prices, costs, list(choice)) for choice in itertools.product(range(5), repeat=6)]
    least = float(prices.min(1).sum())
    for budget in np.linspace(least, prices.max(1).sum(), 7):
        price, cost = _sums(prices, costs, allocate(prices, costs, float(budget)))
        assert price <= budget * (1 + 1e-8)
        assert cost == pytest.approx(min(cost for price, cost in every if price <= budget * (1 + 1e-12)), rel=1e-9)


def test_no_choice_is_better_than_one_of_the_hull_at_its_price() -> None:
    prices, costs = _some(9, 5, 5)
    every = [_sums(prices, costs, list(choice)) for choice in itertools.product(range(5), repeat=5)]
    found = optimal_at_their_price(prices, costs)
    assert len(found) > 5
    for price, cost in found:
        assert cost == pytest.approx(min(other for taken, other in every if taken <= price + 1e-9))


def test_it_finds_what_an_integer_program_finds() -> None:
    from scipy.optimize import Bounds, LinearConstraint, milp

    prices, costs = _some(3, 24, 8)
    budget = float(prices.mean())  # a unit
    one_each = np.repeat(np.eye(24), 8, axis=1)
    whole = [LinearConstraint(one_each, 1, 1), LinearConstraint(prices.ravel()[None], 0, 24 * budget)]
    asked = {"integrality": np.ones(192), "bounds": Bounds(0, 1), "options": {"mip_rel_gap": 1e-9}}
    best = milp(costs.ravel() / costs.max(), constraints=whole, **asked).fun * costs.max()
    price, cost = _sums(prices, costs, allocate(prices, costs, 24 * budget))
    assert price <= 24 * budget * (1 + 1e-8)
    assert cost == pytest.approx(best, rel=1e-6)


def test_too_many_partial_choices_are_thinned_and_the_promise_holds(monkeypatch: pytest.MonkeyPatch) -> None:
    """Costs that fall as prices rise, all alike: no choice beats another, so all stay, until MOST."""
    random, sizes, all_of = np.random.default_rng(1), list[int](), allocation.undominated
    prices = random.random((10, 6))
    costs, budget, most = 1 - prices + 1e-3 * random.random((10, 6)), 5.0, 200

    def counted(*asked: Array) -> Array:
        sizes.append(len(kept := all_of(*asked)))
        return kept

    monkeypatch.setattr(allocation, "undominated", counted)
    _, least = _sums(prices, costs, allocate(prices, costs, budget))
    assert max(sizes) > 10 * most
    _, promised = _sums(prices, costs, allocate(prices, costs, budget * (1 - 10 / most)))
    sizes.clear()
    monkeypatch.setattr(allocation, "MOST", most)
    price, cost = _sums(prices, costs, allocate(prices, costs, budget))
    assert max(sizes) <= most
    assert price <= budget * (1 + 1e-8)
    assert least <= cost <= promised
