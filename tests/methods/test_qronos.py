"""Qronos: GPTQ on the weights that come closest to the float layer on inputs that quantized layers have moved."""

import pytest
import torch
from torch import Tensor

from quantcore.methods.codes import Problem, codes
from quantcore.methods.gptq import GptqProblem, gptq_quantize
from quantcore.methods.options import Gptq, Qronos
from quantcore.methods.qronos import Step, corrected, qronos_quantize_many
from quantcore.numbers import products
from quantcore.numbers.qtensor import dequantize, quantize
from quantcore.pipeline import road
from quantcore.pipeline.convert import quantize_model
from quantcore.pipeline.gram import drift_of
from quantcore.pipeline.seen import Passing
from quantcore.scheme.scheme import Scheme

TINY = 1e-12


def test_inputs_that_are_doubled_are_halved_in_the_weight() -> None:
    """X = 1, X~ = 2: H = 4, D = 2 (1 - 2) = -2, w' = w + w (-2 / 4) = w / 2, up to the damping."""
    hessian, drift = torch.tensor([[4.0]]).double(), torch.tensor([[-2.0]]).double()
    (found,) = corrected([torch.tensor([[3.0]]).double()], hessian, drift, TINY, "w")
    assert found.item() == pytest.approx(1.5)


def test_a_channel_that_is_lost_is_made_up_for_by_its_twin() -> None:
    """X = (1, 1) twice the same input; behind quantized layers the first is 0: w' has all in the second."""
    x, moved = torch.ones(4, 2).double(), torch.tensor([[0.0, 1.0]] * 4).double()
    hessian, drift = moved.T @ moved, moved.T @ (x - moved)
    (found,) = corrected([torch.tensor([[1.0, 2.0]]).double()], hessian, drift, 1e-9, "w")
    assert found[0].tolist() == pytest.approx([1.0, 3.0], abs=1e-6)  # the first says nothing, so it stays


def test_damping_pulls_towards_the_weight() -> None:
    hessian, drift = torch.tensor([[4.0]]).double(), torch.tensor([[-2.0]]).double()
    (found,) = corrected([torch.tensor([[3.0]]).double()], hessian, drift, 1.0, "w")  # 3 - 6 / (4 + 4)
    assert found.item() == pytest.approx(2.25)


@pytest.mark.parametrize("order", [None, "weight"])
def test_with_the_float_models_inputs_it_is_gptq(order: str | None) -> None:
    x, weight = _inputs(), torch.randn(24, 64)
    hessian = x.T @ x
    spec = Scheme.parse("w:int3/group32").weights
    assert spec is not None
    ours = codes([Problem(weight, spec, Qronos(order), drift_of(x, x))], hessian)[0]  # type: ignore[arg-type]
    theirs = gptq_quantize(weight, hessian, spec, Gptq(order))  # type: ignore[arg-type]
    assert torch.equal(ours.q, theirs.q)
    assert torch.equal(ours.scale, theirs.scale)
    alone = codes([Problem(weight, spec, Qronos(order))], hessian)[0]  # type: ignore[arg-type]
    assert torch.equal(alone.q, theirs.q)


@pytest.mark.parametrize(("bits", "least"), [(4, 0.87), (3, 0.9)])
def test_it_comes_closer_to_the_float_layer(bits: int, least: float) -> None:
    """A layer behind one that is quantized: what each way loses of X w, in float64, relative. RTN > GPTQ > Qronos."""
    torch.manual_seed(0)
    x0, first = _inputs().double(), torch.randn(64, 64).double() / 8
    weight = torch.randn(48, 64).double() / 8
    spec = Scheme.parse(f"w:int{bits}/channel").weights
    assert spec is not None
    x, moved = torch.tanh(x0 @ first.T), torch.tanh(x0 @ dequantize(quantize(first, spec)).T.double())
    hessian, drift = moved.T @ moved, moved.T @ (x - moved)

    def lost(q: Tensor) -> float:
        return float((moved @ q.T.double() - x @ weight.T).norm() / (x @ weight.T).norm())

    rtn = lost(dequantize(quantize(weight, spec)))
    gptq = lost(dequantize(gptq_quantize(weight, hessian, spec)))
    (solved,) = qronos_quantize_many([GptqProblem(weight, spec)], hessian, drift, [Step(1.0, 0.01)])
    qronos = lost(dequantize(solved))
    assert gptq < rtn
    assert qronos < least * gptq


