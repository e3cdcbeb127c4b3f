"""Kernels compile for a GPU on a machine without one: what Triton's interpreter takes, its compiler may refuse."""

import re
from itertools import product
from typing import Any

import pytest
import torch

from quantcore.matmul.codes import Coding
from quantcore.numbers.affine import QParams
from quantcore.numbers.qtensor import quantize
from quantcore.scheme.scheme import Scheme

triton = pytest.importorskip("triton")
HOPPER = ("cuda", 90, 32)
HOPPER_SHARED = 232448  # bytes of shared memory that a program may have


class _Hopper:
    """What Triton asks its driver before it compiles."""

    def get_current_target(self) -> Any:
        return triton.backends.compiler.GPUTarget(*HOPPER)

    def get_current_device(self) -> int:
        return 0


def _waits(name: str, asm: dict[str, str]) -> None:
    """A kernel that begins before the one before it has ended reads packed and coded weights alone until it waits, that
    the cache need not keep, and nothing by `.nc`. Hopper's products have warps that do not wait themselves. It lets the
    next one begin: where it is short at once."""
    if name == "multiply_tiles":
        groups = re.split(r"\n +(?:default|partition\d)\b", asm["ttgir"])[1:]
        early = [re.findall(r"tt\.load|tt\.store|tma_copy\w+", one.split("griddepcontrol.wait")[0]) for one in groups]
        assert len(groups) == 4
        assert sum(map(bool, early)) <= 1
        assert {kind for kinds in early for kind in kinds} <= {"tma_copy_global_to_local"}
        assert set(re.findall(r"init_barrier [^,]+, (\d+)", asm["ttgir"])) == {"2"}  # who brings, who multiplies
        assert "griddepcontrol.launch_dependents" in asm["ttgir"]
        return
    before, wait, behind = asm["ttgir" if name == "_multiply_low_bit" else "ptx"].partition("griddepcontrol.wait")
    assert wait, f"{name} does not wait"
    if name in ("_range_parts", "_quantize_rows", "_quantize_groups", "_norm_rows", "_gate_rows"):
        assert "griddepcontrol.launch_dependents" in before
    if name == "_multiply_low_bit":
        copies = [part.count("ttng.async_tma_copy_global_to_local") for part in (before, behind)]
        assert copies[0] in (3, 4)  # halves of a weight's tile, its scales, zeros if any
        assert copies[1] in (1, 2)  # tokens, of 256 in halves
    else:
        early = re.findall(r"\b(?:ld|st|atom|red|cp)\.[\w.:]*global[\w.:]*", before)
        assert set(early) == ({"ld.global.L1::no_allocate.v4.b32"} if name == "_multiply_few" else set())
        assert "ld.global.nc" not in asm["ptx"]


def _adds_while_it_multiplies(sass: str, loads: str = "") -> None:
    """In the machine code of each group of warps whose sums leave the tensor cores: of the four products of a block,
    four instructions each, the next one is asked for before one is waited for, and nearly half of the sums at least are
    added before the last wait. By then what the next block needs has been loaded, or asked for: packed words and their
    scales, or scales of plain codes."""
    loops = re.findall(r"(?s)[QI]GMMA.*?DEPBAR\.LE gsb0, 0x0", sass)
    assert len(loops) == 2
    for loop in loops:
        steps = re.findall(r"[QI]GMMA|(?<=DEPBAR\.LE gsb0, 0x)\d", loop)
        assert "".join(one if one in "01" else "P" for one in steps) == "PPPPPPPP11PPPP11PPPP110"
        assert len(re.findall(r"FADD|FFMA", loop)) >= 60
        assert not loads or len(re.findall(loads, loop)) >= 2


def _around(operation: str, ttgir: str) -> list[str]:
    """What stands around each of these operations: a loop, or a branch."""
    lines = ttgir.splitlines()
    depths = [len(line) - len(line.lstrip()) for line in lines]
    found = [place for place, line in enumerate(lines) if operation in line]
    assert found
    return [
        next(line for line, depth in zip(lines[place::-1], depths[place::-1], strict=True) if depth < depths[place])
        for place in found
    ]


