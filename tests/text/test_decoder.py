"""Tokens as text: many in one question, none asked twice."""

from collections.abc import Sequence

from quantcore.model.loading import LoadedModel
from quantcore.text.decoder import Decoder


class Counting:
    def __init__(self) -> None:
        self.asked: list[list[int]] = []

    def batch_decode(self, runs: Sequence[Sequence[int]]) -> list[str]:
        self.asked.append([one for (one,) in runs])
        return [f"<{one}>" for (one,) in runs]


def test_many_are_one_question_and_none_is_asked_twice() -> None:
    tokenizer = Counting()
    decode = Decoder(tokenizer)
    assert decode.all([3, 1, 3]) == ["<3>", "<1>", "<3>"]
    assert decode(1) == "<1>"
    assert decode.all([]) == []
    assert decode.all([1, 7]) == ["<1>", "<7>"]
    assert tokenizer.asked == [[1, 3], [7]]


def test_a_real_tokenizer_says_the_same_of_each(tiny_lm: LoadedModel) -> None:
    tokens = list(range(0, 60, 7))
    assert Decoder(tiny_lm.tokenizer).all(tokens) == [tiny_lm.tokenizer.decode([one]) for one in tokens]
