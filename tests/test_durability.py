"""What is written of a run and when: nothing comes of what took effect before it is in the store."""

from __future__ import annotations

import itertools
import threading
from collections.abc import Callable
from typing import Any

import pytest
import trio
from between import StoreBetween, fail_nth
from trio.testing import MockClock

from blazen import (
    Context,
    Event,
    InputRequestEvent,
    InputResponseEvent,
    ProgressEvent,
    Retry,
    StartEvent,
    StateValue,
    StopEvent,
    UsageEvent,
    Workflow,
    recover,
    step,
)
from blazen._core import codec
from blazen.errors import BlazenWarning, PersistError, ValidationError, WorkflowError
from blazen.store import MemoryStore
from blazen.store.base import Commit

RUN_ID = "5a0c1f5e-7f0e-4f6e-9a53-3a1d3a2f9c11"


class Job(Event):
    n: int = 0


class Done(Event):
    n: int = 0


class Paid(Event):
    n: int = 0


def put(commit: Commit) -> list[str]:
    return [name for name, _ in commit.put]


def parts_after_each(store: StoreBetween) -> list[dict[str, bytes]]:
    """What the store had after each commit but the last, which ends the run."""
    parts: dict[str, bytes] = {}
    found = []
    for commit in store.commits:
        if commit.clear:
            break
        parts = {name: content for name, content in {**parts, **dict(commit.put)}.items() if name not in commit.drop}
        found.append(parts)
    return found


@step
async def begin(ev: StartEvent) -> Job:
    return Job(n=1)


@step
async def finish(ev: Job) -> StopEvent:
    return StopEvent(result=ev.n)


two_steps: Workflow[Any] = Workflow("two", [begin, finish])


# --- what comes of a step waits for its commit


async def test_a_step_begins_only_after_the_commit_that_its_event_comes_from(autojump_clock: MockClock) -> None:
    times = []

    @step
    async def first(ctx: Context, ev: StartEvent) -> Job:
        times.append(trio.current_time())
        return Job()

    @step
    async def second(ev: Job) -> StopEvent:
        times.append(trio.current_time())
        return StopEvent()

    store = StoreBetween(MemoryStore(), before=1.0)
    await Workflow("w", [first, second]).options(store=store).run()
    assert times == [1.0, 2.0]
    assert trio.current_time() == 3.0  # its end too is told of only after it is written
    assert [(put(commit), list(commit.drop)) for commit in store.commits] == [
        (["attempt/1/first"], []),
        (["attempt/2/second"], ["attempt/1/first"]),
        ([], []),
    ]


@pytest.mark.parametrize("number", [1, 2, 3])
async def test_a_commit_that_fails_fails_the_run_and_nothing_comes_of_what_was_in_it(
    number: int, autojump_clock: MockClock
) -> None:
    begun = []

    @step
    async def first(ctx: Context, ev: StartEvent) -> Job:
        begun.append(("first", ctx.attempt))
        return Job()

    @step
    async def second(ctx: Context, ev: Job) -> StopEvent:
        begun.append(("second", ctx.attempt))
        return StopEvent()

    workflow = Workflow("w", [first, second])
    memory = MemoryStore()
    store = StoreBetween(memory, before=0.1, fault=fail_nth(number))
    with pytest.raises(PersistError, match=r"^the disk is full$"):
        await workflow.options(store=store, run_id=RUN_ID).run()
    assert begun == [("first", 1), ("second", 1)][: number - 1]
    if number == 1:
        assert not await memory.has(RUN_ID)
        return
    info = await memory.info(RUN_ID)
    assert (info.state, info.owned) == ("running", False)
    (outcome,) = await recover(memory, [workflow])
    assert outcome.state == "completed"
    assert begun[number - 1 :] == [[("first", 2), ("second", 1)], [("second", 2)]][number - 2]


async def test_commits_that_gather_while_one_is_under_way_become_one(autojump_clock: MockClock) -> None:
    @step
    async def fan_out(ev: StartEvent) -> list[Job]:
        return [Job(n=n) for n in range(8)]

    @step
    async def work(ctx: Context, ev: Job) -> Done:
        await trio.sleep(ev.n / 10)
        return Done(n=ev.n)

    @step
    async def join(ctx: Context, ev: Done) -> StopEvent | None:
        return None if ctx.collect_events(ev, 8) is None else StopEvent()

    store = StoreBetween(MemoryStore(), before=1.0)
    await Workflow("w", [fan_out, work, join]).options(store=store).run()
    assert trio.current_time() == 6.0  # the start, the fan-out, the first job, the other seven, the joins, the end
    assert len(store.commits) == 6


async def test_steps_that_finish_in_one_pass_are_written_together(autojump_clock: MockClock) -> None:
    @step
    async def fan_out(ev: StartEvent) -> list[Job]:
        return [Job(n=n) for n in range(5)]

    @step
    async def work(ev: Job) -> Done:
        await trio.sleep(1)
        return Done(n=ev.n)

    @step
    async def join(ctx: Context, ev: Done) -> StopEvent | None:
        return None if ctx.collect_events(ev, 5) is None else StopEvent()

    store = StoreBetween(MemoryStore())
    await Workflow("w", [fan_out, work, join]).options(store=store).run()
    for parts in parts_after_each(store)[1:]:
        assert sum(name.startswith(("attempt/", "join/")) for name in parts) == 5


