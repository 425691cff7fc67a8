"""Runs that are cancelled: by their caller, through the handler, from anywhere; and steps that are cancelled alone."""

from __future__ import annotations

import threading
import warnings
from collections.abc import Callable
from typing import Any

import pytest
import trio
import trio.testing
from trio.testing import MockClock
from ways_to_run import every_way, run_to_end

from blazen import Context, Event, Retry, StartEvent, StopEvent, Workflow, step
from blazen.errors import BlazenWarning, CancelledError, ValidationError, WorkflowError


class Number(Event):
    n: int = 0


class Letter(Event):
    pass


def forever(left: list[Any], cleanup: float = 2.0) -> Workflow[Any]:
    """Three steps that wait; each takes `cleanup` seconds to clean up and then notes the time it was out."""

    @step
    async def spread(ev: StartEvent) -> list[Number]:
        return [Number(n=n) for n in range(3)]

    @step
    async def wait(ctx: Context, ev: Number) -> StopEvent:
        try:
            await trio.sleep_forever()
        finally:
            async with ctx.cleanup():
                await trio.sleep(cleanup)
            left.append(trio.current_time())
        return StopEvent()

    return Workflow("forever", [spread, wait])


# ---- by the caller's scope


async def with_run(workflow: Workflow[Any]) -> None:
    await workflow.run()


async def with_scoped_run(workflow: Workflow[Any]) -> None:
    await workflow.options(timeout=1e6).run()


async def with_handler_result(workflow: Workflow[Any]) -> None:
    async with workflow.run_with_handler() as handler:
        await handler.result()


async def with_handler_left(workflow: Workflow[Any]) -> None:
    async with workflow.run_with_handler():
        pass


async def with_handler_reading(workflow: Workflow[Any]) -> None:
    async with workflow.run_with_handler() as handler:
        async for _ in handler.stream_events():
            pass


every_call = pytest.mark.parametrize(
    "call", [with_run, with_scoped_run, with_handler_result, with_handler_left, with_handler_reading]
)
Call = Callable[[Workflow[Any]], Any]


@every_call
async def test_move_on_after_stops_the_run_and_goes_on_when_every_step_is_out(
    call: Call, autojump_clock: MockClock
) -> None:
    left: list[float] = []
    with trio.move_on_after(1) as scope:
        await call(forever(left))
    assert scope.cancelled_caught
    assert left == [3.0] * 3
    assert trio.current_time() == 3.0


@every_call
async def test_fail_after_raises_its_own_error_and_nothing_else(call: Call, autojump_clock: MockClock) -> None:
    left: list[float] = []
    with pytest.raises(trio.TooSlowError):
        with trio.fail_after(1):
            await call(forever(left))
    assert left == [3.0] * 3


@every_call
async def test_a_nursery_that_is_cancelled_stops_the_runs_in_it(call: Call, autojump_clock: MockClock) -> None:
    left: list[float] = []
    async with trio.open_nursery() as nursery:
        for _ in range(4):
            nursery.start_soon(call, forever(left))
        await trio.sleep(1)
        nursery.cancel_scope.cancel()
    assert left == [3.0] * 12


@every_call
async def test_a_failing_neighbour_stops_the_run_and_its_error_comes_out_alone(
    call: Call, autojump_clock: MockClock
) -> None:
    left: list[float] = []

    async def neighbour() -> None:
        await trio.sleep(1)
        raise LookupError("neighbour")

    with pytest.raises(ExceptionGroup) as caught:  # noqa: PT012
        async with trio.open_nursery() as nursery:
            nursery.start_soon(call, forever(left))
            nursery.start_soon(neighbour)
    assert [type(error) for error in caught.value.exceptions] == [LookupError]
    assert left == [3.0] * 3


