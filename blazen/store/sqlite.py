"""A store in one SQLite file, which several processes may have open at the same time."""

from __future__ import annotations

import os
import sqlite3
import threading
import time
import weakref
from collections.abc import Callable, Sequence
from typing import Any, TypeVar

from blazen.errors import ValidationError
from blazen.store import refusals, sqlite_jobs
from blazen.store.base import (
    CheckpointStore,
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
from blazen.store.callbacks import BEGIN, COMMIT, UNDO
from blazen.store.sqlite_owners import OwnerFile
from blazen.store.sqlite_posted import Barrier, CommitJob, Job, Listener, Look
from blazen.store.sqlite_queries import Reader
from blazen.store.sqlite_reader import ReadJob, SqliteReader
from blazen.store.sqlite_schema import explained, open_database, real_path
from blazen.store.sqlite_writer import SqliteWriter
from blazen.store.threads import StoreThread, check_process
from blazen.store.waiting import Settle, wait_for

T = TypeVar("T")


class SqliteStore(CheckpointStore):
    """Keeps runs in a SQLite file. Several processes of one machine may use it at the same time.

    A commit that was acknowledged is on the disk, and outlives the process and a power cut. Commits that are submitted
    at the same time share one wait for the disk. When a process dies, however it dies, others see at once that its runs
    have no owner any more.

    Beside the file there are ``-wal`` and ``-shm``, which are SQLite's, and ``-owners``, which says who is alive: never
    delete, copy or open it while the store is in use. The file belongs on a local disk.

    Tables of your own may live in it, written by `ctx.on_commit`; the names that begin with ``blazen_`` are taken.

    After a ``fork`` the child cannot use it.

    Args:
        path: The file; it is made if it is not there, in a directory that is. Relative to the working directory of now.
        trust_native: See `CheckpointStore.trust_native`.
        retention: For how many seconds a run is kept after its end; then it is deleted now and then. None: for ever.

    Raises:
        ValidationError: `path` can be no file, ``":memory:"`` for example, or `retention` is not 0 or more.
        PersistError: The file cannot be used: it is something else, damaged, of a newer version, locked, cannot be
            written, or there is no directory for it. Nothing in it has changed.
    """

    def __init__(
        self, path: str | os.PathLike[str], *, trust_native: bool = False, retention: float | None = None
    ) -> None:
        if retention is not None and not retention >= 0:
            raise ValidationError(f"retention is a number of seconds, 0 or more, or None; not {retention!r}")
        self.trust_native = trust_native
        self._path = real_path(path)
        self._where = f"the store {self._path}"
        self._pid = os.getpid()
        self._threads: list[StoreThread[Any]] = []
        self._reader: SqliteReader | None = None
        self._lock = threading.Lock()
        self._letting_go: set[Job] = set()
        self._writer = _start_writer(self._path, retention)
        self._threads.append(self._writer)
        # Only tells them: a finaliser may be called in the middle of anything, and must not wait.
        weakref.finalize(self, _stop, self._threads).atexit = False

    @property
    def path(self) -> str:
        """Where the file really is."""
        return self._path

    def __repr__(self) -> str:
        return f"SqliteStore({self._path!r})"

    def close(self) -> None:
        if self._pid != os.getpid():  # the threads are the parent's, and the lock may be one of theirs
            return
        with self._lock:  # a thread that is started meanwhile is stopped here, or is not started
            threads = list(self._threads)
            for thread in threads:
                thread.stop()
        for thread in threads:
            thread.close()

    def crash(self) -> None:
        """End this owner as ``kill -9`` would, for tests: it keeps its claims, and what was not written yet is lost."""
        self._writer.crashed = True
        self.close()

    # --- writing

    def submit(self, commit: Commit, done: Done) -> None:
        check_process(self._pid, self._where)
        self._writer.post(CommitJob(commit, done))

    async def claim(self, run_id: str, *, force: bool = False) -> Claim:
        def act(writer: SqliteWriter) -> Claim:
            claim = sqlite_jobs.claim(writer.connection, writer.reader, writer.owner, run_id, force, writer.kept)
            writer.forget(run_id)
            writer.to_tell.add(run_id)
            return claim

        return await self._write(act, undo=self.let_go, changes_owner_of=run_id)

    def let_go(self, claim: Claim) -> None:
        writer, under_way = self._writer, self._letting_go

        def act(_: SqliteWriter) -> None:
            sqlite_jobs.let_go(writer.connection, writer.owner, claim)
            writer.news = True

        def settled(_: None, error: BaseException | None) -> None:
            if error is not None:
                writer.kept[claim.run_id] = claim.fence
            under_way.discard(job)

        job = Job(act, settled, claim.run_id)
        under_way.add(job)  # until it is written, what is read would not show it
        writer.post(job)

    # --- reading

    async def load(self, run_id: str) -> StoredRun:
        return await self._read(lambda reader, connection: reader.load(connection, run_id))

    async def stream(self, run_id: str, start: int = 0, limit: int | None = None) -> list[bytes]:
        refusals.check_range(start, limit)
        return await self._read(lambda reader, connection: reader.stream(connection, run_id, start, limit))

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
        return await self._read(
            lambda reader, connection: reader.runs(connection, workflow, states, created_after, created_before, limit)
        )

    async def info(self, run_id: str) -> RunInfo:
        return await self._read(lambda reader, connection: reader.info(connection, run_id))

    async def questions(self, run_id: str | None = None) -> list[Question]:
        return await self._read(lambda reader, connection: reader.questions(connection, run_id))

    async def runnable(self, workflows: Sequence[str] | None, now: float) -> list[RunInfo]:
        return await self._read(lambda reader, connection: reader.runnable(connection, workflows, now))

    # --- what others want of a run

    async def request(
        self, run_id: str | None, kind: RequestKind, *, key: str | None = None, data: bytes = b""
    ) -> Request:
        refusals.check_request(run_id, kind, key)

        def act(writer: SqliteWriter) -> Request:
            request = sqlite_jobs.request(writer.connection, writer.reader, run_id, kind, key, data)
            writer.news = True
            writer.to_tell.add(request.run_id)
            return request

        return await self._write(act)

    async def requests(self, run_id: str) -> list[Request]:
        return await self._read(lambda reader, connection: reader.requests(connection, run_id))

    def listen(self, run_id: str, heard: Callable[[list[Request]], None]) -> None:
        self._check()
        self._writer.listeners[run_id] = Listener(heard)
        self._writer.post(Look(run_id))

    def unlisten(self, run_id: str) -> None:
        self._writer.listeners.pop(run_id, None)

    def watch(self, changed: Callable[[], None]) -> None:
        self._check()
        self._writer.watchers.append(changed)
        self._writer.post(Look())

    def unwatch(self, changed: Callable[[], None]) -> None:
        if changed in self._writer.watchers:
            self._writer.watchers.remove(changed)

    # --- keeping house

    async def delete(self, run_id: str) -> None:
        await self._write(lambda writer: sqlite_jobs.delete(writer.connection, writer.reader, run_id))

    async def prune(
        self, *, ended_before: float, states: Sequence[RunState] = ("completed", "failed", "cancelled")
    ) -> int:
        refusals.check_ended(states)
        return await self._write(
            lambda writer: sqlite_jobs.prune(writer.connection, writer.reader, ended_before, states)
        )

    # --- threads

    def _check(self) -> None:
        check_process(self._pid, self._where)
        if self._writer.closing:
            raise refusals.closed(self._where)

    async def _write(
        self,
        act: Callable[[SqliteWriter], T],
        undo: Callable[[T], None] | None = None,
        changes_owner_of: str | None = None,
    ) -> T:
        self._check()

        def start(settle: Settle[T]) -> None:
            self._writer.post(Job(act, settle, changes_owner_of))

        return await wait_for(start, undo)

    async def _read(self, read: Callable[[Reader, sqlite3.Connection], T]) -> T:
        self._check()
        reader = self._started_reader()

        def start(settle: Settle[T]) -> None:
            job = ReadJob(read, settle)
            if self._letting_go:
                self._writer.post(Barrier(lambda: reader.post(job)))
            else:
                reader.post(job)

        return await wait_for(start)

    def _started_reader(self) -> SqliteReader:
        with self._lock:
            if self._reader is None:
                self._check()  # not after `close`, which would not see it
                self._reader = SqliteReader(self._path)
                self._reader.start()
                self._threads.insert(0, self._reader)
            return self._reader


def _stop(threads: list[StoreThread[Any]]) -> None:
    for thread in threads:
        thread.stop()


def _start_writer(path: str, retention: float | None) -> SqliteWriter:
    """Open the database and become an owner in it."""
    connection = open_database(path)
    try:
        owners = OwnerFile.enter(path)
        writer = None
        try:
            writer = _become_owner(connection, path, owners, retention)
            writer.start()
        except BaseException:
            if writer is not None:
                owners.connections.discard(connection)
                owners.let_go(writer.owner)
            owners.leave()
            raise
    except sqlite3.Error as exc:
        connection.close()
        raise explained(exc, path) from exc
    except BaseException:
        connection.close()
        raise
    return writer


def _become_owner(
    connection: sqlite3.Connection, path: str, owners: OwnerFile, retention: float | None
) -> SqliteWriter:
    number = 0
    connection.execute(BEGIN)
    try:
        # Owners that are dead and own nothing are of no use any more. Numbers are not given twice.
        for (old,) in connection.execute(
            "SELECT number FROM blazen_owners WHERE number NOT IN "
            "(SELECT owner FROM blazen_runs WHERE owner IS NOT NULL)"
        ).fetchall():
            if not owners.lives(old):
                connection.execute("DELETE FROM blazen_owners WHERE number = ?", (old,))
        made = connection.execute(
            "INSERT INTO blazen_owners (process, opened) VALUES (?, ?)", (os.getpid(), time.time())
        ).lastrowid
        assert made is not None
        number = made
        writer = SqliteWriter(connection, path, owners, number, retention)
        # Before others can see the number, or they would find it dead.
        owners.hold(number, writer.look)
        connection.execute(COMMIT)
    except BaseException:
        owners.let_go(number)
        if connection.in_transaction:
            connection.execute(UNDO)
        raise
    owners.connections.add(connection)
    return writer
