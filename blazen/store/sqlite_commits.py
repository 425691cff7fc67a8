"""Writing commits with few statements.

What a commit costs is mostly the number of calls of SQLite. So the commits of a transaction that change nothing but
rows of their own run are written together, each statement once for all of them (`executemany`), and the head of a run,
its state and the check of its fence are one UPDATE.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Sequence

from blazen.store import refusals
from blazen.store.base import ENDED, Commit
from blazen.store.callbacks import Guard
from blazen.store.sqlite_queries import Reader

_LOOK_UP = "SELECT number, streamed, state, due, fence, owner FROM blazen_runs WHERE run_id = ?"
_INSERT = (
    "INSERT INTO blazen_runs (run_id, workflow, version, state, created, updated, due, fence, owner, streamed, result, "
    "error, head) VALUES (?, ?, ?, ?, ?, ?, ?, 1, ?, ?, ?, ?, ?)"
)
# No index has `updated`, so this touches none.
_HEADER = "UPDATE blazen_runs SET version = ?, updated = ?, head = ? WHERE number = ? AND fence = ? AND owner = ?"
_WHOLE_HEADER = (
    "UPDATE blazen_runs SET version = ?, updated = ?, head = ?, state = ?, due = ?, streamed = ?, result = ?, "
    "error = ?, owner = ? WHERE number = ? AND fence = ? AND owner = ?"
)
_PUT = "REPLACE INTO blazen_parts (run, name, data) VALUES (?, ?, ?)"
_DROP = "DELETE FROM blazen_parts WHERE run = ? AND name = ?"
_CLEAR = "DELETE FROM blazen_parts WHERE run = ?"
_APPEND = "INSERT INTO blazen_stream (run, number, data) VALUES (?, ?, ?)"
_ASKED_ELSEWHERE = (
    "SELECT r.run_id FROM blazen_questions AS q JOIN blazen_runs AS r ON r.number = q.run "
    "WHERE q.request_id = ? AND q.run <> ?"
)
_ASK = (
    "INSERT INTO blazen_questions (request_id, run, prompt, asked, details) VALUES (?, ?, ?, ?, ?) ON CONFLICT "
    "(request_id) DO UPDATE SET prompt = excluded.prompt, asked = excluded.asked, details = excluded.details"
)
_ANSWERED = "DELETE FROM blazen_questions WHERE request_id = ? AND run = ?"
_TAKEN = "DELETE FROM blazen_requests WHERE number = ? AND run = ? AND (key IS NULL OR kind = 'answer')"
_TAKEN_WITH_KEY = "UPDATE blazen_requests SET taken = 1, data = x'' WHERE number = ? AND run = ?"
_REFUSED = "UPDATE blazen_requests SET refused = ? WHERE number = ? AND run = ? AND taken = 0"


class MismatchError(Exception):
    """Some of several commits, and there is no telling which, have lost their runs."""


class _Known:
    """What is known of an owned run without reading it again."""

    __slots__ = ("due", "number", "state", "streamed")

    def __init__(self, number: int, streamed: int, state: str, due: float | None) -> None:
        self.number = number
        self.streamed = streamed
        self.state = state
        self.due = due


class CommitWriter:
    """Writes the commits of one owner. The transaction is the caller's; so is what becomes of it after an error.

    After an error, and after a rollback, `forget` must be called for what was written.
    """

    def __init__(self, connection: sqlite3.Connection, guard: Guard, owner: int, reader: Reader) -> None:
        self._connection = connection
        self._guard = guard
        self._owner = owner
        self._where = reader.where
        self._known: dict[str, _Known] = {}

    def forget(self, run_id: str) -> None:
        self._known.pop(run_id, None)

    def is_plain(self, commit: Commit) -> bool:
        """Whether it can be written together with others: what it can fail at concerns the whole file."""
        return (
            commit.new is None
            and not commit.callbacks
            and not commit.asked
            and not commit.clear
            and commit.run_id in self._known
        )

    def write(self, commit: Commit) -> None:
        """One commit of any kind.

        Raises:
            OwnershipLost: The run is not owned under this number.
            PersistError: There is a run of its id, or a question.
            OnCommitFailed: A callback raised.
            TransactionLostError: A callback has rolled back the transaction.
        """
        execute = self._connection.execute
        if commit.new is not None:
            known = self._insert(commit)
            self._write_parts([(commit, known)])
        else:
            known = self._known.get(commit.run_id) or self._look_up(commit)
            if commit.clear:
                execute(_CLEAR, (known.number,))
            try:
                self.write_plain([commit])
            except MismatchError:
                row = execute(_LOOK_UP, (commit.run_id,)).fetchone()
                raise self._lost(commit, row) from None
        for question in commit.asked:
            row = execute(_ASKED_ELSEWHERE, (question.request_id, known.number)).fetchone()
            if row is not None:
                raise refusals.asked_elsewhere(question.request_id, commit.run_id, row[0], self._where)
            execute(_ASK, (question.request_id, known.number, question.prompt, question.asked, question.details))
        if commit.asked and commit.answered:  # in this order
            self._connection.executemany(_ANSWERED, [(request_id, known.number) for request_id in commit.answered])
        if commit.callbacks:
            self._guard.call(commit.callbacks)

    def write_plain(self, commits: Sequence[Commit]) -> None:
        """Several commits of different runs, all of them `is_plain`; or one, after what is not plain about it.

        Raises:
            MismatchError: One of the runs is not owned under its number.
        """
        owner = self._owner
        headers: list[tuple[object, ...]] = []
        whole_headers: list[tuple[object, ...]] = []
        written: list[tuple[Commit, _Known]] = []
        for commit in commits:
            known = self._known[commit.run_id]
            written.append((commit, known))
            if (
                commit.state == known.state
                and commit.due == known.due
                and not commit.stream
                and not commit.release
                and commit.state not in ENDED
            ):
                headers.append((commit.version, commit.at, commit.head, known.number, commit.fence, owner))
                continue
            whole_headers.append(
                (
                    commit.version, commit.at, commit.head, commit.state, commit.due,
                    known.streamed + len(commit.stream), commit.result, commit.error,
                    None if commit.release else owner, known.number, commit.fence, owner,
                )
            )  # fmt: skip
        if headers and self._run(_HEADER, headers) != len(headers):
            raise MismatchError
        if whole_headers and self._run(_WHOLE_HEADER, whole_headers) != len(whole_headers):
            raise MismatchError
        self._write_parts(written)

    def _write_parts(self, written: list[tuple[Commit, _Known]]) -> None:
        """What stands in other tables than the run's own row."""
        puts: list[tuple[object, ...]] = []
        drops: list[tuple[object, ...]] = []
        items: list[tuple[object, ...]] = []
        answered: list[tuple[object, ...]] = []
        taken: list[tuple[object, ...]] = []
        refused: list[tuple[object, ...]] = []
        for commit, known in written:
            number = known.number
            for name, data in commit.put:
                puts.append((number, name, data))
            for name in commit.drop:
                drops.append((number, name))
            if commit.stream:
                items.extend((number, place, item) for place, item in enumerate(commit.stream, known.streamed))
                known.streamed += len(commit.stream)
            if commit.answered:
                answered.extend((request_id, number) for request_id in commit.answered)
            if commit.taken:
                taken.extend((request, number) for request in commit.taken)
            if commit.refused:
                refused.extend((why, request, number) for request, why in commit.refused)
            known.state = commit.state
            known.due = commit.due
            if commit.release:
                del self._known[commit.run_id]
        if puts:
            self._run(_PUT, puts)
        if drops:
            self._run(_DROP, drops)
        if items:
            self._run(_APPEND, items)
        if answered:
            self._run(_ANSWERED, answered)
        if taken:
            self._run(_TAKEN, taken)
            self._run(_TAKEN_WITH_KEY, taken)
        if refused:
            self._run(_REFUSED, refused)

    def _run(self, statement: str, rows: list[tuple[object, ...]]) -> int:
        if len(rows) == 1:
            return self._connection.execute(statement, rows[0]).rowcount
        return self._connection.executemany(statement, rows).rowcount

    def _insert(self, commit: Commit) -> _Known:
        assert commit.new is not None
        if commit.fence != 1:
            raise refusals.first_fence(commit.run_id, commit.fence)
        row = self._connection.execute(_LOOK_UP, (commit.run_id,)).fetchone()
        if row is not None:
            raise refusals.exists(commit.run_id, self._where)
        number = self._connection.execute(
            _INSERT,
            (
                commit.run_id, commit.new.workflow, commit.version, commit.state, commit.at, commit.at, commit.due,
                None if commit.release else self._owner, len(commit.stream), commit.result, commit.error, commit.head,
            ),
        ).lastrowid  # fmt: skip
        assert number is not None
        known = self._known[commit.run_id] = _Known(number, 0, commit.state, commit.due)
        return known

    def _look_up(self, commit: Commit) -> _Known:
        row = self._connection.execute(_LOOK_UP, (commit.run_id,)).fetchone()
        if row is None or row[4] != commit.fence or row[5] != self._owner:
            raise self._lost(commit, row)
        known = self._known[commit.run_id] = _Known(*row[:4])
        return known

    def _lost(self, commit: Commit, row: tuple[object, ...] | None) -> Exception:
        now = row[4] if row is not None else None
        assert now is None or isinstance(now, int)
        return refusals.ownership_lost(commit.run_id, commit.fence, now, self._where)
