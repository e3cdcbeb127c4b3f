"""The schemes that an advice chooses among, each with the method that measures best here; and those that it cannot."""

from __future__ import annotations

from dataclasses import dataclass

from quantcore.advice.shape import ServedShape
from quantcore.scheme.fitting import fitting_grain

GPTQ = "gptq/actorder=weight"


@dataclass(frozen=True)
class Candidate:
    """name: what it is called; text: the scheme, to the letter; learns: whether it needs calibration text."""

    name: str
    text: str
    learns: bool = False


NOT_HERE = {
    "W3A16": "vLLM runs 3-bit weights through Humming, whose speed was not measured here",
    "W4AFP8": "the files store one code a byte, which vLLM's kernel for packed codes (Hopper alone) may not read",
    "NVFP4, MXFP4": "llm-compressor's guide has them for Blackwell (10.0); this lab writes them, but predicts no speed",
}


def candidates(shape: ServedShape) -> tuple[Candidate, ...]:
    """For a model's widths, from most bits to fewest."""
    group = fitting_grain({one.name: one.shape for one in shape.matrices})
    blocks = all(out % 128 == 0 and width % 128 == 0 for out, width in {one.shape for one in shape.matrices[:-1]})
    return (
        Candidate("bf16", "float"),
        Candidate("FP8_DYNAMIC", "w:fp8_e4m3/channel,a:fp8_e4m3/token/dynamic"),
        *([Candidate("FP8_BLOCK", "w:fp8_e4m3/block128x128,a:fp8_e4m3/group128/dynamic")] if blocks else []),
        Candidate("FP8 static", "w:fp8_e4m3/tensor,a:fp8_e4m3/tensor/static", True),
        Candidate("W8A8", "w:int8/channel,a:int8/token/dynamic"),
        Candidate("W8A16", "w:int8/channel"),
        Candidate("W4A16 GPTQ", f"w:int4/{group},{GPTQ}", True),
        Candidate("W4A16", f"w:int4/{group}"),
    )
