"""The expander "Python" of every page: the program that stands there runs as it stands and gives the page's numbers."""

import json
from pathlib import Path
from typing import Any

import pytest
from streamlit.testing.v1 import AppTest

from tests.apptest_helpers import figure_of, values
from tests.apptest_helpers import page as open_page
from tests.ui.test_page_duel import settle
from ui import cached
from ui import widgets as controls
from ui.words import gptq as gptq_words

MOST_LINES = 15
OWN = 'He said: "Don\'t {go} out", and lit the lamp. ' * 4


@pytest.fixture(autouse=True)
def own_store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("QUANT_HOME", str(tmp_path))
    cached.store.clear()
    cached.jobs.clear()


def run(at: AppTest, capsys: pytest.CaptureFixture[str]) -> dict[str, Any]:
    """The names that the page's program leaves behind, what it printed as `said`; the page is settled before."""
    settle(at)
    assert not at.error
    code = next(one for one in at.expander if one.label == "Python").code[0].value
    body = [line for line in code.splitlines() if line and not line.startswith(("import ", "from "))]
    assert len(body) <= MOST_LINES
    capsys.readouterr()
    names: dict[str, Any] = {}
    exec(compile(code, "the expander", "exec"), names)
    return {**names, "said": capsys.readouterr().out}


def metric(at: AppTest, label: str) -> str:
    return next(one.value for one in at.metric if one.label == label)


def test_start(tiny_model_dir: Path, capsys: pytest.CaptureFixture[str]) -> None:
    at = open_page("", model=tiny_model_dir, bits=3, prompt='The lamp\'s "light"')
    names = run(at, capsys)
    assert any(f"= **{names['report'].kl:.3g}** nats" in one.value for one in at.markdown)
    assert any(f"**{names['row'].zeros:.1%}** become" in one.value for one in at.markdown)


@pytest.mark.parametrize("of", ["weight", "inputs"])
def test_number_formats(of: str, tiny_model_dir: Path, capsys: pytest.CaptureFixture[str]) -> None:
    at = open_page("1_Number_formats", model=tiny_model_dir, formats=["int4", "int3_asym"], of=of, text="code")
    names = run(at, capsys)
    last = at.dataframe[0].value.iloc[-1]
    assert last["SQNR of the tensor, dB"] == pytest.approx(names["use"].sqnr_db, rel=1e-6)
    assert last["x_hat"] == pytest.approx(names["one"].x_hat)


def test_granularity(tiny_model_dir: Path, capsys: pytest.CaptureFixture[str]) -> None:
    at = open_page("2_Granularity", model=tiny_model_dir, grain="group", group=16, format="int3", symmetric="false")
    study = run(at, capsys)["study"]
    assert metric(at, "Bits per weight") == f"{study.chosen.bits_per_weight:.3f}"
    assert metric(at, "SQNR of the layer's output") == f"{study.chosen.output_sqnr_db:.2f} dB"


def test_outliers(tiny_model_dir: Path, capsys: pytest.CaptureFixture[str]) -> None:
    at = open_page("3_Outliers", model=tiny_model_dir, act="int4", clip="p99", keep=2, text="own text", own=OWN)
    names = run(at, capsys)
    assert metric(at, "Median token, shared scale") == f"{float(names['payers'][0].token_sqnr_db.median()):.1f} dB"
    shown = metric(at, "Output, one scale for all")
    assert shown.startswith(f"{names['remedies'][0].output_sqnr_db:.1f} dB")


@pytest.mark.parametrize("kind", ["story", "mix"])
def test_static_or_dynamic(kind: str, tiny_model_dir: Path, capsys: pytest.CaptureFixture[str]) -> None:
    at = open_page("4_Static_or_dynamic", model=tiny_model_dir, cal=kind, steps=8, freeze="minmax", call=8)
    study = run(at, capsys)["study"]
    assert metric(at, "Median token, min-max") == f"{study.static[0].token_sqnr_db:.1f} dB"
    assert metric(at, "Median token, dynamic per token") == f"{study.others.token.token_sqnr_db:.1f} dB"


@pytest.mark.parametrize(
    ("a", "b"),
    [
        ("w:int4/channel", "w:int8/channel,a:int8/token/dynamic"),
        ("w:int4/channel,a:int8/tensor/static/ema0.3", "w:int3/group32,gptq/actorder=weight"),
    ],
)
def test_layer_lab(a: str, b: str, tiny_model_dir: Path, capsys: pytest.CaptureFixture[str]) -> None:
    at = open_page("5_Layer_lab", model=tiny_model_dir, a=a, b=b)
    names = run(at, capsys)
    said = "\n".join(str(one.value) for one in (*at.markdown, *at.table))
    for line in names["said"].splitlines():
        assert line.split("output ")[1].split(" dB")[0][:-1] in said  # the page shows one digit less
    assert names["text"] == b


