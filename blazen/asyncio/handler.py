"""A run that can be watched and steered from asyncio while it goes on."""

from __future__ import annotations

import asyncio
import threading
from functools import partial
from typing import TYPE_CHECKING, Any, Generic, TypeVar

import trio
from trio.lowlevel import in_trio_task

from blazen._core import stream as stream_core
from blazen.engine import handler as of_trio
from blazen.engine.asyncio_steps import runs_in
from blazen.engine.calling import as_host
from blazen.errors import ValidationError
from blazen.events import StreamGap

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable
    from types import TracebackType

    from blazen._core.stream import EventStream, StreamIterator
    from blazen.asyncio.guest import Guest
    from blazen.engine.crossing import TrioCall
    from blazen.engine.result import WorkflowResult
    from blazen.events import Event, InputRequestEvent
    from blazen.record import RunRecord
    from blazen.snapshot import Snapshot

Out = TypeVar("Out")


async def _wait_for_stream(stream: EventStream) -> None:
    """Wait until the stream has grown or ended, in trio or in asyncio."""
    if in_trio_task():
        await of_trio.wait_for_stream(stream)
        return
    grown = asyncio.get_running_loop().create_future()

    def wake() -> None:
        if not grown.done():
            grown.set_result(None)

    stream.add_waiter(wake)
    try:
        await grown
    finally:
        stream.remove_waiter(wake)


async def _checkpoint() -> None:
    if in_trio_task():
        await trio.lowlevel.checkpoint()
    else:
        await asyncio.sleep(0)


stream_core.configure(StreamGap, _wait_for_stream, _checkpoint)


class _LeftByError(Exception):
    """Leaves the block in trio for an exception that leaves the block in asyncio."""


