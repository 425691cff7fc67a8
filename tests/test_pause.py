"""Pausing a run and going on with it in place: `handler.pause()` and `handler.resume_in_place()`."""

from __future__ import annotations

import threading
from typing import Any

import pytest
import trio
from trio.testing import MockClock, wait_all_tasks_blocked

from blazen import (
    Context,
    Event,
    InputRequestEvent,
    InputResponseEvent,
    Retry,
    Snapshot,
    StartEvent,
    StopEvent,
    Workflow,
    step,
)
from blazen.errors import BlazenWarning, CancelledError, TimeoutError, ValidationError, WorkflowError


class Go(Event):
    n: int = 0


class Paid(Event):
    order: int = 0


def make(steps: list[Any], **options: Any) -> Workflow[Any]:
    return Workflow("w", steps, **options)


async def until_waiting(handler: Any) -> None:
    while handler.state != "waiting":
        await trio.sleep(0.001)


def fan_out(log: list[Any], *, seconds: float = 1.0, count: int = 3, **options: Any) -> Workflow[Any]:
    """`begin` returns `count` events, `work` takes each in `seconds`; the last one ends the run."""

    @step
    async def begin(ev: StartEvent) -> list[Go]:
        await trio.sleep(seconds)
        return [Go(n) for n in range(count)]

    @step(**options)
    async def work(ctx: Context, ev: Go) -> StopEvent | None:
        log.append(("begin", ev.n, ctx.attempt, trio.current_time()))
        await trio.sleep(seconds)
        log.append(("end", ev.n, ctx.attempt, trio.current_time()))
        ended = sum(what == "end" for what, *_ in log)
        return StopEvent(result=sorted(n for what, n, *_ in log if what == "end")) if ended == count else None

    return Workflow("fan out", [begin, work])


# --- what a pause waits for


async def test_a_pause_waits_for_running_steps_and_queues_what_they_return(autojump_clock: MockClock) -> None:
    log: list[Any] = []
    async with fan_out(log).run_with_handler() as handler:
        await trio.sleep(0.5)
        snapshot = await handler.pause()
        assert isinstance(snapshot, Snapshot)
        assert (trio.current_time(), handler.state) == (1.0, "paused")
        await trio.sleep(50)
        assert log == []
        handler.resume_in_place()
        assert handler.state == "running"
        assert (await handler.result()).result == [0, 1, 2]
    assert [entry for entry in log if entry[0] == "begin"] == [("begin", n, 1, 51.0) for n in range(3)]


async def test_a_pause_before_the_first_step_begins_holds_the_start_event(autojump_clock: MockClock) -> None:
    log: list[Any] = []
    async with fan_out(log).run_with_handler() as handler:
        await handler.pause()
        await trio.sleep(10)
        assert log == []
        handler.resume_in_place()
        assert (await handler.result()).result == [0, 1, 2]


async def test_a_pause_waits_for_a_thread() -> None:
    begun, go_on = threading.Event(), threading.Event()
    ended: list[str] = []

    @step(run="thread")
    def begin(ev: StartEvent) -> Go:
        begun.set()
        go_on.wait()
        ended.append("begin")
        return Go()

    @step
    async def last(ev: Go) -> StopEvent:
        ended.append("last")
        return StopEvent()

    async with make([begin, last]).run_with_handler() as handler, trio.open_nursery() as nursery:
        while not begun.is_set():
            await trio.lowlevel.checkpoint()
        nursery.start_soon(handler.pause)
        await wait_all_tasks_blocked()
        assert handler.state == "running"
        go_on.set()
        while handler.state != "paused":
            await trio.lowlevel.checkpoint()
        await wait_all_tasks_blocked()  # the task in pause() gets its snapshot
        assert ended == ["begin"]
        handler.resume_in_place()


async def test_a_pause_does_not_wait_for_steps_that_wait_in_their_middle(autojump_clock: MockClock) -> None:
    @step
    async def ask(ctx: Context, ev: StartEvent) -> StopEvent:
        return StopEvent(result=await ctx.request_input("?"))

    @step
    async def wait(ctx: Context, ev: StartEvent) -> None:
        await ctx.wait_for_event(Paid)

    async with make([ask, wait]).run_with_handler() as handler:
        await until_waiting(handler)
        await handler.pause()
        assert handler.state == "paused"
        handler.resume_in_place()
        assert handler.state == "waiting"
        handler.respond_to_input(handler.pending_inputs()[0].request_id, 7)
        assert (await handler.result()).result == 7


