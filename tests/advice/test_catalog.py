"""Known models: every row builds what it says, has a source and a date; the cache by hand; what cannot be told."""

import json
import re
from pathlib import Path

import huggingface_hub
import pytest

from quantcore.advice.catalog import FILE, catalogue, shape_of
from quantcore.advice.shape import Matrix, served_shape
from quantcore.model import gguf_file
from quantcore.model.loading import LoadedModel
from quantcore.model.token_cache import Cache

LARGEST = {  # what their authors publish, billions: all, and the share that a token passes
    "openai/gpt-oss-120b": (116.8, 5.1),
    "Qwen/Qwen3-30B-A3B": (30.5, 3.0),
    "deepseek-ai/DeepSeek-V3": (671.0, 36.5),
    "mistralai/Mixtral-8x7B-v0.1": (46.7, 12.8),
    "meta-llama/Meta-Llama-3.1-8B": (8.03, 7.5),
}


def test_every_row_builds_what_it_says() -> None:
    assert len(catalogue()) == 70
    for name, known in catalogue().items():
        shape = shape_of(name)
        assert (shape.parameters, shape.active) == (known.parameters, known.active), name
        assert len(known.source) > 20
        assert re.fullmatch(r"20\d\d-\d\d-\d\d", known.looked_up)
        assert shape.cache_numbers(1024) > 0


@pytest.mark.parametrize(("name", "billions"), LARGEST.items(), ids=list(LARGEST))
def test_the_totals_are_the_published_ones(name: str, billions: tuple[float, float]) -> None:
    known = catalogue()[name]
    assert (known.parameters / 1e9, known.active / 1e9) == (
        pytest.approx(billions[0], rel=0.01),
        pytest.approx(billions[1], rel=0.05),
    )


def test_the_name_says_the_size() -> None:
    """Qwen3-32B has 32 to 33 billion parameters; names that say it as -7B, -0.6B or -135M."""
    checked = 0
    for name, known in catalogue().items():
        said = re.search(r"-(\d+(?:\.\d+)?)([BMb])(?:-|$)", name.partition("/")[2])
        if said is None or "16E" in name or "128E" in name:  # these say what a token passes
            continue
        size = float(said[1]) * (1e6 if said[2] == "M" else 1e9)
        assert 0.9 * size < known.parameters < 1.31 * size, name  # a gemma's embeddings are not in its name
        checked += 1
    assert checked > 45


def test_a_row_is_a_line() -> None:
    lines = FILE.read_text(encoding="utf-8").splitlines()
    assert [json.loads(line.rstrip(","))["id"] for line in lines[1:-1]] == list(catalogue())


def test_llama_by_hand() -> None:
    """32 blocks keep 8 heads x 128 keys and as many values: 2 x 1024 x 32 numbers a token, 131 kB in 16 bits."""
    shape = shape_of("Meta-Llama-3.1-8B")
    assert shape.cache_numbers(1) == 2 * 8 * 128 * 32
    assert shape.cache_numbers(8192) * 2 == 1_073_741_824
    assert {one.name.partition("0.")[2] or one.name: (one.shape, one.count) for one in shape.matrices} == {
        "self_attn.q_proj": ((4096, 4096), 32),
        "self_attn.k_proj": ((1024, 4096), 32),
        "self_attn.v_proj": ((1024, 4096), 32),
        "self_attn.o_proj": ((4096, 4096), 32),
        "mlp.gate_proj": ((14336, 4096), 32),
        "mlp.up_proj": ((14336, 4096), 32),
        "mlp.down_proj": ((4096, 14336), 32),
        "lm_head": ((128256, 4096), 1),
    }
    assert shape.attended == 32 * 4096


def test_windows_latents_and_states() -> None:
    """gpt-oss: every other block keeps 128 tokens. DeepSeek: 512 + 64 numbers. Qwen3.5: three in four a state."""
    oss = shape_of("openai/gpt-oss-20b")
    assert oss.cache_numbers(8192) == 12 * 1024 * (128 + 8192)
    assert {cache.numbers for cache in shape_of("deepseek-ai/DeepSeek-V3").caches} == {576}
    hybrid = shape_of("Qwen/Qwen3.5-27B")
    assert [bool(cache.state) for cache in hybrid.caches[:4]] == [True, True, True, False]
    assert hybrid.state_bytes == 4


def test_how_many_experts_a_batch_touches() -> None:
    """Of 4 experts each token takes 2: one token touches 2, two tokens 4 (1 - 1/4) = 3, many all."""
    experts = Matrix("e", (2, 2), 4, 0.5)
    assert [experts.touched(count) for count in (1, 2, 50)] == [2.0, 3.0, pytest.approx(4.0)]
    assert Cache(2, window=3) != Cache(2)


