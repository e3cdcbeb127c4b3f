"""Layers that waited on disk are those that were written: same codes, same shared tensors, nothing that could run."""

from pathlib import Path

import pytest
import torch
from torch import nn

from quantcore import quantize_model
from quantcore.matmul.size import quantized_linears
from quantcore.matmul.waiting import WaitingLayers
from quantcore.model.loading import LoadedModel

SCHEMES = [
    "w:int4/group32",
    "w:int3/group32/asym",
    "w:int4/group32,gptq/actorder=group",  # codes that are rows of one larger tensor, and g_idx
    "w:fp8_e4m3/channel,a:fp8_e4m3/token/dynamic",
    "w:int8/channel,a:int8/tensor/asym/static",
    "a:int8/token/dynamic",  # the weight stays float
]


@pytest.mark.parametrize("scheme", SCHEMES)
def test_what_waited_multiplies_as_before(tiny_lm: LoadedModel, tmp_path: Path, scheme: str) -> None:
    tokens = torch.randint(3, 200, (4, 32))
    model, _ = quantize_model(tiny_lm.model, scheme, tokens)
    layers = quantized_linears(model)
    waiting = WaitingLayers(layers, tmp_path / "layers")
    for _ in range(2):  # it can be read again and again
        back = waiting.read(tiny_lm.device)
        assert list(back) == list(layers)
        for name, layer in layers.items():
            before, after = dict(layer.named_buffers()), dict(back[name].named_buffers())
            assert before.keys() == after.keys()
            assert all(torch.equal(before[part].float(), after[part].float()) for part in before)
            assert all(before[part].dtype == after[part].dtype for part in before)
            x = torch.randn(3, layer.in_features)
            assert torch.equal(layer(x), back[name](x))


def test_what_is_shared_with_the_float_model_stays_shared(tiny_lm: LoadedModel, tmp_path: Path) -> None:
    model, _ = quantize_model(tiny_lm.model, "a:int8/token/dynamic")
    waiting = WaitingLayers(quantized_linears(model), tmp_path / "layers")
    assert (tmp_path / "layers").stat().st_size < 1000  # no weight is in it
    for name, layer in waiting.read(tiny_lm.device).items():
        original = tiny_lm.model.get_submodule(name)
        assert isinstance(original, nn.Linear)
        assert layer.float_weight.data_ptr() == original.weight.data_ptr()


def test_the_file_holds_tensors_alone(tiny_lm: LoadedModel, tmp_path: Path) -> None:
    model, _ = quantize_model(tiny_lm.model, "w:int4/group32")
    WaitingLayers(quantized_linears(model), tmp_path / "layers")
    content = (tmp_path / "layers").read_bytes()
    assert content[8:9] == b"{"  # a safetensors header; a pickle in a zip begins with PK
    assert not content.startswith((b"PK", b"\x80"))
