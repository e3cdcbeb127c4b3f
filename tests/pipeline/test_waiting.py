"""Hidden states between two blocks: what is put there comes back, wherever it waits. The pinned half needs a GPU."""

import pytest
import torch

from quantcore import load_model, quantize_model
from quantcore.pipeline import waiting
from quantcore.pipeline.waiting import Waiting
from quantcore.text.windows import bundled_text, token_windows

on_gpu = pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device on this machine")


def _states(count: int, device: str) -> list[torch.Tensor]:
    return [torch.full((2, 3, 4), float(number), device=device) for number in range(count)]


@pytest.mark.parametrize("device", ["cpu", pytest.param("cuda", marks=on_gpu)])
@pytest.mark.parametrize("count", [1, 2, 5])
def test_each_batch_is_what_was_last_put_there(device: str, count: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(waiting, "SHARE", 0.0)  # on a GPU: nothing fits there, so all wait in pinned memory
    kept = Waiting(torch.device(device), 2 * count)
    for hidden in _states(count, device):
        kept.append(hidden)
    for turn in range(1, 4):  # three blocks, each of which adds 10
        for index in range(count):
            kept[index] = kept[index] + 10
        found = [kept[index] for index in range(count)]
        assert [one.unique().tolist() for one in found] == [[index + 10.0 * turn] for index in range(count)]
        assert all(one.device.type == device for one in found)
    assert len(kept) == count


@on_gpu
def test_a_model_is_quantized_alike_wherever_hidden_states_wait(monkeypatch: pytest.MonkeyPatch) -> None:
    loaded = load_model("reference", "cuda")
    tokens = token_windows(loaded.tokenizer, bundled_text("calibration", "encyclopedia"), limit=16384)
    here, _ = quantize_model(loaded.model, "W4A16,gptq", tokens)
    monkeypatch.setattr(waiting, "SHARE", 0.0)
    beside, _ = quantize_model(loaded.model, "W4A16,gptq", tokens)
    probe = tokens[:2].cuda()
    with torch.inference_mode():
        assert torch.equal(here(probe).logits, beside(probe).logits)
