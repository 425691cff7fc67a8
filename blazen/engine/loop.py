"""What all runs of one trio loop share: the count of scheduler passes and the door for other threads."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

import trio

from blazen._core import ingress
from blazen._core.run import PassCounter
from blazen.errors import ValidationError

if TYPE_CHECKING:
    from collections.abc import Callable

# Messages from other threads that may wait at once; a thread that finds the ring full waits for the loop to empty it.
INGRESS_CAPACITY = 1024

SYSTEM_CLOCK = trio._core._run.SystemClock  # to tell real time from a test's clock

_state: trio.lowlevel.RunVar[LoopState] = trio.lowlevel.RunVar("blazen.loop")


class LoopState:
    """Per trio loop; made by the first run that needs it."""

    __slots__ = ("_counter", "_ingress", "_token")

    def __init__(self) -> None:
        self._token = trio.lowlevel.current_trio_token()
        self._ingress = ingress.Ingress(INGRESS_CAPACITY, self._wake)
        self._counter: PassCounter | None = None

    @property
    def passes(self) -> PassCounter:
        """The counter of scheduler passes; counting starts when it is first asked for."""
        if self._counter is None:
            self._counter = PassCounter()
            trio.lowlevel.add_instrument(self._counter)  # type: ignore[arg-type]
        return self._counter

    def post(self, call: Callable[[], object]) -> None:
        """Have `call()` run on the loop's thread, soon and in the order of posting. From any thread but that one.

        Raises:
            ValidationError: The loop has ended.
        """
        while True:
            status = self._ingress.post(call)
            if status == ingress.POSTED:
                return
            if status == ingress.CLOSED:
                raise ValidationError("the event loop of this run has ended")
            time.sleep(0.0005)  # the ring is full and the loop has been told; this thread holds no lock and no GIL

    def _wake(self) -> None:
        try:
            self._token.run_sync_soon(self._drain, idempotent=True)
        except trio.RunFinishedError:
            self._ingress.close()
            raise ValidationError("the event loop of this run has ended") from None

    def _drain(self) -> None:
        for call in self._ingress.drain():
            call()


def loop_state() -> LoopState:
    """The state of the trio loop that is running."""
    try:
        return _state.get()
    except LookupError:
        state = LoopState()
        _state.set(state)
        return state
