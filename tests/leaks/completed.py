"""A run that completes, with a join, shared state, an edit, limited steps and usage."""

from __future__ import annotations

import trio
from counting import Carries, Payload, check_that_nothing_survives

from blazen import Context, StartEvent, StopEvent, UsageEvent, Workflow, step


class Done(Carries):
    pass


async def scenario() -> None:
    @step
    def split(ctx: Context, ev: StartEvent) -> list[Carries]:
        ctx.session["live"] = Payload()
        return [Carries(payload=Payload()) for _ in range(20)]

    @step(max_concurrency=2)
    async def work(ctx: Context, ev: Carries) -> Done:
        async with ctx.edit("count", 0) as cell:
            cell.value += 1
        ctx.emit_usage(UsageEvent(provider="p", model="m", input_tokens=1))
        await trio.lowlevel.checkpoint()
        return Done(payload=ev.payload)

    @step
    def gather(ctx: Context, ev: Done) -> StopEvent | None:
        events = ctx.collect_events(ev, 20)
        return None if events is None else StopEvent(result=[event.payload for event in events])

    result = await Workflow("completed", [split, work, gather]).run(Payload())
    assert len(result.result) == 20
    assert result.total_input_tokens == 20


check_that_nothing_survives(scenario)