def _adds_parts(kernel: Any) -> bool:
    """Whether programs share tiles; where none does, results are written without asking. Parts are written, counted and
    read by sixteen bytes a thread, those of a warp in a row. Each side counts behind a barrier of its warps, when what
    they wrote is there for all of the GPU, and reads parts past its own cache. One of them lets the next kernel begin,
    behind its count."""
    sass = kernel.asm["sass"]
    counts = [one.start() for one in re.finditer(r"ATOMG\.E\.ADD\.STRONG\.GPU", sass)]
    if not counts:
        assert not re.search(r"STG\.E\.128 |LDG\.E\.128", sass)
        assert all("scf.for" in one for one in _around("async_tma_copy_local_to_global", kernel.asm["ttgir"]))
        return False
    assert len(counts) == 2
    for at in counts:
        before, behind = sass[:at].rpartition("STG.E.128 ")[2], sass[at:]
        assert re.search(r"(?s)BAR\.SYNC\S* 0x\w+, 0x80\b.*MEMBAR\.\w+\.GPU", before)
        assert re.search(r"(?s)^.*?STG\.E desc\S*, RZ\b.*?LDG\.E\.128\.STRONG\.GPU", behind)
    assert not re.search(r"LDG\.E\.128 ", sass)
    assert len(re.findall("PREEXIT", sass)) == 1
    return True


@pytest.fixture
def compiled(monkeypatch: pytest.MonkeyPatch, tmp_path: Any) -> dict[str, Any]:
    """The kernels whose launch was asked for meanwhile, compiled and not run, by name."""
    from triton._utils import find_paths_if, get_iterable_path
    from triton.backends.nvidia.compiler import CUDABackend

    from quantcore.matmul.kernels import (
        attend,
        codes_matmul,
        decode_rows,
        expand,
        few_tokens_matmul,
        hopper_codes,
        hopper_low_bit,
        low_bit_matmul,
        quantize_rows,
        round_groups,
    )
    from quantcore.methods.kernels import fwht

    found: dict[str, Any] = {}

    def launch(kernel: Any, grid: tuple[int, ...], *args: Any, **constants: Any) -> None:
        on_hopper = {"OVERLAP": True, "SOFT": False, "PLAIN": False}  # tensors are on the CPU
        constants |= {name: value for name, value in on_hopper.items() if name in constants}
        bound, specialization, _ = kernel.create_binder()[-1](*args, **{"debug": False, **constants})
        names = [parameter.name for parameter in kernel.params]
        kinds, attributes = ([one[place] for one in specialization] for place in (0, 1))
        values = list(bound.values())
        source = kernel.ASTSource(
            kernel,
            dict(zip(names, kinds, strict=True)),
            {path: get_iterable_path(values, path) for path in find_paths_if(kinds, lambda _, one: one == "constexpr")},
            {
                path: CUDABackend.parse_attr(get_iterable_path(attributes, path))
                for path in find_paths_if(attributes, lambda _, one: isinstance(one, str))
            },
        )
        named = ("num_warps", "num_stages", "enable_fp_fusion", "maxnreg")
        options = {name: constants[name] for name in named if constants.get(name) is not None}
        target = triton.backends.compiler.GPUTarget(*HOPPER)
        found[kernel.__name__] = triton.compile(source, target=target, options=options)
        if "OVERLAP" in constants:
            _waits(kernel.__name__, found[kernel.__name__].asm)

    for module in (
        attend, codes_matmul, decode_rows, expand, few_tokens_matmul, hopper_codes, hopper_low_bit, low_bit_matmul,
        quantize_rows, round_groups, fwht,
    ):  # fmt: skip
        monkeypatch.setattr(module, "launch", launch)
    monkeypatch.setattr(triton.runtime.driver, "_active", _Hopper())
    monkeypatch.setenv("TRITON_CACHE_DIR", str(tmp_path))
    return found


@pytest.mark.parametrize("scheme", ["W4A16", "NVFP4A16", "MXFP4A16"])
def test_products_of_four_bits(scheme: str, compiled: dict[str, Any]) -> None:
    from quantcore.matmul.kernels.few_tokens_matmul import multiply_few
    from quantcore.matmul.kernels.low_bit_matmul import multiply_packed
    from quantcore.matmul.kernels.low_bit_weight import pack_weight

    weight = pack_weight(quantize(torch.randn(256, 1024), Scheme.parse(scheme).weights))
    x = torch.zeros(4, 1024, dtype=torch.bfloat16)
    multiply_few(x, weight, None)
    multiply_packed(x, weight, None)
    assert "mma.sync" in compiled["_multiply_few"].asm["ptx"]
    assert set(compiled) == {"_multiply_few", "_multiply_packed"}


