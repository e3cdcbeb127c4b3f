"""What a fused decode step must do: as `transformers` does, on whatever device the kernels run."""

from typing import Any

import torch
from torch import nn

from quantcore import quantize_model
from quantcore.matmul.codes import Coding, TokenCodes
from quantcore.matmul.kernels.attend import Attention, rotate_and_keep
from quantcore.matmul.kernels.decode_rows import gate_rows, norm_rows
from quantcore.matmul.products import token_codes
from quantcore.model.decode import GreedyDecoder
from quantcore.model.decode_step import FusedStep, why_not_fused
from quantcore.scheme.scheme import Scheme


def tiny(kind: str, dtype: torch.dtype, device: str, blocks: int, hidden: int = 64) -> Any:
    """Blocks with grouped queries, every weight drawn, norms' and biases' too."""
    from transformers import AutoConfig, AutoModelForCausalLM

    config = AutoConfig.for_model(
        kind, hidden_size=hidden, intermediate_size=3 * hidden // 2, num_hidden_layers=blocks, num_attention_heads=4,
        num_key_value_heads=2, head_dim=hidden // 4, vocab_size=97, max_position_embeddings=512, sliding_window=None,
    )  # fmt: skip
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(config).to(device, dtype).eval()
    for parameter in model.parameters():
        parameter.data += 0.05 * torch.randn_like(parameter)
    return model


def check_step(
    kind: str, scheme: str, prompt_length: int, dtype: torch.dtype, device: str, apart: float, blocks: int = 2
) -> None:
    """Logits of a fused step beside the model's own, the largest difference over the largest logit."""
    model = tiny(kind, dtype, device, blocks)
    prompt = torch.randint(0, 97, (2, prompt_length), generator=torch.Generator().manual_seed(1))
    if scheme != "float":
        model = quantize_model(model, scheme, prompt)[0]
    assert why_not_fused(model) is None
    plain, fused = (GreedyDecoder(model, 160, sequences=2, fuse=fuse) for fuse in (False, True))
    for decoder in (plain, fused):
        decoder.read(prompt.to(device))
    with torch.inference_mode():
        for _ in range(2):
            own = plain.logits(plain.token)
            plain.take(own)
            found = fused.logits(fused.token)
            assert (found - own).abs().max() <= apart * own.abs().max()
            fused.take(own)
    assert isinstance(fused.fused, FusedStep)


def check_norm_rows(spec: str | None, dtype: torch.dtype, device: str) -> None:
    from transformers.models.llama.modeling_llama import LlamaRMSNorm

    torch.manual_seed(0)
    norm: nn.Module = LlamaRMSNorm(200, 1e-5).to(device, dtype)  # type: ignore[no-untyped-call]
    norm.weight.data = torch.randn(200, device=device).to(dtype)
    h, more = torch.randn(3, 200, device=device).to(dtype), torch.randn(3, 200, device=device).to(dtype)
    whole = h + more
    assert torch.equal(bare := norm_rows(h.clone(), None, norm.weight, 1e-5), norm_rows(h, None, norm.weight, 1e-5))
    assert isinstance(bare, torch.Tensor)
    y = norm_rows(h, more, norm.weight, 1e-5)
    assert torch.equal(h, whole)
    assert isinstance(y, torch.Tensor)
    torch.testing.assert_close(y, norm(whole))
    if spec is not None:
        for coding in _codings(spec, dtype):
            same_codes(norm_rows(whole.clone(), None, norm.weight, 1e-5, coding), y, coding)


def check_gate_rows(spec: str | None, dtype: torch.dtype, device: str) -> None:
    torch.manual_seed(0)
    both = 3 * torch.randn(3, 400, device=device).to(dtype)
    y = gate_rows(both)
    assert isinstance(y, torch.Tensor)
    torch.testing.assert_close(y, nn.functional.silu(both[:, :200]) * both[:, 200:])
    if spec is not None:
        for coding in _codings(spec, dtype):
            same_codes(gate_rows(both, coding), y, coding)


def _codings(text: str, dtype: torch.dtype) -> list[Coding]:
    """In the format's own type, and in the model's."""
    spec = Scheme.parse(f"a:{text}").activations
    assert spec is not None
    return [Coding(spec, spec.fmt.storage), Coding(spec, dtype)]


def same_codes(found: Any, y: torch.Tensor, coding: Coding) -> None:
    expected = token_codes(y, coding.spec)
    assert isinstance(found, TokenCodes)
    assert found.codes.dtype == coding.dtype
    width = found.codes.shape[1]
    assert width == (expected.codes if coding.dtype.itemsize == 1 else y).shape[1]
    assert torch.equal(found.codes.float(), expected.codes[:, :width].float())
    assert torch.equal(found.scale, expected.scale)


def check_attend(filled: int, dtype: torch.dtype, device: str, queries: int = 6, heads: int = 2) -> None:
    """Two tokens over a cache of 200 places, `filled` of them taken; the rest holds what must not be read."""
    torch.manual_seed(0)
    size, length = 32, 200
    keys, values = (torch.full((2, heads, length, size), float("nan"), device=device).to(dtype) for _ in range(2))
    for part in (keys, values):
        part[:, :, :filled] = torch.randn(2, heads, filled, size, device=device).to(dtype)
    rows = torch.randn(2, (queries + 2 * heads) * size, device=device).to(dtype)
    angles = torch.randn(length, size // 2, device=device).repeat(1, 2)
    cos, sin = angles.cos().to(dtype), angles.sin().to(dtype)
    place = torch.tensor([filled], device=device)
    from transformers.models.llama.modeling_llama import apply_rotary_pos_emb

    q, k, v = (
        part.view(2, -1, 1, size) for part in rows.clone().split([queries * size, heads * size, heads * size], 1)
    )
    q, k = apply_rotary_pos_emb(q, k, cos[None, filled : filled + 1], sin[None, filled : filled + 1])
    rotate_and_keep(rows, cos, sin, place, keys, values, queries)
    assert torch.equal(keys[:, :, filled], k[:, :, 0])
    assert torch.equal(values[:, :, filled], v[:, :, 0])
    seen = [part[:, :, : filled + 1].double() for part in (keys, values)]
    own = nn.functional.scaled_dot_product_attention(q.double(), *seen, scale=0.17, enable_gqa=True)
    for pieces in (1, 4):
        attention = Attention(2, queries, heads, size, length, keys.device, pieces)
        for _ in range(2):  # the second finds what the first left in its counters
            y = attention.attend(rows, keys, values, place, 0.17)
        torch.testing.assert_close(y.double(), own.reshape(2, -1), atol=_close(dtype), rtol=_close(dtype))


def _close(dtype: torch.dtype) -> float:
    return 1e-5 if dtype == torch.float32 else 2e-2
