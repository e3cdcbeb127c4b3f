"""Turns of inputs when the model runs: which Linears do, what they gain, and what is refused."""

import pytest
import torch
from torch import Tensor

from quantcore.measure.evaluate import compare
from quantcore.methods.transforms.turn import HadamardTurn
from quantcore.model.experts import Experts
from quantcore.model.held import held
from quantcore.model.loading import LoadedModel
from quantcore.model.turned import turn_of
from quantcore.pipeline.blocks import BlockWalk
from quantcore.pipeline.convert import quantize_model
from quantcore.pipeline.hessians import hessians_of
from quantcore.pipeline.parts import parts
from quantcore.pipeline.treated import treated, treated_model
from quantcore.scheme.plan import Plan
from quantcore.scheme.scheme import Scheme
from tests.model.test_experts import made


@pytest.fixture
def tokens() -> Tensor:
    return torch.randint(3, 250, (4, 24), generator=torch.Generator().manual_seed(1))


def _turning(model: torch.nn.Module) -> dict[str, int]:
    found = {name: turn_of(one) for name, one in model.named_modules()}
    return {name: turn.block for name, turn in found.items() if turn is not None}


def test_r4_turns_what_r1_and_r2_leave(tiny_lm: LoadedModel) -> None:
    """down_proj of both blocks, its 96 channels by blocks of 32; quip turns all that is quantized, and nothing else."""
    quantized, _ = quantize_model(tiny_lm.model, "W4A4,rotate=hadamard/r4")
    shape = tiny_lm.model.model.layers[0].mlp.down_proj.weight.shape[1]
    width = shape & -shape
    assert _turning(quantized) == {f"model.layers.{block}.mlp.down_proj": width for block in (0, 1)}
    every, _ = quantize_model(tiny_lm.model, "W4A4,quip=hadamard/16,skip=lm_head,skip=q_proj")
    assert len(_turning(every)) == 12
    assert not any(name.endswith("q_proj") for name in _turning(every))
    assert _turning(tiny_lm.model) == {}


@pytest.mark.parametrize("words", ["quip=hadamard", "wush=16"])
def test_a_loud_channel_costs_less(tiny_lm: LoadedModel, tokens: Tensor, words: str) -> None:
    """What enters the norms' readers has a channel 12 times as loud as the others: under one scale a token it takes
    nearly all of 4 bits."""
    plain = "w:int8/channel,a:int4/token/dynamic"
    texts = [plain, f"{plain},{words}"]
    copies = {text: quantize_model(tiny_lm.model, text, calibration=tokens)[0] for text in texts}
    before, after = (one.kl for one in compare(tiny_lm.model, copies, tokens).reports.values())
    assert after < 0.6 * before


def test_reports_compare_the_same_inputs(tiny_lm: LoadedModel, tokens: Tensor) -> None:
    """With codes of 8 bits a turned layer says what the float layer says: its inputs are turned once, not twice."""
    _, reports = quantize_model(tiny_lm.model, "W8A8,quip=hadamard", tokens)
    assert all(one.output_sqnr_db is not None and one.output_sqnr_db > 30 for one in reports)


def test_matrices_of_a_turn_are_told(tiny_lm: LoadedModel, tokens: Tensor) -> None:
    """q_proj reads 64 channels: 4 blocks of 16 x 16 float32 are 4,096 bytes; Hadamard's matrix takes none."""
    _, wush = quantize_model(tiny_lm.model, "w:int8/channel,wush=16", calibration=tokens)
    _, quip = quantize_model(tiny_lm.model, "w:int8/channel,quip=hadamard/16")
    one, other = (next(row for row in rows if row.name.endswith("0.self_attn.q_proj")) for rows in (wush, quip))
    assert one.notes[0].startswith("matrices of 4,096 bytes turn its inputs when the model runs")
    assert one.held_bytes == other.held_bytes + 4096
    assert other.notes == ()


def test_layers_of_one_input_are_solved_together(tiny_lm: LoadedModel, tokens: Tensor) -> None:
    """q, k, v read one turned tensor: the same codes as with sums of their own."""
    plan = Plan.parse("w:int4/group16,quip=hadamard/16,gptq")
    for part in parts(tiny_lm, plan, tokens):
        if part.name:
            turns = {turn_of(layer) for layer in part.layers.values()}
            assert len(turns) == 1
            assert isinstance(turns.pop(), HadamardTurn)


