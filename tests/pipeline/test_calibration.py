"""Calibration sees what enters each layer, in sums of a fixed size."""

import pytest
import torch
from torch import nn

from quantcore import calibrate
from quantcore.model.inputs import shared_inputs, watch_inputs
from quantcore.model.linears import linears
from quantcore.model.loading import LoadedModel
from quantcore.numbers.observers import RangeRecorder
from quantcore.pipeline.calibration import LayerStats, layer_inputs, outlier_ratio
from quantcore.pipeline.gram import gram_of


@pytest.fixture
def tokens(tiny_lm: LoadedModel) -> torch.Tensor:
    torch.manual_seed(1)
    return torch.randint(3, 200, (6, 24))


def test_stats_by_hand() -> None:
    stats = LayerStats()
    stats.update(torch.tensor([[[1.0, -2], [3, 0]]]), hessian=True)
    stats.update(torch.tensor([[[0.0, 5], [-4, 1]]]), hessian=True)
    assert stats.tokens == 4
    assert stats.channel_absmax.tolist() == [4, 5]
    assert stats.position_absmax.tolist() == [5, 4]
    # X = [[1,-2],[3,0],[0,5],[-4,1]]: X^T X = [[1+9+0+16, -2-4], [-6, 4+25+1]]
    assert stats.hessian.tolist() == [[26, -6], [-6, 30]]
    assert (stats.ranges.lo, stats.ranges.hi) == (-4, 5)


def test_sums_equal_those_of_the_kept_inputs(tiny_lm: LoadedModel, tokens: torch.Tensor) -> None:
    stats = calibrate(tiny_lm.model, tokens)
    assert list(stats) == list(linears(tiny_lm.model))
    for name in ("model.layers.1.mlp.down_proj", "model.layers.0.self_attn.k_proj", "lm_head"):
        x = layer_inputs(tiny_lm.model, tokens, name)
        assert x.shape[:2] == tokens.shape
        rows = x.flatten(0, 1).double()
        assert stats[name].tokens == tokens.numel()
        assert torch.allclose(stats[name].hessian.double(), rows.T @ rows, rtol=1e-4, atol=1e-4)
        assert torch.equal(stats[name].channel_absmax, x.abs().amax((0, 1)))
        assert torch.equal(stats[name].position_absmax, x.abs().amax((0, 2)))
        assert (stats[name].ranges.lo, stats[name].ranges.hi) == (float(x.min()), float(x.max()))


def test_layers_that_read_one_tensor_share_one_record(tiny_lm: LoadedModel, tokens: torch.Tensor) -> None:
    leaders = shared_inputs(tiny_lm.model, linears(tiny_lm.model))
    assert leaders["model.layers.0.self_attn.v_proj"] == "model.layers.0.self_attn.q_proj"
    assert leaders["model.layers.1.mlp.up_proj"] == "model.layers.1.mlp.gate_proj"
    assert leaders["model.layers.1.mlp.down_proj"] == "model.layers.1.mlp.down_proj"
    stats = calibrate(tiny_lm.model, tokens, hessian=False)
    assert stats["model.layers.0.self_attn.v_proj"] is stats["model.layers.0.self_attn.q_proj"]
    assert stats["model.layers.0.self_attn.v_proj"] is not stats["model.layers.1.self_attn.q_proj"]


def test_each_window_is_a_step_of_the_moving_average() -> None:
    one, two = LayerStats(ranges=RangeRecorder((0.5,))), LayerStats(ranges=RangeRecorder((0.5,)))
    x = torch.tensor([[[-1.0, 2]], [[-3, 4]], [[-5, 8]]])
    one.update(x, hessian=False)
    for window in x:
        two.update(window, hessian=False)
    assert one.ranges.averages == two.ranges.averages == {0.5: (-3.5, 5.5)}  # -1 -> -2 -> -3.5; 2 -> 3 -> 5.5


def test_memory_does_not_grow_with_the_text(tiny_lm: LoadedModel, tokens: torch.Tensor) -> None:
    def floats(stats: dict[str, LayerStats]) -> int:
        return sum(
            s.hessian.numel() + s.channel_absmax.numel() + s.position_absmax.numel() + s.ranges.bins.numel()
            for s in stats.values()
        )

    assert floats(calibrate(tiny_lm.model, tokens)) == floats(calibrate(tiny_lm.model, tokens.repeat(8, 1)))


def test_progress_and_choice_of_layers(tiny_lm: LoadedModel, tokens: torch.Tensor) -> None:
    seen: list[float] = []
    stats = calibrate(tiny_lm.model, tokens, ["lm_head"], hessian=False, progress=lambda done, _: seen.append(done))
    assert list(stats) == ["lm_head"]
    assert stats["lm_head"].hessian is None
    assert seen[-1] == 1.0


def test_no_hook_stays_behind(tiny_lm: LoadedModel, tokens: torch.Tensor) -> None:
    with pytest.raises(RuntimeError, match="stop"), watch_inputs(tiny_lm.model, ["lm_head"], _raise):
        tiny_lm.model(tokens[:1])
    assert not any(module._forward_pre_hooks for module in tiny_lm.model.modules())


def _raise(name: str, x: torch.Tensor) -> None:
    raise RuntimeError("stop")


def test_unknown_layer_is_named(tiny_lm: LoadedModel, tokens: torch.Tensor) -> None:
    with pytest.raises(ValueError, match="no Linear layer is called 'nope'; this model has 15, such as model.layers.0"):
        calibrate(tiny_lm.model, tokens, ["nope"])


def test_outlier_ratio_by_hand() -> None:
    stats = LayerStats(channel_absmax=torch.tensor([1.0, 2.0, 2.0, 50.0, 3.0]))
    assert outlier_ratio(stats) == 25.0
    assert outlier_ratio(LayerStats(channel_absmax=torch.zeros(3))) == 1.0
    with pytest.raises(ValueError, match="no batch was observed"):
        outlier_ratio(LayerStats())


def test_damaged_activations_are_reported(tokens: torch.Tensor) -> None:
    class Broken(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.linear = nn.Linear(4, 4)

        def forward(self, ids: torch.Tensor, use_cache: bool) -> torch.Tensor:
            return self.linear(torch.full((*ids.shape, 4), float("nan")))

    with pytest.raises(ValueError, match="the activations hold NaN or Inf"):
        calibrate(Broken(), tokens)


@pytest.mark.parametrize("width", [7, 257, 600])
def test_a_gram_by_quarters_is_the_gram(width: int) -> None:
    x = torch.randn(3, 50, width, generator=torch.Generator().manual_seed(width))
    rows, gram = x.flatten(0, 1), gram_of(x)
    assert torch.allclose(gram, rows.T @ rows, atol=1e-4)
    assert torch.allclose(gram, gram.T, atol=1e-4)
