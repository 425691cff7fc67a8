"""What is in the store when: `durability="sync"` and `"async"`, effects, and stores that are slow or fail."""

from __future__ import annotations

import itertools
import sqlite3
from typing import Any

import numpy
import pytest
import trio
from between import StoreBetween, fail_nth, run_until_crash

from blazen import (
    BlazenState,
    Context,
    Event,
    InputRequestEvent,
    InputResponseEvent,
    MemoryStore,
    ProgressEvent,
    StartEvent,
    StateValue,
    StopEvent,
    UsageEvent,
    Workflow,
    recover,
    step,
)
from blazen._core import codec
from blazen.errors import CancelledError, PersistError, ValidationError, WorkflowError

RUN_ID = "11111111-1111-4111-8111-111111111111"


class Item(Event):
    n: int = 0


class Result(Event):
    n: int = 0


@step
async def begin(ev: StartEvent) -> Item:
    return Item(n=1)


@step
async def finish(ctx: Context, ev: Item) -> StopEvent:
    return StopEvent(result=ev.n)


simple: Workflow[int] = Workflow("simple", [begin, finish])


def parts_of(store: StoreBetween) -> list[set[str]]:
    """The parts that the store has after each commit."""
    have: set[str] = set()
    found = []
    for commit in store.commits:
        have = set() if commit.clear else set(have)
        have |= {name for name, _ in commit.put}
        have -= set(commit.drop)
        found.append(have)
    return found


async def items_of(workflow: Workflow[Any], store: Any, run_id: str = RUN_ID) -> list[Event]:
    classes = workflow._class_table()
    return [codec.decode(item, classes=classes) for item in await store.stream(run_id)]


# --- options


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"store": "runs.db"}, "store must be a CheckpointStore"),
        ({"durability": "sync"}, "needs a store"),
        ({"store": MemoryStore(), "durability": "always"}, "durability must be 'none', 'async' or 'sync'"),
    ],
)
def test_options_that_cannot_be_are_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        simple.options(**options)


async def test_with_durability_none_nothing_is_stored(autojump_clock: Any) -> None:
    store = MemoryStore()
    assert (await simple.options(store=store, durability="none").run()).result == 1
    assert await store.runs() == []


@pytest.mark.parametrize("durability", ["sync", "async"])
async def test_a_run_and_its_result_are_in_the_store(durability: Any, autojump_clock: Any) -> None:
    store = MemoryStore()
    stored = simple.options(store=store, run_id=RUN_ID, durability=durability)
    assert (await stored.run()).result == 1
    info = await store.info(RUN_ID)
    assert (info.state, info.workflow, info.owned) == ("completed", "simple", False)
    assert (await stored.result_of(RUN_ID)).result == 1
    assert (await store.load(RUN_ID)).parts == {}


def test_run_sync_stores_too() -> None:
    store = MemoryStore()
    assert simple.options(store=store, run_id=RUN_ID).run_sync().result == 1
    assert trio.run(store.info, RUN_ID).state == "completed"


# --- sync: nothing comes of what is not written


async def test_a_returned_event_begins_a_step_only_after_its_commit(autojump_clock: Any) -> None:
    store = StoreBetween(MemoryStore(), before=1.0)
    began: list[float] = []

    @step
    async def second(ev: Item) -> StopEvent:
        began.append(trio.current_time())
        assert parts_of(store)[-1] == {"attempt/2/second"}
        return StopEvent()

    start = trio.current_time()
    await Workflow("w", [begin, second]).options(store=store).run()
    assert began == [start + 2.0]  # one commit for the first event, one for the second


async def test_the_result_is_told_only_after_it_is_written(autojump_clock: Any) -> None:
    store = StoreBetween(MemoryStore(), before=1.0)
    start = trio.current_time()
    await simple.options(store=store).run()
    assert trio.current_time() == start + 3.0


async def test_a_question_is_shown_and_answered_only_after_its_commit(autojump_clock: Any) -> None:
    store = StoreBetween(MemoryStore(), before=1.0)

    @step
    async def ask(ctx: Context, ev: StartEvent) -> StopEvent:
        return StopEvent(result=await ctx.request_input("?"))

    async with Workflow("w", [ask]).options(store=store).run_with_handler() as handler:
        await trio.sleep(1.5)  # the run is written, and the question is on its way
        assert handler.pending_inputs() == []
        await trio.sleep(1.0)
        (question,) = handler.pending_inputs()
        answered = trio.current_time()
        handler.respond_to_input(question.request_id, "yes")
        assert (await handler.result()).result == "yes"
        assert trio.current_time() > answered + 1.0


