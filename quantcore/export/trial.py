"""One run of a written checkpoint by transformers: does it compute what our own layers compute?

    apart = logits_apart(model, layers, folder, torch.bfloat16, tokens)      0.000002

The trial on the meta device (`opening`) knows names and shapes, and no number: codes in another order, a scale at the
wrong place, experts that changed places are seen only by what comes out. So a model that fits is loaded once more, from
the folder that was written, and reads a few tokens, as our layers do. Of each token the difference is taken by what its
logits vary; the median over the tokens is the figure, since one that a router sends to other experts says nothing.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from quantcore.export.checkpoint_format import as_stored
from quantcore.export.opening import alone, without_bars
from quantcore.matmul.layers import QuantLinear
from quantcore.model.held import Held
from quantcore.model.memory import free_memory
from quantcore.model.places import copy_with
from quantcore.model.probe import few_tokens
from quantcore.model.sentences import reason
from quantcore.model.wiring import copy_of

MOST_NUMBERS = 2**29  # of a model that is tried
BYTES = 3 * 4  # a number, while it is loaded: as read, as codes, as a float
MOST_APART = 0.1  # zero points that readers round once more cost a hundredth


def is_tried(model: Held) -> bool:
    """Whether a model is small enough, and whole in this machine's memory."""
    weights = list(model.skeleton.parameters())
    numbers, free = sum(one.numel() for one in weights), free_memory(torch.device("cpu"))
    if numbers > MOST_NUMBERS or any(one.device.type != "cpu" for one in weights):
        return False
    return free is None or numbers * BYTES < free[0]


def logits_apart(
    model: Held,
    layers: Mapping[str, QuantLinear],
    floats: Mapping[str, Tensor],
    folder: Path,
    dtype: torch.dtype,
    runs_in: torch.dtype = torch.float32,
) -> float | None:
    """How far transformers' logits are from ours, as the median over a few tokens of |difference| / |logits - mean|;
    None where our own model does not run on tokens alone.

    layers    every quantized layer by name
    floats    the written parameters of all else
    dtype     the folder's
    runs_in   the type in which transformers first runs, where it makes floats of the codes; then both are compared in
              float32
    Raises: ValueError where transformers cannot load or run it."""
    tokens = few_tokens(model.skeleton)
    try:
        ours = _logits(_with_stored(model.skeleton, layers, floats, dtype), tokens, runs_in)
    except Exception:  # whatever a stranger's module does
        return None
    with without_bars(), alone():
        try:
            theirs = _logits(read_by_transformers(type(model.skeleton), folder, tokens, runs_in), tokens)
        except Exception as error:
            raise ValueError(f"transformers cannot run it ({reason(error)})") from error
    size = (ours - ours.mean(-1, keepdim=True)).norm(dim=-1)
    return float(((theirs - ours).norm(dim=-1) / size.clamp(min=1e-30)).median())


def read_by_transformers(kind: Any, folder: Path, tokens: Tensor, runs_in: torch.dtype) -> Any:
    """What transformers makes of a folder, in float32: where it first must run in another type, it does."""
    found = kind.from_pretrained(folder, dtype=runs_in).eval()
    if runs_in != torch.float32:
        with torch.no_grad():  # what is made of the codes stays: it may not be of inference mode
            found(input_ids=tokens, use_cache=False)
        nn.Module.float(found)  # its own refuses, since a quantized model keeps its type
    return found


def _logits(model: Any, tokens: Tensor, rounded_to: torch.dtype = torch.float32) -> Tensor:
    """In float32, of the model whose parameters went through another type."""
    held = {} if rounded_to == torch.float32 else dict(model.named_parameters())
    weights = {name: one.detach().to(rounded_to).float() for name, one in held.items()}
    with torch.inference_mode():
        asked = {"input_ids": tokens, "use_cache": False}
        found: Tensor = torch.func.functional_call(model, weights, (), asked).logits[0].float()
    return found.nan_to_num(neginf=0.0)  # padded vocabularies


def _with_stored(
    skeleton: nn.Module, layers: Mapping[str, QuantLinear], floats: Mapping[str, Tensor], dtype: torch.dtype
) -> nn.Module:
    """The model with its layers, and what its transforms changed beside them, as a checkpoint's reader has them."""
    stored = {name: as_read(layer, dtype) for name, layer in layers.items()}
    known = dict(skeleton.named_parameters())
    new = {name: one for name, one in floats.items() if name in known and one is not known[name]}
    changed = {name: one.to(dtype).to(one.dtype) for name, one in new.items() if not torch.equal(one, known[name])}
    return copy_of(copy_with(skeleton, stored), changed)


def as_read(layer: QuantLinear, dtype: torch.dtype) -> QuantLinear:
    """The layer as a reader has it that makes bfloat16 of codes with coded scales, and floats of the others."""
    stored = as_stored(layer, dtype)
    stored.path = "dequantize"
    if layer.weight_spec is None or not layer.weight_spec.scales.is_coded:
        return stored
    bias = stored.bias if isinstance(stored.bias, Tensor) else None
    weight = stored.weight_hat().bfloat16().float()
    return QuantLinear(None, bias, stored.activation_spec, stored.static_qparams, float_weight=weight)
