"""Cancellation from outside: the step itself stops, cleans up, and only then is the caller told.

Three ways: somebody presses a button (`handler.cancel`), the caller's own time is over (`trio.move_on_after` around
`run`), and one step alone is cut off (`handler.cancel_step`) while the run goes on.
"""

from __future__ import annotations

import trio
import trio.testing

from blazen import Context, Event, StartEvent, StopEvent, Workflow, errors, step


class Idle(Event):
    pass


def say(text: str) -> None:
    print(f"{trio.current_time():4.1f} s  {text}")


@step
async def drive(ctx: Context, ev: StartEvent) -> StopEvent:
    metres = 0
    try:
        while True:
            await trio.sleep(1.0)
            metres += 10
    finally:
        # A plain finally runs at once. What has to wait gets time of its own, at most the cleanup grace.
        async with ctx.cleanup():
            await trio.sleep(0.5)
        say(f"brakes on, after {metres} m")
    return StopEvent()


tour: Workflow[None] = Workflow("tour", [drive])


async def by_a_button() -> None:
    async with tour.run_with_handler() as handler:
        await trio.sleep(3.2)
        handler.cancel("the bell rang")
        say("asked to stop")
    try:
        await handler.result()
    except errors.CancelledError as error:
        say(f"stopped: {error.reason}")


async def by_the_callers_clock() -> None:
    with trio.move_on_after(2.5):
        await tour.run()
    say("the caller goes on, and nothing runs any more")


@step
async def radio(ev: StartEvent) -> Idle:
    try:
        await trio.sleep_forever()
    finally:
        say("radio off")
    return Idle()


@step
async def arrive(ev: StartEvent) -> StopEvent:
    await trio.sleep(4.0)
    return StopEvent(result="arrived")


@step
async def nothing(ev: Idle) -> None:
    pass


journey: Workflow[str] = Workflow("journey", [radio, arrive, nothing])


async def one_step_alone() -> None:
    async with journey.run_with_handler() as handler:
        await trio.sleep(1.0)
        handler.cancel_step("radio")
        result = await handler.result()
    say(f"{result.result}")


async def main() -> None:
    for way in (by_a_button, by_the_callers_clock, one_step_alone):
        print(way.__name__.replace("_", " "))
        await way()


if __name__ == "__main__":
    trio.run(main, clock=trio.testing.MockClock(autojump_threshold=0.0))