@pytest.mark.parametrize("kind", ["async", "plain"])
async def test_no_step_runs_in_a_scope_that_is_cancelled_already(kind: str) -> None:
    ran = []

    async def in_async(ev: StartEvent) -> StopEvent:
        ran.append(ev)
        return StopEvent()

    def in_plain(ev: StartEvent) -> StopEvent:
        ran.append(ev)
        return StopEvent()

    workflow = Workflow("never", [step(name="work")(in_async if kind == "async" else in_plain)])
    with trio.CancelScope() as scope:
        scope.cancel()
        await workflow.run()
    assert scope.cancelled_caught
    assert not ran


async def test_a_chain_that_never_waits_sees_its_callers_cancellation() -> None:
    @step
    async def start(ev: StartEvent) -> Number:
        return Number()

    @step
    def spin(ev: Number) -> Number | StopEvent:
        nonlocal count
        count += 1
        return ev

    async def cancel() -> None:
        scope.cancel()

    count = 0
    async with trio.open_nursery() as nursery:
        with trio.CancelScope() as scope:
            nursery.start_soon(cancel)
            await Workflow("spin", [start, spin]).run()
        assert scope.cancelled_caught
        seen = count
    assert count == seen > 0


@every_way
async def test_a_step_that_swallows_its_callers_cancellation_does_not_start_the_next_one(
    way: str, autojump_clock: MockClock
) -> None:
    ran = []

    @step
    async def swallow(ev: StartEvent) -> Number:
        try:
            await trio.sleep_forever()
        except trio.Cancelled:
            pass
        return Number()

    @step
    def after(ev: Number) -> StopEvent:
        ran.append(ev)
        return StopEvent()

    with trio.move_on_after(1) as scope:
        await run_to_end(way, [swallow, after])
    assert scope.cancelled_caught
    assert not ran


@every_way
async def test_an_error_while_unwinding_does_not_stand_in_for_the_callers_cancellation(
    way: str, autojump_clock: MockClock
) -> None:
    @step
    async def fails(ev: StartEvent) -> StopEvent:
        try:
            await trio.sleep_forever()
        finally:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(trio.sleep_forever)
                raise LookupError("on the way out")
        return StopEvent()

    with trio.move_on_after(1) as scope:
        await run_to_end(way, [fails])
    assert scope.cancelled_caught


async def test_a_scope_of_the_step_itself_cancels_nothing_else(autojump_clock: MockClock) -> None:
    @step
    async def work(ctx: Context, ev: StartEvent) -> StopEvent:
        with trio.move_on_after(1) as scope:
            await trio.sleep_forever()
        return StopEvent(result=scope.cancelled_caught)

    for way in ("run", "scoped", "handler"):
        assert (await run_to_end(way, [work])).result is True


async def test_cancelling_an_outer_run_stops_the_inner_ones_first(autojump_clock: MockClock) -> None:
    left: list[Any] = []
    inner = forever(left)

    @step
    async def outer(ev: StartEvent) -> StopEvent:
        try:
            await inner.run()
        finally:
            left.append("outer")
        return StopEvent()

    with trio.move_on_after(1):
        await Workflow("outer", [outer]).run()
    assert left == [3.0, 3.0, 3.0, "outer"]


# ---- through the handler


async def test_cancel_ends_the_run_with_its_reason_after_every_step_is_out(autojump_clock: MockClock) -> None:
    left: list[float] = []
    async with forever(left).run_with_handler() as handler:
        await trio.sleep(1)
        handler.cancel("no longer wanted")
        assert handler.state == "running"
        with pytest.raises(CancelledError, match=r"^no longer wanted$") as caught:
            await handler.result()
        assert left == [3.0] * 3
    assert caught.value.reason == "no longer wanted"
    assert caught.value.run_id == handler.run_id
    assert handler.state == "cancelled"


async def test_cancel_without_a_reason_has_an_empty_message(autojump_clock: MockClock) -> None:
    async with forever([]).run_with_handler() as handler:
        handler.cancel()
        with pytest.raises(CancelledError) as caught:
            await handler.result()
    assert (str(caught.value), caught.value.reason) == ("", None)