def test_layer_lab_that_learned_from_your_text(tiny_model_dir: Path, capsys: pytest.CaptureFixture[str]) -> None:
    scheme = "w:int3/group32,a:int8/tensor/static,gptq"
    learned = {"learn_from": controls.OWN, "learn_own": OWN, "learn_length": 64, "learn_sequences": 4}
    shown = []
    for more in ({}, learned):
        at = open_page("5_Layer_lab", model=tiny_model_dir, a=scheme, b="w:int8/channel", **more)
        names = run(at, capsys)
        said = "\n".join(str(one.value) for one in (*at.markdown, *at.table))
        figure = names["said"].splitlines()[0].split("output ")[1].split(" dB")[0][:-1]
        assert figure in said
        shown.append(figure)
    assert shown[0] != shown[1]


def test_gptq(tiny_model_dir: Path, capsys: pytest.CaptureFixture[str]) -> None:
    at = open_page("6_GPTQ_step_by_step", model=tiny_model_dir, bits=2, group=32, tokens=640, damp=0.1)
    study = run(at, capsys)["study"]
    assert [one.value for one in at.metric] == [
        gptq_words.percent(course.loss / study.power) for course in study.courses
    ]


@pytest.mark.parametrize("own", [False, True])
def test_take_it_with_you(
    own: bool,
    tiny_model_dir: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    learned = {"learn_from": controls.OWN, "learn_own": OWN} if own else {}
    at = open_page("11_Take_it_with_you", model=tiny_model_dir, scheme="w:int4/group32,gptq", **learned)
    monkeypatch.chdir(tmp_path)
    names = run(at, capsys)
    learned_from = f"From {names['report'].calibration_tokens:,} tokens of {'your text' if own else 'our own'}"
    assert any(learned_from in one.value for one in at.caption)
    assert Path("quantize.py").is_file()
    shown = json.dumps([one.value for one in at.markdown])
    assert f"**{names['parts'].bytes / 1e6:.2f} MB**" in shown


def test_duel(tiny_model_dir: Path, capsys: pytest.CaptureFixture[str]) -> None:
    at = open_page("7_Scheme_duel", model=tiny_model_dir, duel="w:int8/channel\nw:int3/channel", prompt="A lamp")
    found = run(at, capsys)["found"]
    shown = at.dataframe[0].value["KL mean, nats"]
    assert list(shown) == [f"{report.kl:.4f}" for report in found.reports.values()]


def test_duel_on_the_sidebars_text(tiny_model_dir: Path, capsys: pytest.CaptureFixture[str]) -> None:
    link = {"from": "the sidebar's", "text": "code", "duel": "w:int8/channel\nw:int3/channel", "prompt": "A lamp"}
    at = open_page("7_Scheme_duel", model=tiny_model_dir, **link)
    found = run(at, capsys)["found"]
    assert list(at.dataframe[0].value["KL mean, nats"]) == [f"{report.kl:.4f}" for report in found.reports.values()]


@pytest.mark.parametrize("way", ["this layer alone", "everything but it"])
def test_layers(way: str, tiny_model_dir: Path, capsys: pytest.CaptureFixture[str]) -> None:
    at = open_page("8_Which_layers_hurt", model=tiny_model_dir, group=32, budget=4.0, way=way)
    names = run(at, capsys)
    assert max(values(figure_of(at, "ranking")["figure"]["data"][0]["x"])) == pytest.approx(
        max(names["costs"].values()), rel=1e-6
    )
    assert any(f"measured **{names['report'].kl:.4g}**" in one.value for one in at.markdown)


def test_rules(tiny_model_dir: Path, capsys: pytest.CaptureFixture[str]) -> None:
    at = open_page("9_Rules_tested", model=tiny_model_dir, rule="int8-tokens")
    result = run(at, capsys)["result"]
    assert any(f"KL {result.bouts[0].difference.value:+.4g} nats" in one.value for one in at.markdown)


def test_speed_and_memory(tiny_model_dir: Path, capsys: pytest.CaptureFixture[str]) -> None:
    at = open_page("10_Speed_and_memory", model=tiny_model_dir, card="Llama-3-8B", batch=3, plans="float\nW8A8")
    names = run(at, capsys)
    shown = next(one.value for one in at.dataframe if "total GB" in one.value)
    assert shown["total GB"].iloc[-1] == round(names["card"].total_bytes / 1e9, 3)
    assert shown["weights GB"].iloc[0] > shown["weights GB"].iloc[-1]
    assert names["report"].shape == (64, 128)  # the tiny model's loudest layer: its times are another measurement
    assert "tokens: " in names["said"]