async def test_a_step_that_begins_to_wait_while_the_run_pauses_makes_it_quiet(autojump_clock: MockClock) -> None:
    @step
    async def ask(ctx: Context, ev: StartEvent) -> StopEvent:
        await trio.sleep(1)
        return StopEvent(result=await ctx.request_input("?"))

    async with make([ask]).run_with_handler() as handler:
        await wait_all_tasks_blocked()
        await handler.pause()
        assert trio.current_time() == 1
        assert [question.prompt for question in handler.pending_inputs()] == ["?"]
        handler.resume_in_place()
        handler.respond_to_input(handler.pending_inputs()[0].request_id, 1)


async def test_steps_that_finish_in_one_pass_are_settled_before_the_run_is_quiet(autojump_clock: MockClock) -> None:
    taken: list[int] = []

    @step
    async def begin(ev: StartEvent) -> list[Go]:
        return [Go(n) for n in range(4)]

    @step
    async def work(ev: Go) -> Paid:
        await trio.sleep(1)
        return Paid(ev.n)

    @step
    async def end(ev: Paid) -> StopEvent | None:
        taken.append(ev.order)
        return StopEvent() if len(taken) == 4 else None

    async with make([begin, work, end]).run_with_handler() as handler:
        await trio.sleep(0.5)
        await handler.pause()
        assert (taken, trio.current_time()) == ([], 1.0)
        await trio.sleep(5)
        assert taken == []
        handler.resume_in_place()
    assert taken == [0, 1, 2, 3]


@pytest.mark.parametrize("delay", [0.0, 1.0])
async def test_a_retry_that_comes_up_while_the_run_pauses_is_queued(delay: float, autojump_clock: MockClock) -> None:
    attempts: list[tuple[int, float]] = []

    @step(retries=Retry(1, initial=delay, jitter=0.0))
    async def fails(ctx: Context, ev: StartEvent) -> StopEvent:
        attempts.append((ctx.attempt, trio.current_time()))
        await trio.sleep(1)
        if ctx.attempt == 1:
            raise ValueError
        return StopEvent()

    @step
    async def long(ev: StartEvent) -> None:
        await trio.sleep(5)

    async with make([fails, long]).run_with_handler() as handler:
        await trio.sleep(0.5)
        await handler.pause()
        assert trio.current_time() == 5
        await trio.sleep(5)
        handler.resume_in_place()
    assert attempts == [(1, 0.0), (2, 10.0)]


async def test_an_on_error_that_is_due_while_the_run_pauses_is_queued(autojump_clock: MockClock) -> None:
    handled: list[float] = []

    def handle(ev: StartEvent, error: Exception) -> StopEvent:
        handled.append(trio.current_time())
        return StopEvent(result=type(error))

    @step(on_error=handle)
    async def fails(ev: StartEvent) -> StopEvent:
        await trio.sleep(1)
        raise ValueError

    async with make([fails]).run_with_handler() as handler:
        await trio.sleep(0.5)
        await handler.pause()
        await trio.sleep(5)
        assert handled == []
        handler.resume_in_place()
        assert (await handler.result()).result is ValueError


# --- how a pause ends otherwise


async def test_a_stop_event_while_pausing_ends_the_run_and_the_pause_says_so(autojump_clock: MockClock) -> None:
    @step
    async def only(ev: StartEvent) -> StopEvent:
        await trio.sleep(1)
        return StopEvent(result=5)

    async with make([only]).run_with_handler() as handler:
        await wait_all_tasks_blocked()
        with pytest.raises(ValidationError, match=r"pause\(\): run .* has ended \(completed\)"):
            await handler.pause()
        assert handler.state == "completed"
        with pytest.raises(ValidationError, match="has ended"):
            await handler.pause()
        with pytest.raises(ValidationError, match="not paused: it is completed"):
            handler.resume_in_place()
        assert (await handler.result()).result == 5


async def test_a_failure_while_pausing_fails_the_run(autojump_clock: MockClock) -> None:
    @step
    async def only(ev: StartEvent) -> StopEvent:
        await trio.sleep(1)
        raise KeyError("k")

    with pytest.raises(WorkflowError, match="KeyError"):  # noqa: PT012
        async with make([only]).run_with_handler() as handler:
            await wait_all_tasks_blocked()
            with pytest.raises(ValidationError, match=r"has ended \(failed\)"):
                await handler.pause()


