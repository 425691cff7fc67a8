"""What a `SqliteStore` writes besides commits. Each is called in a transaction, in a savepoint of its own."""

from __future__ import annotations

import sqlite3
import time
from collections.abc import Sequence

from blazen.store import refusals
from blazen.store.base import ENDED, Claim, Request, RequestKind
from blazen.store.sqlite_queries import Reader

_TABLES_OF_A_RUN = ("blazen_parts", "blazen_stream", "blazen_questions", "blazen_requests")


def claim(
    connection: sqlite3.Connection, reader: Reader, owner: int, run_id: str, force: bool, kept: dict[str, int]
) -> Claim:
    """Make a claim; `kept` are claims of this owner that it should have let go of (see `SqliteWriter`)."""
    number, state, fence, old = _find(connection, reader, run_id)
    if state in ENDED:
        raise refusals.has_ended(run_id, state, reader.where)
    let_go_of = old == owner and kept.get(run_id) == fence
    if not force and not let_go_of and reader.owner_lives(old):
        raise refusals.owner_lives(run_id, reader.where)
    connection.execute("UPDATE blazen_runs SET fence = ?, owner = ? WHERE number = ?", (fence + 1, owner, number))
    return Claim(run_id=run_id, fence=fence + 1)


def let_go(connection: sqlite3.Connection, owner: int, claimed: Claim) -> None:
    connection.execute(
        "UPDATE blazen_runs SET owner = NULL WHERE run_id = ? AND fence = ? AND owner = ?",
        (claimed.run_id, claimed.fence, owner),
    )


def request(
    connection: sqlite3.Connection,
    reader: Reader,
    run_id: str | None,
    kind: RequestKind,
    key: str | None,
    data: bytes,
) -> Request:
    if kind == "answer":
        run_id = _whose_question(connection, reader, run_id, str(key))
    assert run_id is not None
    number, state, _, _ = _find(connection, reader, run_id)
    if state in ENDED:
        raise refusals.has_ended(run_id, state, reader.where)
    if kind == "answer":
        if connection.execute(
            "SELECT 1 FROM blazen_requests WHERE run = ? AND kind = 'answer' AND key = ? AND taken = 0 "
            "AND refused IS NULL",
            (number, key),
        ).fetchone():
            raise refusals.is_answered(str(key), run_id, reader.where)
    elif key is not None:
        first = connection.execute(
            "SELECT number FROM blazen_requests WHERE run = ? AND kind = ? AND key = ? AND kind <> 'answer'",
            (number, kind, key),
        ).fetchone()
        if first is not None:
            return reader.request(connection, first[0])
    created = time.time()
    made = connection.execute(
        "INSERT INTO blazen_requests (run, kind, key, data, created) VALUES (?, ?, ?, ?, ?)",
        (number, kind, key, data, created),
    ).lastrowid
    assert made is not None
    return Request(number=made, run_id=run_id, kind=kind, key=key, data=data, created=created)


def delete(connection: sqlite3.Connection, reader: Reader, run_id: str) -> None:
    number, _, _, owner = _find(connection, reader, run_id)
    if reader.owner_lives(owner):
        raise refusals.is_live(run_id, reader.where)
    for table in _TABLES_OF_A_RUN:
        connection.execute(f"DELETE FROM {table} WHERE run = ?", (number,))
    connection.execute("DELETE FROM blazen_runs WHERE number = ?", (number,))


def prune(connection: sqlite3.Connection, reader: Reader, ended_before: float, states: Sequence[str]) -> int:
    over = f"state IN ({', '.join('?' * len(states))}) AND updated < ? AND {reader.not_live(connection)}"
    values = (*states, ended_before)
    for table in _TABLES_OF_A_RUN:
        connection.execute(f"DELETE FROM {table} WHERE run IN (SELECT number FROM blazen_runs WHERE {over})", values)
    return connection.execute(f"DELETE FROM blazen_runs WHERE {over}", values).rowcount


def _find(connection: sqlite3.Connection, reader: Reader, run_id: str) -> tuple[int, str, int, int | None]:
    row = connection.execute(
        "SELECT number, state, fence, owner FROM blazen_runs WHERE run_id = ?", (run_id,)
    ).fetchone()
    if row is None:
        raise refusals.no_such_run(run_id, reader.where)
    number, state, fence, owner = row
    return number, state, fence, owner


def _whose_question(connection: sqlite3.Connection, reader: Reader, run_id: str | None, request_id: str) -> str:
    row = connection.execute(
        "SELECT r.run_id FROM blazen_questions AS q JOIN blazen_runs AS r ON r.number = q.run WHERE q.request_id = ?",
        (request_id,),
    ).fetchone()
    if row is None or run_id not in (None, row[0]):
        if run_id is not None:
            _find(connection, reader, run_id)
        raise refusals.no_such_question(request_id, run_id, reader.where)
    return str(row[0])
