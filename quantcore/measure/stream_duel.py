"""A duel over a model that stays in its files: each scheme is one walk, block by block, beside the float model.

    found = stream_duel(StreamedModel("some/folder"), ["W4A16", "W8A8"], tokens, calibration)

The figures are `duel`'s, without the layers' output_sqnr_db; nothing is kept in the store, and the float model is
walked once for each scheme.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime

from torch import Tensor

from quantcore.measure.duel import LIKELIEST, Duel, short_label, texts_of
from quantcore.model.streamed import StreamedModel
from quantcore.pipeline.calibration import Progress
from quantcore.pipeline.streaming import ALONE, Walked, stream_compare


def stream_duel(
    streamed: StreamedModel,
    schemes: Sequence[str],
    tokens: Tensor,
    calibration: Tensor,
    progress: Progress | None = None,
) -> Duel:
    """Every scheme on the model; the arguments are `duel`'s. Raises: ValueError, with the scheme's name, for one that
    the model cannot take."""
    texts = texts_of(schemes)
    walked: dict[str, Walked] = {}
    made: dict[str, str] = {}
    for place, text in enumerate(texts):

        def tell(share: float, layer: str, place: int = place, text: str = text) -> None:
            if progress:
                progress((place + share) / len(texts), f"{short_label(text)}: {layer}")

        try:
            walked[text] = stream_compare(streamed, text, tokens, calibration, progress=tell, likeliest=LIKELIEST)
        except ValueError as error:
            raise ValueError(f"{short_label(text)}: {error}") from error
        made[text] = datetime.now(UTC).isoformat(timespec="seconds")
    return Duel(
        float_scores=walked[texts[0]].comparison.float_scores,
        scores={text: one.comparison.scores[ALONE] for text, one in walked.items()},
        reports={text: one.comparison.reports[ALONE] for text, one in walked.items()},
        layers={text: one.layers for text, one in walked.items()},
        quantize_s={text: one.quantize_s for text, one in walked.items()},
        made=made,
    )
