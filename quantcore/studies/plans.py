"""What the page "Which layers hurt" needs: sensitivities that are kept, and a plan measured beside uniform schemes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, replace

from torch import Tensor

from quantcore.measure import probing
from quantcore.measure.fisher import DRAWS, estimated_costs
from quantcore.measure.planning import PlannedChoice
from quantcore.measure.probing import ProbedPlan
from quantcore.measure.sensitivity import LayerCosts, Sensitivity, SoFar, joined, layer_costs, texts_on
from quantcore.measure.store import Answer, Question, Store, model_hash, shape_of, tokens_hash
from quantcore.model.loading import LoadedModel
from quantcore.model.machine import device_name, versions
from quantcore.pipeline.calibration import Progress, part_of
from quantcore.pipeline.ranks import ranks
from quantcore.scheme.plan import Plan
from quantcore.scheme.scheme import Scheme

ALONE, ALL_BUT, ESTIMATED = "", ", all but", f", estimated by {DRAWS} draws"  # in an answer's name
WAYS = {(False, False): ALONE, (True, False): ALL_BUT, (False, True): ESTIMATED}  # all_but, estimated


def kept_sensitivity(
    loaded: LoadedModel,
    schemes: Sequence[str],
    tokens: Tensor,
    calibration: Tensor,
    store: Store,
    *,
    all_but: bool = False,
    estimated: bool = False,
    hashed: str | None = None,
    progress: Progress | None = None,
    so_far: SoFar | None = None,
) -> Sensitivity:
    """`sensitivity`, scheme by scheme from the store where it is there, else measured and kept; `so_far` as in
    `layer_costs`.

    estimated   take `fisher.estimated_costs` instead: all layers and schemes from a few backward passes
    Raises: ValueError for an estimate of everything but a layer, which there is none of."""
    if all_but and estimated:
        raise ValueError("a layer's cost is estimated alone, not as what the others cost without it; measure that")
    way = WAYS[all_but, estimated]
    texts = texts_on(loaded.model, schemes)
    found = {text: kept_costs(loaded, text, tokens, calibration, store, way, hashed) for text in texts}
    missing = ranks().all_said([text for text in texts if found[text] is None])[0]

    def keep(costs: LayerCosts) -> None:
        if ranks().first:
            store.put(_question(loaded, costs.scheme, tokens, calibration, way, hashed), asdict(costs), {})
        found[costs.scheme] = costs

    if estimated and missing:
        for costs in estimated_costs(loaded.model, missing, tokens, calibration=calibration, progress=progress):
            keep(costs)
        missing = []
    for place, text in enumerate(missing):
        tell = part_of(progress, place, len(missing), Scheme.parse(text).label)
        keep(
            layer_costs(
                loaded.model, text, tokens, all_but=all_but, calibration=calibration, progress=tell, so_far=so_far
            )
        )
    found = ranks().all_said(found)[0]
    return joined([costs for costs in found.values() if costs is not None])


def kept_costs(
    loaded: LoadedModel,
    text: str,
    tokens: Tensor,
    calibration: Tensor,
    store: Store,
    way: str = ALONE,
    hashed: str | None = None,
) -> LayerCosts | None:
    """The kept costs of one scheme, None if they are not there yet; those with all_but answer for ALONE too."""
    for wider in (ALL_BUT, ALONE) if way == ALONE else (way,):
        answer = store.get(_question(loaded, text, tokens, calibration, wider, hashed), _shape)
        if answer is not None:
            return _read(answer)
    return None


def probed_plan(
    loaded: LoadedModel,
    costs: Sensitivity,
    budget: float,
    tokens: Tensor,
    calibration: Tensor,
    store: Store,
    *,
    hashed: str | None = None,
    progress: Progress | None = None,
) -> ProbedPlan:
    """A plan by costs, mended in place (`measure.probing`), and kept."""
    found = probing.probed_plan(loaded.model, costs, budget, tokens, calibration=calibration, progress=progress)
    kept = asdict(found) | {"chosen": asdict(found.chosen) | {"plan": str(found.chosen.plan)}}
    if ranks().first:
        store.put(_of_plan(loaded, costs.schemes, budget, tokens, calibration, hashed), kept, {})
    return found


def read_probed_plan(
    loaded: LoadedModel,
    schemes: Sequence[str],
    budget: float,
    tokens: Tensor,
    calibration: Tensor,
    store: Store,
    hashed: str | None = None,
) -> ProbedPlan | None:
    """The kept one, None where it is not there yet."""
    answer = store.get(_of_plan(loaded, schemes, budget, tokens, calibration, hashed), _read_plan)
    return None if answer is None else _read_plan(answer)


def _read_plan(answer: Answer) -> ProbedPlan:
    chosen = dict(answer.figures["chosen"])
    plan = PlannedChoice(**{**chosen, "plan": Plan.parse(chosen["plan"])})
    return ProbedPlan(**{**answer.figures, "chosen": plan, "kls": tuple(answer.figures["kls"])})


def _of_plan(
    loaded: LoadedModel, schemes: Sequence[str], budget: float, tokens: Tensor, calibration: Tensor, hashed: str | None
) -> Question:
    made_of = f"{budget:.6f} bits of {' '.join(schemes)}"
    return replace(
        _question(loaded, made_of, tokens, calibration, "", hashed),
        kind=f"probed plan {shape_of(ProbedPlan, PlannedChoice)} {shape_of(LayerCosts)}",
    )


def _read(answer: Answer) -> LayerCosts:
    return LayerCosts(**answer.figures)


def _shape(answer: Answer) -> Sensitivity:
    return joined([_read(answer)])


def _question(
    loaded: LoadedModel, text: str, tokens: Tensor, calibration: Tensor, way: str, hashed: str | None
) -> Question:
    return Question(
        kind=f"layer costs{way} {shape_of(LayerCosts)}",
        scheme=text,
        model=loaded.id,
        model_hash=hashed or model_hash(loaded.model),
        text_hash=tokens_hash(tokens, calibration),
        device=ranks().named(device_name(loaded.device)),
        versions=versions(),
    )
