"""`cancel_everywhere`, `fail_everywhere`, `run_seeds`: workflows run again and again, each time disturbed elsewhere."""

from __future__ import annotations

import inspect
import random
import threading
from collections.abc import Callable
from typing import Any

import pytest
import trio

from blazen import Context, Event, StartEvent, StopEvent, Workflow, step
from blazen.errors import BlazenWarning, CancelledError, ValidationError, WorkflowError
from blazen.testing import (
    Checkpoint,
    InjectedFault,
    RunOutcome,
    cancel_everywhere,
    fail_everywhere,
    run_in_virtual_time,
    run_seeds,
    scheduling,
    seeded_scheduler,
)
from blazen.testing.trial import HANGING_AFTER


class Part(Event):
    number: int


class Pool:
    """Connections that have to be given back."""

    def __init__(self) -> None:
        self.taken = 0

    async def take(self) -> None:
        await trio.sleep(1)
        self.taken += 1

    async def take_when_told(self) -> None:
        ready = trio.Event()
        trio.lowlevel.current_trio_token().run_sync_soon(ready.set)
        await ready.wait()
        self.taken += 1

    def give_back(self) -> None:
        self.taken -= 1


def line_of(fn: Callable[..., Any], text: str) -> int:
    """The line of the first occurrence of a text in a function."""
    lines, first = inspect.getsourcelines(fn)
    return first + next(number for number, line in enumerate(lines) if text in line)


@step
async def tidy(ctx: Context, ev: StartEvent) -> StopEvent:
    pool = ctx.session["pool"]
    await pool.take()
    try:
        await trio.sleep(10)
    finally:
        pool.give_back()
    await trio.lowlevel.checkpoint()
    return StopEvent(result="done")


@step
async def leaky(ctx: Context, ev: StartEvent) -> StopEvent:
    pool = ctx.session["pool"]
    await pool.take_when_told()
    await trio.lowlevel.checkpoint_if_cancelled()  # without a suspension
    try:
        await trio.sleep(10)
    finally:
        pool.give_back()
    return StopEvent(result="done")


def with_pool(*steps: Callable[..., Any]) -> Callable[[], Workflow[Any]]:
    return lambda: Workflow("pooled", steps).options(session={"pool": Pool()})


def all_given_back(outcome: RunOutcome) -> None:
    assert outcome.session["pool"].taken == 0


# --- cancelling


def test_each_wait_is_cancelled_while_it_waits_and_when_it_is_over() -> None:
    hows = []

    def check(outcome: RunOutcome) -> None:
        all_given_back(outcome)
        hows.append((outcome.how, outcome.elapsed))

    checkpoints = cancel_everywhere(with_pool(tidy), check=check)
    take, sleep, yielded = line_of(Pool.take, "sleep(1)"), line_of(tidy, "sleep(10)"), line_of(tidy, "checkpoint()")
    assert [(c.number, c.what, c.step, c.line) for c in checkpoints] == [
        (1, "waits", "tidy", take),
        (2, "goes on", "tidy", take),
        (3, "waits", "tidy", sleep),
        (4, "goes on", "tidy", sleep),
        (5, "waits", "tidy", yielded),
    ]
    assert {c.file for c in checkpoints} == {__file__}
    cancelled = [("cancelled", at) for at in (0.0, 1.0, 1.0, 11.0, 11.0)]
    assert hows == [("completed", 11.0), *cancelled]


def test_a_leak_is_reported_with_the_step_the_line_and_how_to_replay_it() -> None:
    with pytest.raises(AssertionError) as caught:
        cancel_everywhere(with_pool(leaky), check=all_given_back)
    (note,) = caught.value.__notes__
    line = line_of(Pool.take_when_told, "ready.wait()")
    assert note.startswith("cancel_everywhere: checkpoint 2 of 4: step 'leaky' goes on at ")
    assert note.endswith(f"test_testing_everywhere.py:{line}; replay with only=2")
    with pytest.raises(AssertionError) as again:
        cancel_everywhere(with_pool(leaky), check=all_given_back, only=2)
    assert again.value.__notes__ == [note]
    assert [c.number for c in cancel_everywhere(with_pool(leaky), check=all_given_back, only=1)] == [1]