def test_transforms_and_rounding(compiled: dict[str, Any]) -> None:
    from quantcore.matmul.kernels.round_groups import round_groups
    from quantcore.methods.kernels.fwht import fwht

    for width in (1024, 16384):
        fwht(torch.zeros(70, width, dtype=torch.bfloat16))
        assert "wgmma" in compiled["_kernel"].asm["ptx"]
        assert 2 * compiled["_kernel"].metadata.shared <= HOPPER_SHARED  # two programs share a multiprocessor
    spec = Scheme.parse("a:fp4_e2m1/group16/e4m3/local").activations
    round_groups(torch.zeros(4, 1024, dtype=torch.bfloat16), spec, QParams(torch.ones(1, 1), None, torch.ones(1)))
    assert "_round_groups" in compiled


@pytest.mark.parametrize(("scheme", "instruction"), [("W8A8", "s32.s8.s8"), ("FP8_DYNAMIC", "f32.e4m3.e4m3")])
def test_codes_times_codes(scheme: str, instruction: str, compiled: dict[str, Any]) -> None:
    from quantcore.matmul.codes import TokenCodes
    from quantcore.matmul.kernels.codes_matmul import multiply
    from quantcore.matmul.products import coded_weight

    parsed = Scheme.parse(scheme)
    assert parsed.activations is not None
    weight = coded_weight(quantize(torch.randn(256, 2048), parsed.weights), parsed.activations)
    for tokens, dtype in ((4, torch.bfloat16), (300, torch.bfloat16), (300, torch.float32)):
        codes = torch.zeros(tokens, 2048, dtype=parsed.activations.fmt.storage)
        multiply(TokenCodes(codes, torch.ones(tokens), None, None), weight, None, dtype)
        name = "_multiply_many" if tokens > 128 else "_multiply"
        assert instruction in compiled[name].asm["ptx"]
        assert compiled[name].metadata.shared <= HOPPER_SHARED


@pytest.mark.parametrize("scheme", ["w:int4/group128,a:fp8_e4m3/token/dynamic", "w:int4/channel,a:int8/token/dynamic"])
def test_codes_of_four_bits_times_codes_of_eight(scheme: str, compiled: dict[str, Any]) -> None:
    from quantcore.matmul import w4a8
    from quantcore.matmul.codes import TokenCodes
    from quantcore.matmul.kernels.low_bit_weight import pack_weight

    parsed = Scheme.parse(scheme)
    assert parsed.activations is not None
    weight = pack_weight(quantize(torch.randn(256, 2048), parsed.weights))
    for tokens, dtype in ((20, torch.bfloat16), (300, parsed.activations.fmt.storage)):
        codes = torch.zeros(tokens, 2048, dtype=dtype)
        w4a8.multiply(TokenCodes(codes, torch.ones(tokens), None, None), weight, None, torch.bfloat16)
    sums = "f32.e4m3.e4m3" if parsed.activations.fmt.is_float else "s32.s8.s8"
    name = "_multiply" if "group" in scheme else "_multiply_many"
    assert sums in compiled[name].asm["ptx"]
    assert set(compiled) == {"_multiply_packed", "_expand", name}


