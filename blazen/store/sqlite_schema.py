"""The tables of a `SqliteStore`, how its file is opened, and what its errors mean."""

from __future__ import annotations

import os
import sqlite3
import stat
import time

from blazen.errors import PersistError, ValidationError
from blazen.store.callbacks import BEGIN, COMMIT, UNDO

APPLICATION_ID = 0x626C617A  # "blaz"
VERSION = 1
BUSY_SECONDS = 5.0  # how long another process may hold the file

# The number of a run, not its id, is the key of what belongs to it: shorter, and of another run that takes the place of
# one with the same id it is another. `head` comes last, so that lists do not read its pages.
_TABLES = (
    """CREATE TABLE blazen_owners (
        number INTEGER PRIMARY KEY AUTOINCREMENT,
        process INTEGER NOT NULL,
        opened REAL NOT NULL)""",
    """CREATE TABLE blazen_runs (
        number INTEGER PRIMARY KEY AUTOINCREMENT,
        run_id TEXT NOT NULL UNIQUE,
        workflow TEXT NOT NULL,
        version TEXT NOT NULL,
        state TEXT NOT NULL,
        created REAL NOT NULL,
        updated REAL NOT NULL,
        due REAL,
        fence INTEGER NOT NULL,
        owner INTEGER,
        streamed INTEGER NOT NULL,
        result BLOB,
        error TEXT,
        head BLOB NOT NULL)""",
    "CREATE INDEX blazen_runs_by_state ON blazen_runs (state, created)",
    "CREATE INDEX blazen_runs_by_workflow ON blazen_runs (workflow, created)",
    "CREATE INDEX blazen_runs_by_creation ON blazen_runs (created)",
    "CREATE INDEX blazen_runs_by_due ON blazen_runs (due) WHERE due IS NOT NULL",
    "CREATE INDEX blazen_runs_by_owner ON blazen_runs (owner) WHERE owner IS NOT NULL",
    """CREATE TABLE blazen_parts (
        run INTEGER NOT NULL, name TEXT NOT NULL, data BLOB NOT NULL, PRIMARY KEY (run, name)) WITHOUT ROWID""",
    """CREATE TABLE blazen_stream (
        run INTEGER NOT NULL, number INTEGER NOT NULL, data BLOB NOT NULL, PRIMARY KEY (run, number)) WITHOUT ROWID""",
    """CREATE TABLE blazen_questions (
        number INTEGER PRIMARY KEY,
        request_id TEXT NOT NULL UNIQUE,
        run INTEGER NOT NULL,
        prompt TEXT NOT NULL,
        asked REAL NOT NULL,
        details BLOB NOT NULL)""",
    "CREATE INDEX blazen_questions_by_run ON blazen_questions (run)",
    """CREATE TABLE blazen_requests (
        number INTEGER PRIMARY KEY AUTOINCREMENT,
        run INTEGER NOT NULL,
        kind TEXT NOT NULL,
        key TEXT,
        data BLOB NOT NULL,
        created REAL NOT NULL,
        refused TEXT,
        taken INTEGER NOT NULL DEFAULT 0)""",
    "CREATE INDEX blazen_requests_by_run ON blazen_requests (run)",
    "CREATE INDEX blazen_requests_open ON blazen_requests (run, kind) WHERE taken = 0 AND refused IS NULL",
    """CREATE UNIQUE INDEX blazen_requests_by_key ON blazen_requests (run, kind, key)
        WHERE key IS NOT NULL AND kind <> 'answer'""",
)


def real_path(path: str | os.PathLike[str]) -> str:
    """Where the file of a store is, the same for each way to write its path.

    Raises:
        ValidationError: No file can be meant.
        PersistError: No file can be there.
    """
    given = os.fspath(path)
    if not isinstance(given, str):
        raise ValidationError(f"the path of a SqliteStore is a str or a path, not {type(given).__name__!r}")
    if given in ("", ":memory:") or given.startswith("file:"):
        raise ValidationError(
            f"a SqliteStore needs the path of a file, not {given!r}: for a store in memory there is MemoryStore()"
        )
    if "\0" in given:
        raise ValidationError(f"the path of a SqliteStore cannot hold a null character: {given!r}")
    real = os.path.realpath(given)
    directory = os.path.dirname(real)
    if not os.path.isdir(directory):
        raise PersistError(f"the store {real} cannot be opened: there is no directory {directory}; make it first")
    try:
        found = os.stat(real)
    except FileNotFoundError:
        return real
    except OSError as exc:
        raise PersistError(f"the store {real} cannot be opened: {exc.strerror}") from exc
    if not stat.S_ISREG(found.st_mode):
        raise PersistError(f"the store {real} cannot be opened: it is not a regular file; give the path of one")
    if found.st_nlink > 1:
        raise PersistError(
            f"the store {real} cannot be opened: the file has {found.st_nlink} names (hard links), and a database "
            "that is used under two names is destroyed; use one name, or a symbolic link, and remove the others"
        )
    return real