async def test_all_that_a_step_returned_is_in_one_commit_a_question_among_it(autojump_clock: MockClock) -> None:
    @step
    async def several(ev: StartEvent) -> list[Job | InputRequestEvent]:
        return [Job(n=1), InputRequestEvent("q", "?"), Job(n=2)]

    @step
    async def work(ev: Job) -> None:
        return None

    @step
    async def answered(ev: InputResponseEvent) -> StopEvent:
        return StopEvent()

    store = StoreBetween(MemoryStore())
    async with Workflow("w", [several, work, answered]).options(store=store).run_with_handler() as handler:
        await trio.sleep(1)
        handler.respond_to_input("q", 1)
    (commit,) = [commit for commit in store.commits if "question/q" in put(commit)]
    assert sorted(put(commit)) == ["attempt/2/work", "attempt/4/work", "question/q"]
    assert [question.request_id for question in commit.asked] == ["q"]


async def test_an_event_from_outside_is_written_before_its_step_begins(autojump_clock: MockClock) -> None:
    times = []

    @step
    async def wait(ev: StartEvent) -> StopEvent:
        await trio.sleep(10)
        return StopEvent()

    @step
    async def take(ev: Job) -> StopEvent:
        times.append(trio.current_time())
        return StopEvent()

    store = StoreBetween(MemoryStore(), before=1.0)
    async with Workflow("w", [wait, take]).options(store=store).run_with_handler() as handler:
        await trio.sleep(3)
        handler.send_event(Job())
    assert times == [4.0]


# --- state


async def test_what_a_step_has_set_is_in_the_commit_that_marks_it_finished(autojump_clock: MockClock) -> None:
    @step
    async def first(ctx: Context, ev: StartEvent) -> Job:
        ctx.set("a", 1)
        ctx.set("gone", 1)
        return Job()

    @step
    async def second(ctx: Context, ev: Job) -> Done:
        ctx.set("a", 2)
        ctx.delete("gone")
        return Done()

    @step
    async def third(ev: Done) -> StopEvent:
        return StopEvent()

    store = StoreBetween(MemoryStore())
    await Workflow("w", [first, second, third]).options(store=store).run()
    assert [(sorted(put(commit)), sorted(commit.drop)) for commit in store.commits[1:3]] == [
        (["attempt/2/second", "state/a", "state/gone"], ["attempt/1/first"]),
        (["attempt/3/third", "state/a"], ["attempt/2/second", "state/gone"]),
    ]
    assert codec.decode(dict(store.commits[2].put)["state/a"]) == ("a", 2)


async def test_a_container_that_was_changed_in_place_is_written_as_it_then_is(autojump_clock: MockClock) -> None:
    @step
    async def first(ctx: Context, ev: StartEvent) -> Job:
        ctx.set("list", [1])
        ctx.set("other", [1])
        return Job()

    @step
    async def second(ctx: Context, ev: Job) -> Done:
        ctx.get("list").append(2)
        return Done()

    @step
    async def third(ev: Done) -> StopEvent:
        return StopEvent()

    store = StoreBetween(MemoryStore())
    await Workflow("w", [first, second, third]).options(store=store).run()
    written = [name for commit in store.commits for name in put(commit) if name.startswith("state/")]
    assert written == ["state/list", "state/other", "state/list"]  # what has not changed is not written again
    assert codec.decode(dict(store.commits[2].put)["state/list"]) == ("list", [1, 2])


async def test_a_container_that_cannot_be_stored_any_more_fails_the_run_and_is_named(
    autojump_clock: MockClock,
) -> None:
    @step
    async def first(ctx: Context, ev: StartEvent) -> Job:
        ctx.set("list", [1])
        ctx.get("list").append(object())
        return Job()

    memory = MemoryStore()
    with pytest.raises(PersistError, match="cannot be written down: the value under key 'list'"):
        await Workflow("w", [first, finish]).options(store=memory, run_id=RUN_ID).run()
    info = await memory.info(RUN_ID)
    assert info.state == "failed"
    assert info.error is not None
    assert "list" in info.error


async def test_an_input_that_cannot_be_stored_fails_the_run_and_its_record_says_why(autojump_clock: MockClock) -> None:
    memory = MemoryStore()
    with pytest.raises(PersistError, match="cannot be written down"):
        await two_steps.options(store=memory, run_id=RUN_ID).run(lock=threading.Lock())
    assert (await memory.info(RUN_ID)).state == "failed"


async def test_a_result_that_cannot_be_stored_fails_the_run(autojump_clock: MockClock) -> None:
    @step
    async def only(ev: StartEvent) -> StopEvent:
        return StopEvent(result=threading.Lock())

    memory = MemoryStore()
    with pytest.raises(WorkflowError, match=f"the result of run {RUN_ID} of workflow 'w' cannot be stored"):
        await Workflow("w", [only]).options(store=memory, run_id=RUN_ID).run()
    info = await memory.info(RUN_ID)
    assert (info.state, info.owned, info.result) == ("failed", False, None)


@pytest.mark.parametrize("policy", ["pickle_or_error", "warn_drop", "hard_error"])
async def test_the_session_follows_its_policy(policy: Any, autojump_clock: MockClock) -> None:
    @step
    async def first(ctx: Context, ev: StartEvent) -> Job:
        ctx.session["pair"] = (1, 2)
        if ev.live:
            ctx.session["lock"] = threading.Lock()
        return Job(n=7)

    workflow = Workflow("w", [first, finish], session_policy=policy)
    store = StoreBetween(MemoryStore())
    if policy == "warn_drop":
        with pytest.warns(BlazenWarning, match="'pair', 'lock' of the session"):
            await workflow.options(store=store).run(live=True)
    else:
        with pytest.raises(PersistError, match="lock" if policy == "pickle_or_error" else "pair|lock"):
            await workflow.options(store=store).run(live=True)
        if policy == "pickle_or_error":
            await workflow.options(store=store).run(live=False)
    assert any("session" in put(commit) for commit in store.commits) == (policy != "hard_error")


