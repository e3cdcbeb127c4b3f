"""What a GGUF file says about itself, read from its header; transformers' own loader builds the model from it.

The layout (all numbers little-endian): "GGUF", version u32, tensor count u64, entry count u64; entries of (name, type
u32, value); then of each tensor (name, number of dimensions u32, dimensions u64, type u32, offset u64); then the data.
A name is its length u64 and UTF-8. Source: ggml-org/ggml, docs/gguf.md. No count in a header is believed: whatever it
says must lie inside the file, so a header is read in time and memory that the file's own size bounds.
"""

from __future__ import annotations

import math
import re
import struct
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, BinaryIO

import torch

from quantcore.model.gguf_tensors import changes_rotations, require_tensors
from quantcore.model.quantized_before import FLOATS
from quantcore.model.sentences import named, quoted
from quantcore.model.skeleton import PARTS_OF_ONE, build, numbers_of

NUMBERS = {0: "B", 1: "b", 2: "H", 3: "h", 4: "I", 5: "i", 6: "f", 7: "?", 10: "Q", 11: "q", 12: "d"}
STRING, ARRAY = 8, 9
MOST_DIMENSIONS = 4  # ggml's GGML_MAX_DIMS
LONGEST_NAME = 2**16  # what the format allows a key
MOST_ELEMENTS = 2**21  # of all arrays; 262,144 tokens with their scores, types and merges, the most in use, have 1.3 M
ALIGNMENT = "general.alignment"
WIDTHS = (".embedding_length", ".feed_forward_length", ".vocab_size", ".expert_count")
BLOCK = re.compile(r"blk\.(\d+)\.")
VOCABULARY = "tokenizer.ggml.tokens"
WHOLE = {"F64": torch.float32, "F32": torch.float32, "F16": torch.float16}  # kept as they are, as is BF16


@dataclass(frozen=True)
class GgufHeader:
    """architecture as `general.architecture` has it; how many tensors, and parameters, there are of each type.

    counts    the entries that are whole numbers, by name
    blocks    how many blocks the tensors belong to; tokens: how many the vocabulary has
    names     of the tensors"""

    architecture: str
    tensors: dict[str, int]
    parameters: dict[str, int]
    counts: dict[str, int] = field(default_factory=dict)
    blocks: int = 0
    tokens: int | None = None
    names: tuple[str, ...] = ()


def read_header(file: Path) -> GgufHeader:
    """Raises: ValueError for a file that is damaged or cut off, or only a part of a split one."""
    try:
        with file.open("rb") as opened:
            found = _Reader(opened, file.stat().st_size).header()
    except (struct.error, ValueError, OverflowError, MemoryError) as error:
        raise ValueError(f"{named(file)} is no whole GGUF file ({error}); download it again") from error
    if (parts := found.counts.get("split.count", 0)) > 1:
        raise ValueError(
            f"{named(file)} is part {found.counts.get('split.no', 0) + 1} of {parts} of a split GGUF file; join "
            "them (llama-gguf-split --merge FIRST_PART whole.gguf) and name the whole one"
        )
    return found


