"""1,000,000 steps in one run, some of which wait, time out, are retried or joined: memory stays as it is."""

from __future__ import annotations

import trio
from counting import MIB, check_memory

from blazen import Context, Event, Retry, StartEvent, StopEvent, Workflow, step


class Left(Event):
    count: int


class Pair(Event):
    count: int


@step
def begin(ev: StartEvent) -> Left:
    return Left(count=ev.data)


@step(retries=Retry(1, initial=0.0))
async def count_down(ctx: Context, ev: Left) -> StopEvent | Left | list[Pair]:
    if ev.count % 64 == 0:
        await trio.lowlevel.checkpoint()
    if ev.count % 256 == 0 and ctx.attempt == 1:
        raise ValueError(ev.count)
    if ev.count == 0:
        return StopEvent()
    if ev.count % 16 == 0:
        return [Pair(count=ev.count), Pair(count=ev.count)]
    return Left(count=ev.count - 1)


@step
async def join(ctx: Context, ev: Pair) -> Left | None:
    return None if ctx.collect_events(ev, 2, key=ev.count) is None else Left(count=ev.count - 1)


workflow = Workflow("many steps", [begin, count_down, join])


def steps(count: int) -> None:
    workflow.run_sync(count)


check_memory(lambda: steps(1_000_000), warm_up=lambda: steps(50_000), most=MIB)
