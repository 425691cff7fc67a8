"""What the views of a `MemoryStore` share: its runs, owners and listeners."""

from __future__ import annotations

import threading
import time
import weakref
from collections import deque
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import msgspec

from blazen.errors import PersistError
from blazen.store import refusals
from blazen.store.base import ENDED, Commit, OnCommitFailed, Question, Request, RequestKind, RunInfo, RunState

if TYPE_CHECKING:
    import sqlite3

    from blazen.store.callbacks import Guard

WHERE = "this MemoryStore"
_WAKING: frozenset[str] = frozenset(("cancel", "resume"))  # what a paused run goes on for


class Listener:
    """What one run's owner hears requests with."""

    __slots__ = ("heard", "last")

    def __init__(self, heard: Callable[[list[Request]], None]) -> None:
        self.heard = heard
        self.last = 0  # the number of the last request that it has heard


class Owner:
    """What the data knows of one store object."""

    __slots__ = ("listeners", "number", "watchers")

    def __init__(self, number: int) -> None:
        self.number = number
        self.listeners: dict[str, Listener] = {}
        self.watchers: list[Callable[[], None]] = []


class Run:
    """One run as it is kept."""

    __slots__ = (
        "created", "due", "error", "fence", "head", "keys", "number", "open", "owner", "parts", "requests", "result",
        "run_id", "state", "stream", "updated", "version", "workflow",
    )  # fmt: skip

    def __init__(self, number: int, run_id: str, workflow: str, created: float) -> None:
        self.number = number
        self.run_id = run_id
        self.workflow = workflow
        self.created = created
        self.fence = 1
        self.owner: int | None = None
        self.parts: dict[str, bytes] = {}
        self.stream: list[bytes] = []
        self.open: set[str] = set()  # ids of questions
        self.requests: dict[int, Request] = {}
        self.keys: dict[tuple[RequestKind, str], Request] = {}  # also of those that have taken effect

    def has_something_to_do(self, now: float) -> bool:
        if self.state == "running":
            return True
        wanted = [request.kind for request in self.requests.values() if request.refused is None]
        if self.state == "waiting":
            return bool(wanted) or (self.due is not None and self.due <= now)
        return self.state == "paused" and not _WAKING.isdisjoint(wanted)

    def write(self, commit: Commit) -> None:
        """Everything of a commit that concerns this run alone."""
        self.updated = commit.at
        self.version = commit.version
        self.state: RunState = commit.state
        self.due = commit.due
        self.head = commit.head
        self.result = commit.result
        self.error = commit.error
        if commit.clear:
            self.parts.clear()
        self.parts.update(commit.put)
        for name in commit.drop:
            self.parts.pop(name, None)
        self.stream.extend(commit.stream)
        for number in commit.taken:
            taken = self.requests.pop(number, None)
            if taken is not None and (taken.kind, taken.key) in self.keys:
                # Remembered, so that whoever asks again with its key does not get it done twice.
                self.keys[taken.kind, str(taken.key)] = msgspec.structs.replace(taken, data=b"")
        for number, why in commit.refused:
            refused = self.requests.get(number)
            if refused is not None:
                refused = msgspec.structs.replace(refused, refused=why)
                self.requests[number] = refused
                if (refused.kind, refused.key) in self.keys:
                    self.keys[refused.kind, str(refused.key)] = refused


def age(run: Run) -> tuple[float, int]:
    return run.created, run.number


