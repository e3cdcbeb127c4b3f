"""What the page "Which layers hurt" needs: sensitivities that are kept, and a plan measured beside uniform schemes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict

from torch import Tensor

from quantcore.measure.sensitivity import LayerCosts, Sensitivity, SoFar, joined, layer_costs, texts_on
from quantcore.measure.store import Answer, Question, Store, model_hash, shape_of, tokens_hash
from quantcore.model.loading import LoadedModel
from quantcore.model.machine import device_name, versions
from quantcore.pipeline.calibration import Progress
from quantcore.pipeline.ranks import ranks
from quantcore.scheme.scheme import Scheme


def kept_sensitivity(
    loaded: LoadedModel,
    schemes: Sequence[str],
    tokens: Tensor,
    calibration: Tensor,
    store: Store,
    *,
    all_but: bool = False,
    hashed: str | None = None,
    progress: Progress | None = None,
    so_far: SoFar | None = None,
) -> Sensitivity:
    """`sensitivity`, scheme by scheme from the store where it is there, else measured and kept; `so_far` as in
    `layer_costs`."""
    texts = texts_on(loaded.model, schemes)
    found = {text: kept_costs(loaded, text, tokens, calibration, store, all_but, hashed) for text in texts}
    missing = ranks().all_said([text for text in texts if found[text] is None])[0]
    for place, text in enumerate(missing):

        def tell(share: float, layer: str, place: int = place, text: str = text) -> None:
            if progress:
                progress((place + share) / len(missing), f"{Scheme.parse(text).label}: {layer}")

        costs = layer_costs(
            loaded.model, text, tokens, all_but=all_but, calibration=calibration, progress=tell, so_far=so_far
        )
        if ranks().first:
            store.put(_question(loaded, text, tokens, calibration, all_but, hashed), asdict(costs), {})
        found[text] = costs
    found = ranks().all_said(found)[0]
    return joined([costs for costs in found.values() if costs is not None])


def kept_costs(
    loaded: LoadedModel,
    text: str,
    tokens: Tensor,
    calibration: Tensor,
    store: Store,
    all_but: bool = False,
    hashed: str | None = None,
) -> LayerCosts | None:
    """The kept costs of one scheme, None if they were not measured yet; those with all_but answer for both."""
    for wider in (True,) if all_but else (True, False):
        answer = store.get(_question(loaded, text, tokens, calibration, wider, hashed), _shape)
        if answer is not None:
            return _read(answer)
    return None


def _read(answer: Answer) -> LayerCosts:
    return LayerCosts(**answer.figures)


def _shape(answer: Answer) -> Sensitivity:
    return joined([_read(answer)])


def _question(
    loaded: LoadedModel, text: str, tokens: Tensor, calibration: Tensor, all_but: bool, hashed: str | None
) -> Question:
    return Question(
        kind=f"layer costs{', all but' * all_but} {shape_of(LayerCosts)}",
        scheme=text,
        model=loaded.id,
        model_hash=hashed or model_hash(loaded.model),
        text_hash=tokens_hash(tokens, calibration),
        device=ranks().named(device_name(loaded.device)),
        versions=versions(),
    )
