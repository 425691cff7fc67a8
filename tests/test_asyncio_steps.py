"""Steps with `run="asyncio"`: where they run, what they may do, and how they are cancelled, from each side.

Each is tried in a program on trio, where the steps run in the asyncio loop of a thread, and in one on asyncio, where
they run in the program's own loop.
"""

from __future__ import annotations

import asyncio
import builtins
import contextlib
import contextvars
import subprocess
import sys
import threading
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Any

import pytest
import trio

import blazen.asyncio as ba
from blazen import (
    Context,
    Event,
    InputRequestEvent,
    ProgressEvent,
    Retry,
    StartEvent,
    StopEvent,
    UsageEvent,
    Workflow,
    step,
)
from blazen.engine import asyncio_steps, asyncio_thread
from blazen.errors import BlazenWarning, CancelledError, TimeoutError, ValidationError, WorkflowError
from blazen.testing import cancel_everywhere, run_in_virtual_time, run_step_sync

ROOT = Path(__file__).resolve().parent.parent


class Number(Event):
    n: int = 0


class Answer(Event):
    n: int


class Letter(Event):
    pass


class Page(Event):
    pass


class Program:
    """A program that runs workflows: on trio or on asyncio."""

    def __init__(self, kind: str) -> None:
        self.kind = kind

    def main(self, main: Callable[[], Coroutine[Any, Any, Any]]) -> Any:
        return trio.run(main) if self.kind == "trio" else asyncio.run(main())

    def run(self, steps: list[Any], input: Any = None, **options: Any) -> Any:
        """The result of a workflow of these steps."""
        workflow: Workflow[Any] = Workflow("w", steps, **options)

        async def main() -> Any:
            return (await (workflow.run(input) if self.kind == "trio" else ba.run(workflow, input))).result

        return self.main(main)

    def open(self, steps: list[Any], input: Any = None, **options: Any) -> Any:
        """The handler of one, in `main`."""
        workflow: Workflow[Any] = Workflow("w", steps, **options)
        return workflow.run_with_handler(input) if self.kind == "trio" else ba.run_with_handler(workflow, input)

    async def until(self, condition: Callable[[], object]) -> None:
        while not condition():
            await (trio.sleep(0.001) if self.kind == "trio" else asyncio.sleep(0.001))


@pytest.fixture(params=["trio", "asyncio"])
def program(request: pytest.FixtureRequest) -> Program:
    return Program(request.param)


@pytest.fixture(autouse=True)
def nothing_is_left() -> Any:
    yield
    assert not asyncio_steps.anything_at_work()


# ---- where they run


def test_a_step_runs_as_a_task_of_asyncio(program: Program) -> None:
    @step
    async def start(ev: StartEvent) -> Number:
        trio.lowlevel.current_task()
        return Number(n=7)

    @step(run="asyncio")
    async def work(ev: Number) -> Page:
        task = asyncio.current_task()
        assert task is not None
        assert task.get_name() == "blazen step work"
        assert not trio.lowlevel.in_trio_task()
        await asyncio.sleep(0.001)
        seen.append((ev.n, asyncio.get_running_loop(), threading.current_thread().name))
        return Page()

    @step
    async def end(ev: Page) -> StopEvent:
        trio.lowlevel.current_task()
        return StopEvent(result="ended")

    seen: list[Any] = []
    assert program.run([start, work, end]) == "ended"
    ((n, loop, thread),) = seen
    assert n == 7
    if program.kind == "trio":
        assert thread == "blazen asyncio"
        assert program.run([start, work, end]) == "ended"
        assert seen[1][1] is loop  # the same for all runs: what steps leave in it is of use to the next
        assert Workflow("w", [start, work, end]).run_sync().result == "ended"
        assert seen[2][1] is loop
        assert not loop.is_closed()
    else:
        assert thread == threading.current_thread().name
        assert loop.is_closed()


