"""Runs that fail: who is told what, in what order, and what has happened by then."""

from __future__ import annotations

import asyncio
import traceback
import warnings
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest
import trio
import trio.testing
from trio.testing import MockClock
from ways_to_run import every_way, run_to_end

from blazen import Context, Event, StartEvent, StopEvent, Workflow, step
from blazen.errors import BlazenWarning, CancelledError, ValidationError, WorkflowError


class Number(Event):
    n: int = 0


class Letter(Event):
    text: str = ""


class Done(Event):
    pass


@step
async def spread(ev: StartEvent) -> list[Number | Letter]:
    """One event for each of two steps; the Number has the lower number of the two."""
    return [Number(n=1), Letter()]


# ---- what the error says


@every_way
@pytest.mark.parametrize("kind", ["async", "waiting", "plain", "thread"])
async def test_a_step_that_raises_fails_the_run_with_its_exception_as_the_cause(way: str, kind: str) -> None:
    original = LookupError("no such thing")

    async def in_async(ctx: Context, ev: StartEvent) -> StopEvent:
        ids.append(ctx.run_id())
        if kind == "waiting":
            await trio.lowlevel.checkpoint()
        raise original

    def in_plain(ctx: Context, ev: StartEvent) -> StopEvent:
        ids.append(ctx.run_id())
        raise original

    ids: list[str] = []
    fails = step(name="fails", run="thread" if kind == "thread" else "inline")(
        in_plain if kind in ("plain", "thread") else in_async
    )
    with pytest.raises(WorkflowError, match=r"'fails'.*LookupError.*no such thing") as caught:
        await run_to_end(way, [fails])
    error = caught.value
    assert error.__cause__ is original
    assert (error.step, error.event_type, error.run_id) == ("fails", "blazen::StartEvent", ids[0])
    assert (error.suppressed, error.abandoned) == ((), ())


@every_way
async def test_the_cause_keeps_the_traceback_down_to_the_line_that_raised(way: str) -> None:
    def deep() -> None:
        raise LookupError("deep")

    @step
    async def fails(ev: StartEvent) -> StopEvent:
        deep()
        return StopEvent()

    with pytest.raises(WorkflowError) as caught:
        await run_to_end(way, [fails])
    cause = caught.value.__cause__
    assert cause is not None
    assert [frame.name for frame in traceback.extract_tb(cause.__traceback__)][-2:] == ["fails", "deep"]


async def test_the_cause_keeps_what_it_was_raised_from() -> None:
    @step
    async def fails(ev: StartEvent) -> StopEvent:
        try:
            raise KeyError("inner")
        except KeyError as exc:
            raise RuntimeError("outer") from exc

    with pytest.raises(WorkflowError) as caught:
        await Workflow("w", [fails]).run()
    assert isinstance(caught.value.__cause__, RuntimeError)
    assert isinstance(caught.value.__cause__.__cause__, KeyError)


@pytest.mark.parametrize("kind", [StopIteration, StopAsyncIteration, ValidationError, WorkflowError, CancelledError])
async def test_exceptions_that_mean_something_to_the_engine_are_causes_like_any_other(kind: type[Exception]) -> None:
    original = kind("mine")

    @step
    def fails(ev: StartEvent) -> StopEvent:
        raise original

    with pytest.raises(WorkflowError) as caught:
        await Workflow("w", [fails]).run()
    assert caught.value.__cause__ is original


async def test_an_asyncio_cancelled_error_out_of_a_step_comes_out_as_itself() -> None:
    original = asyncio.CancelledError()  # in Python no Exception

    @step
    def fails(ev: StartEvent) -> StopEvent:
        raise original

    with pytest.raises(asyncio.CancelledError) as caught:
        await Workflow("w", [fails]).run()
    assert caught.value is original


@every_way
async def test_an_exception_group_out_of_a_step_is_the_cause_whole(way: str) -> None:
    @step
    async def fails(ev: StartEvent) -> StopEvent:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(raise_it, KeyError("one"))
            nursery.start_soon(raise_it, OSError("two"))
        return StopEvent()

    async def raise_it(error: Exception) -> None:
        raise error

    with pytest.raises(WorkflowError) as caught:
        await run_to_end(way, [fails])
    cause = caught.value.__cause__
    assert isinstance(cause, ExceptionGroup)
    assert {type(error) for error in cause.exceptions} == {KeyError, OSError}


