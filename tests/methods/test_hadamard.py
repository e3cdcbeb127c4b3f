"""Hadamard matrices of the widths that models have, and random rotations."""

import pytest
import torch

from quantcore.methods.transforms.hadamard import hadamard, has_hadamard, rotation

WIDTHS = [1, 2, 4, 8, 12, 16, 20, 28, 36, 40, 64, 96, 128, 144, 384, 576, 896, 960]


def test_four_by_hand() -> None:
    wanted = [[1, 1, 1, 1], [1, -1, 1, -1], [1, 1, -1, -1], [1, -1, -1, 1]]
    assert hadamard(4).tolist() == wanted


@pytest.mark.parametrize("width", WIDTHS)
def test_it_is_made_of_ones_and_undoes_itself(width: int) -> None:
    found = hadamard(width)
    assert set(found.unique().tolist()) <= {-1, 1}
    assert torch.equal(found, found.T)
    assert torch.equal(found.long() @ found.long(), width * torch.eye(width, dtype=torch.int64))


@pytest.mark.parametrize("width", [2048, 2560, 3072, 3584, 4096, 5120])
def test_wide_models_have_one(width: int) -> None:
    assert has_hadamard(width)
    turned = rotation("hadamard", width)
    x = torch.zeros(width, dtype=torch.float64)
    x[3] = 100.0  # one loud channel
    spread = x @ turned
    assert torch.allclose(spread.abs(), torch.full_like(x, 100 / width**0.5))
    assert torch.allclose(spread @ turned, x)


@pytest.mark.parametrize("width", [3, 6, 92])
def test_a_width_without_one_is_told(width: int) -> None:
    assert not has_hadamard(width)
    with pytest.raises(ValueError, match=f"no Hadamard matrix of width {width} .* use rotate=random"):
        rotation("hadamard", width)


@pytest.mark.parametrize("width", [3, 92])
def test_a_random_rotation_loses_nothing(width: int) -> None:
    turned = rotation("random", width)
    assert torch.allclose(turned @ turned.T, torch.eye(width, dtype=torch.float64))
    assert torch.equal(turned, rotation("random", width))