async def test_steps_that_finish_in_one_pass_share_a_commit(autojump_clock: Any) -> None:
    store = StoreBetween(MemoryStore())

    @step
    async def fan_out(ev: StartEvent) -> list[Item]:
        return [Item(n=n) for n in range(6)]

    @step
    async def work(ev: Item) -> Result:
        await trio.sleep(1.0)
        return Result(n=ev.n)

    @step
    async def join(ctx: Context, ev: Result) -> StopEvent | None:
        return StopEvent() if ctx.collect_events(ev, 6) else None

    await Workflow("w", [fan_out, work, join]).options(store=store).run()
    for parts in parts_of(store)[2:-1]:  # no event is ever missing
        assert len([name for name in parts if name.startswith(("attempt", "join"))]) >= 6
    assert len(store.commits) < 12


async def test_a_list_with_a_question_is_written_whole(autojump_clock: Any) -> None:
    store = StoreBetween(MemoryStore())

    @step
    async def ask(ev: StartEvent) -> list[InputRequestEvent | Item]:
        return [InputRequestEvent("q"), Item(n=1)]

    @step
    async def other(ev: Item) -> None: ...

    @step
    async def answered(ev: InputResponseEvent) -> StopEvent:
        return StopEvent()

    async with Workflow("w", [ask, other, answered]).options(store=store).run_with_handler() as handler:
        await trio.sleep(1.0)
        handler.respond_to_input("q", "yes")
    first = next(parts for parts in parts_of(store) if "question/q" in parts)
    assert any(name.endswith("/other") for name in first)


async def test_state_that_a_step_changed_is_in_its_commit_also_if_it_was_changed_in_place(autojump_clock: Any) -> None:
    store = StoreBetween(MemoryStore())

    @step
    async def first(ctx: Context, ev: StartEvent) -> Item:
        ctx.set("list", [1])
        ctx.set("number", 7)
        ctx.set("gone", 1)
        return Item(n=1)

    @step
    async def second(ctx: Context, ev: Item) -> StopEvent | Item:
        if ev.n == 3:
            return StopEvent()
        ctx.get("list").append(ev.n + 1)
        ctx.delete("gone")
        return Item(n=ev.n + 1)

    await Workflow("w", [first, second]).options(store=store).run()
    puts = [sorted(name for name, _ in commit.put) for commit in store.commits]
    assert puts[1] == ["attempt/2/second", "state/gone", "state/list", "state/number"]
    assert puts[2] == ["attempt/3/second", "state/list"]
    assert "state/gone" in store.commits[2].drop
    written = dict(store.commits[2].put)
    assert codec.decode(written["state/list"]) == ("list", [1, 2])


async def test_what_is_stored_comes_back_equal_and_of_the_same_type(autojump_clock: Any) -> None:
    values: dict[str, Any] = {
        "big": 2**80, "tuple": (1, [2]), "set": {1, 2}, "bytes": b"\0", "keys": {1: "a", (2, 3): "b"}, "none": None,
        "array": numpy.arange(6, dtype="int16").reshape(2, 3), "nan": float("nan"), "odd \\ key \udc80": 1,
    }  # fmt: skip

    class Order(BlazenState):
        item: str = ""
        amounts: list = []

    @step
    async def fill(ctx: Context, ev: StartEvent) -> Item:
        for key, value in values.items():
            ctx.set(key, value)
        ctx.set_value("native", StateValue.native(complex))
        ctx.set("order", Order(item="bolts", amounts=[1]))
        return Item()

    @step
    async def look(ctx: Context, ev: Item) -> StopEvent:
        if ctx.attempt == 1:
            await trio.sleep_forever()
        array = ctx.get("array")
        assert array.dtype == "int16"
        assert array.tolist() == [[0, 1, 2], [3, 4, 5]]
        assert ctx.get("nan") != ctx.get("nan")
        for key in values.keys() - {"array", "nan"}:
            assert ctx.get(key) == values[key]
            assert type(ctx.get(key)) is type(values[key])
        assert ctx.get_value("native").value is complex
        assert ctx.get("order").amounts == [1]
        return StopEvent(result="looked")

    workflow: Workflow[str] = Workflow("w", [fill, look], types=[Order])
    other = await run_until_crash(workflow, MemoryStore(), 1.0, RUN_ID)
    (run,) = await recover(other, [workflow])
    assert run.error is None
    assert (await workflow.options(store=other).result_of(RUN_ID)).result == "looked"