async def test_an_inner_runs_failure_is_the_cause_of_the_outer_ones() -> None:
    @step(name="inner")
    async def inner_step(ev: StartEvent) -> StopEvent:
        raise LookupError("deep")

    inner = Workflow("inner", [inner_step])

    @step(name="outer")
    async def outer_step(ev: StartEvent) -> StopEvent:
        await inner.run()
        return StopEvent()

    with pytest.raises(WorkflowError) as caught:
        await Workflow("outer", [outer_step]).run()
    assert caught.value.step == "outer"
    cause = caught.value.__cause__
    assert isinstance(cause, WorkflowError)
    assert cause.step == "inner"
    assert cause.run_id != caught.value.run_id
    assert isinstance(cause.__cause__, LookupError)


async def test_a_failure_is_seen_the_same_by_everybody_who_asks() -> None:
    @step
    async def fails(ev: StartEvent) -> StopEvent:
        raise LookupError("no")

    caught = []

    async def ask() -> None:
        with pytest.raises(WorkflowError) as error:
            await handler.result()
        caught.append(error.value)

    async with Workflow("w", [fails]).run_with_handler() as handler:
        async with trio.open_nursery() as nursery:
            for _ in range(3):
                nursery.start_soon(ask)
        await ask()
    assert len(caught) == 4
    assert len({id(error) for error in caught}) == 1


async def test_a_failure_nobody_asked_for_is_raised_on_leaving_the_block() -> None:
    @step
    async def fails(ev: StartEvent) -> StopEvent:
        raise LookupError("no")

    with pytest.raises(WorkflowError) as caught:
        async with Workflow("w", [fails]).run_with_handler():
            pass
    assert isinstance(caught.value.__cause__, LookupError)


async def test_a_failure_somebody_saw_is_not_raised_again_on_leaving_the_block() -> None:
    @step
    async def fails(ev: StartEvent) -> StopEvent:
        raise LookupError("no")

    async with Workflow("w", [fails]).run_with_handler() as handler:
        with pytest.raises(WorkflowError):
            await handler.result()
    assert handler.state == "failed"


# ---- siblings


@every_way
async def test_siblings_have_unwound_before_the_failure_is_told(way: str, autojump_clock: MockClock) -> None:
    left = []

    @step
    async def sibling(ctx: Context, ev: Number) -> StopEvent:
        try:
            await trio.sleep_forever()
        finally:
            async with ctx.cleanup():
                await trio.sleep(2)
            left.append(trio.current_time())
        return StopEvent()

    @step
    async def fails(ev: Letter) -> None:
        await trio.sleep(1)
        raise LookupError("no")

    with pytest.raises(WorkflowError):
        await run_to_end(way, [spread, sibling, fails])
    assert left == [3.0]
    assert trio.current_time() == 3.0


@every_way
async def test_nothing_is_dispatched_after_a_failure(way: str, autojump_clock: MockClock) -> None:
    ran = []

    @step
    async def start(ev: StartEvent) -> list[Number]:
        return [Number(n=n) for n in range(10)]

    @step(max_concurrency=2)
    async def work(ev: Number) -> StopEvent | None:
        ran.append(ev.n)
        await trio.sleep(1 + ev.n)
        raise LookupError("no")

    with pytest.raises(WorkflowError):
        await run_to_end(way, [start, work])
    assert ran == [0, 1]


@every_way
async def test_what_a_sibling_returns_while_it_is_stopped_is_dropped(way: str, autojump_clock: MockClock) -> None:
    @step
    async def stubborn(ev: Number) -> StopEvent:
        try:
            await trio.sleep_forever()
        except trio.Cancelled:
            pass
        return StopEvent(result="too late")

    @step
    async def fails(ev: Letter) -> None:
        await trio.sleep(1)
        raise LookupError("no")

    with pytest.raises(WorkflowError, match="'fails'"):
        await run_to_end(way, [spread, stubborn, fails])


@every_way
async def test_errors_while_unwinding_are_suppressed_and_never_replace_the_first(
    way: str, autojump_clock: MockClock
) -> None:
    second = OSError("cleanup failed")

    @step
    async def sibling(ev: Number) -> StopEvent:
        try:
            await trio.sleep_forever()
        finally:
            raise second

    @step
    async def fails(ev: Letter) -> None:
        await trio.sleep(1)
        raise LookupError("first")

    with pytest.raises(WorkflowError) as caught:
        await run_to_end(way, [spread, sibling, fails])
    assert isinstance(caught.value.__cause__, LookupError)
    assert caught.value.suppressed == (second,)


