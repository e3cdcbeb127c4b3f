"""Every architecture under the usual schemes: quantized, exported, loaded by transformers with our logits, or refused?

    python -m benchmarks.zoo                     every architecture that transformers knows (an hour); Markdown table
    python -m benchmarks.zoo llama mamba2        these
    python -m benchmarks.zoo --folders DIR       models that somebody else made, each a folder in DIR
    python -m benchmarks.zoo --streamed          left in their files: the codes, scales and ranges of models in memory?

Each model is random and tiny (`zoo_models`). Of each scheme one word is found:

    whole      all is quantized (at least 95% of the numbers in matrices that are no embedding, head, router or
               convolution), exported, and loaded by transformers with our logits
    part       the same, but for less than 95%, which was said
    refused    told before the work, in one sentence
    late       refused after work was done
    broken     anything else: another error, or other logits
"""

from __future__ import annotations

import argparse
import logging
import sys
import tempfile
import warnings
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

from benchmarks.zoo_models import build, names, save
from quantcore.export.checkpoint import export_checkpoint
from quantcore.export.checkpoint_format import as_stored
from quantcore.matmul.layers import QuantLinear
from quantcore.model import wholeness
from quantcore.model.linears import head_of, linear_shapes
from quantcore.model.loading import LoadedModel, load_model
from quantcore.model.places import copy_with
from quantcore.model.streamed import StreamedModel
from quantcore.model.wholeness import partly, wholeness_of
from quantcore.pipeline.parts import parts
from quantcore.scheme.plan import Plan

SCHEMES = {
    "W8A16": "w:int8/group{group}",
    "W4A16,gptq": "w:int4/group{group},gptq",
    "W8A8 static": "w:int8/channel,a:int8/tensor/static",
    "W8A8": "W8A8",
    "FP8_DYNAMIC": "FP8_DYNAMIC",
}
WHOLE, PART, REFUSED, LATE, BROKEN = "whole", "part", "refused", "late", "broken"
SAME = "same"  # streamed as in memory
TOLERANCE = 1e-3  # of logits, by their largest


@dataclass(frozen=True)
class Outcome:
    """Of one model under one scheme: one of the words above, and a sentence, or a share."""

    model: str
    scheme: str
    word: str
    says: str


def outcomes(folder: Path, schemes: Sequence[str] = tuple(SCHEMES)) -> Iterator[Outcome]:
    """What becomes of the model in a folder."""
    try:
        loaded = load_model(str(folder), "cpu")
    except Exception as error:
        word = REFUSED if _is_a_sentence(error) else BROKEN
        yield from (Outcome(folder.name, scheme, word, _said(error)) for scheme in schemes)
        return
    tokens = torch.randint(3, 400, (4, 32), generator=torch.Generator().manual_seed(0))
    for scheme in schemes:
        with tempfile.TemporaryDirectory() as out:
            word, says = outcome(loaded, SCHEMES[scheme].format(group=group_of(loaded)), Path(out) / "out", tokens)
        yield Outcome(folder.name, scheme, word, says)


def outcome(loaded: LoadedModel, scheme: str, out: Path, tokens: torch.Tensor) -> tuple[str, str]:
    worked = 0

    def progress(_share: float, _doing: str) -> None:
        nonlocal worked
        worked += 1

    try:
        report = export_checkpoint(loaded, scheme, out, tokens, progress=progress)
    except Exception as error:
        word = BROKEN if not _is_a_sentence(error) else LATE if worked else REFUSED
        return word, _said(error)
    try:
        read, missing = opened(out)
    except Exception as error:
        return BROKEN, f"transformers: {_said(error)}"
    if missing:
        return BROKEN, f"transformers misses {missing[0]}, of {len(missing)}"
    try:
        with torch.inference_mode():
            theirs = read(input_ids=tokens, use_cache=False).logits
            ours = plainly(loaded, scheme, getattr(torch, report.dtype), tokens)
            ours = ours(input_ids=tokens, use_cache=False).logits
    except Exception as error:
        return BROKEN, f"run: {_said(error)}"
    off = float((theirs - ours).abs().max() / ours.abs().max())
    share = share_of(loaded.model, scheme)
    if not off < TOLERANCE:
        return BROKEN, f"logits differ by {off:.2g}"
    if share < wholeness.WHOLE and partly(loaded.model) not in report.notes:
        return BROKEN, f"{share:.0%}, and nobody said so"
    return (WHOLE if share >= wholeness.WHOLE else PART), f"{share:.0%}"


def opened(folder: Path) -> tuple[Any, list[str]]:
    """The checkpoint as transformers opens it, and the tensors that it did not find or had no place for."""
    from transformers import AutoConfig
    from transformers.models.auto import modeling_auto

    architecture = AutoConfig.from_pretrained(folder).architectures[0]
    kind = getattr(__import__("transformers"), architecture, None) or modeling_auto.AutoModelForCausalLM
    read, info = kind.from_pretrained(folder, dtype=torch.float32, output_loading_info=True)
    return read.eval(), sorted({*info["missing_keys"], *info["unexpected_keys"]})


