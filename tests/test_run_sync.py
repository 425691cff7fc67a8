"""Runs without an event loop of one's own, and Ctrl-C: with real signals, in processes of their own."""

from __future__ import annotations

import asyncio
import signal
import subprocess
import sys
import textwrap
import threading

import pytest
import trio

from blazen import Context, Event, StartEvent, StopEvent, Workflow, step
from blazen.errors import TimeoutError, ValidationError, WorkflowError


class Order(StartEvent):
    item: str


class Number(Event):
    n: int = 0


@step
async def echo(ctx: Context, ev: StartEvent) -> StopEvent:
    await trio.lowlevel.checkpoint()
    return StopEvent(result=ev.data)


ECHO = Workflow("echo", [echo])


def test_run_sync_returns_the_result_without_an_event_loop() -> None:
    result = ECHO.run_sync(name="Ada")
    assert result.result == {"name": "Ada"}
    assert len(result.run_id) == 36


def test_run_sync_takes_its_input_as_run_does() -> None:
    thing = object()
    assert ECHO.run_sync(thing).result is thing
    with pytest.raises(ValidationError, match="not both"):
        ECHO.run_sync({}, name="Ada")


def test_run_sync_validates_a_typed_input() -> None:
    @step
    async def take(ev: Order) -> StopEvent:
        return StopEvent(result=ev.item)

    workflow = Workflow("orders", [take])
    assert workflow.run_sync(item="pen").result == "pen"
    with pytest.raises(ValidationError, match="item"):
        workflow.run_sync(item=3)


def test_run_sync_raises_what_the_run_failed_with() -> None:
    @step(timeout=0.001)
    async def work(ev: StartEvent) -> StopEvent:
        if ev.data == "slow":
            await trio.sleep_forever()
        raise LookupError("no")

    workflow = Workflow("w", [work])
    with pytest.raises(WorkflowError) as failed:
        workflow.run_sync()
    assert isinstance(failed.value.__cause__, LookupError)
    with pytest.raises(TimeoutError) as timed_out:
        workflow.run_sync("slow")
    assert timed_out.value.step == "work"


def test_run_sync_lets_a_base_exception_out_as_itself() -> None:
    original = SystemExit(3)

    @step
    async def work(ev: StartEvent) -> StopEvent:
        raise original

    with pytest.raises(SystemExit) as caught:
        Workflow("w", [work]).run_sync()
    assert caught.value is original


