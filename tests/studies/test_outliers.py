"""Where the large activations are, who pays for them, and what the two remedies repair: by hand, then laws."""

import math

import pytest
import torch
from torch import Tensor

from quantcore.pipeline.calibration import LayerStats
from quantcore.studies.outliers import (
    CLIPS,
    KEEPS,
    MOST_OUTPUTS,
    NO_CLIP,
    Remedy,
    Trial,
    activations_of,
    channel_study,
    keeps_of,
    kurtosis,
    outlier_map,
    who_pays,
)

# One loud token; int4's symmetric scale is absmax / 7.5, and 7 is its largest code.
SPIKE = torch.tensor([[7.5, 0.4], [0.4, 0.4]])


def loud_channel() -> Tensor:
    """64 tokens x 32 channels, normal; channel 5 is 40 times as loud on every token."""
    x = torch.randn(64, 32)
    x[:, 5] = 40 * torch.where(x[:, 5] < 0, -1.0, 1.0)
    return x


def loud_token() -> Tensor:
    """The same, but only the first token is loud, in channel 5."""
    x = torch.randn(64, 32)
    x[0, 5] = 400.0
    return x


def test_kurtosis_by_hand() -> None:
    # (-1, 1, -1, 1): every deviation 1, so 1 / 1. (0, 0, 0, 4): mean 1, squares 1 1 1 9, so (3 + 81)/4 / (12/4)^2.
    columns = torch.tensor([[-1.0, 0, 5], [1, 0, 5], [-1, 0, 5], [1, 4, 5]])
    assert kurtosis(columns)[:2].tolist() == pytest.approx([1.0, 21 / 9])
    assert math.isnan(kurtosis(columns)[2])
    assert float(kurtosis(torch.randn(100_000, 1))) == pytest.approx(3.0, abs=0.1)


def test_channel_study_by_hand() -> None:
    x = torch.tensor([[1, -2, 8], [1, 1, -1], [-1, 1, 2], [1, 0, 4.5]])
    study = channel_study(x, count=2)
    assert study.channel_absmax.tolist() == [1, 2, 8]
    assert study.token_absmax.tolist() == [8, 1, 2, 4.5]
    assert (study.ratio, study.token_ratio) == (4.0, 4.0)  # 8 over the median 2 of both; of an even count the lower one
    first, second = study.top
    assert (first.channel, first.absmax, first.over_median, first.token) == (2, 8.0, 4.0, 0)
    assert first.share_above_half == 0.5  # 8 and 4.5 of four tokens lie above 4
    assert (second.channel, second.token, second.share_above_half) == (1, 0, 0.25)


def test_pattern_tells_a_loud_channel_from_a_loud_token() -> None:
    assert channel_study(loud_channel()).pattern == "channel"
    assert channel_study(loud_token()).pattern == "token"
    assert channel_study(torch.randn(64, 32)).pattern == "scattered"


def test_dead_channels_make_the_ratio_infinite_and_nothing_breaks() -> None:
    x = torch.zeros(8, 5)
    x[3, 1] = 2.0
    study = channel_study(x)
    assert study.ratio == math.inf
    assert study.top[0].over_median == math.inf
    assert channel_study(torch.zeros(4, 4)).ratio == 1.0


def test_one_scale_makes_the_quiet_token_pay_by_hand() -> None:
    # One scale: 7.5 / 7.5 = 1, so 0.4 rounds to 0 and token 1 keeps nothing: 10 log10(1) = 0 dB.
    # A scale per token: 0.4 / 7.5; code 7.5 clamps to 7, so x_hat = x * 14/15: 20 log10(15) dB. Token 0 is the same.
    tensor, token = who_pays(SPIKE, "int4")
    assert [tensor.granularity, token.granularity] == ["tensor", "token"]
    assert float(tensor.token_sqnr_db[1]) == pytest.approx(0.0)
    assert float(token.token_sqnr_db[1]) == pytest.approx(20 * math.log10(15), abs=1e-4)
    assert float(tensor.token_sqnr_db[0]) == float(token.token_sqnr_db[0])
    # As a whole: signal 7.5^2 + 3 * 0.4^2, noise 0.5^2 (7.5 is clamped to 7) + 3 * 0.4^2.
    assert tensor.input_sqnr_db == pytest.approx(10 * math.log10(56.73 / 0.73), abs=1e-4)
    # Channel 1 is all zeros now, and the quieter (lower median) channel reaches 0.4 / 1 of a step: code 0 only.
    assert float(tensor.channel_sqnr_db[1]) == pytest.approx(0.0)
    assert (tensor.codes, tensor.median_codes) == (16, 1)


