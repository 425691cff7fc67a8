"""Readers of a stream that are let go of: before their first event, in the middle, and while they wait."""

from __future__ import annotations

import trio
from counting import Carries, Payload, check_that_nothing_survives

from blazen import Context, StartEvent, StopEvent, Workflow, step


async def scenario() -> None:
    go_on = trio.Event()

    @step
    async def write(ctx: Context, ev: StartEvent) -> StopEvent:
        for _ in range(10):
            ctx.write_event_to_stream(Carries(payload=Payload()))
        await go_on.wait()
        return StopEvent(result=Payload())

    workflow = Workflow("readers", [write], stream_keep=5)
    async with workflow.run_with_handler() as handler:
        handler.stream_events()
        middle = handler.stream_events(lifecycle=True)
        await anext(aiter(middle))
        bounded = handler.stream_events(buffer=2)
        await anext(aiter(bounded))
        with trio.move_on_after(0.001):
            async for _ in handler.stream_events():
                pass
        go_on.set()
    kept = [event async for event in middle]
    assert kept


check_that_nothing_survives(scenario)