async def test_a_run_cancelled_on_purpose_raises_nothing_on_leaving(autojump_clock: MockClock) -> None:
    left: list[float] = []
    async with forever(left).run_with_handler() as handler:
        await trio.sleep(1)
        handler.cancel()
    assert left == [3.0] * 3
    assert handler.state == "cancelled"


async def test_only_the_first_cancel_counts(autojump_clock: MockClock) -> None:
    left: list[float] = []
    async with forever(left).run_with_handler() as handler:
        await trio.sleep(1)
        handler.cancel("first")
        handler.cancel("second")
        await trio.sleep(1)
        handler.cancel("third, while it unwinds")
        with pytest.raises(CancelledError, match="first"):
            await handler.result()
        handler.cancel("fourth, after the end")
        with pytest.raises(CancelledError, match="first"):
            await handler.result()
    handler.cancel("fifth, outside of the block")
    assert left == [3.0] * 3


async def test_cancel_before_the_first_step_runs_none() -> None:
    ran = []

    @step
    def work(ev: StartEvent) -> StopEvent:
        ran.append(ev)
        return StopEvent()

    async with Workflow("never", [work]).run_with_handler() as handler:
        handler.cancel("at once")
        with pytest.raises(CancelledError, match="at once"):
            await handler.result()
    assert not ran


async def test_cancel_after_the_end_changes_nothing() -> None:
    @step
    async def work(ev: StartEvent) -> StopEvent:
        return StopEvent(result="done")

    async with Workflow("done", [work]).run_with_handler() as handler:
        await handler.result()
        handler.cancel("too late")
        assert handler.state == "completed"
        assert (await handler.result()).result == "done"


@pytest.mark.parametrize("kind", ["async", "plain", "thread"])
async def test_a_step_may_cancel_its_own_run(kind: str) -> None:
    async def in_async(ctx: Context, ev: StartEvent) -> StopEvent:
        handlers[0].cancel("by the step")
        await trio.sleep_forever()
        return StopEvent()

    def in_plain(ctx: Context, ev: StartEvent) -> StopEvent:
        handlers[0].cancel("by the step")
        return StopEvent(result="dropped")

    def in_thread(ctx: Context, ev: StartEvent) -> StopEvent:
        handlers[0].cancel("by the step")
        while True:
            ctx.check_cancelled()

    handlers: list[Any] = []
    work = {
        "async": step(name="work")(in_async),
        "plain": step(name="work")(in_plain),
        "thread": step(name="work", run="thread")(in_thread),
    }[kind]
    async with Workflow("own", [work]).run_with_handler() as handler:
        handlers.append(handler)
        with pytest.raises(CancelledError, match="by the step"):
            await handler.result()


async def test_another_thread_may_cancel_the_run() -> None:
    began = trio.Event()

    @step
    async def work(ev: StartEvent) -> StopEvent:
        began.set()
        await trio.sleep_forever()
        return StopEvent()

    async with Workflow("thread", [work]).run_with_handler() as handler:
        await began.wait()
        await trio.to_thread.run_sync(handler.cancel, "from a thread")
        with pytest.raises(CancelledError, match="from a thread"):
            await handler.result()


async def test_a_foreign_thread_may_cancel_at_any_time_also_after_the_end() -> None:
    @step
    async def work(ev: StartEvent) -> StopEvent:
        await trio.sleep_forever()
        return StopEvent()

    async with Workflow("thread", [work]).run_with_handler() as handler:
        thread = threading.Thread(target=handler.cancel)
        thread.start()
        with pytest.raises(CancelledError):
            await handler.result()
        thread.join()
    late = threading.Thread(target=handler.cancel, args=("late",))
    late.start()
    late.join()
    assert handler.state == "cancelled"


