"""The longest window that a model was made for, wherever its configuration says it."""

from typing import Any

import pytest
import transformers

from quantcore.model.config_file import context_of


@pytest.mark.parametrize(
    ("kind", "said", "expected"),
    [
        ("Llama", {"max_position_embeddings": 77}, 77),
        ("GPT2", {"n_positions": 77}, 77),
        ("Mpt", {"max_seq_len": 77}, 77),
        ("Bloom", {"seq_length": 77}, 77),
        ("Rwkv", {"context_length": 77}, 77),
        ("Mamba", {}, None),
        ("Gemma3", {"text_config": {"max_position_embeddings": 77}}, 77),
    ],
)
def test_the_context_of_a_configuration(kind: str, said: dict[str, Any], expected: int | None) -> None:
    config = getattr(transformers, f"{kind}Config")(**said)
    assert context_of(config) == expected
    if kind != "GPT2":  # its entry has another name in the file than in the object
        assert context_of(config.to_dict()) == expected
