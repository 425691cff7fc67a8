"""SqliteStore: several processes, callbacks with SQL, and what it says when the file cannot be used."""

from __future__ import annotations

import contextlib
import gc
import os
import re
import shutil
import signal
import sqlite3
import subprocess
import sys
import threading
import time
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import trio
from store_process import ROOT, StoreProcess

from blazen.errors import PersistError, ValidationError
from blazen.store import MemoryStore, SqliteStore
from blazen.store import sqlite_writer as writer_module
from blazen.store.base import Claim, Commit, OnCommitFailed, Request
from blazen.testing.store_base import NOW, SOON, change, first, question, refused, until, write


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "runs.db"


@pytest.fixture
def store(path: Path) -> Iterator[SqliteStore]:
    with SqliteStore(path) as store:
        yield store


@contextlib.contextmanager
def beside(path: Path) -> Iterator[StoreProcess]:
    process = StoreProcess(path)
    try:
        yield process
    finally:
        process.kill()


def run_python(code: str, *arguments: object, **options: Any) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-W", "error", "-c", code, *map(str, arguments)],
        text=True,
        capture_output=True,
        timeout=60,
        cwd=ROOT,
        **options,
    )


async def in_one_transaction(store: SqliteStore, *commits: Commit) -> dict[str, BaseException | None]:
    """Submit commits so that the writer finds them all at once; what became of each."""
    started, go_on = threading.Event(), threading.Event()
    held = store._writer._transact

    def hold_up(jobs: Any) -> Any:
        store._writer._transact = held  # type: ignore[method-assign]
        started.set()
        go_on.wait(10)
        return held(jobs)

    store._writer._transact = hold_up  # type: ignore[method-assign]
    store.let_go(Claim(run_id="nobody's", fence=1))
    await trio.to_thread.run_sync(started.wait)
    outcomes: dict[str, BaseException | None] = {}
    for commit in commits:
        store.submit(commit, lambda error, run_id=commit.run_id: outcomes.__setitem__(run_id, error))  # type: ignore[misc]
    go_on.set()
    await until(lambda: len(outcomes) == len(commits), "all are settled")
    return outcomes


# --- several processes


async def test_a_killed_owner_is_dead_at_once_and_what_it_wrote_is_there(store: SqliteStore, path: Path) -> None:
    with beside(path) as other:
        other.ask("first", "r", "running")
        assert other.ask("write", "r", 1, "theirs") is None
        assert (await store.info("r")).live
        with pytest.raises(ValidationError, match="alive"):
            await store.claim("r")
        assert await store.runnable(None, NOW) == []
        other.kill()
    info = await store.info("r")
    assert (info.owned, info.live) == (True, False)
    assert [run.run_id for run in await store.runnable(None, NOW)] == ["r"]
    assert (await store.claim("r")).fence == 2
    assert (await store.load("r")).head == b"theirs"
    await write(store, change("r", 2, head=b"mine"))


async def test_a_stopped_owner_that_was_replaced_writes_nothing_when_it_goes_on(store: SqliteStore, path: Path) -> None:
    with beside(path) as other:
        other.ask("first", "r", "running")
        os.kill(other._process.pid, signal.SIGSTOP)
        assert (await store.info("r")).live
        assert (await store.claim("r", force=True)).fence == 2
        await write(store, change("r", 2, head=b"mine"))
        os.kill(other._process.pid, signal.SIGCONT)
        assert other.ask("write", "r", 1, "late").startswith("OwnershipLost: nothing was written of run r")
        assert other.ask("claim", "r", False).startswith("ValidationError: run r")
        assert other.ask("live", "r") is True
    assert (await store.load("r")).head == b"mine"


async def test_the_owner_here_lives_for_the_process_there(store: SqliteStore, path: Path) -> None:
    await write(store, first("r"))
    second = SqliteStore(path)
    with beside(path) as other:
        assert other.ask("live", "r") is True
        second.close()  # its end must not take the locks of the first with it
        assert other.ask("live", "r") is True
        assert "alive" in other.ask("claim", "r", False)
        store.close()
        assert other.ask("live", "r") is False
        assert other.ask("claim", "r", False) == 2


