"""Labs are kept by what they hold, in bytes: small ones stay beside each other, however many; a large one lets old
ones go."""

from pathlib import Path

import pytest

from quantcore.lab.lab import Lab
from ui.shelf import MOST, Shelf

MB = 10**6


class Weighed(Lab):
    """A lab that says how much it holds."""

    def __init__(self, weight: int) -> None:
        super().__init__(device="cpu")
        self.weight = weight

    @property
    def held_bytes(self) -> int:
        return self.weight


def kept(shelf: Shelf, weights: dict[str, int], *asked: str) -> set[str]:
    """Ask for labs in turn; which of them are there at the end."""
    made: list[str] = []

    def make(model: str, device: str) -> Lab:
        made.append(model)
        return Weighed(weights[model])

    for model in asked:
        shelf.get(model, "cpu", make)
    return {model for model, _ in shelf._labs}


def test_the_oldest_go_when_all_are_too_heavy() -> None:
    weights = {"a": 40 * MB, "b": 40 * MB, "c": 40 * MB}
    assert kept(Shelf(lambda _: 100 * MB), weights, "a", "b") == {"a", "b"}
    assert kept(Shelf(lambda _: 100 * MB), weights, "a", "b", "c") == {"b", "c"}
    assert kept(Shelf(lambda _: 100 * MB), weights, "a", "b", "a", "c") == {"a", "c"}  # asked for again: young again


def test_small_ones_all_stay_and_one_too_large_stays_alone() -> None:
    small = {str(number): MB for number in range(MOST)}
    assert len(kept(Shelf(lambda _: 100 * MB), small, *small)) == MOST
    assert kept(Shelf(lambda _: 100 * MB), {"a": MB, "giant": 500 * MB}, "a", "giant") == {"giant"}


def test_labs_that_weigh_nothing_are_bounded_too() -> None:
    many = {str(number): 0 for number in range(MOST + 3)}
    assert len(kept(Shelf(lambda _: 100 * MB), many, *many)) == MOST


def test_each_device_has_a_share_of_its_own() -> None:
    shelf = Shelf(lambda _: 100 * MB)
    shelf.get("a", "cuda:0", lambda *_: Weighed(90 * MB))
    shelf.get("a", "cpu", lambda *_: Weighed(90 * MB))
    assert len(shelf) == 2


def test_a_lab_weighs_its_weights_and_what_it_remembers(tiny_model_dir: Path) -> None:
    lab = Lab(str(tiny_model_dir), "cpu")
    assert lab.held_bytes == 0
    weights = {one.data_ptr(): one.nbytes for one in lab.model.parameters()}
    loaded = lab.held_bytes
    assert loaded >= sum(weights.values())
    assert loaded == pytest.approx(sum(weights.values()), rel=0.05)  # rotary tables are buffers
    inputs = lab.inputs("model.layers.1.mlp.down_proj", "evaluation/story|1x64")
    assert lab.held_bytes >= loaded + inputs.nbytes
