"""Steps for test_process_steps.py, in a module that worker processes import quickly."""

from __future__ import annotations

import ctypes
import functools
import multiprocessing
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable
from contextvars import ContextVar
from pathlib import Path
from typing import Any

from blazen import Event, StartEvent, StopEvent, Workflow, step
from blazen.events import DynamicEvent


class Job(Event):
    n: int = 0
    folder: str = ""


class Done(Event):
    n: int = 0
    pid: int = 0


class Holds(Event):
    n: int = 0
    lock: object = None


def say(folder: str) -> None:
    """Tell the test that reads the pipe in this folder the id of this process."""
    (Path(folder) / "pid").write_text(str(os.getpid()))


@step(run="process")
def square(ev: Job) -> Done:
    return Done(n=ev.n**2, pid=os.getpid())


@step(run="process")
def add_one(ev: StartEvent) -> StopEvent:
    return StopEvent(result=(ev.data or 0) + 1)


@step(run="process")
def own_pid(ev: StartEvent) -> StopEvent:
    return StopEvent(result=os.getpid())


@step(run="process")
def echo(ev: StartEvent) -> StopEvent:
    return StopEvent(result=ev.data)


@step(run="process", accepts=["Told"], emits=["Heard"])
def by_name(ev: DynamicEvent) -> DynamicEvent:
    return DynamicEvent("Heard", {"n": ev.n + 1})


@step(run="process")
def several(ev: StartEvent) -> list[Job]:
    return [Job(n=n) for n in range(3)]


@step(run="process")
def nothing(ev: Job) -> None:
    return None


@step(run="process")
def spin(ev: StartEvent) -> StopEvent:
    """Compute until killed."""
    say(ev.folder)
    while True:
        pass


@step(run="process", name="spin")
def spin_job(ev: Job) -> Done:
    say(ev.folder)
    while True:
        pass


@step(run="process")
def hold_the_gil(ev: StartEvent) -> StopEvent:
    """Compute in C, where no other thread of the process gets its turn."""
    say(ev.folder)
    return StopEvent(result=3 ** (10**9))


@step(run="process")
def leave_a_program_running(ev: StartEvent) -> StopEvent:
    """Start a program that goes on, with every file that may be inherited."""
    subprocess.Popen(["cat", str(Path(ev.folder) / "release")], close_fds=False)
    say(ev.folder)
    while True:
        pass


@step(run="process")
def segfault(ev: StartEvent) -> StopEvent:
    ctypes.string_at(0)
    return StopEvent()


@step(run="process")
def exit_zero(ev: StartEvent) -> StopEvent:
    os._exit(0)


@step(run="process")
def exit_three(ev: StartEvent) -> StopEvent:
    os._exit(3)


@step(run="process")
def kill_itself(ev: StartEvent) -> StopEvent:
    os.kill(os.getpid(), signal.SIGKILL)
    return StopEvent()


@step(run="process")
def call_exit(ev: StartEvent) -> StopEvent:
    sys.exit(3)


class Broken(Exception):
    """With arguments that pickle alone would get wrong."""

    def __init__(self, what: str, *, level: int) -> None:
        super().__init__(what)
        self.level = level


class Unpicklable(Exception):
    def __init__(self, what: str) -> None:
        super().__init__(what)
        self.lock = threading.Lock()


class Interrupt(BaseException):
    pass


def fail_deep() -> None:
    raise Broken("too deep", level=7)


@step(run="process")
def fail(ev: StartEvent) -> StopEvent:
    fail_deep()
    return StopEvent()


@step(run="process")
def fail_from(ev: StartEvent) -> StopEvent:
    try:
        fail_deep()
    except Broken as error:
        raise LookupError("looked too deep") from error
    return StopEvent()


@step(run="process")
def fail_unpicklably(ev: StartEvent) -> StopEvent:
    raise Unpicklable("holds a lock")


@step(run="process")
def fail_because_of_the_unpicklable(ev: StartEvent) -> StopEvent:
    try:
        raise Unpicklable("holds a lock")
    except Unpicklable as error:
        raise KeyError("key") from error


@step(run="process")
def fail_endlessly(ev: StartEvent) -> StopEvent:
    return fail_endlessly(ev)


@step(run="process")
def fail_in_groups(ev: StartEvent) -> StopEvent:
    raise ExceptionGroup("two", [ValueError("one"), OSError(2, "gone")])


@step(run="process")
def run_another(ev: StartEvent) -> StopEvent:
    return Workflow("inner", [own_pid]).run_sync().event


@step(run="process")
def interrupt(ev: StartEvent) -> StopEvent:
    raise Interrupt("stop")


@step(run="process")
def return_text(ev: StartEvent) -> StopEvent:
    return "text"  # type: ignore[return-value]