async def test_requests_cross_processes_within_half_a_second(store: SqliteStore, path: Path) -> None:
    with beside(path) as other:
        await write(store, first("mine"))
        other.ask("first", "theirs", "running")
        heard: list[Request] = []
        store.listen("mine", heard.extend)
        other.ask("listen", "theirs")
        for text in ("one", "two", "three"):
            other.ask("request", "mine", text)
        await until(lambda: len(heard) == 3, "requests of the other process", SOON)
        assert [request.data for request in heard] == [b"one", b"two", b"three"]
        left = time.time()
        await store.request("theirs", "event", data=b"back")
        when, text = other.read()
        assert text == "back"
        assert when - left < SOON


async def test_who_watches_is_told_of_a_release_and_a_death_in_another_process(store: SqliteStore, path: Path) -> None:
    told: list[None] = []
    with beside(path) as other:
        other.ask("first", "r", "running")
        other.ask("first", "r2", "running")
        store.watch(lambda: told.append(None))
        other.ask("release", "r", 1)
        await until(lambda: bool(told), "the release", SOON)
        assert [run.run_id for run in await store.runs(states=["waiting"])] == ["r"]
        before = -1
        while before != len(told):  # until all that the release has caused is told
            before = len(told)
            await trio.to_thread.run_sync(time.sleep, SOON)
        other.kill()
        await until(lambda: len(told) > before, "the death", SOON)
        assert [run.run_id for run in await store.runnable(None, NOW)] == ["r2"]


async def test_nothing_acknowledged_is_lost_when_the_writer_is_killed(path: Path) -> None:
    for _ in range(5):
        path.unlink(missing_ok=True)
        with beside(path) as other:
            other.ask("first", "r", "running")
            other.tell("flood", "r")
            acknowledged = -1
            while acknowledged < 20:
                acknowledged = other.read()
            other.kill()
        with SqliteStore(path) as store:
            stored = await store.load("r")
            reached = int(stored.head)
            assert reached >= acknowledged
            assert stored.parts == {"n": stored.head}  # whole commits only
            assert await store.stream("r") == [str(number).encode() for number in range(reached + 1)]
            await store.claim("r")
        for beside_it in path.parent.iterdir():
            beside_it.unlink()


def test_many_processes_may_make_the_file_at_the_same_time(path: Path) -> None:
    code = "import sys\nfrom blazen.store import SqliteStore\nwith SqliteStore(sys.argv[1]): pass"
    processes = [
        subprocess.Popen([sys.executable, "-W", "error", "-c", code, str(path)], cwd=ROOT, stderr=subprocess.PIPE)
        for _ in range(4)
    ]
    for process in processes:
        assert process.communicate(timeout=60)[1] == b""
    with contextlib.closing(sqlite3.connect(path)) as connection:
        assert connection.execute("SELECT count(*) FROM blazen_owners").fetchone() == (0,)


@pytest.mark.skipif(not hasattr(os, "fork"), reason="there is no fork")
def test_after_a_fork_the_child_can_use_nothing_and_harms_nothing(path: Path) -> None:
    code = """
import os, sys, trio
from blazen.errors import PersistError
from blazen.store import SqliteStore
from blazen.testing.store_base import change, first, write

path = sys.argv[1]
store = SqliteStore(path)
trio.run(write, store, first("r"))
trio.run(store.info, "r")
child = os.fork()
if child == 0:
    caught = []
    async def fails(fn, *arguments):
        try:
            await fn(*arguments)
        except PersistError as exc:
            assert "fork" in str(exc), exc
            caught.append(fn)
    for call in ((store.info, "r"), (store.claim, "r"), (write, store, change("r"))):
        trio.run(fails, *call)
    for call in (lambda: store.listen("r", print), lambda: store.watch(print), lambda: SqliteStore(path)):
        try:
            call()
        except PersistError as exc:
            assert "fork" in str(exc), exc
            caught.append(call)
    assert len(caught) == 6, caught
    store.close()
    del store
    sys.exit(0)
assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
trio.run(write, store, change("r", head=b"parent"))
with SqliteStore(path) as other:
    assert trio.run(other.info, "r").live
store.close()
print("fine")
"""
    done = run_python(code, path)
    assert (done.stdout, done.stderr) == ("fine\n", "")


