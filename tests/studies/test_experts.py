"""Load and damage of a mixture's experts, by hand and on a mixture."""

from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from benchmarks.zoo_models import build
from quantcore.lab.lab import Lab
from quantcore.lab.report import duel_document
from quantcore.measure.duel import duel
from quantcore.measure.store import Store
from quantcore.model.loading import LoadedModel
from quantcore.pipeline.convert import quantize_model
from quantcore.pipeline.layers import LayerReport
from quantcore.studies.experts import ExpertStudy, expert_load, expert_study, has_experts, tokens_by_expert
from quantcore.text.files import LoadedText
from tests.model.test_experts import KINDS, made
from tests.tiny import tiny_tokenizer
from ui.figures import experts as figures
from ui.words import experts as words


def report(expert: int, part: str, db: float | None, tokens: int | None = None) -> LayerReport:
    name = f"model.layers.3.mlp.experts.{expert}.{part}"
    return LayerReport(name, (4, 8), "w:int4/channel", 4.0, 1, 20.0, db, 0.0, tokens=tokens)


@pytest.fixture
def study() -> ExpertStudy:
    """Block 3 has three experts: of 16 tokens they get 12, 8 and 0; the second learns from 5."""
    reports = [
        report(0, "up", 30.0, 40),
        report(0, "down", 21.0, 40),
        report(1, "up", 18.5, 5),
        report(2, "up", None, 0),
    ]
    load = {"model.layers.3.mlp.experts": [12, 8, 0]}
    return expert_study(
        "w:int4/channel", load, [*reports, LayerReport("model.layers.3.q", (4, 4), "", 4, 1, 1, 1, 0)], 16
    )


def test_by_hand(study: ExpertStudy) -> None:
    assert (study.blocks, study.experts, study.columns) == ((3,), 3, 8)
    assert study.tokens == ((12, 8, 0),)
    assert study.damage_db == ((21.0, 18.5, None),)  # the worst of each expert's layers
    assert study.learned == ((40, 5, 0),)
    assert study.scarce() == [(3, 2, 0), (3, 1, 5)]  # fewer than 8 columns
    assert study.records()[1] == {
        "block": 3, "expert": 1, "tokens read": 8, "share of the text": 0.5, "tokens learned from": 5,
        "least output SQNR, dB": 18.5,
    }  # fmt: skip


def test_words_and_maps(study: ExpertStudy) -> None:
    assert (
        "expert 0 of block 3 is given most, **12** (75.0%), and expert 2 of block 3 least, **0** (0.0%)"
        in words.load(study)
    )
    assert "an even router would give each 41.7%" in words.load(study)  # 20 choices, 3 experts, 16 tokens
    assert words.load(study).endswith("1 of 3 experts are given none.")
    assert "Expert 1 of block 3 loses most, **18.5 dB** are left; expert 0 of block 3 least" in words.damage(study)
    assert "8 columns of their weights: block 3 expert 2 (0), block 3 expert 1 (5)." in words.scarce(study)
    load, damage = (figure.data[0] for figure in (figures.load_map(study), figures.damage_map(study)))
    assert load.z.tolist() == [[12, 8, 0]]
    assert damage.z.tolist()[0][:2] == [21.0, 18.5]
    assert load.text[0][0] == "block 3, expert 0<br>12 tokens, 75.0% of the text"
    assert load.text[0][2] == damage.text[0][2] == "block 3, expert 2<br>no token reached it"


def test_the_load_is_the_routers(tmp_path: Path) -> None:
    lm = LoadedModel("mixture", made("Mixtral"), tiny_tokenizer(), torch.device("cpu"))
    tokens = torch.randint(3, 128, (4, 20))
    load = expert_load(lm.model, tokens)
    assert [sum(row) for row in load.values()] == [160, 160]  # two experts a token
    _, reports = quantize_model(lm.model, "w:int4/group16,gptq", calibration=tokens)
    first = "model.layers.0.mlp.experts"
    assert [tokens_by_expert(reports)[first][one] for one in range(4)] == load[first]
    found = duel(lm, ("w:int4/group16,gptq", "w:int8/channel"), tokens, tokens, Store(tmp_path / "s.sqlite"))
    tables = {one.title: one for one in duel_document(found, {}).tables}
    table = next(one for title, one in tables.items() if title.startswith("Calibration tokens of each expert"))
    assert table.rows[0] == (first, *load[first])
    assert sum(title.startswith("Calibration tokens") for title in tables) == 1  # rounding learns from no text


def test_the_whole_models_bits_come_first(tmp_path: Path) -> None:
    """Experts float: their 16 bits count in what the model weighs, not in what is quantized."""
    lm = LoadedModel("mixture", made("Mixtral"), tiny_tokenizer(), torch.device("cpu"))
    tokens = torch.randint(3, 128, (4, 20))
    found = duel(lm, ("w:int4/channel,skip=experts,skip=lm_head",), tokens, tokens, Store(tmp_path / "s.sqlite"))
    (figures_,) = found.reports.values()
    numbers = sum(one.numel() for one in lm.model.parameters())
    assert figures_.model_bits == pytest.approx(8 * figures_.bytes / numbers)
    assert figures_.bits_per_weight < 5 < 13 < figures_.model_bits
    columns = next(one for one in duel_document(found, {}).tables if one.title == "Figures").columns
    assert columns.index("bits a number") < columns.index("bits a weight")


def test_the_lab_answers_and_refuses(tiny_lm: LoadedModel) -> None:
    with pytest.raises(ValueError, match="has no experts; this question is one of mixtures"):
        Lab(tiny_lm).experts("W4A16")
    assert not has_experts(Lab(tiny_lm).layers())
    lm = LoadedModel("mixture", made("Mixtral"), SimpleNamespace(), torch.device("cpu"))
    with pytest.raises(ValueError, match="leaves all experts float; take skip=experts out"):
        Lab(lm).experts("w:int4/channel,skip=experts")
    with pytest.raises(ValueError, match="what experts take depends on how many of them a step touches"):
        Lab(lm).plan_in_time(("w:int4/channel",), 1)
    with pytest.raises(ValueError, match="what experts take depends on how many of them a step touches"):
        Lab(lm).trail_in_time(("w:int4/channel",))
    assert KINDS


def test_a_preset_has_the_models_own_groups() -> None:
    lab = Lab(LoadedModel("mixture", build("mixtral"), tiny_tokenizer(), torch.device("cpu")))
    read = str(lab.read(LoadedText("own", ("the cat sat on the mat and saw " * 20,))))
    assert lab.grain != "group128"
    assert lab.experts("W4A16", f"{read}|2x20").scheme == f"w:int4/{lab.grain}"
