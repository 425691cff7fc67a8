"""The side of the worker process: call one step after the other, and send back what becomes of it.

Nothing here imports trio, which a worker does without: that halves the time until it is ready.
"""

from __future__ import annotations

import contextlib
import fcntl
import multiprocessing
import multiprocessing.connection
import os
import pickle
import signal
import threading
import traceback
from multiprocessing import resource_tracker
from multiprocessing.context import SpawnContext, SpawnProcess

from blazen.events import Event

# What becomes of a call: the first item of the answer says which, and what the others are.
RETURNED = "returned"  # pickled event, list of events or None
NO_EVENTS = "no events"  # name of a type, what holds it ("", "list"), whether it can be awaited
NOT_PICKLED = "not pickled"  # what was returned, and why it cannot be pickled
RAISED = "raised"  # pickled exception or b"", its repr, its traceback as text
EXITED = "exited"  # repr of the argument of sys.exit()
READY = "ready"
NOT_LOADED = "not loaded"  # why the function or the event cannot be loaded

Answer = tuple[object, ...]

_prepared = False


class QuietProcess(SpawnProcess):
    """A worker process that Ctrl-C never reaches, and that ends with its host however that ends.

    trio-parallel has its workers ignore SIGINT, but they are some tenths of a second old by then: one that Ctrl-C meets
    while it starts would print a traceback.
    """

    def start(self) -> None:
        """Start with SIGINT blocked, which a new process inherits from the thread that starts it."""
        resource_tracker.ensure_running()  # starting it would unblock SIGINT again
        blocked = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
        try:
            super().start()
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, blocked)

    def run(self) -> None:
        """Be a worker; in the new process."""
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        prepare()
        super().run()


class QuietContext(SpawnContext):
    """Makes such processes."""

    Process = QuietProcess


def call(job: bytes) -> Answer:
    """Call a step. Never raises: exceptions of the step are part of the answer. No job: only say that it is ready."""
    prepare()
    return answer_of(job) if job else (READY,)


def answer_of(job: bytes) -> Answer:
    """Call a step, in whatever process this is; as `call`."""
    try:
        fn, event = pickle.loads(job)
    except BaseException as exc:
        return NOT_LOADED, describe(exc)
    del job
    try:
        result = fn(event)
    except SystemExit as exc:
        return EXITED, shown(exc.code)
    except BaseException as exc:
        return _raised(exc)
    return _returned(result)


def _returned(result: object) -> Answer:
    wrong: tuple[object, ...] = ()
    if type(result) is list:
        wrong = tuple(item for item in result if not isinstance(item, Event))[:1]
    elif result is not None and not isinstance(result, Event):
        wrong = (result,)
    if wrong:
        awaitable = hasattr(wrong[0], "__await__")
        if hasattr(wrong[0], "cr_code"):
            wrong[0].close()  # type: ignore[attr-defined]  # or Python warns of a coroutine nobody awaited
        return NO_EVENTS, type(wrong[0]).__name__, type(result) is list, awaitable
    try:
        return RETURNED, pickle.dumps(result, pickle.HIGHEST_PROTOCOL)
    except BaseException as exc:
        events: list[Event] = result if isinstance(result, list) else [result]  # type: ignore[list-item]
        return NOT_PICKLED, next((found for event in events if (found := unpicklable(event))), describe(exc))


def unpicklable(event: Event) -> str | None:
    """Which event of what type cannot be pickled, because of which field, and why; None if it can be."""
    try:
        pickle.dumps(event, pickle.HIGHEST_PROTOCOL)
    except Exception as exc:
        for field in event.__struct_fields__:
            try:
                pickle.dumps(getattr(event, field), pickle.HIGHEST_PROTOCOL)
            except Exception as inner:
                return f"{event.event_type!r}: its field {field!r} cannot be pickled ({describe(inner)})"
        return f"{event.event_type!r}: {describe(exc)}"
    return None


def _raised(error: BaseException) -> Answer:
    tb = error.__traceback__
    error.__traceback__ = None if tb is None else tb.tb_next  # without the frame of `call`
    try:
        text = "".join(traceback.format_exception(error))
    except Exception as exc:  # a __str__ of the user's
        text = f"(its traceback cannot be shown: {type(exc).__name__})\n"
    pickled = _pickle_error(error)
    if not pickled:
        # What it came of may be all that is in the way; the text has that too.
        error.__cause__ = error.__context__ = None
        error.add_note(f"Not all of it can be pickled. Its traceback in the worker process:\n{text}")
        pickled = _pickle_error(error)
    if not pickled:
        error.__traceback__ = None  # of an endless recursion it is too deep
        pickled = _pickle_error(error)
    return RAISED, pickled, shown(error), text


def _pickle_error(error: BaseException) -> bytes:
    """The exception with its traceback; empty if that cannot be pickled, or not be read back as what it was."""
    from tblib import pickling_support

    try:
        pickling_support.install(error)
        pickled = pickle.dumps(error, pickle.HIGHEST_PROTOCOL)
        return pickled if type(pickle.loads(pickled)) is type(error) else b""
    except BaseException:
        return b""


def describe(error: BaseException) -> str:
    """An exception in one line; whatever its `__str__` does."""
    try:
        return f"{type(error).__name__}: {error}"
    except Exception:
        return type(error).__name__


def shown(value: object) -> str:
    """The repr of something, at most 1,000 characters of it; whatever its `__repr__` does."""
    try:
        text = repr(value)
    except Exception:
        return f"an object of type {type(value).__name__}"
    return text if len(text) <= 1000 else text[:997] + "..."


def prepare() -> None:
    """Make this process one that ends with its host, and that no child of its own can keep up; once."""
    global _prepared
    if _prepared:
        return
    _prepared = True
    signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGINT})  # ignored by now
    # The host sees that a worker has ended by pipes that close. They were made inheritable to come here; a program
    # that a step starts must not hold them open.
    for name in os.listdir("/dev/fd"):
        with contextlib.suppress(OSError):
            if int(name) > 2:
                os.set_inheritable(int(name), False)
    host = multiprocessing.parent_process()
    if host is not None:
        end_with(host.sentinel)


def end_with(sentinel: int) -> None:
    """Have this process killed once `sentinel` (a pipe of which the host holds the other end) closes.

    An idle worker would notice by itself, one that computes only when it is done. The kernel does it where it can, also
    to code that never lets another thread run. (Linux' parent-death signal would not do: it comes when the *thread*
    ends that started the process, and trio's threads end when they have been idle for a while.)
    """
    try:
        fcntl.fcntl(sentinel, fcntl.F_SETOWN, os.getpid())
        fcntl.fcntl(sentinel, fcntl.F_SETSIG, signal.SIGKILL)  # not on macOS
        fcntl.fcntl(sentinel, fcntl.F_SETFL, fcntl.fcntl(sentinel, fcntl.F_GETFL) | os.O_ASYNC)
    except (AttributeError, OSError):
        watch(sentinel)
    if multiprocessing.connection.wait([sentinel], timeout=0):  # it had closed before
        os.kill(os.getpid(), signal.SIGKILL)


def watch(sentinel: int) -> None:
    """The same by a thread, where the kernel does not offer it."""

    def wait() -> None:
        multiprocessing.connection.wait([sentinel])
        os.kill(os.getpid(), signal.SIGKILL)

    threading.Thread(target=wait, name="blazen: end with the host", daemon=True).start()