@pytest.mark.parametrize("order", ["event", "event, ctx", "ctx, event"])
def test_the_order_of_context_and_event_is_free(program: Program, order: str) -> None:
    if order == "event":

        @step(run="asyncio")
        async def work(ev: StartEvent) -> StopEvent:
            return StopEvent(result=ev.data)

    elif order == "event, ctx":

        @step(name="work", run="asyncio")
        async def work(ev: StartEvent, ctx: Context) -> StopEvent:  # type: ignore[misc]
            return StopEvent(result=ev.data if ctx.step_name == "work" else None)

    else:

        @step(name="work", run="asyncio")
        async def work(ctx: Context, ev: StartEvent) -> StopEvent:  # type: ignore[misc]
            return StopEvent(result=ev.data if ctx.step_name == "work" else None)

    assert program.run([work], 5) == 5


def test_a_plain_def_is_refused() -> None:
    with pytest.raises(ValidationError, match="step 'work': run='asyncio' takes an async def"):

        @step(run="asyncio")  # type: ignore[type-var]
        def work(ev: StartEvent) -> StopEvent:
            return StopEvent()


def test_methods_are_steps_too(program: Program) -> None:
    class Service:
        greeting = "hello"

        @step(run="asyncio")
        async def greet(self, ev: StartEvent) -> StopEvent:
            await asyncio.sleep(0)
            return StopEvent(result=self.greeting)

    assert program.run([Service().greet]) == "hello"


def test_steps_overlap_as_far_as_their_limit_lets_them(program: Program) -> None:
    at_once = most = 0

    @step
    async def start(ev: StartEvent) -> list[Number]:
        return [Number(n=n) for n in range(20)]

    @step(run="asyncio", max_concurrency=4)
    async def work(ev: Number) -> Page:
        nonlocal at_once, most
        at_once += 1
        most = max(most, at_once)
        await asyncio.sleep(0.002)
        at_once -= 1
        return Page()

    @step
    async def join(ctx: Context, ev: Page) -> StopEvent | None:
        return None if ctx.collect_events(ev, 20) is None else StopEvent(result=most)

    assert program.run([start, work, join]) == 4


def test_context_variables_are_the_callers_and_what_is_set_stays(program: Program) -> None:
    name: contextvars.ContextVar[str] = contextvars.ContextVar("name", default="nobody's")

    @step
    async def start(ev: StartEvent) -> list[Number]:
        return [Number(n=n) for n in range(5)]

    @step(run="asyncio")
    async def work(ctx: Context, ev: Number) -> StopEvent | None:
        seen.append(name.get())
        name.set(f"the step's {ev.n}")
        await asyncio.sleep(0.001)
        assert name.get() == f"the step's {ev.n}"
        child = asyncio.create_task(asyncio.to_thread(name.get))
        assert await child == f"the step's {ev.n}"
        return None if ctx.collect_events(ev, 5) is None else StopEvent()

    seen: list[str] = []
    name.set("the caller's")
    program.run([start, work])
    assert seen == ["the caller's"] * 5
    assert name.get() == "the caller's"


def test_a_task_factory_of_the_program_is_heeded() -> None:
    made: list[asyncio.Task[Any]] = []

    def factory(loop: asyncio.AbstractEventLoop, coro: Any, **options: Any) -> Any:
        task: asyncio.Task[Any] = asyncio.Task(coro, loop=loop, **options)
        made.append(task)
        return task

    @step(run="asyncio")
    async def work(ev: StartEvent) -> StopEvent:
        return StopEvent(result=1)

    async def main() -> None:
        asyncio.get_running_loop().set_task_factory(factory)
        assert (await ba.run(Workflow("w", [work]))).result == 1

    asyncio.run(main())
    assert "blazen step work" in [task.get_name() for task in made]


# ---- how they end


def test_an_error_is_the_cause_and_groups_stay_groups(program: Program) -> None:
    @step(run="asyncio")
    async def work(ev: StartEvent) -> StopEvent:
        async def fail() -> None:
            raise ValueError("of a child")

        async with asyncio.TaskGroup() as group:
            group.create_task(fail())
            group.create_task(asyncio.sleep(60))
        return StopEvent()

    with pytest.raises(WorkflowError, match="step 'work' of workflow 'w' failed") as caught:
        program.run([work])
    assert isinstance(caught.value.__cause__, ExceptionGroup)
    assert repr(caught.value.__cause__.exceptions[0]) == "ValueError('of a child')"