async def test_a_value_that_became_unstorable_fails_the_run_and_is_named(autojump_clock: Any) -> None:
    @step
    async def first(ctx: Context, ev: StartEvent) -> Item:
        ctx.set("list", [])
        ctx.get("list").append(open)
        return Item()

    store = MemoryStore()
    with pytest.raises(PersistError, match="the value under key 'list'"):
        await Workflow("w", [first, finish]).options(store=store, run_id=RUN_ID).run()
    assert (await store.info(RUN_ID)).state == "failed"


async def test_a_result_that_cannot_be_stored_fails_the_run(autojump_clock: Any) -> None:
    @step
    async def stop(ev: StartEvent) -> StopEvent:
        return StopEvent(result=open)

    store = MemoryStore()
    with pytest.raises(WorkflowError, match=r"the result of run .* cannot be stored"):
        await Workflow("w", [stop]).options(store=store, run_id=RUN_ID).run()
    assert (await store.info(RUN_ID)).state == "failed"


async def test_gathering_ten_thousand_events_writes_each_once(autojump_clock: Any) -> None:
    store = StoreBetween(MemoryStore())
    count = 2_000

    @step
    async def fan_out(ev: StartEvent) -> list[Item]:
        return [Item(n=n) for n in range(count)]

    @step
    async def join(ctx: Context, ev: Item) -> StopEvent | None:
        events = ctx.collect_events(ev, count)
        return None if events is None else StopEvent(result=len(events))

    assert (await Workflow("w", [fan_out, join]).options(store=store).run()).result == count
    written = sum(len(data) for commit in store.commits for _, data in commit.put)
    assert written < count * 200


# --- a store that fails


@pytest.mark.parametrize("number", [1, 2, 3])
async def test_a_commit_that_fails_fails_the_run_and_leaves_it_to_be_gone_on_with(
    number: int, autojump_clock: Any
) -> None:
    memory = MemoryStore()
    store = StoreBetween(memory, fault=fail_nth(number))
    with pytest.raises(PersistError, match="the disk is full"):
        await simple.options(store=store, run_id=RUN_ID).run()
    if number == 1:
        assert await memory.runs() == []
        return
    info = await memory.info(RUN_ID)
    assert (info.state, info.owned) == ("running", False)
    (run,) = await recover(memory, [simple])
    assert run.state == "completed"


async def test_a_commit_that_fails_lets_nothing_come_of_it(autojump_clock: Any) -> None:
    began = []

    @step
    async def second(ev: Item) -> StopEvent:
        began.append(ev)
        return StopEvent()

    with pytest.raises(PersistError):
        await Workflow("w", [begin, second]).options(store=StoreBetween(MemoryStore(), fault=fail_nth(2))).run()
    assert began == []


async def test_a_second_run_of_an_id_is_refused_and_disturbs_nothing(autojump_clock: Any) -> None:
    @step
    async def slow(ev: StartEvent) -> StopEvent:
        await trio.sleep(5)
        return StopEvent(result="first")

    workflow: Workflow[str] = Workflow("w", [slow]).options(store=MemoryStore(), run_id=RUN_ID)
    async with workflow.run_with_handler() as handler:
        await trio.sleep(1)
        with pytest.raises(PersistError, match="already"):
            await workflow.run()
        with pytest.raises(ValidationError, match="is run by somebody who is alive"):
            async with workflow.resume(RUN_ID):
                pass
        assert (await handler.result()).result == "first"


async def test_a_store_that_is_closed_under_a_run_fails_it(autojump_clock: Any) -> None:
    store = MemoryStore()
    with pytest.raises(PersistError):
        async with simple.options(store=StoreBetween(store, before=1.0)).run_with_handler():
            store.close()


async def test_a_run_that_was_taken_over_fails_and_writes_nothing_more(autojump_clock: Any) -> None:
    @step
    async def slow(ctx: Context, ev: Item) -> StopEvent:
        await trio.sleep(10)
        return StopEvent(result=ctx.attempt)

    workflow: Workflow[int] = Workflow("w", [begin, slow])
    memory = MemoryStore()

    async def taken_over() -> None:
        async with workflow.options(store=memory, run_id=RUN_ID).run_with_handler():
            await trio.sleep(1)
            other = memory.view()
            other.let_go(await other.claim(RUN_ID, force=True))

    with pytest.raises(PersistError, match=r"fence|claim"):
        await taken_over()
    (run,) = await recover(memory, [workflow])
    assert run.state == "completed"
    assert (await workflow.options(store=memory).result_of(RUN_ID)).result == 2


