"""Steps that run in a worker process: killed at once when they are to stop.

The worker processes are trio-parallel's: kept warm, shared by all runs of the process, as many at once as there are
processors. What happens inside one is in `process_worker`.
"""

from __future__ import annotations

import math
import multiprocessing
import os
import pickle
import signal
import sys
from typing import TYPE_CHECKING, Any

import trio
from trio.lowlevel import enable_ki_protection

from blazen.engine import failures, process_worker
from blazen.errors import ValidationError, WorkflowError

if TYPE_CHECKING:
    from collections.abc import Callable

    from blazen._core.run import Context, Worker
    from blazen.engine.run import Run

# How many new workers may die before they have taken their event, until it is given up.
_FRESH_WORKERS = 1
# Seconds. A worker imports the main script, which may take its time; one that waits there for something never starts.
_LONGEST_START = 60.0
_IMPORTS = (
    "what it printed says why; if the main script starts a run when it is imported, put that under "
    "`if __name__ == '__main__':`"
)
_SystemClock = trio._core._run.SystemClock


def load(workflow: str) -> None:
    """Import what runs worker processes; before the first run of a workflow that needs it.

    Raises:
        ValidationError: This is a worker process: in the middle of importing the main script, which starts the run, or
            in the middle of a step that does.
    """
    here = multiprocessing.current_process()
    # The mark by which `multiprocessing` itself knows.
    if getattr(here, "_inheriting", False):
        script = getattr(sys.modules.get("__mp_main__"), "__file__", None) or "the main module"
        raise ValidationError(
            f"workflow {workflow!r} is run while a worker process imports {os.path.basename(script)}: a script with "
            "process steps is imported again by each worker, so what starts the run belongs under "
            "`if __name__ == '__main__':`"
        )
    if here.daemon:
        raise ValidationError(
            f"workflow {workflow!r} has process steps and is run inside a worker process, which can have none of its "
            "own: run it in the host, such as in an async step, or use run='thread'"
        )
    from trio_parallel import _proc

    spawning = getattr(_proc, "SpawnProcWorker", None)
    # For every user of trio-parallel in this process, which has no door for this: start without a traceback on Ctrl-C,
    # and end with the host. Should it be made another way one day, the rest works without.
    if spawning is not None and getattr(spawning, "mp_context", None) is multiprocessing.get_context("spawn"):
        spawning.mp_context = process_worker.QuietContext()


class _Offer:
    """The job of one step, on its way to a worker.

    trio-parallel offers a job to the next worker when one dies before it has taken it, and pickles it for each: without
    a bound that would never end if every worker dies, as those of a script do that cannot be imported.
    """

    def __init__(self, job: bytes, most: int) -> None:
        self.job = job
        self.left = most

    def __reduce__(self) -> tuple[Any, ...]:
        self.left -= 1
        if self.left < 0:
            raise _NoWorker
        return bytes, (self.job,)


class _NoWorker(Exception):
    """One worker after the other has died before it took the job."""


class _NoLimit:
    """In the place of a limiter, where any async context manager will do: the step has its place already."""

    async def __aenter__(self) -> None:
        pass

    async def __aexit__(self, *_: object) -> None:
        pass


@enable_ki_protection
async def run_step(run: Run, worker: Worker) -> None:
    """Run the worker's step in a process and settle its outcome.

    The scope is shielded, as for threads: whoever aborts the step cancels this scope, which kills the process and
    returns once it is gone. The sentinel sees the caller's cancellation meanwhile.
    """
    ctx = worker.ctx
    assert ctx is not None
    run.loop  # noqa: B018  # made here, as for threads
    run.start_sentinel()
    run.arm_run_deadline()
    ctx.thread_started = False  # so that an abort does not wait
    answer: process_worker.Answer | None = None
    result: object = None
    error: BaseException | None = None
    with trio.CancelScope(shield=True) as scope:
        ctx.thread_scope = scope
        worker.wait_for_thread()
        try:
            answer = await _call(run, ctx)
        except trio.Cancelled:
            raise
        except BaseException as exc:  # Ctrl-C reached the loop: the process has been killed
            error = _without_worker(run, ctx, exc) if isinstance(exc, Exception) else exc
    ctx.thread_scope = None
    if answer is not None and not ctx.cancelled:
        result, error = read_answer(run, ctx, answer)
    try:
        worker.finish_thread(result, error)
    except Exception as exc:  # what the step returned cannot be dispatched, or memory ran out
        failures.broken_dispatch(run, worker, exc)


async def _call(run: Run, ctx: Context) -> process_worker.Answer:
    import trio_parallel

    async with trio_parallel.current_default_worker_limiter():
        job = pickle_job(run, ctx)  # not before: steps that wait for a place must not hold a copy of their event each
        if trio_parallel.default_context_statistics().idle_workers == 0:
            await _start_worker(run, ctx)
        # Its time begins now. Counted from before, a step would time out because others use the processors, or because
        # the one before it has been killed with its worker.
        run.restart_clock(ctx)
        run.arm_deadline(ctx)
        # Idle ones may have been killed by somebody: those do not count.
        return await _in_worker(job, trio_parallel.default_context_statistics().idle_workers + _FRESH_WORKERS)