# --- the stream


async def stream_of(store: MemoryStore) -> list[Any]:
    items = [codec.decode(item, classes=[Job, ProgressEvent, UsageEvent]) for item in await store.stream(RUN_ID)]
    return [getattr(item, "n", None) if isinstance(item, Job) else item for item in items]


async def test_what_an_attempt_writes_to_the_stream_is_stored_once_it_has_ended(autojump_clock: MockClock) -> None:
    memory = MemoryStore()
    stored: list[list[int]] = []

    @step(retries=1)
    async def write(ctx: Context, ev: StartEvent) -> Done:
        stored.append(await stream_of(memory))
        ctx.write_event_to_stream(Job(n=ctx.attempt * 10))
        if ctx.attempt == 1:
            raise ValueError
        ctx.write_event_to_stream(Job(n=21))
        return Done()

    @step
    async def end(ev: Done) -> StopEvent:
        stored.append(await stream_of(memory))
        return StopEvent()

    await Workflow("w", [write, end], types=[Job]).options(store=memory, run_id=RUN_ID).run()
    assert stored == [[], [10], [10, 20, 21]]


async def test_what_an_attempt_that_was_cancelled_wrote_is_in_the_stream_that_was_read(
    autojump_clock: MockClock,
) -> None:
    @step
    async def fan_out(ev: StartEvent) -> list[Job | Done]:
        return [Job(n=1), Done()]

    @step
    async def work(ctx: Context, ev: Job) -> None:
        ctx.write_event_to_stream(Job(n=7))
        await trio.sleep(5)

    @step
    async def end(ev: Done) -> StopEvent:
        await trio.sleep(3)
        return StopEvent()

    memory = MemoryStore()
    async with Workflow("w", [fan_out, work, end]).options(store=memory, run_id=RUN_ID).run_with_handler() as handler:
        await trio.sleep(1)
        handler.cancel_step("work")
    assert await stream_of(memory) == [7]


async def test_progress_and_usage_are_stored_in_order_and_counted(autojump_clock: MockClock) -> None:
    @step
    async def report(ctx: Context, ev: StartEvent) -> StopEvent:
        ctx.write_event_to_stream(ProgressEvent(1, 2))
        ctx.emit_usage(UsageEvent("p", "m", input_tokens=3, output_tokens=4, cost_usd=0.5))
        ctx.write_event_to_stream(ProgressEvent(2, 2))
        return StopEvent()

    memory = MemoryStore()
    workflow = Workflow("w", [report])
    await workflow.options(store=memory, run_id=RUN_ID).run()
    items = await stream_of(memory)
    assert [type(item).__name__ for item in items] == ["ProgressEvent", "UsageEvent", "ProgressEvent"]
    result = await workflow.options(store=memory).result_of(RUN_ID)
    assert (result.total_input_tokens, result.total_output_tokens, result.total_cost_usd) == (3, 4, 0.5)


async def test_what_cannot_be_stored_is_refused_where_it_is_written_to_the_stream(autojump_clock: MockClock) -> None:
    class Holds(Event):
        lock: object = None

    @step
    async def write(ctx: Context, ev: StartEvent) -> StopEvent:
        with pytest.raises(ValidationError):
            ctx.write_event_to_stream(Holds(lock=threading.Lock()))
        return StopEvent(result="refused")

    assert (await Workflow("w", [write]).options(store=MemoryStore()).run()).result == "refused"


# --- joins


async def test_a_join_writes_each_of_its_events_once(autojump_clock: MockClock) -> None:
    size = 2_000

    @step
    async def fan_out(ev: StartEvent) -> list[Job]:
        return [Job(n=n) for n in range(size)]

    @step
    async def join(ctx: Context, ev: Job) -> StopEvent | None:
        events = ctx.collect_events(ev, size)
        return None if events is None else StopEvent(result=len(events))

    store = StoreBetween(MemoryStore(), before=0.001)
    result = await Workflow("w", [fan_out, join]).options(store=store).run()
    assert result.result == size
    written = [len(content) for commit in store.commits for _, content in commit.put]
    assert len(written) <= 3 * size  # as an event that is queued, begun, and gathered
    assert sum(written) < size * 300
    heads = sum(len(commit.head) for commit in store.commits)
    assert heads < 100 * len(store.commits)


async def test_gatherings_with_different_keys_are_kept_apart(autojump_clock: MockClock) -> None:
    @step
    async def fan_out(ev: StartEvent) -> list[Job]:
        return [Job(n=n) for n in range(4)]

    @step
    async def join(ctx: Context, ev: Job) -> StopEvent | None:
        events: Any = ctx.collect_events(ev, 2, key=("half", ev.n % 2))
        return StopEvent(result=[one.n for one in events]) if events and ev.n == 3 else None

    store = StoreBetween(MemoryStore())
    result = await Workflow("w", [fan_out, join]).options(store=store).run()
    assert result.result == [1, 3]
    names = {name for parts in parts_after_each(store) for name in parts if name.startswith("join/")}
    assert len({name.rpartition("/")[0] for name in names}) == 2


# --- attempts