def test_attempts_are_made_again_and_on_error_has_the_last_word(program: Program) -> None:
    @step(run="asyncio", retries=Retry(2, initial=0.001), on_error=lambda ev, exc: StopEvent(result=str(exc)))
    async def work(ctx: Context, ev: StartEvent) -> StopEvent:
        await asyncio.sleep(0)
        raise OSError(f"attempt {ctx.attempt}")

    assert program.run([work]) == "attempt 3"


def test_what_is_no_event_is_refused(program: Program) -> None:
    @step(run="asyncio")
    async def work(ev: StartEvent) -> StopEvent:
        return "no event"  # type: ignore[return-value]

    with pytest.raises(WorkflowError, match="step 'work' of workflow 'w' returned"):
        program.run([work])


@pytest.mark.parametrize("error", [SystemExit(3), KeyboardInterrupt()], ids=repr)
def test_what_is_no_exception_comes_out_as_itself_and_the_loop_goes_on(program: Program, error: BaseException) -> None:
    @step(run="asyncio")
    async def work(ev: StartEvent) -> StopEvent:
        if ev.data == "fail":
            raise error
        return StopEvent(result="works")

    with pytest.raises(type(error)) as caught:
        program.run([work], "fail")
    assert caught.value is error
    assert program.run([work]) == "works"


def test_a_task_cancelled_by_somebody_else_fails_the_run(program: Program) -> None:
    tries: list[int] = []

    @step(run="asyncio", retries=3, on_error=lambda ev, exc: StopEvent())
    async def work(ev: StartEvent) -> StopEvent:
        tries.append(1)
        other = asyncio.get_running_loop().create_future()
        other.cancel()
        await other
        return StopEvent()

    with pytest.raises(WorkflowError, match="step 'work' of workflow 'w' was cancelled, and not by its run") as caught:
        program.run([work])
    assert isinstance(caught.value.__cause__, asyncio.CancelledError)
    assert caught.value.step == "work"
    assert tries == [1]  # what is cancelled is not tried again


# ---- how they are cancelled


class Sleeper:
    """A step that sleeps for ever in asyncio, and what it has gone through."""

    def __init__(self, **options: Any) -> None:
        self.said: list[str] = []

        @step(run="asyncio", **options)
        async def sleep(ev: Number) -> StopEvent:
            self.said.append("began")
            try:
                await asyncio.sleep(60)
            except asyncio.CancelledError:
                self.said.append("told")
                raise
            finally:
                await asyncio.sleep(0.01)
                self.said.append("out")
            return StopEvent()

        @step
        async def start(ev: StartEvent) -> Number:
            return Number()

        self.steps: list[Any] = [start, sleep]
        self.workflow: Workflow[Any] = Workflow("w", self.steps)


OUT = ["began", "told", "out"]


def test_a_timeout_cancels_the_task(program: Program) -> None:
    sleeper = Sleeper(timeout=0.02)
    with pytest.raises(TimeoutError, match=r"step 'sleep' of workflow 'w' was over its timeout of 0\.02 s") as caught:
        program.run(sleeper.steps)
    assert caught.value.step == "sleep"
    assert 20 <= caught.value.elapsed_ms < 5_000
    assert sleeper.said == OUT


def test_a_timeout_may_be_tried_again(program: Program) -> None:
    @step(run="asyncio", timeout=0.02, retries=1)
    async def work(ctx: Context, ev: StartEvent) -> StopEvent:
        await asyncio.sleep(60 if ctx.attempt == 1 else 0)
        return StopEvent(result=ctx.attempt)

    assert program.run([work]) == 2


def test_the_runs_timeout_cancels_the_task(program: Program) -> None:
    sleeper = Sleeper()
    with pytest.raises(TimeoutError, match="workflow 'w' was over its timeout") as caught:
        program.run(sleeper.steps, timeout=0.03)
    assert caught.value.step is None
    assert sleeper.said == OUT


def test_a_sibling_that_fails_or_stops_the_run_cancels_the_task(program: Program) -> None:
    for ends in ("fails", "stops"):
        sleeper = Sleeper()

        @step
        async def end(ev: StartEvent) -> StopEvent:
            while "began" not in sleeper.said:  # noqa: B023
                await trio.sleep(0.001)
            if ends == "fails":  # noqa: B023
                raise ValueError("sibling")
            return StopEvent(result="stopped")

        if ends == "fails":
            with pytest.raises(WorkflowError, match="sibling"):
                program.run([*sleeper.steps, end])
        else:
            assert program.run([*sleeper.steps, end]) == "stopped"
        assert sleeper.said == OUT


