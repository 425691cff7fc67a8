"""trio as a guest in an asyncio loop: one trio run per asyncio loop, in the same thread, begun by the first run of a
workflow and ended with the loop.

trio's own guest mode waits for trio's I/O in a helper thread, and each wait is then two changes of thread, which take
0.1 ms, or seconds where something computes in the asyncio loop meanwhile. Here the asyncio loop waits for trio's epoll
(or kqueue) itself, as for any file descriptor, and for trio's next deadline by a timer of its own. That takes four
parts of trio's inside. Where an installed trio does not have them, its own guest mode is used as it is.
"""

from __future__ import annotations

import asyncio
import sys
import threading
import time
from collections import deque
from collections.abc import Callable
from contextvars import Context
from functools import partial
from typing import TYPE_CHECKING, Any, TypeVar

import outcome
import sniffio
import trio
from trio.lowlevel import enable_ki_protection

from blazen.engine.crossing import TrioCall, door_of_loop, loop_is_closed
from blazen.errors import InternalError, ValidationError

if TYPE_CHECKING:
    from collections.abc import Awaitable

    from blazen.engine.crossing import Door

_T = TypeVar("_T")

# Seconds for which trio may go on, pass after pass, before the other callbacks of the asyncio loop have their turn.
LONGEST_TURN = 0.0005
# Carriers without a call beyond these leave.
_KEPT_CARRIERS = 32
# Passes that ending a guest without runs takes at most, with room to spare; it takes five.
_PASSES_TO_END = 50
# Passes of the asyncio loop that is being closed, in which those who wait for the runs hear of their end.
_PASSES_TO_HEAR = 5
# Where trio keeps which run is that of this thread.
_current: Any = getattr(trio._core._run, "GLOBAL_RUN_CONTEXT", None)


def guest_of_running_loop(call: str) -> Guest:
    """The guest of the asyncio loop that runs in this thread; made if there is none.

    Raises:
        ValidationError: No asyncio loop runs here, or this is a trio task.
    """
    try:
        loop = asyncio.get_running_loop()
    except RuntimeError:
        raise ValidationError(f"{call} is for asyncio and is called outside of a running asyncio loop") from None
    if sniffio.thread_local.name == "trio":
        raise ValidationError(f"{call} is for asyncio and is called by a trio task: use the method of the workflow")
    closing = vars(loop).get("close")
    return closing.guest if isinstance(closing, _Closing) else Guest(loop)


