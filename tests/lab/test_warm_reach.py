"""What is compiled ahead is what a model's own layers launch: told by the key under which Triton would look up each
kernel, without a GPU and without compiling. An integer that counts tiles must not decide over a kernel, say."""

from typing import Any

import pytest
import torch

from quantcore.lab.warm_works import Work, run, works
from quantcore.matmul.paths import open_paths
from quantcore.methods import gptq, sweep
from quantcore.methods.gptq import GptqProblem, gptq_quantize_many
from quantcore.numbers.qtensor import quantize
from quantcore.scheme.scheme import Scheme

triton = pytest.importorskip("triton")

KERNELS = {
    "quantcore.methods.kernels": ("cholesky", "gptq_passes", "gptq_sweep"),
    "quantcore.matmul.kernels": ("codes_matmul", "expand", "few_tokens_matmul", "low_bit_matmul", "quantize_rows"),
}
SHAPES = [(384, 384), (128, 384), (1024, 384), (384, 1024), (96, 256)]
SETS = [((384, 128, 128), 384), ((1024, 1024), 384), ((384,), 1024), ((4608, 4608), 512), ((96,), 256), ((64,), 2048)]


class _H100:
    """What Triton asks its driver before it compiles."""

    def get_current_target(self) -> Any:
        return triton.backends.compiler.GPUTarget("cuda", 90, 32)

    def get_current_device(self) -> int:
        return 0


@pytest.fixture
def launched(monkeypatch: pytest.MonkeyPatch) -> set[str]:
    """The keys of all kernels that are launched meanwhile; none runs, so results are whatever memory held."""
    import importlib

    keys: set[str] = set()

    def launch(kernel: Any, grid: tuple[int, ...], *args: Any, **constants: Any) -> None:
        binder = kernel.create_binder()[-1]
        _, specialization, options = binder(*args, **{"debug": False, **constants})
        keys.add(f"{kernel.__name__} {specialization} {sorted(map(str, options.items()))}")

    for package, names in KERNELS.items():
        for name in names:
            monkeypatch.setattr(importlib.import_module(f"{package}.{name}"), "launch", launch)
    for module in (gptq, sweep):
        monkeypatch.setattr(module, "takes_kernel", lambda pull: pull.dtype == torch.float32)
    monkeypatch.setattr(gptq, "refuse_all", lambda *found: None)
    monkeypatch.setattr("quantcore.matmul.why_not.why_no_kernels", lambda x: None)
    monkeypatch.setattr(  # of the right shape; a CPU has no product of bf16 into float32
        sweep.SplitProducts, "product", lambda self, *block: torch.empty(block[1] - block[0], self._error.shape[3])
    )
    monkeypatch.setattr(triton.runtime.driver, "_active", _H100())
    return keys


@pytest.mark.parametrize("order", ["", "/actorder=weight"])
@pytest.mark.parametrize("grain", ["group128", "group64", "group128/asym", "channel"])
def test_gptq_of_a_model_s_layers_finds_its_kernels(launched: set[str], grain: str, order: str) -> None:
    for work in works(SHAPES):
        if work.kind == "gptq":
            run(work, torch.device("cpu"))
    ahead = set(launched)
    launched.clear()
    scheme = Scheme.parse(f"w:int4/{grain},gptq{order}")
    assert scheme.weights is not None
    for rows, width in SETS:
        problems = [GptqProblem(torch.randn(out, width), scheme.weights, scheme.method) for out in rows]  # type: ignore[arg-type]
        gptq_quantize_many(problems, torch.eye(width))
    assert len(launched) >= 4
    assert launched - ahead == set()


@pytest.mark.parametrize("scheme", ["W4A16", "W8A8", "FP8_BLOCK"])
def test_products_of_any_number_of_tokens_find_theirs(launched: set[str], scheme: str) -> None:
    shapes = [(384, 384), (256, 1024)]
    for work in works(shapes):
        if work.kind == "product" and work.scheme == scheme:
            run(work, torch.device("cpu"))
    ahead = set(launched)
    launched.clear()
    spec = Scheme.parse(scheme)
    assert spec.weights is not None
    for shape in shapes:
        q = quantize(torch.randn(shape).bfloat16(), spec.weights)
        for tokens in (1, 7, 16, 20, 32, 40, 64, 100, 256, 512, 1000):
            x = torch.randn(tokens, shape[1]).bfloat16()
            open_paths(x, q, spec.activations)[0].run(x, q, spec.activations)
    assert launched
    assert launched - ahead == set()


def test_a_count_that_decides_is_seen(launched: set[str]) -> None:
    """The key differs where an argument that Triton specializes on is a multiple of 16 here and not there."""
    run(Work("gptq", "w:int4/group128,gptq", (64, 512)), torch.device("cpu"))
    ahead = set(launched)
    run(Work("gptq", "w:int4/group4,gptq", (64, 520)), torch.device("cpu"))
    assert launched - ahead != set()
