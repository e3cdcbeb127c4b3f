"""What a written checkpoint says of itself."""

from __future__ import annotations

from dataclasses import dataclass

from quantcore.export.shards import StoredFile
from quantcore.export.vllm import Serving
from quantcore.pipeline.layers import LayerReport

REPORT_FILE = "export.json"


@dataclass(frozen=True)
class ExportReport:
    """What was written, and all that is needed to write it again.

    dtype                 of everything that is no code
    scale_rounding        largest |stored scale / computed scale - 1|; a weight of the checkpoint differs from ours by
                          at most this share of itself
    scale_rounding_limit  what rounding to that dtype may cost: half a unit in the last place
    logits_apart          how far transformers' logits are from ours when it runs what was written (`trial`); None: the
                          model is too large to be tried, which a note says, or is for vLLM
    notes                 what is not as usual in how transformers loads it
    quantize_s, write_s   seconds, one after the other: until all codes were there, and what was left to write then
    read_s, calibrate_s, solve_s   of quantize_s: waiting for weights, the text through the blocks, placing codes
    """

    folder: str
    scheme: str
    format: str
    dtype: str
    scale_rounding: float
    scale_rounding_limit: float
    files: tuple[StoredFile, ...]
    bytes: int
    layers: tuple[LayerReport, ...]
    model: str
    revision: str
    model_hash: str
    calibration_tokens: int | None
    calibration_hash: str | None
    serving: Serving
    logits_apart: float | None
    notes: tuple[str, ...]
    quantize_s: float
    write_s: float
    read_s: float
    calibrate_s: float
    solve_s: float
    made: str
    device: str
    versions: dict[str, str]
