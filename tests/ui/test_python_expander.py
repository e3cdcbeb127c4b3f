"""The expander "Python" of every page: the very calls that the page made, which run as they stand and say the same."""

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import pytest
from streamlit.testing.v1 import AppTest

from quantcore.lab.hardware import Speed
from quantcore.lab.lab import Lab
from quantcore.measure.duel import Duel
from quantcore.measure.planning import PlannedChoice
from quantcore.measure.rules import RuleResult
from quantcore.measure.sensitivity import Sensitivity
from quantcore.studies.footprint import Footprint
from quantcore.studies.generation import Written
from quantcore.studies.gptq_order import OrderStudy
from quantcore.studies.granularity import GranularityStudy
from quantcore.studies.layer import LayerStudy
from quantcore.studies.next_tokens import NextTokens
from quantcore.studies.number_formats import CodeUse
from quantcore.studies.outliers import Remedy
from quantcore.studies.ranges import RangeStudy
from quantcore.studies.row import RowStudy
from quantcore.text.files import LoadedText
from tests.apptest_helpers import figure_of, metrics, new_server, settle, values
from tests.apptest_helpers import page as open_page
from ui.python_code import LONGEST_QUOTE, noting, program
from ui.sidebar import OWN as OWN_TEXT
from ui.words import gptq as gptq_words
from ui.words.digits import shown_kl

MOST_LINES = 15
OWN = 'He said: "Don\'t {go} out", and lit the lamp. ' * 4
T = TypeVar("T")


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What one page has measured another finds, each on a server of its own."""
    return tmp_path_factory.mktemp("home")


@pytest.fixture(autouse=True)
def own_server(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("QUANT_HOME", str(home))
    new_server()


def run(at: AppTest) -> list[Any]:
    """What the page's program prints, as objects; the page is settled before."""
    settle(at)
    assert not at.error
    code = next(one for one in at.expander if one.label == "Python").code[0].value
    body = [line for line in code.splitlines() if line and not line.startswith(("import ", "from "))]
    assert len(body) <= MOST_LINES
    printed: list[Any] = []
    exec(compile(code, "the expander", "exec"), {"print": printed.append})
    assert len(printed) == len([line for line in body if line.startswith("print(lab.")]) > 0
    return printed


def all_of(printed: list[Any], kind: type[T]) -> list[T]:
    return [one for one in printed if isinstance(one, kind)]


def one_of(printed: list[Any], kind: type[T]) -> T:
    return all_of(printed, kind)[0]


def test_start(tiny_model_dir: Path) -> None:
    at = open_page("", model=tiny_model_dir, bits=3, prompt='The lamp\'s "light"')
    printed = run(at)
    assert any(f"= **{one_of(printed, NextTokens).kl:.3g}** nats" in one.value for one in at.markdown)
    assert any(f"**{one_of(printed, RowStudy).zeros:.1%}** become" in one.value for one in at.markdown)


@pytest.mark.parametrize("of", ["weight", "inputs"])
def test_number_formats(of: str, tiny_model_dir: Path) -> None:
    at = open_page("1_Number_formats", model=tiny_model_dir, formats=["int4", "int3_asym"], of=of, text="code")
    use, snap = [one for one in run(at) if isinstance(one, tuple)][-1]  # behind them: the blocks under coded scales
    assert isinstance(use, CodeUse)
    last = at.dataframe[0].value.iloc[-1]
    assert last["SQNR of the tensor, dB"] == use.sqnr_db
    assert last["x_hat"] == snap.x_hat


def test_granularity(tiny_model_dir: Path) -> None:
    at = open_page("2_Granularity", model=tiny_model_dir, grain="group", group=16, format="int3", symmetric="false")
    study = one_of(run(at), GranularityStudy)
    assert metrics(at)["Bits per weight"] == f"{study.chosen.bits_per_weight:.3f}"
    assert metrics(at)["SQNR of the output, median token"] == f"{study.chosen.token_sqnr_db:.2f} dB"
    assert metrics(at)["SQNR of the whole output"] == f"{study.chosen.output_sqnr_db:.2f} dB"