@pytest.mark.parametrize(
    "scheme", ["W8A8", "w:int8/channel/asym,a:int8/token/asym/dynamic", "FP8_DYNAMIC", "FP8_BLOCK", "W4AFP8", "W4AINT8"]
)
def test_products_of_many_codes_for_hopper(scheme: str, compiled: dict[str, Any]) -> None:
    from quantcore.matmul import w4a8
    from quantcore.matmul.codes import TokenCodes
    from quantcore.matmul.kernels.hopper_codes import multiply_many
    from quantcore.matmul.kernels.low_bit_weight import pack_weight
    from quantcore.matmul.products import coded_blocks, coded_weight

    parsed = Scheme.parse({"W4AINT8": "w:int4/group128,a:int8/token/dynamic"}.get(scheme, scheme))
    assert parsed.activations is not None
    storage = parsed.activations.fmt.storage
    qweight = quantize(torch.randn(256, 4096), parsed.weights)
    if "W4" in scheme:
        weight = w4a8.codes_of(pack_weight(qweight), storage)
    else:
        weight = (coded_blocks if "BLOCK" in scheme else coded_weight)(qweight, parsed.activations)
    zero = None if parsed.activations.symmetric else torch.zeros(300, dtype=torch.int32)
    codes = torch.zeros(300, 4096, dtype=storage)
    scale = torch.ones(300, 32) if "BLOCK" in scheme else torch.ones(300)
    multiply_many(TokenCodes(codes, scale, zero, zero), weight, torch.ones(256), torch.bfloat16, 256)
    kernel = compiled["multiply_tiles"]
    assert _adds_parts(kernel) == ("W4" not in scheme)  # three tiles for two multiprocessors; four
    assert ("s32.s8.s8" if storage == torch.int8 else "f32.e4m3.e4m3") in kernel.asm["ptx"]
    assert kernel.metadata.shared <= HOPPER_SHARED
    if storage != torch.int8 or "W4" in scheme:
        _adds_while_it_multiplies(kernel.asm["sass"], "" if scheme == "FP8_DYNAMIC" else r"\bLDG\.")


@pytest.mark.parametrize(
    ("scheme", "sums"),
    [
        ("w:int4/channel,a:int8/token/dynamic", "s32.s8.s8"),
        ("w:int4/group256,a:int8/token/dynamic", "s32.s8.s8"),
        ("w:int4/group128,a:fp8_e4m3/token/dynamic", "f32.e4m3.e4m3"),
    ],
)
def test_products_of_many_codes_of_four_bits_for_hopper(scheme: str, sums: str, compiled: dict[str, Any]) -> None:
    from quantcore.matmul.codes import TokenCodes
    from quantcore.matmul.kernels.hopper_codes import multiply_packed_many
    from quantcore.matmul.kernels.low_bit_weight import pack_weight

    parsed = Scheme.parse(scheme)
    assert parsed.activations is not None
    codes = TokenCodes(torch.zeros(300, 1024, dtype=parsed.activations.fmt.storage), torch.ones(300), None, None)
    weight = pack_weight(quantize(torch.randn(256, 1024), parsed.weights))
    multiply_packed_many(codes, weight, torch.ones(256), torch.bfloat16, 256)
    kernel = compiled["multiply_tiles"]
    assert sums in kernel.asm["ptx"]
    assert "prmt" in kernel.asm["ptx"]
    assert not _adds_parts(kernel)  # splits of 8 blocks would be too short
    assert kernel.metadata.shared <= HOPPER_SHARED
    if "group" in scheme:
        _adds_while_it_multiplies(kernel.asm["sass"], r"\bLDS\b")


@pytest.mark.parametrize(
    ("scheme", "width"),
    [
        ("w:int4/channel,a:int8/token/dynamic", 16),
        ("w:int4/channel,a:int8/token/dynamic", 128),
        ("w:int4/group128,a:fp8_e4m3/token/dynamic", 64),
        ("w:int8/channel/asym,a:int8/token/asym/dynamic", 128),
        ("FP8_DYNAMIC", 64),
        ("FP8_BLOCK", 128),
        ("W4AINT8", 64),
    ],
)
def test_products_of_codes_in_narrow_tiles(scheme: str, width: int, compiled: dict[str, Any]) -> None:
    """Four groups of warps wait for the kernel before, but for the one that brings a weight that nobody writes."""
    from quantcore.matmul import w4a8
    from quantcore.matmul.codes import TokenCodes
    from quantcore.matmul.kernels.hopper_codes import multiply_many, multiply_packed_many
    from quantcore.matmul.kernels.low_bit_weight import pack_weight
    from quantcore.matmul.products import coded_blocks, coded_weight

    parsed = Scheme.parse({"W4AINT8": "w:int4/group128,a:int8/token/dynamic"}.get(scheme, scheme))
    assert parsed.activations is not None
    storage = parsed.activations.fmt.storage
    qweight = quantize(torch.randn(256, 2048), parsed.weights)
    zero = None if parsed.activations.symmetric else torch.zeros(width, dtype=torch.int32)
    scale = torch.ones(width, 16) if "BLOCK" in scheme else torch.ones(width)
    x = TokenCodes(torch.zeros(width, 2048, dtype=storage), scale, zero, zero)
    if "int4" in scheme:
        multiply_packed_many(x, pack_weight(qweight), torch.ones(256), torch.bfloat16, width)
    elif "W4" in scheme:
        multiply_many(x, w4a8.codes_of(pack_weight(qweight), storage), torch.ones(256), torch.bfloat16, width)
    else:
        weight = (coded_blocks if "BLOCK" in scheme else coded_weight)(qweight, parsed.activations)
        multiply_many(x, weight, torch.ones(256), torch.bfloat16, width)
    kernel = compiled["multiply_tiles"]
    kind = "s32.s8.s8" if storage == torch.int8 else "f32.e4m3.e4m3"
    assert f"m64n{width}k32.{kind}" in kernel.asm["ptx"]
    assert kernel.asm["ptx"].count("griddepcontrol.wait") == (4 if "W4" in scheme else 3)
    assert kernel.metadata.shared <= HOPPER_SHARED


