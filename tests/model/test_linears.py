"""What a block is and who shares an input: on modules whose answer is known."""

import torch
from torch import Tensor, nn

from quantcore.model.inputs import shared_inputs
from quantcore.model.layer_names import block_of, measured_together
from quantcore.model.linears import block_names


class Block(nn.Module):
    """Attention and feed-forward side by side: `first` and `third` read one tensor, and `second` runs between them."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.first, self.second, self.third = (nn.Linear(width, width) for _ in range(3))
        self.experts = nn.ModuleList([nn.Linear(width, width) for _ in range(3)])

    def forward(self, x: Tensor) -> Tensor:
        normed = x / x.abs().amax(-1, keepdim=True)
        mixed = self.second(self.first(normed))
        return x + mixed + self.third(normed) + self.experts[1](mixed)


class Towers(nn.Module):
    """A small tower for images that text never enters, and a larger one of blocks with experts."""

    def __init__(self) -> None:
        super().__init__()
        self.vision = nn.ModuleList([nn.Linear(4, 4) for _ in range(3)])
        self.table = nn.Embedding(5, 8)
        self.layers = nn.ModuleList([Block(8) for _ in range(2)])
        self.head = nn.Linear(8, 5)

    def forward(self, tokens: Tensor, use_cache: bool = False) -> Tensor:
        x = self.table(tokens)
        for block in self.layers:
            x = block(x)
        return self.head(x)


def test_blocks_are_the_largest_list() -> None:
    model = Towers()
    assert block_names(model) == ["layers.0", "layers.1"]
    assert block_of("layers.1.experts.0", block_names(model)) == "layers.1"
    assert block_of("vision.1", block_names(model)) is None
    assert block_of("layers.10.first", block_names(model)) is None
    assert block_names(nn.Linear(2, 2)) == []


def test_who_reads_one_tensor_though_others_run_between() -> None:
    with torch.random.fork_rng(devices=[]):
        model = Towers()
    layers = ["layers.0.first", "layers.0.second", "layers.0.third", "layers.0.experts.0", "layers.0.experts.1", "head"]
    assert shared_inputs(model, layers) == {
        **{name: name for name in layers},
        "layers.0.third": "layers.0.first",
    }


def test_experts_of_a_block_are_measured_together() -> None:
    names = ["m.0.q_proj", "m.0.experts.0.up_proj", "m.0.experts.1.up_proj", "m.1.experts.0.up_proj"]
    assert measured_together(names) == {"m.0.q_proj": names[:1], "m.0.experts": names[1:3], "m.1.experts": names[3:]}
