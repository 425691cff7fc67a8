"""What is posted to the thread of a `SqliteStore` that writes."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, TypeAlias

from blazen.store.base import Commit, Done, Request

if TYPE_CHECKING:
    from blazen.store.sqlite_writer import SqliteWriter


class CommitJob:
    """A commit to write."""

    __slots__ = ("commit", "done")

    def __init__(self, commit: Commit, done: Done) -> None:
        self.commit = commit
        self.done = done

    def settle(self, error: BaseException | None) -> None:
        self.done(error)


class Job:
    """Something else to write: `act` is called in the transaction, `settled` with its result or an error after it.

    `run_id` is the run whose owner it changes, if any: the commits of that run are written before or after it, as they
    were posted.
    """

    __slots__ = ("act", "result", "run_id", "settled")

    def __init__(
        self,
        act: Callable[[SqliteWriter], Any],
        settled: Callable[[Any, BaseException | None], None],
        run_id: str | None = None,
    ) -> None:
        self.act = act
        self.settled = settled
        self.run_id = run_id
        self.result: Any = None

    def settle(self, error: BaseException | None) -> None:
        self.settled(None if error is not None else self.result, error)


class Look:
    """A wish to look for news: what others have written, or what a listener has not heard."""

    __slots__ = ("run_id",)

    def __init__(self, run_id: str | None = None) -> None:
        self.run_id = run_id

    def settle(self, error: BaseException | None) -> None:
        pass


class Barrier:
    """Calls `passed` when everything that was posted before is done."""

    __slots__ = ("passed",)

    def __init__(self, passed: Callable[[], None]) -> None:
        self.passed = passed

    def settle(self, error: BaseException | None) -> None:
        self.passed()


class Listener:
    """What one run hears requests with."""

    __slots__ = ("heard", "last")

    def __init__(self, heard: Callable[[list[Request]], None]) -> None:
        self.heard = heard
        self.last = 0  # the number of the last request that it has heard


Posted: TypeAlias = CommitJob | Job | Look | Barrier
