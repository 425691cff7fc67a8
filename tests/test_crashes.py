"""A stored run whose process is killed by SIGKILL at random moments is complete in the end, and nothing is done twice.

Environment:
    BLAZEN_CRASHES: how many kills at least; 100 if it is not set.
"""

from __future__ import annotations

import collections
import os
import random
import sqlite3
import subprocess
import sys
from pathlib import Path
from typing import Any

import crashing
import pytest
import trio

from blazen import SqliteStore, recover
from blazen._core import codec
from blazen.errors import PersistError

CRASHES = int(os.environ.get("BLAZEN_CRASHES") or 100)
STEPS = ["fan_out", "answered", *(f"work {n}" for n in range(crashing.PARTS))]
NAMES = sorted([*STEPS, "join answered", *(f"join work {n}" for n in range(crashing.PARTS))])


def faults(folder: Path) -> list[str]:
    """What is wrong with a run that has come to its end."""
    found = []
    workflow = crashing.make_workflow(folder / "begun")

    async def look() -> tuple[Any, list[Any]]:
        with SqliteStore(folder / "runs.db") as store:
            result = await workflow.options(store=store).result_of(crashing.RUN_ID)
            items = await store.stream(crashing.RUN_ID)
            assert await store.questions() == []
            assert (await store.load(crashing.RUN_ID)).parts == {}
            return result.result, [codec.decode(item, classes=workflow._class_table()) for item in items]

    result, items = trio.run(look)
    wanted = (sorted(["answered", *(f"work {n}" for n in range(crashing.PARTS))]), list(range(crashing.PARTS)))
    if result != wanted:
        found.append(f"the result is {result}")
    with sqlite3.connect(folder / "runs.db") as connection:
        rows = sorted(name for (name,) in connection.execute("SELECT name FROM done"))
    connection.close()
    if rows != NAMES:
        found.append(f"the rows are {rows}")
    shown = sorted(item.name for item in items if isinstance(item, crashing.Shown))
    if shown != NAMES:
        found.append(f"the stream has {shown}")
    attempts: dict[str, list[int]] = collections.defaultdict(list)
    for line in (folder / "begun").read_text().splitlines():
        name, _, attempt = line.rpartition(" ")
        attempts[name].append(int(attempt))
    del attempts["effect"]
    for name, numbers in attempts.items():
        if sorted(set(numbers)) != numbers:
            found.append(f"the attempts of {name} are numbered {numbers}")
    return found


@pytest.mark.slow
def test_killed_at_random_moments_a_run_is_complete_and_nothing_is_done_twice(tmp_path: Path) -> None:
    dice = random.Random(CRASHES)
    killed, number = 0, 0
    while killed < CRASHES:
        # A few runs per warm process. The shortest lives end before the run has begun, the longest near its end.
        lives = [f"{dice.uniform(0.004, 0.08):.4f}" for _ in range(8)]
        folder = tmp_path / f"batch {number}"
        folder.mkdir()
        number += 1
        done = subprocess.run(
            [sys.executable, crashing.__file__, str(folder), *lives], capture_output=True, text=True, timeout=300
        )
        assert done.returncode == 0, done.stderr
        killed += sum(map(int, done.stdout.split()))
        for run in range(len(lives)):
            assert faults(folder / str(run)) == [], folder / str(run)
    print(f"{killed} kills over {number * 8} runs")


class Failing(SqliteStore):
    """A store of which one call fails, as if the disk had been full then."""

    calls = 0
    fails_at = 0

    def submit(self, commit: Any, done: Any) -> None:
        self.calls += 1
        if self.calls == self.fails_at:
            done(PersistError("the disk is full"))
        else:
            super().submit(commit, done)

    async def claim(self, run_id: str, *, force: bool = False) -> Any:
        self.calls += 1
        if self.calls == self.fails_at:
            raise PersistError("the disk is full")
        return await super().claim(run_id, force=force)

    async def load(self, run_id: str) -> Any:
        self.calls += 1
        if self.calls == self.fails_at:
            raise PersistError("the disk is full")
        return await super().load(run_id)


async def live_with_a_fault(folder: Path, fails_at: int) -> int:
    """A run of whose calls of the store one fails; others then go on with it. Returns how many calls there were."""
    workflow = crashing.make_workflow(folder / "begun")
    with Failing(folder / "runs.db") as store:
        store.fails_at = fails_at
        async with trio.open_nursery() as nursery:
            nursery.start_soon(crashing.answer_what_is_open, store)
            try:
                async with workflow.options(store=store, run_id=crashing.RUN_ID).run_with_handler() as handler:
                    await handler.result()
            except PersistError:
                pass
            nursery.cancel_scope.cancel()
        calls = store.calls
    await crashing.live(folder)
    return calls


@pytest.mark.slow
def test_with_each_call_of_the_store_failing_in_turn_a_run_is_complete_in_the_end(tmp_path: Path) -> None:
    fails_at, calls = 0, 1
    while fails_at <= calls:
        folder = tmp_path / str(fails_at)
        folder.mkdir()
        crashing.make_table(folder)
        made = trio.run(live_with_a_fault, folder, fails_at)
        calls = max(calls, made) if fails_at == 0 else calls
        assert faults(folder) == [], f"call {fails_at} failed"
        fails_at += 1
    assert calls > 10


def test_what_is_recovered_while_calls_fail_is_tried_again(tmp_path: Path) -> None:
    crashing.make_table(tmp_path)
    workflow = crashing.make_workflow(tmp_path / "begun")

    async def main() -> None:
        with SqliteStore(tmp_path / "runs.db") as store:
            async with workflow.options(store=store, run_id=crashing.RUN_ID).run_with_handler():
                pass  # it waits for answers, and is left to the store
        with Failing(tmp_path / "runs.db") as store:
            for question in await store.questions():
                await store.respond_to_input(question.request_id, "yes" if question.prompt == "Go on?" else 12)
            store.fails_at = 1
            with pytest.warns(match="the disk is full"):
                (first,) = await recover(store, [workflow])
            assert (first.state, str(first.error)) == ("waiting", "the disk is full")
        await crashing.live(tmp_path)

    trio.run(main)
    assert faults(tmp_path) == []