def examine(source: str, file: Path) -> tuple[GgufHeader, Any]:
    """The header, and the model that it describes on the meta device, after the questions whether transformers can
    build it and the file can hold it. A tied head is stored once, so a model has at most twice the numbers of its file.

    Raises: ValueError."""
    from transformers.integrations.gguf import GGUF_CONFIG_ARCHS
    from transformers.modeling_gguf_pytorch_utils import GGUF_SUPPORTED_ARCHITECTURES

    found = read_header(file)
    known = {*GGUF_SUPPORTED_ARCHITECTURES, *(name.replace("_", "") for name in GGUF_SUPPORTED_ARCHITECTURES)}
    if found.architecture not in known | set(GGUF_CONFIG_ARCHS):
        raise ValueError(
            f"{named(source)} is a GGUF of the architecture {quoted(found.architecture, 40)}, which transformers "
            f"cannot build (it knows {', '.join(GGUF_SUPPORTED_ARCHITECTURES[:5])} ...); take the safetensors that it "
            "was made from"
        )
    said, held = found.counts.get(f"{found.architecture}.block_count"), sum(found.parameters.values())
    if said is not None and said != found.blocks:
        raise _lie(source, f"says {said:,} blocks and it holds the tensors of {found.blocks:,}")
    for name, value in found.counts.items():
        if name.endswith(WIDTHS) and value > held:
            raise _lie(source, f"says {quoted(name)} = {value:,} and it holds {held:,} numbers")
    model = build(source, file.parent, PARTS_OF_ONE * sum(found.tensors.values()), file.name)
    if (numbers := numbers_of(model)) > 2 * held:
        raise _lie(source, f"describes a model of {numbers:,} parameters and it holds {held:,}")
    require_tensors(source, found.architecture, found.names, model)
    return found, model


def _lie(source: str, what: str) -> ValueError:
    return ValueError(f"could not load {named(source)}: its header {what}; download it again")


def own_dtype(parameters: Mapping[str, int]) -> torch.dtype:
    """That in which the model runs on a GPU: of the type that most of its numbers have. Codes become bfloat16, since
    kernels take 16 bits: it rounds by 2^-9 at most, far below the steps of the codes, and reaches as far as float32."""
    return WHOLE.get(max(parameters, key=lambda name: parameters[name]), torch.bfloat16)


def notices(file: Path) -> tuple[str, ...]:
    """What a reader of the figures must know."""
    found = read_header(file)
    said = _rounded_before(file, found)
    if not changes_rotations(found.names):
        return (said,)
    return said, (
        f"{file.name} brings a table of rotary wavelengths, which transformers does not read from a GGUF file: figures "
        "differ from the model's own, most on long texts; the safetensors that it was made from are read with theirs."
    )


def _rounded_before(file: Path, header: GgufHeader) -> str:
    """That the weights which the lab calls float have been rounded before, or not."""
    tensors = header.tensors
    rounded = {name: count for name, count in tensors.items() if name not in FLOATS}
    if not rounded:
        return f"{file.name} holds its weights as {' and '.join(tensors)}: they were not quantized before."
    kinds = " and ".join(f"{count} as {name}" for name, count in rounded.items())
    dtype = str(own_dtype(header.parameters)).removeprefix("torch.")
    again = "," if dtype == "float32" else f", on a GPU rounded to {dtype},"
    return (
        f"The weights of {file.name} were quantized before ({kinds}, of {sum(tensors.values())} tensors): what this "
        f"lab calls float are those values{again} so every loss it shows comes on top of theirs."
    )


