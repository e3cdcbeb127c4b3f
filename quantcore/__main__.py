"""The lab without a browser: the same verbs on the command line, JSON on stdout.

    python -m quantcore info                                          machine, versions, the reference model
    python -m quantcore schemes                                       presets, formats, granularities
    python -m quantcore layer --layer model.layers.3.mlp.down_proj --scheme w:int4/group128
    python -m quantcore evaluate --scheme W4A16 --text my.txt --max-tokens 2000

--model is `reference` (the default), a folder, or a hub id. Static activations take their range from the bundled
calibration text; everything is measured on the bundled evaluation text, or on --text.

stdout holds one JSON value, floats in full precision. JSON has no infinity: an error of exactly zero has its SQNR
written as the string "inf". What was not measured is null. A mistake ends with exit code 2 and one sentence on stderr.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import math
import os
import sys
import warnings
from collections.abc import Callable, Sequence
from typing import Any, NoReturn

from quantcore import verbs
from quantcore.models import REFERENCE


def main(argv: Sequence[str] | None = None) -> int:
    """Run one verb; the exit code: 0, or 2 after a sentence on stderr."""
    try:
        options = vars(_parser().parse_args(argv))
        run = options.pop("run")
        with contextlib.redirect_stdout(sys.stderr):  # a library that chats must not spoil the JSON
            result = run(**options)
        text = json.dumps(plain(result), indent=2, allow_nan=False)
    except Exception as error:
        kind = "" if isinstance(error, ValueError) else f"{type(error).__name__}: "
        print(f"quantcore: {kind}{' '.join(str(error).split())}", file=sys.stderr)
        return 2
    try:
        print(text, flush=True)
    except BrokenPipeError:  # `| head` has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    return 0


def plain(value: Any, path: str = "result") -> Any:
    """The value with JSON's types only: infinities as "inf" and "-inf". Raises: ValueError for NaN, with its place."""
    if isinstance(value, dict):
        return {str(key): plain(item, f"{path}.{key}") for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [plain(item, f"{path}[{index}]") for index, item in enumerate(value)]
    if isinstance(value, float):
        if math.isnan(value):
            raise ValueError(f"{path} is NaN: the model's weights hold NaN or Inf, or overflow; repair them")
        return value if math.isfinite(value) else str(value)
    return value


class _Parser(argparse.ArgumentParser):
    """argparse, but a mistake is one sentence like every other."""

    def error(self, message: str) -> NoReturn:
        raise ValueError(f"{message}; see python -m quantcore --help")


def _parser() -> argparse.ArgumentParser:
    parser = _Parser("python -m quantcore", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    known = parser.add_subparsers(metavar="verb", required=True)

    def verb(run: Callable[..., dict[str, Any]]) -> argparse.ArgumentParser:
        made = known.add_parser(run.__name__, help=run.__doc__, description=run.__doc__)
        made.set_defaults(run=run)
        return made

    verb(verbs.info).add_argument("--model", default=REFERENCE, help="`reference`, or a folder")
    verb(verbs.schemes)
    layer, whole = verb(verbs.layer), verb(verbs.evaluate)
    layer.add_argument("--layer", required=True, metavar="NAME", help="its dotted name, as `info` lists them")
    for made in (layer, whole):
        made.add_argument(
            "--scheme", required=True, metavar="S", help="a scheme's text or a preset's name, see `schemes`"
        )
        made.add_argument("--model", default=REFERENCE, metavar="M", help="`reference`, a folder, or a hub id")
        made.add_argument("--text", metavar="FILE", help="a UTF-8 text file (default: our own evaluation text)")
        made.add_argument("--max-tokens", type=int, default=verbs.MAX_TOKENS, metavar="N", help="default %(default)s")
        made.add_argument("--device", help="cpu, cuda, cuda:1 ... (default: cuda where there is one)")
    return parser


if __name__ == "__main__":
    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
    os.environ.setdefault("HF_HUB_VERBOSITY", "critical")
    os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")
    warnings.simplefilter("ignore")
    sys.exit(main())