async def test_an_attempt_is_counted_before_it_begins(autojump_clock: MockClock) -> None:
    memory = MemoryStore()
    counted = []

    @step(retries=2)
    async def fail_twice(ctx: Context, ev: StartEvent) -> StopEvent:
        stored = await memory.load(RUN_ID)
        counted.append((ctx.attempt, codec.decode(stored.parts["attempt/1/fail_twice"], classes=[StartEvent])[3]))
        if ctx.attempt < 3:
            raise ValueError
        return StopEvent()

    await Workflow("w", [fail_twice]).options(store=memory, run_id=RUN_ID).run()
    assert counted == [(1, 1), (2, 2), (3, 3)]


async def test_a_wait_before_a_retry_is_written_with_the_moment_when_it_is_over(autojump_clock: MockClock) -> None:
    @step(retries=Retry(1, initial=20.0, jitter=0.0))
    async def fail_once(ctx: Context, ev: StartEvent) -> StopEvent:
        if ctx.attempt == 1:
            raise ValueError
        return StopEvent()

    memory = MemoryStore()
    async with Workflow("w", [fail_once]).options(store=memory, run_id=RUN_ID).run_with_handler():
        await trio.sleep(5)
        info = await memory.info(RUN_ID)
        assert info.due == pytest.approx(info.created + 20.0)


async def test_what_on_error_is_for_is_written(autojump_clock: MockClock) -> None:
    def rescue(ev: StartEvent, error: Exception) -> StopEvent:
        return StopEvent(result=str(error))

    @step(on_error=rescue)
    async def fail(ev: StartEvent) -> StopEvent:
        raise ValueError("gone")

    store = StoreBetween(MemoryStore())
    assert (await Workflow("w", [fail]).options(store=store).run()).result == "gone"
    (encoded,) = [content for name, content in store.commits[1].put if name == "attempt/1/fail"]
    value = codec.decode(encoded, classes=[StartEvent])
    assert (value[4], value[5][:2]) == (True, ("builtins.ValueError", "gone"))


async def test_a_step_that_was_cancelled_is_not_kept(autojump_clock: MockClock) -> None:
    @step
    async def fan_out(ev: StartEvent) -> list[Job | Done]:
        return [Job(), Done()]

    @step
    async def work(ev: Job) -> None:
        await trio.sleep(100)

    @step
    async def end(ev: Done) -> StopEvent:
        await trio.sleep(3)
        return StopEvent()

    memory = MemoryStore()
    async with Workflow("w", [fan_out, work, end]).options(store=memory, run_id=RUN_ID).run_with_handler() as handler:
        await trio.sleep(1)
        assert "attempt/2/work" in (await memory.load(RUN_ID)).parts
        handler.cancel_step("work")
        await trio.sleep(1)
        assert "attempt/2/work" not in (await memory.load(RUN_ID)).parts


# --- questions and waits


async def test_a_question_is_shown_once_it_is_written(autojump_clock: MockClock) -> None:
    @step
    async def ask(ctx: Context, ev: StartEvent) -> StopEvent:
        return StopEvent(result=await ctx.request_input("?", schema=int, metadata={"a": 1}))

    store = StoreBetween(MemoryStore(), before=1.0)
    async with Workflow("w", [ask]).options(store=store, run_id=RUN_ID).run_with_handler() as handler:
        await trio.sleep(1.5)
        assert handler.pending_inputs() == []
        async for event in handler.stream_events():
            assert isinstance(event, InputRequestEvent)
            assert trio.current_time() == 2.0
            (question,) = await store.questions()
            assert (question.request_id, question.run_id, question.prompt) == (event.request_id, RUN_ID, "?")
            assert b'"metadata":{"a":1}' in question.details
            assert b'"schema":{"type":"integer"}' in question.details
            with pytest.raises(ValidationError, match="does not fit"):
                handler.respond_to_input(event.request_id, "x")
            handler.respond_to_input(event.request_id, 5)
            break
        assert (await handler.result()).result == 5
    assert await store.questions() == []


async def test_a_question_that_is_not_written_yet_cannot_be_answered(autojump_clock: MockClock) -> None:
    @step
    async def ask(ev: StartEvent) -> InputRequestEvent:
        return InputRequestEvent("q", "?")

    @step
    async def answered(ev: InputResponseEvent) -> StopEvent:
        return StopEvent()

    store = StoreBetween(MemoryStore(), before=1.0)
    async with Workflow("w", [ask, answered]).options(store=store).run_with_handler() as handler:
        await trio.sleep(1.5)
        with pytest.raises(ValidationError, match="no open question has the id 'q'; open are none"):
            handler.respond_to_input("q", 1)
        await trio.sleep(1)
        handler.respond_to_input("q", 1)


async def test_a_step_that_was_answered_goes_on_after_the_commit(autojump_clock: MockClock) -> None:
    times = []

    @step
    async def ask(ctx: Context, ev: StartEvent) -> StopEvent:
        await ctx.request_input("?")
        times.append(trio.current_time())
        return StopEvent()

    store = StoreBetween(MemoryStore(), before=1.0)
    async with Workflow("w", [ask]).options(store=store).run_with_handler() as handler:
        await trio.sleep(5)
        handler.respond_to_input(handler.pending_inputs()[0].request_id, 1)
    assert times == [6.0]


