"""Work goes to the GPU that holds its tensors: the rule on any machine, the proof where there are two GPUs."""

import ast

import pytest
import torch
from torch._subclasses.fake_tensor import FakeTensorMode

from quantcore import load_model, quantize_model
from quantcore.model.decode import GreedyDecoder
from quantcore.numbers.kernels.launch import launch, on_device
from quantcore.studies.speed import measure_paths
from tests.browser_fixtures import ROOT

HOME = ROOT / "quantcore" / "numbers" / "kernels" / "launch.py"
two_gpus = pytest.mark.skipif(torch.cuda.device_count() < 2, reason="this machine has no second GPU")


def _kernels(tree: ast.Module) -> set[str]:
    """Functions that `triton.jit` decorates."""
    functions = [node for node in tree.body if isinstance(node, ast.FunctionDef)]
    return {one.name for one in functions if any("triton.jit" in ast.unparse(mark) for mark in one.decorator_list)}


def _launched_directly(source: str) -> list[str]:
    """kernel[grid](...), wherever a file of ours says it, and graphs that are captured on whichever stream."""
    tree = ast.parse(source)
    calls = [node.func for node in ast.walk(tree) if isinstance(node, ast.Call)]
    kernels = [one.value.id for one in calls if isinstance(one, ast.Subscript) and isinstance(one.value, ast.Name)]
    return [name for name in kernels if name in _kernels(tree)] + [
        ast.unparse(one) for one in calls if ast.unparse(one) == "torch.cuda.graph"
    ]


def test_every_launch_follows_its_tensors() -> None:
    files = [file for file in (ROOT / "quantcore").rglob("*.py") if file != HOME]
    assert sum(len(_kernels(ast.parse(file.read_text()))) for file in files) > 15  # they are found at all
    assert {str(file): found for file in files if (found := _launched_directly(file.read_text()))} == {}


def test_a_launch_past_the_helper_is_seen() -> None:
    source = "@triton.jit\ndef _k(x):\n    pass\ndef f(x):\n    _k[(1,)](x)\n    torch.cuda.graph(g)\n"
    assert _launched_directly(source) == ["_k", "torch.cuda.graph"]


class _Kernel:
    """Stands for a Triton kernel: notes which device was current when it was launched."""

    def __init__(self, chosen: list[torch.device]) -> None:
        self.chosen, self.seen = chosen, list[object]()

    def __getitem__(self, grid: tuple[int, ...]) -> object:
        return lambda *args, **constants: self.seen.append((grid, self.chosen[-1:], len(args), constants))


@pytest.mark.skipif(torch.cuda.is_available(), reason="tensors of cuda:1 are made up here; two GPUs have real ones")
def test_a_kernel_is_launched_on_the_device_of_its_first_tensor(monkeypatch: pytest.MonkeyPatch) -> None:
    chosen: list[torch.device] = []

    class Chooses:
        def __init__(self, device: torch.device) -> None:
            self.device = device

        def __enter__(self) -> None:
            chosen.append(self.device)

        def __exit__(self, *_: object) -> None:
            chosen.pop()

    monkeypatch.setattr(torch.cuda, "device", Chooses)
    kernel = _Kernel(chosen)
    with FakeTensorMode():
        launch(kernel, (3,), 7, torch.empty(4, device="cuda:1"), torch.empty(2, device="cuda:1"), WARPS=4)
    launch(kernel, (2, 1), torch.zeros(1))
    assert kernel.seen == [((3,), [torch.device("cuda:1")], 3, {"WARPS": 4}), ((2, 1), [], 1, {})]
    assert chosen == []


def test_a_cpu_chooses_nothing() -> None:
    with on_device(torch.device("cpu")) as chosen:
        assert chosen is None


@two_gpus
@pytest.mark.parametrize("scheme", ["W4A16", "W4A16,gptq/actorder=weight", "W8A8", "FP8_DYNAMIC", "FP8_BLOCK"])
def test_a_model_on_the_second_gpu_computes_what_it_does_on_the_first(scheme: str) -> None:
    tokens = torch.arange(2 * 256).view(2, 256)
    logits = []
    for device in ("cuda:0", "cuda:1"):
        loaded = load_model("reference", device)
        quantized, _ = quantize_model(loaded.model, scheme, calibration=tokens)
        with torch.inference_mode():
            logits.append(quantized(tokens.to(device)).logits.float().cpu())
        assert {p.device for p in quantized.parameters()} == {torch.device(device)}
    assert (logits[0] - logits[1]).abs().max() <= 0.01 * logits[0].abs().max()


@two_gpus
def test_graphs_and_timers_work_on_the_second_gpu() -> None:
    loaded = load_model("reference", "cuda:1")
    prompt = torch.arange(8)[None]
    one_by_one, replayed = (GreedyDecoder(loaded.model, 64, graph).continue_(prompt, 16) for graph in (False, True))
    assert torch.equal(one_by_one, replayed)
    report = measure_paths((512, 384), [1, 64], ["W8A8", "W4A16"], "cuda:1")
    assert report.refused == {}
    assert all(row.total_ms > 0 for row in report.rows)
    assert torch.cuda.current_device() == 0
