"""A workflow, and what `blazen.testing` can do to it. Its tests, as pytest runs them, are in test_greeter.py.

    python examples/testing_a_workflow.py

Guests are looked up in a directory, two at a time, and greeted together. Everything below runs in virtual time.
"""

from __future__ import annotations

import trio

from blazen import Context, Event, ProgressEvent, Retry, StartEvent, StopEvent, Workflow, step
from blazen.testing import (
    RunOutcome,
    cancel_everywhere,
    fail_everywhere,
    match,
    run_in_virtual_time,
    run_seeds,
    run_step_sync,
    run_step_with_sync,
    watch,
)


class Guest(Event):
    login: str


class Named(Event):
    name: str


class Directory:
    """Stands for a service with connections that have to be given back."""

    def __init__(self, names: dict[str, str]) -> None:
        self.names = names
        self.open = 0

    async def look_up(self, login: str) -> str:
        self.open += 1
        try:
            await trio.sleep(0.5)  # asks over the network
            return self.names[login]
        finally:
            self.open -= 1


@step
async def invite(ctx: Context, ev: StartEvent) -> list[Guest]:
    ctx.set("expected", len(ev.logins))
    return [Guest(login=login) for login in ev.logins]


def stranger(ev: Guest, exc: Exception) -> Named:
    return Named(name=f"whoever {ev.login} is")


@step(timeout=2.0, retries=Retry(2, on=OSError, initial=1.0, jitter=0.0), max_concurrency=2, on_error=stranger)
async def look_up(ctx: Context, ev: Guest) -> Named:
    name = await ctx.session["directory"].look_up(ev.login)
    ctx.write_event_to_stream(ProgressEvent(1, ctx.get("expected"), label=ev.login))
    return Named(name=name)


@step
async def greet(ctx: Context, ev: Named) -> StopEvent | None:
    guests = ctx.collect_events(ev, ctx.get("expected"))
    if guests is None:
        return None
    return StopEvent(result=f"Hello, {' and '.join(sorted(guest.name for guest in guests))}!")


def make_greeter() -> Workflow[str]:
    """A workflow with a directory of its own, so that no run sees what another has left."""
    directory = Directory({"ada": "Ada", "bob": "Bob", "eve": "Eve"})
    greeter: Workflow[str] = Workflow("greeter", [invite, look_up, greet])
    return greeter.options(session={"directory": directory})


LOGINS = {"logins": ["ada", "bob", "eve"]}


def nothing_left_open(outcome: RunOutcome) -> None:
    assert outcome.session["directory"].open == 0


async def watched() -> None:
    async with watch(make_greeter(), LOGINS) as run:
        print((await run.result()).result, f"after {trio.current_time():g} s")
    print("shown:", ", ".join(sorted(event.label for event in run.stream)))


def main() -> None:
    print("A step alone:")
    session = {"directory": Directory({"ada": "Ada"})}
    outcome = run_step_sync(look_up, Guest(login="ada"), state={"expected": 1}, session=session)
    print(" ", outcome.event, outcome.stream)
    outcome = run_step_sync(look_up, Guest(login="joe"), session=session, keep_error=True)
    print(" ", repr(outcome.error))
    outcome = run_step_sync(look_up, Guest(login="joe"), session=session, on_error=True)
    print(" ", outcome.event, outcome.event == match(Named, name="whoever joe is"))

    print("A join, with its events in any order:")
    outcome = run_step_with_sync(greet, [Named(name="Bob"), Named(name="Ada")], state={"expected": 2})
    print(" ", outcome.event)

    print("A run, watched:")
    run_in_virtual_time(watched)

    print("Cancelled at each checkpoint of its steps:")
    for checkpoint in cancel_everywhere(make_greeter, LOGINS, check=nothing_left_open):
        print(f"  {checkpoint.number}: step {checkpoint.step!r} {checkpoint.what}")

    print("Failing at each call and each wait of the step that has an on_error:")
    results = []

    def greets_somebody(outcome: RunOutcome) -> None:
        nothing_left_open(outcome)
        results.append(f"{outcome.result} after {outcome.elapsed:g} s")

    fail_everywhere(make_greeter, LOGINS, error=OSError, steps=["look_up"], check=greets_somebody)
    for result in dict.fromkeys(results):
        print(f"  {results.count(result)} x {result}")

    print("Under 50 schedules:")
    outcomes = run_seeds(make_greeter, LOGINS, seeds=range(50), check=nothing_left_open)
    print(" ", {outcome.result for outcome in outcomes})


if __name__ == "__main__":
    main()
