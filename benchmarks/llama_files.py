"""A Llama of random bf16 weights, written to disk as a model folder: what the benchmarks of large models run on."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

if TYPE_CHECKING:
    import torch


class Shape(NamedTuple):
    hidden: int
    ffn: int
    heads: int
    kv_heads: int
    blocks: int
    vocabulary: int
    context: int = 2048


LLAMA_3_8B = Shape(4096, 14336, 32, 8, 32, 128256)
TINY = Shape(128, 256, 4, 2, 2, 256, 256)


def write_random_llama(folder: Path, shape: Shape, device: str = "cpu") -> int:
    """The model and a tokenizer that gives each byte a token, a file for each block and one for the rest; returns the
    bytes of its weights. No more than one file's tensors live at a time; `device` is where they are drawn."""
    import torch
    from transformers import LlamaConfig

    matrix = drawn(device)
    hidden, ffn, heads, kv_heads, blocks, vocabulary, context = shape
    config = LlamaConfig(
        vocab_size=vocabulary, hidden_size=hidden, intermediate_size=ffn, num_hidden_layers=blocks,
        num_attention_heads=heads, num_key_value_heads=kv_heads, max_position_embeddings=context,
        tie_word_embeddings=False, bos_token_id=0, eos_token_id=0, dtype="bfloat16",
        architectures=["LlamaForCausalLM"],
    )  # fmt: skip

    def block(index: int) -> dict[str, torch.Tensor]:
        at, narrow = f"model.layers.{index}", hidden // heads * kv_heads
        norms = {f"{at}.{name}_layernorm.weight" for name in ("input", "post_attention")}
        rows = {"q": hidden, "k": narrow, "v": narrow, "o": hidden}
        found = {f"{at}.self_attn.{name}_proj.weight": matrix(out, hidden) for name, out in rows.items()}
        found |= {f"{at}.mlp.{name}_proj.weight": matrix(ffn, hidden) for name in ("gate", "up")}
        found[f"{at}.mlp.down_proj.weight"] = matrix(hidden, ffn)
        return found | {name: torch.ones(hidden, dtype=torch.bfloat16) for name in sorted(norms)}

    return save_blocks(folder, config, block, matrix)


def drawn(device: str) -> Callable[[int, int], torch.Tensor]:
    """(rows, columns) -> a random bf16 matrix on the CPU, drawn on the device."""
    import torch

    generator = torch.Generator(device).manual_seed(0)

    def matrix(rows: int, columns: int) -> torch.Tensor:
        empty = torch.empty(rows, columns, dtype=torch.bfloat16, device=device)
        return empty.normal_(0, 0.02, generator=generator).cpu()

    return matrix


def save_blocks(
    folder: Path,
    config: Any,
    block: Callable[[int], dict[str, torch.Tensor]],
    matrix: Callable[[int, int], torch.Tensor],
) -> int:
    """A model folder: config, a tokenizer that gives each byte a token, a file for each block and one for the rest;
    returns the bytes of its weights."""
    import torch
    from safetensors.torch import save_file
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    folder.mkdir(parents=True)
    config.save_pretrained(folder)
    signs = sorted(pre_tokenizers.ByteLevel.alphabet())
    letters = Tokenizer(models.BPE({sign: index for index, sign in enumerate(signs)}, []))
    letters.pre_tokenizer, letters.decoder = pre_tokenizers.ByteLevel(add_prefix_space=False), decoders.ByteLevel()
    PreTrainedTokenizerFast(tokenizer_object=letters).save_pretrained(folder)
    blocks, vocabulary, hidden = config.num_hidden_layers, config.vocab_size, config.hidden_size
    places: dict[str, str] = {}
    total = 0
    for index in range(blocks + 1):
        tensors = block(index) if index < blocks else {
            "model.embed_tokens.weight": matrix(vocabulary, hidden),
            "model.norm.weight": torch.ones(hidden, dtype=torch.bfloat16),
            "lm_head.weight": matrix(vocabulary, hidden),
        }  # fmt: skip
        name = f"model-{index + 1:05d}-of-{blocks + 1:05d}.safetensors"
        save_file(tensors, folder / name, {"format": "pt"})
        places |= dict.fromkeys(tensors, name)
        total += sum(tensor.nbytes for tensor in tensors.values())
    index_text = json.dumps({"metadata": {"total_size": total}, "weight_map": places})
    (folder / "model.safetensors.index.json").write_text(index_text, encoding="utf-8")
    return total


def quantized_numbers(shape: Shape) -> int:
    """Weights of one block's Linears."""
    narrow = shape.hidden // shape.heads * shape.kv_heads
    return shape.hidden * (2 * shape.hidden + 2 * narrow + 3 * shape.ffn)
