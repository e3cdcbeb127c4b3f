"""The verb `advise`: which scheme to ship on a GPU under a load, and why not the others."""

from __future__ import annotations

import argparse
from dataclasses import asdict
from typing import Any

from quantcore.advice.choice import GOALS
from quantcore.advice.load import Load
from quantcore.advice.losses import TOLERANCES
from quantcore.cli.labs import loaded_lab
from quantcore.cli.outputs import progress_bar
from quantcore.lab.advice import GOAL, GPU, TOLERANCE
from quantcore.lab.lab import Lab
from quantcore.model.locate import REFERENCE
from quantcore.text.reading import Texts

USUAL = Load()


def advise(
    model: str = REFERENCE,
    gpu: str = GPU,
    gpus: int = 1,
    context: int = USUAL.context,
    sequences: int = USUAL.sequences,
    prompt: int = USUAL.prompt,
    answer: int = USUAL.answer,
    goal: str = GOAL,
    tolerance: str = TOLERANCE,
    measure: bool = False,
    luck: bool = False,
    device: str | None = None,
) -> dict[str, Any]:
    """which scheme to ship: this model, this GPU, this load, and why not the others; --measure tries them first"""
    load = str(Load(sequences, context, prompt, answer))
    if luck and not measure:
        raise ValueError("--luck is rounding luck that is measured on the model; give --measure with it")
    if not measure:
        return asdict(Lab(device=device).advise(gpu, gpus, load, goal, tolerance, model))
    lab = loaded_lab(model, device, Texts())
    with progress_bar("trying") as tell:
        return asdict(lab.tried(gpu, gpus, load, goal, tolerance, luck=luck, progress=tell))


def add_options(made: argparse.ArgumentParser) -> None:
    made.add_argument(
        "--model",
        default=REFERENCE,
        metavar="M",
        help="an id of the catalogue or the hub, a folder, a config.json, a GGUF",
    )
    made.add_argument("--gpu", default=GPU, metavar="GPU", help='such as "H100 80GB", "RTX 4090", cpu')
    made.add_argument("--gpus", type=int, default=1, metavar="N", help="how many of them (default 1)")
    made.add_argument("--context", type=int, default=USUAL.context, metavar="N", help="tokens a sequence may have")
    made.add_argument("--sequences", type=int, default=USUAL.sequences, metavar="N", help="at once")
    made.add_argument("--prompt", type=int, default=USUAL.prompt, metavar="N", help="tokens of a typical prompt")
    made.add_argument("--answer", type=int, default=USUAL.answer, metavar="N", help="tokens of a typical answer")
    made.add_argument("--goal", default=GOAL, choices=GOALS, help="what matters")
    made.add_argument("--tolerance", default=TOLERANCE, choices=tuple(TOLERANCES), help="how much may be lost")
    made.add_argument("--measure", action="store_true", help="load the model and measure the candidates first")
    made.add_argument("--luck", action="store_true", help="with --measure: the finalists' rounding luck too")
    made.add_argument("--device", help="cpu, cuda, cuda:1 ... to measure on (default: cuda where there is one)")
