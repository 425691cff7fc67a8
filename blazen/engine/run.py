"""One run: the workers as trio tasks, and everything that happens once per run.

What happens once per event is in `blazen._core.run`; the rules of a run's life are in `blazen.engine.life`. Here are
the hooks that the compiled loop calls and the coroutines that wait.
"""

from __future__ import annotations

import random
from contextvars import copy_context
from functools import partial
from typing import TYPE_CHECKING, Any

import trio
from trio.lowlevel import (
    Abort,
    cancel_shielded_checkpoint,
    checkpoint,
    checkpoint_if_cancelled,
    current_clock,
    current_task,
    enable_ki_protection,
    reschedule,
    wait_task_rescheduled,
)

from blazen._core import run as core
from blazen._core.run import Context, RunCore, Worker
from blazen._core.stream import EventStream
from blazen.engine import failures, pausing, scopes, threads, waits
from blazen.engine.life import NAMES, OVER, Command, Happening, State, follow
from blazen.engine.loop import SYSTEM_CLOCK, LoopState, loop_state
from blazen.engine.result import RunId, Totals, WorkflowResult
from blazen.errors import BlazenError, CancelledError, TimeoutError, ValidationError, WorkflowError
from blazen.events import DynamicEvent, Event, StepRecord, StopEvent, UsageEvent

if TYPE_CHECKING:
    from collections.abc import Callable

    from blazen._core.router import Router
    from blazen._core.state import StateStore
    from blazen.engine.edits import Edit
    from blazen.engine.recording import Recording
    from blazen.events import InputRequestEvent

_INFINITY = float("inf")
Place = tuple[int, int, int]  # an attempt, as the journal names it
# Workers that wait for work beyond these leave: a task costs as much memory as a run.
_KEPT_WORKERS = 32
_SystemClock = SYSTEM_CLOCK
# What every run meets. Looking a member up in its Enum takes 0.1 us in Python 3.11, as long as dispatching a step.
_READY, _CANCELLED = State.READY, State.CANCELLED
_START, _STOP, _UNWOUND = Happening.START, Happening.STOP, Happening.UNWOUND
_KEEP, _ABORT, _SUPPRESS, _PUBLISH = Command.KEEP, Command.ABORT, Command.SUPPRESS, Command.PUBLISH

core.configure_trio(
    trio.Cancelled,
    trio.lowlevel.Task,
    # A table of trio's own: which task holds which locks. Without it a lock left held goes unnoticed.
    getattr(trio._core._parking_lot, "GLOBAL_PARKING_LOT_BREAKER", {}),
)


