"""In what order events and outcomes are taken. trio shuffles its tasks on purpose; the engine's numbers decide."""

from __future__ import annotations

import random
from typing import Any

import pytest
import trio
import trio.testing
from trio.testing import MockClock

from blazen import Context, Event, StartEvent, StopEvent, Workflow, step


class Number(Event):
    n: int = 0


class Letter(Event):
    n: int = 0


class Done(Event):
    n: int = 0


# Enough that a coin thrown for each pass would betray an order left to chance.
many_times = pytest.mark.parametrize("attempt", range(10))


def spreading(count: int) -> Any:
    @step
    async def start(ev: StartEvent) -> list[Number]:
        return [Number(n=n) for n in range(count)]

    return start


def joining(count: int) -> Any:
    @step
    async def join(ctx: Context, ev: Done) -> StopEvent | None:
        found = ctx.collect_events(ev, count)
        return None if found is None else StopEvent(result=[one.n for one in found])

    return join


async def open_when_all_wait(gate: trio.Event) -> None:
    await trio.testing.wait_all_tasks_blocked()
    gate.set()


@many_times
@pytest.mark.parametrize("count", [2, 3, 10, 100])
async def test_steps_that_finish_in_one_pass_are_taken_in_the_order_of_their_events(count: int, attempt: int) -> None:
    gate = trio.Event()

    @step
    async def wait(ev: Number) -> Done:
        await gate.wait()
        return Done(n=ev.n)

    async with trio.open_nursery() as nursery:
        nursery.start_soon(open_when_all_wait, gate)
        result = await Workflow("w", [spreading(count), wait, joining(count)]).run()
    assert result.result == list(range(count))


@many_times
async def test_steps_of_different_names_are_taken_by_their_events_not_by_their_place_in_the_workflow(
    attempt: int,
) -> None:
    gate = trio.Event()

    @step
    async def start(ev: StartEvent) -> list[Number | Letter]:
        return [Number(n=0), Letter(n=1), Number(n=2), Letter(n=3)]

    @step
    async def letters(ev: Letter) -> Done:
        await gate.wait()
        return Done(n=ev.n)

    @step
    async def numbers(ev: Number) -> Done:
        await gate.wait()
        return Done(n=ev.n)

    async with trio.open_nursery() as nursery:
        nursery.start_soon(open_when_all_wait, gate)
        result = await Workflow("w", [letters, start, joining(4), numbers]).run()
    assert result.result == [0, 1, 2, 3]


@many_times
async def test_of_stop_events_in_one_pass_the_one_of_the_lowest_event_wins(attempt: int) -> None:
    gate = trio.Event()

    @step
    async def race(ev: Number) -> StopEvent:
        await gate.wait()
        return StopEvent(result=ev.n)

    async with trio.open_nursery() as nursery:
        nursery.start_soon(open_when_all_wait, gate)
        result = await Workflow("w", [spreading(5), race]).run()
    assert result.result == 0


@many_times
async def test_across_passes_time_decides_whatever_the_numbers(attempt: int, autojump_clock: MockClock) -> None:
    @step
    async def wait(ev: Number) -> Done:
        await trio.sleep(10 - ev.n)
        return Done(n=ev.n)

    assert (await Workflow("w", [spreading(10), wait, joining(10)]).run()).result == list(range(9, -1, -1))


@many_times
async def test_a_step_that_ends_without_waiting_is_taken_after_lower_ones_that_wake_in_its_pass(attempt: int) -> None:
    gate = trio.Event()

    @step
    async def start(ev: StartEvent) -> list[Number | Letter]:
        return [Number(n=0), Letter(n=1)]

    @step
    async def lower(ev: Number) -> Done:
        await gate.wait()
        return Done(n=0)

    @step
    async def higher(ev: Letter) -> Done:
        gate.set()
        return Done(n=1)

    result = (await Workflow("w", [start, lower, higher, joining(2)]).run()).result
    assert sorted(result) == [0, 1]