@pytest.mark.skipif(not hasattr(os, "fork"), reason="there is no fork")
def test_a_child_that_is_forked_in_the_middle_of_a_transaction_undoes_nothing_when_it_ends(path: Path) -> None:
    code = """
import gc, os, sys, threading, trio
from blazen.store import SqliteStore
from blazen.testing.store_base import change, first, write

store = SqliteStore(sys.argv[1])
started, go_on, outcomes = threading.Event(), threading.Event(), []

def write_much(db):
    db.execute("CREATE TABLE t (n INTEGER PRIMARY KEY, data BLOB)")
    for number in range(200):
        db.execute("INSERT INTO t VALUES (?, zeroblob(40000))", (number,))
    started.set()
    go_on.wait(20)

store.submit(first("r", callbacks=[write_much]), outcomes.append)
started.wait(20)
child = os.fork()
if child == 0:
    del store
    gc.collect()
    sys.exit(0)
os.waitpid(child, 0)
go_on.set()
trio.run(write, store, first("r2"))
assert outcomes == [None]
found = []
trio.run(write, store, change("r", callbacks=[lambda db: found.extend(db.execute("PRAGMA integrity_check"))]))
assert found == [("ok",)], found
store.close()
print("fine")
"""
    done = run_python(code, path)
    assert (done.stdout, done.stderr) == ("fine\n", "")
    with contextlib.closing(sqlite3.connect(path)) as connection:
        assert connection.execute("SELECT count(*), sum(length(data)) FROM t").fetchone() == (200, 8_000_000)


# --- opening and closing