class _Reader:
    """One header, from its first byte to its last."""

    def __init__(self, file: BinaryIO, size: int) -> None:
        self.file, self.size = file, size
        self.elements = 0
        self.counts: dict[str, int] = {}
        self.architecture = ""
        self.tokens: int | None = None

    def header(self) -> GgufHeader:
        if self.file.read(4) != b"GGUF":
            raise ValueError("it does not begin with GGUF")
        version, tensors, entries = self.unpack("IQQ")
        if version not in (2, 3):
            raise ValueError(f"it is of version {version}; 2 and 3 are read")
        self.require_room(entries * 13 + tensors * 24, "entries and tensors")  # the shortest that one can be
        for _ in range(entries):
            self.entry()
        found = [self.tensor() for _ in range(tensors)]
        self.require_data(found)
        blocks = {int(match[1]) for name, *_ in found if (match := BLOCK.match(name))}
        count, weights = Counter[str](), Counter[str]()
        for _, shape, dtype, _ in found:
            count[dtype] += 1
            weights[dtype] += math.prod(shape)
        names = tuple(name for name, *_ in found)
        return GgufHeader(self.architecture, dict(count), dict(weights), self.counts, len(blocks), self.tokens, names)

    def entry(self) -> None:
        name, kind = self.string(), self.unpack("I")[0]
        value = self.value(kind)
        if name == "general.architecture":
            self.architecture = str(value)
        elif name == VOCABULARY and kind == ARRAY and isinstance(value, int):
            self.tokens = value
        elif type(value) is int and kind != ARRAY:
            self.counts[name] = value

    def value(self, kind: int) -> str | int | float:
        """A value; of an array, how many it holds."""
        if kind == STRING:
            return self.string()
        if kind in NUMBERS:
            return self.unpack(NUMBERS[kind])[0]
        if kind != ARRAY:
            raise ValueError(f"an entry of type {kind}, which is none")
        inner, length = self.unpack("IQ")
        if inner not in NUMBERS and inner != STRING:
            raise ValueError(f"an array of type {inner}, which is none")
        self.elements += length
        if self.elements > MOST_ELEMENTS:
            raise ValueError(f"its arrays hold {self.elements:,} elements, more than any vocabulary needs")
        if inner in NUMBERS:
            self.skip(length * struct.calcsize("<" + NUMBERS[inner]))
        else:
            for _ in range(length):
                self.skip(self.unpack("Q")[0])
        return length

    def tensor(self) -> tuple[str, tuple[int, ...], str, int]:
        """Name, dimensions, type and offset."""
        name, dimensions = self.string(), self.unpack("I")[0]
        if dimensions > MOST_DIMENSIONS:
            raise ValueError(f"a tensor of {dimensions:,} dimensions, where {MOST_DIMENSIONS} are the most")
        shape = self.unpack("Q" * dimensions)
        kind, offset = self.unpack("IQ")
        return name, shape, _type_name(kind), offset

    def require_data(self, tensors: list[tuple[str, tuple[int, ...], str, int]]) -> None:
        """That the tensors' data lie inside the file and their names differ."""
        if len({name for name, *_ in tensors}) < len(tensors):
            raise ValueError("two of its tensors have one name")
        aligned = self.counts.get(ALIGNMENT, 32)
        if aligned < 1 or aligned > self.size:
            raise ValueError(f"its data are aligned to {aligned:,} bytes")
        start = math.ceil(self.file.tell() / aligned) * aligned
        for name, shape, dtype, offset in tensors:
            if (end := start + offset + _data_bytes(dtype, math.prod(shape))) > self.size:
                raise ValueError(f"it ends after {self.size:,} bytes and its {quoted(name)} after {end:,}")

    def string(self) -> str:
        """A string; of one that is longer than any name (a template, a whole tokenizer) the start."""
        length = self.unpack("Q")[0]
        self.require_room(length, "a string")
        read = self.file.read(min(length, LONGEST_NAME)).decode("utf-8", "replace")
        self.skip(max(0, length - LONGEST_NAME))
        return read

    def skip(self, length: int) -> None:
        self.require_room(length, "an array")
        self.file.seek(length, 1)

    def require_room(self, length: int, what: str) -> None:
        if self.file.tell() + length > self.size:
            raise ValueError(f"it ends after {self.size:,} bytes, inside of {what}")

    def unpack(self, layout: str) -> tuple[int, ...]:
        return struct.unpack("<" + layout, self.file.read(struct.calcsize("<" + layout)))


def _type_name(kind: int) -> str:
    from gguf import GGMLQuantizationType

    try:
        return GGMLQuantizationType(kind).name
    except ValueError:
        raise ValueError(f"a tensor of type {kind}, which is none") from None


def _data_bytes(dtype: str, numbers: int) -> int:
    """Bytes of so many numbers: whole tiles of the type, each of a fixed size."""
    from gguf import GGML_QUANT_SIZES, GGMLQuantizationType

    tile, held = GGML_QUANT_SIZES[GGMLQuantizationType[dtype]]
    return math.ceil(numbers / tile) * held
