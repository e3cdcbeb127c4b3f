"""Reports: one HTML file that asks nothing of the network, the same numbers as JSON, pictures true to their numbers."""

import json
import math
import re
import xml.etree.ElementTree as ElementTree
from html.parser import HTMLParser

import pytest
import torch

from quantcore.export.plain import plain
from quantcore.lab import svg
from quantcore.lab.report import duel_document, layer_document
from quantcore.lab.report_html import to_html
from quantcore.measure.duel import Duel, duel
from quantcore.measure.luck import Spread
from quantcore.measure.statistics import window_interval
from quantcore.measure.store import Store
from quantcore.measure.told_apart import BY_TEXT, REAL
from quantcore.model.linears import linear_named
from quantcore.model.loading import LoadedModel
from quantcore.pipeline.calibration import layer_inputs
from quantcore.scheme.scheme import Scheme
from quantcore.studies.layer import layer_study
from quantcore.text.windows import bundled_text, token_windows

LAYER = "model.layers.1.mlp.down_proj"
FACTS = {"model": "tiny <&> model", "text": {"tokens": 96, "hash": "abc"}, "seed": None}


@pytest.fixture(scope="module")
def found(tiny_lm: LoadedModel, tmp_path_factory: pytest.TempPathFactory) -> Duel:
    tokens = token_windows(tiny_lm.tokenizer, bundled_text(), 16, 96)
    store = Store(tmp_path_factory.mktemp("store"))
    return duel(tiny_lm, ["w:int8/channel", "w:int2/channel", "float"], tokens, tokens, store)


