"""The paths on a GPU: codes and bare sums bit for bit, products within their bounds, a whole model on them. Skipped
without CUDA."""

import pytest
import torch

from quantcore import load_model, quantize_model
from quantcore.matmul.paths import open_paths
from quantcore.matmul.products import int_mm
from quantcore.matmul.size import quantized_linears
from quantcore.measure.evaluate import perplexity
from quantcore.model.decode import GreedyDecoder
from quantcore.numbers.qtensor import dequantize, quantize
from quantcore.scheme.scheme import Scheme
from quantcore.text.windows import bundled_text, prompt_tokens, token_windows
from tests import decode_laws
from tests import matmul_laws as laws

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device on this machine")

SHAPES = [(1, 16, 128), (17, 100, 200), (40, 136, 1000), (100, 256, 512), (300, 272, 256), (600, 520, 384)]
DTYPES = [torch.bfloat16, torch.float16, torch.float32]


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(
    "spec",
    [
        "int8/token/dynamic",
        "int8/token/asym/dynamic",
        "int8/tensor/dynamic",
        "int8/tensor/asym/dynamic",
        "int8/tensor/static",
        "int8/tensor/asym/static",
        "int8_narrow/token/dynamic",
        "int4/token/asym/dynamic",
        "fp8_e4m3/token/dynamic",
        "fp8_e4m3/tensor/dynamic",
        "fp8_e4m3/tensor/static",
        "fp8_e5m2/token/dynamic",
    ],
)
def test_codes(spec: str, dtype: torch.dtype) -> None:
    for tokens, width in ((1, 37), (17, 130), (300, 4096), (5, 14336), (3, 40000)):
        laws.check_codes(spec, tokens, width, dtype, "cuda")


@pytest.mark.parametrize("size", laws.SIZES)
@pytest.mark.parametrize("spec", ["int8/token/dynamic", "int8/tensor/asym/static", "fp8_e4m3/token/dynamic"])
def test_codes_of_the_least_and_the_greatest(spec: str, size: float) -> None:
    laws.check_codes(spec, 50, 1000, torch.float32, "cuda", size)


@pytest.mark.parametrize("spec", ["int8/token/dynamic", "int8/token/asym/dynamic", "fp8_e4m3/token/dynamic"])
def test_codes_of_what_is_not_finite(spec: str) -> None:
    laws.check_codes_of_what_is_not_finite(spec, "cuda")


@pytest.mark.parametrize("dtype", DTYPES)
def test_codes_of_groups(dtype: torch.dtype) -> None:
    for tokens, width in ((3, 128), (300, 4096), (5, 14336)):
        laws.check_codes("fp8_e4m3/group128/dynamic", tokens, width, dtype, "cuda")


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("spec", laws.ROUNDED)
def test_activations_rounded_in_groups(spec: str, dtype: torch.dtype) -> None:
    for tokens, width in ((5, 256), (300, 4096), (7, 14336)):
        laws.check_rounded(spec, dtype, "cuda", tokens, width)


def test_a_token_with_nan_gives_nan() -> None:
    scheme = Scheme.parse("W8A8")
    assert scheme.weights is not None
    x = torch.randn(3, 256, device="cuda", dtype=torch.bfloat16)
    x[1, 7] = float("nan")
    weight = quantize(torch.randn(32, 256, device="cuda"), scheme.weights)
    y = open_paths(x, weight, scheme.activations)[0].run(x, weight, scheme.activations)
    assert y[1].isnan().all()
    assert not y[[0, 2]].isnan().any()


@pytest.mark.parametrize("shape", [(1, 48, 256), (17, 40, 4096), (50, 128, 640), (200, 264, 1024), (4095, 528, 512)])
def test_bare_sums_are_exact(shape: tuple[int, int, int]) -> None:
    from quantcore.matmul.kernels.codes_matmul import Tile, multiply

    x, w, expected = laws.coded_case(*shape, "cuda")
    tiles = [None, Tile(64, 16, 128, 4, 3), Tile(128, 128, 128, 8, 3), Tile(128, 256, 128, 8, 3, persistent=True)]
    for tile in tiles:
        assert torch.equal(multiply(x, w, None, torch.int32, tile).cpu().long(), expected), tile
    if shape[1] % 8 == 0:
        assert torch.equal(int_mm(x, w, None, torch.int32).cpu().long(), expected)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("scheme", laws.INT8_SCHEMES)
