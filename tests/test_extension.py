"""A number format and a method from outside: two records, and the whole engine takes them without an edit."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch
from torch import Tensor

from quantcore.export.checkpoint import export_checkpoint
from quantcore.export.recipe import recipe
from quantcore.matmul.size import checkpoint_bytes, quantized_linears
from quantcore.methods import codes, options
from quantcore.methods.codes import Problem
from quantcore.methods.gptq import gptq_loss
from quantcore.methods.options import Method, Rtn
from quantcore.model.loading import LoadedModel
from quantcore.numbers import formats
from quantcore.numbers.affine import QParams
from quantcore.numbers.formats import FP8_E4M3, float_format
from quantcore.numbers.qtensor import QTensor, dequantize, qparams_for, quantize
from quantcore.pipeline.convert import quantize_model
from quantcore.scheme.scheme import Scheme
from quantcore.text.windows import bundled_text, token_windows
from tests.apptest_helpers import page

FP5 = float_format("fp5_e2m2", 5, 2, 1, 7.0, torch.int8)


@dataclass(frozen=True)
class Shrink(Method):
    """Round to nearest under a range that is shrunk to 1, 1 - 1/10, ... of itself: whichever leaves the least loss."""

    name = "shrink"
    needs_hessian = True
    words = {r"steps=(\d)": ("steps", int)}
    usage = "/steps=4"
    steps: int = 4

    def __str__(self) -> str:
        return f"{self.name}/steps={self.steps}"


def shrink(problems: Sequence[Problem], hessian: Tensor | None, name: str) -> list[QTensor]:
    return [_least(problem, hessian) for problem in problems]


def _least(problem: Problem, hessian: Tensor) -> QTensor:
    weight, spec = problem.weight, problem.spec
    whole = qparams_for(weight, spec)
    shares = [1 - step / 10 for step in range(problem.method.steps)]
    tried = [quantize(weight, spec, QParams(share * whole.scale, whole.zero_point)) for share in shares]
    return min(tried, key=lambda q: gptq_loss(weight, dequantize(q), hessian))


@pytest.fixture
def known() -> Iterator[None]:
    """Both are registered, as a program that uses them would do it; afterwards all is as it was."""
    formats.register(FP5)
    codes.register(Shrink, shrink)
    yield
    del formats.FORMATS[FP5.name], options.METHODS[Shrink.name], codes.SOLVERS[Shrink]
    Scheme.parse.cache_clear()


@pytest.fixture(scope="module")
def text(tiny_lm: LoadedModel) -> Tensor:
    return token_windows(tiny_lm.tokenizer, bundled_text("calibration"), 64, 1024)


@pytest.mark.usefixtures("known")
def test_a_format(tiny_lm: LoadedModel, text: Tensor, tmp_path: Path) -> None:
    scheme = Scheme.parse("w:fp5_e2m2/group32,a:fp5_e2m2/token/dynamic")
    assert scheme == Scheme.parse(str(scheme))
    # two exponent bits, two of mantissa: steps of 1/4 up to 2, of 1 between 4 and 7. The scale is 56 / 7 = 8.
    row = torch.tensor([[56.0, 44.0, 41.0, 1.3]])
    q = quantize(row, Scheme.parse("w:fp5_e2m2/channel").weights)
    assert dequantize(q).tolist() == [[56.0, 48.0, 40.0, 2.0]]  # 5.5 is a tie of 5 and 6: to the even code, 6
    assert q.bits_per_weight == 5 + 16 / 4
    quantized, reports = quantize_model(tiny_lm.model, "w:fp5_e2m2/group32,gptq", text)
    assert all(report.bits_per_weight == 5.5 and report.loss < report.rtn_loss for report in reports)
    inside = sum(layer.codes.numel() for layer in quantized_linears(quantized).values())
    outside = sum(parameter.numel() for parameter in quantized.parameters())
    assert checkpoint_bytes(quantized) == inside * 5.5 / 8 + 2 * outside
    with pytest.raises(
        ValueError, match="it has no fp5_e2m2; use int2 to int8, fp8_e4m3, or fp4_e2m1 and fp6_e2m3 with"
    ):
        export_checkpoint(tiny_lm, str(scheme), tmp_path / "out")
    with pytest.raises(ValueError, match="it has no fp5_e2m2; use int2 to int8, fp8_e4m3, or fp4_e2m1"):
        recipe(scheme)


@pytest.mark.usefixtures("known")
def test_a_method(tiny_lm: LoadedModel, text: Tensor, tmp_path: Path) -> None:
    scheme = Scheme.parse("w:int3/channel,shrink/steps=5")
    assert scheme.method == Shrink(5)
    assert Scheme.parse(str(scheme)) == scheme
    assert scheme.needs_text
    with pytest.raises(ValueError, match="cannot read 'steps=x'; the methods are .*shrink with /steps=4 behind it"):
        Scheme.parse("w:int3/channel,shrink/steps=x")
    quantized, reports = quantize_model(tiny_lm.model, scheme, text)
    assert all(report.loss <= report.rtn_loss for report in reports)
    assert any(report.loss < report.rtn_loss for report in reports)
    plain = quantized_linears(quantize_model(tiny_lm.model, "w:int3/channel")[0])
    assert checkpoint_bytes(quantized) == checkpoint_bytes(quantize_model(tiny_lm.model, "w:int3/channel")[0])
    shrunk = quantized_linears(quantized)
    assert all(bool((shrunk[name].scale <= plain[name].scale).all()) for name in plain)
    with pytest.raises(ValueError, match="llm-compressor has no recipe for .*: it has no shrink; use rtn or gptq"):
        recipe(scheme)
    report = export_checkpoint(tiny_lm, scheme, tmp_path / "out", text)  # a checkpoint holds codes, whoever chose them
    assert report.format == "pack-quantized"


@pytest.mark.usefixtures("known")
def test_pages_offer_both(tiny_model_dir: Path) -> None:
    at = page("5_Layer_lab", model=str(tiny_model_dir)).run()
    at.selectbox(key="a.weights.format").select(FP5.name).run()
    at.selectbox(key="a.method").select("shrink/steps=4").run()
    assert not at.exception
    assert at.text_input(key="a").value.endswith(",shrink/steps=4")
    assert at.text_input(key="a").value.startswith("w:fp5_e2m2/")


@pytest.mark.usefixtures("known")
def test_layers_of_one_input_may_have_methods_of_several_kinds(tiny_lm: LoadedModel, text: Tensor) -> None:
    plan = "w:int4/group32,gptq@k_proj=w:int4/group32,shrink@v_proj=w:int4/group32"
    quantized, _ = quantize_model(tiny_lm.model, plan, text, sequential=False)
    alone = {
        kind: quantized_linears(quantize_model(tiny_lm.model, f"w:int4/group32{kind}", text, sequential=False)[0])
        for kind in (",gptq", ",shrink", "")
    }
    for name, layer in quantized_linears(quantized).items():
        kind = ",shrink" if "k_proj" in name else "" if "v_proj" in name else ",gptq"
        assert torch.equal(layer.codes, alone[kind][name].codes), name


def test_a_name_is_given_once() -> None:
    formats.register(FP8_E4M3)  # the same again says nothing new
    with pytest.raises(ValueError, match="a number format is called 'fp8_e4m3' already"):
        formats.register(float_format("fp8_e4m3", 8, 4, 7, 240.0, torch.float8_e4m3fn))

    class Other(Method):
        name = Rtn.name

    with pytest.raises(ValueError, match="a method is called 'rtn' already"):
        codes.register(Other, shrink)


def test_what_is_not_registered_is_refused() -> None:
    with pytest.raises(ValueError, match="no number format is called 'fp5_e2m2'"):
        Scheme.parse("w:fp5_e2m2/channel")
    with pytest.raises(ValueError, match="cannot read 'shrink'"):
        Scheme.parse("w:int4/channel,shrink")
