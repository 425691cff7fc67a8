"""What the tests of a store are written with."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import trio

from blazen.errors import ValidationError
from blazen.store.base import CheckpointStore, Claim, Commit, NewRun, Question
from blazen.store.waiting import Settle, wait_for

SOON = 0.5  # seconds within which what other owners do must be heard
PATIENCE = 10.0  # real seconds after which a test gives up
NOW = 1_000_000.0


class StoreTests:
    """The base of all tests of a store. See `blazen.testing.stores.StoreSuite`."""

    def open_store(self) -> CheckpointStore:
        """Another owner on the data of this test."""
        raise NotImplementedError("a StoreSuite needs open_store(): it returns another store object on the same data")

    def kill(self, store: CheckpointStore) -> None:
        """Have an owner die as it would when its process was killed."""
        raise NotImplementedError("a StoreSuite needs kill(store): the owner dies without letting go of anything")

    def opened(self) -> CheckpointStore:
        """A store that is closed after the test."""
        store = self.open_store()
        self.__dict__.setdefault("_opened", []).append(store)
        return store

    def teardown_method(self) -> None:
        """Close what was opened; pytest calls this after each test."""
        for store in self.__dict__.pop("_opened", ()):
            store.close()


def change(run_id: str, fence: int = 1, **fields: Any) -> Commit:
    """A commit, with what a test does not care about filled in."""
    given = {"at": NOW, "version": "1", "state": "running", "head": b"head", **fields}
    return Commit(run_id=run_id, fence=fence, **given)


def first(run_id: str, *, workflow: str = "wf", **fields: Any) -> Commit:
    """The first commit of a run."""
    return change(run_id, new=NewRun(workflow=workflow), **fields)


def question(request_id: str, run_id: str, **fields: Any) -> Question:
    """A question, likewise."""
    return Question(**{"request_id": request_id, "run_id": run_id, "prompt": "Go on?", "asked": NOW, **fields})


async def write(store: CheckpointStore, *commits: Commit) -> None:
    """Write commits one after the other; raises what `done` is called with."""
    for commit in commits:

        def submit(settle: Settle[None], commit: Commit = commit) -> None:
            store.submit(commit, lambda error: settle(None, error))

        await wait_for(submit)


async def refused(store: CheckpointStore, commit: Commit, kind: type[BaseException]) -> BaseException:
    """Write a commit that must fail with an error of this kind."""
    try:
        await write(store, commit)
    except kind as exc:
        return exc
    raise AssertionError(f"the commit was written; it should have failed with {kind.__name__}")


async def claimed(store: CheckpointStore, run_id: str, **fields: Any) -> Claim:
    """Claim a run and write a commit to it."""
    claim = await store.claim(run_id)
    await write(store, change(run_id, claim.fence, **fields))
    return claim


async def until(holds: Callable[[], bool], what: str, seconds: float = PATIENCE) -> None:
    """Wait in real time, whatever the clock of the test is, for what another thread or process does."""
    limit = time.monotonic() + seconds
    while not holds():
        if time.monotonic() > limit:
            raise AssertionError(f"not within {seconds} s: {what}")
        await trio.to_thread.run_sync(time.sleep, 0.002)


async def until_claimed(store: CheckpointStore, run_id: str) -> Claim:
    """Claim a run as soon as its owner has let go of it."""
    limit = time.monotonic() + PATIENCE
    while True:
        try:
            return await store.claim(run_id)
        except ValidationError:
            if time.monotonic() > limit:
                raise
            await trio.to_thread.run_sync(time.sleep, 0.002)
