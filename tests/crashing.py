"""A run that is killed again and again, until it is complete; `tests/test_crashes.py` starts and kills it.

A warm parent process has imported everything and started nothing. For each life it forks a child, which opens the
store, begins the run or goes on with what is there, and is killed by the parent after a time; until one ends by itself.

Each step appends a line to a file before it does anything: that is how it is known what has begun, also where the store
does not know it any more.
"""

from __future__ import annotations

import os
import signal
import sqlite3
import sys
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import trio

from blazen import (
    Context,
    Event,
    InputRequestEvent,
    InputResponseEvent,
    ProgressEvent,
    Retry,
    SqliteStore,
    StartEvent,
    StopEvent,
    Workflow,
    recover,
    step,
)

RUN_ID = "c5a5be1c-0000-4000-8000-000000000001"
PARTS = 6


class Part(Event):
    n: int


class Done(Event):
    name: str


class Shown(Event):
    name: str


def make_workflow(begun: Path) -> Workflow[Any]:
    """Fan-out, retries, `once`, two kinds of questions, a join, rows, items of the stream."""

    def note(ctx: Context, name: str) -> None:
        with open(begun, "ab", buffering=0) as lines:
            lines.write(f"{name} {ctx.attempt}\n".encode())

    def finish(ctx: Context, name: str) -> None:
        ctx.write_event_to_stream(Shown(name=name))
        ctx.on_commit(lambda connection: connection.execute("INSERT INTO done VALUES (?)", (name,)))

    @step
    async def fan_out(ctx: Context, ev: StartEvent) -> list[Part | InputRequestEvent]:
        note(ctx, "fan_out")
        finish(ctx, "fan_out")
        return [*(Part(n=n) for n in range(PARTS)), InputRequestEvent("returned", "Go on?")]

    @step(retries=Retry(1000, on=ConnectionError, initial=0.002, factor=1.0, jitter=0.0), max_concurrency=3)
    async def work(ctx: Context, ev: Part) -> Done:
        name = f"work {ev.n}"
        note(ctx, name)
        ctx.write_event_to_stream(ProgressEvent(ev.n))
        if ev.n % 3 == 1 and not ctx.get(f"tried {ev.n}"):
            ctx.set(f"tried {ev.n}", True)
            raise ConnectionError(name)
        if ev.n == 2:
            await ctx.once("effect", lambda run_id, key: note(ctx, "effect"))
        if ev.n == 4:
            assert await ctx.request_input("How many?", schema=int) == 12
        await trio.sleep(0.002)
        values = ctx.get("values", [])
        if ev.n not in values:
            values.append(ev.n)  # in place
            ctx.set("values", values)
        finish(ctx, name)
        return Done(name=name)

    @step
    async def answered(ctx: Context, ev: InputResponseEvent) -> Done:
        note(ctx, "answered")
        assert ev.response == "yes"
        finish(ctx, "answered")
        return Done(name="answered")

    @step
    async def join(ctx: Context, ev: Done) -> StopEvent | None:
        note(ctx, f"join {ev.name}")
        events = ctx.collect_events(ev, PARTS + 1)
        finish(ctx, f"join {ev.name}")
        if events is None:
            return None
        return StopEvent(result=(sorted(event.name for event in events), sorted(ctx.get("values"))))

    return Workflow("crashing", [fan_out, work, answered, join], types=[Shown])


async def answer_what_is_open(store: SqliteStore) -> None:
    """Answer questions through the store, as another process would."""
    while True:
        for question in await store.questions():
            try:
                await store.respond_to_input(question.request_id, "yes" if question.prompt == "Go on?" else 12)
            except ValueError:  # it has been answered, and the run has not taken the answer yet
                continue
        await trio.sleep(0.001)


async def live(folder: Path) -> None:
    """One life: begin the run or go on with it, until it is complete."""
    workflow = make_workflow(folder / "begun")
    with SqliteStore(folder / "runs.db") as store:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(answer_what_is_open, store)
            if not await store.has(RUN_ID):
                async with workflow.options(store=store, run_id=RUN_ID).run_with_handler() as handler:
                    await handler.result()
            while (await store.info(RUN_ID)).state != "completed":
                await recover(store, [workflow])
                await trio.sleep(0.001)
            nursery.cancel_scope.cancel()


def make_table(folder: Path) -> None:
    """Make the store, and in it a table for the rows of the steps."""
    SqliteStore(folder / "runs.db").close()
    with sqlite3.connect(folder / "runs.db") as connection:
        connection.execute("CREATE TABLE done (name TEXT)")
    connection.close()


def fork(call: Callable[[], object]) -> int:
    """Call something in a process of its own. Returns its number."""
    child = os.fork()
    if child == 0:
        code = 1
        try:
            call()
            code = 0
        except BaseException:
            import traceback

            traceback.print_exc()
        finally:
            sys.stderr.flush()
            os._exit(code)
    return child


def kill_until_complete(folder: Path, seconds: float) -> int:
    """Kill each life after so many seconds, half as often as not more, until one ends. Returns how many were killed."""
    killed = 0
    while True:
        child = fork(partial(trio.run, live, folder))
        deadline = time.monotonic() + seconds * (1 + killed / 2)  # at last one gets through
        while True:
            ended, status = os.waitpid(child, os.WNOHANG)
            if ended:
                if os.waitstatus_to_exitcode(status) != 0:
                    raise SystemExit(f"a life failed: {status}")
                return killed
            if time.monotonic() >= deadline:
                os.kill(child, signal.SIGKILL)
                os.waitpid(child, 0)
                killed += 1
                break
            time.sleep(0.0002)


def main() -> None:
    """`crashing.py FOLDER SECONDS...`: a run per number, killed after so many seconds each time; prints the kills."""
    for number, seconds in enumerate(map(float, sys.argv[2:])):
        folder = Path(sys.argv[1]) / str(number)
        folder.mkdir()
        os.waitpid(fork(partial(make_table, folder)), 0)  # what a process has open its children cannot open
        print(kill_until_complete(folder, seconds), flush=True)


if __name__ == "__main__":
    main()
