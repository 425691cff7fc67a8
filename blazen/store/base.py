"""What a store of runs has to do, and the records that go in and out of it.

A store knows nothing of steps and events. To it a run is a row that names it (`RunInfo`), a `head` and `parts`, which
are bytes under names, a stream of items that only grows, open questions, and requests that other processes have left
for it. What the bytes mean is the business of `blazen.durability`.
"""

from __future__ import annotations

import abc
from collections.abc import Callable, Sequence
from types import TracebackType
from typing import Any, Literal, TypeAlias

import msgspec

from blazen._core import codec
from blazen.errors import PersistError, ValidationError
from blazen.events import DynamicEvent, Event

__all__ = [
    "ENDED",
    "CheckpointStore",
    "Claim",
    "Commit",
    "Done",
    "NewRun",
    "OnCommitFailed",
    "OwnershipLost",
    "Question",
    "Request",
    "RequestKind",
    "RunInfo",
    "RunState",
    "StoredRun",
]

RunState: TypeAlias = Literal["running", "waiting", "paused", "completed", "failed", "cancelled"]
RequestKind: TypeAlias = Literal["answer", "event", "cancel", "pause", "resume"]
ENDED: frozenset[str] = frozenset(("completed", "failed", "cancelled"))


class RunInfo(msgspec.Struct, frozen=True, kw_only=True):
    """What a store tells about a run without looking into it.

    Attributes:
        run_id: The run, a UUID.
        workflow: The name of its workflow.
        version: The version of the workflow that has written it last.
        state: What `handler.state` was at the last commit. A run that is `"running"` and not `live` was interrupted.
        created: When it was first committed: seconds since 1970, UTC.
        updated: When it was last committed, likewise.
        due: When it has something to do again although nobody asks: the end of a time limit or of a wait before a
            retry; likewise. None if there is no such moment.
        fence: How often it has been claimed. Writes with a lower number are refused.
        owned: Whether somebody has claimed it and has not let go of it, alive or dead.
        live: Whether its owner is alive.
        questions: How many of its questions are open.
        streamed: How many items its stream has.
        result: Of a completed run: what its StopEvent carried, as bytes.
        error: Of a failed or cancelled run: what it failed with, one line.
    """

    run_id: str
    workflow: str
    version: str
    state: RunState
    created: float
    updated: float
    due: float | None = None
    fence: int = 1
    owned: bool = False
    live: bool = False
    questions: int = 0
    streamed: int = 0
    result: bytes | None = None
    error: str | None = None


class Question(msgspec.Struct, frozen=True, kw_only=True):
    """A question that is open.

    Attributes:
        request_id: What it is answered by; unique among all runs of a store.
        run_id: Who asks.
        prompt: What is asked, for a person to read.
        asked: When: seconds since 1970, UTC.
        details: JSON for programs: an object with ``metadata`` and, where the answer must have a type, ``schema``, a
            JSON schema.
    """

    request_id: str
    run_id: str
    prompt: str
    asked: float
    details: bytes = b"{}"


class Request(msgspec.Struct, frozen=True, kw_only=True):
    """Something that a process wants of a run that another one may own.

    Attributes:
        number: Grows with each request of a store.
        run_id: Of whom it is wanted.
        kind: What: `"answer"` a question, take an `"event"`, `"cancel"`, `"pause"` or `"resume"`.
        key: Of an answer the question's id, of an event its idempotency key, or None.
        data: The answer, the event or the reason, as bytes.
        created: When it was left: seconds since 1970, UTC.
        refused: Why the run did not take it; None while it has not, or if it did.
    """

    number: int
    run_id: str
    kind: RequestKind
    key: str | None
    data: bytes
    created: float
    refused: str | None = None


class NewRun(msgspec.Struct, frozen=True, kw_only=True):
    """What a run's first commit says of it.

    Attributes:
        workflow: The name of its workflow.
    """

    workflow: str


class Claim(msgspec.Struct, frozen=True, kw_only=True):
    """The right to write to a run, until another claim is made.

    Attributes:
        run_id: The run.
        fence: The number of the claim, which every write names.
    """

    run_id: str
    fence: int