def test_checkpoints_of_tasks_that_a_step_starts_are_its_own() -> None:
    async def child() -> None:
        await trio.sleep(5)

    @step
    async def parent(ev: StartEvent) -> StopEvent:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(child)
            nursery.start_soon(trio.sleep, 3)
        return StopEvent()

    checkpoints = cancel_everywhere(Workflow("w", [parent]))
    assert {c.step for c in checkpoints} == {"parent"}
    nursery, inner = line_of(parent, "open_nursery"), line_of(child, "sleep(5)")
    assert {(c.what, c.line) for c in checkpoints} == {
        (what, line) for what in ("waits", "goes on") for line in (nursery, inner)
    }


def test_only_the_steps_that_are_named_are_cancelled() -> None:
    @step
    async def first(ev: StartEvent) -> list[Part]:
        await trio.sleep(1)
        return [Part(number=1), Part(number=2)]

    @step(retries=1)
    async def second(ctx: Context, ev: Part) -> StopEvent | None:
        await trio.sleep(1)
        if ctx.attempt == 1:
            raise OSError
        return None if ctx.collect_events(ev, 2) is None else StopEvent()

    workflow = Workflow("w", [first, second])
    ended = lambda outcome: outcome.how != "failed"  # noqa: E731
    assert {c.step for c in cancel_everywhere(workflow, check=ended)} == {"first", "second"}
    checkpoints = cancel_everywhere(workflow, check=ended, steps=["second"])
    assert [c.step for c in checkpoints] == ["second"] * 8
    assert [c.attempt for c in checkpoints] == [1, 1, 1, 1, 2, 2, 2, 2]
    assert "step 'second' (attempt 2) waits at" in str(checkpoints[4])


def test_a_run_is_the_same_each_time_and_each_has_its_own_time() -> None:
    def places() -> list[Checkpoint]:
        @step
        async def fan(ev: StartEvent) -> list[Part]:
            return [Part(number=n) for n in range(6)]

        @step
        async def part(ctx: Context, ev: Part) -> StopEvent | None:
            for _ in range(ev.number % 3 + 1):
                await trio.sleep(0)
            return None if ctx.collect_events(ev, 6) is None else StopEvent()

        return cancel_everywhere(Workflow("w", [fan, part]), check=lambda outcome: outcome.elapsed == 0.0)

    assert len(places()) == 12
    assert places() == places()


def test_an_error_in_a_cleanup_is_found_without_a_check() -> None:
    @step
    async def clumsy(ev: StartEvent) -> StopEvent:
        try:
            await trio.sleep(1)
        except trio.Cancelled:
            raise ZeroDivisionError from None
        return StopEvent()

    with pytest.raises(AssertionError, match=r"a step raised while it was stopped: .*ZeroDivisionError"):
        cancel_everywhere(Workflow("w", [clumsy]))


def test_a_run_that_hangs_once_it_is_cancelled_is_named_and_broken_off() -> None:
    @step
    async def waiting(ev: StartEvent) -> StopEvent:
        try:
            await trio.sleep(1)
        except trio.Cancelled:
            with trio.CancelScope(shield=True):
                await trio.Event().wait()
            raise
        return StopEvent()

    line = line_of(waiting, "Event().wait()")
    with pytest.warns(BlazenWarning, match="waited for 1000000.0 s"), pytest.raises(AssertionError) as caught:
        cancel_everywhere(Workflow("w", [waiting]))
    assert "the run does not end by itself" in str(caught.value)
    assert str(caught.value).endswith(f"test_testing_everywhere.py:{line}")


def test_a_run_that_hangs_by_itself_is_found_before_anything_is_tried() -> None:
    @step
    async def waiting(ev: StartEvent) -> StopEvent:
        await trio.sleep_forever()
        return StopEvent()

    with pytest.raises(AssertionError, match="the run does not end by itself") as caught:
        cancel_everywhere(Workflow("w", [waiting]))
    assert caught.value.__notes__ == ["cancel_everywhere: this is the run that nothing was done to"]


def test_a_workflow_that_fails_undisturbed_raises_its_error() -> None:
    @step
    async def fails(ev: StartEvent) -> StopEvent:
        await trio.sleep(1)
        raise OSError("broken")

    with pytest.raises(WorkflowError, match="broken") as caught:
        cancel_everywhere(Workflow("w", [fails]), check=lambda outcome: None)
    assert caught.value.__notes__ == ["cancel_everywhere: this is the run that nothing was done to"]


