"""Turns of inputs when the model runs: which Linears do, what they gain, and what is refused."""

import pytest
import torch
from torch import Tensor

from quantcore.measure.evaluate import compare
from quantcore.methods.transforms.turn import HadamardTurn
from quantcore.model.held import held
from quantcore.model.loading import LoadedModel
from quantcore.model.turned import turn_of
from quantcore.pipeline.convert import quantize_model
from quantcore.pipeline.parts import parts
from quantcore.pipeline.treated import treated, treated_model
from quantcore.scheme.plan import Plan
from quantcore.scheme.scheme import Scheme


@pytest.fixture
def tokens() -> Tensor:
    return torch.randint(3, 250, (4, 24), generator=torch.Generator().manual_seed(1))


def _turning(model: torch.nn.Module) -> dict[str, int]:
    found = {name: turn_of(one) for name, one in model.named_modules()}
    return {name: turn.block for name, turn in found.items() if turn is not None}


def test_r4_turns_what_r1_and_r2_leave(tiny_lm: LoadedModel, tokens: Tensor) -> None:
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


def test_the_float_model_turns_too(tiny_lm: LoadedModel, tokens: Tensor) -> None:
    model = treated(held(tiny_lm), Plan.parse("W4A4,quip=hadamard"), None)
    assert len(_turning(treated_model(model))) == 14


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
