"""What a recorded run says of itself: by its result, its handler and its error, as data and as JSON."""

from __future__ import annotations

import copy
import gc
import pickle
import threading
import weakref
from collections.abc import Callable
from typing import Any

import pytest
import trio
from recorded_runs import Doubled, Item, Loaded, begin, make_three, record_of, recorded, stop

from blazen import (
    CancelledError,
    Context,
    InputRequestEvent,
    InputResponseEvent,
    ProgressEvent,
    Retry,
    StartEvent,
    StopEvent,
    TimeoutError,
    UsageEvent,
    ValidationError,
    Workflow,
    WorkflowError,
    step,
)
from blazen.record import Invocation, RunRecord


def of_step(record: RunRecord, name: str) -> list[Invocation]:
    return [one for one in record.invocations if one.step == name]


def outcomes(record: RunRecord, name: str) -> list[list[str]]:
    return [[attempt.outcome for attempt in one.attempts] for one in of_step(record, name)]


# --- events and who produced them


async def test_each_event_has_its_number_its_payload_and_what_produced_it(
    autojump_clock: trio.testing.MockClock,
) -> None:
    @step
    async def double(ev: Item) -> Doubled:
        await trio.sleep(1.0)
        return Doubled(ev.n * 2)

    @step
    async def gather(ctx: Context, ev: Doubled) -> StopEvent | None:
        events = ctx.collect_events(ev, 3)
        return None if events is None else StopEvent(sum(one.n for one in events))

    record = await record_of(make_three, double, gather)
    assert [(event.number, event.type, event.payload, event.at) for event in record.events] == [
        (1, "blazen::StartEvent", {"data": None}, 0.0),
        (2, "Item", {"n": 0}, 0.0),
        (3, "Item", {"n": 1}, 0.0),
        (4, "Item", {"n": 2}, 0.0),
        (5, "Doubled", {"n": 0}, 1.0),
        (6, "Doubled", {"n": 2}, 1.0),
        (7, "Doubled", {"n": 4}, 1.0),
        (8, "blazen::StopEvent", {"result": 6}, 1.0),
    ]
    assert [event.by for event in record.events] == ["start", (0, 0), (0, 0), (0, 0), (1, 0), (2, 0), (3, 0), (6, 0)]
    assert [one.produced for one in record.invocations] == [[2, 3, 4], [5], [6], [7], [], [], [8]]
    assert (record.state, record.result, record.duration, record.input) == ("completed", 6, 1.0, None)
    assert record.ended_by is not None
    assert (record.ended_by.by, record.ended_by.step, record.ended_by.event) == ("stop_event", "gather", 8)


async def test_an_event_sent_in_the_middle_of_a_step_is_produced_by_that_attempt(
    autojump_clock: trio.testing.MockClock,
) -> None:
    @step(retries=Retry(1, initial=1.0, jitter=0.0))
    async def send(ctx: Context, ev: StartEvent) -> None:
        await trio.sleep(1.0)
        ctx.send_event(Item(ctx.attempt))
        if ctx.attempt == 1:
            raise ValueError("again")

    @step
    async def take(ctx: Context, ev: Item) -> StopEvent | None:
        return None if ctx.collect_events(ev, 2) is None else StopEvent()

    record = await record_of(send, take)
    assert [(event.payload, event.at, event.by) for event in record.events[1:3]] == [
        ({"n": 1}, 1.0, (0, 0)),
        ({"n": 2}, 3.0, (0, 1)),
    ]
    assert of_step(record, "send")[0].produced == [2, 3]


async def test_an_event_sent_from_a_thread_step_is_produced_by_that_step() -> None:
    @step(run="thread")
    def send(ctx: Context, ev: StartEvent) -> None:
        ctx.send_event(Item(7))

    record = await record_of(send, stop)
    assert record.events[1].by == (0, 0)
    assert record.result == 7