def test_the_handler_cancels_one_step_or_the_run(program: Program) -> None:
    sleeper = Sleeper()

    @step
    async def wait(ctx: Context, ev: StartEvent) -> StopEvent:
        await ctx.wait_for_event(Page)
        return StopEvent(result="gone on")

    @step
    async def never(ev: Page) -> None:
        pass

    async def main() -> None:
        async with program.open([*sleeper.steps, wait, never]) as handler:
            await program.until(lambda: sleeper.said)
            handler.cancel_step("sleep")
            await program.until(lambda: sleeper.said == OUT)
            assert handler.state == "waiting" or handler.state == "running"
            handler.send_event(Page())
            assert (await handler.result()).result == "gone on"
        sleeper.said.clear()
        async with program.open([*sleeper.steps, wait, never]) as handler:
            await program.until(lambda: sleeper.said)
            handler.cancel("enough")
            with pytest.raises(CancelledError, match="enough"):
                await handler.result()
            assert sleeper.said == OUT

    program.main(main)


def test_the_callers_cancellation_reaches_the_task_and_waits_for_it() -> None:
    sleeper = Sleeper()

    async def in_trio() -> None:
        with trio.move_on_after(0.03) as scope:
            await sleeper.workflow.run()
        assert scope.cancelled_caught
        assert sleeper.said == OUT

    trio.run(in_trio)
    sleeper.said.clear()

    async def in_asyncio() -> None:
        with pytest.raises(builtins.TimeoutError):
            async with asyncio.timeout(0.03):
                await ba.run(sleeper.workflow)
        assert sleeper.said == OUT

    asyncio.run(in_asyncio())


def test_a_run_that_ends_before_the_task_had_its_first_turn() -> None:
    sleeper = Sleeper()

    async def main() -> None:
        async with ba.run_with_handler(sleeper.workflow) as handler:
            while not asyncio_steps.anything_at_work():
                await asyncio.sleep(0)
            handler.cancel()

    asyncio.run(main())
    assert sleeper.said in ([], OUT)


def test_cancelling_asyncios_own_tasks_at_its_end_is_a_cancellation() -> None:
    sleeper = Sleeper()

    async def main() -> None:
        running.append(asyncio.create_task(ba.run(sleeper.workflow)))
        while not sleeper.said:
            await asyncio.sleep(0.001)

    running: list[asyncio.Task[Any]] = []
    asyncio.run(main())
    assert sleeper.said == OUT
    assert running[0].cancelled()


def test_a_cancellation_that_meets_a_timeout_of_the_steps_own_is_not_lost() -> None:
    said: list[str] = []

    @step(run="asyncio")
    async def work(ctx: Context, ev: StartEvent) -> StopEvent:
        try:
            async with asyncio.timeout(0):
                ctx.send_event(Page())  # the run is over before the timeout has come
                await asyncio.sleep(60)
        except builtins.TimeoutError:
            said.append("timeout")
        await asyncio.sleep(60)
        return StopEvent()

    @step
    async def stop(ev: Page) -> StopEvent:
        return StopEvent(result="stopped")

    async def main() -> None:
        async with asyncio.timeout(10):
            assert (await ba.run(Workflow("w", [work, stop]))).result == "stopped"

    asyncio.run(main())


def test_closing_the_loop_cancels_the_task() -> None:
    sleeper = Sleeper()

    async def begun() -> None:
        while not sleeper.said:
            await asyncio.sleep(0.001)

    loop = asyncio.new_event_loop()
    running = loop.create_task(ba.run(sleeper.workflow))
    loop.run_until_complete(begun())
    loop.close()
    assert sleeper.said == OUT
    assert running.cancelled()


