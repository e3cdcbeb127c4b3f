"""Greedy answers of many prompts: each as one prompt alone would have it, parted where they differ first."""

import pytest
import torch
from torch import nn

from quantcore import quantize_model
from quantcore.lab.lab import Lab
from quantcore.measure.store import Store
from quantcore.model.loading import LoadedModel
from quantcore.pipeline.calibration import Progress
from quantcore.studies.answers import Answers, greedy_answers, wilson
from quantcore.studies.generation import parts_at, written_on


@pytest.fixture(scope="module")
def prompts() -> torch.Tensor:
    return torch.randint(3, 200, (18, 12), generator=torch.Generator().manual_seed(4))  # two batches


def test_every_token_is_the_likeliest_after_all_before_it(tiny_lm: LoadedModel, prompts: torch.Tensor) -> None:
    heard: list[int] = []
    found = written_on(tiny_lm.model, prompts, 5, set(), heard.append)
    assert heard == list(range(1, 11))
    for row in (0, 17):
        ids = prompts[row : row + 1]
        for token in found[row]:
            assert int(tiny_lm.model(ids).logits[0, -1].argmax()) == token
            ids = torch.cat([ids, torch.tensor([[token]])], 1)


def test_an_answer_ends_at_the_end_mark(tiny_lm: LoadedModel, prompts: torch.Tensor) -> None:
    whole = written_on(tiny_lm.model, prompts[:2], 6, set(), lambda _: None)
    end = whole[0][2]
    cut = written_on(tiny_lm.model, prompts[:2], 6, {end}, lambda _: None)
    assert cut[0] == whole[0][: whole[0].index(end) + 1]


def test_where_answers_part_by_hand() -> None:
    assert [parts_at((1, 2), (1, 2)), parts_at((1, 2), (1, 3)), parts_at((1, 2), (1,))] == [None, 1, 1]
    found = Answers(((0,),) * 4, ((1, 2, 3),) * 4, {}, {"a": (None, 0, 2, 2)}, 3)
    assert found.alike("a") == [1.0, 0.75, 0.75, 0.25]
    assert found.share("a")[0] == 0.75


def test_the_interval_of_a_share() -> None:
    """Wilson's for 8 of 10, from the literature: .490 to .943; a share of 0 has no lower end below 0."""
    share, lo, hi = wilson(8, 10)
    assert (share, lo, hi) == (0.8, pytest.approx(0.490, abs=1e-3), pytest.approx(0.943, abs=1e-3))
    assert wilson(0, 40)[1] == 0
    assert wilson(0, 40)[2] == pytest.approx(0.0876, abs=1e-3)


def test_the_same_model_never_parts_and_a_coarse_one_does(tiny_lm: LoadedModel, prompts: torch.Tensor) -> None:
    def quantized(scheme: str, tell: Progress | None) -> nn.Module:
        return quantize_model(tiny_lm.model, scheme, progress=tell)[0]

    shares: list[float] = []
    asked = ("float", "w:int2/channel")
    found = greedy_answers(tiny_lm.model, quantized, asked, prompts, 6, set(), lambda share, _: shares.append(share))
    assert found.share("float")[0] == 0
    assert found.share("w:int2/channel")[0] > 0.5
    assert shares == sorted(shares)
    assert shares[-1] == 1
    coarse = quantized("w:int2/channel", None)
    assert found.wrote_hat["w:int2/channel"] == written_on(coarse, prompts, 6, set(), lambda _: None)
    with pytest.raises(ValueError, match="0 tokens are no answers"):
        greedy_answers(tiny_lm.model, quantized, asked, prompts, 0, set())


def test_the_labs_prompts_are_windows_of_a_text(tiny_lm: LoadedModel, tmp_path) -> None:  # type: ignore[no-untyped-def]
    lab = Lab(tiny_lm, store=Store(tmp_path))
    found = lab.answers(("w:int3/channel",), 4, "evaluation/story|3x20")
    assert found.prompts == tuple(map(tuple, lab.tokens("evaluation/story|3x20").tolist()))
    with pytest.raises(ValueError, match=r"prompts of 250 tokens and answers of 32 are more than the 256 tokens"):
        lab.answers(("w:int3/channel",), 32, "evaluation/story|1x250")
