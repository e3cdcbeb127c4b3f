"""One run of a written checkpoint by transformers: does it compute what our own layers compute?

    ours = Ours(model, torch.bfloat16)
    for part in road: ours.see(part.name, part.module)
    apart = logits_apart(model, ours, folder)      0.000002

The trial on the meta device (`opening`) knows names and shapes, and no number: codes in another order, a scale at the
wrong place, experts that changed places are seen only by what comes out. So a model that fits is loaded once more, from
the folder that was written, and reads a few tokens, as our layers do. Of each token the difference is taken by what its
logits vary; the median over the tokens is the figure, since one that a router sends to other experts says nothing.

Both run on the CPU in float32, wherever the model lies: its parts are copied there as they come, as they are stored,
which a model small enough to be loaded once more leaves room for.
"""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from quantcore.export.checkpoint_format import as_stored
from quantcore.export.opening import alone, without_bars
from quantcore.matmul.layers import QuantLinear
from quantcore.matmul.size import quantized_linears
from quantcore.model.held import Held
from quantcore.model.making import making
from quantcore.model.memory import free_memory, size
from quantcore.model.places import copy_with
from quantcore.model.probe import few_tokens
from quantcore.model.sentences import reason

MOST_NUMBERS = 2**29  # of a model that is tried
BYTES = 3 * 4  # a number, while it is loaded: as read, as codes, as a float
COPIED = 4  # a number of a model that is not in this machine's memory already
MOST_APART = 0.1  # zero points that readers round once more cost a hundredth
NARROW = (torch.bfloat16, torch.float16)


def why_not_tried(model: Held) -> str | None:
    """Why a model is not run once more: it is too large for that, or for the memory that is free; else None."""
    weights, free = list(model.skeleton.parameters()), free_memory(torch.device("cpu"))
    numbers = sum(one.numel() for one in weights)
    if numbers > MOST_NUMBERS:
        return f"{numbers / 1e6:,.0f} M numbers are more than the {MOST_NUMBERS / 1e6:,.0f} M that are tried"
    needed = numbers * (BYTES + COPIED * any(one.device.type != "cpu" for one in weights))
    if free is not None and needed > free[0]:
        return f"that takes {size(needed)} of memory, and {size(free[0])} are free"
    return None


class Ours:
    """Our own quantized model as its checkpoint's reader has it, part by part: scales, and what a transform changed, in
    the type in which they are stored, all on the CPU. What is in this machine's memory already is not copied."""

    def __init__(self, model: Held, dtype: torch.dtype) -> None:
        """dtype: of everything in the checkpoint that is no code."""
        self._dtype = dtype
        self._here = {id(one) for one in model.skeleton.parameters() if one.device.type == "cpu"}
        self._parts: dict[str, nn.Module] = {}

    def see(self, name: str, module: nn.Module) -> None:
        """A part of the model, quantized; "": what lies around the blocks."""
        placed = copy_with(module, {key: as_read(one, self._dtype) for key, one in quantized_linears(module).items()})
        instead: dict[int, object] = {id(one): self._read(one) for one in placed.parameters()}
        instead |= {id(one): one.cpu().float() if one.dtype in NARROW else one.cpu() for one in placed.buffers()}
        self._parts[name] = copy.deepcopy(placed, instead)

    def whole(self) -> nn.Module:
        """All parts in their places."""
        return copy_with(self._parts[""], {name: part for name, part in self._parts.items() if name})

    def _read(self, parameter: nn.Parameter) -> nn.Parameter:
        """As it is read; itself, where the model holds those numbers in memory."""
        read = parameter.detach().to(self._dtype).float().cpu()
        if id(parameter) in self._here and parameter.dtype == read.dtype and torch.equal(parameter, read):
            return parameter
        return nn.Parameter(read, requires_grad=False)


def logits_apart(model: Held, ours: Ours, folder: Path, runs_in: torch.dtype = torch.float32) -> float | str:
    """How far transformers' logits are from ours, as the median over a few tokens of |difference| / |logits - mean|;
    why there is no such figure, where our own model does not run on tokens alone.

    runs_in   the type in which transformers first runs, where it makes floats of the codes; then both are compared in
              float32
    Raises: ValueError where transformers cannot load or run it."""
    tokens = few_tokens(model.skeleton)
    try:
        mine = _logits(ours.whole(), tokens, runs_in)
    except Exception as error:  # whatever a stranger's module does
        return f"this model does not run on tokens alone ({reason(error)})"
    with making(), without_bars(), alone():
        try:
            theirs = _logits(read_by_transformers(type(model.skeleton), folder, tokens, runs_in), tokens)
        except Exception as error:
            raise ValueError(f"transformers cannot run it ({reason(error)})") from error
    spread = (mine - mine.mean(-1, keepdim=True)).norm(dim=-1)
    return float(((theirs - mine).norm(dim=-1) / spread.clamp(min=1e-30)).median())


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


def as_read(layer: QuantLinear, dtype: torch.dtype) -> QuantLinear:
    """The layer as a reader has it that makes bfloat16 of codes with coded scales, and floats of the others."""
    stored = as_stored(layer, dtype)
    stored.path = "dequantize"
    if layer.weight_spec is None or not layer.weight_spec.scales.is_coded:
        return stored
    bias = stored.bias if isinstance(stored.bias, Tensor) else None
    weight = stored.weight_hat().bfloat16().float()
    return QuantLinear(None, bias, stored.activation_spec, stored.static_qparams, float_weight=weight)