def test_a_task_that_shields_itself_is_named_and_waited_for(program: Program) -> None:
    @step(run="asyncio", timeout=0.02)
    async def work(ev: StartEvent) -> StopEvent:
        try:
            await asyncio.sleep(60)
        except asyncio.CancelledError:
            await asyncio.sleep(0.1)
            out.append(1)
        return StopEvent(result="too late")

    out: list[int] = []
    with pytest.warns(BlazenWarning, match="step 'work' of workflow 'w' was told to stop, shields itself from it"):
        with pytest.raises(TimeoutError):
            program.run([work], cleanup_grace=0.02)
    assert out == [1]


def test_an_error_of_the_cleanup_is_suppressed(program: Program) -> None:
    @step(run="asyncio", timeout=0.02)
    async def work(ev: StartEvent) -> StopEvent:
        try:
            await asyncio.sleep(60)
        finally:
            raise OSError("cleanup")
        return StopEvent()

    with pytest.raises(TimeoutError) as caught:
        program.run([work])
    assert [repr(error) for error in caught.value.suppressed] == ["OSError('cleanup')"]


def test_cleanup_has_its_grace_and_no_more(program: Program) -> None:
    @step(run="asyncio", timeout=0.02)
    async def work(ctx: Context, ev: StartEvent) -> StopEvent:
        try:
            await asyncio.sleep(60)
        finally:
            async with ctx.cleanup():
                await asyncio.sleep(0.001 if ev.data == "short" else 60)
                said.append("clean")
            said.append("after")
        return StopEvent()

    said: list[str] = []
    with pytest.raises(TimeoutError):
        program.run([work], "short", cleanup_grace=5)
    assert said == ["clean", "after"]
    said.clear()
    with pytest.warns(BlazenWarning, match=r"step 'work' .* was cut off in ctx.cleanup\(\) after its grace of 0.03 s"):
        with pytest.raises(TimeoutError):
            program.run([work], "long", cleanup_grace=0.03)
    assert said == ["after"]


# ---- what they ask of their run


def test_the_context_works_from_asyncio(program: Program) -> None:
    @step(run="asyncio")
    async def start(ctx: Context, ev: StartEvent) -> None:
        ctx.set("n", 1)
        await asyncio.sleep(0)
        assert ctx.get("n") == 1
        assert ctx.has("n")
        assert ctx.keys() == ["n"]
        assert ctx.state["n"] == 1
        for n in range(3_000):  # more than there is room for messages of another thread
            ctx.send_event(Number(n=n))
        ctx.send_event(Letter(), key="once")
        ctx.send_event(Letter(), key="once")
        ctx.write_event_to_stream(ProgressEvent(1))
        ctx.emit_usage(UsageEvent("p", "m", input_tokens=2))
        with pytest.raises(WorkflowError, match="no step of workflow 'w' accepts 'Page'"):
            ctx.send_event(Page())

    @step(run="asyncio")
    async def letter(ctx: Context, ev: Letter) -> None:
        ctx.set("letters", ctx.get("letters", 0) + 1)

    @step(run="asyncio", max_concurrency=100)
    async def gather(ctx: Context, ev: Number) -> StopEvent | None:
        await asyncio.sleep(0)
        numbers = ctx.collect_events(ev, 3_000)
        return None if numbers is None else StopEvent(result=[number.n for number in numbers])

    async def main() -> None:
        async with program.open([start, letter, gather]) as handler:
            shown = [event async for event in handler.stream_events()]
            result = await handler.result()
        assert result.result == list(range(3_000))
        assert [type(event) for event in shown] == [ProgressEvent, UsageEvent]
        assert result.total_input_tokens == 2

    program.main(main)


def test_child_tasks_may_use_the_context_too(program: Program) -> None:
    @step(run="asyncio", waits=[Answer])
    async def start(ctx: Context, ev: StartEvent) -> StopEvent:
        async def child(n: int) -> int:
            await asyncio.sleep(0.001)
            ctx.send_event(Number(n=n))
            answer = await ctx.wait_for_event(Answer, n=n)
            return int(answer.n)

        async with asyncio.TaskGroup() as group:
            tasks = [group.create_task(child(n)) for n in range(3)]
        return StopEvent(result=[task.result() for task in tasks])

    @step
    async def number(ev: Number) -> Answer:
        return Answer(n=ev.n)

    assert program.run([start, number]) == [0, 1, 2]


