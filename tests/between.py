"""A store between a run and its store, whose commits are late or fail, and what tests of stored runs have in common."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import trio

from blazen import Workflow
from blazen.errors import PersistError
from blazen.store import CheckpointStore, MemoryStore
from blazen.store.base import (
    Claim,
    Commit,
    Done,
    Question,
    Request,
    RequestKind,
    RunInfo,
    RunState,
    StoredRun,
)

Fault = Callable[[Commit], BaseException | None]


def no_fault(_: Commit) -> BaseException | None:
    return None


class StoreBetween(CheckpointStore):
    """Passes everything on to another store. Commits are kept for the test to look at.

    Args:
        inner: The other store.
        before: Seconds until a commit takes effect.
        after: Seconds from then on until the run is told.
        fault: What a commit fails with, if it is to.
    """

    def __init__(
        self, inner: CheckpointStore, *, before: float = 0.0, after: float = 0.0, fault: Fault = no_fault
    ) -> None:
        self.inner = inner
        self.before = before
        self.after = after
        self.fault = fault
        self.commits: list[Commit] = []  # those that took effect
        self.noted: Callable[[Commit], object] = lambda commit: None  # called with each commit that has taken effect
        self.trust_native = inner.trust_native

    def submit(self, commit: Commit, done: Done) -> None:
        if self.before or self.after:
            trio.lowlevel.spawn_system_task(self._submit_late, commit, done, self.before, self.after)
        else:
            self._submit(commit, done)

    def _submit(self, commit: Commit, done: Done) -> None:
        fault = self.fault(commit)
        if fault is not None:
            done(fault)
            return

        def noted(error: BaseException | None) -> None:
            if error is None:
                self.commits.append(commit)
                self.noted(commit)
            done(error)

        self.inner.submit(commit, noted)

    async def _submit_late(self, commit: Commit, done: Done, before: float, after: float) -> None:
        told: list[BaseException | None] = []
        await trio.sleep(before)
        self._submit(commit, told.append)
        await trio.sleep(after)
        done(told[0])

    async def claim(self, run_id: str, *, force: bool = False) -> Claim:
        return await self.inner.claim(run_id, force=force)

    def let_go(self, claim: Claim) -> None:
        self.inner.let_go(claim)

    async def load(self, run_id: str) -> StoredRun:
        return await self.inner.load(run_id)

    async def stream(self, run_id: str, start: int = 0, limit: int | None = None) -> list[bytes]:
        return await self.inner.stream(run_id, start, limit)

    async def runs(
        self,
        *,
        workflow: str | None = None,
        states: Sequence[RunState] | None = None,
        created_after: float | None = None,
        created_before: float | None = None,
        limit: int | None = None,
    ) -> list[RunInfo]:
        return await self.inner.runs(
            workflow=workflow,
            states=states,
            created_after=created_after,
            created_before=created_before,
            limit=limit,
        )

    async def info(self, run_id: str) -> RunInfo:
        return await self.inner.info(run_id)

    async def questions(self, run_id: str | None = None) -> list[Question]:
        return await self.inner.questions(run_id)

    async def runnable(self, workflows: Sequence[str] | None, now: float) -> list[RunInfo]:
        return await self.inner.runnable(workflows, now)

    async def request(
        self, run_id: str | None, kind: RequestKind, *, key: str | None = None, data: bytes = b""
    ) -> Request:
        return await self.inner.request(run_id, kind, key=key, data=data)

    async def requests(self, run_id: str) -> list[Request]:
        return await self.inner.requests(run_id)

    def listen(self, run_id: str, heard: Callable[[list[Request]], None]) -> None:
        self.inner.listen(run_id, heard)

    def unlisten(self, run_id: str) -> None:
        self.inner.unlisten(run_id)

    def watch(self, changed: Callable[[], None]) -> None:
        self.inner.watch(changed)

    def unwatch(self, changed: Callable[[], None]) -> None:
        self.inner.unwatch(changed)

    async def delete(self, run_id: str) -> None:
        await self.inner.delete(run_id)

    async def prune(
        self, *, ended_before: float, states: Sequence[RunState] = ("completed", "failed", "cancelled")
    ) -> int:
        return await self.inner.prune(ended_before=ended_before, states=states)

    def close(self) -> None:
        self.inner.close()


def fail_nth(number: int, error: BaseException | None = None) -> Fault:
    """The fault of a store whose commit of this number fails; the first is 1."""
    count = 0

    def fault(_: Commit) -> BaseException | None:
        nonlocal count
        count += 1
        return (error or PersistError("the disk is full")) if count == number else None

    return fault


async def run_until_crash(workflow: Workflow[Any], store: CheckpointStore, seconds: float, run_id: str) -> MemoryStore:
    """Start a run, and end its process after so many seconds. Returns what another process opens.

    The run goes on in its last steps as a killed process would not, but nothing that it does reaches the store.
    """
    memory = store.inner if isinstance(store, StoreBetween) else store
    assert isinstance(memory, MemoryStore)
    other = memory.view()
    with trio.CancelScope() as scope:
        async with workflow.options(store=store, run_id=run_id).run_with_handler():
            await trio.sleep(seconds)
            memory.crash()
            scope.cancel()
            await trio.sleep_forever()
    return other