@every_way
async def test_errors_out_of_a_siblings_nursery_lose_their_cancellations(way: str, autojump_clock: MockClock) -> None:
    async def fails_on_the_way_out() -> None:
        try:
            await trio.sleep_forever()
        finally:
            raise OSError("cleanup failed")

    @step
    async def sibling(ev: Number) -> StopEvent:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(fails_on_the_way_out)
            nursery.start_soon(trio.sleep_forever)
        return StopEvent()

    @step
    async def fails(ev: Letter) -> None:
        await trio.sleep(1)
        raise LookupError("first")

    with pytest.raises(WorkflowError) as caught:
        await run_to_end(way, [spread, sibling, fails])
    (group,) = caught.value.suppressed
    assert isinstance(group, ExceptionGroup)
    assert [type(error) for error in group.exceptions] == [OSError]


async def open_together(gate: trio.Event) -> None:
    """Let all steps that wait at the gate go on in one pass of the scheduler, once they are there."""
    await trio.testing.wait_all_tasks_blocked()
    gate.set()


# trio shuffles the tasks of a pass: eight attempts leave one chance in 128 that only one order was tried.
both_orders = pytest.mark.parametrize("attempt", range(8))


@every_way
@both_orders
async def test_of_two_failures_in_one_pass_the_lower_event_is_first_and_the_other_suppressed(
    way: str, attempt: int
) -> None:
    gate = trio.Event()

    @step
    async def lower(ev: Number) -> StopEvent:
        await gate.wait()
        raise LookupError("lower")

    @step
    async def higher(ev: Letter) -> None:
        await gate.wait()
        raise OSError("higher")

    async with trio.open_nursery() as nursery:
        nursery.start_soon(open_together, gate)
        with pytest.raises(WorkflowError) as caught:
            await run_to_end(way, [spread, higher, lower])
    assert isinstance(caught.value.__cause__, LookupError)
    (other,) = caught.value.suppressed
    assert isinstance(other if other.__cause__ is None else other.__cause__, OSError)


@both_orders
async def test_a_failure_of_a_lower_event_goes_before_a_stop_event_of_the_same_pass(attempt: int) -> None:
    gate = trio.Event()

    @step
    async def lower(ev: Number) -> None:
        await gate.wait()
        raise LookupError("lower")

    @step
    async def higher(ev: Letter) -> StopEvent:
        await gate.wait()
        return StopEvent()

    async with trio.open_nursery() as nursery:
        nursery.start_soon(open_together, gate)
        with pytest.raises(WorkflowError) as caught:
            await Workflow("w", [spread, lower, higher]).run()
    assert isinstance(caught.value.__cause__, LookupError)


@both_orders
async def test_an_error_beside_a_stop_event_of_the_same_pass_is_warned_of(attempt: int) -> None:
    gate = trio.Event()

    @step
    async def lower(ev: Number) -> StopEvent:
        await gate.wait()
        return StopEvent(result="stopped")

    @step
    async def higher(ev: Letter) -> None:
        await gate.wait()
        raise LookupError("beside")

    with pytest.warns(BlazenWarning, match=r"LookupError.*beside"):  # noqa: PT031
        async with trio.open_nursery() as nursery:
            nursery.start_soon(open_together, gate)
            result = await Workflow("w", [spread, lower, higher]).run()
    assert result.result == "stopped"


@every_way
async def test_an_error_in_the_cleanup_after_a_stop_event_is_warned_of(way: str, autojump_clock: MockClock) -> None:
    @step
    async def sibling(ev: Number) -> None:
        try:
            await trio.sleep_forever()
        finally:
            raise LookupError("cleanup failed")

    @step
    async def stop(ev: Letter) -> StopEvent:
        await trio.sleep(1)
        return StopEvent(result="stopped")

    with pytest.warns(BlazenWarning, match=r"LookupError.*cleanup failed"):
        result = await run_to_end(way, [spread, sibling, stop])
    assert result.result == "stopped"


# ---- exceptions that are no Exception


class Unusual(BaseException):
    pass