async def test_an_event_from_outside_is_said_to_be_from_outside() -> None:
    @step
    async def ask(ev: StartEvent) -> InputRequestEvent:
        return InputRequestEvent(prompt="name?")

    @step
    async def answer(ev: InputResponseEvent) -> StopEvent:
        return StopEvent(ev.response)

    async with recorded(ask, answer).run_with_handler() as handler:
        async for event in handler.stream_events():
            assert isinstance(event, InputRequestEvent)
            waiting = handler.record
            handler.respond_to_input(event.request_id, "Ada")
        record = (await handler.result()).record
    assert waiting is not None
    assert waiting.state == "waiting"
    assert record is not None
    assert [(event.type, event.by) for event in record.events[1:3]] == [
        ("blazen::InputRequestEvent", (0, 0)),
        ("blazen::InputResponseEvent", "outside"),
    ]
    assert record.result == "Ada"
    assert [shown.type for shown in record.stream] == ["blazen::InputRequestEvent"]


# --- attempts: waiting, running, outcomes


async def test_waiting_and_running_times_are_told_apart(autojump_clock: trio.testing.MockClock) -> None:
    @step(max_concurrency=1)
    async def slow(ctx: Context, ev: Item) -> StopEvent | None:
        await trio.sleep(2.0)
        return None if ctx.collect_events(ev, 3) is None else StopEvent()

    record = await record_of(make_three, slow)
    attempts = [one.attempts[0] for one in of_step(record, "slow")]
    assert [(a.queued, a.started, a.ended) for a in attempts] == [(0.0, 0.0, 2.0), (0.0, 2.0, 4.0), (0.0, 4.0, 6.0)]
    assert [(a.waiting, a.running) for a in attempts] == [(0.0, 2.0), (2.0, 2.0), (4.0, 2.0)]
    assert sum(one.waiting for one in record.invocations) == 6.0


async def test_each_attempt_is_kept_with_its_error_and_its_wait(autojump_clock: trio.testing.MockClock) -> None:
    @step(retries=Retry(2, initial=0.5, factor=2.0, jitter=0.0))
    async def flaky(ctx: Context, ev: StartEvent) -> StopEvent:
        await trio.sleep(1.0)
        if ctx.attempt < 3:
            raise ConnectionError(f"attempt {ctx.attempt}")
        return StopEvent()

    record = await record_of(flaky)
    (one,) = record.invocations
    assert [(a.outcome, a.queued, a.started, a.ended) for a in one.attempts] == [
        ("retrying", 0.0, 0.0, 1.0),
        ("retrying", 1.0, 1.5, 2.5),
        ("finished", 2.5, 3.5, 4.5),
    ]
    first = one.attempts[0].error
    assert first is not None
    assert (first.type, first.message) == ("ConnectionError", "attempt 1")
    assert 'raise ConnectionError(f"attempt {ctx.attempt}")' in first.traceback
    assert one.attempts[2].error is None
    assert (one.waiting, one.running, one.outcome) == (1.5, 3.0, "finished")


async def test_a_fallback_is_an_attempt_of_its_own(autojump_clock: trio.testing.MockClock) -> None:
    async def instead(ev: StartEvent, error: Exception) -> StopEvent:
        await trio.sleep(1.0)
        return StopEvent(type(error).__name__)

    @step(timeout=2.0, on_error=instead)
    async def slow(ev: StartEvent) -> StopEvent:
        await trio.sleep(9.0)
        return StopEvent()

    record = await record_of(slow)
    (one,) = record.invocations
    assert [(a.outcome, a.handler, a.started, a.ended) for a in one.attempts] == [
        ("timed_out", False, 0.0, 2.0),
        ("finished", True, 2.0, 3.0),
    ]
    assert record.events[1].by == (0, 1)
    assert record.result == "TimeoutError"


async def test_an_event_that_no_step_has_begun_is_queued(autojump_clock: trio.testing.MockClock) -> None:
    @step(max_concurrency=1)
    async def first_wins(ev: Item) -> StopEvent:
        await trio.sleep(1.0)
        return StopEvent()

    record = await record_of(make_three, first_wins)
    assert [one.outcome for one in of_step(record, "first_wins")] == ["finished", "queued", "queued"]
    assert of_step(record, "first_wins")[1].attempts == []


