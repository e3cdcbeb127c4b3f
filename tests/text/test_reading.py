"""A reading: one line of text says which text is read and how it is cut; the defaults stand in one place."""

import re

import pytest
import torch

from quantcore.model.loading import LoadedModel
from quantcore.text.files import LoadedText
from quantcore.text.reading import CALIBRATE, EACH_LAYER, EVALUATE, STUDY, Reading, Texts
from quantcore.text.windows import TEXT_KINDS, bundled_text, token_windows
from tests.tiny import CONTEXT

LAMP = LoadedText("lamp.txt", ("The keeper lit the lamp before the storm came in. " * 40,))


@pytest.mark.parametrize(
    ("text", "reading"),
    [
        ("evaluation/story|8x128", Reading("evaluation/story", 8, 128)),
        ("own:0123456789abcdef|4x64|chat", Reading("own:0123456789abcdef", 4, 64, chat=True)),
        ("calibration/all|30x512|seed7", Reading("calibration/all", 30, 512, seed=7)),
    ],
)
def test_a_line_of_text_says_what_is_read(text: str, reading: Reading) -> None:
    assert Reading.parse(text) == reading
    assert str(reading) == text


def test_what_a_line_leaves_out_is_the_purposes_own() -> None:
    assert Reading.parse("evaluation/story") == Reading("evaluation/story", 1, 512)
    assert Reading.parse("evaluation/story", EVALUATE) == Reading("evaluation/story", 10, 256)
    assert Reading.parse("calibration/all", CALIBRATE) == CALIBRATE
    assert [str(one) for one in (STUDY, EVALUATE, EACH_LAYER)] == [
        "evaluation/encyclopedia|1x512", "evaluation/all|10x256", "calibration/all|5x128",
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("evaluation/story|8", "cannot read '8' of 'evaluation/story|8'; a cut is 8x128, and `chat` or `seed3`"),
        ("evaluation/story|8x128|talk", "cannot read 'talk'"),
        ("evaluation/story|0x128", "0 windows of 128 tokens cannot be read"),
        ("evaluation/story|1x1", "1 windows of 1 tokens cannot be read: a model needs two"),
        ("evaluation/story|1x8|chat", "evaluation/story is no conversation, so it has no place in a chat template"),
    ],
)
def test_what_is_wrong_with_a_line_is_told(text: str, sentence: str) -> None:
    with pytest.raises(ValueError, match=re.escape(sentence)):
        Reading.parse(text)


@pytest.mark.parametrize(
    ("source", "tokens", "length", "cut"),
    [
        ("evaluation/all", 2560, None, (10, 256)),  # 512 of each of five kinds: two windows
        ("evaluation/all", 5120, None, (20, 256)),
        ("evaluation/all", 640, None, (5, 128)),  # 128 of each: shorter windows
        ("evaluation/all", 2560, 2048, (5, 512)),  # longer windows than a share has: as long as the share
        ("evaluation/story", 2560, None, (10, 256)),
        ("evaluation/story", 100, None, (1, 100)),
        ("evaluation/story", 300, None, (1, 256)),  # whole windows
    ],
)
def test_at_most_so_many_tokens(source: str, tokens: int, length: int | None, cut: tuple[int, int]) -> None:
    found = Reading(source, 10, 256).at_most(tokens, length)
    assert (found.windows, found.length) == cut


def test_the_defaults_are_whole_shares_and_their_own_limit() -> None:
    for usual in (STUDY, EVALUATE, CALIBRATE, EACH_LAYER):
        assert usual.windows % usual.kinds == 0
        assert usual.at_most(usual.windows * usual.length) == usual


def test_every_kind_has_an_equal_share(tiny_lm: LoadedModel) -> None:
    found = Reading("evaluation/all", 10, 64).tokens(tiny_lm, Texts())
    each = [token_windows(tiny_lm.tokenizer, bundled_text("evaluation", kind), 64, 128) for kind in TEXT_KINDS]
    assert found.equal(torch.cat(each))
    assert found.shape == (10, 64)


def test_a_short_context_makes_more_windows_of_the_same_tokens(tiny_lm: LoadedModel) -> None:
    assert CONTEXT == 256
    found = Reading("calibration/story", 2, 512).tokens(tiny_lm, Texts())
    assert found.equal(token_windows(tiny_lm.tokenizer, bundled_text("calibration", "story"), 256, 1024))
    assert found.shape == (4, 256)


def test_a_seed_draws_other_windows_and_the_same_again(tiny_lm: LoadedModel) -> None:
    texts = Texts()
    first, one, again, two = (
        Reading.parse(f"evaluation/code|3x32{seed}").tokens(tiny_lm, texts)
        for seed in ("", "|seed1", "|seed1", "|seed2")
    )
    assert one.equal(again)
    assert not one.equal(two)
    assert not one.equal(first)
    every = token_windows(tiny_lm.tokenizer, bundled_text("evaluation", "code"), 32)
    assert all((every == row).all(1).any() for row in one)


def test_an_own_text_goes_by_what_it_says(tiny_lm: LoadedModel) -> None:
    texts = Texts()
    source = texts.keep(LAMP)
    assert source == f"own:{LAMP.hash}" == texts.keep(LoadedText("other name.txt", LAMP.documents))
    reading = Reading(source, 2, 32)
    assert reading.tokens(tiny_lm, texts).equal(token_windows(tiny_lm.tokenizer, LAMP.joined(), 32, 64))
    assert reading.words(texts) == f"other name.txt (SHA-256 {LAMP.hash})"
    assert STUDY.of(reading) == Reading(source, 1, 512)
    with pytest.raises(
        ValueError, match="the text own:.* is not here .any more.; paste it, upload it or read it again"
    ):
        reading.tokens(tiny_lm, Texts())


def test_the_oldest_own_texts_go_when_all_are_too_long() -> None:
    texts = Texts(most_characters=25)
    old, young = (texts.keep(LoadedText("a", (letter * 10,))) for letter in "ab")
    texts.keep(LoadedText("a", ("a" * 10,)))  # asked for again: now the youngest
    new = texts.keep(LoadedText("a", ("c" * 10,)))
    assert texts[old].joined() == "a" * 10
    assert texts[new].joined() == "c" * 10
    with pytest.raises(ValueError, match="is not here"):
        texts[young]
    alone = texts.keep(LoadedText("a", ("d" * 99,)))
    assert len(texts[alone].joined()) == 99  # one text is always kept


def test_a_name_that_is_none_of_ours_is_told(tiny_lm: LoadedModel) -> None:
    for source, sentence in (("story", "'story' names no text; try evaluation/all"), ("evaluation/poem", "'poem'")):
        with pytest.raises(ValueError, match=sentence):
            Reading(source, 1, 8).tokens(tiny_lm, Texts())
