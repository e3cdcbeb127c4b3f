"""The Triton kernels on the CPU, in Triton's interpreter, on small problems. Run by test_kernels_interpreted.py in a
process of its own: the interpreter is switched on where Triton is imported."""

from typing import Any

import numpy
import pytest
import torch
import triton
import triton.language as tl

from quantcore.matmul import w4a8
from quantcore.matmul.codes import LEAST_TURNS, TokenCodes, no_turns
from quantcore.matmul.kernels import few_tokens_matmul, hopper_codes, hopper_low_bit, hopper_tiles
from quantcore.matmul.kernels.codes_matmul import Tile, multiply
from quantcore.matmul.kernels.expand import expand
from quantcore.matmul.kernels.few_tokens_matmul import FewTile, multiply_few
from quantcore.matmul.kernels.low_bit_matmul import multiply_packed
from quantcore.matmul.kernels.low_bit_weight import pack_weight
from quantcore.matmul.paths import open_paths
from quantcore.matmul.products import coded_blocks, coded_weight
from quantcore.matmul.why_not import why_no_kernels
from quantcore.numbers.kernels.grams import add_grams
from quantcore.numbers.kernels.turns import is_last
from quantcore.numbers.qtensor import dequantize, quantize
from quantcore.scheme.scheme import Scheme
from tests import decode_laws, emulated_lanes, emulated_tiles, quick_interpreter  # noqa: F401
from tests import matmul_laws as laws


def test_the_interpreter_opens_the_kernels_to_the_cpu() -> None:
    assert why_no_kernels(torch.zeros(1)) is None
    q = quantize(torch.randn(16, 128), Scheme.parse("W8A8").weights)
    assert open_paths(torch.zeros(1, 128), q, Scheme.parse("W8A8").activations)[0].name == "int8"


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32])
@pytest.mark.parametrize(
    "spec",
    [
        "int8/token/dynamic",
        "int8/token/asym/dynamic",
        "int8/tensor/dynamic",
        "int8/tensor/asym/dynamic",
        "int8/tensor/static",
        "int8/tensor/asym/static",
        "int4/token/asym/dynamic",
        "fp8_e4m3/token/dynamic",
        "fp8_e4m3/tensor/dynamic",
        "fp8_e4m3/tensor/static",
    ],
)
def test_codes(spec: str, dtype: torch.dtype) -> None:
    for tokens, width in ((3, 256), (17, 130), (1, 37)):
        laws.check_codes(spec, tokens, width, dtype, "cpu")


@pytest.mark.parametrize("size", laws.SIZES)
@pytest.mark.parametrize("spec", ["int8/token/dynamic", "int8/tensor/asym/static", "fp8_e4m3/token/dynamic"])
def test_codes_of_the_least_and_the_greatest(spec: str, size: float) -> None:
    with numpy.errstate(over="ignore"):
        laws.check_codes(spec, 5, 1000, torch.float32, "cpu", size)


@pytest.mark.parametrize("spec", ["int8/token/dynamic", "int8/token/asym/dynamic", "fp8_e4m3/token/dynamic"])
def test_codes_of_what_is_not_finite(spec: str) -> None:
    with numpy.errstate(invalid="ignore"):
        laws.check_codes_of_what_is_not_finite(spec, "cpu")


def test_codes_of_groups_and_of_rows_longer_than_a_block(monkeypatch: pytest.MonkeyPatch) -> None:
    laws.check_codes("fp8_e4m3/group128/dynamic", 3, 384, torch.bfloat16, "cpu")
    monkeypatch.setattr("quantcore.matmul.kernels.quantize_rows.LONGEST_BLOCK", 64)
    for spec in ("int8/token/dynamic", "int8/token/asym/dynamic", "fp8_e4m3/token/dynamic", "int8/tensor/static"):
        laws.check_codes(spec, 3, 200, torch.bfloat16, "cpu")