def test_on_the_road_it_sees_what_quantized_blocks_do(tiny_lm) -> None:  # type: ignore[no-untyped-def]
    """In the first block's first layers nothing is moved yet, so they are GPTQ's; behind them they are not."""
    tokens = torch.randint(3, 250, (6, 24), generator=torch.Generator().manual_seed(1))
    gptq, _ = quantize_model(tiny_lm.model, "w:int3/group32,gptq", calibration=tokens)
    qronos, reports = quantize_model(tiny_lm.model, "w:int3/group32,qronos", calibration=tokens)
    first, later = "model.layers.0.self_attn.q_proj", "model.layers.1.self_attn.q_proj"
    assert torch.equal(gptq.get_submodule(first).codes, qronos.get_submodule(first).codes)
    assert not torch.equal(gptq.get_submodule(later).codes, qronos.get_submodule(later).codes)
    assert "qronos" in reports[0].scheme
    apart, _ = quantize_model(tiny_lm.model, "w:int3/group32,qronos", calibration=tokens, sequential=False)
    alone, _ = quantize_model(tiny_lm.model, "w:int3/group32,gptq", calibration=tokens, sequential=False)
    assert torch.equal(apart.get_submodule(later).codes, alone.get_submodule(later).codes)


def test_a_share_of_the_first_step() -> None:
    """X = 1, X~ = 2: the whole step halves the weight of 3, half of it gives 2.25; the text keeps what is not usual."""
    hessian, drift = torch.tensor([[4.0]]).double(), torch.tensor([[-2.0]]).double()
    (found,) = corrected([torch.tensor([[3.0]]).double()], hessian, drift, TINY, "w", 0.5)
    assert found.item() == pytest.approx(2.25)
    assert [str(Scheme.parse(f"W3A16,qronos{word}").method) for word in ("", "/share=0.5", "/share=1")] == [
        "qronos", "qronos", "qronos/share=1",
    ]  # fmt: skip
    spec = Scheme.parse("w:int3/group32").weights
    x, weight = _inputs(), torch.randn(24, 64)
    moved = x + 0.3 * torch.randn(512, 64)
    whole, half, none = (
        codes([Problem(weight, spec, Qronos(share=share), given)], moved.T @ moved)[0].q  # type: ignore[arg-type]
        for share, given in ((1.0, drift_of(moved, x)), (0.5, drift_of(moved, x)), (0.5, None))
    )
    assert not torch.equal(whole, half)
    assert not torch.equal(half, none)


def test_the_step_has_a_ridge_of_its_own() -> None:
    """4 rows of X~ = 1 where X = 2: H = 4, D = 4, so w' = 3 + 3 * 4 / (4 + 4 ridge); the sweep's damping is another."""
    hessian, drift = torch.tensor([[4.0]]).double(), torch.tensor([[4.0]]).double()
    for ridge, wanted in ((1.0, 4.5), (3.0, 3.75)):
        (found,) = corrected([torch.tensor([[3.0]]).double()], hessian, drift, ridge, "w")
        assert found.item() == pytest.approx(wanted)
    assert str(Scheme.parse("W3A16,qronos/ridge=0.1/share=1").method) == "qronos/share=1/ridge=0.1"
    assert str(Scheme.parse("W3A16,qronos/ridge=1").method) == "qronos"
    spec = Scheme.parse("w:int3/group32").weights
    x, weight = _inputs(), torch.randn(24, 64)
    moved = x + 0.3 * torch.randn(512, 64)
    held, loose = (
        codes([Problem(weight, spec, Qronos(ridge=ridge), drift_of(moved, x))], moved.T @ moved)[0].q  # type: ignore[arg-type]
        for ridge in (1.0, 0.01)
    )
    assert not torch.equal(held, loose)


def test_a_few_giant_rows_do_not_make_the_step_overfit() -> None:
    """32 of 232 rows are some 60 times as large, each off in its own way: a step fitted to them loses more on the usual
    rows than no step does; held by the ridge it costs them nothing."""
    torch.manual_seed(5)
    weight = torch.randn(16, 64).double() / 8

    def usual(count: int) -> tuple[Tensor, Tensor]:
        x = torch.randn(count, 64).double()
        return x, 0.7 * x + 0.2 * torch.randn(count, 64).double()

    giants = 60 * torch.randn(64).double() + 12 * torch.randn(32, 64).double()
    (x, moved), (wanted, fresh) = usual(200), usual(512)
    x, moved = torch.cat([giants + 6 * torch.randn(32, 64).double(), x]), torch.cat([giants, moved])
    hessian, drift = moved.T @ moved, moved.T @ (x - moved)

    def lost(w: Tensor) -> float:
        return float((fresh @ w.T - wanted @ weight.T).norm() / (wanted @ weight.T).norm())

    loose, held = (corrected([weight], hessian, drift, ridge, "w", 0.5)[0] for ridge in (0.01, 1.0))
    assert lost(held) < 1.01 * lost(weight)
    assert lost(loose) > 1.04 * lost(weight)


