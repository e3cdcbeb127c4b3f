"""The lab without a browser: the same verbs on the command line, JSON on stdout.

    python -m quantcore info                                          machine, versions, the reference model
    python -m quantcore schemes                                       presets, formats, granularities
    python -m quantcore layer --layer model.layers.3.mlp.down_proj --scheme w:int4/group128
    python -m quantcore evaluate --scheme W4A16 --text my.txt --max-tokens 2000
    python -m quantcore compare --schemes W4A16 W4A16,gptq W8A8 --out report.html
    python -m quantcore sensitivity --schemes W4A16 W8A16 --budget 5
    python -m quantcore answers --schemes W8A8 W4A16                  how soon greedy answers part
    python -m quantcore lens --caches kv:int8/token kv:int4/group32   coded KV caches along the context
    python -m quantcore quantize --scheme W4A16,gptq/actorder=weight --out reference-w4a16
    python -m quantcore quantize --stream --model owner/large --scheme W4A16 --out large-w4a16
    python -m quantcore recipe --scheme W4A16,gptq --model owner/name --out recipes
    python -m quantcore advise --gpu "H100 SXM" --goal latency        which scheme to ship, and why not the others
    python -m quantcore warm                                          compile the GPU's kernels now, once a machine
    python -m quantcore app                                           the pages, on http://127.0.0.1:8501

Where it is installed the command `quantcore` does the same.

Under torchrun (torchrun --nproc-per-node 2 -m quantcore quantize ...) quantize, evaluate, compare and sensitivity share
their work, one process a GPU.

--model is `reference` (the default), a folder, a GGUF file, or a hub id. Static activations and GPTQ learn from the
bundled calibration text, or from --calibrate-on (quantize: --text); everything is measured on the bundled evaluation
text, or on --text. A text is a .txt, .jsonl or .parquet file, or a data set of the hub: wikitext-2, owner/name,
owner/name:file; --chat puts its documents into the model's chat template. quantize, evaluate and compare leave a model
that is larger than the memory in its files and work on one block at a time; --stream asks for it. With --seed the
windows of those texts are drawn at random, else the first are taken. A checkpoint's scales, norms and embeddings are
of the narrowest type that holds the model's parameters exactly, or of --dtype.

Progress is on stderr, stdout holds one JSON value, floats in full precision. JSON has no infinity: an error of exactly
zero has its SQNR written as the string "inf". What was not measured is null. A mistake ends with exit code 2 and one
sentence on stderr.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import sys
from collections.abc import Callable, Sequence
from dataclasses import fields
from typing import Any, NoReturn

from quantcore.cli import about, costs, torchrun, verbs
from quantcore.cli.advise import add_options, advise
from quantcore.cli.behaviour import answers, lens
from quantcore.cli.pages import app
from quantcore.cli.sentences import require_readable, sentence
from quantcore.cli.texts import TextOptions
from quantcore.cli.warming import warm
from quantcore.export.plain import plain
from quantcore.lab.advice import GPU
from quantcore.lab.answers import ANSWER
from quantcore.lab.warm import keep_compiled
from quantcore.model.locate import REFERENCE
from quantcore.text.reading import CALIBRATE, EACH_LAYER, EVALUATE, LONG, PROMPTS, STUDY, Reading

SCHEME = "a scheme's text or a preset's name, see `schemes`"


def main(argv: Sequence[str] | None = None) -> int:
    """Run one verb; the exit code: 0, or 2 after a sentence on stderr."""
    keep_compiled()
    try:
        require_readable(sys.argv[1:] if argv is None else argv)
        options = vars(_parser().parse_args(argv))
        run = options.pop("run")
        said = {one.name: options.pop(one.name) for one in fields(TextOptions) if one.name in options}
        if said:
            options["texts"] = TextOptions(**said)
        torchrun.require_shared(run.__name__)
        if "device" in options:
            options["device"] = torchrun.device_here(options["device"])
        with torchrun.joined(options.get("device")) as those, contextlib.redirect_stdout(sys.stderr):
            result = run(**options)  # a library that chats must not spoil the JSON
        if not those.first:
            return 0
        text = json.dumps(plain(result), indent=2, allow_nan=False)
    except KeyboardInterrupt:
        return _ended("stopped; nothing was kept", 130)
    except SystemExit:  # --help
        raise
    except BaseException as error:  # a panic of a Rust library is no Exception
        return _ended(torchrun.ENDED if torchrun.lost_another(error) else sentence(error), 2)
    try:
        print(text, flush=True)
    except BrokenPipeError:  # `| head` has seen enough
        _leave_stdout()
    except OSError as error:
        _leave_stdout()
        return _ended(f"the result cannot be written to stdout ({error.strerror}); make room", 2)
    return 0


def _ended(why: str, code: int) -> int:
    """Say why, once among all processes of the run."""
    if torchrun.tells():
        print(f"quantcore: {why}", file=sys.stderr, flush=True)
    if torchrun.under_torchrun():
        torchrun.leave(code)
    return code


def _leave_stdout() -> None:
    """Let what waits to be written go nowhere, so that the interpreter's end has nothing to say of it."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


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

    verb(about.info).add_argument("--model", default=REFERENCE, help="`reference`, or a folder")
    verb(about.schemes)
    layer, whole, kept = verb(verbs.layer), verb(verbs.evaluate), verb(verbs.quantize)
    many, each, paper = verb(verbs.compare), verb(costs.sensitivity), verb(verbs.recipe)
    layer.add_argument("--layer", required=True, metavar="NAME", help="its dotted name, as `info` lists them")
    layer.add_argument("--scheme", required=True, metavar="S", help=SCHEME)
    for made in (whole, kept):
        made.add_argument("--scheme", required=True, metavar="S", help=f"{SCHEME}, or a plan")
    many.add_argument("--schemes", required=True, nargs="+", metavar="S", help=f"each {SCHEME}, or a plan")
    each.add_argument("--schemes", required=True, nargs="+", metavar="S", help=f"each {SCHEME}")
    wrote, along = verb(answers), verb(lens)
    wrote.add_argument("--schemes", required=True, nargs="+", metavar="S", help=f"each {SCHEME}, or a plan")
    wrote.add_argument("--tokens", type=int, default=ANSWER, metavar="N", help=f"of an answer (default {ANSWER})")
    along.add_argument("--caches", required=True, nargs="+", metavar="KV", help="such as kv:int8/token, one to six")
    along.add_argument("--facts", action="store_true", help="ask for facts placed early in the text, too")
    ahead = verb(warm)
    ahead.add_argument("--model", metavar="M", help="compile for its Linears' shapes (default: common ones)")
    ahead.add_argument("--device", help="cuda:0, cuda:1 ... (default: the first)")
    add_options(verb(advise))
    pages = verb(app)
    pages.add_argument("--port", type=int, default=8501, metavar="N", help="default 8501")
    pages.add_argument("--address", default="127.0.0.1", metavar="A", help="0.0.0.0 for a class; see README.md")
    measuring = (
        (layer, STUDY),
        (whole, EVALUATE),
        (many, EVALUATE),
        (each, EACH_LAYER),
        (wrote, PROMPTS),
        (along, LONG),
    )
    for made, usual in measuring:
        _add_reading(made, usual, "the text to measure on")
    _add_reading(kept, CALIBRATE, "the text to calibrate on")
    kept.add_argument("--out", required=True, metavar="FOLDER", help="the checkpoint's folder")
    kept.add_argument(
        "--reader", choices=("transformers", "vllm"), default="transformers", help="who is to load it (transformers)"
    )
    kept.add_argument("--dtype", choices=("bfloat16", "float16", "float32"), help="of all that is no code; see --help")
    for made in (layer, many):
        made.add_argument("--out", metavar="FILE.html", help="write the report as one HTML file")
    many.add_argument("--luck", action="store_true", help="measure rounding luck too: each scheme four times more")
    each.add_argument("--budget", type=float, metavar="BITS", help="a plan of at most so many bits a weight")
    each.add_argument("--megabytes", type=float, metavar="MB", help="a plan whose layers' weights take so much")
    each.add_argument("--milliseconds", type=float, metavar="MS", help="a plan whose products take so long, predicted")
    each.add_argument("--gpu", metavar="G", help=f"where, for --milliseconds ({GPU})")
    each.add_argument("--sequences", type=int, metavar="N", help="that are written at once there (1)")
    each.add_argument(
        "--probe", action="store_true", help="mend the plan: other schemes are tried in it, layer by layer"
    )
    each.add_argument(
        "--estimated", action="store_true", help="from a few backward passes over more text, not a run a layer"
    )
    which = paper.add_mutually_exclusive_group(required=True)
    which.add_argument("--scheme", metavar="S", help=f"{SCHEME}, or a plan")
    which.add_argument("--read", metavar="FILE", help="a recipe, YAML")
    paper.add_argument("--model", default=REFERENCE, metavar="M", help="the model that the script quantizes")
    paper.add_argument("--out", metavar="FOLDER", help="write recipe.yaml and quantize.py into it")
    for made in (layer, whole, many, each, wrote, along):
        made.add_argument("--calibrate-on", metavar="TEXT", help="what GPTQ and static ranges learn from")
    for made in (layer, whole, many, each, wrote, along, kept):
        made.add_argument("--chat", action="store_true", help="texts of yours stand in the model's chat template")
    for made in (whole, many, kept):
        made.add_argument("--stream", action="store_true", help="leave the weights in their files, a block in memory")
    for made in (layer, kept, many, paper):
        made.add_argument("--force", action="store_true", help="replace what --out names")
    return parser


def _add_reading(made: argparse.ArgumentParser, usual: Reading, text: str) -> None:
    most, length = usual.windows * usual.length, usual.length
    made.add_argument("--model", default=REFERENCE, metavar="M", help="`reference`, a folder, a GGUF file, or a hub id")
    made.add_argument("--text", metavar="TEXT", help=f"{text}: a file, or a hub's data set (default: {usual.source})")
    made.add_argument("--max-tokens", type=int, metavar="N", help=f"at most so many of it (default {most})")
    made.add_argument("--window", type=int, metavar="N", help=f"tokens a window (default {length})")
    made.add_argument("--device", help="cpu, cuda, cuda:1 ... (default: cuda where there is one)")
    made.add_argument("--seed", type=int, metavar="N", help="draw the texts' windows at random (default: the first)")