# --- the stream


async def test_items_of_the_stream_are_stored_with_the_attempt_that_wrote_them(autojump_clock: Any) -> None:
    @step
    async def first(ctx: Context, ev: StartEvent) -> Item:
        ctx.write_event_to_stream(ProgressEvent(1))
        return Item()

    @step
    async def second(ctx: Context, ev: Item) -> StopEvent:
        ctx.write_event_to_stream(ProgressEvent(1 + ctx.attempt))
        if ctx.attempt == 1:
            await trio.sleep_forever()
        ctx.emit_usage(UsageEvent("p", "m", input_tokens=3))
        return StopEvent()

    workflow: Workflow[None] = Workflow("w", [first, second])
    other = await run_until_crash(workflow, MemoryStore(), 1.0, RUN_ID)
    assert [item.current for item in await items_of(workflow, other)] == [1]  # type: ignore[attr-defined]
    async with workflow.options(store=other).resume(RUN_ID) as handler:
        seen = [event async for event in handler.stream_events()]
    assert [getattr(event, "current", None) for event in seen] == [1, 3, None]
    assert await items_of(workflow, other) == seen
    assert (await workflow.options(store=other).result_of(RUN_ID)).total_input_tokens == 3


async def test_an_event_of_an_unknown_class_on_the_stream_is_refused(autojump_clock: Any) -> None:
    class Unknown(Event):
        pass

    @step
    async def write(ctx: Context, ev: StartEvent) -> StopEvent:
        ctx.write_event_to_stream(Unknown())
        return StopEvent()

    with pytest.raises(WorkflowError, match=r"Workflow\(types="):
        await Workflow("w", [write]).options(store=MemoryStore()).run()
    await Workflow("w", [write], types=[Unknown]).options(store=MemoryStore()).run()


# --- async


async def test_without_the_gate_the_store_is_at_most_50_ms_behind(autojump_clock: Any) -> None:
    store = StoreBetween(MemoryStore())

    @step
    async def tick(ctx: Context, ev: Item) -> Item | StopEvent:
        await trio.sleep(0.01)
        return Item(n=ev.n + 1) if ev.n < 100 else StopEvent()

    await Workflow("w", [begin, tick]).options(store=store, durability="async").run()
    moments = [commit.at for commit in store.commits]
    assert max(later - earlier for earlier, later in itertools.pairwise(moments)) <= 0.05
    assert len(moments) < 60  # and not one per step


async def test_events_born_and_consumed_between_two_cuts_are_never_written(autojump_clock: Any) -> None:
    store = StoreBetween(MemoryStore())

    @step
    async def count(ev: Item) -> Item | StopEvent:
        return Item(n=ev.n + 1) if ev.n < 500 else StopEvent(result=ev.n)

    workflow = Workflow("w", [begin, count]).options(store=store, durability="async")
    assert (await workflow.run()).result == 500
    assert sum(len(commit.put) for commit in store.commits) < 10


async def test_a_run_that_only_waits_takes_no_cuts(autojump_clock: Any) -> None:
    store = StoreBetween(MemoryStore())

    @step
    async def ask(ev: StartEvent) -> InputRequestEvent:
        return InputRequestEvent("q")

    @step
    async def answered(ev: InputResponseEvent) -> StopEvent:
        return StopEvent(result=ev.response)

    async with Workflow("w", [ask, answered]).options(store=store, durability="async").run_with_handler() as handler:
        await trio.sleep(1)
        before = len(store.commits)
        await trio.sleep(3600)
        assert len(store.commits) == before
        handler.respond_to_input("q", "late")
        assert (await handler.result()).result == "late"


