"""Turns of a layer's inputs: worked by hand, and that what the layer computes stays."""

import copy

import pytest
import torch
from torch import Tensor, nn

from quantcore.methods.transforms.fwht import turned
from quantcore.methods.transforms.hadamard import factors, hadamard, rotation
from quantcore.methods.transforms.turn import BlockTurn, HadamardTurn, Turn, moments_of, wush_turn
from quantcore.model.turned import turn_inputs, turn_of


def test_an_outlier_becomes_a_plain() -> None:
    """(8, 0, 0, 0) H / 2 = (4, 4, 4, 4); the second block of four is turned by itself."""
    x = torch.tensor([[8.0, 0, 0, 0, 0, 2, 0, 0]])
    assert turned(x, 4).tolist() == [[4, 4, 4, 4, 1, -1, 1, -1]]
    assert torch.equal(turned(turned(x, 4), 4), x)


@pytest.mark.parametrize("width", [1, 2, 16, 12, 24, 80, 28 * 8, 144])
def test_it_is_the_matrix(width: int) -> None:
    x = torch.randn(3, 2, 2 * width, dtype=torch.float64)
    wanted = (x.view(3, 2, 2, width) @ rotation("hadamard", width)).flatten(-2)
    assert torch.allclose(turned(x, width), wanted, atol=1e-12)


def test_the_factors_of_llamas_widths() -> None:
    assert [factors(one) for one in (4096, 14336, 8192)] == [[4096], [64, 224], [8192]]
    with pytest.raises(ValueError, match="no Hadamard matrix of order 11008 is known here"):
        factors(11008)
    with pytest.raises(ValueError, match="blocks of 4 do not divide 6 channels"):
        turned(torch.ones(1, 6), 4)


def _wush(weight: Tensor, x: Tensor) -> Turn:
    return wush_turn(weight, moments_of(x, 8))


@pytest.mark.parametrize("kind", ["hadamard", "signed", "wush"])
def test_what_the_layer_computes_stays(kind: str) -> None:
    torch.manual_seed(0)
    layer, x = nn.Linear(32, 5), torch.randn(2, 40, 32) * torch.logspace(-1, 1, 32)
    turns = {
        "hadamard": HadamardTurn(8),
        "signed": HadamardTurn(16, torch.tensor([1.0, -1.0] * 8)),
        "wush": _wush(layer.weight.detach(), x.flatten(0, 1)),
    }
    with torch.inference_mode():
        said = layer(x)
        other = copy.deepcopy(layer)
        other.weight.data = turns[kind].of_weight(layer.weight).float()
        turn_inputs(other, turns[kind])
        assert torch.allclose(copy.deepcopy(other)(x), said, atol=1e-4)
        assert (other.weight - layer.weight).abs().max() > 0.01
    assert turn_of(copy.deepcopy(other)) is turns[kind]
    assert turn_of(layer) is None
    with pytest.raises(ValueError, match="this layer turns its inputs already"):
        turn_inputs(other, turns[kind])


def test_moments_are_of_each_block_alone() -> None:
    """Columns (1, 2 | 3, 4) of one row: 1 2 4 and 9 12 16, nothing between the blocks."""
    assert moments_of(torch.tensor([[1.0, 2, 3, 4]]), 2).tolist() == [[[1, 2], [2, 4]], [[9, 12], [12, 16]]]


def test_wush_makes_both_sides_equal() -> None:
    """T W^T W T^T = T^-T X^T X T^-1, with a diagonal of one number: spread evenly. Up to the damping of 1%."""
    torch.manual_seed(0)
    x = torch.randn(500, 16, dtype=torch.float64) * torch.logspace(-1, 1, 16, dtype=torch.float64)
    weight = torch.randn(64, 16, dtype=torch.float64)
    turn = _wush(weight, x)
    w_side, x_side = turn.of_weight(weight), turn.of_inputs(x)
    for start in (0, 8):
        ours, theirs = (one[:, start : start + 8].T @ one[:, start : start + 8] for one in (w_side, x_side))
        assert torch.allclose(ours, theirs, atol=0.05 * float(ours.diagonal().mean()))
        assert ours.diagonal().max() < 1.05 * ours.diagonal().min()
    assert torch.allclose(x_side @ w_side.T, x @ weight.T, atol=1e-4)  # the inputs' matrices are float32
    with pytest.raises(ValueError, match="blocks of 8 do not divide 12 channels"):
        moments_of(weight[:, :12], 8)


def test_wush_of_two_equal_channels_by_hand() -> None:
    """W^T W = 2 I, X^T X = 800 I: L = sqrt 2, M = sqrt 800, S = 40 (all with 1% on the diagonal, 40.4), so the inputs
    are multiplied by sqrt(2 / 40) and spread by H = ((1, 1), (1, -1)) / sqrt 2: sqrt(2 / 80) each."""
    weight, hessian = (
        torch.tensor([[1.0, 1.0], [1.0, -1.0]]).double(),
        torch.diag(torch.tensor([800.0, 800.0])).double(),
    )
    turn = wush_turn(weight, hessian[None])
    assert isinstance(turn, BlockTurn)
    found = turn.of_inputs(torch.tensor([[1.0, 0.0]]).double()).abs()[0]
    assert found.tolist() == pytest.approx([0.025**0.5] * 2, rel=1e-6)


def test_layers_that_read_one_tensor_share_what_is_turned() -> None:
    turn, seen = HadamardTurn(4), list[Tensor]()
    layers = [nn.Linear(8, 3) for _ in range(2)]
    for layer in layers:
        turn_inputs(layer, turn)
        layer.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
    x = torch.randn(2, 8)
    for layer in layers:
        layer(x)
    assert seen[0] is seen[1]
    assert torch.equal(seen[0], turned(x, 4))
    layers[0](x + 1)
    assert torch.equal(seen[2], turned(x + 1, 4))
    del seen[2]
    assert turn._last is None  # what entered is gone, and so is what it became


def test_signs_change_the_matrix() -> None:
    signs = torch.tensor([1.0, -1, 1, 1])
    assert torch.equal(HadamardTurn(4, signs).of_inputs(torch.eye(4)), torch.diag(signs) @ hadamard(4).float() / 2)
    with pytest.raises(ValueError, match="no Hadamard matrix of width 6 is known here; turn blocks of a power of two"):
        HadamardTurn(6)
