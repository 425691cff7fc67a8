"""A pytest plugin: `async def` tests in trio, in virtual time, on a schedule that a seed repeats.

It takes the tests that are marked `@pytest.mark.blazen` or ask for the fixture `virtual_time`, and leaves all others to
whoever runs them. pytest loads it by itself where blazen is installed; trio is loaded when such a test runs.
"""

from __future__ import annotations

import functools
import inspect
import random
from collections.abc import Callable, Generator
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    import trio.testing

# Their asserts show what they compared, as those of a test file do.
pytest.register_assert_rewrite(
    "blazen.testing.store_commits", "blazen.testing.store_queries", "blazen.testing.store_requests"
)

_MARK = """\
blazen(seed=None, autojump=True): run this async def test in trio, in virtual time, on a seeded schedule. \
autojump=False: time stands still until virtual_time.jump(seconds)."""

_session_seed = pytest.StashKey[int]()
_test_seed = pytest.StashKey[int]()


class VirtualTime:
    """The time of a test that runs in virtual time: it begins at 0, and goes on only where everything waits."""

    def __init__(self) -> None:
        self._clock: trio.testing.MockClock | None = None

    @property
    def now(self) -> float:
        """Seconds since the test began."""
        return self._started().current_time()

    def jump(self, seconds: float) -> None:
        """Let time pass. What was due meanwhile happens at the next checkpoints, all of it at the new time.

        Args:
            seconds: How many, 0 or more.
        Raises:
            ValidationError: `seconds` is no such number.
        """
        from blazen.errors import ValidationError

        if isinstance(seconds, bool) or not isinstance(seconds, int | float) or not 0 <= seconds < float("inf"):
            raise ValidationError(f"virtual_time.jump takes seconds, 0 or more, got {seconds!r}")
        self._started().jump(seconds)

    def _started(self) -> trio.testing.MockClock:
        if self._clock is None:
            pytest.fail("virtual_time begins with the test: it cannot be used in another fixture's set-up")
        return self._clock


@pytest.fixture
def virtual_time(request: pytest.FixtureRequest) -> VirtualTime:
    """Virtual time, read and moved: `virtual_time.now`, `virtual_time.jump(seconds)`. The test must be `async def`."""
    if _test_seed not in request.node.stash:
        pytest.fail(
            "virtual_time is for async def tests, which it runs in trio; in a plain def use "
            "blazen.testing.run_in_virtual_time(fn)",
            pytrace=False,
        )
    return VirtualTime()


def pytest_addoption(parser: pytest.Parser) -> None:
    """Add `--blazen-seed`."""
    parser.getgroup("blazen").addoption(
        "--blazen-seed",
        type=int,
        default=None,
        metavar="N",
        help="schedule of the tests marked blazen; a failing test says which one it had (default: another each time)",
    )


def pytest_configure(config: pytest.Config) -> None:
    """Make the mark known, and draw the seed."""
    config.addinivalue_line("markers", _MARK)
    seed = config.getoption("blazen_seed")
    # Not the module's own dice: tests may seed those.
    config.stash[_session_seed] = random.SystemRandom().randrange(10**6) if seed is None else seed


# The innermost wrapper: other plugins that look for async def tests already see a plain function, and let it be.
@pytest.hookimpl(wrapper=True, trylast=True)
def pytest_pycollect_makeitem() -> Generator[None, Any, Any]:
    """Give each test that is ours a plain function that runs it in trio."""
    made = yield
    for item in made if isinstance(made, list) else [made]:
        if isinstance(item, pytest.Function):
            _take(item)
    return made


def _take(item: pytest.Function) -> None:
    mark = item.get_closest_marker("blazen")
    if mark is None and "virtual_time" not in item.fixturenames:
        return
    test: Any = item.obj
    driven: Any = getattr(test, "hypothesis", None)
    if not inspect.iscoroutinefunction(test if driven is None else driven.inner_test):
        return  # a mark may stand for a whole module
    seed, autojump = _read_mark(item, mark)
    item.stash[_test_seed] = seed
    in_trio = functools.partial(_in_trio, seed=seed, autojump=autojump)
    item.obj = in_trio(test) if driven is None else _each_example(test, driven, in_trio)


def _read_mark(item: pytest.Function, mark: pytest.Mark | None) -> tuple[int, bool]:
    given = {} if mark is None else dict(mark.kwargs)
    seed = given.pop("seed", None)
    autojump = given.pop("autojump", True)
    wrong = None
    if given or (mark is not None and mark.args):
        wrong = f"takes seed= and autojump=, got {', '.join([*map(repr, mark.args), *given]) if mark else ''}"
    elif seed is not None and (isinstance(seed, bool) or not isinstance(seed, int)):
        wrong = f"seed must be an int, got {seed!r}"
    elif not isinstance(autojump, bool):
        wrong = f"autojump must be True or False, got {autojump!r}"
    if wrong is not None:
        raise pytest.Collector.CollectError(f"{item.nodeid}: pytest.mark.blazen: {wrong}")
    return (item.config.stash[_session_seed] if seed is None else seed), autojump


def _in_trio(test: Callable[..., Any], *, seed: int, autojump: bool) -> Callable[..., None]:
    """`test` as a plain function."""

    @functools.wraps(test)
    def run(*arguments: Any, **fixtures: Any) -> None:
        import trio.testing

        from blazen.testing.scheduling import leaping_clock, run_in_virtual_time

        clock = leaping_clock() if autojump else trio.testing.MockClock()
        for fixture in fixtures.values():
            if isinstance(fixture, VirtualTime):
                fixture._clock = clock
        run_in_virtual_time(functools.partial(test, *arguments, **fixtures), seed=seed, clock=clock)

    return run


def _each_example(
    test: Callable[..., Any], driven: Any, in_trio: Callable[[Callable[..., Any]], Callable[..., None]]
) -> Callable[..., None]:
    """A test that Hypothesis drives: each example has a loop and a clock of its own."""

    @functools.wraps(test)
    def run(*arguments: Any, **fixtures: Any) -> None:
        inner = driven.inner_test
        driven.inner_test = in_trio(inner)
        try:
            test(*arguments, **fixtures)
        finally:
            driven.inner_test = inner

    return run


def pytest_runtest_setup(item: pytest.Item) -> None:
    """Refuse what would pass without being run: a `unittest.TestCase` calls an async def and drops the coroutine."""
    if not isinstance(item, pytest.Function) or item.get_closest_marker("blazen") is None or _test_seed in item.stash:
        return
    import unittest

    wrong = item.cls is not None and issubclass(item.cls, unittest.TestCase)
    if wrong and not issubclass(item.cls, unittest.IsolatedAsyncioTestCase) and inspect.iscoroutinefunction(item.obj):
        pytest.fail(
            f"{item.nodeid}: a unittest.TestCase cannot run an async def test, in trio or otherwise; make it a method "
            "of a plain class, or a function",
            pytrace=False,
        )


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Say with which seed a test has failed."""
    report = yield
    if report.failed and report.when == "call" and _test_seed in item.stash:
        seed = item.stash[_test_seed]
        report.sections.append(("blazen", f"seed {seed}; replay with: pytest --blazen-seed={seed} {item.nodeid!r}"))
    return report
