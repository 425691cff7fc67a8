"""Going on with stored runs: after a crash, after an answer, at a due time; `recover`, `serve`, `resume` by id."""

from __future__ import annotations

import warnings
from typing import Any

import pytest
import trio
from between import StoreBetween, fail_nth, run_until_crash

from blazen import (
    Context,
    Event,
    InputRequestEvent,
    InputResponseEvent,
    MemoryStore,
    ProgressEvent,
    Retry,
    StartEvent,
    StopEvent,
    Workflow,
    recover,
    serve,
    step,
)
from blazen.durability.clock import wall_time
from blazen.errors import BlazenWarning, CancelledError, PersistError, ValidationError

RUN_ID = "22222222-2222-4222-8222-222222222222"


class Item(Event):
    n: int = 0


@step
async def begin(ev: StartEvent) -> Item:
    return Item(n=1)


@step
async def ask(ev: StartEvent) -> InputRequestEvent:
    return InputRequestEvent("q", "Go on?")


@step
async def answered(ev: InputResponseEvent) -> StopEvent:
    return StopEvent(result=ev.response)


@step
async def ask_inside(ctx: Context, ev: StartEvent) -> StopEvent:
    return StopEvent(result=await ctx.request_input("How many?", schema=int))


returned: Workflow[Any] = Workflow("returned", [ask, answered])
inside: Workflow[int] = Workflow("inside", [ask_inside])


async def leave(workflow: Workflow[Any], store: Any, run_id: str = RUN_ID) -> None:
    """Begin a run and leave its block while it waits."""
    async with workflow.options(store=store, run_id=run_id).run_with_handler():
        pass


async def result_of(workflow: Workflow[Any], store: Any, run_id: str = RUN_ID) -> Any:
    return (await workflow.options(store=store).result_of(run_id)).result


async def until(store: Any, state: str, run_id: str = RUN_ID) -> float:
    """Wait until the run is in a state. Returns the seconds that took."""
    start = trio.current_time()
    with trio.fail_after(100):
        while (await store.info(run_id)).state != state:
            await trio.sleep(0.05)
    return trio.current_time() - start


# --- after a crash


@pytest.mark.parametrize("durability", ["sync", "async"])
async def test_finished_steps_do_not_run_again_and_interrupted_ones_do(durability: Any, autojump_clock: Any) -> None:
    log = []

    @step
    async def first(ctx: Context, ev: StartEvent) -> Item:
        log.append(("first", ctx.attempt))
        return Item(n=1)

    @step
    async def second(ctx: Context, ev: Item) -> StopEvent:
        log.append(("second", ctx.attempt))
        await trio.sleep(10)
        return StopEvent(result=ctx.attempt)

    workflow: Workflow[int] = Workflow("w", [first, second]).options(store=MemoryStore(), durability=durability)
    other = await run_until_crash(workflow, MemoryStore(), 1.0, RUN_ID) if durability == "sync" else None
    if other is None:
        store = MemoryStore()
        other = store.view()
        with trio.CancelScope() as scope:
            async with workflow.options(store=store, run_id=RUN_ID, durability="async").run_with_handler():
                await trio.sleep(1)
                store.crash()
                scope.cancel()
                await trio.sleep_forever()
    (run,) = await recover(other, [workflow])
    assert (run.run_id, run.state, run.error) == (RUN_ID, "completed", None)
    assert log == [("first", 1), ("second", 1), ("second", 2)]
    assert await result_of(workflow, other) == 2


async def test_a_wait_before_a_retry_goes_on_while_nobody_runs_the_run(autojump_clock: Any) -> None:
    log: list[tuple[float, int]] = []

    @step(retries=Retry(3, initial=100.0, factor=1.0, jitter=0.0, max=100.0))
    async def work(ctx: Context, ev: StartEvent) -> StopEvent:
        log.append((trio.current_time(), ctx.attempt))
        if ctx.attempt == 1:
            raise OSError
        return StopEvent()

    workflow: Workflow[None] = Workflow("w", [work])
    start = trio.current_time()
    other = await run_until_crash(workflow, MemoryStore(), 10.0, RUN_ID)
    await trio.sleep(40)
    await recover(other, [workflow])
    assert log == [(start, 1), (start + 100, 2)]


