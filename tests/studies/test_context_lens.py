"""A coded cache along the context: what the whole window says is what the pieces say, and recall is by hand."""

from pathlib import Path

import pytest
import torch

from quantcore import compare, quantize_model
from quantcore.lab.context import cache_of
from quantcore.lab.lab import Lab
from quantcore.measure.store import Store
from quantcore.model.loading import LoadedModel
from quantcore.scheme.scheme import Scheme
from quantcore.studies import context_lens as lens
from quantcore.studies.context_lens import FLOAT, RECALLED, ContextLens, context_lens

FINE, COARSE = "kv:int8/token/dynamic", "kv:int4/group16/dynamic"


@pytest.fixture(scope="module")
def tokens() -> torch.Tensor:
    return torch.randint(3, 200, (7, 90), generator=torch.Generator().manual_seed(8))


def caches(*texts: str) -> lens.Caches:
    return {text: (Scheme.parse(text).kv, {}) for text in texts}


def test_it_is_the_kl_of_the_model_with_that_cache(
    tiny_lm: LoadedModel, tokens: torch.Tensor, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In pieces of 20, several windows at a time; `compare` reads each window at once."""
    monkeypatch.setattr(lens, "PIECE", 20)
    monkeypatch.setattr(lens, "AT_ONCE", 60)
    heard: list[ContextLens] = []
    shares: list[float] = []
    found = context_lens(
        tiny_lm.model, caches(FINE, COARSE), tokens, lambda share, _: shares.append(share), heard.append
    )
    for text in (FINE, COARSE):
        quantized, _ = quantize_model(tiny_lm.model, text)
        report = compare(tiny_lm.model, quantized, tokens)
        assert float(found.kl[text][:, :-1].double().mean()) == pytest.approx(report.kl, rel=1e-3)
        assert 1 - float(found.flips[text][:, :-1].double().mean()) == pytest.approx(report.top1_agreement)
        assert found.kl[text].shape == (7, 90)
    assert found.kl[FINE].mean() < found.kl[COARSE].mean()
    assert [len(one.kl[FINE]) for one in heard] == [3, 6]
    assert shares == sorted(shares)
    assert shares[-1] == 1
    again = found.along(found.kl[COARSE])
    assert len(again) == len(found.edges) - 1 == 16
    assert again[0].value == pytest.approx(float(found.kl[COARSE][:, : found.edges[1]].double().mean()))
    assert all(one.lo <= one.value <= one.hi for one in again)


def test_recall_is_what_the_second_time_gains(tiny_lm: LoadedModel, tokens: torch.Tensor) -> None:
    found = context_lens(tiny_lm.model, caches(FINE), tokens)
    window = torch.cat([tokens[2], tokens[2, :RECALLED]])[None]
    log_p = tiny_lm.model(window).logits[0].log_softmax(-1)
    said = log_p[:-1].gather(-1, window[0, 1:, None])[:, 0]
    assert torch.allclose(found.said[FLOAT][2], said, atol=1e-4)
    means = []
    for its in found.said[FLOAT].double():
        means.append(float(its[90 : 90 + RECALLED - 1].mean() - its[: RECALLED - 1].mean()))
    assert found.recall(FLOAT).value == pytest.approx(sum(means) / len(means))


def test_bytes_are_those_that_the_cache_holds(tiny_lm: LoadedModel, tokens: torch.Tensor) -> None:
    """2 blocks x keys and values x 2 heads x 16 numbers a token; int8 has a float32 scale a head and token."""
    held = context_lens(tiny_lm.model, caches(FINE), tokens).held
    count = 2 * 2 * 2 * (90 + RECALLED)
    assert held == {FLOAT: count * 16 * 4, FINE: count * (16 + 4)}


def test_what_the_lab_refuses(tiny_lm: LoadedModel, tmp_path: Path) -> None:
    lab = Lab(tiny_lm, store=Store(tmp_path))
    with pytest.raises(ValueError, match="must speak of the cache alone; write kv:int8/token"):
        lab.context_lens(("W8A8",))
    with pytest.raises(ValueError, match="0 caches cannot be seen at once; give one to 6"):
        lab.context_lens(())
    with pytest.raises(ValueError, match="does not divide head_dim=16"):
        cache_of(lab, "kv:int4/group64")
    with pytest.raises(ValueError, match="windows of 40 tokens are too short for a lens; take 64 or more"):
        lab.context_lens((FINE,), "evaluation/story|1x40")
    found = lab.context_lens(("kv:fp8_e4m3/tensor/static",), "evaluation/story|2x256", "calibration/story|2x64")
    assert found.length == 256 - RECALLED  # the model reads 256 tokens


def test_the_lab_keeps_it_and_its_progress_goes_up(tiny_lm: LoadedModel, tmp_path: Path) -> None:
    """Two caches need ranges, one does not: their parts of the progress follow one another."""
    lab, told = Lab(tiny_lm, store=Store(tmp_path)), list[float]()
    caches = ("kv:fp8_e4m3/tensor/static", "kv:int8/token/dynamic", "kv:fp8_e4m3/head/static")
    asked = (caches, "evaluation/story|2x80", "calibration/story|2x80")
    found = lab.context_lens(*asked, progress=lambda share, _: told.append(share))
    assert told == sorted(told)
    assert told[-1] == 1
    kept = Lab(tiny_lm, store=Store(tmp_path)).kept_context_lens(*asked)
    assert kept is not None
    assert (list(kept.kl), list(kept.said), kept.held) == (list(found.kl), list(found.said), found.held)
    for part in ("kl", "flips", "said"):
        for name, one in getattr(found, part).items():
            assert torch.equal(getattr(kept, part)[name], one)
    assert lab.kept_context_lens(caches[:2], *asked[1:]) is None
