"""What a snapshot holds, and runs that go on with one: `handler.snapshot()` and `workflow.resume(...)`."""

from __future__ import annotations

import dataclasses
import datetime
import decimal
import subprocess
import sys
import textwrap
import uuid
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import trio
from trio.testing import MockClock, wait_all_tasks_blocked

from blazen import (
    BlazenState,
    Context,
    DynamicEvent,
    Event,
    InputRequestEvent,
    InputResponseEvent,
    Retry,
    Snapshot,
    StartEvent,
    StateValue,
    StopEvent,
    UsageEvent,
    Workflow,
    step,
)
from blazen.errors import BlazenWarning, TimeoutError, ValidationError, WorkflowError
from blazen.state import CallbackFieldStore

ROOT = Path(__file__).resolve().parent.parent
KEY = b"sixteen bytes or more"


class Go(Event):
    n: int = 0


class Done(Event):
    n: int = 0


class Paid(Event):
    order: int = 0


class Holds(Event):
    value: Any = None


def make(steps: list[Any], **options: Any) -> Workflow[Any]:
    return Workflow("w", steps, **options)


def written(snapshot: Snapshot) -> Snapshot:
    """As another process would get it."""
    return Snapshot.from_bytes(snapshot.to_bytes())


async def until_waiting(handler: Any) -> None:
    while handler.state != "waiting":
        await trio.sleep(0.001)


async def snapshot_when_waiting(workflow: Workflow[Any]) -> Snapshot:
    """Of a run that waits, which is let go of."""
    async with workflow.run_with_handler() as handler:
        await until_waiting(handler)
        snapshot = await handler.pause()
    return written(snapshot)


async def snapshot_after(workflow: Workflow[Any], seconds: float, *, abort: bool = True) -> Snapshot:
    """Of a run after so many seconds; the run is let go of."""
    async with workflow.run_with_handler() as handler:
        await trio.sleep(seconds)
        snapshot = await handler.pause(abort=abort)
    return written(snapshot)


# --- it does not disturb


async def test_a_snapshot_does_not_disturb_the_run_and_is_of_this_moment(autojump_clock: MockClock) -> None:
    attempts: list[tuple[int, float]] = []

    @step
    async def only(ctx: Context, ev: StartEvent) -> StopEvent:
        attempts.append((ctx.attempt, trio.current_time()))
        await trio.sleep(2)
        return StopEvent(result=ctx.attempt)

    workflow = make([only])
    async with workflow.run_with_handler() as handler:
        await trio.sleep(1)
        snapshot = await handler.snapshot()
        assert handler.state == "running"
        assert (await handler.result()).result == 1
        with pytest.raises(ValidationError, match=r"snapshot\(\): run .* has ended \(completed\)"):
            await handler.snapshot()
    assert trio.current_time() == 2
    async with workflow.resume(written(snapshot)) as handler:
        assert (await handler.result()).result == 2
    assert attempts == [(1, 0.0), (2, 2.0)]


async def test_a_snapshot_says_whose_it_is(autojump_clock: MockClock) -> None:
    @step
    async def only(ev: StartEvent) -> StopEvent:
        await trio.sleep(1)
        return StopEvent()

    async with make([only], version="7").run_with_handler() as handler:
        snapshot = await handler.snapshot()
        assert (snapshot.workflow, snapshot.version, snapshot.run_id) == ("w", "7", handler.run_id)
        assert written(snapshot) == snapshot
        assert handler.run_id in repr(snapshot)


async def test_a_step_may_take_a_snapshot_of_its_run(autojump_clock: MockClock) -> None:
    handlers: list[Any] = []

    @step
    async def only(ctx: Context, ev: StartEvent) -> StopEvent:
        if ctx.attempt == 1:
            handlers.append(await handlers[0].snapshot())
        return StopEvent(result=ctx.attempt)

    workflow = make([only])
    async with workflow.run_with_handler() as handler:
        handlers.append(handler)
    async with workflow.resume(handlers[1]) as handler:
        assert (await handler.result()).result == 2


# --- what is queued and what runs


def in_line(log: list[tuple[str, int, int]], **options: Any) -> Workflow[Any]:
    """Six events for `work`, then six for `other`, which takes no time; the last of `work` ends the run."""

    @step
    async def begin(ev: StartEvent) -> list[Event]:
        return [*(Go(n) for n in range(6)), *(Done(n) for n in range(6))]

    @step(**options)
    async def work(ctx: Context, ev: Go) -> StopEvent | None:
        await trio.sleep(1)
        log.append(("work", ev.n, ctx.attempt))
        return StopEvent() if ev.n == 5 else None

    @step(max_concurrency=1)
    async def other(ctx: Context, ev: Done) -> None:
        await trio.sleep(0.125)
        log.append(("other", ev.n, ctx.attempt))

    return make([begin, work, other])


@pytest.mark.parametrize("abort", [False, True])
@pytest.mark.parametrize("at", [0.25, 0.5, 2.5])
async def test_events_that_a_limited_step_has_no_room_for_keep_their_order(
    at: float, abort: bool, autojump_clock: MockClock
) -> None:
    log: list[tuple[str, int, int]] = []
    workflow = in_line(log, max_concurrency=1)
    snapshot = await snapshot_after(workflow, at, abort=abort)
    async with workflow.resume(snapshot):
        pass
    for name in ("work", "other"):
        assert [n for step_name, n, _ in log if step_name == name] == list(range(6))
    again = [n for step_name, n, attempt in log if step_name == "work" and attempt == 2]
    assert again == ([int(at)] if abort else [])


