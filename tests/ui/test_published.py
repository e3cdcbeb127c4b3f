"""What the page says beside the papers' findings is what benchmarks.treatments recorded."""

import json

import pytest

from tests.browser_fixtures import ROOT
from ui.words.published import FINDINGS, Finding

RECORDED = json.loads((ROOT / "benchmarks" / "results" / "treatments.json").read_text())


@pytest.mark.parametrize("finding", FINDINGS, ids=lambda one: f"{one.setting}: {one.published}")
def test_the_figures_are_the_recorded_ones(finding: Finding) -> None:
    contests = (("reference", finding.setting), ("SmolLM2-135M", finding.there or finding.setting))
    for (model, contest), mine in zip(contests, (finding.ours, finding.second), strict=True):
        recorded = {row["scheme"]: row["kl"] for row in RECORDED[model][contest]["rows"]}
        assert mine == {name: recorded[name] for name in mine}
        assert finding.there or list(mine) in ([], list(finding.ours))


def test_it_says_where_ours_differ() -> None:
    assert [one.agrees for one in FINDINGS] == [True, True, True, True, False, False, True, True]
    there = [one.row["agrees there"] for one in FINDINGS]
    assert there == ["yes", "yes", "yes", "not measured", "yes", "yes", "yes", "yes"]
    reversed_order = FINDINGS[0]._replace(ours=dict(reversed(FINDINGS[0].ours.items())))
    assert reversed_order.row["agrees"] == "no"
