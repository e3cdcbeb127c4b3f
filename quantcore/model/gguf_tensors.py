"""Are a GGUF file's tensors those of the model that its header describes? Asked of their names, before one is read.

transformers passes over a tensor that it has no name for, without a word, and fills with random numbers (experts with
zeros) what is not there. So both are looked up in the table of names that it will use itself. Limit: of the few
architectures that it reads in its newer way, its own report after the load is all there is.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from functools import cache
from typing import Any

from quantcore.model.load_report import require_complete
from quantcore.model.making import making
from quantcore.model.sentences import named

EXPERTS = re.compile(r"_exps(\.weight)?$")
ROTATIONS = re.compile(r"(^|\.)(rope_freqs|rope_factors_(long|short))\.weight$")  # longer wavelengths, for long texts
COMPUTED = re.compile(r"(^|\.)(attn_rot_embd|rope_freqs|rope_factors_(long|short))(\.weight)?$")


def require_tensors(source: str, architecture: str, names: Iterable[str], model: Any) -> None:
    """Raises: ValueError where the file lacks a tensor of the model, or holds one that would be passed over."""
    from transformers.integrations.gguf import GGUF_CONFIG_ARCHS
    from transformers.modeling_gguf_pytorch_utils import TENSOR_PROCESSORS, TensorProcessor, get_gguf_hf_weights_map

    if architecture in GGUF_CONFIG_ARCHS:
        return
    processor = TENSOR_PROCESSORS.get(architecture, TensorProcessor)(config={})
    with quick_gguf():
        table = {_bare(name): to for name, to in get_gguf_hf_weights_map(model, processor).items()}
    held = {_bare(name) for name in names}
    there = {table[name] for name in held if name in table}
    halves = {to for name, to in table.items() if EXPERTS.search(name) and name not in held}  # of two put together
    wanted = set(model.state_dict()) - set(model.all_tied_weights_keys)
    lacking = wanted & ((set(table.values()) - there) | halves)
    whole = wanted <= set(table.values())  # gpt-oss has experts that stand in no table
    over = {name for name in held if whole and name not in table and not COMPUTED.search(name)}
    try:
        require_complete(lacking, over)
    except ValueError as error:
        raise ValueError(f"could not load {named(source)}: {error}") from error


@contextmanager
def quick_gguf() -> Iterator[None]:
    """While the context lasts files are read by a `QuickReader`, and gguf's table of names, which transformers asks for
    anew for every module of a model, is made once for each architecture: for 30 blocks it is made 500 times
    otherwise, and takes longer than all else."""
    import gguf

    from quantcore.model.gguf_reader import QuickReader

    with making():  # two threads at once would put back each other's
        make, reader = gguf.get_tensor_name_map, gguf.GGUFReader
        gguf.get_tensor_name_map, gguf.GGUFReader = cache(make), QuickReader  # type: ignore[misc]
        try:
            yield
        finally:
            gguf.get_tensor_name_map, gguf.GGUFReader = make, reader  # type: ignore[misc]


def changes_rotations(names: Iterable[str]) -> bool:
    """Whether the file's own table of rotary wavelengths, which transformers does not read, is part of the model."""
    return any(map(ROTATIONS.search, names))


def _bare(name: str) -> str:
    """Experts stand in the table without the end that they have in files."""
    return name.removesuffix(".weight") if EXPERTS.search(name) else name
