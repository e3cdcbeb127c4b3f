"""Where a model lies, and how it comes here: real downloads from a hub on this machine; each refusal is a sentence."""

import json
import os
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from quantcore.model import memory
from quantcore.model.inventory import inventory
from quantcore.model.locate import locate, source_in_full, source_path
from quantcore.model.memory import free_memory, require_memory, size
from tests.fake_hub import COMMIT, fake_hub
from tests.forked import run

CPU = torch.device("cpu")
ASK = """
import json, sys
from quantcore.model.hub import fetch
answers = []
for source in sys.argv[1:]:
    told = []
    try:
        place = fetch(source, lambda share, doing: told.append((share, doing)))
        answers.append({"folder": str(place.folder), "revision": place.revision, "told": told})
    except ValueError as error:
        answers.append({"error": str(error)})
print(json.dumps(answers))
"""


@pytest.fixture(scope="module")
def hub(tiny_model_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, str]]:
    """The environment in which a hub on this machine holds a few models, and a cache of its own."""
    pickle = tmp_path_factory.mktemp("pickle")
    (pickle / "config.json").write_text("{}")
    (pickle / "pytorch_model.bin").write_bytes(b"no weights")
    ggufs = tmp_path_factory.mktemp("ggufs")
    (ggufs / "a.Q4_0.gguf").write_bytes(b"GGUF")
    repos = dict.fromkeys(("tiny/model", "tiny/second", "tiny/gated", "tiny/broken"), tiny_model_dir)
    with fake_hub({**repos, "tiny/pickle": pickle, "tiny/ggufs": ggufs}) as url:
        quiet = {"HF_HUB_DISABLE_PROGRESS_BARS": "1", "HF_HUB_VERBOSITY": "critical"}
        home = str(tmp_path_factory.mktemp("hf"))
        yield {**os.environ, **quiet, "HF_ENDPOINT": url, "HF_HOME": home}


def ask(hub: dict[str, str], *sources: str) -> list[dict[str, Any]]:
    """What `fetch` says to each, in a process of its own: the hub's address is read when its library is imported."""
    done = run("-c", ASK, *sources, env=hub, timeout=120)
    assert done.returncode == 0, done.stderr[-800:]
    answers: list[dict[str, Any]] = json.loads(done.stdout)
    return answers


def test_a_hub_id_is_downloaded_once_and_pinned(hub: dict[str, str], tiny_model_dir: Path) -> None:
    (first,) = ask(hub, "tiny/model")
    assert first["revision"] == COMMIT
    assert first["told"][0] == [0.0, "asking the hub for tiny/model"]
    assert first["told"][-1] == [1.0, "downloading 0.4 MiB of 0.4 MiB"]
    weights = Path(first["folder"]) / "model.safetensors"
    assert weights.read_bytes() == (tiny_model_dir / "model.safetensors").read_bytes()
    offline = {**hub, "HF_ENDPOINT": "http://127.0.0.1:9"}
    again, pinned = ask(offline, "tiny/model", f"tiny/model@{COMMIT}")
    assert again == pinned == {"folder": first["folder"], "revision": COMMIT, "told": []}
    assert inventory(first["folder"]).revision == COMMIT


LOAD = """
import json, sys
from quantcore import load_model
told = []
lm = load_model(sys.argv[1], "cpu", lambda share, doing: told.append((share, doing)))
weights = sum(float(one.double().sum()) for one in lm.model.parameters())
print(json.dumps({"revision": lm.revision, "weights": weights, "told": told}))
"""


QUANTIZE = """
import contextlib, io
from quantcore.cli.command import main
for more in ([], ["--stream", "--force"]):
    with contextlib.redirect_stdout(io.StringIO()) as said:
        code = main(["quantize", "--model", sys.argv[1], "--scheme", "w:int4/group32", "--out", sys.argv[2], *more])
    with open(sys.argv[2] + "/export.json") as kept:
        print(json.dumps({"code": code, "said": json.loads(said.getvalue()), "kept": json.load(kept)}))
"""


def run_python(hub: dict[str, str], *arguments: str) -> list[dict[str, Any]]:
    done = run("-c", *arguments, env=hub, timeout=180)
    assert done.returncode == 0, done.stderr[-800:]
    return [json.loads(line) for line in done.stdout.splitlines()]


