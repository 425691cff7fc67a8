"""Steps and runs over their time. Every time is virtual, in seconds of the test's clock."""

from __future__ import annotations

import builtins
from typing import Any

import pytest
import trio
from trio.testing import MockClock

import blazen
from blazen import Context, Event, StartEvent, StopEvent, Workflow, step
from blazen.errors import BlazenWarning, CancelledError, TimeoutError, WorkflowError


class Number(Event):
    n: int = 0


class Letter(Event):
    pass


@step
async def spread(ev: StartEvent) -> list[Number | Letter]:
    return [Number(), Letter()]


# ---- a step's timeout


async def test_a_timed_out_step_cleans_up_before_the_run_reports_it(autojump_clock: MockClock) -> None:
    left = []

    @step(timeout=5)
    async def slow(ctx: Context, ev: StartEvent) -> StopEvent:
        try:
            await trio.sleep(3600)
        finally:
            left.append(trio.current_time())
            async with ctx.cleanup():
                await trio.sleep(2)
            left.append(trio.current_time())
        return StopEvent()

    with pytest.raises(TimeoutError, match=r"'slow'.*'w'.*5 s") as caught:
        await Workflow("w", [slow]).run()
    assert left == [5.0, 7.0]
    assert caught.value.step == "slow"
    assert caught.value.run_id is not None


async def test_elapsed_ms_is_the_time_from_start_to_abort(autojump_clock: MockClock) -> None:
    @step(timeout=5)
    async def slow(ev: StartEvent) -> StopEvent:
        await trio.sleep(3600)
        return StopEvent()

    with pytest.raises(TimeoutError) as caught:
        await Workflow("w", [slow]).run()
    assert caught.value.elapsed_ms == 5000


async def test_a_timeout_is_also_a_builtin_timeout_error_and_an_error_of_blazen(autojump_clock: MockClock) -> None:
    @step(timeout=5)
    async def slow(ev: StartEvent) -> StopEvent:
        await trio.sleep(3600)
        return StopEvent()

    with pytest.raises(builtins.TimeoutError) as caught:
        await Workflow("w", [slow]).run()
    assert isinstance(caught.value, blazen.errors.TimeoutError)
    assert isinstance(caught.value, blazen.BlazenError)


@pytest.mark.parametrize(("seconds", "in_time"), [(4.999, True), (5.0, False), (5.001, False)])
async def test_a_step_has_until_just_before_its_timeout(
    seconds: float, in_time: bool, autojump_clock: MockClock
) -> None:
    @step(timeout=5)
    async def work(ev: StartEvent) -> StopEvent:
        await trio.sleep(seconds)
        return StopEvent(result="in time")

    workflow = Workflow("w", [work])
    if in_time:
        assert (await workflow.run()).result == "in time"
    else:
        with pytest.raises(TimeoutError):
            await workflow.run()


@pytest.mark.parametrize("kind", ["async", "plain"])
async def test_a_result_of_a_step_that_never_yields_is_dropped_when_it_is_late(
    kind: str, mock_clock: MockClock
) -> None:
    async def in_async(ev: StartEvent) -> StopEvent:
        mock_clock.jump(6)
        return StopEvent(result="late")

    def in_plain(ev: StartEvent) -> StopEvent:
        mock_clock.jump(6)
        return StopEvent(result="late")

    work = step(name="busy", timeout=5)(in_async if kind == "async" else in_plain)
    with pytest.raises(TimeoutError) as caught:
        await Workflow("w", [work]).run()
    assert (caught.value.step, caught.value.elapsed_ms) == ("busy", 6000)


async def test_a_late_error_of_a_step_that_never_yields_counts_as_timed_out_and_is_kept(
    mock_clock: MockClock,
) -> None:
    original = LookupError("late")

    @step(timeout=5)
    def busy(ev: StartEvent) -> StopEvent:
        mock_clock.jump(6)
        raise original

    with pytest.raises(TimeoutError) as caught:
        await Workflow("w", [busy]).run()
    assert caught.value.suppressed == (original,)


