"""The jobs of many visitors: turns, two waiting each, what nobody waits for, and work that raises whatever it likes."""

import gc
import threading
import time
import weakref
from itertools import pairwise
from typing import Any

import pytest

from tests.ui.test_jobs import WAIT_S, Gate, end, submit
from ui.job import Asker, Job, Rules, Teller
from ui.jobs import Jobs


class PanicException(BaseException):
    """What a panic in a library's native code becomes."""


class Wordless(BaseException):
    """An error that cannot even be told."""

    def __str__(self) -> str:
        raise PanicException

    __repr__ = __str__


class Unspeakable:
    """A result that cannot be told."""

    def __repr__(self) -> str:
        raise PanicException


def chained() -> BaseException:
    """Two errors, each the cause of the other."""
    first, second = ValueError("first"), KeyError("second")
    first.__cause__, second.__cause__ = second, first
    return second


@pytest.mark.parametrize(
    ("error", "says"),
    [
        (PanicException("called `Option::unwrap()` on a `None` value"), "PanicException: called `Option::unwrap()` on"),
        (SystemExit(3), "a duel met an error of its own (SystemExit: 3); try other settings."),
        (KeyboardInterrupt(), "a duel met an error of its own (KeyboardInterrupt); try other settings."),
        (GeneratorExit(), "(GeneratorExit)"),
        (MemoryError(), "There was not enough memory on cpu for a duel: "),
        (RecursionError("maximum recursion depth exceeded"), "(RecursionError: maximum recursion depth exceeded)"),
        (Wordless(), "a duel met an error of its own (Wordless); try other settings."),
        (RuntimeError("x" * 90_000), "RuntimeError: xxx"),
        (chained(), "KeyError: 'second'"),
    ],
    ids=lambda value: type(value).__name__,
)
def test_a_line_outlives_whatever_work_raises(error: BaseException, says: str) -> None:
    def work(_: Teller) -> None:
        raise error

    jobs = Jobs()
    job, after = submit(jobs, "a", work, title="a duel"), submit(jobs, "b", Gate(0))
    assert end(job).state == "failed"
    assert says in (job.problem or "")
    assert len(job.problem or "") < 400
    assert end(after).state == "done"
    assert end(submit(jobs, "a", Gate(0))).state == "done"


@pytest.mark.parametrize(
    "error", [MemoryError(), PanicException("at the gates")], ids=lambda value: type(value).__name__
)
def test_the_loaders_line_outlives_them_too(error: BaseException) -> None:
    """Its name is no device's, and was asked for its free memory."""

    def work(_: Teller) -> None:
        raise error

    jobs = Jobs()
    job, after = (submit(jobs, key, done, device="the loader") for key, done in (("a", work), ("b", Gate(0))))
    assert end(job).state == "failed"
    assert end(after).state == "done"


def test_a_line_outlives_an_end_that_fails(monkeypatch: pytest.MonkeyPatch) -> None:
    """The memory cannot be cleared, nor the sentence made: the page is told that the job is over, and the next runs."""

    def fails(*_: Any) -> None:
        raise PanicException

    jobs = Jobs()
    with monkeypatch.context() as patch:
        for name in ("clear_memory", "sentence"):
            patch.setattr(f"ui.job.{name}", fails)
        job = end(submit(jobs, "a", lambda _: 1 / 0, title="a duel"))
        assert job.problem == "a duel met an error of its own (ZeroDivisionError); try other settings."
        assert job.state == "failed"
    assert end(submit(jobs, "b", Gate(0))).state == "done"


def test_a_result_that_cannot_be_told_is_a_result() -> None:
    jobs = Jobs()
    assert isinstance(end(submit(jobs, "a", lambda _: Unspeakable())).result, Unspeakable)
    assert end(submit(jobs, "b", Gate(0))).state == "done"


def test_visitors_take_turns() -> None:
    """Ann asks for four, Bob for two, Cora for one: after Ann's first all others come before Ann's second."""
    jobs, gates = Jobs(), {}
    asked = [("a1", "ann"), ("a2", "ann"), ("a3", "ann"), ("b1", "bob"), ("a4", "ann"), ("b2", "bob"), ("c1", "cora")]
    made = {}
    for key, visitor in asked:
        gates[key] = Gate(1)
        made[key] = submit(jobs, key, gates[key], visitor=visitor)
    gates["a1"].started()
    expected = ["a1", "b1", "c1", "a2", "b2", "a3", "a4"]
    assert [made[key].ahead for key in expected] == [0, 1, 2, 3, 4, 5, 6]
    for key, following in pairwise(expected):
        gates[key].on.release()
        end(made[key])
        gates[following].started()  # this one and no other: all others would wait for their gate
        assert [one.state for one in made.values()].count("running") == 1
    gates["a4"].on.release()
    assert end(made["a4"]).state == "done"


