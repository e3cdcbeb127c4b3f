"""A walk from block to block says what the whole model says, also where blocks see different masks."""

import pytest
import torch
from torch import Tensor, nn
from transformers import Gemma3ForCausalLM, Gemma3TextConfig

from quantcore.blocks import BlockWalk, block_names
from tests.conftest import VOCAB
from tests.test_architectures import tiny


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
    walk = BlockWalk(model, tokens)
    for name in block_names(model):
        walk.run(model.get_submodule(name))  # leaves the hidden states where they are
        walk.advance(model.get_submodule(name))
    assert torch.equal(walk._hidden[0], last_hidden(model, tokens))