def test_what_it_refuses() -> None:
    with pytest.raises(
        ValueError, match="ridge=0.001 holds the first step to the weight by less than the sweep's damp"
    ):
        Scheme.parse("W4A16,qronos/ridge=0.001")
    for share in ("0", "1.5"):
        with pytest.raises(ValueError, match=f"share={share} is no share of what qronos makes up for"):
            Scheme.parse(f"W4A16,qronos/share={share}")
    with pytest.raises(ValueError, match="damp=0 keeps no Hessian"):
        Scheme.parse("W4A16,qronos/damp=0")
    with pytest.raises(ValueError, match="cannot read 'actorder=group'"):
        Scheme.parse("W4A16,qronos/actorder=group")
    with pytest.raises(ValueError, match="qronos/actorder=weight is another method"):
        Gptq.of(Qronos("weight"))


def _inputs() -> Tensor:
    torch.manual_seed(3)
    mix = torch.randn(64, 64) / 8 + torch.diag(torch.logspace(0, 0.7, 64))
    return torch.randn(512, 64) @ mix


def test_the_float_stream_passes_each_block_once(tiny_lm, monkeypatch) -> None:  # type: ignore[no-untyped-def]
    """It is seen while it goes on to the next block; run apart from that, the codes are the same."""
    tokens = torch.randint(3, 250, (6, 24), generator=torch.Generator().manual_seed(1))
    once, _ = quantize_model(tiny_lm.model, "w:int3/group32,qronos", calibration=tokens)
    monkeypatch.setattr(Passing, "passing", lambda self, module, last: self.walk.running(module))
    twice, _ = quantize_model(tiny_lm.model, "w:int3/group32,qronos", calibration=tokens)
    for name, one in once.state_dict().items():
        assert torch.equal(one, twice.state_dict()[name]), name


def test_of_a_long_text_some_windows_tell_how_inputs_moved(tiny_lm, monkeypatch) -> None:  # type: ignore[no-untyped-def]
    """The widest layer has 128 columns: half a row for each is 64 tokens, 3 windows of 24, every second one. Where the
    others say the same, the codes are those of all 6. Before anything is quantized the float text is not looked at."""
    tokens = torch.randint(3, 250, (3, 24), generator=torch.Generator().manual_seed(1)).repeat_interleave(2, 0)
    passed: list[int] = []
    passing = Passing.passing

    def counted(self: Passing, module: torch.nn.Module, last: bool) -> object:
        passed.append(len(self.walk.batches[0]))
        return passing(self, module, last)

    monkeypatch.setattr(Passing, "passing", counted)
    found = []
    for rows in (8, 0.5):
        monkeypatch.setattr(road, "DRIFT_ROWS", rows)
        found.append(quantize_model(tiny_lm.model, "w:int3/group32,qronos", calibration=tokens)[0].state_dict())
    assert passed == [6, 3]
    changed = [(one != found[1][name]).float().mean() for name, one in found[0].items() if name.endswith("codes")]
    assert max(changed) < 0.01  # sums in another order


@pytest.mark.parametrize(
    ("width", "dtype", "apart"), [(3, torch.float64, 1e-12), (200, torch.float64, 1e-9), (200, torch.float32, 1e-4)]
)
def test_solved_by_panels(width: int, dtype: torch.dtype, apart: float, monkeypatch: pytest.MonkeyPatch) -> None:
    """Against torch's own solution; what is above the diagonal is poison."""
    monkeypatch.setattr(products, "PANEL", 64)
    x = torch.randn(2 * width, width, dtype=torch.float64)
    hessian = x.T @ x
    right = torch.randn(width, 5, dtype=torch.float64)
    factor = torch.linalg.cholesky(hessian.flip(0, 1)).flip(0, 1).T  # H = L^T L
    poison = torch.full_like(factor, float("nan")).triu(1)
    lower = torch.where(torch.isnan(poison), poison, factor).to(dtype)
    found = products.solved(lower, right.to(dtype))
    wanted = torch.linalg.solve(hessian, right)
    assert (found.double() - wanted).norm() < apart * wanted.norm()
