"""What stands before a text is what the tokenizer itself puts there, once."""

from typing import Any

import pytest
from tokenizers import processors

from quantcore.text.windows import prefix_of, prompt_tokens, token_windows
from tests.tiny import END, tiny_tokenizer

TEXT = "The keeper lit the lamp, and all night long the ships counted its turns. " * 4


def with_prefix(template: str, *special: tuple[str, int]) -> Any:
    made = tiny_tokenizer()
    made.backend_tokenizer.post_processor = processors.TemplateProcessing(single=template, special_tokens=[*special])
    return made


def two() -> Any:
    """GLM's way: two tokens before a text, and no bos."""
    made = with_prefix("Q Z $A", ("Q", made_id("Q")), ("Z", made_id("Z")))
    made.bos_token = None
    return made


def made_id(text: str) -> int:
    return int(tiny_tokenizer()(text, add_special_tokens=False)["input_ids"][0])


@pytest.mark.parametrize(
    ("made", "expected"),
    [(tiny_tokenizer(), [0]), (two(), [made_id("Q"), made_id("Z")]), (with_prefix("$A"), []),
     (with_prefix(f"$A {END}", (END, 0)), [])],
)  # fmt: skip
def test_the_prefix_is_the_tokenizers_own(made: Any, expected: list[int]) -> None:
    assert prefix_of(made) == expected
    rows = token_windows(made, TEXT, 16)
    assert len(rows) > 2
    assert all(row[: len(expected)].tolist() == expected for row in rows)
    read = [one for row in rows.tolist() for one in row[len(expected) :]]
    assert read == made(TEXT, add_special_tokens=False)["input_ids"][: len(read)]
    assert prompt_tokens(made, TEXT, 16)[0][0, : len(expected)].tolist() == expected


def test_a_text_that_begins_with_the_prefix_is_not_given_another() -> None:
    """A chat template writes bos itself."""
    made = tiny_tokenizer()
    written = f"{END}{TEXT}"
    rows, plain = token_windows(made, written, 16), token_windows(made, TEXT, 16)
    assert rows.tolist() == plain.tolist()
    assert prompt_tokens(made, written, 64)[0].tolist() == prompt_tokens(made, TEXT, 64)[0].tolist()


def test_a_window_that_begins_where_a_conversation_does_has_one_prefix() -> None:
    made = tiny_tokenizer()
    talk = "Where did you put the key?"
    length = 1 + len(made(talk, add_special_tokens=False)["input_ids"])
    rows = token_windows(made, f"{END}{talk}" * 3, length)
    assert rows.tolist() == [made(talk)["input_ids"]] * 3


def test_a_model_without_a_limit_reads_all_of_a_prompt() -> None:
    ids, dropped = prompt_tokens(tiny_tokenizer(), TEXT, None)
    assert (dropped, ids.shape[1]) == (0, 1 + len(tiny_tokenizer()(TEXT, add_special_tokens=False)["input_ids"]))
