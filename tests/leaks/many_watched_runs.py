"""20,000 runs with a handler, a stream, a timeout and every way to end: memory stays as it is."""

from __future__ import annotations

import trio
from counting import MIB, Carries, check_memory

from blazen import BlazenError, Context, StartEvent, StopEvent, Workflow, step


@step
async def begin(ctx: Context, ev: StartEvent) -> list[Carries]:
    return [Carries(payload=ev.data), Carries(payload=ev.data)]


@step(timeout=60.0, retries=1)
async def work(ctx: Context, ev: Carries) -> StopEvent | None:
    ctx.write_event_to_stream(ev)
    await trio.lowlevel.checkpoint()
    number = int(ev.payload)  # type: ignore[call-overload]
    if number % 4 == 1:
        raise ValueError(number)
    if number % 4 == 2:
        await trio.sleep_forever()
    events = ctx.collect_events(ev, 2)
    return None if events is None else StopEvent(result=number)


workflow = Workflow("many watched runs", [begin, work], timeout=600.0)


def runs(count: int) -> None:
    async def main() -> None:
        for number in range(count):
            async with workflow.run_with_handler(number) as handler:
                async for _ in handler.stream_events():
                    if number % 4 == 2:
                        handler.cancel("enough")
                try:
                    await handler.result()
                except BlazenError:
                    pass
                assert handler.state == ("completed", "failed", "cancelled", "completed")[number % 4]

    trio.run(main)


check_memory(lambda: runs(20_000), warm_up=lambda: runs(2_000), most=MIB)
