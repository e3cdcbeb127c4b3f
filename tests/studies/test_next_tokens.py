"""The next token of two models: probabilities, ranks and KL by hand; any prompt gives a report or a sentence."""

import math
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from transformers import PretrainedConfig

from quantcore import quantize_model
from quantcore.model.loading import LoadedModel
from quantcore.studies.next_tokens import last_logits, next_tokens, token_text
from tests.tiny import tiny_tokenizer

PROMPT = "The lighthouse keeper"


class Says(nn.Module):
    """A model that answers every prompt with the same distribution."""

    def __init__(self, *probabilities: float) -> None:
        super().__init__()
        self.logits = torch.tensor(probabilities).log()

    def forward(self, ids: Tensor, use_cache: bool) -> Any:
        return SimpleNamespace(logits=self.logits.expand(1, ids.shape[1], -1))


def test_probabilities_ranks_and_kl_by_hand(tiny_lm: LoadedModel) -> None:
    # KL(p || q) = 1/2 log(1/2 / 1/8) + 1/4 log(1/4 / 1/2) + 1/8 log(1/8 / 1/4) + 0 = (1 - 1/4 - 1/8) log 2;
    # the other way round it would be 1/2 log 2
    loaded = LoadedModel("says", Says(1 / 2, 1 / 4, 1 / 8, 1 / 8), tiny_lm.tokenizer, torch.device("cpu"))
    report = next_tokens_with_context(loaded, Says(1 / 8, 1 / 2, 1 / 4, 1 / 8), k=2)
    assert report.kl == pytest.approx(5 / 8 * math.log(2))
    assert not report.same_first
    assert report.shared == 1
    assert [one.token for one in report.likeliest] == [0, 1]
    assert [one.token for one in report.likeliest_hat] == [1, 2]
    first = report.likeliest[0]
    assert (first.probability, first.probability_hat) == pytest.approx((1 / 2, 1 / 8))
    assert (first.rank, first.rank_hat) == (1, 3)
    assert report.likeliest_hat[0] == report.likeliest[1]


def test_the_same_first_token_with_other_chances_is_the_same(tiny_lm: LoadedModel) -> None:
    loaded = LoadedModel("says", Says(0.5, 0.3, 0.15, 0.05), tiny_lm.tokenizer, torch.device("cpu"))
    report = next_tokens_with_context(loaded, Says(0.9, 0.05, 0.03, 0.02), k=2)
    assert report.same_first
    assert report.shared == 2
    assert report.kl > 0


def next_tokens_with_context(loaded: LoadedModel, model_hat: nn.Module, k: int) -> Any:
    loaded.model.config = PretrainedConfig(max_position_embeddings=64)
    return next_tokens(loaded, model_hat, PROMPT, k)


def test_the_float_model_beside_itself_differs_in_nothing(tiny_lm: LoadedModel) -> None:
    report = next_tokens(tiny_lm, tiny_lm.model, PROMPT)
    assert report.kl == 0
    assert report.same_first
    assert report.shared == 5
    assert report.likeliest == report.likeliest_hat
    assert [one.rank for one in report.likeliest] == [1, 2, 3, 4, 5]
    assert report.dropped == 0


def test_fewer_bits_are_further_away(tiny_lm: LoadedModel) -> None:
    kl = [next_tokens(tiny_lm, quantize_model(tiny_lm.model, f"w:int{b}/channel")[0], PROMPT).kl for b in (2, 4, 8)]
    assert kl[0] > kl[1] > kl[2] > 0


def test_probabilities_are_the_models_own(tiny_lm: LoadedModel) -> None:
    ids = torch.tensor([tiny_lm.tokenizer(PROMPT)["input_ids"]])
    whole = tiny_lm.model(ids).logits[0, -1].softmax(-1)
    report = next_tokens(tiny_lm, tiny_lm.model, PROMPT, k=len(whole))
    assert report.tokens == ids.shape[1]
    assert sum(one.probability for one in report.likeliest) == pytest.approx(1, abs=1e-5)
    for one in report.likeliest:
        assert one.probability == pytest.approx(float(whole[one.token]), rel=1e-4)


def test_a_prompt_beyond_the_context_keeps_its_end(tiny_lm: LoadedModel) -> None:
    long = "storm " * 400 + PROMPT
    report = next_tokens(tiny_lm, tiny_lm.model, long)
    count = len(tiny_lm.tokenizer(long)["input_ids"])
    assert report.tokens == tiny_lm.context == 256
    assert report.dropped == count - 256 > 0
    tail = [0, *tiny_lm.tokenizer(long)["input_ids"][-255:]]
    assert report.likeliest[0].token == int(last_logits(tiny_lm.model, torch.tensor([tail])).argmax())


MARK = "<|endoftext|>"
ODD = ["\ud800 lone", "\U0001f600\U0001f469\u200d\U0001f680", "\u0645\u0631\u062d", "\x00\x07", MARK, "a"]


@pytest.mark.parametrize("prompt", ODD)
def test_any_characters_give_a_report(tiny_lm: LoadedModel, prompt: str) -> None:
    report = next_tokens(tiny_lm, tiny_lm.model, prompt)
    assert report.tokens >= (1 if prompt == MARK else 2)  # the mark that begins a text is not put before itself
    assert len(report.likeliest) == 5


@pytest.mark.parametrize("prompt", ["", "   ", "\n\t"])
def test_an_empty_prompt_is_refused(tiny_lm: LoadedModel, prompt: str) -> None:
    with pytest.raises(ValueError, match="the prompt is empty .* type the start of a sentence"):
        next_tokens(tiny_lm, tiny_lm.model, prompt)


@pytest.mark.parametrize("k", [0, 301])
def test_a_list_longer_than_the_vocabulary_is_refused(tiny_lm: LoadedModel, k: int) -> None:
    with pytest.raises(ValueError, match=f"k={k} tokens cannot be listed from a vocabulary of 300"):
        next_tokens(tiny_lm, tiny_lm.model, PROMPT, k)


def test_tokens_are_told_apart(tiny_lm: LoadedModel) -> None:
    vocabulary = tiny_tokenizer().get_vocab()
    assert (
        token_text(tiny_lm.tokenizer, vocabulary["\u0120the"]) == '" the"'
    )  # a byte-level BPE writes a space as U+0120
    assert token_text(tiny_lm.tokenizer, vocabulary["\u010a"]) == '"\\n"'
    half = vocabulary["\u00c3"]  # the first byte of a two-byte character
    assert token_text(tiny_lm.tokenizer, half) == f"<part of a character, token {half}>"
