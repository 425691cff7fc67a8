"""The command ``blazen`` as a process, in a folder with workflows of a user."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
BLAZEN = (sys.executable, "-m", "blazen")
PATIENCE = 60.0  # seconds; only a broken command needs them

FLOWS = """
from __future__ import annotations

import os
import sys
import time
import warnings
from pathlib import Path

import trio

from blazen import (
    Context, Event, InputRequestEvent, InputResponseEvent, ProgressEvent, StartEvent, StopEvent, Workflow,
    WorkflowBuilder, errors, step,
)


class City(Event):
    name: str


class Answer(Event):
    city: str


class Person(StartEvent):
    name: str
    age: int = 0


class Report(StopEvent):
    lines: list[str]


@step
async def plan(ctx: Context, ev: StartEvent) -> list[City]:
    print("planning")
    os.system("echo planning in a child")
    cities = ev.data["cities"] if ev.data else ["Oslo", "Rome"]
    ctx.set("expected", len(cities))
    return [City(name=name) for name in cities]


@step(retries=1)
async def ask(ctx: Context, ev: City) -> Answer:
    ctx.write_event_to_stream(ProgressEvent(1, 2, label=ev.name))
    if ev.name == "Rome" and ctx.attempt == 1:
        raise ValueError("Rome is [busy]")
    return Answer(city=ev.name)


@step
async def pick(ctx: Context, ev: Answer) -> StopEvent | None:
    found = ctx.collect_events(ev, ctx.get("expected"))
    return StopEvent(result={"cities": sorted(one.city for one in found)}) if found else None


weather = Workflow("weather", [plan, ask, pick])


@step
async def echo(ev: StartEvent) -> StopEvent:
    return StopEvent(result=ev.data)


echoing = Workflow("echoing", [echo])


@step
async def greet(ev: Person) -> StopEvent:
    return StopEvent(result=f"Hello, {ev.name} ({ev.age})!")


greeter = Workflow("greeter", [greet])


@step
async def report(ev: StartEvent) -> Report:
    return Report(lines=["a", "b"])


reporting = Workflow("reporting", [report])


@step
async def odd(ev: StartEvent) -> StopEvent:
    return StopEvent(result={"set": {1}, "class": Path, "half": "\\ud800"})


odds = Workflow("odds", [odd])


@step
async def forever(ev: StartEvent) -> StopEvent:
    try:
        await trio.sleep_forever()
    finally:
        print("forever is out")


@step
async def careful(ctx: Context, ev: StartEvent) -> StopEvent:
    try:
        print("careful is in")
        await trio.sleep_forever()
    finally:
        async with ctx.cleanup():
            print("careful cleans up")
            while not Path("clean").exists():
                await trio.sleep(0.01)


stuck = Workflow("stuck", [forever, careful], cleanup_grace=60)


@step
def hold(ev: StartEvent) -> StopEvent:
    print("hold is in")
    time.sleep(3600)
    return StopEvent()


holding = Workflow("holding", [hold])


@step
async def tick(ctx: Context, ev: StartEvent) -> StopEvent:
    try:
        while True:
            ctx.write_event_to_stream(ProgressEvent(1))
            await trio.sleep(0.001)
    finally:
        Path("ticked").touch()


ticking = Workflow("ticking", [tick])


def inverse(number):
    return 1 / number


@step
async def divide(ctx: Context, ev: StartEvent) -> StopEvent:
    return StopEvent(result=inverse(0))


failing = Workflow("failing", [divide])


@step
async def store(ctx: Context, ev: StartEvent) -> StopEvent:
    ctx.set("a module", os)
    return StopEvent()


storing = Workflow("storing", [store])


@step(timeout=0.01)
async def late(ev: StartEvent) -> StopEvent:
    await trio.sleep_forever()


lateness = Workflow("lateness", [late])


@step
async def propose(ev: StartEvent) -> InputRequestEvent:
    return InputRequestEvent(prompt="Delete it?", metadata={"file": "notes.txt"})


@step
async def decide(ev: InputResponseEvent) -> StopEvent:
    return StopEvent(result=f"answered {ev.response!r}")


asking = Workflow("asking", [propose, decide])


@step
async def interview(ctx: Context, ev: StartEvent) -> StopEvent:
    name = await ctx.request_input("Who is it?", metadata={"of": "the form"})
    age = await ctx.request_input("How old?", schema=int)
    sure = await ctx.request_input("Sure?", schema=bool)
    return StopEvent(result={"name": name, "age": age, "sure": sure})


interviewing = Workflow("interviewing", [interview])


