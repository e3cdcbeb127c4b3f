"""What was written is run by transformers before an export is done, and must say what our own layers say."""

from pathlib import Path

import pytest
import torch

from quantcore.export import checkpoint, trial
from quantcore.export.checkpoint import export_checkpoint
from quantcore.model.loading import LoadedModel

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


def test_codes_at_the_wrong_place_are_seen(
    tiny_lm: LoadedModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Names and shapes are right, two layers' scales took each other's place."""

    def exchanged(*arguments, **more):  # type: ignore[no-untyped-def]
        for name, tensors in checkpoint_parts(*arguments, **more):
            if "weight_scale" in tensors:
                tensors["weight_scale"] = tensors["weight_scale"].flip(0)
            yield name, tensors

    checkpoint_parts = checkpoint.checkpoint_parts
    monkeypatch.setattr(checkpoint, "checkpoint_parts", exchanged)
    with pytest.raises(ValueError, match=r"its logits are .* of their size away from ours; nothing is left of it"):
        export_checkpoint(tiny_lm, "w:int8/channel", tmp_path / "out")
    assert list(tmp_path.iterdir()) == []


def test_a_model_too_large_is_not_tried(tiny_lm: LoadedModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(trial, "MOST_NUMBERS", 1000)
    assert export_checkpoint(tiny_lm, "w:int8/channel", tmp_path / "out").logits_apart is None


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