@pytest.mark.parametrize("scheme", ["W4A16", "W4A16_ASYM"])
@pytest.mark.parametrize("tile", [(16, 2, 2), (64, 2, 2), (256, 1, 1), (256, 1, 2, 1)])
def test_products_of_four_bits_for_hopper(scheme: str, tile: tuple[int, ...], compiled: dict[str, Any]) -> None:
    from quantcore.matmul.kernels.hopper_low_bit import multiply_low_bit
    from quantcore.matmul.kernels.hopper_tiles import Tile
    from quantcore.matmul.kernels.low_bit_weight import pack_weight

    spec = Scheme.parse(scheme).weights
    assert spec is not None
    weight = pack_weight(quantize(torch.randn(256, 1024), spec))
    x, scale = torch.zeros(tile[0], 1024, dtype=torch.bfloat16), torch.ones(tile[0])
    multiply_low_bit(x, weight, torch.ones(256), Tile(*tile), scale)
    kernel = compiled["_multiply_low_bit"]
    assert f"m64n{tile[0]}k16.f32.bf16" in kernel.asm["ptx"]
    assert _adds_parts(kernel) == (tile[2] > 1)
    assert kernel.metadata.shared <= HOPPER_SHARED


@pytest.mark.parametrize(
    ("scheme", "tile"), [("W4A16", (128, 1)), ("W4A16", (64, 1)), ("W4A16_ASYM", (32, 2)), ("w:int4/channel", (32, 2))]
)
def test_words_of_a_block_are_read_while_the_last_one_is_multiplied(
    scheme: str, tile: tuple[int, int], compiled: dict[str, Any]
) -> None:
    """In the machine code of each group of warps, where ptxas might do otherwise: the eight instructions of a block's
    product wait for nothing, and behind them, before their end, are the loads of the next block's words. Nothing is
    kept in local memory."""
    from quantcore.matmul.kernels.hopper_low_bit import multiply_low_bit
    from quantcore.matmul.kernels.hopper_tiles import Tile
    from quantcore.matmul.kernels.low_bit_weight import pack_weight

    weight = pack_weight(quantize(torch.randn(256, 1024), Scheme.parse(scheme).weights))
    multiply_low_bit(torch.zeros(tile[0], 1024, dtype=torch.bfloat16), weight, None, Tile(*tile))
    sass = compiled["_multiply_low_bit"].asm["sass"]
    steps = re.findall(r"HGMMA|WARPGROUP\.DEPBAR|LDSM", sass)
    assert re.findall(r"H+LL?W", "".join("W" if one.startswith("W") else one[0] for one in steps)) == [
        "HHHHHHHHLLW"
    ] * (2 * tile[1])
    assert not re.search(r"\b(?:STL|LDL)\b", sass)


