"""Parity with compressed-tensors, the library whose checkpoints the field loads: bit for bit, each difference named.

Named differences:
- an exact tie with an odd zero point: it takes round(x / s + z), we round(x / s) + z (`test_tie_with_odd_zero_point`);
- the scale of a tile of zeros: it takes the dtype's epsilon, we 1; the codes and the reals are the same zeros;
- of a tile of zeros in e8m0: it takes 2^-127, we 1, and our least scale is 2^-126;
- a block that does not divide the weight: it pads, we refuse (tests/numbers/test_granularity.py).
"""

import dataclasses

import pytest
import torch
from torch import Tensor

from quantcore import dequantize, fake_quantize, quantize
from quantcore.numbers.affine import choose_qparams
from quantcore.numbers.formats import format_named
from quantcore.numbers.granularity import PerBlock, PerChannel, PerGroup, PerTensor, PerToken
from quantcore.numbers.qtensor import qparams_for
from quantcore.numbers.spec import MinMax, QuantSpec
from quantcore.scheme.scheme import PRESETS

pytestmark = pytest.mark.parity
ct = pytest.importorskip("compressed_tensors.quantization", reason="compressed-tensors is not installed")

FORMATS = [*(f"int{bits}" for bits in range(2, 9)), "fp8_e4m3", "fp6_e2m3", "fp4_e2m1"]
CODED = ["NVFP4A16", "MXFP4A16", "MXFP6A16", "MXFP8A16"]
GRAINS = {"tensor": PerTensor(), "channel": PerChannel(), "group": PerGroup(32), "block": PerBlock(16, 32)}


def theirs(spec: QuantSpec, **more):
    """The same spec in compressed-tensors' words."""
    strategy = {PerTensor: "tensor", PerChannel: "channel", PerToken: "token", PerGroup: "group", PerBlock: "block"}
    grain = spec.granularity
    extra = {"group_size": grain.group_size} if isinstance(grain, PerGroup) else {}
    extra |= {"block_structure": [grain.rows, grain.cols]} if isinstance(grain, PerBlock) else {}
    extra |= {"float": {}, "e8m0": {"scale_dtype": torch.uint8}, "e4m3": {"scale_dtype": torch.float8_e4m3fn}}[
        spec.scales.name
    ]
    return ct.QuantizationArgs(
        num_bits=spec.fmt.bits,
        type="float" if spec.fmt.is_float else "int",
        strategy="tensor_group" if spec.scales.has_global else strategy[type(grain)],
        symmetric=spec.symmetric,
        dynamic="local" if spec.local else spec.dynamic,
        **extra,
        **more,
    )