async def test_a_step_that_returns_the_wrong_thing_has_failed() -> None:
    @step
    async def wrong(ev: StartEvent) -> StopEvent:
        return 5  # type: ignore[return-value]

    record = await record_of(wrong)
    (attempt,) = record.invocations[0].attempts
    assert attempt.outcome == "failed"
    assert attempt.error is not None
    assert "'wrong'" in attempt.error.message
    assert record.state == "failed"


async def test_what_a_finished_step_returned_after_the_end_is_said_to_be_dropped() -> None:
    woken = trio.Event()

    @step
    async def first(ev: Item) -> StopEvent | None:
        await woken.wait()
        return StopEvent() if ev.n == 0 else None

    @step
    async def wake(ev: Doubled) -> None:
        woken.set()

    @step
    async def make(ctx: Context, ev: StartEvent) -> list[Item | Doubled]:
        return [Item(0), Item(1), Item(2), Doubled(1)]

    # All three are woken in one pass: the first ends the run before the others' outcomes have been taken.
    record = await record_of(make, first, wake)
    ended = [one.attempts[0] for one in of_step(record, "first")]
    assert ended[0].outcome == "finished"
    for attempt in ended[1:]:
        assert (attempt.outcome, attempt.dropped) == ("finished", True) or attempt.outcome == "cancelled"


# --- who asked an attempt to stop


@step
async def linger(ev: Item) -> None:
    await trio.sleep(60.0)


async def stops_of_linger(*steps: Callable[..., Any], **options: Any) -> tuple[RunRecord, Any]:
    record = await record_of(make_three, linger, *steps, **options)
    stops = [one.attempts[0].stopped for one in of_step(record, "linger")]
    assert outcomes(record, "linger") == [["cancelled"]] * 3
    assert stops[0] == stops[1] == stops[2]
    return record, stops[0]


async def test_a_stop_event_had_them_stop(autojump_clock: trio.testing.MockClock) -> None:
    @step
    async def finish(ev: StartEvent) -> StopEvent:
        await trio.sleep(2.0)
        return StopEvent()

    record, asked = await stops_of_linger(finish)
    assert (asked.by, asked.step, asked.event, asked.at) == ("stop_event", "finish", 5, 2.0)
    assert record.state == "completed"


async def test_the_failure_of_another_step_had_them_stop(autojump_clock: trio.testing.MockClock) -> None:
    @step
    async def fail(ev: StartEvent) -> StopEvent:
        await trio.sleep(2.0)
        raise LookupError("lost")

    record, asked = await stops_of_linger(fail)
    assert (asked.by, asked.step, asked.at) == ("step_failure", "fail", 2.0)
    assert "LookupError: lost" in asked.detail
    assert record.state == "failed"
    assert record.error is not None
    assert record.error.type == "blazen.errors.WorkflowError"
    assert "raise LookupError" in record.error.traceback
    assert outcomes(record, "fail") == [["failed"]]


async def test_the_timeout_of_another_step_had_them_stop(autojump_clock: trio.testing.MockClock) -> None:
    @step(timeout=2.0)
    async def late(ev: StartEvent) -> StopEvent:
        await trio.sleep(60.0)
        return StopEvent()

    record, asked = await stops_of_linger(late)
    assert (asked.by, asked.step) == ("step_failure", "late")
    (attempt,) = of_step(record, "late")[0].attempts
    assert attempt.outcome == "timed_out"
    assert attempt.stopped is not None
    assert (attempt.stopped.by, attempt.stopped.step, attempt.stopped.at) == ("step_timeout", "late", 2.0)


async def test_the_timeout_of_the_run_had_them_stop(autojump_clock: trio.testing.MockClock) -> None:
    @step
    async def never(ev: StartEvent) -> StopEvent:
        await trio.sleep(60.0)
        return StopEvent()

    record, asked = await stops_of_linger(never, timeout=5.0)
    assert (asked.by, asked.at) == ("run_timeout", 5.0)
    assert record.ended_by is not None
    assert record.ended_by.by == "run_timeout"


