"""Every path that runs without a GPU: against the float64 product of the same codes, by hand, and why the others are
closed."""

from dataclasses import replace

import pytest
import torch

from quantcore import load_model, quantize_model
from quantcore.matmul import humming
from quantcore.matmul.paths import PATHS, open_paths, path_named
from quantcore.matmul.products import int_mm
from quantcore.matmul.size import quantized_linears
from quantcore.measure.evaluate import perplexity
from quantcore.numbers.formats import FORMATS
from quantcore.numbers.qtensor import QTensor, quantize
from quantcore.scheme.scheme import Scheme
from quantcore.text.windows import bundled_text, token_windows
from tests import matmul_laws as laws

SHAPES = [(1, 16, 128), (17, 40, 200), (33, 100, 37), (4, 7, 384)]
DTYPES = [torch.float32, torch.bfloat16, torch.float16]


def test_int8_by_hand() -> None:
    # x = [2, -1] at scale 127/127.5... is avoided: static scale 1, so x_q = [2, -1]; W_q = [[3, 4]], scale 0.5.
    scheme = Scheme.parse("w:int8/channel,a:int8/tensor/static")
    assert scheme.weights is not None
    weight = QTensor(torch.tensor([[3, 4]], dtype=torch.int8), torch.tensor([[0.5]]), None, scheme.weights)
    static = laws.on(laws.QParams(torch.tensor([[1.0]]), None), "cpu")
    y = PATHS["int8_torch"].run(torch.tensor([2.0, -1.0]), weight, scheme.activations, static, torch.tensor([10.0]))
    assert y.tolist() == [11.0]  # 0.5 * (2*3 - 1*4) + 10


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("scheme", laws.INT8_SCHEMES)
def test_int8_torch(scheme: str, dtype: torch.dtype) -> None:
    for shape in SHAPES:
        laws.check_product("int8_torch", scheme, *shape, dtype)
    laws.check_product("int8_torch", scheme, 5, 24, 130, dtype, with_bias=False)


def test_int8_torch_sums_are_exact() -> None:
    for shape in ((1, 16, 128), (37, 48, 1024), (3, 8, 20000)):
        x, w, expected = laws.coded_case(*shape, "cpu")
        assert torch.equal(int_mm(x, w, None, torch.int32).long(), expected)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("scheme", laws.FP8_SCHEMES)
def test_fp8_torch(scheme: str, dtype: torch.dtype) -> None:
    for shape in SHAPES:
        laws.check_product("fp8_torch", scheme, *shape, dtype)
    laws.check_product("fp8_torch", scheme, 5, 24, 130, dtype, with_bias=False)