@every_way
@pytest.mark.parametrize("kind", [KeyboardInterrupt, SystemExit, GeneratorExit, Unusual])
@pytest.mark.parametrize("waits", [False, True])
async def test_a_base_exception_comes_out_as_itself_after_all_steps_have_unwound(
    way: str, kind: type[BaseException], waits: bool, autojump_clock: MockClock
) -> None:
    original = kind("mine")
    left = []

    @step
    async def sibling(ctx: Context, ev: Number) -> StopEvent:
        try:
            await trio.sleep_forever()
        finally:
            async with ctx.cleanup():
                await trio.sleep(1)
            left.append("sibling")
        return StopEvent()

    @step(retries=3, on_error=lambda ev, exc: left.append("on_error"))
    async def fails(ctx: Context, ev: Letter) -> None:
        left.append(f"attempt {ctx.attempt}")
        if waits:
            await trio.sleep(1)
        raise original

    with pytest.raises(kind) as caught:
        await run_to_end(way, [spread, sibling, fails])
    assert caught.value is original
    assert left == ["attempt 1", "sibling"]


@pytest.mark.parametrize("run", ["inline", "thread"])
async def test_a_base_exception_out_of_a_plain_function_comes_out_as_itself(run: str) -> None:
    original = SystemExit(3)

    @step(run=run, retries=3)  # type: ignore[call-overload]
    def fails(ev: StartEvent) -> StopEvent:
        raise original

    with pytest.raises(SystemExit) as caught:
        await Workflow("w", [fails]).run()
    assert caught.value is original


async def test_a_base_exception_nobody_asked_for_comes_out_of_the_block() -> None:
    original = Unusual()

    @step
    async def fails(ev: StartEvent) -> StopEvent:
        raise original

    with pytest.raises(Unusual) as caught:
        async with Workflow("w", [fails]).run_with_handler():
            pass
    assert caught.value is original


@every_way
async def test_a_base_exception_keeps_the_traceback_down_to_its_step(way: str) -> None:
    @step
    async def fails(ev: StartEvent) -> StopEvent:
        raise Unusual

    with pytest.raises(Unusual) as caught:
        await run_to_end(way, [fails])
    assert traceback.extract_tb(caught.value.__traceback__)[-1].name == "fails"


@every_way
async def test_a_group_that_holds_a_base_exception_comes_out_as_itself(way: str) -> None:
    original = BaseExceptionGroup("both", [Unusual(), LookupError()])

    @step
    async def fails(ev: StartEvent) -> StopEvent:
        raise original

    with pytest.raises(BaseExceptionGroup) as caught:
        await run_to_end(way, [fails])
    assert caught.value is original


@every_way
async def test_a_base_exception_while_unwinding_comes_out_instead_of_the_failure(
    way: str, autojump_clock: MockClock
) -> None:
    original = Unusual()

    @step
    async def sibling(ev: Number) -> StopEvent:
        try:
            await trio.sleep_forever()
        finally:
            raise original

    @step
    async def fails(ev: Letter) -> None:
        await trio.sleep(1)
        raise LookupError("first")

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", BlazenWarning)  # the first error, which has no error left to carry it
        with pytest.raises(Unusual) as caught:
            await run_to_end(way, [spread, sibling, fails])
    assert caught.value is original


async def test_where_warnings_are_errors_a_base_exception_gets_a_note_of_what_a_sibling_raised(
    autojump_clock: MockClock,
) -> None:
    @step
    async def sibling(ev: Number) -> StopEvent:
        try:
            await trio.sleep_forever()
        finally:
            raise LookupError("cleanup failed")

    @step
    async def fails(ev: Letter) -> None:
        await trio.sleep(1)
        raise Unusual

    with warnings.catch_warnings():
        warnings.simplefilter("error", BlazenWarning)
        with pytest.raises(Unusual) as caught:
            await Workflow("w", [spread, sibling, fails]).run()
    (note,) = caught.value.__notes__
    assert "LookupError: cleanup failed" in note


async def test_a_base_exception_out_of_on_error_comes_out_as_itself() -> None:
    original = Unusual()

    def handle(ev: Event, exc: Exception) -> None:
        raise original

    @step(on_error=handle)
    async def fails(ev: StartEvent) -> StopEvent:
        raise LookupError("no")

    with pytest.raises(Unusual) as caught:
        await Workflow("w", [fails]).run()
    assert caught.value is original


# ---- what a step left behind


