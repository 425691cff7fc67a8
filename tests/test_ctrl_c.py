"""Ctrl-C at moments that a signal from another process cannot be timed to meet; those that can are in test_run_sync.

The signal is raised in this process, in a function that trio protects from it: so it reaches the run's main task where
that task waits, as a signal does that comes while the engine works.
"""

from __future__ import annotations

import signal
from collections.abc import Awaitable, Callable, Iterator
from typing import Any

import pytest
import trio
from trio.lowlevel import enable_ki_protection, spawn_system_task
from trio.testing import wait_all_tasks_blocked

from blazen import Context, Event, StartEvent, StopEvent, Workflow, step
from blazen.errors import BlazenWarning


class Number(Event):
    pass


class Letter(Event):
    pass


@step
async def spread(ev: StartEvent) -> list[Number | Letter]:
    return [Number(), Letter()]


@pytest.fixture(autouse=True)
def default_handler() -> Iterator[None]:
    """trio delivers Ctrl-C only where Python's own handler is in place; a parent process may have taken it away."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@enable_ki_protection
def press_ctrl_c() -> None:
    signal.raise_signal(signal.SIGINT)


async def press_when_all_wait(then: Callable[[], object] | None = None) -> None:
    await wait_all_tasks_blocked()
    press_ctrl_c()
    if then is not None:
        await wait_all_tasks_blocked()
        then()


def interrupt(run: Callable[[], Awaitable[Any]], then: Callable[[], object] | None = None) -> None:
    """Call `run()` in a loop of its own, press Ctrl-C when everything waits, and see it come out alone."""

    async def main() -> None:
        spawn_system_task(press_when_all_wait, then)
        await run()

    with pytest.raises(KeyboardInterrupt):
        trio.run(main)


# ---- thread steps


def pass_through_the_loop() -> None:
    """Return when whatever has been told to the loop has reached its tasks."""
    for _ in range(5):
        trio.from_thread.run_sync(int)


def test_a_second_ctrl_c_does_not_hurry_a_thread_step_that_cleans_up() -> None:
    log = []

    @step(run="thread")
    def work(ctx: Context, ev: StartEvent) -> StopEvent:
        trio.from_thread.run_sync(press_ctrl_c)
        while not ctx.cancelled:
            pass
        log.append("told")
        trio.from_thread.run_sync(press_ctrl_c)
        pass_through_the_loop()
        log.append("cleaned up")
        return StopEvent()

    with pytest.raises(KeyboardInterrupt):
        Workflow("w", [work], cleanup_grace=1e6).run_sync()
    assert log == ["told", "cleaned up"]


def test_an_error_of_a_thread_step_that_ctrl_c_has_stopped_is_warned_of() -> None:
    @step(run="thread")
    def work(ctx: Context, ev: StartEvent) -> StopEvent:
        trio.from_thread.run_sync(press_ctrl_c)
        while not ctx.cancelled:
            pass
        pass_through_the_loop()
        raise LookupError("cleanup failed")

    with pytest.warns(BlazenWarning, match="LookupError: cleanup failed"), pytest.raises(KeyboardInterrupt):
        Workflow("w", [work], cleanup_grace=1e6).run_sync()


def test_ctrl_c_stops_a_thread_step_that_waits_for_a_free_thread() -> None:
    ran = []

    @step(run="thread")
    def work(ev: StartEvent) -> StopEvent:
        ran.append(ev)
        return StopEvent()

    async def run() -> None:
        limiter = trio.to_thread.current_default_thread_limiter()
        limiter.total_tokens = 1
        limiter.acquire_on_behalf_of_nowait("somebody else")
        await Workflow("w", [work]).run()

    interrupt(run)
    assert ran == []


# ---- while the main task is in no step


def test_ctrl_c_while_the_main_task_waits_for_work_stops_the_steps_of_others() -> None:
    left = []

    begun = trio.Event()

    @step
    async def ends(ev: Number) -> None:
        await begun.wait()

    @step
    async def waits(ev: Letter) -> StopEvent:
        begun.set()
        try:
            await trio.sleep_forever()
        finally:
            left.append("waits")
        return StopEvent()

    interrupt(Workflow("w", [spread, ends, waits]).run)
    assert left == ["waits"]


def test_ctrl_c_while_a_failed_run_unwinds_comes_out_after_its_steps_and_the_failure_is_warned_of() -> None:
    left = []
    begun, go_on = trio.Event(), trio.Event()

    @step
    async def fails(ev: Number) -> None:
        await begun.wait()
        raise LookupError("no")

    @step
    async def cleans_up(ctx: Context, ev: Letter) -> StopEvent:
        begun.set()
        try:
            await trio.sleep_forever()
        finally:
            async with ctx.cleanup():
                await go_on.wait()
            left.append("cleans_up")
        return StopEvent()

    with pytest.warns(BlazenWarning, match="LookupError: no"):
        interrupt(Workflow("w", [spread, fails, cleans_up], step_timeout=1e6, cleanup_grace=1e6).run, then=go_on.set)
    assert left == ["cleans_up"]


# ---- a handler's run


def test_ctrl_c_while_the_block_waits_for_its_run_stops_the_steps_and_comes_out_alone() -> None:
    left = []

    @step
    async def waits(ev: StartEvent) -> StopEvent:
        try:
            await trio.sleep_forever()
        finally:
            left.append("waits")
        return StopEvent()

    async def run() -> None:
        async with Workflow("w", [waits]).run_with_handler():
            pass

    interrupt(run)
    assert left == ["waits"]


# In half of all passes trio lets the block go on before the run's watchdog has left.
@pytest.mark.parametrize("attempt", range(10))
@pytest.mark.parametrize("raises", [False, True])
def test_ctrl_c_in_the_moment_a_run_ends_comes_out_of_the_block_alone(raises: bool, attempt: int) -> None:
    @step
    async def last(ev: StartEvent) -> StopEvent:
        await trio.sleep(0)
        press_ctrl_c()
        return StopEvent()

    async def main() -> None:
        async with Workflow("w", [last], timeout=1e6).run_with_handler() as handler:
            if raises:
                await handler.result()

    with pytest.raises(KeyboardInterrupt):
        trio.run(main)