@pytest.mark.parametrize("reason", [1, b"bytes", ["list"]])
async def test_a_reason_that_is_no_text_is_refused_and_the_run_undisturbed(
    reason: Any, autojump_clock: MockClock
) -> None:
    @step
    async def work(ev: StartEvent) -> StopEvent:
        await trio.sleep(1)
        return StopEvent(result="done")

    async with Workflow("w", [work]).run_with_handler() as handler:
        with pytest.raises(ValidationError, match="reason must be a str"):
            handler.cancel(reason)
        assert (await handler.result()).result == "done"


async def test_a_step_that_swallows_the_cancellation_produces_nothing(autojump_clock: MockClock) -> None:
    ran = []

    @step
    async def swallow(ev: StartEvent) -> StopEvent:
        try:
            await trio.sleep_forever()
        except trio.Cancelled:
            ran.append("swallowed")
        return StopEvent(result="too late")

    async with Workflow("w", [swallow]).run_with_handler() as handler:
        await trio.sleep(1)
        handler.cancel("on purpose")
        with pytest.raises(CancelledError, match="on purpose"):
            await handler.result()
    assert ran == ["swallowed"]


async def test_a_cancelled_step_meets_the_cancellation_at_every_checkpoint(autojump_clock: MockClock) -> None:
    met = []

    @step
    async def stubborn(ev: StartEvent) -> StopEvent:
        for n in range(5):
            try:
                await trio.sleep_forever()
            except trio.Cancelled:
                met.append(n)
        return StopEvent()

    async with Workflow("w", [stubborn]).run_with_handler() as handler:
        await trio.sleep(1)
        handler.cancel()
    assert met == [0, 1, 2, 3, 4]
    assert trio.current_time() == 1.0


async def test_retries_that_wait_for_their_time_end_with_the_run(autojump_clock: MockClock) -> None:
    from blazen import Retry

    attempts = []

    @step(retries=Retry(5, initial=20.0))
    async def fails(ctx: Context, ev: StartEvent) -> StopEvent:
        attempts.append(ctx.attempt)
        raise OSError("again")

    async with Workflow("w", [fails]).run_with_handler() as handler:
        await trio.sleep(1)
        handler.cancel()
        with pytest.raises(CancelledError):
            await handler.result()
        assert trio.current_time() == 1.0
    assert attempts == [1]


async def test_errors_while_a_cancelled_run_unwinds_are_suppressed(autojump_clock: MockClock) -> None:
    original = LookupError("cleanup failed")

    @step(on_error=lambda ev, exc: StopEvent(result="rescued"), retries=3)
    async def work(ev: StartEvent) -> StopEvent:
        try:
            await trio.sleep_forever()
        finally:
            raise original
        return StopEvent()

    async with Workflow("w", [work]).run_with_handler() as handler:
        await trio.sleep(1)
        handler.cancel("stop")
        with pytest.raises(CancelledError, match="stop") as caught:
            await handler.result()
    assert caught.value.suppressed == (original,)


async def test_the_stream_of_a_cancelled_run_ends_after_the_last_step_wrote_to_it(autojump_clock: MockClock) -> None:
    @step
    async def work(ctx: Context, ev: StartEvent) -> StopEvent:
        try:
            await trio.sleep_forever()
        finally:
            ctx.write_event_to_stream(Letter())
        return StopEvent()

    async with Workflow("w", [work]).run_with_handler() as handler:
        await trio.sleep(1)
        handler.cancel()
        assert [event async for event in handler.stream_events()] == [Letter()]


# ---- one step


