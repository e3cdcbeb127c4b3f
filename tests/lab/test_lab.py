"""The lab answers as the engine does when it is asked by hand, once, and keeps a visitor's own text to the visitor."""

import gc
import weakref
from pathlib import Path

import pytest
import torch

from quantcore.lab.bench import LEARNED
from quantcore.lab.house import House, Visit
from quantcore.lab.lab import Lab
from quantcore.measure.duel import duel
from quantcore.measure.store import Store
from quantcore.model.linears import linear_named
from quantcore.model.loading import LoadedModel
from quantcore.pipeline.calibration import calibrate, layer_inputs
from quantcore.pipeline.convert import quantize_model
from quantcore.pipeline.layers import static_qparams
from quantcore.scheme.scheme import Scheme
from quantcore.studies.layer import layer_study
from quantcore.text.files import LoadedText
from quantcore.text.reading import CALIBRATE, EVALUATE, STUDY, Texts

LAYER = "model.layers.1.mlp.down_proj"
DIARY = LoadedText("diary.txt", ("The keeper lit the lamp and wrote of the storm that came in. " * 40,))


@pytest.fixture
def lab(tiny_lm: LoadedModel, tmp_path: Path) -> Lab:
    return Lab(tiny_lm, store=Store(tmp_path))


@pytest.mark.parametrize(
    "scheme", ["w:int4/group32", "w:int4/channel,a:int8/tensor/static/ema0.3", "w:int3/group32,gptq/actorder=weight"]
)
def test_a_layer_is_studied_as_by_hand(lab: Lab, tiny_lm: LoadedModel, scheme: str) -> None:
    chosen, texts = Scheme.parse(scheme), Texts()
    seen = calibrate(tiny_lm.model, CALIBRATE.tokens(tiny_lm, texts), [LAYER], momenta=(0.3,))[LAYER]
    x = layer_inputs(tiny_lm.model, STUDY.tokens(tiny_lm, texts), LAYER).flatten(0, 1)
    static = static_qparams(chosen.activations, seen)
    by_hand = layer_study(linear_named(tiny_lm.model, LAYER), x, chosen, static, seen.hessian)
    found = lab.layer_study(LAYER, scheme)
    assert found.output.sqnr_db == by_hand.output.sqnr_db
    assert found.static_range == by_hand.static_range
    assert lab.layer_study(LAYER, scheme, str(STUDY)) is found  # remembered, however it is asked


def test_the_model_is_loaded_when_it_is_needed_and_once(tiny_model_dir: Path) -> None:
    told: list[str] = []
    lab = Lab(str(tiny_model_dir), "cpu", house=House(after_load=lambda: told.append("loaded")))
    other = lab.for_visitor(Visit())
    assert not lab.is_loaded
    assert lab.loaded is other.loaded
    assert other.is_loaded
    assert told == ["loaded"]
    with pytest.raises(ValueError, match="device 'cuda:99' is not on this machine"):
        Lab("reference", "cuda:99")


def test_what_takes_a_whole_model_tells_how_far_it_is(tiny_model_dir: Path) -> None:
    """Or its job would stand at 0% for as long, and could not be stopped."""
    told: list[str] = []
    lab = Lab(str(tiny_model_dir), "cpu", house=House(step=lambda share, doing: told.append(doing)))
    for ask in (lab.transformed, lab.written_next):
        told.clear()
        ask("W8A8,smooth=0.5")
        assert len(told) >= lab.contents().blocks


def test_of_the_reference_model_a_row_is_read_from_the_file() -> None:
    lab = Lab("reference", "cpu")
    assert lab.row(lab.default_layer(), "w:int4/channel", 0.9).columns == lab.layers()[lab.default_layer()][1]
    assert not lab.is_loaded


def test_a_measurement_can_be_forgotten(lab: Lab) -> None:
    first = lab.dynamic_cost(LAYER, "a:int8/tensor/static")
    assert lab.dynamic_cost(LAYER, "a:int8/tensor/static") is first
    lab.forget(Lab.dynamic_cost, LAYER, "a:int8/tensor/static")
    assert lab.dynamic_cost(LAYER, "a:int8/tensor/static") is not first


def test_a_duel_is_found_by_whoever_asks_next(lab: Lab, tiny_lm: LoadedModel, tmp_path: Path) -> None:
    schemes = ["w:int8/channel", "w:int3/channel"]
    assert lab.kept_duel(schemes) is None
    found = lab.duel(schemes)
    tokens, calibration = (one.tokens(tiny_lm, Texts()) for one in (EVALUATE, CALIBRATE))
    by_hand = duel(tiny_lm, schemes, tokens, calibration, Store(tmp_path))
    assert by_hand.made == found.made  # read from the store, not measured again
    kept = Lab(tiny_lm, store=Store(tmp_path)).kept_duel(["w:int3/channel"])
    assert kept is not None
    assert kept.reports["w:int3/channel"] == found.reports["w:int3/channel"]
    assert lab.kept_schemes([*schemes, "w:int2/channel"]) == tuple(schemes)
    assert lab.kept_duel([*schemes, "w:int2/channel"]) is None