async def test_the_run_timeout_goes_on_while_pausing(autojump_clock: MockClock) -> None:
    log: list[Any] = []
    with pytest.raises(TimeoutError):  # noqa: PT012
        async with fan_out(log, seconds=5).options(timeout=2).run_with_handler() as handler:
            await wait_all_tasks_blocked()
            with pytest.raises(ValidationError, match=r"has ended \(failed\)"):
                await handler.pause()
            assert trio.current_time() == 2


async def test_a_run_that_has_nothing_left_when_it_goes_on_fails_as_idle(autojump_clock: MockClock) -> None:
    @step
    async def only(ev: StartEvent) -> StopEvent | None:
        await trio.sleep(1)
        return None

    with pytest.raises(WorkflowError, match="idle"):  # noqa: PT012
        async with make([only]).run_with_handler() as handler:
            await wait_all_tasks_blocked()
            snapshot = await handler.pause()
            await trio.sleep(5)
            assert handler.state == "paused"
            handler.resume_in_place()
    with pytest.raises(WorkflowError, match="idle"):
        async with make([only]).resume(snapshot):
            pass


async def test_a_pause_given_up_by_its_caller_lets_the_run_go_on(autojump_clock: MockClock) -> None:
    log: list[Any] = []
    async with fan_out(log).run_with_handler() as handler:
        await wait_all_tasks_blocked()
        with trio.move_on_after(0.5) as scope:
            await handler.pause()
        assert scope.cancelled_caught
        assert (await handler.result()).result == [0, 1, 2]
    assert trio.current_time() == 2


async def test_two_tasks_may_pause_at_once_and_one_of_them_may_give_up(autojump_clock: MockClock) -> None:
    log: list[Any] = []
    snapshots: list[Snapshot] = []

    async def pause(handler: Any, patience: float) -> None:
        with trio.move_on_after(patience):
            snapshots.append(await handler.pause())

    async with fan_out(log).run_with_handler() as handler:
        await wait_all_tasks_blocked()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(pause, handler, 100)
            nursery.start_soon(pause, handler, 100)
            nursery.start_soon(pause, handler, 0.5)
        assert (handler.state, len(snapshots)) == ("paused", 2)
        assert snapshots[0].sections["run"] == snapshots[1].sections["run"]
        await handler.pause()
        await handler.pause(abort=True)
        assert handler.state == "paused"
        handler.resume_in_place()


async def test_a_run_resumed_before_it_was_quiet_is_not_paused(autojump_clock: MockClock) -> None:
    log: list[Any] = []
    refused: list[str] = []

    async def pause(handler: Any) -> None:
        with pytest.raises(ValidationError, match="was resumed before its snapshot was taken") as caught:
            await handler.pause()
        refused.append(str(caught.value))

    async with fan_out(log).run_with_handler() as handler, trio.open_nursery() as nursery:
        await wait_all_tasks_blocked()
        nursery.start_soon(pause, handler)
        await wait_all_tasks_blocked()
        handler.resume_in_place()
    assert len(refused) == 1
    assert trio.current_time() == 2


async def test_a_step_cannot_pause_its_own_run_nor_can_a_task_of_it(autojump_clock: MockClock) -> None:
    handlers: list[Any] = []
    refused: list[str] = []

    async def pause() -> None:
        with pytest.raises(ValidationError, match="called by a step of the run") as caught:
            await handlers[0].pause()
        refused.append(str(caught.value))

    @step
    async def only(ev: StartEvent) -> StopEvent:
        await pause()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(pause)
        return StopEvent()

    async with make([only]).run_with_handler() as handler:
        handlers.append(handler)
    assert len(refused) == 2


async def test_a_step_of_one_run_may_pause_another(autojump_clock: MockClock) -> None:
    log: list[Any] = []
    async with fan_out(log).run_with_handler() as other:

        @step
        async def pauses(ev: StartEvent) -> StopEvent:
            return StopEvent(result=(await other.pause()).run_id)

        assert (await make([pauses]).run()).result == other.run_id
        assert other.state == "paused"
        other.resume_in_place()


