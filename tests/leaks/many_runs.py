"""100,000 runs, inside trio: memory stays as it is."""

from __future__ import annotations

import trio
from counting import MIB, Carries, check_memory

from blazen import Context, StartEvent, StopEvent, Workflow, step


@step
async def begin(ctx: Context, ev: StartEvent) -> Carries:
    ctx.set("number", ev.data)
    return Carries(payload=ev.data)


@step
async def wait(ctx: Context, ev: Carries) -> StopEvent:
    if ctx.get("number") % 16 == 0:
        await trio.lowlevel.checkpoint()
    return StopEvent(result=ev.payload)


workflow = Workflow("many runs", [begin, wait])


def runs(count: int) -> None:
    async def main() -> None:
        for number in range(count):
            result = await workflow.run(number)
            assert result.result == number

    trio.run(main)


check_memory(lambda: runs(100_000), warm_up=lambda: runs(5_000), most=MIB)
