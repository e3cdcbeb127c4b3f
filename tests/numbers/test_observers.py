"""Observers: percentiles and moving averages a reader can redo by hand, then the recorder against all values."""

import pickle

import pytest
import torch
from torch import Tensor

from quantcore.numbers import observers
from quantcore.numbers.affine import choose_qparams, round_trip
from quantcore.numbers.observers import HALF_BINS, SHRINK, RangeRecorder, tile_range
from quantcore.numbers.spec import QuantSpec
from quantcore.scheme.scheme import Scheme
from tests.specs import activations_spec, weights_spec


def batches_with_outliers(count: int = 20, size: int = 500) -> list[Tensor]:
    """Normal values; batch 7 holds a 60, batch 13 a -25."""
    batches = [torch.randn(size) for _ in range(count)]
    batches[7][3], batches[13][11] = 60.0, -25.0
    return batches


def squared_error(x: Tensor, lo: Tensor, hi: Tensor, spec: QuantSpec) -> float:
    return float((round_trip(x, choose_qparams(lo, hi, spec), spec.fmt) - x).square().sum())


class TestPercentileByHand:
    @pytest.mark.parametrize(
        ("count", "percent", "lo", "hi"),
        [
            (100, "99", 2, 99),  # 1% of 100 values is one value: the 1 and the 100 are left out
            (1000, "99.9", 2, 999),
            (10000, "99.99", 2, 9999),  # 1 - 0.9999 is a little less than 0.0001 in binary
            (1000, "99", 11, 990),
            (50, "99", 1, 50),  # half a value cannot be left out
            (1000, "100", 1, 1000),
        ],
    )
    @pytest.mark.parametrize("counted", [False, True])
    def test_leaves_its_share_out_at_either_end(
        self, count: int, percent: str, lo: float, hi: float, counted: bool
    ) -> None:
        values = (torch.randperm(count) + 1).float()
        counts = torch.ones(count) if counted else None
        found = tile_range(values[None], weights_spec(f"int8/tensor/p{percent}"), counts)
        assert [float(bound) for bound in found] == [lo, hi]

    def test_counts_weigh_the_values(self) -> None:
        values, counts = torch.tensor([[10.0, 0, 2, 1]]), torch.tensor([1.0, 97, 1, 1])
        lo, hi = tile_range(values, weights_spec("int8/tensor/p99"), counts)
        assert (float(lo), float(hi)) == (0, 2)  # of 100 values the one 10 lies beyond 2; below 0 there is none

    def test_every_tile_has_its_own(self) -> None:
        tiles = torch.stack([torch.arange(1.0, 101), torch.arange(1.0, 101) * -2])
        lo, hi = tile_range(tiles, weights_spec("int8/tensor/p98"))
        assert lo.tolist() == [[3], [-196]]
        assert hi.tolist() == [[98], [-6]]


class TestMse:
    def test_clips_an_outlier_that_minmax_keeps(self) -> None:
        x = torch.randn(1, 4096)
        x[0, 5] = 40.0
        int4 = weights_spec("int4/tensor/mse")
        lo, hi = tile_range(x, int4)
        all_lo, all_hi = tile_range(x, weights_spec("int4/tensor"))
        assert float(all_hi) == 40
        assert float(hi) < 20
        assert squared_error(x, lo, hi, int4) < 0.5 * squared_error(x, all_lo, all_hi, int4)

    @pytest.mark.parametrize("text", ["int4/tensor/mse", "int3/tensor/asym/mse", "fp8_e4m3/tensor/mse"])
    def test_is_the_best_of_its_shrink_factors(self, text: str) -> None:
        x = torch.randn(1, 1000)
        x[0, 5] = 15.0
        chosen = weights_spec(text)
        errors = [squared_error(x, x.amin() * shrink, x.amax() * shrink, chosen) for shrink in SHRINK]
        assert squared_error(x, *tile_range(x, chosen), chosen) == pytest.approx(min(errors))

    def test_a_range_whose_codes_fit_is_kept(self) -> None:
        x = torch.arange(-7.0, 8)[None]  # the 15 values of int4_narrow at scale 1: no error to trade for clipping
        lo, hi = tile_range(x, weights_spec("int4_narrow/tensor/mse"))
        assert (float(lo), float(hi)) == (-7, 7)

    def test_counts_stand_for_repeated_values(self) -> None:
        values, counts = torch.tensor([[-3.0, -1, 0.4, 1.3, 9]]), torch.tensor([5, 40, 100, 30, 1])
        repeated = values.repeat_interleave(counts, 1)
        int3 = weights_spec("int3/tensor/mse")
        assert tile_range(values, int3, counts) == tile_range(repeated, int3)


