"""The one thread of a `SqliteStore` that writes.

Everything that waits when it looks into its queue goes into one transaction, and so shares one wait for the disk. It
also looks, a few times a second, for what other processes have written.
"""

from __future__ import annotations

import sqlite3
import time
from collections.abc import Callable, Sequence

from blazen.errors import BlazenError, PersistError
from blazen.store import refusals
from blazen.store.base import Commit, OnCommitFailed, Request
from blazen.store.callbacks import (
    BEGIN,
    COMMIT,
    RELEASE,
    ROLL_BACK,
    SAVEPOINT,
    UNDO,
    Guard,
    TransactionLostError,
    call_back,
    in_transaction,
)
from blazen.store.sqlite_commits import CommitWriter
from blazen.store.sqlite_jobs import prune
from blazen.store.sqlite_owners import OwnerFile
from blazen.store.sqlite_posted import Barrier, CommitJob, Job, Listener, Look, Posted
from blazen.store.sqlite_queries import Reader
from blazen.store.sqlite_schema import connect, explained, is_full
from blazen.store.threads import StoreThread

POLL_SECONDS = 0.2
PRUNE_SECONDS = 60.0


class SqliteWriter(StoreThread[Posted]):
    """Writes to one database for one owner.

    Attributes:
        connection: Used by this thread alone; in a transaction while a job acts.
        owner: The number of the owner.
        news: Set by a job when `runnable` may give something new.
        kept: Claims that should have been let go of, which could not be written: the runs by id, and the fences.
        to_tell: Ids of runs of which a job has written what their listeners should hear.
    """

    def __init__(
        self, connection: sqlite3.Connection, path: str, owners: OwnerFile, owner: int, retention: float | None
    ) -> None:
        super().__init__(f"blazen store {path}")
        self.connection = connection
        self.owner = owner
        self.owners = owners
        self.reader = Reader(path, owners)
        self.news = False
        self.kept: dict[str, int] = {}
        self.to_tell: set[str] = set()
        self.listeners: dict[str, Listener] = {}
        self.watchers: list[Callable[[], None]] = []
        self.crashed = False
        self._path = path
        self._retention = retention
        self._next_prune = time.monotonic()
        self._next_poll = 0.0
        self._heard = 0  # up to here all requests were looked at
        self._dead: set[int] = set()  # owners whose death has been told
        self._poll_failed = False
        self._commits = self._commit_writer()
        # From now on, not from the first look on: what happens between must be seen.
        self._version: int | None = connection.execute("PRAGMA data_version").fetchone()[0]

    # --- the thread

    def timeout(self) -> float | None:
        times = []
        if self.listeners or self.watchers:
            times.append(self._next_poll)
        if self._retention is not None:
            times.append(self._next_prune)
        return max(min(times) - time.monotonic(), 0.0) if times else None

    def work(self, batch: list[Posted]) -> None:
        if self.crashed:
            for job in batch:
                self.refuse(job)
            return
        jobs = [job for job in batch if isinstance(job, (CommitJob, Job))]
        looks = [job.run_id for job in batch if isinstance(job, Look)]
        self.to_tell.update(run_id for run_id in looks if run_id is not None)
        self._hear()  # first: who listens before it commits has heard what is there when that is done
        if jobs:
            errors = self._transact(jobs)
            for job, error in zip(jobs, errors, strict=True):
                call_back(job.settle, error)
            if self.news:
                self.owners.tell_others(self.owner)
        for job in batch:
            if isinstance(job, Barrier):
                call_back(job.passed)
        self._look_around(at_once=None in looks)
        if self._retention is not None and time.monotonic() >= self._next_prune:
            self._prune(self._retention)

    def refuse(self, posted: Posted) -> None:
        call_back(posted.settle, refusals.closed(self.reader.where))

    def end(self) -> None:
        try:
            if not self.crashed:
                # If this fails, no harm is done: the claims stay, and belong to an owner that is dead.
                self.connection.execute(BEGIN)
                self.connection.execute("UPDATE blazen_runs SET owner = NULL WHERE owner = ?", (self.owner,))
                self.connection.execute("DELETE FROM blazen_owners WHERE number = ?", (self.owner,))
                self.connection.execute(COMMIT)
        except sqlite3.Error:
            pass
        finally:
            self.owners.connections.discard(self.connection)
            self.connection.close()
            self.owners.let_go(self.owner)
            if not self.crashed:
                self.owners.tell_others(self.owner)
            self.owners.leave()

    # --- transactions

    def _transact(self, jobs: Sequence[CommitJob | Job]) -> list[BaseException | None]:
        """Write all that can be written in one transaction; what kept each of the others from being written."""
        errors: dict[CommitJob | Job, BaseException | None] = {}
        together = True
        while len(errors) < len(jobs):
            rest = [job for job in jobs if job not in errors]
            try:
                self.connection.execute(BEGIN)
                failed = self._write(rest, together)
                self.connection.execute(COMMIT)
            except _AgainError as exc:
                # Nothing is written. Without the one that has failed, or one by one, the others may well be.
                self._roll_back(rest)
                together = False
                if exc.job is not None:
                    errors[exc.job] = exc.error
            except Exception as exc:
                self._roll_back(rest)
                if is_full(exc) and len(rest) > 1:  # there may be room for some
                    return [errors[job] if job in errors else self._transact([job])[0] for job in jobs]
                errors.update(dict.fromkeys(rest, self._explained(exc)))
            else:
                errors.update((job, failed.get(job)) for job in rest)
        return [errors[job] for job in jobs]

    def _write(self, jobs: Sequence[CommitJob | Job], together: bool) -> dict[CommitJob | Job, BaseException]:
        """Write in the open transaction; the errors of those that have failed.

        Raises:
            _AgainError: The transaction cannot go on, but can be tried again.
        """
        alone: Sequence[CommitJob | Job] = jobs
        if together:
            plain: dict[str, Commit] = {}
            alone = []
            owners_change = {job.run_id for job in jobs if isinstance(job, Job)}
            for job in jobs:
                if (
                    isinstance(job, CommitJob)
                    and self._commits.is_plain(job.commit)
                    and job.commit.run_id not in owners_change
                ):
                    if job.commit.run_id in plain:
                        raise _AgainError(None, None)  # two of one run: in order
                    plain[job.commit.run_id] = job.commit
                else:
                    alone.append(job)
            if plain:
                try:
                    self._commits.write_plain(list(plain.values()))
                except Exception as exc:  # whatever it was: it shows again, and whose it is, one by one
                    raise _AgainError(None, None) from exc
                self.news = self.news or any(commit.release for commit in plain.values())
        failed: dict[CommitJob | Job, BaseException] = {}
        for job in alone:
            error = self._write_one(job)
            if error is not None:
                failed[job] = error
        return failed

    def _write_one(self, job: CommitJob | Job) -> BaseException | None:
        execute = self.connection.execute
        execute(SAVEPOINT)
        try:
            if isinstance(job, CommitJob):
                self._commits.write(job.commit)
            else:
                job.result = job.act(self)
            execute(RELEASE)
        except TransactionLostError as exc:
            raise _AgainError(job, exc.failed) from None
        except Exception as exc:
            if isinstance(job, CommitJob):
                self._commits.forget(job.commit.run_id)
            if not in_transaction(self.connection):
                raise _AgainError(job, self._explained(exc)) from exc
            execute(ROLL_BACK)
            execute(RELEASE)
            return self._explained(exc)
        if isinstance(job, CommitJob):
            if job.commit.release:
                self.news = True
            if job.commit.new is not None:
                self.to_tell.add(job.commit.run_id)
        return None

    def _roll_back(self, jobs: Sequence[CommitJob | Job]) -> None:
        for job in jobs:
            if isinstance(job, CommitJob):
                self._commits.forget(job.commit.run_id)
        try:
            if self.connection.in_transaction:
                self.connection.execute(UNDO)
        except sqlite3.Error:
            # What a connection that is closed has not committed is undone; a callback may have closed it.
            self._connect_again()

    def _connect_again(self) -> None:
        self.owners.connections.discard(self.connection)
        self.connection.close()
        try:
            self.connection = connect(self._path)
        except sqlite3.Error as exc:  # every transaction fails, and tries it again
            call_back(_raise, self._explained(exc))
        else:
            self.owners.connections.add(self.connection)
            self._commits = self._commit_writer()
            self._version = None

    def _commit_writer(self) -> CommitWriter:
        return CommitWriter(self.connection, Guard(self.connection), self.owner, self.reader)

    def forget(self, run_id: str) -> None:
        """Read a run again before it is written: a job has changed it."""
        self._commits.forget(run_id)

    def _explained(self, error: Exception) -> BaseException:
        if isinstance(error, (BlazenError, OnCommitFailed)):
            return error
        explanation = explained(error, self._path)
        explanation.__cause__ = error
        return explanation

    # --- listeners

    def look(self) -> None:
        """Look for what others have written, now."""
        self.post(Look())

    def _look_around(self, *, at_once: bool) -> None:
        now = time.monotonic()
        changed, self.news = self.news, False
        self._hear()
        try:
            if at_once or ((self.listeners or self.watchers) and now >= self._next_poll):
                self._next_poll = now + POLL_SECONDS
                changed = self._look_for_news() or changed
            self._poll_failed = False
        except (sqlite3.Error, PersistError) as exc:
            self._could_not_read(exc)
        if changed:
            for watcher in list(self.watchers):
                if watcher in self.watchers:
                    call_back(watcher)

    def _hear(self) -> None:
        """Tell those listeners of their requests who have not heard all that there are, or may not have."""
        run_ids = [run_id for run_id in self.to_tell if run_id in self.listeners]
        self.to_tell.clear()
        try:
            for start in range(0, len(run_ids), 500):  # SQLite has a limit for the values of a statement
                some = run_ids[start : start + 500]
                self._tell(self.reader.requests_to_hear(self.connection, self.owner, 0, some))
        except (sqlite3.Error, PersistError) as exc:
            self.to_tell.update(run_ids)
            self._could_not_read(exc)

    def _could_not_read(self, error: Exception) -> None:
        # It is tried again. Whoever writes or reads will get the error too; who only listens would not.
        if not self._poll_failed:
            self._poll_failed = True
            call_back(_raise, self._explained(error))

    def _look_for_news(self) -> bool:
        """Look at what other connections have written. Whether `runnable` may give something new."""
        changed = False
        (version,) = self.connection.execute("PRAGMA data_version").fetchone()
        if version != self._version:
            changed = True
            if self.listeners:
                (last,) = self.connection.execute("SELECT max(number) FROM blazen_requests").fetchone()
                self._tell(self.reader.requests_to_hear(self.connection, self.owner, self._heard))
                self._heard = max(self._heard, last or 0)
            self._version = version
        if self.watchers:
            for (number,) in self.connection.execute("SELECT number FROM blazen_owners").fetchall():
                if number not in self._dead and not self.owners.lives(number):
                    self._dead.add(number)
                    changed = True
        return changed

    def _tell(self, requests: list[Request]) -> None:
        by_run: dict[str, list[Request]] = {}
        for request in requests:
            by_run.setdefault(request.run_id, []).append(request)
        for run_id, wanted in by_run.items():
            listener = self.listeners.get(run_id)
            if listener is None:
                continue
            new = [request for request in wanted if request.number > listener.last]
            if new:
                listener.last = new[-1].number
                call_back(listener.heard, new)

    # --- retention

    def _prune(self, retention: float) -> None:
        self._next_prune = time.monotonic() + PRUNE_SECONDS
        before = time.time() - retention

        def settled(_: object, error: BaseException | None) -> None:
            if error is not None:
                raise error

        job = Job(
            lambda writer: prune(writer.connection, writer.reader, before, ("completed", "failed", "cancelled")),
            settled,
        )
        (error,) = self._transact([job])
        call_back(job.settle, error)


class _AgainError(Exception):
    """Nothing of a transaction was written, because of one of its jobs if it is known."""

    def __init__(self, job: CommitJob | Job | None, error: BaseException | None) -> None:
        super().__init__(job, error)
        self.job = job
        self.error = error


def _raise(error: BaseException) -> None:
    raise error