def test_groups_are_the_largest_that_divide_and_make_sense() -> None:
    def grains(channels: int) -> list[str]:
        return [payer.granularity for payer in who_pays(torch.randn(4, channels), "int8")]

    assert grains(256) == ["tensor", "token", "group128"]
    assert grains(192) == ["tensor", "token", "group96"]
    assert grains(64) == ["tensor", "token"]  # one group would be the whole token
    assert grains(257) == ["tensor", "token"]  # a prime: groups of 1


def test_a_scale_per_token_helps_against_a_token_not_against_a_channel() -> None:
    def gain(x: Tensor) -> float:
        tensor, token, *_ = who_pays(x, "int8")
        return float((token.token_sqnr_db - tensor.token_sqnr_db).median())

    assert gain(loud_token()) > 30
    assert abs(gain(loud_channel())) < 1


def by_grain(rows: tuple[Remedy, ...]) -> tuple[Remedy, Remedy]:
    tensor, token = rows
    assert (tensor.granularity, token.granularity) == ("tensor", "token")
    return tensor, token


def test_keeping_the_loud_channel_by_hand() -> None:
    # Without channel 0 both grains have scale 0.4 / 7.5 and lose 0.4 / 15 on both tokens.
    noise = 2 * (0.4 / 15) ** 2
    for row in by_grain(Trial(SPIKE, torch.tensor([[0.0, 1.0]])).remedy("int4", NO_CLIP, 1)):
        assert row.input_sqnr_db == pytest.approx(10 * math.log10(56.73 / noise), abs=1e-4)
        assert row.output_sqnr_db == pytest.approx(10 * math.log10(2 * 0.16 / noise), abs=1e-4)  # output is channel 1
        assert row.bits_per_number == 10  # half of the numbers in 16 bits, half in 4


def test_clipping_by_hand() -> None:
    # p75 of four values leaves one out at either end: the range is [0, 3], the scale 3 / 7.5 = 0.4.
    # 1 -> code 2 (2.5 is a tie) = 0.8, 2 -> 2.0, 3 -> code 7 (8 does not exist) = 2.8, 100 -> 2.8.
    x = torch.tensor([[1.0, 2.0, 3.0, 100.0]])
    noise = 0.2**2 + 0.2**2 + 97.2**2
    tensor, token = by_grain(Trial(x, torch.eye(4)).remedy("int4", "p75", 0))
    assert tensor.input_sqnr_db == pytest.approx(10 * math.log10((1 + 4 + 9 + 10_000) / noise), abs=1e-4)
    assert tensor.output_sqnr_db == pytest.approx(tensor.input_sqnr_db, abs=1e-4)  # the weight is the identity
    assert (token.input_sqnr_db, tensor.token_sqnr_db) == pytest.approx((tensor.input_sqnr_db, tensor.input_sqnr_db))


def test_clipping_saves_the_quiet_tokens_and_breaks_the_whole() -> None:
    x = loud_token()
    before, after = (Trial(x, torch.eye(32)).remedy("int8", clip, 0)[0] for clip in (NO_CLIP, "p99.9"))
    assert after.token_sqnr_db > before.token_sqnr_db + 20
    assert after.input_sqnr_db < before.input_sqnr_db - 20