class TestMovingAverage:
    def test_by_hand(self) -> None:
        recorder = RangeRecorder((0.5, 0.25))
        half, quarter = activations_spec("int8/tensor/static/ema0.5"), activations_spec("int8/tensor/static/ema0.25")
        recorder.update(torch.tensor([0.0, 8]))  # the first batch is the start, whatever the momentum
        assert [float(bound) for bound in recorder.range(half)] == [0, 8]
        recorder.update(torch.tensor([-4.0, 2, 0]))  # lo: 0 + (-4 - 0) / 2 = -2, hi: 8 + (2 - 8) / 2 = 5
        assert [float(bound) for bound in recorder.range(half)] == [-2, 5]
        assert [float(bound) for bound in recorder.range(quarter)] == [-1, 6.5]
        recorder.update(torch.tensor([0.0, 1]))  # lo: -2 + 2 / 2 = -1, hi: 5 + (1 - 5) / 2 = 3
        assert [float(bound) for bound in recorder.range(half)] == [-1, 3]

    def test_momentum_1_knows_only_the_last_batch(self) -> None:
        recorder = RangeRecorder((1.0,))
        for batch in batches_with_outliers():
            recorder.update(batch)
            lo, hi = recorder.range(activations_spec("int8/tensor/static/ema1"))
            assert (float(lo), float(hi)) == (float(batch.min()), float(batch.max()))

    def test_a_rare_peak_fades_while_minmax_keeps_it(self) -> None:
        recorder = RangeRecorder((0.1,))
        for batch in batches_with_outliers():
            recorder.update(batch)
        assert float(recorder.range(activations_spec("int8/tensor/static"))[1]) == 60
        assert float(recorder.range(activations_spec("int8/tensor/static/ema0.1"))[1]) < 10


class TestRecorderAgainstAllValuesAtOnce:
    @pytest.mark.parametrize("observer", ["minmax", "p99", "p99.9", "p99.99", "mse"])
    @pytest.mark.parametrize("fmt", ["int4/tensor", "int4/tensor/asym", "fp4_e2m1/tensor"])
    def test_agree_within_a_bin(self, fmt: str, observer: str) -> None:
        batches = batches_with_outliers()
        recorder = RangeRecorder()
        for batch in batches:
            recorder.update(batch)
        once = tile_range(torch.cat(batches)[None], weights_spec(f"{fmt}/{observer}"))
        bin_width = recorder.reach / HALF_BINS
        for bound, expected in zip(recorder.range(weights_spec(f"{fmt}/{observer}")), once, strict=True):
            assert float(bound) == pytest.approx(float(expected), abs=0 if observer == "minmax" else bin_width)

    def test_batches_of_any_shape_and_order_are_the_same_stream(self) -> None:
        batches = batches_with_outliers()
        forward, back = RangeRecorder(), RangeRecorder()
        for batch in batches:
            forward.update(batch.reshape(5, 10, 10))
        for batch in reversed(batches):
            back.update(batch)
        assert forward.count == back.count == 10_000
        assert (forward.lo, forward.hi, forward.reach) == (back.lo, back.hi, back.reach)
        observed = activations_spec("int8/tensor/static/p99.9")
        assert forward.range(observed) == back.range(observed)

    def test_observing_changes_nothing(self) -> None:
        recorder, batch = RangeRecorder(), torch.randn(100)
        before = batch.clone()
        recorder.update(batch)
        bins = recorder.bins.clone()
        recorder.range(activations_spec("int8/tensor/static/mse"))
        assert torch.equal(batch, before)
        assert torch.equal(recorder.bins, bins)