@every_way
@pytest.mark.parametrize("waits", [False, True])
async def test_a_lock_left_held_fails_the_run_by_name(way: str, waits: bool) -> None:
    lock = trio.Lock()

    @step
    async def keeps(ev: StartEvent) -> Number:
        lock.acquire_nowait()
        if waits:
            await trio.lowlevel.checkpoint()
        return Number()

    @step
    async def after(ev: Number) -> StopEvent:
        ran.append(ev)
        return StopEvent()

    ran: list[Event] = []
    with pytest.raises(WorkflowError, match=r"'keeps'.*lock") as caught:
        await run_to_end(way, [keeps, after])
    assert (caught.value.step, caught.value.suppressed) == ("keeps", ())
    assert not ran


@every_way
async def test_a_lock_taken_and_given_back_is_fine(way: str) -> None:
    lock = trio.Lock()

    @step
    async def keeps(ev: StartEvent) -> StopEvent:
        async with lock:
            await trio.lowlevel.checkpoint()
        return StopEvent(result="fine")

    assert (await run_to_end(way, [keeps])).result == "fine"


async def test_a_lock_the_caller_holds_is_none_of_the_steps() -> None:
    @step
    async def work(ev: StartEvent) -> StopEvent:
        await trio.lowlevel.checkpoint()
        return StopEvent(result="fine")

    lock = trio.Lock()
    async with lock:
        assert (await Workflow("w", [work]).run()).result == "fine"
        assert lock.locked()


async def test_a_step_that_fails_with_a_lock_held_names_the_step_and_loses_neither_error() -> None:
    lock = trio.Lock()
    original = LookupError("while holding")

    @step
    async def keeps(ctx: Context, ev: StartEvent) -> StopEvent:
        await lock.acquire()
        raise original

    with pytest.raises(WorkflowError, match="'keeps'") as caught:
        await Workflow("w", [keeps]).run()
    assert original in (caught.value.__cause__, *caught.value.suppressed)


async def test_siblings_unwind_after_a_lock_was_left_held(autojump_clock: MockClock) -> None:
    left = []
    lock = trio.Lock()

    @step
    async def sibling(ev: Number) -> StopEvent:
        await trio.sleep(1)
        try:
            async with lock:
                raise AssertionError("the lock was left held")
        finally:
            left.append(trio.current_time())
        return StopEvent()

    @step
    async def keeps(ev: Letter) -> None:
        await lock.acquire()
        await trio.sleep(2)

    with pytest.raises(WorkflowError, match=r"'keeps'.*lock"):
        await Workflow("w", [spread, sibling, keeps]).run()
    assert left == [2.0]


@every_way
@pytest.mark.parametrize("waits", [False, True])
async def test_a_cancel_scope_left_open_fails_the_run_by_name(way: str, waits: bool) -> None:
    @step
    async def leaves(ev: StartEvent) -> Number:
        trio.CancelScope().__enter__()
        if waits:
            await trio.lowlevel.checkpoint()
        return Number()

    @step
    async def after(ev: Number) -> StopEvent:
        ran.append(ev)
        return StopEvent()

    ran: list[Event] = []
    with pytest.raises(WorkflowError, match=r"'leaves'.*scope") as caught:
        await run_to_end(way, [leaves, after])
    assert (caught.value.step, caught.value.suppressed) == ("leaves", ())
    assert not ran


@every_way
async def test_the_callers_scopes_work_after_a_step_left_one_open(way: str, autojump_clock: MockClock) -> None:
    @step
    async def leaves(ev: StartEvent) -> StopEvent:
        trio.CancelScope(shield=True).__enter__()
        trio.CancelScope().__enter__()
        return StopEvent()

    with pytest.raises(WorkflowError, match=r"'leaves'.*scope"):
        await run_to_end(way, [leaves])
    with trio.move_on_after(1) as scope:
        await trio.sleep_forever()
    assert scope.cancelled_caught


@every_way
async def test_a_nursery_left_open_fails_the_run_after_its_children_have_ended(
    way: str, autojump_clock: MockClock
) -> None:
    left = []

    async def child() -> None:
        try:
            await trio.sleep_forever()
        finally:
            with trio.CancelScope(shield=True):
                await trio.sleep(5)
            left.append("child")

    @step
    async def leaves(ev: StartEvent) -> StopEvent:
        nursery = await trio.open_nursery().__aenter__()
        nursery.start_soon(child)
        await trio.sleep(1)
        return StopEvent()

    with pytest.raises(WorkflowError, match=r"'leaves'.*nursery"):
        await run_to_end(way, [leaves])
    assert left == ["child"]


