"""Ctrl-C and SIGTERM: asked for once, they cancel the run; asked for again, the answer is what it still waits for.

The handlers stand for the time of the run only. They do not raise in the middle of whatever runs, as Python's own
does, because a run that is cancelled unwinds in order. There is one exception: a step that is a plain `def` and holds
the event loop cannot be cancelled. If the loop has not heard of a signal after a moment, KeyboardInterrupt is raised
where the main thread is, unless that is inside the engine.
"""

from __future__ import annotations

import signal
import threading
import time
from collections.abc import Callable
from types import FrameType, TracebackType
from typing import Any

import trio

PATIENCE = 0.3  # seconds that the loop has to hear of a signal


class Stopper:
    """Handles the signals that end a run: ``with Stopper(...) as stopper`` inside trio.

    Args:
        first: Called on the loop for the first signal.
        again: Called on the loop for every other.

    Attributes:
        signal: The first that came; None if none did.
    """

    def __init__(self, first: Callable[[], object], again: Callable[[], object]) -> None:
        self.signal: int | None = None
        self._first = first
        self._again = again
        self._unheard_since: float | None = None  # by the clock of `time.monotonic`
        self._heard = 0
        self._previous: dict[int, Any] = {}

    def __enter__(self) -> Stopper:
        self._token = trio.lowlevel.current_trio_token()
        if threading.current_thread() is threading.main_thread():
            for number in (signal.SIGINT, signal.SIGTERM):
                self._previous[number] = signal.signal(number, self._handle)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._unheard_since = None  # nothing more is to be interrupted
        for number, handler in self._previous.items():
            signal.signal(number, handler)

    def _handle(self, number: int, frame: FrameType | None) -> None:
        now = time.monotonic()
        if self.signal is None:
            self.signal = number
        if self._unheard_since is None:
            self._unheard_since = now
            self._token.run_sync_soon(self._hear)
        elif now - self._unheard_since >= PATIENCE and not trio.lowlevel.currently_ki_protected():
            raise KeyboardInterrupt
        watch = threading.Timer(PATIENCE, self._check_heard, [number])
        watch.daemon = True
        watch.start()

    def _hear(self) -> None:
        self._unheard_since = None
        self._heard += 1
        if self._heard == 1:
            self._first()
        else:
            self._again()

    def _check_heard(self, number: int) -> None:
        # In a thread: the loop is held by a step. A real signal also interrupts a call that blocks, such as a sleep.
        if self._unheard_since is not None:
            signal.pthread_kill(threading.main_thread().ident or 0, number)
