"""Static against dynamic: the steps of a calibration, the trails of the observers, laws of the errors, the timing."""

import threading
import time
from collections.abc import Callable

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from quantcore import fake_quantize
from quantcore.matmul.layers import QuantLinear
from quantcore.model.inputs import watch_inputs
from quantcore.model.loading import LoadedModel
from quantcore.numbers.affine import choose_qparams
from quantcore.numbers.distance import tensor_error
from quantcore.numbers.observers import RangeRecorder
from quantcore.numbers.spec import MovingAverage, Mse, QuantSpec
from quantcore.pipeline.calibration import layer_inputs
from quantcore.scheme.scheme import Scheme
from quantcore.studies.dynamic_cost import LEAST_ROUNDS, TOKEN_COUNTS, measure_cost, timed_rounds
from quantcore.studies.ranges import (
    MOST_STEPS,
    STEP_TOKENS,
    RangeStudy,
    Trail,
    Watched,
    call_by_call,
    clipping,
    covered,
    observe,
    observer_name,
    range_study,
    unfrozen,
    watch,
)
from quantcore.text.windows import token_windows
from tests.specs import activations_spec

LAYER = "model.layers.1.mlp.down_proj"
OBSERVERS = ("minmax", "ema0.3", "p99", "mse")
TEXT = "The keeper lit the lamp. for row in rows: print(row) Where did you put the key? " * 60


def static(observer: str, fmt: str = "int8/tensor") -> QuantSpec:
    return activations_spec(f"{fmt}/static/{observer}")


@pytest.fixture
def x() -> Tensor:
    """100 tokens of 64 channels; token 17 is a giant, channel 5 is loud."""
    x = torch.randn(100, 64)
    x[:, 5] *= 6
    x[17, 3] = 200.0
    return x


@pytest.fixture
def weight() -> Tensor:
    return torch.randn(48, 64)


@pytest.fixture
def tokens(tiny_lm: LoadedModel) -> Tensor:
    return token_windows(tiny_lm.tokenizer, TEXT, 96, 7 * 96)


@pytest.fixture
def watched(x: Tensor) -> Watched:
    """Four steps of 25 tokens of x; the giant is in the first."""
    recorder, after = RangeRecorder(()), {}
    steps = x.split(25)
    for number, step in enumerate(steps, 1):
        recorder.update(step)
        after[number] = RangeRecorder(())
        after[number].__dict__.update(recorder.__dict__, bins=recorder.bins.clone())
    return Watched(torch.stack([s.min() for s in steps]), torch.stack([s.max() for s in steps]), after)


def study_of(watched: Watched, x: Tensor, weight: Tensor, fmt: str = "int8/tensor", call: int = 10) -> RangeStudy:
    trails = [observe(watched, static(one, fmt)) for one in OBSERVERS]
    return range_study(watched, trails, x, weight, unfrozen(x, weight, trails[-1].spec, call))


class TestWatch:
    def test_steps_are_runs_of_tokens_of_one_window(self, tiny_lm: LoadedModel, tokens: Tensor) -> None:
        seen = watch(tiny_lm.model, tokens, LAYER)
        x = layer_inputs(tiny_lm.model, tokens, LAYER)  # (7 windows, 96 tokens, 128)
        steps = x.reshape(7 * 3, STEP_TOKENS, -1)
        assert torch.allclose(seen.step_lo, steps.amin((1, 2)))
        assert torch.allclose(seen.step_hi, steps.amax((1, 2)))
        assert list(seen.after) == [1, 2, 4, 8, 12, 16, 20, 21]

    def test_snapshots_hold_what_had_been_seen_by_then(self, tiny_lm: LoadedModel, tokens: Tensor) -> None:
        seen = watch(tiny_lm.model, tokens, LAYER)
        for steps, recorder in seen.after.items():
            assert recorder.count == recorder.bins.sum() == steps * STEP_TOKENS * 128
            assert recorder.lo == pytest.approx(float(seen.step_lo[:steps].min()))
            assert recorder.hi == pytest.approx(float(seen.step_hi[:steps].max()))

    def test_abreast_takes_a_step_of_each_window_in_turn(self, tiny_lm: LoadedModel, tokens: Tensor) -> None:
        x = layer_inputs(tiny_lm.model, tokens[:6], LAYER)
        order = [
            x[window, start : start + STEP_TOKENS]
            for group in (range(3), range(3, 6))
            for start in (0, 32, 64)
            for window in group
        ]
        seen = watch(tiny_lm.model, tokens[:6], LAYER, abreast=3)
        assert torch.allclose(seen.step_hi, torch.stack([step.max() for step in order]), atol=1e-5)

    def test_stops_in_time(self, tiny_lm: LoadedModel) -> None:
        seen = watch(tiny_lm.model, token_windows(tiny_lm.tokenizer, TEXT, 256), LAYER)
        assert len(seen.step_lo) == MOST_STEPS == max(seen.after)
        assert seen.after[MOST_STEPS].count == MOST_STEPS * STEP_TOKENS * 128

    def test_stops_in_time_with_windows_abreast(self, tiny_lm: LoadedModel) -> None:
        seen = watch(tiny_lm.model, token_windows(tiny_lm.tokenizer, TEXT, 256)[:9], LAYER, abreast=3)  # 72 steps
        assert len(seen.step_hi) == MOST_STEPS == max(seen.after)

    def test_a_short_text_is_one_short_step(self, tiny_lm: LoadedModel) -> None:
        seen = watch(tiny_lm.model, token_windows(tiny_lm.tokenizer, "A key.", 96), LAYER)
        assert list(seen.after) == [1]

    def test_unknown_layer_is_refused(self, tiny_lm: LoadedModel, tokens: Tensor) -> None:
        with pytest.raises(ValueError, match="no Linear layer is called 'nowhere'"):
            watch(tiny_lm.model, tokens, "nowhere")