def test_a_job_of_two_is_served_at_the_turn_of_the_one_who_waited_longer() -> None:
    jobs, gate = Jobs(), Gate(1)
    submit(jobs, "a1", gate)
    gate.started()
    second, shared = submit(jobs, "a2", Gate(0)), submit(jobs, "a3", Gate(0))
    assert (second.ahead, shared.ahead) == (1, 2)
    submit(jobs, "a3", Gate(0), visitor="bob")
    assert (second.ahead, shared.ahead) == (2, 1)
    gate.on.release()
    end(second)


def test_a_visitor_has_two_jobs_waiting_at_most() -> None:
    jobs, gate, ann = Jobs(Rules(most_waiting=2)), Gate(1), Asker("ann", "tab 1")
    submit(jobs, "a", gate)
    gate.started()
    submit(jobs, "b", Gate(0))
    assert not jobs.full(ann)
    last = submit(jobs, "c", Gate(0))
    assert jobs.submit("cpu", "d", "t", Gate(0), Asker("ann", "another tab")) is None
    assert jobs.get("d") is None
    assert jobs.submit("cpu", "c", "t", Gate(0), ann) is last  # what waits already may be asked for again
    assert submit(jobs, "d", Gate(0), visitor="bob").state == "waiting"
    gate.on.release()
    end(last)
    assert not jobs.full(ann)


def test_cancel_ends_a_job_for_its_owner_and_others_keep_it() -> None:
    jobs, gate = Jobs(), Gate(2)
    job = submit(jobs, "k", gate)
    submit(jobs, "k", gate, visitor="bob")
    gate.started()
    jobs.cancel("k", Asker("ann", "any tab"))
    assert job.visitors == {"bob"}
    gate.on.release(2)
    assert end(job).state == "done"


class Tabs:
    """Which tabs are open."""

    def __init__(self, *names: str) -> None:
        self.open = set(names)

    def __call__(self, who: Asker) -> bool:
        return who.session in self.open


def wait_for(what: Any) -> None:
    until = time.monotonic() + WAIT_S
    while not what() and time.monotonic() < until:
        time.sleep(0.01)
    assert what()


def test_sixty_jobs_that_were_asked_for_and_left_delay_another_visitor_by_the_one_that_runs() -> None:
    """Sixty tabs of one visitor, or of sixty: each asks for a job and is closed."""
    tabs = Tabs("tab of bob")
    jobs, gates = Jobs(Rules(2, leave_s=3600, present=tabs)), [Gate(1) for _ in range(60)]
    left = [submit(jobs, f"a{n}", gates[n], visitor=f"ann {n}") for n in range(60)]
    gates[0].started()
    bobs = submit(jobs, "b", Gate(0), visitor="bob")
    assert bobs.ahead == 1
    gates[0].on.release()
    assert end(bobs).state == "done"
    assert [job.state for job in left].count("done") == 1
    for gate in gates:
        gate.on.release()
    for job in left:
        end(job)  # nobody else waits any more: then they are served


def test_what_nobody_waits_for_is_dropped_after_a_while() -> None:
    tabs = Tabs("tab of ann", "tab of bob")
    jobs, gate = Jobs(Rules(leave_s=0.05, present=tabs)), Gate(1000)
    running, waiting, bobs = (submit(jobs, key, gate if key == "a" else Gate(0)) for key in "abc")
    submit(jobs, "c", Gate(0), visitor="bob")
    gate.started()
    tabs.open.remove("tab of ann")
    jobs.tend()
    tabs.open.add("tab of ann")  # loaded anew in time
    jobs.tend()
    time.sleep(0.1)
    jobs.tend()
    assert [job.state for job in (running, waiting, bobs)] == ["running", "waiting", "waiting"]
    tabs.open.remove("tab of ann")
    jobs.tend()
    time.sleep(0.1)
    jobs.tend()
    assert waiting.state == "cancelled"
    gate.on.release()  # the running one sees it at its next step
    assert end(running).state == "cancelled"
    assert end(bobs).state == "done"
    assert (jobs.get("a"), jobs.get("b")) == (None, None)