async def test_an_error_in_the_cleanup_of_a_timed_out_step_is_suppressed(autojump_clock: MockClock) -> None:
    original = LookupError("cleanup failed")

    @step(timeout=5)
    async def slow(ev: StartEvent) -> StopEvent:
        try:
            await trio.sleep(3600)
        finally:
            raise original
        return StopEvent()

    with pytest.raises(TimeoutError) as caught:
        await Workflow("w", [slow]).run()
    assert caught.value.suppressed == (original,)


async def test_a_step_that_swallows_its_timeout_has_timed_out_all_the_same(autojump_clock: MockClock) -> None:
    @step(timeout=5)
    async def slow(ev: StartEvent) -> StopEvent:
        with trio.CancelScope():
            try:
                await trio.sleep(3600)
            except trio.Cancelled:
                pass
        return StopEvent(result="late")

    with pytest.raises(TimeoutError):
        await Workflow("w", [slow]).run()


async def test_a_step_that_shields_itself_past_its_timeout_is_named_and_waited_for(
    autojump_clock: MockClock,
) -> None:
    @step(timeout=5)
    async def shielded(ev: StartEvent) -> StopEvent:
        with trio.CancelScope(shield=True):
            await trio.sleep(60)
        return StopEvent()

    with pytest.warns(BlazenWarning, match="'shielded'"):
        with pytest.raises(TimeoutError):
            await Workflow("w", [shielded]).run()
    assert trio.current_time() == 60.0


async def test_a_base_exception_out_of_a_timed_out_step_comes_out_as_itself(autojump_clock: MockClock) -> None:
    @step(timeout=5)
    async def slow(ev: StartEvent) -> StopEvent:
        try:
            await trio.sleep(3600)
        finally:
            raise KeyboardInterrupt
        return StopEvent()

    with pytest.raises(KeyboardInterrupt):
        await Workflow("w", [slow]).run()


async def test_siblings_of_a_timed_out_step_have_unwound_too(autojump_clock: MockClock) -> None:
    left = []

    @step
    async def sibling(ctx: Context, ev: Number) -> StopEvent:
        try:
            await trio.sleep_forever()
        finally:
            async with ctx.cleanup():
                await trio.sleep(1)
            left.append(trio.current_time())
        return StopEvent()

    @step(timeout=5)
    async def slow(ev: Letter) -> None:
        await trio.sleep(3600)

    with pytest.raises(TimeoutError):
        await Workflow("w", [spread, sibling, slow]).run()
    assert left == [6.0]


async def test_each_invocation_has_a_clock_of_its_own(autojump_clock: MockClock) -> None:
    @step
    async def start(ev: StartEvent) -> Number:
        return Number(n=0)

    @step(timeout=5)
    async def work(ev: Number) -> Number | StopEvent:
        await trio.sleep(4)
        return Number(n=ev.n + 1) if ev.n < 10 else StopEvent(result=trio.current_time())

    assert (await Workflow("w", [start, work]).run()).result == 44.0


async def test_of_many_invocations_only_those_over_their_time_are_stopped(autojump_clock: MockClock) -> None:
    rescued = []

    @step
    async def start(ev: StartEvent) -> list[Number]:
        return [Number(n=n) for n in range(10)]

    @step(timeout=4.5, on_error=lambda ev, exc: rescued.append(ev.n))
    async def work(ctx: Context, ev: Number) -> StopEvent | None:
        await trio.sleep(ev.n)
        done.append(ev.n)
        return None

    done: list[int] = []
    with pytest.raises(WorkflowError, match="idle"):
        await Workflow("w", [start, work]).run()
    assert done == [0, 1, 2, 3, 4]
    assert sorted(rescued) == [5, 6, 7, 8, 9]
    assert trio.current_time() == 4.5


