"""Quantizing: values a reader can redo by hand, then laws that hold for every format and granularity."""

import dataclasses
import itertools

import pytest
import torch
from torch import Tensor

from quantcore import QTensor, dequantize, fake_quantize, quantize
from quantcore.matmul.layers import QuantLinear
from quantcore.numbers.affine import QParams, choose_qparams
from quantcore.numbers.distance import tensor_error
from quantcore.numbers.formats import FORMATS, FP8_E4M3, format_named, int_format
from quantcore.numbers.granularity import PerBlock, PerChannel, PerGroup, PerTensor, PerToken
from quantcore.numbers.packing import pack, unpack
from quantcore.numbers.spec import Mse, QuantSpec
from tests.specs import weights_spec

GRAINS = [PerTensor(), PerChannel(), PerGroup(16), PerBlock(4, 32)]


@pytest.fixture
def outlier_weight() -> Tensor:
    torch.manual_seed(0)
    weight = torch.randn(8, 64)
    weight[3, 17] = 20.0
    return weight


class TestByHand:
    def test_symmetric_narrow_int4_keeps_whole_numbers(self) -> None:
        q = quantize(torch.tensor([[0.0, 1, 2, 7]]), weights_spec("int4_narrow/tensor"))  # 7 / 7 = 1
        assert q.scale.item() == 1.0
        assert q.q.tolist() == [[0, 1, 2, 7]]

    def test_symmetric_int4_divides_by_seven_and_a_half(self) -> None:
        # scale 1; 7.5 -> clamp(8) = 7
        q = quantize(torch.tensor([[7.5, -7.5, 1.4, -0.6]]), weights_spec("int4/tensor"))
        assert q.scale.item() == 1.0
        assert q.q.tolist() == [[7, -8, 1, -1]]

    def test_asymmetric_int2_is_exact_on_four_steps(self) -> None:
        x = torch.tensor([[-1.0, 0, 1, 2]])  # scale (2+1)/3 = 1, zero point round(-2 + 1) = -1
        q = quantize(x, weights_spec("int2/tensor/asym"))
        assert q.scale.item() == 1.0
        assert q.zero_point is not None
        assert q.zero_point.item() == -1
        assert q.q.tolist() == [[-2, -1, 0, 1]]
        assert torch.equal(dequantize(q), x)

    def test_groups_have_their_own_scale(self) -> None:
        q = quantize(torch.tensor([[1.0, 7, 2, 14]]), weights_spec("int4_narrow/group2"))
        assert q.scale.tolist() == [[1, 2]]
        assert q.q.tolist() == [[1, 7, 1, 7]]

    def test_blocks_have_their_own_scale(self) -> None:
        x = torch.tensor([[7.0, 1, 70, 10], [2, 3, 20, 30], [0.7, 0.1, 0, 0], [0.2, 0.3, 0, 0]])
        q = quantize(x, weights_spec("int4_narrow/block2x2"))
        assert torch.allclose(q.scale, torch.tensor([[1.0, 10], [0.1, 1]]))  # the block of zeros gets 1
        assert q.q.tolist() == [[7, 1, 7, 1], [2, 3, 2, 3], [7, 1, 0, 0], [2, 3, 0, 0]]

    def test_ties_go_to_even(self) -> None:
        q = quantize(torch.tensor([[0.5, 1.5, 2.5, -0.5, 7]]), weights_spec("int4_narrow/tensor"))
        assert q.q.tolist() == [[0, 2, 2, 0, 7]]

    def test_zero_point_is_added_after_rounding(self) -> None:
        # scale 1, zero point -1 (odd), x = 0.5: round(0.5) - 1 = -1, while round(0.5 - 1) = round(-0.5) = 0
        q = quantize(torch.tensor([[-1.0, 0.5, 1, 2]]), weights_spec("int2/tensor/asym"))
        assert q.q.tolist() == [[-2, -1, 0, 1]]

    def test_fp8_scale_is_absmax_over_448(self) -> None:
        q = quantize(torch.tensor([[896.0, 2.0, -1.0]]), weights_spec("fp8_e4m3/tensor"))
        assert q.scale.item() == 2.0
        assert q.q.dtype == torch.float8_e4m3fn
        assert q.q.float().tolist() == [[448, 1, -0.5]]

    def test_fp4_by_hand(self) -> None:
        # scale 2: 6, 2.5, -0.55, 0.2
        q = quantize(torch.tensor([[12.0, 5.0, -1.1, 0.4]]), weights_spec("fp4_e2m1/tensor"))
        assert dequantize(q).tolist() == [[12, 4, -1, 0]]

    def test_activation_scales_per_token(self) -> None:
        x = torch.tensor([[[1.0, 7], [70, 10]], [[0.7, 0.7], [0, 0]]])
        q = quantize(x, QuantSpec(int_format(4, narrow_range=True), PerToken(), dynamic=True))
        assert torch.allclose(q.scale[..., 0], torch.tensor([[1.0, 10], [0.1, 1]]))

    def test_a_frozen_scale_clips_what_is_larger(self) -> None:
        frozen = QParams(torch.tensor([[1.0]]), None)
        assert fake_quantize(torch.tensor([[[100.0, 3.2, -100]]]), weights_spec("int4/tensor"), frozen).tolist() == [
            [[7, 3, -8]]
        ]