def test_outliers(tiny_model_dir: Path) -> None:
    at = open_page("3_Outliers", model=tiny_model_dir, act="int4", clip="p99", keep=2, text="own text", own=OWN)
    printed = run(at)
    payers, both = (one for one in printed if isinstance(one, tuple))
    assert metrics(at)["Input SQNR, median, shared scale"] == f"{float(payers[0].token_sqnr_db.median()):.1f} dB"
    assert isinstance(both[0], Remedy)
    assert metrics(at)["Output, one scale for all"].startswith(f"{both[0].output_sqnr_db:.1f} dB")


@pytest.mark.parametrize("kind", ["story", "mix"])
def test_static_or_dynamic(kind: str, tiny_model_dir: Path) -> None:
    at = open_page("4_Static_or_dynamic", model=tiny_model_dir, cal=kind, steps=8, freeze="minmax", call=8)
    study = one_of(run(at), RangeStudy)
    assert metrics(at)["Median token, min-max"] == f"{study.static[0].token_sqnr_db:.1f} dB"
    assert metrics(at)["Median token, dynamic per token"] == f"{study.others.token.token_sqnr_db:.1f} dB"


@pytest.mark.parametrize(
    ("a", "b"),
    [
        ("w:int4/channel", "w:int8/channel,a:int8/token/dynamic"),
        ("w:int4/channel,a:int8/tensor/static/ema0.3", "w:int3/group32,gptq/actorder=weight"),
    ],
)
def test_layer_lab(a: str, b: str, tiny_model_dir: Path) -> None:
    at = open_page("5_Layer_lab", model=tiny_model_dir, a=a, b=b)
    studies = all_of(run(at), LayerStudy)
    assert [study.scheme for study in studies] == [a, b]
    said = "\n".join(str(one.value) for one in (*at.markdown, *at.table))
    assert all(f"{study.output.sqnr_db:.1f}" in said for study in studies)


def test_layer_lab_that_learned_from_your_text(tiny_model_dir: Path) -> None:
    scheme = "w:int3/group32,a:int8/tensor/static,gptq"
    learned = {"learn_from": OWN_TEXT, "learn_own": OWN, "learn_length": 64, "learn_sequences": 4}
    shown = []
    for more in ({}, learned):
        at = open_page("5_Layer_lab", model=tiny_model_dir, a=scheme, b="w:int8/channel", **more)
        study = all_of(run(at), LayerStudy)[0]
        assert f"{study.output.sqnr_db:.1f}" in "\n".join(str(one.value) for one in (*at.markdown, *at.table))
        shown.append(study.output.sqnr_db)
    assert shown[0] != shown[1]


def test_gptq(tiny_model_dir: Path) -> None:
    at = open_page("6_GPTQ_step_by_step", model=tiny_model_dir, bits=2, group=32, tokens=640, damp=0.1)
    study = one_of(run(at), OrderStudy)
    assert [one.value for one in at.metric] == [
        gptq_words.percent(course.loss / study.power) for course in study.courses
    ]


def test_duel(tiny_model_dir: Path) -> None:
    at = open_page("7_Scheme_duel", model=tiny_model_dir, duel="w:int8/channel\nw:int3/channel", prompt="A lamp")
    printed = run(at)
    reports = one_of(printed, Duel).reports
    assert list(at.table[0].value["KL mean, nats"]) == [shown_kl(text, one.kl) for text, one in reports.items()]
    assert one_of(printed, Written).prompt == "A lamp"


def test_duel_on_the_sidebars_text(tiny_model_dir: Path) -> None:
    link = {"from": "the sidebar's", "text": "code", "duel": "w:int8/channel\nw:int3/channel", "prompt": "A lamp"}
    at = open_page("7_Scheme_duel", model=tiny_model_dir, **link)
    reports = one_of(run(at), Duel).reports
    assert list(at.table[0].value["KL mean, nats"]) == [shown_kl(text, one.kl) for text, one in reports.items()]