def test_a_check_may_be_async_and_may_return_false() -> None:
    seen = []

    async def check(outcome: RunOutcome) -> None:
        await trio.sleep(1)
        seen.append((outcome.how, outcome.checkpoint))
        if isinstance(outcome.error, CancelledError):
            with pytest.raises(CancelledError):
                outcome.result  # noqa: B018
        else:
            assert outcome.result == "done"

    cancel_everywhere(with_pool(tidy), check=check)
    assert len(seen) == 6
    assert seen[0] == ("completed", None)
    with pytest.raises(AssertionError, match=r"check returned False for <RunOutcome cancelled: CancelledError"):
        cancel_everywhere(with_pool(tidy), check=lambda outcome: outcome.how == "completed")


def test_thread_steps_are_cancelled_too() -> None:
    stopped = []

    @step(run="thread")
    def works(ctx: Context, ev: StartEvent) -> StopEvent:
        while not ctx.cancelled and not ctx.session["go"].wait(0.001):
            pass
        stopped.append(ctx.cancelled)
        return StopEvent()

    def make() -> Workflow[Any]:
        go = threading.Event()
        go.set()
        return Workflow("w", [works]).options(session={"go": go})

    checkpoints = cancel_everywhere(make)
    assert checkpoints[0].what == "waits"
    assert {(c.step, c.line) for c in checkpoints} == {("works", line_of(works, "@step"))}


@pytest.mark.parametrize("where", ["thread", "pipe"])
def test_a_step_that_waits_for_the_real_world_does_not_hang(where: str) -> None:
    def works_until_time_has_leapt() -> None:
        while trio.from_thread.run_sync(trio.current_time) < 2 * HANGING_AFTER:
            pass

    @step
    async def waits(ev: StartEvent) -> StopEvent:
        if where == "thread":
            await trio.to_thread.run_sync(works_until_time_has_leapt, limiter=trio.CapacityLimiter(1))
        else:
            process = await trio.run_process(["cat"], stdin=b"text", capture_stdout=True)
            assert process.stdout == b"text"
        return StopEvent()

    assert run_seeds(Workflow("w", [waits]), seeds=[1])[0].how == "completed"


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"steps": ["tidie"]}, "workflow 'pooled' has no step 'tidie'; it has tidy"),
        ({"steps": "tidy"}, "steps must be a list of names of steps, got 'tidy'"),
        ({"steps": []}, "steps must be a list"),
        ({"most": 3}, "has 5 checkpoints, more than most=3: name the steps that matter"),
        ({"most": 0}, "most must be an int, 1 or more, got 0"),
        ({"only": 0}, "only must be an int, 1 or more, got 0"),
        ({"only": 6}, "only=6, and a run of workflow 'pooled' has 5 checkpoints"),
        ({"seed": 1.5}, "a seed is an int, got 1.5"),
    ],
)
def test_options_out_of_range_are_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        cancel_everywhere(with_pool(tidy), **options)


def test_what_is_no_workflow_is_refused() -> None:
    for wrong in (5, Workflow, lambda: 5, "w"):
        with pytest.raises(ValidationError, match="takes a workflow, or a function that makes one"):
            cancel_everywhere(wrong)  # type: ignore[arg-type]


def test_a_workflow_that_never_waits_is_refused() -> None:
    @step
    def quick(ev: StartEvent) -> StopEvent:
        return StopEvent()

    with pytest.raises(ValidationError, match="no step of workflow 'w' waits for anything, so nothing can be tried"):
        cancel_everywhere(Workflow("w", [quick]))


async def test_they_are_for_tests_that_are_plain_functions() -> None:
    for call in (cancel_everywhere, fail_everywhere, run_seeds):
        with pytest.raises(ValidationError, match=rf"{call.__name__}\(\) makes trio loops of its own"):
            call(with_pool(tidy))


# --- failing


