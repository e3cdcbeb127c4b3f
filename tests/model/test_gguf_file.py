"""GGUF headers, written here byte by byte; a real file is built where the packages that read one are installed."""

import importlib.util
import struct
from pathlib import Path

import pytest
import torch

from quantcore.model import gguf_file
from quantcore.model.gguf_file import GgufHeader, notice, read_header
from quantcore.model.linears import linears
from quantcore.model.loading import LoadedModel, load_model

GGUF = all(importlib.util.find_spec(name) is not None for name in gguf_file.NEEDED)


def name(text: str) -> bytes:
    return struct.pack("<Q", len(text)) + text.encode()


def gguf(architecture: str = "llama", kinds: tuple[int, ...] = (0, 3, 3)) -> bytes:
    """A file of 2 x 32 tensors of these types; the words of a vocabulary lie between the entries, as in a real one."""
    words = struct.pack("<IQ", 8, 2) + name("a") + name("b")
    entries = [
        name("tokenizer.ggml.tokens") + struct.pack("<I", 9) + words,
        name("tokenizer.ggml.scores") + struct.pack("<I", 9) + struct.pack("<IQ2f", 6, 2, 0.5, 0.25),
        name("general.architecture") + struct.pack("<I", 8) + name(architecture),
        name("llama.block_count") + struct.pack("<II", 4, 2),
    ]
    tensors = [
        name(f"blk.{place}.weight") + struct.pack("<IQQIQ", 2, 32, 2, kind, 256 * place)
        for place, kind in enumerate(kinds)
    ]
    start = b"GGUF" + struct.pack("<IQQ", 3, len(tensors), len(entries))
    return start + b"".join(entries + tensors) + bytes(256 * len(kinds))


def test_a_header_is_read(tmp_path: Path) -> None:
    file = tmp_path / "model.gguf"
    file.write_bytes(gguf())
    assert read_header(file) == GgufHeader("llama", {"F32": 1, "Q4_1": 2}, {"F32": 64, "Q4_1": 128})
    assert "model.gguf were quantized before (2 as Q4_1, of 3 tensors)" in notice(file)
    file.write_bytes(gguf(kinds=(0, 1)))
    assert notice(file) == "model.gguf holds its weights as F32 and F16: they were not quantized before."


@pytest.mark.parametrize("length", [10, 60, 200, 400])
def test_a_header_that_breaks_off(tmp_path: Path, length: int) -> None:
    file = tmp_path / "cut.gguf"
    file.write_bytes(gguf()[:length])
    with pytest.raises(ValueError, match="cut.gguf' is no whole GGUF file .*; download it again"):
        read_header(file)


def test_what_cannot_be_loaded_is_told_from_the_header(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "model.gguf"
    file.write_bytes(gguf("nonesuch"))
    monkeypatch.setattr(gguf_file, "NEEDED", ())
    with pytest.raises(ValueError, match="of the architecture 'nonesuch', which transformers cannot build .it knows"):
        load_model(str(file), "cpu")
    monkeypatch.setattr(gguf_file, "NEEDED", ("no_such_package", "torch"))
    with pytest.raises(
        ValueError, match=r"is read with no_such_package, not installed here; pip install no_such_package"
    ):
        load_model(str(file), "cpu")


@pytest.mark.skipif(not GGUF, reason="needs gguf and accelerate, which are optional")
def test_a_real_file_gives_the_models_own_weights(tiny_lm: LoadedModel, tmp_path: Path) -> None:
    """The tiny Llama written as GGUF in F32 (its queries and keys in ggml's order), read back: the same weights."""
    import gguf as package

    file = tmp_path / "tiny.gguf"
    config = tiny_lm.model.config
    writer = package.GGUFWriter(file, "llama")
    writer.add_context_length(256)
    writer.add_embedding_length(64)
    writer.add_block_count(2)
    writer.add_feed_forward_length(128)
    writer.add_head_count(4)
    writer.add_head_count_kv(2)
    writer.add_layer_norm_rms_eps(config.rms_norm_eps)
    writer.add_vocab_size(config.vocab_size)
    vocabulary = sorted(tiny_lm.tokenizer.get_vocab().items(), key=lambda item: item[1])
    writer.add_tokenizer_model("gpt2")
    writer.add_token_list([word for word, _ in vocabulary])
    writer.add_token_types([1] * len(vocabulary))
    writer.add_token_merges(["a b"])
    writer.add_bos_token_id(0)
    writer.add_eos_token_id(0)
    names = {
        "self_attn.q_proj": "attn_q", "self_attn.k_proj": "attn_k", "self_attn.v_proj": "attn_v",
        "self_attn.o_proj": "attn_output", "mlp.gate_proj": "ffn_gate", "mlp.up_proj": "ffn_up",
        "mlp.down_proj": "ffn_down", "input_layernorm": "attn_norm", "post_attention_layernorm": "ffn_norm",
        "model.embed_tokens": "token_embd", "model.norm": "output_norm", "lm_head": "output",
    }  # fmt: skip
    for long, tensor in tiny_lm.model.state_dict().items():
        short = long
        for ours, theirs in names.items():
            short = short.replace(f"model.layers.0.{ours}", f"blk.0.{theirs}")
            short = short.replace(f"model.layers.1.{ours}", f"blk.1.{theirs}").replace(
                f"{ours}.weight", f"{theirs}.weight"
            )
        heads = {"attn_q": 4, "attn_k": 2}.get(short.split(".")[-2], 0)
        if heads:
            tensor = tensor.reshape(heads, 2, -1, tensor.shape[1]).transpose(1, 2).reshape(tensor.shape)
        writer.add_tensor(short, tensor.contiguous().numpy())
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    loaded = load_model(str(file), "cpu")
    for layer, linear in linears(tiny_lm.model).items():
        assert torch.equal(linears(loaded.model)[layer].weight, linear.weight), layer
    assert "they were not quantized before" in loaded.notices[0]
    assert loaded.revision.startswith("sha256:")
