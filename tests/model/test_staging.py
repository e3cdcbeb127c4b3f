"""Tensors that go through pinned memory arrive as they were. On a GPU; without one they go as they are."""

from concurrent.futures import ThreadPoolExecutor

import pytest
import torch
from torch import nn

from quantcore import load_model
from quantcore.model import staging
from quantcore.model.staging import move, to_device, to_host

on_gpu = pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device on this machine")
DEVICES = ["cpu", pytest.param("cuda", marks=on_gpu)]


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.int8, torch.int64, torch.float8_e4m3fn])
@pytest.mark.parametrize("numbers", [0, 3, 1000, 4096, 4097, 30_000])
def test_a_tensor_comes_back_as_it_went(
    device: str, dtype: torch.dtype, numbers: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(staging, "LEAST", 1024)
    monkeypatch.setattr(staging, "PIECE", 4096)  # so that most of them take several pieces
    there = torch.arange(numbers).remainder(100).to(dtype)
    with ThreadPoolExecutor(1) as own:  # the pieces are a thread's
        here = own.submit(to_device, there, torch.device(device)).result()
        back = own.submit(to_host, here).result()
    assert (here.device.type, back.device.type, back.dtype, back.shape) == (device, "cpu", dtype, there.shape)
    assert torch.equal(back.float(), there.float())
    assert torch.equal(here.float().cpu(), there.float())


@pytest.mark.parametrize("device", DEVICES)
def test_what_is_no_whole_row_of_memory_comes_back_too(device: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(staging, "LEAST", 1)
    there = torch.arange(600.0).view(20, 30)
    here = to_device(there.T, torch.device(device))
    assert torch.equal(to_host(here), there.T)
    assert torch.equal(to_host(to_device(there, torch.device(device)).T), there.T)
    assert to_host(here.T[:, ::2]).is_contiguous()


@pytest.mark.parametrize("device", DEVICES)
def test_a_model_moves_whole_and_its_ties_stay(device: str) -> None:
    model = load_model("reference", "cpu").model
    model.register_buffer("beside", torch.arange(5))
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    tied = model.get_input_embeddings().weight
    assert model.get_output_embeddings().weight is tied
    move(model, torch.device(device))
    assert {one.device.type for one in [*model.parameters(), *model.buffers()]} == {device}
    assert model.get_output_embeddings().weight is model.get_input_embeddings().weight
    assert isinstance(model.get_input_embeddings().weight, nn.Parameter)
    assert all(torch.equal(tensor.cpu(), before[name]) for name, tensor in model.state_dict().items())
