"""Problems for GPTQ, and what the float32 form must obey on any device: shared by the tests on the CPU, in Triton's
interpreter and on a GPU."""

import pytest
import torch
from torch import Tensor

from quantcore import dequantize
from quantcore.methods.gptq import factorize, gptq_loss, gptq_plain, gptq_quantize
from quantcore.methods.options import Gptq
from quantcore.methods.sweep_state import Order
from tests.specs import weights_spec

ORDERS = [None, "weight", "group"]
TEXTS = [
    "int4/group32",
    "int3/channel/asym",
    "int4/tensor",
    "fp8_e4m3/block8x32",
    "fp8_e5m2/channel",
    "fp4_e2m1/group16",
    "fp4_e2m1/group16/e4m3",
    "fp8_e4m3/group32/e8m0",
]


def problem(kind: str, out: int = 24, width: int = 96) -> tuple[Tensor, Tensor]:
    """A weight and the Hessian of inputs: random; strongly correlated; with dead columns; with one loud column."""
    weight = torch.randn(out, width, dtype=torch.float64) * 0.1
    x = torch.randn(4 * width, width, dtype=torch.float64)
    if kind == "ill-conditioned":
        x = x @ torch.randn(width, width, dtype=torch.float64) * torch.logspace(0, -4, width, dtype=torch.float64)
    elif kind == "dead":
        x[:, [0, 17, width - 1]] = 0
    elif kind == "outlier":
        x[:, 41] *= 300
    else:
        x[:, 1:] += 0.7 * x[:, :-1]
    return weight, x.T @ x


def check_float32(text: str, kind: str, order: str | None, device: str, block_size: int = 40, width: int = 96) -> None:
    """Codes all but equal to the plain form's in float64, on the same scales; the loss within 1e-4."""
    weight, hessian = problem(kind, width=width)
    weight, hessian = weight.float(), hessian.float()
    options = Gptq(actorder=order, block_size=block_size)
    plain = gptq_plain(weight, hessian, weights_spec(text), options)
    fast = gptq_quantize(weight.to(device), hessian.to(device), weights_spec(text), options)
    assert torch.equal(fast.scale.cpu(), plain.scale)
    same = fast.q.cpu().view(torch.uint8) == plain.q.view(torch.uint8)
    assert float(same.double().mean()) > 0.995
    exact, rounded = gptq_loss(weight, dequantize(plain), hessian), gptq_loss(weight, dequantize(fast).cpu(), hessian)
    assert rounded == pytest.approx(exact, rel=1e-4)


def check_factorization(width: int, by_diagonal: bool, device: str) -> None:
    """The kernel's pull and diagonal are float64's, for channels of very different size, one that shouts and one that
    is dead; and on a GPU the same numbers every time, in whatever order its programs come to their tiles."""
    from quantcore.methods.kernels.cholesky import factor_of

    x = torch.randn(2 * width, width) * torch.exp(2 * torch.randn(width))
    x[:, width // 3] *= 30
    x[:, width // 2] = 0
    hessian = (x.T @ x + (width == 1)).to(device)
    order = Order.of(hessian, by_diagonal)
    pull, diagonal = factor_of(hessian, order.columns, 0.01)
    exact_pull, exact_diagonal, without = factorize(hessian.double(), order, 0.01)
    assert without == 0
    torch.testing.assert_close(diagonal.double(), exact_diagonal, rtol=4e-6, atol=0)
    torch.testing.assert_close(pull.tril().double(), exact_pull, rtol=0, atol=2e-6 * float(exact_pull.abs().max()))
    if device != "cpu":  # where one program does all
        again, _ = factor_of(hessian, order.columns, 0.01)
        assert torch.equal(again.tril(), pull.tril())
