"""The command line tried with what it cannot take: exit code 2 and one sentence, before any model is loaded where the
line or its files already say so."""

import contextlib
import errno
import json
import os
import re
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import torch

from quantcore.cli import outputs, verbs
from quantcore.cli.command import main
from quantcore.cli.sentences import LONGEST, sentence
from quantcore.lab.lab import Lab
from tests import forked

LAYER = ["layer", "--layer", "model.layers.1.mlp.down_proj", "--scheme", "w:int4/channel"]
LOADED = "a model is loaded"  # by whoever begins the work too early; the command line makes a sentence of it
LONG, DEEP = "n" * 300, "/".join(["d"] * 3000)


def refused(capsys: pytest.CaptureFixture[str], *words: object) -> str:
    """The sentence of a line that is refused."""
    assert main([str(word) for word in words]) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert "Traceback" not in err
    last = err.splitlines()[-1]
    assert last.startswith("quantcore: ")
    assert len(last) < 400
    assert LOADED not in last
    return last.removeprefix("quantcore: ")


@pytest.fixture
def no_model(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever loads a model has begun the work."""

    def load(*_: Any, **__: Any) -> None:
        raise AssertionError(LOADED)

    monkeypatch.setattr(Lab, "load", load)
    monkeypatch.setattr(Lab, "stream", load)


# --- names of files, in every option that has one

NO_NAMES = {
    "an unknown user's": ("~nobody-here/x", "cannot be the name of a file .Could not determine home directory"),
    "a name of 300 letters": (LONG, "cannot be the name of a file .File name too long"),
    "a path of 6,000 letters": (DEEP, "cannot be the name of a file .File name too long"),
    "half a character": ("a\udcffb", "a.b' is no text in UTF-8"),
    "a zero byte": ("a\0b", "is no text in UTF-8, or holds a zero byte"),
    "nothing": ("", "cannot be the name of a file .it is empty"),
}
NAMING = {
    "--text": LAYER,
    "--calibrate-on": ["evaluate", "--scheme", "w:int4/channel,gptq"],
    "--model": ["info"],
    "--out": LAYER,
    "--read": ["recipe"],
}


@pytest.mark.usefixtures("no_model")
@pytest.mark.parametrize("option", NAMING)
@pytest.mark.parametrize("tried", NO_NAMES)
def test_a_name_that_no_file_can_have_is_refused(capsys: pytest.CaptureFixture[str], option: str, tried: str) -> None:
    name, refusal = NO_NAMES[tried]
    assert re.search(refusal, refused(capsys, *NAMING[option], f"{option}={name}"))


@pytest.mark.usefixtures("no_model")
@pytest.mark.parametrize("tried", ["/proc/self/mem", "/dev/zero", "/dev/null", "pipe", "socket", "folder"])
def test_what_is_no_file_to_read_is_refused(capsys: pytest.CaptureFixture[str], tried: str, odd: Path) -> None:
    for words in ([*LAYER, "--text"], ["recipe", "--read"]):
        found = refused(capsys, *words, odd / tried)
        assert any(part in found for part in ("no file is called", "is empty", "may not be read", "no llm-compressor"))


@pytest.fixture
def odd(tmp_path: Path) -> Iterator[Path]:
    """A folder of things that are no files: pipe, socket, folder, and links to nothing, to itself, to a device."""
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "folder").mkdir()
    (tmp_path / "nowhere").symlink_to(tmp_path / "none")
    (tmp_path / "loop").symlink_to(tmp_path / "loop")
    (tmp_path / "device").symlink_to("/dev/null")
    (tmp_path / "file").write_text("mine")
    with contextlib.closing(socket.socket(socket.AF_UNIX)) as made:
        made.bind(str(tmp_path / "socket"))
        yield tmp_path


# --- where a result is to go

WRITING = {
    "layer": LAYER,
    "compare": ["compare", "--schemes", "w:int4/channel"],
    "quantize": ["quantize", "--scheme", "w:int4/channel"],
    "recipe": ["recipe", "--scheme", "W4A16"],
}
NO_PLACES = ["pipe", "socket", "nowhere", "loop", "device", "none/such", "file/x", "/dev/null", "/proc/x", "/sys/x"]


@pytest.mark.usefixtures("no_model")
@pytest.mark.parametrize("verb", WRITING)
@pytest.mark.parametrize("tried", NO_PLACES)
def test_an_out_that_cannot_be_written_is_refused_before_the_work_and_left_as_it_is(
    capsys: pytest.CaptureFixture[str], odd: Path, verb: str, tried: str
) -> None:
    before = {one.name: one.lstat().st_mode for one in odd.iterdir()}
    refused(capsys, *WRITING[verb], "--force", "--out", odd / tried)
    assert {one.name: one.lstat().st_mode for one in odd.iterdir()} == before
    assert not Path("/dev/null").is_file()


@pytest.mark.usefixtures("no_model")
@pytest.mark.parametrize("verb", WRITING)
def test_a_folder_that_takes_no_more_is_told_before_the_work(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, verb: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: Any, **__: Any) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(Path, "mkdir" if verb == "quantize" else "write_bytes", full)
    assert "No space left on device" in refused(capsys, *WRITING[verb], "--out", tmp_path / "x")
    assert list(tmp_path.iterdir()) == []


def test_a_report_whose_disk_fills_up_leaves_no_part_of_itself(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(path: Path, *_: Any, **__: Any) -> None:
        path.touch()
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(Path, "write_text", full)
    with pytest.raises(ValueError, match="cannot write .*x.html' .No space left on device.; choose another place"):
        outputs.write_whole(tmp_path / "x.html", "<html>")
    assert list(tmp_path.iterdir()) == []


# --- numbers

NUMBERS = {
    "--budget=nan": "nan bits per weight are no budget; give a number such as 5",
    "--budget=-1": "-1 bits per weight are no budget",
    "--budget=0": "0 bits per weight are no budget",
    "--budget=inf": "inf bits per weight are no budget",
    "--budget=-inf": "-inf bits per weight are no budget",
    "--budget=x": "argument --budget: invalid float value",
    "--megabytes=-1": "--megabytes -1 are no budget; give a number above 0",
    "--megabytes=nan": "--megabytes nan are no budget",
    "--milliseconds=0": "a budget of 0 ms on H100 SXM cannot be met: the cheapest scheme for every layer takes",
    "--milliseconds=nan": "a budget of nan ms on H100 SXM cannot be met",
    "--gpu=L4": "--gpu and --sequences say where --milliseconds are spent; give those too, or leave them out",
    "--sequences=1": "--gpu and --sequences say where --milliseconds are spent",
    "--milliseconds=1 --gpu=Voodoo": "no GPU of the table is called 'Voodoo'; it has",
    "--milliseconds=1 --sequences=0": "sequences=0 is no load; give at least 1",
    "--window=0": "--window 0 is too short",
    "--window=-1": "--window -1 is too short",
    "--window=1": "--window 1 is too short",
    "--window=1e3": "argument --window: invalid int value",
    "--max-tokens=0": "--max-tokens 0 is too few; give at least 10",
    "--max-tokens=-5": "--max-tokens -5 is too few",
    "--max-tokens=1.5": "argument --max-tokens: invalid int value",
    "--seed=-1": "--seed -1 is no seed; give a whole number of 0 to 9223372036854775807",
    f"--seed={2**64}": "--seed 18446744073709551616 is no seed",
    "--seed=x": "argument --seed: invalid int value",
    "--device=cuda:99": "device 'cuda:99' is not on this machine; it has cpu",
    "--device=": "device '' is not on this machine",
}


@pytest.mark.parametrize("tried", NUMBERS)
def test_a_number_is_refused(capsys: pytest.CaptureFixture[str], tried: str, request: pytest.FixtureRequest) -> None:
    if not tried.startswith("--device"):
        request.getfixturevalue("no_model")
    assert NUMBERS[tried] in refused(capsys, "sensitivity", "--schemes", "w:int4/channel", *tried.split())


OF_OTHER_THINGS = {
    "sensitivity --schemes W4A16 kv:int8/token": "kv:int8/token/dynamic speaks of the whole cache; leave it out",
    "sensitivity --schemes W4A16 float": "float quantizes nothing, so no layer can hurt",
    f"layer --layer {LAYER[2]} --scheme W4A16,kv:int8/token": "speaks of the whole model's cache; leave it out",
    f"layer --layer {LAYER[2]} --scheme w:int4/group48": "group48 does not divide in_features=1024; try group32",
    f"layer --layer {LAYER[2]} --scheme W8A8,a:int8/group48/dynamic": "group48 does not divide in_features=1024",
    f"layer --layer {LAYER[2]} --scheme W4A16@o_proj=W8A8": "'W4A16@o_proj=W8A8' has exceptions behind @, which a plan",
    "answers --schemes W4A16 --tokens 0": "--tokens 0 is no answer; give at least 1",
    f"lens --caches {' '.join(f'kv:int{bits}/token' for bits in range(2, 9))}": "7 caches cannot be seen at once",
    "lens --caches kv:int8/token --window 63": "--window 63 is too short for a lens; give at least 64",
}


@pytest.mark.usefixtures("no_model")
@pytest.mark.parametrize("tried", OF_OTHER_THINGS)
def test_what_a_verb_is_not_asked_of_is_told_before_the_model_is_loaded(
    capsys: pytest.CaptureFixture[str], tried: str
) -> None:
    assert OF_OTHER_THINGS[tried] in refused(capsys, *tried.split())


def test_a_budget_that_no_scheme_meets_is_told_before_a_layer_is_measured(
    capsys: pytest.CaptureFixture[str], tiny_model_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def measure(*_: Any, **__: Any) -> None:
        raise AssertionError(LOADED)

    monkeypatch.setattr("quantcore.studies.plans.layer_costs", measure)
    words = ["sensitivity", "--model", tiny_model_dir, "--schemes", "w:int4/group32", "w:int8/channel"]
    # int4 in groups of 32: 4 + 16 / 32
    found = refused(capsys, *words, "--budget", "4.4")
    assert "a budget of 4.4 bits per weight cannot be met: the smallest scheme for every layer takes 4.5" in found


@pytest.mark.parametrize("words", [("--max-tokens", "1000000000000"), ("--seed", "7")])
def test_a_large_number_is_as_much_as_there_is(
    capsys: pytest.CaptureFixture[str], tiny_model_dir: Path, words: tuple[str, str], tmp_path: Path
) -> None:
    (tmp_path / "a.txt").write_text("The keeper lit the lamp. " * 20)
    assert main([*LAYER, "--model", str(tiny_model_dir), "--text", str(tmp_path / "a.txt"), *words]) == 0
    assert json.loads(capsys.readouterr().out)["text"]["tokens"] > 100


def test_a_window_longer_than_there_is_is_told(
    capsys: pytest.CaptureFixture[str], tiny_model_dir: Path, tmp_path: Path
) -> None:
    (tmp_path / "a.txt").write_text("The keeper lit the lamp. " * 5)
    asked = (*LAYER, "--model", tiny_model_dir, "--text", tmp_path / "a.txt", "--window")
    assert "is longer than the" in refused(capsys, *asked, "1000000000")
    assert "is longer than what is read of" in refused(capsys, *asked, "200")


@pytest.mark.usefixtures("no_model")
def test_a_window_or_a_layer_that_the_model_has_not_is_told_before_it_is_loaded(
    capsys: pytest.CaptureFixture[str], tiny_model_dir: Path
) -> None:
    model = ("--model", tiny_model_dir)
    assert "--window 513 is longer than the 256 tokens" in refused(capsys, *LAYER, *model, "--window", "513")
    for verb in (["evaluate", "--scheme"], ["sensitivity", "--schemes"], ["compare", "--schemes"]):
        line = (*verb, "w:int4/channel", *model, "--window", "513")
        assert "--window 513 is longer than the 256 tokens" in refused(capsys, *line)
    line = ("layer", "--layer", "no.such", "--scheme", "w:int4/channel", *model)
    assert "no Linear layer is called 'no.such'; this model has 15" in refused(capsys, *line)


@pytest.mark.usefixtures("no_model")
def test_a_window_longer_than_a_text_is_told_before_the_model_is_loaded(
    capsys: pytest.CaptureFixture[str], tiny_model_dir: Path, tmp_path: Path
) -> None:
    """Of the text that is measured on, and of the one that is learned from, where the scheme learns."""
    (tmp_path / "a.txt").write_text("The keeper lit the lamp. " * 5)
    own, window = ("--model", tiny_model_dir), ("--window", "200")
    for verb in (["evaluate", "--scheme"], ["sensitivity", "--schemes"], ["compare", "--schemes"]):
        line = (*verb, "w:int4/channel", *own, "--text", tmp_path / "a.txt", *window)
        assert f"--window 200 is longer than what is read of {tmp_path / 'a.txt'}" in refused(capsys, *line)
        line = (*verb, "w:int4/channel,gptq", *own, "--calibrate-on", tmp_path / "a.txt", *window)
        assert "--window 200 is longer than what is read of" in refused(capsys, *line)
    line = ("quantize", "--scheme", "w:int4/channel,gptq", *own, "--text", tmp_path / "a.txt", *window)
    assert "--window 200 is longer than" in refused(capsys, *line, "--out", tmp_path / "out")


PLACES_TO_SERVE = {
    "--port=0": "--port 0 is no port; give a number of 1 to 65535",
    "--port=-1": "--port -1 is no port",
    "--port=99999999": "--port 99999999 is no port",
    "--port=x": "argument --port: invalid int value",
    "--address=": "--address '' is no address of a machine; give 127.0.0.1",
    "--address=nope nope": "--address 'nope nope' is no address of a machine",
    "--address=999.1.1.1": "--address '999.1.1.1' is no address of a machine",
    f"--address={'a.' * 300}": "is no address of a machine",
    "--address=192.0.2.1": "no server can listen on '192.0.2.1', port 8501 (",  # kept free for documents: nobody's
}


@pytest.mark.parametrize("tried", PLACES_TO_SERVE)
def test_a_place_that_no_server_can_have_is_refused(
    capsys: pytest.CaptureFixture[str], tried: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def begun(*_: Any) -> None:
        raise AssertionError(LOADED)

    monkeypatch.setattr(os, "execv", begun)
    assert PLACES_TO_SERVE[tried] in refused(capsys, "app", tried)


def test_a_port_that_another_server_has_is_refused(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "execv", lambda *_: pytest.fail("the server was started"))
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = str(other.getsockname()[1])
        said = refused(capsys, "app", "--port", port)
    assert f"no server can listen on '127.0.0.1', port {port} (Address already in use); give another --port" in said


@pytest.mark.parametrize("many", ["0", "-1", "5000", "9" * 30])
def test_so_many_gpus_are_refused(capsys: pytest.CaptureFixture[str], many: str) -> None:
    assert f"{many[:20]} GPUs" in refused(capsys, "advise", "--gpus", many)


# --- words

WORDS = {
    "no verb": [],
    "a verb of 10,000 letters": ["v" * 10_000],
    "an option of 10,000 letters": [*LAYER, "--" + "o" * 10_000],
    "a scheme of 9,000 letters": ["evaluate", "--scheme", "s" * 9000],
    "a scheme of 7,000 letters": ["evaluate", "--scheme", "W4A16@" + "s" * 7000],
    "an empty scheme": ["evaluate", "--scheme", ""],
    "a device of 5,000 letters": [*LAYER, "--device", "d" * 5000],
    "a model of 200 letters": ["info", "--model", "m" * 200 + "!"],
    "half a character for a layer": ["layer", "--layer", "\ud800", "--scheme", "W4A16"],
    "half a character for a scheme": ["evaluate", "--scheme", "w:int4/\udfff"],
    "half a character for an option": ["evaluate", "--\udfff"],
    "a damping that is no number": ["evaluate", "--scheme", "w:int4/channel,gptq/damp=nan"],
    "a group of 10^30": ["evaluate", "--scheme", f"w:int4/group{10**30}"],
}


@pytest.mark.parametrize("tried", WORDS)
def test_words_are_refused_in_one_short_sentence(capsys: pytest.CaptureFixture[str], tried: str) -> None:
    refused(capsys, *WORDS[tried])


# --- recipes

ONE = "stage: {group: {QuantizationModifier: {%s}}}"
GROUP = ONE % "config_groups: {g: {targets: [Linear], weights: {%s}}}"


def laughs(levels: int) -> str:
    """A list of 40^levels words where the modifier's targets should be, in a few hundred bytes."""
    names, free = "abcdefghi"[:levels], ("sequential_targets", "format", "scale_dtype", "zp_dtype", "offload_hessians")
    lists = [f"{free[i]}: &{b} [{', '.join([f'*{a}'] * 40)}]" for i, (a, b) in enumerate(pairwise(names))]
    return ", ".join(["sequential_update: &a [x, x]", *lists, f"targets: *{names[-1]}"])


RECIPES = {
    "empty": ("", "this is no llm-compressor recipe; one has a stage"),
    "a number": ("5", "this is no llm-compressor recipe"),
    "a tag that makes Python objects": ("!!python/object/apply:os.system ['id']", "no llm-compressor recipe"),
    "broken off": ("stage: {", "this is no llm-compressor recipe"),
    "nested": ("[" * 100_000, "what is nested 21 levels deep is no llm-compressor recipe"),
    "nested in lines": ("- " * 50_000, "what is nested 21 levels deep is no llm-compressor recipe"),
    "too long": ("a: 1\n" * 40_000, "a recipe of 200,000 characters is none that can be read"),
    "anchors that multiply": (
        "a: &a [x,x,x]\n" + "".join(f"{b}: &{b} [*{a},*{a},*{a}]\n" for a, b in pairwise("abcdefghi")),
        "the recipe refers to an earlier part ('*a'), which this reader does not follow; write it out",
    ),
    "anchors that multiply in a list of words": (ONE % laughs(6), "the recipe refers to an earlier part ('*a')"),
    "merges that multiply": (
        "a: &a {k: 1}\n" + "".join(f"{b}: &{b} {{<<: [*{a},*{a},*{a}]}}\n" for a, b in pairwise("abcdefghi")),
        "the recipe merges mappings",
    ),
    "no modifier": ("stage: {}", "the recipe has no modifier"),
    "a modifier that is null": ("stage: {group: }", "the recipe has no modifier"),
    "another method's": ("stage: {group: {AutoRoundModifier: {iters: []}}}", "AutoRoundModifier is no method"),
    "a modifier that is a number": ("stage: {group: {QuantizationModifier: 5}}", "is '5', not a mapping of"),
    "neither scheme nor groups": (ONE % "", "has neither a scheme nor config_groups"),
    "a word spelled wrong": (ONE % "shceme: W4A16", "QuantizationModifier has 'shceme', which this lab does not know"),
    "a cache that we have not": (ONE % "scheme: W4A16, kv_cache_scheme: {strategy: token}", "has the strategy token"),
    "bits in letters": (GROUP % "num_bits: four", "QuantizationModifier.config_groups.g.weights.num_bits is 'four'"),
    "bits in a list": (GROUP % "num_bits: [4]", "num_bits is '[4]', not a whole number; mend it"),
    "bits beyond": (GROUP % "num_bits: 1000000000", "int codes of 1000000000 bits are none that this reader knows"),
    "bits that are true": (GROUP % "num_bits: true", "num_bits is 'True', not a whole number"),
    "a block without its sizes": (GROUP % "strategy: block", "the recipe's strategy block needs its block_structure"),
    "a block of one size": (GROUP % "strategy: block, block_structure: [128]", "not two whole numbers"),
    "a group without its size": (GROUP % "num_bits: 4, strategy: group", "group0 is no group"),
    "a group in letters": (GROUP % "num_bits: 4, group_size: x", "group_size is 'x', not a whole number"),
    "dynamic, maybe": (GROUP % "dynamic: maybe", "dynamic is 'maybe', not true or false"),
    "an observer in a list": (GROUP % "observer: [1]", "observer is '[1]', not a word"),
    "an observer's options": (GROUP % "observer_kwargs: 5", "observer_kwargs is '5', not a mapping of its options"),
    "layers in a number": (ONE % "scheme: W4A16, ignore: 5", "ignore is '5', not a list of words"),
    "layers in a list of numbers": (ONE % "scheme: W4A16, ignore: [5]", "ignore is '[5]', not a list of words"),
    "weights in a number": (ONE % "config_groups: {g: {weights: 5}}", "weights is '5', not a mapping of its options"),
    "a scheme in a number": (ONE % "scheme: 5", "scheme is '5', not a word"),
    "an unknown scheme": (ONE % "scheme: NOPE", "scheme is 'NOPE', not a preset of compressed-tensors"),
    "damping in letters": ("s: {g: {GPTQModifier: {scheme: W4A16, dampening_frac: x}}}", "is 'x', not a number"),
    "damping that is no number": ("s: {g: {GPTQModifier: {scheme: W4A16, dampening_frac: .nan}}}", "damp=nan"),
    "an expression that is none of ours": (ONE % "scheme: W4A16, ignore: ['re:(a+)+$']", "it repeats groups"),
}  # fmt: skip


@pytest.mark.parametrize("tried", RECIPES)
def test_a_recipe_is_refused(capsys: pytest.CaptureFixture[str], tmp_path: Path, tried: str) -> None:
    text, refusal = RECIPES[tried]
    (tmp_path / "recipe.yaml").write_text(text)
    started = time.perf_counter()
    assert refusal in refused(capsys, "recipe", "--read", tmp_path / "recipe.yaml")
    assert time.perf_counter() - started < 30  # none takes a second


# --- what only the work can tell

ENDS: dict[str, tuple[Callable[[], BaseException], str]] = {
    "no memory, says Python": (MemoryError, "there was not enough memory; try fewer tokens (--max-tokens)"),
    "no memory, says torch": (
        lambda: pytest.raises(RuntimeError, torch.empty, 10**15).value,
        "there was not enough memory",
    ),
    "no memory, says numpy": (
        lambda: MemoryError("Unable to allocate 8.00 TiB for an array with shape (1048576, 1048576)"),
        "there was not enough memory (8192.00 GiB more were asked for)",
    ),
    "no memory, says a GPU": (
        lambda: torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 3.50 GiB. GPU 0 has ..."),
        "there was not enough memory (3.50 GiB more were asked for); try",
    ),
    "a panic": (
        lambda: type("PanicException", (BaseException,), {})("index out of bounds"),
        "the lab met an error of its own (PanicException: index out of bounds); please report it",
    ),
    "a disk": (
        lambda: OSError(errno.EIO, "Input/output error", "/some/file"),
        "the system refuses '/some/file' (Input/output error); check the place and its rights",
    ),
    "half a character": (lambda: UnicodeEncodeError("utf-8", "\ud800", 0, 1, "surrogates"), "UnicodeEncodeError"),
    "something nested": (RecursionError, "something is nested too deeply to be read"),
    "88,000 characters": (lambda: ValueError("no " * 30_000 + "; give another"), "no no no"),
}


@pytest.mark.parametrize("tried", ENDS)
def test_what_ends_the_work_is_told_in_one_sentence(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tried: str
) -> None:
    make, told = ENDS[tried]
    error = make()

    def work(*_: Any, **__: Any) -> None:
        raise error

    monkeypatch.setattr(verbs, "loaded_lab", work)
    assert told in refused(capsys, *LAYER)


def test_a_long_sentence_keeps_its_way_out() -> None:
    found = sentence(ValueError("what is wrong " * 100 + "; give another"))
    assert found.startswith("what is wrong")
    assert found.endswith("; give another")
    assert len(found) <= LONGEST + len("...")


def test_ctrl_c_ends_it_with_130(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    def work(*_: Any, **__: Any) -> None:
        os.kill(os.getpid(), signal.SIGINT)
        time.sleep(5)

    monkeypatch.setattr(verbs, "loaded_lab", work)
    before = signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's background command ignores it
    try:
        assert main(LAYER) == 130
    finally:
        signal.signal(signal.SIGINT, before)
    assert capsys.readouterr().err.splitlines()[-1] == "quantcore: stopped; nothing was kept"


INTO = """
import os, runpy, sys
if sys.argv[1] == "closed pipe":
    read, write = os.pipe()
    os.close(read)
else:
    write = os.open(sys.argv[1], os.O_WRONLY)
os.dup2(write, 1)
sys.argv = ["quantcore", "schemes"]
runpy.run_module("quantcore", run_name="__main__", alter_sys=True)
"""


@pytest.mark.parametrize(("to", "code"), [("/dev/full", 2), ("closed pipe", 0)])
def test_a_stdout_that_takes_nothing(to: str, code: int) -> None:
    done = forked.run("-c", INTO, to)
    assert done.returncode == code
    if code == 2:
        assert done.stderr == "quantcore: the result cannot be written to stdout (No space left on device); make room\n"
    else:
        assert done.stderr == ""


EARLY = """
import os, signal, sys
signal.signal(signal.SIGINT, signal.default_int_handler)
class Finder:
    def find_spec(self, name, path=None, target=None):
        if name == "torch":
            os.kill(os.getpid(), signal.SIGINT)
sys.meta_path.insert(0, Finder())
sys.argv = ["quantcore", "info"]
import runpy
runpy.run_module("quantcore", run_name="__main__", alter_sys=True)
"""


def test_ctrl_c_is_one_line_while_torch_is_imported_too() -> None:
    done = subprocess.run(
        [sys.executable, "-c", EARLY], cwd=Path(__file__).parents[2], capture_output=True, text=True, timeout=120
    )
    assert (done.returncode, done.stdout, done.stderr) == (130, "", "quantcore: stopped; nothing was kept\n")