async def handled(body: Callable[[Any], Any], *steps: Callable[..., Any]) -> RunRecord:
    """The record of a run whose block runs `body`, which may raise."""
    async with recorded(*steps).run_with_handler() as handler:
        try:
            await body(handler)
        finally:
            holder.append(handler)
    record: RunRecord = handler.record
    return record


holder: list[Any] = []


@step
async def wait_long(ev: Item) -> StopEvent:
    await trio.sleep(60.0)
    return StopEvent()


async def test_cancel_had_it_stop_and_its_reason_is_kept(autojump_clock: trio.testing.MockClock) -> None:
    async def body(handler: Any) -> None:
        await trio.sleep(1.0)
        handler.cancel("enough")

    record = await handled(body, begin, wait_long)
    attempt = of_step(record, "wait_long")[0].attempts[0]
    assert attempt.stopped is not None
    assert (attempt.outcome, attempt.stopped.by, attempt.stopped.detail) == ("cancelled", "cancel", "enough")
    assert (record.state, record.duration) == ("cancelled", 1.0)
    assert record.error is not None
    assert record.error.message == "enough"


async def test_cancel_step_had_it_stop_and_the_run_went_on(autojump_clock: trio.testing.MockClock) -> None:
    @step
    async def end(ev: Item) -> StopEvent:
        await trio.sleep(3.0)
        return StopEvent()

    async def body(handler: Any) -> None:
        await trio.sleep(1.0)
        handler.cancel_step("linger")

    record = await handled(body, begin, linger, end)
    attempt = of_step(record, "linger")[0].attempts[0]
    assert attempt.stopped is not None
    assert (attempt.outcome, attempt.ended, attempt.stopped.by) == ("cancelled", 1.0, "cancel_step")
    assert record.state == "completed"


async def test_the_handlers_block_had_it_stop(autojump_clock: trio.testing.MockClock) -> None:
    async def body(handler: Any) -> None:
        await trio.sleep(1.0)
        raise KeyError("mine")

    holder.clear()
    with pytest.raises(KeyError, match="mine"):
        await handled(body, begin, wait_long)
    record = holder[0].record
    assert record.ended_by.by == "block"
    assert of_step(record, "wait_long")[0].attempts[0].stopped.by == "block"


async def test_the_callers_scope_had_it_stop(autojump_clock: trio.testing.MockClock) -> None:
    holder.clear()
    with trio.move_on_after(1.0):
        await handled(lambda handler: trio.sleep_forever(), begin, wait_long)
    record = holder[0].record
    assert record.ended_by.by == "caller_scope"
    attempt = of_step(record, "wait_long")[0].attempts[0]
    assert (attempt.outcome, attempt.stopped.by, attempt.ended) == ("cancelled", "caller_scope", 1.0)


async def test_a_step_that_cleans_up_was_told_before_it_ended(autojump_clock: trio.testing.MockClock) -> None:
    @step
    async def tidy(ctx: Context, ev: Item) -> None:
        try:
            await trio.sleep_forever()
        finally:
            async with ctx.cleanup():
                await trio.sleep(0.5)

    @step
    async def end(ev: Item) -> StopEvent:
        await trio.sleep(1.0)
        return StopEvent()

    record = await record_of(begin, tidy, end)
    attempt = of_step(record, "tidy")[0].attempts[0]
    assert attempt.stopped is not None
    assert (attempt.stopped.at, attempt.ended) == (1.0, 1.5)


async def test_a_thread_that_does_not_stop_is_abandoned(autojump_clock: trio.testing.MockClock) -> None:
    gate = threading.Event()

    @step(run="thread")
    def stuck(ctx: Context, ev: Item) -> None:
        ctx.send_event(Doubled(1))
        gate.wait()

    @step
    async def end(ev: Doubled) -> StopEvent:
        return StopEvent()

    try:
        with pytest.warns(RuntimeWarning, match="stuck"):
            record = await record_of(begin, stuck, end, cleanup_grace=2.0)
    finally:
        gate.set()
    attempt = of_step(record, "stuck")[0].attempts[0]
    assert attempt.stopped is not None
    assert (attempt.outcome, attempt.stopped.by, attempt.ended) == ("abandoned", "stop_event", 2.0)