async def test_a_run_is_resumed_in_place_only_while_it_is_paused(autojump_clock: MockClock) -> None:
    log: list[Any] = []
    async with fan_out(log).run_with_handler() as handler:
        with pytest.raises(ValidationError, match="not paused: it is running"):
            handler.resume_in_place()


# --- abort


async def test_an_aborting_pause_puts_events_back_in_the_order_of_their_numbers(autojump_clock: MockClock) -> None:
    log: list[Any] = []
    async with fan_out(log, max_concurrency=2, count=4).run_with_handler() as handler:
        await trio.sleep(1.5)
        await handler.pause(abort=True)
        assert trio.current_time() == 1.5
        await trio.sleep(10)
        handler.resume_in_place()
        assert (await handler.result()).result == [0, 1, 2, 3]
    begun = [(n, attempt) for what, n, attempt, _ in log if what == "begin"]
    assert sorted(begun[:2]) == [(0, 1), (1, 1)]
    assert sorted(begun[2:4]) == [(0, 2), (1, 2)]
    assert sorted(begun[4:]) == [(2, 1), (3, 1)]


async def test_an_aborted_step_cleans_up_before_the_run_is_paused(autojump_clock: MockClock) -> None:
    cleaned: list[float] = []

    @step
    async def only(ctx: Context, ev: StartEvent) -> StopEvent:
        if ctx.attempt == 1:
            try:
                await trio.sleep_forever()
            finally:
                async with ctx.cleanup():
                    await trio.sleep(2)
                    cleaned.append(trio.current_time())
        return StopEvent(result=ctx.attempt)

    async with make([only]).run_with_handler() as handler:
        await trio.sleep(1)
        await handler.pause(abort=True)
        assert (cleaned, trio.current_time(), handler.state) == ([3.0], 3.0, "paused")
        handler.resume_in_place()
        assert (await handler.result()).result == 2


async def test_what_a_step_returns_in_spite_of_the_abort_is_dropped_and_it_runs_again(
    autojump_clock: MockClock,
) -> None:
    @step
    async def only(ctx: Context, ev: StartEvent) -> StopEvent:
        if ctx.attempt == 1:
            try:
                await trio.sleep_forever()
            except trio.Cancelled:
                return StopEvent(result="too late")
        return StopEvent(result="second attempt")

    async with make([only]).run_with_handler() as handler:
        await trio.sleep(1)
        await handler.pause(abort=True)
        assert handler.state == "paused"
        handler.resume_in_place()
        assert (await handler.result()).result == "second attempt"


async def test_what_an_aborted_step_raises_while_it_unwinds_is_warned_of(autojump_clock: MockClock) -> None:
    @step
    async def only(ctx: Context, ev: StartEvent) -> StopEvent:
        if ctx.attempt == 1:
            try:
                await trio.sleep_forever()
            finally:
                raise ValueError("cleanup")
        return StopEvent(result=ctx.attempt)

    async with make([only]).run_with_handler() as handler:
        await trio.sleep(1)
        with pytest.warns(BlazenWarning, match="its cleanup raised ValueError"):
            await handler.pause(abort=True)
        handler.resume_in_place()
        assert (await handler.result()).result == 2


async def test_a_thread_is_told_and_runs_again() -> None:
    begun = threading.Event()

    @step(run="thread")
    def only(ctx: Context, ev: StartEvent) -> StopEvent:
        begun.set()
        while ctx.attempt == 1:
            ctx.check_cancelled()
        return StopEvent(result=ctx.attempt)

    async with make([only]).run_with_handler() as handler:
        while not begun.is_set():
            await trio.lowlevel.checkpoint()
        await handler.pause(abort=True)
        assert handler.state == "paused"
        handler.resume_in_place()
        assert (await handler.result()).result == 2


async def test_a_thread_that_does_not_stop_is_abandoned_and_the_run_fails(autojump_clock: MockClock) -> None:
    begun, let_go = threading.Event(), threading.Event()

    @step(run="thread")
    def only(ctx: Context, ev: StartEvent) -> StopEvent:
        begun.set()
        let_go.wait()
        return StopEvent()

    try:
        async with make([only], cleanup_grace=0.5).run_with_handler() as handler:
            while not begun.is_set():
                await trio.lowlevel.checkpoint()
            with pytest.raises(ValidationError, match=r"has ended \(failed\)"):
                await handler.pause(abort=True)
            with pytest.raises(WorkflowError, match="told to stop and did not") as caught:
                await handler.result()
            assert caught.value.abandoned == ("only",)
    finally:
        let_go.set()