@pytest.mark.parametrize("path", ["int8", "int8_torch"])
def test_int8(path: str, scheme: str, dtype: torch.dtype) -> None:
    for shape in SHAPES:
        laws.check_product(path, scheme, *shape, dtype, "cuda")
    laws.check_product(path, scheme, 17, 128, 256, dtype, "cuda", with_bias=False)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("scheme", laws.FP8_SCHEMES)
@pytest.mark.parametrize("path", ["fp8", "fp8_torch"])
def test_fp8(path: str, scheme: str, dtype: torch.dtype) -> None:
    for shape in SHAPES:
        laws.check_product(path, scheme, *shape, dtype, "cuda")
    laws.check_product(path, scheme, 17, 128, 256, dtype, "cuda", with_bias=False)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("scheme", ["FP8_BLOCK", "w:fp8_e4m3/group128,a:fp8_e4m3/group128/dynamic"])
def test_fp8_block(scheme: str, dtype: torch.dtype) -> None:
    for shape in ((1, 128, 128), (17, 256, 384), (50, 384, 512), (300, 256, 1024)):
        laws.check_product("fp8_block", scheme, *shape, dtype, "cuda")


@pytest.mark.parametrize("dtype", DTYPES[:2])
@pytest.mark.parametrize("scheme", laws.LOW_BIT_SCHEMES + laws.FLOAT_BIT_SCHEMES)
def test_low_bit(scheme: str, dtype: torch.dtype) -> None:
    for tokens, out, width in (
        (1, 16, 384),
        (5, 100, 384),
        (11, 136, 1152),
        (16, 8216, 384),
        (17, 136, 1152),
        (50, 256, 384),
        (100, 264, 384),
        (300, 272, 384),
    ):
        laws.check_product("low_bit", scheme, tokens, out, width, dtype, "cuda")
    if "128" not in scheme:
        laws.check_product("low_bit", scheme, 3, 40, 192, dtype, "cuda", with_bias=False)
    if "group" in scheme:
        laws.check_product("low_bit", scheme, 3, 72, 768, dtype, "cuda", reorder=True)
        laws.check_product("low_bit", scheme, 300, 72, 768, dtype, "cuda", reorder=True)


@pytest.mark.parametrize("dtype", DTYPES[:2])
@pytest.mark.parametrize("scheme", laws.W4A8_SCHEMES)
def test_w4a8(scheme: str, dtype: torch.dtype) -> None:
    for tokens, out in ((1, 16), (7, 100), (16, 8216), (50, 256), (100, 264), (300, 272)):
        laws.check_product("w4a8", scheme, tokens, out, 512, dtype, "cuda")
    if "group" in scheme:
        laws.check_product("w4a8", scheme, 3, 72, 768, dtype, "cuda", reorder=True)
        laws.check_product("w4a8", scheme, 300, 72, 768, dtype, "cuda", with_bias=False, reorder=True)


@pytest.mark.parametrize("dtype", DTYPES[:2])
@pytest.mark.parametrize("scheme", laws.LOW_BIT_SCHEMES + laws.FLOAT_BIT_SCHEMES)
def test_unpacked_weights_are_the_dequantized_ones(scheme: str, dtype: torch.dtype) -> None:
    from quantcore.matmul.kernels.expand import expand
    from quantcore.matmul.kernels.low_bit_weight import pack_weight

    spec = Scheme.parse(scheme).weights
    assert spec is not None
    q = quantize(torch.randn(100, 384, device="cuda"), spec)
    assert torch.equal(expand(pack_weight(q), dtype), dequantize(q).to(dtype))