@pytest.mark.parametrize(
    ("tokens", "out", "width", "tile"),
    [
        (32, 14336, 4096, (32, 2, 1, 0)),  # 112 tiles for 132 multiprocessors
        (128, 4096, 14336, (128, 1, 4, 0)),  # 32 tiles
        (256, 4096, 14336, (128, 1, 2, 0)),
        (512, 1024, 4096, (128, 1, 4, 0)),
        (256, 14336, 4096, (128, 1, 1, 0)),  # 224 tiles: 92 are left, too many to split
        (512, 14336, 4096, (128, 1, 2, 396)),  # 448: 52 are left, halves of them are 104
        (2048, 4096, 4096, (256, 1, 1, 0)),
        (2048, 14336, 4096, (256, 1, 1, 0)),  # 896 tiles: 104 are left
        (1030, 14336, 4096, (256, 1, 4, 528)),  # 560: 32 are left
        (32, 4096, 4096, None),  # splits of 8 blocks, few for few tokens
        (32, 1024, 4096, None),  # 8 tiles
        (16, 5120, 5120, (16, 2, 3, 0)),  # 40, of which three in four multiprocessors have a third
    ],
)
def test_tiles_for_hopper(tokens: int, out: int, width: int, tile: tuple[int, ...] | None) -> None:
    from quantcore.matmul.kernels.hopper_tiles import tile_for

    assert tile_for(tokens, out, width, 132) == tile