async def test_an_attempt_put_back_comes_before_what_its_step_has_no_room_for(autojump_clock: MockClock) -> None:
    log: list[tuple[str, int, int]] = []
    workflow = in_line(log, max_concurrency=2)
    async with workflow.run_with_handler() as handler:
        await trio.sleep(0.5)
        first = await handler.pause(abort=True)
        handler.send_event(Go(6))
        second = written(await handler.snapshot())
    assert len(second.sections["run"]) > len(first.sections["run"])
    async with workflow.resume(second):
        pass
    works = [(n, attempt) for step_name, n, attempt in log if step_name == "work"]
    assert sorted(works[:2]) == [(0, 2), (1, 2)]
    assert sorted(works[2:4]) == [(2, 1), (3, 1)]


async def test_numbers_of_events_go_on(autojump_clock: MockClock) -> None:
    numbers: list[int] = []

    @step
    async def begin(ctx: Context, ev: StartEvent) -> Go:
        numbers.append(ctx.seq)
        return Go()

    @step
    async def work(ctx: Context, ev: Go) -> Done:
        numbers.append(ctx.seq)
        await trio.sleep(1)
        return Done()

    @step
    async def end(ctx: Context, ev: Done) -> StopEvent:
        numbers.append(ctx.seq)
        return StopEvent()

    workflow = make([begin, work, end])
    async with workflow.resume(await snapshot_after(workflow, 0.5)):
        pass
    assert numbers == [1, 2, 2, 3]


async def test_a_step_that_was_cancelled_and_unwinds_is_not_run_again(autojump_clock: MockClock) -> None:
    begun: list[str] = []

    @step
    async def cancelled(ctx: Context, ev: StartEvent) -> None:
        begun.append("cancelled")
        try:
            await trio.sleep_forever()
        finally:
            async with ctx.cleanup():
                await trio.sleep(2)

    @step
    async def goes_on(ev: StartEvent) -> StopEvent:
        begun.append("goes on")
        await trio.sleep(3)
        return StopEvent()

    workflow = make([cancelled, goes_on])
    async with workflow.run_with_handler() as handler:
        await trio.sleep(1)
        handler.cancel_step("cancelled")
        await trio.sleep(1)
        snapshot = await handler.snapshot()
    begun.clear()
    async with workflow.resume(snapshot):
        pass
    assert begun == ["goes on"]


async def test_a_snapshot_while_aborted_steps_unwind_keeps_their_order(autojump_clock: MockClock) -> None:
    begun: list[tuple[int, int]] = []

    @step
    async def begin(ev: StartEvent) -> list[Go]:
        return [Go(n) for n in range(4)]

    @step
    async def work(ctx: Context, ev: Go) -> StopEvent | None:
        begun.append((ev.n, ctx.attempt))
        try:
            await trio.sleep(1)
        except trio.Cancelled:
            if ev.n == 0:
                async with ctx.cleanup():
                    await trio.sleep(2)
            raise
        return StopEvent() if ev.n == 3 else None

    workflow = make([begin, work])
    async with workflow.run_with_handler() as handler, trio.open_nursery() as nursery:
        await trio.sleep(0.5)
        nursery.start_soon(lambda: handler.pause(abort=True))
        await trio.sleep(0.5)
        assert handler.state == "running"
        snapshot = await handler.snapshot()
        await trio.sleep(2)
        handler.resume_in_place()
    begun.clear()
    async with workflow.resume(written(snapshot)):
        pass
    assert begun == [(0, 2), (1, 2), (2, 2), (3, 2)]


async def test_dynamic_events_are_converted_for_steps_that_have_become_typed(autojump_clock: MockClock) -> None:
    @step
    async def begin(ev: StartEvent) -> list[Event]:
        return [DynamicEvent("Go", {"n": 3})]

    @step(accepts=["Go"])
    async def work(ev: Event) -> StopEvent:
        await trio.sleep(5)
        return StopEvent(result=type(ev).__name__)

    @step(name="work")
    async def typed(ev: Go) -> StopEvent:
        return StopEvent(result=ev)

    @step(name="begin")
    async def begin_typed(ev: StartEvent) -> Go:
        return Go()

    snapshot = await snapshot_after(make([begin, work]), 1)
    async with make([begin_typed, typed]).resume(snapshot) as handler:
        assert (await handler.result()).result == Go(3)


# --- joins, waits, questions


async def test_a_join_goes_on_and_counts_an_event_once(autojump_clock: MockClock) -> None:
    answers: list[Any] = []

    @step
    async def begin(ev: StartEvent) -> list[Go]:
        return [Go(1), Go(2), Go(3)]

    @step(max_concurrency=1)
    async def join(ctx: Context, ev: Go) -> StopEvent | None:
        events: Any = ctx.collect_events(ev, 3, key=("a", 1))
        answers.append(None if events is None else [event.n for event in events])
        await trio.sleep(1)
        return None if events is None else StopEvent()

    workflow = make([begin, join])
    snapshot = await snapshot_after(workflow, 1.5)  # the second event has been counted, and its step runs
    assert answers == [None, None]
    async with workflow.resume(snapshot):
        pass
    assert answers == [None, None, None, [1, 2, 3]]


