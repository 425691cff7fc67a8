"""Retries and fallback: a source that fails is asked again, with longer waits; in the end something else is used.

`Retry` says how often, for which errors and how long to wait. When the attempts are used up, or the step ran into its
timeout for the last time, `on_error` decides what goes on instead. The clock is trio's mock clock, so nothing waits.
"""

from __future__ import annotations

import trio
import trio.testing

from blazen import Context, Event, Retry, StartEvent, StopEvent, Workflow, step


class Rate(Event):
    value: float
    source: str


class Unreachable(OSError):
    """What the bank's line raises."""


async def last_known(ev: StartEvent, error: Exception) -> Rate:
    print(f"{trio.current_time():4.1f} s  giving up on the bank ({type(error).__name__}), taking yesterday's rate")
    return Rate(1.08, "yesterday")


@step(
    retries=Retry(3, on=Unreachable, initial=1.0, factor=2.0, jitter=0.0),
    timeout=5.0,
    on_error=last_known,
)
async def ask_the_bank(ctx: Context, ev: StartEvent) -> Rate:
    print(f"{trio.current_time():4.1f} s  attempt {ctx.attempt}")
    if ctx.attempt < ev.works_at:
        raise Unreachable("no line")
    return Rate(1.10, "the bank")


@step
async def convert(ev: Rate) -> StopEvent:
    return StopEvent(result=f"100 EUR are {100 * ev.value:.2f} USD, says {ev.source}")


exchange: Workflow[str] = Workflow("exchange", [ask_the_bank, convert])


async def main() -> None:
    for works_at in (3, 9):
        print(f"the line works at attempt {works_at}:")
        print((await exchange.run(works_at=works_at)).result)


if __name__ == "__main__":
    trio.run(main, clock=trio.testing.MockClock(autojump_threshold=0.0))
