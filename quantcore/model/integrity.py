"""Does a folder hold the model that its config.json describes? Asked of the headers, before a weight is read.

    found = examine("some/folder", Path("some/folder"))       refuses, or: the model without memory, the files' tensors

transformers fills what it does not find with random numbers, so everything is asked before, whole and streamed alike:
every tensor of the model is in the files (a tied one once), in its shape and in a float type; the files hold no weight
besides. The questions are put to transformers itself: the headers become tensors without memory, and its own loader
puts them into a model without memory. So its renamings, fused experts and prefixes are those of the real load, and
what it passes over on purpose (a draft head that it does not build, tables that it computes) is passed over here.
"""

from __future__ import annotations

import copy
import re
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from quantcore.model.config_file import read_config, require_counts
from quantcore.model.experts import take_apart
from quantcore.model.fused_experts import Slice
from quantcore.model.load_report import require_complete
from quantcore.model.locate import quiet
from quantcore.model.making import making
from quantcore.model.quantized_before import FLOATS, require_float
from quantcore.model.sentences import and_more, named, quoted, reason
from quantcore.model.skeleton import build, most_parameters, numbers_of
from quantcore.model.watch import Watch
from quantcore.model.weight_files import Stored, stored_tensors

EXPERT = re.compile(r"(.*\bexperts\.)(\d+)(\..*)")
# What older files keep though no training changed it: tables and masks that the model computes for itself.
COMPUTED = re.compile(
    r"(^|\.)(inv_freq|original_inv_freq|position_ids|masked_bias|causal_mask|(cos|sin)_cached|embed_positions(\.weights)?"
    r"|version|num_batches_tracked)$"
)
COMPARED = 2**24  # numbers of two tensors that are compared at a time
TYPES = {
    "BOOL": torch.bool, "U8": torch.uint8, "I8": torch.int8, "I16": torch.int16, "U16": torch.uint16,
    "I32": torch.int32, "U32": torch.uint32, "I64": torch.int64, "U64": torch.uint64, "F16": torch.float16,
    "BF16": torch.bfloat16, "F32": torch.float32, "F64": torch.float64,
}  # fmt: skip


@dataclass(frozen=True)
class Examined:
    """A model that its files hold.

    skeleton  as config.json describes it, on the meta device, experts apart (`experts`)
    stored    what the files hold, by the files' own names
    names     the file's name of each tensor of the model that is stored as it is, if under another name; the other name
              of a tied tensor is not among them
    slices    for each expert's tensor that is a slice of a stored one: that one's name in the file, and which slice
    dtype     the model's own type: config.json's, else that of the first float tensor of the files"""

    skeleton: Any
    stored: dict[str, Stored]
    names: dict[str, str]
    slices: dict[str, tuple[str, Slice]]
    dtype: torch.dtype

    @property
    def numbers(self) -> int:
        """Parameters and buffers of the model, tied ones once."""
        return numbers_of(self.skeleton)


def read_headers(source: str, folder: Path) -> tuple[dict[str, Any], dict[str, Stored]]:
    """config.json and the files' tensors, after all that can be asked of them without transformers, which takes seconds
    to import. Raises: ValueError, in one sentence."""
    try:
        config = read_config(folder)
        require_float(source, config, {})
        stored = stored_tensors(folder)
        require_float(source, config, stored)
        require_counts(config, len(stored), sum(one.numbers for one in stored.values()))
        _require_whole_experts(stored)
    except (ValueError, OSError) as error:
        raise _told(source, error) from error
    return config, stored


def examine(source: str, folder: Path) -> Examined:
    """The folder's model. Raises: ValueError, in one sentence, where its files do not hold it."""
    config, stored = read_headers(source, folder)
    skeleton = build(source, folder, most_parameters(stored))
    try:
        _require_placed(copy.deepcopy(skeleton), stored)
        names = _names(skeleton, stored)
        _require_equal_ties(skeleton, names, stored)
    except ValueError as error:
        raise _told(source, error) from error
    fused = take_apart(skeleton)
    cuts = {f"{name}.{own}": (name, cut) for name, module in fused.items() for own, cut in module.slices().items()}
    names |= _names_of_experts(skeleton, stored, cuts)
    whole = {own: f"{name}.{cut.fused}" for own, (name, cut) in cuts.items() if own not in names}
    slices = {own: (names[where], cuts[own][1]) for own, where in whole.items() if where in names}
    return Examined(skeleton, stored, names, slices, _own_type(config, stored))


def _own_type(config: Mapping[str, Any], stored: Mapping[str, Stored]) -> torch.dtype:
    said = config.get("dtype") or config.get("torch_dtype")
    floats = {str(TYPES[name]).removeprefix("torch."): TYPES[name] for name in FLOATS}
    first = next((TYPES[one.dtype] for one in stored.values() if one.dtype in FLOATS), torch.float32)
    return floats.get(said, first) if isinstance(said, str) else first


def _told(source: str, error: ValueError | OSError) -> ValueError:
    """The error with the source's name, where it does not have it yet."""
    text = str(error) if isinstance(error, ValueError) else f"{reason(error)}; download it again"
    return ValueError(text if named(source) in text else f"could not load {named(source)}: {text}")