class Data:
    """What all views share. `with data:` locks it, and calls the listeners when it is unlocked.

    Listeners are called without the lock, so that they may take locks of their own, and by one thread at a time, so
    that they hear things in order.
    """

    def __init__(self) -> None:
        self.runs: dict[str, Run] = {}
        self.questions: dict[str, Question] = {}
        self.owners: dict[int, Owner] = {}  # those that live
        self._runs_made = self._owners_made = self._requests_made = 0
        self._lock = threading.Lock()
        self._in_callback: int | None = None  # the thread that is in a commit's callbacks
        self._leaving: deque[int] = deque()  # owners whose store object is gone
        self._calls: deque[tuple[Owner, str | None, Any]] = deque()
        self._calling = threading.Lock()
        self._database: tuple[sqlite3.Connection, Guard] | None = None

    def __enter__(self) -> Data:
        if self._in_callback == threading.get_ident():
            raise PersistError(
                f"{WHERE} is used by a callback of one of its commits: it is in the middle of writing it"
            )
        self._lock.acquire()
        self._see_out()
        return self

    def __exit__(self, *_: object) -> None:
        self._lock.release()
        while self._calls and self._calling.acquire(blocking=False):
            try:
                self._call()
            finally:
                self._calling.release()

    def _call(self) -> None:
        from blazen.store.callbacks import call_back

        while self._calls:
            owner, run_id, what = self._calls.popleft()
            if run_id is None:
                if what in owner.watchers:
                    call_back(what)
                continue
            heard: Listener
            heard, requests = what
            if owner.listeners.get(run_id) is heard:
                call_back(heard.heard, requests)

    # --- owners

    def add_owner(self) -> Owner:
        with self:
            self._owners_made += 1
            owner = self.owners[self._owners_made] = Owner(self._owners_made)
            return owner

    def check(self, owner: Owner) -> None:
        """Refuse an owner that was closed by another thread while this one waited for the lock."""
        if owner.number not in self.owners:
            raise refusals.closed(WHERE)

    def remove_owner(self, owner: Owner, *, release: bool) -> None:
        if self.owners.pop(owner.number, None) is None:
            return
        owner.listeners.clear()
        owner.watchers.clear()
        if release:
            for run in self.runs.values():
                if run.owner == owner.number:
                    run.owner = None
        self.changed()

    def leave(self, number: int) -> None:
        """Of a store object that nobody holds any more. The collector may call this in the middle of anything."""
        self._leaving.append(number)
        if self._lock.acquire(blocking=False):
            try:
                self._see_out()
            finally:
                self._lock.release()

    def _see_out(self) -> None:
        while self._leaving:
            owner = self.owners.get(self._leaving.popleft())
            if owner is not None:
                self.remove_owner(owner, release=True)

    # --- listeners

    def changed(self) -> None:
        """What is runnable may have changed."""
        for owner in self.owners.values():
            self._calls.extend((owner, None, watcher) for watcher in owner.watchers)

    def tell(self, run: Run) -> None:
        """Let the owner hear what it has not heard yet."""
        owner = self.owners.get(run.owner) if run.owner is not None else None
        listener = owner.listeners.get(run.run_id) if owner is not None else None
        if owner is None or listener is None:
            return
        new = [one for one in run.requests.values() if one.number > listener.last and one.refused is None]
        if new:
            listener.last = new[-1].number
            self._calls.append((owner, run.run_id, (listener, new)))

    # --- runs

    def get(self, run_id: str) -> Run:
        run = self.runs.get(run_id)
        if run is None:
            raise refusals.no_such_run(run_id, WHERE)
        return run

    def info(self, run: Run) -> RunInfo:
        return RunInfo(
            run_id=run.run_id,
            workflow=run.workflow,
            version=run.version,
            state=run.state,
            created=run.created,
            updated=run.updated,
            due=run.due,
            fence=run.fence,
            owned=run.owner is not None,
            live=run.owner in self.owners,
            questions=len(run.open),
            streamed=len(run.stream),
            result=run.result,
            error=run.error,
        )

    def remove(self, run: Run) -> None:
        del self.runs[run.run_id]
        for request_id in run.open:
            del self.questions[request_id]

    def commit(self, commit: Commit, owner: Owner) -> None:
        """All of a commit or, if it raises, nothing: what can fail comes before what is changed."""
        self.check(owner)
        run = self.runs.get(commit.run_id)
        if commit.new is not None:
            if commit.fence != 1:
                raise refusals.first_fence(commit.run_id, commit.fence)
            if run is not None:
                raise refusals.exists(commit.run_id, WHERE)
            run = Run(self._runs_made + 1, commit.run_id, commit.new.workflow, commit.at)
            run.owner = owner.number
        elif run is None or run.fence != commit.fence or run.owner != owner.number:
            raise refusals.ownership_lost(commit.run_id, commit.fence, run.fence if run else None, WHERE)
        for question in commit.asked:
            other = self.questions.get(question.request_id)
            if other is not None and other.run_id != commit.run_id:
                raise refusals.asked_elsewhere(question.request_id, commit.run_id, other.run_id, WHERE)
        if commit.callbacks:
            self._call_in_savepoint(commit.callbacks)
        if commit.new is not None:
            self._runs_made += 1
            self.runs[commit.run_id] = run
        run.write(commit)
        for question in commit.asked:
            self.questions[question.request_id] = question
            run.open.add(question.request_id)
        for request_id in commit.answered:
            if request_id in run.open:
                run.open.remove(request_id)
                del self.questions[request_id]
        if commit.release:
            run.owner = None
            self.changed()
        elif commit.new is not None:
            self.tell(run)

    # --- requests

    def add_request(self, run: Run, kind: RequestKind, key: str | None, data: bytes) -> Request:
        if run.state in ENDED:
            raise refusals.has_ended(run.run_id, run.state, WHERE)
        if kind == "answer":
            for other in run.requests.values():
                if other.kind == "answer" and other.key == key and other.refused is None:
                    raise refusals.is_answered(str(key), run.run_id, WHERE)
        elif key is not None and (kind, key) in run.keys:
            return run.keys[kind, key]
        self._requests_made += 1
        request = Request(
            number=self._requests_made, run_id=run.run_id, kind=kind, key=key, data=data, created=time.time()
        )
        run.requests[request.number] = request
        if kind != "answer" and key is not None:
            run.keys[kind, key] = request
        self.tell(run)
        self.changed()
        return request

    # --- the database of callbacks

    def connection(self) -> tuple[sqlite3.Connection, Guard]:
        if self._database is None:
            import sqlite3

            from blazen.store.callbacks import Guard

            # Transactions are ours; and commits come from any thread, one at a time.
            connection = sqlite3.connect(":memory:", isolation_level=None, check_same_thread=False)
            weakref.finalize(self, connection.close)
            self._database = connection, Guard(connection)
        return self._database

    def _call_in_savepoint(self, callbacks: Sequence[Callable[[Any], object]]) -> None:
        from blazen.store.callbacks import RELEASE, ROLL_BACK, SAVEPOINT, TransactionLostError

        connection, guard = self.connection()
        connection.execute(SAVEPOINT)
        self._in_callback = threading.get_ident()
        try:
            guard.call(callbacks)
        except OnCommitFailed:
            connection.execute(ROLL_BACK)
            connection.execute(RELEASE)
            raise
        except TransactionLostError as exc:
            raise exc.failed from exc.failed.__cause__
        else:
            connection.execute(RELEASE)
        finally:
            self._in_callback = None