async def test_the_workflows_step_timeout_holds_for_steps_without_one(autojump_clock: MockClock) -> None:
    @step
    async def start(ev: StartEvent) -> Number:
        return Number()

    @step(timeout=50)
    async def own(ev: Number) -> Letter:
        await trio.sleep(40)
        return Letter()

    @step
    async def common(ev: Letter) -> StopEvent:
        await trio.sleep(40)
        return StopEvent()

    with pytest.raises(TimeoutError) as caught:
        await Workflow("w", [start, own, common], step_timeout=5).run()
    assert (caught.value.step, caught.value.elapsed_ms) == ("common", 5000)


async def test_a_worker_whose_step_timed_out_takes_further_steps(autojump_clock: MockClock) -> None:
    timed_out = 0

    def count(ev: Number, exc: Exception) -> Number:
        nonlocal timed_out
        timed_out += 1
        return Number(n=ev.n + 1)

    @step
    async def start(ev: StartEvent) -> Number:
        return Number()

    @step(timeout=1, on_error=count)
    async def work(ev: Number) -> Number | StopEvent:
        if ev.n == 100:
            return StopEvent()
        await trio.sleep_forever()
        return Number()

    await Workflow("w", [start, work]).run()
    assert timed_out == 100
    assert trio.current_time() == 100.0


async def test_a_timeout_in_a_handlers_run_is_raised_by_result_and_on_leaving(autojump_clock: MockClock) -> None:
    @step(timeout=5)
    async def slow(ev: StartEvent) -> StopEvent:
        await trio.sleep(3600)
        return StopEvent()

    with pytest.raises(TimeoutError):
        async with Workflow("w", [slow]).run_with_handler():
            pass
    async with Workflow("w", [slow]).run_with_handler() as handler:
        with pytest.raises(TimeoutError):
            await handler.result()
    assert handler.state == "failed"


async def test_two_steps_of_one_deadline_time_out_and_the_other_one_is_no_second_failure(
    autojump_clock: MockClock,
) -> None:
    left = []

    @step
    async def start(ev: StartEvent) -> list[Number]:
        return [Number(n=n) for n in range(5)]

    @step(timeout=5)
    async def slow(ev: Number) -> StopEvent:
        try:
            await trio.sleep(3600)
        finally:
            left.append(ev.n)
        return StopEvent()

    with pytest.raises(TimeoutError) as caught:
        await Workflow("w", [start, slow]).run()
    assert sorted(left) == [0, 1, 2, 3, 4]
    assert caught.value.elapsed_ms == 5000


async def test_a_steps_own_timeout_error_is_an_error_like_any_other(autojump_clock: MockClock) -> None:
    @step(timeout=5)
    async def work(ev: StartEvent) -> StopEvent:
        raise builtins.TimeoutError("of the network")

    with pytest.raises(WorkflowError, match="of the network") as caught:
        await Workflow("w", [work]).run()
    assert type(caught.value.__cause__) is builtins.TimeoutError


async def test_a_timeout_of_an_inner_run_is_the_cause_of_the_outer_failure(autojump_clock: MockClock) -> None:
    @step(name="inner")
    async def inner_step(ev: StartEvent) -> StopEvent:
        await trio.sleep(3600)
        return StopEvent()

    inner = Workflow("inner", [inner_step], timeout=5)

    @step(name="outer")
    async def outer_step(ev: StartEvent) -> StopEvent:
        await inner.run()
        return StopEvent()

    with pytest.raises(WorkflowError, match="'outer'") as caught:
        await Workflow("outer", [outer_step]).run()
    assert isinstance(caught.value.__cause__, TimeoutError)
    assert caught.value.__cause__.step is None


# ---- a run's timeout