def test_a_rule_is_read_from_the_duels_that_it_needs(lab: Lab) -> None:
    assert lab.kept_rule("int8-channels") is None
    lab.duel(["w:int8/channel", "w:int8/tensor"])
    kept = lab.kept_rule("int8-channels")
    assert kept is not None
    assert kept.verdict == lab.rule("int8-channels").verdict
    with pytest.raises(ValueError, match="no rule is called 'int5'; try int4-groups"):
        lab.rule("int5")


def test_a_plan_stays_within_its_budget(lab: Lab) -> None:
    schemes = ("w:int2/group32", "w:int4/group32", "w:int8/group32")
    found = lab.plan(schemes, 4.0)
    assert found.bits_per_weight <= 4.0 + 1e-5
    assert lab.plan(schemes, 1.0).bits_per_weight == pytest.approx(2.5)  # the smallest scheme, with its scales
    trail = lab.plan_trail(schemes)
    assert [bits for bits, _ in trail] == sorted(bits for bits, _ in trail)
    assert trail[0][0] == pytest.approx(2.5)


def test_kept_costs_are_read_once(
    lab: Lab, tiny_lm: LoadedModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = ("w:int2/group32", "w:int4/group32"), False, "calibration/all|2x64", LEARNED, True
    assert lab.kept_sensitivity(*asked) is None
    measured = lab.sensitivity(*asked)
    later, read = Lab(tiny_lm, store=Store(tmp_path)), list[str]()
    get = Store.get
    monkeypatch.setattr(Store, "get", lambda self, of, *how: (read.append(of.scheme), get(self, of, *how))[1])
    found = later.kept_sensitivity(*asked)
    assert found is not None
    assert found.alone == measured.alone
    assert later.kept_sensitivity(*asked) is found
    assert read == list(asked[0])


def test_both_write_on_as_a_copy_by_hand_does(lab: Lab, tiny_lm: LoadedModel) -> None:
    told: list[float] = []
    written = lab.write_on("w:int2/channel,gptq", "The lamp", 6, progress=lambda share, _: told.append(share))
    copy, _ = quantize_model(tiny_lm.model, "w:int2/channel,gptq", calibration=CALIBRATE.tokens(tiny_lm, Texts()))
    ids = torch.tensor([tiny_lm.tokenizer("The lamp")["input_ids"]])
    with torch.inference_mode():
        first = int(copy(ids, use_cache=False).logits[0, -1].argmax())
    assert written.tokens_hat[0] == first
    assert told == sorted(told)
    assert told[-1] == 1


def test_what_is_made_of_an_own_text_is_the_visitors_alone(lab: Lab) -> None:
    ann, bob = lab.for_visitor(Visit()), lab.for_visitor(Visit())
    source = ann.read(DIARY)
    reading = f"{source}|1x64"
    assert ann.channels(LAYER, reading) is ann.channels(LAYER, reading)
    assert ann.channels(LAYER) is bob.channels(LAYER) is lab.channels(LAYER)  # our text: one answer for all
    for other in (bob, lab):
        with pytest.raises(ValueError, match="is not here .any more."):
            other.channels(LAYER, reading)
    assert ann.store(reading) is not lab.store()
    assert ann.store(str(STUDY)) is lab.store(str(STUDY)) is lab.store()
    seen = weakref.ref(ann.channels(LAYER, reading))
    del ann
    gc.collect()
    assert seen() is None


def test_a_text_can_be_named_by_its_file(lab: Lab, tmp_path: Path) -> None:
    (tmp_path / "diary.txt").write_text(DIARY.joined(), encoding="utf-8")
    source = lab.read(str(tmp_path / "diary.txt"))
    assert source == f"own:{DIARY.hash}"
    facts = lab.text_facts(f"{source}|2x32")
    assert (facts.documents, facts.read, facts.hash) == (1, (2, 32), DIARY.hash)
    assert facts.start == DIARY.joined()[:600]
    assert len(lab.token_texts(f"{source}|2x32")) == 64


def test_a_layer_of_a_transformed_model(lab: Lab) -> None:
    """Smoothing takes from the inputs what it gives to the weights: that is how it says so, in SQNR."""
    scheme = "w:int8/channel,a:int8/tensor/dynamic"
    layer = "model.layers.0.mlp.gate_proj"
    plain, smooth = lab.layer_study(layer, scheme), lab.layer_study(layer, f"{scheme},smooth=0.8")
    assert smooth.input.sqnr_db > plain.input.sqnr_db
    assert smooth.weight.sqnr_db < plain.weight.sqnr_db
    assert smooth.output.sqnr_db > plain.output.sqnr_db
    assert "smooth=0.8" in smooth.scheme
    assert lab.layer_study(layer, f"{scheme},smooth=0").output.sqnr_db == plain.output.sqnr_db
    with pytest.raises(ValueError, match="smooth=0.8 would change it; leave it out"):
        lab.granularity(layer, f"{scheme},smooth=0.8")