class TestLaws:
    @pytest.mark.parametrize("grain", GRAINS, ids=str)
    @pytest.mark.parametrize(
        "text", [*FORMATS, *(f"{name}/asym" for name, f in FORMATS.items() if not f.is_float and "_" not in name)]
    )
    def test_round_trip(self, text: str, grain, outlier_weight: Tensor) -> None:
        fmt = format_named(text.removesuffix("/asym"))
        s = QuantSpec(fmt, grain, symmetric=not text.endswith("/asym"))
        q = quantize(outlier_weight, s)
        once = dequantize(q)
        assert torch.equal(fake_quantize(outlier_weight, s), once)
        assert torch.equal(fake_quantize(once, s, q.qparams), once), "quantizing twice with one scale changes nothing"
        inside = (q.q.float() > fmt.qmin) & (q.q.float() < fmt.qmax)
        if not fmt.is_float:
            steps = (once - outlier_weight).abs() / q.scale.repeat_interleave(
                outlier_weight.shape[0] // q.scale.shape[0], 0
            ).repeat_interleave(outlier_weight.shape[1] // q.scale.shape[1], 1)
            assert (steps[inside] <= 0.5 + 1e-5).all(), "unclipped values are off by half a step at most"

    def test_the_caller_keeps_its_tensor(self, outlier_weight: Tensor) -> None:
        before = outlier_weight.clone()
        for fmt, grain in itertools.product(FORMATS.values(), GRAINS):
            quantize(outlier_weight, QuantSpec(fmt, grain))
            fake_quantize(outlier_weight, QuantSpec(fmt, grain, observer=Mse()))
        assert torch.equal(outlier_weight, before)

    def test_finer_granularity_loses_less(self, outlier_weight: Tensor) -> None:
        mse = [
            tensor_error(outlier_weight, fake_quantize(outlier_weight, QuantSpec(int_format(4), grain))).mse
            for grain in (PerTensor(), PerChannel(), PerGroup(16))
        ]
        assert mse[0] > 3 * mse[1] > 6 * mse[2]

    @pytest.mark.parametrize(("bits", "expected_db"), [(8, 48.1), (4, 22.9)])
    def test_uniform_data_has_the_sqnr_of_theory(self, bits: int, expected_db: float) -> None:
        # step d = 1/(2 qmax) of the width: error variance d^2/12 against signal 1/12: 20 log10(2 qmax) dB
        torch.manual_seed(0)
        x = torch.rand(1, 200_000) * 2 - 1
        x_hat = fake_quantize(x, QuantSpec(int_format(bits, narrow_range=True), PerTensor()))
        assert tensor_error(x, x_hat).sqnr_db == pytest.approx(expected_db, abs=0.1)

    @pytest.mark.parametrize("grain", GRAINS, ids=str)
    def test_each_tile_is_on_its_own(self, grain, outlier_weight: Tensor) -> None:
        s = QuantSpec(int_format(4), grain, symmetric=False)
        tile = grain.tile(outlier_weight.shape)
        whole = quantize(outlier_weight, s)
        part = quantize(outlier_weight[: tile[0], : tile[1]], QuantSpec(int_format(4), PerTensor(), symmetric=False))
        assert torch.equal(whole.q[: tile[0], : tile[1]], part.q)
        assert whole.scale[0, 0] == part.scale[0, 0]

    def test_asymmetric_wins_on_one_sided_data(self) -> None:
        torch.manual_seed(0)
        x = torch.rand(4, 64) + 0.5
        errors = [tensor_error(x, fake_quantize(x, weights_spec(f"int4/channel{tail}"))).mse for tail in ("", "/asym")]
        assert errors[1] < errors[0] / 2

    @pytest.mark.parametrize("fmt", ["int4", "int8", "fp8_e4m3", "fp4_e2m1"])
    def test_mse_observer_is_never_worse_than_minmax(self, fmt: str, outlier_weight: Tensor) -> None:
        plain = tensor_error(outlier_weight, fake_quantize(outlier_weight, weights_spec(f"{fmt}/tensor"))).mse
        searched = tensor_error(outlier_weight, fake_quantize(outlier_weight, weights_spec(f"{fmt}/tensor/mse"))).mse
        assert searched <= plain
        if fmt == "int4":
            assert searched < plain * 0.7, "with one outlier of 20 among 512 normal values, clipping pays"

    def test_dtype_of_the_caller_comes_back(self) -> None:
        for dtype in (torch.bfloat16, torch.float16, torch.float64):
            assert fake_quantize(torch.ones(2, 32, dtype=dtype), weights_spec("int4/group16")).dtype == dtype

    def test_tiny_and_huge_ranges_stay_finite(self) -> None:
        for size in (1e-38, 1e-30, 1e30, 3e38):
            for fmt in ("int4", "fp8_e5m2", "fp4_e2m1"):
                x = torch.tensor([[size, -size, 0.0, size / 2]])
                assert torch.isfinite(fake_quantize(x, weights_spec(f"{fmt}/tensor"))).all()
            assert torch.isfinite(fake_quantize(torch.tensor([[size, -size]]), weights_spec("int8/tensor/asym"))).all()


class TestCost:
    def test_bits_per_weight_by_hand(self) -> None:
        q = quantize(torch.randn(8, 64), weights_spec("int4/group16"))
        assert q.bits_per_weight == 4 + 16 / 16
        assert q.held_bytes == 8 * 64 // 2 + 4 * 8 * 4  # two codes a byte, 32 float32 scales
        q = quantize(torch.randn(8, 64), weights_spec("int4/group16/asym"))
        assert q.bits_per_weight == 4 + (16 + 4) / 16
        assert q.held_bytes == 8 * 64 // 2 + 4 * 8 * 4 + 32

    @pytest.mark.parametrize("bits", range(2, 9))
    @pytest.mark.parametrize("length", [1, 2, 3, 7, 64])
    def test_packing_comes_back(self, bits: int, length: int) -> None:
        codes = torch.randint(-(2 ** (bits - 1)), 2 ** (bits - 1), (5, length), dtype=torch.int8)
        packed = pack(codes, bits)
        per_byte = {2: 4, 3: 2, 4: 2}.get(bits, 1)
        assert packed.shape == (5, -(-length // per_byte))
        assert torch.equal(unpack(packed, bits, length), codes)

    def test_first_code_sits_in_the_low_bits(self) -> None:
        assert pack(torch.tensor([[1, -1]], dtype=torch.int8), 4).tolist() == [[0xF1]]


class TestRefusals:
    @pytest.mark.parametrize("bad", [float("nan"), float("inf"), -float("inf")])
    def test_nan_and_inf(self, bad: float) -> None:
        x = torch.ones(2, 32)
        x[1, 3] = bad
        with pytest.raises(ValueError, match="the values to quantize hold NaN or Inf .*; repair the tensor, or leave"):
            quantize(x, weights_spec("int4/group16"))

    def test_swapped_range(self) -> None:
        with pytest.raises(ValueError, match=r"a range has lo > hi \(largest lo - hi is 2\); swap them"):
            choose_qparams(torch.tensor([1.0]), torch.tensor([-1.0]), weights_spec("int8/tensor"))

    def test_nothing_to_quantize(self) -> None:
        with pytest.raises(ValueError, match=r"a tensor of shape \(0, 4\) has nothing to quantize"):
            quantize(torch.empty(0, 4), weights_spec("int4/tensor"))

    def test_a_qtensor_checks_itself_at_birth(self) -> None:
        good = quantize(torch.randn(4, 32), weights_spec("int4/group16"))
        cases = {
            "int4 codes are stored as torch.int8, got torch.int32": {"q": good.q.int()},
            r"per group16 need scales of shape \(4, 2\), got \(4, 1\)": {"scale": good.scale[:, :1]},
            "a symmetric tensor has no zero point": {"zero_point": torch.zeros(4, 2)},
        }
        for message, change in cases.items():
            with pytest.raises(ValueError, match=message):
                dataclasses.replace(good, **change)
        asymmetric = quantize(torch.randn(4, 32), weights_spec("int4/group16/asym"))
        with pytest.raises(ValueError, match=r"zero points of shape \(4, 1\) do not match scales \(4, 2\)"):
            dataclasses.replace(asymmetric, zero_point=torch.zeros(4, 1))

    def test_public_names(self) -> None:
        assert isinstance(quantize(torch.ones(1, 1), weights_spec("fp8_e5m2/tensor")), QTensor)
        assert FP8_E4M3 == format_named("fp8_e4m3")


@pytest.mark.parametrize("text", ["int4/group16", "int4/group16/asym", "int4/block4x16"])
def test_g_idx_gathers_the_scale_of_each_column(text: str) -> None:
    """Columns in another order, quantized in groups of that order, and put back: the same numbers, column by column."""
    scheme = weights_spec(text)
    w = torch.randn(8, 64)
    order = torch.randperm(64)
    sorted_q = quantize(w[:, order], scheme)
    back = torch.argsort(order)
    scattered = QTensor(sorted_q.q[:, back], sorted_q.scale, sorted_q.zero_point, scheme, (back // 16).int())
    assert torch.equal(dequantize(scattered), dequantize(sorted_q)[:, back])
    assert scattered.held_bytes == sorted_q.held_bytes + 4 * 64
    assert scattered.bits_per_weight == pytest.approx(sorted_q.bits_per_weight + 32 / 8)
    x = torch.randn(3, 64)
    assert torch.allclose(QuantLinear(scattered, None)(x), x @ dequantize(scattered).T, atol=1e-5)


def test_g_idx_must_fill_every_group() -> None:
    whole = quantize(torch.randn(2, 32), weights_spec("int4/group16"))
    with pytest.raises(ValueError, match="must put 16 of the 32 columns in each of 2 groups"):
        QTensor(whole.q, whole.scale, None, whole.spec, torch.zeros(32, dtype=torch.int32))