async def test_a_join_that_was_complete_gives_the_same_again(autojump_clock: MockClock) -> None:
    answers: list[Any] = []

    @step
    async def begin(ev: StartEvent) -> list[Event]:
        return [Go(1), Done(2)]

    @step(max_concurrency=1)
    async def join(ctx: Context, ev: Go | Done) -> StopEvent | None:
        events: Any = ctx.collect_events(ev, [Done, Go])
        if events is None:
            return None
        answers.append(events)
        await trio.sleep(1)
        return StopEvent()

    workflow = make([begin, join])
    async with workflow.resume(await snapshot_after(workflow, 0.5)):
        pass
    assert answers == [[Done(2), Go(1)], [Done(2), Go(1)]]


def asking(log: list[Any], **options: Any) -> Workflow[Any]:
    @step
    async def ask(ctx: Context, ev: StartEvent) -> StopEvent:
        log.append(ctx.attempt)
        first = await ctx.request_input("first")
        second = await ctx.request_input("second", **options)
        return StopEvent(result=(first, second))

    return make([ask])


async def test_questions_of_both_kinds_are_open_at_once_after_a_resume(autojump_clock: MockClock) -> None:
    @step
    async def returns(ev: StartEvent) -> InputRequestEvent:
        return InputRequestEvent(request_id="returned", prompt="returned", metadata={"a": 1})

    @step
    async def ask(ctx: Context, ev: StartEvent) -> Go:
        return Go(await ctx.request_input("asked", schema=int))

    @step
    async def join(ctx: Context, ev: InputResponseEvent | Go) -> StopEvent | None:
        events: Any = ctx.collect_events(ev, [InputResponseEvent, Go])
        return None if events is None else StopEvent(result=(events[0].response, events[1].n))

    workflow = make([returns, ask, join])
    async with workflow.run_with_handler() as handler:
        await until_waiting(handler)
        before = handler.pending_inputs()
        snapshot = await handler.pause()
    assert len(before) == 2
    async with workflow.resume(written(snapshot)) as handler:
        assert handler.pending_inputs() == before
        again = written(await handler.snapshot())
        stream = handler.stream_events()
        assert [await anext(stream), await anext(stream)] == before
        await until_waiting(handler)
        assert handler.pending_inputs() == before
        for question in before:
            handler.respond_to_input(question.request_id, {"asked": 5, "returned": "yes"}[question.prompt])
        assert (await handler.result()).result == ("yes", 5)
        shown = [event async for event in handler.stream_events()]
    assert shown == before  # each once
    async with workflow.resume(again) as handler:
        assert handler.pending_inputs() == before
        for question in before:  # before any step has begun again
            handler.respond_to_input(question.request_id, {"asked": 6, "returned": "no"}[question.prompt])
        assert handler.pending_inputs() == []
        assert (await handler.result()).result == ("no", 6)


async def test_answers_are_given_again_call_by_call(autojump_clock: MockClock) -> None:
    log: list[Any] = []
    workflow = asking(log)
    async with workflow.run_with_handler() as handler:
        await until_waiting(handler)
        handler.respond_to_input(handler.pending_inputs()[0].request_id, {"a": (1, 2)})
        await wait_all_tasks_blocked()
        (question,) = handler.pending_inputs()
        snapshot = await handler.pause()
    async with workflow.resume(written(snapshot)) as handler:
        assert handler.pending_inputs() == [question]
        await until_waiting(handler)
        handler.respond_to_input(question.request_id, 2)
        assert (await handler.result()).result == ({"a": (1, 2)}, 2)
    assert log == [1, 2]


async def test_an_answer_before_the_step_asks_again_that_does_not_fit_opens_the_question_again(
    autojump_clock: MockClock,
) -> None:
    @step
    async def ask(ctx: Context, ev: StartEvent) -> StopEvent:
        return StopEvent(result=await ctx.request_input("?", schema=int))

    workflow = make([ask])
    snapshot = await snapshot_when_waiting(workflow)
    async with workflow.resume(snapshot) as handler:
        (question,) = handler.pending_inputs()
        handler.respond_to_input(question.request_id, "no int")
        with pytest.raises(ValidationError, match="no open question"):
            handler.respond_to_input(question.request_id, 1)
        unchecked = written(await handler.snapshot())
        await until_waiting(handler)
        assert handler.pending_inputs() == [question]
        handler.respond_to_input(question.request_id, 4)
        assert (await handler.result()).result == 4
    async with workflow.resume(unchecked) as handler:  # the unchecked answer is checked there too
        await until_waiting(handler)
        handler.respond_to_input(question.request_id, 5)
        assert (await handler.result()).result == 5


@dataclasses.dataclass
class Address:
    street: str


async def test_an_answer_of_a_class_that_cannot_be_stored_is_kept_as_it_was_given(autojump_clock: MockClock) -> None:
    @step
    async def ask(ctx: Context, ev: StartEvent) -> StopEvent:
        address = await ctx.request_input("Where?", schema=Address)
        await trio.sleep(1)
        return StopEvent(result=address)

    workflow = make([ask])
    async with workflow.run_with_handler() as handler:
        await until_waiting(handler)
        handler.respond_to_input(handler.pending_inputs()[0].request_id, {"street": "Elm"})
        await wait_all_tasks_blocked()
        snapshot = written(await handler.pause(abort=True))
    async with workflow.resume(snapshot) as handler:
        await wait_all_tasks_blocked()
        snapshot = written(await handler.pause(abort=True))
    async with workflow.resume(snapshot) as handler:
        assert (await handler.result()).result == Address("Elm")


