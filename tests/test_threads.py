"""Steps that run in threads: what they may do, how they are told to stop, and what becomes of those that do not.

A test that needs a thread to do nothing for a while holds it at a `threading.Event`. With `autojump_clock` time leaps
over the cleanup grace meanwhile, because no task of the loop can go on.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any

import pytest
import trio
from trio.testing import MockClock, wait_all_tasks_blocked
from ways_to_run import every_way, run_to_end

from blazen import Context, Event, ProgressEvent, Retry, StartEvent, StopEvent, UsageEvent, Workflow, step
from blazen.errors import BlazenWarning, CancelledError, TimeoutError, WorkflowError


class Number(Event):
    n: int = 0


class Letter(Event):
    pass


class Page(Event):
    pass


@step
async def spread(ev: StartEvent) -> list[Number | Letter]:
    return [Number(), Letter()]


def until_told(ctx: Context) -> None:
    """Work until the step is told to stop."""
    while True:
        ctx.check_cancelled()


# ---- what they may do


@every_way
async def test_a_thread_step_runs_in_another_thread_and_its_event_goes_on(way: str) -> None:
    @step(run="thread")
    def work(ev: StartEvent) -> Number:
        threads.append(threading.get_ident())
        return Number(n=7)

    @step
    async def take(ev: Number) -> StopEvent:
        return StopEvent(result=ev.n)

    threads: list[int] = []
    assert (await run_to_end(way, [work, take])).result == 7
    assert threads != [threading.get_ident()]


async def test_thread_steps_overlap() -> None:
    together = threading.Barrier(4)

    @step
    async def start(ev: StartEvent) -> list[Number]:
        return [Number() for _ in range(4)]

    @step(run="thread")
    def work(ev: Number) -> Page:
        together.wait()
        return Page()

    @step
    async def join(ctx: Context, ev: Page) -> StopEvent | None:
        return None if ctx.collect_events(ev, 4) is None else StopEvent(result="together")

    assert (await Workflow("w", [start, work, join]).run()).result == "together"


async def test_inline_steps_run_while_a_thread_works() -> None:
    released = threading.Event()

    @step(run="thread")
    def work(ev: Number) -> StopEvent:
        released.wait()
        return StopEvent(result="released")

    @step
    async def release(ev: Letter) -> None:
        released.set()

    assert (await Workflow("w", [spread, work, release]).run()).result == "released"


@every_way
async def test_the_context_reads_and_writes_state_from_a_thread(way: str) -> None:
    @step
    async def start(ctx: Context, ev: StartEvent) -> Number:
        ctx.set("from the loop", 1)
        return Number()

    @step(run="thread")
    def work(ctx: Context, ev: Number) -> Letter:
        ctx.set("from the thread", ctx.get("from the loop") + 1)
        ctx.session["object"] = threading.current_thread()
        assert ctx.has("from the loop")
        assert ctx.delete("from the loop")
        return Letter()

    @step
    async def end(ctx: Context, ev: Letter) -> StopEvent:
        return StopEvent(result=(ctx.keys(), ctx.get("from the thread"), ctx.session["object"]))

    keys, value, thread = (await run_to_end(way, [start, work, end])).result
    assert (keys, value) == (["from the thread"], 2)
    assert isinstance(thread, threading.Thread)


@every_way
async def test_events_sent_from_a_thread_arrive_in_order_before_what_it_returns(way: str) -> None:
    @step(run="thread")
    def work(ctx: Context, ev: StartEvent) -> Page:
        for n in range(5000):
            ctx.send_event(Number(n=n))
        return Page()

    @step
    async def take(ctx: Context, ev: Number | Page) -> StopEvent | None:
        found = ctx.collect_events(ev, 5001)
        return None if found is None else StopEvent(result=found)

    found = (await run_to_end(way, [work, take])).result
    assert [one.n for one in found[:-1]] == list(range(5000))
    assert isinstance(found[-1], Page)


async def test_a_thread_step_may_send_an_event_and_wait_for_what_it_brings_about() -> None:
    answered = threading.Event()

    @step(run="thread")
    def ask(ctx: Context, ev: StartEvent) -> StopEvent:
        ctx.send_event(Number())
        answered.wait()
        return StopEvent(result="answered")

    @step
    async def answer(ev: Number) -> None:
        answered.set()

    assert (await Workflow("w", [ask, answer]).run()).result == "answered"


async def test_an_event_sent_twice_with_one_key_from_threads_arrives_once() -> None:
    @step
    async def start(ev: StartEvent) -> list[Number]:
        return [Number() for _ in range(4)]

    @step(run="thread")
    def work(ctx: Context, ev: Number) -> Page:
        ctx.send_event(Letter(), key="once")
        return Page()

    @step
    async def count(ctx: Context, ev: Letter) -> None:
        ctx.set("letters", ctx.get("letters", 0) + 1)

    @step
    async def join(ctx: Context, ev: Page) -> StopEvent | None:
        return None if ctx.collect_events(ev, 4) is None else StopEvent(result=ctx.get("letters"))

    assert (await Workflow("w", [start, work, count, join]).run()).result == 1


async def test_sending_an_event_nobody_accepts_fails_in_the_thread() -> None:
    @step(run="thread")
    def work(ctx: Context, ev: StartEvent) -> StopEvent:
        with pytest.raises(WorkflowError, match=r"'Number'.*'work'"):
            ctx.send_event(Number())
        return StopEvent(result="went on")

    assert (await Workflow("w", [work]).run()).result == "went on"


async def test_a_thread_step_writes_to_the_stream_in_order_while_it_is_read() -> None:
    read = threading.Semaphore(0)

    @step(run="thread")
    def work(ctx: Context, ev: StartEvent) -> StopEvent:
        for n in range(100):
            ctx.write_event_to_stream(ProgressEvent(n))
        for _ in range(100):
            read.acquire()
        ctx.write_event_to_stream(ProgressEvent(100))
        return StopEvent()

    seen = []
    async with Workflow("w", [work]).run_with_handler() as handler:
        async for event in handler.stream_events():
            seen.append(event.current)
            read.release()
    assert seen == list(range(101))


async def test_usage_reported_from_a_thread_is_counted_and_shown_to_a_reader_that_waits() -> None:
    read = threading.Semaphore(0)

    @step(run="thread")
    def work(ctx: Context, ev: StartEvent) -> StopEvent:
        for n in range(1, 51):
            ctx.emit_usage(UsageEvent(provider="p", model="m", input_tokens=n))
            read.acquire()
        return StopEvent()

    seen = []
    async with Workflow("w", [work]).run_with_handler() as handler:
        async for event in handler.stream_events():
            seen.append(event.input_tokens)
            read.release()
        assert (await handler.result()).total_input_tokens == sum(range(51))
    assert seen == list(range(1, 51))


async def test_usage_reported_from_many_threads_at_once_is_counted_in_full() -> None:
    @step
    async def start(ev: StartEvent) -> list[Number]:
        return [Number() for _ in range(8)]

    @step(run="thread")
    def work(ctx: Context, ev: Number) -> Page:
        for _ in range(500):
            ctx.emit_usage(UsageEvent(provider="p", model="m", input_tokens=1))
        return Page()

    @step
    async def join(ctx: Context, ev: Page) -> StopEvent | None:
        return None if ctx.collect_events(ev, 8) is None else StopEvent()

    assert (await Workflow("w", [start, work, join]).run()).total_input_tokens == 4000


async def test_a_thread_step_may_join_events() -> None:
    @step
    async def start(ev: StartEvent) -> list[Number]:
        return [Number(n=n) for n in range(10)]

    @step(run="thread")
    def join(ctx: Context, ev: Number) -> StopEvent | None:
        found = ctx.collect_events(ev, 10)
        return None if found is None else StopEvent(result=[one.n for one in found])

    assert (await Workflow("w", [start, join]).run()).result == list(range(10))


async def test_a_thread_step_may_run_another_workflow_to_its_end() -> None:
    @step(name="inner")
    async def inner_step(ev: StartEvent) -> StopEvent:
        await trio.lowlevel.checkpoint()
        return StopEvent(result="from inside")

    inner = Workflow("inner", [inner_step])

    @step(run="thread")
    def outer(ev: StartEvent) -> StopEvent:
        return StopEvent(result=inner.run_sync().result)

    assert (await Workflow("outer", [outer]).run()).result == "from inside"


async def test_a_thread_step_may_call_back_into_the_loop() -> None:
    @step(run="thread")
    def work(ev: StartEvent) -> StopEvent:
        trio.from_thread.run(trio.lowlevel.checkpoint)
        return StopEvent(result=trio.from_thread.run_sync(threading.get_ident))

    assert (await Workflow("w", [work]).run()).result == threading.get_ident()


# ---- told to stop


async def test_a_cancelled_thread_step_is_told_at_once_and_waited_for() -> None:
    left = []
    began = trio.Event()

    @step(run="thread")
    def work(ctx: Context, ev: StartEvent) -> StopEvent:
        assert not ctx.cancelled
        trio.from_thread.run_sync(began.set)
        try:
            until_told(ctx)
        finally:
            assert ctx.cancelled
            left.append("work")
        return StopEvent()

    async with Workflow("w", [work], cleanup_grace=1e6).run_with_handler() as handler:
        await began.wait()
        handler.cancel("enough")
        with pytest.raises(CancelledError, match="enough") as caught:
            await handler.result()
        assert left == ["work"]
    assert (caught.value.suppressed, caught.value.abandoned) == ((), ())


async def test_a_thread_that_raises_something_else_when_told_is_suppressed() -> None:
    began = trio.Event()

    @step(run="thread")
    def work(ctx: Context, ev: StartEvent) -> StopEvent:
        trio.from_thread.run_sync(began.set)
        try:
            until_told(ctx)
        finally:
            raise LookupError("cleanup failed")
        return StopEvent()

    async with Workflow("w", [work], cleanup_grace=1e6).run_with_handler() as handler:
        await began.wait()
        handler.cancel()
        with pytest.raises(CancelledError) as caught:
            await handler.result()
    assert [str(error) for error in caught.value.suppressed] == ["cleanup failed"]


@pytest.mark.parametrize("call", ["run", "handler"])
async def test_the_callers_cancellation_reaches_a_thread_step_at_once(call: str) -> None:
    left = []
    began = trio.Event()

    @step(run="thread")
    def work(ctx: Context, ev: StartEvent) -> StopEvent:
        trio.from_thread.run_sync(began.set)
        try:
            until_told(ctx)
        finally:
            left.append("work")
        return StopEvent()

    async def cancel_soon() -> None:
        await began.wait()
        scope.cancel()

    workflow = Workflow("w", [work], cleanup_grace=1e6)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(cancel_soon)
        with trio.CancelScope() as scope:
            if call == "run":
                await workflow.run()
            else:
                async with workflow.run_with_handler():
                    pass
        assert scope.cancelled_caught
        assert left == ["work"]


@every_way
async def test_a_failing_sibling_stops_a_thread_step(way: str) -> None:
    left = []
    began = trio.Event()

    @step(run="thread")
    def work(ctx: Context, ev: Number) -> StopEvent:
        trio.from_thread.run_sync(began.set)
        try:
            until_told(ctx)
        finally:
            left.append("work")
        return StopEvent()

    @step
    async def fails(ev: Letter) -> None:
        await began.wait()
        raise LookupError("no")

    with pytest.raises(WorkflowError, match="'fails'") as caught:
        await run_to_end(way, [spread, work, fails], cleanup_grace=1e6)
    assert left == ["work"]
    assert (caught.value.suppressed, caught.value.abandoned) == ((), ())


@every_way
async def test_a_stop_event_stops_thread_steps_that_still_run(way: str) -> None:
    left = []
    began = trio.Event()

    @step(run="thread")
    def work(ctx: Context, ev: Number) -> None:
        trio.from_thread.run_sync(began.set)
        try:
            until_told(ctx)
        finally:
            left.append("work")

    @step
    async def stop(ev: Letter) -> StopEvent:
        await began.wait()
        return StopEvent(result="stopped")

    assert (await run_to_end(way, [spread, work, stop], cleanup_grace=1e6)).result == "stopped"
    assert left == ["work"]


async def test_what_a_thread_returns_after_it_was_told_is_dropped() -> None:
    began, released = trio.Event(), threading.Event()

    @step(run="thread")
    def work(ctx: Context, ev: StartEvent) -> StopEvent:
        trio.from_thread.run_sync(began.set)
        released.wait()
        return StopEvent(result="late")

    async with Workflow("w", [work], cleanup_grace=1e6).run_with_handler() as handler:
        await began.wait()
        handler.cancel("first")
        released.set()
        with pytest.raises(CancelledError, match="first"):
            await handler.result()


async def test_cancel_step_stops_a_thread_step_and_the_run_goes_on() -> None:
    began = trio.Event()

    @step(run="thread")
    def work(ctx: Context, ev: Number) -> StopEvent:
        trio.from_thread.run_sync(began.set)
        try:
            until_told(ctx)
        finally:
            trio.from_thread.run_sync(gone.set)
        return StopEvent()

    @step
    async def goes_on(ev: Letter) -> StopEvent:
        await gone.wait()
        return StopEvent(result="went on")

    gone = trio.Event()
    async with Workflow("w", [spread, work, goes_on], cleanup_grace=1e6).run_with_handler() as handler:
        await began.wait()
        handler.cancel_step("work")
        assert (await handler.result()).result == "went on"


async def test_thread_steps_that_wait_for_a_free_thread_never_begin_once_the_run_is_cancelled() -> None:
    began, ran = trio.Event(), []

    @step
    async def start(ev: StartEvent) -> list[Number]:
        return [Number(n=n) for n in range(5)]

    @step(run="thread")
    def work(ctx: Context, ev: Number) -> StopEvent:
        ran.append(ev.n)
        trio.from_thread.run_sync(began.set)
        until_told(ctx)
        return StopEvent()

    limiter = trio.to_thread.current_default_thread_limiter()
    before, limiter.total_tokens = limiter.total_tokens, 1
    try:
        async with Workflow("w", [start, work], cleanup_grace=1e6).run_with_handler() as handler:
            await began.wait()
            handler.cancel()
            with pytest.raises(CancelledError):
                await handler.result()
    finally:
        limiter.total_tokens = before
    assert len(ran) == 1


class LateThreads:
    """Threads that begin when they are let, as on a machine that is busy with others."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.ended = threading.Event()
        self._waiting: list[Callable[[], object]] = []
        self._start = trio._threads.start_thread_soon
        monkeypatch.setattr(trio._threads, "start_thread_soon", self._hold)

    def _hold(self, fn: Callable[[], object], deliver: Callable[[Any], object], name: str | None = None) -> None:
        def deliver_and_say_so(result: Any) -> None:
            deliver(result)
            self.ended.set()

        self._waiting.append(lambda: self._start(fn, deliver_and_say_so, name))

    def let_begin(self) -> None:
        """Let them begin, and return when the last of them has ended; the loop is held meanwhile."""
        self.ended.clear()
        for start in self._waiting:
            start()
        self.ended.wait()


