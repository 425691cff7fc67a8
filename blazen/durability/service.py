"""Going on with runs that are in a store and that nobody goes on with."""

from __future__ import annotations

import contextlib
import warnings
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any

import msgspec
import trio

from blazen.durability import starting
from blazen.durability.clock import wall_time
from blazen.errors import BlazenWarning, PersistError, ValidationError

if TYPE_CHECKING:
    from blazen.store.base import CheckpointStore, Claim, RunInfo
    from blazen.workflow import Workflow

# Others see a request within a second: the store tells of it within half a second, and this is the net below it.
LOOK_EVERY = 0.5
MAX_RUNS = 1000
# After trouble with the store a run is tried again by `serve` after the first, then twice as long each time, in
# seconds.
FIRST_WAIT = 1.0
LONGEST_WAIT = 60.0


class Recovered(msgspec.Struct, frozen=True):
    """What became of a run that `recover` went on with.

    Attributes:
        run_id: The run.
        workflow: Its workflow.
        state: What it is now: `"completed"`, `"failed"`, `"cancelled"`, or `"waiting"` for somebody.
        error: What it failed with, or why it could not be gone on with at all; None if neither.
    """

    run_id: str
    workflow: str
    state: str
    error: BaseException | None = None


class _Trouble(msgspec.Struct, frozen=True):
    """A run is not gone on with for some time."""

    wait: float  # seconds
    until: float  # trio's clock


class _Continuing:
    """The runs of some workflows that this process goes on with."""

    def __init__(self, store: CheckpointStore, workflows: Iterable[Workflow[Any]], max_runs: int, call: str) -> None:
        self.store = store
        self.workflows = _by_name(workflows, call)
        self.active: set[str] = set()
        self.refused: dict[str, float] = {}  # runs that do not fit their workflow, and when they were written
        self.troubled: dict[str, _Trouble] = {}  # runs that the store would not take or give
        self.outcomes: list[Recovered] = []
        self.changed = trio.Event()
        self._room = trio.CapacityLimiter(_check_max_runs(max_runs, call))

    async def start_what_is_runnable(self, nursery: trio.Nursery) -> int:
        """Start a task for each run that has something to do. Returns how many."""
        started = 0
        now = trio.current_time()
        for info in await self.store.runnable(tuple(self.workflows), wall_time()):
            if info.run_id in self.active or self.refused.get(info.run_id) == info.updated:
                continue
            trouble = self.troubled.get(info.run_id)
            if trouble is not None and now < trouble.until:
                continue
            self.active.add(info.run_id)
            nursery.start_soon(self._go_on, info)
            started += 1
        return started

    async def _go_on(self, info: RunInfo) -> None:
        workflow = self.workflows[info.workflow]
        error: BaseException | None = None
        try:
            async with self._room:
                claimed: list[Claim] = []
                handler = starting.go_on(
                    workflow, self.store, info.run_id, claimed=claimed.append, survives=True, watched=False
                )
                try:
                    async with handler:
                        pass
                except (ValidationError, PersistError) as exc:
                    if handler.began:
                        raise
                    if isinstance(exc, PersistError):
                        self._note_trouble(info.run_id)
                    if claimed or isinstance(exc, PersistError):
                        self._refuse(info, exc)
                    return  # else others were faster, or it has ended or was deleted meanwhile
        except Exception as exc:
            error = exc
        finally:
            self.active.discard(info.run_id)
            self.changed.set()
        try:
            now = await self.store.info(info.run_id)
        except ValidationError:  # it was deleted as soon as it had ended
            return
        if now.state == "running" or isinstance(error, PersistError):  # the store would not take what it did
            self._note_trouble(info.run_id)
        else:
            self.troubled.pop(info.run_id, None)
        self.outcomes.append(Recovered(info.run_id, info.workflow, now.state, error))

    def _note_trouble(self, run_id: str) -> None:
        """Not again at once: whatever keeps the store from it may take a while."""
        before = self.troubled.get(run_id)
        wait = FIRST_WAIT if before is None else min(before.wait * 2, LONGEST_WAIT)
        self.troubled[run_id] = _Trouble(wait, trio.current_time() + wait)

    def _refuse(self, info: RunInfo, error: Exception) -> None:
        """A run cannot be gone on with: others are not held up by it, and it stays as it is."""
        if isinstance(error, ValidationError):
            self.refused[info.run_id] = info.updated
        self.outcomes.append(Recovered(info.run_id, info.workflow, info.state, error))
        warnings.warn(f"run {info.run_id} stays in the store as it is: {error}", BlazenWarning, stacklevel=2)