async def test_what_finished_after_the_last_cut_runs_again(autojump_clock: Any) -> None:
    log = []

    @step
    async def work(ctx: Context, ev: Item) -> Item | StopEvent:
        log.append((ev.n, ctx.attempt))
        await trio.sleep(0.01)
        return Item(n=ev.n + 1) if ev.n < 20 else StopEvent(result=ev.n)

    workflow: Workflow[int] = Workflow("w", [begin, work])
    store = MemoryStore()
    other = store.view()
    with trio.CancelScope() as scope:
        async with workflow.options(store=store, run_id=RUN_ID, durability="async").run_with_handler():
            await trio.sleep(0.115)
            store.crash()
            scope.cancel()
            await trio.sleep_forever()
    done = [n for n, _ in log]
    log.clear()
    (run,) = await recover(other, [workflow])
    assert run.state == "completed"
    first, attempt = log[0]
    assert attempt == 2
    assert done[-1] - 5 <= first <= done[-1]
    assert [n for n, _ in log] == list(range(first, 21))


# --- once and on_commit


async def test_once_records_what_the_first_call_returned(autojump_clock: Any) -> None:
    calls = []

    @step(retries=2)
    async def pay(ctx: Context, ev: StartEvent) -> StopEvent:
        receipt = await ctx.once(("charge", 7), lambda run_id, key: calls.append((run_id, key)) or f"receipt {key[1]}")
        if ctx.attempt < 3:
            raise OSError
        return StopEvent(result=receipt)

    assert (await Workflow("w", [pay]).options(run_id=RUN_ID).run()).result == "receipt 7"
    assert calls == [(RUN_ID, ("charge", 7))]


async def test_what_once_has_recorded_survives_a_crash(autojump_clock: Any) -> None:
    calls = []

    async def charge() -> str:
        calls.append(1)
        return "receipt"

    @step
    async def pay(ctx: Context, ev: StartEvent) -> StopEvent:
        receipt = await ctx.once("charge", charge)
        if ctx.attempt == 1:
            await trio.sleep_forever()
        return StopEvent(result=receipt)

    for durability in ("sync", "async"):
        calls.clear()
        workflow: Workflow[str] = Workflow("w", [pay]).options(store=MemoryStore(), durability=durability)  # type: ignore[arg-type]
        other = await run_until_crash(workflow, MemoryStore(), 0.001, RUN_ID)
        await recover(other, [workflow])
        assert (await workflow.options(store=other).result_of(RUN_ID)).result == "receipt"
        assert calls == [1]


async def test_callers_of_once_with_one_key_wait_for_each_other(autojump_clock: Any) -> None:
    calls = []

    async def effect() -> int:
        calls.append(1)
        await trio.sleep(1)
        return len(calls)

    @step
    async def fan_out(ev: StartEvent) -> list[Item]:
        return [Item(n=n) for n in range(5)]

    @step
    async def work(ctx: Context, ev: Item) -> Result:
        return Result(n=await ctx.once("effect", effect))

    @step
    async def join(ctx: Context, ev: Result) -> StopEvent | None:
        events = ctx.collect_events(ev, 5)
        return None if events is None else StopEvent(result=[event.n for event in events])

    assert (await Workflow("w", [fan_out, work, join]).run()).result == [1] * 5


async def test_an_effect_that_fails_is_not_recorded(autojump_clock: Any) -> None:
    calls = []

    def effect(run_id: str, key: str) -> str:
        calls.append(key)
        if len(calls) == 1:
            raise OSError("no")
        return "done"

    @step(retries=1)
    async def work(ctx: Context, ev: StartEvent) -> StopEvent:
        return StopEvent(result=await ctx.once("k", effect))

    assert (await Workflow("w", [work]).run()).result == "done"
    assert calls == ["k", "k"]


@pytest.mark.parametrize(
    ("key", "fn", "message"),
    [
        ([], lambda: 1, "the key"),
        ("k", 7, "once takes a function"),
        ("k", lambda a: a, "must take the run's id and the key, or nothing"),
        ("k", lambda: open, "cannot be recorded"),
    ],
)
async def test_once_refuses_what_it_cannot_use(key: Any, fn: Any, message: str, autojump_clock: Any) -> None:
    @step
    async def work(ctx: Context, ev: StartEvent) -> StopEvent:
        await ctx.once(key, fn)
        return StopEvent()

    with pytest.raises(WorkflowError, match=message):
        await Workflow("w", [work]).run()


def rows(store: MemoryStore) -> list[str]:
    return [name for (name,) in store.connection.execute("SELECT name FROM rows ORDER BY name")]


