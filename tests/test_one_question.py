"""Browser, command line and notebook ask the same questions, so each finds what another has measured."""

import json
from pathlib import Path
from typing import Any

import pytest
from streamlit.testing.v1 import AppTest

from quantcore import Lab
from quantcore.cli.command import main
from quantcore.measure.duel import Duel
from quantcore.measure.planning import schemes_near
from quantcore.text.reading import CALIBRATE, EVALUATE
from tests.apptest_helpers import errors, new_server, page, settle
from ui import kept

SCHEMES = ["w:int8/channel", "w:int3/channel,gptq", "w:int8/channel,a:int8/tensor/static"]
BUDGET = 4.0
STEPS = schemes_near(BUDGET, ["group32", "channel"])


@pytest.fixture(autouse=True)
def one_home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("QUANT_HOME", str(tmp_path))
    new_server()


@pytest.fixture
def nothing_more_is_measured(monkeypatch: pytest.MonkeyPatch) -> Any:
    """A function after whose call measuring a model fails."""

    def forbid() -> None:
        new_server()  # what the server remembers is gone; the file is there
        for name in ("duel.quantize_model", "sensitivity.quantized_copy", "fisher.quantized_copy"):
            monkeypatch.setattr(f"quantcore.measure.{name}", lambda *_, **__: pytest.fail("was measured again"))

    return forbid


def in_the_shell(capsys: pytest.CaptureFixture[str], *words: Any) -> dict[str, Any]:
    assert main([str(word) for word in words]) == 0
    found: dict[str, Any] = json.loads(capsys.readouterr().out)
    return found


def duel_of_the_shell(capsys: pytest.CaptureFixture[str], model: Path) -> dict[str, float]:
    """KL by scheme."""
    figures = in_the_shell(capsys, "compare", "--model", model, "--schemes", *SCHEMES)["tables"][0]
    rows = [dict(zip(figures["columns"], row, strict=True)) for row in figures["rows"]]
    return {row["text"]: row["KL"] for row in rows}


def duel_of_the_browser(model: Path) -> dict[str, float]:
    at = settle(page("7_Scheme_duel", model=model, duel="\n".join(SCHEMES), prompt="A lamp"))
    assert errors(at) == []
    table = next(one.value for one in at.dataframe if "KL p50" in one.value)
    return dict(zip(table["text"], table["KL"], strict=True))


def duel_of_a_notebook(model: Path) -> dict[str, float]:
    lab = Lab(str(model))
    found: Duel = lab.duel(SCHEMES)
    return {text: report.kl for text, report in found.reports.items()}


def test_a_duel_of_the_shell(
    capsys: pytest.CaptureFixture[str], tiny_model_dir: Path, nothing_more_is_measured: Any
) -> None:
    measured = duel_of_the_shell(capsys, tiny_model_dir)
    nothing_more_is_measured()
    assert duel_of_the_browser(tiny_model_dir) == pytest.approx(measured)
    assert not [key for key in kept.jobs()._jobs if key.startswith("duel")]
    assert duel_of_a_notebook(tiny_model_dir) == pytest.approx(measured)


def test_a_duel_of_the_browser(
    capsys: pytest.CaptureFixture[str], tiny_model_dir: Path, nothing_more_is_measured: Any
) -> None:
    measured = duel_of_the_browser(tiny_model_dir)
    nothing_more_is_measured()
    assert duel_of_the_shell(capsys, tiny_model_dir) == pytest.approx(measured)
    assert duel_of_a_notebook(tiny_model_dir) == pytest.approx(measured)


def test_a_duel_of_a_notebook(
    capsys: pytest.CaptureFixture[str],
    tiny_model_dir: Path,
    nothing_more_is_measured: Any,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """There the model goes by another name: as it is called from its own folder."""
    monkeypatch.chdir(tiny_model_dir.parent)
    measured = duel_of_a_notebook(Path(tiny_model_dir.name))
    nothing_more_is_measured()
    assert duel_of_the_shell(capsys, tiny_model_dir) == pytest.approx(measured)
    assert duel_of_the_browser(tiny_model_dir) == pytest.approx(measured)


def ranked_in_the_browser(model: Path) -> AppTest:
    at = settle(page("8_Which_layers_hurt", model=model, grain="group32", bits=3, budget=BUDGET))
    assert errors(at) == []
    return at


def sensitivity_asked(model: Path) -> tuple[Any, ...]:
    return ("sensitivity", "--model", model, "--estimated", "--schemes", *STEPS, "--budget", BUDGET)


def test_layers_and_a_plan_of_the_shell(
    capsys: pytest.CaptureFixture[str], tiny_model_dir: Path, nothing_more_is_measured: Any
) -> None:
    plan = in_the_shell(capsys, *sensitivity_asked(tiny_model_dir))["plan"]["scheme"]
    in_the_shell(capsys, "sensitivity", "--model", tiny_model_dir, "--schemes", "w:int3/group32")  # the map's
    for tokens in (2560, 16384):  # the page reads more where a little does not decide
        beside = ("--max-tokens", tokens, "--schemes", plan, "w:int3/group32")
        in_the_shell(capsys, "compare", "--model", tiny_model_dir, *beside)
    nothing_more_is_measured()
    at = ranked_in_the_browser(tiny_model_dir)
    assert at.code[0].value == plan
    assert not [job for job in kept.jobs()._jobs.values() if not job.passing]
    assert str(Lab(str(tiny_model_dir)).plan(STEPS, BUDGET).plan) == plan


def test_layers_of_the_browser(
    capsys: pytest.CaptureFixture[str], tiny_model_dir: Path, nothing_more_is_measured: Any
) -> None:
    plan = ranked_in_the_browser(tiny_model_dir).code[0].value
    nothing_more_is_measured()
    assert in_the_shell(capsys, *sensitivity_asked(tiny_model_dir))["plan"]["scheme"] == plan


def test_a_checkpoint_of_the_shell_is_the_browsers_byte_for_byte(
    capsys: pytest.CaptureFixture[str], tiny_model_dir: Path, tmp_path: Path
) -> None:
    scheme = "w:int4/group32,gptq"
    asked = ("quantize", "--model", tiny_model_dir, "--scheme", scheme, "--out", tmp_path / "out")
    files = {one["name"]: one["sha256"] for one in in_the_shell(capsys, *asked)["files"]}
    ours = {one.name: one.sha256 for one in Lab(str(tiny_model_dir)).checkpoint(scheme).files}
    assert ours["model.safetensors"] == files["model.safetensors"]
    folders = {Lab(str(tiny_model_dir)).checkpoint_folder(text) for text in ("W4A16,gptq", "w:int4/group64,gptq")}
    assert len(folders) == 1  # however the same plan is written


def test_what_the_shell_reads_is_what_the_readings_say(
    capsys: pytest.CaptureFixture[str], tiny_model_dir: Path
) -> None:
    said = in_the_shell(capsys, "compare", "--model", tiny_model_dir, "--schemes", "w:int8/channel,gptq")["facts"]
    assert (said["text"]["reading"], said["calibration"]["reading"]) == (str(EVALUATE), str(CALIBRATE))