async def test_the_runs_own_timeout_counts_only_while_it_goes_on(autojump_clock: Any) -> None:
    @step
    async def work(ctx: Context, ev: StartEvent) -> StopEvent:
        await trio.sleep(10 if ctx.attempt == 1 else 3)
        return StopEvent(result="in time")

    workflow: Workflow[str] = Workflow("w", [work], timeout=5.0)
    other = await run_until_crash(workflow, MemoryStore(), 1.0, RUN_ID)
    await trio.sleep(3600)
    await recover(other, [workflow])
    assert await result_of(workflow, other) == "in time"


async def test_joins_keys_and_kept_events_survive(autojump_clock: Any) -> None:
    class Ping(Event):
        n: int

    @step
    async def fan_out(ctx: Context, ev: StartEvent) -> list[Item]:
        ctx.send_event(Ping(n=7))
        return [Item(n=n) for n in range(3)]

    @step(waits=[Ping])
    async def join(ctx: Context, ev: Item) -> StopEvent | None:
        if ev.n == 2 and ctx.attempt == 1:
            await trio.sleep_forever()
        events = ctx.collect_events(ev, 3, key="all")
        if events is None:
            return None
        ping = await ctx.wait_for_event(Ping)
        return StopEvent(result=([event.n for event in events], ping.n))

    workflow: Workflow[Any] = Workflow("w", [fan_out, join])
    other = await run_until_crash(workflow, MemoryStore(), 1.0, RUN_ID)
    await recover(other, [workflow])
    assert await result_of(workflow, other) == ([0, 1, 2], 7)


async def test_an_event_with_a_key_is_taken_once_also_over_a_crash(autojump_clock: Any) -> None:
    class Paid(Event):
        n: int

    got = []

    @step
    async def wait(ctx: Context, ev: StartEvent) -> None:
        await ctx.wait_for_event(Paid, n=99)

    @step
    async def paid(ev: Paid) -> StopEvent | None:
        got.append(ev.n)
        return StopEvent() if ev.n == 2 else None

    workflow: Workflow[None] = Workflow("w", [wait, paid])
    store = MemoryStore()
    other = store.view()
    with trio.CancelScope() as scope:
        async with workflow.options(store=store, run_id=RUN_ID).run_with_handler() as handler:
            handler.send_event(Paid(n=1), key="a")
            handler.send_event(Paid(n=1), key="a")
            await trio.sleep(1)
            store.crash()
            scope.cancel()
            await trio.sleep_forever()
    await other.send_event(RUN_ID, Paid(n=1), key="a")
    await other.send_event(RUN_ID, Paid(n=2), key="b")
    await recover(other, [workflow])
    assert got == [1, 2]


async def test_of_two_that_recover_one_goes_on_and_the_other_warns_of_nothing(autojump_clock: Any) -> None:
    @step
    async def slow(ev: StartEvent) -> StopEvent:
        await trio.sleep(5)
        return StopEvent()

    workflow: Workflow[None] = Workflow("w", [slow])
    other = await run_until_crash(workflow, MemoryStore(), 1.0, RUN_ID)
    outcomes = []

    async def go(store: MemoryStore) -> None:
        outcomes.append(await recover(store, [workflow]))

    with warnings.catch_warnings():
        warnings.simplefilter("error")
        async with trio.open_nursery() as nursery:
            nursery.start_soon(go, other)
            nursery.start_soon(go, other.view())
    assert sorted(map(len, outcomes)) == [0, 1]


async def test_a_run_that_does_not_fit_is_named_and_holds_up_no_other(autojump_clock: Any) -> None:
    store = MemoryStore()
    await leave(returned, store)
    await leave(inside, store, "33333333-3333-4333-8333-333333333333")
    for question in await store.questions():
        await store.respond_to_input(question.request_id, 3)
    newer: Workflow[Any] = Workflow("returned", [ask, answered], version="2")
    with pytest.warns(BlazenWarning, match=f"run {RUN_ID} stays in the store as it is"):
        runs = await recover(store, [newer, inside])
    assert {run.workflow: run.state for run in runs} == {"returned": "waiting", "inside": "completed"}
    (refused,) = [run for run in runs if run.workflow == "returned"]
    assert isinstance(refused.error, ValidationError)
    assert (await store.info(RUN_ID)).owned is False