class TestSharedModel:
    """Many visitors run one model: what one of them watches must neither see nor stop another's forward pass."""

    def test_another_threads_forward_pass_is_not_seen(self, tiny_lm: LoadedModel, tokens: Tensor) -> None:
        def run() -> None:
            with torch.inference_mode():
                finished.append(tiny_lm.model(tokens[:1], use_cache=False).logits.shape)

        seen: list[str] = []
        finished: list[torch.Size] = []
        with watch_inputs(tiny_lm.model, [LAYER], lambda name, _: seen.append(name)):
            other = threading.Thread(target=run)
            other.start()
            other.join()
            assert seen == []
            run()
        assert seen == [LAYER]
        assert len(finished) == 2

    def test_layer_inputs_runs_no_further_than_the_layer(self, tiny_lm: LoadedModel, tokens: Tensor) -> None:
        early, late = "model.layers.0.mlp.down_proj", "model.layers.1.mlp.down_proj"
        whole: list[Tensor] = []
        with watch_inputs(tiny_lm.model, [early], lambda _, x: whole.append(x)), torch.inference_mode():
            tiny_lm.model(tokens, use_cache=False)
        reached: list[str] = []
        with watch_inputs(tiny_lm.model, [late], lambda name, _: reached.append(name)):
            x = layer_inputs(tiny_lm.model, tokens, early)
        assert torch.equal(x, whole[0])
        assert reached == []


class TestTrails:
    def test_minmax_only_widens(self, watched: Watched) -> None:
        trail = observe(watched, static("minmax"))
        assert trail.steps == (1, 2, 3, 4)
        assert trail.hi == tuple(float(watched.step_hi[: n + 1].max()) for n in range(4))
        assert trail.lo == tuple(float(watched.step_lo[: n + 1].min()) for n in range(4))

    def test_moving_average_by_hand(self) -> None:
        recorder = RangeRecorder(())
        recorder.update(torch.tensor([-8.0, 100]))
        seen = Watched(torch.tensor([-4.0, 0, -8]), torch.tensor([100.0, 20, 10]), {3: recorder})
        trail = observe(seen, static("ema0.5"))  # hi: 100, 60, 35; lo: -4, -2, -5
        assert (trail.lo, trail.hi) == ((-4, -2, -5), (100, 60, 35))

    @pytest.mark.parametrize("observer", ["p99", "mse"])
    def test_histogram_observers_agree_with_a_recorder_of_that_many_steps(
        self, x: Tensor, watched: Watched, observer: str
    ) -> None:
        trail = observe(watched, static(observer))
        for count, lo, hi in zip(trail.steps, trail.lo, trail.hi, strict=True):
            recorder = RangeRecorder()
            for step in x.split(25)[:count]:
                recorder.update(step)
            assert (lo, hi) == tuple(float(bound) for bound in recorder.range(static(observer)))

    def test_all_end_at_the_same_step(self, tiny_lm: LoadedModel, tokens: Tensor) -> None:
        seen = watch(tiny_lm.model, tokens, LAYER)  # 21 steps
        for steps, last, doublings in (
            (12, 12, (1, 2, 4, 8, 12)),
            (15, 12, (1, 2, 4, 8, 12)),
            (64, 21, (1, 2, 4, 8, 16, 21)),
        ):
            trails = [observe(seen, static(one), steps) for one in OBSERVERS]
            assert [trail.steps[-1] for trail in trails] == [last] * 4
            assert trails[0].steps == tuple(range(1, last + 1))
            assert trails[2].steps == trails[3].steps == doublings
            assert trails[0].frozen == (float(seen.step_lo[:last].min()), float(seen.step_hi[:last].max()))
            assert all(len(trail.steps) == len(trail.lo) == len(trail.hi) for trail in trails)
            assert trails[2].frozen == (trails[2].lo[-1], trails[2].hi[-1])
            assert trails[3].frozen == tuple(float(one) for one in seen.after[last].range(static("mse")))

    def test_no_steps_are_refused(self, watched: Watched) -> None:
        with pytest.raises(ValueError, match="0 steps record no range; calibrate over one step or more"):
            observe(watched, static("mse"), 0)

    def test_names_are_words(self) -> None:
        names = [observer_name(static(one).observer) for one in ("minmax", "ema0.01", "p99.99", "mse")]
        assert names == ["min-max", "moving average 0.01", "percentile 99.99", "least squared error"]
        assert observer_name(MovingAverage(0.5)) != observer_name(Mse())