def test_run_sync_runs_in_the_calling_thread_also_in_many_at_once() -> None:
    together = threading.Barrier(4)

    @step
    def work(ev: StartEvent) -> StopEvent:
        together.wait()
        return StopEvent(result=threading.get_ident())

    workflow = Workflow("threads", [work])
    results: dict[int, int] = {}

    def run() -> None:
        results[threading.get_ident()] = workflow.run_sync().result

    threads = [threading.Thread(target=run) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(results) == 4
    assert all(caller == runner for caller, runner in results.items())


def test_run_sync_may_follow_run_sync() -> None:
    assert [ECHO.run_sync(n).result for n in range(3)] == [0, 1, 2]


async def test_run_sync_inside_a_trio_loop_is_refused_and_names_the_way_out() -> None:
    with pytest.raises(ValidationError, match=r"'echo'.*trio.*await workflow\.run"):
        ECHO.run_sync()


async def test_run_sync_inside_a_step_is_refused() -> None:
    @step
    async def work(ev: StartEvent) -> StopEvent:
        return StopEvent(result=ECHO.run_sync())

    with pytest.raises(WorkflowError, match="run_sync") as caught:
        await Workflow("w", [work]).run()
    assert isinstance(caught.value.__cause__, ValidationError)


def test_run_sync_inside_an_asyncio_loop_is_refused_and_names_the_way_out() -> None:
    async def main() -> None:
        ECHO.run_sync()

    with pytest.raises(ValidationError, match=r"'echo'.*asyncio.*asyncio\.to_thread"):
        asyncio.run(main())


def test_run_sync_in_a_thread_of_an_asyncio_loop_works() -> None:
    async def main() -> object:
        return (await asyncio.to_thread(ECHO.run_sync, "input")).result

    assert asyncio.run(main()) == "input"


# ---- Ctrl-C

PROLOGUE = """
import signal, sys, threading, time
import trio
from blazen import Context, Event, StartEvent, StopEvent, Workflow, step

signal.signal(signal.SIGINT, signal.default_int_handler)  # whatever the parent has set

class Number(Event):
    n: int = 0

def say(*words):
    print(*words, flush=True)

def report(workflow, *args):
    try:
        say("result", workflow.run_sync(*args).result)
    except BaseException as exc:
        say("raised", type(exc).__name__)
"""


def interrupt(program: str) -> list[str]:
    """Run a program, send it SIGINT when it has said "ready", and return what it said after that."""
    process = subprocess.Popen(
        [sys.executable, "-c", PROLOGUE + textwrap.dedent(program)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
        process.send_signal(signal.SIGINT)
        said, errors = process.communicate(timeout=60)
    finally:
        process.kill()
        process.wait()
    assert errors == ""
    assert process.returncode == 0
    return said.splitlines()


def test_ctrl_c_stops_a_step_that_waits_and_its_finally_has_run() -> None:
    assert interrupt(
        """
        @step
        async def work(ev: StartEvent) -> StopEvent:
            try:
                say("ready")
                await trio.sleep_forever()
            finally:
                say("finally")

        report(Workflow("w", [work]))
        """
    ) == ["finally", "raised KeyboardInterrupt"]


def test_ctrl_c_waits_for_the_cleanup_of_all_steps() -> None:
    assert interrupt(
        """
        @step
        async def spread(ev: StartEvent) -> list[Number]:
            return [Number(n=n) for n in range(3)]

        begun = []

        @step
        async def work(ctx: Context, ev: Number) -> StopEvent:
            try:  # first of all: from "ready" on the signal may come at any moment
                begun.append(ev.n)
                if len(begun) == 3:
                    say("ready")
                await trio.sleep_forever()
            finally:
                async with ctx.cleanup():
                    await trio.lowlevel.checkpoint()
                    begun.remove(ev.n)
                if not begun:
                    say("finally")

        report(Workflow("w", [spread, work], timeout=1000))
        """
    ) == ["finally", "raised KeyboardInterrupt"]


@pytest.mark.parametrize("head", ["async def", "def"])
def test_ctrl_c_interrupts_a_step_that_never_yields(head: str) -> None:
    assert interrupt(
        f"""
        @step
        {head} work(ev: StartEvent) -> StopEvent:
            try:
                say("ready")
                while True:
                    pass
            finally:
                say("finally")

        report(Workflow("w", [work]))
        """
    ) == ["finally", "raised KeyboardInterrupt"]


@pytest.mark.parametrize("head", ["async def", "def"])
def test_ctrl_c_interrupts_an_endless_chain_of_short_steps(head: str) -> None:
    assert interrupt(
        f"""
        @step
        {head} start(ev: StartEvent) -> Number:
            say("ready")
            return Number()

        @step
        {head} work(ev: Number) -> Number | StopEvent:
            return ev

        report(Workflow("w", [start, work]))
        """
    ) == ["raised KeyboardInterrupt"]


def test_ctrl_c_tells_a_thread_step_and_waits_for_it() -> None:
    assert interrupt(
        """
        @step(run="thread")
        def work(ctx: Context, ev: StartEvent) -> StopEvent:
            try:
                say("ready")
                while True:
                    ctx.check_cancelled()
            finally:
                say("finally")

        report(Workflow("w", [work]))
        """
    ) == ["finally", "raised KeyboardInterrupt"]


def test_ctrl_c_reaches_a_run_whose_worker_waits_for_work() -> None:
    assert interrupt(
        """
        @step
        async def spread(ev: StartEvent) -> list[Number]:
            return [Number(n=n) for n in range(2)]

        @step
        async def work(ctx: Context, ev: Number) -> StopEvent:
            if ev.n == 0:
                return None
            try:
                for _ in range(3):
                    await trio.lowlevel.checkpoint()
                say("ready")
                await trio.sleep_forever()
            finally:
                say("finally")

        report(Workflow("w", [spread, work]))
        """
    ) == ["finally", "raised KeyboardInterrupt"]


def test_ctrl_c_is_neither_retried_nor_handled() -> None:
    assert interrupt(
        """
        @step(retries=5, on_error=lambda ev, exc: StopEvent(result="handled"))
        async def work(ctx: Context, ev: StartEvent) -> StopEvent:
            say("ready" if ctx.attempt == 1 else "again")
            await trio.sleep_forever()

        report(Workflow("w", [work]))
        """
    ) == ["raised KeyboardInterrupt"]


def test_ctrl_c_in_a_handlers_run_comes_out_of_the_block_alone() -> None:
    assert interrupt(
        """
        @step
        async def work(ev: StartEvent) -> StopEvent:
            try:
                say("ready")
                await trio.sleep_forever()
            finally:
                say("finally")

        async def main():
            async with Workflow("w", [work]).run_with_handler() as handler:
                await handler.result()

        try:
            trio.run(main)
        except BaseException as exc:
            say("raised", type(exc).__name__)
        """
    ) == ["finally", "raised KeyboardInterrupt"]


def test_after_ctrl_c_the_next_run_is_undisturbed() -> None:
    assert interrupt(
        """
        @step
        async def work(ev: StartEvent) -> StopEvent:
            if ev.data == "first":
                say("ready")
                await trio.sleep_forever()
            return StopEvent(result=ev.data)

        workflow = Workflow("w", [work])
        report(workflow, "first")
        report(workflow, "second")
        """
    ) == ["raised KeyboardInterrupt", "result second"]
