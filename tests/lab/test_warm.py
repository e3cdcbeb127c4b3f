"""Kernels are compiled ahead by worker processes, once for a machine; the works run on a CPU too, for these tests."""

import json
import os
import subprocess
import sys
import threading
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from quantcore.cli.command import main
from quantcore.lab import warm as warming
from quantcore.lab.warm import compile_apart, keep_compiled, warm
from quantcore.lab.warm_works import COMMON, REFERENCE, Work, run, works
from quantcore.numbers.kernels import launch
from tests.browser_fixtures import ROOT
from ui.jobs import Jobs

GOOD = [Work("gptq", "w:int4/group128/asym,gptq/actorder=weight", (16, 256)), Work("product", "W8A8", (16, 128), 3)]
GOOD += [Work("trace", "w:int4/group128,gptq", (16, 256)), Work("product", "FP8", (16, 128), 3)]
BAD = Work("product", "w:int4/group100", (16, 128), 3)
on_gpu = pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device on this machine")


def test_the_works_reach_every_tile_and_no_scheme_that_does_not_fit() -> None:
    found = works([(384, 384), (14336, 4096), (40, 96)])
    assert len(set(found)) == len(found)
    assert {work.tokens for work in found if work.kind == "product"} == {1, 8, 16, 24, 32, 40, 64, 100, 256, 2048}
    assert {f"w:int{bits}/channel" for bits in range(2, 9)} <= {
        work.scheme for work in found
    }  # the first page's slider
    assert not [work for work in found if work.shape == (40, 96) and work.scheme in ("W4A16", "FP8_BLOCK")]
    assert [work for work in found if work.shape == (40, 96) and work.scheme == "W8A8"]
    assert max(work.shape[0] for work in found) == 8256  # 14336 rows take the tile of many: fewer do as well
    assert not [work for work in found if work.shape[1] > 8192]
    assert [work.shape for work in works([(4096, 14336)]) if work.kind == "gptq"][0] == (64, 8320)
    assert set(REFERENCE) < set(COMMON)


def test_the_works_are_the_real_functions() -> None:
    for work in GOOD:
        run(work, torch.device("cpu"))
    with pytest.raises(ValueError, match="group100 does not divide"):
        run(BAD, torch.device("cpu"))


def test_workers_do_them_and_one_that_fails_holds_up_no_other() -> None:
    told: list[tuple[float, str]] = []
    failed = compile_apart([*GOOD, BAD], "cpu", lambda share, doing: told.append((share, doing)), most=2)
    assert list(failed) == [str(BAD)]
    assert "group100 does not divide in_features=128" in failed[str(BAD)]
    assert [share for share, _ in told] == pytest.approx([0.2, 0.4, 0.6, 0.8, 1.0])
    assert {doing for _, doing in told} == {f"compiled {work}" for work in [*GOOD, BAD]}


def test_a_worker_that_dies_is_named_and_replaced(monkeypatch: pytest.MonkeyPatch) -> None:
    begun: list[int] = []

    def dies(device: str) -> subprocess.Popen[str]:
        begun.append(1)
        pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
        return subprocess.Popen([sys.executable, "-c", "raise SystemExit(7)"], text=True, **pipes)  # type: ignore[call-overload,no-any-return]

    monkeypatch.setattr(warming, "_worker", dies)
    failed = compile_apart(GOOD[:2], "cpu", lambda share, doing: None, most=1)
    assert failed == {str(work): "its process ended with exit code 7" for work in GOOD[:2]}
    assert len(begun) == 2


def test_a_folder_that_holds_all_starts_no_workers(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    pytest.importorskip("triton")
    asked: list[int] = []
    answers = [{"a work": "it failed"}, {}]

    def apart(todo: list[Work], device: str, tell: object) -> dict[str, str]:
        asked.append(len(todo))
        return answers.pop(0)

    monkeypatch.setattr(warming, "compile_apart", apart)
    monkeypatch.setattr(warming, "_problem", lambda work, device: None)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda device: "a GPU")
    monkeypatch.setenv("TRITON_CACHE_DIR", str(tmp_path))
    runs = [warm("cuda:0", [(384, 384)]) for _ in range(3)]
    assert [one.compiled for one in runs] == [True, True, False]  # what failed is tried again
    assert [one.failed for one in runs] == [{"a work": "it failed"}, {}, {}]
    assert asked == [runs[0].works] * 2
    assert warm("cuda:0", [(384, 384)]).folder == str(tmp_path)


def test_a_cpu_compiles_nothing() -> None:
    with pytest.raises(ValueError, match="nothing to compile for 'cpu'.*cuda:0"):
        warm("cpu")


@pytest.mark.skipif(torch.cuda.is_available(), reason="there are kernels to compile")
def test_the_verb_says_so_too(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TRITON_CACHE_DIR", "/mine")
    assert main(["warm"]) == 2
    assert "no GPU on this machine, so there are no kernels to compile" in capsys.readouterr().err


def test_kernels_lie_in_the_lab_s_home_unless_the_user_says_otherwise(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("QUANT_HOME", "/somewhere")
    monkeypatch.setenv("TRITON_CACHE_DIR", "/mine")
    assert keep_compiled() == Path("/mine")
    monkeypatch.delenv("TRITON_CACHE_DIR")
    assert keep_compiled() == Path("/somewhere/kernels") == Path(os.environ["TRITON_CACHE_DIR"])


def test_a_job_says_that_it_compiles() -> None:
    told, go_on = threading.Event(), threading.Event()

    def work(tell: object) -> int:
        launch.tell_listener(fn=SimpleNamespace(name="_factor"))  # what Triton calls before it compiles
        told.set()
        assert go_on.wait(60)
        return 1

    job = Jobs().submit("cpu", "compiles", "a job", work)
    assert told.wait(60)
    assert job.doing == "compiling the GPU kernel factor, once on this machine"
    go_on.set()
    assert job.ended.wait(60)
    launch.tell_listener(fn=SimpleNamespace(name="_factor"))  # nobody listens any more


@on_gpu
def test_a_warm_machine_compiles_nothing_more(tmp_path: Path) -> None:
    environment = {**os.environ, "QUANT_HOME": str(tmp_path)}
    environment.pop("TRITON_CACHE_DIR", None)

    def quantcore(*arguments: str) -> dict[str, object]:
        command = [sys.executable, "-m", "quantcore", *arguments]
        done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=900)
        assert done.returncode == 0, done.stderr
        found: dict[str, object] = json.loads(done.stdout)
        return found

    def kept() -> set[str]:
        return {str(file) for file in (tmp_path / "kernels").rglob("*.cubin")}

    assert quantcore("warm", "--device", "cuda:0")["failed"] == {}
    compiled = kept()
    assert compiled
    assert quantcore("warm", "--device", "cuda:0")["compiled"] is False
    quantcore("evaluate", "--scheme", "W4A16,gptq", "--max-tokens", "2048", "--device", "cuda:0")
    quantcore("evaluate", "--scheme", "W8A8", "--max-tokens", "2048", "--device", "cuda:0")
    assert kept() == compiled