def test_questions_and_waits_hold_up_only_their_step(program: Program) -> None:
    @step(run="asyncio", timeout=0.05)
    async def ask(ctx: Context, ev: StartEvent) -> StopEvent:
        answer = await ctx.request_input("how many?", schema=int)
        letter = await ctx.wait_for_event(Number, n=answer)
        return StopEvent(result=(answer, letter.n))

    @step
    async def never(ev: Number) -> None:
        pass

    async def main() -> None:
        async with program.open([ask, never]) as handler:
            async for event in handler.stream_events():
                assert isinstance(event, InputRequestEvent)
                await program.until(lambda: handler.state == "waiting")
                await (trio.sleep(0.1) if program.kind == "trio" else asyncio.sleep(0.1))  # its clock stands still
                with pytest.raises(ValidationError, match="does not fit"):
                    handler.respond_to_input(event.request_id, "many")
                handler.respond_to_input(event.request_id, 3)
                await program.until(lambda: handler.state == "waiting")
                handler.send_event(Number(n=1))
                handler.send_event(Number(n=3))
        assert (await handler.result()).result == (3, 3)

    program.main(main)


def test_a_wait_has_its_time_and_its_default(program: Program) -> None:
    @step(run="asyncio", waits=[Letter])
    async def ask(ctx: Context, ev: StartEvent) -> StopEvent:
        answer = await ctx.request_input("?", timeout=0.01, default="none")
        with pytest.raises(TimeoutError, match=r"waited 0\.01 s for an event 'Letter'"):
            await ctx.wait_for_event(Letter, timeout=0.01)
        with pytest.raises(builtins.TimeoutError) as caught:
            async with asyncio.timeout(0.01):
                await ctx.wait_for_event(Letter)
        assert type(caught.value) is builtins.TimeoutError
        with pytest.raises(ValidationError, match="takes an event class or a type name"):
            await ctx.wait_for_event(7)  # type: ignore[call-overload]
        return StopEvent(result=answer)

    async def main() -> None:
        async with program.open([ask]) as handler:
            assert (await handler.result()).result == "none"

    program.main(main)


def test_a_step_that_waits_is_cancelled(program: Program) -> None:
    @step(run="asyncio")
    async def ask(ctx: Context, ev: StartEvent) -> StopEvent:
        try:
            await ctx.request_input("?")
        except asyncio.CancelledError:
            said.append("told")
            raise
        return StopEvent()

    said: list[str] = []

    async def main() -> None:
        async with program.open([ask]) as handler:
            await program.until(handler.pending_inputs)
            handler.cancel()
        assert said == ["told"]
        assert handler.pending_inputs() == []

    program.main(main)


def test_a_retry_is_given_the_same_answers(program: Program) -> None:
    @step(run="asyncio", retries=1)
    async def ask(ctx: Context, ev: StartEvent) -> StopEvent:
        answers = [await ctx.request_input("first?"), await ctx.request_input("second?")]
        if ctx.attempt == 1:
            raise OSError
        return StopEvent(result=answers)

    async def main() -> None:
        asked = []
        async with program.open([ask]) as handler:
            async for event in handler.stream_events():
                asked.append(event.prompt)
                handler.respond_to_input(event.request_id, event.prompt.upper())
            assert (await handler.result()).result == ["FIRST?", "SECOND?"]
        assert asked == ["first?", "second?"]

    program.main(main)


def test_a_key_is_held_over_an_await(program: Program) -> None:
    @step
    async def start(ev: StartEvent) -> list[Number | Letter]:
        return [*[Number() for _ in range(10)], *[Letter() for _ in range(10)]]

    @step(run="asyncio")
    async def count(ctx: Context, ev: Number) -> Page:
        async with ctx.edit("n", 0) as cell:
            before = cell.value
            await asyncio.sleep(0.001)
            cell.value = before + 1
        return Page()

    @step
    async def count_in_trio(ctx: Context, ev: Letter) -> Page:
        async with ctx.edit("n", 0) as cell:
            before = cell.value
            await trio.sleep(0.001)
            cell.value = before + 1
        return Page()

    @step
    async def join(ctx: Context, ev: Page) -> StopEvent | None:
        return None if ctx.collect_events(ev, 20) is None else StopEvent(result=ctx.get("n"))

    assert program.run([start, count, count_in_trio, join]) == 20