@step
async def hurry(ctx: Context, ev: StartEvent) -> StopEvent:
    async with trio.open_nursery() as nursery:
        nursery.start_soon(ctx.request_input, "Quick?")
        while not Path("too late").exists():
            await trio.sleep(0.01)
        nursery.cancel_scope.cancel()
    return StopEvent(result=await ctx.request_input("Now?"))


hurrying = Workflow("hurrying", [hurry])


@step
async def vanish(ev: StartEvent) -> StopEvent:
    os.rmdir("out")
    return StopEvent()


vanishing = Workflow("vanishing", [vanish])


@step
async def leave(ev: StartEvent) -> StopEvent:
    sys.exit(7)


leaving = Workflow("leaving", [leave])


@step
async def warn(ev: StartEvent) -> StopEvent:
    warnings.warn("look\\nout", errors.BlazenWarning)
    return StopEvent(result="warned")


warning = Workflow("warning", [warn])

builder = WorkflowBuilder("built").step(divide)


def make():
    return failing
"""


def environment(**changes: str) -> dict[str, str]:
    """The environment of the command: this checkout, and nothing that changes how terminals are treated."""
    inherited = {
        name: value
        for name, value in os.environ.items()
        if name not in ("NO_COLOR", "FORCE_COLOR", "COLUMNS", "LINES", "PYTHONWARNINGS", "_BLAZEN_COMPLETE")
    }
    return {**inherited, "PYTHONPATH": str(ROOT), "PYTHONIOENCODING": "utf-8", "TERM": "xterm-256color", **changes}


def blazen(*arguments: str, cwd: Path, stdin: str = "", **changes: str) -> subprocess.CompletedProcess[str]:
    """Run the command in pipes."""
    return subprocess.run(
        [*BLAZEN, *arguments],
        cwd=cwd,
        env=environment(**changes),
        input=stdin,
        capture_output=True,
        encoding="utf-8",
        timeout=PATIENCE,
        check=False,
    )


# Forks for each command: what takes time in starting one is imported once.
_MANY = """
import json, os, sys
from blazen.cli import main, commands, inputs, running
for number, arguments in enumerate(json.load(sys.stdin)):
    if (child := os.fork()) == 0:
        for fd, name in ((0, os.devnull), (1, f"{number}.out"), (2, f"{number}.err")):
            os.dup2(os.open(name, os.O_RDWR | os.O_CREAT), fd)
        sys.argv[1:] = arguments
        code = main(arguments)
        sys.stdout.flush()
        os._exit(code)
    print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), flush=True)
"""


def blazen_many(commands: list[list[str]], cwd: Path) -> list[tuple[int, str, str]]:
    """Run commands that end soon, one after the other: exit code, output and errors of each."""
    done = subprocess.run(
        # Safe path, as the installed script has it: the folder is not in front of Python's own modules.
        [sys.executable, "-P", "-c", _MANY],
        cwd=cwd,
        env=environment(),
        input=json.dumps(commands),
        stdout=subprocess.PIPE,
        encoding="utf-8",
        timeout=PATIENCE,
        check=True,
    )
    codes = map(int, done.stdout.split())
    return [
        (code, *((cwd / f"{number}.{kind}").read_text(encoding="utf-8") for kind in ("out", "err")))
        for number, code in enumerate(codes)
    ]


class Running:
    """The command in pipes, while it runs: ``with Running(...) as running``."""

    def __init__(self, *arguments: str, cwd: Path) -> None:
        self.seen = ""
        self.process = subprocess.Popen(
            [*BLAZEN, *arguments],
            cwd=cwd,
            env=environment(),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            encoding="utf-8",
        )
        # Whatever a test waits for, it waits for a process, so this ends every wait.
        self._end_of_patience = threading.Timer(PATIENCE, self.process.kill)
        self._end_of_patience.start()

    def __enter__(self) -> Running:
        return self

    def __exit__(self, *_: object) -> None:
        self._end_of_patience.cancel()
        if self.process.poll() is None:
            self.process.kill()
        self.process.communicate()

    def read_errors_until(self, text: str) -> None:
        """Read standard error up to a line with `text`."""
        assert self.process.stderr is not None
        for line in self.process.stderr:
            self.seen += line
            if text in line:
                return
        raise AssertionError(f"{text!r} was never written; but this was:\n{self.seen}")

    def send(self, number: signal.Signals) -> None:
        """Send a signal."""
        self.process.send_signal(number)

    def end(self) -> tuple[int, str, str]:
        """The exit code, the output and all of standard error."""
        out, err = self.process.communicate(timeout=PATIENCE)
        return self.process.returncode, out, self.seen + err


def lines_of(output: str) -> list[dict[str, Any]]:
    """The lines of JSON in an output."""
    return [json.loads(line) for line in output.splitlines()]
