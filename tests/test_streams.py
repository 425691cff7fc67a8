"""What a handler's stream shows: which events, to whom, in which order, until when."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator, Callable
from typing import Any

import pytest
import trio
from trio.testing import MockClock, wait_all_tasks_blocked

from blazen import (
    Context,
    Event,
    InputRequestEvent,
    InputResponseEvent,
    ProgressEvent,
    StartEvent,
    StepRecord,
    StopEvent,
    StreamGap,
    UsageEvent,
    Workflow,
    step,
)
from blazen._core.stream import EventStream
from blazen.errors import CancelledError, TimeoutError, ValidationError, WorkflowError


class Note(Event):
    n: int = 0


class Part(Event):
    n: int = 0


def notes(*numbers: int) -> list[Note]:
    return [Note(n=n) for n in numbers]


def writer(count: int, **options: Any) -> Workflow[None]:
    """A workflow whose step writes `Note(0)` to `Note(count - 1)` at once."""

    @step
    async def write(ctx: Context, ev: StartEvent) -> StopEvent:
        for n in range(count):
            ctx.write_event_to_stream(Note(n=n))
        return StopEvent()

    return Workflow("w", [write], **options)


async def everything(reader: AsyncIterator[Event]) -> list[Event]:
    return [event async for event in reader]


# ---- what it carries


async def test_the_stream_carries_what_is_written_and_usage_in_order_and_nothing_else() -> None:
    @step
    async def first(ctx: Context, ev: StartEvent) -> Part:
        ctx.write_event_to_stream(Note(n=1))
        ctx.emit_usage(UsageEvent("acme", "small", input_tokens=3))
        ctx.write_event_to_stream(ProgressEvent(1, total=2, label="half"))
        return Part()

    @step
    def second(ctx: Context, ev: Part) -> StopEvent:
        ctx.write_event_to_stream(Note(n=2))
        ctx.write_event_to_stream(StopEvent(result="shown, and ends nothing"))
        ctx.write_event_to_stream(ev)
        return StopEvent()

    async with Workflow("w", [first, second]).run_with_handler() as handler:
        seen = await everything(handler.stream_events())
    assert seen == [
        Note(n=1),
        UsageEvent("acme", "small", input_tokens=3),
        ProgressEvent(1, total=2, label="half"),
        Note(n=2),
        StopEvent(result="shown, and ends nothing"),
        Part(),
    ]


async def test_events_come_as_the_very_objects_that_were_written() -> None:
    note = Note(n=1)

    @step
    async def write(ctx: Context, ev: StartEvent) -> StopEvent:
        ctx.write_event_to_stream(note)
        return StopEvent()

    async with Workflow("w", [write]).run_with_handler() as handler:
        assert [event is note for event in await everything(handler.stream_events())] == [True]


async def test_an_event_is_seen_while_the_step_that_wrote_it_goes_on() -> None:
    seen = trio.Event()

    @step
    async def write(ctx: Context, ev: StartEvent) -> StopEvent:
        ctx.write_event_to_stream(Note(n=1))
        await seen.wait()
        ctx.write_event_to_stream(Note(n=2))
        return StopEvent()

    async with Workflow("w", [write]).run_with_handler() as handler:
        reader = handler.stream_events()
        assert await anext(reader) == Note(n=1)
        seen.set()
        assert await anext(reader) == Note(n=2)
        with pytest.raises(StopAsyncIteration):
            await anext(reader)


async def test_an_input_request_is_shown() -> None:
    @step
    async def ask(ev: StartEvent) -> InputRequestEvent:
        return InputRequestEvent(prompt="name?")

    @step
    async def end(ev: InputResponseEvent) -> StopEvent:
        return StopEvent(result=ev.response)

    async with Workflow("w", [ask, end]).run_with_handler() as handler:
        async for event in handler.stream_events():
            assert isinstance(event, InputRequestEvent)
            assert event.prompt == "name?"
            assert handler.pending_inputs() == [event]
            handler.respond_to_input(event.request_id, "Ada")
        assert (await handler.result()).result == "Ada"


async def test_thread_steps_write_in_their_order() -> None:
    @step(run="thread")
    def write(ctx: Context, ev: StartEvent) -> StopEvent:
        for n in range(3000):
            ctx.write_event_to_stream(Note(n=n))
        return StopEvent()

    async with Workflow("w", [write]).run_with_handler() as handler:
        assert await everything(handler.stream_events()) == notes(*range(3000))


async def test_run_and_run_sync_accept_stream_writes_and_keep_nothing() -> None:
    workflow = writer(3)
    assert (await workflow.run()).result is None
    assert (await trio.to_thread.run_sync(workflow.run_sync)).result is None


async def passes_while_reading(between: Callable[[int], None]) -> int:
    """Read 10,000 events in one go; returns how often another task could run meanwhile."""
    passes = 0

    async def other() -> None:
        nonlocal passes
        while True:
            await trio.lowlevel.checkpoint()
            passes += 1

    async with writer(10_000).run_with_handler() as handler:
        await handler.result()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(other)
            count = 0
            async for event in handler.stream_events():
                assert event == Note(n=count)
                count += 1
                between(count)
            nursery.cancel_scope.cancel()
    assert count == 10_000
    return passes


async def test_on_a_virtual_clock_a_reader_lets_others_run_after_so_many_events(
    autojump_clock: MockClock,
) -> None:
    assert await passes_while_reading(lambda _: None) >= 5


async def test_a_reader_lets_others_run_when_it_has_read_for_a_while() -> None:
    def spin(count: int) -> None:
        end = time.monotonic() + (0.002 if count % 1000 == 0 else 0)
        while time.monotonic() < end:
            pass

    assert await passes_while_reading(spin) >= 5


async def test_a_reader_that_never_waits_can_be_cancelled() -> None:
    async with writer(10_000).run_with_handler() as handler:
        await handler.result()
        count = 0
        with trio.CancelScope() as scope:
            scope.cancel()
            async for _ in handler.stream_events():
                count += 1
    assert scope.cancelled_caught
    assert count < 10_000


async def test_a_cancelled_reader_loses_no_event() -> None:
    go_on = trio.Event()

    @step
    async def write(ctx: Context, ev: StartEvent) -> StopEvent:
        await go_on.wait()
        ctx.write_event_to_stream(Note(n=1))
        return StopEvent()

    async with Workflow("w", [write]).run_with_handler() as handler:
        reader = handler.stream_events()
        with trio.CancelScope() as scope:
            async with trio.open_nursery() as nursery:

                async def read() -> None:
                    await anext(reader)

                nursery.start_soon(read)
                await wait_all_tasks_blocked()
                scope.cancel()
        go_on.set()
        assert await everything(reader) == notes(1)


# ---- every iterator, from the start


async def test_every_iterator_sees_every_event_from_the_start() -> None:
    middle = trio.Event()

    @step
    async def write(ctx: Context, ev: StartEvent) -> StopEvent:
        ctx.write_event_to_stream(Note(n=1))
        await middle.wait()
        ctx.write_event_to_stream(Note(n=2))
        return StopEvent()

    seen: dict[str, list[Event]] = {}
    async with Workflow("w", [write]).run_with_handler() as handler:

        async def read(name: str) -> None:
            seen[name] = await everything(handler.stream_events())

        async with trio.open_nursery() as nursery:
            nursery.start_soon(read, "early")
            nursery.start_soon(read, "beside it")
            await wait_all_tasks_blocked()
            nursery.start_soon(read, "late")
            await wait_all_tasks_blocked()
            middle.set()
        seen["after the end"] = await everything(handler.stream_events())
    assert seen == dict.fromkeys(["early", "beside it", "late", "after the end"], notes(1, 2))


async def test_iterators_do_not_take_events_from_each_other() -> None:
    async with writer(3).run_with_handler() as handler:
        one, other = handler.stream_events(), handler.stream_events()
        assert [await anext(one), await anext(other), await anext(one)] == notes(0, 0, 1)
        assert await everything(one) == notes(2)
        assert await everything(other) == notes(1, 2)


async def test_one_iterator_goes_on_where_it_was_left() -> None:
    async with writer(4).run_with_handler() as handler:
        reader = handler.stream_events()
        async for event in reader:
            if event == Note(n=1):
                break
        assert await everything(reader) == notes(2, 3)
        assert await everything(reader) == []


async def test_two_pending_anext_calls_give_two_events() -> None:
    async with writer(2).run_with_handler() as handler:
        await handler.result()
        reader = handler.stream_events()
        first, second = reader.__anext__(), reader.__anext__()
        assert [await first, await second] == notes(0, 1)


async def test_anext_with_a_default_works_at_the_end() -> None:
    async with writer(1).run_with_handler() as handler:
        reader = handler.stream_events()
        assert await anext(reader, None) == Note(n=0)
        assert await anext(reader, None) is None


# ---- the end


@pytest.mark.parametrize("way", ["completes", "fails", "times out", "is cancelled", "goes idle"])
async def test_the_stream_ends_however_the_run_ends(way: str, autojump_clock: MockClock) -> None:
    @step
    async def write(ctx: Context, ev: StartEvent) -> StopEvent | None:
        ctx.write_event_to_stream(Note(n=1))
        try:
            if way in ("times out", "is cancelled"):
                await trio.sleep(3600)
            if way == "fails":
                raise OSError
            return None if way == "goes idle" else StopEvent()
        finally:
            ctx.write_event_to_stream(Note(n=2))

    workflow = Workflow("w", [write], timeout=60)
    errors = {
        "fails": WorkflowError,
        "times out": TimeoutError,
        "is cancelled": CancelledError,
        "goes idle": WorkflowError,
    }
    async with workflow.run_with_handler() as handler:
        reader = handler.stream_events()
        assert await anext(reader) == Note(n=1)
        if way == "is cancelled":
            handler.cancel()
        assert await everything(reader) == notes(2)
        assert handler.state in ("completed", "failed", "cancelled")
        if way == "completes":
            await handler.result()
        else:
            with pytest.raises(errors[way]):
                await handler.result()


@pytest.mark.parametrize("way", ["an exception", "a cancelled caller"])
async def test_the_stream_ends_for_a_reader_outside_when_the_block_is_left_by(way: str) -> None:
    seen: list[Event] = []
    began = trio.Event()

    @step
    async def write(ctx: Context, ev: StartEvent) -> StopEvent:
        ctx.write_event_to_stream(Note(n=1))
        began.set()
        await trio.sleep_forever()
        return StopEvent()

    async def read(reader: AsyncIterator[Event]) -> None:
        seen.extend(await everything(reader))

    async with trio.open_nursery() as nursery:
        with trio.CancelScope() as scope:
            try:
                async with Workflow("w", [write]).run_with_handler() as handler:
                    nursery.start_soon(read, handler.stream_events())
                    await began.wait()
                    await wait_all_tasks_blocked()
                    if way == "an exception":
                        raise KeyError
                    scope.cancel()
            except KeyError:
                pass
    assert seen == notes(1)


async def test_a_reader_of_a_run_that_ended_without_events_ends_at_once() -> None:
    async with writer(0).run_with_handler() as handler:
        assert await everything(handler.stream_events()) == []


# ---- how much is kept


async def test_everything_is_kept_until_the_block_is_left() -> None:
    async with writer(5000).run_with_handler() as handler:
        await handler.result()
        assert await everything(handler.stream_events()) == notes(*range(5000))


@pytest.mark.parametrize(("written", "keep"), [(10, 3), (10, 1), (1000, 7), (4, 3), (8, 4)])
async def test_a_late_reader_of_a_bounded_stream_first_gets_how_many_are_lost(written: int, keep: int) -> None:
    async with writer(written, stream_keep=keep).run_with_handler() as handler:
        await handler.result()
        reader = handler.stream_events()
        assert await everything(reader) == [StreamGap(written - keep), *notes(*range(written - keep, written))]
        assert reader.lost == written - keep


async def test_a_bounded_stream_that_is_not_full_has_no_gap() -> None:
    async with writer(3, stream_keep=3).run_with_handler() as handler:
        await handler.result()
        assert await everything(handler.stream_events()) == notes(0, 1, 2)


async def test_a_reader_that_keeps_up_with_a_bounded_stream_loses_nothing() -> None:
    @step
    async def write(ctx: Context, ev: StartEvent) -> StopEvent:
        for n in range(100):
            ctx.write_event_to_stream(Note(n=n))
            await wait_all_tasks_blocked()
        return StopEvent()

    async with Workflow("w", [write], stream_keep=1).run_with_handler() as handler:
        assert await everything(handler.stream_events()) == notes(*range(100))


@pytest.mark.parametrize("buffer", [1, 3, 10])
async def test_a_buffered_view_shows_the_newest_and_counts_the_lost(buffer: int) -> None:
    async with writer(10).run_with_handler() as handler:
        await handler.result()
        reader = handler.stream_events(buffer=buffer)
        assert await everything(reader) == notes(*range(10 - buffer, 10))
        assert reader.lost == 10 - buffer
        assert await everything(handler.stream_events()) == notes(*range(10))  # others lose nothing by it


async def test_a_buffered_view_of_a_bounded_stream_counts_all_that_it_missed() -> None:
    async with writer(100, stream_keep=10).run_with_handler() as handler:
        await handler.result()
        reader = handler.stream_events(buffer=4)
        assert await everything(reader) == notes(96, 97, 98, 99)
        assert reader.lost == 96


async def test_a_buffered_view_that_keeps_up_loses_nothing() -> None:
    @step
    async def write(ctx: Context, ev: StartEvent) -> StopEvent:
        for n in range(20):
            ctx.write_event_to_stream(Note(n=n))
            await wait_all_tasks_blocked()
        return StopEvent()

    async with Workflow("w", [write]).run_with_handler() as handler:
        reader = handler.stream_events(buffer=1)
        assert await everything(reader) == notes(*range(20))
        assert reader.lost == 0


@pytest.mark.parametrize("wrong", [0, -1, True, 1.5, "3", []], ids=repr)
async def test_a_buffer_that_is_no_positive_int_is_refused_and_the_run_goes_on(wrong: Any) -> None:
    async with writer(1).run_with_handler() as handler:
        with pytest.raises(ValidationError, match=r"stream_events.*buffer"):
            handler.stream_events(buffer=wrong)
        assert (await handler.result()).result is None


# ---- step records


def records(events: list[Event]) -> list[tuple[Any, ...]]:
    return [
        (event.kind, event.step, event.input_type, event.attempt) for event in events if isinstance(event, StepRecord)
    ]


async def test_lifecycle_adds_a_record_for_each_thing_that_happens_to_a_step(autojump_clock: MockClock) -> None:
    @step(retries=1)
    async def first(ctx: Context, ev: StartEvent) -> Part:
        await trio.sleep(2)
        ctx.write_event_to_stream(Note(n=ctx.attempt))
        if ctx.attempt == 1:
            raise OSError("not yet")
        return Part()

    @step
    def second(ev: Part) -> StopEvent:
        return StopEvent()

    began = trio.current_time()
    async with Workflow("w", [first, second]).run_with_handler() as handler:
        seen = await everything(handler.stream_events(lifecycle=True))
    start = StartEvent.event_type
    assert [event if isinstance(event, Note) else records([event])[0] for event in seen] == [
        ("started", "first", start, 1),
        Note(n=1),
        ("retrying", "first", start, 1),
        ("started", "first", start, 2),
        Note(n=2),
        ("finished", "first", start, 2),
        ("started", "second", "Part", 1),
        ("finished", "second", "Part", 1),
    ]
    made = [event for event in seen if isinstance(event, StepRecord)]
    assert [record.at - began for record in made] == [0.0, 2.0, 2.0, 4.0, 4.0, 4.0]
    assert [record.elapsed_ms for record in made] == [None, 2000.0, None, 2000.0, None, 0.0]
    assert [record.seq for record in made] == [1, 1, 1, 1, 2, 2]
    assert [record.error for record in made] == [None, "OSError: not yet", None, None, None, None]


@pytest.mark.parametrize(
    ("way", "kind"), [("fails", "failed"), ("times out", "timed_out"), ("is cancelled", "cancelled")]
)
async def test_the_last_record_says_how_a_step_ended(way: str, kind: str, autojump_clock: MockClock) -> None:
    @step(timeout=10)
    async def only(ev: StartEvent) -> StopEvent:
        if way == "fails":
            raise OSError
        await trio.sleep(3600)
        return StopEvent()

    async with Workflow("w", [only]).run_with_handler() as handler:
        reader = handler.stream_events(lifecycle=True)
        await wait_all_tasks_blocked()
        if way == "is cancelled":
            handler.cancel()
        seen = await everything(reader)
        with pytest.raises((WorkflowError, TimeoutError, CancelledError)):
            await handler.result()
    assert [record[0] for record in records(seen)] == ["started", kind]


async def test_a_step_handled_by_on_error_is_recorded_as_failed() -> None:
    async def handle(ev: StartEvent, exc: Exception) -> StopEvent:
        return StopEvent()

    @step(on_error=handle)
    async def only(ev: StartEvent) -> StopEvent:
        raise OSError

    async with Workflow("w", [only]).run_with_handler() as handler:
        seen = await everything(handler.stream_events(lifecycle=True))
    assert [record[0] for record in records(seen)][:2] == ["started", "failed"]


async def test_thread_steps_are_recorded() -> None:
    @step(run="thread")
    def only(ev: StartEvent) -> StopEvent:
        return StopEvent()

    async with Workflow("w", [only]).run_with_handler() as handler:
        seen = await everything(handler.stream_events(lifecycle=True))
    assert [record[0] for record in records(seen)] == ["started", "finished"]


async def test_without_lifecycle_a_reader_sees_no_step_records() -> None:
    async with writer(2).run_with_handler() as handler:
        with_records = handler.stream_events(lifecycle=True)
        without = handler.stream_events()
        assert await everything(without) == notes(0, 1)
        assert [event for event in await everything(with_records) if isinstance(event, Note)] == notes(0, 1)


async def test_a_late_lifecycle_reader_first_gets_how_many_records_were_not_made() -> None:
    async with writer(2).run_with_handler() as handler:
        await handler.result()
        reader = handler.stream_events(lifecycle=True)
        assert await everything(reader) == [StreamGap(2), *notes(0, 1)]  # one "started" and one "finished"
        assert await everything(handler.stream_events(lifecycle=True)) == [StreamGap(2), *notes(0, 1)]


async def test_a_late_lifecycle_reader_changes_nothing_for_the_others() -> None:
    go_on = trio.Event()

    @step
    async def write(ctx: Context, ev: StartEvent) -> StopEvent:
        ctx.write_event_to_stream(Note(n=0))
        await go_on.wait()
        ctx.write_event_to_stream(Note(n=1))
        return StopEvent()

    async with Workflow("w", [write]).run_with_handler() as handler:
        await wait_all_tasks_blocked()
        late = handler.stream_events(lifecycle=True)
        go_on.set()
        assert await everything(handler.stream_events()) == notes(0, 1)
        assert [type(event) for event in await everything(late)] == [StreamGap, Note, Note, StepRecord]


def working(steps: int, **options: Any) -> Workflow[None]:
    """A workflow that writes two notes, then goes through so many steps that write nothing."""

    @step
    async def write(ctx: Context, ev: StartEvent) -> Part:
        ctx.write_event_to_stream(Note(n=0))
        ctx.write_event_to_stream(Note(n=1))
        return Part(n=steps)

    @step
    async def work(ev: Part) -> Part | StopEvent:
        return Part(n=ev.n - 1) if ev.n else StopEvent()

    return Workflow("w", [write, work], **options)


async def test_step_records_for_one_reader_take_no_place_in_the_bounded_stream_of_another() -> None:
    async with working(20, stream_keep=2).run_with_handler() as handler:
        handler.stream_events(lifecycle=True)
        await handler.result()
        assert await everything(handler.stream_events()) == notes(0, 1)


async def test_step_records_for_one_reader_take_no_place_in_the_buffer_of_another() -> None:
    async with working(20).run_with_handler() as handler:
        handler.stream_events(lifecycle=True)
        await handler.result()
        reader = handler.stream_events(buffer=2)
        assert await everything(reader) == notes(0, 1)
        assert reader.lost == 0


async def test_old_step_records_make_room_in_a_bounded_stream_and_a_late_reader_is_told_how_many() -> None:
    async with working(20, stream_keep=3).run_with_handler() as handler:
        early = handler.stream_events(lifecycle=True)
        await handler.result()
        late = handler.stream_events(lifecycle=True)
        for reader in (early, late):
            seen = await everything(reader)
            records = [event for event in seen if isinstance(event, StepRecord)]
            assert [event for event in seen if isinstance(event, Note)] == notes(0, 1)
            assert (len(records), records[-1].step, records[-1].kind) == (3, "work", "finished")
            assert sum(event.lost for event in seen if isinstance(event, StreamGap)) == reader.lost
        # Two records for each of 22 steps.
        assert early.lost == 44 - 3


async def test_a_buffered_view_of_step_records_shows_the_newest() -> None:
    async with working(20).run_with_handler() as handler:
        reader = handler.stream_events(lifecycle=True, buffer=3)
        await handler.result()
        seen = await everything(reader)
    assert [event.seq for event in seen if isinstance(event, StepRecord)] == [21, 22, 22]
    assert reader.lost == 44 - 3


async def test_a_plain_for_loop_over_the_stream_is_told_to_be_async() -> None:
    async with writer(3).run_with_handler() as handler:
        await handler.result()
        with pytest.raises(TypeError, match="read with `async for`"):
            for _ in handler.stream_events():  # type: ignore[attr-defined]
                pass


async def test_what_a_step_awaits_may_be_the_next_event_of_another_runs_stream() -> None:
    async with writer(1).run_with_handler() as handler:
        await handler.result()
        reader = handler.stream_events()

        @step(on_error=lambda ev, exc: anext(reader))
        async def fails(ev: StartEvent) -> StopEvent | None:
            raise LookupError

        @step
        async def take(ev: Note) -> StopEvent:
            return StopEvent(result=ev)

        assert (await Workflow("other", [fails, take]).run()).result == Note(n=0)


async def test_a_stream_that_has_ended_takes_nothing_more() -> None:
    stream = EventStream(0)
    stream.append(Note(n=1))
    stream.end()
    stream.append(Note(n=2))
    stream.append_record(Note(n=3))
    assert len(stream) == 1
    assert await everything(stream.read(steps=True)) == notes(1)
