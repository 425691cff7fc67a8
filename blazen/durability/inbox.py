"""What other processes want of a run: its requests, as the store tells of them."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING

from blazen._core import codec
from blazen.durability import requests
from blazen.errors import ValidationError, WorkflowError

if TYPE_CHECKING:
    from blazen.durability.ledger import Ledger
    from blazen.store.base import Request


class Inbox:
    """The requests for one run. Used on the loop's thread, but for `heard`.

    Args:
        ledger: The ledger of the run, which notes what becomes of each.
        classes: What the values in them are of.
    """

    __slots__ = ("_classes", "_ledger", "early", "pauses")

    def __init__(self, ledger: Ledger, classes: codec.ClassTable) -> None:
        self._ledger = ledger
        self._classes = classes
        self.pauses: list[int] | None = None  # requests to pause that are under way
        self.early: dict[str, Request] | None = None  # answers to what was asked before, and not again yet

    def heard(self, wanted: list[Request]) -> None:
        """The store tells of requests, on any thread."""
        run = self._ledger.run
        if run.on_own_thread():
            self._take(wanted)
        else:
            run.loop.post(partial(self._take, wanted))

    def _take(self, wanted: list[Request]) -> None:
        ledger = self._ledger
        run = ledger.run
        for request in wanted:
            if run.ending or ledger.closing is not None:
                return  # it stays in the store, for whoever goes on with the run
            if request.kind == "pause":  # it stays in the store until the run is paused
                self.pauses = [*(self.pauses or ()), request.number]
                run.nursery.start_soon(requests.pause, run, request.number, name="blazen pause")
            elif request.kind == "answer" and request.key in run.reopened:
                if self.early is None:
                    self.early = {}
                self.early[str(request.key)] = request
            else:
                if request.kind == "resume":  # it comes after them
                    self._take_pauses()
                self._do(request)

    def _do(self, request: Request) -> None:
        ledger = self._ledger
        ledger.gather().taken.append(request.number)  # first: what is written has the request or what has come of it
        if request.kind == "answer" and ledger.is_hidden(str(request.key)):  # the store has shown the question already
            ledger.show(ledger.run.questions[str(request.key)])
        try:
            requests.apply(ledger.run, request, self._classes)
        except (ValidationError, WorkflowError) as error:
            self._refuse(request, error)
        ledger.stir()

    def _refuse(self, request: Request, error: Exception) -> None:
        gathered = self._ledger.gather()
        gathered.taken.remove(request.number)
        gathered.refused.append((request.number, str(error)))

    # --- pausing

    def is_to_pause(self, number: int) -> bool:
        """Whether the request of this number to pause still holds: nobody has asked to resume since."""
        return self.pauses is not None and number in self.pauses

    def pause_done(self) -> None:
        """The run is paused, as requests have asked: leave it to others."""
        self._take_pauses()
        self._ledger.let_go("paused")

    def _take_pauses(self) -> None:
        if self.pauses is not None:
            self._ledger.gather().taken += self.pauses
            self.pauses = None

    # --- answers that come before their question is asked again

    def early_answer(self, request_id: str, check: Callable[[object], object]) -> tuple[object, object] | None:
        """What the store was given for a question that a step asks again: as `check` has made it, and as it came.

        It came before the step was here, so it could not be checked. None if nothing has come, or what does not fit:
        that is refused, and the question stays open.
        """
        request = None if self.early is None else self.early.pop(request_id, None)
        if request is None:
            return None
        self._ledger.gather().taken.append(request.number)
        try:
            given = codec.decode(request.data)
            return check(given), given
        except ValidationError as error:
            self._refuse(request, error)
            self._ledger.stir()
            return None

    def take_early(self) -> None:
        """The run waits, and steps have not asked again what has been answered: they get it if they still do."""
        early, self.early = self.early or {}, None
        for request in early.values():
            self._do(request)