@pytest.mark.parametrize("leading", [(), (3,), (2, 3), (2, 1, 3)])
@pytest.mark.parametrize("path", ["int8_torch", "fp8_torch", "dequantize"])
def test_any_leading_shape(path: str, leading: tuple[int, ...]) -> None:
    scheme = Scheme.parse("FP8_DYNAMIC" if path == "fp8_torch" else "W8A8")
    assert scheme.weights is not None
    weight, x = quantize(torch.randn(24, 40), scheme.weights), torch.randn(*leading, 40)
    y = PATHS[path].run(x, weight, scheme.activations)
    one_by_one = [PATHS[path].run(row, weight, scheme.activations) for row in x.reshape(-1, 40)]
    assert y.shape == (*leading, 24)
    assert torch.allclose(y.reshape(-1, 24), torch.stack(one_by_one), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(
    ("scheme", "best"),
    [
        ("W8A8", "int8_torch"),
        ("w:int4/channel,a:int8/tensor/dynamic", "int8_torch"),
        ("FP8_DYNAMIC", "fp8_torch"),
        ("W4A16", "dequantize"),
        ("FP8_BLOCK", "dequantize"),
        ("W4AFP8", "dequantize"),
        ("w:fp4_e2m1/group32", "dequantize"),
    ],
)
def test_the_best_path_on_the_cpu(scheme: str, best: str) -> None:
    parsed = Scheme.parse(scheme)
    assert parsed.weights is not None
    weight = quantize(torch.randn(128, 128), parsed.weights)
    found = [path.name for path in open_paths(torch.zeros(1, 128), weight, parsed.activations)]
    assert found[0] == best
    assert found[-1] == "dequantize"


@pytest.mark.parametrize(
    ("path", "scheme", "reason"),
    [
        ("int8_torch", "W8A16", "activations stay float"),
        ("int8_torch", "FP8_DYNAMIC", "it multiplies integers and the weights are fp8_e4m3"),
        ("int8_torch", "w:int8/channel,a:fp8_e4m3/token/dynamic", "the activations are fp8_e4m3"),
        ("int8_torch", "W4A8", "weight scales per group128 cannot leave the sum"),
        ("int8_torch", "w:int8/channel,a:int8/group32/dynamic", "activation scales per group32 cannot leave the sum"),
        ("fp8_torch", "W8A8", "it multiplies fp8_e4m3 and the weights are int8"),
        ("fp8_torch", "FP8_BLOCK", "weight scales per block128x128 cannot leave the sum"),
        ("fp8_block", "FP8_DYNAMIC", "use block128x128 and group128"),
        ("fp8_block", "W8A8", "it multiplies fp8_e4m3 on both sides; use FP8_BLOCK"),
        ("low_bit", "W8A8", "it takes 16-bit activations and the scheme quantizes them"),
        (
            "low_bit",
            "w:fp8_e5m2/channel",
            "it unpacks whole numbers, e2m1, e2m3, e3m2 and e4m3, and the weights are fp8_e5m2",
        ),
        ("low_bit", "w:int4/group16", "group_size=16 is no multiple of 32; try group32"),
    ],
)
def test_a_closed_path_says_why(path: str, scheme: str, reason: str) -> None:
    parsed = Scheme.parse(scheme)
    assert parsed.weights is not None
    weight = quantize(torch.randn(256, 256), parsed.weights)
    x = torch.randn(2, 256, dtype=torch.bfloat16)
    assert reason in str(PATHS[path].why_not(x, weight, parsed.activations))
    with pytest.raises(ValueError, match=f"the path '{path}' is closed here: .*{reason}"):
        PATHS[path].run(x, weight, parsed.activations)


@pytest.mark.parametrize(("path", "scheme"), [("int8", "W8A8"), ("fp8", "FP8_DYNAMIC"), ("low_bit", "W4A16")])
def test_kernels_are_closed_without_gpu_or_triton(path: str, scheme: str, monkeypatch: pytest.MonkeyPatch) -> None:
    parsed = Scheme.parse(scheme)
    assert parsed.weights is not None
    weight = quantize(torch.randn(128, 128), parsed.weights)
    x = torch.zeros(1, 128, dtype=torch.bfloat16)
    monkeypatch.setattr("quantcore.matmul.why_not.has_triton", lambda: True)
    assert "need a GPU and x is on the cpu" in str(PATHS[path].why_not(x, weight, parsed.activations))
    monkeypatch.setattr("quantcore.matmul.why_not.has_triton", lambda: False)
    assert "need Triton, which is not installed" in str(PATHS[path].why_not(x, weight, parsed.activations))


def test_sums_that_may_overflow_are_refused() -> None:
    # 255 * 255 * 33026 > 2^31 - 1 >= 255 * 255 * 33025; symmetric codes: 128 * 128 * 131071 fits
    for text, width, fits in (
        ("w:int8/channel/asym,a:int8/token/asym/dynamic", 33025, True),
        ("w:int8/channel/asym,a:int8/token/asym/dynamic", 33026, False),
        ("w:int8/channel,a:int8/token/dynamic", 131071, True),
        ("w:int8/channel,a:int8/token/dynamic", 131072, False),
    ):
        scheme = Scheme.parse(text)
        assert scheme.weights is not None
        weight = quantize(torch.ones(1, width), scheme.weights)
        reason = PATHS["int8_torch"].why_not(torch.zeros(1, width), weight, scheme.activations)
        assert (reason is None) == fits
        if not fits:
            assert "may not fit 32 bits" in str(reason)


def test_other_dtypes_and_unknown_names() -> None:
    scheme = Scheme.parse("W8A8")
    assert scheme.weights is not None
    weight = quantize(torch.randn(16, 32), scheme.weights)
    reason = PATHS["int8_torch"].why_not(torch.zeros(1, 32, dtype=torch.float64), weight, scheme.activations)
    assert reason == "it takes x in float32, float16, bfloat16, got float64"
    with pytest.raises(ValueError, match="no path is called 'int7'; try one of w4a8, int8, int8_torch"):
        path_named("int7")


@pytest.mark.parametrize("scheme", ["W8A8", "FP8"])  # int8 and dynamic, fp8 and static
def test_perplexity_through_the_real_path_is_that_of_the_reference(scheme: str) -> None:
    # A last bit of one layer's output turns a few codes of the next layer over; that alone moves the perplexity of 1024
    # tokens by up to 0.5%, as noise of 1e-7 on every input does.
    lm = load_model("reference", "cpu")
    tokens = token_windows(lm.tokenizer, bundled_text("evaluation"), limit=1024)
    quantized, _ = quantize_model(lm.model, scheme, tokens[:2])
    layers = quantized_linears(quantized).values()
    real = perplexity(quantized, tokens)
    x = torch.zeros(1, 1)
    assert {layer.path_for(x).name for layer in layers} <= {"int8_torch", "fp8_torch"}
    for layer in layers:
        layer.path = "dequantize"
    assert real == pytest.approx(perplexity(quantized, tokens), rel=1e-2)


def test_no_format_is_without_a_path() -> None:
    x = torch.randn(3, 64)
    for fmt in FORMATS:
        spec = Scheme.parse(f"w:{fmt}/channel").weights
        assert spec is not None
        weight = quantize(torch.randn(8, 64), spec)
        act = Scheme.parse(f"a:{fmt}/token/dynamic").activations
        for activations in (None, act):
            best = open_paths(x, weight, activations)[0]
            reference = PATHS["dequantize"].run(x, weight, activations)
            assert torch.allclose(
                best.run(x, weight, activations), reference, rtol=1e-4, atol=1e-4 * reference.abs().max()
            )


def test_weight_of_one_value_a_row_and_g_idx() -> None:
    spec = Scheme.parse("w:int4/group32/asym").weights
    assert spec is not None
    q = laws.shuffled(quantize(torch.randn(8, 64), spec))
    x = torch.randn(3, 64)
    assert torch.allclose(PATHS["dequantize"].run(x, q), (x.double() @ laws.exact(q).T).float(), rtol=1e-4, atol=1e-4)
    assert not torch.allclose(PATHS["dequantize"].run(x, replace(q, g_idx=None)), PATHS["dequantize"].run(x, q))


@pytest.mark.parametrize("bits", [2, 3, 4, 5, 7, 8])
def test_codes_as_a_row_of_bits(bits: int) -> None:
    """As Humming reads them: code k's bits are the row's bits k b to k b + b - 1, each word's lowest first."""
    half = 2 ** (bits - 1)
    codes = torch.randint(-half, half, (3, 64), dtype=torch.int8)
    words = humming.packed(codes, bits)
    assert words.shape == (3, 64 * bits // 32)
    assert words.dtype == torch.int32
    for row, kept in zip(words.tolist(), codes.tolist(), strict=True):
        whole = sum((word & 0xFFFFFFFF) << (32 * place) for place, word in enumerate(row))
        assert [(whole >> (bits * k) & (2**bits - 1)) - half for k in range(64)] == kept
