"""Write a model as a compressed-tensors checkpoint, which transformers and vLLM load.

    report = export_checkpoint(load_model("reference"), "W4A16,gptq/actorder=weight", "out/reference-w4", tokens)
    AutoModelForCausalLM.from_pretrained(report.folder)

The model may be in memory or in its files: it is taken block by block, and a block is packed and written while a GPU
works on the next one (`export.writing`); beside the blocks at hand never more than a few files' tensors live in memory.

Numbers that are not codes (norms, embeddings, biases, scales) are stored in one type: by default the narrowest of
bfloat16, float16 and float32 that holds every parameter of the model exactly. Only the scales are rounded, by at most
half a unit in the last place, 2^-8 in bfloat16; the report says by how much.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import cast

import torch
from torch import Tensor

from quantcore.export.cache_words import require_words
from quantcore.export.export_report import ExportReport
from quantcore.export.turned import require_turned
from quantcore.export.writing import Writing
from quantcore.model.held import held
from quantcore.model.linears import linear_shapes
from quantcore.pipeline.calibration import Progress
from quantcore.pipeline.parts import Source, parts, planned, require_float
from quantcore.pipeline.ranks import ranks
from quantcore.pipeline.road import Part
from quantcore.pipeline.treated import treated
from quantcore.scheme.fitting import plan_for
from quantcore.scheme.plan import Plan
from quantcore.scheme.scheme import Scheme


def export_checkpoint(
    source: Source,
    scheme: Scheme | Plan | str,
    folder: str | Path,
    calibration: Tensor | None = None,
    *,
    force: bool = False,
    dtype: torch.dtype | None = None,
    shard_bytes: int | None = None,
    reader: str = "transformers",
    progress: Progress | None = None,
) -> ExportReport:
    """Quantize a model, in memory or in its files, and write it to `folder`, with its tokenizer and generation config.

    calibration  (windows, T), for GPTQ and static activations
    force        whether a model that is in `folder` already may be replaced
    dtype        of scales, norms, embeddings; None: the narrowest that holds the model's parameters exactly
    shard_bytes  most bytes of one file; None: a sixteenth of all, between 128 and 512 MB
    reader       who is to load it: transformers, which is then asked first whether it can, or vllm
    Raises: ValueError for what compressed-tensors cannot hold, a folder that cannot be written, a full disk, and what
    `parts` refuses."""
    from quantcore.export.checkpoint_format import require_exportable  # compressed-tensors takes 2 s to import

    require_float(held(source).skeleton)
    plan = plan_for(scheme, linear_shapes(held(source).skeleton))
    require_words(plan.kv)
    model = treated(held(source), plan, calibration)
    schemes, _ = planned(model, plan)
    require_turned(plan.transforms, reader, schemes)
    require_exportable(list(dict.fromkeys(schemes.values())), plan.kv)
    road = parts(model, plan, calibration, progress=progress)
    if not ranks().first:
        return _without_writing(road, plan)
    with Writing(model, plan, schemes, folder, force, dtype, shard_bytes, reader) as writing:
        writing.add(model.around, leave=schemes)
        for part in road:
            writing.add_part(part)
        writing.add_cache(model, calibration)
        report = writing.finish(calibration)
    return ranks().all_said(report)[0]


def _without_writing(road: Iterator[Part], plan: Plan) -> ExportReport:
    """What a rank does while the first one writes; the first one's report."""
    if plan.needs_text:  # else nobody needs the others
        for _ in road:
            pass
    report: ExportReport = ranks().all_said(cast(ExportReport, None))[0]
    return report