@pytest.mark.parametrize("spec", ["int8/tensor/dynamic", "int8/tensor/asym/dynamic"])
def test_codes_of_more_than_the_parts_of_a_range_hold(spec: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Two parts of 8192 numbers at a time, of five."""
    monkeypatch.setattr("quantcore.matmul.kernels.quantize_rows.PARTS", 2)
    laws.check_codes(spec, 30, 1200, torch.float32, "cpu")


@pytest.mark.parametrize(
    "tile",
    [
        Tile(32, 16, 128, 4, 3),
        Tile(16, 32, 128, 4, 3),
        Tile(32, 16, 128, 4, 3, splits=3),
        Tile(32, 16, 128, 4, 3, persistent=True),
    ],
)
def test_bare_sums_are_exact(tile: Tile) -> None:
    for tokens, out, width in ((5, 48, 256), (33, 40, 640), (3, 42, 128)):
        x, w, expected = laws.coded_case(tokens, out, width, "cpu")
        assert torch.equal(multiply(x, w, None, torch.int32, tile).long(), expected)


@pytest.mark.parametrize("scheme", laws.INT8_SCHEMES)
def test_int8(scheme: str) -> None:
    laws.check_product("int8", scheme, 5, 40, 200, torch.float32)
    laws.check_product("int8", scheme, 1, 17, 130, torch.float16, with_bias=False)


@pytest.mark.parametrize("scheme", laws.FP8_SCHEMES)
def test_fp8(scheme: str) -> None:
    laws.check_product("fp8", scheme, 5, 40, 200, torch.float32)
    laws.check_product("fp8", scheme, 1, 17, 130, torch.float16, with_bias=False)


def test_fp8_block() -> None:
    laws.check_product("fp8_block", "FP8_BLOCK", 5, 256, 384, torch.float32)


@pytest.mark.parametrize("scheme", laws.LOW_BIT_SCHEMES)
def test_low_bit(scheme: str) -> None:
    width = 384 if "128" in scheme else 192
    laws.check_product("low_bit", scheme, 5, 80, width, torch.float16)
    laws.check_product("low_bit", scheme, 1, 17, width, torch.float16, with_bias=False)
    if "group" in scheme:
        laws.check_product("low_bit", scheme, 3, 20, width, torch.float16, reorder=True)


@pytest.mark.parametrize(
    "scheme", ["w:int4/group64/asym", "w:int4/group128", "w:int3/group256", "w:int4/channel/asym", "w:int4/tensor"]
)
def test_low_bit_in_several_blocks(scheme: str) -> None:
    """Of 512 columns' four blocks some are another program's; 20 tokens take two tiles."""
    laws.check_product("low_bit", scheme, 5, 70, 512, torch.float16)
    laws.check_product("low_bit", scheme, 1, 17, 512, torch.float16, with_bias=False)
    if "group" in scheme:
        laws.check_product("low_bit", scheme, 20, 24, 512, torch.float16, reorder=True)


@pytest.mark.parametrize("scheme", laws.W4A8_SCHEMES)
def test_w4a8(monkeypatch: pytest.MonkeyPatch, scheme: str) -> None:
    """Few tokens unpacked to 16 bits, many by codes of 8 bits; 320 columns end inside a block."""
    width = 512 if "256" in scheme else 384 if "128" in scheme else 320
    laws.check_product("w4a8", scheme, 5, 40, width, torch.float16)
    monkeypatch.setattr("quantcore.matmul.w4a8.FEW_TOKENS", 2)
    laws.check_product("w4a8", scheme, 5, 40, width, torch.float16)
    laws.check_product("w4a8", scheme, 3, 17, width, torch.float16, with_bias=False, reorder="group" in scheme)


def test_a_decode_step_of_w4a8() -> None:
    """In float16 a sum may round to the next code of 8 bits: half a percent of the largest logit was seen."""
    decode_laws.check_step("llama", "w:int4/group32,a:int8/token/dynamic", 2, torch.float16, "cpu", 1e-2, 1)


@pytest.mark.parametrize("spec", laws.ROUNDED)
def test_activations_rounded_in_groups(spec: str) -> None:
    for dtype in (torch.float32, torch.float16):
        laws.check_rounded(spec, dtype, "cpu", 5, 256)


@pytest.mark.parametrize("scheme", laws.FLOAT_BIT_SCHEMES)
def test_low_bit_of_float_formats(scheme: str) -> None:
    """Groups of 16 and 32, coded scales and floats; 192 and 320 columns end inside a block."""
    laws.check_product("low_bit", scheme, 5, 40, 192, torch.float16)
    laws.check_product("low_bit", scheme, 17, 20, 320, torch.float16, with_bias=False)
    if "group" in scheme or "A16" in scheme:
        laws.check_product("low_bit", scheme, 3, 20, 192, torch.float16, reorder=True)
    spec = Scheme.parse(scheme).weights
    q = quantize(0.05 * torch.randn(20, 192), spec)
    q.q.view(torch.int8)[0, :16] = torch.arange(16) - 8 if spec.fmt.bits == 4 else torch.arange(16)  # every code
    assert torch.equal(expand(pack_weight(q), torch.float16), dequantize(q).half())


def test_low_bit_products_of_any_tile_agree() -> None:
    x, weight, bias = laws.draw(20, 72, 512, torch.float16)
    q = quantize(weight, Scheme.parse("w:int4/group64/asym").weights)
    packed = pack_weight(q)
    exact = x.double() @ dequantize(q).double().T + bias.double()
    for tile, splits in ((Tile(32, 16, 128, 2, 2), 2), (Tile(64, 32, 128, 4, 2), 1), (Tile(16, 16, 128, 4, 3), 2)):
        y = multiply_packed(x, packed, bias, tile, splits)
        assert torch.allclose(y.double(), exact, rtol=2**-10, atol=1e-3), tile
    assert torch.equal(expand(packed, torch.float16), dequantize(q).half())


@pytest.mark.parametrize("scheme", ["w:int4/group64/asym", "w:int8/channel", "w:int4/channel"])
def test_low_bit_in_pieces_and_expanded(scheme: str) -> None:
    x, weight, bias = laws.draw(3, 24, 448, torch.float16)
    q = quantize(weight, Scheme.parse(scheme).weights)
    packed = pack_weight(q)
    whole, pieces = (multiply_packed(x, packed, bias, splits=splits) for splits in (1, 3))
    assert torch.allclose(whole.float(), pieces.float(), rtol=2**-9)
    assert torch.equal(expand(packed, torch.float16), dequantize(q).half())


FEW = ["w:int4/group128", "w:int4/group64/asym", "w:int3/channel", "w:int4/channel/asym", "NVFP4A16", "MXFP4A16"]
# Every pair of scheme and shape with half of the counts of tokens: the interpreter is slow.
FEW_CASES = [
    (scheme, shape, tokens)
    for i, scheme in enumerate(FEW)
    for j, shape in enumerate([(32, 512), (21, 200)])
    for tokens in ((1, 11), (8, 16))[(i + j) % 2]
]


@pytest.mark.parametrize(("scheme", "shape", "tokens"), FEW_CASES)
def test_few_tokens(monkeypatch: pytest.MonkeyPatch, scheme: str, shape: tuple[int, int], tokens: int) -> None:
    """With the assembler emulated, lane by lane: tiles and blocks that fit, and such that do not."""
    for name, emulated in emulated_lanes.REPLACED.items():
        monkeypatch.setattr(few_tokens_matmul, name, emulated)
    out, width = shape
    if width % 32 and "A16" in scheme:
        width = 208 if scheme == "NVFP4A16" else 224  # whole groups that end inside a block
    if "group" in scheme and width % 64:
        scheme = scheme.replace("group128", "group200").replace("group64", "group200")
    x, weight, bias = laws.draw(tokens, out, width, torch.float16)
    q = quantize(weight, Scheme.parse(scheme).weights)
    exact = x.double() @ dequantize(q).double().T
    scale = torch.rand(tokens) + 0.5
    tiles = [FewTile(1, 2, 1), FewTile(2, 1, 2)]
    if tokens in (11, 16):  # every scheme meets both tiles, with scales and bias, with bias, and with neither
        tiles.reverse()
    y = multiply_few(x, pack_weight(q), bias, tiles[0], scale)
    assert torch.allclose(y.double(), exact * scale.double()[:, None] + bias.double(), rtol=2**-10, atol=1e-3)
    added = bias if tokens in (8, 11) else None
    y = multiply_few(x, pack_weight(q), added, tiles[1])
    expected = exact if added is None else exact + bias.double()
    assert torch.allclose(y.double(), expected, rtol=2**-10, atol=1e-3)


@triton.jit
def _count(turns_ptr: Any, last_ptr: Any, splits: Any) -> None:
    at = tl.program_id(0) % 2
    if is_last(turns_ptr + at, splits):
        tl.store(last_ptr + tl.program_id(0), 1)


def test_the_last_one_to_be_done_with_a_tile() -> None:
    """Of three programs for each of two tiles, twice with the same counts."""
    turns, last = torch.zeros(2, dtype=torch.int32), torch.zeros(2, 6, dtype=torch.int32)
    for found in last:
        _count[(6,)](turns, found, 3)
        assert not turns.any()
    assert last.tolist() == [[0, 0, 0, 0, 1, 1]] * 2


def test_every_kind_of_weight_has_turns() -> None:
    """Zeros, as many as split tiles of many tokens have sides, or one for 16 rows."""
    int4, int8, blocks = (
        quantize(torch.randn(128, 128), Scheme.parse(one).weights) for one in ("W4A16", "W8A8", "FP8_BLOCK")
    )
    low = pack_weight(int4)
    for weight in (low, w4a8.codes_of(low, torch.int8), coded_weight(int8, None), coded_blocks(blocks, None)):
        assert weight.turns.tolist() == [0] * LEAST_TURNS
    assert len(no_turns(16 * LEAST_TURNS + 8, torch.device("cpu"))) == LEAST_TURNS + 1


@pytest.mark.parametrize("tile", [(16, 2, 2, 4), (32, 2, 3, 8), (32, 1, 3, 0), (64, 1, 1, 0)])
def test_parts_of_hopper_s_product_of_four_bits(
    monkeypatch: pytest.MonkeyPatch, tile: tuple[int, int, int, int]
) -> None:
    """Of three blocks one of two splits has two."""
    q = quantize(torch.randn(300, 384), Scheme.parse("W4A16").weights)
    x, w_hat, scale, bias = torch.randn(72, 384), dequantize(q), torch.rand(72), torch.randn(300)
    expected = scale[:, None] * (x @ w_hat.T) + bias

    launch = emulated_tiles.launching(
        lambda programs, args, sizes: emulated_tiles.low_bit(programs, x, w_hat, args, sizes)
    )
    monkeypatch.setattr(hopper_low_bit, "launch", launch)
    y = hopper_low_bit.multiply_low_bit(x, pack_weight(q), bias, hopper_tiles.Tile(*tile), scale)
    assert torch.allclose(y, expected, atol=1e-4)


@pytest.mark.parametrize(("scheme", "block_t"), [("W4A16", 128), ("W4A16_ASYM", 256)])
def test_weights_with_zero_points_have_larger_tiles(scheme: str, block_t: int, monkeypatch: pytest.MonkeyPatch) -> None:
    launched = []
    launch = emulated_tiles.launching(lambda _programs, _args, sizes: launched.append(sizes["BLOCK_T"]))
    monkeypatch.setattr(hopper_low_bit, "launch", launch)
    weight = pack_weight(quantize(torch.randn(128, 128), Scheme.parse(scheme).weights))
    hopper_low_bit.multiply_low_bit(torch.zeros(513, 128), weight, None)
    assert launched == [block_t]


@pytest.mark.parametrize("packed", ["", "channel int8", "channel fp8_e4m3", "group128 fp8_e4m3"])
@pytest.mark.parametrize(
    ("width", "share"), [(256, (1, 0)), (256, (2, 1)), (256, (3, 4)), (128, (3, 7)), (64, (1, 0)), (16, (3, 1))]
)
def test_parts_of_hopper_s_product_of_codes(
    monkeypatch: pytest.MonkeyPatch, width: int, share: tuple[int, int], packed: str
) -> None:
    """3 x 2 wide tiles; zero points on both sides, or packed codes of 4 bits. Turned where they are, or where tiles are
    narrow."""
    tokens = 260 if width > 64 else width + 8
    x, weight, sums = laws.coded_case(tokens, 400, 384, "cpu")
    left, right, scale, bias = weight.codes, x.codes, weight.scale, torch.randn(400)
    if packed:
        parsed = Scheme.parse("w:int4/{},a:{}/token/dynamic".format(*packed.split()))
        right = (x.codes // 8).to(parsed.activations.fmt.storage)
        x = TokenCodes(right, x.scale, None, None)
        q = quantize(torch.randn(400, 384), parsed.weights)
        grouped = q.scale.shape[1] > 1
        unit = 16 if "int8" in packed else 2**-9
        left, scale = (dequantize(q), 1) if grouped else (unit * q.q, q.scale.flatten())
        sums = right.double() @ (dequantize(q) if grouped else q.q).double().T
    elif width == 256:
        left, right = right, left
    expected = sums.float() * x.scale[:, None] * scale + bias

    launch = emulated_tiles.launching(
        lambda programs, args, sizes: emulated_tiles.codes(programs, left, right, args, sizes)
    )
    monkeypatch.setattr(hopper_codes, "launch", launch)
    monkeypatch.setattr(hopper_codes, "cut", lambda *_: share)
    if packed:
        y = hopper_codes.multiply_packed_many(x, pack_weight(q), bias, torch.float32, width)
    else:
        y = hopper_codes.multiply_many(x, weight, bias, torch.float32, width)
    assert torch.allclose(y, expected, rtol=1e-6, atol=1e-4)


@pytest.mark.parametrize("width", [40, 200])
def test_sums_of_many_experts(width: int) -> None:
    """Small whole numbers, so that every sum is exact. Five experts, of which three are asked for: one has 70 rows,
    more than a turn takes, one has none, the last all that are left; what was there is added to."""
    x = torch.randint(-3, 4, (100, width)).half()
    ends, which = torch.tensor([5, 75, 75, 80, 100]), torch.tensor([1, 2, 4])
    sums = torch.full((3, width, width), 2.0)
    add_grams(x, ends, which, sums)
    parts = [x[5:75].float(), x[75:75].float(), x[80:100].float()]
    expected = torch.stack([part.T @ part for part in parts]) + 2
    upper = torch.triu(torch.ones(width, width)).bool()
    assert torch.equal(sums[:, upper], expected[:, upper])


@pytest.mark.parametrize("width", [256, 512, 4096, 8192, 16384])
def test_the_fast_walsh_hadamard_transform(width: int) -> None:
    """In float16: the interpreter's product takes bfloat16 for whole numbers."""
    laws.check_fwht(width, torch.float16, "cpu")


@pytest.mark.parametrize("spec", [None, "int8/token/dynamic", "fp8_e4m3/token/dynamic"])
def test_rows_between_the_products_of_a_decode_step(spec: str | None) -> None:
    decode_laws.check_norm_rows(spec, torch.float32, "cpu")
    decode_laws.check_gate_rows(spec, torch.bfloat16, "cpu")


@pytest.mark.parametrize("filled", [1, 64, 130])
def test_attention_over_the_filled_part_of_a_cache(filled: int) -> None:
    decode_laws.check_attend(filled, torch.float32, "cpu")


@pytest.mark.parametrize(("queries", "heads"), [(4, 2), (9, 3)])
def test_several_heads_of_a_token_are_turned_by_one_program(
    queries: int, heads: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("quantcore.matmul.kernels.attend.MOST_SINGLE", 0)
    decode_laws.check_attend(64, torch.float32, "cpu", queries, heads)


@pytest.mark.parametrize(("kind", "scheme", "prompt", "blocks"), [("llama", "float", 70, 2), ("qwen2", "W8A8", 2, 1)])
def test_a_fused_decode_step(kind: str, scheme: str, prompt: int, blocks: int) -> None:
    decode_laws.check_step(kind, scheme, prompt, torch.float32, "cpu", 1e-5, blocks)
