"""Small workflows and their records, for the tests of what a recorded run says."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from blazen import BlazenError, Event, StartEvent, StopEvent, Workflow, step
from blazen.record import RunRecord


class Item(Event):
    n: int


class Doubled(Event):
    n: int


class Loaded(Event):
    value: Any


def recorded(*steps: Callable[..., Any], **options: Any) -> Workflow[Any]:
    return Workflow("w", steps, **options).options(record=True)


async def record_of(*steps: Callable[..., Any], **options: Any) -> RunRecord:
    """The record of a run of these steps, however it ends."""
    try:
        record = (await recorded(*steps, **options).run()).record
    except BlazenError as error:
        record = error.record
    assert record is not None
    # Whatever happened, it can be written and read again.
    assert RunRecord.from_json(record.to_json()) == record
    return record


@step
async def make_three(ev: StartEvent) -> list[Item]:
    return [Item(n) for n in range(3)]


@step
async def begin(ev: StartEvent) -> Item:
    return Item(1)


@step
async def stop(ev: Item) -> StopEvent:
    return StopEvent(ev.n)