class TestClipping:
    def test_covered_by_hand(self) -> None:
        assert covered(-2, 5, symmetric=True) == (-5, 5)
        assert covered(-2, 5, symmetric=False) == (-2, 5)
        assert covered(1, 5, symmetric=False) == (0, 5)  # every range holds 0
        assert covered(-7, -3, symmetric=True) == (-7, 7)

    def test_shares_by_hand(self) -> None:
        texts = {"a": torch.tensor([[1.0, 2], [-3, 6], [4, 0], [9, 9]]), "b": torch.tensor([[0.0, 1]])}
        trails = [Trail(static("minmax", fmt), (1,), (-2,), (5,)) for fmt in ("int8/tensor", "int8/tensor/asym")]
        symmetric_a, symmetric_b, asymmetric_a, _ = clipping(trails, texts)
        assert (symmetric_a.clipped, symmetric_a.touched) == (3 / 8, 2 / 4)  # 6, 9, 9
        assert (asymmetric_a.clipped, asymmetric_a.touched) == (4 / 8, 2 / 4)  # and -3, in a token touched anyway
        assert (symmetric_b.name, symmetric_b.text, symmetric_b.clipped, symmetric_b.touched) == ("min-max", "b", 0, 0)


class TestRangeStudy:
    @pytest.mark.parametrize("fmt", ["int8/tensor", "int4/tensor/asym", "fp8_e4m3/tensor"])
    def test_rows_are_what_the_engine_makes(self, watched: Watched, x: Tensor, weight: Tensor, fmt: str) -> None:
        study = study_of(watched, x, weight, fmt)
        for row, observer in zip(study.static, OBSERVERS, strict=True):
            chosen = static(observer, fmt)
            lo, hi = observe(watched, chosen).frozen
            qparams = choose_qparams(torch.tensor([[lo]]), torch.tensor([[hi]]), chosen)
            layer = QuantLinear(None, None, chosen, qparams, float_weight=weight)
            expected = tensor_error(F.linear(x, weight), layer(x))
            assert row.output_sqnr_db == pytest.approx(expected.sqnr_db, abs=1e-3)
            assert row.input_sqnr_db == pytest.approx(
                tensor_error(x, fake_quantize(x, chosen, qparams)).sqnr_db, abs=1e-3
            )
            assert row.scale == pytest.approx(float(qparams.scale))
            assert Scheme.parse(row.scheme).activations == chosen

    def test_the_range_of_all_tokens_clips_none_and_the_others_some(
        self, watched: Watched, x: Tensor, weight: Tensor
    ) -> None:
        minmax, average, percentile, _ = study_of(watched, x, weight).static
        assert (minmax.clipped, minmax.touched) == (0, 0)
        assert average.touched == pytest.approx(1 / 100)  # the giant, long ago
        assert percentile.clipped == pytest.approx(0.02, abs=0.005)  # 1% at either end, and the ends are alike

    def test_calls_of_one_token_are_per_token_and_one_call_is_hindsight(
        self, watched: Watched, x: Tensor, weight: Tensor
    ) -> None:
        alone = study_of(watched, x, weight, call=1)
        together = study_of(watched, x, weight, call=1000)
        assert alone.others.tensor.output_sqnr_db == pytest.approx(alone.others.token.output_sqnr_db)
        assert together.others.tensor.output_sqnr_db == pytest.approx(together.others.hindsight.output_sqnr_db)
        assert together.others.token == alone.others.token

    def test_a_giant_token_spoils_what_shares_a_range_with_it(
        self, watched: Watched, x: Tensor, weight: Tensor
    ) -> None:
        study = study_of(watched, x, weight)
        assert study.others.token.token_sqnr_db > study.static[0].token_sqnr_db + 12
        assert study.others.tensor.token_sqnr_db > study.static[0].token_sqnr_db + 6  # nine calls in ten are without it
        assert (
            study.others.token.output_sqnr_db
            > study.others.tensor.output_sqnr_db
            > study.others.hindsight.output_sqnr_db - 1
        )

    def test_the_median_token_is_a_median(self, watched: Watched, x: Tensor, weight: Tensor) -> None:
        study = study_of(watched, x, weight)
        x_hat = fake_quantize(x, activations_spec("int8/token/dynamic"))
        each = sorted(tensor_error(row @ weight.T, hat @ weight.T).sqnr_db for row, hat in zip(x, x_hat, strict=True))
        assert study.others.token.token_sqnr_db == pytest.approx(each[49], abs=1e-3)  # torch's median: the lower of two

    def test_a_dynamic_range_is_never_frozen(self, watched: Watched, x: Tensor, weight: Tensor) -> None:
        for row in study_of(watched, x, weight).others[1:]:
            assert (row.way, row.lo, row.hi, row.scale, row.clipped, row.touched) == ("dynamic", None, None, None, 0, 0)

    def test_reach_is_what_a_token_needs(self, watched: Watched, x: Tensor, weight: Tensor) -> None:
        study = study_of(watched, x, weight)
        assert torch.equal(study.reach, x.abs().amax(1))
        assert int(study.reach.argmax()) == 17
        assert study.tokens == 100

    def test_nothing_given_is_changed(self, watched: Watched, x: Tensor, weight: Tensor) -> None:
        before = x.clone(), weight.clone()
        study_of(watched, x, weight)
        assert torch.equal(x, before[0])
        assert torch.equal(weight, before[1])

    def test_trails_of_two_formats_are_refused(self, watched: Watched, x: Tensor, weight: Tensor) -> None:
        trails = [observe(watched, static("minmax", fmt)) for fmt in ("int8/tensor", "int4/tensor")]
        with pytest.raises(ValueError, match="the 2 trails must share one number format"):
            range_study(watched, trails, x, weight, unfrozen(x, weight, trails[0].spec))

    def test_the_rest_after_whole_calls_has_its_own_range(self) -> None:
        x = torch.tensor([[1.0], [10.0], [100.0], [3.0], [0.5]])  # calls of two: 1 and 10, 100 and 3, 0.5 alone
        narrow = activations_spec("int2_narrow/tensor/dynamic")  # codes -1, 0, 1
        assert call_by_call(x, narrow, 2).flatten().tolist() == [0, 10, 100, 0, 0.5]