def test_a_config_alone_is_enough(tmp_path: Path) -> None:
    config = {**catalogue()["meta-llama/Llama-3.2-1B"].config, "quantization_config": {"quant_method": "gptq"}}
    (tmp_path / "config.json").write_text(json.dumps(config))
    by_file, by_folder = shape_of(str(tmp_path / "config.json")), shape_of(str(tmp_path))
    assert by_file.matrices == by_folder.matrices == shape_of("meta-llama/Llama-3.2-1B").matrices


def test_of_a_hubs_model_the_config_alone_is_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "config.json").write_text(json.dumps(catalogue()["meta-llama/Llama-3.2-1B"].config))
    asked: list[tuple[str, ...]] = []

    def download(repo: str, name: str, revision: str | None, etag_timeout: float) -> str:
        asked.append((repo, name, str(revision)))
        return str(tmp_path / name)

    monkeypatch.setattr(huggingface_hub, "hf_hub_download", download)
    assert shape_of("somebody/a-new-llama@v2").matrices == shape_of("meta-llama/Llama-3.2-1B").matrices
    assert asked == [("somebody/a-new-llama", "config.json", "v2")]


def test_a_gguf_says_its_shape_by_its_header(
    tiny_lm: LoadedModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "tiny.gguf"
    file.write_bytes(b"GGUF")
    with pytest.raises(ValueError, match="is no whole GGUF file"):
        shape_of(str(file))
    monkeypatch.setattr(gguf_file, "examine", lambda *_: (None, tiny_lm.model))
    found = shape_of(str(tmp_path / "." / "tiny.gguf"))
    assert found.matrices == served_shape("tiny", tiny_lm.model).matrices
    with pytest.raises(ValueError, match="is not among the 70 models"):
        shape_of(str(tmp_path / "none.gguf"))


def test_what_cannot_be_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def gone(*_: object, **__: object) -> str:
        raise ConnectionError

    monkeypatch.setattr(huggingface_hub, "hf_hub_download", gone)
    with pytest.raises(
        ValueError, match="not among the 70 models of the catalogue, and the hub did not answer.*name that"
    ):
        shape_of("nobody/nothing")
    with pytest.raises(ValueError, match=r"catalogue \(did you mean meta-llama/Meta-Llama-3.1-70B"):
        shape_of("meta-llama/Llama-3.1-70B")
    with pytest.raises(ValueError, match="no folder with a config.json and no hub id"):
        shape_of("nothing at all")
    monkeypatch.setattr("quantcore.advice.catalog.config_folder", lambda _: pytest.fail("the hub was asked"))
    (tmp_path / "notes.txt").write_text("mine")
    for here in (tmp_path, tmp_path / "notes.txt"):
        with pytest.raises(ValueError, match="is there and holds no model's shape; name a folder with a config.json"):
            shape_of(str(here))
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "rwkv", "num_hidden_layers": 1}))
    with pytest.raises(ValueError, match="rwkv|not known here"):
        shape_of(str(tmp_path))


def test_a_folder_that_has_changed_has_another_shape(tmp_path: Path) -> None:
    """A server lives on while a folder's model is replaced."""
    config = catalogue()["meta-llama/Llama-3.2-1B"].config
    for blocks in (2, 3):
        (tmp_path / "config.json").write_text(json.dumps({**config, "num_hidden_layers": blocks, "note": "x" * blocks}))
        assert shape_of(str(tmp_path)).blocks == blocks
    assert shape_of(str(tmp_path)) is shape_of(str(tmp_path))


@pytest.mark.parametrize(
    ("entries", "reason"),
    [
        (
            {"num_hidden_layers": 10**6},
            "num_hidden_layers = 1,000,000, and no model is known of more than 1,000 blocks",
        ),
        ({"num_hidden_layers": -1}, "num_hidden_layers = -1, which is no whole number of at least 1"),
        ({"text_config": {"hidden_size": 0}}, "hidden_size = 0, which is no whole number of at least 1"),
        ({"model_type": None}, "names no model_type"),
    ],
    ids=lambda one: "" if isinstance(one, str) else next(iter(one)),
)
def test_a_configuration_that_describes_no_model_is_told_before_it_is_built(
    entries: dict[str, object], reason: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A million blocks would take half a minute."""
    monkeypatch.setattr("quantcore.advice.catalog.build", lambda *_: pytest.fail("it was built"))
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "llama", **entries}))
    with pytest.raises(ValueError, match=f"could not load '.*': its config.json .*{reason}"):
        shape_of(str(tmp_path))
