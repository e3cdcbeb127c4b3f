"""What a GGUF file says about itself, read from its header; transformers' own loader builds the model from it.

The layout (all numbers little-endian): "GGUF", version u32, tensor count u64, entry count u64; entries of (name, type
u32, value); then of each tensor (name, number of dimensions u32, dimensions u64, type u32, offset u64); then the data.
A name is its length u64 and UTF-8. Source: ggml-org/ggml, docs/gguf.md.
"""

from __future__ import annotations

import importlib.util
import math
import struct
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

TYPES = dict(
    enumerate(
        "F32 F16 Q4_0 Q4_1 4 5 Q5_0 Q5_1 Q8_0 Q8_1 Q2_K Q3_K Q4_K Q5_K Q6_K Q8_K IQ2_XXS IQ2_XS IQ3_XXS IQ1_S IQ4_NL "
        "IQ3_S IQ2_S IQ4_XS I8 I16 I32 I64 F64 IQ1_M BF16".split()
    )
)
FLOATS = ("F64", "F32", "F16", "BF16")
NUMBERS = {0: "B", 1: "b", 2: "H", 3: "h", 4: "I", 5: "i", 6: "f", 7: "?", 10: "Q", 11: "q", 12: "d"}
STRING, ARRAY = 8, 9
LONGEST_STRING = 2**24
NEEDED = ("gguf", "accelerate")  # what transformers asks for


@dataclass(frozen=True)
class GgufHeader:
    """architecture as `general.architecture` has it; how many tensors, and parameters, there are of each type."""

    architecture: str
    tensors: dict[str, int]
    parameters: dict[str, int]


def read_header(file: Path) -> GgufHeader:
    """Raises: ValueError for a file that is damaged or cut off."""
    try:
        with file.open("rb") as opened:
            return _read(opened, file.stat().st_size)
    except (struct.error, ValueError, OverflowError, MemoryError) as error:
        raise ValueError(f"{str(file)!r} is no whole GGUF file ({error}); download it again") from error


def parameters(source: str, file: Path) -> dict[str, int]:
    """How many parameters there are of each type, after the questions whether the file can be loaded here at all.

    Raises: ValueError where packages are missing, or transformers does not know the architecture."""
    found = read_header(file)
    if missing := [name for name in NEEDED if importlib.util.find_spec(name) is None]:
        raise ValueError(
            f"a GGUF file is read with {' and '.join(missing)}, not installed here; pip install {missing[0]}"
        )
    from transformers.modeling_gguf_pytorch_utils import GGUF_SUPPORTED_ARCHITECTURES

    if found.architecture not in [name.replace("_", "") for name in GGUF_SUPPORTED_ARCHITECTURES] + list(
        GGUF_SUPPORTED_ARCHITECTURES
    ):
        raise ValueError(
            f"{source!r} is a GGUF of the architecture {found.architecture!r}, which transformers cannot build (it "
            f"knows {', '.join(GGUF_SUPPORTED_ARCHITECTURES[:5])} ...); take the safetensors that it was made from"
        )
    return found.parameters


def notice(file: Path) -> str:
    """What a reader of the figures must know: the weights that the lab calls float have been rounded before."""
    tensors = read_header(file).tensors
    rounded = {name: count for name, count in tensors.items() if name not in FLOATS}
    if not rounded:
        return f"{file.name} holds its weights as {' and '.join(tensors)}: they were not quantized before."
    kinds = " and ".join(f"{count} as {name}" for name, count in rounded.items())
    return (
        f"The weights of {file.name} were quantized before ({kinds}, of {sum(tensors.values())} tensors): what this "
        "lab calls float are those values, so every loss it shows comes on top of theirs."
    )


def _read(file: BinaryIO, size: int) -> GgufHeader:
    if file.read(4) != b"GGUF":
        raise ValueError("it does not begin with GGUF")
    _version, tensors, entries = _unpack(file, "IQQ")
    architecture = ""
    for _ in range(entries):
        name, kind = _string(file), _unpack(file, "I")[0]
        value = _value(file, kind)
        if name == "general.architecture":
            architecture = str(value)
    count: Counter[str] = Counter()
    weights: Counter[str] = Counter()
    furthest = 0
    for _ in range(tensors):
        _string(file)
        shape = _unpack(file, "Q" * _unpack(file, "I")[0])
        kind, offset = _unpack(file, "IQ")
        dtype = TYPES.get(kind, f"type {kind}")
        count[dtype] += 1
        weights[dtype] += math.prod(shape)
        furthest = max(furthest, offset)
    if file.tell() + furthest >= size:
        raise ValueError(f"it ends after {size:,} bytes and its last tensor begins after that")
    return GgufHeader(architecture, dict(count), dict(weights))


def _value(file: BinaryIO, kind: int) -> object:
    """A value; of an array only that it was passed over."""
    if kind == STRING:
        return _string(file)
    if kind != ARRAY:
        return _unpack(file, NUMBERS.get(kind, ""))
    inner, length = _unpack(file, "IQ")
    if inner in NUMBERS:
        file.seek(length * struct.calcsize("<" + NUMBERS[inner]), 1)
    else:
        for _ in range(length):
            _value(file, inner)
    return None


def _string(file: BinaryIO) -> str:
    length = _unpack(file, "Q")[0]
    if length > LONGEST_STRING:
        raise ValueError(f"a name of {length} bytes")
    return file.read(length).decode("utf-8", "replace")


def _unpack(file: BinaryIO, layout: str) -> tuple[int, ...]:
    return struct.unpack("<" + layout, file.read(struct.calcsize("<" + layout)))
