"""Kernels compile for a GPU on a machine without one: what Triton's interpreter takes, its compiler may refuse."""

from typing import Any

import pytest
import torch

from quantcore.numbers.affine import QParams
from quantcore.numbers.qtensor import quantize
from quantcore.scheme.scheme import Scheme

triton = pytest.importorskip("triton")
HOPPER = ("cuda", 90, 32)


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

    from quantcore.matmul.kernels import few_tokens_matmul, low_bit_matmul, round_groups
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
        options = {name: constants[name] for name in ("num_warps", "num_stages") if name in constants}
        target = triton.backends.compiler.GPUTarget(*HOPPER)
        found[kernel.__name__] = triton.compile(source, target=target, options=options)

    for module in (few_tokens_matmul, low_bit_matmul, round_groups, fwht):
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
