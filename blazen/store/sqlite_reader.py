"""The thread of a `SqliteStore` that reads, with a connection of its own: a long list does not hold up commits."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable
from typing import Any

from blazen.errors import BlazenError
from blazen.store import refusals
from blazen.store.callbacks import call_back
from blazen.store.sqlite_owners import OwnerFile
from blazen.store.sqlite_queries import Reader
from blazen.store.sqlite_schema import connect, explained
from blazen.store.threads import StoreThread


class ReadJob:
    """Something to read: all of it in one state of the database."""

    __slots__ = ("read", "settled")

    def __init__(
        self,
        read: Callable[[Reader, sqlite3.Connection], Any],
        settled: Callable[[Any, BaseException | None], None],
    ) -> None:
        self.read = read
        self.settled = settled


class SqliteReader(StoreThread[ReadJob]):
    """Reads from one database."""

    def __init__(self, path: str) -> None:
        super().__init__(f"blazen store {path}, reading")
        self._path = path
        self._owners = OwnerFile.enter(path)
        self._reader = Reader(path, self._owners)
        self._connection: sqlite3.Connection | None = None

    def work(self, batch: list[ReadJob]) -> None:
        for job in batch:
            result = error = None
            try:
                result = self._read(job)
            except BlazenError as exc:
                error = exc
            except Exception as exc:
                error = explained(exc, self._path)
                error.__cause__ = exc
            call_back(job.settled, result, error)

    def refuse(self, posted: ReadJob) -> None:
        call_back(posted.settled, None, refusals.closed(self._reader.where))

    def end(self) -> None:
        if self._connection is not None:
            self._owners.connections.discard(self._connection)
            self._connection.close()
        self._owners.leave()

    def _read(self, job: ReadJob) -> Any:
        if self._connection is None:
            connection = connect(self._path)
            self._connection = connection
            self._owners.connections.add(connection)
            connection.execute("PRAGMA query_only = ON")
        connection = self._connection
        connection.execute("BEGIN")
        try:
            return job.read(self._reader, connection)
        finally:
            if connection.in_transaction:
                connection.execute("ROLLBACK")
