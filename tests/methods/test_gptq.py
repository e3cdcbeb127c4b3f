"""GPTQ: a step by hand, the fast form against the plain one, laws of the loss, and what is refused."""

import pytest
import torch

from quantcore import dequantize, quantize
from quantcore.methods import gptq
from quantcore.methods.gptq import (
    SYMMETRY_TOLERANCE,
    CholeskyError,
    GptqProblem,
    Trace,
    examine,
    gptq_loss,
    gptq_plain,
    gptq_quantize,
    gptq_quantize_in_turn,
    gptq_quantize_many,
)
from quantcore.methods.options import Gptq
from quantcore.numbers.scales import from_codes, local_codes
from tests.gptq_laws import ORDERS, problem
from tests.specs import weights_spec as spec
from tests.waits import Waits


def test_two_columns_by_hand() -> None:
    """H = [[1, .5], [.5, 1]]: rounding .4 to 0 leaves e = .4, and the second weight moves by .4 * .5 / 1 to .6."""
    weight = torch.tensor([[0.4, 0.4, 7.5]], dtype=torch.float64)
    hessian = torch.tensor([[1, 0.5, 0], [0.5, 1, 0], [0, 0, 1]], dtype=torch.float64)
    trace = Trace()
    q = gptq_quantize(weight, hessian, spec("int4/channel"), Gptq(damp=1e-12), trace)
    assert q.scale.item() == 1
    assert q.q.tolist() == [[0, 1, 7]]
    assert trace.adjusted[0].tolist() == pytest.approx([0.4, 0.6, 7.5])
    assert trace.quantized[0].tolist() == [0, 1, 7]
    # e = (.4, -.6, .5): e H e^T = .16 + .36 - .24 + .25; the first column alone, the rest moved freely: .4^2 * .75
    assert trace.loss.tolist() == pytest.approx([0.12, 0.28, 0.53])
    assert quantize(weight, spec("int4/channel")).q.tolist() == [[0, 0, 8 - 1]]


@pytest.mark.parametrize("order", ORDERS)
@pytest.mark.parametrize("kind", ["random", "ill-conditioned", "dead", "outlier"])
@pytest.mark.parametrize(
    "text",
    [
        "int4/group32",
        "int3/channel/asym",
        "int4/tensor",
        "fp8_e4m3/block8x32",
        "fp4_e2m1/group16/e4m3",
        "fp6_e2m3/group32/e8m0/mse",
    ],
)
def test_fast_form_gives_the_codes_of_the_plain_one(text: str, kind: str, order: str) -> None:
    weight, hessian = problem(kind)
    options = Gptq(actorder=order, block_size=40)  # no divisor of 96
    fast = gptq_quantize(weight, hessian, spec(text), options)
    plain = gptq_plain(weight, hessian, spec(text), options)
    assert torch.equal(fast.q.view(torch.uint8), plain.q.view(torch.uint8))
    assert torch.equal(fast.scale, plain.scale)
    assert (fast.g_idx is None) == (plain.g_idx is None)
    single = gptq_quantize(weight.float(), hessian.float(), spec(text), options)
    exact, rounded = (gptq_loss(weight, dequantize(q), hessian) for q in (fast, single))
    assert rounded == pytest.approx(exact, rel=1e-4)


@pytest.mark.parametrize("order", [None, "group"])
@pytest.mark.parametrize(
    "text", ["int4/group32", "int4/group32/asym", "int3/block8x16", "fp4_e2m1/group16/e4m3", "fp4_e2m1/group32/e8m0"]
)
def test_scales_taken_during_the_sweep(text: str, order: str) -> None:
    weight, hessian = problem("random")
    options = Gptq(actorder=order, static_groups=False, block_size=20)
    fast, plain = gptq_quantize(weight, hessian, spec(text), options), gptq_plain(weight, hessian, spec(text), options)
    assert torch.equal(fast.q, plain.q)
    assert torch.allclose(fast.scale, plain.scale, rtol=1e-6)
    static = gptq_quantize(weight, hessian, spec(text), Gptq(actorder=order))
    assert not torch.equal(fast.scale, static.scale)
    if fast.global_scale is not None:  # of the whole, and no group's own
        assert torch.equal(fast.global_scale, static.global_scale)
        codes = local_codes(fast.scale, fast.global_scale).view(torch.uint8)
        assert torch.equal(from_codes(codes, fast.global_scale), fast.scale)