async def test_a_step_that_waited_for_a_returned_event_goes_on_after_the_commit(autojump_clock: MockClock) -> None:
    times = []

    @step
    async def fan_out(ev: StartEvent) -> list[Job | Done]:
        return [Job(), Done()]

    @step(waits=[Paid])
    async def wait(ctx: Context, ev: Job) -> StopEvent:
        event = await ctx.wait_for_event(Paid, timeout=4.5)
        times.append(trio.current_time())
        return StopEvent(result=event.n)

    @step
    async def pay(ev: Done) -> Paid:
        await trio.sleep(4)
        return Paid(n=3)

    # The event comes in time, however long it takes to write it.
    store = StoreBetween(MemoryStore(), before=1.0)
    result = await Workflow("w", [fan_out, wait, pay]).options(store=store).run()
    assert (result.result, times) == (3, [7.0])


async def test_an_answer_counts_in_time_however_long_it_takes_to_write_it(autojump_clock: MockClock) -> None:
    @step
    async def ask(ctx: Context, ev: StartEvent) -> StopEvent:
        return StopEvent(result=await ctx.request_input("?", timeout=3.0, default="none"))

    store = StoreBetween(MemoryStore(), before=1.0)
    async with Workflow("w", [ask]).options(store=store).run_with_handler() as handler:
        await trio.sleep(3.5)
        handler.respond_to_input(handler.pending_inputs()[0].request_id, "mine")
        await trio.sleep(0.9)  # by now its time would be over
        assert (await handler.result()).result == "mine"


async def test_a_question_that_nobody_answered_in_time_is_closed_in_the_store(autojump_clock: MockClock) -> None:
    @step
    async def ask(ctx: Context, ev: StartEvent) -> Done:
        return Done(n=await ctx.request_input("?", timeout=3.0, default=4))

    @step
    async def end(ev: Done) -> StopEvent:
        await trio.sleep(5)
        return StopEvent(result=ev.n)

    memory = MemoryStore()
    async with Workflow("w", [ask, end]).options(store=memory, run_id=RUN_ID).run_with_handler() as handler:
        await trio.sleep(1)
        info = await memory.info(RUN_ID)
        assert (info.state, info.questions, info.due) == ("waiting", 1, pytest.approx(info.created + 3.0))
        await trio.sleep(3)
        assert await memory.questions() == []
        assert (await memory.info(RUN_ID)).due is None
        assert (await handler.result()).result == 4


async def test_a_run_that_ends_closes_its_questions(autojump_clock: MockClock) -> None:
    @step
    async def ask(ev: StartEvent) -> InputRequestEvent:
        return InputRequestEvent("q", "?")

    @step
    async def answered(ev: InputResponseEvent) -> StopEvent:
        return StopEvent()

    memory = MemoryStore()
    async with Workflow("w", [ask, answered]).options(store=memory).run_with_handler() as handler:
        await trio.sleep(1)
        assert len(await memory.questions()) == 1
        handler.cancel()
    assert await memory.questions() == []


async def test_a_question_answered_before_it_was_written_is_not_open_in_the_store(autojump_clock: MockClock) -> None:
    @step
    async def ask(ctx: Context, ev: StartEvent) -> StopEvent:
        await ctx.request_input("?")
        await trio.sleep(10)
        return StopEvent()

    store = StoreBetween(MemoryStore(), before=1.0)
    workflow = Workflow("w", [ask]).options(store=store, durability="async")
    async with workflow.run_with_handler() as handler:
        await trio.sleep(0.5)
        handler.respond_to_input(handler.pending_inputs()[0].request_id, 3)  # async: it is shown at once
        await trio.sleep(5)
        assert await store.questions() == []


async def test_two_runs_that_ask_under_one_id_are_told_apart(autojump_clock: MockClock) -> None:
    @step
    async def ask(ev: StartEvent) -> InputRequestEvent:
        return InputRequestEvent("q", "?")

    @step
    async def answered(ev: InputResponseEvent) -> StopEvent:
        return StopEvent()

    workflow = Workflow("w", [ask, answered]).options(store=MemoryStore())
    async with workflow.run_with_handler() as handler:
        await trio.sleep(1)
        with pytest.raises(PersistError, match="asks a question with the id 'q', which run"):
            async with workflow.run_with_handler():
                await trio.sleep(1)
        handler.respond_to_input("q", 1)


# --- events that are sent


async def test_an_event_sent_with_a_key_and_the_key_are_in_one_commit(autojump_clock: MockClock) -> None:
    @step
    async def send(ctx: Context, ev: StartEvent) -> Done:
        ctx.send_event(Job(n=1), key=("a", 1))
        ctx.send_event(Job(n=2), key=("a", 1))
        return Done()

    @step
    async def take(ev: Job) -> StopEvent:
        await trio.sleep(1)
        return StopEvent(result=ev.n)

    @step
    async def end(ev: Done) -> None:
        return None

    store = StoreBetween(MemoryStore())
    result = await Workflow("w", [send, take, end]).options(store=store).run()
    assert result.result == 1
    (commit,) = [commit for commit in store.commits if any(name.startswith("sent/") for name in put(commit))]
    assert "attempt/2/take" in put(commit)


# --- effects


async def test_an_effect_is_recorded_when_once_returns(autojump_clock: MockClock) -> None:
    memory = MemoryStore()
    seen = []

    @step
    async def charge(ctx: Context, ev: StartEvent) -> StopEvent:
        receipt = await ctx.once("charge", lambda run_id, key: (run_id, key))
        seen.extend(name for name in (await memory.load(RUN_ID)).parts if name.startswith("once/"))
        return StopEvent(result=receipt)

    workflow = Workflow("w", [charge]).options(store=StoreBetween(memory, before=1.0), run_id=RUN_ID)
    assert (await workflow.run()).result == (RUN_ID, "charge")
    assert len(seen) == 1