class TestCost:
    def test_every_token_count_is_measured(self, x: Tensor, weight: Tensor) -> None:
        cost = measure_cost(weight, x, static("minmax"), seconds=0.001)
        assert [row.tokens for row in cost.rows] == list(TOKEN_COUNTS)
        assert (cost.shape, cost.dtype) == ((48, 64), "float32")
        for row in cost.rows:
            assert row.rounds >= LEAST_ROUNDS
            assert row.unrest >= 1
            assert min(row.static_ms, row.tensor_ms, row.token_ms, row.product_ms) > 0
            assert row.token_extra_ms == pytest.approx(row.token_ms - row.static_ms)
            assert row.tensor_extra_ms == pytest.approx(row.tensor_ms - row.static_ms)

    @pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device on this machine")
    def test_on_a_gpu_the_clock_waits_for_the_work(self, x: Tensor, weight: Tensor) -> None:
        big = torch.randn(8192, 8192, device="cuda", dtype=torch.bfloat16)
        times = [slow for (slow,) in timed_rounds([lambda: big @ big], big.device, seconds=0)]
        assert min(times) > 2 * 8192**3 / 2e15  # no GPU of today does 2 PFLOP/s in bf16
        assert "cpu" not in measure_cost(weight.cuda(), x, static("minmax"), seconds=0).device.lower()

    def test_a_slow_way_is_seen_to_be_slow_and_each_way_runs_twice_a_round(self) -> None:
        calls = [0, 0]

        def way(which: int, seconds: float) -> Callable[[], None]:
            def run() -> None:
                calls[which] += 1
                time.sleep(seconds)

            return run

        rounds = timed_rounds([way(0, 0), way(1, 0.004)], torch.device("cpu"), seconds=0)
        assert len(rounds) == LEAST_ROUNDS
        assert calls == [2 * (LEAST_ROUNDS + 1)] * 2  # one round before, not counted
        assert all(slow >= 0.004 for _, slow in rounds)
        assert sorted(quick for quick, _ in rounds)[0] < 0.004

    def test_the_product_is_in_the_dtype_of_the_weight(self, x: Tensor, weight: Tensor) -> None:
        assert measure_cost(weight.bfloat16(), x, static("minmax"), seconds=0).dtype == "bfloat16"
