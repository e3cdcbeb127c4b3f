"""Jobs: one at a time, in line, one for equal requests, cancelled at the next step, memory freed after a failure."""

import gc
import threading
import time
import weakref
from collections.abc import Callable

import pytest
import torch

from quantcore.model.linears import linears
from tests.tiny import tiny_llama
from ui.job import Asker, Job, Teller, Work
from ui.jobs import Jobs

WAIT_S = 10


class Gate:
    """Work that stops at each step until it is let on."""

    def __init__(self, steps: int = 3) -> None:
        self.steps, self.on, self.at = steps, threading.Semaphore(0), threading.Semaphore(0)

    def __call__(self, progress: Callable[[float, str], None]) -> str:
        for step in range(self.steps):
            self.at.release()
            assert self.on.acquire(timeout=WAIT_S)
            progress((step + 1) / self.steps, f"layer {step}")
        return "result"

    def started(self) -> None:
        assert self.at.acquire(timeout=WAIT_S)


def end(job: Job) -> Job:
    assert job.ended.wait(WAIT_S)
    return job


def submit(jobs: Jobs, key: str, work: Work, device: str = "cpu", title: str = "t", visitor: str = "ann") -> Job:
    job = jobs.submit(device, key, title, work, Asker(visitor, f"tab of {visitor}"))
    assert job is not None
    return job


def test_a_job_tells_its_progress_and_gives_its_result() -> None:
    gate = Gate(2)
    job = submit(Jobs(), "k", title="two layers", work=gate)
    gate.started()
    assert (job.state, job.share, job.left_s) == ("running", 0, None)
    gate.on.release()
    gate.started()
    assert (job.share, job.doing) == (0.5, "layer 0")
    least, left, most = time.monotonic(), job.left_s, time.monotonic()
    assert least <= (job.started or 0) + (left or 0) <= most  # half is done: the rest takes as long
    gate.on.release()
    assert end(job).result == "result"
    assert (job.state, job.share, job.left_s) == ("done", 1.0, None)


def test_one_at_a_time_per_device_and_the_others_in_line() -> None:
    jobs, gates = Jobs(), [Gate(1) for _ in range(4)]
    first, second, third = (submit(jobs, f"k{n}", gates[n]) for n in range(3))
    elsewhere = submit(jobs, "k3", gates[3], device="cuda:0 in name only")
    gates[0].started()
    gates[3].started()  # another device does not wait
    assert [first.ahead, second.ahead, third.ahead, elsewhere.ahead] == [0, 1, 2, 0]
    assert [second.state, third.state] == ["waiting", "waiting"]
    gates[0].on.release()
    end(first)
    gates[1].started()
    assert [second.ahead, third.ahead, third.state] == [0, 1, "waiting"]
    for gate in gates[1:]:
        gate.on.release()
    assert [end(job).state for job in (second, third, elsewhere)] == ["done"] * 3


def test_the_same_request_is_one_job() -> None:
    jobs, gate = Jobs(), Gate(1)
    asked = [submit(jobs, "same", gate) for _ in range(3)]
    gate.on.release(5)
    assert len(set(map(id, asked))) == 1
    end(asked[0])
    assert submit(jobs, "same", gate) is asked[0]  # done: the result is still there
    jobs.forget("same")
    assert submit(jobs, "same", Gate(0)) is not asked[0]


def test_cancel_takes_effect_at_the_next_step_and_the_next_job_runs() -> None:
    jobs, gate, waits = Jobs(), Gate(100), Gate(0)
    running = submit(jobs, "a", gate)
    in_line, after = submit(jobs, "b", Gate(0)), submit(jobs, "c", waits)
    gate.started()
    jobs.cancel("b", Asker("ann", "another tab"))
    assert in_line.state == "cancelled"
    assert after.ahead == 1
    jobs.cancel("a", Asker("ann", "another tab"))
    gate.on.release()
    assert end(running).state == "cancelled"
    assert running.share == 0
    assert end(after).state == "done"
    again = submit(jobs, "a", Gate(0))  # a cancelled job may be asked for anew
    assert end(again).state == "done"


def test_cancel_takes_effect_within_one_layer_of_a_model() -> None:
    """A model that runs for long between two words of progress: its next layer does not run."""
    gates, ran = [threading.Event(), threading.Event()], []

    class Layer(torch.nn.Module):
        def forward(self, x: int) -> int:
            ran.append(x)
            gates[0].set()
            assert gates[1].wait(WAIT_S)
            return x + 1

    model = torch.nn.Sequential(*(Layer() for _ in range(5)))
    job = submit(Jobs(), "k", title="t", work=lambda tell: model(0))
    assert gates[0].wait(WAIT_S)
    job.end()
    gates[1].set()
    assert end(job).state == "cancelled"
    assert ran == [0]
    assert model(0) == 5  # in another thread models run as ever


