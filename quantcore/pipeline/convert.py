"""Turn a model into its quantized copy, and report what each layer lost.

The original is never touched: the copy shares every tensor that stays float and holds a QuantLinear where a Linear was.
Under a plan with kv: each of its runs goes through a cache of codes (`pipeline.cache`).
"""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor, nn

from quantcore.matmul.layers import QuantLinear
from quantcore.model.held import held
from quantcore.model.linears import left_float, linear_shapes, linears
from quantcore.model.places import copy_with
from quantcore.model.wiring import copy_of
from quantcore.pipeline.calibration import LayerStats, Progress
from quantcore.pipeline.layers import LayerReport
from quantcore.pipeline.parts import parts, require_float
from quantcore.pipeline.treated import treated
from quantcore.scheme.fitting import plan_for
from quantcore.scheme.plan import Plan
from quantcore.scheme.scheme import Scheme


def quantize_model(
    model: nn.Module,
    scheme: Scheme | Plan | str,
    tokens: Tensor | None = None,
    stats: Mapping[str, LayerStats] | None = None,
    progress: Progress | None = None,
    calibration: Tensor | None = None,
    sequential: bool = True,
) -> tuple[nn.Module, list[LayerReport]]:
    """A quantized copy of the model, and a report for every Linear that was quantized, then for every matrix that is
    neither a Linear's nor an embedding's and so stays float (`linears.left_float`).

    scheme       a scheme, a plan, or the text of either
    tokens       (windows, T): the first OUTPUT_TOKENS of it measure each layer's output error
    calibration  text for static ranges and GPTQ's Hessians, (windows, T); `tokens` where it is not given
    The other arguments and what is refused: see `parts`."""
    learned = tokens if calibration is None else calibration
    made, reports = _converted(model, scheme, learned, tokens, stats, progress, sequential, weighed=True)
    return made, in_order(held(model).skeleton, reports)


def quantized_copy(
    model: nn.Module,
    scheme: Scheme | Plan | str,
    calibration: Tensor | None = None,
    progress: Progress | None = None,
    sequential: bool = True,
) -> nn.Module:
    """`quantize_model` for whom the layers' errors are of no interest: they are not worked out."""
    return _converted(model, scheme, calibration, None, None, progress, sequential, weighed=False)[0]


def _converted(
    model: nn.Module,
    scheme: Scheme | Plan | str,
    calibration: Tensor | None,
    measured: Tensor | None,
    stats: Mapping[str, LayerStats] | None,
    progress: Progress | None,
    sequential: bool,
    weighed: bool,
) -> tuple[nn.Module, dict[str, LayerReport]]:
    whole = held(model)
    require_float(whole.skeleton)
    asked = plan_for(scheme, linear_shapes(whole.skeleton))
    whole = treated(whole, asked, calibration)
    floats: dict[str, Tensor] = {}
    replaced: dict[str, QuantLinear] = {}
    reports: dict[str, LayerReport] = {}
    for part in parts(
        whole,
        asked,
        calibration,
        measured=measured,
        stats=stats,
        sequential=sequential,
        weighed=weighed,
        progress=progress,
    ):
        replaced |= part.layers
        floats |= part.treated
        reports |= {report.name: report for report in part.reports}
    made = copy_with(whole.skeleton, replaced)
    made = copy_of(made, floats) if floats else made
    if asked.kv is not None:
        from quantcore.pipeline.cache import with_cache  # transformers takes long to import
        from quantcore.pipeline.cache_ranges import calibrate_cache

        made = with_cache(made, asked.kv, calibrate_cache(whole, asked.kv, calibration))
    return made, reports


def in_order(model: nn.Module, reports: Mapping[str, LayerReport]) -> list[LayerReport]:
    """The reports of a model's parts as those of the model: quantized Linears in its order, then what stays float."""
    return [reports[name] for name in (*linears(model), *left_float(model)) if name in reports]
