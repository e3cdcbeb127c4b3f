"""What a reader of answers would notice: where greedy answers part from the float model's."""

from __future__ import annotations

from torch import nn

from quantcore.lab.bench import LEARNED, Bench
from quantcore.lab.whole import SoFar
from quantcore.matmul.decoded import decoded
from quantcore.pipeline.calibration import Progress
from quantcore.pipeline.convert import quantized_copy
from quantcore.studies.answers import Answers, greedy_answers
from quantcore.text.reading import PROMPTS

ANSWER = 32  # tokens


def answers(
    lab: Bench,
    schemes: tuple[str, ...],
    count: int = ANSWER,
    reading: str = str(PROMPTS),
    calibration: str = LEARNED,
    progress: Progress | None = None,
    so_far: SoFar | None = None,
) -> Answers:
    """Every window of `reading` is a prompt, which the float model and each scheme's copy write on greedily.

    Raises: ValueError where prompt and answer are longer than the model's context."""
    prompts = lab.tokens(reading)
    context = lab.loaded.context
    if context is not None and prompts.shape[1] + count > context:
        raise ValueError(
            f"prompts of {prompts.shape[1]} tokens and answers of {count} are more than the {context} tokens that this "
            "model reads; take shorter windows"
        )

    def quantized(scheme: str, tell: Progress | None) -> nn.Module:
        return decoded(quantized_copy(lab.model, scheme, lab.text_for(scheme, calibration), tell))

    ends = {lab.loaded.tokenizer.eos_token_id}
    prompts = prompts.to(lab.loaded.device)
    return greedy_answers(lab.model, quantized, schemes, prompts, count, ends, progress)
