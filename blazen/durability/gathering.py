"""What gathers for the next commit of a run, and what waits for it."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import msgspec
import trio

from blazen.durability.clock import wall_time
from blazen.store.base import Question

if TYPE_CHECKING:
    from blazen.events import InputRequestEvent
    from blazen.store.base import Commit


class Noted:
    """What an attempt has written to the stream and wants done in its commit; it counts once the attempt has ended."""

    __slots__ = ("callbacks", "items")

    def __init__(self) -> None:
        self.items: list[bytes] = []
        self.callbacks: list[tuple[str, Callable[[Any], object]]] = []


class Gathered:
    """What goes into the next commit besides the cut, and what waits for it. Made when there is any: most runs wait
    without.
    """

    __slots__ = ("after", "asked", "callbacks", "items", "refused", "taken", "waiters")

    def __init__(self) -> None:
        self.after: list[Callable[[], object]] = []
        self.asked: list[Question] = []
        self.callbacks: list[tuple[str, Callable[[Any], object]]] = []
        self.items: list[bytes] = []
        self.refused: list[tuple[int, str]] = []
        self.taken: list[int] = []
        self.waiters: list[Waiter] = []

    def fill(self, commit: Commit) -> None:
        """Put into a commit what goes into it."""
        commit.stream = self.items
        commit.asked = self.asked
        commit.taken = self.taken
        commit.refused = self.refused
        commit.callbacks = [fn for _, fn in self.callbacks]


class Batch:
    """The commit that is under way."""

    __slots__ = ("gate", "gathered", "last", "lets_go")

    def __init__(self, gathered: Gathered | None, gate: int = 0, *, lets_go: bool = False, last: bool = False) -> None:
        self.gathered = gathered
        self.gate = gate  # how many events and attempts wait behind the gate
        self.lets_go = lets_go
        self.last = last


class Waiter:
    """Somebody who waits until what there is now is written."""

    __slots__ = ("done", "error")

    def __init__(self) -> None:
        self.done = trio.Event()
        self.error: BaseException | None = None


def question_of(event: InputRequestEvent, run_id: str, schema: Any) -> Question:
    """A question as a store has it; `schema`: what its answer must be of, if anything."""
    details: dict[str, Any] = {"metadata": event.metadata}
    if schema is not None:
        details["schema"] = msgspec.json.schema(schema)
    return Question(
        request_id=event.request_id,
        run_id=run_id,
        prompt=event.prompt,
        asked=wall_time(),
        details=msgspec.json.encode(details, enc_hook=repr),
    )