@pytest.mark.parametrize("programs", [78, 114, 132, 144])
def test_there_is_a_turn_for_each_side_of_a_split_tile(programs: int) -> None:
    from quantcore.matmul.codes import no_turns
    from quantcore.matmul.kernels.hopper_tiles import BLOCK_US, Tile, cut, tile_for

    most = 0
    for out, tokens, blocks in product((8, 1000, 4096, 14336), (16, 100, 1000, 5000), (16, 112)):
        tile = tile_for(tokens, out, 128 * blocks, programs)
        shares = [] if tile is None else [tile]
        for block_t in (16, 128, 256):
            tiles = -(-tokens // block_t) * -(-out // 128)
            shares.append(Tile(block_t, 1, *cut(tiles, blocks, programs, BLOCK_US[block_t], 128 * block_t)))
        for block_t, _, splits, whole in shares:
            if splits > 1:
                left = -(-tokens // block_t) * -(-out // 128) - whole
                assert 0 < 2 * left <= len(no_turns(out, torch.device("cpu")))
                most = max(most, left)
    assert most > programs // 3


def test_tiles_of_weights_with_zero_points() -> None:
    from quantcore.matmul.kernels.hopper_tiles import tile_for

    assert [tile_for(tokens, 14336, 4096, 132, True).tokens for tokens in (64, 512, 513)] == [64, 128, 256]


@pytest.mark.parametrize(
    ("tokens", "out", "kind", "width"),
    [
        (8, 14336, "int4", 256),
        (9, 14336, "int4", 16),
        (17, 14336, "int4", 32),
        (32, 4096, "int4", 256),  # splits of 8 blocks
        (32, 1024, "int4 apart", 256),
        (33, 1024, "int4 apart", 64),
        (33, 28672, "int4", 64),
        (8, 14336, "int8", 256),
        (9, 14336, "int8", 16),
        (64, 14336, "int8", 64),
        (8, 14336, "fp8", 256),
        (9, 14336, "fp8", 16),
        (17, 4096, "fp8", 32),
        (32, 2048, "fp8", 256),  # few rows: without tiles in shared memory
        (16, 1024, "int8", 256),
        (33, 1024, "int8", 64),
        (64, 28672, "fp8", 64),
        (65, 28672, "fp8", 256),
        (64, 4096, "int8", 64),
        (100, 28672, "int8", 128),
        (256, 14336, "int8", 256),  # 112 tiles that are wide, 224 narrow ones on 132 multiprocessors
        (256, 8448, "int8", 128),
        (384, 14336, "int4", 128),
        (16, 4096, "blocks", 256),
        (17, 14336, "blocks", 128),
        (128, 28672, "blocks", 256),
        (128, 4096, "fp8", 128),
        (128, 14336, "fp8", 256),
        (650, 14336, "int8", 128),  # 672 narrow tiles, 12 for the end, or 336 wide ones, 72 for the end
        (650, 14336, "int4", 128),
        (650, 14336, "int4 apart", 256),  # narrow ones lose more where sums leave the tensor cores
        (300, 28672, "blocks", 256),
    ],
)
def test_widths_of_tiles_of_codes(tokens: int, out: int, kind: str, width: int) -> None:
    from quantcore.matmul.kernels.hopper_tiles import width_for

    assert width_for(tokens, out, 32, kind, 132) == width


@pytest.mark.parametrize(
    ("tiles", "blocks", "splits"),
    [
        (264, 32, 1),  # none is left
        (133, 32, 4),  # one is, whose splits are as short as they may be
        (133, 8, 1),
        (212, 32, 1),  # 80 are: three splits of 11 blocks, two after each other, save 10; the parts take longer
        (212, 112, 3),  # 36 of 112
    ],
)
def test_splits_of_the_last_tiles(tiles: int, blocks: int, splits: int) -> None:
    from quantcore.matmul.kernels.hopper_tiles import cut

    assert cut(tiles, blocks, 132, 1.5, 128 * 256) == (splits, tiles // 132 * 132 if splits > 1 else 0)


@pytest.mark.parametrize(
    ("tiles", "blocks", "block_us", "block_r", "splits"),
    [
        (32, 32, 0.37, 128, 3),  # 11 of 32 blocks, 4.1 us; 2.1 to add, 2.6 for a program's 4 parts, 2.5 for all: 11.3
        (40, 32, 0.37, 128, 1),  # 4.1, 2.1, 2.6 and 3.1: more than 32 blocks' 11.8
        (24, 32, 0.72, 256, 3),
        (8, 64, 0.72, 256, 5),
    ],
)
def test_splits_by_what_adding_costs(tiles: int, blocks: int, block_us: float, block_r: int, splits: int) -> None:
    from quantcore.matmul.kernels.hopper_tiles import cut

    assert cut(tiles, blocks, 132, block_us, 128 * block_r) == (splits, 0)


def test_what_stands_between_the_products_of_a_decode_step(compiled: dict[str, Any]) -> None:
    from quantcore.matmul.kernels.attend import Attention, rotate_and_keep
    from quantcore.matmul.kernels.decode_rows import gate_rows, norm_rows

    h, place = torch.zeros(1, 256, dtype=torch.bfloat16), torch.zeros(1, dtype=torch.int64)
    keys, turns = torch.zeros(1, 2, 256, 64, dtype=torch.bfloat16), torch.zeros(256, 64, dtype=torch.bfloat16)
    rows = torch.zeros(1, 8 * 64, dtype=torch.bfloat16)
    for spec in (None, Scheme.parse("W8A8").activations, Scheme.parse("FP8_DYNAMIC").activations):
        for dtype in (None,) if spec is None else (spec.fmt.storage, torch.bfloat16):
            coding = None if spec is None or dtype is None else Coding(spec, dtype)
            norm_rows(h, h.clone(), h[0], 1e-5, coding)
            gate_rows(h, coding)
            if coding is not None and coding.spec.fmt.is_float:  # rounded to it, whatever they are kept in
                assert all("e4m3x2" in compiled[name].asm["ptx"] for name in ("_norm_rows", "_gate_rows"))
    rotate_and_keep(rows, turns, turns, place, keys, keys.clone(), 4)
    for pieces in (1, 4):
        Attention(1, 4, 2, 64, 256, rows.device, pieces).attend(rows, keys, keys.clone(), place, 0.1)
    assert "fma.rn.bf16" not in compiled["_rotate_and_keep"].asm["ptx"]
    assert set(compiled) == {"_norm_rows", "_gate_rows", "_rotate_and_keep", "_attend"}


@pytest.mark.parametrize("spec", ["int8/token/asym/dynamic", "int8/tensor/asym/dynamic", "fp8_e4m3/group128/dynamic"])
def test_tokens_to_codes(spec: str, compiled: dict[str, Any]) -> None:
    from quantcore.matmul.kernels.quantize_rows import quantize_tokens

    activations = Scheme.parse(f"a:{spec}").activations
    assert activations is not None
    quantize_tokens(torch.zeros(20, 1024, dtype=torch.bfloat16), activations, multiple=128)
    name = "_quantize_groups" if "group" in spec else "_quantize_rows"
    assert set(compiled) == ({"_range_parts", name} if "tensor" in spec else {name})