@pytest.mark.parametrize("begins", ["before the run has noticed", "after the run"])
async def test_a_thread_that_begins_after_its_step_was_told_to_stop_does_not_run_it(
    begins: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    ran = []

    @step(run="thread")
    def work(ev: StartEvent) -> StopEvent:
        ran.append(ev)
        return StopEvent()

    threads = LateThreads(monkeypatch)
    async with Workflow("w", [work], cleanup_grace=1e6).run_with_handler() as handler:
        await wait_all_tasks_blocked()
        handler.cancel()
        if begins == "before the run has noticed":
            threads.let_begin()
        with pytest.raises(CancelledError) as caught:
            await handler.result()
        if begins == "after the run":
            threads.let_begin()
    assert (ran, caught.value.abandoned) == ([], ())


async def test_cancel_step_of_a_thread_that_is_just_beginning_leaves_the_run_alone(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    @step(run="thread")
    def work(ev: Number) -> StopEvent:
        return StopEvent(result="work")

    @step
    async def goes_on(ev: Letter) -> StopEvent:
        await told.wait()
        return StopEvent(result="went on")

    threads, told = LateThreads(monkeypatch), trio.Event()
    async with Workflow("w", [spread, work, goes_on], cleanup_grace=1e6).run_with_handler() as handler:
        await wait_all_tasks_blocked()
        handler.cancel_step("work")
        threads.let_begin()
        await wait_all_tasks_blocked()
        told.set()
        assert (await handler.result()).result == "went on"


# ---- timeouts; the clock is moved by hand, and only when the thread has begun


async def test_a_thread_step_over_its_time_is_told_and_waited_for(mock_clock: MockClock) -> None:
    left = []

    @step(run="thread", timeout=5)
    def work(ctx: Context, ev: StartEvent) -> StopEvent:
        trio.from_thread.run_sync(mock_clock.jump, 5)
        try:
            until_told(ctx)
        finally:
            left.append("work")
        return StopEvent()

    with pytest.raises(TimeoutError) as caught:
        await Workflow("w", [work]).run()
    assert left == ["work"]
    assert (caught.value.step, caught.value.elapsed_ms) == ("work", 5000)
    assert (caught.value.suppressed, caught.value.abandoned) == ((), ())


async def test_a_late_result_of_a_thread_step_is_dropped(mock_clock: MockClock) -> None:
    @step(run="thread", timeout=5)
    def work(ev: StartEvent) -> StopEvent:
        trio.from_thread.run_sync(mock_clock.jump, 5)
        return StopEvent(result="late")

    with pytest.raises(TimeoutError):
        await Workflow("w", [work]).run()


async def test_a_thread_step_over_its_time_is_tried_again(mock_clock: MockClock) -> None:
    attempts = []

    @step(run="thread", timeout=5, retries=1)
    def work(ctx: Context, ev: StartEvent) -> StopEvent:
        attempts.append(ctx.attempt)
        assert not ctx.cancelled
        if ctx.attempt == 1:
            trio.from_thread.run_sync(mock_clock.jump, 5)
            until_told(ctx)
        return StopEvent(result="in the end")

    assert (await Workflow("w", [work]).run()).result == "in the end"
    assert attempts == [1, 2]


async def test_a_thread_step_over_its_time_is_handed_to_on_error(mock_clock: MockClock) -> None:
    @step(run="thread", timeout=5, on_error=lambda ev, exc: StopEvent(result=exc.step))
    def work(ctx: Context, ev: StartEvent) -> StopEvent:
        trio.from_thread.run_sync(mock_clock.jump, 5)
        until_told(ctx)
        return StopEvent()

    assert (await Workflow("w", [work]).run()).result == "work"


async def test_a_run_over_its_time_stops_its_thread_steps(mock_clock: MockClock) -> None:
    left = []

    @step(run="thread")
    def work(ctx: Context, ev: StartEvent) -> StopEvent:
        trio.from_thread.run_sync(mock_clock.jump, 5)
        try:
            until_told(ctx)
        finally:
            left.append("work")
        return StopEvent()

    with pytest.raises(TimeoutError) as caught:
        await Workflow("w", [work], timeout=5).run()
    assert left == ["work"]
    assert caught.value.step is None


async def test_the_grace_of_an_attempt_that_came_out_in_time_does_not_end_the_next_one(mock_clock: MockClock) -> None:
    @step(run="thread", timeout=5, retries=Retry(1, initial=0.0))
    def work(ctx: Context, ev: StartEvent) -> StopEvent:
        if ctx.attempt == 1:
            trio.from_thread.run_sync(mock_clock.jump, 5)
            until_told(ctx)
        trio.from_thread.run_sync(mock_clock.jump, 4)  # beyond the grace of 3 that began with the first attempt's end
        for _ in range(10):
            trio.from_thread.run_sync(int)  # the loop has seen what time it is
        ctx.set("attempt", ctx.attempt)
        return StopEvent(result=(ctx.get("attempt"), ctx.cancelled))

    assert (await Workflow("w", [work], cleanup_grace=3).run()).result == (2, False)


# ---- abandoned


class Stubborn:
    """A thread step that does not listen, and tries everything once it has been let go."""

    def __init__(self) -> None:
        self.released = threading.Event()
        self.ended = threading.Event()
        self.refused: list[str] = []

    def work(self, ctx: Context) -> None:
        self.released.wait()
        attempts: dict[str, Any] = {
            "set": lambda: ctx.set("late", 1),
            "set_bytes": lambda: ctx.set_bytes("late", b"1"),
            "delete": lambda: ctx.delete("early"),
            "send_event": lambda: ctx.send_event(Number()),
            "write_event_to_stream": lambda: ctx.write_event_to_stream(Number()),
            "emit_usage": lambda: ctx.emit_usage(UsageEvent(provider="p", model="m", input_tokens=1)),
            "collect_events": lambda: ctx.collect_events(ctx.event, 1),
            "state": lambda: ctx.state.__setitem__("late", 1),
            "check_cancelled": ctx.check_cancelled,
        }
        for name, attempt in attempts.items():
            try:
                attempt()
            except CancelledError:
                self.refused.append(name)
        self.refused.sort()
        self.ended.set()


EVERYTHING = sorted(
    [
        "set",
        "set_bytes",
        "delete",
        "send_event",
        "write_event_to_stream",
        "emit_usage",
        "collect_events",
        "state",
        "check_cancelled",
    ]
)


async def test_a_thread_that_does_not_stop_is_abandoned_after_the_grace_and_refused_from_then_on(
    autojump_clock: MockClock,
) -> None:
    stubborn = Stubborn()
    began = trio.Event()

    @step(run="thread")
    def work(ctx: Context, ev: StartEvent) -> StopEvent:
        trio.from_thread.run_sync(began.set)
        stubborn.work(ctx)
        return StopEvent(result="late")

    @step
    async def take(ev: Number) -> StopEvent:
        return StopEvent()

    async with Workflow("w", [work, take], cleanup_grace=3).run_with_handler() as handler:
        await began.wait()
        before = trio.current_time()
        handler.cancel("enough")
        with pytest.raises(CancelledError, match="enough") as caught:
            await handler.result()
        assert trio.current_time() - before == 3.0
        assert caught.value.abandoned == ("work",)
        stubborn.released.set()
        stubborn.ended.wait()
        assert stubborn.refused == EVERYTHING
        assert [event async for event in handler.stream_events()] == []


@pytest.mark.parametrize("way", ["run", "handler"])
async def test_a_thread_abandoned_after_a_siblings_failure_is_listed_in_it(way: str, autojump_clock: MockClock) -> None:
    released, began = threading.Event(), trio.Event()

    @step(run="thread")
    def stuck(ev: Number) -> StopEvent:
        trio.from_thread.run_sync(began.set)
        released.wait()
        return StopEvent()

    @step
    async def fails(ev: Letter) -> None:
        await began.wait()
        raise LookupError("no")

    with pytest.raises(WorkflowError, match="'fails'") as caught:
        await run_to_end(way, [spread, stuck, fails])
    released.set()
    assert isinstance(caught.value.__cause__, LookupError)
    assert caught.value.abandoned == ("stuck",)


async def test_a_thread_over_its_time_that_does_not_stop_ends_the_run_with_a_timeout_that_lists_it(
    mock_clock: MockClock,
) -> None:
    released = threading.Event()

    @step(run="thread", timeout=5, retries=3)
    def stuck(ctx: Context, ev: StartEvent) -> StopEvent:
        trio.from_thread.run_sync(mock_clock.jump, 5)
        while not ctx.cancelled:
            pass
        trio.from_thread.run_sync(mock_clock.jump, 3)
        released.wait()
        return StopEvent()

    with pytest.raises(TimeoutError) as caught:
        await Workflow("w", [stuck], cleanup_grace=3).run()
    released.set()
    assert (caught.value.step, caught.value.abandoned) == ("stuck", ("stuck",))
    assert trio.current_time() == 8.0


async def test_a_thread_stopped_by_cancel_step_that_does_not_stop_ends_the_run(autojump_clock: MockClock) -> None:
    released, began = threading.Event(), trio.Event()

    @step(run="thread")
    def stuck(ev: StartEvent) -> StopEvent:
        trio.from_thread.run_sync(began.set)
        released.wait()
        return StopEvent()

    async with Workflow("w", [stuck]).run_with_handler() as handler:
        await began.wait()
        handler.cancel_step("stuck")
        with pytest.raises(WorkflowError, match=r"'stuck'.*abandoned") as caught:
            await handler.result()
    released.set()
    assert caught.value.abandoned == ("stuck",)


async def test_a_thread_left_behind_by_a_run_that_completed_is_warned_of(autojump_clock: MockClock) -> None:
    released, began = threading.Event(), trio.Event()

    @step(run="thread")
    def stuck(ev: Number) -> None:
        trio.from_thread.run_sync(began.set)
        released.wait()

    @step
    async def stop(ev: Letter) -> StopEvent:
        await began.wait()
        return StopEvent(result="stopped")

    with pytest.warns(BlazenWarning, match="stuck"):
        result = await Workflow("w", [spread, stuck, stop]).run()
    released.set()
    assert result.result == "stopped"


async def test_the_callers_cancellation_waits_no_longer_than_the_grace_for_a_thread(
    autojump_clock: MockClock,
) -> None:
    released, began = threading.Event(), trio.Event()

    @step(run="thread")
    def stuck(ev: StartEvent) -> StopEvent:
        trio.from_thread.run_sync(began.set)
        released.wait()
        return StopEvent()

    async def cancel_soon() -> None:
        await began.wait()
        scope.cancel()

    async with trio.open_nursery() as nursery:
        nursery.start_soon(cancel_soon)
        with trio.CancelScope() as scope:
            await Workflow("w", [stuck], cleanup_grace=3).run()
    released.set()
    assert scope.cancelled_caught


async def test_an_error_of_an_abandoned_thread_disturbs_nobody(autojump_clock: MockClock) -> None:
    released, began, raised = threading.Event(), trio.Event(), threading.Event()

    @step(run="thread")
    def stuck(ev: StartEvent) -> StopEvent:
        trio.from_thread.run_sync(began.set)
        released.wait()
        raised.set()
        raise LookupError("late")

    async with Workflow("w", [stuck]).run_with_handler() as handler:
        await began.wait()
        handler.cancel()
        with pytest.raises(CancelledError) as caught:
            await handler.result()
        released.set()
        await trio.to_thread.run_sync(raised.wait)
    assert caught.value.suppressed == ()
