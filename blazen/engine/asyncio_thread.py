"""The asyncio loop of programs that have none: one per process, in a thread of its own.

Started by the first step that needs it and kept, because what steps leave in a loop, such as a pool of connections, is
of use to the next run only in the same loop. It ends when the process does.
"""

from __future__ import annotations

import asyncio
import atexit
import contextlib
import os
import threading
from typing import TYPE_CHECKING

import trio

if TYPE_CHECKING:
    from collections.abc import Callable

    from blazen.engine.crossing import TrioCall


class LoopThread:
    """A thread with an asyncio loop that runs until `stop`."""

    def __init__(self) -> None:
        self._begun = threading.Event()
        self._stopping: asyncio.Event
        self.loop: asyncio.AbstractEventLoop
        self._thread = threading.Thread(target=self._run, name="blazen asyncio", daemon=True)
        self._thread.start()
        self._begun.wait()

    def _run(self) -> None:
        asyncio.run(self._main())

    async def _main(self) -> None:
        self.loop = asyncio.get_running_loop()
        self._stopping = asyncio.Event()
        self._begun.set()
        await self._stopping.wait()

    def stop(self) -> None:
        """Cancel what still runs in the loop, close it, and return when the thread has ended."""
        if self._thread.is_alive():
            self.loop.call_soon_threadsafe(self._stopping.set)
            self._thread.join()


class ThreadDoor:
    """The way between the trio loop it is made in and the loop of the thread."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self.loop = loop
        self._token = trio.lowlevel.current_trio_token()

    def to_trio(self, call: Callable[[], object]) -> None:
        with contextlib.suppress(trio.RunFinishedError):  # whoever called from there has gone with it
            self._token.run_sync_soon(call)

    def to_asyncio(self, call: Callable[[], object]) -> None:
        self.loop.call_soon_threadsafe(call)

    def spawn(self, call: TrioCall) -> None:
        async def carry() -> None:
            with trio.CancelScope() as scope:
                await call.main(scope)

        def start() -> None:
            trio.lowlevel.spawn_system_task(carry, name="blazen asyncio")

        self.to_trio(start)


_lock = threading.Lock()
_running: LoopThread | None = None


def loop_thread() -> LoopThread:
    """The one of this process."""
    global _running
    with _lock:
        if _running is None:
            _running = LoopThread()
            atexit.register(_running.stop)
        return _running


def _forget_after_fork() -> None:
    """A child process has the memory of the thread, and not the thread."""
    global _running, _lock
    _lock = threading.Lock()
    if _running is not None:
        atexit.unregister(_running.stop)
        _running = None


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forget_after_fork)