@every_way
async def test_an_empty_nursery_left_open_fails_the_run_and_nothing_else_is_said_of_it(way: str) -> None:
    @step
    async def leaves(ev: StartEvent) -> StopEvent:
        await trio.open_nursery().__aenter__()
        return StopEvent()

    with pytest.raises(WorkflowError, match=r"'leaves'.*nursery") as caught:
        await run_to_end(way, [leaves])
    assert caught.value.suppressed == ()


@every_way
async def test_nurseries_that_two_steps_leave_open_are_both_empty_when_the_run_has_ended(
    way: str, autojump_clock: MockClock
) -> None:
    left = []

    async def child(name: str) -> None:
        try:
            await trio.sleep_forever()
        finally:
            with trio.CancelScope(shield=True):
                await trio.sleep(5)
            left.append(name)

    async def leave_a_nursery_open(name: str) -> None:
        nursery = await trio.open_nursery().__aenter__()
        nursery.start_soon(child, name)

    @step
    async def first(ev: Number) -> StopEvent:
        await leave_a_nursery_open("first")
        await trio.sleep(1)
        return StopEvent()

    @step
    async def second(ev: Letter) -> StopEvent:
        await leave_a_nursery_open("second")
        await trio.sleep_forever()
        return StopEvent()

    with pytest.raises(WorkflowError, match=r"'first'.*nursery"):
        await run_to_end(way, [spread, first, second])
    assert sorted(left) == ["first", "second"]


@every_way
async def test_a_scope_left_open_by_an_unfinished_generator_fails_the_run_by_name(way: str) -> None:
    async def ticks() -> AsyncIterator[int]:
        with trio.CancelScope():
            yield 1
            yield 2

    @step
    async def leaves(ev: StartEvent) -> StopEvent:
        generator = ticks()
        kept.append(generator)
        await generator.__anext__()
        return StopEvent()

    kept: list[Any] = []
    with pytest.raises(WorkflowError, match=r"'leaves'.*scope"):
        await run_to_end(way, [leaves])


async def test_a_step_may_open_and_close_scopes_as_it_likes(autojump_clock: MockClock) -> None:
    @asynccontextmanager
    async def helper() -> AsyncIterator[None]:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(trio.sleep_forever)
            yield
            nursery.cancel_scope.cancel()

    @step
    async def work(ctx: Context, ev: StartEvent) -> StopEvent:
        async with helper():
            with trio.move_on_after(1):
                await trio.sleep_forever()
        return StopEvent(result="fine")

    assert (await Workflow("w", [work]).run()).result == "fine"


# ---- warnings that are errors


def hold_the_loop() -> None:
    """Longer than the tenth of a second that is warned of. Real time: no other clock shows that a loop is held."""
    import time

    until = time.perf_counter() + 0.15
    while time.perf_counter() < until:
        pass


@every_way
async def test_a_plain_function_that_holds_the_loop_is_named_in_a_warning(way: str) -> None:
    @step
    def hog(ev: StartEvent) -> StopEvent:
        hold_the_loop()
        return StopEvent(result="done")

    with pytest.warns(BlazenWarning, match=r"'hog'.*held the event loop"):
        result = await run_to_end(way, [hog])
    assert result.result == "done"


@every_way
async def test_where_warnings_are_errors_a_cleanup_that_fails_after_a_stop_event_fails_the_run(
    way: str, autojump_clock: MockClock
) -> None:
    @step
    async def sibling(ev: Number) -> None:
        try:
            await trio.sleep_forever()
        finally:
            raise LookupError("cleanup failed")

    @step
    async def stop(ev: Letter) -> StopEvent:
        await trio.sleep(1)
        return StopEvent(result="stopped")

    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with pytest.raises(BlazenWarning, match=r"LookupError.*cleanup failed"):
            await run_to_end(way, [spread, sibling, stop])


@every_way
async def test_where_warnings_are_errors_a_warning_fails_the_run(way: str) -> None:
    @step
    def hog(ev: StartEvent) -> StopEvent:
        hold_the_loop()
        return StopEvent(result="done")

    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with pytest.raises(BlazenWarning, match=r"'hog'.*held the event loop"):
            await run_to_end(way, [hog])