class Commit(msgspec.Struct, kw_only=True):
    """One change of one run, which takes effect as a whole or not at all.

    Attributes:
        run_id: The run.
        fence: The number of the claim it is made under. A run's first commit makes claim 1.
        at: When it was made: seconds since 1970, UTC.
        version: Of the workflow that writes.
        state: Of the run, from now on.
        due: See `RunInfo.due`.
        head: Replaces the run's head.
        new: Given with the first commit of a run, and only then.
        clear: Drop all parts, before `put`.
        put: Parts to write, by name; one that is there is replaced.
        drop: Names of parts to remove, after `put`; one that is not there is left alone.
        stream: Items to append to the stream.
        asked: Questions that are open from now on; one that is open already is replaced.
        answered: Ids of questions that no longer are, after `asked`.
        taken: Numbers of requests that have taken effect; they are removed. The key of one is remembered as long as the
            run is kept (see `CheckpointStore.request`).
        refused: Numbers of requests that the run cannot take, and why. A question whose answer is refused may be
            answered again if it is still open.
        result: See `RunInfo.result`; with a `state` that is an end.
        error: See `RunInfo.error`, likewise.
        release: Let go of the run: others may claim it.
        callbacks: Called in order with the store's connection, inside the commit, in a savepoint of their own, on the
            thread that writes. If one raises, nothing of this commit takes effect.
    """

    run_id: str
    fence: int
    at: float
    version: str
    state: RunState
    due: float | None = None
    head: bytes = b""
    new: NewRun | None = None
    clear: bool = False
    put: Sequence[tuple[str, bytes]] = ()
    drop: Sequence[str] = ()
    stream: Sequence[bytes] = ()
    asked: Sequence[Question] = ()
    answered: Sequence[str] = ()
    taken: Sequence[int] = ()
    refused: Sequence[tuple[int, str]] = ()
    result: bytes | None = None
    error: str | None = None
    release: bool = False
    callbacks: Sequence[Callable[[Any], object]] = ()


class StoredRun(msgspec.Struct, frozen=True, kw_only=True):
    """All that a store has of a run but its stream and its requests."""

    info: RunInfo
    head: bytes
    parts: dict[str, bytes]


class OwnershipLost(PersistError):  # a subclass, not a kind of its own: users catch PersistError
    """Raised when a write comes from an owner that another one has replaced. Nothing was written."""


class OnCommitFailed(Exception):
    """One of a commit's callbacks raised, which is the ``__cause__``. Nothing of the commit has taken effect.

    Attributes:
        index: The place of the callback in `Commit.callbacks`.
    """

    def __init__(self, index: int) -> None:
        super().__init__(index)
        self.index = index


Done: TypeAlias = Callable[[BaseException | None], None]


