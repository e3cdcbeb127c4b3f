"""Transforms change no function, go the road of whole and streamed models, and are in what is written."""

from pathlib import Path

import pytest
import torch
from torch import Tensor
from transformers import AutoModelForCausalLM

from quantcore.export.checkpoint import export_checkpoint
from quantcore.measure.evaluate import compare
from quantcore.measure.side_by_side import compare_plans
from quantcore.model.held import held
from quantcore.model.loading import LoadedModel
from quantcore.model.streamed import StreamedModel
from quantcore.pipeline.convert import quantize_model
from quantcore.pipeline.parts import parts
from quantcore.pipeline.treated import treated, treated_model, treated_tensors
from quantcore.scheme.plan import Plan
from tests.model.test_experts import made

STATIC = "w:int8/channel,a:int8/tensor/static"
TRANSFORMS = [
    "smooth=0.5", "smooth=0.8/all", "rotate=hadamard", "rotate=random,smooth=0.5", "awq", "rotate=hadamard/r4",
    "smooth=0.5,quip=signed/16", "wush=16",
]  # fmt: skip


@pytest.fixture
def tokens() -> Tensor:
    return torch.randint(3, 250, (4, 24), generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize("words", TRANSFORMS)
def test_the_float_model_says_what_it_said(tiny_lm: LoadedModel, tokens: Tensor, words: str) -> None:
    model = treated(held(tiny_lm), Plan.parse(f"W8A8,{words}"), tokens)
    assert treated_tensors(model)
    with torch.inference_mode():
        before, after = tiny_lm.model(tokens).logits, treated_model(model)(tokens).logits
    assert (after - before).abs().max() < 1e-4 * before.abs().max()


def test_it_tells_how_far_it_is(tiny_lm: LoadedModel, tokens: Tensor) -> None:
    """Block by block, so that who waits can stop it."""
    model, told = treated(held(tiny_lm), Plan.parse("W8A8,smooth=0.5"), tokens), []
    treated_tensors(model, lambda share, doing: told.append((share, doing)))
    count = len(model.blocks)
    assert told == [(place / count, f"transforming {name}") for place, name in enumerate(model.blocks)]


def test_the_loud_channel_is_quieter(tiny_lm: LoadedModel, tokens: Tensor) -> None:
    """The tiny model's channel 7 is 12 times as loud as the others: the norm's gain takes it down."""
    model = treated(held(tiny_lm), Plan.parse("W8A8,smooth=0.9"), tokens)
    found = treated_tensors(model)["model.layers.0.input_layernorm.weight"]
    before = tiny_lm.model.get_parameter("model.layers.0.input_layernorm.weight")
    assert before.abs().argmax() == 7
    assert found[7].abs() / found.abs().median() < 0.5 * before[7].abs() / before.abs().median()


def test_what_is_lost_is_less(tiny_lm: LoadedModel, tokens: Tensor) -> None:
    candidates = {
        text: quantize_model(tiny_lm.model, text, calibration=tokens)[0]
        for text in (STATIC, f"{STATIC},smooth=0.7/all")
    }
    plain, smooth = (one.kl for one in compare(tiny_lm.model, candidates, tokens).reports.values())
    assert smooth < 0.7 * plain


def test_zero_is_none(tiny_lm: LoadedModel, tokens: Tensor) -> None:
    plain, _ = quantize_model(tiny_lm.model, STATIC, calibration=tokens)
    nothing, _ = quantize_model(tiny_lm.model, f"{STATIC},smooth=0", calibration=tokens)
    for name, one in plain.state_dict().items():
        assert torch.equal(one, nothing.state_dict()[name]), name


@pytest.mark.parametrize("words", TRANSFORMS)
def test_whole_and_streamed_take_the_same_codes(
    tiny_lm: LoadedModel, tiny_model_dir: Path, tokens: Tensor, words: str
) -> None:
    plan = f"W4A16,{words},gptq"
    whole = {one.name: one for one in parts(tiny_lm, plan, tokens)}
    for part in parts(StreamedModel(str(tiny_model_dir), "cpu"), plan, tokens):
        other = whole[part.name]
        assert part.treated.keys() == other.treated.keys()
        assert all(torch.equal(one, other.treated[name]) for name, one in part.treated.items())
        assert all(torch.equal(one.codes, other.layers[name].codes) for name, one in part.layers.items())


def test_plans_with_and_without_go_together(tiny_lm: LoadedModel, tokens: Tensor) -> None:
    """Block by block, as for a large model; the figures are those of whole copies."""
    texts = [STATIC, f"{STATIC},smooth=0.7/all", f"{STATIC},rotate=hadamard"]
    walked = compare_plans(tiny_lm, {text: Plan.parse(text) for text in texts}, tokens, tokens).comparison
    copies = {text: quantize_model(tiny_lm.model, text, calibration=tokens)[0] for text in texts}
    for text, report in compare(tiny_lm.model, copies, tokens).reports.items():
        assert walked.reports[text].kl == pytest.approx(report.kl, rel=1e-3)


@pytest.mark.parametrize(
    "plan",
    [
        f"{STATIC},smooth=0.5/all",
        "w:int4/group32,smooth=0.5,gptq",
        "w:int4/group32,rotate=hadamard",
        "w:int4/group32,awq,clip",
    ],
)
def test_transformers_reads_what_is_written(tiny_lm: LoadedModel, tokens: Tensor, plan: str, tmp_path: Path) -> None:
    report = export_checkpoint(tiny_lm, plan, tmp_path / "out", tokens, dtype=torch.float32)
    assert report.logits_apart is not None
    assert report.logits_apart < 1e-5
    quantized, _ = quantize_model(tiny_lm.model, plan, calibration=tokens)
    loaded = AutoModelForCausalLM.from_pretrained(tmp_path / "out", dtype=torch.float32).eval()
    with torch.inference_mode():
        ours, theirs = quantized(tokens).logits, loaded(tokens).logits
    assert (theirs - ours).abs().max() < 1e-3 * ours.abs().max()
    assert torch.allclose(
        loaded.model.layers[0].input_layernorm.weight, quantized.model.layers[0].input_layernorm.weight
    )


def test_a_narrow_checkpoint_loses_nothing_of_the_norms(tiny_lm: LoadedModel, tokens: Tensor) -> None:
    """The tiny model's norms are exact in bfloat16, and so are the smoothed ones."""
    model = treated(held(tiny_lm), Plan.parse("W8A8,smooth=0.5"), tokens)
    norms = {name: one for name, one in treated_tensors(model).items() if "layernorm" in name}
    before = {name: tiny_lm.model.get_parameter(name) for name in norms}
    assert all(torch.equal(one.bfloat16().float(), one) for one in before.values())
    assert all(torch.allclose(one.bfloat16().float(), one, rtol=1e-6) for one in norms.values())


def test_it_needs_text(tiny_lm: LoadedModel) -> None:
    with pytest.raises(ValueError, match="smooth=0.5 looks at what enters the layers, so it needs text"):
        quantize_model(tiny_lm.model, "W8A8,smooth=0.5")


def test_another_alpha_reads_no_text(tiny_lm: LoadedModel, tokens: Tensor) -> None:
    """The largest |x| of each channel are those of the float model: the same scales, without another walk. What someone
    left half way is seen anew."""
    reaches: list[dict[str, Tensor]] = []
    treated_tensors(treated(held(tiny_lm), Plan.parse("W8A8,smooth=0.5/all"), tokens, reaches))
    assert len(reaches) == 2
    plan = Plan.parse("W8A8,smooth=0.8/all")
    wanted = treated_tensors(treated(held(tiny_lm), plan, tokens))
    silence = torch.zeros_like(tokens)
    for known in (reaches, reaches[:1]):
        found = treated_tensors(treated(held(tiny_lm), plan, silence, known))
        assert found.keys() == wanted.keys()
        alike = all(torch.equal(one, found[name]) for name, one in wanted.items())
        assert alike == (known is reaches)


@pytest.mark.parametrize(("kind", "folds"), [("Mixtral", True), ("Llama4Text", False)])
def test_a_router_reads_the_norm_too(kind: str, folds: bool) -> None:
    """Its columns are multiplied with the experts'. Llama 4's router scales what experts read: that norm stays."""
    model, text = made(kind), torch.randint(3, 128, (2, 12))
    model.model.layers[0].post_attention_layernorm.weight[3] = 20.0
    inside = treated(held(model), Plan.parse("W8A8,smooth=0.5"), text)
    changed = treated_tensors(inside)
    assert ("model.layers.0.post_attention_layernorm.weight" in changed) == folds
    assert any(name.endswith(("mlp.gate.weight", "router.weight")) for name in changed) == folds
    with torch.inference_mode():
        before, after = model(text).logits, treated_model(inside)(text).logits
    assert (after - before).abs().max() < 1e-4 * before.abs().max()
