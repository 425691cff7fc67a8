"""Who owns runs in a SQLite file, and whether they are alive.

Each open store has a number, and holds a lock of the operating system on the byte of that number in a file beside
the database. The system drops the lock when the process ends, however it ends, so that the death of an owner is seen
at once.

The locks are those of POSIX (``fcntl``): a process loses all that it has on a file when it closes *any* descriptor of
that file. So there is one descriptor per file and process, kept here, and nobody else may open the file.
"""

from __future__ import annotations

import fcntl
import os
import sqlite3
import threading
from collections.abc import Callable

from blazen.errors import PersistError

SUFFIX = "-owners"

_lock = threading.Lock()
_files: dict[str, OwnerFile] = {}


class OwnerFile:
    """The lock file of one database, for all stores that this process has open on it."""

    def __init__(self, path: str, database: str) -> None:
        self.path = path
        self.pid = os.getpid()
        self._database = database
        self._descriptor = _open(path, database)
        self._held: dict[int, Callable[[], None]] = {}  # owners of this process, and how to make them look for news
        self._users = 0
        self.connections: set[sqlite3.Connection] = set()  # open ones: see `_after_fork`

    @classmethod
    def enter(cls, database: str) -> OwnerFile:
        """The file of a database, by its real path. Each call needs one of `leave`."""
        with _lock:
            file = _files.get(database)
            if file is not None and file.pid != os.getpid():
                raise PersistError(
                    f"the store {database} was open when this process was forked, and SQLite cannot open it again "
                    "here: start the process afresh (spawn), or fork before the store is opened"
                )
            if file is None:
                file = _files[database] = cls(database + SUFFIX, database)
            file._users += 1
            return file

    def leave(self) -> None:
        with _lock:
            self._users -= 1
            if self._users == 0:
                os.close(self._descriptor)
                del _files[self._database]

    def hold(self, number: int, look: Callable[[], None]) -> None:
        """Be alive under a number, which nobody else can have."""
        with _lock:
            try:
                fcntl.lockf(self._descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB, 1, number)
            except OSError as exc:
                raise PersistError(
                    f"the lock of owner {number} in {self.path} cannot be taken ({exc.strerror}): was the database "
                    "replaced by an older copy while it was in use? Stop all processes that use it, and try again"
                ) from exc
            self._held[number] = look

    def let_go(self, number: int) -> None:
        with _lock:
            if self._held.pop(number, None) is not None:
                fcntl.lockf(self._descriptor, fcntl.LOCK_UN, 1, number)

    def lives(self, number: int) -> bool:
        """Whether the owner of this number is alive."""
        with _lock:
            if number in self._held:
                return True
            try:
                # Shared, so that two processes that ask at the same time do not take each other for the owner.
                fcntl.lockf(self._descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB, 1, number)
            except OSError:
                return True
            fcntl.lockf(self._descriptor, fcntl.LOCK_UN, 1, number)
            return False

    def tell_others(self, number: int) -> None:
        """Make the other stores of this process look for what owner `number` has written."""
        with _lock:
            others = [look for held, look in self._held.items() if held != number]
        for look in others:
            look()


def _open(path: str, database: str) -> int:
    try:
        mode = os.stat(database).st_mode & 0o666  # who may use the database may use this
        return os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, mode)
    except OSError as exc:
        raise PersistError(
            f"the file {path}, which says who owns the runs of a store, cannot be opened ({exc.strerror}): the "
            "directory and the file must be writable for who uses the store"
        ) from exc


def _after_fork() -> None:
    """In the child: make sure that no connection of the parent is ever closed here.

    SQLite would roll back what the parent's connection was writing, in memory that both processes share.
    """
    global _lock
    _lock = threading.Lock()  # it may have been held
    if _files:
        import ctypes

        for file in _files.values():
            for connection in file.connections:
                ctypes.pythonapi.Py_IncRef(ctypes.py_object(connection))


os.register_at_fork(after_in_child=_after_fork)