async def test_a_question_its_step_does_not_ask_again_is_not_waited_for(autojump_clock: MockClock) -> None:
    @step
    async def ask(ctx: Context, ev: StartEvent) -> StopEvent | None:
        if ctx.attempt == 1:
            return StopEvent(result=await ctx.request_input("?"))
        return None

    workflow = make([ask])
    snapshot = await snapshot_when_waiting(workflow)
    with pytest.raises(WorkflowError, match="idle"):
        async with workflow.resume(snapshot):
            pass


async def test_a_wait_for_an_event_has_the_time_that_was_left(autojump_clock: MockClock) -> None:
    @step
    async def wait(ctx: Context, ev: StartEvent) -> StopEvent:
        try:
            await ctx.wait_for_event(Paid, timeout=10)
        except TimeoutError:
            return StopEvent(result=trio.current_time())
        return StopEvent()

    workflow = make([wait])
    async with workflow.run_with_handler() as handler:
        await trio.sleep(4)
        running = written(await handler.snapshot())
        await handler.pause()
        await trio.sleep(6)
        paused = written(await handler.snapshot())
    for snapshot in (running, paused):
        start = trio.current_time()
        async with workflow.resume(snapshot) as handler:
            again = written(await handler.snapshot())
            assert (await handler.result()).result == start + 6
        start = trio.current_time()
        async with workflow.resume(again) as handler:
            assert (await handler.result()).result == start + 6


async def test_a_question_has_the_time_that_was_left(autojump_clock: MockClock) -> None:
    workflow = asking([], timeout=10, default="nothing")
    async with workflow.run_with_handler() as handler:
        await until_waiting(handler)
        handler.respond_to_input(handler.pending_inputs()[0].request_id, 1)
        await trio.sleep(4)
        snapshot = await handler.pause()
    start = trio.current_time()
    async with workflow.resume(written(snapshot)) as handler:
        assert (await handler.result()).result == (1, "nothing")
    assert trio.current_time() - start == pytest.approx(6)


async def test_kept_events_and_events_that_were_waited_for_are_kept(autojump_clock: MockClock) -> None:
    @step(waits=[Paid])
    async def wait(ctx: Context, ev: StartEvent) -> StopEvent:
        first = await ctx.wait_for_event(Paid)
        await trio.sleep(2)
        second = await ctx.wait_for_event(Paid)
        third = await ctx.wait_for_event(Paid)
        return StopEvent(result=[event.order for event in (first, second, third)])

    workflow = make([wait])
    async with workflow.run_with_handler() as handler:
        await wait_all_tasks_blocked()
        handler.send_event(Paid(1))
        await trio.sleep(1)
        handler.send_event(Paid(2))
        snapshot = await handler.pause(abort=True)
    async with workflow.resume(written(snapshot)) as handler:
        handler.send_event(Paid(3))
        assert (await handler.result()).result == [1, 2, 3]


# --- failures, time, usage, keys


async def test_a_retry_waits_for_the_time_that_was_left(autojump_clock: MockClock) -> None:
    attempts: list[tuple[int, float]] = []

    @step(retries=Retry(1, initial=10.0, jitter=0.0))
    async def fails(ctx: Context, ev: StartEvent) -> StopEvent:
        attempts.append((ctx.attempt, trio.current_time()))
        if ctx.attempt == 1:
            raise ValueError
        return StopEvent()

    workflow = make([fails])
    async with workflow.run_with_handler() as handler:
        await trio.sleep(4)
        running = written(await handler.snapshot())
        paused = await handler.pause()
    assert running.sections["run"] == paused.sections["run"]
    async with workflow.resume(running) as handler:
        await trio.sleep(1)
        assert handler.state == "running"
        again = await handler.pause()
    async with workflow.resume(again):
        pass
    assert attempts == [(1, 0.0), (2, 10.0)]


class Own(Exception):
    pass


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        (ValueError("a", 1), "ValueError('a', 1)"),
        (KeyError("k"), "KeyError('k')"),
        (UnicodeDecodeError("utf-8", b"x", 0, 1, "why"), "UnicodeDecodeError('utf-8', b'x', 0, 1, 'why')"),
        (ValidationError("m", path="$.a"), "ValidationError('m', path='$.a')"),
        (TimeoutError("m", elapsed_ms=3), "TimeoutError('m', elapsed_ms=3)"),
        (Own("text"), "WorkflowError('Own: text')"),
        (ValueError(object), "WorkflowError(\"ValueError: <class 'object'>\")"),
    ],
)
async def test_an_on_error_that_is_due_gets_its_error(
    error: Exception, expected: str, autojump_clock: MockClock
) -> None:
    def handle(ev: StartEvent, exc: Exception) -> StopEvent:
        return StopEvent(result=repr(exc))

    @step(on_error=handle)
    async def fails(ev: StartEvent) -> StopEvent:
        await trio.sleep(1)
        raise error

    workflow = make([fails])
    async with workflow.resume(await snapshot_after(workflow, 0.5, abort=False)) as handler:
        assert (await handler.result()).result == expected
    assert trio.current_time() == 1