async def test_cancel_step_stops_all_running_invocations_of_that_step_and_the_run_goes_on(
    autojump_clock: MockClock,
) -> None:
    left = []

    @step
    async def spread(ev: StartEvent) -> list[Number | Letter]:
        return [Number(n=1), Number(n=2), Number(n=3), Letter()]

    @step(retries=3, on_error=lambda ev, exc: left.append("on_error"))
    async def stopped(ctx: Context, ev: Number) -> StopEvent:
        try:
            await trio.sleep_forever()
        except trio.Cancelled:
            left.append(ev.n)
            raise
        return StopEvent()

    @step
    async def goes_on(ev: Letter) -> StopEvent:
        await trio.sleep(10)
        return StopEvent(result="done")

    async with Workflow("w", [spread, stopped, goes_on]).run_with_handler() as handler:
        await trio.sleep(1)
        handler.cancel_step("stopped")
        await trio.sleep(1)
        assert sorted(left) == [1, 2, 3]
        assert handler.state == "running"
        assert (await handler.result()).result == "done"
    assert trio.current_time() == 10.0


async def test_what_a_cancelled_step_returns_is_dropped(autojump_clock: MockClock) -> None:
    @step
    async def spread(ev: StartEvent) -> list[Number | Letter]:
        return [Number(), Letter()]

    @step
    async def swallow(ev: Number) -> StopEvent:
        try:
            await trio.sleep_forever()
        except trio.Cancelled:
            pass
        return StopEvent(result="swallowed")

    @step
    async def goes_on(ev: Letter) -> StopEvent:
        await trio.sleep(10)
        return StopEvent(result="done")

    async with Workflow("w", [spread, swallow, goes_on]).run_with_handler() as handler:
        await trio.sleep(1)
        handler.cancel_step("swallow")
        assert (await handler.result()).result == "done"


async def test_cancel_step_leaves_later_invocations_alone(autojump_clock: MockClock) -> None:
    @step
    async def again(ctx: Context, ev: StartEvent | Number) -> StopEvent:
        if isinstance(ev, Number):
            await trio.sleep(1)
            return StopEvent(result="second")
        ctx.send_event(Number())
        await trio.sleep_forever()
        return StopEvent(result="first")

    @step(max_concurrency=1)
    async def limited(ev: Letter) -> StopEvent | None:
        await trio.sleep(5)
        return None

    async with Workflow("w", [again, limited]).run_with_handler() as handler:
        handler.cancel_step("again")  # nothing of it runs yet
        await trio.testing.wait_all_tasks_blocked()
        assert (await handler.result()).result == "second"


async def test_cancel_step_hands_a_limited_steps_place_to_the_next_event(autojump_clock: MockClock) -> None:
    begun = []

    @step
    async def spread(ev: StartEvent) -> list[Number]:
        return [Number(n=n) for n in range(3)]

    @step(max_concurrency=1)
    async def limited(ev: Number) -> StopEvent:
        begun.append(ev.n)
        await trio.sleep(100 if ev.n < 2 else 1)
        return StopEvent(result=ev.n)

    async with Workflow("w", [spread, limited]).run_with_handler() as handler:
        await trio.sleep(1)
        handler.cancel_step("limited")
        await trio.sleep(1)
        handler.cancel_step("limited")
        assert (await handler.result()).result == 2
    assert begun == [0, 1, 2]
    assert trio.current_time() == 3.0


async def test_a_run_whose_last_running_step_was_cancelled_is_idle(autojump_clock: MockClock) -> None:
    @step
    async def work(ev: StartEvent) -> StopEvent:
        await trio.sleep_forever()
        return StopEvent()

    async with Workflow("w", [work]).run_with_handler() as handler:
        await trio.sleep(1)
        handler.cancel_step("work")
        with pytest.raises(WorkflowError, match="idle"):
            await handler.result()


async def test_a_cancelled_step_has_its_cleanup_grace_and_errors_of_it_are_warned_of(
    autojump_clock: MockClock,
) -> None:
    left = []

    @step
    async def spread(ev: StartEvent) -> list[Number | Letter]:
        return [Number(), Letter()]

    @step
    async def stopped(ctx: Context, ev: Number) -> None:
        try:
            await trio.sleep_forever()
        finally:
            async with ctx.cleanup():
                await trio.sleep(2)
            left.append(trio.current_time())
            raise LookupError("cleanup failed")

    @step
    async def goes_on(ev: Letter) -> StopEvent:
        await trio.sleep(10)
        return StopEvent(result="done")

    with pytest.warns(BlazenWarning, match=r"'stopped'.*LookupError.*cleanup failed"):  # noqa: PT031
        async with Workflow("w", [spread, stopped, goes_on]).run_with_handler() as handler:
            await trio.sleep(1)
            handler.cancel_step("stopped")
            assert (await handler.result()).result == "done"
    assert left == [3.0]