class Guest:
    """The trio run that lives in one asyncio loop. A `Door` of the engine.

    It is the current trio run of its thread while it has a turn and while workflows run in it, so that what steps in
    asyncio and handlers do acts at once; with nothing to do it leaves the thread to others.
    """

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self.loop = loop
        self.thread = threading.get_ident()
        self.over = False
        self._stop = trio.Event()
        self._calls: set[TrioCall] = set()  # that are not out
        self._waiting: deque[TrioCall] = deque()  # of those, the ones that no carrier has taken yet
        self._idle: list[trio.lowlevel.Task] = []  # carriers without a call
        self._ticking = False
        self._due = False  # the next turn has been asked for
        self._gives_way = False
        self._timer: asyncio.TimerHandle | None = None
        self._state: Any = None  # trio's GuestState, where we drive it
        self._runner: Any = None
        self._descriptor = -1
        self._events: Any = []  # that trio has not been told of
        self._ended: asyncio.Future[None] | None = None
        self._hooks = sys.get_asyncgen_hooks()
        before = _leave_thread()
        try:
            # In an empty context: whoever comes first must not lend its context variables to all that follow.
            Context().run(
                trio.lowlevel.start_guest_run,
                self._main,
                run_sync_soon_threadsafe=self._soon_from_anywhere,
                run_sync_soon_not_threadsafe=self._soon,
                done_callback=self._done,
                host_uses_signal_set_wakeup_fd=True,
            )
            self._runner = _current.runner
            door_of_loop.set(self)
            self._hooks, theirs = sys.get_asyncgen_hooks(), self._hooks
            sys.set_asyncgen_hooks(*theirs)
        finally:
            _return_to_thread(before)
        loop.close = _Closing(self, loop.close)  # type: ignore[method-assign]

    async def _main(self) -> None:
        while True:
            try:
                await self._stop.wait()
                return
            except KeyboardInterrupt:  # came while no step ran: it is for the loop, as without us
                self.loop.call_soon(_interrupt)

    # --- turns

    def _soon(self, call: Callable[[], object]) -> None:
        """Have trio's next turn come; trio calls it, at first with what a turn is."""
        state = getattr(call, "__self__", None)
        runner = getattr(state, "runner", None)
        descriptor = _descriptor_of(runner)
        if descriptor is None or not _has_inside(state, runner):
            self.loop.call_soon(partial(self._foreign_turn, call))
            return
        self._state, self._runner, self._descriptor = state, runner, descriptor
        self.loop.add_reader(descriptor, self._come)
        self._ask_for_turn()

    def _soon_from_anywhere(self, call: Callable[[], object]) -> None:
        """Likewise, from the thread in which trio's own guest mode waits."""
        self.loop.call_soon_threadsafe(partial(self._foreign_turn, call))

    def _foreign_turn(self, call: Callable[[], object]) -> None:
        """A turn of trio's own guest mode."""
        before = self._begin_turn()
        try:
            call()
        finally:
            self._end_turn(before)

    def _come(self) -> None:
        """There is I/O for trio, or its time has come."""
        if not self.over and not self._due:
            self._events = self._runner.io_manager.get_events(0)
            self._turn()

    def _timed(self) -> None:
        self._timer = None
        self._come()

    @enable_ki_protection
    def _turn(self) -> None:
        """Let trio run until it waits, or has run for long enough. What `GuestState.guest_tick` does, and no thread."""
        if self.over:
            return
        self._due = False
        self._runner.guest_tick_scheduled = True  # so that trio does not write to a socket to wake us
        runner, go_on, get_events = self._runner, self._state.unrolled_run_gen.send, self._runner.io_manager.get_events
        until = time.perf_counter() + LONGEST_TURN
        library, sniffio.thread_local.name = sniffio.thread_local.name, "trio"
        before = self._begin_turn()
        try:
            while True:
                events, self._events = self._events, []
                timeout = go_on(events)
                self._events = get_events(0)
                if timeout > 0 and not self._events:
                    runner.guest_tick_scheduled = False
                    self._wait(timeout)
                    return
                if self._gives_way or time.perf_counter() >= until:
                    self._gives_way = False
                    self._ask_for_turn()
                    return
        except StopIteration:
            self._done(runner.main_task_outcome)
        except trio.TrioInternalError as exc:
            self._done(outcome.Error(exc))
            if isinstance(exc.__cause__, KeyboardInterrupt | SystemExit):  # a second Ctrl-C, in the middle of trio
                raise exc.__cause__ from None
        finally:
            self._end_turn(before)
            sniffio.thread_local.name = library

    def _begin_turn(self) -> tuple[Any, Any]:
        before = self._enter(), sys.get_asyncgen_hooks()
        sys.set_asyncgen_hooks(*self._hooks)  # only async generators of steps are trio's
        self._ticking = True
        return before

    def _end_turn(self, before: tuple[Any, Any]) -> None:
        self._ticking = False
        runner, hooks = before
        sys.set_asyncgen_hooks(*hooks)
        self._exit(runner)

    def _ask_for_turn(self) -> None:
        self._due = True
        self._runner.guest_tick_scheduled = True
        self.loop.call_soon(self._turn)

    def give_way(self) -> None:
        """Let what asyncio has to do come before trio's next pass; called in a turn."""
        self._gives_way = True

    def _wait(self, seconds: float) -> None:
        """Have the loop come back in so many seconds at the latest. Too early does no harm."""
        at = self.loop.time() + seconds
        if self._timer is None or self._timer.when() > at:
            if self._timer is not None:
                self._timer.cancel()
            self._timer = self.loop.call_at(at, self._timed)

    def _enter(self) -> Any:
        """Make this the trio run of the thread; returns what was."""
        self.thread = threading.get_ident()
        before = getattr(_current, "runner", None)
        if before is not self._runner and self._runner is not None:
            _current.runner = self._runner
        return before

    def _exit(self, before: Any) -> None:
        if self.over or not self._calls:
            _leave_thread()
            if before is not self._runner:
                _return_to_thread(before)

    # --- the door

    def inside(self, call: Callable[[], _T], *, asks: bool = True) -> _T:
        """Call something of trio's from the asyncio loop's thread, outside of any turn.

        Args:
            call: What is called.
            asks: Whether it may leave something to do for trio.
        """
        if self.over:
            raise ValidationError("the event loop of this run is closed")
        if self._ticking:
            return call()
        before = self._enter()
        if asks and self._state is not None and not self._due:
            self._ask_for_turn()
        try:
            return call()
        finally:
            self._exit(before)

    def to_trio(self, call: Callable[[], object]) -> None:
        """As of a `Door`: at once."""
        if not self.over:
            self.inside(call)

    def to_asyncio(self, call: Callable[[], object]) -> None:
        """As of a `Door`: at once."""
        call()

    def spawn(self, call: TrioCall) -> None:
        """As of a `Door`: by one of the tasks that are kept for it."""
        self._calls.add(call)
        self._waiting.append(call)
        self.inside(self._wake_carrier)

    def _wake_carrier(self) -> None:
        if self._idle:
            trio.lowlevel.reschedule(self._idle.pop())
        else:
            trio.lowlevel.spawn_system_task(self._carry, name="blazen asyncio")

    async def _carry(self) -> None:
        """Be a trio task that awaits one call after the other: a task and a scope each would double what it costs."""
        task = trio.lowlevel.current_task()

        def abort(_: object) -> trio.lowlevel.Abort:
            self._idle.remove(task)
            return trio.lowlevel.Abort.SUCCEEDED

        while True:
            with trio.CancelScope() as scope:
                while not scope.cancel_called:
                    if not self._waiting:
                        if len(self._idle) >= _KEPT_CARRIERS:
                            return
                        self._idle.append(task)
                        await trio.lowlevel.wait_task_rescheduled(abort)
                    if self._waiting:
                        call = self._waiting.popleft()
                        try:
                            await call.main(scope)
                        finally:
                            self._calls.discard(call)

    def call(self, fn: Callable[[], Awaitable[Any]]) -> TrioCall:
        """Begin an async function of trio's; the caller waits for it."""
        return TrioCall(self, fn).start()

    async def run(self, fn: Callable[[], Awaitable[Any]]) -> Any:
        """Await an async function of trio's, which begins here and now: what it does at once costs no way round."""
        if self._ticking or self._state is None:
            return await self.call(fn).wait()
        call = TrioCall(self, fn)
        self._calls.add(call)
        self._waiting.append(call)
        before = self._enter()
        self._runner.guest_tick_scheduled = True
        try:
            self._wake_carrier()
        finally:
            self._exit(before)
        self._turn()
        if call.over:
            await asyncio.sleep(0)  # others have their turn, and a cancellation arrives
            return call.result()
        return await call.wait()

    # --- the end

    def _done(self, came_out: outcome.Outcome[None]) -> None:
        self.over = True
        if self._timer is not None:
            self._timer.cancel()
        if self._descriptor >= 0 and not self.loop.is_closed():
            self.loop.remove_reader(self._descriptor)
        if self._ended is not None and not self._ended.done():
            self._ended.set_result(None)
        for call in list(self._calls):  # none, unless trio itself has broken, or nobody has come to it
            error: BaseException = loop_is_closed()
            if isinstance(came_out, outcome.Error):
                error = InternalError("the trio run that carried the workflows of this event loop has broken")
                error.__cause__ = came_out.error
            call.lose(error)
        self._calls.clear()

    def end(self) -> None:
        """Cancel the runs that still go on, and return when their steps are out. The loop does not run now."""
        if self.over:
            return
        self.inside(self._stop.set)
        if self._state is not None:
            self.loop.call_soon(self._turn)  # also where Ctrl-C has kept the one before from asking for it
        if self._state is not None and not self._calls:
            for _ in range(_PASSES_TO_END):
                self._turn()
                if self.over:
                    return
        self._ended = self.loop.create_future()
        self.loop.run_until_complete(self._wait_for_end(self._ended))

    async def _wait_for_end(self, ended: asyncio.Future[None]) -> None:
        await ended
        for _ in range(_PASSES_TO_HEAR):
            await asyncio.sleep(0)