class CheckpointStore(abc.ABC):
    """Where runs are kept. `blazen.testing.stores` has a suite of tests that says whether a store does what it must.

    A store object is an *owner*: what it claims is its own until it lets go, is closed, or dies. All coroutines are for
    trio, and from any trio loop.

    Whatever the store cannot do (a full disk, a locked or broken file, a lost connection) is a `PersistError` that says
    what and where; nothing of what failed has taken effect.
    """

    #: Whether what was pickled in it (`StateValue.native`, `ctx.session`) may be loaded again. Loading a pickle can run
    #: any code: only if nobody else can write to the store.
    trust_native: bool = False

    # --- writing

    @abc.abstractmethod
    def submit(self, commit: Commit, done: Done) -> None:
        """Write a commit; `done(None)` says that it is there to stay, `done(error)` that nothing of it took effect.

        Never waits. `done` is called exactly once, from any thread, also before `submit` returns. Whoever submits has
        at most one commit of a run under way.

        The error is an `OwnershipLost` when this store object no longer owns the run under this number; an
        `OnCommitFailed`; for a new run a `PersistError` when there is one of its id; else a `PersistError`.
        """

    @abc.abstractmethod
    async def claim(self, run_id: str, *, force: bool = False) -> Claim:
        """Become the owner of a run that has not ended.

        Args:
            run_id: The run.
            force: Also from an owner that lives, whose writes are refused from then on.
        Raises:
            ValidationError: There is no such run, it has ended, or its owner lives.
        """

    @abc.abstractmethod
    def let_go(self, claim: Claim) -> None:
        """Own a run no longer, without a change to it. A claim that is no longer valid is left alone.

        Never waits; what is asked of the store after it finds it done. If it cannot be written, others see an owner
        that lives until this one is closed or dies; this store object may claim the run again.
        """

    # --- reading

    @abc.abstractmethod
    async def load(self, run_id: str) -> StoredRun:
        """All of a run.

        Raises:
            ValidationError: There is no such run.
        """

    @abc.abstractmethod
    async def stream(self, run_id: str, start: int = 0, limit: int | None = None) -> list[bytes]:
        """The items of a run's stream from number `start` on, at most `limit`; the first has the number 0.

        Raises:
            ValidationError: There is no such run.
        """

    @abc.abstractmethod
    async def runs(
        self,
        *,
        workflow: str | None = None,
        states: Sequence[RunState] | None = None,
        created_after: float | None = None,
        created_before: float | None = None,
        limit: int | None = None,
    ) -> list[RunInfo]:
        """The runs of a workflow, in one of some states, created after and before two moments; newest first."""

    @abc.abstractmethod
    async def info(self, run_id: str) -> RunInfo:
        """What is known of a run.

        Raises:
            ValidationError: There is no such run.
        """

    @abc.abstractmethod
    async def questions(self, run_id: str | None = None) -> list[Question]:
        """The open questions of a run, or of all; oldest first."""

    @abc.abstractmethod
    async def runnable(self, workflows: Sequence[str] | None, now: float) -> list[RunInfo]:
        """The runs that nobody alive owns and that have something to do, oldest first.

        They are: what is `"running"`; what is `"waiting"` and due, or has a request that was not refused; what is
        `"paused"` and has such a request to cancel or to resume it.

        Args:
            workflows: Names; None for all.
            now: Seconds since 1970, UTC.
        """

    # --- what others want of a run

    @abc.abstractmethod
    async def request(
        self, run_id: str | None, kind: RequestKind, *, key: str | None = None, data: bytes = b""
    ) -> Request:
        """Leave a request for a run; it is there to stay when this returns.

        Args:
            run_id: The run; for an answer it may be None: the question's id says whose it is.
            kind: See `Request.kind`.
            key: See `Request.key`. Of two requests of one run and kind with the same key, the second is ignored and the
                first is returned, except for answers; without its data if it has taken effect.
            data: See `Request.data`.
        Raises:
            ValidationError: There is no such run, it has ended, there is no such question, or it has been answered.
        """

    @abc.abstractmethod
    async def requests(self, run_id: str) -> list[Request]:
        """The requests left for a run that have not taken effect, oldest first, with those that were refused."""

    @abc.abstractmethod
    def listen(self, run_id: str, heard: Callable[[list[Request]], None]) -> None:
        """Have `heard` called, from any thread, with requests for a run that this store object owns.

        It hears each request once, in order, those that are there already first, and not those that were refused. What
        this process leaves is heard at once, what others leave within half a second. It is called until `unlisten`. It
        may be given before the run is owned. A run has one: another takes its place, and hears all from the start.
        A commit that is submitted after this to a run that is owned is done after what was there already is heard.
        """

    @abc.abstractmethod
    def unlisten(self, run_id: str) -> None:
        """Have it called no more."""

    @abc.abstractmethod
    def watch(self, changed: Callable[[], None]) -> None:
        """Have `changed` called, from any thread, when `runnable` may give something new: a run was released, a request
        was left; for what other processes do within half a second. Any number of times, until `unwatch`.
        """

    @abc.abstractmethod
    def unwatch(self, changed: Callable[[], None]) -> None:
        """Have it called no more."""

    # --- what others want of a run, as Python values

    async def respond_to_input(self, request_id: str, response: object) -> None:
        """Answer an open question of any run, wherever that is; the answer is in the store when this returns.

        The step that asked gets it when its run goes on: at once where it is running or a `serve` is. An answer that
        does not fit what the step asked for is refused then, and the question is open again; `requests` says why.

        Raises:
            ValidationError: There is no such question, it has been answered, or the answer cannot be stored.
        """
        await self.request(None, "answer", key=request_id, data=codec.encode(response))

    async def send_event(self, run_id: str, event: Event, key: str | None = None) -> None:
        """Put an event into a run, wherever that is; it is in the store when this returns.

        Args:
            run_id: The run.
            event: The event. The run takes it as of its own class of that type.
            key: If given, an event is taken once per key in a run; later ones are ignored.
        Raises:
            ValidationError: There is no such run, it has ended, or the event cannot be stored.
        """
        if not isinstance(event, Event):
            raise ValidationError(f"send_event takes an event, got a {type(event).__name__!r} object")
        plain = DynamicEvent(event.event_type, event.to_dict())
        await self.request(run_id, "event", key=key, data=codec.encode(plain, classes=(DynamicEvent,)))

    async def cancel(self, run_id: str, reason: str | None = None) -> None:
        """Have a run end as cancelled, wherever it is.

        Raises:
            ValidationError: There is no such run, or it has ended.
        """
        await self.request(run_id, "cancel", data=codec.encode(reason))

    async def pause(self, run_id: str) -> None:
        """Have a run pause and wait in the store until somebody resumes it.

        Raises:
            ValidationError: There is no such run, or it has ended.
        """
        await self.request(run_id, "pause")

    async def resume(self, run_id: str) -> None:
        """Let a run go on that was paused: where it is, or in the next `serve` or `recover`.

        Raises:
            ValidationError: There is no such run, or it has ended.
        """
        await self.request(run_id, "resume")

    async def has(self, run_id: str) -> bool:
        """Whether there is such a run."""
        try:
            await self.info(run_id)
        except ValidationError:
            return False
        return True

    # --- keeping house

    @abc.abstractmethod
    async def delete(self, run_id: str) -> None:
        """Remove a run and all that belongs to it.

        Raises:
            ValidationError: There is no such run, or its owner lives.
        """

    @abc.abstractmethod
    async def prune(
        self, *, ended_before: float, states: Sequence[RunState] = ("completed", "failed", "cancelled")
    ) -> int:
        """Remove runs that ended before a moment (seconds since 1970, UTC). Returns how many there were."""

    @abc.abstractmethod
    def close(self) -> None:
        """Let go of everything. What was submitted is written first. Any number of times."""

    def __enter__(self) -> CheckpointStore:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()