def test_on_the_users_own_server_a_job_is_done_though_the_tab_was_closed() -> None:
    tabs, gate = Tabs(), Gate(1)
    jobs = Jobs(Rules(present=tabs))
    job = submit(jobs, "k", gate)
    gate.started()
    for _ in range(3):
        jobs.tend()
    gate.on.release()
    assert end(job).state == "done"
    jobs.tend()
    assert jobs.get("k") is job


def test_a_running_job_that_its_visitor_has_moved_on_from_ends_where_the_rules_say_so() -> None:
    jobs, gate = Jobs(Rules(2, leave_s=3600)), Gate(1000)
    job = submit(jobs, "k", gate)
    gate.started()
    jobs.leave("k", Asker("ann", "tab of ann"))
    gate.on.release()
    assert end(job).state == "cancelled"


def test_a_moves_job_ends_with_the_move_and_others_keep_it(monkeypatch: pytest.MonkeyPatch) -> None:
    """Also where the rules let jobs go on: a tab is closed, or its visitor moves on."""
    monkeypatch.setattr("ui.jobs.RELOAD_S", 0.0)
    monkeypatch.setattr("ui.jobs.TEND_S", 0.05)
    tabs = Tabs("tab of ann", "tab of bob")
    jobs = Jobs(Rules(present=tabs))

    def move(key: str, gate: Gate, *visitors: str) -> Job:
        asked = [jobs.submit("cpu", key, "t", gate, Asker(who, f"tab of {who}"), passing=True) for who in visitors]
        assert isinstance(asked[0], Job)
        gate.started()
        return asked[0]

    gate = Gate(1000)
    both = move("shared", gate, "ann", "bob")
    jobs.leave("shared", Asker("ann", "tab of ann"))
    assert both.state == "running"
    jobs.leave("shared", Asker("bob", "tab of bob"))
    gate.on.release()
    assert end(both).state == "cancelled"
    gate = Gate(1000)
    closed = move("closed", gate, "ann")
    tabs.open.discard("tab of ann")
    wait_for(lambda: jobs.get("closed") is None)
    gate.on.release()
    assert end(closed).state == "cancelled"


def test_a_job_that_rests_lets_others_pass_and_begins_by_itself_or_never() -> None:
    """What a move asks for does not begin before the move is drawn, and never where the next move follows at once."""
    jobs, ann, bob = Jobs(), Asker("ann", "tab of ann"), Asker("bob", "tab of bob")
    began: list[str] = []

    def put(key: str, asker: Asker, rest_s: float = 0.0) -> Job:
        job = jobs.submit("cpu", key, "t", lambda _: began.append(key), asker, passing=True, rest_s=rest_s)
        assert job is not None
        return job

    given_up, follows = put("given up", ann, rest_s=3600.0), put("follows", ann, rest_s=0.3)
    end(put("passes", bob))
    assert (given_up.state, follows.state, began) == ("waiting", "waiting", ["passes"])
    jobs.leave("given up", ann)
    assert given_up.state == "cancelled"
    assert end(follows).age_s >= 0.3
    assert began == ["passes", "follows"]


def test_a_result_on_an_own_text_goes_with_its_visitor(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("ui.jobs.RELOAD_S", 0.0)
    tabs = Tabs("tab of ann")
    jobs = Jobs(Rules(present=tabs))
    made: list[weakref.ref[Any]] = []

    def work(_: Teller) -> Any:
        result = threading.Event()
        made.append(weakref.ref(result))
        return result

    for key, private in (("own", True), ("ours", False)):
        job = jobs.submit("cpu", key, "t", work, Asker("ann", "tab of ann"), private)
        assert job is not None
        end(job)
    jobs.tend()
    assert jobs.get("own") is not None
    tabs.open.clear()
    del job
    jobs.tend()
    gc.collect()
    assert [mark() is None for mark in made] == [True, False]
    assert jobs.get("ours") is not None


def test_the_teacher_sees_the_line_and_can_clear_it() -> None:
    jobs, gate = Jobs(), Gate(1000)
    made: list[Job] = [submit(jobs, key, gate if key == "a" else Gate(0), visitor=key) for key in "abc"]
    gate.started()
    assert [job.key for job in jobs.unfinished()] == ["a", "b", "c"]
    jobs.clear()
    gate.on.release()
    assert [end(job).state for job in made] == ["cancelled"] * 3
    assert jobs.unfinished() == []
