"""How a run gets its ledger: a new one, one that goes on in its store, and one that a snapshot is of."""

from __future__ import annotations

import contextlib
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, Any

from blazen._core import codec
from blazen._core.stream import EventStream
from blazen._resuming import prepare
from blazen.durability import loading
from blazen.durability.clock import wall_time
from blazen.durability.cut import Cutter
from blazen.durability.ledger import Ledger
from blazen.engine.handler import RunHandler
from blazen.errors import PersistError, ValidationError
from blazen.events import Event, InputRequestEvent
from blazen.store.base import Claim, NewRun

if TYPE_CHECKING:
    from blazen.engine.run import Run
    from blazen.snapshot import Snapshot
    from blazen.store.base import CheckpointStore
    from blazen.workflow import Workflow


def keep_new(run: Run, workflow: Workflow[Any]) -> None:
    """Have a new run written down."""
    assert workflow._store is not None
    _keep(run, workflow, workflow._store, workflow._durability, new=NewRun(workflow=workflow.name))


def keep_snapshot(
    run: Run, workflow: Workflow[Any], snapshot: Snapshot
) -> Callable[[], Awaitable[Callable[[], None] | None]]:
    """Have a run that goes on with a snapshot written down; what it returns looks first whether the store has it."""
    store = workflow._store
    assert store is not None

    async def look() -> None:
        if not await store.has(run.run_id):
            keep_new(run, workflow)
            return
        claim = await store.claim(run.run_id)
        try:
            stored = await store.load(run.run_id)
            classes = workflow._class_table()
            contents = loading.read_contents(stored, classes, trust_native=store.trust_native)
            then = codec.decode(snapshot.sections["run"], classes=classes)
            # An answer to a step that asks in its middle is no event, and has no number.
            same = contents.head.numbered == then["numbered"]
            same = same and _asked(contents.questions) == _asked(then["questions"])
            if stored.info.state != "paused" or not same:
                raise ValidationError(
                    f"workflow {workflow.name!r}: the store has run {run.run_id}, which is {stored.info.state}, and "
                    "the snapshot is another moment of it: what has happened since would happen twice. Go on with what "
                    f"the store has: resume({run.run_id!r})"
                )
            migrating = loading.migration_of(workflow, stored)
            await _fill_stream(run, store, classes)
        except BaseException:
            _give_back(store, claim)
            raise
        ledger = _keep(run, workflow, store, workflow._durability, fence=claim.fence)
        if migrating is not None:
            ledger.rewrite(contents)
        else:
            ledger.remember(contents, stored, {spec.name: index for index, spec in enumerate(workflow.graph.specs)})

    return look


def go_on(
    workflow: Workflow[Any],
    store: CheckpointStore,
    run_id: str,
    *,
    claimed: Callable[[Claim], object] = lambda _: None,
    survives: bool = False,
    watched: bool = True,
) -> RunHandler[Any]:
    """A handler of a run that goes on in its store.

    Args:
        workflow: Of the run.
        store: Where it is.
        run_id: The run.
        claimed: Called once it has been claimed.
        survives: Whether the run stays in the store when the caller is cancelled.
        watched: Whether somebody may read its stream, which then is loaded.
    """
    durability = workflow._durability
    if durability == "none":
        durability = "sync"
    shell = workflow.options(run_id=run_id, session={})
    stream = EventStream(shell._stream_keep or 0 if watched else 1)
    run = shell._new_run(stream)

    async def load() -> Callable[[], None]:
        claim = await store.claim(run_id)
        claimed(claim)
        try:
            return await _load(run, workflow, store, durability, claim, watched=watched, survives=survives)
        except BaseException:
            _give_back(store, claim)
            raise

    return RunHandler(run, None, None, prepare=load)


async def _load(
    run: Run,
    workflow: Workflow[Any],
    store: CheckpointStore,
    durability: str,
    claim: Claim,
    *,
    watched: bool,
    survives: bool,
) -> Callable[[], None]:
    stored = await store.load(claim.run_id)
    migrating = loading.migration_of(workflow, stored)
    classes = workflow._class_table()
    contents = loading.read_contents(stored, classes, trust_native=store.trust_native)
    plan = loading.plan(
        stored,
        contents,
        workflow.graph,
        now=wall_time(),
        migrating=migrating,
        trust_native=store.trust_native,
        session=workflow._session is None,
    )
    if workflow._session is None:
        run.session.update(plan.session)
    else:
        run.session = workflow._session
    restore = prepare(run, plan, workflow._types)
    if watched:
        await _fill_stream(run, store, classes)
    ledger = _keep(run, workflow, store, durability, fence=claim.fence, survives=survives)
    if migrating is not None:
        ledger.rewrite(contents)
    else:
        ledger.remember(contents, stored, plan.steps)
    return restore


def _asked(questions: list[InputRequestEvent]) -> set[str]:
    return {question.request_id for question in questions}


def _give_back(store: CheckpointStore, claim: Claim) -> None:
    with contextlib.suppress(PersistError):  # what went wrong before that says more
        store.let_go(claim)


async def _fill_stream(run: Run, store: CheckpointStore, classes: codec.ClassTable) -> None:
    """Begin the stream of a run with what the store has of it."""
    assert run.stream is not None
    for item in await store.stream(run.run_id):
        event = codec.decode(item, classes=classes, trust_native=store.trust_native)
        if not isinstance(event, Event):
            raise PersistError(
                f"run {run.run_id} is damaged in the store: its stream holds a {type(event).__name__!r} object"
            )
        run.stream.append(event)


def _keep(
    run: Run,
    workflow: Workflow[Any],
    store: CheckpointStore,
    durability: str,
    *,
    new: NewRun | None = None,
    fence: int = 1,
    survives: bool = False,
) -> Ledger:
    classes = workflow._class_table()
    ledger = Ledger(
        run,
        store,
        Cutter(classes, workflow._types, workflow._session_policy),
        classes=classes,
        version=workflow.version,
        new=new,
        fence=fence,
        survives=survives,
    )
    run.keep_ledger(ledger, durability == "sync")
    return ledger
