"""What blocks keep of a token: as many numbers as transformers' own cache holds behind a run."""

from typing import Any

import pytest
import torch
from torch import nn
from transformers import (
    BloomConfig,
    BloomForCausalLM,
    FalconConfig,
    FalconForCausalLM,
    GPT2Config,
    GPT2LMHeadModel,
    LlamaConfig,
    LlamaForCausalLM,
    MambaConfig,
    MambaForCausalLM,
    MptConfig,
    MptForCausalLM,
    Phi3Config,
    Phi3ForCausalLM,
)

from quantcore.model.token_cache import caches_of

SMALL = {"vocab_size": 64, "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "pad_token_id": 0}
GROUPED = {**SMALL, "num_key_value_heads": 2, "intermediate_size": 64}
MADE = {
    "grouped heads": (LlamaForCausalLM, LlamaConfig(**GROUPED, head_dim=16)),
    "fused, grouped heads": (Phi3ForCausalLM, Phi3Config(**GROUPED)),
    "fused, one head for all queries": (FalconForCausalLM, FalconConfig(**SMALL)),
    "fused, as many heads": (BloomForCausalLM, BloomConfig(vocab_size=64, hidden_size=32, n_layer=2, n_head=4)),
    "a Conv1D": (GPT2LMHeadModel, GPT2Config(vocab_size=64, n_embd=32, n_layer=2, n_head=4)),
    "Wqkv": (MptForCausalLM, MptConfig(vocab_size=64, d_model=32, n_layers=2, n_heads=4)),
}


@pytest.mark.parametrize("name", MADE)
def test_as_many_numbers_as_transformers_keeps(name: str) -> None:
    kind, config = MADE[name]
    model: Any = kind(config).eval()
    with torch.no_grad():
        kept = model(torch.arange(1, 8)[None], use_cache=True).past_key_values
    held = [layer.keys.numel() + layer.values.numel() for layer in kept.layers]
    assert [7 * one.numbers for one in caches_of(name, model)] == held


def test_what_cannot_be_told() -> None:
    config = MambaConfig(vocab_size=64, hidden_size=32, num_hidden_layers=1, state_size=4)
    mamba: nn.Module = MambaForCausalLM(config)
    with pytest.raises(ValueError, match="mine keeps a state whose size is not known here; name another model"):
        caches_of("mine", mamba)
