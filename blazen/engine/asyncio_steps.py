"""Steps that run as tasks of an asyncio loop: cancelled there, and waited for until they are out."""

from __future__ import annotations

import asyncio
import inspect
from functools import partial
from typing import TYPE_CHECKING, Any

import outcome
import trio
from trio.lowlevel import Abort, current_task, enable_ki_protection, in_trio_task, reschedule, wait_task_rescheduled

from blazen.engine import failures
from blazen.engine.crossing import TrioCall, door_of_loop
from blazen.engine.edits import Edit
from blazen.engine.life import Happening
from blazen.engine.once import effect_of
from blazen.engine.once import once as once_in_trio
from blazen.errors import ValidationError, WorkflowError

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable
    from types import TracebackType

    from blazen._core.run import Context, Worker
    from blazen.engine.crossing import Door
    from blazen.engine.run import Run

# Seconds after which it is looked again whether a task that somebody else has cancelled has gone on.
_LOOKS_AGAIN = 0.005
# Steps that are at work in asyncio, in the whole process: virtual time waits for them.
_at_work: set[Attempt] = set()


def anything_at_work() -> bool:
    """Whether a step of any run is at work in an asyncio loop now."""
    return bool(_at_work)


class Attempt:
    """One call of a step in asyncio. `cancel` is what aborting the step calls, as of a cancel scope."""

    __slots__ = (
        "_ctx",
        "_run",
        "_told",
        "_told_at",
        "_variables",
        "_waiter",
        "door",
        "error",
        "over",
        "result",
        "task",
    )

    def __init__(self, run: Run, ctx: Context, variables: Any, door: Door) -> None:
        self._run = run
        self._ctx = ctx
        self._variables = variables
        self.door = door
        self._told = False
        self._told_at = 0.0  # the asyncio loop's clock
        self.over = False
        self._waiter: trio.lowlevel.Task | None = None
        self.task: asyncio.Task[None] | None = None
        self.result: object = None
        self.error: BaseException | None = None

    # --- in the trio loop

    def begin(self) -> None:
        _at_work.add(self)
        self.door.to_asyncio(self._start)

    def cancel(self) -> None:
        """Have its task cancelled; it has the grace period before it is named."""
        if not self._told:
            self._told = True
            self._told_at = self.door.loop.time()
            self.door.to_asyncio(self._cancel)
            self._run.waits_aborted(self._ctx)

    async def wait(self) -> None:
        """Return when it is out. Only Ctrl-C interrupts, because the caller is shielded."""
        while not self.over:
            self._waiter = current_task()

            def abort(_: object) -> Abort:
                self._waiter = None
                return Abort.SUCCEEDED

            await wait_task_rescheduled(abort)

    def _finish(self) -> None:
        self.over = True
        waiter, self._waiter = self._waiter, None
        if waiter is not None:
            reschedule(waiter)

    # --- in the asyncio loop

    def _start(self) -> None:
        if self._told:
            self._end(None)
            return
        loop = self.door.loop
        # A task factory may run the first part of a task at once, and that may be in the middle of a trio task.
        if loop.get_task_factory() is None:
            self._create()
        else:
            loop.call_soon(self._create)

    def _create(self) -> None:
        name = f"blazen step {self._ctx.step_name}"
        self.task = self.door.loop.create_task(self._call(), name=name, context=self._variables)
        self.task.add_done_callback(self._end)
        if self._told:
            self.task.cancel()

    async def _call(self) -> None:
        ctx = self._ctx
        step = ctx.step
        arguments = ((ctx, ctx.event) if step.ctx_first else (ctx.event, ctx)) if step.wants_ctx else (ctx.event,)
        try:
            self.result = await step.fn(*arguments)
        except GeneratorExit:  # the loop has been torn down around it
            _at_work.discard(self)
            raise
        except BaseException as exc:  # kept from the loop, which KeyboardInterrupt and SystemExit would stop
            self.error = exc

    def _cancel(self) -> None:
        task, loop = self.task, self.door.loop
        if task is None or task.done():
            return
        if task.cancelling() and loop.time() < self._told_at + self._run.cleanup_grace:
            # Somebody else was first, such as `asyncio.run` at its end: a second cancellation would cut its cleanup
            # off. If it is taken back, as by `asyncio.timeout`, this one is still to come.
            loop.call_later(_LOOKS_AGAIN, self._cancel)
        else:
            task.cancel()

    def _end(self, task: asyncio.Task[None] | None) -> None:
        if task is not None and task.cancelled():  # before its first turn
            self.error = asyncio.CancelledError()
        _at_work.discard(self)
        self.door.to_trio(self._finish)


@enable_ki_protection
async def run_step(run: Run, worker: Worker) -> None:
    """Run the worker's step in asyncio and settle its outcome.

    The scope is shielded: whoever aborts the step tells its task, and the step is waited for until it is out. The
    sentinel sees the caller's cancellation meanwhile.
    """
    ctx = worker.ctx
    assert ctx is not None
    run.loop  # noqa: B018  # made here, as for threads
    run.start_sentinel()
    run.arm_run_deadline()
    run.arm_deadline(ctx)
    ctx.thread_started = False  # so that an abort does not let go of it
    attempt = Attempt(run, ctx, worker.variables, _door())
    ctx.thread_scope = attempt
    worker.wait_for_thread()
    with trio.CancelScope(shield=True):
        attempt.begin()
        while not attempt.over:
            try:
                await attempt.wait()
            except BaseException as exc:  # Ctrl-C reached the loop
                run.happened(Happening.FATAL, exc)
    ctx.thread_scope = None
    error = attempt.error
    if isinstance(error, asyncio.CancelledError):
        if not ctx.cancelled:
            run.fail(_cancelled_by_others(run, ctx, error))
        error = None
    try:
        worker.finish_thread(attempt.result, error)
    except Exception as exc:  # what the step returned cannot be dispatched, or memory ran out
        failures.broken_dispatch(run, worker, exc)


