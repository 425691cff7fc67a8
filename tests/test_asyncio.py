"""Workflows in asyncio: what comes back, what a cancellation does from each side, and that nothing is left behind."""

from __future__ import annotations

import asyncio
import builtins
import concurrent.futures
import contextvars
import gc
import os
import subprocess
import sys
import threading
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import sniffio
import trio
from in_asyncio import in_asyncio

import blazen.asyncio as ba
from blazen import (
    Context,
    Event,
    InputRequestEvent,
    ProgressEvent,
    Snapshot,
    SqliteStore,
    StartEvent,
    StepRecord,
    StopEvent,
    Workflow,
    step,
)
from blazen.asyncio import guest as guest_module
from blazen.errors import BlazenWarning, CancelledError, InternalError, TimeoutError, ValidationError, WorkflowError

ROOT = Path(__file__).resolve().parent.parent


@pytest.fixture(params=["ours", "trio's"], autouse=True)
def guest_mode(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """Who waits for trio's I/O: the asyncio loop, or the thread of trio's own guest mode, as with an unknown trio."""
    if request.param == "trio's":
        monkeypatch.setattr(guest_module, "_has_inside", lambda *_: False)
    return str(request.param)


def workflow_of(*steps: Callable[..., Any], **options: Any) -> Workflow[Any]:
    return Workflow("w", steps, **options)


class Number(Event):
    n: int


class Typed(StartEvent):
    n: int


class Go(Event):
    pass


class Unwanted(Event):
    pass


@step
async def answer(ev: StartEvent) -> StopEvent:
    await trio.sleep(0)
    return StopEvent(result=ev.data)


echo: Workflow[Any] = Workflow("echo", [answer])


class Log:
    """A workflow whose one step sleeps for ever, and what that step has gone through."""

    def __init__(self) -> None:
        self.said: list[str] = []

        @step
        async def sleep(ctx: Context, ev: StartEvent) -> StopEvent:
            self.said.append("began")
            try:
                await trio.sleep_forever()
            finally:
                self.said.append("told")
                async with ctx.cleanup():
                    await trio.sleep(0.02)
                self.said.append("out")
            return StopEvent()

        self.workflow: Workflow[Any] = Workflow("sleeper", [sleep])

    async def begun(self) -> None:
        while "began" not in self.said:
            await asyncio.sleep(0.001)


# ---- what comes back


@in_asyncio
async def test_a_run_gives_its_result() -> None:
    value = object()
    assert (await ba.run(echo, value)).result is value
    assert (await ba.run(echo, n=1)).result == {"n": 1}
    assert (await ba.run(echo)).result is None


@in_asyncio
async def test_input_that_does_not_fit_is_refused_before_a_step_runs() -> None:
    @step
    async def never(ev: Typed) -> StopEvent:
        raise AssertionError

    workflow: Workflow[Any] = Workflow("typed", [never])
    for wrong in ({"n": "x"}, {}):
        with pytest.raises(ValidationError, match="Typed"):
            await ba.run(workflow, wrong)
        with pytest.raises(ValidationError, match="Typed"):
            _ = ba.run_with_handler(workflow, wrong)
    with pytest.raises(ValidationError, match="not both"):
        await ba.run(workflow, 1, n=1)


@in_asyncio
async def test_what_is_no_workflow_is_refused() -> None:
    with pytest.raises(ValidationError, match=r"blazen.asyncio.run\(\) takes a workflow first, got 3"):
        await ba.run(3)  # type: ignore[arg-type]
    with pytest.raises(ValidationError, match="takes a workflow first"):
        _ = ba.run_with_handler(None)  # type: ignore[arg-type]
    with pytest.raises(ValidationError, match="takes a workflow first"):
        _ = ba.resume("echo", None)  # type: ignore[arg-type]
    with pytest.raises(ValidationError, match="resume takes a Snapshot"):
        _ = ba.resume(echo, b"bytes")  # type: ignore[arg-type]


def test_outside_of_asyncio_it_is_refused() -> None:
    with pytest.raises(ValidationError, match=r"outside of a running asyncio loop"):
        _ = ba.run_with_handler(echo)
    with pytest.raises(ValidationError, match=r"outside of a running asyncio loop"):
        trio.run(ba.run, echo)


@in_asyncio
async def test_a_trio_step_is_pointed_to_the_methods_of_the_workflow() -> None:
    @step
    async def nested(ev: StartEvent) -> StopEvent:
        with pytest.raises(ValidationError, match="called by a trio task: use the method of the workflow"):
            await ba.run(echo)
        return StopEvent(result=(await echo.run(7)).result)

    assert (await ba.run(Workflow("outer", [nested]))).result == 7


@in_asyncio
async def test_the_methods_of_a_workflow_point_here() -> None:
    with pytest.raises(ValidationError, match=r"in asyncio use blazen\.asyncio\.run\(workflow, ...\)"):
        await echo.run(1)
    await ba.run(echo)  # now trio is a guest in this loop
    with pytest.raises(ValidationError, match=r"in asyncio use blazen\.asyncio\.run\(workflow, ...\)"):
        await echo.run(1)
    with pytest.raises(ValidationError, match=r"inside a running asyncio loop; use `await blazen\.asyncio\.run"):
        echo.run_sync(1)
    assert (await asyncio.to_thread(echo.run_sync, 5)).result == 5


@in_asyncio
async def test_an_error_comes_out_as_under_trio() -> None:
    @step
    async def fail(ev: StartEvent) -> StopEvent:
        await trio.sleep(0)
        raise ev.error

    workflow: Workflow[Any] = Workflow("fails", [fail])
    error = ValueError("wrong")
    with pytest.raises(WorkflowError, match="step 'fail' of workflow 'fails' failed") as caught:
        await ba.run(workflow, error=error)
    assert caught.value.__cause__ is error
    group = ExceptionGroup("two", [ValueError(1), OSError(2)])
    with pytest.raises(WorkflowError) as caught:
        await ba.run(workflow, error=group)
    assert caught.value.__cause__ is group


@in_asyncio
async def test_a_timeout_of_the_workflow_is_blazens() -> None:
    log = Log()
    with pytest.raises(TimeoutError, match=r"'sleeper' was over its timeout of 0\.03 s") as caught:
        await ba.run(log.workflow.options(timeout=0.03))
    assert caught.value.step is None
    assert log.said == ["began", "told", "out"]


@pytest.mark.parametrize("error", [SystemExit(3), KeyboardInterrupt()], ids=repr)
def test_what_is_no_exception_comes_out_of_the_loop_as_itself(error: BaseException) -> None:
    log: list[str] = []

    @step
    async def start(ev: StartEvent) -> list[Number]:
        return [Number(n=1), Number(n=2)]

    @step
    async def work(ev: Number) -> StopEvent:
        if ev.n == 2:
            await trio.sleep(0.01)
            raise error
        try:
            await trio.sleep_forever()
        finally:
            log.append("out")
        return StopEvent()

    with pytest.raises(type(error)) as caught:
        asyncio.run(ba.run(workflow_of(start, work)))
    assert caught.value is error
    assert log == ["out"]


@in_asyncio
async def test_steps_see_the_callers_context_variables_and_keep_what_they_set() -> None:
    name: contextvars.ContextVar[str] = contextvars.ContextVar("name")

    @step
    async def look(ev: StartEvent) -> StopEvent:
        seen = name.get()
        name.set("the step's")
        await trio.sleep(0)
        return StopEvent(result=(seen, name.get()))

    workflow: Workflow[Any] = Workflow("w", [look])

    async def call(value: str) -> None:
        name.set(value)
        assert (await ba.run(workflow)).result == (value, "the step's")
        async with ba.run_with_handler(workflow) as handler:
            assert (await handler.result()).result == (value, "the step's")
        assert name.get() == value

    await asyncio.gather(*[call(str(n)) for n in range(20)])


@in_asyncio
async def test_libraries_see_which_loop_they_are_in() -> None:
    @step
    async def look(ev: StartEvent) -> StopEvent:
        before = sniffio.current_async_library()
        await trio.sleep(0.001)
        return StopEvent(result=[before, sniffio.current_async_library()])

    running = asyncio.create_task(ba.run(workflow_of(look)))
    while not running.done():
        assert sniffio.current_async_library() == "asyncio"
        await asyncio.sleep(0)
    assert (await running).result == ["trio", "trio"]


@in_asyncio
async def test_async_generators_belong_to_the_loop_they_began_in() -> None:
    closed: list[str] = []

    async def generator() -> AsyncIterator[int]:
        try:
            yield 1
        finally:
            closed.append(sniffio.current_async_library())

    @step
    async def abandon(ev: StartEvent) -> StopEvent:
        async for _ in generator():
            break
        gc.collect()
        await trio.sleep(0.01)
        return StopEvent()

    with pytest.warns(ResourceWarning, match="was garbage collected"):
        await ba.run(Workflow("w", [abandon]))
    assert closed == ["trio"]
    async for _ in generator():
        break
    gc.collect()
    await asyncio.sleep(0.01)
    assert closed == ["trio", "asyncio"]


# ---- cancelled from outside


@in_asyncio
async def test_a_cancelled_caller_hears_of_it_once_the_step_is_out() -> None:
    log = Log()
    task = asyncio.create_task(ba.run(log.workflow))
    await log.begun()
    task.cancel("enough")
    with pytest.raises(asyncio.CancelledError, match="enough"):
        await task
    assert log.said == ["began", "told", "out"]
    assert task.cancelled()


@in_asyncio
async def test_a_timeout_of_asyncio_is_asyncios() -> None:
    log = Log()
    task = asyncio.current_task()
    assert task is not None
    with pytest.raises(builtins.TimeoutError) as caught:
        async with asyncio.timeout(0.03):
            await ba.run(log.workflow)
    assert type(caught.value) is not TimeoutError
    assert log.said == ["began", "told", "out"]
    assert task.cancelling() == 0
    assert (await ba.run(echo, 1)).result == 1  # the task is as good as new


@in_asyncio
async def test_nested_timeouts_end_at_their_own_level() -> None:
    log = Log()
    inner_ended = False

    async def outer() -> None:
        nonlocal inner_ended
        async with asyncio.timeout(0.03):
            async with asyncio.timeout(10):
                await ba.run(log.workflow)
            inner_ended = True

    with pytest.raises(builtins.TimeoutError):
        await outer()
    assert not inner_ended
    assert log.said == ["began", "told", "out"]


@in_asyncio
async def test_a_task_group_waits_for_the_steps_of_its_other_tasks() -> None:
    log = Log()

    async def fail() -> None:
        await log.begun()
        raise ValueError("of the sibling")

    async def both() -> None:
        async with asyncio.TaskGroup() as group:
            group.create_task(ba.run(log.workflow))
            group.create_task(fail())

    with pytest.raises(ExceptionGroup) as caught:
        await both()
    assert [repr(error) for error in caught.value.exceptions] == ["ValueError('of the sibling')"]
    assert log.said == ["began", "told", "out"]


@in_asyncio
async def test_a_second_cancellation_does_not_hurry_the_step() -> None:
    log = Log()
    task = asyncio.create_task(ba.run(log.workflow))
    await log.begun()
    task.cancel("first")
    await asyncio.sleep(0.005)
    assert log.said == ["began", "told"]
    task.cancel("second")
    with pytest.raises(asyncio.CancelledError):
        await task
    assert log.said == ["began", "told", "out"]
    assert task.cancelling() == 2


@in_asyncio
async def test_a_run_cancelled_before_its_task_began_runs_no_step() -> None:
    log = Log()
    task = asyncio.create_task(ba.run(log.workflow))
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert log.said == []


@in_asyncio
async def test_a_run_that_ends_well_although_its_caller_was_cancelled_is_cancelled_for_the_caller() -> None:
    ended = []

    @step
    async def finish(ev: StartEvent) -> StopEvent:
        with trio.CancelScope(shield=True):
            await trio.sleep(0.02)
        ended.append(1)
        return StopEvent()

    task = asyncio.create_task(ba.run(workflow_of(finish)))
    await asyncio.sleep(0.005)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert ended == [1]


@in_asyncio
async def test_a_failure_that_the_cancellation_has_overtaken_is_its_context() -> None:
    @step(run="thread")
    def work(ev: StartEvent) -> StopEvent:
        release.wait()
        raise ValueError("late")

    release = threading.Event()
    task = asyncio.create_task(ba.run(workflow_of(work, timeout=0.01)))
    await asyncio.sleep(0.05)  # the run fails, and waits for its thread
    task.cancel()
    await asyncio.sleep(0)
    release.set()
    with pytest.raises(asyncio.CancelledError) as caught:
        await task
    assert isinstance(caught.value.__context__, TimeoutError)


def test_what_is_no_exception_comes_before_the_cancellation() -> None:
    @step
    async def exit_when_told(ev: StartEvent) -> StopEvent:
        try:
            await trio.sleep_forever()
        finally:
            raise SystemExit(2)

    async def main() -> None:
        task = asyncio.create_task(ba.run(workflow_of(exit_when_told)))
        await asyncio.sleep(0.005)
        task.cancel()
        await asyncio.sleep(1)

    with pytest.raises(SystemExit):
        asyncio.run(main())


@in_asyncio
async def test_a_thread_step_is_told_when_the_caller_is_cancelled() -> None:
    told = threading.Event()

    @step(run="thread")
    def work(ctx: Context, ev: StartEvent) -> StopEvent:
        while not ctx.cancelled:
            told.wait(0.001)
        told.set()
        return StopEvent()

    task = asyncio.create_task(ba.run(workflow_of(work)))
    await asyncio.sleep(0.02)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert told.is_set()


@in_asyncio
async def test_each_of_many_runs_can_be_cancelled_alone() -> None:
    logs = [Log() for _ in range(64)]
    tasks = [asyncio.create_task(ba.run(log.workflow)) for log in logs]
    for log in logs:
        await log.begun()
    for task in tasks[::2]:
        task.cancel()
    await asyncio.wait(tasks[::2])
    assert all(task.cancelled() for task in tasks[::2])
    assert all(log.said == ["began", "told", "out"] for log in logs[::2])
    assert all(log.said == ["began"] and not task.done() for log, task in zip(logs[1::2], tasks[1::2], strict=True))
    for task in tasks[1::2]:
        task.cancel()
    await asyncio.wait(tasks)
    assert all(log.said == ["began", "told", "out"] for log in logs)


# ---- a handler


@in_asyncio
async def test_the_stream_reaches_each_reader_slow_ones_too() -> None:
    @step
    async def show(ctx: Context, ev: StartEvent) -> StopEvent:
        for n in range(100):
            ctx.write_event_to_stream(ProgressEvent(n))
            if n % 10 == 0:
                await trio.sleep(0.001)
        return StopEvent(result="shown")

    async def read(pause: float, buffer: int | None = None) -> list[float]:
        seen: list[float] = []
        async for event in handler.stream_events(buffer=buffer):
            assert isinstance(event, ProgressEvent)
            seen.append(event.current)
            if pause and event.current % 20 == 0:
                await asyncio.sleep(pause)
        return seen

    async with ba.run_with_handler(workflow_of(show)) as handler:
        quick, slow, lossy = await asyncio.gather(read(0), read(0.01), read(0.01, buffer=5))
        assert quick == slow == list(range(100))
        assert lossy[-1] == 99
        assert len(lossy) < 100
        assert await read(0) == list(range(100))  # late
        assert handler.state == "completed"
        assert (await handler.result()).result == "shown"


@in_asyncio
async def test_reading_lets_others_have_their_turn() -> None:
    @step
    async def show(ctx: Context, ev: StartEvent) -> StopEvent:
        for n in range(50_000):
            ctx.write_event_to_stream(ProgressEvent(n))
        return StopEvent()

    turns = 0

    async def count() -> None:
        nonlocal turns
        while True:
            turns += 1
            await asyncio.sleep(0)

    async with ba.run_with_handler(workflow_of(show)) as handler:
        await handler.result()
        counting = asyncio.create_task(count())
        await asyncio.sleep(0)
        before = turns
        async for _ in handler.stream_events():
            pass
        assert turns > before
        counting.cancel()
        await asyncio.wait([counting])


@in_asyncio
async def test_a_reader_that_is_cancelled_disturbs_nobody() -> None:
    log = Log()
    async with ba.run_with_handler(log.workflow) as handler:

        async def read() -> None:
            async for _ in handler.stream_events():
                pass

        reader = asyncio.create_task(read())
        await log.begun()
        await asyncio.sleep(0)
        reader.cancel()
        await asyncio.wait([reader])
        assert reader.cancelled()
        assert handler.state == "running"
        handler.cancel()
    assert log.said == ["began", "told", "out"]


@in_asyncio
async def test_lifecycle_records_come_on_request() -> None:
    async with ba.run_with_handler(echo, 1) as handler:
        records = [record async for record in handler.stream_events(lifecycle=True)]
    assert [record.kind for record in records if isinstance(record, StepRecord)] == ["started", "finished"]


@in_asyncio
async def test_the_result_may_be_awaited_by_many_and_given_up_by_each() -> None:
    release = trio.Event()

    @step
    async def wait(ev: StartEvent) -> StopEvent:
        await release.wait()
        return StopEvent(result=5)

    async with ba.run_with_handler(workflow_of(wait)) as handler:
        waiting = [asyncio.create_task(handler.result()) for _ in range(5)]
        await asyncio.sleep(0.005)
        waiting[0].cancel()
        with pytest.raises(asyncio.CancelledError):
            await waiting[0]
        with pytest.raises(builtins.TimeoutError):
            await asyncio.wait_for(handler.result(), 0.01)
        assert handler.state == "running"
        handler._guest.to_trio(release.set)
        assert [result.result for result in await asyncio.gather(*waiting[1:])] == [5] * 4
    assert (await handler.result()).result == 5


@in_asyncio
async def test_leaving_the_block_waits_for_the_run_and_raises_what_it_failed_with() -> None:
    ended = []

    @step
    async def work(ev: StartEvent) -> StopEvent:
        await trio.sleep(0.02)
        ended.append(1)
        if ev.data == "fail":
            raise ValueError("late")
        return StopEvent()

    workflow: Workflow[Any] = Workflow("w", [work])
    async with ba.run_with_handler(workflow) as handler:
        pass
    assert ended == [1]
    assert handler.state == "completed"
    with pytest.raises(WorkflowError, match="late"):
        async with ba.run_with_handler(workflow, "fail") as handler:
            pass
    assert handler.state == "failed"
    async with ba.run_with_handler(workflow, "fail") as handler:
        with pytest.raises(WorkflowError, match="late"):
            await handler.result()


@in_asyncio
async def test_an_exception_leaves_the_block_unchanged_once_the_steps_are_out() -> None:
    log = Log()
    error = ValueError("mine")
    handler = ba.run_with_handler(log.workflow)

    async def main() -> None:
        async with handler:
            await log.begun()
            raise error

    with pytest.raises(ValueError, match="mine") as caught:
        await main()
    assert caught.value is error
    assert log.said == ["began", "told", "out"]
    assert handler.state == "cancelled"


@in_asyncio
async def test_a_failure_nobody_asked_for_is_warned_of_when_the_block_raises() -> None:
    @step
    async def fail(ev: StartEvent) -> StopEvent:
        raise OSError("the run's")

    async def main() -> None:
        async with ba.run_with_handler(workflow_of(fail)) as handler:
            while handler.state == "running":
                await asyncio.sleep(0)
            raise ValueError("the block's")

    said = "a run failed while its block was left by another exception"
    with pytest.warns(BlazenWarning, match=said), pytest.raises(ValueError, match="the block's"):
        await main()


@pytest.mark.parametrize("where", ["in the block", "leaving"])
@in_asyncio
async def test_a_block_that_is_cancelled_cancels_the_run(where: str) -> None:
    log = Log()

    async def main() -> None:
        async with ba.run_with_handler(log.workflow):
            if where == "in the block":
                await asyncio.sleep(60)

    task = asyncio.create_task(main())
    await log.begun()
    await asyncio.sleep(0)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert log.said == ["began", "told", "out"]
    assert task.cancelling() == 1


@in_asyncio
async def test_a_block_that_is_cancelled_while_an_exception_leaves_it() -> None:
    log = Log()

    async def main() -> None:
        async with ba.run_with_handler(log.workflow):
            await log.begun()
            raise ValueError("mine")

    task = asyncio.create_task(main())
    while "told" not in log.said:
        await asyncio.sleep(0)
    task.cancel()
    with pytest.raises(asyncio.CancelledError) as caught:
        await task
    assert isinstance(caught.value.__context__, ValueError)
    assert log.said == ["began", "told", "out"]


@in_asyncio
async def test_a_run_cancelled_by_its_handler_raises_blazens_error() -> None:
    log = Log()
    async with ba.run_with_handler(log.workflow) as handler:
        await log.begun()
        handler.cancel("enough")
        handler.cancel("again")
        with pytest.raises(CancelledError) as caught:
            await handler.result()
        assert caught.value.reason == "enough"
        assert not isinstance(caught.value, asyncio.CancelledError)
    assert log.said == ["began", "told", "out"]
    assert handler.state == "cancelled"


@in_asyncio
async def test_a_step_is_cancelled_alone() -> None:
    log = Log()

    @step
    async def start(ev: StartEvent) -> list[Number | Go]:
        return [Number(n=1), Go()]

    @step
    async def sleep(ev: Number) -> StopEvent:
        log.said.append("began")
        await trio.sleep_forever()
        return StopEvent(result="never")

    @step(name="go")
    async def go(ctx: Context, ev: Go) -> StopEvent:
        while not log.said:
            await trio.sleep(0)
        await ctx.wait_for_event(Number)
        return StopEvent(result="gone on")

    async with ba.run_with_handler(workflow_of(start, sleep, go)) as handler:
        await log.begun()
        handler.cancel_step("sleep")
        with pytest.raises(ValidationError, match="has no step 'walk'"):
            handler.cancel_step("walk")
        await asyncio.sleep(0.005)
        handler.send_event(Number(n=2))
        assert (await handler.result()).result == "gone on"


@in_asyncio
async def test_questions_are_answered() -> None:
    @step
    async def ask(ctx: Context, ev: StartEvent) -> StopEvent:
        return StopEvent(result=await ctx.request_input("how many?", schema=int))

    async with ba.run_with_handler(workflow_of(ask)) as handler:
        async for event in handler.stream_events():
            assert isinstance(event, InputRequestEvent)
            assert handler.state == "waiting"
            assert [question.prompt for question in handler.pending_inputs()] == ["how many?"]
            with pytest.raises(ValidationError, match="does not fit"):
                handler.respond_to_input(event.request_id, "many")
            with pytest.raises(ValidationError, match="no open question"):
                handler.respond_to_input("other", 3)
            handler.respond_to_input(event.request_id, 3)
        assert (await handler.result()).result == 3


@in_asyncio
async def test_a_run_is_paused_and_goes_on_here_and_elsewhere() -> None:
    @step
    async def ask(ctx: Context, ev: StartEvent) -> StopEvent:
        ctx.set("attempts", ctx.get("attempts", 0) + 1)
        return StopEvent(result=(await ctx.request_input("?"), ctx.get("attempts")))

    workflow: Workflow[Any] = Workflow("asks", [ask])
    async with ba.run_with_handler(workflow) as handler:
        while not handler.pending_inputs():
            await asyncio.sleep(0)
        disturbing_nothing = await handler.snapshot()
        snapshot = await handler.pause()
        assert handler.state == "paused"
        handler.resume_in_place()
        with pytest.raises(ValidationError, match="is not paused"):
            handler.resume_in_place()
        handler.respond_to_input(handler.pending_inputs()[0].request_id, "here")
        assert (await handler.result()).result == ("here", 1)
    with pytest.raises(ValidationError, match="has ended"):
        await handler.pause()
    read = Snapshot.from_bytes(snapshot.to_bytes())
    async with ba.resume(workflow, read) as handler:
        handler.respond_to_input(handler.pending_inputs()[0].request_id, "there")
        assert (await handler.result()).result == ("there", 2)

    def under_trio() -> Any:
        async def main() -> Any:
            async with workflow.resume(Snapshot.from_bytes(disturbing_nothing.to_bytes())) as handler:
                handler.respond_to_input(handler.pending_inputs()[0].request_id, "trio")
                return (await handler.result()).result

        return trio.run(main)

    assert await asyncio.to_thread(under_trio) == ("trio", 2)


@in_asyncio
async def test_leaving_a_paused_run_lets_go_of_it() -> None:
    log = Log()
    async with ba.run_with_handler(log.workflow) as handler:
        await log.begun()
        await handler.pause(abort=True)
    assert handler.state == "cancelled"
    assert log.said == ["began", "told", "out"]


@in_asyncio
async def test_events_come_from_any_thread_and_any_number_at_once() -> None:
    @step
    async def wait(ctx: Context, ev: StartEvent) -> None:
        await ctx.wait_for_event(Go)

    @step
    async def count(ctx: Context, ev: Number) -> StopEvent | None:
        ctx.set("sum", ctx.get("sum", 0) + ev.n)
        ctx.set("seen", ctx.get("seen", 0) + 1)
        return StopEvent(result=ctx.get("sum")) if ctx.get("seen") == 6_000 else None

    async with ba.run_with_handler(workflow_of(wait, count)) as handler:
        for n in range(3_000):  # more than there is room for messages of other threads
            handler.send_event(Number(n=n))
        with pytest.raises(WorkflowError, match="no step of workflow 'w' accepts"):
            handler.send_event(Unwanted())
        with pytest.raises(ValidationError, match="takes an event"):
            handler.send_event("go")  # type: ignore[arg-type]

        def send() -> None:
            for n in range(3_000):
                handler.send_event(Number(n=n))

        await asyncio.to_thread(send)
        assert (await handler.result()).result == 2 * sum(range(3_000))
        with pytest.raises(ValidationError, match="has ended"):
            handler.send_event(Number(n=1))


@in_asyncio
async def test_a_run_is_cancelled_from_another_thread() -> None:
    log = Log()
    async with ba.run_with_handler(log.workflow) as handler:
        await log.begun()
        await asyncio.to_thread(handler.cancel, "from a thread")
        with pytest.raises(CancelledError, match="from a thread"):
            await handler.result()


@in_asyncio
async def test_a_handler_is_entered_once_and_in_its_loop() -> None:
    handler = ba.run_with_handler(echo)
    with pytest.raises(ValidationError, match="has not begun"):
        handler.cancel()
    with pytest.raises(ValidationError, match=r"is used as `async with blazen.asyncio.run_with_handler"):
        await handler
    async with handler:
        with pytest.raises(ValidationError, match="entered once"):
            _ = await handler.__aenter__()

        def elsewhere() -> None:
            with pytest.raises(ValidationError, match="awaited in another event loop"):
                asyncio.run(handler.result())

        await asyncio.to_thread(elsewhere)
    assert repr(handler) == "<blazen.RunHandler of 'echo', completed>"
    assert len(handler.run_id) == 36

    def enter_elsewhere() -> None:
        async def main() -> None:
            _ = await other.__aenter__()

        with pytest.raises(ValidationError, match="in the asyncio loop that it was made in"):
            asyncio.run(main())

    other = ba.run_with_handler(echo)
    await asyncio.to_thread(enter_elsewhere)


@in_asyncio
async def test_a_run_is_recorded() -> None:
    result = await ba.run(echo.options(record=True), 1)
    assert result.record is not None
    async with ba.run_with_handler(echo.options(record=True), 1) as handler:
        await handler.result()
        assert handler.record is not None
        assert handler.record.state == "completed"
    async with ba.run_with_handler(echo, 1) as handler:
        assert handler.record is None


@in_asyncio
async def test_a_run_is_stored_and_gone_on_with_by_its_id(tmp_path: Path) -> None:
    name: contextvars.ContextVar[str] = contextvars.ContextVar("name")

    @step
    async def ask(ctx: Context, ev: StartEvent) -> StopEvent:
        return StopEvent(result=await ctx.request_input("?"))

    @step
    async def look(ev: StartEvent) -> StopEvent:
        return StopEvent(result=name.get())

    name.set("the caller's")
    with SqliteStore(tmp_path / "runs.db") as store:
        assert (await ba.run(Workflow("looks", [look]).options(store=store))).result == "the caller's"
        asks: Workflow[Any] = Workflow("asks", [ask]).options(store=store)
        async with ba.run_with_handler(asks) as handler:
            while not handler.pending_inputs():
                await asyncio.sleep(0.001)
            await handler.pause()
        async with ba.resume(asks, handler.run_id) as handler:
            while not handler.pending_inputs():
                await asyncio.sleep(0.001)
            handler.respond_to_input(handler.pending_inputs()[0].request_id, "later")
            assert (await handler.result()).result == "later"
        runs = await ba.call(store.runs)
        assert sorted(run.state for run in runs) == ["completed", "completed"]


@in_asyncio
async def test_any_function_of_trio_can_be_called_and_cancelled() -> None:
    name: contextvars.ContextVar[str] = contextvars.ContextVar("name", default="nobody's")
    said: list[str] = []

    async def add(a: int, b: int) -> int:
        await trio.sleep(0)
        assert name.get() == "the caller's"
        name.set("trio's")
        return a + b

    async def sleep() -> None:
        try:
            await trio.sleep_forever()
        finally:
            said.append(name.get())

    token = name.set("the caller's")
    assert await ba.call(add, 1, b=2) == 3
    assert name.get() == "the caller's"
    name.reset(token)
    with pytest.raises(builtins.TimeoutError):
        async with asyncio.timeout(0.01):
            await ba.call(sleep)
    assert said == ["nobody's"]


# ---- many, and nothing left


@in_asyncio
async def test_256_runs_at_once() -> None:
    together = 0
    all_there = trio.Event()

    @step
    async def start(ev: StartEvent) -> list[Number]:
        return [Number(n=ev.data), Number(n=ev.data + 1)]

    @step
    async def work(ctx: Context, ev: Number) -> StopEvent | None:
        nonlocal together
        together += 1
        if together == 512:
            all_there.set()
        await all_there.wait()
        both = ctx.collect_events(ev, 2)
        return None if both is None else StopEvent(result=sum(event.n for event in both))

    workflow: Workflow[Any] = Workflow("w", [start, work])
    results = await asyncio.gather(*[ba.run(workflow, n) for n in range(256)])
    assert [result.result for result in results] == [2 * n + 1 for n in range(256)]


@in_asyncio
async def test_a_long_run_does_not_hold_up_the_loop() -> None:
    @step
    async def start(ev: StartEvent) -> Number:
        return Number(n=0)

    @step
    async def count(ev: Number) -> Number | StopEvent:
        return Number(n=ev.n + 1) if ev.n < 100_000 else StopEvent()

    running = asyncio.create_task(ba.run(workflow_of(start, count)))
    turns = 0
    while not running.done():
        await asyncio.sleep(0)
        turns += 1
    assert turns > 5


def test_each_loop_of_a_process_has_its_own_trio(guest_mode: str) -> None:
    before = threading.active_count()
    for _ in range(3):
        assert asyncio.run(ba.run(echo, 1)).result == 1

    seen: dict[int, list[Any]] = {}

    def work(number: int) -> None:
        async def main() -> list[Any]:
            return [result.result for result in await asyncio.gather(*[ba.run(echo, number) for _ in range(50)])]

        seen[number] = asyncio.run(main())

    threads = [threading.Thread(target=work, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert seen == {number: [number] * 50 for number in range(4)}
    if guest_mode == "ours":  # trio's keeps threads for a while
        assert threading.active_count() == before


def test_loops_of_one_thread_take_turns_and_leave_it_to_trio() -> None:
    first, second = asyncio.new_event_loop(), asyncio.new_event_loop()
    try:
        for loop in (first, second, first, second):
            assert loop.run_until_complete(ba.run(echo, 1)).result == 1
            assert trio.run(echo.run, 2).result == 2
            assert echo.run_sync(3).result == 3
    finally:
        first.close()
        second.close()
    assert first.is_closed()
    assert "close" not in vars(first)
    assert not trio.lowlevel.in_trio_run()


def test_closing_a_loop_cancels_what_runs_in_it_and_waits_for_the_steps() -> None:
    log = Log()
    loop = asyncio.new_event_loop()
    task = loop.create_task(ba.run(log.workflow))
    loop.run_until_complete(log.begun())
    loop.close()
    assert log.said == ["began", "told", "out"]
    with pytest.raises(asyncio.CancelledError, match="the event loop is closed"):
        task.result()
    loop.close()  # again


def test_a_loop_is_closed_by_another_thread_than_the_one_it_ran_in() -> None:
    log = Log()
    loop = asyncio.new_event_loop()
    thread = threading.Thread(target=loop.run_forever)
    thread.start()
    assert asyncio.run_coroutine_threadsafe(ba.run(echo, 1), loop).result().result == 1
    running = asyncio.run_coroutine_threadsafe(ba.run(log.workflow), loop)
    asyncio.run_coroutine_threadsafe(log.begun(), loop).result()
    loop.call_soon_threadsafe(loop.stop)
    thread.join()
    loop.close()
    assert log.said == ["began", "told", "out"]
    with pytest.raises(concurrent.futures.CancelledError):
        running.result()


@in_asyncio
async def test_a_running_loop_cannot_be_closed_and_goes_on() -> None:
    await ba.run(echo)
    with pytest.raises(RuntimeError, match="Cannot close a running event loop"):
        asyncio.get_running_loop().close()
    assert (await ba.run(echo, 1)).result == 1


def test_asyncio_run_unwinds_what_it_leaves_behind() -> None:
    log = Log()

    async def main() -> None:
        task = asyncio.create_task(ba.run(log.workflow))
        tasks.append(task)
        await log.begun()

    tasks: list[asyncio.Task[Any]] = []
    asyncio.run(main())
    assert log.said == ["began", "told", "out"]
    assert tasks[0].cancelled()


def test_a_coroutine_that_is_dropped_cancels_its_run() -> None:
    log = Log()

    async def main() -> None:
        run = ba.run(log.workflow)
        run.send(None)  # as a loop would, and then nobody goes on with it
        await log.begun()
        run.close()
        while "out" not in log.said:
            await asyncio.sleep(0.001)

    asyncio.run(main())
    assert log.said == ["began", "told", "out"]


def test_descriptors_and_objects_are_given_back() -> None:
    def once() -> None:
        asyncio.run(ba.run(echo, 1))

    once()
    gc.collect()
    before = len(os.listdir("/proc/self/fd"))
    for _ in range(20):
        once()
    gc.collect()
    assert len(os.listdir("/proc/self/fd")) <= before
    guests = [one for one in gc.get_objects() if type(one) is guest_module.Guest and not one.over]
    assert guests == []


def test_a_trio_that_breaks_fails_the_runs_it_carries(guest_mode: str) -> None:
    if guest_mode != "ours":
        pytest.skip("about our own turns")
    log = Log()
    failed: list[BaseException | None] = []

    async def caller() -> None:
        try:
            await ba.run(log.workflow)
        except asyncio.CancelledError as exc:  # with which asyncio.run ends
            failed.append(exc.__context__)
            raise

    async def main() -> None:
        running = asyncio.create_task(caller())
        await log.begun()
        guest = guest_module.guest_of_running_loop("test")
        loop = guest._state.unrolled_run_gen
        # A Ctrl-C, the second one of an asyncio program, that comes where trio is at work itself.
        guest._state = SimpleNamespace(unrolled_run_gen=SimpleNamespace(send=lambda _: loop.throw(KeyboardInterrupt())))
        guest.inside(lambda: None)
        await running

    with pytest.raises(KeyboardInterrupt):
        asyncio.run(main())
    (broken,) = failed
    assert isinstance(broken, InternalError)
    assert isinstance(broken.__cause__, trio.TrioInternalError)
    assert not trio.lowlevel.in_trio_run()


# ---- Ctrl-C

CTRL_C = """
import asyncio, os, signal, threading, time
import trio
import blazen.asyncio as ba
from blazen import StartEvent, StopEvent, Workflow, step

def press():
    for _ in range(PRESSES):
        time.sleep(0.05)
        os.kill(os.getpid(), signal.SIGINT)

@step
async def work(ev: StartEvent) -> StopEvent:
    threading.Thread(target=press).start()
    try:
        WAIT
    finally:
        print("step out")
    return StopEvent()

async def main():
    try:
        await ba.run(Workflow("w", [work]))
    finally:
        print("caller out")

try:
    RUN
except KeyboardInterrupt:
    print("interrupted")
"""
PLAIN_LOOP = """
    loop = asyncio.new_event_loop()
    try:
        loop.run_until_complete(main())
    finally:
        loop.close()
"""


@pytest.mark.parametrize(
    ("run", "wait", "presses"),
    [
        ("asyncio.run(main())", "await trio.sleep(60)", 1),
        ("asyncio.run(main())", "while True: time.sleep(0.01)", 2),  # the first only asks the task, as in all asyncio
        (PLAIN_LOOP.strip(), "await trio.sleep(60)", 1),
        (PLAIN_LOOP.strip(), "while True: time.sleep(0.01)", 1),
    ],
    ids=["run-waits", "run-computes", "loop-waits", "loop-computes"],
)
def test_ctrl_c_cancels_the_run_and_comes_out(run: str, wait: str, presses: int, guest_mode: str) -> None:
    if guest_mode != "ours":
        pytest.skip("the process is one of its own, with our mode")
    script = CTRL_C.replace("WAIT", wait).replace("RUN", run).replace("PRESSES", str(presses))
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", script],
        cwd=ROOT,
        capture_output=True,
        encoding="utf-8",
        timeout=60,
        check=False,
    )
    lines = done.stdout.splitlines()
    assert (lines[0], lines[-1]) == ("step out", "interrupted"), done.stdout + done.stderr
    assert done.returncode == 0
    assert "Traceback" not in done.stderr, done.stderr
