"""The path of an event: chains, fan-outs, whole runs, deadlines, cancelling."""

from __future__ import annotations

import gc
import time
import tracemalloc
from collections import deque
from collections.abc import Awaitable, Callable
from typing import Any

import trio
import trio.testing

from benchmarks.conftest import Compared, Gate
from blazen import Context, Event, StartEvent, StopEvent, Workflow, step

CHAIN = 10_000
WIDTH = 1_000


class Tick(Event):
    n: int


class Part(Event):
    n: int


class Done(Event):
    n: int


def chain(*, timeout: float | None = None, plain: bool = False) -> tuple[Workflow[int], Any, Any]:
    """A workflow whose one step leads to itself 10,000 times, and its two step functions."""
    if plain:

        @step
        def first_plain(ev: StartEvent) -> Tick:
            return Tick(0)

        @step(timeout=timeout)
        def tick_plain(ctx: Context, ev: Tick) -> Tick | StopEvent:
            if ev.n >= CHAIN:
                return StopEvent(result=ev.n)
            return Tick(ev.n + 1)

        return Workflow("chain", [first_plain, tick_plain]), first_plain, tick_plain

    @step
    async def first(ev: StartEvent) -> Tick:
        return Tick(0)

    @step(timeout=timeout)
    async def tick(ctx: Context, ev: Tick) -> Tick | StopEvent:
        if ev.n >= CHAIN:
            return StopEvent(result=ev.n)
        return Tick(ev.n + 1)

    return Workflow("chain", [first, tick]), first, tick


def test_a_chain_of_async_steps(gate: Gate) -> None:
    workflow, first, tick = chain()

    async def ours() -> None:
        assert (await workflow.run()).result == CHAIN

    async def bare() -> None:
        ctx = object()
        ev: Any = await first(StartEvent())
        while isinstance(ev, Tick):
            ev = await tick(ctx, ev)
        assert ev.result == CHAIN

    compared = gate.run(lambda: gate.compare(ours, bare))
    gate.check("chain of 10,000 async steps / bare awaits", compared, 1.0, limit=1.15)


def test_a_chain_of_plain_steps(gate: Gate) -> None:
    workflow, first, tick = chain(plain=True)

    async def ours() -> None:
        assert (await workflow.run()).result == CHAIN

    async def bare() -> None:
        ctx = object()
        ev: Any = first(StartEvent())
        while isinstance(ev, Tick):
            ev = tick(ctx, ev)
        assert ev.result == CHAIN

    compared = gate.run(lambda: gate.compare(ours, bare))
    gate.check("chain of 10,000 plain steps / direct calls", compared, 1.0, limit=1.25)


def test_a_step_timeout_that_is_not_hit(gate: Gate) -> None:
    with_timeout, without = chain(timeout=3600.0)[0], chain()[0]

    async def ours() -> None:
        assert (await with_timeout.run()).result == CHAIN

    async def bare() -> None:
        assert (await without.run()).result == CHAIN

    compared = gate.run(lambda: gate.compare(ours, bare))
    gate.check("chain with a step timeout / without", compared, 1.4)


def fan_out(body: Callable[[], Awaitable[object]]) -> Workflow[int]:
    """1,000 steps that await `body`, gathered."""

    @step
    async def spread(ev: StartEvent) -> list[Part]:
        return [Part(n) for n in range(WIDTH)]

    @step
    async def work(ev: Part) -> Done:
        await body()
        return Done(ev.n)

    @step
    async def gather(ctx: Context, ev: Done) -> StopEvent | None:
        done = ctx.collect_events(ev, WIDTH)
        return None if done is None else StopEvent(result=len(done))

    return Workflow("fan out", [spread, work, gather])


async def nursery_of(body: Callable[[], Awaitable[object]]) -> None:
    """The same with a task each."""
    done: list[int] = []

    async def work(n: int) -> None:
        await body()
        done.append(n)

    async with trio.open_nursery() as nursery:
        for n in range(WIDTH):
            nursery.start_soon(work, n)
    assert len(done) == WIDTH


