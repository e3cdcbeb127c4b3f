"""The lab's advice: GPUs by the names that people use, bytes as a checkpoint has them, measured losses and kin's."""

import json
from pathlib import Path

import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM

from quantcore.advice.choice import Advice, frontier
from quantcore.advice.pace import product_ms
from quantcore.cli.command import main
from quantcore.export.promise import promise
from quantcore.lab.advice import HERE, machine_named
from quantcore.lab.lab import Lab
from quantcore.measure.store import Store
from quantcore.model.loading import LoadedModel, load_model
from quantcore.scheme.scheme import Scheme
from quantcore.text.files import LoadedText
from tests.tiny import VOCAB, tiny_tokenizer

FREE = "whatever fits"
LOAD = "2x64,32+16"


@pytest.fixture
def lab(tiny_lm: LoadedModel, tmp_path: Path) -> Lab:
    return Lab(tiny_lm, store=Store(tmp_path))


def test_gpus_by_the_names_that_people_use(lab: Lab) -> None:
    names = {"H100 80GB": "H100 SXM", "H200": "H200", "NVIDIA GeForce RTX 4090": "RTX 4090", "A100 80GB": "A100 80GB"}
    names |= {"rtx5090": "RTX 5090", "h100-pcie": "H100 PCIe", "geforce rtx 4060 ti": "RTX 4060 Ti 16GB"}
    assert {asked: machine_named(lab, asked).name for asked in names} == names
    here = machine_named(lab, HERE)
    assert here.measured
    assert here.memory_gb is None or here.memory_gb > 0.5
    with pytest.raises(ValueError, match="'a100' may be any of A100 40GB, A100 80GB PCIe, A100 80GB; name one"):
        machine_named(lab, "a100")
    for asked in ("???", " "):
        with pytest.raises(ValueError, match="no GPU of the table is called"):
            machine_named(lab, asked)
    for asked in ("2x H100", "4 × RTX 4090"):
        with pytest.raises(
            ValueError, match=r"is a GPU and how many of it; name '(H100|RTX 4090)', and [24] as how many"
        ):
            machine_named(lab, asked)
    with pytest.raises(ValueError, match="no GPU of the table is called 'Voodoo 2'; it has T4.*or cpu"):
        lab.advise("Voodoo 2")


def test_bytes_are_those_of_the_checkpoint_and_of_16_bits_where_it_has_32(lab: Lab) -> None:
    """The tiny model's own numbers need 32 bits, a server takes 16: of its 16-bit checkpoint half the bytes."""
    found = lab.advise(load=LOAD, goal="memory", tolerance=FREE)
    kept = lab.promise("float")
    assert kept.dtype == "float32"
    for one in found.verdicts:
        assert one.memory.weights == promise(lab.model, one.candidate.text, torch.bfloat16).bytes
        assert one.candidate.text != "float" or one.memory.weights == kept.bytes // 2
        assert one.loss is None or not one.loss.own or one.loss.kl == 0


@pytest.fixture(scope="module")
def smol_lm(tmp_path_factory: pytest.TempPathFactory) -> LoadedModel:
    """Blocks of SmolLM2-135M's shapes (576 wide, 9 heads, 3 of them for keys and values, FFN 1536), one of its 30, made
    weights, the tests' own tokens."""
    config = LlamaConfig(
        vocab_size=VOCAB, hidden_size=576, intermediate_size=1536, num_hidden_layers=1, num_attention_heads=9,
        num_key_value_heads=3, max_position_embeddings=256, tie_word_embeddings=True,
    )  # fmt: skip
    torch.manual_seed(3)
    folder = tmp_path_factory.mktemp("smol")
    LlamaForCausalLM(config).save_pretrained(folder)
    tiny_tokenizer().save_pretrained(folder)
    return load_model(str(folder), "cpu")


@pytest.mark.parametrize(("model", "goal"), [("tiny_lm", "memory"), ("smol_lm", "throughput")])
def test_what_is_advised_after_a_trial_is_on_the_frontier_of_an_exhaustive_duel(
    model: str, goal: str, request: pytest.FixtureRequest, tmp_path: Path
) -> None:
    """Every candidate that runs is measured on the whole text; none beats the advised one in bytes, time and loss."""
    lab = Lab(request.getfixturevalue(model), store=Store(tmp_path))
    own = lab.read(LoadedText("own", ("the cat sat on the mat and saw " * 60,)))
    reading, learned = f"{own}|6x24", f"{own}|4x24"
    asked = ("H100 SXM", 1, LOAD, goal, FREE)
    heard: list[Advice] = []
    found = lab.tried(*asked, reading, learned, so_far=heard.append)
    assert heard
    assert all(one.chosen for one in heard)
    assert found.chosen is not None
    assert found.chosen.loss is not None
    assert found.chosen.loss.own
    assert model != "smol_lm" or "FP8_BLOCK" not in {one.candidate.name for one in found.verdicts}  # 576 = 4.5 x 128
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


def test_what_no_plan_can_be_made_of(lab: Lab) -> None:
    with pytest.raises(ValueError, match="there is no scheme to measure; give at least one"):
        lab.sensitivity([])
    with pytest.raises(ValueError, match="there is no scheme to choose from; give at least one"):
        lab.plan_in_time((), 1)
    for question in (lab.uniform_ms, lab.trail_in_time):
        with pytest.raises(ValueError, match="sequences=0 is no load; give at least 1"):
            question(("w:int8/channel",), "H100 SXM", 0)


def test_a_presets_time_is_that_of_the_models_own_groups(lab: Lab) -> None:
    """Widths of 64 here, so groups of 64."""
    assert lab.uniform_ms(("W8A16",)) == {"W8A16": lab.uniform_ms(("w:int8/group64",))["w:int8/group64"]}


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
    asked = few + 0.6 * (many - few)  # one block of two takes half of it, but for rounding
    middle = lab.plan_in_time(schemes, asked, "H100 SXM", 8, *read)
    assert middle.ms <= asked
    assert len(set(middle.chosen.choice.values())) == 2
    assert len({middle.chosen.choice[f"model.layers.0.self_attn.{part}_proj"] for part in "qkv"}) == 1
    with pytest.raises(ValueError, match=r"a budget of 1e-06 ms on H100 SXM cannot be met: .* raise the budget"):
        lab.plan_in_time(schemes, 1e-6, "H100 SXM", 8, *read)
