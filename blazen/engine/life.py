"""The life of a run, as a table.

What may live in this file: the states of a run, what can happen to it, and what follows. What may not: a clock, trio,
the queue, anything that waits. `Run.happened` looks up one row per happening and carries out its commands; whatever the
table does not name is a bug of the engine, raises, and changes nothing.

    READY -START-> RUNNING -PAUSE-> PAUSING -QUIET-> PAUSED -RESUME-> RUNNING
                           -STOP---------> COMPLETING -UNWOUND-> COMPLETED
                           -FAILURE, FATAL-> FAILING  -UNWOUND-> FAILED
                           -CANCEL, LEFT--> CANCELLING -UNWOUND-> CANCELLED

The first cause decides the outcome. What happens while the steps unwind is kept beside it, except FATAL (an exception
that is no `Exception`, such as KeyboardInterrupt): that one always comes out.
"""

from __future__ import annotations

from enum import IntEnum, auto
from typing import NamedTuple


class State(IntEnum):
    """Where a run stands."""

    READY = auto()
    RUNNING = auto()
    PAUSING = auto()  # nothing is dispatched, and what runs is waited for
    PAUSED = auto()
    COMPLETING = auto()
    FAILING = auto()
    CANCELLING = auto()
    COMPLETED = auto()
    FAILED = auto()
    CANCELLED = auto()


class Happening(IntEnum):
    """What can happen to a run."""

    START = auto()  # its first event is queued
    STOP = auto()  # a step produced a StopEvent
    FAILURE = auto()  # a step failed for good, time ran out, or nothing was left to do
    CANCEL = auto()  # somebody asked for the end
    LEFT = auto()  # the caller's own scope was cancelled
    FATAL = auto()  # an exception that is no Exception came out of a step
    UNWOUND = auto()  # the last step is out
    PAUSE = auto()  # somebody asked for a pause
    QUIET = auto()  # no step runs any more, but those that wait in their middle
    RESUME = auto()  # somebody asked for the pause to end


class Command(IntEnum):
    """What a run has to do about it."""

    DISPATCH = auto()  # queue the first event
    KEEP = auto()  # what happened is the run's outcome
    ABORT = auto()  # dispatch nothing more, abort every running step
    SUPPRESS = auto()  # note it beside the outcome
    PUBLISH = auto()  # end the stream, wake those who wait for the result
    HOLD = auto()  # dispatch nothing for now
    FREEZE = auto()  # stop the clocks, wake those who wait for the pause
    RELEASE = auto()  # let the clocks go on, dispatch again


class Transition(NamedTuple):
    """One row: the next state and what to do."""

    state: State
    commands: tuple[Command, ...] = ()


_KEEP_AND_ABORT = (Command.KEEP, Command.ABORT)

# The ways in which a run that has begun ends; its steps are still to unwind.
_ENDS = {
    Happening.STOP: Transition(State.COMPLETING, _KEEP_AND_ABORT),
    Happening.FAILURE: Transition(State.FAILING, _KEEP_AND_ABORT),
    Happening.CANCEL: Transition(State.CANCELLING, _KEEP_AND_ABORT),
    Happening.LEFT: Transition(State.CANCELLING, _KEEP_AND_ABORT),
    Happening.FATAL: Transition(State.FAILING, _KEEP_AND_ABORT),
}

LIFE: dict[State, dict[Happening, Transition]] = {
    State.READY: {
        Happening.START: Transition(State.RUNNING, (Command.DISPATCH,)),
        Happening.CANCEL: Transition(State.CANCELLED, (Command.KEEP, Command.PUBLISH)),
        Happening.LEFT: Transition(State.CANCELLED, (Command.KEEP, Command.PUBLISH)),
    },
    State.RUNNING: {**_ENDS, Happening.PAUSE: Transition(State.PAUSING, (Command.HOLD,))},
    State.PAUSING: {
        **_ENDS,
        Happening.PAUSE: Transition(State.PAUSING),
        Happening.QUIET: Transition(State.PAUSED, (Command.FREEZE,)),
        Happening.RESUME: Transition(State.RUNNING, (Command.RELEASE,)),
    },
    State.PAUSED: {
        **_ENDS,
        Happening.PAUSE: Transition(State.PAUSED),
        Happening.RESUME: Transition(State.RUNNING, (Command.RELEASE,)),
    },
    State.COMPLETING: {
        Happening.STOP: Transition(State.COMPLETING),  # the first one has won
        Happening.FAILURE: Transition(State.COMPLETING, (Command.SUPPRESS,)),
        Happening.CANCEL: Transition(State.COMPLETING),
        Happening.LEFT: Transition(State.COMPLETING),
        Happening.FATAL: Transition(State.FAILING, (Command.KEEP,)),
        Happening.UNWOUND: Transition(State.COMPLETED, (Command.PUBLISH,)),
    },
    State.FAILING: {
        Happening.STOP: Transition(State.FAILING),
        Happening.FAILURE: Transition(State.FAILING, (Command.SUPPRESS,)),
        Happening.CANCEL: Transition(State.FAILING),
        Happening.LEFT: Transition(State.FAILING),
        Happening.FATAL: Transition(State.FAILING, (Command.KEEP,)),
        Happening.UNWOUND: Transition(State.FAILED, (Command.PUBLISH,)),
    },
    State.CANCELLING: {
        Happening.STOP: Transition(State.CANCELLING),
        Happening.FAILURE: Transition(State.CANCELLING, (Command.SUPPRESS,)),
        Happening.CANCEL: Transition(State.CANCELLING),
        Happening.LEFT: Transition(State.CANCELLING),
        Happening.FATAL: Transition(State.FAILING, (Command.KEEP,)),
        Happening.UNWOUND: Transition(State.CANCELLED, (Command.PUBLISH,)),
    },
    # A run that has ended may still be asked to end; nothing else can happen to it.
    State.COMPLETED: {Happening.CANCEL: Transition(State.COMPLETED), Happening.LEFT: Transition(State.COMPLETED)},
    State.FAILED: {Happening.CANCEL: Transition(State.FAILED), Happening.LEFT: Transition(State.FAILED)},
    State.CANCELLED: {Happening.CANCEL: Transition(State.CANCELLED), Happening.LEFT: Transition(State.CANCELLED)},
}

OVER = frozenset({State.COMPLETED, State.FAILED, State.CANCELLED})

# What `handler.state` says; a run whose steps unwind is still running.
NAMES: dict[State, str] = {
    State.READY: "running",
    State.RUNNING: "running",
    State.PAUSING: "running",
    State.PAUSED: "paused",
    State.COMPLETING: "running",
    State.FAILING: "running",
    State.CANCELLING: "running",
    State.COMPLETED: "completed",
    State.FAILED: "failed",
    State.CANCELLED: "cancelled",
}


def follow(state: State, happening: Happening) -> Transition:
    """The row for `happening` in `state`.

    Raises:
        LookupError: The table has no such row.
    """
    try:
        return LIFE[state][happening]
    except KeyError:
        raise LookupError(f"a run that is {state.name} cannot meet {happening.name}") from None
