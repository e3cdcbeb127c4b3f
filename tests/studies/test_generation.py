"""Both models write from one prompt: equal models never part, the noise of a seed is shared, greedy is greedy."""

import pytest
import torch

from quantcore import quantize_model
from quantcore.model.loading import LoadedModel
from quantcore.studies.generation import Written, write_on

PROMPT = "The lighthouse keeper"


def test_greedy_takes_the_likeliest_each_time(tiny_lm: LoadedModel) -> None:
    shares: list[float] = []
    written = write_on(tiny_lm, tiny_lm.model, PROMPT, 12, progress=lambda share, _: shares.append(share))
    assert shares == [step / 24 for step in range(1, 25)]
    ids = torch.tensor([tiny_lm.tokenizer(PROMPT)["input_ids"]])
    for token in written.tokens:
        assert int(tiny_lm.model(ids).logits[0, -1].argmax()) == token
        ids = torch.cat([ids, torch.tensor([[token]])], 1)
    assert written.parted is None
    assert len(written.texts) == len(written.tokens)


def test_a_seed_draws_and_equal_models_do_not_part(tiny_lm: LoadedModel) -> None:
    drawn = [write_on(tiny_lm, tiny_lm.model, PROMPT, 20, seed) for seed in (1, 1, 2)]
    assert drawn[0] == drawn[1] != drawn[2]
    assert drawn[0].parted is None
    assert drawn[0].tokens != write_on(tiny_lm, tiny_lm.model, PROMPT, 20).tokens


def test_a_coarse_model_parts(tiny_lm: LoadedModel) -> None:
    coarse, _ = quantize_model(tiny_lm.model, "w:int2/channel")
    written = write_on(tiny_lm, coarse, PROMPT, 20)
    first = written.parted
    assert first is not None
    assert written.tokens[:first] == written.tokens_hat[:first]
    assert written.tokens[first] != written.tokens_hat[first]


def test_where_they_part_by_hand() -> None:
    def parted(a: tuple[int, ...], b: tuple[int, ...]) -> int | None:
        return Written("", a, b, (), ()).parted

    assert [parted((1, 2), (1, 2)), parted((1, 2), (1, 3)), parted((1, 2), (1,)), parted((), (1,))] == [None, 1, 1, 0]


def test_what_cannot_be_written_is_told(tiny_lm: LoadedModel) -> None:
    with pytest.raises(ValueError, match="0 tokens cannot be written; ask for 1 to 256"):
        write_on(tiny_lm, tiny_lm.model, PROMPT, 0)
