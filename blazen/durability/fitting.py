"""Whether the unfinished runs of a store fit a workflow, before anything goes on with them."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

from blazen._core.stream import EventStream
from blazen._resuming import prepare
from blazen.durability import loading
from blazen.errors import PersistError, ValidationError
from blazen.store.base import ENDED

if TYPE_CHECKING:
    from blazen.store.base import CheckpointStore, RunInfo
    from blazen.workflow import Workflow


async def unfinished(store: CheckpointStore) -> list[RunInfo]:
    """The runs of a store that have not ended, newest first."""
    return [info for info in await store.runs() if info.state not in ENDED]


async def misfit(store: CheckpointStore, workflow: Workflow[Any], run_id: str) -> str | None:
    """Why a workflow could not go on with a run as it is in its store, or None if it could. Nothing is claimed,
    written or run; pickles are loaded only if the store trusts them.

    Raises:
        PersistError: The store cannot be read.
    """
    try:
        stored = await store.load(run_id)
    except ValidationError:  # it has been deleted meanwhile
        return None
    if stored.info.state in ENDED:
        return None
    try:
        migrating = loading.migration_of(workflow, stored)
        contents = loading.read_contents(stored, workflow._class_table(), trust_native=store.trust_native)
        plan = loading.plan(
            stored,
            contents,
            workflow.graph,
            now=time.time(),
            migrating=migrating,
            trust_native=store.trust_native,
            session=False,
        )
        prepare(workflow.options(run_id=run_id, session={})._new_run(EventStream(1)), plan, workflow._types)
    except (ValidationError, PersistError) as error:
        return str(error)
    return None
