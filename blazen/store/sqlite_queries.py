"""What is read from the database of a `SqliteStore`, as records. Rows that make no sense are errors that name them."""

from __future__ import annotations

import sqlite3
from collections.abc import Collection, Sequence
from typing import Any, TypeVar

import msgspec

from blazen.errors import PersistError
from blazen.store import refusals
from blazen.store.base import Question, Request, RunInfo, RunState, StoredRun
from blazen.store.sqlite_owners import OwnerFile

_Record = TypeVar("_Record", RunInfo, Question, Request)

_INFO_FIELDS = (
    "run_id", "workflow", "version", "state", "created", "updated", "due", "fence", "streamed", "result", "error",
    "questions",
)  # fmt: skip
_INFO = (
    "SELECT number, owner, run_id, workflow, version, state, created, updated, due, fence, streamed, result, error, "
    "(SELECT count(*) FROM blazen_questions WHERE run = blazen_runs.number) FROM blazen_runs"
)
_QUESTION_FIELDS = ("request_id", "run_id", "prompt", "asked", "details")
_QUESTION = (
    "SELECT request_id, run_id, prompt, asked, details FROM blazen_questions AS q "
    "JOIN blazen_runs AS r ON r.number = q.run"
)
_REQUEST_FIELDS = ("number", "run_id", "kind", "key", "data", "created", "refused")
_REQUEST = (
    "SELECT q.number, r.run_id, q.kind, q.key, q.data, q.created, q.refused FROM blazen_requests AS q "
    "JOIN blazen_runs AS r ON r.number = q.run"
)


