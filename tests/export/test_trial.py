"""What was written is run by transformers before an export is done, and must say what our own layers say."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM

from benchmarks.zoo_models import build, save
from quantcore.export import trial, writing
from quantcore.export.checkpoint import export_checkpoint
from quantcore.model.loading import LoadedModel
from quantcore.model.streamed import StreamedModel

TOKENS = torch.arange(3, 67).view(2, 32)


@pytest.mark.parametrize("scheme", ["w:int4/group16", "W8A8", "w:int8/channel,a:int8/tensor/static/asym"])
def test_the_logits_are_ours(tiny_lm: LoadedModel, scheme: str, tmp_path: Path) -> None:
    report = export_checkpoint(tiny_lm, scheme, tmp_path / "out", TOKENS)
    assert report.logits_apart is not None
    assert report.logits_apart < 1e-4


def test_zero_points_are_rounded_once_more(tiny_lm: LoadedModel, tmp_path: Path) -> None:
    report = export_checkpoint(tiny_lm, "w:int4/group16/asym", tmp_path / "out", dtype=torch.bfloat16)
    assert report.logits_apart is not None
    assert 0 < report.logits_apart < trial.MOST_APART


@pytest.mark.parametrize(
    "scheme",
    [
        "w:int4/group16,gptq",
        "w:int8/channel,a:int8/tensor/static",
        "w:int8/channel,rotate=hadamard",
        "w:int8/channel@lm_head=w:int8/channel",
    ],
)
def test_a_model_in_its_files_is_run_too(tiny_model_dir: Path, scheme: str, tmp_path: Path) -> None:
    streamed = StreamedModel(str(tiny_model_dir), "cpu")
    report = export_checkpoint(streamed, scheme, tmp_path / "out", TOKENS, dtype=torch.bfloat16)
    assert report.logits_apart is not None
    assert report.logits_apart < 1e-4


def test_experts_in_their_files_are_run_too(tmp_path: Path) -> None:
    folder = save(build("qwen3_moe"), tmp_path / "model")
    report = export_checkpoint(StreamedModel(str(folder), "cpu"), "w:int8/channel,rotate=hadamard", tmp_path / "out")
    assert report.logits_apart is not None
    assert report.logits_apart < 1e-4


def test_a_model_in_a_narrow_type_is_run_in_float32(tiny_lm: LoadedModel, tiny_model_dir: Path, tmp_path: Path) -> None:
    """As one on a GPU is held: in bfloat16 its logits would be a hundredth away."""
    narrow = replace(tiny_lm, model=AutoModelForCausalLM.from_pretrained(tiny_model_dir, dtype=torch.bfloat16).eval())
    report = export_checkpoint(narrow, "W8A8", tmp_path / "out")
    assert report.logits_apart is not None
    assert report.logits_apart < 1e-4


@pytest.mark.parametrize("streamed", [False, True])
def test_codes_at_the_wrong_place_are_seen(
    tiny_lm: LoadedModel, tiny_model_dir: Path, streamed: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Names and shapes are right, two layers' scales took each other's place."""

    def exchanged(*arguments, **more):  # type: ignore[no-untyped-def]
        for name, tensors in checkpoint_parts(*arguments, **more):
            if "weight_scale" in tensors:
                tensors["weight_scale"] = tensors["weight_scale"].flip(0)
            yield name, tensors

    checkpoint_parts = writing.checkpoint_parts
    monkeypatch.setattr(writing, "checkpoint_parts", exchanged)
    source = StreamedModel(str(tiny_model_dir), "cpu") if streamed else tiny_lm
    with pytest.raises(ValueError, match=r"its logits are .* of their size away from ours; nothing is left of it"):
        export_checkpoint(source, "w:int8/channel", tmp_path / "out")
    assert list(tmp_path.iterdir()) == []


def test_a_model_too_large_is_not_tried_and_says_so(
    tiny_lm: LoadedModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(trial, "MOST_NUMBERS", 10_000)
    report = export_checkpoint(tiny_lm, "w:int8/channel", tmp_path / "out")
    assert report.logits_apart is None
    assert report.notes[-1].startswith("transformers was not asked for its logits: 0 M numbers are more than the 0 M")
    monkeypatch.undo()
    monkeypatch.setattr(trial, "free_memory", lambda _: (2**20, 2**30))
    report = export_checkpoint(tiny_lm, "w:int8/channel", tmp_path / "other")
    assert report.logits_apart is None
    assert "MiB of memory, and 1.0 MiB are free" in report.notes[-1]


def test_a_model_that_does_not_run_alone_is_not_tried_and_says_so(
    tiny_lm: LoadedModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fails(_: object) -> None:
        raise RuntimeError("no such picture")

    monkeypatch.setattr(trial.Ours, "whole", fails)
    report = export_checkpoint(tiny_lm, "w:int8/channel", tmp_path / "out")
    assert report.logits_apart is None
    assert "this model does not run on tokens alone (RuntimeError: no such picture)" in report.notes[-1]


def test_what_does_not_run_is_told(tiny_lm: LoadedModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    kind = type(tiny_lm.model)

    def fails(*_: object, **__: object) -> None:
        raise RuntimeError("no such kernel")

    loads = kind.from_pretrained
    monkeypatch.setattr(
        kind, "from_pretrained", lambda first, *rest, **how: loads(first, *rest, **how) if first is None else fails()
    )
    with pytest.raises(ValueError, match=r"transformers cannot run it \(RuntimeError: no such kernel\)"):
        export_checkpoint(tiny_lm, "w:int8/channel", tmp_path / "out")