class TestHistogram:
    def test_widening_keeps_counts_exactly(self) -> None:
        """Values at the centres of the last, widest bins (1024 / 16384 = 1/16 wide), so that no rounding moves one."""
        centres = (torch.tensor([4.0, -6, 0, -1, 16000, -9, 81, 81]) + 0.5) / 16
        recorder = RangeRecorder()
        for value in centres[[0, 1, 2, 3, 5, 6, 7, 4]]:  # reaches 0.5, then 8, then 1024
            recorder.update(value[None])
        once = RangeRecorder()
        once.update(centres)
        assert recorder.reach == once.reach == 1024
        assert torch.equal(recorder.bins, once.bins)
        assert {int(place) - HALF_BINS for place in recorder.bins.nonzero()} == {4, -6, 0, -1, 16000, -9, 81}
        assert recorder.bins[HALF_BINS + 81] == 2

    def test_no_value_is_lost_however_far_the_reach_jumps(self) -> None:
        recorder = RangeRecorder()
        for size in (1e-9, 1e-3, 1.0, 3e4, 1e30):
            recorder.update(torch.randn(1000) * size)
        assert recorder.bins.sum() == recorder.count == 5000
        assert recorder.reach >= max(-recorder.lo, recorder.hi) > recorder.reach / 2

    def test_large_batches_are_counted_in_parts(self, monkeypatch: pytest.MonkeyPatch) -> None:
        batch = torch.randn(1000)
        whole, parts = RangeRecorder(), RangeRecorder()
        whole.update(batch)
        monkeypatch.setattr(observers, "MOST_COUNTED", 7)
        parts.update(batch)
        assert torch.equal(whole.bins, parts.bins)

    def test_memory_does_not_grow(self) -> None:
        recorder = RangeRecorder((0.01, 0.1))
        recorder.update(torch.randn(10))
        size = len(pickle.dumps(recorder))
        for power in range(100):
            recorder.update(torch.randn(1000) * 1.3**power)
        assert len(pickle.dumps(recorder)) == pytest.approx(size, abs=16)  # a count takes a byte or two more

    def test_zeros_are_a_range_of_zeros(self) -> None:
        recorder = RangeRecorder()
        recorder.update(torch.zeros(5))
        for observer in ("minmax", "p99.9", "mse", "ema0.01"):
            bounds = recorder.range(activations_spec(f"int8/tensor/static/{observer}"))
            assert [float(bound) for bound in bounds] == [0, 0]


class TestRefused:
    @pytest.mark.parametrize("bad", [float("nan"), float("inf"), float("-inf")])
    def test_nan_and_inf(self, bad: float) -> None:
        recorder = RangeRecorder()
        recorder.update(torch.ones(3))
        with pytest.raises(ValueError, match="the activations hold NaN or Inf .* weights are damaged"):
            recorder.update(torch.tensor([1.0, bad, 2.0]))
        assert (recorder.count, recorder.hi, float(recorder.bins.sum())) == (3, 1.0, 3.0)

    def test_an_empty_batch(self) -> None:
        with pytest.raises(ValueError, match="an empty batch has no range; give at least one token"):
            RangeRecorder().update(torch.empty(0, 8))

    @pytest.mark.parametrize("observer", ["minmax", "ema0.01", "p99.9", "mse"])
    def test_a_range_before_the_first_batch(self, observer: str) -> None:
        with pytest.raises(ValueError, match="no batch was observed, so there is no range; calibrate over some text"):
            RangeRecorder().range(activations_spec(f"int8/tensor/static/{observer}"))

    def test_a_momentum_that_was_not_recorded(self) -> None:
        recorder = RangeRecorder((0.01,))
        recorder.update(torch.ones(3))
        with pytest.raises(ValueError, match=r"momentum 0\.2 was not recorded; calibrate with momenta=\(0\.2,\)"):
            recorder.range(activations_spec("int8/tensor/static/ema0.2"))


@pytest.mark.parametrize("percent", [50.1, 75, 90, 99, 99.7, 99.9, 99.99, 100])
@pytest.mark.parametrize("count", [1, 2, 7, 100, 1000, 4096])
def test_equal_counts_are_no_counts(count: int, percent: float) -> None:
    spec = Scheme.parse(f"w:int8/tensor/p{percent}").weights
    assert spec is not None
    tiles = torch.randn(3, count)
    for fast, weighted in zip(tile_range(tiles, spec), tile_range(tiles, spec, torch.ones(count)), strict=True):
        assert torch.equal(fast, weighted)