class Reader:
    """Reads the records of one database. All methods take the connection to read with."""

    def __init__(self, path: str, owners: OwnerFile) -> None:
        self._owners = owners
        self.where = f"the store {path}"

    # --- runs

    def load(self, connection: sqlite3.Connection, run_id: str) -> StoredRun:
        number, info = self._find(connection, run_id)
        ((head,),) = connection.execute("SELECT head FROM blazen_runs WHERE number = ?", (number,)).fetchall()
        parts = dict(connection.execute("SELECT name, data FROM blazen_parts WHERE run = ?", (number,)).fetchall())
        if not isinstance(head, bytes):
            raise self._damaged(f"the head of run {run_id!r}", f"it is a {type(head).__name__}, not bytes")
        for name, data in parts.items():
            if not isinstance(name, str) or not isinstance(data, bytes):
                raise self._damaged(f"part {name!r} of run {run_id!r}", f"it is a {type(data).__name__}, not bytes")
        return StoredRun(info=info, head=head, parts=parts)

    def info(self, connection: sqlite3.Connection, run_id: str) -> RunInfo:
        return self._find(connection, run_id)[1]

    def stream(self, connection: sqlite3.Connection, run_id: str, start: int, limit: int | None) -> list[bytes]:
        number, info = self._find(connection, run_id)
        rows = connection.execute(
            "SELECT number, data FROM blazen_stream WHERE run = ? AND number >= ? ORDER BY number LIMIT ?",
            (number, min(start, info.streamed), -1 if limit is None else limit),
        ).fetchall()
        for expected, (found, data) in enumerate(rows, start):
            if found != expected or not isinstance(data, bytes):
                raise self._damaged(f"item {expected} of the stream of run {run_id!r}", "it is missing or is not bytes")
        there = max(info.streamed - start, 0)
        if len(rows) != (there if limit is None else min(limit, there)):
            raise self._damaged(f"the stream of run {run_id!r}", f"item {start + len(rows)} is missing")
        return [data for _, data in rows]

    def runs(
        self,
        connection: sqlite3.Connection,
        workflow: str | None,
        states: Sequence[RunState] | None,
        created_after: float | None,
        created_before: float | None,
        limit: int | None,
    ) -> list[RunInfo]:
        conditions: list[str] = []
        values: list[object] = []
        for condition, value in (
            ("workflow = ?", workflow),
            ("created > ?", created_after),
            ("created < ?", created_before),
        ):
            if value is not None:
                conditions.append(condition)
                values.append(value)
        if states is not None:
            conditions.append(f"state IN ({', '.join('?' * len(states))})")
            values.extend(states)
        where = f" WHERE {' AND '.join(conditions)}" if conditions else ""
        rows = connection.execute(
            f"{_INFO}{where} ORDER BY created DESC, number DESC LIMIT ?", (*values, -1 if limit is None else limit)
        ).fetchall()
        return self._infos(rows)

    def runnable(self, connection: sqlite3.Connection, workflows: Sequence[str] | None, now: float) -> list[RunInfo]:
        of_workflows = "" if workflows is None else f" AND workflow IN ({', '.join('?' * len(workflows))})"
        rows = connection.execute(
            f"{_INFO} WHERE {self.not_live(connection)}{of_workflows} AND number IN ("
            "SELECT number FROM blazen_runs WHERE state = 'running' "
            "UNION SELECT number FROM blazen_runs WHERE due <= ? AND state = 'waiting' "
            "UNION SELECT q.run FROM blazen_requests AS q JOIN blazen_runs AS r ON r.number = q.run "
            "WHERE q.taken = 0 AND q.refused IS NULL "
            "AND (r.state = 'waiting' OR (r.state = 'paused' AND q.kind IN ('cancel', 'resume')))"
            ") ORDER BY created, number",
            (*(workflows or ()), now),
        ).fetchall()
        return self._infos(rows)

    def not_live(self, connection: sqlite3.Connection) -> str:
        """The condition of a run that nobody alive owns."""
        owners = connection.execute("SELECT number FROM blazen_owners").fetchall()
        live = [str(int(number)) for (number,) in owners if self._owners.lives(number)]
        return f"(owner IS NULL OR owner NOT IN ({', '.join(live)}))"

    def owner_lives(self, owner: int | None) -> bool:
        return owner is not None and self._owners.lives(owner)

    # --- questions and requests

    def questions(self, connection: sqlite3.Connection, run_id: str | None) -> list[Question]:
        where, values = ("", ()) if run_id is None else (" WHERE r.run_id = ?", (run_id,))
        rows = connection.execute(f"{_QUESTION}{where} ORDER BY q.asked, q.number", values).fetchall()
        return [self._record(Question, _QUESTION_FIELDS, row, "the question") for row in rows]

    def requests(self, connection: sqlite3.Connection, run_id: str) -> list[Request]:
        rows = connection.execute(
            f"{_REQUEST} WHERE r.run_id = ? AND q.taken = 0 ORDER BY q.number", (run_id,)
        ).fetchall()
        return self._requests(rows)

    def request(self, connection: sqlite3.Connection, number: int) -> Request:
        (row,) = connection.execute(f"{_REQUEST} WHERE q.number = ?", (number,)).fetchall()
        return self._requests([row])[0]

    def requests_to_hear(
        self, connection: sqlite3.Connection, owner: int, after: int, run_ids: Collection[str] | None = None
    ) -> list[Request]:
        """The requests with a higher number than `after` for what an owner owns, of some runs or all."""
        wanted = "q.taken = 0 AND q.refused IS NULL AND r.owner = ? AND q.number > ?"
        if run_ids is not None:
            of_runs = f"r.run_id IN ({', '.join('?' * len(run_ids))})"
            rows = connection.execute(
                f"{_REQUEST} WHERE {wanted} AND {of_runs} ORDER BY q.number", (owner, after, *run_ids)
            )
        else:
            # CROSS: first the few new requests, then their runs; not first all runs of the owner.
            rows = connection.execute(
                f"{_REQUEST.replace('JOIN', 'CROSS JOIN')} WHERE {wanted} ORDER BY q.number", (owner, after)
            )
        return self._requests(rows.fetchall())

    # --- records of rows

    def _find(self, connection: sqlite3.Connection, run_id: str) -> tuple[int, RunInfo]:
        row = connection.execute(f"{_INFO} WHERE run_id = ?", (run_id,)).fetchone()
        if row is None:
            raise refusals.no_such_run(run_id, self.where)
        return row[0], self._infos([row])[0]

    def _infos(self, rows: list[Any]) -> list[RunInfo]:
        # An owner that owns many runs is asked for once.
        live = {owner: self._owners.lives(owner) for owner in {row[1] for row in rows} if owner is not None}
        return [
            self._record(
                RunInfo,
                (*_INFO_FIELDS, "owned", "live"),
                (*row[2:], row[1] is not None, live.get(row[1], False)),
                "the run",
            )
            for row in rows
        ]

    def _requests(self, rows: list[Any]) -> list[Request]:
        return [self._record(Request, _REQUEST_FIELDS, row, "the request") for row in rows]

    def _record(self, kind: type[_Record], fields: tuple[str, ...], row: tuple[Any, ...], what: str) -> _Record:
        try:
            return msgspec.convert(dict(zip(fields, row, strict=True)), kind)
        except msgspec.ValidationError as exc:
            raise self._damaged(f"the row of {what} {row[0]!r}", str(exc)) from exc

    def _damaged(self, what: str, how: str) -> PersistError:
        return PersistError(
            f"{self.where} is damaged: {what} cannot be read ({how}); restore a backup, or delete the run"
        )