@pytest.mark.parametrize("way", ["run", "handler"])
async def test_a_run_over_its_time_fails_after_every_step_is_out(way: str, autojump_clock: MockClock) -> None:
    left = []

    @step
    async def work(ctx: Context, ev: Number | Letter) -> StopEvent:
        try:
            await trio.sleep_forever()
        finally:
            async with ctx.cleanup():
                await trio.sleep(1)
            left.append(trio.current_time())
        return StopEvent()

    workflow = Workflow("w", [spread, work], timeout=10)
    with pytest.raises(TimeoutError, match=r"'w'.*10 s") as caught:  # noqa: PT012
        if way == "run":
            await workflow.run()
        else:
            async with workflow.run_with_handler() as handler:
                await handler.result()
    assert left == [11.0, 11.0]
    assert (caught.value.step, caught.value.elapsed_ms) == (None, 10_000)
    assert caught.value.run_id is not None


async def test_errors_while_a_run_over_its_time_unwinds_are_suppressed(autojump_clock: MockClock) -> None:
    original = LookupError("cleanup failed")

    @step(retries=3, on_error=lambda ev, exc: StopEvent())
    async def work(ev: StartEvent) -> StopEvent:
        try:
            await trio.sleep_forever()
        finally:
            raise original
        return StopEvent()

    with pytest.raises(TimeoutError) as caught:
        await Workflow("w", [work], timeout=10).run()
    assert caught.value.suppressed == (original,)


async def test_steps_that_unwind_in_one_pass_after_the_run_is_over_its_time_are_all_suppressed(
    autojump_clock: MockClock,
) -> None:
    @step
    async def two(ev: StartEvent) -> list[Number]:
        return [Number(), Number()]

    @step(timeout=0.25)
    async def tidy(ctx: Context, ev: Number) -> StopEvent:
        try:
            await trio.sleep_forever()
        finally:
            async with ctx.cleanup():
                await trio.sleep(1.0)

    with pytest.raises(TimeoutError) as caught:
        await Workflow("w", [two, tidy], timeout=1.0).run()
    assert caught.value.step is None
    assert [type(error) for error in caught.value.suppressed] == [TimeoutError, TimeoutError]
    assert [error.step for error in caught.value.suppressed] == ["tidy", "tidy"]  # type: ignore[attr-defined]


async def test_many_short_steps_together_may_be_over_the_runs_time(autojump_clock: MockClock) -> None:
    count = 0

    @step
    async def start(ev: StartEvent) -> Number:
        return Number()

    @step
    async def work(ev: Number) -> Number | StopEvent:
        nonlocal count
        count += 1
        await trio.sleep(1)
        return ev

    with pytest.raises(TimeoutError) as caught:
        await Workflow("w", [start, work], timeout=10.5).run()
    assert caught.value.elapsed_ms == 10_500
    assert count == 11


@pytest.mark.parametrize("kind", ["async", "plain"])
async def test_a_chain_that_never_waits_is_stopped_when_the_run_is_over_its_time(
    kind: str, mock_clock: MockClock
) -> None:
    count = 0

    async def start_async(ev: StartEvent) -> Number:
        return Number()

    def start_plain(ev: StartEvent) -> Number:
        return Number()

    async def in_async(ev: Number) -> Number | StopEvent:
        return in_plain(ev)

    def in_plain(ev: Number) -> Number | StopEvent:
        nonlocal count
        count += 1
        if count > 100_000:
            return StopEvent(result="ran on")
        mock_clock.jump(0.01)
        return ev

    start = step(start_async if kind == "async" else start_plain)  # a run of plain steps only has no nursery
    work = step(name="work")(in_async if kind == "async" else in_plain)
    with pytest.raises(TimeoutError) as caught:
        await Workflow("w", [start, work], timeout=10).run()
    assert caught.value.step is None
    assert caught.value.elapsed_ms is not None
    assert caught.value.elapsed_ms >= 10_000
    assert count < 10_000  # long before the chain would have come to its own end


