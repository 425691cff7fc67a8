"""What every test may use: `async def` tests on trio, virtual time, search profiles.

Environment:
    BLAZEN_HYPOTHESIS_PROFILE: ``dev`` (the default), ``ci`` (the default where CI is set) or ``long``.
"""

from __future__ import annotations

import functools
import inspect
import os
from collections.abc import Callable, Coroutine
from typing import Any

import hypothesis
import pytest
import trio
import trio.testing

# The first is blazen's own, which the checkout is not installed for.
pytest_plugins = ["blazen.testing.plugin", "pytester"]

IN_CI = os.environ.get("CI", "").lower() not in ("", "0", "false")

# No deadline per example: a busy machine would fail tests that are right. Fixtures here hold no state between examples.
hypothesis.settings.register_profile(
    "dev",
    deadline=None,
    suppress_health_check=[hypothesis.HealthCheck.too_slow, hypothesis.HealthCheck.function_scoped_fixture],
)
# The same examples on every machine: a red build must be about the change it tests.
hypothesis.settings.register_profile(
    "ci", parent=hypothesis.settings.get_profile("dev"), derandomize=True, max_examples=200, print_blob=True
)
# At least 200,000 steps of each state machine: 2,500 sequences of up to 200.
hypothesis.settings.register_profile(
    "long",
    parent=hypothesis.settings.get_profile("dev"),
    max_examples=2_500,
    stateful_step_count=200,
    print_blob=True,
)
hypothesis.settings.load_profile(os.environ.get("BLAZEN_HYPOTHESIS_PROFILE") or ("ci" if IN_CI else "dev"))


@pytest.fixture
def mock_clock() -> trio.testing.MockClock:
    """Virtual time that stands still until the test moves it with `jump`."""
    return trio.testing.MockClock()


@pytest.fixture
def autojump_clock() -> trio.testing.MockClock:
    """Virtual time that leaps to the next deadline whenever every task waits."""
    return trio.testing.MockClock(autojump_threshold=0)


def _in_trio(test: Callable[..., Coroutine[Any, Any, None]]) -> Callable[..., None]:
    """Make `test` a plain function that runs in trio, on the clock among its arguments if there is one."""

    @functools.wraps(test)
    def run(**arguments: Any) -> None:
        clocks = [name for name, value in arguments.items() if isinstance(value, trio.testing.MockClock)]
        if len(clocks) > 1:
            pytest.fail(f"a test has one clock; this one asks for {' and '.join(clocks)}")
        clock = None
        for name in clocks:
            given = arguments[name]
            # A new one each time: a clock belongs to one trio run, and Hypothesis calls the test once per example.
            clock = trio.testing.MockClock(rate=given.rate, autojump_threshold=given.autojump_threshold)
            arguments[name] = clock
        trio.run(functools.partial(test, **arguments), clock=clock)

    return run


@pytest.hookimpl(wrapper=True)
def pytest_pyfunc_call(pyfuncitem: pytest.Function) -> Any:
    """Run `async def` tests in trio, those driven by Hypothesis included."""
    test = pyfuncitem.obj
    driven = getattr(test, "hypothesis", None)
    if driven is not None and inspect.iscoroutinefunction(driven.inner_test):
        driven.inner_test = _in_trio(driven.inner_test)
    elif driven is None and inspect.iscoroutinefunction(test):
        pyfuncitem.obj = _in_trio(test)
        try:
            return (yield)
        finally:
            pyfuncitem.obj = test
    return (yield)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark what searches with Hypothesis, so that the long mode finds it."""
    for item in items:
        test = getattr(item, "obj", None)
        of_machine = getattr(getattr(item, "cls", None), "settings", None)
        if hasattr(test, "hypothesis") or isinstance(of_machine, hypothesis.settings):
            item.add_marker(pytest.mark.property)