async def test_an_aborting_pause_leaves_waiting_steps_alone(autojump_clock: MockClock) -> None:
    attempts: list[int] = []

    @step
    async def ask(ctx: Context, ev: StartEvent) -> StopEvent:
        attempts.append(ctx.attempt)
        return StopEvent(result=await ctx.request_input("?"))

    async with make([ask]).run_with_handler() as handler:
        await until_waiting(handler)
        await handler.pause(abort=True)
        handler.resume_in_place()
        handler.respond_to_input(handler.pending_inputs()[0].request_id, 1)
    assert attempts == [1]


async def test_a_pause_turns_into_one_that_aborts_when_a_second_task_asks_for_that(autojump_clock: MockClock) -> None:
    log: list[Any] = []
    async with fan_out(log, seconds=100).run_with_handler() as handler:
        await wait_all_tasks_blocked()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(handler.pause)
            await trio.sleep(1)
            assert handler.state == "running"
            await handler.pause(abort=True)
        assert trio.current_time() == 1
        handler.resume_in_place()


async def test_a_step_that_is_still_unwinding_when_the_pause_is_given_up_runs_again(autojump_clock: MockClock) -> None:
    attempts: list[tuple[int, float]] = []

    @step
    async def only(ctx: Context, ev: StartEvent) -> StopEvent:
        attempts.append((ctx.attempt, trio.current_time()))
        if ctx.attempt == 1:
            try:
                await trio.sleep_forever()
            finally:
                async with ctx.cleanup():
                    await trio.sleep(2)
        return StopEvent()

    async with make([only]).run_with_handler() as handler:
        await trio.sleep(1)
        with trio.move_on_after(1):
            await handler.pause(abort=True)
    assert attempts == [(1, 0.0), (2, 3.0)]


async def test_a_join_counts_an_event_once_that_was_put_back(autojump_clock: MockClock) -> None:
    gathered: list[Any] = []

    @step
    async def begin(ev: StartEvent) -> list[Go]:
        return [Go(1), Go(2)]

    @step(max_concurrency=1)
    async def join(ctx: Context, ev: Go) -> StopEvent | None:
        events = ctx.collect_events(ev, 2)
        await trio.sleep(1)
        gathered.append(None if events is None else [event.n for event in events])
        return None if events is None else StopEvent()

    async with make([begin, join]).run_with_handler() as handler:
        await trio.sleep(0.5)
        await handler.pause(abort=True)
        handler.resume_in_place()
    assert gathered == [None, [1, 2]]


# --- while it is paused


async def test_an_event_from_outside_is_queued(autojump_clock: MockClock) -> None:
    @step
    async def wait(ctx: Context, ev: StartEvent) -> None:
        await ctx.wait_for_event(Paid)

    @step
    async def end(ev: Go) -> StopEvent:
        return StopEvent(result=(ev.n, trio.current_time()))

    async with make([wait, end]).run_with_handler() as handler:
        await trio.sleep(1)
        await handler.pause()
        handler.send_event(Go(4))
        await trio.sleep(9)
        assert handler.state == "paused"
        handler.resume_in_place()
        assert (await handler.result()).result == (4, 10.0)


async def test_a_waiting_step_gets_its_event_when_the_run_goes_on(autojump_clock: MockClock) -> None:
    got: list[Any] = []

    @step
    async def wait(ctx: Context, ev: StartEvent) -> StopEvent:
        for _ in range(2):
            event = await ctx.wait_for_event(Paid, timeout=5)
            got.append((event.order, trio.current_time()))
        return StopEvent()

    async with make([wait]).run_with_handler() as handler:
        await trio.sleep(1)
        await handler.pause()
        handler.send_event(Paid(1))
        with pytest.raises(WorkflowError, match="no step"):  # the one wait there is has its event
            handler.send_event(Paid(2))
        await trio.sleep(99)
        assert got == []
        handler.resume_in_place()
        await trio.sleep(1)
        handler.send_event(Paid(3))
        await handler.result()
    assert got == [(1, 100.0), (3, 101.0)]