def test_each_call_and_each_wait_of_a_step_raises_in_turn() -> None:
    outcomes = []

    def check(outcome: RunOutcome) -> None:
        all_given_back(outcome)
        outcomes.append(outcome)

    checkpoints = fail_everywhere(with_pool(tidy), check=check)
    assert [(c.what, c.line) for c in checkpoints] == [
        ("is called", line_of(tidy, "@step")),  # and not where the call is seen
        ("waits", line_of(Pool.take, "sleep(1)")),
        ("waits", line_of(tidy, "sleep(10)")),
        ("waits", line_of(tidy, "checkpoint()")),
    ]
    assert [outcome.how for outcome in outcomes] == ["completed", "failed", "failed", "failed", "failed"]
    for outcome in outcomes[1:]:
        assert outcome.error is not None
        assert isinstance(outcome.error.__cause__, InjectedFault)
        assert str(outcome.error.__cause__) == str(outcome.checkpoint)


def test_what_is_retried_does_not_fail_the_run() -> None:
    @step(retries=1)
    async def robust(ev: StartEvent) -> StopEvent:
        await trio.sleep(1)
        return StopEvent(result="done")

    assert len(fail_everywhere(Workflow("w", [robust]), check=lambda outcome: outcome.result == "done")) == 2


@pytest.mark.parametrize("error", [OSError, OSError("no"), lambda: OSError("no")], ids=["class", "object", "function"])
def test_the_error_may_be_chosen(error: Any) -> None:
    @step
    async def catches(ev: StartEvent) -> StopEvent:
        try:
            await trio.sleep(1)
        except OSError:
            return StopEvent(result="caught")
        return StopEvent(result="slept")

    results = []
    fail_everywhere(
        Workflow("w", [catches]),
        error=error,
        check=lambda outcome: results.append(outcome.result if outcome.event else "failed"),
    )
    assert results == ["slept", "failed", "caught"]


def test_an_error_that_hides_the_one_that_was_raised_is_found_without_a_check() -> None:
    @step
    async def hides(ev: StartEvent) -> StopEvent:
        failed = False
        try:
            await trio.sleep(1)
        except InjectedFault:
            failed = True
        if failed:
            raise ValueError("something went wrong")
        return StopEvent()

    @step
    async def groups(ev: StartEvent) -> StopEvent:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(trio.sleep, 1)
        return StopEvent()

    with pytest.raises(AssertionError, match="the run failed with something else: WorkflowError") as caught:
        fail_everywhere(Workflow("w", [hides]))
    assert "checkpoint 2 of 2: step 'hides' waits at" in caught.value.__notes__[0]
    assert len(fail_everywhere(Workflow("w", [groups]))) == 3


def test_a_lock_that_was_taken_cannot_fail_to_be_taken() -> None:
    @step
    async def locks(ctx: Context, ev: StartEvent) -> StopEvent:
        async with ctx.session["lock"]:
            await trio.sleep(1)
        return StopEvent()

    workflow = Workflow("w", [locks])
    checkpoints = fail_everywhere(lambda: workflow.options(session={"lock": trio.Lock()}))
    assert [c.line for c in checkpoints[1:]] == [line_of(locks, "sleep(1)")]


def test_calls_of_thread_steps_and_methods_fail_too_and_timeouts_stay() -> None:
    class Steps:
        @step(run="thread")
        def first(self, ctx: Context, ev: StartEvent) -> Part:
            return Part(number=1)

        @step
        async def second(self, ev: Part) -> StopEvent:
            await trio.sleep(3)
            return StopEvent()

    steps = Steps()
    workflow: Workflow[Any] = Workflow("w", [steps.first, steps.second])
    checkpoints = fail_everywhere(workflow)
    assert [(c.what, c.step) for c in checkpoints] == [
        ("is called", "first"),
        ("is called", "second"),
        ("waits", "second"),
    ]
    limited: Workflow[Any] = Workflow("w", [steps.first, steps.second], step_timeout=2.0)  # kept in the copy that fails
    with pytest.raises(TimeoutError, match=r"'second' .* over its timeout of 2 s"):
        fail_everywhere(limited, steps=["second"])


@pytest.mark.parametrize("error", [5, lambda: 5])
def test_what_is_no_exception_is_not_raised(error: Any) -> None:
    with pytest.raises(ValidationError, match="error must be an exception or make one"):
        fail_everywhere(with_pool(tidy), error=error)


# --- seeds


