"""The table of all that was measured: read from the store, compared in pairs on the same windows, thrown away."""

import sqlite3
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from quantcore.measure.duel import duel
from quantcore.measure.luck import jittered
from quantcore.measure.measured import frontier, kl_difference, measured, with_jitters, with_luck
from quantcore.measure.store import Store
from quantcore.model.loading import LoadedModel

SCHEMES = ["w:int4/channel", "w:int8/channel", "w:int2/channel"]


@pytest.fixture
def tokens() -> torch.Tensor:
    return torch.randint(3, 200, (12, 30))


def test_what_a_duel_measured_stands_in_the_table(tiny_lm: LoadedModel, tokens: torch.Tensor, tmp_path: Path) -> None:
    store = Store(tmp_path)
    found = duel(tiny_lm, SCHEMES, tokens, tokens, store)
    rows = measured(store)
    assert {row.scheme: row.report for row in rows} == found.reports
    assert len({(row.model_hash, row.text_hash) for row in rows}) == 1
    assert measured(store, rows[0].model_hash) == rows
    assert measured(store, "another model's") == []


def test_a_pair_is_compared_as_a_duel_compares_it(tiny_lm: LoadedModel, tokens: torch.Tensor, tmp_path: Path) -> None:
    store = Store(tmp_path)
    found = duel(tiny_lm, SCHEMES, tokens, tokens, store)
    rows = {row.scheme: row for row in measured(store)}
    one, other = (rows[text] for text in SCHEMES[:2])
    assert kl_difference(store, one, other) == found.kl_difference(*SCHEMES[:2])
    with pytest.raises(ValueError, match="other windows or another model"):
        kl_difference(store, one, replace(other, text_hash="another"))


def test_a_row_that_is_thrown_away_is_gone(tiny_lm: LoadedModel, tokens: torch.Tensor, tmp_path: Path) -> None:
    store = Store(tmp_path)
    duel(tiny_lm, SCHEMES, tokens, tokens, store)
    first, second, third = measured(store)
    store.drop([first.key])
    assert measured(store) == [second, third]
    assert kl_difference(store, first, second) is None


def test_draws_of_luck_are_no_schemes_of_their_own(tiny_lm: LoadedModel, tokens: torch.Tensor, tmp_path: Path) -> None:
    store = Store(tmp_path)
    drawn = jittered(SCHEMES[0], 2)
    found = duel(tiny_lm, [SCHEMES[0], *drawn, SCHEMES[1], jittered(SCHEMES[2], 1)[0]], tokens, tokens, store)
    rows = measured(store)
    own, spreads = with_luck(rows)
    assert {row.scheme for row in own} == {*SCHEMES[:2], jittered(SCHEMES[2], 1)[0]}  # the last's scheme is not there
    first = next(row for row in own if row.scheme == SCHEMES[0])
    assert list(spreads) == [first.key]
    assert sorted(spreads[first.key].values) == sorted(found.reports[text].kl for text in (SCHEMES[0], *drawn))
    assert spreads[first.key].values[0] == first.report.kl
    store.drop(with_jitters(rows, [first]))
    assert {row.scheme for row in measured(store)} == {SCHEMES[1], jittered(SCHEMES[2], 1)[0]}


def test_rows_of_another_version_are_passed_over(tiny_lm: LoadedModel, tokens: torch.Tensor, tmp_path: Path) -> None:
    store = Store(tmp_path)
    duel(tiny_lm, SCHEMES, tokens, tokens, store)
    with closing(sqlite3.connect(store.path)) as connection, connection:
        connection.execute("UPDATE results SET figures = '{}' WHERE scheme = ?", (SCHEMES[0],))
        connection.execute("UPDATE results SET kind = 'scores of old' WHERE scheme = ?", (SCHEMES[1],))
    assert [row.scheme for row in measured(store)] == SCHEMES[2:]


def test_the_frontier_has_no_scheme_that_another_beats(
    tiny_lm: LoadedModel, tokens: torch.Tensor, tmp_path: Path
) -> None:
    """By hand: sizes 1 2 2 3 with KL .5 .4 .6 .4: the first two."""
    store = Store(tmp_path)
    duel(tiny_lm, SCHEMES[:1], tokens, tokens, store)
    row = measured(store)[0]
    rows = [
        replace(row, report=replace(row.report, bytes=size, kl=kl))
        for size, kl in ((1, 0.5), (2, 0.4), (2, 0.6), (3, 0.4))
    ]
    assert frontier(rows[::-1]) == rows[:2]