def _require_placed(skeleton: Any, stored: Mapping[str, Stored]) -> None:
    """That the files' tensors are the model's, no more and no less. The skeleton's parameters are replaced.

    Raises: ValueError that names a tensor, and the way out."""
    wanted: dict[str, Tensor] = skeleton.state_dict()
    others = {name: one for name, one in stored.items() if one.dtype not in FLOATS}
    found = _put(skeleton, {name: one for name, one in stored.items() if one.dtype in FLOATS})
    if others:  # whole numbers are the model's own only where it has whole numbers there, such as a table of token ids
        rest = _put(skeleton, others)
        if codes := sorted(name for name in set(wanted) - rest.missing_keys if wanted[name].is_floating_point()):
            kind = f" as {stored[codes[0]].dtype}" if codes[0] in stored else ""
            raise ValueError(
                f"its files hold {and_more(codes)}{kind}, which is no float type: codes of a quantizer, or a mask; "
                "give the float model"
            )
        found.missing_keys &= rest.missing_keys
        found.unexpected_keys |= rest.unexpected_keys
        found.mismatched_keys |= rest.mismatched_keys
        found.conversion_errors |= rest.conversion_errors
    left = left_over(found.unexpected_keys, stored)
    require_complete(found.missing_keys, left, found.mismatched_keys, found.conversion_errors)


def _put(skeleton: Any, stored: Mapping[str, Stored]) -> Any:
    """transformers' report of a load in which every tensor has its shape and no memory."""
    from transformers.conversion_mapping import get_model_conversion_mapping
    from transformers.core_model_loading import convert_and_load_state_dict_in_model
    from transformers.modeling_utils import LoadStateDictConfig

    empty = {n: torch.empty(s.shape, dtype=TYPES.get(s.dtype, torch.uint8), device="meta") for n, s in stored.items()}
    how = LoadStateDictConfig(device_map={"": "meta"}, weight_mapping=get_model_conversion_mapping(skeleton))
    with making(), Watch(quiet):
        found, _ = convert_and_load_state_dict_in_model(skeleton, empty, how)
        skeleton.tie_weights(missing_keys=found.missing_keys, recompute_mapping=False)
    skeleton._adjust_missing_and_unexpected_keys(found)
    return found


def left_over(unexpected: Iterable[str], stored: Mapping[str, Stored]) -> set[str]:
    """What the model has no place for, without tables and masks that it computes for itself."""
    return {name for name in unexpected if not _computed(name, stored.get(name))}


def _computed(name: str, stored: Stored | None) -> bool:
    """Whether this is no weight but a table or a mask, such as the (1, 1, tokens, tokens) that GPT-J's files hold."""
    shape = stored.shape if stored else ()
    mask = name.endswith(".bias") and len(shape) == 4 and shape[:2] == (1, 1) and shape[2] == shape[3]
    return mask or COMPUTED.search(name) is not None


def _require_whole_experts(stored: Mapping[str, Stored]) -> None:
    """Experts in tensors of their own are stacked in the order of their numbers, so no number may be left out."""
    seen: dict[tuple[str, str], set[int]] = {}
    for name in stored:
        if match := EXPERT.fullmatch(name):
            seen.setdefault((match[1], match[3]), set()).add(int(match[2]))
    for (before, behind), numbers in seen.items():
        gap = next((number for number in range(len(numbers)) if number not in numbers), None)
        if gap is not None:
            raise ValueError(f"its files lack {quoted(f'{before}{gap}{behind}')}, an expert's; download it again")


def _names(skeleton: Any, stored: Mapping[str, Stored]) -> dict[str, str]:
    """The file's name for each tensor of the model that transformers renames and does not change."""
    from transformers.conversion_mapping import get_model_conversion_mapping
    from transformers.core_model_loading import WeightConverter, WeightRenaming, rename_source_key

    wanted, rules = skeleton.state_dict(), get_model_conversion_mapping(skeleton)
    renamings = [rule for rule in rules if isinstance(rule, WeightRenaming)]
    converters = [rule for rule in rules if isinstance(rule, WeightConverter)]
    found: dict[str, str] = {}
    for name in stored:
        new, changed = rename_source_key(name, renamings, converters, skeleton.base_model_prefix, wanted)
        if new not in wanted and name in wanted:
            new, changed = name, None
        if new in wanted and changed is None:
            found[new] = name
    return found


def _names_of_experts(skeleton: Any, stored: Mapping[str, Stored], wanted: Collection[str]) -> dict[str, str]:
    """The file's name of each expert's tensor that the files keep by itself, which is how the model has them too."""
    from transformers.conversion_mapping import get_model_conversion_mapping
    from transformers.core_model_loading import WeightRenaming, rename_source_key

    if not wanted:
        return {}
    rules, own = get_model_conversion_mapping(skeleton), skeleton.state_dict()
    renamings = [rule for rule in rules if isinstance(rule, WeightRenaming)]
    new = {name: rename_source_key(name, renamings, [], skeleton.base_model_prefix, own)[0] for name in stored}
    return {here: name for name, here in new.items() if here in wanted}


def _require_equal_ties(skeleton: Any, names: Mapping[str, str], stored: Mapping[str, Stored]) -> None:
    """Where config.json ties two tensors and the files hold both, they are one and the same."""
    for target, origin in skeleton.all_tied_weights_keys.items():
        one, other = names.get(target), names.get(origin)
        if one and other and not _equal(one, other, stored):
            raise ValueError(
                f"its config.json ties {quoted(one)} to {quoted(other)}, and its files hold both and they differ; set "
                "tie_word_embeddings to false, or delete the one that is not the model's"
            )


def _equal(one: str, other: str, stored: Mapping[str, Stored]) -> bool:
    from safetensors import safe_open

    a, b = stored[one], stored[other]
    if (a.shape, a.dtype) != (b.shape, b.dtype):
        return False
    rows = max(1, COMPARED * a.shape[0] // max(1, a.numbers))
    with safe_open(a.file, "pt") as first, safe_open(b.file, "pt") as second:
        left, right = first.get_slice(one), second.get_slice(other)
        return all(torch.equal(left[at : at + rows], right[at : at + rows]) for at in range(0, a.shape[0], rows))
