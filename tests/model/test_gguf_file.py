"""GGUF headers, written here byte by byte, and whole files by the format's own package: what is read, what refused."""

import json
import struct
import subprocess
import sys
from pathlib import Path
from typing import Any

import gguf as package
import numpy as np
import pytest
import torch
import transformers

from quantcore.cli.command import main
from quantcore.model import loading
from quantcore.model.gguf_file import GgufHeader, notices, own_dtype, read_header
from quantcore.model.gguf_reader import QuickReader
from quantcore.model.linears import linear_shapes, linears
from quantcore.model.loading import LoadedModel, load_model
from quantcore.model.streamed import StreamedModel
from quantcore.model.tokenizer import PROGRAM
from tests.tiny import tiny_tokenizer

ONE_ENTRY = struct.pack("<IQQ", 3, 0, 1)
ONE_TENSOR = struct.pack("<IQQ", 3, 1, 0)


def name(text: str) -> bytes:
    return struct.pack("<Q", len(text)) + text.encode()


def gguf(architecture: str = "llama", kinds: tuple[int, ...] = (0, 3, 3)) -> bytes:
    """A file of 2 x 32 tensors of these types; the words of a vocabulary lie between the entries, as in a real one."""
    words = struct.pack("<IQ", 8, 2) + name("a") + name("b")
    entries = [
        name("tokenizer.ggml.tokens") + struct.pack("<I", 9) + words,
        name("tokenizer.ggml.scores") + struct.pack("<I", 9) + struct.pack("<IQ2f", 6, 2, 0.5, 0.25),
        name("general.architecture") + struct.pack("<I", 8) + name(architecture),
        name("llama.block_count") + struct.pack("<II", 4, len(kinds)),
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
    found = read_header(file)
    assert found == GgufHeader(
        "llama",
        {"F32": 1, "Q4_1": 2},
        {"F32": 64, "Q4_1": 128},
        {"llama.block_count": 3},
        blocks=3,
        tokens=2,
        names=("blk.0.weight", "blk.1.weight", "blk.2.weight"),
    )
    assert "model.gguf were quantized before (2 as Q4_1, of 3 tensors)" in notices(file)[0]
    assert "those values, on a GPU rounded to bfloat16, so every loss" in notices(file)[0]
    file.write_bytes(gguf(kinds=(1, 1, 3)))
    assert "those values, on a GPU rounded to float16, so every loss" in notices(file)[0]
    file.write_bytes(gguf(kinds=(0, 0, 3)))
    assert "those values, so every loss" in notices(file)[0]
    file.write_bytes(gguf(kinds=(0, 1)))
    assert notices(file) == ("model.gguf holds its weights as F32 and F16: they were not quantized before.",)


@pytest.mark.parametrize("length", [10, 60, 200, 400, 700])
def test_a_header_that_breaks_off(tmp_path: Path, length: int) -> None:
    file = tmp_path / "cut.gguf"
    file.write_bytes(gguf()[:length])
    with pytest.raises(ValueError, match="cut.gguf' is no whole GGUF file .*; download it again"):
        read_header(file)


HOSTILE = {  # what a header says -> how it is refused; each is a few bytes and claims gigabytes, or hours
    "an array of no known type": (
        ONE_ENTRY + name("a") + struct.pack("<IIQ", 9, 99, 2**62),
        "an array of type 99, which is none",
    ),
    "arrays inside arrays": (
        ONE_ENTRY + name("a") + struct.pack("<IIQ", 9, 9, 2**40),
        "an array of type 9, which is none",
    ),
    "an entry of no known type": (ONE_ENTRY + name("a") + struct.pack("<I", 13), "an entry of type 13, which is none"),
    "four thousand million dimensions": (
        ONE_TENSOR + name("a") + struct.pack("<I", 2**32 - 1),
        "inside of entries and tensors|a tensor of 4,294,967,295 dimensions, where 4 are the most",
    ),
    "five dimensions": (
        ONE_TENSOR + name("a") + struct.pack("<I5QIQ", 5, 1, 1, 1, 1, 1, 0, 0),
        "a tensor of 5 dimensions, where 4 are the most",
    ),
    "2^64 tensors": (struct.pack("<IQQ", 3, 2**64 - 1, 0), "inside of entries and tensors"),
    "2^63 entries": (struct.pack("<IQQ", 3, 0, 2**63), "inside of entries and tensors"),
    "an array of 2^62 numbers": (ONE_ENTRY + name("a") + struct.pack("<IIQ", 9, 4, 2**62), "elements, more than any"),
    "an array of 2^62 strings": (ONE_ENTRY + name("a") + struct.pack("<IIQ", 9, 8, 2**62), "elements, more than any"),
    "an array of 2^20 strings": (ONE_ENTRY + name("a") + struct.pack("<IIQ", 9, 8, 2**20), "unpack requires|inside of"),
    "a name of 2^60 bytes": (
        ONE_ENTRY + struct.pack("<Q", 2**60) + bytes(20),
        "inside of a string",
    ),
    "a value of 2^40 bytes": (ONE_ENTRY + name("a") + struct.pack("<IQ", 8, 2**40), "inside of a string"),
    "a tensor larger than the file": (
        ONE_TENSOR + name("a") + struct.pack("<IQQIQ", 2, 2**40, 2**20, 0, 0),
        "its 'a' after",
    ),
    "a tensor behind the file": (ONE_TENSOR + name("a") + struct.pack("<IQIQ", 1, 1, 0, 2**40), "its 'a' after"),
    "a tensor of no known type": (ONE_TENSOR + name("a") + struct.pack("<IQIQ", 1, 1, 99, 0), "a tensor of type 99"),
    "one name twice": (
        struct.pack("<IQQ", 3, 2, 0) + 2 * (name("a") + struct.pack("<IQIQ", 1, 1, 0, 0)) + bytes(64),
        "two of its tensors have one name",
    ),
    "no alignment": (
        struct.pack("<IQQ", 3, 0, 1) + name("general.alignment") + struct.pack("<II", 4, 0),
        "aligned to 0 bytes",
    ),
    "version 1": (struct.pack("<IQQ", 1, 0, 0), "of version 1; 2 and 3 are read"),
    "bytes of the other order": (struct.pack(">IQQ", 3, 0, 0), "of version 50331648; 2 and 3 are read"),
}


@pytest.mark.parametrize("tried", HOSTILE)
def test_a_hostile_header_is_refused_at_once(tried: str, tmp_path: Path) -> None:
    data, sentence = HOSTILE[tried]
    file = tmp_path / "hostile.gguf"
    file.write_bytes(b"GGUF" + data + (bytes(40) if "dimensions" in tried else b""))
    with pytest.raises(
        ValueError, match=f"hostile.gguf' is no whole GGUF file .*({sentence}).*; download it again"
    ) as no:
        load_model(str(file), "cpu")
    assert len(str(no.value)) < 400


def test_what_cannot_be_loaded_is_told_from_the_header(tmp_path: Path) -> None:
    file = tmp_path / "model.gguf"
    file.write_bytes(gguf("nonesuch"))
    with pytest.raises(ValueError, match="of the architecture 'nonesuch', which transformers cannot build .it knows"):
        load_model(str(file), "cpu")
    with pytest.raises(ValueError, match="is a GGUF file and only safetensors can be streamed"):
        StreamedModel(str(file), "cpu")


def written(lm: LoadedModel, file: Path, drop: str = "", **more: Any) -> Path:
    """The tiny Llama as GGUF in F32, its queries and keys in ggml's order. drop: a tensor to leave out; more: entries
    that say something else, `block_count` or `embedding_length`, `split` parts, or `rounded` projections."""
    config = lm.model.config
    writer = package.GGUFWriter(file, "llama")
    writer.add_context_length(256)
    writer.add_embedding_length(more.get("embedding_length", 64))
    writer.add_block_count(more.get("block_count", 2))
    writer.add_feed_forward_length(128)
    writer.add_head_count(4)
    writer.add_head_count_kv(2)
    writer.add_layer_norm_rms_eps(config.rms_norm_eps)
    writer.add_vocab_size(config.vocab_size)
    if "split" in more:
        writer.add_uint16("split.count", more["split"])
        writer.add_uint16("split.no", 0)
    vocabulary = sorted(tiny_tokenizer().get_vocab().items(), key=lambda item: item[1])
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
    for long, tensor in lm.model.state_dict().items():
        short = long
        for ours, theirs in names.items():
            short = short.replace(f"model.layers.0.{ours}", f"blk.0.{theirs}")
            short = short.replace(f"model.layers.1.{ours}", f"blk.1.{theirs}").replace(
                f"{ours}.weight", f"{theirs}.weight"
            )
        heads = {"attn_q": 4, "attn_k": 2}.get(short.split(".")[-2], 0)
        if heads:
            tensor = tensor.reshape(heads, 2, -1, tensor.shape[1]).transpose(1, 2).reshape(tensor.shape)
        if drop and short.startswith(drop):
            continue
        if extra := {name for name in more.get("extra", ()) if short == "output_norm.weight"}:
            for name in extra:
                writer.add_tensor(name, tensor.numpy())
        data = tensor.contiguous().numpy()
        if "rounded" in more and long.endswith("_proj.weight"):
            kind = package.GGMLQuantizationType.Q8_0
            writer.add_tensor(short, package.quantize(data, kind), raw_dtype=kind)
        else:
            writer.add_tensor(short, data)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return file


def test_a_real_file_gives_the_models_own_weights(tiny_lm: LoadedModel, tmp_path: Path) -> None:
    loaded = load_model(str(written(tiny_lm, tmp_path / "tiny.gguf")), "cpu")
    for layer, linear in linears(tiny_lm.model).items():
        assert torch.equal(linears(loaded.model)[layer].weight, linear.weight), layer
    assert "they were not quantized before" in loaded.notices[0]
    assert loaded.revision.startswith("sha256:")


@pytest.mark.parametrize(
    ("kinds", "dtype"),
    [
        ({"F32": 10}, torch.float32),
        ({"F32": 1, "F16": 10}, torch.float16),
        ({"F32": 1, "BF16": 10}, torch.bfloat16),
        ({"F32": 1, "Q4_K": 6, "Q6_K": 4}, torch.bfloat16),
    ],
)
def test_a_gpu_has_the_type_of_most_numbers(kinds: dict[str, int], dtype: torch.dtype) -> None:
    assert own_dtype(kinds) is dtype


def test_codes_are_read_as_bfloat16_for_a_gpu(
    tiny_lm: LoadedModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[tuple[int, str]] = []
    monkeypatch.setattr(loading, "require_memory", lambda what, size, device: asked.append((size, device.type)))
    file = str(written(tiny_lm, tmp_path / "rounded.gguf", rounded=True))
    monkeypatch.setattr(loading, "move", lambda model, device: None)  # this machine need not have a GPU
    on_cpu, on_gpu = (load_model(file, device).model.state_dict() for device in ("cpu", "cuda"))
    numbers = asked[0][0] // 8  # two copies in float32
    assert numbers >= 73728 + 38720
    assert asked == [(8 * numbers, "cpu"), (4 * numbers, "cpu"), (2 * numbers, "cuda")]
    assert on_cpu.keys() == on_gpu.keys()
    for name, one in on_cpu.items():
        assert one.dtype == torch.float32
        assert on_gpu[name].dtype == torch.bfloat16
        assert torch.equal(one.bfloat16(), on_gpu[name]), name


@pytest.mark.parametrize(
    ("tried", "more", "sentence"),
    [
        ("a part of a split file", {"split": 2}, r"is part 1 of 2 of a split GGUF file; join them \(llama-gguf-split"),
        (
            "a weight is missing",
            {"drop": "blk.1.ffn_down"},
            r"its files lack 'model.layers.1.mlp.down_proj.weight', which",
        ),
        ("a norm is missing", {"drop": "output_norm"}, "its files lack 'model.norm.weight', which would be random"),
        ("the embedding is missing", {"drop": "token_embd"}, "its files lack 'model.embed_tokens.weight'"),
        ("a weight left over", {"extra": ["blk.0.attn_q.bias"]}, "its files hold 'blk.0.attn_q.bias', for which"),
        ("a block is missing", {"drop": "blk.1."}, "its header says 2 blocks and it holds the tensors of 1; download"),
        ("a million blocks", {"block_count": 10**6}, "its header says 1,000,000 blocks and it holds the tensors of 2;"),
        ("one block of two", {"block_count": 1}, "its header says 1 blocks and it holds the tensors of 2; download it"),
        ("another width", {"embedding_length": 128}, "a model of .* parameters and it holds|has shape"),
        ("a width of 2^31", {"embedding_length": 2**31}, "says 'llama.embedding_length' = 2,147,483,648 and it holds"),
    ],
)
def test_a_file_that_is_not_the_model_it_describes(
    tried: str,
    more: dict[str, Any],
    sentence: str,
    tiny_lm: LoadedModel,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    file = written(tiny_lm, tmp_path / "wrong.gguf", **more)
    monkeypatch.setattr(transformers.LlamaForCausalLM, "from_pretrained", None)  # refused before a weight is read
    with pytest.raises(ValueError, match=sentence) as no:
        load_model(str(file), "cpu")
    assert len(str(no.value)) < 400


VERBS = {
    "info": [],
    "layer": ["--layer", "model.layers.0.mlp.up_proj", "--scheme", "W8A8"],
    "evaluate": ["--scheme", "w:int8/channel"],
    "compare": ["--schemes", "w:int8/channel", "w:int4/channel"],
    "sensitivity": ["--schemes", "w:int8/channel"],
    "quantize": ["--scheme", "w:int8/channel"],
}


@pytest.mark.parametrize("verb", VERBS)
def test_the_command_line_says_that_weights_were_quantized_before(
    verb: str, tiny_lm: LoadedModel, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The tiny model with its projections as Q8_0: tiles of 32 codes and a half-precision scale."""
    file = written(tiny_lm, tmp_path / "rounded.gguf", rounded=True)
    asked = [verb, "--model", str(file), *VERBS[verb]]
    if verb != "info":
        asked += ["--max-tokens", "60"] if verb != "quantize" else ["--out", str(tmp_path / "out")]
    assert main(asked) == 0
    said = json.loads(capsys.readouterr().out)
    told = (
        said["model"]["notices"]
        if verb == "info"
        else said["facts"]["notices"]
        if verb == "compare"
        else said["notices"]
    )
    assert told == list(notices(file))
    assert "were quantized before (14 as Q8_0, of 21 tensors)" in told[0]
    if verb == "info":
        found = said["model"]
        assert (found["blocks"], found["context"], found["vocabulary"], found["tokens"]) == (2, 256, 300, 300)
        assert found["dtypes"] == {"Q8_0": 73728, "F32": 38720}
        assert {name: tuple(shape) for name, shape in found["linears"].items()} == linear_shapes(tiny_lm.model)


def test_a_table_of_wavelengths_that_is_not_read_is_told(tiny_lm: LoadedModel, tmp_path: Path) -> None:
    loaded = load_model(str(written(tiny_lm, tmp_path / "long.gguf", extra=["rope_freqs.weight"])), "cpu")
    assert "brings a table of rotary wavelengths" in loaded.notices[1]


def test_a_tied_head_is_stored_once(tiny_lm: LoadedModel, tmp_path: Path) -> None:
    loaded = load_model(str(written(tiny_lm, tmp_path / "tied.gguf", drop="output.")), "cpu")
    model: Any = loaded.model
    assert model.lm_head.weight is model.model.embed_tokens.weight


def test_files_are_read_by_the_quick_reader(
    tiny_lm: LoadedModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = written(tiny_lm, tmp_path / "tiny.gguf", rounded=True)
    plain, quick = package.GGUFReader(file), QuickReader(file)
    assert {name: field.contents() for name, field in quick.fields.items()} == {
        name: field.contents() for name, field in plain.fields.items()
    }
    assert [one.name for one in quick.tensors] == [one.name for one in plain.tensors]
    assert all(np.array_equal(one.data, other.data) for one, other in zip(quick.tensors, plain.tensors, strict=True))
    monkeypatch.setattr(package, "GGUFReader", None)  # by no other
    load_model(str(file), "cpu")
    assert package.GGUFReader is None


def test_the_process_of_tokenizers_has_the_quick_reader() -> None:
    program = f"import runpy, gguf; runpy.run_path({str(PROGRAM)!r}); print(gguf.GGUFReader.__name__)"
    run = [sys.executable, "-P", "-c", program, "with-torch"]
    assert subprocess.run(run, capture_output=True, text=True, check=True).stdout.strip() == "QuickReader"
