"""The tests of the workflow in testing_a_workflow.py, as its author would write them.

python -m pytest examples/test_greeter.py
"""

from __future__ import annotations

import pytest
import trio
from testing_a_workflow import LOGINS, Directory, Guest, Named, greet, look_up, make_greeter, nothing_left_open

from blazen import ProgressEvent, StopEvent
from blazen.testing import (
    assert_events,
    cancel_everywhere,
    fail_everywhere,
    match,
    run_seeds,
    run_step,
    run_step_with_sync,
    watch,
)


@pytest.fixture
def session():
    return {"directory": Directory({"ada": "Ada"})}


@pytest.mark.blazen
async def test_a_guest_is_looked_up_and_shown(session):
    outcome = await run_step(look_up, Guest(login="ada"), state={"expected": 1}, session=session)
    assert outcome.event == Named(name="Ada")
    assert_events(outcome.stream, [match(ProgressEvent, label="ada")])


@pytest.mark.blazen
async def test_an_unknown_guest_is_a_key_error(session):
    with pytest.raises(KeyError):
        await run_step(look_up, Guest(login="joe"), session=session)


async def test_a_directory_that_hangs_costs_two_seconds(session, virtual_time):
    session["directory"].look_up = lambda login: trio.sleep_forever()
    outcome = await run_step(look_up, Guest(login="ada"), session=session, timeout=True, on_error=True)
    assert outcome.event == Named(name="whoever ada is")
    assert virtual_time.now == 2.0


def test_guests_are_greeted_once_all_are_there():
    outcome = run_step_with_sync(greet, [Named(name="Bob"), Named(name="Ada")], state={"expected": 2})
    assert_events(outcome.events, [StopEvent(result="Hello, Ada and Bob!")])


async def test_two_guests_are_looked_up_at_once(virtual_time):
    async with watch(make_greeter(), LOGINS) as run:
        assert (await run.result()).result == "Hello, Ada and Bob and Eve!"
    assert virtual_time.now == 1.0
    assert len(run.stream) == 3


def test_no_connection_stays_open_wherever_it_is_cancelled():
    cancel_everywhere(make_greeter, LOGINS, check=nothing_left_open)


def test_no_connection_stays_open_whatever_fails():
    fail_everywhere(make_greeter, LOGINS, error=OSError("no route"), check=nothing_left_open)


def test_the_greeting_does_not_depend_on_the_schedule():
    run_seeds(make_greeter, LOGINS, check=lambda outcome: outcome.result == "Hello, Ada and Bob and Eve!")
