"""A run that asks a person, dies while it waits, and is continued: `make run-approval`.

The program plays three processes. The first starts a run on a store in a file, and is killed by SIGKILL while the run
waits for an answer. The second shows what the store has, asks you, and leaves the answer in the store. The third
continues the run. Without a terminal the answer is that of the environment variable ANSWER, or `no`.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import tempfile
from pathlib import Path

import trio

from blazen import (
    Context,
    Event,
    InputRequestEvent,
    InputResponseEvent,
    SqliteStore,
    StartEvent,
    StopEvent,
    Workflow,
    recover,
    step,
)

RUN_ID = "0b7d3c52-5f0a-4a53-8d0e-6a4f1c1d9e11"


class Order(Event):
    item: str
    amount: int
    price: float


@step
async def look_up(ev: StartEvent) -> Order:
    print(f"    step look_up: the price of {ev.item}")
    return Order(item=ev.item, amount=ev.amount, price=4.25)


@step
async def ask(ctx: Context, ev: Order) -> InputRequestEvent:
    ctx.set("order", ev)
    print("    step ask: a person has to decide")
    return InputRequestEvent(prompt=f"Buy {ev.amount} {ev.item} for {ev.amount * ev.price:.2f}? [yes/no]")


@step
async def decide(ctx: Context, ev: InputResponseEvent) -> StopEvent:
    order = ctx.get("order")
    print(f"    step decide: the answer is {ev.response!r}")
    done = "bought" if ev.response == "yes" else "not bought"
    return StopEvent(result=f"{order.amount} {order.item}: {done}")


buying: Workflow[str] = Workflow("buying", [look_up, ask, decide])


async def start_and_wait(path: str) -> None:
    """The first process: the run waits, and so does the process, for somebody who kills it."""
    with SqliteStore(path) as store:
        async with buying.options(store=store, run_id=RUN_ID).run_with_handler(item="bolts", amount=120) as handler:
            while handler.state != "waiting" or not await store.questions():
                await trio.sleep(0.01)
            print("waiting", flush=True)
            await trio.sleep_forever()


async def answer(path: str) -> None:
    """The second process: asks the person."""
    with SqliteStore(path) as store:
        info = await store.info(RUN_ID)
        print(f"    in the store: run {info.run_id[:8]} of {info.workflow!r} is {info.state}, its owner is dead")
        for question in await store.questions():
            print(f"    {question.prompt} ", end="", flush=True)
            if sys.stdin.isatty():
                given = input().strip().lower()
            else:
                given = os.environ.get("ANSWER", "no").strip().lower()
                print(given)
            await store.respond_to_input(question.request_id, given)


async def go_on(path: str) -> None:
    """The third process: goes on where the first one was."""
    with SqliteStore(path) as store:
        await recover(store, [buying])
        print(f"    result: {(await buying.options(store=store).result_of(RUN_ID)).result}")


def another_process(part: str, path: str) -> subprocess.Popen[bytes]:
    return subprocess.Popen([sys.executable, __file__, part, path], stdout=subprocess.PIPE if part == "start" else None)


def main() -> None:
    with tempfile.TemporaryDirectory(prefix="blazen-approval-") as folder:
        path = str(Path(folder) / "runs.db")
        print("1. A process starts a run, which asks and waits.", flush=True)
        first = another_process("start", path)
        assert first.stdout is not None
        for line in first.stdout:
            if line.strip() == b"waiting":
                break
            print(line.decode(), end="", flush=True)
        first.send_signal(signal.SIGKILL)
        first.wait()
        first.stdout.close()
        print("2. The process is killed: kill -9. Another one asks you.", flush=True)
        if another_process("answer", path).wait() != 0:
            raise SystemExit(1)
        print("3. A third one continues the run. What was finished does not run again.", flush=True)
        raise SystemExit(another_process("go-on", path).wait())


if __name__ == "__main__":
    if len(sys.argv) == 1:
        main()
    part, path = sys.argv[1:]
    trio.run({"start": start_and_wait, "answer": answer, "go-on": go_on}[part], path)
