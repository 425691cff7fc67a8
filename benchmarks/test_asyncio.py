"""What it costs to run workflows from asyncio, and steps in asyncio."""

from __future__ import annotations

import asyncio
import gc
import time
from collections.abc import Awaitable, Callable
from typing import Any

import trio

import blazen.asyncio as ba
from benchmarks.conftest import Compared, Gate
from blazen import Event, StartEvent, StopEvent, Workflow, step

CHAIN = 10_000  # steps, as in the other benchmarks of chains
STEPS = 1_000
ROUNDS = 30


class Count(Event):
    left: int


@step
async def begin(ev: StartEvent) -> Count:
    return Count(left=ev.data)


@step
async def count_down(ev: Count) -> Count | StopEvent:
    return Count(left=ev.left - 1) if ev.left > 1 else StopEvent(result="counted")


@step
async def count_down_waiting(ev: Count) -> Count | StopEvent:
    await trio.lowlevel.checkpoint()
    return Count(left=ev.left - 1) if ev.left > 1 else StopEvent(result="counted")


@step(name="count_down", run="asyncio")
async def count_down_in_asyncio(ev: Count) -> Count | StopEvent:
    return Count(left=ev.left - 1) if ev.left > 1 else StopEvent(result="counted")


def nothing() -> None:
    pass


async def timed(fn: Callable[[], Awaitable[Any]], repeat: int) -> float:
    gc.collect()
    start = time.perf_counter()
    for _ in range(repeat):
        await fn()
    return (time.perf_counter() - start) / repeat


def in_turn(
    in_asyncio: Callable[[], Awaitable[Any]],
    in_trio: Callable[[], Awaitable[Any]] | None = None,
    *,
    beside: Callable[[], Awaitable[Any]] | None = None,
    repeat: int = 10,
) -> Compared:
    """Times of the first in an asyncio loop, and of the second in a trio loop or of the third in the same asyncio loop.

    In one thread: trio's loop has it while asyncio's waits for its turn.
    """
    compared = Compared([], [])
    with asyncio.Runner() as runner:
        for round in range(-3, ROUNDS):
            ours = runner.run(timed(in_asyncio, repeat))
            if in_trio is not None:
                yardstick = trio.run(timed, in_trio, repeat)
            else:
                assert beside is not None
                yardstick = runner.run(timed(beside, repeat))
            if round >= 0:
                compared.ours.append(ours)
                compared.yardstick.append(yardstick)
    return compared


def test_chain_driven_from_asyncio(gate: Gate) -> None:
    workflow: Workflow[str] = Workflow("counts", [begin, count_down])

    async def ours() -> None:
        assert (await ba.run(workflow, CHAIN)).result == "counted"

    async def yardstick() -> None:
        assert (await workflow.run(CHAIN)).result == "counted"

    compared = gate.call(lambda: in_turn(ours, yardstick, repeat=1))
    gate.check(f"a chain of {CHAIN} steps from asyncio / the same under trio", compared, 1.2)


def test_chain_of_steps_that_wait_driven_from_asyncio(gate: Gate) -> None:
    workflow: Workflow[str] = Workflow("counts", [begin, count_down_waiting])

    async def ours() -> None:
        assert (await ba.run(workflow, STEPS)).result == "counted"

    async def yardstick() -> None:
        assert (await workflow.run(STEPS)).result == "counted"

    compared = gate.call(lambda: in_turn(ours, yardstick, repeat=1))
    gate.check(f"{STEPS} steps with a checkpoint each from asyncio / the same under trio", compared, 1.2)


def test_asyncio_step_of_an_asyncio_program(gate: Gate) -> None:
    workflow: Workflow[str] = Workflow("counts", [begin, count_down_in_asyncio])

    async def ours() -> None:
        assert (await ba.run(workflow, STEPS)).result == "counted"

    async def yardstick() -> None:
        for _ in range(STEPS):
            await asyncio.to_thread(nothing)

    compared = gate.call(lambda: in_turn(ours, beside=yardstick, repeat=1))
    gate.check("one asyncio step, called from asyncio / a thread and back (asyncio.to_thread)", per_step(compared), 1.5)


def test_asyncio_step_of_a_trio_program(gate: Gate) -> None:
    workflow: Workflow[str] = Workflow("counts", [begin, count_down_in_asyncio])

    async def ours() -> None:
        assert (await workflow.run(STEPS)).result == "counted"

    async def yardstick() -> None:
        for _ in range(STEPS):
            await trio.to_thread.run_sync(nothing)

    async def main() -> Compared:
        return await gate.compare(ours, yardstick)

    compared = per_step(gate.run(main))
    gate.check("one asyncio step, called from trio / a thread and back (trio.to_thread)", compared, 1.5)


def per_step(compared: Compared) -> Compared:
    for times in (compared.ours, compared.yardstick):
        times[:] = [seconds / STEPS for seconds in times]
    return compared