def test_a_fan_out_of_steps_that_yield_once(gate: Gate) -> None:
    workflow = fan_out(trio.lowlevel.checkpoint)

    async def ours() -> None:
        assert (await workflow.run()).result == WIDTH

    compared = gate.run(lambda: gate.compare(ours, lambda: nursery_of(trio.lowlevel.checkpoint)))
    gate.check("fan-out of 1,000 steps that yield once / 1,000 tasks", compared, 0.6, limit=0.65)


def test_a_fan_out_of_steps_that_sleep(gate: Gate) -> None:
    async def sleep() -> None:
        await trio.sleep(0.01)

    workflow = fan_out(sleep)

    async def ours() -> None:
        assert (await workflow.run()).result == WIDTH

    compared = gate.run(lambda: gate.compare(ours, lambda: nursery_of(sleep)))
    gate.check("1,000 steps that sleep 10 ms / 1,000 tasks", compared, 1.1, limit=1.3)


class Second(Event):
    n: int


class Third(Event):
    n: int


@step
async def one(ev: StartEvent) -> Second:
    return Second(1)


@step
async def two(ev: Second) -> Third:
    return Third(ev.n + 1)


@step
async def three(ev: Third) -> StopEvent:
    return StopEvent(result=ev.n + 1)


three_steps: Workflow[int] = Workflow("three steps", [one, two, three])


async def three_tasks() -> None:
    """Three trio tasks, each handing to the next."""
    second_sends, second_receives = trio.open_memory_channel[int](1)
    third_sends, third_receives = trio.open_memory_channel[int](1)
    result: list[int] = []

    async def first() -> None:
        await second_sends.send(1)

    async def second() -> None:
        await third_sends.send(await second_receives.receive() + 1)

    async def third() -> None:
        result.append(await third_receives.receive() + 1)

    async with trio.open_nursery() as nursery:
        nursery.start_soon(first)
        nursery.start_soon(second)
        nursery.start_soon(third)
    assert result == [3]


def test_a_whole_run_of_three_steps(gate: Gate) -> None:
    async def ours() -> None:
        assert (await three_steps.run()).result == 3

    compared = gate.run(lambda: gate.compare(ours, three_tasks, repeat=300))
    gate.check("a run of 3 steps / three tasks", compared, 0.3)


def test_the_slowest_runs_of_three_steps(gate: Gate) -> None:
    async def main() -> Compared:
        times = []
        for _ in range(500):
            await three_steps.run()
        gc.collect()
        for _ in range(10_000):
            start = time.perf_counter()
            await three_steps.run()
            times.append(time.perf_counter() - start)
        times.sort()
        return Compared([times[9_899]], [times[5_000]])

    gate.check("a run of 3 steps, 99th percentile / median", gate.run(main), 3.0)


def test_a_thousand_runs_in_flight(gate: Gate) -> None:
    @step
    async def sleeps(ev: StartEvent) -> StopEvent:
        await trio.sleep(0.01)
        return StopEvent(result=1)

    workflow: Workflow[int] = Workflow("sleeps", [sleeps])

    async def ours() -> None:
        total = 0

        async def one_run() -> None:
            nonlocal total
            result = await workflow.run()
            total += result.result

        async with trio.open_nursery() as nursery:
            for _ in range(WIDTH):
                nursery.start_soon(one_run)
        assert total == WIDTH

    async def bare() -> None:
        total = 0

        async def one_task() -> None:
            nonlocal total
            await trio.sleep(0.01)
            total += 1

        async with trio.open_nursery() as nursery:
            for _ in range(WIDTH):
                nursery.start_soon(one_task)
        assert total == WIDTH

    compared = gate.run(lambda: gate.compare(ours, bare))
    gate.check("1,000 runs in flight / 1,000 tasks", compared, 1.5, limit=2.0)


