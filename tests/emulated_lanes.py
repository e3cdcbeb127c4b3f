"""What the assembler of `few_tokens_matmul` does, in numpy: Triton's interpreter runs no assembler, and this lets it
run the rest of that kernel. A tensor has one element a thread; 32 neighbours are a warp."""

from typing import Any

import numpy as np
import triton.language as tl
from triton.runtime.interpreter import TensorHandle

from quantcore.matmul.kernels import few_tokens_matmul as few


def words(w_ptr: Any, block: Any, blocks: Any, row: Any, c: Any, N: Any, EVEN: Any) -> tuple[Any, ...]:
    """16 bytes of row `row` and 16 of row `row + 8`, as eight registers; zeros past the last block."""
    found: tuple[Any, ...] = ()
    for below in (0, 8):
        at = w_ptr + (block.to(tl.int64) * N + tl.minimum(row + below, N - 1)) * 32 + 8 * c
        found += _registers(at, block < blocks)
    return found


def pieces(x_ptr: Any, block: Any, blocks: Any, token: Any, c: Any, T: Any, K: Any, EVEN: Any) -> tuple[Any, ...]:
    """Four times 16 bytes of a token, 32 columns apart; zeros past the last column."""
    at = x_ptr + tl.minimum(token, T - 1).to(tl.int64) * K + block * 128 + 8 * c
    found: tuple[Any, ...] = ()
    for plane in range(4):
        found += _registers(at + 32 * plane, (block < blocks) & (block * 128 + 32 * plane + 8 * c < K))
    return found


def unpack(register: Any, PLANE: Any, BF16: Any) -> Any:
    bits = register.handle.data.view(np.uint32) >> np.uint32(4 * int(PLANE))
    low, high = ((bits >> np.uint32(shift)) & np.uint32(15) for shift in (0, 16))
    halves = [
        (part.astype(np.float32) - 8).astype(np.float16).view(np.uint16).astype(np.uint32) for part in (low, high)
    ]
    return _tensor((halves[0] | halves[1] << np.uint32(16)).view(np.int32), tl.int32)


def unpack_scaled(register: Any, scales: Any, PLANE: Any, PAIRS: Any, BF16: Any) -> Any:
    values = np.array([0, 0.5, 1, 1.5, 2, 3, 4, 6], np.float32)
    table = np.concatenate([values, -values]) * np.float32(2.0**-14 if PAIRS else 1)
    bits = register.handle.data.view(np.uint32) >> np.uint32(4 * int(PLANE))
    halves = []
    for shift, by in zip((0, 16), _two_halves(scales), strict=True):
        times = (table[(bits >> np.uint32(shift)) & np.uint32(15)] * by).astype(np.float16)
        halves.append(times.view(np.uint16).astype(np.uint32))
    return _tensor((halves[0] | halves[1] << np.uint32(16)).view(np.int32), tl.int32)


def mma(acc: Any, a0: Any, a1: Any, a2: Any, a3: Any, b0: Any, b1: Any, BF16: Any) -> tuple[Any, ...]:
    """D = A B + C of each warp, m16n8k16 of fp16 (PTX ISA, matrix fragments for mma.m16n8k16 with floating point type).

    Lane 4 g + c holds of A, rows g and g + 8, columns 2 c, 2 c + 1 (a0, a1), and 2 c + 8, 2 c + 9 (a2, a3); of B, the
    same rows of column g (b0, b1); of C and D, rows g (c0, c1) and g + 8 (c2, c3), columns 2 c and 2 c + 1."""
    warps = a0.handle.data.size // 32
    lane = np.arange(32)
    g, c = lane // 4, lane % 4
    a, b = np.zeros((warps, 16, 16), np.float32), np.zeros((warps, 16, 8), np.float32)
    d = np.zeros((warps, 16, 8), np.float32)
    for register, below, right in ((a0, 0, 0), (a1, 8, 0), (a2, 0, 8), (a3, 8, 8)):
        for odd, values in enumerate(_two_floats(register, warps)):
            a[:, g + below, 2 * c + right + odd] = values
    for register, below in ((b0, 0), (b1, 8)):
        for odd, values in enumerate(_two_floats(register, warps)):
            b[:, 2 * c + below + odd, g] = values
    for i, part in enumerate(acc):
        d[:, g + 8 * (i // 2), 2 * c + i % 2] = part.handle.data.reshape(warps, 32)
    d = a @ b + d
    return tuple(_tensor(d[:, g + 8 * (i // 2), 2 * c + i % 2].reshape(-1), tl.float32) for i in range(4))


def _registers(at: Any, wanted: Any) -> tuple[Any, ...]:
    """Eight neighbours of 16 bits as four registers."""
    bits = [tl.load(at + i, mask=wanted, other=0).handle.data.view(np.uint16).astype(np.uint32) for i in range(8)]
    pairs = zip(bits[::2], bits[1::2], strict=True)
    return tuple(_tensor((low | high << np.uint32(16)).view(np.int32), tl.int32) for low, high in pairs)


def _two_floats(register: Any, warps: int) -> list[np.ndarray]:
    return [part.reshape(warps, 32) for part in _two_halves(register)]


def _two_halves(register: Any) -> list[np.ndarray]:
    bits = register.handle.data.view(np.uint32)
    parts = (bits & np.uint32(0xFFFF), bits >> np.uint32(16))
    return [part.astype(np.uint16).view(np.float16).astype(np.float32) for part in parts]


def _tensor(data: np.ndarray, dtype: tl.dtype) -> tl.tensor:
    return tl.tensor(TensorHandle(np.ascontiguousarray(data), dtype), tl.block_type(dtype, list(data.shape)))


REPLACED = {"_words": words, "_pieces": pieces, "unpack": unpack, "unpack_scaled": unpack_scaled, "_mma": mma}
assert all(hasattr(few, name) for name in REPLACED)