@step
async def fan_out(ev: StartEvent) -> list[Part]:
    return [Part(number=n) for n in range(4)]


@step
async def note(ctx: Context, ev: Part) -> StopEvent | None:
    await trio.sleep(1)
    ctx.session["order"].append(ev.number)
    return None if ctx.collect_events(ev, 4) is None else StopEvent(result=tuple(ctx.session["order"]))


def noting() -> Workflow[Any]:
    return Workflow("w", [fan_out, note]).options(session={"order": []})


def test_seeds_give_many_orders_and_each_repeats_its_own() -> None:
    orders = [outcome.result for outcome in run_seeds(noting, seeds=range(30))]
    assert len(set(orders)) > 5
    assert orders == [outcome.result for outcome in run_seeds(noting, seeds=range(30))]


def test_a_failing_seed_is_named_with_its_replay() -> None:
    expected = next(outcome for outcome in run_seeds(noting) if outcome.result[0] == 2)

    def check(outcome: RunOutcome) -> None:
        assert outcome.result[0] != 2

    with pytest.raises(AssertionError) as caught:
        run_seeds(noting, check=check)
    note = f"run_seeds: seed {expected.seed}; replay with run_seeds(..., seeds=[{expected.seed}])"
    assert caught.value.__notes__ == [note]


def test_without_a_check_a_failed_run_raises_its_error() -> None:
    @step
    async def fails(ev: StartEvent) -> StopEvent:
        raise OSError("broken")

    with pytest.raises(WorkflowError, match="broken") as caught:
        run_seeds(Workflow("w", [fails]), seeds=[7])
    assert caught.value.__notes__ == ["run_seeds: seed 7; replay with run_seeds(..., seeds=[7])"]
    outcomes = run_seeds(Workflow("w", [fails]), seeds=[7], check=lambda outcome: outcome.how == "failed")
    assert repr(outcomes[0]).startswith("<RunOutcome failed: WorkflowError(")


@pytest.mark.parametrize(
    ("seeds", "message"),
    [([], "there are no seeds"), ([True], "a seed is an int"), (["1"], "a seed is an int"), (5, "seeds must be ints")],
)
def test_wrong_seeds_are_refused(seeds: Any, message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        run_seeds(noting, seeds=seeds)


# --- schedules


def test_virtual_time_takes_no_time_and_the_seed_decides_the_order() -> None:
    async def main(count: int) -> tuple[list[int], float]:
        order: list[int] = []

        async def one(number: int) -> None:
            await trio.sleep(3600)
            order.append(number)

        async with trio.open_nursery() as nursery:
            for number in range(count):
                nursery.start_soon(one, number)
        return order, trio.current_time()

    results = [run_in_virtual_time(main, 10, seed=seed) for seed in (1, 2, 1)]
    assert results[0] == results[2] != results[1]
    assert results[0][1] == 3600.0


def test_time_stands_still_while_a_thread_works() -> None:
    @step(run="thread", timeout=2.0)
    def works(ev: StartEvent) -> StopEvent:
        for _ in range(20):
            trio.from_thread.run(trio.lowlevel.checkpoint)
        return StopEvent(result=trio.from_thread.run_sync(trio.current_time))

    assert run_seeds(Workflow("w", [works]), seeds=[1])[0].result == 0.0


def test_a_thread_that_does_not_stop_holds_time_up_only_for_a_while(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(scheduling, "LONGEST_THREAD", 0.01)

    @step(run="thread", timeout=2.0)
    def stuck(ev: StartEvent) -> StopEvent:
        while trio.from_thread.run_sync(trio.current_time) < 2.0:
            pass
        return StopEvent()

    with pytest.raises(TimeoutError, match=r"'stuck' .* over its timeout of 2 s"):
        run_seeds(Workflow("w", [stuck]), seeds=[1])


def test_the_dice_of_programs_and_of_other_loops_are_left_alone() -> None:
    core: Any = trio._core._run
    before = core._ALLOW_DETERMINISTIC_SCHEDULING, core._r.getstate(), random.getstate()
    with pytest.raises(KeyError), seeded_scheduler(3):
        raise KeyError
    assert (core._ALLOW_DETERMINISTIC_SCHEDULING, core._r.getstate(), random.getstate()) == before
