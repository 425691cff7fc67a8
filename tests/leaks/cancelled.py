"""Runs that are cancelled: through the handler, by their caller, and single steps of them."""

from __future__ import annotations

import trio
import trio.testing
from counting import Carries, Payload, check_that_nothing_survives, expect

from blazen import CancelledError, Context, StartEvent, StopEvent, Workflow, step


async def scenario() -> None:
    begun: list[trio.Event] = []

    @step
    async def split(ev: StartEvent) -> list[Carries]:
        return [Carries(payload=Payload()) for _ in range(10)]

    @step(max_concurrency=5)
    async def wait(ctx: Context, ev: Carries) -> StopEvent:
        begun[0].set()
        ctx.set("seen", 1)
        try:
            await trio.sleep_forever()
        finally:
            async with ctx.cleanup():
                await trio.lowlevel.checkpoint()

    workflow = Workflow("cancelled", [split, wait])

    begun[:] = [trio.Event()]
    async with workflow.run_with_handler() as handler:
        await begun[0].wait()
        handler.cancel_step("wait")
        await trio.testing.wait_all_tasks_blocked()
        handler.cancel("enough")
        await expect(CancelledError, handler.result)

    begun[:] = [trio.Event()]
    async with trio.open_nursery() as nursery:
        nursery.start_soon(workflow.run)
        await begun[0].wait()
        nursery.cancel_scope.cancel()
    begun.clear()


check_that_nothing_survives(scenario)
