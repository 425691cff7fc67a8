"""Runs that are written down: beside a bare commit of SQLite on the same disk, and beside the same run without a store.

The disk is the one of pytest's temporary folder. A commit is `BEGIN`, one `INSERT` of 100 bytes and `COMMIT`, WAL,
``synchronous=FULL``.
"""

from __future__ import annotations

import gc
import sqlite3
import statistics
import time
from collections.abc import Callable, Iterator
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import pytest
import trio

from benchmarks.conftest import Compared, Gate
from blazen import (
    Event,
    InputRequestEvent,
    InputResponseEvent,
    SqliteStore,
    StartEvent,
    StopEvent,
    Workflow,
    step,
)

STEPS = 200
CHAIN = 20_000
TOGETHER = 64


class Count(Event):
    left: int


@step
async def begin(ev: StartEvent) -> Count:
    return Count(left=ev.data)


@step
async def count_down(ev: Count) -> Count | StopEvent:
    return Count(left=ev.left - 1) if ev.left > 1 else StopEvent(result="counted")


counting: Workflow[str] = Workflow("counting", [begin, count_down])


@pytest.fixture
def bare_commit(tmp_path: Path) -> Iterator[Callable[[], None]]:
    connection = sqlite3.connect(tmp_path / "bare.db", isolation_level=None)
    connection.execute("PRAGMA journal_mode=WAL")
    connection.execute("PRAGMA synchronous=FULL")
    connection.execute("CREATE TABLE rows (data BLOB)")
    data = bytes(100)

    def commit() -> None:
        connection.execute("BEGIN IMMEDIATE")
        connection.execute("INSERT INTO rows VALUES (?)", (data,))
        connection.execute("COMMIT")

    yield commit
    connection.close()


def timed(call: Callable[[], object], times: int) -> float:
    """The median of a call's times, in seconds."""
    taken = []
    for _ in range(times):
        start = time.perf_counter()
        call()
        taken.append(time.perf_counter() - start)
    return statistics.median(taken)


def test_a_durable_step(gate: Gate, tmp_path: Path, bare_commit: Callable[[], None]) -> None:
    """One run: a step costs a commit and what the engine adds. The gate is on what is added."""
    added: list[float] = []

    async def main() -> Compared:
        compared = Compared([], [])
        with SqliteStore(tmp_path / "runs.db") as store:
            workflow = counting.options(store=store, durability="sync")
            for _ in range(12):
                gc.collect()
                start = time.perf_counter()
                assert (await workflow.run(STEPS)).result == "counted"
                compared.ours.append((time.perf_counter() - start) / (STEPS + 1))
                compared.yardstick.append(timed(bare_commit, STEPS))
        added.extend(ours - bare for ours, bare in zip(compared.ours, compared.yardstick, strict=True))
        return compared

    compared = gate.run(main)
    microseconds = min(statistics.median(added), min(compared.ours) - min(compared.yardstick)) * 1e6
    print(
        f"\na durable step, one run: {min(compared.ours) * 1e6:.0f} us, a bare commit "
        f"{min(compared.yardstick) * 1e6:.0f} us: {microseconds:.0f} us added (at most 150 us)"
    )
    assert microseconds <= 150


def test_durable_steps_of_64_runs(gate: Gate, tmp_path: Path, bare_commit: Callable[[], None]) -> None:
    """Runs share commits, so that a step of one of many costs a fraction of a commit."""

    async def main() -> Compared:
        compared = Compared([], [])
        with SqliteStore(tmp_path / "runs.db") as store:
            workflow = counting.options(store=store, durability="sync")
            for _ in range(8):
                gc.collect()
                start = time.perf_counter()
                async with trio.open_nursery() as nursery:
                    for _ in range(TOGETHER):
                        nursery.start_soon(workflow.run, 50)
                compared.ours.append((time.perf_counter() - start) / (TOGETHER * 51))
                compared.yardstick.append(timed(bare_commit, STEPS))
            assert len(await store.runs(states=["completed"])) == 8 * TOGETHER
        return compared

    compared = gate.run(main)
    limit = max(0.15, 40e-6 / min(compared.yardstick))
    gate.check("a durable step of 64 runs at once / a bare commit", compared, round(limit, 3))


