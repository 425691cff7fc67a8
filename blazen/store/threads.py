"""A thread of a store: does what is posted to it, in order, until it is closed."""

from __future__ import annotations

import abc
import atexit
import contextlib
import os
import threading
import weakref
from queue import Empty, SimpleQueue
from typing import Any, Generic, TypeVar

from blazen.errors import PersistError

T = TypeVar("T")


class StoreThread(abc.ABC, Generic[T]):
    """A daemon thread that takes all that has been posted since it looked last, and works on it together.

    A daemon, so that the interpreter may exit while the store is open; what was posted until then is still done.
    Everything that is posted is either worked on or refused, exactly once, also while the thread is being closed.
    """

    def __init__(self, name: str) -> None:
        # This queue may be used by a finaliser, in the middle of one of its own methods.
        self._queue: SimpleQueue[T | None] = SimpleQueue()
        self._closing = False
        self._over = False
        self._pid = os.getpid()
        self._thread = threading.Thread(target=self._loop, name=name, daemon=True)

    def start(self) -> None:
        _running.add(self)
        self._thread.start()

    @abc.abstractmethod
    def work(self, batch: list[T]) -> None:
        """Do what was posted. Must not raise."""

    @abc.abstractmethod
    def refuse(self, posted: T) -> None:
        """Say that something was posted too late."""

    def begin(self) -> None:
        """Called on the thread before anything else."""

    def end(self) -> None:
        """Called on the thread when nothing else will be."""

    def timeout(self) -> float | None:
        """In how many seconds `work` wants to be called although nothing was posted; None for never."""
        return None

    def post(self, what: T) -> None:
        """Have something done. Never waits."""
        if self._closing:
            self.refuse(what)
            return
        self._queue.put(what)
        if self._over:  # it may have ended just before
            self._refuse_rest()

    @property
    def closing(self) -> bool:
        return self._closing

    def stop(self) -> None:
        """Begin to close. Never waits, so finalisers may call it."""
        if not self._closing:
            self._closing = True
            self._queue.put(None)

    def close(self) -> None:
        """Close: what was posted is done when this returns."""
        if self._pid != os.getpid():
            return
        self.stop()
        if threading.current_thread() is not self._thread:
            self._thread.join()

    def _loop(self) -> None:
        try:
            self.begin()
            closing = False
            while not closing:
                batch: list[T] = []
                posted: T | None = None
                with contextlib.suppress(Empty):
                    posted = self._queue.get(timeout=self.timeout())
                    while posted is not None:
                        batch.append(posted)
                        posted = self._queue.get_nowait()
                    closing = True
                self.work(batch)
                del batch, posted  # what is held only by what was posted may go while this thread waits
        finally:
            self._closing = True
            try:
                self.end()
            finally:
                self._over = True
                self._refuse_rest()
                _running.discard(self)

    def _refuse_rest(self) -> None:
        with contextlib.suppress(Empty):
            while True:
                rest = self._queue.get_nowait()
                if rest is not None:
                    self.refuse(rest)


_running: weakref.WeakSet[StoreThread[Any]] = weakref.WeakSet()


@atexit.register
def _close_all() -> None:
    for thread in list(_running):
        thread.close()


def check_process(pid: int, where: str) -> None:
    """Refuse to use in a forked child what its parent has opened."""
    if pid != os.getpid():
        raise PersistError(
            f"{where} was opened before this process was forked, and works only in the process that opened it: open it "
            "in the child, in a process that was started afresh (spawn)"
        )
