"""The table of a run's life, row by row: what follows from what, and that nothing else does."""

from __future__ import annotations

import copy

import pytest

from blazen.engine.life import LIFE, NAMES, OVER, Command, Happening, State, Transition, follow

# Written out a second time, by hand, so that a slip in the table is seen.
ROWS = [
    ("READY", "START", "RUNNING", "DISPATCH"),
    ("READY", "CANCEL", "CANCELLED", "KEEP PUBLISH"),
    ("READY", "LEFT", "CANCELLED", "KEEP PUBLISH"),
    ("RUNNING", "STOP", "COMPLETING", "KEEP ABORT"),
    ("RUNNING", "FAILURE", "FAILING", "KEEP ABORT"),
    ("RUNNING", "CANCEL", "CANCELLING", "KEEP ABORT"),
    ("RUNNING", "LEFT", "CANCELLING", "KEEP ABORT"),
    ("RUNNING", "FATAL", "FAILING", "KEEP ABORT"),
    ("RUNNING", "PAUSE", "PAUSING", "HOLD"),
    ("PAUSING", "STOP", "COMPLETING", "KEEP ABORT"),
    ("PAUSING", "FAILURE", "FAILING", "KEEP ABORT"),
    ("PAUSING", "CANCEL", "CANCELLING", "KEEP ABORT"),
    ("PAUSING", "LEFT", "CANCELLING", "KEEP ABORT"),
    ("PAUSING", "FATAL", "FAILING", "KEEP ABORT"),
    ("PAUSING", "PAUSE", "PAUSING", ""),
    ("PAUSING", "QUIET", "PAUSED", "FREEZE"),
    ("PAUSING", "RESUME", "RUNNING", "RELEASE"),
    ("PAUSED", "STOP", "COMPLETING", "KEEP ABORT"),
    ("PAUSED", "FAILURE", "FAILING", "KEEP ABORT"),
    ("PAUSED", "CANCEL", "CANCELLING", "KEEP ABORT"),
    ("PAUSED", "LEFT", "CANCELLING", "KEEP ABORT"),
    ("PAUSED", "FATAL", "FAILING", "KEEP ABORT"),
    ("PAUSED", "PAUSE", "PAUSED", ""),
    ("PAUSED", "RESUME", "RUNNING", "RELEASE"),
    ("COMPLETING", "STOP", "COMPLETING", ""),
    ("COMPLETING", "FAILURE", "COMPLETING", "SUPPRESS"),
    ("COMPLETING", "CANCEL", "COMPLETING", ""),
    ("COMPLETING", "LEFT", "COMPLETING", ""),
    ("COMPLETING", "FATAL", "FAILING", "KEEP"),
    ("COMPLETING", "UNWOUND", "COMPLETED", "PUBLISH"),
    ("FAILING", "STOP", "FAILING", ""),
    ("FAILING", "FAILURE", "FAILING", "SUPPRESS"),
    ("FAILING", "CANCEL", "FAILING", ""),
    ("FAILING", "LEFT", "FAILING", ""),
    ("FAILING", "FATAL", "FAILING", "KEEP"),
    ("FAILING", "UNWOUND", "FAILED", "PUBLISH"),
    ("CANCELLING", "STOP", "CANCELLING", ""),
    ("CANCELLING", "FAILURE", "CANCELLING", "SUPPRESS"),
    ("CANCELLING", "CANCEL", "CANCELLING", ""),
    ("CANCELLING", "LEFT", "CANCELLING", ""),
    ("CANCELLING", "FATAL", "FAILING", "KEEP"),
    ("CANCELLING", "UNWOUND", "CANCELLED", "PUBLISH"),
    ("COMPLETED", "CANCEL", "COMPLETED", ""),
    ("COMPLETED", "LEFT", "COMPLETED", ""),
    ("FAILED", "CANCEL", "FAILED", ""),
    ("FAILED", "LEFT", "FAILED", ""),
    ("CANCELLED", "CANCEL", "CANCELLED", ""),
    ("CANCELLED", "LEFT", "CANCELLED", ""),
]
LEGAL = {(State[row[0]], Happening[row[1]]) for row in ROWS}
ILLEGAL = [(state, happening) for state in State for happening in Happening if (state, happening) not in LEGAL]


@pytest.mark.parametrize(("state", "happening", "following", "commands"), ROWS)
def test_each_row_says_what_follows(state: str, happening: str, following: str, commands: str) -> None:
    expected = Transition(State[following], tuple(Command[name] for name in commands.split()))
    assert follow(State[state], Happening[happening]) == expected


@pytest.mark.parametrize(("state", "happening"), ILLEGAL, ids=lambda value: value.name)
def test_what_has_no_row_raises_and_changes_nothing(state: State, happening: Happening) -> None:
    before = copy.deepcopy(LIFE)
    with pytest.raises(LookupError, match=f"{state.name} cannot meet {happening.name}"):
        follow(state, happening)
    assert LIFE == before


def test_every_pair_is_either_legal_or_refused() -> None:
    assert len(ROWS) == len(LEGAL) == sum(len(row) for row in LIFE.values())
    assert len(LEGAL) + len(ILLEGAL) == len(State) * len(Happening)


def test_a_run_that_is_over_stays_what_it_is() -> None:
    assert {State.COMPLETED, State.FAILED, State.CANCELLED} == OVER
    for state in OVER:
        assert {follow(state, happening) for happening in LIFE[state]} == {Transition(state)}


def test_a_run_whose_steps_unwind_is_still_called_running() -> None:
    assert {state: name for state, name in NAMES.items() if name != "running"} == {
        State.PAUSED: "paused",
        State.COMPLETED: "completed",
        State.FAILED: "failed",
        State.CANCELLED: "cancelled",
    }
    assert set(NAMES) == set(State)


def test_the_end_is_published_exactly_once_on_every_way_through_the_table() -> None:
    ways = [(State.READY, 0)]
    seen = set()
    while ways:
        state, published = way = ways.pop()
        if way in seen:
            continue
        seen.add(way)
        for happening in LIFE[state]:
            following, commands = follow(state, happening)
            ways.append((following, published + commands.count(Command.PUBLISH)))
    assert {published for state, published in seen if state in OVER} == {1}
    assert {published for state, published in seen if state not in OVER} == {0}


def test_steps_are_aborted_exactly_once_before_a_run_that_started_is_over() -> None:
    ways = [(State.RUNNING, 0)]
    seen = set()
    while ways:
        state, aborted = way = ways.pop()
        if way in seen:
            continue
        seen.add(way)
        for happening in LIFE[state]:
            following, commands = follow(state, happening)
            ways.append((following, aborted + commands.count(Command.ABORT)))
    assert {aborted for state, aborted in seen if state in OVER} == {1}
