"""Runs of an earlier version of a workflow: refused, or made to fit by a migration, in snapshots and in stores."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import trio

from blazen import (
    CheckpointStore,
    Context,
    Event,
    MemoryStore,
    ParkedRun,
    SqliteStore,
    StartEvent,
    StopEvent,
    ValidationError,
    Workflow,
    WorkflowBuilder,
    recover,
    step,
)
from blazen.durability.fitting import misfit


class OldOrder(Event):
    item: str
    count: int


class Order(Event):
    item: str
    pieces: int
    urgent: bool = False


class Part(Event):
    number: int


@step
async def take(ctx: Context, ev: StartEvent) -> OldOrder:
    ctx.set("currency", "EUR")
    ctx.set("rates", {"EUR": 1.0})
    return OldOrder(item="bolts", count=7)


@step
async def confirm(ctx: Context, ev: OldOrder) -> StopEvent:
    answer = await ctx.request_input("Confirm?")
    return StopEvent(result=f"old: {ev.count} {answer}")


@step(name="take")
async def take_2(ctx: Context, ev: StartEvent) -> Order:
    return Order(item="nuts", pieces=1)


@step
async def approve(ctx: Context, ev: Order) -> StopEvent:
    answer = await ctx.request_input("Confirm?")
    return StopEvent(result=[ev.item, ev.pieces, ev.urgent, ctx.get("money"), ctx.get("currency", None), answer])


def migrate(run: ParkedRun) -> None:
    run.state["money"] = run.state.pop("currency")
    for work in run.work:
        if isinstance(work.event, OldOrder):
            work.step = "approve"
            work.event = Order(item=work.event.item, pieces=work.event.count, urgent=True)


OLD: Workflow[str] = Workflow("orders", [take, confirm])


def newer(migration: Callable[[ParkedRun], object] | None = migrate, **options: Any) -> Workflow[Any]:
    return Workflow(
        "orders",
        [take_2, approve],
        version="2",
        types=[OldOrder],
        migrations=None if migration is None else {"1": migration},
        **options,
    )


@pytest.fixture(params=["memory", "sqlite"])
def store(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[CheckpointStore]:
    with MemoryStore() if request.param == "memory" else SqliteStore(tmp_path / "runs.db") as opened:
        yield opened


async def parked(store: CheckpointStore) -> str:
    """The id of a run of the old version that waits in a store."""
    async with OLD.options(store=store).run_with_handler() as handler:
        run_id = handler.run_id
    assert (await store.info(run_id)).state == "waiting"
    return run_id


async def answer(store: CheckpointStore) -> None:
    (question,) = await store.questions()
    await store.respond_to_input(question.request_id, "yes")


RESULT = ["bolts", 7, True, "EUR", None, "yes"]


async def test_a_parked_run_goes_on_in_a_newer_version(store: CheckpointStore) -> None:
    run_id = await parked(store)
    await answer(store)
    (outcome,) = await recover(store, [newer()])
    assert (outcome.state, outcome.error) == ("completed", None)
    assert (await newer().options(store=store).result_of(run_id)).result == RESULT
    assert (await store.info(run_id)).version == "2"
    assert await store.questions() == []


async def test_what_has_been_migrated_is_written_and_is_not_migrated_again(store: CheckpointStore) -> None:
    run_id = await parked(store)
    async with newer().options(store=store).resume(run_id):
        pass  # it waits again
    info = await store.info(run_id)
    assert (info.version, info.state, info.questions) == ("2", "waiting", 1)
    parts = (await store.load(run_id)).parts
    assert not [name for name in parts if "confirm" in name or "currency" in name]

    def never(run: ParkedRun) -> None:
        raise AssertionError("it is of the newer version already")

    await answer(store)
    (outcome,) = await recover(store, [newer(never)])
    assert (outcome.state, outcome.error) == ("completed", None)
    assert (await newer().options(store=store).result_of(run_id)).result == RESULT


async def test_a_question_that_was_answered_before_the_first_commit_is_no_longer_open(store: CheckpointStore) -> None:
    await parked(store)
    await answer(store)
    await recover(store, [newer()])
    assert await store.questions() == []


async def test_a_snapshot_goes_on_in_a_newer_version() -> None:
    async with OLD.run_with_handler() as handler:
        async for _ in handler.stream_events():
            break
        snapshot = await handler.pause()
    async with newer().resume(snapshot) as handler:
        async for _ in handler.stream_events():
            break
        handler.respond_to_input(handler.pending_inputs()[0].request_id, "yes")
        assert (await handler.result()).result == RESULT


async def test_a_snapshot_of_a_run_that_the_store_has_paused_goes_on_in_a_newer_version(store: CheckpointStore) -> None:
    async with OLD.options(store=store).run_with_handler() as handler:
        async for _ in handler.stream_events():
            break
        snapshot = await handler.pause()
    run_id = snapshot.run_id
    async with newer().options(store=store).resume(snapshot) as handler:
        while not handler.pending_inputs():
            await trio.sleep(0)
        handler.respond_to_input(handler.pending_inputs()[0].request_id, "yes")
        assert (await handler.result()).result == RESULT
    assert (await store.info(run_id)).version == "2"


async def test_gathered_events_are_migrated(store: CheckpointStore) -> None:
    @step
    async def split(ev: StartEvent) -> list[Part]:
        return [Part(number=1), Part(number=2)]

    @step
    async def join(ctx: Context, ev: Part) -> StopEvent | None:
        if ev.number == 2:
            await ctx.request_input("Go on?")
        found = ctx.collect_events(ev, 2)
        return None if found is None else StopEvent(result=[one.number for one in found])

    @step
    async def joined(ctx: Context, ev: Part) -> StopEvent | None:
        if ev.number == 20:
            await ctx.request_input("Go on?")
        found = ctx.collect_events(ev, 2)
        return None if found is None else StopEvent(result=[one.number for one in found])

    def times_ten(run: ParkedRun) -> None:
        for work in run.work:
            work.step, work.event = "joined", Part(number=work.event.number * 10)  # type: ignore[attr-defined]
        for gathered in run.gathered:
            gathered.step = "joined"
            gathered.events = [Part(number=one.number * 10) for one in gathered.events]  # type: ignore[attr-defined]

    first: Workflow[Any] = Workflow("parts", [split, join])
    async with first.options(store=store).run_with_handler() as handler:
        run_id = handler.run_id
    second: Workflow[Any] = Workflow("parts", [split, joined], version="b", migrations={"1": times_ten})
    await answer(store)
    (outcome,) = await recover(store, [second])
    assert (outcome.state, outcome.error) == ("completed", None)
    assert sorted((await second.options(store=store).result_of(run_id)).result) == [10, 20]


def nothing(run: ParkedRun) -> None:
    pass


def broken(run: ParkedRun) -> None:
    raise KeyError("rates")


def unknown_step(run: ParkedRun) -> None:
    run.work[0].step = "nowhere"


def no_event(run: ParkedRun) -> None:
    run.work[0].event = "text"  # type: ignore[assignment]


def no_step(run: ParkedRun) -> None:
    run.work[0].step = 7  # type: ignore[assignment]


def doubled(run: ParkedRun) -> None:
    run.work.append(run.work[0])


def no_state(run: ParkedRun) -> None:
    run.state = []  # type: ignore[assignment]


def odd_keys(run: ParkedRun) -> None:
    run.state[7] = 1  # type: ignore[index]


@pytest.mark.parametrize(
    ("migration", "why"),
    [
        (None, "was written by version '1', and this is version '2', which has no migration from it"),
        (nothing, "no such step any more"),
        (broken, "the migration from version '1' failed: KeyError: 'rates'"),
        (unknown_step, "no such step any more"),
        (no_event, "no event for step 'confirm': str"),
        (no_step, "a step that is no name: 7"),
        (doubled, "has an item of it twice"),
        (no_state, "a state that is no dict from strings"),
        (odd_keys, "a state that is no dict from strings"),
    ],
)
async def test_what_does_not_fit_is_refused_and_stays_as_it_is(
    store: CheckpointStore, migration: Callable[[ParkedRun], object] | None, why: str
) -> None:
    run_id = await parked(store)
    before = await store.load(run_id)
    workflow = newer(migration)
    found = await misfit(store, workflow, run_id)
    assert found is not None
    assert why in found
    assert run_id in found
    with pytest.raises(ValidationError) as caught:
        async with workflow.options(store=store).resume(run_id):
            raise AssertionError("it was let in")
    assert why in str(caught.value)
    after = await store.load(run_id)
    assert (after.parts, after.head, after.info.version) == (before.parts, before.head, "1")
    assert await misfit(store, newer(), run_id) is None


async def test_without_the_old_class_its_events_cannot_be_read(store: CheckpointStore) -> None:
    run_id = await parked(store)
    workflow: Workflow[Any] = Workflow("orders", [take_2, approve], version="2", migrations={"1": migrate})
    found = await misfit(store, workflow, run_id)
    assert found is not None
    assert "OldOrder" in found


@pytest.mark.parametrize(
    ("migrations", "why"),
    [
        ([migrate], "a dict from versions to functions"),
        ({1: migrate}, "from a version to a function"),
        ({"1": "migrate"}, "from a version to a function"),
        ({"2": migrate}, "is the version of the workflow itself"),
    ],
)
def test_what_is_no_migration_is_refused_when_the_workflow_is_built(migrations: Any, why: str) -> None:
    with pytest.raises(ValidationError, match=why):
        Workflow("orders", [take_2, approve], version="2", migrations=migrations)
    with pytest.raises(ValidationError, match=why):
        WorkflowBuilder("orders").step(take_2).step(approve).options(version="2", migrations=migrations).build()