async def test_a_base_exception_out_of_a_cancelled_step_ends_the_run_as_itself(autojump_clock: MockClock) -> None:
    original = KeyboardInterrupt()

    @step
    async def work(ev: StartEvent) -> StopEvent:
        try:
            await trio.sleep_forever()
        finally:
            raise original
        return StopEvent()

    with pytest.raises(KeyboardInterrupt) as caught:  # noqa: PT012
        async with Workflow("w", [work]).run_with_handler() as handler:
            await trio.sleep(1)
            handler.cancel_step("work")
    assert caught.value is original


async def test_a_step_may_cancel_itself_through_the_handler(autojump_clock: MockClock) -> None:
    @step
    async def spread(ev: StartEvent) -> list[Number | Letter]:
        return [Number(), Letter()]

    @step
    def itself(ev: Number) -> StopEvent:
        handlers[0].cancel_step("itself")
        return StopEvent(result="dropped")

    @step
    async def goes_on(ev: Letter) -> StopEvent:
        await trio.sleep(1)
        return StopEvent(result="done")

    handlers: list[Any] = []
    async with Workflow("w", [spread, itself, goes_on]).run_with_handler() as handler:
        handlers.append(handler)
        assert (await handler.result()).result == "done"


async def test_an_unknown_step_is_refused_and_the_known_ones_are_named(autojump_clock: MockClock) -> None:
    async with forever([]).run_with_handler() as handler:
        with pytest.raises(ValidationError, match=r"no step 'wiat'.*spread, wait"):
            handler.cancel_step("wiat")
        handler.cancel()


async def test_cancel_step_after_the_end_changes_nothing() -> None:
    @step
    async def work(ev: StartEvent) -> StopEvent:
        return StopEvent(result="done")

    async with Workflow("w", [work]).run_with_handler() as handler:
        await handler.result()
        handler.cancel_step("work")
        assert (await handler.result()).result == "done"


# ---- shields and the cleanup grace


@every_way
async def test_cleanup_is_cut_off_after_its_grace_and_the_step_named(way: str, autojump_clock: MockClock) -> None:
    left = []

    @step
    async def slow(ctx: Context, ev: StartEvent) -> StopEvent:
        try:
            await trio.sleep_forever()
        finally:
            async with ctx.cleanup():
                await trio.sleep(3600)
            left.append(trio.current_time())
        return StopEvent()

    with pytest.warns(BlazenWarning) as warned:
        with trio.move_on_after(1):
            await run_to_end(way, [slow], cleanup_grace=2.0)
    assert left == [3.0]
    (message,) = [str(warning.message) for warning in warned]
    assert "'slow'" in message
    assert "2 s" in message


@every_way
async def test_cleanup_after_a_siblings_failure_is_cut_off_with_one_warning(
    way: str, autojump_clock: MockClock
) -> None:
    left = []

    @step
    async def spread(ev: StartEvent) -> list[Number | Letter]:
        return [Number(), Letter()]

    @step
    async def slow(ctx: Context, ev: Number) -> StopEvent:
        try:
            await trio.sleep_forever()
        finally:
            async with ctx.cleanup():
                await trio.sleep(3600)
            left.append(trio.current_time())
        return StopEvent()

    @step
    async def fails(ev: Letter) -> None:
        await trio.sleep(1)
        raise LookupError("no")

    with pytest.warns(BlazenWarning, match=r"'slow'.*cleanup") as warned:
        with pytest.raises(WorkflowError, match="'fails'"):
            await run_to_end(way, [spread, slow, fails], cleanup_grace=2.0)
    assert left == [3.0]
    assert len(warned) == 1