@pytest.mark.parametrize("stored", [False, True])
async def test_callers_of_one_effect_at_once_get_what_the_first_got(stored: bool, autojump_clock: MockClock) -> None:
    calls = []

    async def effect() -> int:
        calls.append(trio.current_time())
        await trio.sleep(1)
        return 7

    @step
    async def fan_out(ev: StartEvent) -> list[Job]:
        return [Job(n=n) for n in range(3)]

    @step
    async def work(ctx: Context, ev: Job) -> Done:
        return Done(n=await ctx.once("key", effect))

    @step
    async def join(ctx: Context, ev: Done) -> StopEvent | None:
        events: Any = ctx.collect_events(ev, 3)
        return events and StopEvent(result=[one.n for one in events])

    workflow = Workflow("w", [fan_out, work, join])
    if stored:
        workflow = workflow.options(store=StoreBetween(MemoryStore(), before=0.1))
    assert (await workflow.run()).result == [7, 7, 7]
    assert len(calls) == 1


@pytest.mark.parametrize("stored", [False, True])
async def test_an_effect_that_fails_is_not_recorded_and_the_next_caller_tries(
    stored: bool, autojump_clock: MockClock
) -> None:
    calls = []

    def effect() -> int:
        calls.append(1)
        if len(calls) == 1:
            raise ConnectionError("not yet")
        return len(calls)

    @step(retries=2)
    async def charge(ctx: Context, ev: StartEvent) -> StopEvent:
        result = await ctx.once("key", effect)
        if ctx.attempt == 2:
            raise ValueError("after the effect")
        return StopEvent(result=(result, ctx.attempt))

    workflow = Workflow("w", [charge])
    if stored:
        workflow = workflow.options(store=MemoryStore())
    assert (await workflow.run()).result == (2, 3)
    assert len(calls) == 2


async def test_somebody_who_waits_for_an_effect_that_fails_has_it_done_himself(autojump_clock: MockClock) -> None:
    calls = []

    async def effect() -> int:
        calls.append(1)
        first = len(calls) == 1
        await trio.sleep(1)
        if first:
            raise ConnectionError
        return len(calls)

    def give_up(ev: Job, error: Exception) -> Done:
        return Done(n=-1)

    @step
    async def fan_out(ev: StartEvent) -> list[Job]:
        return [Job(n=n) for n in range(2)]

    @step(on_error=give_up)
    async def work(ctx: Context, ev: Job) -> Done:
        return Done(n=await ctx.once("key", effect))

    @step
    async def join(ctx: Context, ev: Done) -> StopEvent | None:
        events: Any = ctx.collect_events(ev, 2)
        return events and StopEvent(result=sorted(one.n for one in events))

    assert (await Workflow("w", [fan_out, work, join]).options(store=MemoryStore()).run()).result == [-1, 2]


async def test_an_effect_whose_result_cannot_be_recorded_says_so(autojump_clock: MockClock) -> None:
    @step
    async def charge(ctx: Context, ev: StartEvent) -> StopEvent:
        await ctx.once("key", lambda: threading.Lock())
        return StopEvent()

    with pytest.raises(WorkflowError) as caught:
        await Workflow("w", [charge]).run()
    assert "what the effect 'key' returned cannot be recorded" in str(caught.value.__cause__)


@pytest.mark.parametrize(
    ("key", "fn", "complaint"),
    [
        ([], int, "the key \\[\\] must be hashable and storable"),
        (object(), int, "must be hashable and storable"),
        ("k", 5, "once takes a function, got 5"),
        ("k", lambda a: a, "must take the run's id and the key, or nothing"),
    ],
)
async def test_what_once_cannot_use_is_refused(key: Any, fn: Any, complaint: str) -> None:
    @step
    async def charge(ctx: Context, ev: StartEvent) -> StopEvent:
        with pytest.raises(ValidationError, match=complaint):
            await ctx.once(key, fn)
        return StopEvent()

    await Workflow("w", [charge]).run()


async def test_an_effect_is_recorded_although_its_step_is_cancelled_meanwhile(autojump_clock: MockClock) -> None:
    @step
    async def fan_out(ev: StartEvent) -> list[Job | Done]:
        return [Job(), Done()]

    @step
    async def work(ctx: Context, ev: Job) -> None:
        await ctx.once("key", lambda: 5)

    @step
    async def end(ctx: Context, ev: Done) -> StopEvent:
        await trio.sleep(5)
        return StopEvent(result=await ctx.once("key", lambda: 6))

    store = StoreBetween(MemoryStore(), before=1.0)
    async with Workflow("w", [fan_out, work, end]).options(store=store).run_with_handler() as handler:
        await trio.sleep(2.5)
        handler.cancel_step("work")
        assert (await handler.result()).result == 5


async def test_once_does_not_wait_for_a_run_that_is_ending(autojump_clock: MockClock) -> None:
    @step
    async def fan_out(ev: StartEvent) -> list[Job | Done]:
        return [Job(), Done()]

    @step
    async def work(ctx: Context, ev: Job) -> None:
        await trio.sleep(0.5)
        await ctx.once("key", lambda: 5)

    @step
    async def end(ev: Done) -> StopEvent:
        await trio.sleep(0.75)
        return StopEvent()

    store = StoreBetween(MemoryStore(), before=1.0)
    workflow = Workflow("w", [fan_out, work, end]).options(store=store)
    with trio.fail_after(20):
        await workflow.run()
    with trio.move_on_after(3) as scope:  # while one commit is under way and the effect waits for the next
        async with workflow.options(durability="async").run_with_handler() as handler:
            await trio.sleep(0.6)
            handler.cancel()
    assert not scope.cancelled_caught