async def test_an_error_raised_while_unwinding_is_kept_with_the_attempt(autojump_clock: trio.testing.MockClock) -> None:
    @step
    async def clumsy(ev: Item) -> None:
        try:
            await trio.sleep_forever()
        finally:
            raise OSError("while leaving")

    @step
    async def fail(ev: Item) -> StopEvent:
        await trio.sleep(1.0)
        raise ValueError("first")

    record = await record_of(begin, clumsy, fail)
    attempt = of_step(record, "clumsy")[0].attempts[0]
    assert attempt.outcome == "cancelled"
    assert attempt.error is not None
    assert attempt.error.message == "while leaving"
    assert record.error is not None
    assert "first" in record.error.message


# --- where a record is found


async def test_without_being_asked_for_there_is_none() -> None:
    workflow: Workflow[Any] = Workflow("w", [begin, stop])
    assert (await workflow.run()).record is None
    async with workflow.run_with_handler() as handler:
        assert handler.record is None
    assert WorkflowError("x").record is None
    assert (await workflow.options(record=True).options(record=False).run()).record is None


def test_run_sync_keeps_a_record_too() -> None:
    record = recorded(begin, stop).run_sync(name="Ada").record
    assert record is not None
    assert record.input == {"name": "Ada"}
    assert record.started_at is not None
    assert record.started_at.endswith("Z")


@pytest.mark.parametrize("wrong", [1, "yes", [True]])
def test_record_takes_true_or_false(wrong: Any) -> None:
    with pytest.raises(ValidationError, match="record must be True or False"):
        Workflow("w", [begin, stop]).options(record=wrong)


async def test_a_handler_shows_how_far_the_run_has_come(autojump_clock: trio.testing.MockClock) -> None:
    async with recorded(begin, wait_long).run_with_handler() as handler:
        await trio.sleep(3.0)
        record = handler.record
        assert record is not None
        assert (record.state, record.duration, record.ended_by) == ("running", 3.0, None)
        (one,) = of_step(record, "wait_long")
        assert [(a.outcome, a.ended, a.running) for a in one.attempts] == [("running", None, None)]
        assert RunRecord.from_json(record.to_json()) == record
        await trio.sleep(1.0)
        later = handler.record
        assert later is not None
        assert later.duration == 4.0
        assert record.duration == 3.0
        handler.cancel()
    over = handler.record
    assert over is not None
    assert over.state == "cancelled"
    assert handler.record is over


async def test_the_error_of_a_run_has_its_record_and_can_be_pickled_without_it() -> None:
    @step
    async def fail(ev: StartEvent) -> StopEvent:
        raise ValueError("no")

    with pytest.raises(WorkflowError) as caught:
        await recorded(fail).run()
    assert caught.value.record is not None
    assert caught.value.record.state == "failed"
    for again in (pickle.loads(pickle.dumps(caught.value)), copy.copy(caught.value)):
        assert (str(again), again.step, again.record) == (str(caught.value), "fail", None)
    assert "record" not in repr(caught.value)


async def test_timeouts_and_cancellations_have_their_record_too(autojump_clock: trio.testing.MockClock) -> None:
    with pytest.raises(TimeoutError) as late:
        await recorded(begin, wait_long, timeout=1.0).run()
    assert late.value.record is not None
    async with recorded(begin, wait_long).run_with_handler() as handler:
        handler.cancel()
        with pytest.raises(CancelledError) as cancelled:
            await handler.result()
    assert cancelled.value.record is not None
    assert cancelled.value.record.state == "cancelled"


async def test_a_result_with_a_record_can_be_pickled() -> None:
    result = await recorded(begin, stop).run()
    again = pickle.loads(pickle.dumps(result))
    assert again.record == result.record
    assert pickle.loads(pickle.dumps(again)).record == result.record