async def recover(
    store: CheckpointStore, workflows: Iterable[Workflow[Any]], *, max_runs: int = MAX_RUNS
) -> list[Recovered]:
    """Go on with every unfinished run of some workflows that nobody alive owns, until nothing is left to do.

    What had finished does not run again; what was interrupted does, with `ctx.attempt` one higher. A run that waits for
    somebody goes back to the store. Runs that are paused stay so.

    Args:
        store: Where the runs are.
        workflows: What the runs are of; runs of others are left alone.
        max_runs: How many go on at once.
    Returns:
        What became of each run, in the order in which they came to rest.
    Raises:
        ValidationError: An argument cannot be used.
        PersistError: The store cannot be read.
    Warns:
        BlazenWarning: A run does not fit its workflow; it is left as it is.
    """
    continuing = _Continuing(store, workflows, max_runs, "recover")
    while True:
        async with trio.open_nursery() as nursery:
            if not await continuing.start_what_is_runnable(nursery):
                return continuing.outcomes


async def serve(
    store: CheckpointStore,
    workflows: Iterable[Workflow[Any]],
    *,
    max_runs: int = MAX_RUNS,
    task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED,
) -> None:
    """Go on with the runs of some workflows, for as long as this is not cancelled.

    It takes runs that have been answered, that are due, or whose owner has died, and leaves those that wait to the
    store. What other processes want of a run (an answer, pause, cancel) is seen within a second. When it is cancelled,
    its runs stay in the store as they are. A run that the store would not take or give is tried again, after a second,
    then after twice as long each time, up to a minute.

    Args:
        store: Where the runs are.
        workflows: What the runs are of; runs of others are left alone.
        max_runs: How many go on at once.
        task_status: For `await nursery.start(serve, ...)`: started once it has looked for the first time.
    Raises:
        ValidationError: An argument cannot be used.
        PersistError: The store cannot be read.
    Warns:
        BlazenWarning: A run does not fit its workflow; it is left as it is.
    """
    continuing = _Continuing(store, workflows, max_runs, "serve")
    token = trio.lowlevel.current_trio_token()

    def changed() -> None:
        with contextlib.suppress(trio.RunFinishedError):
            token.run_sync_soon(lambda: continuing.changed.set())

    store.watch(changed)
    try:
        async with trio.open_nursery() as nursery:
            first = True
            while True:
                continuing.changed = trio.Event()
                await continuing.start_what_is_runnable(nursery)
                continuing.outcomes.clear()
                if first:
                    task_status.started()
                    first = False
                with trio.move_on_after(LOOK_EVERY):
                    await continuing.changed.wait()
    finally:
        store.unwatch(changed)


def _by_name(workflows: Iterable[Workflow[Any]], call: str) -> dict[str, Workflow[Any]]:
    from blazen.workflow import Workflow

    if isinstance(workflows, Workflow):
        raise ValidationError(f"{call} takes a list of workflows: [{workflows.name}]")
    found: dict[str, Workflow[Any]] = {}
    for workflow in workflows:
        if not isinstance(workflow, Workflow):
            raise ValidationError(f"{call} takes a list of workflows, got {workflow!r} among them")
        if workflow.name in found:
            raise ValidationError(f"{call}: two of the workflows are named {workflow.name!r}")
        found[workflow.name] = workflow
    if not found:
        raise ValidationError(f"{call}: give it at least one workflow; runs of others are left alone")
    return found


def _check_max_runs(value: object, call: str) -> int:
    if isinstance(value, bool) or not isinstance(value, int) or value < 1:
        raise ValidationError(f"{call}: max_runs must be an int above 0, got {value!r}")
    return value


__all__: Sequence[str] = ["Recovered", "recover", "serve"]
