"""A schedule that repeats: trio's order of tasks drawn from a seed, and time that takes no time."""

from __future__ import annotations

import contextlib
import sys
import time
from collections.abc import Awaitable, Callable, Iterator, Sequence
from functools import partial
from typing import Any, TypeVar

import trio
import trio.testing

from blazen.errors import ValidationError

_T = TypeVar("_T")

# Seconds of real time for which virtual time stands still while something works in a thread or asyncio, or in a worker
# process, which may have to be started first.
LONGEST_THREAD = 1.0
LONGEST_PROCESS = 5.0


@contextlib.contextmanager
def seeded_scheduler(seed: int) -> Iterator[None]:
    """Have trio order the tasks of each pass by dice that begin anew with `seed`; afterwards all is as it was.

    For a `trio.run(...)` inside the block. trio shuffles its tasks on purpose, so that no program relies on an order;
    this is how trio's own test of deterministic scheduling makes a shuffle repeat.

    Args:
        seed: Any int. Equal seeds give equal schedules of equal programs.
    Raises:
        ValidationError: `seed` is no int.
    """
    core: Any = trio._core._run
    check_seed(seed)
    allowed, state = core._ALLOW_DETERMINISTIC_SCHEDULING, core._r.getstate()
    core._ALLOW_DETERMINISTIC_SCHEDULING = True
    core._r.seed(seed)
    try:
        yield
    finally:
        core._ALLOW_DETERMINISTIC_SCHEDULING = allowed
        core._r.setstate(state)


def run_in_virtual_time(
    fn: Callable[..., Awaitable[_T]],
    *args: object,
    seed: int = 0,
    clock: trio.testing.MockClock | None = None,
    instruments: Sequence[trio.abc.Instrument] = (),
) -> _T:
    """Run `fn(*args)` in a trio loop of its own, on a seeded schedule, in virtual time, and return what it returns.

    Time stands still while something runs, and leaps to the next deadline when everything waits: an hour of sleep takes
    no time, and the same seed gives the same schedule. Time waits for work in threads and in asyncio, up to a second of
    real time, and for process steps, up to five.

    Args:
        fn: An async function.
        *args: Its arguments; for keywords use `functools.partial`.
        seed: Of the schedule.
        clock: A clock of your own instead of a new one that leaps.
        instruments: As of `trio.run`.
    Raises:
        ValidationError: A trio loop runs in this thread already, or `seed` is no int.
    """
    refuse_inside_trio("run_in_virtual_time")
    if clock is None:
        clock = leaping_clock()
    with seeded_scheduler(seed):
        return trio.run(partial(fn, *args), clock=clock, instruments=instruments)


def leaping_clock() -> trio.testing.MockClock:
    """A clock that leaps to the next deadline when everything waits, and nothing works elsewhere.

    Elsewhere is in a thread, a process or asyncio. trio's own clock would leap over these: a step there would be over
    any timeout at once. What goes on for longer than `LONGEST_THREAD` or `LONGEST_PROCESS` holds nothing up any more,
    or a test of one that does not stop would never end.
    """
    clock: Any = trio.testing.MockClock(autojump_threshold=0)
    leap = clock._autojump
    working_since: float | None = None

    def leap_unless_something_works() -> None:
        nonlocal working_since
        longest = _longest_wait()
        if longest == 0.0:
            working_since = None
        else:
            if working_since is None:
                working_since = time.monotonic()
            if time.monotonic() - working_since < longest:
                time.sleep(0.0002)  # the loop asks again at once
                return
        leap()

    clock._autojump = leap_unless_something_works
    return clock  # type: ignore[no-any-return]


def _longest_wait() -> float:
    """Seconds to wait for what works now; 0 if nothing does."""
    processes = sys.modules.get("trio_parallel")  # loaded by runs with process steps
    if processes is not None and processes.current_default_worker_limiter().borrowed_tokens:
        return LONGEST_PROCESS
    steps = sys.modules.get("blazen.engine.asyncio_steps")  # likewise
    if steps is not None and steps.anything_at_work():
        return LONGEST_THREAD
    return LONGEST_THREAD if trio.to_thread.current_default_thread_limiter().borrowed_tokens else 0.0


def refuse_inside_trio(call: str) -> None:
    """Refuse a call that makes a trio loop of its own where one runs."""
    if trio.lowlevel.in_trio_run():
        raise ValidationError(
            f"{call}() makes trio loops of its own and is called inside one: make the test a plain def, without a "
            "mark that runs it in trio"
        )


def check_seed(seed: object) -> None:
    """Refuse a seed that is no int."""
    if isinstance(seed, bool) or not isinstance(seed, int):
        raise ValidationError(f"a seed is an int, got {seed!r}")