@pytest.mark.parametrize("kind", ["async", "plain"])
async def test_a_stop_event_after_the_runs_time_is_too_late(kind: str, mock_clock: MockClock) -> None:
    async def in_async(ev: StartEvent) -> StopEvent:
        return in_plain(ev)

    def in_plain(ev: StartEvent) -> StopEvent:
        mock_clock.jump(11)
        return StopEvent(result="late")

    work = step(name="work")(in_async if kind == "async" else in_plain)
    with pytest.raises(TimeoutError) as caught:
        await Workflow("w", [work], timeout=10).run()
    assert (caught.value.step, caught.value.elapsed_ms) == (None, 11_000)


async def test_a_run_over_its_time_does_not_wait_for_a_retry(autojump_clock: MockClock) -> None:
    from blazen import Retry

    @step(retries=Retry(3, initial=20.0))
    async def work(ev: StartEvent) -> StopEvent:
        raise OSError("again")

    with pytest.raises(TimeoutError) as caught:
        await Workflow("w", [work], timeout=10).run()
    assert caught.value.step is None
    assert trio.current_time() == 10.0


async def test_the_shorter_of_step_and_run_timeout_counts(autojump_clock: MockClock) -> None:
    @step(timeout=5)
    async def slow(ev: StartEvent) -> StopEvent:
        await trio.sleep(3600)
        return StopEvent()

    workflow = Workflow("w", [slow])
    for seconds, named in ((3, None), (7, "slow")):
        with pytest.raises(TimeoutError) as caught:
            await workflow.options(timeout=seconds).run()
        assert caught.value.step == named


async def test_a_timeout_not_reached_changes_nothing(autojump_clock: MockClock) -> None:
    @step(timeout=5)
    async def work(ev: StartEvent) -> StopEvent:
        await trio.sleep(1)
        return StopEvent(result="done")

    assert (await Workflow("w", [work], timeout=5).run()).result == "done"
    assert trio.current_time() == 1.0


async def test_there_is_no_hidden_timeout(autojump_clock: MockClock) -> None:
    @step
    async def work(ev: StartEvent) -> StopEvent:
        await trio.sleep(10 * 365 * 86400)
        return StopEvent(result="done")

    assert (await Workflow("w", [work]).run()).result == "done"


async def test_a_cancel_beats_a_timeout_that_comes_later(autojump_clock: MockClock) -> None:
    @step
    async def work(ctx: Context, ev: StartEvent) -> StopEvent:
        try:
            await trio.sleep_forever()
        finally:
            async with ctx.cleanup():
                await trio.sleep(4)
        return StopEvent()

    async with Workflow("w", [work], timeout=3).run_with_handler() as handler:
        await trio.sleep(1)
        handler.cancel("first")
        with pytest.raises(CancelledError, match="first"):
            await handler.result()
    assert trio.current_time() == 5.0


async def test_the_callers_deadline_and_the_runs_own_do_not_mix(autojump_clock: MockClock) -> None:
    @step
    async def work(ev: StartEvent) -> StopEvent:
        await trio.sleep_forever()
        return StopEvent()

    workflow = Workflow("w", [work], timeout=10)
    with pytest.raises(trio.TooSlowError):
        with trio.fail_after(5):
            await workflow.run()
    with pytest.raises(TimeoutError):
        with trio.fail_after(15):
            await workflow.run()


async def test_runs_of_one_workflow_time_out_one_by_one(autojump_clock: MockClock) -> None:
    ended: dict[int, Any] = {}

    @step
    async def work(ev: StartEvent) -> StopEvent:
        await trio.sleep(ev.seconds)
        return StopEvent(result="done")

    workflow = Workflow("w", [work], timeout=10)

    async def run(seconds: int) -> None:
        try:
            ended[seconds] = (await workflow.run(seconds=seconds)).result
        except TimeoutError:
            ended[seconds] = trio.current_time()

    async with trio.open_nursery() as nursery:
        for seconds in (1, 9, 11, 100):
            nursery.start_soon(run, seconds)
    assert ended == {1: "done", 9: "done", 11: 10.0, 100: 10.0}
