"""A weight's codes as the kernels of 16-bit tokens read them.

Codes of 4 bits: K is cut into blocks of 128 columns; word j of a block, an int16, holds columns j, 32 + j, 64 + j and
96 + j of the block, each as code + 8, first column in the lowest bits. So the same four bits of 32 neighbouring words
are 32 neighbouring columns, a plane, and two words side by side in one 32-bit register unpack together: one shift, one
logic operation that also writes the exponent of 128 (or of 1024 in fp16), one exact subtraction. The blocks lie one
behind the other, (K / 128, O, 32), so a tile of rows is one piece of memory.
Wider codes take a byte each, (O, padded K). e2m1's four bits lie there as they are.

Scales stand beside the codes as floats, a row for each group; coded ones in bytes, a block's together.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

from quantcore.matmul.codes import no_turns
from quantcore.numbers.formats import FP8_E4M3
from quantcore.numbers.qtensor import QTensor
from quantcore.numbers.scales import local_codes

BLOCK = 128  # K is padded to a multiple of it
PLANES = 4
PLANE = 32  # columns


class LowBitWeight(NamedTuple):
    """What `pack_weight` makes.

    words         int16 (K / 128, O, 32), or int8 (O, padded K)
    scale         (groups, O) float32; or uint8: (K / 128, O, 4) e8m0's exponents, a plane each, or (K / 128, O, 8)
                  e4m3's codes of groups of 16, the first of each plane and then the second
    zero_point    (groups, O) int8, or None
    group         columns that share a scale
    order         x's columns in the order of the weight's; None where as they come
    turns         zeros: how many pieces of a tile are done, so no weight is for two products at the same time
    floats        whether codes are of a float format
    global_scale  (1,), of e4m3's scales
    """

    words: Tensor
    scale: Tensor
    zero_point: Tensor | None
    group: int
    order: Tensor | None
    shape: tuple[int, int]
    turns: Tensor
    floats: bool = False
    global_scale: Tensor | None = None

    @property
    def bits(self) -> int:
        return 4 if self.words.dtype == torch.int16 else 8

    @property
    def columns_a_scale(self) -> int:
        """32 to 128: columns of a block that surely share a scale; where scales are coded, those of a plane."""
        if self.scale.dtype == torch.uint8:
            return PLANE
        return next(size for size in (128, 64, 32) if self.group % size == 0 or self.group >= self.shape[1])

    @property
    def is_plain(self) -> bool:
        """Whole numbers under float scales."""
        return not self.floats and self.scale.dtype == torch.float32

    @property
    def pairs(self) -> bool:
        """Whether the tensor cores take two groups at once."""
        return self.global_scale is not None

    @property
    def kinds(self) -> dict[str, bool]:
        """What the kernels are told of codes and scales."""
        powers = self.scale.dtype == torch.uint8 and not self.pairs
        return {"FLOATS": self.floats, "POWERS": powers, "PAIRS": self.pairs}


def pack_weight(qweight: QTensor) -> LowBitWeight:
    """The codes of a QTensor in the layout above. Groups of columns that are no neighbours become neighbours: columns
    are put in the order of their groups, and `order` says which columns of x go with them. Returns when all is written:
    kernels begin to read it before the one before them has ended (`numbers.kernels.overlap`)."""
    fmt, scales = qweight.spec.fmt, qweight.spec.scales
    codes = qweight.q
    if fmt.is_float and fmt.bits > 4:
        codes = fmt.decode(codes).to(FP8_E4M3.storage).view(torch.int8)
    order = None
    if qweight.g_idx is not None:
        order = torch.sort(qweight.g_idx, stable=True).indices
        codes = codes[:, order]
    rows, width = codes.shape
    group = width // qweight.scale.shape[1]
    padded = F.pad(codes, (0, -width % BLOCK))
    if fmt.bits <= 4:
        planes = ((padded.to(torch.int32) + (0 if fmt.is_float else 8)) & 15).view(rows, -1, PLANES, PLANE)
        words = planes[:, :, 0]
        for place in range(1, PLANES):
            words = words | (planes[:, :, place] << (4 * place))
        padded = words.to(torch.int16).transpose(0, 1)
    zero = qweight.zero_point
    pairs = scales.has_global and group == 16
    coded = pairs or (scales.is_coded and not scales.has_global)
    packed = LowBitWeight(
        padded.contiguous(),
        _by_block(qweight, pairs) if coded else _by_group(qweight.scale, rows),
        None if zero is None else _by_group(zero, rows).to(torch.int8),
        group,
        order,
        (rows, width),
        no_turns(rows, codes.device),
        fmt.is_float,
        qweight.global_scale if pairs else None,
    )
    if codes.is_cuda:
        torch.cuda.current_stream(codes.device).synchronize()
    return packed


def _by_block(qweight: QTensor, pairs: bool) -> Tensor:
    """Codes of scales, uint8 (K / 128, O, 8 or 4): those of a block's planes together, each group's first."""
    rows, width = qweight.q.shape
    codes = local_codes(qweight.scale, qweight.global_scale).view(torch.uint8)
    codes = codes.repeat_interleave(rows // codes.shape[0], 0)
    groups, size = codes.shape[1], 16 if pairs else PLANE
    if width // groups != size:  # wider groups; a plane that K does not fill has its columns' one
        first = torch.arange(0, width, size, device=codes.device)
        codes = codes[:, first // (width // groups)]
    codes = F.pad(codes, (0, -codes.shape[1] % (BLOCK // size)))
    each = codes.view(rows, -1, PLANES, PLANE // size).transpose(2, 3)
    return each.reshape(rows, -1, BLOCK // size).transpose(0, 1).contiguous()


def _by_group(part: Tensor, rows: int) -> Tensor:
    """One value a row and group, (groups, O)."""
    return part.repeat_interleave(rows // part.shape[0], 0).t().contiguous()