async def test_an_on_error_that_runs_begins_anew_and_its_step_does_not(autojump_clock: MockClock) -> None:
    log: list[str] = []

    async def handle(ev: StartEvent, exc: Exception) -> StopEvent:
        log.append(f"handle {exc}")
        await trio.sleep(1)
        return StopEvent()

    @step(on_error=handle)
    async def fails(ev: StartEvent) -> StopEvent:
        log.append("step")
        raise ValueError("v")

    workflow = make([fails])
    async with workflow.resume(await snapshot_after(workflow, 0.5)):
        pass
    assert log == ["step", "handle v", "handle v"]


async def test_the_run_timeout_counts_the_time_that_was_used(autojump_clock: MockClock) -> None:
    @step
    async def only(ev: StartEvent) -> StopEvent:
        await trio.sleep(8)
        return StopEvent()

    workflow = make([only], timeout=10)
    snapshot = await snapshot_after(workflow, 4)
    await trio.sleep(50)
    start = trio.current_time()
    with pytest.raises(TimeoutError) as caught:
        async with workflow.resume(snapshot):
            pass
    assert (caught.value.elapsed_ms, trio.current_time() - start) == (10_000, 6.0)
    async with workflow.options(timeout=20).resume(snapshot):
        pass
    async with make([only]).resume(snapshot):
        pass


async def test_time_in_which_the_clock_stood_still_is_not_used(autojump_clock: MockClock) -> None:
    @step
    async def ask(ctx: Context, ev: StartEvent) -> StopEvent:
        await trio.sleep(1)
        await ctx.request_input("?")
        await trio.sleep(5)
        return StopEvent()

    workflow = make([ask], timeout=3)
    async with workflow.run_with_handler() as handler:
        await trio.sleep(50)
        snapshot = await handler.pause()
    start = trio.current_time()
    with pytest.raises(TimeoutError):  # noqa: PT012
        async with workflow.resume(written(snapshot)) as handler:
            handler.respond_to_input(handler.pending_inputs()[0].request_id, 1)
            await handler.result()
    assert trio.current_time() - start == 2  # of 3, 1 was used


async def test_usage_goes_on(autojump_clock: MockClock) -> None:
    @step
    async def begin(ctx: Context, ev: StartEvent) -> Go:
        ctx.emit_usage(UsageEvent("p", "m", input_tokens=3, output_tokens=4, cost_usd=0.5))
        return Go()

    @step
    async def work(ctx: Context, ev: Go) -> StopEvent:
        await trio.sleep(1)
        ctx.emit_usage(UsageEvent("p", "m", input_tokens=1, output_tokens=1, cost_usd=0.25))
        return StopEvent()

    workflow = make([begin, work])
    async with workflow.resume(await snapshot_after(workflow, 0.5)) as handler:
        result = await handler.result()
    assert (result.total_input_tokens, result.total_output_tokens, result.total_cost_usd) == (4, 5, 0.75)


async def test_an_event_sent_with_a_key_is_not_sent_again(autojump_clock: MockClock) -> None:
    got: list[int] = []

    @step
    async def begin(ctx: Context, ev: StartEvent) -> StopEvent:
        ctx.send_event(Go(1), key=("once", 1))
        ctx.send_event(Go(2))
        await trio.sleep(1)
        return StopEvent()

    @step
    async def work(ev: Go) -> None:
        got.append(ev.n)

    workflow = make([begin, work])
    async with workflow.resume(await snapshot_after(workflow, 0.5)):
        pass
    assert got == [1, 2, 2]


# --- state and session


def storing(fill: Callable[[Context], object], **options: Any) -> Workflow[Any]:
    """A run that stores something, waits for a second, and whose result is what `read` makes of it."""

    @step
    async def begin(ctx: Context, ev: StartEvent) -> StopEvent:
        if ctx.attempt == 1:
            fill(ctx)
        await trio.sleep(1)
        return StopEvent(result={key: ctx.get(key) for key in ctx.keys()})

    return make([begin], **options)


async def state_after_resume(fill: Callable[[Context], object], **options: Any) -> Any:
    workflow = storing(fill, **options)
    async with workflow.resume(await snapshot_after(workflow, 0.5)) as handler:
        return (await handler.result()).result


@dataclasses.dataclass
class Point:
    x: int
    y: float


async def test_values_come_back_equal_and_of_the_same_type(autojump_clock: MockClock) -> None:
    values: dict[str, Any] = {
        "none": None,
        "big": -(2**200),
        "tuple": (1, (2.5, True)),
        "keys": {1: "a", (2, 3): {4}, None: frozenset([5])},
        "bytes": [b"\0", bytearray(b"\1")],
        "times": (datetime.datetime(2026, 1, 2, tzinfo=datetime.UTC), datetime.timedelta(1)),
        "id": uuid.UUID(int=5),
        "decimal": decimal.Decimal("1.50"),
        "complex": 1 + 2j,
        "event": Go(3),
        "point": Point(1, 2.0),
        "é.b": [float("inf")],
    }

    def fill(ctx: Context) -> None:
        for key, value in values.items():
            ctx.set(key, value)
        ctx.set("nan", float("nan"))
        ctx.set("deleted", 1)
        ctx.delete("deleted")

    back = await state_after_resume(fill, types=[Point, Go])
    assert back.pop("nan") != back.get("nan")
    assert back == values
    assert [type(value) for value in back.values()] == [type(value) for value in values.values()]
    assert type(back["bytes"][1]) is bytearray
    assert list(back) == list(values)


async def test_arrays_come_back_with_their_type_and_shape(autojump_clock: MockClock) -> None:
    numpy = pytest.importorskip("numpy")
    array = numpy.arange(6, dtype="<f4").reshape(2, 3)
    back = await state_after_resume(lambda ctx: ctx.set("a", array))
    assert (back["a"].dtype, back["a"].shape) == (array.dtype, (2, 3))
    assert (back["a"] == array).all()


