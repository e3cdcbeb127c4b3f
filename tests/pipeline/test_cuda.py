"""The same engine on a GPU: the same codes, bit for bit, and the same model to rounding. Skipped without a GPU."""

import pytest
import torch

from quantcore import calibrate, compare, dequantize, fake_quantize, load_model, quantize, quantize_model
from quantcore.methods.qronos import corrected
from quantcore.numbers.formats import FORMATS
from quantcore.numbers.products import Growing, product
from quantcore.pipeline.calibration import outlier_ratio
from quantcore.scheme.scheme import Scheme
from quantcore.text.windows import bundled_text, token_windows

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device on this machine")


@pytest.mark.parametrize("grain", ["tensor", "channel", "group32", "block32x64"])
@pytest.mark.parametrize("fmt", [*FORMATS, "int2/asym", "int4/asym", "int8/asym"])
def test_codes_equal_those_of_the_cpu(fmt: str, grain: str) -> None:
    name, *tail = fmt.split("/")
    spec = Scheme.parse("/".join([f"w:{name}", grain, *tail])).weights
    x = torch.randn(128, 256) * torch.exp(torch.randn(128, 1))
    x[3, 17] = 40.0
    on_cpu, on_gpu = quantize(x, spec), quantize(x.cuda(), spec)
    assert torch.equal(on_cpu.scale, on_gpu.scale.cpu())
    assert torch.equal(on_cpu.q.view(torch.uint8), on_gpu.q.cpu().view(torch.uint8))
    assert torch.equal(dequantize(on_cpu), dequantize(on_gpu).cpu())
    assert torch.equal(fake_quantize(x, spec), fake_quantize(x.cuda(), spec).cpu())


@pytest.mark.parametrize("observer", ["p99.5", "mse"])
def test_observers_choose_the_same_range(observer: str) -> None:
    spec = Scheme.parse(f"w:int4/group64/{observer}").weights
    x = torch.randn(32, 256)
    assert torch.allclose(quantize(x, spec).scale, quantize(x.cuda(), spec).scale.cpu(), rtol=1e-6)


def test_reference_model_on_the_gpu() -> None:
    on_cpu, on_gpu = load_model("reference", "cpu"), load_model("reference", "cuda")
    assert on_gpu.device.type == "cuda"
    tokens = token_windows(on_cpu.tokenizer, bundled_text("evaluation", "encyclopedia"), limit=2048)
    stats = calibrate(on_gpu.model, tokens)
    assert max(outlier_ratio(one) for one in stats.values()) > 50
    expected = compare(on_cpu.model, on_cpu.model, tokens).float_perplexity
    for text in ("W4A16", "W8A8", "FP8", "FP8_BLOCK", "w:fp4_e2m1/group32,a:int8/tensor/static/mse", "W4A16_ASYM"):
        quantized, reports = quantize_model(on_gpu.model, text, tokens, stats=stats)
        report = compare(on_gpu.model, quantized, tokens)
        assert report.float_perplexity == pytest.approx(expected, rel=0.01)  # bf16 there, float32 here
        assert expected * 0.99 < report.perplexity < expected * 4
        assert len(reports) == 56
        assert next(quantized.parameters()).is_cuda


def test_products_of_halves_agree_with_float64() -> None:
    a, b = torch.randn(70, 513, device="cuda"), torch.randn(513, 31, device="cuda")
    b[7] *= 1e3
    apart = product(a, b).double() - a.double() @ b.double()
    assert (apart.abs() / (a.abs().double() @ b.abs().double())).max() < 2e-5


def test_the_first_step_of_qronos_agrees_with_float64() -> None:
    """Of 1,300 columns, three panels, one of them a thousand times louder."""
    x = torch.randn(4000, 1300, dtype=torch.float64)
    x[:, 7] *= 1e3
    hessian, drift = x.T @ x, x.T @ (0.1 * x.roll(1, 1))
    weight = torch.randn(40, 1300, dtype=torch.float64)
    (wanted,) = corrected([weight], hessian, drift, 0.01, "w")
    (found,) = corrected([weight.float().cuda()], hessian.float().cuda(), drift.float().cuda(), 0.01, "w")
    assert found.dtype == torch.float32
    assert ((found.cpu().double() - wanted).norm() / (wanted - weight).norm()) < 1e-3


def test_a_growing_product_agrees_with_float64() -> None:
    z, u = torch.randn(70, 513, device="cuda"), torch.randn(513, 513, device="cuda").triu()
    grown = Growing(z, u)
    for start, stop in ((0, 7), (7, 130), (130, 512), (512, 513)):
        apart = grown.behind(start, stop).double() - z[:, :stop].double() @ u[:stop, stop:].double()
        most = z[:, :stop].abs().double() @ u[:stop, stop:].abs().double()
        assert apart.shape == (70, 513 - stop)
        assert not apart.numel() or (apart.abs() / most).max() < 2e-5