# --- rows of one's own


async def test_on_commit_is_called_inside_the_commit_of_its_step(autojump_clock: MockClock) -> None:
    memory = MemoryStore()
    memory.connection.execute("CREATE TABLE sales (item TEXT)")
    seen: list[Any] = []

    def rows() -> list[Any]:
        return [item for (item,) in memory.connection.execute("SELECT item FROM sales")]

    def sell(item: str) -> Callable[[Any], object]:
        return lambda connection: connection.execute("INSERT INTO sales VALUES (?)", (item,))

    @step(retries=1)
    async def first(ctx: Context, ev: StartEvent) -> Job:
        ctx.on_commit(sell(f"bolts {ctx.attempt}"))
        ctx.on_commit(sell(f"nuts {ctx.attempt}"))
        seen.append(rows())
        if ctx.attempt == 1:
            raise ValueError
        return Job()

    @step
    async def second(ev: Job) -> StopEvent:
        seen.append(rows())
        return StopEvent()

    await Workflow("w", [first, second]).options(store=memory).run()
    assert seen == [[], [], ["bolts 2", "nuts 2"]]


@pytest.mark.parametrize("last", [False, True])
async def test_an_on_commit_that_raises_fails_the_run_with_its_step_and_nothing_of_the_commit_is_there(
    last: bool, autojump_clock: MockClock
) -> None:
    memory = MemoryStore()
    memory.connection.execute("CREATE TABLE sales (item TEXT)")
    begun = []

    @step
    async def first(ctx: Context, ev: StartEvent) -> Job | StopEvent:
        ctx.on_commit(lambda connection: connection.execute("INSERT INTO sales VALUES ('bolts')"))
        ctx.on_commit(lambda connection: connection.execute("INSERT INTO nowhere VALUES (1)"))
        ctx.set("a", 1)
        return StopEvent() if last else Job()

    @step
    async def second(ev: Job) -> StopEvent:
        begun.append(1)
        return StopEvent()

    workflow: Workflow[Any] = Workflow("w", [first, second])
    with pytest.raises(WorkflowError, match="what step 'first' of workflow 'w' wanted done in its commit") as caught:
        await workflow.options(store=memory, run_id=RUN_ID).run()
    assert (caught.value.step, caught.value.run_id, begun) == ("first", RUN_ID, [])
    assert "nowhere" in str(caught.value.__cause__)
    assert memory.connection.execute("SELECT * FROM sales").fetchall() == []
    info = await memory.info(RUN_ID)
    assert (info.state, info.owned) == ("failed", False)


async def test_on_commit_of_a_run_that_is_not_stored_and_what_is_no_function_are_refused() -> None:
    @step
    async def first(ctx: Context, ev: StartEvent) -> StopEvent:
        with pytest.raises(ValidationError, match=ev.complaint):
            ctx.on_commit(ev.fn)
        return StopEvent()

    workflow = Workflow("w", [first])
    await workflow.run({"complaint": "is not stored", "fn": print})
    await workflow.options(store=MemoryStore()).run({"complaint": "takes a function of the store", "fn": 5})


# --- async


async def test_async_writes_a_cut_within_fifty_milliseconds_and_holds_up_nothing(autojump_clock: MockClock) -> None:
    @step
    async def count(ctx: Context, ev: StartEvent | Job) -> Job | StopEvent:
        n = getattr(ev, "n", 0) if isinstance(ev, Job) else 0
        ctx.set("n", n)
        await trio.sleep(0.001)
        return Job(n=n + 1) if n < 500 else StopEvent()

    store = StoreBetween(MemoryStore())
    cuts: list[tuple[float, int, int]] = []

    def noted(commit: Commit) -> None:
        if commit.put:
            parts = parts_after_each(store)[-1]
            (event,) = [codec.decode(parts[name], classes=[Job, StartEvent])[2] for name in parts if "/count" in name]
            n = codec.decode(parts["state/n"])[1] if "state/n" in parts else 0
            cuts.append((trio.current_time(), n, getattr(event, "n", 0) if isinstance(event, Job) else 0))

    store.noted = noted
    started = trio.current_time()
    await Workflow("w", [count]).options(store=store, durability="async").run()
    assert trio.current_time() - started == pytest.approx(0.5, abs=0.01)
    times = [time for time, _, _ in cuts]
    assert max(later - earlier for earlier, later in itertools.pairwise(times)) <= 0.05
    assert len(times) < 30
    # Each cut is of one moment: the step has begun with its event and has set its number, or has not yet.
    assert {event - n for _, n, event in cuts} <= {0, 1}


async def test_async_cuts_of_a_chain_of_plain_steps_are_of_one_moment() -> None:
    @step
    def count(ctx: Context, ev: StartEvent | Job) -> Job | StopEvent:
        n = ev.n if isinstance(ev, Job) else 0
        ctx.set("n", n)
        return Job(n=n + 1) if n < 20_000 else StopEvent(result=n)

    store = StoreBetween(MemoryStore())
    result = await Workflow("w", [count]).options(store=store, durability="async").run()
    assert result.result == 20_000
    for parts in parts_after_each(store)[1:]:
        (event,) = [codec.decode(parts[name], classes=[Job, StartEvent])[2] for name in parts if "/count" in name]
        assert event.n - codec.decode(parts["state/n"])[1] in (0, 1)


