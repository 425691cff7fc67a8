"""The steps of test_process.py, in a module that workers import quickly."""

from __future__ import annotations

from blazen import Event, StartEvent, StopEvent, step


class Count(Event):
    left: int


@step
async def begin(ev: StartEvent) -> Count:
    return Count(left=ev.data)


@step(run="process")
def count_down(ev: Count) -> Count | StopEvent:
    return Count(left=ev.left - 1) if ev.left > 1 else StopEvent(result="counted")


@step(run="process")
def add_one(ev: StartEvent) -> StopEvent:
    return StopEvent(result=ev.data + 1)


@step(run="process")
def carry(ev: StartEvent) -> StopEvent:
    return StopEvent(result=ev.data)


@step(run="process")
def spin(ev: StartEvent) -> StopEvent:
    while True:
        pass