async def test_every_kind_of_state_value_comes_back(autojump_clock: MockClock) -> None:
    kinds = {
        "json": StateValue.json({"a": [1, None]}),
        "bytes": StateValue.bytes(b"xyz"),
        "native": StateValue.native(Path("a")),
        "native_bytes": StateValue.native_bytes(b"abc"),
    }

    @step
    async def begin(ctx: Context, ev: StartEvent) -> StopEvent:
        if ctx.attempt == 1:
            for key, value in kinds.items():
                ctx.set_value(key, value)
            ctx.set_bytes("plain", b"p")
        await trio.sleep(1)
        return StopEvent(result=({key: ctx.get_value(key) for key in kinds}, ctx.get_bytes("plain")))

    workflow = make([begin])
    snapshot = await snapshot_after(workflow, 0.5)
    with pytest.raises(ValidationError, match=r"under key 'native'.*trust_native=True"):
        workflow.resume(snapshot)
    async with workflow.resume(snapshot, trust_native=True) as handler:
        assert (await handler.result()).result == (kinds, b"p")
    trusted = Snapshot.from_bytes(snapshot.to_bytes(), trust_native=True)
    async with workflow.resume(trusted) as handler:
        assert (await handler.result()).result == (kinds, b"p")


class Inner(BlazenState):
    word: str = ""


SAVED: dict[str, Any] = {}


class Job(BlazenState):
    name: str
    inner: Inner
    vectors: Any = None
    cache: Any = None
    restored: bool = False

    class Meta:
        transient = {"cache"}
        store_by = {"vectors": CallbackFieldStore(SAVED.__setitem__, SAVED.__getitem__)}

    def restore(self) -> None:
        self.restored = True


async def test_typed_state_comes_back_nested_without_transient_fields_and_from_field_stores(
    autojump_clock: MockClock,
) -> None:
    SAVED.clear()

    def fill(ctx: Context) -> None:
        ctx.set("job", Job(name="n", inner=Inner("deep"), vectors=[1, 2], cache=object()))

    back = await state_after_resume(fill)
    job = back["job"]
    assert (job.name, job.inner, job.vectors, job.cache, job.restored) == ("n", Inner("deep"), [1, 2], None, True)
    assert SAVED == {"job.vectors": [1, 2]}


@pytest.mark.parametrize("policy", ["pickle_or_error", "warn_drop", "hard_error"])
async def test_the_session_follows_its_policy(policy: Any, autojump_clock: MockClock) -> None:
    shared: list[Any] = [1]

    @step
    async def only(ctx: Context, ev: StartEvent) -> StopEvent:
        if ctx.attempt == 1:
            ctx.session["a"] = shared
            ctx.session["b"] = shared
        await trio.sleep(1)
        return StopEvent(result=dict(ctx.session))

    workflow = make([only], session_policy=policy)
    async with workflow.run_with_handler() as handler:
        await trio.sleep(0.5)
        if policy == "hard_error":
            with pytest.raises(ValidationError, match=r"cannot take a snapshot of run .*'a', 'b'.*hard_error"):
                await handler.snapshot()
            assert handler.state == "running"
            return
        if policy == "warn_drop":
            with pytest.warns(BlazenWarning, match="'a', 'b' of the session"):
                snapshot = written(await handler.snapshot())
        else:
            snapshot = written(await handler.snapshot())
    if policy == "warn_drop":
        async with workflow.resume(snapshot) as handler:
            assert (await handler.result()).result == {}
        return
    with pytest.raises(ValidationError, match=r"cannot resume run .*pickle"):
        workflow.resume(snapshot)
    async with workflow.resume(snapshot, trust_native=True) as handler:
        session = (await handler.result()).result
        assert session == {"a": [1], "b": [1]}
        assert session["a"] is session["b"]


async def test_the_resuming_workflow_may_give_a_session_a_timeout_and_an_id(autojump_clock: MockClock) -> None:
    @step
    async def only(ctx: Context, ev: StartEvent) -> StopEvent:
        ctx.session.setdefault("a", 1)
        await trio.sleep(1)
        return StopEvent(result=ctx.session)

    snapshot = await snapshot_after(make([only]), 0.5)
    async with make([only]).resume(snapshot, trust_native=True) as handler:
        assert handler.run_id == snapshot.run_id
    session: dict[str, object] = {"live": object()}
    other = str(uuid.uuid4())
    workflow = make([only]).options(session=session, timeout=60, run_id=other)
    async with workflow.resume(snapshot) as handler:  # no pickle is loaded: nobody need trust it
        assert handler.run_id == other
        assert (await handler.result()).result is session
    async with make([only]).resume(snapshot, trust_native=True) as handler:
        assert (await handler.result()).result == {"a": 1}


async def test_a_resumed_run_can_be_watched_and_keeps_no_record(autojump_clock: MockClock) -> None:
    @step
    async def ends(ev: Go) -> StopEvent:
        await trio.sleep(1)
        return StopEvent()

    workflow = make([begin, ends])
    snapshot = await snapshot_after(workflow, 0.5)
    with pytest.raises(ValidationError, match=r"options\(record=False\)"):
        workflow.options(record=True).resume(snapshot)
    async with workflow.resume(snapshot) as handler:
        seen = [(event.kind, event.step, event.attempt) async for event in handler.stream_events(lifecycle=True)]
        assert handler.record is None
    assert seen == [("started", "ends", 2), ("finished", "ends", 2)]