async def test_async_writes_nothing_while_nothing_changes(autojump_clock: MockClock) -> None:
    @step
    async def work(ev: StartEvent) -> StopEvent:
        await trio.sleep(3600)
        return StopEvent()

    store = StoreBetween(MemoryStore())
    await Workflow("w", [work], timeout=7200).options(store=store, durability="async").run()
    assert len(store.commits) == 2


async def test_a_run_that_waits_takes_no_cuts_and_goes_on_taking_them_afterwards(autojump_clock: MockClock) -> None:
    @step
    async def ask(ctx: Context, ev: StartEvent) -> StopEvent:
        await ctx.request_input("?")
        ctx.set("a", 1)
        await trio.sleep(1)
        ctx.set("a", 2)
        await trio.sleep(1)
        return StopEvent()

    memory = MemoryStore()
    workflow = Workflow("w", [ask]).options(store=memory, run_id=RUN_ID, durability="async")
    async with workflow.run_with_handler() as handler:
        await trio.sleep(1)
        assert handler._run.dozing
        assert handler._run.next_deadline() == float("inf")
        handler.respond_to_input(handler.pending_inputs()[0].request_id, None)
        await trio.sleep(0.05)
        assert codec.decode((await memory.load(RUN_ID)).parts["state/a"]) == ("a", 1)
        await trio.sleep(1)
        assert codec.decode((await memory.load(RUN_ID)).parts["state/a"]) == ("a", 2)


async def test_async_never_writes_what_was_born_and_consumed_between_two_cuts(autojump_clock: MockClock) -> None:
    @step
    async def first(ev: StartEvent) -> Job:
        return Job()

    @step
    async def second(ev: Job) -> Done:
        return Done()

    @step
    async def third(ev: Done) -> StopEvent:
        return StopEvent()

    store = StoreBetween(MemoryStore())
    await Workflow("w", [first, second, third]).options(store=store, durability="async").run()
    assert [put(commit) for commit in store.commits] == [["attempt/1/first"], []]


async def test_the_end_of_an_async_run_is_written_before_it_is_told(autojump_clock: MockClock) -> None:
    store = StoreBetween(MemoryStore(), before=1.0)
    await two_steps.options(store=store, durability="async", run_id=RUN_ID).run()
    assert trio.current_time() == 2.0
    assert (await store.info(RUN_ID)).state == "completed"


# --- options, and stores that cannot be used


def test_what_durability_cannot_be_is_refused() -> None:
    with pytest.raises(ValidationError, match="durability must be 'none', 'async' or 'sync', got 'always'"):
        two_steps.options(store=MemoryStore(), durability="always")  # type: ignore[arg-type]
    with pytest.raises(ValidationError, match="durability='sync' needs a store: give store= too"):
        two_steps.options(durability="sync")
    with pytest.raises(ValidationError, match=r"store must be a CheckpointStore such as SqliteStore, got 'runs.db'"):
        two_steps.options(store="runs.db")  # type: ignore[arg-type]


async def test_durability_none_stores_nothing(autojump_clock: MockClock) -> None:
    memory = MemoryStore()
    await two_steps.options(store=memory, durability="none").run()
    assert await memory.runs() == []


async def test_a_run_is_stored_whichever_way_it_is_started(autojump_clock: MockClock) -> None:
    memory = MemoryStore()
    workflow = two_steps.options(store=memory)
    ids = {(await workflow.run()).run_id}
    async with workflow.run_with_handler() as handler:
        ids.add((await handler.result()).run_id)
    await trio.to_thread.run_sync(lambda: ids.add(workflow.run_sync().run_id))
    found = await memory.runs(workflow="two")
    assert {info.run_id for info in found} == ids
    assert {(info.state, info.owned, info.version) for info in found} == {("completed", False, "1")}


async def test_a_second_run_of_an_id_is_refused_and_the_first_goes_on(autojump_clock: MockClock) -> None:
    @step
    async def first(ev: StartEvent) -> Job:
        await trio.sleep(5)
        return Job(n=3)

    memory = MemoryStore()
    workflow = Workflow("w", [first, finish]).options(store=memory, run_id=RUN_ID)
    async with workflow.run_with_handler() as handler:
        await trio.sleep(1)
        with pytest.raises(PersistError, match=f"a run '{RUN_ID}' is in this MemoryStore already"):
            await workflow.run()
        assert (await handler.result()).result == 3
    with pytest.raises(PersistError, match="already"):
        await workflow.run()
    assert (await memory.info(RUN_ID)).state == "completed"


async def test_a_store_closed_under_a_run_fails_it(autojump_clock: MockClock) -> None:
    @step
    async def first(ev: StartEvent) -> Job:
        await trio.sleep(5)
        return Job()

    memory = MemoryStore()

    async def closed_meanwhile() -> None:
        async with Workflow("w", [first, finish]).options(store=memory).run_with_handler():
            await trio.sleep(1)
            memory.close()

    with pytest.raises(PersistError, match="this MemoryStore is closed"):
        await closed_meanwhile()
    with pytest.raises(PersistError, match="this MemoryStore is closed"):
        await two_steps.options(store=memory).run()


async def test_a_value_whose_class_raises_when_it_is_written_fails_the_run_with_the_reason(
    autojump_clock: MockClock,
) -> None:
    @step
    async def first(ctx: Context, ev: StartEvent) -> Job:
        ctx.set_value("value", StateValue.native(Stubborn()))
        return Job()

    with pytest.raises(PersistError, match="cannot be written down"):
        await Workflow("w", [first, finish]).options(store=MemoryStore()).run()


class Stubborn:
    def __reduce__(self) -> Any:
        raise RuntimeError("not me")