@pytest.mark.parametrize("way", ["this layer alone", "everything but it"])
def test_layers(way: str, tiny_model_dir: Path) -> None:
    at = open_page("8_Which_layers_hurt", model=tiny_model_dir, grain="group32", budget=4.0, way=way)
    printed = run(at)
    found, plan, beside = one_of(printed, Sensitivity), one_of(printed, PlannedChoice), one_of(printed, Duel)
    costs = found.alone if way == "this layer alone" else found.all_but
    assert max(values(figure_of(at, "ranking")["figure"]["data"][0]["x"])) == pytest.approx(max(costs.values()))
    assert any(f"it has KL **{beside.reports[str(plan.plan)].kl:.3g}**" in one.value for one in at.markdown)


def test_rules(tiny_model_dir: Path) -> None:
    at = open_page("9_Rules_tested", model=tiny_model_dir, rule="int8-tokens")
    bout = one_of(run(at), RuleResult).bouts[0]
    assert bout.apart is not None
    assert any(f"KL {bout.apart.difference.value:+.3g} nats" in one.value for one in at.markdown)


def test_rules_that_were_not_run_are_not_asked_for(tiny_model_dir: Path) -> None:
    at = open_page("9_Rules_tested", model=tiny_model_dir)
    settle(at)
    code = next(one for one in at.expander if one.label == "Python").code[0].value
    assert re.findall(r"lab\.rule\('([^']+)'", code) == [
        "int4-groups",
        "int8-tokens",
        "static-tensor",
    ]  # those that run without a click


def test_speed_and_memory(tiny_model_dir: Path) -> None:
    at = open_page(
        "10_Speed_and_memory",
        model=tiny_model_dir,
        card="Llama-3-8B",
        batch=3,
        plans="float\nW8A8",
        run="this machine, now",
    )
    printed = run(at)
    cards, speed = all_of(printed, Footprint), one_of(printed, Speed)
    shown = next(one.value for one in at.table if "total GB" in one.value)
    assert list(shown["total GB"]) == [f"{card.total_bytes / 1e9:.3g}" for card in cards]
    assert float(shown["weights GB"].iloc[0]) > float(shown["weights GB"].iloc[-1])
    assert speed.report.shape == (64, 128)  # the tiny model's loudest layer: its times are another measurement


def noted(tiny_model_dir: Path, ask: Callable[[Lab], object]) -> str:
    lab = noting(Lab(str(tiny_model_dir), "cpu"))
    ask(lab)
    return program(lab)


def test_what_goes_without_saying_is_left_out_and_said_once(tiny_model_dir: Path) -> None:
    def ask(lab: Lab) -> None:
        for _ in range(2):
            lab.row("model.layers.1.mlp.down_proj", "w:int4/channel", 1.0)
        lab.row("model.layers.1.mlp.down_proj", scheme="w:int4/channel", share=0.5)
        lab.layers()

    assert noted(tiny_model_dir, ask) == (
        "from quantcore import Lab\n\n"
        f"lab = Lab({str(tiny_model_dir)!r}, 'cpu')\n"
        "print(lab.row('model.layers.1.mlp.down_proj', 'w:int4/channel'))\n"
        "print(lab.row('model.layers.1.mlp.down_proj', 'w:int4/channel', 0.5))"
    )


@pytest.mark.parametrize(
    ("text", "line"),
    [
        (LoadedText("a.txt", ("A lamp. " * 9,)), f"lab.read(LoadedText('a.txt', ('{'A lamp. ' * 9}',)))"),
        (LoadedText("long.jsonl", ("A lamp. " * LONGEST_QUOTE,)), "lab.read('long.jsonl')"),
        (LoadedText("owner/set:a.txt", ("A lamp. " * 9,), "c0ffee"), "lab.read('owner/set:a.txt')"),
    ],
)
def test_an_own_text_is_read_first(text: LoadedText, line: str, tiny_model_dir: Path) -> None:
    code = noted(tiny_model_dir, lambda lab: lab.channels("model.layers.1.mlp.down_proj", f"{lab.read(text)}|1x8"))
    assert line in code.splitlines()
    assert code.splitlines()[-1] == f"print(lab.channels('model.layers.1.mlp.down_proj', 'own:{text.hash}|1x8'))"
