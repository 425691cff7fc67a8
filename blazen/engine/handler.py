"""A run that can be watched and steered while it goes on."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Any, Generic, TypeVar

import trio
from trio.lowlevel import (
    Abort,
    checkpoint,
    checkpoint_if_cancelled,
    current_task,
    enable_ki_protection,
    reschedule,
    wait_task_rescheduled,
)

from blazen._core import stream as stream_core
from blazen._core.run import Worker
from blazen.engine import answering, failures, pausing
from blazen.engine.calling import in_trio
from blazen.engine.life import Happening, State
from blazen.errors import BlazenWarning, CancelledError, ValidationError
from blazen.events import Event, InputRequestEvent, StreamGap

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable
    from types import TracebackType

    from blazen._core.stream import EventStream, StreamIterator
    from blazen.engine.result import WorkflowResult
    from blazen.engine.run import Run
    from blazen.record import RunRecord
    from blazen.snapshot import Snapshot

Out = TypeVar("Out")


async def wait_for_stream(stream: EventStream) -> None:
    """Wait until the stream has grown or ended."""
    task = current_task()
    wake = partial(reschedule, task)

    def abort(_: object) -> Abort:
        stream.remove_waiter(wake)
        return Abort.SUCCEEDED

    stream.add_waiter(wake)
    await wait_task_rescheduled(abort)


stream_core.configure(StreamGap, wait_for_stream, checkpoint)


class RunHandler(Generic[Out]):
    """The handle of one run: `async with workflow.run_with_handler(...) as handler`.

    Leaving the block normally waits for the run; leaving it by an exception cancels the run, waits until its steps are
    out, and lets that exception through unchanged. A failure that nobody has seen through `result()` is raised on
    leaving. Methods are for the trio loop the run lives in, except `cancel` and `send_event`: those are for any thread.
    """

    __slots__ = ("_asking", "_begin_again", "_entered", "_manager", "_prepare", "_run", "_start", "began")

    def __init__(
        self,
        run: Run,
        start: Event | None,
        begin_again: Callable[[], None] | None = None,
        prepare: Callable[[], Awaitable[Callable[[], None] | None]] | None = None,
    ) -> None:
        self._run = run
        self._start = start
        self._begin_again = begin_again
        self._prepare = prepare
        self._asking = 0
        self._entered = False
        self.began = False  # the run: what comes out of the block now is of the run, or of the block
        self._manager = trio.open_nursery()

    async def __aenter__(self) -> RunHandler[Out]:
        if self._entered:
            raise ValidationError("a handler is entered once; call run_with_handler() again for another run")
        self._entered = True
        await checkpoint_if_cancelled()
        run = self._run
        run.enter_loop()
        run.prepare_to_wait()
        if self._prepare is not None:
            self._begin_again = await self._prepare() or self._begin_again
        self.began = True
        run.nursery = await self._manager.__aenter__()
        if self._start is not None:
            run.begin(self._start)
        else:
            assert self._begin_again is not None
            run.begin_again(self._begin_again)
        run.nursery.start_soon(run.work, Worker(run), name="blazen worker")
        run.loop  # noqa: B018  # for other threads: made here, on the loop's own thread
        run.run_id  # noqa: B018  # drawn here, and not when the run is to be cancelled at once
        return self

    @enable_ki_protection
    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        run = self._run
        if error is not None:
            if run.ledger is not None:
                run.ledger.block_left_by(error)
            run.cancel(by="caller_scope" if isinstance(error, trio.Cancelled) else "block")
        interrupted: BaseException | None = None
        pausing.leave(run)
        if run.ledger is not None:
            run.ledger.block_left()
        try:
            await run.wait_until_over()
        except BaseException as exc:  # the caller was cancelled; its workers are told by trio, and are waited for
            interrupted = exc
            if not run.over:
                if run.ledger is not None:
                    run.ledger.block_left_by(exc)
                if isinstance(exc, trio.Cancelled):
                    run.caller_left()
                else:
                    run.cancel(by="block")
                with trio.CancelScope(shield=True):
                    await run.wait_until_over()
        stray: BaseException | None = None
        try:
            await self._manager.__aexit__(None, None, None)
        except BaseExceptionGroup as group:  # Ctrl-C, when the run was over and its last tasks were on their way out
            stray = failures.alone(group)
        if stray is not None:
            raise stray
        if error is not None:
            self._report_unasked()
            return
        if interrupted is not None:
            raise interrupted
        outcome = run.outcome
        if isinstance(outcome, BaseException) and not isinstance(outcome, Exception) and not self._asking:
            raise outcome
        if run.life is State.FAILED and not self._asking:
            run.result()
        if run.life is State.CANCELLED:
            await checkpoint_if_cancelled()

    def _report_unasked(self) -> None:
        """The block raised by itself: a failure of the run that nobody asked for is at least warned of."""
        outcome = self._run.outcome
        if self._run.life is State.FAILED and not self._asking:
            import warnings

            warnings.warn(
                f"a run failed while its block was left by another exception: {type(outcome).__name__}: {outcome}",
                BlazenWarning,
                stacklevel=2,
            )

    def __await__(self) -> Any:
        raise ValidationError("run_with_handler() is used as `async with workflow.run_with_handler(...) as handler:`")

    # --- seeing

    @property
    def run_id(self) -> str:
        """The run's id, a UUID."""
        return self._run.run_id

    @property
    def state(self) -> str:
        """`"running"`, `"waiting"`, `"paused"`, `"completed"`, `"failed"` or `"cancelled"`."""
        return self._run.state_name

    @property
    def record(self) -> RunRecord | None:
        """What has happened in the run so far, if it is recorded (`options(record=True)`); else None.

        At any time, also from another thread. Each look goes through the whole run until it is over: for a view that
        follows a run, read the stream.
        """
        self._check_entered()
        recording = self._run.recording
        return None if recording is None else recording.record(self._run.state_name)

    async def result(self) -> WorkflowResult[Out]:
        """Wait for the run and return its result. Any number of times, from any number of tasks.

        Raises:
            WorkflowError: A step failed, or the run could not go on.
            TimeoutError: A step or the run was over its time.
            CancelledError: The run was cancelled.
        """
        self._check_entered()
        # Counted before the wait: the failure may reach the end of the block before it reaches whoever waits here.
        self._asking += 1
        try:
            await self._run.wait_until_over()
        except BaseException:
            self._asking -= 1
            raise
        return self._run.result()

    def stream_events(self, *, lifecycle: bool = False, buffer: int | None = None) -> StreamIterator:
        """The run's outside events, each from the start of the run, until the run ends.

        Args:
            lifecycle: Also give a `StepRecord` for each thing that happens to a step. They are written from the first
                call that wants them; a later reader first gets a `StreamGap` that says how many were not.
            buffer: Give only the newest so many whenever the reader lags further behind; its `lost` counts the rest.
        Raises:
            ValidationError: `buffer` is not a positive int.
        """
        self._check_entered()
        if buffer is not None and (isinstance(buffer, bool) or not isinstance(buffer, int) or buffer < 1):
            raise ValidationError(f"stream_events: buffer must be an int above 0, got {buffer!r}")
        self._run.check_thread("stream_events()")
        stream = self._run.stream
        assert stream is not None
        return stream.read(steps=lifecycle, buffer=buffer or 0)

    # --- steering

    def cancel(self, reason: str | None = None) -> None:
        """End the run as cancelled; `result()` raises `CancelledError` with `reason`. Any number of times, any time.

        From any thread. It returns at once: the run is over when `result()` says so.
        """
        self._check_entered()
        if reason is not None and not isinstance(reason, str):
            raise ValidationError(f"cancel: reason must be a str or None, got {type(reason).__name__!r}")
        if self._run.over:
            return
        self._on_loop(partial(self._run.cancel, reason))

    def cancel_step(self, step_name: str) -> None:
        """Abort the running invocations of one step. They produce nothing; the run goes on.

        Raises:
            ValidationError: The workflow has no such step.
        """
        self._check_entered()
        names = [step.name for step in self._run.router.steps]
        if step_name not in names:
            raise ValidationError(
                f"cancel_step: workflow {self._run.router.workflow!r} has no step {step_name!r}; it has "
                f"{', '.join(names)}"
            )
        self._on_loop(partial(self._run.cancel_step, step_name))

    def send_event(self, event: Event, key: object = None) -> None:
        """Put an event into the run, from any thread.

        Args:
            event: The event.
            key: If given, an event is taken once per key in a run; later ones are ignored.
        Raises:
            ValidationError: The run has ended, or `event` is no event.
            WorkflowError: No step accepts it. The run is undisturbed.
        """
        self._check_entered()
        self._run.check_accepted(event, None)
        if self._here():
            self._run.send(event, key, None)
        else:
            self._run.post(event, key, None)

    async def pause(self, *, abort: bool = False) -> Snapshot:
        """Stop dispatching, wait until running steps are done, and return a snapshot of the run.

        A step that waits in `request_input` or `wait_for_event` is not waited for. All clocks stand still until
        `resume_in_place`; what comes meanwhile is queued. Leaving the block of a paused run lets go of it.

        Args:
            abort: Do not wait for running steps: they are aborted, and their events are put back.
        Raises:
            ValidationError: The run has ended, before or meanwhile; a step of the run itself asks; or something cannot
                be written down: the message names it, and the run goes on.
        """
        self._check_entered()
        self._run.check_thread("pause()")
        was_paused = self._run.life is State.PAUSED
        try:
            await pausing.pause(self._run, abort=abort)
            try:
                snapshot = self._take_snapshot()
                if self._run.ledger is not None:
                    await self._run.ledger.written()
                return snapshot
            except BaseException:
                if not was_paused and not self._run.ending and not self._run.over:
                    self._run.happened(Happening.RESUME)
                raise
        finally:
            pausing.let_go_if_left(self._run)

    def resume_in_place(self) -> None:
        """Let a paused run go on where it is.

        Raises:
            ValidationError: It is not paused.
        """
        self._check_entered()
        if self._run.life not in (State.PAUSED, State.PAUSING):
            raise ValidationError(f"resume_in_place(): run {self.run_id} is not paused: it is {self.state}")
        self._run.check_thread("resume_in_place()")
        self._run.happened(Happening.RESUME)
        if self._run.ledger is not None:
            self._run.ledger.stir()

    async def snapshot(self) -> Snapshot:
        """A snapshot of the run as it is now. It is not disturbed: running steps go on.

        What runs now is in it as an unfinished attempt, which runs again after `Workflow.resume`.

        Raises:
            ValidationError: The run has ended; or something cannot be written down: the message names it.
        """
        self._check_entered()
        self._run.check_thread("snapshot()")
        await checkpoint()
        while self._run.unsettled and not self._run.ending:
            await checkpoint()
        pausing.refuse_ended(self._run, "snapshot()")
        return self._take_snapshot()

    def _take_snapshot(self) -> Snapshot:
        snapshot: Snapshot = self._run.origin.take_snapshot(self._run)
        return snapshot

    def pending_inputs(self) -> list[InputRequestEvent]:
        """The questions that are open, oldest first."""
        return answering.open_questions(self._run)

    def respond_to_input(self, request_id: str, response: object) -> None:
        """Answer an open question. A step that asked in its middle goes on with it; else it becomes an event.

        Raises:
            ValidationError: There is no such question, it has been answered, the answer does not fit the schema it was
                asked with, or the call comes from a thread. The run is undisturbed, and the question stays open if it
                was.
        """
        self._check_entered()
        if not self._run.on_own_thread():
            raise ValidationError(
                "respond_to_input is called from a thread: from there, use "
                "trio.from_thread.run_sync(handler.respond_to_input, request_id, response)"
            )
        answering.respond(self._run, request_id, response)

    # --- who calls from where

    def _check_entered(self) -> None:
        if not self._entered:
            raise ValidationError("this run has not begun: use `async with workflow.run_with_handler(...) as handler:`")

    def _here(self) -> bool:
        return in_trio() and self._run.on_own_thread()

    def _on_loop(self, call: Callable[[], object]) -> None:
        if self._run.on_own_thread():
            call()
        else:
            self._run.loop.post(call)

    def __repr__(self) -> str:
        return f"<blazen.RunHandler of {self._run.router.workflow!r}, {self.state}>"


__all__ = ["CancelledError", "RunHandler"]
