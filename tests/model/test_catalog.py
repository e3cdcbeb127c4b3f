"""The list of models: ids that can be typed, marks that follow the hub's cache."""

import re
import shutil
from pathlib import Path

import pytest
from huggingface_hub import constants

from quantcore.model import catalog, locate
from quantcore.model.catalog import CATALOG, cached_models, on_this_machine
from quantcore.model.loading import load_model
from tests.fake_hub import COMMIT


@pytest.fixture
def cache(tmp_path: Path, tiny_model_dir: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A hub cache that holds the tiny model as two ids, one of them without weights."""
    for name in ("owner--whole", "owner--part"):
        snapshot = tmp_path / f"models--{name}" / "snapshots" / COMMIT
        shutil.copytree(tiny_model_dir, snapshot)
        (tmp_path / f"models--{name}" / "refs").mkdir()
        (tmp_path / f"models--{name}" / "refs" / "main").write_text(COMMIT)
    (tmp_path / "models--owner--part" / "snapshots" / COMMIT / "model.safetensors").unlink()
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    return tmp_path


def test_every_entry_can_be_typed_and_says_why() -> None:
    assert len({entry.id for entry in CATALOG}) == len(CATALOG) == 8
    for entry in CATALOG:
        assert locate.HUB_ID.fullmatch(entry.id)
        assert re.fullmatch(r"[\d.]+ [MB]", entry.size)
        assert len(entry.why) > 30


def test_the_reference_models_size_is_that_of_its_weights() -> None:
    parameters = sum(p.numel() for p in load_model("reference", "cpu").model.parameters())
    assert f"{parameters / 1e6:.1f} M" == CATALOG[0].size


def test_what_is_in_the_cache_is_marked_and_loads(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from huggingface_hub import file_download

    monkeypatch.setattr(file_download, "HF_HUB_CACHE", str(cache), raising=False)
    monkeypatch.setattr(file_download.constants, "HF_HUB_CACHE", str(cache))
    assert on_this_machine("reference")
    assert on_this_machine("owner/whole")
    assert not on_this_machine("owner/part")
    assert not on_this_machine("no such/place/at all")
    assert cached_models() == ["owner/whole"]
    loaded = load_model("owner/whole", "cpu")
    assert (loaded.id, loaded.revision) == ("owner/whole", COMMIT)


def test_a_machine_without_a_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "none"))
    assert catalog.cached_models() == []