@pytest.mark.parametrize("order", ORDERS)
@pytest.mark.parametrize("text", ["int2/group32", "int3/group32/asym", "int4/channel"])
def test_loss_is_below_rtn_and_ends_where_the_trace_says(text: str, order: str) -> None:
    weight, hessian = problem("random")
    trace = Trace(rows=(0, 5))
    damp = 1e-9
    q = gptq_quantize(weight, hessian, spec(text), Gptq(actorder=order, damp=damp), trace)
    loss = gptq_loss(weight, dequantize(q), hessian)
    assert loss < 0.9 * gptq_loss(weight, dequantize(quantize(weight, spec(text))), hessian)
    assert float(trace.loss[-1]) == pytest.approx(loss, rel=1e-5)
    assert bool((trace.loss.diff() >= 0).all())
    assert torch.allclose(trace.quantized, dequantize(q).double()[[0, 5]][:, trace.order])
    assert torch.equal(trace.original, weight[[0, 5]][:, trace.order])


def test_without_correlation_gptq_is_rounding_to_nearest() -> None:
    weight = torch.randn(8, 64)
    for order in ORDERS[:2]:
        q = gptq_quantize(weight, torch.diag(torch.rand(64) + 0.1), spec("int4/group16"), Gptq(actorder=order))
        assert torch.equal(q.q, quantize(weight, spec("int4/group16")).q)


def test_order_follows_the_loudest_inputs() -> None:
    weight, hessian = problem("outlier")
    trace = Trace()
    q = gptq_quantize(weight, hessian, spec("int4/group32"), Gptq(actorder="group"), trace)
    assert trace.order[0] == 41
    assert q.g_idx is not None
    assert q.g_idx[41] == 0
    assert torch.equal(q.g_idx[trace.order], torch.arange(96).int() // 32)
    assert gptq_quantize(weight, hessian, spec("int4/group32"), Gptq(actorder="weight")).g_idx is None


@pytest.mark.parametrize("shape", [(1, 40), (5, 1), (3, 130)])
def test_odd_shapes(shape: tuple[int, int]) -> None:
    x = torch.randn(300, shape[1], dtype=torch.float64)
    weight = torch.randn(shape, dtype=torch.float64)
    fast = gptq_quantize(weight, x.T @ x, spec("int4/channel"))
    assert torch.equal(fast.q, gptq_plain(weight, x.T @ x, spec("int4/channel")).q)


def test_block_size_changes_no_code() -> None:
    weight, hessian = problem("random")
    codes = [gptq_quantize(weight, hessian, spec("int4/group32"), Gptq(block_size=size)).q for size in (1, 7, 96, 500)]
    assert all(torch.equal(codes[0], other) for other in codes[1:])


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda h: h[:-1, :-1], r"needs a Hessian of shape \(96, 96\), got \(95, 95\)"),
        (lambda h: h.index_put((torch.tensor([3]), torch.tensor([3])), torch.tensor([float("nan")]).double()), "NaN"),
        (lambda h: h + torch.triu(h.abs().max() * torch.ones_like(h), 1), "not symmetric"),
        (torch.zeros_like, "all zero"),
    ],
)
def test_bad_hessians(change, words: str) -> None:  # type: ignore[no-untyped-def]
    weight, hessian = problem("random")
    with pytest.raises(ValueError, match=f"q_proj: .*{words}"):
        gptq_quantize(weight, change(hessian), spec("int4/group32"), name="q_proj")