async def test_a_step_that_shields_itself_after_its_cleanup_was_cut_off_is_named_for_that_too(
    autojump_clock: MockClock,
) -> None:
    @step
    async def slow(ctx: Context, ev: StartEvent) -> StopEvent:
        try:
            await trio.sleep_forever()
        finally:
            async with ctx.cleanup():
                await trio.sleep(3600)
            with trio.CancelScope(shield=True):
                await trio.sleep(100)
        return StopEvent()

    with pytest.warns(BlazenWarning) as warned:  # noqa: PT031
        async with Workflow("w", [slow], cleanup_grace=2.0).run_with_handler() as handler:
            await trio.sleep(1)
            handler.cancel()
    messages = [str(warning.message) for warning in warned]
    assert [("cut off" in message, "shields" in message) for message in messages] == [(True, False), (False, True)]
    assert trio.current_time() == 103.0


@every_way
async def test_cleanup_within_its_grace_warns_of_nothing(way: str, autojump_clock: MockClock) -> None:
    left = []

    @step
    async def quick(ctx: Context, ev: StartEvent) -> StopEvent:
        try:
            await trio.sleep_forever()
        finally:
            async with ctx.cleanup():
                await trio.sleep(4.9)
            left.append(trio.current_time())
        return StopEvent()

    with trio.move_on_after(1):
        await run_to_end(way, [quick])
    assert left == [5.9]


async def test_the_grace_of_options_is_the_one_that_counts(autojump_clock: MockClock) -> None:
    left: list[float] = []
    with pytest.warns(BlazenWarning, match="0.5 s"):
        with trio.move_on_after(1):
            await forever(left).options(cleanup_grace=0.5).run()
    assert left == [1.5] * 3


async def test_a_grace_of_zero_leaves_no_time_to_await(autojump_clock: MockClock) -> None:
    left: list[float] = []
    with pytest.warns(BlazenWarning, match="'wait'"):
        with trio.move_on_after(1):
            await forever(left).options(cleanup_grace=0).run()
    assert left == [1.0] * 3


@every_way
async def test_a_step_that_shields_itself_too_long_is_named_and_waited_for(way: str, autojump_clock: MockClock) -> None:
    left = []

    @step
    async def shielded(ev: StartEvent) -> StopEvent:
        with trio.CancelScope(shield=True):
            await trio.sleep(60)
        left.append(trio.current_time())
        return StopEvent()

    with pytest.warns(BlazenWarning, match="'shielded'") as warned:  # noqa: PT031
        with trio.move_on_after(1) as scope:
            await run_to_end(way, [shielded], cleanup_grace=2.0)
            await trio.lowlevel.checkpoint()
    assert scope.cancelled_caught
    assert left == [60.0]
    assert len(warned) == 1


async def test_the_grace_of_an_earlier_attempt_says_nothing_of_a_later_one(autojump_clock: MockClock) -> None:
    @step(timeout=2, retries=Retry(2, initial=0.0))
    async def work(ctx: Context, ev: StartEvent) -> StopEvent:
        if ctx.attempt == 3:
            return StopEvent(result="the third attempt")
        try:
            await trio.sleep_forever()
        finally:
            with trio.CancelScope(shield=True):
                await trio.sleep(2)  # within its grace; that of the first attempt is over while the second cleans up
        return StopEvent()

    with warnings.catch_warnings():
        warnings.simplefilter("error", BlazenWarning)
        result = await Workflow("w", [work], cleanup_grace=4.5).run()
    assert result.result == "the third attempt"