# ---- a block that raises


async def test_a_block_that_raises_cancels_the_run_and_its_exception_comes_out_unchanged(
    autojump_clock: MockClock,
) -> None:
    left = []

    @step
    async def work(ctx: Context, ev: StartEvent) -> StopEvent:
        try:
            await trio.sleep_forever()
        finally:
            async with ctx.cleanup():
                await trio.sleep(1)
            left.append(trio.current_time())
        return StopEvent()

    original = LookupError("of the block")
    with pytest.raises(LookupError) as caught:  # noqa: PT012
        async with Workflow("w", [work]).run_with_handler() as handler:
            await trio.sleep(1)
            raise original
    assert caught.value is original
    assert original.__context__ is None
    assert left == [2.0]
    assert handler.state == "cancelled"


@pytest.mark.parametrize("kind", [KeyboardInterrupt, SystemExit, Unusual])
async def test_a_blocks_base_exception_comes_out_unchanged(
    kind: type[BaseException], autojump_clock: MockClock
) -> None:
    @step
    async def work(ev: StartEvent) -> StopEvent:
        await trio.sleep_forever()
        return StopEvent()

    original = kind()
    with pytest.raises(kind) as caught:
        async with Workflow("w", [work]).run_with_handler():
            raise original
    assert caught.value is original


async def test_a_blocks_exception_comes_out_unchanged_though_a_step_fails_while_unwinding(
    autojump_clock: MockClock,
) -> None:
    @step
    async def work(ev: StartEvent) -> StopEvent:
        try:
            await trio.sleep_forever()
        finally:
            raise OSError("of the step")
        return StopEvent()

    original = LookupError("of the block")
    with pytest.raises(LookupError) as caught:  # noqa: PT012
        async with Workflow("w", [work]).run_with_handler() as handler:
            await trio.sleep(1)
            raise original
    assert caught.value is original
    with pytest.raises(CancelledError) as cancelled:
        await handler.result()
    assert [type(error) for error in cancelled.value.suppressed] == [OSError]


async def test_a_block_that_raises_after_the_run_has_failed_tells_of_the_failure_in_a_warning() -> None:
    @step
    async def work(ev: StartEvent) -> StopEvent:
        raise OSError("of the step")

    original = LookupError("of the block")
    with pytest.warns(BlazenWarning, match=r"of the step"):  # noqa: PT031
        with pytest.raises(LookupError) as caught:  # noqa: PT012
            async with Workflow("w", [work]).run_with_handler() as handler:
                async for _ in handler.stream_events():
                    pass
                raise original
    assert caught.value is original


async def test_a_block_that_raises_what_result_raised_gets_exactly_that_error() -> None:
    @step
    async def work(ev: StartEvent) -> StopEvent:
        raise OSError("of the step")

    with pytest.raises(WorkflowError) as caught:
        async with Workflow("w", [work]).run_with_handler() as handler:
            await handler.result()
    with pytest.raises(WorkflowError) as again:
        await handler.result()
    assert caught.value is again.value


# ---- cancellations that belong to nobody


async def stray_cancelled() -> trio.Cancelled:
    """A `Cancelled` of a scope that has been left."""
    with trio.CancelScope() as scope:
        scope.cancel()
        try:
            await trio.lowlevel.checkpoint()
        except trio.Cancelled as exc:
            return exc
    raise AssertionError


async def test_a_cancellation_that_a_step_brings_along_from_elsewhere_comes_out_as_itself() -> None:
    stray = await stray_cancelled()

    @step
    async def work(ev: StartEvent) -> StopEvent:
        raise stray

    with pytest.raises(trio.Cancelled) as caught:
        await Workflow("w", [work]).run()
    assert caught.value is stray


async def test_an_error_beside_a_cancellation_from_elsewhere_is_kept_with_the_end_of_the_run() -> None:
    stray, beside = await stray_cancelled(), LookupError("no")

    @step
    async def work(ev: StartEvent) -> StopEvent:
        raise BaseExceptionGroup("both", [stray, beside])

    with pytest.raises(CancelledError) as caught:
        await Workflow("w", [work]).run()
    (group,) = caught.value.suppressed
    assert isinstance(group, ExceptionGroup)
    assert group.exceptions == (beside,)
