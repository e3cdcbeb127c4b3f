"""The lab's advice: GPUs by the names that people use, bytes as a checkpoint has them, measured losses and kin's."""

import json
from pathlib import Path

import pytest

from quantcore.advice.choice import Advice, frontier
from quantcore.advice.pace import product_ms
from quantcore.cli.command import main
from quantcore.lab.advice import HERE, machine_named
from quantcore.lab.lab import Lab
from quantcore.measure.store import Store
from quantcore.model.loading import LoadedModel
from quantcore.scheme.scheme import Scheme
from quantcore.text.files import LoadedText

FREE = "whatever fits"
LOAD = "2x64,32+16"


@pytest.fixture
def lab(tiny_lm: LoadedModel, tmp_path: Path) -> Lab:
    return Lab(tiny_lm, store=Store(tmp_path))


def test_gpus_by_the_names_that_people_use(lab: Lab) -> None:
    names = {"H100 80GB": "H100 SXM", "H200": "H200", "NVIDIA GeForce RTX 4090": "RTX 4090", "A100 80GB": "A100 80GB"}
    assert {asked: machine_named(lab, asked).name for asked in names} == names
    here = machine_named(lab, HERE)
    assert here.measured
    assert here.memory_gb is None or here.memory_gb > 0.5
    with pytest.raises(ValueError, match="no GPU of the table is called 'Voodoo 2'; it has T4.*or cpu"):
        lab.advise("Voodoo 2")


def test_bytes_are_those_of_the_checkpoint(lab: Lab) -> None:
    found = lab.advise(load=LOAD, goal="memory", tolerance=FREE)
    for one in found.verdicts:
        assert one.memory.weights == lab.promise(one.candidate.text).bytes
        assert one.loss is None or not one.loss.own or one.loss.kl == 0


def test_what_is_advised_after_a_trial_is_on_the_frontier_of_an_exhaustive_duel(lab: Lab) -> None:
    """Every candidate that runs is measured on the whole text; none beats the advised one in bytes, time and loss."""
    own = lab.read(LoadedText("own", ("the cat sat on the mat and saw " * 60,)))
    reading, learned = f"{own}|6x24", f"{own}|4x24"
    asked = ("H100 SXM", 1, LOAD, "memory", FREE)
    heard: list[Advice] = []
    found = lab.tried(*asked, reading, learned, so_far=heard.append)
    assert heard
    assert all(one.chosen for one in heard)
    assert found.chosen is not None
    assert found.chosen.loss is not None
    assert found.chosen.loss.own
    able = [one.candidate.text for one in found.verdicts if one.time and one.candidate.text != "float"]
    whole = lab.duel(able, reading, learned)
    again = lab.advise(*asked, reading=reading, calibration=learned)  # from what is kept by now
    assert all(one.loss and one.loss.own for one in again.verdicts if one.candidate.text in able)
    front = {one.candidate.text for one in frontier([one for one in again.verdicts if not one.closed])}
    assert found.chosen.candidate.text in front
    assert {text: whole.reports[text].kl for text in able} == {
        one.candidate.text: pytest.approx(one.loss.kl)
        for one in again.verdicts
        if one.loss and one.candidate.text in able
    }


def test_the_verb_says_the_same(capsys: pytest.CaptureFixture[str]) -> None:
    line = ["advise", "--model", "Llama-3.2-3B", "--gpu", "L4", "--sequences", "2", "--goal", "latency"]
    assert main([*line, "--tolerance", FREE]) == 0
    said = json.loads(capsys.readouterr().out)
    lab = Lab("reference", "cpu")
    found = lab.advise("L4", 1, "2x8192,1024+256", "latency", FREE, "Llama-3.2-3B")
    assert found.chosen is not None
    assert said["chosen"]["candidate"]["text"] == found.chosen.candidate.text
    assert [one["why"] for one in said["verdicts"]] == [one.why for one in found.verdicts]
    assert main(["advise", "--gpu", "Voodoo 2"]) == 2
    assert "no GPU of the table" in capsys.readouterr().err


def test_a_plan_within_milliseconds(lab: Lab) -> None:
    """Between what a scale a row and scales of groups take: no slower than asked, of both, q, k and v alike."""
    own = lab.read(LoadedText("own", ("the cat sat on the mat and saw " * 60,)))
    schemes, read = ("w:int8/channel", "w:int8/group16"), (f"{own}|4x24", f"{own}|4x24")
    wide = lab.plan_in_time(schemes, 1e3, "H100 SXM", 8, *read)
    assert "w:int8/group16" in wide.chosen.choice.values()
    few, many = (wide.uniform_ms[text] for text in schemes)
    machine = machine_named(lab, "H100 SXM")
    joined = {"q_proj": 64 + 2 * 32, "o_proj": 64, "gate_proj": 256, "down_proj": 64}
    widths = {"down_proj": 128}
    eight = Scheme.parse(schemes[1])
    by_hand = sum(product_ms(eight, (rows, widths.get(name, 64)), 8, machine) for name, rows in joined.items())
    assert many == pytest.approx(2 * by_hand)
    assert few < many
    middle = lab.plan_in_time(schemes, (few + many) / 2, "H100 SXM", 8, *read)
    assert middle.ms <= (few + many) / 2
    assert len(set(middle.chosen.choice.values())) == 2
    assert len({middle.chosen.choice[f"model.layers.0.self_attn.{part}_proj"] for part in "qkv"}) == 1
    with pytest.raises(ValueError, match=r"a budget of 1e-06 ms on H100 SXM cannot be met: .* raise the budget"):
        lab.plan_in_time(schemes, 1e-6, "H100 SXM", 8, *read)
