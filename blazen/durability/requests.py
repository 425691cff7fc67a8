"""What others want of a run that they do not have: as bytes in a store, and as done in the run."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from blazen._core import codec
from blazen.engine import answering, pausing
from blazen.engine.life import Happening, State
from blazen.errors import ValidationError
from blazen.events import Event

if TYPE_CHECKING:
    from blazen.engine.run import Run
    from blazen.store.base import Request


def apply(run: Run, request: Request, classes: codec.ClassTable) -> None:
    """Do in a run what a request wants that does not take time; else see `pause`.

    Raises:
        ValidationError: It cannot be done; the run is undisturbed.
        WorkflowError: No step accepts the event; likewise.
    """
    if request.kind == "answer":
        answering.respond(run, request.key, codec.decode(request.data))
    elif request.kind == "event":
        event = codec.decode(request.data, classes=classes)
        if not isinstance(event, Event):
            raise ValidationError(f"an event was to be sent, got a {type(event).__name__!r} object")
        run.check_accepted(event, None)
        run.send(event, request.key, None)
    elif request.kind == "cancel":
        run.cancel(reason_of(request), by="store")
    elif run.life in (State.PAUSED, State.PAUSING):  # else it was to be resumed, and it has been
        run.happened(Happening.RESUME)


def reason_of(request: Request) -> str | None:
    """Why a run is to be cancelled."""
    reason: Any = codec.decode(request.data) if request.data else None
    return reason if isinstance(reason, str) else None


async def pause(run: Run, number: int) -> None:
    """Pause a run and leave it to others, unless the request of this `number` holds no longer."""
    if run.ending or not run.ledger.inbox.is_to_pause(number):
        return
    try:
        await pausing.pause(run, abort=False)
    except ValidationError:  # it has ended meanwhile, or was resumed
        return
    run.ledger.inbox.pause_done()