class Reader(HTMLParser):
    """Every tag closed in order, the addresses that the page would fetch, and the text of cells."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.fetched: list[str] = []
        self.cells: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.fetched += [value or "" for name, value in attrs if name in ("src", "href", "srcset", "data")]
        if tag not in ("meta", "br"):
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        pass

    def handle_data(self, data: str) -> None:
        if self.open and self.open[-1] == "td":
            self.cells.append(data)


def inside(html: str) -> dict:
    return json.loads(re.search(r'<script type="application/json" id="data">(.*?)</script>', html, re.S)[1])


def test_a_duel(found: Duel) -> None:
    document = duel_document(found, FACTS)
    html = to_html(document)
    page = Reader(html)
    assert page.open == []
    assert page.fetched == []
    assert "http" not in re.sub(r'xmlns="[^"]*"', "", html)
    assert inside(html) == json.loads(json.dumps(plain(document)))
    report = found.reports["w:int2/channel"]
    assert f"{report.perplexity:.5g}" in page.cells
    assert document.sentences[0].startswith("Nearest to the float model: float, KL 0 nats")
    figures = next(table for table in document.tables if table.title == "Figures")
    kl = dict(zip(figures.columns, figures.rows[1], strict=True))
    own = window_interval(found.scores["w:int2/channel"].kl)
    assert (kl["KL"], kl["KL from"], kl["KL to"]) == (own.value, own.lo, own.hi)
    pairs = next(table for table in document.tables if table.title.startswith("Pairs"))
    assert len(pairs.rows) == 3
    row = dict(zip(pairs.columns, pairs.rows[0], strict=True))
    assert (row["luck alone, +-"], row["verdict"]) == (
        None,
        BY_TEXT,
    )  # luck was not looked at
    kls = {text: report.kl for text, report in found.reports.items()}
    document = duel_document(found, FACTS, {text: Spread((kl, 1.001 * kl, 0.999 * kl)) for text, kl in kls.items()})
    pairs = next(table for table in document.tables if table.title.startswith("Pairs"))
    row = dict(zip(pairs.columns, pairs.rows[0], strict=True))
    assert row["luck alone, +-"] > 0
    assert row["verdict"] == REAL
    assert [table.title for table in document.tables if table.folded] == [
        "Layers of w:int8/channel", "Layers of w:int2/channel",
    ]  # fmt: skip
    assert document.versions["torch"] == torch.__version__
    assert document.facts == FACTS
    assert "tiny &lt;&amp;&gt; model" in html
    assert len(document.conventions) > 5


def test_a_layer(tiny_lm: LoadedModel) -> None:
    tokens = token_windows(tiny_lm.tokenizer, bundled_text(), 16, 96)
    x = layer_inputs(tiny_lm.model, tokens, LAYER).flatten(0, 1)
    study = layer_study(linear_named(tiny_lm.model, LAYER), x, Scheme.parse("w:int4/group32"))
    document = layer_document(study, LAYER, FACTS)
    html = to_html(document)
    assert Reader(html).open == []
    errors = {row[0]: row[1:] for row in document.tables[0].rows}
    assert errors["output"] == tuple(study.output)
    assert math.isinf(errors["input"][0])
    assert inside(html)["tables"][0]["rows"][1][1] == "inf"
    picture = document.pictures[0]
    assert sum(picture.counts["before"]) == study.shape[0] * study.shape[1]
    assert len(picture.edges) == len(picture.counts["after"]) + 1


def marks(text: str, kind: str) -> list[dict[str, str]]:
    return [one.attrib for one in ElementTree.fromstring(text).iter() if one.tag.endswith(kind)]


def test_intervals_lie_where_their_numbers_say() -> None:
    text = svg.intervals([("a", 0.0, -1.0, 1.0), ("b <", 2.0, 1.0, math.inf)], "nats", "a & b")
    ElementTree.fromstring(text)
    dots = marks(text, "circle")
    whiskers = [one for one in marks(text, "line") if one["class"] == "whisker"]
    (zero,) = [one for one in marks(text, "line") if one["class"] == "zero"]
    assert dots[0]["cx"] == zero["x1"]
    middle = (float(whiskers[0]["x1"]) + float(whiskers[0]["x2"])) / 2
    assert middle == pytest.approx(float(dots[0]["cx"]), abs=0.1)
    assert float(whiskers[1]["x1"]) == pytest.approx(float(whiskers[0]["x2"]))  # both end at 1
    assert float(whiskers[1]["x2"]) == svg.WIDTH - svg.RIGHT  # infinity: the edge
    assert float(dots[1]["cx"]) > float(dots[0]["cx"])


def test_an_axis_of_decades_is_logarithmic() -> None:
    text = svg.intervals([(str(k), 10.0**-k, 10.0**-k, 10.0**-k) for k in range(4)], "nats", "decades")
    x = [float(one["cx"]) for one in marks(text, "circle")]
    steps = [a - b for a, b in zip(x, x[1:], strict=False)]
    assert steps == pytest.approx([steps[0]] * 3, abs=0.2)
    ElementTree.fromstring(svg.intervals([("one", 0.0, 0.0, 0.0)], "", "nothing but zero"))
    ElementTree.fromstring(svg.intervals([("none", 1.0, -math.inf, math.inf)], "", "no end"))


def test_histograms_scale_to_the_tallest() -> None:
    text = svg.histograms([-1.0, 0.0, 1.0], {"before": [0, 7], "after": [3, 0]}, "value", "two")
    lines = [one["points"] for one in marks(text, "polyline")]
    heights = [[float(point.split(",")[1]) for point in line.split()] for line in lines]
    floor, top = svg.TOP + svg.PLOT_HEIGHT, min(min(one) for one in heights)
    assert heights[0] == [floor, floor, top, top]
    assert (floor - heights[1][0]) / (floor - top) == pytest.approx(math.log(4) / math.log(8), abs=0.01)


def test_long_and_odd_names_are_cut_and_escaped() -> None:
    text = svg.intervals([("<script>" + "x" * 60, 1.0, 0.5, 2.0)], "n", "x")
    assert "<script>" not in text
    assert "..." in ElementTree.fromstring(text)[-3].text or "..." in text
