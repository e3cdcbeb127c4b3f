"""Questions about a mixture's experts."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from quantcore.lab.bench import LEARNED, READ, Bench
from quantcore.lab.specs import require_of_layers
from quantcore.pipeline.calibration import Progress
from quantcore.pipeline.convert import quantize_model
from quantcore.studies.experts import ExpertStudy, expert_load, expert_study, has_experts


def experts(
    lab: Bench,
    scheme: str,
    reading: str = READ,
    calibration: str = LEARNED,
    progress: Progress | None = None,
    so_far: Callable[[Any], None] | None = None,
) -> ExpertStudy:
    """How a text is shared out among the experts, and what a scheme costs each of them.

    Raises: ValueError for a model without experts, and a scheme that leaves them all float."""
    if not has_experts(lab.layers()):
        raise ValueError(f"{lab.id!r} has no experts; this question is one of mixtures, such as Mixtral or Qwen3-MoE")
    plan = lab.plan_of(scheme)
    require_of_layers(plan.default)
    if not has_experts(plan.schemes_of(lab.layers())):
        raise ValueError(f"{scheme} leaves all experts float; take skip=experts out of it")
    tokens, learned = lab.tokens(reading), lab.text_for(scheme, calibration)
    _, reports = quantize_model(lab.model, plan, tokens, progress=progress, calibration=learned)
    return expert_study(str(plan), expert_load(lab.model, tokens), reports, tokens.numel())