@step(run="process")
def return_pair(ev: StartEvent) -> StopEvent:
    return (StopEvent(), StopEvent())  # type: ignore[return-value]


@step(run="process")
def return_mixed(ev: StartEvent) -> StopEvent:
    return [StopEvent(), 5]  # type: ignore[return-value]


@step(run="process")
def return_undeclared(ev: StartEvent) -> StopEvent:
    return Job()  # type: ignore[return-value]


@step(run="process")
def return_lock(ev: StartEvent) -> StopEvent:
    return StopEvent(result={"lock": threading.Lock()})


class Elsewhere(Exception):
    """Can be read by the worker, and not by the host."""

    def __reduce__(self) -> tuple[Any, ...]:
        return _only_in_a_worker, self.args


def _only_in_a_worker(*args: object) -> Elsewhere:
    if multiprocessing.parent_process() is None:
        raise ImportError("not in this process")
    return Elsewhere(*args)


@step(run="process")
def return_elsewhere(ev: StartEvent) -> StopEvent:
    return StopEvent(result=Elsewhere("there"))


@step(run="process")
def fail_elsewhere(ev: StartEvent) -> StopEvent:
    raise Elsewhere("there")


class Mute(Exception):
    def __init__(self) -> None:
        self.lock = threading.Lock()

    def __str__(self) -> str:
        raise RuntimeError("no words")

    __repr__ = __str__


@step(run="process")
def fail_mutely(ev: StartEvent) -> StopEvent:
    raise Mute


@step(run="process")
def return_coroutine(ev: StartEvent) -> StopEvent:
    async def later() -> StopEvent:
        return StopEvent()

    return later()  # type: ignore[return-value]


@step(run="process", retries=2)
def fail_twice(ev: StartEvent) -> StopEvent:
    path = Path(ev.folder) / "attempts"
    with path.open("a") as file:
        file.write(f"{os.getpid()}\n")
    if len(path.read_text().splitlines()) < 3:
        raise OSError(5, "not yet")
    return StopEvent(result="at last")


@step(run="process", retries=1)
def die_once(ev: StartEvent) -> StopEvent:
    path = Path(ev.folder) / "died"
    if not path.exists():
        path.touch()
        os._exit(9)
    return StopEvent(result="alive")


NAME: ContextVar[str] = ContextVar("NAME", default="unset")


@step(run="process")
def read_name(ev: StartEvent) -> StopEvent:
    return StopEvent(result=NAME.get())


class Adder:
    def __init__(self, by: int, held: object = None) -> None:
        self.by = by
        self.held = held

    @step(run="process")
    def add(self, ev: StartEvent) -> StopEvent:
        return StopEvent(result=ev.data + self.by)

    @staticmethod
    @step(run="process")
    def double(ev: StartEvent) -> StopEvent:
        return StopEvent(result=ev.data * 2)

    @classmethod
    @step(run="process")
    def name_it(cls, ev: StartEvent) -> StopEvent:
        return StopEvent(result=cls.__name__)


def traced(fn: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(fn)
    def wrapper(*args: Any) -> Any:
        return fn(*args)

    return wrapper


@step(run="process")
@traced
def wrapped(ev: StartEvent) -> StopEvent:
    return StopEvent(result="wrapped")


@step(run="process")
def meet(ev: Job) -> Done:
    """Wait until another one of these runs at the same time: a pipe opens when both its ends do."""
    with (Path(ev.folder) / "meeting").open("r" if ev.n else "w"):
        return Done(n=ev.n, pid=os.getpid())


@step(run="process", max_concurrency=1)
def one_by_one(ev: Job) -> Done:
    return Done(n=ev.n**2, pid=os.getpid())


@step(run="process")
def open_files(ev: StartEvent) -> StopEvent:
    """Which of the worker's files a program it starts would inherit, and whether Ctrl-C is ignored."""
    inherited = [fd for fd in range(3, 64) if _is_inheritable(fd)]
    blocked = signal.SIGINT in signal.pthread_sigmask(signal.SIG_BLOCK, [])
    ignored = signal.getsignal(signal.SIGINT) is signal.SIG_IGN
    return StopEvent(result=(inherited, blocked, ignored))


def _is_inheritable(fd: int) -> bool:
    try:
        return os.get_inheritable(fd)
    except OSError:
        return False


@step(run="process")
def take_no_lock(ev: Holds) -> StopEvent:
    return StopEvent(result=ev.n)


@step(run="process", accepts=["Anything"])
def take_anything(ev: Event) -> StopEvent:
    return StopEvent()


@step(run="process")
def stand_still(ev: StartEvent) -> StopEvent:
    while True:
        pass
