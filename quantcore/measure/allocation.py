"""One option for each unit, the least sum of costs whose sum of prices is within a budget: exact, in milliseconds.

    allocate([[2, 4], [2, 4]], [[.6, .1], [.4, .1]], 6)      [1, 0]: the first unit takes the option of price 4

A 0/1 program (the multiple-choice knapsack), solved as its own relaxation suggests. On the lower hull of each unit's
options a step up saves so much cost a price; taken steepest first, over all units, they pass through choices that are
optimal at their own price (`hull`; Everett 1963), and the slope w where the budget ends bounds every choice:

    cost >= sum over units of min(cost + w price) - w budget

So an option whose cost + w price lies further above its unit's least than the best choice found lies above the bound is
in no better choice. Few are left; unit by unit, of the partial choices only those stay that no other beats in price and
cost and whose bound is below the best found (Nemhauser & Ullmann 1969, Pisinger 1995).

Where more than MOST of them stay, as with prices and costs made for it, only the cheapest of each of MOST ranges of
price does: then the sum is at least as low as any for a budget smaller by units / MOST of itself.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

MOST = 100_000
SLACK = 1e-9  # of a budget: sums of floats

Array = NDArray[np.float64]
Places = NDArray[np.int64]


@dataclass(frozen=True)
class Step:
    """From one option of a unit to the next on its hull, which saves `slope` a price."""

    unit: int
    before: int
    after: int
    slope: float


def hull(prices: ArrayLike, costs: ArrayLike) -> tuple[Places, list[Step]]:
    """The cheapest option of each unit, and the steps up from there, the one that saves most a price first.

    prices, costs   (units, options)"""
    start, steps = [], []
    for unit, (price, cost) in enumerate(zip(np.asarray(prices, float), np.asarray(costs, float), strict=True)):
        kept: list[int] = []
        for one in np.lexsort((cost, price)).tolist():
            if kept and cost[one] >= cost[kept[-1]]:
                continue
            while len(kept) > 1 and _slope(price, cost, kept[-2], kept[-1]) <= _slope(price, cost, kept[-2], one):
                kept.pop()
            kept.append(one)
        start.append(kept[0])
        steps += [Step(unit, a, b, _slope(price, cost, a, b)) for a, b in zip(kept, kept[1:], strict=False)]
    steps.sort(key=lambda step: -step.slope)
    return np.array(start), steps


def optimal_at_their_price(prices: ArrayLike, costs: ArrayLike) -> Array:
    """Price and cost of the choices along the hull, from the cheapest to the one that costs least: (choices, 2). No
    choice of the same price or a smaller one costs less than any of them."""
    prices, costs = np.asarray(prices, float), np.asarray(costs, float)
    start, steps = hull(prices, costs)
    at = np.arange(len(start)), start
    moves = [(0.0, 0.0), *((_step(prices, one), _step(costs, one)) for one in steps)]
    found: Array = np.array([prices[at].sum(), costs[at].sum()]) + np.cumsum(moves, axis=0)
    return found


def allocate(prices: ArrayLike, costs: ArrayLike, budget: float) -> list[int]:
    """The option of each unit. prices, costs (units, options), the least prices' sum within the budget."""
    prices, costs = np.asarray(prices, float), np.asarray(costs, float)
    budget += SLACK * abs(budget)
    units = np.arange(len(prices))
    taken, slope = _along_the_hull(prices, costs, budget)
    if slope == 0.0:
        return [int(one) for one in taken]
    best = costs[units, taken].sum()
    reduced = costs + slope * prices
    bound = reduced.min(1).sum() - slope * budget
    reduced -= reduced.min(1, keepdims=True)
    open_to = bound + reduced <= best
    open_to[units, taken] = True
    rest = np.where(open_to, prices, np.inf).min(1)
    left = rest.sum()
    spent, above, trace = np.zeros(1), np.zeros(1), []
    for unit in np.argsort(open_to.sum(1), kind="stable"):
        options = np.flatnonzero(open_to[unit])
        left -= rest[unit]
        price, over = (np.add.outer(a, b[unit, options]).ravel() for a, b in ((spent, prices), (above, reduced)))
        within = (price + left <= budget) & (bound + over <= best + SLACK * abs(best))
        kept = undominated(price, over - slope * price, np.flatnonzero(within), budget)
        trace.append((unit, options, kept))
        spent, above = price[kept], over[kept]
    place = int(np.argmin(above - slope * spent))
    for unit, options, kept in reversed(trace):
        place, option = divmod(int(kept[place]), len(options))
        taken[unit] = options[option]
    return [int(one) for one in taken]


def _along_the_hull(prices: Array, costs: Array, budget: float) -> tuple[Places, float]:
    """Every step up that the budget still pays for, and the slope of the first that it does not; 0: it pays for all."""
    taken, steps = hull(prices, costs)
    price, ends = prices[np.arange(len(taken)), taken].sum(), 0.0
    for step in steps:
        more = _step(prices, step)
        if taken[step.unit] == step.before and price + more <= budget:
            taken[step.unit], price = step.after, price + more
        elif not ends:
            ends = step.slope
    return taken, ends


def undominated(price: Array, cost: Array, places: Places, budget: float) -> Places:
    """Those of which no other takes as small a price and cost, by price; at most MOST, see above."""
    places = places[np.lexsort((cost[places], price[places]))]
    falling = cost[places]
    better = np.append(True, falling[1:] < np.minimum.accumulate(falling)[:-1])
    kept: Places = places[better]
    if len(kept) > MOST:
        ranges = np.floor(price[kept] / budget * MOST)
        kept = kept[np.append(ranges[1:] != ranges[:-1], True)]  # the last of a range costs least
    return kept


def _slope(price: Array, cost: Array, before: int, after: int) -> float:
    return float((cost[before] - cost[after]) / (price[after] - price[before]))


def _step(values: Array, step: Step) -> float:
    return float(values[step.unit, step.after] - values[step.unit, step.before])
