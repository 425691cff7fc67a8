"""Process steps in the test kit: called in this process by `run_step`, really in worker processes in a workflow."""

from __future__ import annotations

import importlib.util
import os
from pathlib import Path
from typing import Any

import killable
import pytest
from killable import Done, Holds, Job

from blazen import Event, StartEvent, StopEvent, Workflow, step
from blazen.errors import ValidationError, WorkflowError
from blazen.testing import RunOutcome, cancel_everywhere, fail_everywhere, run_seeds, run_step_sync

if importlib.util.find_spec("trio_parallel") is None and os.environ.get("BLAZEN_REQUIRE_ALL") != "1":
    pytest.skip("process steps need trio-parallel", allow_module_level=True)


class Squared(Event):
    n: int


@step
def begin(ev: StartEvent) -> Job:
    return Job(n=ev.n)


@step
def end(ev: Done) -> StopEvent:
    return StopEvent(result=ev.n)


@step(run="process")
def square_all(ev: Job) -> list[Done]:
    return [Done(n=n**2, pid=os.getpid()) for n in range(ev.n)]


@step(run="process")
def look_up(ev: Job) -> Done:
    return Done(n=TABLE[ev.n])


@step(run="process")
def fail_with_a_note(ev: Job) -> Done:
    raise KeyError(ev.n)


@step(run="process", retries=1, on_error=lambda ev, error: Done(n=-1))
def never(ev: Job) -> Done:
    raise OSError("never")


@step(run="process", retries=1)
def patient(ev: Job) -> Done:
    return Done(n=ev.n**2)


@step(run="process")
def hold(ev: Holds) -> Holds:
    return Holds(n=ev.n, lock=(lambda: 1) if ev.n else None)


@step(run="process")
def leave(ev: Job) -> Done:
    raise SystemExit(ev.n)


@step(run="process", timeout=1.0)
def limited(ev: Job) -> Done:
    return Done(n=ev.n)


TABLE = {1: 10}


class Counter:
    def __init__(self) -> None:
        self.calls = 0

    @step(run="process")
    def count(self, ev: Job) -> Done:
        self.calls += 1
        return Done(n=self.calls)


# --- one step


def test_a_process_step_is_called_in_this_process_and_what_it_returns_is_an_equal_event() -> None:
    outcome = run_step_sync(square_all, Job(n=3))
    assert outcome.events == [Done(n=n**2, pid=os.getpid()) for n in range(3)]


def test_a_test_can_put_something_else_in_the_place_of_what_the_step_uses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(TABLE, 1, 99)
    assert run_step_sync(look_up, Job(n=1)).event == Done(n=99)


def test_what_the_step_changes_in_its_object_stays_in_the_worker_and_so_it_does_here() -> None:
    counter = Counter()
    assert run_step_sync(counter.count, Job()).event == Done(n=1)
    assert counter.calls == 0


@pytest.mark.parametrize(
    ("fn", "event", "message"),
    [
        (
            hold,
            Holds(lock=lambda: 1),
            "cannot be handed to a worker process, because of its event 'Holds': its field 'lock'",
        ),
        (hold, Holds(n=1), "returned what cannot leave its worker process, 'Holds': its field 'lock'"),
        (leave, Job(n=3), r"called sys\.exit\(3\) in its worker process"),
    ],
)
def test_what_a_worker_process_would_refuse_is_refused(fn: Any, event: Event, message: str) -> None:
    with pytest.raises(WorkflowError, match=message):
        run_step_sync(fn, event)


def test_what_a_process_step_raises_comes_out_as_it_does_from_a_worker() -> None:
    with pytest.raises(KeyError) as caught:
        run_step_sync(fail_with_a_note, Job(n=5))
    assert caught.value.args == (5,)
    assert "fail_with_a_note" in [entry.name for entry in caught.traceback]


def test_retries_and_on_error_of_a_process_step_are_heeded_when_asked_for() -> None:
    outcome = run_step_sync(never, Job(), retries=True, on_error=True)
    assert (outcome.attempts, outcome.event) == (2, Done(n=-1))


def test_a_step_that_no_worker_could_find_is_refused_as_by_a_workflow() -> None:
    @step(run="process")
    def hidden(ev: Job) -> Done:
        return Done()

    with pytest.raises(ValidationError, match="step 'hidden' has run='process', and its function cannot be found"):
        run_step_sync(hidden, Job())


def test_a_timeout_that_could_not_be_kept_is_refused() -> None:
    assert run_step_sync(limited, Job(n=2)).event == Done(n=2)
    with pytest.raises(ValidationError, match=r"nothing can kill it.*leave out timeout=True"):
        run_step_sync(limited, Job(), timeout=True)


# --- workflows


def make_squaring() -> Workflow[Any]:
    return Workflow("squaring", [begin, killable.square, end])


def test_a_process_step_is_cancelled_while_it_computes_and_that_is_its_only_checkpoint() -> None:
    outcomes: list[RunOutcome] = []
    checkpoints = cancel_everywhere(make_squaring, {"n": 3}, check=outcomes.append)
    assert [(c.step, c.what, c.file) for c in checkpoints] == [("square", "waits", killable.__file__)]
    assert [outcome.how for outcome in outcomes] == ["completed", "cancelled"]
    assert outcomes[0].result == 9


def test_the_call_of_a_process_step_fails_too() -> None:
    outcomes: list[RunOutcome] = []
    checkpoints = fail_everywhere(make_squaring, {"n": 3}, error=OSError, check=outcomes.append)
    assert [(c.step, c.what) for c in checkpoints] == [
        ("begin", "is called"),
        ("square", "is called"),
        ("end", "is called"),
    ]
    assert [type(outcome.error.__cause__) if outcome.error else None for outcome in outcomes] == [
        None,
        OSError,
        OSError,
        OSError,
    ]
    assert fail_everywhere(make_squaring, {"n": 3}, steps=["square"])[0].step == "square"


def test_a_call_that_fails_is_retried_as_any_other() -> None:
    workflow = Workflow("w", [begin, patient, end])
    fail_everywhere(workflow, {"n": 3}, steps=["patient"], check=lambda outcome: outcome.result == 9)


def test_time_goes_on_when_a_process_does_not_end(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr("blazen.testing.scheduling.LONGEST_PROCESS", 0.0)
    workflow = Workflow("w", [killable.spin], timeout=3600.0)
    (outcome,) = run_seeds(workflow, {"folder": str(tmp_path)}, seeds=[1], check=lambda outcome: None)
    assert isinstance(outcome.error, TimeoutError)


def test_time_stands_still_while_a_process_works(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("blazen.testing.scheduling.LONGEST_PROCESS", 60.0)

    def check(outcome: RunOutcome) -> None:
        assert outcome.result == 4
        assert outcome.elapsed == 0.0

    workflow = Workflow("w", [begin, killable.square, end], step_timeout=0.001, timeout=0.002)
    run_seeds(workflow, {"n": 2}, seeds=range(2), check=check)