class RunHandler(Generic[Out]):
    """The handle of one run: `async with blazen.asyncio.run_with_handler(workflow, ...) as handler`.

    As `blazen.RunHandler`, for the asyncio loop it is made in. Leaving the block normally waits for the run; leaving it
    by an exception, a cancellation too, cancels the run, waits until its steps are out, and lets that exception through
    unchanged. A failure that nobody has seen through `result()` is raised on leaving. `cancel`, `cancel_step` and
    `send_event` are for any thread.
    """

    __slots__ = ("_block", "_error", "_guest", "_inner", "_left", "_open")

    def __init__(self, guest: Guest, make: Callable[[], of_trio.RunHandler[Out]]) -> None:
        self._guest = guest
        self._inner = guest.inside(partial(as_host, make))
        self._block: TrioCall | None = None
        self._left = trio.Event()
        self._error: _LeftByError | None = None
        self._open = False

    async def __aenter__(self) -> RunHandler[Out]:
        if self._block is not None:
            raise ValidationError("a handler is entered once; call run_with_handler() again for another run")
        if asyncio.get_running_loop() is not self._guest.loop:
            raise ValidationError("a handler is entered in the asyncio loop that it was made in")
        block = self._block = self._guest.call(self._live)
        cancelled = await block.wait_until(lambda: self._open)
        if cancelled is not None:
            raise cancelled
        if block.over:
            block.result()
        return self

    async def _live(self) -> None:
        """The block in trio."""
        try:
            async with self._inner:
                self._open = True
                assert self._block is not None
                self._block.wake()
                self._guest.give_way()  # as under trio, the first step begins once the caller of `async with` waits
                await self._left.wait()
                if self._error is not None:
                    raise self._error
        except _LeftByError as exc:
            if exc is not self._error:
                raise

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        block = self._block
        assert block is not None
        if isinstance(error, asyncio.CancelledError | GeneratorExit):
            block.cancel()
            # An async generator that is closed may wait. A coroutine that is closed, by the collector, may not.
            if asyncio.current_task() is not None:
                await block.wait_until(lambda: block.over)
        elif error is None:
            self._guest.to_trio(self._left.set)
            await block.wait()
        else:
            self._error = _LeftByError()
            self._guest.to_trio(self._left.set)
            cancelled = await block.wait_until(lambda: block.over)
            if cancelled is not None:
                raise cancelled
            block.result()

    def __await__(self) -> Any:
        raise ValidationError(
            "run_with_handler() is used as `async with blazen.asyncio.run_with_handler(workflow, ...) as handler:`"
        )

    # --- seeing

    @property
    def run_id(self) -> str:
        """The run's id, a UUID."""
        return self._inner.run_id

    @property
    def state(self) -> str:
        """`"running"`, `"waiting"`, `"paused"`, `"completed"`, `"failed"` or `"cancelled"`."""
        return self._inner.state

    @property
    def record(self) -> RunRecord | None:
        """As `blazen.RunHandler.record`."""
        return self._inner.record

    async def result(self) -> WorkflowResult[Out]:
        """Wait for the run and return its result. Any number of times, from any number of tasks.

        Raises:
            WorkflowError: A step failed, or the run could not go on.
            TimeoutError: A step or the run was over its time.
            CancelledError: The run was cancelled; blazen's, which is no `asyncio.CancelledError`.
        """
        result: WorkflowResult[Out] = await self._in_trio("result()", self._inner.result)
        return result

    def stream_events(self, *, lifecycle: bool = False, buffer: int | None = None) -> StreamIterator:
        """The run's outside events, each from the start of the run, until the run ends.

        Args:
            lifecycle: As of `blazen.RunHandler.stream_events`.
            buffer: Likewise.
        Raises:
            ValidationError: `buffer` is not a positive int.
        """
        return self._inner.stream_events(lifecycle=lifecycle, buffer=buffer)

    # --- steering

    def cancel(self, reason: str | None = None) -> None:
        """End the run as cancelled; `result()` raises blazen's `CancelledError` with `reason`. Any number of times.

        From any thread. It returns at once: the run is over when `result()` says so.
        """
        self._now(partial(self._inner.cancel, reason))

    def cancel_step(self, step_name: str) -> None:
        """Abort the running invocations of one step. They produce nothing; the run goes on. From any thread.

        Raises:
            ValidationError: The workflow has no such step.
        """
        self._now(partial(self._inner.cancel_step, step_name))

    def send_event(self, event: Event, key: object = None) -> None:
        """Put an event into the run, from any thread.

        Args:
            event: The event.
            key: As of `blazen.RunHandler.send_event`.
        Raises:
            ValidationError: The run has ended, or `event` is no event.
            WorkflowError: No step accepts it. The run is undisturbed.
        """
        self._now(partial(self._inner.send_event, event, key))

    async def pause(self, *, abort: bool = False) -> Snapshot:
        """Stop dispatching, wait until running steps are done, and return a snapshot of the run.

        Args:
            abort: Do not wait for running steps: they are aborted, and their events are put back.
        Raises:
            ValidationError: As of `blazen.RunHandler.pause`.
        """
        if runs_in(self._inner._run, asyncio.current_task()):
            raise ValidationError(
                "pause() is called by a step of the run: it would wait for itself; call it from outside"
            )
        snapshot: Snapshot = await self._in_trio("pause()", partial(self._inner.pause, abort=abort))
        return snapshot

    def resume_in_place(self) -> None:
        """Let a paused run go on where it is.

        Raises:
            ValidationError: It is not paused.
        """
        self._now(self._inner.resume_in_place)

    async def snapshot(self) -> Snapshot:
        """A snapshot of the run as it is now. It is not disturbed: running steps go on.

        Raises:
            ValidationError: The run has ended; or something cannot be written down: the message names it.
        """
        snapshot: Snapshot = await self._in_trio("snapshot()", self._inner.snapshot)
        return snapshot

    def pending_inputs(self) -> list[InputRequestEvent]:
        """The questions that are open, oldest first."""
        return self._inner.pending_inputs()

    def respond_to_input(self, request_id: str, response: object) -> None:
        """Answer an open question. A step that asked in its middle goes on with it; else it becomes an event.

        Raises:
            ValidationError: As of `blazen.RunHandler.respond_to_input`. The run is undisturbed.
        """
        self._now(partial(self._inner.respond_to_input, request_id, response))

    # --- who calls from where

    def _now(self, call: Callable[[], None]) -> None:
        """Call a plain method of the handler in trio: here and now, or as from any thread."""
        if self._block is not None and threading.get_ident() == self._guest.thread and not self._guest.over:
            self._guest.inside(partial(as_host, call))
        else:
            call()

    async def _in_trio(self, call: str, fn: Callable[[], Awaitable[Any]]) -> Any:
        if asyncio.get_running_loop() is not self._guest.loop:
            raise ValidationError(
                f"{call} of run {self.run_id} is awaited in another event loop: await it in the loop the run lives in"
            )
        return await self._guest.call(fn).wait()

    def __repr__(self) -> str:
        return repr(self._inner)
