"""Runs that fail: a step raises after retries, its on_error raises, a sibling's cleanup raises, a result is refused."""

from __future__ import annotations

import trio
from counting import Carries, Payload, check_that_nothing_survives, expect

from blazen import Context, Retry, StartEvent, StopEvent, Workflow, WorkflowError, step


class Sibling(Carries):
    pass


async def scenario() -> None:
    def handle(ev: Carries, exc: Exception) -> None:
        raise LookupError("handling", ev, Payload()) from exc

    @step
    def split(ev: StartEvent) -> list[Carries | Sibling]:
        return [Sibling(payload=Payload()), Carries(payload=Payload())]

    @step(retries=Retry(2, initial=0.001), on_error=handle)
    async def fails(ctx: Context, ev: Carries) -> StopEvent:
        await trio.lowlevel.checkpoint()
        raise ValueError(ctx, ev, Payload())

    @step
    async def sibling(ctx: Context, ev: Sibling) -> StopEvent:
        try:
            await trio.sleep_forever()
        finally:
            raise KeyError(ctx, ev)

    @step
    def refused(ev: StartEvent) -> StopEvent:
        return Carries(payload=Payload())  # type: ignore[return-value]

    await expect(WorkflowError, Workflow("failed", [split, fails, sibling]).run)
    await expect(WorkflowError, Workflow("refused", [refused]).run)


check_that_nothing_survives(scenario)