class Run(RunCore):
    """A run of a workflow. Used by one trio task, and by the workers it starts."""

    __slots__ = (
        "_edits",
        "_offset",
        "_sentinel_scope",
        "_stray",
        "_waiters",
        "_watch_deadline",
        "_watch_scope",
        "_watched",
        "abandoned",
        "cleaning",
        "left_open",
        "once_kept",
        "questions",
        "recording",
        "reopened",
        "retries",
        "sent_keys",
        "suppressed",
    )

    # Fields that most runs never touch are set when they are first needed; see `prepare_to_wait`.
    suppressed: tuple[BaseException, ...]
    abandoned: tuple[str, ...]
    questions: dict[str, InputRequestEvent]
    reopened: dict[str, waits.Entry]  # questions of a snapshot whose steps have not asked them again
    retries: dict[Context, tuple[int, float]]  # waiting for their time: the timer's token, and when it is due

    def __init__(
        self,
        router: Router,
        state: StateStore,
        *,
        session: dict[str, object],
        stream: EventStream | None = None,
        run_id: str | None = None,
        timeout: float | None = None,
        cleanup_grace: float = 5.0,
    ) -> None:
        self.prepare(router, state, session, copy_context(), stream)
        self.id = RunId(run_id)
        self.life = _READY
        self.timeout = timeout
        self.cleanup_grace = cleanup_grace
        self.suppressed = ()
        self.abandoned = ()
        self.questions = {}
        self.retries = {}
        self.reopened = {}
        self.left_open: tuple[trio.Nursery, ...] = ()  # by steps that have ended
        self.sent_keys: set[object] | None = None  # of events that are sent once per key
        self.recording: Recording | None = None
        self.once_kept: dict[object, object] | None = None  # what `ctx.once` has recorded
        self._stray: BaseException | None = None
        if stream is not None:
            self.interactive = True
        # A step can be aborted alone only by its own timeout or through a handler. Otherwise steps are aborted all at
        # once, and the nursery's scope does it: a scope per worker would cost each run more than its steps.
        self.scoped = router.has_timeouts or self.interactive

    def keep_record(self, version: str) -> None:
        """Have the run keep a record; called before it begins.

        Args:
            version: Of the workflow, for the record.
        """
        from blazen.engine.recording import Recording

        self.recording = Recording(self, version)

    def prepare_to_wait(self) -> None:
        """Set what only a run with a nursery needs."""
        self._waiters: list[trio.lowlevel.Task] = []
        self._watched = False
        self._watch_scope: trio.CancelScope | None = None
        self._watch_deadline = _INFINITY
        self._sentinel_scope: trio.CancelScope | None = None
        self._edits: dict[str, Edit] | None = None
        self.cleaning: list[Context] = []  # invocations in `ctx.cleanup()`
        self._offset: float | None = None

    # --- its life

    @property
    def run_id(self) -> str:
        """The run's id, a UUID."""
        return str(self.id)

    @property
    def state_name(self) -> str:
        """What `handler.state` says."""
        if self.life is State.RUNNING and self.waits_only() and (self.questions or self.waiting):
            return "waiting"
        return NAMES[self.life]

    @property
    def over(self) -> bool:
        """Whether the run has ended and every step is out."""
        return self.life in OVER

    @enable_ki_protection
    def happened(self, happening: Happening, payload: StopEvent | BaseException | None = None, by: str = "") -> None:
        """Follow the table of a run's life. `by` says for the record who asked, where the happening does not."""
        self.life, commands = follow(self.life, happening)
        for command in commands:
            if command is _KEEP:
                if self.recording is not None:
                    self.recording.ending(self, happening, payload, by)
                if isinstance(self.outcome, BaseException):
                    self.suppressed += (self.outcome,)
                self.outcome = payload
            elif command is _ABORT:
                self._abort_all()
            elif command is _SUPPRESS and isinstance(payload, BaseException):
                self.suppressed += (payload,)
            elif command is _PUBLISH:
                self._publish()
            elif command is Command.HOLD:
                pausing.hold(self)
            elif command is Command.FREEZE:
                pausing.freeze(self)
            elif command is Command.RELEASE:
                pausing.release(self)

    def fail(self, error: BaseException) -> None:
        """End the run with an error; every step is aborted. A caller that was cancelled before that has come first."""
        if not self.ending and self._caller_is_cancelled():
            self.caller_left()
        if not self.over:  # else it has ended with its caller: no step was left to unwind
            self.happened(Happening.FAILURE, error)

    def cancel(self, reason: str | None = None, by: str = "cancel") -> None:
        """End the run as cancelled. Any number of times, at any time."""
        self.happened(Happening.CANCEL, CancelledError(reason, run_id=self.run_id), by)

    def caller_left(self, error: BaseException | None = None) -> None:
        """The scope that the run lives in was cancelled; `error` is what a step got of it, where one did."""
        if self.ledger is not None:
            self.ledger.caller_left(error)
        self.happened(Happening.LEFT, CancelledError(run_id=self.run_id))

    def result(self) -> WorkflowResult[Any]:
        """The result of a run that is over; raises what it failed with."""
        outcome = self.outcome
        if isinstance(outcome, BaseException):
            if isinstance(outcome, BlazenError):  # the engine's; one that came out of a step keeps the way it took
                outcome = outcome.with_traceback(None)
            raise outcome
        assert outcome is not None
        return WorkflowResult(outcome, self.id, self.totals, self.recording)

    def _abort_all(self) -> None:
        for ctx in self.stop_dispatching():
            self.abort_step(ctx, core.RUN_ENDING)
        for request_id in list(self.questions):  # those of steps that wait go with their waits
            if self.waits is None or self.waits.question(request_id) is None:
                del self.questions[request_id]
        if self.pause is not None:
            self.pause.changed.set()
        for worker in self.take_parked():
            reschedule(worker.task)
        if self.asleep:
            self.asleep = False
            self._unwound()

    def _publish(self) -> None:
        failures.attach(self)
        if self.recording is not None:
            self.recording.over(self, NAMES[self.life])
        if self.stream is not None:
            self.stream.end()
        if self.nursery is not None:
            waiters, self._waiters = self._waiters, []
            for task in waiters:
                reschedule(task)

    # --- running

    @enable_ki_protection
    async def execute(self, start: Event) -> WorkflowResult[Any]:
        """Run to the end in the calling task, which is the first worker.

        The nursery for other workers is opened when the next step could need one: before a step that may wait while
        there is something else to do. It takes twice as long as a run of three steps that do not wait.
        """
        self.enter_loop()
        await checkpoint_if_cancelled()
        self.begin(start)
        worker = Worker(self)
        if await self._run_alone(worker):
            if not worker.waited:
                await cancel_shielded_checkpoint()
        else:
            await self._run_in_nursery(worker)
        self.happened(_UNWOUND)
        if self.life is _CANCELLED:
            await checkpoint_if_cancelled()
            if self._stray is not None:
                raise self._stray
        return self.result()

    async def _run_alone(self, worker: Worker) -> bool:
        """Run steps until the run ends (True) or a nursery is needed (False)."""
        self.alone = True
        self._sit_down(worker)
        while True:
            try:
                code = await worker
            except BaseException as exc:
                failures.broken_dispatch(self, worker, exc)
                continue
            if code == core.ENDED:
                if self.left_open:
                    await scopes.wait_for_left_open(self, worker)
                worker.retire()
                return True
            if code == core.YIELD:
                if self.deadline <= self.now():
                    self.due_now(self)
                try:
                    await checkpoint()
                except BaseException as exc:
                    self._interrupted(exc)
            elif code == core.DRY and self.is_idle():
                self.on_idle()
            else:
                self.alone = False
                return False

    async def _run_in_nursery(self, worker: Worker) -> None:
        self.prepare_to_wait()
        try:
            async with trio.open_nursery() as self.nursery:
                if self.next_deadline() != _INFINITY:
                    self.watch(self.next_deadline())
                if self.scoped:
                    await self.work(worker)
                else:
                    self._sit_down(worker)
                    await self._drive(worker)
                    self._retire(worker)
        except BaseExceptionGroup as group:  # something reached this task while it waited for the others
            failures.absorb(self, group)

    def begin(self, start: Event) -> None:
        """Queue the first event."""
        self.happened(_START)
        if self.timeout is not None:
            self.started = self.now()
            self.deadline = self.started + self.timeout
        if self.recording is not None:
            self.recording.begin(self)
        try:
            self.start(start)
        except Exception as exc:  # memory ran out in the queue
            failures.broken_dispatch(self, None, exc)
        if self.ledger is not None:
            self.ledger.begin()

    def begin_again(self, put_together: Callable[[], None]) -> None:
        """Begin with what a snapshot held."""
        self.happened(_START)
        if self.timeout is not None:
            self.started = self.now()
        self.gating = self.ledger is not None  # its attempts are counted before they begin
        try:
            put_together()
        except Exception as exc:  # memory ran out in the queue
            failures.broken_dispatch(self, None, exc)
        finally:
            self.gating = False
        if self.ledger is not None:
            self.ledger.begin()

    def postpone_again(self, ctx: Context, left: float) -> None:
        """Have an attempt of a snapshot wait for the rest of its time."""
        self.postpone(+1)
        self.retry_at(ctx, self.now() + left)

    def set_usage(self, input_tokens: int, output_tokens: int, cost_usd: float) -> None:
        """Count on from what a snapshot held."""
        self.totals = Totals()
        self.totals.input_tokens = input_tokens
        self.totals.output_tokens = output_tokens
        self.totals.cost_usd = cost_usd

    def enter_loop(self) -> None:
        """Note the thread and the clock."""
        clock = current_clock()
        self.bind(None if type(clock) is _SystemClock else clock.current_time)

    @property
    def clock_offset(self) -> float:
        """What to add to the engine's clock to get trio's."""
        if self._offset is None:
            real = type(current_clock()) is _SystemClock
            self._offset = trio.current_time() - self.now() if real else 0.0
        return self._offset

    def _sit_down(self, worker: Worker) -> None:
        """Note what the worker's task is like outside of any step."""
        task = worker.task = current_task()
        worker.status = task._cancel_status
        worker.locks = failures.locks_held(task)

    def _interrupted(self, error: BaseException) -> None:
        """An exception reached a worker that was in no step: the caller's cancellation, or Ctrl-C."""
        if isinstance(error, trio.Cancelled):
            self.caller_left(error)
        else:
            self.happened(Happening.FATAL, error)

    @enable_ki_protection
    async def _work_unscoped(self, worker: Worker) -> None:
        self._sit_down(worker)
        await self._drive(worker)
        self._retire(worker)

    @enable_ki_protection
    async def work(self, worker: Worker) -> None:
        """Be a worker until the run ends: one scope for all its steps, a new one after a step was aborted."""
        ended = False
        while not ended:
            with trio.CancelScope() as scope:
                worker.scope = scope
                self._sit_down(worker)
                ended = await self._drive(worker)
        self._retire(worker)

    def _retire(self, worker: Worker) -> None:
        worker.arrived()
        worker.retire()
        if self.workers:
            return
        self._stop_watching()
        if self.ending:
            self._unwound()
        elif self.interactive:
            self._fall_asleep()

    def _unwound(self) -> None:
        """Every step of a run that is ending is out."""
        if self.ledger is not None:
            self.ledger.finish()
        elif self.interactive and not self.over:
            self.happened(_UNWOUND)

    def may_sleep(self) -> bool:
        """Whether nothing is left to do but to wait for the answer to a question, for which nobody need stay.

        A task takes as much memory as the rest of such a run, and there may be thousands.
        """
        if not self.interactive or self.busy or not self.questions or not self.waits_only():
            return False
        for worker in self.take_parked():
            reschedule(worker.task)
        return True

    def _fall_asleep(self) -> None:
        """The last worker has left: who brings work starts one."""
        self.asleep = True
        self._sentinel_scope = None
        if self.ledger is not None:
            self.ledger.rest()

    @enable_ki_protection
    async def _drive(self, worker: Worker) -> bool:
        """Take events until the run ends (True) or the worker's scope is spent (False)."""
        while True:
            try:
                code = await worker
            except BaseException as exc:  # of the engine, or a result that cannot be dispatched; never of a step
                failures.broken_dispatch(self, worker, exc)
                continue
            if code == core.ENDED:
                if self.left_open:
                    await scopes.wait_for_left_open(self, worker)
                return True
            if code == core.UNWOUND:
                return False
            try:
                if code == core.DRY:
                    self.keep_time()
                    self.look_whether_stuck()
                    if self.ending:
                        continue  # not to wait for work that will not come
                    if self.held:
                        pausing.look_whether_quiet(self)
                    if self.is_idle():
                        self.on_idle()
                    elif self.may_sleep() or (worker.surplus and self.parked >= _KEPT_WORKERS):
                        return True
                    else:
                        await self._wait_for_work(worker)
                elif code == core.YIELD:
                    if self.deadline <= self.now():
                        self.due_now(self)
                    await checkpoint()
                elif code == core.SETTLE:
                    await cancel_shielded_checkpoint()
                elif code == core.IN_THREAD:
                    await self._run_off_loop(worker)
            except Exception as exc:  # what a thread step returned cannot be dispatched
                failures.broken_dispatch(self, worker, exc)
            except BaseException as exc:
                self._interrupted(exc)

    async def _run_off_loop(self, worker: Worker) -> None:
        assert worker.ctx is not None
        if worker.ctx.step.in_process:
            from blazen.engine import processes  # loaded by workflows that need it

            await processes.run_step(self, worker)
        elif worker.ctx.step.in_asyncio:
            from blazen.engine import asyncio_steps  # likewise

            await asyncio_steps.run_step(self, worker)
        else:
            await threads.run_step(self, worker)

    def is_idle(self) -> bool:
        """Nothing queued, nothing running, nothing that waits for its time or for an answer."""
        if self.ending or self.held or self.busy or self.has_work or self.postponed or self.behind_gate:
            return False
        for request_id in self.reopened:  # their steps have ended and have not asked again
            self.questions.pop(request_id, None)
        self.reopened.clear()
        return not self.questions

    def waits_only(self) -> bool:
        """Nothing queued, and nothing running but steps that wait in their middle."""
        return not (self.ending or self.busy != self.waiting or self.has_work or self.postponed or self.behind_gate)

    def look_whether_stuck(self) -> None:
        """Fail a run whose steps wait for what nobody is left to send: there is no handler, and nothing else runs."""
        if self.waiting and not self.interactive:
            from blazen.engine import stuck  # few runs come here

            stuck.look(self)

    def look_again(self) -> None:
        """The time has come to look once more."""
        assert self.waits is not None
        self.waits.will_look = False
        self.look_whether_stuck()

    def keep_time(self) -> None:
        """Stop the run's clock while nothing runs or is queued and a question is open; else let it go on."""
        if self.life is State.PAUSED:
            return
        if self.ledger is not None:
            self.ledger.look_whether_waiting()
        if self.questions and self.waits_only():
            self.stop_clock()
        else:
            self.stir()

    def stop_clock(self) -> None:
        """Stop the run's clock, until `stir`."""
        if self.deadline != _INFINITY:
            self.resting = True
            self.rested_at = self.now()
            self.left = self.deadline - self.rested_at
            self.deadline = _INFINITY
            self.disarm_run_deadline()

    def stir(self) -> None:
        """Something happens again: the run's clock goes on."""
        if self.resting and self.life is not State.PAUSED:
            self.resting = False
            now = self.now()
            self.started += now - self.rested_at
            self.deadline = now + self.left
            self.arm_run_deadline()

    def on_idle(self) -> None:
        """Nothing is left to do, and no StopEvent has come."""
        self.fail(failures.idle(self))

    async def _wait_for_work(self, worker: Worker) -> None:
        self.arm_run_deadline()

        def abort(_: object) -> Abort:
            self.unpark(worker)
            return Abort.SUCCEEDED

        self.park(worker)
        await wait_task_rescheduled(abort)

    async def wait_until_over(self) -> None:
        """Return when the run has ended."""
        if self.over:
            await checkpoint()
            return
        self.check_thread("result()")
        task = current_task()

        def abort(_: object) -> Abort:
            self._waiters.remove(task)
            return Abort.SUCCEEDED

        self._waiters.append(task)
        await wait_task_rescheduled(abort)

    def check_thread(self, call: str) -> None:
        """Refuse to wait in another event loop, which this run's loop could not wake."""
        if not self.on_own_thread():
            raise ValidationError(
                f"{call} of run {self.run_id} is awaited in another event loop: await it in the loop the run lives in, "
                "or come from a thread with trio.from_thread.run(...)"
            )

    # --- hooks of the compiled loop: workers

    def spawn(self) -> Worker:
        """Start another worker."""
        worker = Worker(self)
        worker.surplus = True
        self.asleep = False
        self.nursery.start_soon(self.work if self.scoped else self._work_unscoped, worker, name="blazen worker")
        return worker

    def wake(self, worker: Worker) -> None:
        """Wake a worker that waits for work."""
        reschedule(worker.task)

    def pass_counter(self) -> object:
        """The counter of scheduler passes of this loop."""
        return self.loop.passes

    @property
    def loop(self) -> LoopState:
        """What this run shares with the other runs of its loop."""
        if self.loop_state is None:
            self.loop_state = loop_state()
        state: LoopState = self.loop_state
        return state

    # --- hooks of the compiled loop: outcomes

    @enable_ki_protection
    def on_stop(self, event: StopEvent) -> None:
        """A StopEvent was produced. One that comes after the run's deadline is too late, as a step's result is."""
        if self.deadline != _INFINITY and self.deadline <= self.now():
            self.due_now(self)
        if isinstance(event, DynamicEvent):
            try:
                event = failures.stop_event(self, event)
            except WorkflowError as error:
                self.fail(error)
                return
        self.happened(_STOP, event)

    def on_shown(self, event: Event) -> None:
        """An event that the stream shows too is on its way to steps."""
        if isinstance(event, UsageEvent):
            self.add_usage(event, "")
        else:
            self.show(event, None)
        if self.ledger is not None:
            self.ledger.shown(event)

    @enable_ki_protection
    def on_ask(self, event: InputRequestEvent, schema: object = None) -> None:
        """A question was produced; `schema` is the type of its answer."""
        if self.stream is None:
            self.fail(self.unanswerable(event))
            return
        self.questions[event.request_id] = event
        if self.ledger is None or not self.ledger.hold_question(event, schema):
            self.show(event, None)

    def unanswerable(self, event: InputRequestEvent) -> Exception:
        """The error of a question that nobody can answer, because there is no handler."""
        return failures.unanswerable(self, event)

    @enable_ki_protection
    def on_failed(self, ctx: Context, error: Exception) -> None:
        """An attempt failed: again, to `on_error`, or the end of the run."""
        step = ctx.step
        if self.ending:
            self.note_end("failed", ctx, error)
            failures.suppress(self, ctx, error)
            return
        if not isinstance(error, Exception):
            self.on_base_exception(ctx, error)
            return
        if self._caller_is_cancelled():  # the error may come from its cleanup: neither tried again nor handled
            self.note_end("failed", ctx, error)
            self.fail(failures.wrap(self, ctx, error))
            return
        if not ctx.handling:
            retry = step.retry
            if ctx.attempt <= retry.n and isinstance(error, retry.on):
                self.record("retrying", ctx, error)
                self.note_end("retrying", ctx, error)
                delay = retry.delay(ctx.attempt, self._jitter(ctx))
                if delay > 0:
                    self.postpone(+1)
                    self.retry_at(ctx, self.now() + delay)
                else:
                    self.requeue(ctx, handle=False)
                return
            if step.on_error is not None:
                self._record_failure(ctx, error)
                ctx.fail_with(error)
                self.requeue(ctx, handle=True)
                return
        self._record_failure(ctx, error)
        self.fail(failures.wrap(self, ctx, error))

    def _record_failure(self, ctx: Context, error: Exception) -> None:
        outcome = "timed_out" if isinstance(error, TimeoutError) else "failed"
        self.record(outcome, ctx, error)
        self.note_end(outcome, ctx, error)

    def _caller_is_cancelled(self) -> bool:
        """Whether the scope that the run lives in has been cancelled; a worker's own scope does not count."""
        if self.nursery is None:
            return trio.current_effective_deadline() == -_INFINITY
        status = self.nursery.cancel_scope._cancel_status
        return status is not None and status.effectively_cancelled

    def retry_at(self, ctx: Context, due: float) -> None:
        """Have an attempt begin anew at `due` (engine's clock)."""
        self.retries[ctx] = (self.add_timer(due, partial(self._retry, ctx)), due)

    def _retry(self, ctx: Context) -> None:
        self.retries.pop(ctx, None)
        self.postpone(-1)
        if not self.ending:
            try:
                self.requeue(ctx, handle=False)
            except Exception as exc:  # memory ran out in the queue
                failures.broken_dispatch(self, None, exc)

    def _jitter(self, ctx: Context) -> float:
        if type(current_clock()) is not _SystemClock:  # a test's clock: the same run waits the same times again
            return random.Random(f"{ctx.step.name} {ctx.seq} {ctx.attempt}").random()
        return random.random()  # no secret

    @enable_ki_protection
    def on_unwound(self, ctx: Context, error: BaseException | None) -> None:
        """An aborted invocation is out."""
        self.record("cancelled", ctx, None)
        self.note_end("abandoned" if ctx.abandoned else "cancelled", ctx, failures.without_abort(self, error))
        if ctx.abandoned:
            self.abandoned += (ctx.step.name,)
            if not self.ending:
                self.fail(failures.abandoned(self, ctx))
        elif ctx.abort_reason == core.PUT_BACK and not self.ending:
            ctx.noted = None
            if self.pause is None:  # the pause is over already
                self.requeue(ctx, handle=ctx.handling)
            else:
                self.pause.back.append(ctx)
        elif self.ledger is not None and not self.ending:
            if ctx.noted is not None:
                self.ledger.settled(ctx, False)
            self.ledger.stir()
        error = failures.without_abort(self, error)
        if error is None:
            return
        if not isinstance(error, Exception):
            self.happened(Happening.FATAL, error)
        else:
            failures.suppress(self, ctx, error)

    @enable_ki_protection
    def on_base_exception(self, ctx: Context, error: BaseException) -> None:
        """An exception that is no `Exception` came out of a step that nobody aborted."""
        rest = failures.without_cancelled(error)
        self.note_end("cancelled" if rest is None else "failed", ctx, rest)
        if rest is None:
            self._stray = error
            self.caller_left(error)
        elif not isinstance(rest, Exception):
            self.happened(Happening.FATAL, rest)
        else:
            self.caller_left()
            failures.suppress(self, ctx, rest)

    def on_outlived(self, step_name: str, seconds: float) -> None:
        """A step has ended, `seconds` after it began to wait, and its run's caller has been cancelled meanwhile."""
        if self.life is State.CANCELLING:  # the step went with it, or somebody else has
            return
        if not self.ending:
            self.caller_left()
        if seconds > self.cleanup_grace:
            failures.warn(
                self,
                f"step {step_name!r} of workflow {self.router.workflow!r} waited for {seconds:.1f} s and ended "
                "normally although the caller of its run had been cancelled: it was waited for; what has to be "
                "finished belongs into `async with ctx.cleanup():`",
            )

    def timeout_error(self, ctx: Context, error: BaseException | None) -> BaseException:
        """What a step over its time fails with."""
        return failures.step_timeout(self, ctx, error)

    def on_blocked(self, ctx: Context, seconds: float) -> None:
        """A plain `def` held the loop."""
        failures.warn(
            self,
            f"step {ctx.step.name!r} of workflow {self.router.workflow!r} held the event loop for {seconds:.2f} s; "
            "nothing else could run and nothing could be cancelled: use @step(run='thread') or an async def",
        )

    def on_scope_left_open(self, ctx: Context, error: BaseException | None) -> BaseException | None:
        """A step left a cancel scope or nursery open."""
        return scopes.close_left_open(self, ctx, error)

    def on_lock_left_held(self, ctx: Context, error: BaseException | None) -> BaseException | None:
        """A step left a trio lock held."""
        ctx.worker.locks = failures.locks_held(ctx.worker.task)
        self.fail(failures.lock_left_held(self, ctx))
        return error

    # --- aborting

    @enable_ki_protection
    def abort_step(self, ctx: Context, reason: int) -> None:
        """Have one running invocation stop; it produces nothing from now on."""
        if not self.abort(ctx, reason):
            return
        if self.recording is not None:
            self.recording.told(self, ctx, reason)
        if ctx.thread_scope is not None:
            if not ctx.thread_started:
                ctx.thread_scope.cancel()
            else:
                self.end_waits(ctx)
                self.add_timer(self.now() + self.cleanup_grace, partial(threads.abandon, ctx, ctx.thread_scope))
            return
        worker = ctx.worker
        if worker.scope is not None:
            worker.scope.cancel()
        elif self.nursery is not None:
            self.nursery.cancel_scope.cancel()
        else:
            return  # a plain def that ended its run by what it sent: it holds the loop until it is out
        # Most steps are out in the next pass, and the task that watches timers would cost as much as the abort. So it
        # is called for only when the step waits once more, or when cancelling did not wake it: then it is shielded.
        if not self.is_active(worker) and getattr(worker.task, "_next_send_fn", None) is None:
            self.waits_aborted(ctx)

    def on_waits_aborted(self, ctx: Context) -> None:
        """A step that was told to stop waits: it has the grace period for it, then it is named."""
        overrun = partial(failures.overrun, self, ctx, failures.attempt_of(ctx))
        self.add_timer(self.now() + self.cleanup_grace, overrun)

    def cancel_step(self, step_name: str) -> int:
        """Abort the running invocations of a step. Returns how many there were."""
        running = self.running(step_name)
        for ctx in running:
            self.abort_step(ctx, core.STEP_CANCELLED)
        return len(running)

    # --- time

    def watch(self, deadline: float) -> None:
        """Have somebody wake at `deadline` (engine's clock)."""
        if self.nursery is None:
            return  # a retry of a run that is still alone; `_run_in_nursery` sees to it
        if not self._watched:
            self._watched = True
            self.nursery.start_soon(self._watchdog, name="blazen watchdog")
        elif self._watch_scope is not None and deadline < self._watch_deadline:
            self._watch_deadline = deadline
            self._watch_scope.deadline = deadline + self.clock_offset

    @enable_ki_protection
    async def _watchdog(self) -> None:
        while self.workers or (self.asleep and self.next_deadline() != _INFINITY):
            self._watch_deadline = self.next_deadline()
            # Shielded: it keeps the grace period of a run whose caller was cancelled. It ends with the last worker.
            with trio.CancelScope(shield=True, deadline=self._watch_deadline + self.clock_offset) as scope:
                self._watch_scope = scope
                await trio.sleep_forever()
            self._watch_scope = None
            for target in self.due():
                self.due_now(target)
        self._watched = False

    def due_now(self, target: object) -> None:
        """The time of a timer has come."""
        if isinstance(target, Context):
            self.abort_step(target, core.TIMED_OUT)
        elif target is self:
            if not self.ending:
                self.fail(failures.run_timeout(self, self.now() - self.started))
        else:
            target()  # type: ignore[operator]

    @enable_ki_protection
    async def sentinel(self) -> None:
        """See the caller's cancellation at once, also while every step is shielded from it."""
        assert self._sentinel_scope is not None
        with self._sentinel_scope:  # made before: a run may be over before this task has its first turn
            try:
                await trio.sleep_forever()
            except trio.Cancelled as error:
                if not self.ending:
                    self.caller_left(error)

    def start_sentinel(self) -> None:
        """Start the sentinel, once per run."""
        if self._sentinel_scope is None:
            self._sentinel_scope = trio.CancelScope()
            self.nursery.start_soon(self.sentinel, name="blazen sentinel")

    def _stop_watching(self) -> None:
        """The last worker has left: let the other tasks of the run end."""
        if self._watch_scope is not None:
            self._watch_scope.cancel()
        if self._sentinel_scope is not None:
            self._sentinel_scope.cancel()

    # --- events from steps and from outside

    @enable_ki_protection
    def send(self, event: Event, key: object, emitter: str | None, cause: Place | None = None) -> None:
        """Queue an event on the loop's thread; at most once per key. `cause` is the attempt, for the journal."""
        if self.over:
            raise ValidationError(
                f"run {self.run_id} of workflow {self.router.workflow!r} has ended: nothing can be sent"
            )
        if key is not None and self.sent_keys is not None and key in self.sent_keys:
            return
        self.stir()
        if self.dozing:
            self.ledger.wake()
        if key is not None:  # first: what is written down has both the key and the event, or neither
            if self.sent_keys is None:
                self.sent_keys = set()
            self.sent_keys.add(key)
        try:
            self.receive(event, emitter, cause)
        except BaseException as exc:
            if key is not None and self.sent_keys is not None:
                self.sent_keys.discard(key)
            if isinstance(exc, WorkflowError):
                exc.run_id = self.run_id
            raise
        finally:
            self.keep_time()  # it may have been refused, or be kept for a wait that is still to come

    def post(self, event: Event, key: object, emitter: str | None, cause: Place | None = None) -> None:
        """Queue an event from another thread."""
        self.check_accepted(event, emitter)
        self.loop.post(partial(self._send_posted, event, key, emitter, cause))

    def check_accepted(self, event: Event, emitter: str | None) -> None:
        """Refuse what no step accepts, in the thread that sends it."""
        if self.over:
            raise ValidationError(
                f"run {self.run_id} of workflow {self.router.workflow!r} has ended: nothing can be sent"
            )
        if not isinstance(event, Event):
            raise ValidationError(f"send_event takes an event, got a {type(event).__name__!r} object")
        try:
            accepted = (self.waits is not None and self.waits.wants(event)) or self.router.accepts(event)
        except WorkflowError as exc:
            exc.run_id = self.run_id
            raise
        if not accepted:
            raise failures.unaccepted(self, event, emitter)

    def _send_posted(self, event: Event, key: object, emitter: str | None, cause: Place | None) -> None:
        if not self.over:  # it may have ended while the message was on its way
            try:
                self.send(event, key, emitter, cause)
            except Exception as exc:  # whoever posted it has gone on: only the run can hear of it
                failures.broken_dispatch(self, None, exc)

    def post_to_stream(self, event: Event, cause: Place | None = None) -> None:
        """Write an event to the stream from another thread."""
        self.loop.post(partial(self.show, event, cause))

    def show(self, event: Event, cause: Place | None) -> None:
        """Write an event to the stream, where there is one, and into the record. `cause` is the attempt."""
        if self.recording is not None and not self.over:
            self.recording.shown(self, event, cause)
        if self.stream is not None:
            self.stream.append(event)

    def payload_of(self, event: Event) -> object:
        """What the journal keeps of an event that may change."""
        from blazen.engine.payloads import payload

        return payload(event)

    def add_usage(self, event: UsageEvent, emitter: str, cause: Place | None = None) -> None:
        """Count usage and show it."""
        if not isinstance(event, UsageEvent):
            raise ValidationError(
                f"step {emitter!r}: emit_usage takes a UsageEvent, got a {type(event).__name__!r} object"
            )
        for field in ("input_tokens", "output_tokens", "cost_usd"):
            amount = getattr(event, field)
            if field == "cost_usd" and amount is None:
                continue
            kinds = int | float if field == "cost_usd" else int
            if not isinstance(amount, kinds) or isinstance(amount, bool):
                raise ValidationError(
                    f"step {emitter!r}: emit_usage cannot add up {field} = {amount!r}: it must be "
                    f"{'a number or None' if field == 'cost_usd' else 'an int'}"
                )
        if self.on_own_thread():
            self._count_usage(event, cause)
        else:
            self.loop.post(partial(self._count_usage, event, cause))

    def _count_usage(self, event: UsageEvent, cause: Place | None) -> None:
        if self.totals is None:
            self.totals = Totals()
        self.totals.input_tokens += event.input_tokens
        self.totals.output_tokens += event.output_tokens
        self.totals.cost_usd += event.cost_usd or 0.0
        if self.recording is not None and not self.over:
            self.recording.used(self, event.input_tokens, event.output_tokens, event.cost_usd or 0.0)
        self.show(event, cause)

    def note_end(self, outcome: str, ctx: Context, error: BaseException | None) -> None:
        """Note how an attempt ended that did not end well, if the run is recorded."""
        if self.recording is not None:
            self.recording.left(self, ctx, outcome, error)

    def record(self, kind: str, ctx: Context, error: BaseException | None) -> None:
        """Write a step record, if anybody wants them."""
        stream = self.stream
        if stream is None:
            return
        if not stream.with_steps:
            stream.skip_step_record()
            return
        now = self.now()
        stream.append_record(
            StepRecord(
                kind=kind,
                step=ctx.step.name,
                input_type=ctx.event.event_type,
                seq=ctx.seq,
                attempt=ctx.attempt,
                at=now + self.clock_offset,
                elapsed_ms=None if kind == "started" else (now - ctx.started) * 1000.0,
                error=None if error is None else f"{type(error).__name__}: {error}",
            )
        )

    # --- what a step asks of its run

    def cleanup(self, ctx: Context) -> Any:
        """`ctx.cleanup()`."""
        asyncio_steps = _called_from_asyncio(ctx)
        if asyncio_steps is not None:
            return asyncio_steps.AsyncioCleanup(self, ctx, self.cleanup_grace)
        return scopes.Cleanup(self, ctx, self.cleanup_grace)

    def wait_for_event(self, ctx: Context, *arguments: Any) -> Any:
        """`ctx.wait_for_event(...)`."""
        return self._wait_in_trio(ctx, partial(waits.wait_for_event, self, ctx, *arguments))

    def request_input(self, ctx: Context, *arguments: Any, **default: object) -> Any:
        """`ctx.request_input(...)`."""
        return self._wait_in_trio(ctx, partial(waits.request_input, self, ctx, *arguments, **default))

    def _wait_in_trio(self, ctx: Context, wait: Callable[[], Any]) -> Any:
        """What a step awaits: the wait itself, or where the step runs in asyncio, one that crosses over."""
        asyncio_steps = _called_from_asyncio(ctx)
        return wait() if asyncio_steps is None else asyncio_steps.wait_in_trio(ctx, wait)

    def once(self, ctx: Context, key: object, fn: object) -> Any:
        """`ctx.once(...)`."""
        asyncio_steps = _called_from_asyncio(ctx)
        if asyncio_steps is not None:
            return asyncio_steps.once(self, ctx, key, fn)
        from blazen.engine.once import once

        return once(self, ctx, key, fn)

    def on_commit(self, ctx: Context, fn: object) -> None:
        """`ctx.on_commit(...)`."""
        call = f"step {ctx.step_name!r}: on_commit"
        if self.ledger is None:
            raise ValidationError(
                f"{call}: this run is not stored, so nothing of it is committed: run the workflow with "
                "options(store=...)"
            )
        if not callable(fn):
            raise ValidationError(f"{call} takes a function of the store's connection, got {fn!r}")
        self.ledger.on_commit(ctx, fn)

    def open_waits(self) -> waits.Waits:
        """The waits of this run; made when a step waits in its middle for the first time."""
        if self.waits is None:
            self.waits = waits.Waits()
        opened: waits.Waits = self.waits
        return opened

    def keep_for_waits(self, event: Event) -> None:
        """An event that only waits may take, and none does yet."""
        self.open_waits().kept.append(event)

    def end_waits(self, ctx: Context) -> None:
        """End the waits of an invocation that trio does not end: it has ended itself, or is in a thread."""
        if self.waits is not None:
            self.waits.stop(ctx)

    def edit(self, ctx: Context, key: str, default: object) -> Any:
        """`ctx.edit(key)`."""
        from blazen.engine.edits import Edit

        ctx.has(key)  # refuses what is no key, before anybody waits for it
        if self._edits is None:
            self._edits = {}
        asyncio_steps = _called_from_asyncio(ctx)
        if asyncio_steps is not None:
            return asyncio_steps.AsyncioEdit(self, ctx, key, default, self._edits)
        return Edit(self, ctx, key, default, self._edits)


def _called_from_asyncio(ctx: Context) -> Any:
    """What serves a step that calls from asyncio (the module); None where it calls from trio."""
    if not ctx.step.in_asyncio:
        return None
    from blazen.engine import asyncio_steps

    return asyncio_steps if asyncio_steps.called_from_asyncio(ctx) else None


__all__ = ["BlazenError", "Run", "WorkflowError"]