def _door() -> Door:
    """The way from this trio loop to its asyncio loop."""
    try:
        return door_of_loop.get()
    except LookupError:
        from blazen.engine.asyncio_thread import ThreadDoor, loop_thread

        door = ThreadDoor(loop_thread().loop)
        door_of_loop.set(door)
        return door


def _cancelled_by_others(run: Run, ctx: Context, error: asyncio.CancelledError) -> WorkflowError:
    failure = WorkflowError(
        f"step {ctx.step_name!r} of workflow {run.router.workflow!r} was cancelled, and not by its run: its asyncio "
        "task, or something it awaited, was cancelled by somebody else",
        step=ctx.step_name,
        event_type=ctx.event.event_type,
        run_id=run.run_id,
    )
    failure.__cause__ = error
    return failure


# --- what such a step asks of its run


def called_from_asyncio(ctx: Context) -> bool:
    """Whether a call of `ctx` that waits comes from asyncio."""
    return isinstance(ctx.thread_scope, Attempt) and not in_trio_task()


async def wait_in_trio(ctx: Context, fn: Callable[[], Awaitable[Any]]) -> Any:
    """Await `fn()` in the run's trio loop, for a step in asyncio."""
    return await TrioCall(_door_of(ctx), fn).start().wait()


def _door_of(ctx: Context) -> Door:
    attempt = ctx.thread_scope
    if not isinstance(attempt, Attempt):
        raise ValidationError(f"step {ctx.step_name!r}: its ctx is asked to wait after the step has ended")
    return attempt.door


async def once(run: Run, ctx: Context, key: object, fn: object) -> Any:
    """`ctx.once(...)` in asyncio: trio says whether the effect is wanted, and it takes place in the step's own task."""
    effect = effect_of(fn, f"step {ctx.step_name!r}: once")
    door = _door_of(ctx)
    wanted: list[tuple[str, object]] = []
    taken_place = trio.Event()
    came_out: list[outcome.Outcome[Any]] = []

    async def ask(run_id: str, key: object) -> Any:
        wanted.append((run_id, key))
        call.wake()
        await taken_place.wait()
        return came_out[0].unwrap()

    def tell(what: outcome.Outcome[Any]) -> None:
        came_out.append(what)
        taken_place.set()

    call = TrioCall(door, partial(once_in_trio, run, ctx, key, ask))
    call.start()
    cancelled = await call.wait_until(lambda: bool(wanted))
    if cancelled is not None:
        raise cancelled
    if not call.over:
        try:
            result = effect(*wanted[0])
            if inspect.isawaitable(result):
                result = await result
        except BaseException as exc:
            door.to_trio(partial(tell, outcome.Error(exc)))
            if isinstance(exc, GeneratorExit):
                raise
        else:
            door.to_trio(partial(tell, outcome.Value(result)))
    return await call.wait()


def runs_in(run: Run, task: asyncio.Task[Any] | None) -> bool:
    """Whether this asyncio task is a step of the run."""
    return any(isinstance(ctx.thread_scope, Attempt) and ctx.thread_scope.task is task for ctx in run.running())


class AsyncioEdit(Edit):
    """`ctx.edit(key)` in asyncio: the key is waited for in trio."""

    __slots__ = ("_owner",)

    async def __aenter__(self) -> Edit:
        self._owner = asyncio.current_task()
        try:
            await wait_in_trio(self._ctx, super().__aenter__)
        except BaseException:
            if self._held.get(self._key) is self:  # it came together with the cancellation
                _door_of(self._ctx).to_trio(self._let_go)
            raise
        return self

    def _waits_for_itself(self, holder: Edit) -> bool:
        return isinstance(holder, AsyncioEdit) and holder._owner is self._owner

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        await wait_in_trio(self._ctx, partial(super().__aexit__, kind, error, traceback))


class AsyncioCleanup:
    """`async with ctx.cleanup():` in asyncio, where a task is cancelled once: only the grace has to be kept."""

    __slots__ = ("_ctx", "_grace", "_run", "_timeout")

    def __init__(self, run: Run, ctx: Context, grace: float) -> None:
        self._run = run
        self._ctx = ctx
        self._grace = grace

    async def __aenter__(self) -> None:
        self._timeout = asyncio.timeout(self._grace)
        await self._timeout.__aenter__()
        _door_of(self._ctx).to_trio(partial(self._run.cleaning.append, self._ctx))

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> bool | None:
        door = _door_of(self._ctx)
        door.to_trio(self._leave_soon)
        try:
            await self._timeout.__aexit__(kind, error, traceback)
        except TimeoutError:
            door.to_trio(partial(failures.cut_off, self._run, self._ctx, self._grace))
            return True
        return None

    def _leave_soon(self) -> None:
        """Not to be named for what it has taken until now: the step, which is on its way out, is in another loop."""
        run = self._run
        run.add_timer(run.now() + self._grace, partial(run.cleaning.remove, self._ctx))


__all__ = ["AsyncioCleanup", "AsyncioEdit", "anything_at_work", "called_from_asyncio", "run_step", "wait_in_trio"]