async def test_a_shielded_sibling_is_named_when_the_run_fails_and_waited_for(autojump_clock: MockClock) -> None:
    @step
    async def spread(ev: StartEvent) -> list[Number | Letter]:
        return [Number(), Letter()]

    @step
    async def shielded(ev: Number) -> StopEvent:
        with trio.CancelScope(shield=True):
            await trio.sleep(60)
        return StopEvent()

    @step
    async def fails(ev: Letter) -> None:
        await trio.sleep(1)
        raise LookupError("no")

    for way in ("run", "scoped", "handler"):
        began = trio.current_time()
        with pytest.warns(BlazenWarning, match=r"'shielded'") as warned:
            with pytest.raises(WorkflowError, match="'fails'"):
                await run_to_end(way, [spread, shielded, fails])
        assert trio.current_time() - began == 60.0
        assert len(warned) == 1


async def test_cleanup_bounds_a_step_that_nobody_cancelled_too(autojump_clock: MockClock) -> None:
    @step
    async def work(ctx: Context, ev: StartEvent) -> StopEvent:
        async with ctx.cleanup():
            await trio.sleep(1)
        return StopEvent(result="done")

    assert (await Workflow("w", [work]).run()).result == "done"


# ---- leaving the block


async def test_leaving_the_block_normally_waits_for_the_run(autojump_clock: MockClock) -> None:
    @step
    async def work(ev: StartEvent) -> StopEvent:
        await trio.sleep(10)
        return StopEvent(result="done")

    async with Workflow("w", [work]).run_with_handler() as handler:
        assert handler.state == "running"
    assert trio.current_time() == 10.0
    assert handler.state == "completed"
    assert (await handler.result()).result == "done"


async def test_a_handler_is_entered_once_and_not_awaited() -> None:
    @step
    async def work(ev: StartEvent) -> StopEvent:
        return StopEvent()

    workflow = Workflow("w", [work])
    handler = workflow.run_with_handler()
    for use in (handler.cancel, handler.stream_events, lambda: handler.cancel_step("work")):
        with pytest.raises(ValidationError, match="has not begun"):
            use()
    async with handler:
        pass
    with pytest.raises(ValidationError, match="entered once"):
        async with handler:
            pass
    with pytest.raises(ValidationError, match="async with"):
        await workflow.run_with_handler()  # type: ignore[misc]


async def test_nothing_can_be_sent_into_a_run_that_has_ended() -> None:
    @step
    async def work(ev: StartEvent | Number) -> StopEvent:
        return StopEvent(result="done")

    async with Workflow("w", [work]).run_with_handler() as handler:
        await handler.result()
        with pytest.raises(ValidationError, match="has ended"):
            handler.send_event(Number())
    with pytest.raises(ValidationError, match="has ended"):
        handler.send_event(Number())
    assert (await handler.result()).result == "done"


async def test_an_event_from_outside_that_nobody_accepts_leaves_the_run_undisturbed(autojump_clock: MockClock) -> None:
    @step
    async def work(ev: StartEvent) -> StopEvent:
        await trio.sleep(1)
        return StopEvent(result="done")

    async with Workflow("w", [work]).run_with_handler() as handler:
        with pytest.raises(WorkflowError, match=r"'Number'.*outside"):
            handler.send_event(Number())
        with pytest.raises(ValidationError, match="takes an event"):
            handler.send_event(7)  # type: ignore[arg-type]
        assert (await handler.result()).result == "done"


async def test_events_from_outside_reach_their_steps_from_any_thread(autojump_clock: MockClock) -> None:
    @step
    async def start(ev: StartEvent) -> StopEvent:
        await trio.sleep_forever()
        return StopEvent()

    @step
    async def take(ctx: Context, ev: Number) -> StopEvent | None:
        found = ctx.collect_events(ev, 2)
        return None if found is None else StopEvent(result=[one.n for one in found])

    async with Workflow("w", [start, take]).run_with_handler() as handler:
        handler.send_event(Number(n=1))
        await trio.to_thread.run_sync(handler.send_event, Number(n=2))
        assert (await handler.result()).result == [1, 2]