async def test_a_recorded_run_may_be_paused(autojump_clock: MockClock) -> None:
    @step
    async def only(ctx: Context, ev: StartEvent) -> StopEvent:
        await trio.sleep(1)
        return StopEvent(result=ctx.attempt)

    async with make([only]).options(record=True).run_with_handler() as handler:
        await trio.sleep(0.5)
        await handler.pause(abort=True)
        assert handler.record is not None
        assert handler.record.state == "paused"
        handler.resume_in_place()
        result = await handler.result()
    assert result.record is not None
    assert [attempt.outcome for attempt in result.record.invocations[0].attempts] == ["cancelled", "finished"]
    stopped = result.record.invocations[0].attempts[0].stopped
    assert stopped is not None
    assert stopped.by == "pause"


# --- another process


PROGRAM = """
import sys, trio, trio.testing
from blazen import Context, Event, Snapshot, StartEvent, StopEvent, Workflow, step

class Go(Event):
    n: int

@step
async def begin(ev: StartEvent) -> list[Go]:
    return [Go(n) for n in range(3)]

@step(max_concurrency=1)
async def work(ctx: Context, ev: Go) -> StopEvent | None:
    await trio.sleep(1)
    ctx.set(f"key {ev.n}", (ev.n, {ev.n: 2**70}))
    return StopEvent(result=dict(ctx.state)) if ev.n == 2 else None

workflow = Workflow("processes", [begin, work], version="3")

async def save():
    async with workflow.run_with_handler() as handler:
        await trio.sleep(1.5)
        snapshot = await handler.pause(abort=True)
    sys.stdout.buffer.write(snapshot.to_bytes(b"a key of 16 bytes"))

async def load():
    snapshot = Snapshot.from_bytes(sys.stdin.buffer.read(), key=b"a key of 16 bytes")
    async with workflow.resume(snapshot) as handler:
        print(handler.run_id == snapshot.run_id, (await handler.result()).result)

trio.run({"save": save, "load": load}[sys.argv[1]], clock=trio.testing.MockClock(autojump_threshold=0))
"""


def test_a_snapshot_goes_on_in_another_process() -> None:
    def run(what: str, given: bytes = b"") -> bytes:
        done = subprocess.run(
            [sys.executable, "-c", textwrap.dedent(PROGRAM), what], input=given, capture_output=True, cwd=ROOT
        )
        assert done.returncode == 0, done.stderr.decode()
        return done.stdout

    expected = {f"key {n}": (n, {n: 2**70}) for n in range(3)}
    assert run("load", run("save")).decode().strip() == f"True {expected}"


# --- what is refused


@step
async def begin(ev: StartEvent) -> Go:
    return Go(1)


def handle(ev: Go, exc: Exception) -> StopEvent:
    return StopEvent()


@step(on_error=handle)
async def work(ev: Go) -> StopEvent:
    await trio.sleep(1)
    raise ValueError


def refused(workflow: Workflow[Any], snapshot: Snapshot) -> str:
    with pytest.raises(ValidationError) as caught:
        workflow.resume(snapshot)
    message = str(caught.value)
    assert message.startswith(f"workflow {workflow.name!r} cannot resume run {snapshot.run_id}: ")
    return message


async def test_what_does_not_fit_the_workflow_is_refused(autojump_clock: MockClock) -> None:
    snapshot = await snapshot_after(make([begin, work]), 0.5)

    @step(name="begin")
    async def to_done(ev: StartEvent) -> Done:
        return Done()

    @step(name="work")
    async def takes_done(ev: Done) -> StopEvent:
        return StopEvent()

    @step(name="another")
    async def another(ev: Go) -> StopEvent:
        return StopEvent()

    assert "is of workflow 'w'" in refused(Workflow("other", [begin, work]), snapshot)
    assert "of version '1', and this is version '2'" in refused(make([begin, work], version="2"), snapshot)
    assert "step 'work' has an event 'Go' to work on, and the workflow has no such step" in refused(
        make([begin, another]), snapshot
    )
    assert "does not accept it any more" in refused(make([to_done, takes_done], types=[Go]), snapshot)
    assert "Go" in refused(make([to_done, takes_done]), snapshot)
    failed = await snapshot_after(make([begin, work]), 0.5, abort=False)

    @step(name="work")
    async def unhandled(ev: Go) -> StopEvent:
        return StopEvent()

    assert "has no on_error any more" in refused(make([begin, unhandled]), failed)


async def test_a_step_that_gathers_and_is_gone_is_refused(autojump_clock: MockClock) -> None:
    @step
    async def several(ev: StartEvent) -> Go:
        return Go()

    @step
    async def wait(ctx: Context, ev: StartEvent) -> None:
        await ctx.wait_for_event(Paid)

    @step
    async def join(ctx: Context, ev: Go) -> StopEvent | None:
        return StopEvent() if ctx.collect_events(ev, 2) else None

    @step
    async def another(ev: Go) -> StopEvent:
        return StopEvent()

    snapshot = await snapshot_when_waiting(make([several, wait, join]))
    assert "step 'join' gathers events" in refused(make([several, wait, another]), snapshot)