def test_a_model_of_the_hub_is_loaded_with_progress_and_then_without_a_network(
    hub: dict[str, str], tiny_model_dir: Path, tmp_path: Path
) -> None:
    from quantcore.model.loading import load_model

    (first,) = run_python(hub, LOAD, "tiny/second")
    model = load_model(str(tiny_model_dir), "cpu").model
    assert first["weights"] == pytest.approx(sum(float(one.double().sum()) for one in model.parameters()))
    shares = [share for share, _ in first["told"]]
    assert shares == sorted(shares)
    assert (shares[0], shares[-1]) == (0.0, 1.0)
    assert {doing.split(" ")[0] for _, doing in first["told"]} == {"asking", "downloading", "building", "reading"}
    offline = {**hub, "HF_ENDPOINT": "http://127.0.0.1:9", "HF_HUB_OFFLINE": "1"}
    again, *quantized = run_python(offline, LOAD + QUANTIZE, "tiny/second", str(tmp_path / "out"))
    assert (again["revision"], again["weights"]) == (first["revision"], first["weights"])
    assert first["revision"] == COMMIT
    assert not [doing for _, doing in again["told"] if doing.startswith(("asking", "downloading"))]
    assert [(one["code"], one["said"]["streamed"]) for one in quantized] == [(0, False), (0, True)]
    for one in quantized:
        assert (one["said"]["model"], one["said"]["revision"]) == ("tiny/second", COMMIT)
        assert one["kept"]["revision"] == COMMIT


def test_what_the_hub_does_not_give_is_one_sentence_and_leaves_no_model(hub: dict[str, str]) -> None:
    expected = {
        "tiny/nothing": "the hub has no such id, or shows it only to its members; check the name, or log in",
        "tiny/model@nope": "the hub has the id but not this revision; leave out what follows the @",
        "tiny/gated": "it is gated; accept its terms on its hub page, then log in",
        "tiny/broken": "the hub did not answer, or broke off (no network?); try again, or use 'reference' or",
        "tiny/pickle": "'tiny/pickle' holds no *.safetensors weights but pytorch_model.bin, a pickle",
        "tiny/ggufs": "'tiny/ggufs' holds no *.safetensors weights; download one of its 1 GGUF files and name it",
    }
    for found, (source, sentence) in zip(ask(hub, *expected), expected.items(), strict=True):
        assert sentence in found["error"], source
        assert "\n" not in found["error"]
    # the small files of tiny/broken, which did arrive, are not taken for a model
    for offline in ask({**hub, "HF_ENDPOINT": "http://127.0.0.1:9"}, "tiny/other", "tiny/broken"):
        assert "the hub did not answer, or broke off (no network?)" in offline["error"]
    kept = [path.name for path in Path(hub["HF_HOME"]).rglob("*") if path.is_file()]
    assert not [name for name in kept if name.endswith(".incomplete") or name == "pytorch_model.bin"]


def test_an_index_is_followed_and_a_missing_part_is_named(tiny_model_dir: Path, tmp_path: Path) -> None:
    from quantcore.model.loading import load_model

    folder = tmp_path / "sharded"
    loaded = load_model(str(tiny_model_dir), "cpu")
    model: Any = loaded.model
    model.save_pretrained(folder, max_shard_size="200KB")
    loaded.tokenizer.save_pretrained(folder)
    assert len(list(folder.glob("model-*.safetensors"))) > 1
    again = load_model(str(folder), "cpu")
    assert all(torch.equal(a, b) for a, b in zip(model.parameters(), again.model.parameters(), strict=True))
    next(folder.glob("model-00002*")).unlink()
    with pytest.raises(ValueError, match="lacks 'model-00002.*, which its index names; download it again"):
        load_model(str(folder), "cpu")


def test_weights_that_break_off_are_found_before_they_are_read(tiny_model_dir: Path, tmp_path: Path) -> None:
    from quantcore.model.loading import load_model

    folder = shutil.copytree(tiny_model_dir, tmp_path / "cut")
    os.truncate(folder / "model.safetensors", 300_000)
    with pytest.raises(
        ValueError, match=r"model.safetensors' is no safetensors file, or a part of one \(300,000 bytes; .*again"
    ):
        load_model(str(folder), "cpu")