async def test_a_question_is_answered_once_while_paused_and_the_step_goes_on_afterwards(
    autojump_clock: MockClock,
) -> None:
    @step
    async def ask(ctx: Context, ev: StartEvent) -> StopEvent:
        return StopEvent(result=(await ctx.request_input("?", schema=int), trio.current_time()))

    async with make([ask]).run_with_handler() as handler:
        await until_waiting(handler)
        await handler.pause()
        (question,) = handler.pending_inputs()
        with pytest.raises(ValidationError, match="does not fit"):
            handler.respond_to_input(question.request_id, "no int")
        handler.respond_to_input(question.request_id, 3)
        with pytest.raises(ValidationError, match="no open question"):
            handler.respond_to_input(question.request_id, 4)
        assert handler.pending_inputs() == []
        await trio.sleep_until(10)
        assert handler.state == "paused"
        handler.resume_in_place()
        assert (await handler.result()).result == (3, 10.0)


async def test_the_answer_to_a_question_that_was_returned_is_queued(autojump_clock: MockClock) -> None:
    @step
    async def ask(ev: StartEvent) -> InputRequestEvent:
        return InputRequestEvent(prompt="?")

    @step
    async def end(ev: InputResponseEvent) -> StopEvent:
        return StopEvent(result=(ev.response, trio.current_time()))

    async with make([ask, end]).run_with_handler() as handler:
        await until_waiting(handler)
        await handler.pause()
        handler.respond_to_input(handler.pending_inputs()[0].request_id, "yes")
        await trio.sleep_until(10)
        handler.resume_in_place()
        assert (await handler.result()).result == ("yes", 10.0)


async def test_a_paused_run_can_be_cancelled(autojump_clock: MockClock) -> None:
    log: list[Any] = []
    async with fan_out(log).run_with_handler() as handler:
        await trio.sleep(0.5)
        await handler.pause()
        handler.cancel("enough")
        with pytest.raises(CancelledError, match="enough"):
            await handler.result()
        assert handler.state == "cancelled"
    assert log == []


async def test_a_stop_event_from_outside_ends_a_paused_run(autojump_clock: MockClock) -> None:
    log: list[Any] = []
    async with fan_out(log).run_with_handler() as handler:
        await handler.pause()
        handler.send_event(StopEvent(result=1))
        assert (await handler.result()).result == 1


async def test_cancelling_a_waiting_step_of_a_paused_run_leaves_nothing_to_do(autojump_clock: MockClock) -> None:
    unwound: list[float] = []

    @step
    async def wait(ctx: Context, ev: StartEvent) -> StopEvent:
        try:
            await ctx.wait_for_event(Paid)
        finally:
            unwound.append(trio.current_time())
        return StopEvent()

    with pytest.raises(WorkflowError, match="idle"):  # noqa: PT012
        async with make([wait]).run_with_handler() as handler:
            await trio.sleep(1)
            await handler.pause()
            handler.cancel_step("wait")
            await trio.sleep(1)
            assert (unwound, handler.state) == ([1.0], "paused")
            assert (await handler.snapshot()).workflow == "w"
            handler.resume_in_place()


# --- the clocks


async def test_the_run_timeout_stands_still(autojump_clock: MockClock) -> None:
    log: list[Any] = []
    with pytest.raises(TimeoutError) as caught:  # noqa: PT012
        async with fan_out(log, seconds=2).options(timeout=3.5).run_with_handler() as handler:
            await trio.sleep(1)
            await handler.pause()
            assert trio.current_time() == 2
            await trio.sleep(100)
            handler.resume_in_place()
            await handler.result()
    assert caught.value.elapsed_ms == 3500
    assert trio.current_time() == 103.5


async def test_the_time_limit_of_a_wait_stands_still(autojump_clock: MockClock) -> None:
    @step
    async def wait(ctx: Context, ev: StartEvent) -> StopEvent:
        answer = await ctx.request_input("?", timeout=3, default="none")
        return StopEvent(result=(answer, trio.current_time()))

    async with make([wait]).run_with_handler() as handler:
        await trio.sleep(1)
        await handler.pause()
        await trio.sleep(100)
        handler.resume_in_place()
        assert (await handler.result()).result == ("none", 103.0)


async def test_the_wait_before_a_retry_stands_still(autojump_clock: MockClock) -> None:
    attempts: list[float] = []

    @step(retries=Retry(1, initial=4.0, jitter=0.0))
    async def fails(ctx: Context, ev: StartEvent) -> StopEvent:
        attempts.append(trio.current_time())
        if ctx.attempt == 1:
            raise ValueError
        return StopEvent()

    async with make([fails]).run_with_handler() as handler:
        await trio.sleep(1)
        await handler.pause()
        await trio.sleep(100)
        assert attempts == [0.0]
        handler.resume_in_place()
        await trio.sleep(1)
        await handler.pause()
        await trio.sleep(100)
        handler.resume_in_place()
    assert attempts == [0.0, 204.0]


