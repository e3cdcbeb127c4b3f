"""Architectures of several kinds under the usual schemes; all others: `python -m benchmarks.zoo`."""

from pathlib import Path

import pytest

from benchmarks.zoo import PART, REFUSED, SAME, WHOLE, outcomes, streamed_outcomes
from benchmarks.zoo_models import build, save


@pytest.mark.parametrize(
    ("kind", "words"),
    [
        ("qwen3", [WHOLE] * 5),
        ("falcon", [WHOLE] * 5),
        ("mamba", [PART] * 5),  # its own code reads dt_proj's weight, 9% of so small a block
        ("mixtral", [WHOLE, WHOLE, REFUSED, REFUSED, REFUSED]),
        ("opt", [WHOLE, WHOLE, WHOLE, REFUSED, REFUSED]),
        ("rwkv", [REFUSED] * 5),
    ],
)
def test_what_becomes_of_a_model(kind: str, words: list[str], tmp_path: Path) -> None:
    found = list(outcomes(save(build(kind), tmp_path / kind)))
    assert [one.word for one in found] == words, found


@pytest.mark.parametrize("kind", ["qwen3_moe", "gpt_oss"])
def test_a_streamed_model_becomes_what_it_becomes_in_memory(kind: str, tmp_path: Path) -> None:
    """Experts one by one in the file, and experts in one tensor of it."""
    found = list(streamed_outcomes(save(build(kind), tmp_path / kind), ["W4A16,gptq", "W8A8 static"]))
    assert [(one.word, one.says) for one in found] == [(SAME, "")] * 2
