"""Calling what a store was given to call: callbacks inside of a commit, and listeners.

A callback of a commit gets the store's own connection. An authorizer keeps it from ending the transaction that it is
called in, in which the commits of other runs may be too.
"""

from __future__ import annotations

import inspect
import sqlite3
import sys
import threading
from collections.abc import Callable, Sequence
from typing import Any

from blazen.errors import PersistError, ValidationError
from blazen.store.base import OnCommitFailed

# What the savepoints and tables of a store are called.
PREFIX = "blazen_"
_ASKING_PRAGMAS = ("info", "list", "check")
_WRITES = (sqlite3.SQLITE_INSERT, sqlite3.SQLITE_UPDATE, sqlite3.SQLITE_DELETE, sqlite3.SQLITE_DROP_TABLE)

# With a comment each: see `Guard`.
BEGIN = "BEGIN IMMEDIATE -- by the store"
COMMIT = "COMMIT -- by the store"
UNDO = "ROLLBACK -- by the store"
SAVEPOINT = "SAVEPOINT blazen_commit -- by the store"
ROLL_BACK = "ROLLBACK TO blazen_commit -- by the store"
RELEASE = "RELEASE blazen_commit -- by the store"


class TransactionLostError(Exception):
    """A callback has rolled back all of the transaction, which nothing prevents (``INSERT OR ROLLBACK``)."""

    def __init__(self, failed: OnCommitFailed) -> None:
        super().__init__(failed)
        self.failed = failed


class Guard:
    """Keeps callbacks from ending the transaction of a connection, and from writing the store's own tables.

    SQLite asks the authorizer when it prepares a statement, not when it runs one: it costs a store nothing whose
    statements stay prepared. For the same reason the store's own BEGIN and COMMIT must not have the text that a
    callback would use, or the callback would find them prepared.
    """

    __slots__ = ("_connection", "_denied", "_inside")

    def __init__(self, connection: sqlite3.Connection) -> None:
        self._connection = connection
        self._denied: str | None = None
        self._inside = False
        connection.set_authorizer(self._authorize)

    def _authorize(self, action: int, first: str | None, second: str | None, _db: str | None, _by: str | None) -> int:
        if not self._inside:
            return sqlite3.SQLITE_OK
        if action == sqlite3.SQLITE_TRANSACTION:
            self._denied = str(first)
            return sqlite3.SQLITE_DENY
        if action == sqlite3.SQLITE_SAVEPOINT and str(second).startswith(PREFIX):
            self._denied = f"{first} {second}"
            return sqlite3.SQLITE_DENY
        if action in _WRITES and str(first).startswith(PREFIX):
            self._denied = f"write the table {first}"
            return sqlite3.SQLITE_DENY
        if action == sqlite3.SQLITE_PRAGMA and second is not None and not str(first).endswith(_ASKING_PRAGMAS):
            self._denied = f"set PRAGMA {first}"
            return sqlite3.SQLITE_DENY
        return sqlite3.SQLITE_OK

    def call(self, callbacks: Sequence[Callable[[Any], object]]) -> None:
        """Call the callbacks of one commit.

        Raises:
            OnCommitFailed: One raised, or is a coroutine function.
            TransactionLostError: Nothing of the transaction is left.
        """
        connection = self._connection
        for index, callback in enumerate(callbacks):
            failure: BaseException | None = None
            self._denied, self._inside = None, True
            try:
                returned = callback(connection)
                if inspect.iscoroutine(returned):
                    returned.close()
                    failure = ValidationError(
                        f"the on_commit callback {_name(callback)} is an async function; inside of a commit nothing "
                        "can be awaited: give a plain function"
                    )
            except BaseException as exc:  # whatever it is: the store's thread goes on, and the run gets to know
                failure = self._explained(exc)
            finally:
                self._inside = False
            # The store reads with the same connection.
            connection.row_factory = None
            connection.text_factory = str
            if not in_transaction(connection):
                failed = OnCommitFailed(index)
                failed.__cause__ = failure or PersistError(
                    "an on_commit callback has rolled back the transaction that it is called in, with OR ROLLBACK or "
                    "RAISE(ROLLBACK), or has closed the connection: use OR ABORT or RAISE(ABORT), and leave it open"
                )
                raise TransactionLostError(failed)
            if failure is not None:
                raise OnCommitFailed(index) from failure

    def _explained(self, error: BaseException) -> BaseException:
        if self._denied is None or not isinstance(error, sqlite3.DatabaseError):
            return error
        explained = PersistError(
            f"an on_commit callback tried to {self._denied}: it is called inside of the store's transaction, which it "
            f"must not begin or end, with the store's connection; tables whose names begin with {PREFIX} are the "
            "store's own, and what a callback writes to others is committed with the run"
        )
        explained.__cause__ = error
        return explained


def in_transaction(connection: sqlite3.Connection) -> bool:
    """Whether a transaction is open; of a connection that is closed, none is."""
    try:
        return connection.in_transaction
    except sqlite3.ProgrammingError:
        return False


def call_back(function: Callable[..., object], *arguments: object) -> None:
    """Call what must not raise; if it does, show it as Python shows what a thread raises, and go on."""
    try:
        function(*arguments)
    except Exception as exc:
        kind, _, traceback = sys.exc_info()
        assert kind is not None
        threading.excepthook(threading.ExceptHookArgs((kind, exc, traceback, threading.current_thread())))


def _name(function: object) -> str:
    return getattr(function, "__qualname__", None) or repr(function)