async def test_a_record_keeps_neither_the_run_nor_what_its_events_held_alive() -> None:
    class Large:
        pass

    kept: list[weakref.ref[Large]] = []

    @step
    async def hand_on(ctx: Context, ev: StartEvent) -> Loaded:
        kept.append(weakref.ref(ev.data))
        ctx.session["large"] = ev.data
        return Loaded([ev.data])

    @step
    async def end(ev: Loaded) -> StopEvent:
        assert kept[0]() is ev.value[0]
        return StopEvent()

    result = await recorded(hand_on, end).run(Large())
    gc.collect()
    assert kept[0]() is None
    record = result.record
    assert record is not None
    assert record.input["type"].endswith("Large")


async def test_what_was_shown_and_used_is_kept_also_where_nobody_reads_the_stream() -> None:
    @step
    async def show(ctx: Context, ev: StartEvent) -> StopEvent:
        ctx.write_event_to_stream(ProgressEvent(1, 2, "half"))
        ctx.emit_usage(UsageEvent("p", "m", input_tokens=3, output_tokens=4, cost_usd=0.25))
        ctx.write_event_to_stream(UsageEvent("p", "m", input_tokens=1))
        return StopEvent()

    record = await record_of(show)
    assert [(shown.type, shown.by) for shown in record.stream] == [
        ("blazen::ProgressEvent", (0, 0)),
        ("blazen::UsageEvent", (0, 0)),
        ("blazen::UsageEvent", (0, 0)),
    ]
    assert record.stream[0].payload == {"current": 1, "total": 2, "label": "half"}
    assert (record.usage.input_tokens, record.usage.output_tokens, record.usage.cost_usd) == (4, 4, 0.25)


async def test_what_a_thread_shows_is_kept() -> None:
    @step(run="thread")
    def show(ctx: Context, ev: StartEvent) -> Item:
        ctx.write_event_to_stream(ProgressEvent(1))
        ctx.emit_usage(UsageEvent("p", "m", input_tokens=3))
        return Item(1)

    @step
    async def after(ev: Item) -> StopEvent:
        await trio.sleep(0)
        return StopEvent()

    record = await record_of(show, after)
    assert [shown.by for shown in record.stream] == [(0, 0), (0, 0)]
    assert record.usage.input_tokens == 3


async def test_readers_of_the_stream_see_the_same_with_and_without_a_record() -> None:
    @step
    async def show(ctx: Context, ev: StartEvent) -> StopEvent:
        for n in range(3):
            ctx.write_event_to_stream(ProgressEvent(n))
        return StopEvent()

    seen = []
    for record in (False, True):
        async with Workflow("w", [show]).options(record=record).run_with_handler() as handler:
            seen.append([event async for event in handler.stream_events()])
    assert seen[0] == seen[1] == [ProgressEvent(n) for n in range(3)]


async def test_recording_does_not_change_the_order_of_a_run(autojump_clock: trio.testing.MockClock) -> None:
    taken: list[list[int]] = []

    @step
    async def work(ev: Item) -> Doubled:
        await trio.sleep((7 * ev.n) % 4)
        return Doubled(ev.n)

    @step
    async def make(ev: StartEvent) -> list[Item]:
        return [Item(n) for n in range(20)]

    @step
    async def note(ctx: Context, ev: Doubled) -> StopEvent | None:
        taken[-1].append(ev.n)
        return None if ctx.collect_events(ev, 20) is None else StopEvent()

    for record in (False, True):
        taken.append([])
        await Workflow("w", [make, work, note]).options(record=record).run()
    assert taken[0] == taken[1]


def test_the_graph_says_what_the_steps_declare() -> None:
    def instead(ev: Item, error: Exception) -> StopEvent:
        return StopEvent()

    @step(timeout=2.5, retries=3, max_concurrency=4, run="thread", on_error=instead)
    def work(ev: Item) -> StopEvent:
        return StopEvent()

    record = recorded(begin, work).run_sync().record
    assert record is not None
    first, second = record.graph.steps
    assert (first.name, first.accepts, first.emits) == ("begin", ["blazen::StartEvent"], ["Item"])
    assert (second.run, second.timeout, second.retries, second.max_concurrency) == ("thread", 2.5, 3, 4)
    assert second.on_error
