"""Questions of the first page: what is loaded, one row of weights, and what the quantized model would write next."""

from __future__ import annotations

from torch import Tensor, nn

from quantcore.lab.bench import LEARNED, Bench
from quantcore.lab.memo import remembered
from quantcore.lab.specs import weights_of
from quantcore.matmul.size import checkpoint_bytes
from quantcore.pipeline.convert import quantized_copy
from quantcore.studies.anatomy import Anatomy, anatomy
from quantcore.studies.next_tokens import NextTokens, last_logits, next_tokens
from quantcore.studies.row import RowStudy, loud_row, row_study
from quantcore.text.reading import OWN
from quantcore.text.windows import prompt_tokens

SMALL_MODEL = 50_000_000  # parameters; of a larger model nothing long begins by itself
START, START_BITS = 4, range(2, 9)  # bits per weight on the first page
PROMPTS = ("Once upon a time, there was a little girl named", "He played football for Manchester")


def start_scheme(bits: int) -> str:
    """What the first page does to the whole model: every row of every Linear gets 2^bits evenly spaced levels."""
    return f"w:int{bits}/channel"


@remembered(4)
def contents(lab: Bench) -> Anatomy:
    """What the model is made of."""
    return anatomy(lab.loaded)


@remembered(128)
def row(lab: Bench, layer: str, scheme: str, share: float = 1.0) -> RowStudy:
    """The row of a layer that is louder than `share` of its rows, quantized."""
    return row_study(lab.weight(layer), _loud_row(lab, layer, share), weights_of(lab, scheme))


@remembered(256)
def _loud_row(lab: Bench, layer: str, share: float) -> int:
    return loud_row(lab.weight(layer), share)


def likeliest(lab: Bench, scheme: str, prompt: str = PROMPTS[0]) -> NextTokens:
    """What the model would write after a prompt, and what its quantized copy would; a prompt of the visitor's own is
    kept as an own text is."""
    return written_next(lab, scheme, prompt if prompt in PROMPTS else OWN + prompt)


@remembered(256)
def written_next(lab: Bench, scheme: str, prompt: str = PROMPTS[0]) -> NextTokens:
    """`likeliest` after one of PROMPTS, or a visitor's own text behind the mark of such."""
    return next_tokens(lab.loaded, quantized(lab, scheme), prompt.removeprefix(OWN), logits=_float_logits(lab, prompt))


@remembered(8)
def _float_logits(lab: Bench, prompt: str) -> Tensor:
    """What the model itself says after a prompt: the same at every number of bits."""
    loaded, text = lab.loaded, prompt.removeprefix(OWN)
    return last_logits(loaded.model, prompt_tokens(loaded.tokenizer, text, loaded.context)[0].to(loaded.device))


@remembered(64)
def quantized_bytes(lab: Bench, scheme: str) -> int:
    """Bytes of the quantized model's checkpoint."""
    return checkpoint_bytes(quantized(lab, scheme))


def quantized(lab: Bench, scheme: str) -> nn.Module:
    """The model under a scheme, which learns from the calibration text where it must; it shares what stays float and
    packs the codes."""
    return _quantized(lab, str(lab.plan_of(scheme)))


@remembered(8, "Quantizing the model ...")  # as many as the memo has bytes for: see `tensor_bytes`
def _quantized(lab: Bench, scheme: str) -> nn.Module:
    return quantized_copy(lab.model, scheme, lab.text_for(scheme, LEARNED), lab.house.step)