def test_a_packed_weight_is_written_when_it_is_given() -> None:
    """A kernel may read it before the kernel before has ended."""
    from quantcore.matmul.kernels.low_bit_weight import pack_weight

    q = quantize(torch.randn(4096, 4096, device="cuda"), Scheme.parse("W4A16").weights)
    torch.mm(*(torch.ones(8192, 8192, device="cuda") for _ in range(2)))  # what the stream is busy with for a while
    pack_weight(q)
    assert torch.cuda.current_stream().query()


@pytest.mark.parametrize("tokens", [1, 17, 4095])
def test_large_layers(tokens: int) -> None:
    for path, scheme in (
        ("int8", "W8A8"),
        ("fp8", "FP8_DYNAMIC"),
        ("low_bit", "W4A16_ASYM"),
        ("fp8_block", "FP8_BLOCK"),
    ):
        laws.check_product(path, scheme, tokens, 1024, 4096, torch.bfloat16, "cuda")


@pytest.mark.parametrize(
    ("path", "scheme"),
    [
        ("low_bit", "W4A16"),
        ("low_bit", "W4A16_ASYM"),
        ("int8", "w:int8/channel/asym,a:int8/token/asym/dynamic"),
        ("fp8_block", "FP8_BLOCK"),
        ("w4a8", "w:int4/channel,a:int8/token/dynamic"),
        ("w4a8", "w:int4/group128,a:int8/token/dynamic"),
        ("w4a8", "w:int4/group128,a:fp8_e4m3/token/dynamic"),
    ],
)
def test_tiles_that_several_programs_share(path: str, scheme: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of the tiles that Hopper's kernels have here, 144 to 147 on 132 multiprocessors, the last are split."""
    from quantcore.matmul.kernels import hopper_codes, hopper_tiles

    assert hopper_tiles.tile_for(300, 6152, 4096, 132) == hopper_tiles.Tile(128, 1, 4, 132)
    monkeypatch.setattr(hopper_codes, "width_for", lambda *_: hopper_tiles.WIDE)
    for kind in ("int8", "blocks", "int4", "int4 apart"):
        assert hopper_tiles.cut(144, 32, 132, hopper_tiles.codes_us(kind, hopper_tiles.WIDE), 128 * 256) == (4, 132)
    tokens, out = (300, 6152) if path == "low_bit" else (400, 9216)
    laws.check_product(path, scheme, tokens, out, 4096, torch.bfloat16, "cuda")


@pytest.mark.parametrize("width", [128, 384, 896])
@pytest.mark.parametrize("tokens", [17, 32])
def test_two_teams_take_turns_in_pieces_of_odd_length(tokens: int, width: int) -> None:
    """A program of Hopper's product has three tiles here, of one block, of three and of seven."""
    laws.check_product("low_bit", "W4A16_ASYM", tokens, 38400, width, torch.bfloat16, "cuda")


@pytest.mark.parametrize(
    ("path", "scheme"),
    [
        ("w4a8", "w:int4/channel,a:int8/token/dynamic"),
        ("w4a8", "w:int4/group128,a:fp8_e4m3/token/dynamic"),
        ("w4a8", "w:int4/channel,a:fp8_e4m3/token/dynamic"),
        ("w4a8", "w:int4/group256,a:int8/token/dynamic"),
        ("int8", "w:int8/channel/asym,a:int8/token/asym/dynamic"),
        ("int8", "w:int8/channel,a:int8/tensor/static"),
        ("fp8", "FP8_DYNAMIC"),
        ("fp8_block", "FP8_BLOCK"),
    ],
)
def test_codes_in_narrow_tiles(path: str, scheme: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """72 rows of tiles of the weight are enough for 132 multiprocessors; 8 of the longer one are split. A packed weight
    goes no other way."""
    from quantcore.matmul import w4a8
    from quantcore.matmul.kernels import hopper_codes

    def narrow(tokens: int, _out: int, _blocks: int, kind: str, _programs: int) -> int:
        return 128 if kind == "blocks" else next(width for width in (16, 32, 64, 128) if width >= min(tokens, 128))

    monkeypatch.setattr(hopper_codes, "width_for", narrow)
    for other in ("codes_of", "_multiply_unpacked"):
        monkeypatch.setattr(w4a8, other, None)
    for tokens in (9, 17, 64, 100, 200):
        laws.check_product(path, scheme, tokens, 9216, 1024, torch.bfloat16, "cuda")
    laws.check_product(path, scheme, 40, 1024, 14336, torch.bfloat16, "cuda")


@pytest.mark.parametrize(
    ("scheme", "path"),
    [
        ("W8A8", "int8"),
        ("FP8_DYNAMIC", "fp8"),
        ("FP8", "fp8"),
        ("FP8_BLOCK", "fp8_block"),
        ("W4A16", "low_bit"),
        ("W8A16", "low_bit"),
        ("W4A16_ASYM", "low_bit"),
    ],
)
def test_a_model_reads_and_writes_on_its_path(scheme: str, path: str) -> None:
    lm = load_model("reference", "cuda")
    tokens = token_windows(lm.tokenizer, bundled_text("evaluation"), limit=32768)
    quantized, _ = quantize_model(lm.model, scheme, tokens[:4])
    layers = quantized_linears(quantized).values()
    x = torch.zeros(1, 1, dtype=torch.bfloat16, device="cuda")
    assert {layer.path_for(x).name for layer in layers} == {path}
    real = perplexity(quantized, tokens)
    prompt, _ = prompt_tokens(lm.tokenizer, "The lighthouse keeper climbed", lm.context)
    replayed = GreedyDecoder(quantized, 80).continue_(prompt, 48)
    stepped = GreedyDecoder(quantized, 80, graph=False).continue_(prompt, 48)
    assert torch.equal(replayed, stepped)
    assert len(set(replayed.tolist())) > 8
    for layer in layers:
        layer.path = "dequantize"
    cut = path == "fp8"  # whose sums of many tokens stay in the tensor cores
    assert real == pytest.approx(perplexity(quantized, tokens), rel=2e-3 if cut else 1e-3)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("width", [256, 1024, 2048, 4096, 8192, 16384])
def test_the_fast_walsh_hadamard_transform(width: int, dtype: torch.dtype) -> None:
    laws.check_fwht(width, dtype, "cuda")


@pytest.mark.parametrize("spec", [None, "int8/token/dynamic", "fp8_e4m3/token/dynamic"])
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_rows_between_the_products_of_a_decode_step(spec: str | None, dtype: torch.dtype) -> None:
    decode_laws.check_norm_rows(spec, dtype, "cuda")
    decode_laws.check_gate_rows(spec, dtype, "cuda")


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32])
@pytest.mark.parametrize("filled", [1, 63, 64, 65, 130, 199])
def test_attention_over_the_filled_part_of_a_cache(filled: int, dtype: torch.dtype) -> None:
    decode_laws.check_attend(filled, dtype, "cuda")


@pytest.mark.parametrize("kind", ["llama", "mistral", "qwen2"])
@pytest.mark.parametrize(
    "scheme", ["float", "W8A8", "FP8_DYNAMIC", "w:int4/group32", "w:int8/tensor,a:int8/tensor/static"]
)
def test_a_fused_decode_step(kind: str, scheme: str) -> None:
    decode_laws.check_step(kind, scheme, 70, torch.bfloat16, "cuda", 0.05)


@pytest.mark.parametrize(
    ("scheme", "reorder"),
    [
        ("W4A16", False), ("W4A16", True), ("W8A16", False), ("w:int3/group64", False), ("W8A8", False),
        ("FP8_DYNAMIC", False), ("w:int4/channel,a:int8/token/dynamic", False),
        ("w:int4/group128,a:fp8_e4m3/token/dynamic", False),
    ],
)  # fmt: skip
@pytest.mark.parametrize("tokens", [1, 17, 512])
def test_vllms_kernels_give_what_dequantizing_gives(scheme: str, reorder: bool, tokens: int) -> None:
    pytest.importorskip("humming")
    laws.check_product("humming", scheme, tokens, 256, 512, device="cuda", reorder=reorder)
