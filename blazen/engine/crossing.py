"""Between asyncio and trio: how one waits for the other, and how a cancellation passes.

A `Door` leads from a trio loop to an asyncio loop and back. There are two: that of `blazen.asyncio`, where trio is a
guest in the asyncio loop and both run in one thread; and `ThreadDoor` of `engine.asyncio_thread`, to a loop in a thread
of its own.
"""

from __future__ import annotations

import asyncio
from functools import partial
from typing import TYPE_CHECKING, Any, Protocol

import outcome
import trio

from blazen.errors import CancelledError

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable


class Door(Protocol):
    """The way between one trio loop and one asyncio loop."""

    @property
    def loop(self) -> asyncio.AbstractEventLoop:
        """The asyncio loop."""

    def to_trio(self, call: Callable[[], object]) -> None:
        """Have `call()` run in the trio loop; from the asyncio loop's thread. Calls come in order."""

    def to_asyncio(self, call: Callable[[], object]) -> None:
        """Have `call()` run in the asyncio loop's thread; from the trio loop's. Calls come in order."""

    def spawn(self, call: TrioCall) -> None:
        """Have a task of the trio loop await `call.main(scope)`, in a scope; from the asyncio loop's thread."""


# Of this trio loop; set where it is a guest, else made for the first step that needs one.
door_of_loop: trio.lowlevel.RunVar[Door] = trio.lowlevel.RunVar("blazen.door")


class TrioCall:
    """An async function of trio's that somebody in asyncio waits for.

    Made and used in the asyncio loop's thread. Whoever waits and is cancelled there has the trio task cancelled, goes
    on waiting until it is out, and only then sees the cancellation.
    """

    __slots__ = ("_door", "_fn", "_outcome", "_scope", "_told", "_waiters")

    def __init__(self, door: Door, fn: Callable[[], Awaitable[Any]]) -> None:
        self._door = door
        self._fn = fn
        self._scope: trio.CancelScope | None = None
        self._told = False
        self._outcome: outcome.Outcome[Any] | None = None
        self._waiters: list[asyncio.Future[None]] = []

    def start(self) -> TrioCall:
        """Begin. The caller's context variables do not come with it: runs keep those they are made with."""
        self._door.spawn(self)
        return self

    @property
    def over(self) -> bool:
        """Whether the trio task is out."""
        return self._outcome is not None

    def result(self) -> Any:
        """What came out of it."""
        assert self._outcome is not None
        return self._outcome.unwrap()

    def cancel(self) -> None:
        """Have the function cancelled, unless it is out."""
        self._door.to_trio(self._tell)

    def _tell(self) -> None:
        self._told = True
        if self._scope is not None:
            self._scope.cancel()

    async def wait(self) -> Any:
        """Wait until it is out, and return or raise what came out of it.

        A caller that is cancelled meanwhile gets its `asyncio.CancelledError` then, whatever came out; an error is its
        `__context__`. Only what is no `Exception`, such as KeyboardInterrupt, comes before it.
        """
        cancelled = await self.wait_until(lambda: self.over)
        if cancelled is None:
            return self.result()
        try:
            self.result()
        except Exception:
            raise cancelled  # noqa: B904  # the error is its context and not its cause
        raise cancelled

    async def wait_until(self, condition: Callable[[], bool]) -> asyncio.CancelledError | None:
        """Wait until the condition holds, or it is out; `wake` has it looked at. Returns a cancellation that came."""
        cancelled: asyncio.CancelledError | None = None
        while not (self.over or (cancelled is None and condition())):
            waiter = self._door.loop.create_future()
            self._waiters.append(waiter)
            try:
                await waiter
            except asyncio.CancelledError as exc:  # some cancel again and again until a task is out
                if waiter in self._waiters:
                    self._waiters.remove(waiter)
                cancelled = cancelled or exc
                self.cancel()
            except BaseException:  # the coroutine is closed: nobody waits any more
                self.cancel()
                raise
        return cancelled

    def wake(self) -> None:
        """Have whoever waits look again; from the trio loop's thread."""
        self._door.to_asyncio(self._wake)

    def _wake(self) -> None:
        waiters, self._waiters = self._waiters, []
        for waiter in waiters:
            if not waiter.done():
                waiter.set_result(None)

    async def main(self, scope: trio.CancelScope) -> None:
        """What the trio task does, in a scope that is this call's for as long as it goes on."""
        came_out: outcome.Outcome[Any] = outcome.Error(CancelledError())
        if self._told:
            self._door.to_asyncio(partial(self._end, came_out))
            return
        self._scope = scope
        try:
            came_out = outcome.Value(await self._fn())
        except trio.Cancelled:
            if not scope.cancel_called:
                came_out = outcome.Error(loop_is_closed())
            raise
        except BaseException as exc:
            came_out = outcome.Error(exc)
        finally:
            self._scope = None
            self._door.to_asyncio(partial(self._end, came_out))

    def lose(self, error: BaseException) -> None:
        """The trio loop has broken, and the task with it."""
        if not self.over:
            self._end(outcome.Error(error))

    def _end(self, came_out: outcome.Outcome[Any]) -> None:
        self._outcome = came_out
        self._wake()


def loop_is_closed() -> asyncio.CancelledError:
    """What tasks get that wait for a run while their loop is being closed: they are cancelled with it."""
    return asyncio.CancelledError("the event loop is closed")
