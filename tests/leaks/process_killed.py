"""Processes that are killed, die, or cannot be given their event."""

from __future__ import annotations

import threading

import killable
from counting import Payload, check_that_nothing_survives, expect

from blazen import StartEvent, TimeoutError, WorkflowBuilder, WorkflowError, step


@step
def begin(ev: StartEvent) -> killable.Holds:
    return killable.Holds(lock=ev.data)


async def scenario() -> None:
    slow = WorkflowBuilder("slow").step(killable.stand_still, timeout=0.01).build()
    await expect(TimeoutError, lambda: slow.run(Payload()))
    for fails in (killable.exit_three, killable.fail, killable.fail_unpicklably, killable.return_text):
        failing = WorkflowBuilder("failing").step(fails).build()
        await expect(WorkflowError, lambda failing=failing: failing.run(Payload()))
    locked = WorkflowBuilder("locked").step(begin).step(killable.take_no_lock).build()
    await expect(WorkflowError, lambda: locked.run(threading.Lock()))


if __name__ == "__main__":
    check_that_nothing_survives(scenario)