async def test_changed_fields_of_an_event_are_refused(autojump_clock: MockClock) -> None:
    snapshot = await snapshot_after(make([begin, work]), 0.5)

    class Changed(Event, type="Go"):
        number: int

    @step(name="begin")
    async def to_changed(ev: StartEvent) -> Changed:
        return Changed(1)

    @step(name="work")
    async def takes_changed(ev: Changed) -> StopEvent:
        return StopEvent()

    assert "'Go' was written with a field 'n', which it does not have now" in refused(
        make([to_changed, takes_changed]), snapshot
    )


async def test_a_dynamic_event_that_does_not_fit_a_step_by_now_is_refused(autojump_clock: MockClock) -> None:
    @step(name="begin")
    async def dynamic(ev: StartEvent) -> list[Event]:
        return [DynamicEvent("Go", {"n": "no int"})]

    @step(name="work", accepts=["Go"])
    async def takes_any(ev: Event) -> StopEvent:
        await trio.sleep(1)
        return StopEvent()

    snapshot = await snapshot_after(make([dynamic, takes_any]), 0.5)
    assert "step 'work' of workflow 'w' cannot take the event 'Go'" in refused(make([begin, work]), snapshot)


async def test_a_class_of_state_that_is_gone_is_refused(autojump_clock: MockClock) -> None:
    class Local(BlazenState):
        n: int = 0

    def fill(ctx: Context) -> None:
        ctx.set("local", Local())

    snapshot = await snapshot_after(storing(fill, types=[Local]), 0.5)
    assert "Local" in refused(storing(fill), snapshot)


async def test_bytes_that_were_cut_off_altered_or_not_signed_are_refused(autojump_clock: MockClock) -> None:
    snapshot = await snapshot_after(make([begin, work]), 0.5)
    data = snapshot.to_bytes(KEY)
    assert Snapshot.from_bytes(data, key=KEY) == snapshot
    altered = bytearray(data)
    altered[len(data) // 2] ^= 1
    for bad, options, message in (
        (data[:-1], {}, "cut off"),
        (bytes(altered), {}, "damaged"),
        (bytes(altered), {"key": KEY}, "damaged or altered"),
        (data, {"key": b"x" * 16}, "signed with another key"),
        (snapshot.to_bytes(), {"key": KEY}, "not signed"),
        (b"", {}, "no snapshot"),
    ):
        with pytest.raises(ValidationError, match=message):
            Snapshot.from_bytes(bad, **options)  # type: ignore[arg-type]
    with pytest.raises(ValidationError, match="trust_native"):
        Snapshot.from_bytes(data, trust_native=1)  # type: ignore[arg-type]


async def test_resume_takes_a_snapshot_and_no_bytes(autojump_clock: MockClock) -> None:
    snapshot = await snapshot_after(make([begin, work]), 0.5)
    with pytest.raises(ValidationError, match=r"resume takes a Snapshot.*Snapshot\.from_bytes"):
        make([begin, work]).resume(snapshot.to_bytes())  # type: ignore[arg-type]


def test_a_run_is_resumed_inside_trio() -> None:
    workflow = make([begin, work])
    snapshot = trio.run(snapshot_after, workflow, 0.5, clock=MockClock(autojump_threshold=0))
    with pytest.raises(ValidationError, match="outside of trio"):
        workflow.resume(snapshot)


@pytest.mark.parametrize("call", ["snapshot", "pause"])
async def test_state_that_cannot_be_stored_any_more_is_named_and_the_run_goes_on(
    call: str, autojump_clock: MockClock
) -> None:
    @step
    async def begin(ctx: Context, ev: StartEvent) -> Go:
        values: list[Any] = []
        ctx.set("fine", 1)
        ctx.set("bad", values)
        values.append(object())
        await trio.sleep(1)
        return Go()

    @step
    async def end(ev: Go) -> StopEvent:
        return StopEvent(result=1)

    async with make([begin, end]).run_with_handler() as handler:
        await trio.sleep(0.5)
        with pytest.raises(ValidationError, match=r"cannot take a snapshot of run .*under key 'bad'"):
            await getattr(handler, call)()
        assert handler.state == "running"
        assert (await handler.result()).result == 1


@pytest.mark.parametrize("call", ["snapshot", "pause"])
async def test_an_event_that_cannot_be_written_is_named_with_its_step_and_the_run_goes_on(
    call: str, autojump_clock: MockClock
) -> None:
    @step
    async def begin(ev: StartEvent) -> Holds:
        await trio.sleep(1)
        return Holds(object())

    @step
    async def end(ctx: Context, ev: Holds) -> StopEvent:
        await trio.sleep(1)
        return StopEvent(result=ctx.attempt)

    async with make([begin, end]).run_with_handler() as handler:
        await trio.sleep(0.5 if call == "pause" else 1.5)
        with pytest.raises(ValidationError, match="step 'end' has to do with an event 'Holds' cannot be written"):
            await getattr(handler, call)()
        assert handler.state == "running"
        assert (await handler.result()).result == 1


async def test_a_run_that_was_paused_before_stays_so_when_it_can_no_longer_be_written(
    autojump_clock: MockClock,
) -> None:
    session: dict[str, object] = {}
    async with make([begin, work]).options(session=session).run_with_handler() as handler:
        await handler.pause()
        session["door"] = lambda: None
        with pytest.raises(ValidationError, match=r"cannot take a snapshot of run .*'door'"):
            await handler.pause()
        assert handler.state == "paused"
        session.clear()
        handler.resume_in_place()
