"""Which channels can be scaled and scaled back is found by running a block, whatever its parts are called."""

from typing import Any

import pytest
import torch
from torch import Tensor, nn
from transformers import GemmaConfig, GemmaForCausalLM, GPT2Config, GPT2LMHeadModel, OPTConfig, OPTForCausalLM

from quantcore.model.held import held
from quantcore.model.loading import LoadedModel
from quantcore.model.probe import few_tokens
from quantcore.model.wiring import Link, copy_of, folded, links
from quantcore.pipeline.blocks import BlockWalk

LLAMA = {
    "input_layernorm": {"self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj"},
    "self_attn.v_proj": {"self_attn.o_proj"},
    "post_attention_layernorm": {"mlp.gate_proj", "mlp.up_proj"},
    "mlp.up_proj": {"mlp.down_proj"},
}


def of_first_block(model: nn.Module) -> tuple[nn.Module, dict[str, Link], Any]:
    whole = held(model)
    walk = BlockWalk(whole, few_tokens(whole.skeleton))

    def run(block: nn.Module) -> Tensor:
        found: list[Tensor] = []
        hook = block.register_forward_hook(lambda _, __, out: found.append(out[0] if isinstance(out, tuple) else out))
        walk.run(block)
        hook.remove()
        return found[0]

    block = whole.skeleton.get_submodule(whole.blocks[0])
    return block, {link.source: link for link in links(block, run)}, run


def test_a_llama_block(tiny_lm: LoadedModel) -> None:
    _, found, _ = of_first_block(tiny_lm.model)
    assert {name: set(link.readers) for name, link in found.items()} == LLAMA
    assert found["input_layernorm"].base == 0
    assert found["mlp.up_proj"].base is None


def test_two_heads_read_one_v(tiny_lm: LoadedModel) -> None:
    """4 heads of 16 for queries, 2 for values: columns 0-15 and 16-31 of o_proj are v's rows 0-15."""
    _, found, _ = of_first_block(tiny_lm.model)
    columns = found["self_attn.v_proj"].readers["self_attn.o_proj"]
    assert columns.tolist() == [*range(16), *range(16), *range(16, 32), *range(16, 32)]


def test_gemma_adds_one_to_its_norms() -> None:
    torch.manual_seed(0)
    config = GemmaConfig(
        vocab_size=64, hidden_size=32, intermediate_size=48, num_hidden_layers=1, num_attention_heads=2,
        num_key_value_heads=1, head_dim=16,
    )  # fmt: skip
    _, found, _ = of_first_block(GemmaForCausalLM(config).eval())
    assert {name: set(link.readers) for name, link in found.items()} == LLAMA
    assert found["input_layernorm"].base == 1


def test_gpt2_stores_its_linears_transposed() -> None:
    """One Linear makes q, k and v, so v -> o is no path of its own; gelu is none."""
    torch.manual_seed(0)
    config = GPT2Config(vocab_size=64, n_embd=32, n_layer=1, n_head=2, n_positions=32)
    _, found, _ = of_first_block(GPT2LMHeadModel(config).eval())
    assert {name: set(link.readers) for name, link in found.items()} == {
        "ln_1": {"attn.c_attn"},
        "ln_2": {"mlp.c_fc"},
    }


def test_relu_hands_a_channel_on() -> None:
    torch.manual_seed(0)
    config = OPTConfig(
        vocab_size=64, hidden_size=32, ffn_dim=48, num_hidden_layers=1, num_attention_heads=2,
        max_position_embeddings=32, word_embed_proj_dim=32, activation_function="relu",
    )  # fmt: skip
    _, found, _ = of_first_block(OPTForCausalLM(config).eval())
    assert set(found["fc1"].readers) == {"fc2"}


@pytest.mark.parametrize("source", LLAMA)
def test_a_fold_changes_nothing(tiny_lm: LoadedModel, source: str) -> None:
    block, found, run = of_first_block(tiny_lm.model)
    link = found[source]
    scales = torch.linspace(0.2, 5, link.channels)
    tensors = folded(block, link, scales)
    assert f"{source}.weight" in tensors
    said, after = run(block), run(copy_of(block, tensors))
    assert (after - said).abs().max() < 1e-4 * said.abs().max()


def test_a_path_that_something_else_reads_is_left_out() -> None:
    """The norm's output also goes around the Linears: dividing it would be heard."""

    class Around(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.norm, self.linear = nn.LayerNorm(8), nn.Linear(8, 8)

        def forward(self, x: Tensor) -> Tensor:
            y: Tensor = self.norm(x)
            return y + self.linear(y)  # type: ignore[no-any-return]

    torch.manual_seed(0)
    x = torch.randn(1, 4, 8)
    assert links(Around(), lambda block: block(x)) == []


def test_a_fold_that_forgets_the_bias_would_be_seen() -> None:
    torch.manual_seed(0)
    block = nn.Sequential(nn.LayerNorm(8), nn.Linear(8, 8))
    nn.init.normal_(block[0].bias)
    x = torch.randn(1, 4, 8)
    (link,) = links(block, lambda module: module(x))
    tensors = folded(block, link, torch.linspace(0.5, 2, 8))
    assert torch.allclose(copy_of(block, tensors)(x), block(x), atol=1e-5)
    del tensors["0.bias"]
    assert not torch.allclose(copy_of(block, tensors)(x), block(x), atol=1e-2)