async def test_a_pickle_is_loaded_only_from_a_store_that_is_trusted(autojump_clock: Any) -> None:
    @step
    async def work(ctx: Context, ev: StartEvent) -> StopEvent:
        if ctx.attempt == 1:
            ctx.session["live"] = {"a": 1}
            return StopEvent(result=await ctx.request_input("?"))
        return StopEvent(result=ctx.session["live"])

    workflow: Workflow[Any] = Workflow("w", [work])
    store = MemoryStore()
    async with workflow.options(store=store, run_id=RUN_ID).run_with_handler():
        pass
    store.trust_native = False
    await store.respond_to_input((await store.questions())[0].request_id, "x")
    with pytest.warns(BlazenWarning, match="pickle"):
        await recover(store, [workflow])
    store.trust_native = True
    await recover(store, [workflow])
    assert await result_of(workflow, store) == {"a": 1}


# --- questions


async def test_leaving_the_block_of_a_run_that_waits_gives_it_to_the_store(autojump_clock: Any) -> None:
    store = MemoryStore()
    for workflow in (returned, inside):
        async with workflow.options(store=store, run_id=RUN_ID).run_with_handler() as handler:
            pass
        info = await store.info(RUN_ID)
        assert (info.state, info.owned, info.questions) == ("waiting", False, 1)
        with pytest.raises(CancelledError, match="released"):
            await handler.result()
        await store.delete(RUN_ID)


@pytest.mark.parametrize("workflow", [returned, inside])
async def test_an_answer_to_the_store_is_taken_by_id_alone(workflow: Any, autojump_clock: Any) -> None:
    store = MemoryStore()
    await leave(workflow, store)
    (question,) = await store.view().questions()
    await store.view().respond_to_input(question.request_id, 12)
    (run,) = await recover(store.view(), [workflow])
    assert run.state == "completed"
    assert await result_of(workflow, store) == 12


async def test_a_question_is_answered_once(autojump_clock: Any) -> None:
    store = MemoryStore()
    await leave(returned, store)
    await store.respond_to_input("q", 1)
    with pytest.raises(ValidationError, match="has been answered"):
        await store.respond_to_input("q", 2)
    with pytest.raises(ValidationError, match="'unknown'"):
        await store.respond_to_input("unknown", 2)
    await recover(store, [returned])
    assert await result_of(returned, store) == 1


async def test_an_answer_that_does_not_fit_is_refused_and_the_question_is_open_again(autojump_clock: Any) -> None:
    store = MemoryStore()
    await leave(inside, store)
    (question,) = await store.questions()
    await store.respond_to_input(question.request_id, "a dozen")
    await recover(store, [inside])
    (refused,) = await store.requests(RUN_ID)
    assert "does not fit" in str(refused.refused)
    (again,) = await store.questions()
    assert again.request_id == question.request_id
    await store.respond_to_input(question.request_id, 12)
    await recover(store, [inside])
    assert await result_of(inside, store) == 12
    assert len(await store.stream(RUN_ID)) == 1  # asked once


async def test_a_question_that_is_due_is_gone_on_with_and_takes_its_default(autojump_clock: Any) -> None:
    @step
    async def patient(ctx: Context, ev: StartEvent) -> StopEvent:
        return StopEvent(result=await ctx.request_input("?", timeout=3600, default="nobody"))

    workflow: Workflow[str] = Workflow("w", [patient])
    store = MemoryStore()
    start = wall_time()
    await leave(workflow, store)
    assert (await store.info(RUN_ID)).due == pytest.approx(start + 3600)
    await trio.sleep(1800)
    assert await recover(store, [workflow]) == []
    await trio.sleep(1801)
    await recover(store, [workflow])
    assert await result_of(workflow, store) == "nobody"


async def test_an_answer_that_was_taken_and_not_used_is_used_after_a_crash(autojump_clock: Any) -> None:
    log = []

    @step
    async def work(ctx: Context, ev: StartEvent) -> StopEvent:
        log.append(ctx.attempt)
        value = await ctx.request_input("?", schema=int)
        await trio.sleep(10)
        return StopEvent(result=value)

    workflow: Workflow[int] = Workflow("w", [work])
    store = MemoryStore()
    other = store.view()
    with trio.CancelScope() as scope:
        async with workflow.options(store=store, run_id=RUN_ID).run_with_handler() as handler:
            await trio.sleep(1)
            handler.respond_to_input(handler.pending_inputs()[0].request_id, 5)
            await trio.sleep(1)
            store.crash()
            scope.cancel()
            await trio.sleep_forever()
    await recover(other, [workflow])
    assert await result_of(workflow, other) == 5
    assert log == [1, 2]


# --- resume by id, and by snapshot


