"""A long text is tokenized piece by piece, and its ids are those of the whole, whatever the tokenizer puts where."""

from collections.abc import Callable, Iterator
from typing import Any

import pytest
from tokenizers import Regex, Tokenizer, models, normalizers, pre_tokenizers, trainers
from transformers import AutoTokenizer, PreTrainedTokenizerFast

from quantcore.model.locate import REFERENCE, source_path
from quantcore.text import pieces
from quantcore.text.pieces import ids_of
from quantcore.text.windows import bundled_text

LLAMA_3 = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}"
    r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)


def learned(model: Any, trainer: Any, pre_tokenizer: Any = None, normalizer: Any = None) -> PreTrainedTokenizerFast:
    made = Tokenizer(model)
    if pre_tokenizer is not None:
        made.pre_tokenizer = pre_tokenizer
    if normalizer is not None:
        made.normalizer = normalizer
    made.train_from_iterator(bundled_text("calibration").splitlines(keepends=True), trainer)
    return PreTrainedTokenizerFast(tokenizer_object=made)


def byte_level(pre_tokenizer: Any) -> PreTrainedTokenizerFast:
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(vocab_size=900, initial_alphabet=alphabet, show_progress=False)
    return learned(models.BPE(), trainer, pre_tokenizer)


def llama_2() -> PreTrainedTokenizerFast:
    """No words: the whole text is one, with a mark before it and for each space."""
    marked = normalizers.Sequence([normalizers.Prepend("\u2581"), normalizers.Replace(" ", "\u2581")])
    model = models.BPE(unk_token="<unk>", fuse_unk=True)
    trainer = trainers.BpeTrainer(vocab_size=600, special_tokens=["<unk>"], show_progress=False)
    return learned(model, trainer, None, marked)


def t5() -> PreTrainedTokenizerFast:
    trainer = trainers.UnigramTrainer(
        vocab_size=600, unk_token="<unk>", special_tokens=["<unk>"], show_progress=False, max_piece_length=6,
        shrinking_factor=0.4, n_sub_iterations=1,
    )  # fmt: skip
    return learned(models.Unigram(), trainer, pre_tokenizers.Metaspace())


def bert() -> PreTrainedTokenizerFast:
    trainer = trainers.WordPieceTrainer(vocab_size=900, special_tokens=["[UNK]"], show_progress=False)
    model = models.WordPiece(unk_token="[UNK]")
    return learned(model, trainer, pre_tokenizers.BertPreTokenizer(), normalizers.BertNormalizer())


TOKENIZERS: dict[str, Callable[[], Any]] = {
    "reference": lambda: AutoTokenizer.from_pretrained(source_path(REFERENCE)),
    "space before": lambda: byte_level(pre_tokenizers.ByteLevel(add_prefix_space=True)),
    "Llama 3's words": lambda: byte_level(
        pre_tokenizers.Sequence(
            [
                pre_tokenizers.Split(Regex(LLAMA_3), "isolated"),
                pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
            ]
        )
    ),
    "no words": lambda: byte_level(pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)),
    "Llama 2's marks": llama_2,
    "T5's marks": t5,
    "BERT": bert,
}
STORY = bundled_text("evaluation", "story")
TEXTS = {
    "lines": bundled_text("evaluation"),
    "code": bundled_text("evaluation", "code"),
    "blank lines": STORY.replace("\n", "\n\n"),
    "Windows' lines": STORY.replace("\n", "\r\n"),
    "one line": STORY.replace("\n", " "),
    "many spaces": STORY.replace(" ", "   "),
    "no capitals, no ASCII": "漢字、仮名 交じり。\n文の例 \u0627\u0644\u0645 e\u0301\u0301 \U0001f600\u200d\U0001f680\n"
    * 400,
    "numbers": "\n".join(str(7 ** (place % 40)) for place in range(1000)),
    "marks of the end": STORY.replace(". ", ". <|endoftext|>\n"),
}


@pytest.fixture(scope="module", params=TOKENIZERS)
def tokenizer(request: pytest.FixtureRequest) -> Any:
    return TOKENIZERS[request.param]()


@pytest.mark.parametrize("size", [700, 1999])
@pytest.mark.parametrize("text", TEXTS)
def test_pieces_have_the_ids_of_the_whole(
    tokenizer: Any, text: str, size: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    written, asked = TEXTS[text], list[int]()

    def counting(part: str, **options: Any) -> Any:
        asked.append(len(part))
        return tokenizer(part, **options)

    whole = tokenizer(written, add_special_tokens=False)["input_ids"]
    monkeypatch.setattr(pieces, "PIECE", size)
    assert ids_of(counting, [written]).tolist() == whole
    assert max(asked) <= 4 * size + pieces.CONTEXT  # and it was read in pieces
    assert ids_of(tokenizer, [written[:5001], "", written[5001:]]).tolist() == whole


def pairs(text: str, **_: Any) -> dict[str, list[int]]:
    """Two characters a token, counted from the text's begin: half of all places are wrong to cut at."""
    return {"input_ids": [hash(text[place : place + 2]) for place in range(0, len(text), 2)]}


def test_a_place_inside_of_a_token_is_passed_over(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pieces, "PIECE", 500)
    text = "ab " * 3000
    assert ids_of(pairs, [text]).tolist() == pairs(text)["input_ids"]


def test_a_text_is_read_as_far_as_it_is_wanted(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pieces, "PIECE", 500)
    tokenizer = TOKENIZERS["reference"]()

    def endless() -> Iterator[str]:
        while True:
            yield STORY

    found = ids_of(tokenizer, endless(), most=300)
    assert 300 <= len(found) < 900
    assert found.tolist() == tokenizer(STORY, add_special_tokens=False)["input_ids"][: len(found)]


def test_a_long_text_without_a_place_to_cut_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pieces, "PIECE", 500)
    monkeypatch.setattr(pieces, "LONGEST_PIECE", 10_000)
    tokenizer = TOKENIZERS["reference"]()
    assert len(ids_of(tokenizer, ["7" * 9_000])) == 9_000
    with pytest.raises(ValueError, match="MB without a line's end or a space where .* break its lines, or give a part"):
        ids_of(tokenizer, ["7" * 90_000])


def test_a_tokenizer_that_looks_far_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    def by_length(text: str, **_: Any) -> dict[str, list[int]]:
        return {"input_ids": [ord(letter) + (len(text) > 650) for letter in text]}

    monkeypatch.setattr(pieces, "PIECE", 500)
    with pytest.raises(ValueError, match="looks far across lines and words, so it reads no long text"):
        ids_of(by_length, ["ab " * 3000])