async def test_the_timeout_of_a_waiting_step_stands_still(autojump_clock: MockClock) -> None:
    @step(timeout=3)
    async def ask(ctx: Context, ev: StartEvent) -> StopEvent:
        await trio.sleep(1)
        await ctx.request_input("?")
        await trio.sleep(10)
        return StopEvent()

    with pytest.raises(TimeoutError) as caught:  # noqa: PT012
        async with make([ask]).run_with_handler() as handler:
            await until_waiting(handler)
            await handler.pause()
            handler.respond_to_input(handler.pending_inputs()[0].request_id, 1)
            await trio.sleep_until(50)
            handler.resume_in_place()
            await handler.result()
    assert caught.value.elapsed_ms == 3000
    assert trio.current_time() == 52


# --- leaving the block


async def test_leaving_the_block_of_a_paused_run_lets_go_of_it(autojump_clock: MockClock) -> None:
    unwound: list[str] = []
    reasons: list[str | None] = []

    @step
    async def ask(ctx: Context, ev: StartEvent) -> StopEvent:
        try:
            await ctx.request_input("?")
        finally:
            unwound.append("ask")
        return StopEvent()

    async def result(handler: Any) -> None:
        with pytest.raises(CancelledError) as caught:
            await handler.result()
        reasons.append(caught.value.reason)

    async with trio.open_nursery() as nursery:
        async with make([ask]).run_with_handler() as handler:
            nursery.start_soon(result, handler)
            await until_waiting(handler)
            await handler.pause()
            assert unwound == []
        assert (handler.state, unwound) == ("cancelled", ["ask"])
    assert reasons == ["paused"]
    with pytest.raises(CancelledError):
        await handler.result()


@pytest.mark.parametrize("pauses", [1, 2])
async def test_whoever_still_waits_for_the_pause_gets_the_snapshot_when_the_block_is_left(
    pauses: int, autojump_clock: MockClock
) -> None:
    log: list[Any] = []
    snapshots: list[Snapshot] = []
    workflow = fan_out(log)

    async def pause(handler: Any) -> None:
        snapshots.append(await handler.pause())

    async with trio.open_nursery() as nursery:
        async with workflow.run_with_handler() as handler:
            await trio.sleep(0.25)
            for _ in range(pauses):
                nursery.start_soon(pause, handler)
            await trio.sleep(0.25)
        assert (handler.state, trio.current_time()) == ("cancelled", 1.0)
    assert len(snapshots) == pauses
    assert log == []
    async with workflow.resume(snapshots[0]) as handler:
        assert (await handler.result()).result == [0, 1, 2]


async def test_a_pause_given_up_after_the_block_was_left_lets_the_run_end(autojump_clock: MockClock) -> None:
    log: list[Any] = []

    async def pause(handler: Any) -> None:
        with trio.move_on_after(0.5):
            await handler.pause()

    async with trio.open_nursery() as nursery:
        async with fan_out(log).run_with_handler() as handler:
            await trio.sleep(0.25)
            nursery.start_soon(pause, handler)
            await trio.sleep(0.25)
        assert handler.state == "completed"


async def test_leaving_the_block_of_a_paused_run_by_an_exception_cancels_it(autojump_clock: MockClock) -> None:
    log: list[Any] = []
    with pytest.raises(KeyError):  # noqa: PT012
        async with fan_out(log).run_with_handler() as handler:
            await handler.pause()
            raise KeyError
    with pytest.raises(CancelledError) as caught:
        await handler.result()
    assert caught.value.reason is None


async def test_a_paused_run_can_be_paused_and_resumed_many_times(autojump_clock: MockClock) -> None:
    log: list[Any] = []
    async with fan_out(log, max_concurrency=1, count=5).run_with_handler() as handler:
        for _ in range(5):
            await trio.sleep(0.75)
            await handler.pause()
            await trio.sleep(3)
            handler.resume_in_place()
        assert (await handler.result()).result == [0, 1, 2, 3, 4]
    assert sum(what == "begin" for what, *_ in log) == 5