def streamed_outcomes(folder: Path, schemes: Sequence[str] = tuple(SCHEMES)) -> Iterator[Outcome]:
    """Whether a model that stays in its files becomes what it becomes in memory, number by number."""
    try:
        loaded, streamed = load_model(str(folder), "cpu"), StreamedModel(str(folder), "cpu")
    except Exception as error:
        word = REFUSED if _is_a_sentence(error) else BROKEN
        yield from (Outcome(folder.name, scheme, word, _said(error)) for scheme in schemes)
        return
    tokens = torch.randint(3, 400, (2, 32), generator=torch.Generator().manual_seed(0))
    for scheme in schemes:
        text = SCHEMES[scheme].format(group=group_of(loaded))
        whole, apart = _numbers(loaded, text, tokens), _numbers(streamed, text, tokens)
        if isinstance(whole, str) or isinstance(apart, str):
            yield Outcome(folder.name, scheme, REFUSED if whole == apart else BROKEN, str(apart)[:300])
            continue
        off = [name for name in whole if name not in apart or not torch.equal(whole[name], apart[name])]
        yield Outcome(folder.name, scheme, BROKEN if off or len(whole) != len(apart) else SAME, ", ".join(off[:2]))


def _numbers(source: LoadedModel | StreamedModel, scheme: str, tokens: torch.Tensor) -> dict[str, torch.Tensor] | str:
    """Every tensor of every quantized layer, byte by byte; or what is refused."""
    found: dict[str, torch.Tensor] = {}
    try:
        for part in parts(source, scheme, tokens):
            for name, layer in part.layers.items():
                held = {key: one for key, one in layer.named_buffers() if key != "bias"}
                found |= {f"{name}.{key}": one.contiguous().view(torch.uint8).clone() for key, one in held.items()}
    except ValueError as error:
        return _said(error)
    return found


def plainly(loaded: LoadedModel, scheme: str, dtype: torch.dtype, tokens: torch.Tensor) -> nn.Module:
    """Our quantized model with scales as they are stored, computed as a reader does: see `as_stored`."""
    found: dict[str, QuantLinear] = {}
    for part in parts(loaded, scheme, tokens):
        found |= part.layers
    for name, layer in found.items():
        found[name] = as_stored(layer, dtype)
        found[name].path = "dequantize"
    return copy_with(loaded.model, found)


def group_of(loaded: LoadedModel) -> int:
    """The largest group of 16, 8, 4, 2 or 1 columns that divides every layer."""
    widths = [width for _, width in linear_shapes(loaded.model).values()]
    return next(group for group in (16, 8, 4, 2, 1) if all(width % group == 0 for width in widths))


def share_of(model: nn.Module, scheme: str) -> float:
    """The share that the plan quantizes, of the numbers in the matrices that a scheme is about (`wholeness`)."""
    shapes, head = linear_shapes(model), head_of(model)
    done = Plan.parse(scheme).schemes_of(shapes, head)
    quantized = sum(rows * columns for name, (rows, columns) in shapes.items() if name in done and name != head)
    return quantized / max(1, quantized + sum(numbers for numbers, _ in wholeness_of(model).left.values()))


def _is_a_sentence(error: Exception) -> bool:
    return type(error) is ValueError and len(str(error)) < 400


def _said(error: Exception) -> str:
    return f"{'' if type(error) is ValueError else type(error).__name__ + ': '}{' '.join(str(error).split())[:300]}"


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.zoo", description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("models", nargs="*")
    parser.add_argument("--folders", type=Path)
    parser.add_argument("--schemes", nargs="*", default=list(SCHEMES), choices=list(SCHEMES))
    parser.add_argument("--streamed", action="store_true")
    asked = parser.parse_args(arguments)
    _be_quiet()
    words: Counter[str] = Counter()
    with tempfile.TemporaryDirectory() as made:
        for name in asked.models or ([one.name for one in asked.folders.iterdir()] if asked.folders else names()):
            folder = asked.folders / name if asked.folders else Path(made) / name
            if not asked.folders:
                try:
                    save(build(name), folder)
                except Exception as error:
                    print(f"| {name} | not built: {_said(error)[:150]} |", flush=True)
                    continue
            found = list((streamed_outcomes if asked.streamed else outcomes)(folder, asked.schemes))
            print(f"| {name} | {' | '.join(f'{one.word} {one.says}'[:250] for one in found)} |", flush=True)
            words.update(one.word for one in found)
    print(dict(words), file=sys.stderr)


def _be_quiet() -> None:
    torch.set_num_threads(1)  # tiny models: more threads wait for one another
    import transformers

    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()
    logging.getLogger("compressed_tensors").setLevel(logging.ERROR)
    warnings.simplefilter("ignore")


if __name__ == "__main__":
    main()
