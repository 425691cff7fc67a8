"""Handlers that are let go of: left by an exception, never entered, asked for nothing, kept after their run."""

from __future__ import annotations

import trio
from counting import Carries, Payload, check_that_nothing_survives

from blazen import Context, StartEvent, StopEvent, Workflow, step


class LeftError(Exception):
    pass


async def scenario() -> None:
    @step
    async def begin(ev: StartEvent) -> Carries:
        return Carries(payload=Payload())

    @step
    async def wait(ctx: Context, ev: Carries) -> StopEvent:
        if ctx.session.get("short"):
            return StopEvent(result=ev)
        await trio.sleep_forever()
        raise AssertionError

    workflow = Workflow("left early", [begin, wait])
    try:
        async with workflow.run_with_handler(Payload()) as handler:
            await trio.lowlevel.checkpoint()
            raise LeftError(handler)
    except LeftError:
        pass
    never = workflow.run_with_handler(Payload())
    del never
    async with workflow.options(session={"short": True}).run_with_handler(Payload()) as unasked:
        pass
    assert unasked.state == "completed"
    unasked.cancel()


check_that_nothing_survives(scenario)
