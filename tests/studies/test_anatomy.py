"""What is loaded: every count of the tiny model follows from its configuration."""

import pytest

from quantcore.model.loading import LoadedModel
from quantcore.studies.anatomy import anatomy


def test_counts_of_the_tiny_model(tiny_lm: LoadedModel) -> None:
    # per block: q and o 64 x 64, k and v 32 x 64, gate and up 128 x 64, down 64 x 128: 4096 * 2 + 2048 * 2 + 8192 * 3
    # = 36864 weights and two norms of 64; around 2 blocks an embedding and a head of 300 x 64 each and one norm of 64
    report = anatomy(tiny_lm)
    assert report.architecture == "LlamaForCausalLM"
    assert (report.blocks, report.linears) == (2, 15)
    assert report.parameters == 2 * (36864 + 128) + 2 * 19200 + 64
    assert report.bytes_float == 2 * report.parameters
    assert (report.vocabulary, report.context) == (300, 256)
    assert {one.shape: (one.count, one.modules, one.weights) for one in report.shapes} == {
        (64, 64): (4, ("q_proj", "o_proj"), 16384),
        (32, 64): (4, ("k_proj", "v_proj"), 8192),
        (128, 64): (4, ("gate_proj", "up_proj"), 32768),
        (64, 128): (2, ("down_proj",), 16384),
        (300, 64): (1, ("lm_head",), 19200),
    }


def test_shapes_account_for_every_linear(tiny_lm: LoadedModel) -> None:
    report = anatomy(tiny_lm)
    assert sum(one.count for one in report.shapes) == report.linears
    assert sum(one.weights for one in report.shapes) == pytest.approx(sum(one.bytes_float for one in report.shapes) / 2)
    assert set(report.versions) >= {"python", "torch", "transformers"}