async def test_one_file_under_many_names(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    link = path.parent / "link.db"
    link.symlink_to(path)
    linked_directory = path.parent / "directory"
    linked_directory.symlink_to(path.parent)
    monkeypatch.chdir(path.parent)
    with SqliteStore("runs.db") as store:
        await write(store, first("r"))
        os.chdir("/")  # a relative path is that of the moment
        for name in (path, link, linked_directory / "link.db"):
            with SqliteStore(name) as other:
                assert other.path == store.path == os.path.realpath(path)
                assert (await other.info("r")).live
        assert (await store.info("r")).live
    os.link(path, path.parent / "hard.db")
    with pytest.raises(PersistError, match="2 names"):
        SqliteStore(path)


@pytest.mark.parametrize("name", ["", ":memory:", "file:runs.db?mode=ro", "a\0b", b"runs.db"])
def test_what_can_be_no_file_is_refused(name: Any) -> None:
    with pytest.raises(ValidationError):
        SqliteStore(name)


def test_memory_is_what_the_other_store_is_for() -> None:
    with pytest.raises(ValidationError, match=r"MemoryStore\(\)"):
        SqliteStore(":memory:")


@pytest.mark.parametrize("retention", [-1, float("nan")])
def test_a_retention_is_a_time(path: Path, retention: float) -> None:
    with pytest.raises(ValidationError, match="retention"):
        SqliteStore(path, retention=retention)
    assert not path.exists()


async def test_a_store_that_nobody_holds_lets_go_of_its_runs(path: Path) -> None:
    with SqliteStore(path) as other:
        forgotten = SqliteStore(path)
        await write(forgotten, first("r"))
        await forgotten.info("r")
        threads = set(threading.enumerate())
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            del forgotten
            gc.collect()
        limit = time.monotonic() + 10
        while (await other.info("r")).owned and time.monotonic() < limit:
            pass
        assert not (await other.info("r")).owned
        await until(lambda: len(set(threading.enumerate()) & threads) < len(threads), "its threads end")


def test_the_interpreter_exits_with_an_open_store_and_all_is_written(path: Path) -> None:
    code = """
import sys
from blazen.store import SqliteStore
from blazen.testing.store_base import first
store = SqliteStore(sys.argv[1])
for number in range(200):
    store.submit(first(f"r{number}"), lambda error: None)
"""
    done = run_python(code, path)
    assert (done.returncode, done.stderr) == (0, "")
    with contextlib.closing(sqlite3.connect(path)) as connection:
        assert connection.execute("SELECT count(*), count(owner) FROM blazen_runs").fetchone() == (200, 0)


def test_blazen_does_not_import_sqlite_by_itself() -> None:
    code = "import sys, blazen, blazen.store; assert 'sqlite3' not in sys.modules; blazen.MemoryStore().close(); "
    code += "assert 'sqlite3' not in sys.modules; blazen.SqliteStore; assert 'sqlite3' in sys.modules"
    assert run_python(code).stderr == ""


async def test_a_store_closed_while_it_is_used_refuses_or_writes(path: Path) -> None:
    for _ in range(20):
        store = SqliteStore(path)
        outcomes: list[BaseException | None] = []
        submitted = 0
        thread = threading.Thread(target=store.close)
        for number in range(40):
            if number == 5:
                thread.start()
            store.submit(first(f"r{number}"), outcomes.append)
            submitted += 1
        thread.join()
        await until(lambda: len(outcomes) == submitted, "each commit has an outcome")  # noqa: B023
        assert all(error is None or "closed" in str(error) for error in outcomes)
        with SqliteStore(path) as other:
            runs = await other.runs()
            assert len(runs) == outcomes.count(None)
            for info in runs:
                assert not info.owned
                await other.delete(info.run_id)


async def test_runs_are_pruned_when_their_retention_is_over(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(writer_module, "PRUNE_SECONDS", 0.01)
    now = time.time()
    with SqliteStore(path, retention=3600) as store:
        await write(store, first("old", at=now - 4000, state="completed", release=True, put=[("a", b"1")]))
        await write(store, first("new", at=now - 10, state="completed", release=True))
        await write(store, first("waits", at=now - 4000, state="waiting", release=True))
        limit = time.monotonic() + 10
        while len(await store.runs()) > 2 and time.monotonic() < limit:
            pass
        assert [info.run_id for info in await store.runs()] == ["new", "waits"]
    with contextlib.closing(sqlite3.connect(path)) as connection:
        assert connection.execute("SELECT count(*) FROM blazen_parts").fetchone() == (0,)


# --- callbacks with the connection


async def test_user_rows_are_written_with_the_commit_or_not_at_all(store: SqliteStore, path: Path) -> None:
    await write(store, first("r", callbacks=[lambda db: db.execute("CREATE TABLE sales (n INTEGER PRIMARY KEY)")]))
    await write(store, change("r", callbacks=[lambda db: db.execute("INSERT INTO sales VALUES (1)")]))

    def twice(db: sqlite3.Connection) -> None:
        db.row_factory = sqlite3.Row
        db.execute("INSERT INTO sales VALUES (2)")
        db.execute("INSERT INTO sales VALUES (1)")

    error = await refused(store, change("r", head=b"new", callbacks=[twice]), OnCommitFailed)
    assert isinstance(error.__cause__, sqlite3.IntegrityError)
    await write(store, change("r", head=b"later", callbacks=[lambda db: db.execute("INSERT INTO sales VALUES (3)")]))
    with contextlib.closing(sqlite3.connect(path)) as connection:
        assert connection.execute("SELECT n FROM sales ORDER BY n").fetchall() == [(1,), (3,)]


ENDINGS = {
    "commit": lambda db: db.commit(),
    "rollback": lambda db: db.rollback(),
    "COMMIT": lambda db: db.execute("COMMIT"),
    "END": lambda db: db.execute("END TRANSACTION"),
    "ROLLBACK": lambda db: db.execute("ROLLBACK"),
    "script": lambda db: db.executescript("INSERT INTO t VALUES (5)"),
    "savepoint": lambda db: db.execute("ROLLBACK TO blazen_commit"),
    "release": lambda db: db.execute("RELEASE blazen_commit"),
    "with": lambda db: db.__enter__() and db.__exit__(None, None, None),
}


@pytest.mark.parametrize("kind", ["sqlite", "memory"])
@pytest.mark.parametrize("ending", list(ENDINGS))
async def test_a_callback_cannot_end_the_transaction(path: Path, kind: str, ending: str) -> None:
    with SqliteStore(path) if kind == "sqlite" else MemoryStore() as store:
        seen: list[Any] = []
        await write(store, first("r", callbacks=[lambda db: db.execute("CREATE TABLE t (n INTEGER)")]))
        for _ in range(2):
            error = await refused(
                store,
                change(
                    "r", head=b"new", callbacks=[lambda db: db.execute("INSERT INTO t VALUES (1)"), ENDINGS[ending]]
                ),
                OnCommitFailed,
            )
            assert isinstance(error, OnCommitFailed)
            assert error.index == 1
            assert isinstance(error.__cause__, PersistError)
            assert "must not begin or end" in str(error.__cause__)
        assert (await store.load("r")).head == b"head"
        await write(
            store,
            change("r", callbacks=[lambda db: seen.extend(db.execute("SELECT * FROM t"))]),
            change("r", head=b"2"),
        )
        assert seen == []
        assert (await store.load("r")).head == b"2"


async def test_a_callback_may_have_savepoints_of_its_own(store: SqliteStore) -> None:
    def nested(db: sqlite3.Connection) -> None:
        db.execute("CREATE TABLE t (n INTEGER)")
        db.execute("SAVEPOINT mine")
        db.execute("INSERT INTO t VALUES (1)")
        db.execute("ROLLBACK TO mine")
        db.execute("INSERT INTO t VALUES (2)")

    await write(store, first("r", callbacks=[nested]))
    seen: list[Any] = []
    await write(store, change("r", callbacks=[lambda db: seen.extend(db.execute("SELECT n FROM t"))]))
    assert seen == [(2,)]


async def test_a_callback_that_closes_the_connection_fails_alone(store: SqliteStore) -> None:
    await write(store, first("r"))
    error = await refused(store, change("r", head=b"new", callbacks=[lambda db: db.close()]), OnCommitFailed)
    assert "closed the connection" in str(error.__cause__)
    assert (await store.load("r")).head == b"head"
    await write(store, change("r", head=b"later", callbacks=[lambda db: db.execute("CREATE TABLE t (n INTEGER)")]))
    assert (await store.load("r")).head == b"later"
    error = await refused(store, change("r", callbacks=[lambda db: db.commit()]), OnCommitFailed)
    assert "COMMIT" in str(error.__cause__)


async def test_a_callback_cannot_change_how_the_connection_works(store: SqliteStore) -> None:
    await write(store, first("r"))
    error = await refused(
        store, change("r", callbacks=[lambda db: db.execute("PRAGMA query_only = 1")]), OnCommitFailed
    )
    assert "PRAGMA query_only" in str(error.__cause__)
    await write(store, change("r", callbacks=[lambda db: db.execute("PRAGMA table_info('blazen_runs')")]))


async def test_what_could_not_be_let_go_of_can_be_claimed_again_here(store: SqliteStore, path: Path) -> None:
    await write(store, first("r"))
    store._writer.connection.execute("PRAGMA busy_timeout = 20")
    with contextlib.closing(sqlite3.connect(path, isolation_level=None)) as tool:
        tool.execute("BEGIN IMMEDIATE")
        store.let_go(Claim(run_id="r", fence=1))
        assert (await store.info("r")).live
    with SqliteStore(path) as other:
        with pytest.raises(ValidationError, match="alive"):
            await other.claim("r")
    assert (await store.claim("r")).fence == 2
    with pytest.raises(ValidationError, match="alive"):
        await store.claim("r")


async def test_a_callback_cannot_write_the_tables_of_the_store(store: SqliteStore) -> None:
    await write(store, first("r"))
    for statement in ("DELETE FROM blazen_runs", "UPDATE blazen_runs SET fence = 9", "DROP TABLE blazen_parts"):
        error = await refused(store, change("r", callbacks=[lambda db, s=statement: db.execute(s)]), OnCommitFailed)
        assert "blazen_" in str(error.__cause__)
    await write(store, change("r"))


async def test_a_callback_that_rolls_all_back_takes_only_its_own_commit_with_it(store: SqliteStore) -> None:
    for run_id in ("a", "b", "c"):
        await write(store, first(run_id))
    await write(
        store, change("a", callbacks=[lambda db: db.execute("CREATE TABLE t (n INTEGER PRIMARY KEY)")]), change("a")
    )
    outcomes = await in_one_transaction(
        store,
        change("a", head=b"new"),
        change(
            "b",
            head=b"new",
            callbacks=[lambda db: db.executemany("INSERT OR ROLLBACK INTO t VALUES (?)", [(1,), (1,)])],
        ),
        change("c", head=b"new", callbacks=[lambda db: db.execute("INSERT INTO t VALUES (7)")]),
    )
    assert (outcomes["a"], outcomes["c"]) == (None, None)
    assert isinstance(outcomes["b"], OnCommitFailed)
    assert [(await store.load(run_id)).head for run_id in ("a", "b", "c")] == [b"new", b"head", b"new"]


# --- files that cannot be used


def test_a_file_that_is_no_database(path: Path) -> None:
    path.write_bytes(b"This is a letter, and no database at all." * 50)
    before = path.read_bytes()
    with pytest.raises(PersistError, match="not a database") as caught:
        SqliteStore(path)
    assert str(path) in str(caught.value)
    assert path.read_bytes() == before
    assert [file.name for file in path.parent.iterdir()] == [path.name]


@pytest.mark.parametrize(
    "statements",
    [
        ["CREATE TABLE theirs (n INTEGER)"],
        ["PRAGMA application_id = 42"],
        ["PRAGMA user_version = 3"],
        ["PRAGMA application_id = 42", "PRAGMA user_version = 1", "CREATE TABLE theirs (n INTEGER)"],
    ],
)
def test_a_database_of_something_else(path: Path, statements: list[str]) -> None:
    with contextlib.closing(sqlite3.connect(path)) as connection:
        for statement in statements:
            connection.execute(statement)
    before = path.read_bytes()
    with pytest.raises(PersistError, match="database of something else"):
        SqliteStore(path)
    assert path.read_bytes() == before


def test_a_store_of_a_newer_version(path: Path) -> None:
    SqliteStore(path).close()
    with contextlib.closing(sqlite3.connect(path)) as connection:
        connection.execute("PRAGMA user_version = 99")
    before = path.read_bytes()
    with pytest.raises(PersistError, match=r"format 99.*newer blazen"):
        SqliteStore(path)
    assert path.read_bytes() == before


def test_a_directory_that_is_not_there_or_a_path_that_is_one(tmp_path: Path) -> None:
    with pytest.raises(PersistError, match="no directory"):
        SqliteStore(tmp_path / "none" / "runs.db")
    with pytest.raises(PersistError, match="not a regular file"):
        SqliteStore(tmp_path)


AS_NOBODY = """
import os, sys
sys.path.insert(0, "")
import trio
from blazen.errors import PersistError
from blazen.store import SqliteStore
if os.getuid() == 0:
    os.setuid(65534)
try:
    SqliteStore(sys.argv[1])
except PersistError as exc:
    print(exc)
"""


@pytest.mark.parametrize("what", ["file", "directory", "new file", "lock file"])
def test_what_may_not_be_written(tmp_path: Path, what: str) -> None:
    directory = Path("/tmp") / f"blazen-readonly-{os.getpid()}-{what.replace(' ', '-')}"  # other users may enter it
    directory.mkdir()
    path = directory / "runs.db"
    try:
        if what != "new file":
            SqliteStore(path).close()
        path.parent.chmod(0o777 if what in ("file", "lock file") else 0o555)
        for file in directory.iterdir():
            file.chmod(0o444 if what == "file" or (what == "lock file" and "owners" in file.name) else 0o666)
        done = run_python(AS_NOBODY, path)
        assert (done.returncode, done.stderr) == (0, "")
        assert str(path) in done.stdout
        assert re.search("writ", done.stdout), done.stdout
    finally:
        directory.chmod(0o777)
        shutil.rmtree(directory)


async def test_a_locked_file(store: SqliteStore, path: Path) -> None:
    await write(store, first("r"))
    store._writer.connection.execute("PRAGMA busy_timeout = 50")
    with contextlib.closing(sqlite3.connect(path, isolation_level=None)) as tool:
        tool.execute("BEGIN IMMEDIATE")
        error = await refused(store, change("r", head=b"new"), PersistError)
        assert "locked" in str(error)
        assert str(path) in str(error)
        with pytest.raises(PersistError, match="locked"):
            await store.request("r", "event")
        assert (await store.load("r")).head == b"head"
    await write(store, change("r", head=b"after"))
    assert (await store.load("r")).head == b"after"


async def test_a_full_file(store: SqliteStore, path: Path) -> None:
    await write(store, first("r", put=[("a", b"1")]), first("small"))
    connection = store._writer.connection
    (pages,) = connection.execute("PRAGMA page_count").fetchone()
    connection.execute(f"PRAGMA max_page_count = {pages + 3}")
    error = await refused(store, change("r", head=b"new", put=[("a", bytes(100_000))], stream=[b"0"]), PersistError)
    assert "full" in str(error)
    assert str(path) in str(error)
    stored = await store.load("r")
    assert (stored.head, stored.parts, stored.info.streamed) == (b"head", {"a": b"1"}, 0)
    await write(store, change("r", head=b"small"))
    # One that does not fit, among others that do.
    outcomes = await in_one_transaction(
        store, change("small", put=[("a", b"2")]), change("r", put=[("a", bytes(100_000))])
    )
    assert outcomes["small"] is None
    assert isinstance(outcomes["r"], PersistError)
    connection.execute("PRAGMA max_page_count = 100000")
    await write(store, change("r", put=[("a", bytes(100_000))], stream=[b"0"]))
    assert await store.stream("r") == [b"0"]


@pytest.mark.skipif(os.name != "posix" or os.geteuid() != 0, reason="only root can mount a small disk")
async def test_a_full_disk(tmp_path: Path) -> None:
    disk = tmp_path / "disk"
    disk.mkdir()
    if subprocess.run(["mount", "-t", "tmpfs", "-o", "size=300k", "tmpfs", str(disk)], capture_output=True).returncode:
        pytest.skip("nothing can be mounted here")
    try:
        with SqliteStore(disk / "runs.db") as store:
            await write(store, first("r"))
            written, error = 0, None
            while error is None:
                try:
                    await write(store, change("r", head=b"%d" % written, stream=[bytes(10_000)]))
                    written += 1
                except PersistError as exc:
                    error = exc
            assert "full" in str(error)
            stored = await store.load("r")
            assert stored.head == b"%d" % (written - 1)
            assert stored.info.streamed == len(await store.stream("r")) == written
            # There is room for some of what is in one transaction.
            subprocess.run(["mount", "-o", "remount,size=500k", str(disk)], check=True)
            outcomes = await in_one_transaction(
                store,
                first("large", put=[("a", bytes(400_000))]),
                first("small"),
                first("large too", head=bytes(400_000)),
            )
            assert outcomes.pop("small") is None
            assert all("full" in str(error) for error in outcomes.values())
            assert {info.run_id for info in await store.runs()} == {"r", "small"}
            subprocess.run(["mount", "-o", "remount,size=20m", str(disk)], check=True)
            await write(store, change("r", head=b"there is room", stream=[bytes(10_000)]))
            assert (await store.load("r")).head == b"there is room"
    finally:
        subprocess.run(["umount", str(disk)], check=True)


async def test_a_damaged_page(path: Path) -> None:
    with SqliteStore(path) as store:
        for number in range(50):
            await write(store, first(f"r{number}", put=[(f"p{part}", bytes(500)) for part in range(20)]))
    data = bytearray(path.read_bytes())
    for page in range(20, len(data) // 4096):
        data[page * 4096 : page * 4096 + 64] = b"\xff" * 64
    path.write_bytes(data)
    with SqliteStore(path) as store:
        errors = []
        for number in range(50):
            try:
                assert len((await store.load(f"r{number}")).parts) == 20
            except PersistError as exc:
                errors.append(str(exc))
        assert errors
        for error in errors:
            assert "damaged" in error
            assert str(path) in error


@pytest.mark.parametrize(
    ("statement", "named"),
    [
        ("UPDATE blazen_runs SET state = 'dancing'", "run 'r'"),
        ("UPDATE blazen_runs SET head = 'text'", "head of run 'r'"),
        ("UPDATE blazen_runs SET created = x'00'", "run 'r'"),
        ("UPDATE blazen_parts SET data = 5", "part 'a' of run 'r'"),
        ("UPDATE blazen_stream SET data = 'text'", "stream of run 'r'"),
        ("DELETE FROM blazen_stream WHERE number = 1", "stream of run 'r'"),
        ("DELETE FROM blazen_stream WHERE number = 2", "stream of run 'r'"),
        ("UPDATE blazen_questions SET prompt = x'ff'", "question 'q'"),
        ("UPDATE blazen_requests SET kind = 'dance'", "request 1"),
    ],
)
async def test_a_damaged_row(store: SqliteStore, path: Path, statement: str, named: str) -> None:
    await write(store, first("r", put=[("a", b"1")], stream=[b"0", b"1", b"2"], asked=[question("q", "r")]))
    await store.request("r", "event")
    with contextlib.closing(sqlite3.connect(path, isolation_level=None)) as tool:
        tool.execute(statement)
    errors = []
    for read in (store.load, store.stream, store.questions, store.requests):
        try:
            await read("r")
        except PersistError as exc:
            errors.append(str(exc))
    assert errors
    for error in errors:
        assert "damaged" in error
        assert named in error
        assert str(path) in error


async def test_what_sqlite_cannot_hold(store: SqliteStore) -> None:
    await write(store, first("r"), first("other"))
    outcomes = await in_one_transaction(store, change("r", version="\ud800"), change("other", version="2"))
    assert outcomes["other"] is None
    assert isinstance(outcomes["r"], PersistError)
    assert "cannot keep what it was given" in str(outcomes["r"])


# --- each call of SQLite fails once


class FailingConnection:
    """A connection of which one call, counted from the moment it is armed, fails like a broken disk."""

    def __init__(self, connection: sqlite3.Connection) -> None:
        self._connection = connection
        self._left: int | None = None

    def arm(self, nth: int) -> None:
        self._left = nth

    def disarm(self) -> bool:
        """Whether the call has failed."""
        left, self._left = self._left, None
        return left is not None and left <= 0

    def _call(self, name: str, *arguments: Any) -> Any:
        if self._left is not None:
            self._left -= 1
            if self._left == 0:
                raise self._error()
        return getattr(self._connection, name)(*arguments)

    @staticmethod
    def _error() -> sqlite3.OperationalError:
        error = sqlite3.OperationalError("disk I/O error")
        error.sqlite_errorcode = sqlite3.SQLITE_IOERR
        error.sqlite_errorname = "SQLITE_IOERR"
        return error

    def execute(self, *arguments: Any) -> Any:
        return self._call("execute", *arguments)

    def executemany(self, *arguments: Any) -> Any:
        return self._call("executemany", *arguments)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._connection, name)


async def test_whichever_call_fails_commits_take_effect_whole_or_not_at_all(store: SqliteStore) -> None:
    """Several commits in one transaction, of which the n-th call fails. What is said to be written is, and whole."""
    writer = store._writer
    failing = FailingConnection(writer.connection)
    writer.connection = writer._commits._connection = failing  # type: ignore[assignment]
    failures = 0
    for nth in range(1, 100):
        plain, new = [f"{nth}-{number}" for number in range(3)], f"{nth}-new"
        for run_id in plain:
            await write(store, first(run_id, put=[("a", b"old")]))
        failing.arm(nth)
        outcomes = await in_one_transaction(
            store,
            *(
                change(run_id, head=b"new", put=[("a", b"new"), ("b", b"new")], drop=["c"], stream=[b"0", b"1"])
                for run_id in plain
            ),
            first(new, stream=[b"0"], asked=[question(f"q{nth}", new)]),
        )
        was_reached = failing.disarm()
        for error in outcomes.values():
            assert error is None or (isinstance(error, PersistError) and "disk" in str(error))
            failures += error is not None
        for run_id in plain:
            written = outcomes[run_id] is None
            stored = await store.load(run_id)
            assert stored.head == (b"new" if written else b"head")
            assert stored.parts == ({"a": b"new", "b": b"new"} if written else {"a": b"old"})
            assert await store.stream(run_id) == ([b"0", b"1"] if written else [])
            await write(store, change(run_id, stream=[b"next"]))
            assert (await store.stream(run_id))[-1] == b"next"
        assert await store.has(new) == (outcomes[new] is None)
        assert len(await store.questions(new)) == (outcomes[new] is None)
        if not was_reached:
            break
    else:
        raise AssertionError("there are more calls than were tried")
    assert nth > 15
    assert failures > 5