async def test_resume_by_id_has_the_stream_from_the_start(autojump_clock: Any) -> None:
    @step
    async def work(ctx: Context, ev: StartEvent) -> Item:
        ctx.write_event_to_stream(ProgressEvent(1))
        return Item()

    @step
    async def more(ctx: Context, ev: Item) -> StopEvent:
        answer = await ctx.request_input("?")
        ctx.write_event_to_stream(ProgressEvent(2))
        return StopEvent(result=answer)

    workflow: Workflow[str] = Workflow("w", [work, more])
    store = MemoryStore()
    await leave(workflow, store)
    async with workflow.options(store=store).resume(RUN_ID) as handler:
        assert handler.run_id == RUN_ID
        (question,) = handler.pending_inputs()
        handler.respond_to_input(question.request_id, "yes")
        seen = [event async for event in handler.stream_events()]
        assert (await handler.result()).result == "yes"
    assert seen == [ProgressEvent(1), question, ProgressEvent(2)]


async def test_resume_by_id_says_what_is_wrong(autojump_clock: Any) -> None:
    store = MemoryStore()
    with pytest.raises(ValidationError, match=r"options\(store="):
        returned.resume(RUN_ID)
    with pytest.raises(ValidationError, match="must be a UUID"):
        returned.options(store=store).resume("no id")
    with pytest.raises(ValidationError, match="there is no run"):
        async with returned.options(store=store).resume(RUN_ID):
            pass
    await leave(returned, store)
    with pytest.raises(ValidationError, match="it is of workflow 'returned'"):
        async with inside.options(store=store).resume(RUN_ID):
            pass
    assert (await store.info(RUN_ID)).owned is False


async def test_a_paused_run_stays_paused_until_it_is_resumed(autojump_clock: Any) -> None:
    @step
    async def slow(ctx: Context, ev: Item) -> StopEvent:
        await trio.sleep(5)
        return StopEvent(result=ctx.attempt)

    workflow: Workflow[int] = Workflow("w", [begin, slow])
    store = MemoryStore()
    async with workflow.options(store=store, run_id=RUN_ID).run_with_handler() as handler:
        await trio.sleep(1)
        snapshot = await handler.pause(abort=True)
        assert (await store.info(RUN_ID)).state == "paused"
    assert await recover(store, [workflow]) == []
    async with workflow.options(store=store).resume(snapshot) as handler:
        assert handler.run_id == RUN_ID
        assert (await handler.result()).result == 2
    with pytest.raises(ValidationError, match=r"has ended|it is completed"):
        async with workflow.options(store=store).resume(snapshot):
            pass


async def test_a_snapshot_of_another_moment_is_refused_where_the_store_has_the_run(autojump_clock: Any) -> None:
    store = MemoryStore()
    async with returned.options(store=store, run_id=RUN_ID).run_with_handler() as handler:
        await trio.sleep(1)
        snapshot = await handler.snapshot()
    with pytest.raises(ValidationError, match="another moment of it"):
        async with returned.options(store=store).resume(snapshot):
            pass
    await store.delete(RUN_ID)
    async with returned.options(store=store).resume(snapshot) as handler:  # the store does not have it: it is new there
        handler.respond_to_input("q", "yes")
        assert (await handler.result()).result == "yes"
    assert await result_of(returned, store) == "yes"


# --- what others want of a run that goes on


@pytest.mark.parametrize("durability", ["sync", "async"])
async def test_others_pause_resume_and_cancel_a_run(durability: Any, autojump_clock: Any) -> None:
    @step
    async def work(ctx: Context, ev: Item) -> Item:
        await trio.sleep(1)
        return Item(n=ev.n + 1)

    workflow: Workflow[None] = Workflow("w", [begin, work, answered], types=[])
    store = MemoryStore()
    other = store.view()
    stored = workflow.options(store=store, run_id=RUN_ID, durability=durability)
    async with stored.run_with_handler() as handler:
        await trio.sleep(1.5)
        await other.pause(RUN_ID)
        with pytest.raises(CancelledError, match="paused"):
            await handler.result()
    info = await other.info(RUN_ID)
    assert (info.state, info.owned) == ("paused", False)
    assert await recover(other, [workflow]) == []
    await other.resume(RUN_ID)
    async with trio.open_nursery() as nursery:
        await nursery.start(serve, other, [workflow])
        assert await until(other, "running") <= 1.0
        await store.cancel(RUN_ID, "enough")
        assert await until(other, "cancelled") <= 1.0
        nursery.cancel_scope.cancel()
    with pytest.raises(CancelledError, match="enough"):
        await workflow.options(store=other).result_of(RUN_ID)


