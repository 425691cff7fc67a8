"""A store in the memory of one process: for tests, and for runs that need not outlive it."""

from __future__ import annotations

import weakref
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from blazen.errors import PersistError
from blazen.store import refusals
from blazen.store.base import (
    ENDED,
    CheckpointStore,
    Claim,
    Commit,
    Done,
    OnCommitFailed,
    Question,
    Request,
    RequestKind,
    RunInfo,
    RunState,
    StoredRun,
)
from blazen.store.memory_data import WHERE, Data, Listener, age

if TYPE_CHECKING:
    import sqlite3


class MemoryStore(CheckpointStore):
    """Keeps runs in the memory of this process. It can be used from any thread and has none of its own.

    Everything takes effect before the call returns. `view` gives another owner of the same data, as another process
    would be; `crash` ends an owner as ``kill -9`` would. The data is gone when the last store object of it is.
    """

    trust_native = True  # nobody else can write to it

    def __init__(self) -> None:
        self._join(Data())

    def _join(self, data: Data) -> None:
        self._data = data
        self._owner = data.add_owner()
        self._end = weakref.finalize(self, Data.leave, data, self._owner.number)
        self._end.atexit = False

    def view(self) -> MemoryStore:
        """Another store object on the same data, an owner of its own. This one may be closed."""
        other = MemoryStore.__new__(MemoryStore)
        other._join(self._data)
        return other

    def crash(self) -> None:
        """End this owner without goodbye: what it has claimed stays claimed, by a dead one. It can do nothing more."""
        with self._data as data:
            self._end.detach()
            data.remove_owner(self._owner, release=False)

    @property
    def connection(self) -> sqlite3.Connection:
        """The connection that `Commit.callbacks` get: a database in memory, one for all views."""
        with self._data as data:
            return data.connection()[0]

    def close(self) -> None:
        with self._data as data:
            if self._end.detach() is not None:
                data.remove_owner(self._owner, release=True)

    # --- writing

    def submit(self, commit: Commit, done: Done) -> None:
        error: BaseException | None = None
        try:
            with self._entered() as data:
                data.commit(commit, self._owner)
        except (PersistError, OnCommitFailed) as exc:
            error = exc
        done(error)

    async def claim(self, run_id: str, *, force: bool = False) -> Claim:
        with self._entered() as data:
            data.check(self._owner)
            run = data.get(run_id)
            if run.state in ENDED:
                raise refusals.has_ended(run_id, run.state, WHERE)
            if run.owner in data.owners and not force:
                raise refusals.owner_lives(run_id, WHERE)
            run.owner = self._owner.number
            run.fence += 1
            data.tell(run)
            return Claim(run_id=run_id, fence=run.fence)

    def let_go(self, claim: Claim) -> None:
        with self._data as data:  # also of a closed store, which has let go of everything
            run = data.runs.get(claim.run_id)
            if run is not None and run.owner == self._owner.number and run.fence == claim.fence:
                run.owner = None
                data.changed()

    # --- reading

    async def load(self, run_id: str) -> StoredRun:
        with self._entered() as data:
            run = data.get(run_id)
            return StoredRun(info=data.info(run), head=run.head, parts=dict(run.parts))

    async def stream(self, run_id: str, start: int = 0, limit: int | None = None) -> list[bytes]:
        refusals.check_range(start, limit)
        with self._entered() as data:
            return data.get(run_id).stream[start : None if limit is None else start + limit]

    async def runs(
        self,
        *,
        workflow: str | None = None,
        states: Sequence[RunState] | None = None,
        created_after: float | None = None,
        created_before: float | None = None,
        limit: int | None = None,
    ) -> list[RunInfo]:
        refusals.check_range(0, limit)
        with self._entered() as data:
            found = [
                run
                for run in data.runs.values()
                if (workflow is None or run.workflow == workflow)
                and (states is None or run.state in states)
                and (created_after is None or run.created > created_after)
                and (created_before is None or run.created < created_before)
            ]
            found.sort(key=age, reverse=True)
            return [data.info(run) for run in found[:limit]]

    async def info(self, run_id: str) -> RunInfo:
        with self._entered() as data:
            return data.info(data.get(run_id))

    async def questions(self, run_id: str | None = None) -> list[Question]:
        with self._entered() as data:
            found = [one for one in data.questions.values() if run_id is None or one.run_id == run_id]
            return sorted(found, key=lambda question: question.asked)

    async def runnable(self, workflows: Sequence[str] | None, now: float) -> list[RunInfo]:
        with self._entered() as data:
            found = [
                run
                for run in data.runs.values()
                if run.owner not in data.owners
                and (workflows is None or run.workflow in workflows)
                and run.has_something_to_do(now)
            ]
            return [data.info(run) for run in sorted(found, key=age)]

    # --- what others want of a run

    async def request(
        self, run_id: str | None, kind: RequestKind, *, key: str | None = None, data: bytes = b""
    ) -> Request:
        refusals.check_request(run_id, kind, key)
        with self._entered() as kept:
            if kind == "answer":
                assert key is not None
                question = kept.questions.get(key)
                if question is None or run_id not in (None, question.run_id):
                    if run_id is not None:
                        kept.get(run_id)
                    raise refusals.no_such_question(key, run_id, WHERE)
                run_id = question.run_id
            assert run_id is not None
            return kept.add_request(kept.get(run_id), kind, key, data)

    async def requests(self, run_id: str) -> list[Request]:
        with self._entered() as data:
            run = data.runs.get(run_id)
            return [] if run is None else list(run.requests.values())

    def listen(self, run_id: str, heard: Callable[[list[Request]], None]) -> None:
        with self._entered() as data:
            self._owner.listeners[run_id] = Listener(heard)
            run = data.runs.get(run_id)
            if run is not None:
                data.tell(run)

    def unlisten(self, run_id: str) -> None:
        with self._data:
            self._owner.listeners.pop(run_id, None)

    def watch(self, changed: Callable[[], None]) -> None:
        with self._entered():
            self._owner.watchers.append(changed)

    def unwatch(self, changed: Callable[[], None]) -> None:
        with self._data:
            if changed in self._owner.watchers:
                self._owner.watchers.remove(changed)

    # --- keeping house

    async def delete(self, run_id: str) -> None:
        with self._entered() as data:
            run = data.get(run_id)
            if run.owner in data.owners:
                raise refusals.is_live(run_id, WHERE)
            data.remove(run)

    async def prune(
        self, *, ended_before: float, states: Sequence[RunState] = ("completed", "failed", "cancelled")
    ) -> int:
        refusals.check_ended(states)
        with self._entered() as data:
            over = [
                run
                for run in data.runs.values()
                if run.state in states and run.updated < ended_before and run.owner not in data.owners
            ]
            for run in over:
                data.remove(run)
            return len(over)

    def _entered(self) -> Data:
        # Looked at before the lock is taken: whoever closes a store while others use it may be before or after them.
        if not self._end.alive:
            raise refusals.closed(WHERE)
        return self._data