def test_an_edit_that_cannot_come_to_its_turn_is_left(program: Program) -> None:
    @step(run="asyncio")
    async def work(ctx: Context, ev: StartEvent) -> StopEvent:
        async with ctx.edit("n", 0) as cell:
            with pytest.raises(ValidationError, match="edits key 'n' already and would wait for itself"):
                async with ctx.edit("n"):
                    pass

            async def other() -> None:
                async with ctx.edit("n"):
                    raise AssertionError

            with pytest.raises(builtins.TimeoutError):
                # A task of its own: from Python 3.12 on wait_for makes none.
                await asyncio.wait_for(asyncio.create_task(other()), 0.01)
            cell.value = 1
        with contextlib.suppress(OSError):
            async with ctx.edit("n") as cell:
                cell.value = 2
                raise OSError
        async with ctx.edit("n") as cell:  # free again
            return StopEvent(result=cell.value)

    assert program.run([work]) == 1


def test_an_effect_takes_place_once_and_in_the_steps_own_task(program: Program) -> None:
    @step(run="asyncio", retries=2)
    async def charge(ctx: Context, ev: StartEvent) -> StopEvent:
        async def effect(run_id: str, key: object) -> str:
            assert asyncio.current_task() is task
            await asyncio.sleep(0.001)
            done.append((run_id, key))
            return "charged"

        async def fail() -> str:
            raise OSError("not yet")

        task = asyncio.current_task()
        if ctx.attempt == 1:
            _: str = await ctx.once("charge", lambda run_id, key: fail())
        said: str = await ctx.once("charge", lambda run_id, key: effect(run_id, key))
        assert await ctx.once("plain", lambda: 7) == 7
        with pytest.raises(ValidationError, match="once takes a function"):
            await ctx.once("charge", 7)  # type: ignore[arg-type]
        with pytest.raises(builtins.TimeoutError):
            async with asyncio.timeout(0.01):
                _ = await ctx.once("slow", lambda run_id, key: asyncio.sleep(60, "late"))
        if ctx.attempt == 2:
            raise OSError("again")
        return StopEvent(result=(said, [key for _, key in done]))

    done: list[tuple[str, object]] = []
    assert program.run([charge]) == ("charged", ["charge"])


def test_a_context_that_is_kept_cannot_wait_after_its_step(program: Program) -> None:
    kept: list[Context] = []

    @step(run="asyncio")
    async def keep(ctx: Context, ev: StartEvent) -> Number:
        kept.append(ctx)
        return Number()

    @step(run="asyncio")
    async def use(ev: Number) -> StopEvent:
        with pytest.raises(ValidationError, match=r"called after the step has ended|is called from a thread"):
            await kept[0].wait_for_event(Letter)
        return StopEvent(result="refused")

    @step
    async def never(ev: Letter) -> None:
        pass

    assert program.run([keep, use, never]) == "refused"


def test_a_pause_waits_or_puts_back(program: Program) -> None:
    sleeper = Sleeper()

    @step(run="asyncio")
    async def ask(ctx: Context, ev: StartEvent) -> StopEvent:
        return StopEvent(result=await ctx.request_input("?"))

    async def main() -> None:
        async with program.open([*sleeper.steps, ask]) as handler:
            await program.until(lambda: sleeper.said and handler.pending_inputs())
            snapshot = await handler.pause(abort=True)
            assert sleeper.said == OUT
            handler.resume_in_place()
            await program.until(lambda: sleeper.said == [*OUT, "began"])
            handler.respond_to_input(handler.pending_inputs()[0].request_id, "here")
            assert (await handler.result()).result == "here"
        workflow: Workflow[Any] = Workflow("w", [*sleeper.steps, ask])
        resumed: Any = workflow.resume(snapshot) if program.kind == "trio" else ba.resume(workflow, snapshot)
        async with resumed as handler:
            await program.until(handler.pending_inputs)
            handler.respond_to_input(handler.pending_inputs()[0].request_id, "there")
            assert (await handler.result()).result == "there"

    program.main(main)


