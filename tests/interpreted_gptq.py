"""The GPTQ kernel on the CPU, in Triton's interpreter. Run by test_gptq_kernel.py in a process of its own: the
interpreter is switched on where Triton is imported."""

import pytest
import torch

from quantcore import gptq
from quantcore.gptq import GptqProblem, gptq_quantize, gptq_quantize_many
from quantcore.kernels.gptq_sweep import sweep_block
from tests import gptq_laws as laws


@pytest.fixture
def with_kernel(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """From here on the sequential part is the kernel; the list counts its calls."""
    calls: list[int] = []

    def sweep(state: gptq.SweepState, part: object, pull: torch.Tensor, start: int, stop: int) -> None:
        calls.append(stop - start)
        sweep_block(state, part.spec.fmt, pull, start, stop)  # type: ignore[attr-defined]

    monkeypatch.setattr(gptq, "_sweep_block", sweep)
    return calls


KINDS = ["random", "dead", "outlier"]
# Every pair of format, problem and order once: the interpreter is slow, and no fault needs all three.
PAIRS = [(text, kind, laws.ORDERS[(i + k) % 3]) for i, text in enumerate(laws.TEXTS) for k, kind in enumerate(KINDS)]


@pytest.mark.parametrize(("text", "kind", "order"), PAIRS)
def test_same_as_the_plain_form(with_kernel: list[int], text: str, kind: str, order: str | None) -> None:
    laws.check_float32(text, kind, order, "cpu")
    assert with_kernel == [40, 40, 16]


def test_one_row_and_one_column(with_kernel: list[int]) -> None:
    for shape in ((1, 40), (5, 1), (3, 130)):
        x = torch.randn(300, shape[1])
        weight, spec = torch.randn(shape), laws.spec("int4/channel")
        fast = gptq_quantize(weight, x.T @ x, spec)
        assert torch.equal(fast.q, gptq.gptq_plain(weight, x.T @ x, spec).q)
    assert with_kernel == [40, 1, 128, 2]


def test_many(with_kernel: list[int]) -> None:
    weight, hessian = laws.problem("random")
    texts = ["int2/group32", "int4/group16/asym", "int8/channel"]
    specs = [laws.spec(text) for text in texts]
    found = gptq_quantize_many([GptqProblem(weight.float(), spec) for spec in specs], hessian.float())
    assert len(with_kernel) == 1
    for q, spec in zip(found, specs, strict=True):
        assert torch.equal(q.q, gptq.gptq_plain(weight.float(), hessian.float(), spec).q)


def test_what_earlier_columns_ask_may_be_given_apart_and_errors_come_in_halves_too() -> None:
    """asks beside w is adjusted = w + asks; halves are the error's high half, its low half, and the high half again."""
    spec, columns, rows, start = laws.spec("int4/channel"), 50, 37, 8
    random = torch.Generator().manual_seed(3)
    w, asks = (torch.randn(columns, rows, generator=random) for _ in range(2))
    pull = torch.tril(torch.randn(columns, columns, generator=random) / columns, -1)
    lo, hi = torch.full((rows,), -8.0), torch.full((rows,), 7.0)
    states = [
        gptq.SweepState(w, torch.full_like(w, 0.3), None, lo, hi, first, torch.zeros_like(w), torch.empty_like(w))
        for first in (w + asks, torch.full_like(w, float("nan")))
    ]
    halves = torch.zeros(3, columns - start, rows, dtype=torch.bfloat16)
    sweep_block(states[0], spec.fmt, pull, start, columns)
    sweep_block(states[1], spec.fmt, pull, start, columns, asks[start:], halves)
    for name in ("adjusted", "error", "values"):
        assert torch.equal(getattr(states[0], name)[start:], getattr(states[1], name)[start:])
    error = states[1].error[start:]
    assert torch.equal(halves[0], halves[2])
    assert torch.allclose(halves[0].float(), error, rtol=2**-7, atol=0)  # the interpreter cuts bits off
    assert torch.allclose(halves[0].float() + halves[1].float(), error, rtol=2**-14, atol=0)