async def test_rows_of_a_step_are_there_once_and_only_of_attempts_that_ended_well(autojump_clock: Any) -> None:
    store = MemoryStore()
    store.connection.execute("CREATE TABLE rows (name TEXT)")

    def insert(name: str) -> Any:
        return lambda connection: connection.execute("INSERT INTO rows VALUES (?)", (name,))

    @step(retries=1)
    async def first(ctx: Context, ev: StartEvent) -> Item:
        ctx.on_commit(insert(f"first {ctx.attempt}"))
        if ctx.attempt == 1:
            raise OSError
        return Item()

    @step
    async def second(ctx: Context, ev: Item) -> StopEvent:
        ctx.on_commit(insert(f"second {ctx.attempt}"))
        if ctx.attempt == 1:
            await trio.sleep_forever()
        return StopEvent()

    workflow: Workflow[None] = Workflow("w", [first, second])
    other = await run_until_crash(workflow, store, 1.0, RUN_ID)
    assert rows(other) == ["first 2"]
    await recover(other, [workflow])
    assert rows(other) == ["first 2", "second 2"]


async def test_a_callback_that_fails_fails_the_run_and_nothing_of_the_commit_is_there(autojump_clock: Any) -> None:
    store = MemoryStore()
    store.connection.execute("CREATE TABLE rows (name TEXT UNIQUE)")

    @step
    async def work(ctx: Context, ev: StartEvent) -> StopEvent:
        ctx.on_commit(lambda connection: connection.execute("INSERT INTO rows VALUES ('a')"))
        ctx.on_commit(lambda connection: connection.execute("INSERT INTO rows VALUES ('a')"))
        return StopEvent()

    with pytest.raises(WorkflowError, match="'work'") as caught:
        await Workflow("w", [work]).options(store=store, run_id=RUN_ID).run()
    assert caught.value.step == "work"
    assert isinstance(caught.value.__cause__, sqlite3.IntegrityError)
    assert rows(store) == []
    assert (await store.info(RUN_ID)).state == "failed"


async def test_on_commit_needs_a_store_and_a_function(autojump_clock: Any) -> None:
    @step
    async def work(ctx: Context, ev: StartEvent) -> StopEvent:
        ctx.on_commit(ev.data)
        return StopEvent()

    with pytest.raises(WorkflowError, match="not stored"):
        await Workflow("w", [work]).run(print)
    with pytest.raises(WorkflowError, match="takes a function"):
        await Workflow("w", [work]).options(store=MemoryStore()).run(7)


# --- how a run ends


async def test_a_cancelled_run_is_cancelled_in_the_store_and_has_no_open_questions(autojump_clock: Any) -> None:
    @step
    async def ask(ctx: Context, ev: StartEvent) -> StopEvent:
        return StopEvent(result=await ctx.request_input("?"))

    store = MemoryStore()
    workflow: Workflow[str] = Workflow("w", [ask]).options(store=store, run_id=RUN_ID)
    async with workflow.run_with_handler() as handler:
        await trio.sleep(1)
        handler.cancel("enough")
    assert (await store.info(RUN_ID)).state == "cancelled"
    assert await store.questions() == []
    with pytest.raises(CancelledError):
        await workflow.result_of(RUN_ID)


async def test_a_cancelled_caller_ends_the_run_and_ctrl_c_does_not(autojump_clock: Any) -> None:
    @step
    async def slow(ev: StartEvent) -> StopEvent:
        await trio.sleep_forever()
        return StopEvent()

    store = MemoryStore()
    workflow = Workflow("w", [slow]).options(store=store, run_id=RUN_ID)
    with trio.move_on_after(1):
        await workflow.run()
    assert (await store.info(RUN_ID)).state == "cancelled"
    await store.delete(RUN_ID)

    async def interrupted() -> None:
        async with workflow.run_with_handler():
            await trio.sleep(1)
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        await interrupted()
    info = await store.info(RUN_ID)
    assert (info.state, info.owned) == ("running", False)


async def test_a_failed_run_says_with_what(autojump_clock: Any) -> None:
    @step
    async def fail(ev: StartEvent) -> StopEvent:
        raise OSError("no\nway")

    store = MemoryStore()
    workflow = Workflow("w", [fail]).options(store=store, run_id=RUN_ID)
    with pytest.raises(WorkflowError):
        await workflow.run()
    info = await store.info(RUN_ID)
    assert info.state == "failed"
    assert info.error == "WorkflowError: step 'fail' of workflow 'w' failed on 'blazen::StartEvent': OSError: no way"
    with pytest.raises(WorkflowError, match="OSError: no way"):
        await workflow.result_of(RUN_ID)
