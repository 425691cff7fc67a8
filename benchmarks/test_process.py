"""What a process step costs: a call to a warm worker, and a worker's start."""

from __future__ import annotations

import os
import time

import trio

from benchmarks.conftest import Compared, Gate
from benchmarks.process_steps import Count, add_one, begin, carry, count_down, spin
from blazen import StartEvent, StopEvent, TimeoutError, Workflow, WorkflowBuilder

CALLS = 20
LARGE = os.urandom(1_000_000)


async def bare(data: object) -> object:
    """The same by trio-parallel alone: the event goes, the event comes."""
    import trio_parallel

    return (await trio_parallel.run_sync(add_one if isinstance(data, int) else carry, StartEvent(data))).result


def test_calls_to_a_warm_worker(gate: Gate) -> None:
    import trio_parallel

    workflow: Workflow[str] = Workflow("counts", [begin, count_down])

    async def ours() -> None:
        assert (await workflow.run(CALLS)).result == "counted"

    async def yardstick() -> None:
        event: Count | StopEvent = Count(left=CALLS)
        while isinstance(event, Count):
            event = await trio_parallel.run_sync(count_down, event)
        assert event.result == "counted"

    async def main() -> Compared:
        return await gate.compare(ours, yardstick)

    compared = gate.run(main)
    for times in (compared.ours, compared.yardstick):
        times[:] = [seconds / CALLS for seconds in times]
    gate.check("a process step, worker warm / trio_parallel.run_sync", compared, 1.6)


def test_a_call_with_an_event_of_1_mb(gate: Gate) -> None:
    workflow: Workflow[bytes] = Workflow("carries", [carry])

    async def ours() -> None:
        assert (await workflow.run(LARGE)).result == LARGE

    async def yardstick() -> None:
        assert await bare(LARGE) == LARGE

    async def main() -> Compared:
        return await gate.compare(ours, yardstick)

    gate.check("the same with 1 MB there and back / trio_parallel.run_sync", gate.run(main), 1.5)


def test_the_first_call_starts_a_worker(gate: Gate) -> None:
    import trio_parallel

    workflow: Workflow[int] = Workflow("adds", [add_one])

    async def ours() -> None:
        async with trio_parallel.cache_scope():
            assert (await workflow.run(1)).result == 2

    async def yardstick() -> None:
        async with trio_parallel.cache_scope():
            assert await bare(1) == 2

    async def main() -> Compared:
        return await gate.compare(ours, yardstick, rounds=5)

    gate.check("the first call, which starts a worker / trio_parallel.run_sync", gate.run(main), 1.3)


def test_from_the_deadline_to_the_end_of_the_process(gate: Gate) -> None:
    """Against killing a bare worker: a scope with the same deadline around `trio_parallel.run_sync`."""
    import trio_parallel

    deadline = 0.05
    workflow = WorkflowBuilder("spins").step(spin, timeout=deadline).build()

    async def ours() -> float:
        start = time.perf_counter()
        try:
            await workflow.run()
        except TimeoutError:
            return time.perf_counter() - start - deadline
        raise AssertionError("the step should have been killed")

    async def yardstick() -> float:
        start = time.perf_counter()
        with trio.move_on_after(deadline) as scope:
            await trio_parallel.run_sync(spin, StartEvent(), kill_on_cancel=True)
        assert scope.cancelled_caught
        return time.perf_counter() - start - deadline

    async def main() -> Compared:
        compared = Compared([], [])
        for _ in range(8):
            for times, kill in ((compared.ours, ours), (compared.yardstick, yardstick)):
                assert await bare(1) == 2  # a warm worker
                times.append(await kill())
        return compared

    compared = gate.run(main)
    gate.check("from the deadline to the end of the process / a bare scope", compared, 2.5)
    assert min(compared.ours) < 0.05