def test_a_folder_without_permission(tiny_model_dir: Path, tmp_path: Path) -> None:
    folder = shutil.copytree(tiny_model_dir, tmp_path / "closed")
    for above in (tmp_path, *tmp_path.parents[:3]):
        above.chmod(above.stat().st_mode | 0o055) if above.owner() == folder.owner() else None
    folder.chmod(0o000)
    root = os.geteuid() == 0
    if root:
        os.seteuid(65534)
    try:
        with pytest.raises(ValueError, match=r"closed' may not be read by this user; give the right to .*, or copy it"):
            locate(str(folder))
    finally:
        if root:
            os.seteuid(0)
        folder.chmod(0o755)


def test_files_that_are_no_model(tmp_path: Path) -> None:
    pickle = tmp_path / "model.pt"
    pickle.write_bytes(b"\x80\x04")
    with pytest.raises(ValueError, match="is a pickle, which can run code when it is opened; convert it once"):
        locate(str(pickle))
    note = tmp_path / "note.txt"
    note.write_text("no model")
    with pytest.raises(
        ValueError, match="is a file but no GGUF; name a GGUF file, or the folder that config.json is in"
    ):
        locate(str(note))


def test_an_id_that_is_nowhere_is_no_place_and_costs_no_network() -> None:
    assert locate("nobody/has-this-model") is None
    assert source_path("nobody/has-this-model@v1") == "nobody/has-this-model"
    assert source_in_full("nobody/has-this-model@v1") == "nobody/has-this-model@v1"


# ---------------------------------------------------------------- memory


def test_memory_that_is_enough_and_that_is_not(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(memory, "free_memory", lambda _: (3 * 2**30, 8 * 2**30))
    require_memory("'it'", 3 * 2**30, CPU)
    sentence = "'it' needs 3.00 GiB of memory and this machine has 3.00 GiB of 8.00 GiB free; take a smaller model"
    with pytest.raises(ValueError, match=sentence):
        require_memory("'it'", 3 * 2**30 + 1, CPU)
    with pytest.raises(ValueError, match="GPU cuda:1 has .* free; choose the CPU as device, or take a smaller model"):
        require_memory("'it'", 2**33, torch.device("cuda:1"))
    monkeypatch.setattr(memory, "free_memory", lambda _: None)
    require_memory("'it'", 2**60, CPU)  # a system that does not say: nothing to refuse by


def test_a_containers_limit_counts(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Limit 1000, used 700, of which 300 only cache files: 600 are free."""
    monkeypatch.setattr(memory, "MEMINFO", tmp_path / "meminfo")
    (tmp_path / "meminfo").write_text("MemTotal: 16 kB\nMemAvailable: 8 kB\n")
    monkeypatch.setattr(memory, "CGROUP", tmp_path)
    assert free_memory(CPU) == (8 * 1024, 16 * 1024)
    for name, content in {"max": "1000", "current": "700", "stat": "anon 400\ninactive_file 300\n"}.items():
        (tmp_path / f"memory.{name}").write_text(content)
    assert free_memory(CPU) == (600, 1000)
    (tmp_path / "memory.max").write_text("max")
    assert free_memory(CPU) == (8 * 1024, 16 * 1024)
    (tmp_path / "meminfo").unlink()
    assert free_memory(CPU) is None


@pytest.mark.skipif(sys.platform == "win32", reason="limits of a process are Unix's")
def test_a_limit_of_this_process_counts(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Of 5,000 bytes of data 3 kB are taken: 1,928 are free. Where the limit lies below what is taken, none."""
    import resource

    limits = dict.fromkeys((resource.RLIMIT_DATA, resource.RLIMIT_AS), resource.RLIM_INFINITY)
    monkeypatch.setattr(resource, "getrlimit", lambda kind: (limits[kind], resource.RLIM_INFINITY))
    monkeypatch.setattr(memory, "MEMINFO", tmp_path / "meminfo")
    monkeypatch.setattr(memory, "CGROUP", tmp_path)
    monkeypatch.setattr(memory, "STATUS", tmp_path / "status")
    (tmp_path / "meminfo").write_text("MemTotal: 16 kB\nMemAvailable: 8 kB\n")
    (tmp_path / "status").write_text("Name: python\nVmSize: 6 kB\nVmData: 3 kB\n")
    assert free_memory(CPU) == (8 * 1024, 16 * 1024)
    limits[resource.RLIMIT_DATA] = 5000
    assert free_memory(CPU) == (1928, 5000)
    limits[resource.RLIMIT_AS] = 4096
    assert free_memory(CPU) == (0, 4096)


def test_sizes_in_words() -> None:
    assert (size(2**29), size(1.5 * 2**30)) == ("512.0 MiB", "1.50 GiB")