def test_what_a_job_shows_is_there_until_its_end() -> None:
    gate = threading.Semaphore(0)

    def work(tell: Teller) -> str:
        tell.show("a first look")
        tell.show("a second one, too soon to be drawn")
        assert gate.acquire(timeout=WAIT_S)
        return "result"

    job = submit(Jobs(), "k", title="t", work=work)
    until = time.monotonic() + WAIT_S
    while job.so_far is None and time.monotonic() < until:
        time.sleep(0.01)
    assert job.so_far == "a first look"
    gate.release()
    assert end(job).result == "result"
    assert job.so_far is None


def test_a_visitor_who_moves_on_leaves_only_what_waits_for_nobody_else() -> None:
    jobs, gate = Jobs(), Gate(1)
    running, mine, ours = (submit(jobs, key, gate if key == "a" else Gate(0)) for key in "abc")
    submit(jobs, "c", Gate(0), visitor="bob")
    gate.started()
    for key in "abc?":
        jobs.leave(key, Asker("ann", "tab of ann"))
    assert (running.state, mine.state, ours.state) == ("running", "cancelled", "waiting")
    assert jobs.get("b") is None  # asked again it is a new one, not a cancelled one
    gate.on.release()
    assert (end(running).state, end(ours).state) == ("done", "done")


def test_memory_behind_a_chain_of_errors_is_freed_too() -> None:
    held: list[weakref.ref[torch.Tensor]] = []

    def greedy() -> None:
        tensor = torch.zeros(1000)
        held.append(weakref.ref(tensor))
        raise RuntimeError("CUDA out of memory. Tried to allocate 2.50 GiB. GPU 0 has ...")

    def work(progress: Callable[[float, str], None]) -> None:
        try:
            greedy()
        except RuntimeError as error:
            raise RuntimeError(f"layer 3: {error}") from error

    job = end(submit(Jobs(), "k", title="a duel", work=work))
    assert "for a duel: 2.50 GiB more were asked for and " in (job.problem or "")
    assert held[0]() is None


def test_out_of_memory_is_a_sentence_frees_the_memory_and_the_next_runs() -> None:
    held: list[weakref.ref[torch.Tensor]] = []

    def greedy(progress: Callable[[float, str], None]) -> None:
        tensor = torch.zeros(1000)
        held.append(weakref.ref(tensor))
        torch.empty(2**62, dtype=torch.uint8)

    jobs = Jobs()
    job, after = submit(jobs, "a", greedy, title="6 schemes on 16,384 tokens"), submit(jobs, "b", Gate(0))
    end(job)
    assert job.state == "failed"
    assert job.problem is not None
    assert job.problem.startswith("There was not enough memory on cpu for 6 schemes on 16,384 tokens: ")
    assert "GiB were free" in job.problem
    assert "4294967296.00 GiB more were asked for" in job.problem
    assert "fewer tokens" in job.problem
    gc.collect()
    assert held[0]() is None
    assert end(after).state == "done"


@pytest.mark.parametrize(
    ("error", "says"),
    [
        (ValueError("group77 does not divide"), "group77 does not divide"),
        (KeyError("x"), "a duel met an error of its own (KeyError: 'x'); try other settings."),
        (MemoryError(), "not enough memory"),
    ],
)
def test_any_error_ends_with_a_sentence(error: Exception, says: str) -> None:
    def work(progress: Callable[[float, str], None]) -> None:
        raise error

    job = end(submit(Jobs(), "k", title="a duel", work=work))
    assert job.state == "failed"
    assert says in (job.problem or "")


def test_old_results_are_let_go(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("ui.jobs.KEPT", 2)
    jobs = Jobs()
    for n in range(5):
        end(submit(jobs, f"k{n}", Gate(0)))
    assert jobs.get("k0") is None
    assert jobs.get("k4") is not None


def test_the_end_of_the_program_ends_the_jobs() -> None:
    jobs = Jobs()

    def endless(progress: Callable[[float, str], None]) -> None:
        while True:
            progress(0.5, "layer")
            time.sleep(0.01)

    running, waiting = submit(jobs, "a", endless), submit(jobs, "b", endless)
    jobs.close()
    assert [running.state, waiting.state] == ["cancelled", "cancelled"]


def test_a_job_that_ends_while_a_models_layers_are_looked_for_takes_none_away() -> None:
    """Who follows a link while a model is read ends the job in the midst of the run that finds its Linears."""
    model, jobs = tiny_llama(), Jobs()
    begun = threading.Event()

    def work(_: Teller) -> int:
        assert begun.wait(WAIT_S)
        job.end()
        return len(linears(model))

    job = submit(jobs, "k", work)
    begun.set()
    assert end(job).state == "cancelled"
    assert len(linears(model)) == 15  # seven in each of two blocks, and the head
