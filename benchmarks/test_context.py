"""What a step does with its context: state, stream."""

from __future__ import annotations

import time
from collections import deque
from typing import Any

import numpy as np
import trio

from benchmarks.conftest import Compared, Gate
from blazen import Context, Event, StartEvent, StopEvent, Workflow, step

TIMES = 20_000
EVENTS = 100_000


def state_beside_dict(value: object) -> Compared:
    """Seconds per `set` and `get`, inside a step and with a dict's methods."""
    compared = Compared([], [])

    @step
    def work(ctx: Context, ev: StartEvent) -> StopEvent:
        plain: dict[str, object] = {}
        for _ in range(30):
            put, fetch = ctx.set, ctx.get
            start = time.perf_counter()
            for _ in range(TIMES):
                put("key", value)
                got = fetch("key")
            compared.ours.append((time.perf_counter() - start) / TIMES)
            assert got is value
            put, fetch = plain.__setitem__, plain.get
            start = time.perf_counter()
            for _ in range(TIMES):
                put("key", value)
                got = fetch("key")
            compared.yardstick.append((time.perf_counter() - start) / TIMES)
            assert got is value
        return StopEvent()

    import warnings

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the step holds the loop on purpose
        Workflow("state", [work]).run_sync()
    return compared


def test_set_and_get_of_an_int(gate: Gate, benchmark: Any) -> None:
    compared = benchmark.pedantic(state_beside_dict, args=(5,), rounds=1, iterations=1)
    gate.check("ctx.set + ctx.get of an int / a dict's methods", compared, 1.2)


def test_set_and_get_of_an_array(gate: Gate, benchmark: Any) -> None:
    compared = benchmark.pedantic(state_beside_dict, args=(np.zeros(1_000_000),), rounds=1, iterations=1)
    gate.check("ctx.set + ctx.get of an 8 MB array / a dict's methods", compared, 1.2)


class Note(Event):
    n: int


def test_events_through_the_stream(gate: Gate) -> None:
    notes = [Note(n) for n in range(EVENTS)]
    written: list[float] = []

    @step
    def write(ctx: Context, ev: StartEvent) -> StopEvent:
        put = ctx.write_event_to_stream
        start = time.perf_counter()
        for note in notes:
            put(note)
        written.append(time.perf_counter() - start)
        return StopEvent()

    workflow: Workflow[None] = Workflow("writes", [write])

    async def ours() -> float:
        async with workflow.run_with_handler() as handler:
            await handler.result()
            count = 0
            start = time.perf_counter()
            async for _ in handler.stream_events():
                count += 1
            seconds = time.perf_counter() - start
        assert count == EVENTS
        return seconds + written.pop()

    def with_deque() -> float:
        start = time.perf_counter()
        waiting: deque[Note] = deque()
        put = waiting.append
        for note in notes:
            put(note)
        count = 0
        take = waiting.popleft
        while waiting:
            take()
            count += 1
        seconds = time.perf_counter() - start
        assert count == EVENTS
        return seconds

    async def main() -> Compared:
        compared = Compared([], [])
        for _ in range(20):
            compared.ours.append(await ours())
            await trio.lowlevel.checkpoint()
            compared.yardstick.append(with_deque())
        return compared

    gate.check("100,000 events through the stream / a deque", gate.run(main), 1.0, limit=1.3)