def connect(path: str) -> sqlite3.Connection:
    """A connection that leaves transactions to us, and may be closed by another thread than the one that uses it."""
    connection = sqlite3.connect(
        path, timeout=BUSY_SECONDS, isolation_level=None, check_same_thread=False, cached_statements=256
    )
    try:
        connection.execute("PRAGMA synchronous = FULL")  # a commit that was acknowledged outlives a power cut
    except sqlite3.Error:
        connection.close()
        raise
    return connection


def open_database(path: str) -> sqlite3.Connection:
    """Open a store's file, or make it; whatever the file is, nothing in it has changed if this raises.

    Raises:
        PersistError: It is no store of ours, or cannot be read or written.
    """
    try:
        connection = connect(path)
        try:
            _prepare(connection, path)
        except BaseException:
            connection.close()
            raise
    except sqlite3.Error as exc:
        raise explained(exc, path) from exc
    return connection


def _prepare(connection: sqlite3.Connection, path: str) -> None:
    _look_whose(connection, path)
    _use_write_ahead_log(connection, path)
    connection.execute(BEGIN)
    try:
        if _look_whose(connection, path):  # again: another process may have been faster
            for statement in _TABLES:
                connection.execute(statement)
            connection.execute(f"PRAGMA application_id = {APPLICATION_ID}")
            connection.execute(f"PRAGMA user_version = {VERSION}")
        connection.execute(COMMIT)
    finally:
        if connection.in_transaction:
            connection.execute(UNDO)


def is_full(error: BaseException) -> bool:
    return getattr(error, "sqlite_errorcode", 0) & 0xFF == sqlite3.SQLITE_FULL


def _look_whose(connection: sqlite3.Connection, path: str) -> bool:
    """Whether the file is empty; an error if it is not ours."""
    (application,) = connection.execute("PRAGMA application_id").fetchone()
    (version,) = connection.execute("PRAGMA user_version").fetchone()
    (tables,) = connection.execute("SELECT count(*) FROM sqlite_master").fetchone()
    if application == APPLICATION_ID:
        if version > VERSION:
            raise PersistError(
                f"the store {path} has format {version}, and this version of blazen reads up to {VERSION}: it was "
                "written by a newer blazen; upgrade blazen"
            )
        if version < 1:
            raise PersistError(f"the store {path} has no format of blazen ({version}): it is damaged; restore a backup")
        return False
    if application or version or tables:
        raise PersistError(
            f"{path} is a database of something else (application id {application:#x}, {tables} tables and indexes): "
            "give a store a file of its own"
        )
    return True


def _use_write_ahead_log(connection: sqlite3.Connection, path: str) -> None:
    # SQLite does not wait by itself where two processes change the mode of a new file at the same time.
    until = time.monotonic() + BUSY_SECONDS
    mode = None
    while mode is None:
        try:
            (mode,) = connection.execute("PRAGMA journal_mode = WAL").fetchone()
        except sqlite3.OperationalError as exc:
            if exc.sqlite_errorcode & 0xFF != sqlite3.SQLITE_BUSY or time.monotonic() > until:
                raise
            time.sleep(0.01)
    if mode != "wal":
        raise PersistError(
            f"the store {path} cannot have a write-ahead log (its journal mode stays {mode!r}): it is on a file "
            "system without shared memory, such as one of a network; put it on a local disk"
        )


_MEANINGS: dict[int, str] = {
    sqlite3.SQLITE_FULL: "the disk is full, or the size that is allowed is used up: make room and try again",
    sqlite3.SQLITE_READONLY: "the file or its directory cannot be written: give this user the right to write both",
    sqlite3.SQLITE_BUSY: f"another process has kept it locked for more than {BUSY_SECONDS:g} s: end what holds a "
    "transaction on it open, such as a database tool",
    sqlite3.SQLITE_LOCKED: "another connection of this process has locked it: end its transaction",
    sqlite3.SQLITE_NOTADB: "the file is not a database: give a store a file of its own",
    sqlite3.SQLITE_CORRUPT: "the database is damaged: stop what uses it, keep a copy, and restore a backup, or save "
    "what can be read with the command .recover of sqlite3",
    sqlite3.SQLITE_CANTOPEN: "the file cannot be opened: it must be there or its directory writable, and this user "
    "must have the right to read and write both",
    sqlite3.SQLITE_IOERR: "reading or writing the disk failed: look into the system's log, and try again",
    sqlite3.SQLITE_PERM: "this user lacks the right to use it",
    sqlite3.SQLITE_NOMEM: "there is no memory left",
    sqlite3.SQLITE_TOOBIG: "one value is larger than SQLite can hold (by default 1,000,000,000 bytes)",
}


def explained(error: BaseException, path: str) -> PersistError:
    """An error of SQLite or of what was given to it, with what and where, and what to do."""
    code = getattr(error, "sqlite_errorcode", None)
    if code is None:
        return PersistError(f"the store {path} cannot keep what it was given: {error}")
    meaning = _MEANINGS.get(code & 0xFF)
    if meaning is None:
        return PersistError(f"the store {path} failed: {error} ({getattr(error, 'sqlite_errorname', code)})")
    return PersistError(f"the store {path} cannot be used: {meaning} ({error})")
