"""A walk from block to block says what the whole model says, also where blocks see different masks."""

import pytest
import torch
from torch import Tensor, nn
from transformers import Gemma3ForCausalLM, Gemma3TextConfig

from benchmarks.zoo_models import build
from quantcore.model.held import held
from quantcore.model.linears import block_names
from quantcore.pipeline.blocks import BlockWalk
from quantcore.pipeline.hessians import hessians_of
from tests.model.test_architectures import tiny
from tests.tiny import VOCAB


def gemma3() -> nn.Module:
    torch.manual_seed(0)
    config = Gemma3TextConfig(
        vocab_size=VOCAB,
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=4,
        num_attention_heads=2,
        num_key_value_heads=1,
        head_dim=16,
        sliding_window=8,
        layer_types=["sliding_attention", "full_attention"] * 2,
        max_position_embeddings=64,
    )
    return Gemma3ForCausalLM(config).eval()


def last_hidden(model: nn.Module, tokens: Tensor) -> Tensor:
    """What enters the norm behind the last block."""
    seen: list[Tensor] = []
    last = model.get_submodule(block_names(model)[-1])
    hook = last.register_forward_hook(lambda _, args, out: seen.append(out[0] if isinstance(out, tuple) else out))
    with torch.inference_mode():
        model(tokens, use_cache=False)
    hook.remove()
    return seen[0]


@pytest.mark.parametrize("kind", ["Gemma3", "Llama", "GPT2", "OPT"])
def test_a_walk_ends_where_the_model_does(kind: str) -> None:
    model = gemma3() if kind == "Gemma3" else tiny(kind)
    tokens = torch.randint(0, model.config.vocab_size, (2, 32), generator=torch.Generator().manual_seed(1))
    walk = BlockWalk(held(model), tokens)
    for name in block_names(model):
        walk.run(model.get_submodule(name))  # leaves the hidden states where they are
        walk.advance(model.get_submodule(name))
    assert torch.equal(walk._states[0], last_hidden(model, tokens))


def test_what_blocks_hand_on_beside_hidden_states_reaches_the_others() -> None:
    """Gemma 3n's last blocks read keys and values that earlier ones wrote into a mapping that the pass shares; of each
    batch its own."""
    model = build("gemma3n_text")
    for block in model.model.layers:
        block.altup.correct_output_scale.fill_(1.0)  # drawn as 0, which hides what the per-layer inputs do
    tokens = torch.randint(3, 400, (2, 32), generator=torch.Generator().manual_seed(1))
    walk = BlockWalk(held(model), tokens, tokens_a_batch=32)
    for name in block_names(model):
        walk.run(model.get_submodule(name))
        walk.advance(model.get_submodule(name))
    for batch, rows in enumerate(tokens):
        assert torch.equal(walk._states[batch], last_hidden(model, rows[None]))


class _Choosy(nn.Module):
    """`always` reads everything; `rare` and `late` only a batch whose first number says so; `behind` is nobody's."""

    def __init__(self) -> None:
        super().__init__()
        self.always, self.rare, self.late, self.behind = (nn.Linear(4, 4) for _ in range(4))
        self.ran_behind = 0

    def forward(self, x: Tensor) -> Tensor:
        self.always(x)
        if x[0, 0] > 0:
            self.rare(2 * x)
        if x[0, 0] > 1:
            self.late(3 * x)
        self.ran_behind += 1
        return self.behind(x)


class _Batches:
    """A walk over given inputs."""

    def __init__(self, batches: list[Tensor]) -> None:
        self._batches = batches

    def _output(self, block: nn.Module, index: int) -> Tensor:
        return block(self._batches[index])

    running = BlockWalk.running


@pytest.mark.parametrize(("first", "passes"), [(2.0, 2), (1.0, 3)])
def test_a_pass_stops_where_all_has_been_seen_and_not_before(first: float, passes: int) -> None:
    """The first batch that calls each layer once runs to its end, a later one that calls them all stops behind the
    last; one that calls two of the three, as the third does, runs to its end."""
    block = _Choosy()
    batches = [torch.randn(5, 4, generator=torch.Generator().manual_seed(i)) for i in range(4)]
    for batch, mark in zip(batches, (first, 2.0, 1.0, 2.0), strict=True):
        batch[0, 0] = mark
    found = hessians_of(block, "b", [f"b.{name}" for name in ("always", "rare", "late")], _Batches(batches))  # type: ignore[arg-type]
    sums = {name: total for total, together, *_ in found for name in together}
    for times, (name, least) in enumerate((("always", -9.0), ("rare", 0.0), ("late", 1.0)), 1):
        read = torch.cat([batch for batch in batches if batch[0, 0] > least])
        assert torch.allclose(sums[f"b.{name}"], times**2 * read.T @ read, rtol=1e-5)
    assert block.ran_behind == passes
