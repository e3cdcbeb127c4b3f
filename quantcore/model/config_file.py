"""config.json, before anybody builds a model from it: are its numbers those that a model of these files can have?

Building a model costs time and memory for every block that config.json asks for, also where no weight is there, or no
file of weights; one of a few bytes that asks for a million must be refused before. So no count is believed: a model has
no more blocks than its files hold tensors, nor than MOST_BLOCKS, and is no wider than they hold numbers.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from quantcore.model.sentences import cut, quoted
from quantcore.model.weight_files import MIB, read_json

CONFIG_BYTES = 4 * MIB
BLOCKS = ("num_hidden_layers", "n_layer", "n_layers", "num_layers", "num_labels")
MOST_BLOCKS = 1000  # Llama 3.1 405B has 126; to build 100,000 empty ones takes over a minute and a GB
WIDTHS = ("hidden_size", "n_embd", "d_model", "vocab_size")
POSITIONS = ("max_position_embeddings", "n_positions", "max_seq_len")
CONTEXTS = (*POSITIONS, "max_sequence_length", "seq_length", "context_length", "n_ctx", "max_target_positions")
COUNTED = re.compile(r"(^|_)(n|num|size|dim|heads?|experts?|labels|embd|rank|channels)(_|$)")
RANGES = {  # of numbers that no file repeats and every activation depends on: wider than in any model that is known
    re.compile(r"(\w*_)?eps(ilon)?"): (0, 0.1),  # added to a variance
    re.compile(r"rope_theta|rotary_(emb_)?base|rope_local_base_freq"): (1, 1e15),
    re.compile(r"factor"): (1, 1e6),  # by which positions are stretched
    re.compile(r"partial_rotary_factor|rotary_pct"): (0, 1),
}
LENGTHS = re.compile(r"position|ctx|seq|len|window|chunk")  # of texts: files hold nothing of them
ATTENTIONS = {"eager", "sdpa", "None"}  # of torch itself
# What hands the question on to another file, or changes transformers' own classes.
NOT_FOLLOWED = ("configuration_files", "transformers_weights", "fusion_config")


def read_config(folder: Path) -> dict[str, Any]:
    """Raises: ValueError for what is no JSON object, names no type of model, or asks for what is not followed here."""
    config = read_json(folder / "config.json", CONFIG_BYTES)
    if not isinstance(config.get("model_type"), str):
        raise ValueError("its config.json names no model_type, so no model can be built from it; download it again")
    if found := [name for name in NOT_FOLLOWED if config.get(name)]:
        raise ValueError(f"its config.json has {found[0]}, which is not followed here; delete the entry")
    for name, value in entries(config):
        if name == "__float__" and value == "NaN":
            raise ValueError("its config.json holds NaN, which is no number; download it again")
        _require_in_range(name, value)
        if "implementation" in name and any("/" in str(one) for one in _values(value)):
            raise ValueError(
                f"its config.json says {quoted(name, 40)} = {cut(repr(value), 60)}, a kernel of the hub, which is "
                "code; delete the entry"
            )
        if name.lstrip("_").startswith("attn_implementation") and not set(map(str, _values(value))) <= ATTENTIONS:
            raise ValueError(
                f"its config.json says {quoted(name, 40)} = {cut(repr(value), 60)}, a kernel that is compiled, or "
                "installed, apart and gives the same numbers; delete the entry"
            )
    return config


def entries(config: Any) -> Iterator[tuple[str, Any]]:
    """Every name and value of a configuration and of those inside it."""
    for name, value in config.items():
        yield name, value
        for inside in value if isinstance(value, list) else [value]:
            if isinstance(inside, dict):
                yield from entries(inside)


def _require_in_range(name: str, value: Any) -> None:
    """Raises: ValueError for a number, or an infinity as transformers writes one, with which no model works."""
    for kind, (least, most) in RANGES.items():
        infinite = isinstance(value, dict) and str(value.get("__float__")).endswith("Infinity")
        number = isinstance(value, int | float) and not isinstance(value, bool)
        if kind.fullmatch(name) and (infinite or (number and not least <= value <= most)):
            raise ValueError(
                f"its config.json says {quoted(name, 40)} = {cut(repr(value), 40)}, which lies between {least:g} and "
                f"{most:g} in a model that works; download it again"
            )


def _values(value: Any) -> list[Any]:
    return list(value.values()) if isinstance(value, dict) else [value]


def language_part(config: dict[str, Any]) -> dict[str, Any]:
    """The entries that the language model reads: a model for pictures and words keeps them under text_config."""
    text = config.get("text_config")
    return {**config, **(text if isinstance(text, dict) else {})}


def context_of(config: Any) -> int | None:
    """The longest window that a model was made for, in tokens: of a configuration's entries, or of transformers' object
    of it; None where it says none, as of models that keep a state instead of what they have read."""
    part = language_part(config) if isinstance(config, dict) else vars(config.get_text_config())
    found = (part.get(name) for name in CONTEXTS)
    return next((one for one in found if type(one) is int and one > 0), None)


def require_counts(config: dict[str, Any], tensors: int | None, numbers: int | None) -> None:
    """That the configuration asks for no model which files of so many tensors, and numbers in them, cannot hold; None:
    there are no files.

    Raises: ValueError that names the entry."""
    for part in (config, language_part(config)):
        for name in (*BLOCKS, *WIDTHS, *POSITIONS):
            value = part.get(name)
            if value is not None and (type(value) is not int or value < 1):
                raise ValueError(
                    f"its config.json says {name} = {cut(repr(value), 40)}, which is no whole number of at least 1; "
                    "download it again"
                )
    for name, value in entries(config):
        most, of = (tensors, "tensors") if name in BLOCKS else (numbers, "numbers")
        if most is not None and type(value) is int and value > most and _bounded(name):
            raise ValueError(
                f"its config.json says {name} = {cut(f'{value:,}', 40)} and its files hold {most:,} {of}; "
                "download config.json and weights again, from one place"
            )
        if name in BLOCKS and name != "num_labels" and type(value) is int and value > MOST_BLOCKS:
            raise ValueError(
                f"its config.json says {name} = {cut(f'{value:,}', 40)}, and no model is known of more than "
                f"{MOST_BLOCKS:,} blocks; download it again"
            )


def _bounded(name: str) -> bool:
    return name in BLOCKS or (COUNTED.search(name) is not None and LENGTHS.search(name) is None)


def head_dim_of(config: Any) -> int:
    """How many numbers a head's row of keys has. Raises: ValueError for a model without attention."""
    decoder = config.get_text_config(decoder=True)
    if width := getattr(decoder, "head_dim", None):
        return int(width)
    if not (heads := getattr(decoder, "num_attention_heads", None)):
        raise ValueError(
            f"this {decoder.model_type} has no attention, so it keeps no keys and values; name a model that does"
        )
    return int(decoder.hidden_size // heads)
