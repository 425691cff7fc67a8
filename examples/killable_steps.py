"""Steps that compute for long, and can be killed: `@step(run="process")`.

Three numbers are to be factored, each in a worker process. The first is easy. The second would take 10 s and has 0.3:
its process is killed, and the run goes on with what `on_error` says. The third crashes its process, as a fault in a C
library would. Run it with ``python examples/killable_steps.py``; it needs ``pip install 'blazen[process]'``. It prints:

    91: 7 x 13
    1000000016000000063: no answer within 0.3 s
    6: no answer, its process crashed (SIGSEGV)
    killed within 50 ms of its deadline: yes
    its process is gone: yes
"""

from __future__ import annotations

import ctypes
import os
import tempfile
import time
from pathlib import Path

import trio

from blazen import Context, Event, StartEvent, StepRecord, StopEvent, Workflow, errors, step

DEADLINE = 0.3
SECONDS = 10.0


class Number(Event):
    n: int
    pid_file: str = ""


class Factors(Event):
    n: int
    answer: str


def no_answer(ev: Number, error: Exception) -> Factors:
    """What stands in for the factors; called in this process."""
    if isinstance(error, errors.TimeoutError):
        return Factors(n=ev.n, answer=f"no answer within {DEADLINE} s")
    return Factors(n=ev.n, answer=f"no answer, its process crashed ({'SIGSEGV' if 'SIGSEGV' in str(error) else error})")


# A worker process imports this file to find the function, so it stands at the top level.
@step(run="process", timeout=DEADLINE, on_error=no_answer, max_concurrency=1)
def factor(ev: Number) -> Factors:
    if ev.pid_file:
        Path(ev.pid_file).write_text(str(os.getpid()))
    if ev.n == 6:
        ctypes.string_at(0)  # reads where nothing is
    began = time.monotonic()
    divisor = 2
    while ev.n % divisor and time.monotonic() < began + SECONDS:
        divisor += 1
    return Factors(n=ev.n, answer=f"{divisor} x {ev.n // divisor}")


@step
async def begin(ev: StartEvent) -> list[Number]:
    return [Number(n=91), Number(n=1_000_000_016_000_000_063, pid_file=ev.pid_file), Number(n=6)]


@step
async def gather(ctx: Context, ev: Factors) -> StopEvent | None:
    factors = ctx.collect_events(ev, 3)
    return None if factors is None else StopEvent(result=[f"{one.n}: {one.answer}" for one in factors])


async def main() -> None:
    workflow = Workflow[list[str]]("factors", [begin, factor, gather])
    with tempfile.TemporaryDirectory() as folder:
        pid_file = Path(folder) / "pid"
        async with workflow.run_with_handler(pid_file=str(pid_file)) as handler:
            late = [
                record.elapsed_ms - DEADLINE * 1000
                async for record in handler.stream_events(lifecycle=True)
                if isinstance(record, StepRecord) and record.kind == "timed_out" and record.elapsed_ms is not None
            ]
            for line in (await handler.result()).result:
                print(line)
        print("killed within 50 ms of its deadline:", "yes" if late and late[0] < 50 else f"no, {late}")
        print("its process is gone:", "no" if is_alive(int(pid_file.read_text())) else "yes")


def is_alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True


if __name__ == "__main__":  # workers import this file; only the program itself runs main
    trio.run(main)
