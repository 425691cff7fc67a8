"""200 process steps, some of which raise, die or are killed: children and open files do not grow in number."""

from __future__ import annotations

import gc
import os
import sys
from pathlib import Path

import killable
import trio

from blazen import TimeoutError, Workflow, WorkflowBuilder, WorkflowError

adding = Workflow[int]("adding", [killable.add_one])
failing = Workflow[None]("failing", [killable.fail])
dying = Workflow[None]("dying", [killable.exit_three])
slow = WorkflowBuilder("slow").step(killable.stand_still, timeout=0.01).build()


def open_files() -> int:
    return len(os.listdir("/proc/self/fd"))


def children() -> int:
    tasks = Path("/proc/self/task").iterdir()
    return sum(len((task / "children").read_text().split()) for task in tasks)


async def steps(count: int) -> None:
    for number in range(count):
        try:
            if number % 50 == 7:
                await dying.run()
            elif number % 50 == 17:
                await slow.run()
            elif number % 10 == 3:
                await failing.run()
            else:
                assert (await adding.run(number)).result == number + 1
        except (WorkflowError, TimeoutError):
            if number % 10 not in (3, 7):
                raise


async def main() -> None:
    await steps(20)
    gc.collect()
    before = open_files(), children()
    await steps(200)
    gc.collect()
    after = open_files(), children()
    print(f"open files and children: {before}, then {after}")
    if after[0] > before[0] or after[1] > before[1]:
        sys.exit(f"open files and children grew from {before} to {after}")


if __name__ == "__main__":
    trio.run(main)