def test_a_chain_with_cuts_in_between(gate: Gate, tmp_path: Path) -> None:
    """`durability="async"`, inline steps, beside the same without a store."""

    async def main() -> Compared:
        with SqliteStore(tmp_path / "runs.db") as store:
            stored = counting.options(store=store, durability="async")

            async def ours() -> None:
                assert (await stored.run(CHAIN)).result == "counted"

            async def yardstick() -> None:
                async with counting.run_with_handler(CHAIN) as handler:
                    assert (await handler.result()).result == "counted"

            return await gate.compare(ours, yardstick, rounds=15)

    gate.check("a chain of inline steps, durability='async' / 'none'", gate.run(main), 3.0)


@step
async def ask(ev: StartEvent) -> InputRequestEvent:
    return InputRequestEvent(prompt="Go on?")


answered_at: list[float] = []


@step
async def answered(ev: InputResponseEvent) -> StopEvent:
    answered_at.append(time.perf_counter())
    return StopEvent()


asking: Workflow[None] = Workflow("asking", [ask, answered])


def test_from_an_answer_to_the_next_step(gate: Gate, tmp_path: Path, bare_commit: Callable[[], None]) -> None:
    """An answer is in the store before the step that takes it begins."""

    async def main() -> Compared:
        compared = Compared([], [])

        async def one_task() -> None:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(trio.lowlevel.checkpoint)

        with SqliteStore(tmp_path / "runs.db") as store:
            workflow = asking.options(store=store, durability="sync")
            for _ in range(60):
                async with workflow.run_with_handler() as handler:
                    question = await anext(handler.stream_events())
                    while (await store.info(handler.run_id)).state != "waiting":
                        await trio.sleep(0)
                    start = time.perf_counter()
                    assert isinstance(question, InputRequestEvent)
                    handler.respond_to_input(question.request_id, "yes")
                    await handler.result()
                    compared.ours.append(answered_at[-1] - start)
                start = time.perf_counter()
                bare_commit()
                await one_task()
                compared.yardstick.append(time.perf_counter() - start)
        return compared

    gate.check("from an answer to the next step / a bare commit and a trio task", gate.run(main), 2.0)


PARKED = 10_000


def memory() -> int:
    """Bytes of this process that are in memory."""
    with open("/proc/self/statm") as statm:
        return int(statm.read().split()[1]) * 4096


def test_memory_of_runs_that_wait(benchmark: Any, tmp_path: Path) -> None:
    """Runs that wait for an answer: with a handler open, and after they are left to the store."""

    async def main() -> tuple[float, float]:
        with SqliteStore(tmp_path / "runs.db") as store:
            workflow = asking.options(store=store, durability="async")

            async def park(count: int, stack: AsyncExitStack) -> None:
                for _ in range(count // 100):  # as they come: what is needed while a run goes on is not measured
                    handlers = [await stack.enter_async_context(workflow.run_with_handler()) for _ in range(100)]
                    last = handlers[-1]  # all others are written by then
                    while not await store.has(last.run_id) or (await store.info(last.run_id)).state != "waiting":
                        await trio.sleep(0.001)
                    assert {handler.state for handler in handlers} == {"waiting"}

            async with AsyncExitStack() as warm_up:
                await park(500, warm_up)
            gc.collect()
            before = memory()
            for _ in range(PARKED // 100):
                async with AsyncExitStack() as block:
                    await park(100, block)
            gc.collect()
            released_each = (memory() - before) / PARKED
            before = memory()
            async with AsyncExitStack() as stack:
                await park(PARKED, stack)
                gc.collect()
                open_each = (memory() - before) / PARKED
            assert len(await store.questions()) == 500 + 2 * PARKED
        return open_each, released_each

    measured: list[tuple[float, float]] = []
    benchmark.pedantic(lambda: measured.append(trio.run(main)), rounds=1, iterations=1)
    open_each, released_each = measured[0]
    print(f"\n{PARKED:,} runs that wait: {open_each / 1024:.1f} KiB each with a handler (at most 6), ", end="")
    print(f"{released_each / 1024:.1f} KiB each left to the store (at most 1)")
    assert open_each <= 6 * 1024
    assert released_each <= 1024  # SQLite keeps pages of its file in memory, however many runs there are