def test_the_float_model_turns_too(tiny_lm: LoadedModel) -> None:
    model = treated(held(tiny_lm), Plan.parse("W4A4,quip=hadamard"), None)
    assert len(_turning(treated_model(model))) == 14


@pytest.mark.parametrize(("kind", "words"), [("Qwen2Moe", "rotate=hadamard/r4"), ("GptOss", "quip=hadamard/16")])
def test_experts_turn_and_say_what_they_said(kind: str, words: str) -> None:
    """R1 turns what a router reads, too, and R2 no expert, whose 16 channels might be two heads; R4 turns what enters
    each expert's last Linear, quip every input."""
    model, text = made(kind), torch.randint(3, 128, (2, 12))
    floats = treated_model(treated(held(model), Plan.parse(f"W4A4,{words}"), None))
    turning = {name: block for name, block in _turning(floats).items() if ".experts." in name}
    assert set(turning.values()) == {16}
    assert len(turning) == 2 * 4 * (1 if words.startswith("rotate") else 3)
    with torch.inference_mode():
        before, after = model(text).logits, floats(text).logits
    assert (after - before).abs().max() < 1e-4 * before.abs().max()


def test_experts_at_once_turn_as_one_by_one(monkeypatch: pytest.MonkeyPatch) -> None:
    """What a GPU does: all experts in one product, their inputs turned before it, and before they are summed."""
    plan = Plan.parse("W4A4,quip=hadamard")
    model = treated_model(treated(held(made("Mixtral")), plan, None)).to(torch.bfloat16)
    text, inside = torch.randint(3, 128, (2, 12)), held(model)
    block, place = inside.blocks[0], "model.layers.0.mlp.experts"
    wanted = [name for name in _turning(model) if name.startswith(place)]

    def seen() -> list[Tensor]:
        module = model.get_submodule(block)
        found = hessians_of(module, block, wanted, BlockWalk(inside, text))
        return [one.hessian for one in sorted(found, key=lambda one: min(one.layers))]

    with torch.inference_mode():
        alone, sums = model(text).logits, seen()
        monkeypatch.setattr(Experts, "_goes_grouped", lambda *_: True)
        together, at_once = model(text).logits, seen()
    assert (together - alone).abs().max() < 0.03 * alone.abs().max()
    assert len(sums) == len(at_once) == 8
    for one, other in zip(sums, at_once, strict=True):
        assert (one - other).abs().max() < 0.03 * one.abs().max()


def test_experts_that_turn_differently_are_not_multiplied_at_once() -> None:
    floats = treated_model(treated(held(made("Mixtral")), Plan.parse("W4A4,quip=hadamard,skip=w3"), None))
    experts = floats.get_submodule("model.layers.0.mlp.experts")
    assert isinstance(experts, Experts)
    assert experts.turns_by_part() is None  # w1 turns what w3, which reads the same, does not


def test_matrices_of_experts_are_refused() -> None:
    with pytest.raises(ValueError, match="12 of a block's are experts', each with the few tokens .*quip=hadamard"):
        quantize_model(made("Mixtral"), "w:int4/channel,wush=16", calibration=torch.randint(3, 128, (2, 12)))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("W4A4,rotate=random/r4", "/r4 turns by Hadamard's matrices alone, and this is random"),
        ("W4A4,rotate=hadamard/r3", "cannot read 'rotate=hadamard/r3'"),
        ("W4A4,quip=walsh", "quip=walsh is none of hadamard, signed"),
        ("W4A4,quip=hadamard/24", "a block of 24 channels is no power of two"),
        ("W4A4,wush=1", "a block of 1 channels is no power of two"),
        ("W4A4,wush", "cannot read 'wush'; write wush=32"),
        ("W4A4,wush=32,smooth=0.5", "smooth=0.5 and wush=32 both choose the scale"),
        ("W4A4,rotate=hadamard/r4,quip=hadamard", "both turn what enters the same layers"),
    ],
)
def test_what_its_text_refuses(text: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Scheme.parse(text)


def test_what_does_not_fit_is_refused(tiny_lm: LoadedModel) -> None:
    assert Scheme.parse("W4A4,quip=none").transforms == ()
    with pytest.raises(
        ValueError, match="turns 'self_attn.q_proj' by blocks of 128 channels, which do not divide its 64"
    ):
        quantize_model(tiny_lm.model, "w:int4/channel,quip=hadamard/128")
    with pytest.raises(ValueError, match="wush=16 looks at what enters the layers, so it needs text"):
        quantize_model(tiny_lm.model, "w:int4/channel,wush=16")