def test_one_channel_in_float_mends_a_loud_channel() -> None:
    x = loud_channel()
    for before, after in zip(
        Trial(x, torch.eye(32)).remedy("int8", NO_CLIP, 0),
        Trial(x, torch.eye(32)).remedy("int8", NO_CLIP, 1),
        strict=True,
    ):
        assert after.input_sqnr_db > before.input_sqnr_db + 15


def test_curves_hold_the_rows_that_a_single_setting_gives() -> None:
    x, weight = loud_channel(), torch.randn(6, 32)
    curves = Trial(x, weight).remedies("fp8_e4m3")
    assert [row.clip for row in curves.clips] == 2 * list(CLIPS)
    assert [row.keep for row in curves.keeps] == 2 * keeps_of(32)
    assert curves.at("p99", 0) == Trial(x, weight).remedy("fp8_e4m3", "p99", 0)
    assert curves.at(NO_CLIP, 4) == Trial(x, weight).remedy("fp8_e4m3", NO_CLIP, 4)
    assert curves.at(NO_CLIP, 0) == Trial(x, weight).remedy("fp8_e4m3", NO_CLIP, 0)
    assert curves.at("p99", 4) == ()
    best = max(row.token_sqnr_db for row in curves.clips if row.granularity == "tensor")
    assert curves.kindest_clip("tensor").token_sqnr_db == best


def test_the_input_is_not_edited() -> None:
    x = loud_channel()
    copy = x.clone()
    Trial(x, torch.eye(32)).remedies("int4")
    who_pays(x, "int4")
    assert torch.equal(x, copy)


def test_wide_outputs_are_measured_on_evenly_spread_rows() -> None:
    x, weight = loud_channel(), torch.randn(2 * MOST_OUTPUTS, 32)
    assert Trial(x, weight).remedy("int4", NO_CLIP, 0) == Trial(x, weight[::2]).remedy("int4", NO_CLIP, 0)


def test_refusals_say_what_and_the_way_out() -> None:
    with pytest.raises(ValueError, match="cannot keep 2 of 2 channels in float; keep 0 to 1"):
        Trial(SPIKE, torch.eye(2)).remedy("int4", NO_CLIP, 2)
    with pytest.raises(ValueError, match="no number format is called 'int99'"):
        who_pays(SPIKE, "int99")
    with pytest.raises(ValueError, match="NaN or Inf"):
        who_pays(torch.tensor([[math.nan, 1.0]]), "int8")


def test_settings_are_schemes_and_fit_the_layer() -> None:
    assert str(activations_of("int8", "token", "p99.9").observer) == "p99.9"
    assert all(activations_of("int4", grain, clip).dynamic for grain in ("tensor", "token") for clip in CLIPS)
    assert keeps_of(16) == [0, 1, 2, 3, 4, 5, 6, 8]
    assert keeps_of(4096) == list(KEEPS)


def stats(*absmax: float) -> LayerStats:
    return LayerStats(channel_absmax=torch.tensor(absmax))


def test_map_has_a_row_per_block_and_a_column_per_module() -> None:
    found = outlier_map(
        {
            "model.layers.0.mlp.up": stats(1, 2, 8),  # 8 / 2
            "model.layers.1.mlp.up": stats(1, 1, 1),
            "model.layers.1.attn.q": stats(1, 2, 20),
            "head": stats(2, 2, 6),
        }
    )
    assert found.blocks == (0, 1, None)
    assert found.modules == ("mlp.up", "attn.q", "head")
    assert found.ratio.nan_to_num(-1).tolist() == [[4, -1, -1], [1, 10, -1], [-1, -1, 3]]
    assert found.names[1] == ("model.layers.1.mlp.up", "model.layers.1.attn.q", "")
    assert found.cell_of("head") == (2, 2)
    assert found.cell_of("nope") is None


def test_two_layers_in_one_cell_show_the_louder() -> None:
    found = outlier_map({"encoder.0.up": stats(1, 1, 5), "decoder.0.up": stats(1, 1, 9), "other.0.up": stats(1, 1, 2)})
    assert found.ratio.tolist() == [[9.0]]
    assert found.names == (("decoder.0.up",),)
    assert found.cell_of("encoder.0.up") is None
