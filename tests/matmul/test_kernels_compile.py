"""Kernels compile for a GPU on a machine without one: what Triton's interpreter takes, its compiler may refuse."""

from typing import Any

import pytest
import torch

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


@pytest.fixture
def compiled(monkeypatch: pytest.MonkeyPatch, tmp_path: Any) -> dict[str, Any]:
    """The kernels whose launch was asked for meanwhile, compiled and not run, by name."""
    from triton._utils import find_paths_if, get_iterable_path
    from triton.backends.nvidia.compiler import CUDABackend
    from triton.compiler import ASTSource

    from quantcore.matmul.kernels import (
        attend,
        codes_matmul,
        decode_rows,
        expand,
        few_tokens_matmul,
        low_bit_matmul,
        round_groups,
    )
    from quantcore.methods.kernels import fwht

    found: dict[str, Any] = {}

    def launch(kernel: Any, grid: tuple[int, ...], *args: Any, **constants: Any) -> None:
        bound, specialization, _ = kernel.create_binder()[-1](*args, **{"debug": False, **constants})
        names = [parameter.name for parameter in kernel.params]
        kinds, attributes = ([one[place] for one in specialization] for place in (0, 1))
        values = list(bound.values())
        source = ASTSource(
            kernel,
            dict(zip(names, kinds, strict=True)),
            {path: get_iterable_path(values, path) for path in find_paths_if(kinds, lambda _, one: one == "constexpr")},
            {
                path: CUDABackend.parse_attr(get_iterable_path(attributes, path))
                for path in find_paths_if(attributes, lambda _, one: isinstance(one, str))
            },
        )
        options = {
            name: constants[name] for name in ("num_warps", "num_stages", "enable_fp_fusion") if name in constants
        }
        target = triton.backends.compiler.GPUTarget(*HOPPER)
        found[kernel.__name__] = triton.compile(source, target=target, options=options)

    for module in (attend, codes_matmul, decode_rows, expand, few_tokens_matmul, low_bit_matmul, round_groups, fwht):
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

    fwht(torch.zeros(70, 1024, dtype=torch.bfloat16))
    assert "wgmma" in compiled["_kernel"].asm["ptx"]
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
    for tokens in (20, 300):
        codes = torch.zeros(tokens, 2048, dtype=parsed.activations.fmt.storage)
        w4a8.multiply(TokenCodes(codes, torch.ones(tokens), None, None), weight, None, torch.bfloat16)
    sums = "f32.e4m3.e4m3" if parsed.activations.fmt.is_float else "s32.s8.s8"
    name = "_multiply" if "group" in scheme else "_multiply_many"
    assert sums in compiled[name].asm["ptx"]
    assert set(compiled) == {"_multiply_packed", "_expand", name}


def test_what_stands_between_the_products_of_a_decode_step(compiled: dict[str, Any]) -> None:
    from quantcore.matmul.kernels.attend import Attention, rotate_and_keep
    from quantcore.matmul.kernels.decode_rows import gate_rows, norm_rows

    h, place = torch.zeros(1, 256, dtype=torch.bfloat16), torch.zeros(1, dtype=torch.int64)
    keys, turns = torch.zeros(1, 2, 256, 64, dtype=torch.bfloat16), torch.zeros(256, 64, dtype=torch.bfloat16)
    rows = torch.zeros(1, 8 * 64, dtype=torch.bfloat16)
    for spec in (None, Scheme.parse("W8A8").activations, Scheme.parse("FP8_DYNAMIC").activations):
        norm_rows(h, h.clone(), h[0], 1e-5, spec)
        gate_rows(h, spec)
    rotate_and_keep(rows, turns, turns, place, keys, keys.clone(), 4)
    for pieces in (1, 4):
        Attention(1, 4, 2, 64, 256, rows.device, pieces).attend(rows, keys, keys.clone(), place, 0.1)
    assert "fma.rn.bf16" not in compiled["_rotate_and_keep"].asm["ptx"]
    assert set(compiled) == {"_norm_rows", "_gate_rows", "_rotate_and_keep", "_attend"}
