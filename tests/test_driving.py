"""Who drives a run besides `await`: trio where a step awaits what is foreign to it, code that gives a coroutine up, and
tools that look at what a task waits for.
"""

from __future__ import annotations

import contextvars
import types
from collections.abc import Callable, Coroutine, Generator
from typing import Any

import pytest
import trio
from trio.testing import MockClock
from ways_to_run import every_way, run_to_end

from blazen import Context, Event, StartEvent, StopEvent, Workflow, step
from blazen.errors import WorkflowError


class Number(Event):
    pass


@types.coroutine
def await_what_is_foreign() -> Generator[object, None, None]:
    """What a library written for another event loop does."""
    yield "a future of another loop"


# ---- trio throws


@every_way
async def test_a_step_that_awaits_what_is_foreign_fails_with_what_trio_says_of_it(way: str) -> None:
    @step
    async def work(ev: StartEvent) -> StopEvent:
        await await_what_is_foreign()
        return StopEvent()

    with pytest.raises(WorkflowError, match="'work'") as caught:
        await run_to_end(way, [work])
    assert isinstance(caught.value.__cause__, TypeError)
    assert "a library written for some other framework" in str(caught.value.__cause__)


@every_way
@pytest.mark.parametrize("waits", [False, True])
async def test_a_step_may_catch_what_trio_says_of_a_foreign_await_and_go_on(
    way: str, waits: bool, autojump_clock: MockClock
) -> None:
    @step
    async def work(ev: StartEvent) -> Number:
        try:
            await await_what_is_foreign()
        except TypeError:
            if waits:
                await trio.sleep(1)
        return Number()

    @step
    async def end(ev: Number) -> StopEvent:
        await trio.sleep(1)
        return StopEvent(result=trio.current_time())

    began = trio.current_time()
    assert (await run_to_end(way, [work, end])).result - began == 1 + waits


@every_way
async def test_a_step_sees_its_context_variables_where_trio_throws(way: str) -> None:
    variable = contextvars.ContextVar("variable", default="the caller's")

    @step
    async def work(ev: StartEvent) -> StopEvent:
        variable.set("its own")
        try:
            await await_what_is_foreign()
        except TypeError:
            return StopEvent(result=variable.get())

    assert (await run_to_end(way, [work])).result == "its own"
    assert variable.get() == "the caller's"


async def test_a_step_over_its_time_whose_cleanup_awaits_what_is_foreign_is_tried_again_undisturbed(
    autojump_clock: MockClock,
) -> None:
    @step(timeout=5, retries=1)
    async def work(ctx: Context, ev: StartEvent) -> StopEvent:
        if ctx.attempt == 1:
            try:
                await trio.sleep_forever()
            finally:
                await await_what_is_foreign()
        await trio.sleep(1)
        return StopEvent(result="the second attempt")

    assert (await Workflow("w", [work]).run()).result == "the second attempt"


async def test_a_worker_whose_step_does_not_wait_has_nowhere_to_throw_to() -> None:
    @step
    def work(ctx: Context, ev: StartEvent) -> StopEvent:
        with pytest.raises(RuntimeError, match="no step of this worker waits"):
            ctx.worker.throw(KeyError)
        return StopEvent(result="went on")

    assert (await Workflow("w", [work]).run()).result == "went on"


# ---- a coroutine that is given up


@types.coroutine
def give_up_when_it_waits(coroutine: Coroutine[Any, Any, Any]) -> Generator[Any, Any, None]:
    """Await a coroutine up to where it first waits, and then no more."""
    yield coroutine.send(None)
    coroutine.close()


async def test_a_run_that_is_closed_while_its_step_waits_closes_the_step() -> None:
    variable = contextvars.ContextVar("variable", default="the caller's")
    left = []

    @step
    async def work(ev: StartEvent) -> StopEvent:
        variable.set("its own")
        try:
            await trio.lowlevel.checkpoint()
        except GeneratorExit:
            left.append(variable.get())
            raise
        return StopEvent()

    workflow = Workflow("w", [work])
    await give_up_when_it_waits(workflow.run())
    assert left == ["its own"]
    assert (await workflow.run()).result is None


async def test_a_run_that_is_closed_while_its_worker_gives_way_runs_no_further_step(autojump_clock: MockClock) -> None:
    ran = 0

    @step
    async def begin(ev: StartEvent) -> Number:
        return Number()

    @step
    async def again(ev: Number) -> Number | StopEvent:
        nonlocal ran
        ran += 1
        return ev

    await give_up_when_it_waits(Workflow("w", [begin, again]).run())
    assert 0 < ran < 10_000


# ---- tools


def names_of_awaits(task: trio.lowlevel.Task) -> list[str]:
    return [frame.f_code.co_name for frame, _ in task.iter_await_frames()]


@every_way
async def test_a_tool_that_walks_what_a_task_awaits_sees_the_step_and_what_it_waits_for(way: str) -> None:
    async def inner() -> None:
        await trio.sleep(0)

    @step
    async def ponder(ev: StartEvent) -> StopEvent:
        task = trio.lowlevel.current_task()

        def look() -> None:
            seen.extend(names_of_awaits(task))

        trio.lowlevel.current_trio_token().run_sync_soon(look)
        while not seen:
            await inner()
        return StopEvent()

    seen: list[str] = []
    await run_to_end(way, [ponder])
    assert seen[seen.index("ponder") :][:2] == ["ponder", "inner"]


# ---- what may stand for a coroutine


class Wrapped:
    """An awaitable that is no coroutine, as decorators return it."""

    def __init__(self, coroutine: Coroutine[Any, Any, Any]) -> None:
        self.coroutine = coroutine

    def __await__(self) -> Generator[Any, Any, Any]:
        return self.coroutine.__await__()


@every_way
@pytest.mark.parametrize("waits", [False, True])
async def test_on_error_may_return_any_awaitable(way: str, waits: bool) -> None:
    async def rescue(name: str) -> StopEvent:
        if waits:
            await trio.lowlevel.checkpoint()
        return StopEvent(result=name)

    handle: Callable[[Event, Exception], Any] = lambda ev, exc: Wrapped(rescue(type(exc).__name__))  # noqa: E731

    @step(on_error=handle)
    async def work(ev: StartEvent) -> StopEvent:
        raise LookupError("no")

    assert (await run_to_end(way, [work])).result == "LookupError"