async def _start_worker(run: Run, ctx: Context) -> None:
    """Start a worker, which the next call then finds idle: no other task has its turn in between."""
    import trio_parallel

    real = type(trio.lowlevel.current_clock()) is _SystemClock  # a test's clock may leap over any deadline
    try:
        with trio.move_on_after(_LONGEST_START if real else math.inf) as scope:
            await _in_worker(b"", _FRESH_WORKERS)
    except trio_parallel.BrokenWorkerError as exc:
        raise _error(
            run, ctx, f"a worker process for {{step}} died while it started: {_death(exc)}; {_IMPORTS}"
        ) from None
    if scope.cancelled_caught:
        raise _error(run, ctx, f"a worker process for {{step}} was not ready within {_LONGEST_START:g} s; {_IMPORTS}")


async def _in_worker(job: bytes, most: int) -> process_worker.Answer:
    import trio_parallel

    answer: process_worker.Answer = await trio_parallel.run_sync(
        process_worker.call, _Offer(job, most), kill_on_cancel=True, limiter=_NoLimit()
    )
    return answer


def pickle_job(run: Run, ctx: Context, fn: Callable[..., Any] | None = None) -> bytes:
    """What a worker is sent: the step's function, or `fn` in its place, and the event.

    Raises:
        WorkflowError: They cannot be pickled.
    """
    try:
        return pickle.dumps((fn or ctx.step.fn, ctx.event), pickle.HIGHEST_PROTOCOL)
    except Exception as exc:
        problem = process_worker.unpicklable(ctx.event)
        what = f"its event {problem}" if problem else f"its function: {process_worker.describe(exc)}"
        raise _error(
            run,
            ctx,
            f"{{step}} cannot be handed to a worker process, because of {what}; send it what can be pickled, such as a "
            "path or a key in place of an open object, or use run='thread'",
            cause=exc,
        ) from exc


def read_answer(run: Run, ctx: Context, answer: process_worker.Answer) -> tuple[object, BaseException | None]:
    """What the step returned, or the error it failed with."""
    kind, *rest = answer
    if kind == process_worker.RETURNED:
        try:
            return pickle.loads(rest[0]), None  # type: ignore[arg-type]
        except Exception as exc:
            return None, _error(
                run,
                ctx,
                f"{{step}} returned what cannot be read back from its worker process: {process_worker.describe(exc)}",
                cause=exc,
            )
    if kind == process_worker.NO_EVENTS:
        return _stand_in(*rest), None
    if kind == process_worker.RAISED:
        return None, _raised(run, ctx, *rest)
    if kind == process_worker.NOT_PICKLED:
        said = f"{{step}} returned what cannot leave its worker process, {rest[0]}; return what can be pickled"
    elif kind == process_worker.EXITED:
        said = f"{{step}} called sys.exit({rest[0]}) in its worker process; a step ends by returning or by raising"
    else:
        said = (
            f"{{step}} could not be loaded in a worker process: {rest[0]}; a worker imports the modules of the "
            "function and of the event by their names, so both must stand at the top level of a module that `import` "
            "finds, and not under `if __name__ == '__main__':`"
        )
    return None, _error(run, ctx, said)


def _stand_in(name: Any, in_list: Any, awaitable: Any) -> object:
    """Something of a type of that name, which the dispatcher refuses in the words it has for every step."""
    known: dict[str, object] = {"tuple": (), "set": set(), "frozenset": frozenset()}
    members = {"__await__": None} if awaitable else {}
    stand_in = known[name] if name in known else type(name, (), members)()
    return [stand_in] if in_list else stand_in


def _raised(run: Run, ctx: Context, pickled: Any, text: Any, remote: Any) -> BaseException:
    if pickled:
        try:
            error = pickle.loads(pickled)
        except Exception:  # the worker could read it
            error = None
        if isinstance(error, BaseException):
            return error
    lost = _error(run, ctx, f"{{step}} raised {text} in its worker process; that exception cannot be pickled")
    lost.add_note(f"Its traceback in the worker process:\n{remote}")
    return lost


def _without_worker(run: Run, ctx: Context, error: Exception) -> Exception:
    """The error of a step whose worker died, or that got none."""
    import trio_parallel

    if isinstance(error, WorkflowError) and error.run_id == run.run_id:
        return error.with_traceback(None)
    if isinstance(error, trio_parallel.BrokenWorkerError):
        return _error(run, ctx, f"the worker process of {{step}} died: {_death(error)}")
    if isinstance(error, _NoWorker):
        return _error(run, ctx, "{step} got no worker process: one after the other died before it took the event")
    return _error(run, ctx, f"{{step}} got no worker process: {process_worker.describe(error)}", cause=error)


def _death(error: Exception) -> str:
    """How a worker ended that was not told to; `error` is trio-parallel's."""
    process = error.args[-1] if error.args else None
    code: int | None = getattr(process, "exitcode", None)
    if process is None or code is None:
        return "nothing is known of how"
    if code >= 0:
        return f"exit code {code}, as from os._exit({code}) (process {process.pid})"
    try:
        name = signal.Signals(-code).name
    except ValueError:
        name = "unknown"
    said = f"killed by signal {-code} ({name}) (process {process.pid})"
    if -code == signal.SIGKILL:
        said += "; if nobody killed it, memory ran out, and the kernel's log names it"
    return said


def _error(run: Run, ctx: Context, said: str, *, cause: BaseException | None = None) -> WorkflowError:
    """An error of the engine's about this step; "{step}" in `said` is where it is named."""
    where = f"step {ctx.step.name!r} of workflow {run.router.workflow!r}"
    error = WorkflowError(
        said.replace("{step}", where, 1), step=ctx.step.name, event_type=ctx.event.event_type, run_id=run.run_id
    )
    error.__cause__ = cause
    return error


__all__ = ["load", "pickle_job", "read_answer", "run_step"]