def test_a_failed_factorization_names_the_way_out() -> None:
    weight, hessian = problem("random")
    indefinite = hessian - 2 * hessian.diagonal().mean() * torch.eye(96, dtype=torch.float64)
    with pytest.raises(CholeskyError, match=r"q_proj: .*damp=0.01 .*such as 0.1"):
        gptq_quantize(weight, indefinite, spec("int4/group32"), name="q_proj")


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"damp": 0.0}, "damp=0"),
        ({"damp": -1.0}, "damp=-1"),
        ({"damp": float("nan")}, "damp=nan"),
        ({"block_size": 0}, "block_size=0"),
        ({"actorder": "column"}, "actorder='column'"),
        ({"actorder": "weight", "static_groups": False}, "static_groups=True"),
    ],
)
def test_bad_options(options: dict[str, object], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        Gptq(**options)


def test_many_problems_at_once_give_the_codes_of_each_alone() -> None:
    """Bits, groups, zero points, formats, orders and dampings mixed, two weights: as one by one."""
    weight, hessian = problem("random")
    other = torch.randn(8, 96, dtype=torch.float64)
    texts = [
        "int2/group32",
        "int4/group16/asym",
        "int8/channel",
        "fp4_e2m1/group32",
        "fp4_e2m1/group16/e4m3",
        "int3/block8x32",
        "fp8_e4m3/tensor",
    ]
    ways = [Gptq(), Gptq("weight"), Gptq("group"), Gptq("weight", damp=0.1), Gptq(static_groups=False)]
    problems = [GptqProblem(w, spec(text), way) for w in (weight, other) for text in texts for way in ways]
    solved = gptq_quantize_many(problems, hessian)
    assert len(solved) == len(problems) == 70
    for one, q in zip(problems, solved, strict=True):
        alone = gptq_quantize(one.weight, hessian, one.spec, one.options)
        assert q.spec == one.spec
        assert torch.equal(q.q.view(torch.uint8), alone.q.view(torch.uint8)), (str(one.spec), one.options)
        assert torch.equal(q.scale, alone.scale)


def test_many_refuses_what_does_not_belong_together() -> None:
    weight, hessian = problem("random")
    with pytest.raises(ValueError, match=r"weights of \[64, 96\] columns cannot share a Hessian"):
        gptq_quantize_many(
            [GptqProblem(weight, spec("int4/channel")), GptqProblem(weight[:, :64], spec("int4/channel"))], hessian
        )
    with pytest.raises(ValueError, match="no problem to solve"):
        gptq_quantize_many([], hessian)


def test_a_bad_hessian_is_named_also_where_scales_are_taken_on_the_way() -> None:
    weight, hessian = problem("random")
    broken = hessian.clone()
    broken[-1, -1] = float("nan")
    with pytest.raises(ValueError, match="the Hessian holds NaN"):
        gptq_quantize(weight, broken, spec("int4/group32"), Gptq(static_groups=False))
    with pytest.raises(CholeskyError):
        gptq_quantize(weight, -hessian, spec("int4/group32"), Gptq(static_groups=False))


def test_a_weight_with_nan_is_told_last() -> None:
    """A bad Hessian comes first, then a factorization that fails, then the weight: in the words of `quantize`."""
    weight, hessian = problem("random")
    weight[3, 7] = float("nan")
    for options in (Gptq(), Gptq("group"), Gptq(static_groups=False)):
        for text in ("int4/group32", "int4/group32/asym/mse", "fp4_e2m1/channel"):
            with pytest.raises(ValueError, match="the values to quantize hold NaN or Inf .*skip="):
                gptq_quantize(weight, hessian, spec(text), options)
            with pytest.raises(ValueError, match="the values to quantize hold NaN or Inf .*skip="):
                gptq_plain(weight, hessian, spec(text), options)
            with pytest.raises(ValueError, match="the Hessian is all zero"):
                gptq_quantize(weight, 0 * hessian, spec(text), options)
            with pytest.raises(CholeskyError):
                gptq_quantize(weight, -hessian, spec(text), options)
    with pytest.raises(ValueError, match=r"NaN or Inf \(range -inf to"):
        gptq_quantize(weight.nan_to_num(-torch.inf), hessian, spec("int4/channel"))


def test_nothing_waits_for_a_gpu_before_the_end(monkeypatch: pytest.MonkeyPatch) -> None:
    weight, hessian = problem("random")
    ways = [Gptq(), Gptq("weight"), Gptq("group", damp=0.1), Gptq(static_groups=False)]
    texts = ("int4/group32/asym", "int2/group16/mse", "fp4_e2m1/channel", "int3/block8x32")
    problems = [GptqProblem(weight, spec(text), way) for text in texts for way in ways]
    at_the_end: list[int] = []
    refuse_all = gptq.refuse_all

    def noted(*args: object) -> None:
        at_the_end.append(len(waits.found))
        refuse_all(*args)  # type: ignore[arg-type]

    monkeypatch.setattr(gptq, "refuse_all", noted)
    with Waits() as waits:
        solved = gptq_quantize_many(problems, hessian)
    assert at_the_end == [0], waits.found
    assert len(solved) == 16
    with Waits() as waits:
        many = gptq_quantize_in_turn([(problems[:2], hessian, "a"), (problems[2:4], hessian, "b")])
    assert at_the_end == [0, 0], waits.found  # for both sets once
    assert all(torch.equal(one.q, other.q) for one, other in zip([*many[0], *many[1]], solved, strict=False))
    with pytest.raises(CholeskyError, match="^b: "):
        gptq_quantize_in_turn([(problems[:1], hessian, "a"), (problems[:1], -hessian, "b")])


def test_a_wide_hessian_of_positive_inputs_is_symmetric() -> None:
    """Sums of 4,096 entries of one sign round by more than a thousandth of an entry; an entry that differs by a tenth
    of the largest is still seen."""
    x = torch.rand(32, 4096, generator=torch.Generator().manual_seed(0)) + 3
    hessian = x.T @ x
    largest, apart = examine(hessian).tolist()
    assert apart <= SYMMETRY_TOLERANCE * largest
    hessian[0, 5] += 0.1 * largest
    assert examine(hessian)[1] > SYMMETRY_TOLERANCE * largest