def tile_bounds(x: Tensor, spec: QuantSpec) -> tuple[Tensor, Tensor]:
    rows, cols = spec.granularity.tile(x.shape)
    tiles = x.reshape(x.shape[0] // rows, rows, x.shape[1] // cols, cols)
    return tiles.amin((1, 3)), tiles.amax((1, 3))


@pytest.fixture
def weight() -> Tensor:
    weight = torch.randn(64, 128)
    weight[5, 9], weight[40] = 25.0, weight[40].abs()
    return weight


@pytest.mark.parametrize("symmetric", [True, False])
@pytest.mark.parametrize("grain", GRAINS)
@pytest.mark.parametrize("name", FORMATS)
def test_weights(name: str, grain: str, symmetric: bool, weight: Tensor) -> None:
    from compressed_tensors.quantization.lifecycle.forward import fake_quantize as their_fake_quantize
    from compressed_tensors.quantization.utils import calculate_qparams

    if format_named(name).is_float and not symmetric:
        with pytest.raises(ValueError, match="cannot be asymmetric"):
            QuantSpec(format_named(name), GRAINS[grain], symmetric)
        return
    spec = QuantSpec(format_named(name), GRAINS[grain], symmetric)
    lo, hi = tile_bounds(weight, spec)
    scale, zero_point = calculate_qparams(lo, hi, theirs(spec))
    ours = qparams_for(weight, spec)
    assert torch.equal(ours.scale, scale.reshape(ours.scale.shape))
    if ours.zero_point is not None:
        assert torch.equal(ours.zero_point, zero_point.float().reshape(ours.scale.shape))
    expected = their_fake_quantize(weight, scale, zero_point, theirs(spec))
    assert torch.equal(fake_quantize(weight, spec), expected)
    assert torch.equal(dequantize(quantize(weight, spec)), expected)


@pytest.mark.parametrize("symmetric", [True, False])
@pytest.mark.parametrize("grain", [PerToken(), PerTensor(), PerGroup(32)], ids=str)
@pytest.mark.parametrize("name", ["int4", "int8", "fp8_e4m3"])
def test_dynamic_activations(name: str, grain, symmetric: bool) -> None:
    from compressed_tensors.quantization.lifecycle.forward import fake_quantize as their_fake_quantize
    from compressed_tensors.quantization.utils import compute_dynamic_scales_and_zp

    if name == "fp8_e4m3" and not symmetric:
        return
    x = torch.randn(2, 7, 64)
    x[0, 0, 3] = 300.0
    spec = QuantSpec(format_named(name), grain, symmetric, dynamic=True)
    scale, zero_point = compute_dynamic_scales_and_zp(x, theirs(spec), torch.nn.Identity())
    assert torch.equal(fake_quantize(x, spec), their_fake_quantize(x, scale, zero_point, theirs(spec)))


@pytest.mark.parametrize("shape", [(1, 32), (3, 96), (7, 160), (64, 576)], ids=str)
@pytest.mark.parametrize("name", CODED)
def test_coded_scales_of_weights(name: str, shape: tuple[int, int]) -> None:
    from compressed_tensors.quantization.lifecycle.forward import fake_quantize as their_fake_quantize
    from compressed_tensors.quantization.quant_scheme import preset_name_to_scheme
    from compressed_tensors.quantization.utils import calculate_qparams, generate_gparam

    spec, args = PRESETS[name].weights, preset_name_to_scheme(name, ["Linear"]).weights
    for weight in loud_weights(shape):
        lo, hi = tile_bounds(weight, spec)
        whole = generate_gparam(weight.amin(), weight.amax()) if spec.scales.has_global else None
        scale, zero_point = calculate_qparams(lo, hi, args, global_scale=whole)
        expected = their_fake_quantize(weight, scale, zero_point, args, global_scale=whole)
        ours = qparams_for(weight, spec)
        zeros = (lo == hi) & (lo == 0) & (not spec.scales.has_global)
        assert torch.equal(ours.scale[~zeros], (scale if whole is None else scale / whole)[~zeros])
        assert (ours.global_scale is None) if whole is None else torch.equal(ours.global_scale, whole)
        assert torch.equal(fake_quantize(weight, spec), expected)
        assert torch.equal(dequantize(quantize(weight, spec)), expected)


def loud_weights(shape: tuple[int, int]) -> list[Tensor]:
    """Normal; with an outlier, zeros, a tile too quiet for any e4m3, ties; all tiny; all huge; no sign; zeros."""
    torch.manual_seed(0)
    weight = torch.randn(shape)
    loud = weight.clone()
    loud[0, 5], loud[-1, :16] = 300.0, 0.0
    loud[-1, 16:32] = 1e-6 * weight[-1, 16:32]
    if shape[0] > 1:
        loud[1, :32] = torch.arange(32) / 8 - 2
    return [weight, loud, 1e-5 * loud, 1e5 * loud, weight.abs(), torch.zeros(shape)]


@pytest.mark.parametrize("name", ["NVFP4", "MXFP4", "MXFP6A8", "MXFP8", "MXFP4XFP8"])
def test_coded_scales_of_activations(name: str) -> None:
    from compressed_tensors.quantization.lifecycle.forward import fake_quantize as their_fake_quantize
    from compressed_tensors.quantization.quant_scheme import preset_name_to_scheme
    from compressed_tensors.quantization.utils import compute_dynamic_scales_and_zp, generate_gparam

    spec, args = PRESETS[name].activations, preset_name_to_scheme(name, ["Linear"]).input_activations
    seen, x = torch.randn(2, 9, 256), torch.randn(2, 9, 256)
    x[0, 3, 7], x[1, 2] = 400.0, 0.0  # far beyond what was seen
    frozen = choose_qparams(seen.amin().view(1, 1), seen.amax().view(1, 1), spec) if spec.local else None
    whole = generate_gparam(seen.amin(), seen.amax()) if spec.local else None
    scale, zero_point = compute_dynamic_scales_and_zp(x, args, torch.nn.Identity(), global_scale=whole)
    expected = their_fake_quantize(x, scale, zero_point, args, global_scale=whole)
    assert torch.equal(fake_quantize(x, spec, frozen), expected)
    assert torch.equal(dequantize(quantize(x, spec, frozen)), expected)


def test_tie_with_odd_zero_point() -> None:
    from compressed_tensors.quantization.lifecycle.forward import fake_quantize as their_fake_quantize

    x = torch.tensor([[-1.0, 0.5, 1, 2]])  # int2: scale 1, zero point -1; 0.5 is a tie
    spec = QuantSpec(format_named("int2"), PerTensor(), symmetric=False)
    scale, zero_point, _ = choose_qparams(x.amin(), x.amax(), spec)
    assert (scale.item(), zero_point.item()) == (1.0, -1.0)
    assert fake_quantize(x, spec).tolist() == [[-1, 0, 1, 2]]
    assert their_fake_quantize(x, scale, zero_point, theirs(spec)).tolist() == [[-1, 1, 1, 2]]


def test_tile_of_zeros_differs_in_its_scale_only() -> None:
    from compressed_tensors.quantization.utils import calculate_qparams

    zero = torch.zeros(1)
    scale, _ = calculate_qparams(zero, zero, theirs(QuantSpec(format_named("int8"), PerTensor())))
    assert scale.item() == torch.finfo(torch.float32).eps
    q = quantize(torch.zeros(1, 4), QuantSpec(format_named("int8"), PerTensor()))
    assert q.scale.item() == 1.0
    assert q.q.tolist() == dequantize(q).tolist() == [[0, 0, 0, 0]]


@pytest.mark.parametrize("name", PRESETS)
def test_presets_mean_what_theirs_mean(name: str) -> None:
    from compressed_tensors.quantization.quant_scheme import preset_name_to_scheme

    preset = preset_name_to_scheme(name, ["Linear"])
    for spec, args in ((PRESETS[name].weights, preset.weights), (PRESETS[name].activations, preset.input_activations)):
        if spec is None:
            assert args is None
            continue
        spec = dataclasses.replace(spec, observer=MinMax())
        ignored = {"observer", "observer_kwargs", "zp_dtype"}
        assert args.model_dump(exclude=ignored) == theirs(spec).model_dump(exclude=ignored)