async def test_steps_that_do_not_wait_are_taken_in_the_order_of_their_events() -> None:
    order = []

    @step
    async def work(ev: Number) -> Done:
        order.append(ev.n)
        return Done(n=ev.n)

    assert (await Workflow("w", [spreading(1000), work, joining(1000)]).run()).result == list(range(1000))
    assert order == list(range(1000))


async def test_events_are_begun_in_the_order_they_were_queued_whoever_queued_them() -> None:
    @step
    async def start(ctx: Context, ev: StartEvent) -> list[Number]:
        ctx.send_event(Number(n=0))
        ctx.send_event(Number(n=1))
        return [Number(n=2), Number(n=3)]

    @step
    async def work(ev: Number) -> StopEvent | None:
        order.append(ev.n)
        return StopEvent() if ev.n == 3 else None

    order: list[int] = []
    await Workflow("w", [start, work]).run()
    assert order == [0, 1, 2, 3]


async def test_steps_that_accept_one_type_begin_in_the_order_of_the_workflow() -> None:
    order = []

    def taker(name: str) -> Any:
        @step(name=name)
        async def take(ev: Number) -> Done:
            order.append(name)
            return Done()

        return take

    names = ["c", "a", "d", "b"]
    await Workflow("w", [spreading(1), *map(taker, names), joining(4)]).run()
    assert order == names


async def test_a_join_of_types_gives_them_in_the_order_asked_for(autojump_clock: MockClock) -> None:
    @step
    async def start(ev: StartEvent) -> list[Number | Letter]:
        return [Number(n=1), Letter(n=2), Number(n=3)]

    @step
    async def join(ctx: Context, ev: Number | Letter) -> StopEvent | None:
        found = ctx.collect_events(ev, [Letter, Number, "Number"])
        return None if found is None else StopEvent(result=[one.n for one in found])

    assert (await Workflow("w", [start, join]).run()).result == [2, 1, 3]


async def test_a_join_of_a_number_gives_events_by_number_though_they_came_otherwise(autojump_clock: MockClock) -> None:
    @step
    async def join(ctx: Context, ev: Number) -> StopEvent | None:
        await trio.sleep(10 - ev.n)
        found = ctx.collect_events(ev, 10)
        return None if found is None else StopEvent(result=[one.n for one in found])

    assert (await Workflow("w", [spreading(10), join]).run()).result == list(range(10))


# ---- the whole trace


async def trace_of(seed: int) -> list[Any]:
    """What happens, when, in a run whose steps wait for times of a seeded generator."""
    chance = random.Random(seed)
    delays = [[chance.choice([0, 0, 1, 1, 2]) for _ in range(4)] for _ in range(30)]
    trace: list[Any] = []

    @step(max_concurrency=7, retries=2, timeout=3)
    async def work(ctx: Context, ev: Number) -> Done:
        trace.append(("begin", ev.n, ctx.attempt, trio.current_time()))
        for delay in delays[ev.n]:
            await trio.sleep(delay)
            trace.append(("go on", ev.n, trio.current_time()))
        if ev.n % 5 == 0 and ctx.attempt == 1:
            raise OSError("again")
        return Done(n=ev.n)

    @step
    async def join(ctx: Context, ev: Done) -> StopEvent | None:
        trace.append(("done", ev.n, trio.current_time()))
        found = ctx.collect_events(ev, 30)
        return None if found is None else StopEvent(result=[one.n for one in found])

    try:
        trace.append((await Workflow("w", [spreading(30), work, join]).run()).result)
    except Exception as exc:
        trace.append((type(exc), str(exc).replace(getattr(exc, "run_id", "") or "", "")))
    return trace


@pytest.mark.parametrize("seed", range(8))
def test_a_trace_repeats_under_a_seeded_scheduler_and_a_mock_clock(seed: int, monkeypatch: pytest.MonkeyPatch) -> None:
    # As trio's own test of its determinism does it.
    monkeypatch.setattr(trio._core._run, "_ALLOW_DETERMINISTIC_SCHEDULING", True)
    traces = []
    for _ in range(3):
        trio._core._run._r.seed(seed)
        traces.append(trio.run(trace_of, seed, clock=MockClock(autojump_threshold=0)))
    assert traces[0] == traces[1] == traces[2]
    assert len(traces[0]) > 30
