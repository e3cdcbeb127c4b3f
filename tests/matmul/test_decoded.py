"""Decoded once, a layer gives what decoding at each call gives; what rounds its inputs is left."""

import pytest
import torch

from quantcore import quantize_model
from quantcore.matmul.decoded import decoded
from quantcore.matmul.size import quantized_linears
from quantcore.model.loading import LoadedModel
from tests.model.test_architectures import fused


@pytest.mark.parametrize(
    "scheme", ["w:int4/group32/asym", "w:int3/group32,gptq/actorder=group", "w:int2/channel@up_proj=W8A8"]
)
def test_logits_are_the_same(tiny_lm: LoadedModel, scheme: str) -> None:
    tokens = torch.arange(3, 43).view(2, 20)
    first, _ = quantize_model(tiny_lm.model, scheme, calibration=tokens)
    again, _ = quantize_model(tiny_lm.model, scheme, calibration=tokens)
    left = quantized_linears(decoded(again))
    assert sorted(left) == [name for name, layer in sorted(quantized_linears(first).items()) if layer.activation_spec]
    assert torch.equal(first(tokens).logits, again(tokens).logits)


def test_biases_and_other_layouts() -> None:
    """GPT-2's Conv1D has a bias, and its weight lies the other way round."""
    model, tokens = fused("GPT2"), torch.arange(3, 43).view(2, 20)
    first, _ = quantize_model(model, "w:int3/group16")
    again, _ = quantize_model(model, "w:int3/group16")
    assert quantized_linears(first)
    assert torch.equal(first(tokens).logits, decoded(again)(tokens).logits)
    assert not quantized_linears(again)