def test_a_step_cannot_pause_its_own_run() -> None:
    @step(run="asyncio")
    async def work(ev: StartEvent) -> StopEvent:
        with pytest.raises(ValidationError, match="called by a step of the run"):
            await handlers[0].pause()
        return StopEvent(result="refused")

    handlers: list[Any] = []
    workflow: Workflow[Any] = Workflow("w", [work])

    async def main() -> None:
        async with ba.run_with_handler(workflow) as handler:
            handlers.append(handler)
            assert (await handler.result()).result == "refused"

    asyncio.run(main())


def test_a_run_is_recorded(program: Program) -> None:
    @step(run="asyncio")
    async def work(ctx: Context, ev: StartEvent) -> StopEvent:
        ctx.send_event(Number())
        await asyncio.sleep(0.001)
        return StopEvent()

    @step
    async def number(ev: Number) -> None:
        pass

    workflow: Workflow[Any] = Workflow("w", [work, number]).options(record=True)

    async def main() -> Any:
        return await (workflow.run() if program.kind == "trio" else ba.run(workflow))

    record = program.main(main).record
    assert {invocation.step for invocation in record.invocations} == {"work", "number"}


# ---- the loop of programs without one


def test_virtual_time_waits_for_asyncio() -> None:
    @step(run="asyncio", timeout=5)
    async def work(ev: StartEvent) -> StopEvent:
        await asyncio.sleep(0.02)
        return StopEvent(result="in time")

    assert run_in_virtual_time(Workflow("w", [work]).run).result == "in time"


def test_the_test_kit_runs_one_alone() -> None:
    @step(run="asyncio")
    async def ask(ctx: Context, ev: StartEvent) -> StopEvent:
        await asyncio.sleep(0.001)
        return StopEvent(result=await ctx.request_input("?"))

    @step(run="asyncio", waits=[Letter])
    async def wait(ctx: Context, ev: StartEvent) -> StopEvent:
        with pytest.raises(builtins.TimeoutError):
            await asyncio.wait_for(ctx.wait_for_event(Letter), 0.01)
        await ctx.wait_for_event(Letter)
        return StopEvent()

    assert run_step_sync(ask, StartEvent(), answers={"?": 3}).events == [StopEvent(result=3)]
    with pytest.raises(ValidationError, match="step 'wait' waits for an event 'Letter'"):
        run_step_sync(wait, StartEvent())


def test_the_test_kit_cancels_one_while_it_waits_and_when_it_goes_on() -> None:
    said: list[str] = []

    @step(run="asyncio")
    async def work(ev: StartEvent) -> StopEvent:
        try:
            await asyncio.sleep(0.001)
        finally:
            said.append("out")
        return StopEvent()

    cancelled = cancel_everywhere(Workflow("w", [work]))
    assert [checkpoint.what for checkpoint in cancelled] == ["waits", "goes on"]
    assert len(said) >= 2


def test_a_thread_with_a_loop_is_stopped_any_number_of_times() -> None:
    thread = asyncio_thread.LoopThread()
    ended: list[str] = []

    async def work() -> None:
        try:
            await asyncio.sleep(60)
        finally:
            ended.append("out")

    asyncio.run_coroutine_threadsafe(work(), thread.loop)
    asyncio.run_coroutine_threadsafe(asyncio.sleep(0.001), thread.loop).result()
    thread.stop()
    thread.stop()
    assert ended == ["out"]
    assert thread.loop.is_closed()


END = """
import asyncio, os
import trio
from blazen import StartEvent, StopEvent, Workflow, step

@step(run="asyncio")
async def work(ev: StartEvent) -> StopEvent:
    asyncio.get_running_loop().create_task(linger())
    await asyncio.sleep(0)
    return StopEvent(result=1)

async def linger():
    try:
        await asyncio.sleep(60)
    finally:
        print("lingered", os.getpid() == parent)

parent = os.getpid()
workflow = Workflow("w", [work])
assert workflow.run_sync().result == 1
if os.fork() == 0:
    assert workflow.run_sync().result == 1
else:
    os.wait()
"""


def test_the_loop_ends_with_the_process_and_a_child_makes_its_own() -> None:
    done = subprocess.run(
        [sys.executable, "-W", "error", "-W", "ignore::DeprecationWarning", "-c", END],
        cwd=ROOT,
        capture_output=True,
        encoding="utf-8",
        timeout=60,
        check=False,
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout == "lingered False\nlingered True\n"