async def test_an_event_that_nobody_accepts_is_refused_and_the_run_undisturbed(autojump_clock: Any) -> None:
    store = MemoryStore()
    await leave(returned, store)
    await store.send_event(RUN_ID, Item(n=1))
    await recover(store, [returned])
    (refused,) = await store.requests(RUN_ID)
    assert "accepts 'Item'" in str(refused.refused)
    assert (await store.info(RUN_ID)).state == "waiting"


# --- serve


async def test_serve_takes_answered_due_and_orphaned_runs(autojump_clock: Any) -> None:
    @step
    async def patient(ctx: Context, ev: StartEvent) -> StopEvent:
        return StopEvent(result=await ctx.request_input("?", timeout=50, default="nobody"))

    @step
    async def slow(ctx: Context, ev: StartEvent) -> StopEvent:
        await trio.sleep(2)
        return StopEvent(result=ctx.attempt)

    due: Workflow[str] = Workflow("due", [patient])
    orphaned: Workflow[int] = Workflow("orphaned", [slow])
    ids = [f"{n}0000000-0000-4000-8000-000000000000" for n in range(1, 4)]
    first = MemoryStore()
    store = await run_until_crash(orphaned, first, 1.0, ids[2])
    await leave(returned, store, ids[0])
    await leave(due, store, ids[1])
    async with trio.open_nursery() as nursery:
        await nursery.start(serve, store, [returned, due, orphaned])
        assert await until(store, "completed", ids[2]) <= 3.0
        await store.respond_to_input("q", "yes")
        assert await until(store, "completed", ids[0]) <= 1.0
        await until(store, "completed", ids[1])
        nursery.cancel_scope.cancel()
    assert await result_of(returned, store, ids[0]) == "yes"
    assert await result_of(due, store, ids[1]) == "nobody"
    assert await result_of(orphaned, store, ids[2]) == 2


async def test_serve_that_is_cancelled_leaves_its_runs_in_the_store(autojump_clock: Any) -> None:
    @step
    async def slow(ctx: Context, ev: Item) -> StopEvent:
        await trio.sleep(5)
        return StopEvent(result=ctx.attempt)

    workflow: Workflow[int] = Workflow("w", [begin, slow])
    other = await run_until_crash(workflow, MemoryStore(), 1.0, RUN_ID)
    for _ in range(3):
        with trio.move_on_after(2):
            await serve(other, [workflow])
        info = await other.info(RUN_ID)
        assert (info.state, info.owned) == ("running", False)
    await recover(other, [workflow])
    assert await result_of(workflow, other) == 5


async def test_serve_tries_again_what_the_store_would_not_take(autojump_clock: Any) -> None:
    store = MemoryStore()
    await leave(returned, store)
    await store.respond_to_input("q", "yes")
    between = StoreBetween(store, fault=fail_nth(1, PersistError("the disk is full")))
    async with trio.open_nursery() as nursery:
        await nursery.start(serve, between, [returned])
        assert 0.5 < await until(store, "completed") < 5.0
        nursery.cancel_scope.cancel()


async def test_max_runs_go_on_at_once(autojump_clock: Any) -> None:
    most = now = 0

    @step
    async def work(ev: InputResponseEvent) -> StopEvent:
        nonlocal most, now
        now += 1
        most = max(most, now)
        await trio.sleep(1)
        now -= 1
        return StopEvent()

    @step
    async def question(ev: StartEvent) -> InputRequestEvent:
        return InputRequestEvent(prompt="?")

    workflow: Workflow[None] = Workflow("w", [question, work])
    store = MemoryStore()
    for n in range(6):
        await leave(workflow, store, f"{n}0000000-0000-4000-8000-000000000000")
    for asked in await store.questions():
        await store.respond_to_input(asked.request_id, "yes")
    assert len(await recover(store, [workflow], max_runs=2)) == 6
    assert most == 2


@pytest.mark.parametrize(
    ("workflows", "options", "message"),
    [
        (returned, {}, "takes a list of workflows"),
        ([], {}, "at least one workflow"),
        ([returned, returned], {}, "two of the workflows are named 'returned'"),
        (["returned"], {}, "got 'returned' among them"),
        ([returned], {"max_runs": 0}, "max_runs must be an int above 0"),
    ],
)
async def test_arguments_that_cannot_be_are_refused(workflows: Any, options: Any, message: str) -> None:
    for call in (recover, serve):
        with pytest.raises(ValidationError, match=message):
            await call(MemoryStore(), workflows, **options)