class _Closing:
    """In the place of a loop's `close`: ends the guest first. It holds the guest for as long as the loop is open."""

    def __init__(self, guest: Guest, close: Callable[[], None]) -> None:
        self.guest = guest
        self._close = close

    def __call__(self) -> None:
        loop = self.guest.loop
        if not loop.is_running() and not loop.is_closed():
            self.guest.end()
            del loop.close
        self._close()


def _leave_thread() -> Any:
    """Have no trio run in this thread; returns the one there was."""
    before = getattr(_current, "runner", None)
    if before is not None:
        del _current.runner
    return before


def _return_to_thread(runner: Any) -> None:
    if runner is not None:
        _current.runner = runner


def _descriptor_of(runner: Any) -> int | None:
    """The file descriptor that is readable when trio has I/O."""
    manager = getattr(runner, "io_manager", None)
    queue = getattr(manager, "_epoll", None) or getattr(manager, "_kqueue", None)
    return None if queue is None or not hasattr(manager, "get_events") else int(queue.fileno())


def _has_inside(state: Any, runner: Any) -> bool:
    """Whether the parts of trio that a turn needs are there."""
    return (
        hasattr(state, "unrolled_run_gen")
        and hasattr(state, "unrolled_run_next_send")
        and hasattr(runner, "guest_tick_scheduled")
        and hasattr(runner, "main_task_outcome")
    )


def _interrupt() -> None:
    raise KeyboardInterrupt


if TYPE_CHECKING:
    _: Callable[[Guest], Door] = lambda guest: guest  # noqa: E731
