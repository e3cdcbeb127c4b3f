"""The GPTQ kernel on the CPU, in Triton's interpreter. Run by test_kernels_interpreted.py in a process of its own: the
interpreter is switched on where Triton is imported."""

import pytest
import torch
from torch import Tensor

from quantcore import dequantize
from quantcore.methods import gptq, sweep
from quantcore.methods.gptq import GptqProblem, gptq_quantize, gptq_quantize_many
from quantcore.methods.kernels import cholesky
from quantcore.methods.kernels.gptq_passes import codes_of, halves_of
from quantcore.methods.kernels.gptq_sweep import sweep_block
from tests import gptq_laws as laws
from tests import quick_interpreter  # noqa: F401
from tests.specs import weights_spec


@pytest.fixture
def with_kernel(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """From here on the sequential part is the kernel; the list counts its calls."""
    calls: list[int] = []

    def by_kernel(
        state: sweep.SweepState, part: sweep.Rows, pull: Tensor, start: int, stop: int, asks: Tensor | None
    ) -> None:
        calls.append(stop - start)
        sweep_block(state, part.spec.fmt, pull, start, stop, asks)

    monkeypatch.setattr(sweep, "_sweep_block", by_kernel)
    return calls


KINDS = ["random", "dead", "outlier"]
# Every pair of format, problem and order once: the interpreter is slow, and no fault needs all three.
PAIRS = [(text, kind, laws.ORDERS[(i + k) % 3]) for i, text in enumerate(laws.TEXTS) for k, kind in enumerate(KINDS)]


@pytest.mark.parametrize(("text", "kind", "order"), PAIRS)
def test_same_as_the_plain_form(with_kernel: list[int], text: str, kind: str, order: str | None) -> None:
    laws.check_float32(text, kind, order, "cpu", width=64)
    assert with_kernel == [40, 24]


def test_one_row_and_one_column(with_kernel: list[int]) -> None:
    for shape in ((1, 40), (5, 1), (3, 130)):
        x = torch.randn(300, shape[1])
        weight, spec = torch.randn(shape), weights_spec("int4/channel")
        fast = gptq_quantize(weight, x.T @ x, spec)
        assert torch.equal(fast.q, gptq.gptq_plain(weight, x.T @ x, spec).q)
    assert with_kernel == [40, 1, 128, 2]


def test_many(with_kernel: list[int]) -> None:
    """Two weights, one of them twice; blocks of rows that share a scale; groups of all sizes: one sweep."""
    weight, hessian = laws.problem("random")
    weight, other = weight.float(), torch.randn(40, 96)
    texts = ["int2/group32", "int4/group16/asym", "int8/channel", "int3/block8x32"]
    pairs = [(w, weights_spec(text)) for text in texts for w in (weight, other)]
    options = gptq.Gptq("weight")
    found = gptq_quantize_many([GptqProblem(w, spec, options) for w, spec in pairs], hessian.float())
    assert len(with_kernel) == 1
    for q, (w, spec) in zip(found, pairs, strict=True):
        assert torch.equal(q.q, gptq.gptq_plain(w, hessian.float(), spec, options).q)


@pytest.mark.parametrize(
    ("order", "texts"),
    [
        (None, ("int4/group8/asym", "fp8_e4m3/channel")),
        ("weight", ("int4/group8/asym", "int3/channel")),
        ("group", ("int4/group8/asym", "int2/block8x28")),
    ],
)
def test_the_whole_way_of_a_gpu(monkeypatch: pytest.MonkeyPatch, order: str | None, texts: tuple[str, str]) -> None:
    """Blocks of columns, errors of one block at a time, products of halves, nothing kept for a trace: as on a GPU, but
    for torch's own bf16 product, which a CPU lacks. With a trace all is kept, and the codes are the same."""

    def product(split: sweep.SplitProducts, start: int, stop: int) -> Tensor:
        return split._pull[start:stop, : 3 * start].float() @ split._error[: start // split.size].flatten(0, 2).float()

    for module in (sweep, gptq):
        monkeypatch.setattr(module, "takes_kernel", lambda pull: pull.dtype == torch.float32)
    monkeypatch.setattr(sweep, "GPU_BLOCK", 32)
    monkeypatch.setattr(sweep.SplitProducts, "product", product)
    weight, hessian = (t.float() for t in laws.problem("random", 40, 56))
    specs = [weights_spec(text) for text in texts]
    options = gptq.Gptq(order, block_size=8)
    together = gptq_quantize_many([GptqProblem(weight, spec, options) for spec in specs], hessian)
    for spec, q in zip(specs, together, strict=True):
        plain = gptq.gptq_plain(weight, hessian, spec, options)
        assert torch.equal(q.scale, plain.scale)
        assert float((q.q == plain.q).double().mean()) > 0.99
        losses = [gptq.gptq_loss(weight, dequantize(found), hessian) for found in (q, plain)]
        assert losses[0] == pytest.approx(losses[1], rel=5e-3)  # the interpreter cuts bits off the halves
    if order != "weight":  # a trace keeps what any order gives
        return
    trace = gptq.Trace(rows=(0, 7))
    traced = gptq_quantize(weight, hessian, specs[0], options, trace)
    assert float((traced.q == together[0].q).double().mean()) > 0.99
    assert torch.allclose(trace.quantized, dequantize(traced)[[0, 7]][:, trace.order], atol=1e-5)


@pytest.mark.parametrize(("width", "size"), [(70, 16), (129, 64), (40, 40), (257, 128)])
def test_halves_of_pull(width: int, size: int) -> None:
    pull = torch.randn(width, width).tril() + torch.triu(torch.full((width, width), float("nan")), 1)
    halves = halves_of(pull, size)
    blocks = -(-width // size)
    assert halves.shape == (width, 3 * blocks * size)
    pull = torch.nn.functional.pad(pull.tril(), (0, blocks * size - width))
    for block in range(blocks):
        rows = slice(block * size, None)
        high, again, low = halves[rows, 3 * block * size : 3 * (block + 1) * size].float().split(size, 1)
        exact = pull[rows, block * size : (block + 1) * size]
        assert torch.equal(high, again)
        assert torch.allclose(high, exact, rtol=2**-7, atol=0)  # the interpreter cuts bits off
        assert torch.allclose(high + low, exact, rtol=2**-14, atol=0)


@pytest.mark.parametrize(("width", "large"), [(1, 8192), (64, 8192), (140, 8192), (136, 64)])
def test_the_factorization(monkeypatch: pytest.MonkeyPatch, width: int, large: int) -> None:
    """One tile and several, of both sizes, whole and not, the channels as they come and, where the width is no multiple
    of a tile's, sorted. Two programs share the tiles (here the first does all)."""
    monkeypatch.setattr(cholesky, "LARGE", large)
    laws.check_factorization(width, width == 140, "cpu")


@pytest.mark.filterwarnings("ignore:.*encountered in:RuntimeWarning")
@pytest.mark.parametrize("kind", ["below 0", "on the way"])
def test_a_factorization_that_fails(kind: str) -> None:
    """Step 40 and those before it have no factor: its diagonal is negative, or what step 41 leaves of it is."""
    hessian = torch.eye(70)
    if kind == "below 0":
        hessian[40, 40] = -1
    else:
        hessian[40, 41] = hessian[41, 40] = 2
    diagonal = cholesky.factor_of(hessian, torch.arange(70), 0.01)[1]
    assert torch.equal(diagonal > 0, torch.arange(70) > 40)


def test_codes() -> None:
    values = torch.randint(-128, 128, (70, 200), dtype=torch.int8)
    places = torch.randperm(70)
    part = values[:, 30:160]
    assert torch.equal(codes_of(part, places), part[places].T)


def test_what_is_kept_apart_is_the_same() -> None:
    """Rows that share columns, groups and scales give what rows with their own give; so does no place for the adjusted
    weights."""
    spec, columns, rows, start, group = weights_spec("int4/channel"), 50, 37, 8, 10
    random = torch.Generator().manual_seed(3)
    w = torch.randn(columns, 30, generator=random)
    asks = torch.randn(columns - start, rows, generator=random)
    pull = torch.tril(torch.randn(columns, columns, generator=random) / columns, -1)
    source = torch.arange(rows, dtype=torch.int32) % 30
    scales = [torch.rand(columns // group, 30, generator=random) + 0.1, torch.rand(columns, 7, generator=random) + 0.1]
    groups = torch.stack([torch.arange(columns) // group, torch.arange(columns)]).int()
    part = (torch.arange(rows) >= 30).int()
    lo, hi = torch.full((rows,), -8.0), torch.full((rows,), 7.0)
    together = sweep.SweepState(
        w, source, torch.cat([scale.flatten() for scale in scales]), None,
        first=source + part * scales[0].numel(), stride=torch.where(part == 0, 30, 7).int(), group=groups, part=part,
        run=1, lo=lo, hi=hi, adjusted=torch.zeros(0, rows), error=torch.zeros(columns, rows),
        values=torch.zeros(columns, rows, dtype=torch.int8),
    )  # fmt: skip
    wide = torch.cat([scales[0].repeat_interleave(group, 0), scales[1]], 1)
    assert torch.equal(together.qparams(0, columns).scale, wide)
    assert torch.equal(together.columns(0, columns), w[:, source.long()])
    each = torch.arange(rows, dtype=torch.int32)
    apart = sweep.SweepState(
        w[:, source.long()], each, wide.flatten(), None, each, torch.full_like(each, rows),
        torch.arange(columns, dtype=torch.int32)[None], torch.zeros_like(each), 1, lo, hi,
        torch.zeros(columns, rows), torch.zeros(columns, rows), torch.zeros(columns, rows),
    )  # fmt: skip
    sweep_block(together, spec.fmt, pull, start, columns, asks)
    sweep_block(apart, spec.fmt, pull, start, columns, asks)
    error = apart.error[start:]
    assert torch.equal(together.error[start:], error)
    assert torch.equal(together.values[start:].float(), apart.values[start:])
    assert together.values[start:].unique().numel() == 16
    # one row after another, as the head of gptq.py says
    for r in (0, 33):
        for j in range(start, columns):
            moved = w[j, source[r]] + asks[j - start, r] + pull[j, start:j] @ error[: j - start, r]
            assert apart.adjusted[j, r] == pytest.approx(float(moved), abs=1e-5)
            value = float((apart.adjusted[j, r] / wide[j, r]).clamp(-8, 7).round())
            assert value == apart.values[j, r]
            assert float(error[j - start, r]) == pytest.approx(float(w[j, source[r]] - wide[j, r] * value), abs=1e-6)


@pytest.mark.parametrize(("rows", "columns"), [(37, 48), (64, 48), (64, 41)])
def test_halves_inside_a_block(rows: int, columns: int) -> None:
    """Products of halves give what float32 products give, up to their 16 bits; the errors' halves are left behind. Rows
    and columns that fill the kernel's tiles, and such that do not."""
    spec = weights_spec("int8/channel")
    random = torch.Generator().manual_seed(3)
    w = torch.randn(columns, rows, generator=random)
    pull = torch.tril(torch.randn(columns, columns, generator=random) / 4, -1)
    each = torch.arange(rows, dtype=torch.int32)
    states = [
        sweep.SweepState(
            w, each, torch.full((rows,), 0.1), None, each, torch.full_like(each, rows),
            torch.zeros(1, columns, dtype=torch.int32), torch.zeros_like(each), 0, torch.full((rows,), -128.0),
            torch.full((rows,), 127.0), torch.zeros(columns, rows), torch.zeros(columns, rows),
            torch.zeros(columns, rows),
        )
        for _ in range(2)
    ]  # fmt: skip
    halves = torch.full((3, 64, rows), 9.0, dtype=torch.bfloat16)
    sweep_block(states[0], spec.fmt, pull, 0, columns, None, (halves_of(pull, 64), halves))
    sweep_block(states[1], spec.fmt, pull, 0, columns)
    same = (states[0].values == states[1].values).all(0)
    assert float(same.float().mean()) > 0.9
    assert torch.allclose(states[0].adjusted[:, same], states[1].adjusted[:, same], rtol=0, atol=1e-5)
    high, low, again = halves[:, :columns].float()
    assert torch.equal(high, again)
    assert torch.allclose(high, states[0].error, rtol=2**-7, atol=0)  # the interpreter cuts bits off
    assert torch.allclose(high + low, states[0].error, rtol=2**-14, atol=0)
    assert bool((halves[:, columns:] == 9).all())
