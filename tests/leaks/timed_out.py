"""Runs that are over their time: a step's timeout, the run's, and a step's that is retried and handled."""

from __future__ import annotations

import trio
from counting import Carries, Payload, check_that_nothing_survives, expect

from blazen import Context, StartEvent, StopEvent, TimeoutError, Workflow, step


async def scenario() -> None:
    @step
    async def split(ev: StartEvent) -> list[Carries]:
        return [Carries(payload=Payload()) for _ in range(5)]

    @step
    async def wait(ctx: Context, ev: Carries) -> StopEvent:
        ctx.session[str(ctx.seq)] = ctx
        await trio.sleep_forever()
        raise AssertionError

    async def handle(ev: StartEvent, exc: Exception) -> StopEvent:
        await trio.lowlevel.checkpoint()
        return StopEvent(result=exc)

    @step(timeout=0.001, retries=1, on_error=handle)
    async def handled(ctx: Context, ev: StartEvent) -> StopEvent:
        await trio.sleep_forever()
        raise AssertionError

    await expect(TimeoutError, Workflow("step", [split, wait], step_timeout=0.01).run)
    await expect(TimeoutError, Workflow("run", [split, wait], timeout=0.01).run)
    result = await Workflow("handled", [handled]).run()
    assert isinstance(result.result, TimeoutError)


check_that_nothing_survives(scenario)
