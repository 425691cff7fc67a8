"""What the leak scripts share: what is alive, and how much memory the process holds.

A script exits with 1 and says what survived. Each has a process of its own, so that nothing but it can be the cause.
"""

from __future__ import annotations

import collections
import gc
import resource
import sys
import warnings
from collections.abc import Awaitable, Callable
from pathlib import Path

import trio

from blazen import BlazenError, Event

MIB = 1024 * 1024
REPEATS = 5

# What belongs to one run, or to one workflow. Events are found by what they carry: plain ones are not tracked by gc.
OF_A_RUN = frozenset(
    {
        *("Run", "RunCore", "RunId", "Worker", "Context", "RunHandler", "EventStream", "StreamIterator", "StateStore"),
        *("EventQueue", "Join", "Limit", "Edit", "Cleanup", "Totals", "WorkflowResult", "Payload"),
        *("Workflow", "Router", "Route", "StepInfo", "StepSpec", "Graph"),
    }
)


class Payload:
    """What the events of the leak scripts carry."""

    def __init__(self) -> None:
        self.itself = self  # only the collector can free it, so it is sure to be tracked


class Carries(Event):
    payload: object


def alive() -> collections.Counter[str]:
    """How many objects of each kind are alive after a full collection."""
    for _ in range(3):
        gc.collect()
    counts: collections.Counter[str] = collections.Counter()
    for found in gc.get_objects():
        kind = type(found)
        if kind.__name__ in OF_A_RUN and (kind.__module__.startswith("blazen") or kind is Payload):
            counts[kind.__name__] += 1
        elif kind.__name__ == "coroutine":
            counts["coroutine"] += 1
    return counts


def resident() -> int:
    """Bytes of memory the process holds right now."""
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * resource.getpagesize()


def check_that_nothing_survives(scenario: Callable[[], Awaitable[None]]) -> None:
    """Run a scenario several times and exit with 1 if anything of it is alive afterwards."""

    async def main() -> None:
        await scenario()  # whatever is made once per process or loop is made now
        before = alive()
        for _ in range(REPEATS):
            await scenario()
        await trio.lowlevel.checkpoint()
        survived = alive() - before
        left = {name: count for name, count in alive().items() if name in OF_A_RUN}
        if survived or left:
            sys.exit(f"survived {REPEATS} times of the scenario: {dict(survived)}; alive in all: {left}")

    with warnings.catch_warnings():
        warnings.simplefilter("error")
        trio.run(main)


def check_memory(work: Callable[[], None], *, warm_up: Callable[[], None], most: int) -> None:
    """Exit with 1 if the process holds more than `most` bytes more after `work` than before."""
    warm_up()
    gc.collect()
    before = resident()
    work()
    gc.collect()
    grown = resident() - before
    print(f"grown by {grown / 1024:.0f} KiB")
    if grown > most:
        sys.exit(f"memory grew by {grown / MIB:.2f} MiB; allowed are {most / MIB:.2f}")


async def expect(error: type[BlazenError], run: Callable[[], Awaitable[object]]) -> None:
    """Run something that has to fail, and let go of the failure."""
    try:
        await run()
    except error:
        return
    sys.exit(f"the scenario should have ended with {error.__name__}")