def test_the_memory_of_a_run_in_flight(gate: Gate) -> None:
    """KiB per run, the task that awaits it included."""
    go_on = trio.Event()

    @step
    async def waits(ev: StartEvent) -> StopEvent:
        await go_on.wait()
        return StopEvent()

    workflow: Workflow[None] = Workflow("waits", [waits])

    async def main() -> Compared:
        nonlocal go_on
        go_on.set()
        await workflow.run()
        go_on = trio.Event()
        gc.collect()
        tracemalloc.start()
        async with trio.open_nursery() as nursery:
            before = tracemalloc.get_traced_memory()[0]
            for _ in range(WIDTH):
                nursery.start_soon(workflow.run)
            await trio.testing.wait_all_tasks_blocked()
            after = tracemalloc.get_traced_memory()[0]
            go_on.set()
        tracemalloc.stop()
        return Compared([(after - before) / WIDTH / 1024], [1.0])

    compared = gate.run(main)
    gate.check("memory of a run in flight, KiB", compared, 6.0)


def test_from_cancel_to_the_steps_finally(gate: Gate) -> None:
    reached: list[float] = []

    @step
    async def waits(ev: StartEvent) -> StopEvent:
        try:
            await trio.sleep_forever()
        finally:
            reached.append(time.perf_counter())
        return StopEvent()

    workflow: Workflow[None] = Workflow("waits", [waits])

    async def cancelled_run() -> float:
        async with workflow.run_with_handler() as handler:
            await trio.testing.wait_all_tasks_blocked()
            start = time.perf_counter()
            handler.cancel()
        return reached.pop() - start

    async def cancelled_scope() -> float:
        async def sleeps() -> None:
            try:
                with scope:
                    await trio.sleep_forever()
            finally:
                reached.append(time.perf_counter())

        scope = trio.CancelScope()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(sleeps)
            await trio.testing.wait_all_tasks_blocked()
            start = time.perf_counter()
            scope.cancel()
        return reached.pop() - start

    async def main() -> Compared:
        compared = Compared([], [])
        for _ in range(300):
            compared.ours.append(await cancelled_run())
            compared.yardstick.append(await cancelled_scope())
        return compared

    gate.check("cancel to the step's finally / a bare scope", gate.run(main), 1.5)


def queue_of(size: int, batches: int) -> tuple[Workflow[int], Callable[[], Awaitable[None]]]:
    """A run that queues `size` events and takes them, `batches` times, and the same with a deque."""
    events = [Part(n) for n in range(size)]
    taken = 0

    @step
    def spread(ev: StartEvent | Done) -> list[Part]:
        return events

    @step
    def take(ev: Part) -> Done | StopEvent | None:
        nonlocal taken
        taken += 1
        if taken % size:
            return None
        return StopEvent(result=taken) if taken % (size * batches) == 0 else Done(taken)

    async def with_deque() -> None:
        result: Any = Done(0)
        waiting: deque[Part] = deque()
        while isinstance(result, Done):
            for event in spread(result):
                waiting.append(event)
            while waiting:
                result = take(waiting.popleft())
        assert isinstance(result, StopEvent)

    return Workflow(f"queue of {size}", [spread, take]), with_deque


def check_queue(gate: Gate, size: int, batches: int, rounds: int) -> None:
    workflow, with_deque = queue_of(size, batches)

    async def ours() -> None:
        assert (await workflow.run()).result % (size * batches) == 0

    compared = gate.run(lambda: gate.compare(ours, with_deque, rounds=rounds))
    gate.check(f"{size:,} queued events / a deque", compared, 1.3, limit=1.6)


def test_a_hundred_queued_events(gate: Gate) -> None:
    check_queue(gate, 100, 300, 20)


def test_ten_thousand_queued_events(gate: Gate) -> None:
    check_queue(gate, 10_000, 3, 20)


def test_a_million_queued_events(gate: Gate) -> None:
    check_queue(gate, 1_000_000, 1, 5)
