"""The pytest plugin, as its users see it: whole pytest runs on small test files."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path
from typing import Any

import pytest
import trio

from blazen import StartEvent, StopEvent, Workflow, step
from blazen.testing.plugin import VirtualTime

ROOT = Path(__file__).resolve().parent.parent


def run(pytester: pytest.Pytester, *arguments: str, conftest: str = "", **files: str) -> pytest.RunResult:
    """Run pytest with the plugin on these test files."""
    pytester.makeini("[pytest]\naddopts = --strict-markers -p no:cacheprovider\nfilterwarnings = error")
    if conftest:
        pytester.makeconftest(conftest)
    pytester.makepyfile(**files)
    return pytester.runpytest_inprocess("-p", "blazen.testing.plugin", *arguments)


SLEEPS = """
    import pytest
    import trio

    @pytest.mark.blazen
    async def test_marked(tmp_path):
        await trio.sleep(3600)
        assert trio.current_time() == 3600.0
        assert tmp_path.is_dir()

    async def test_by_fixture(virtual_time):
        await trio.sleep(2.5)
        assert virtual_time.now == 2.5
        virtual_time.jump(7.5)
        assert virtual_time.now == trio.current_time() == 10.0

    @pytest.mark.blazen(autojump=False)
    async def test_by_hand(virtual_time):
        with trio.CancelScope(deadline=60) as scope:
            virtual_time.jump(60)
            await trio.sleep_forever()
        assert scope.cancelled_caught

    class TestMethods:
        pytestmark = pytest.mark.blazen

        @pytest.mark.parametrize("seconds", [1, 2])
        async def test_method(self, virtual_time, seconds):
            await trio.sleep(seconds)
            assert virtual_time.now == seconds

        def test_plain(self):
            assert not trio.lowlevel.in_trio_run()
"""


def test_marked_tests_and_those_with_the_fixture_run_in_virtual_time(pytester: pytest.Pytester) -> None:
    run(pytester, test_it=SLEEPS).assert_outcomes(passed=6)


def test_the_seed_of_a_failing_test_is_in_its_report_and_repeats_the_schedule(pytester: pytest.Pytester) -> None:
    source = """
        import pytest
        import trio

        async def order():
            done = []
            async def one(number):
                await trio.sleep(1)
                done.append(number)
            async with trio.open_nursery() as nursery:
                for number in range(12):
                    nursery.start_soon(one, number)
            return done

        @pytest.mark.blazen
        async def test_session():
            raise AssertionError(await order())

        @pytest.mark.blazen(seed=5)
        async def test_own():
            raise AssertionError(await order())

        def test_plain():
            raise AssertionError
    """
    first = run(pytester, test_it=source)
    first.assert_outcomes(failed=3)
    text = first.stdout.str()
    (seed,) = re.findall(r"seed (\d+); replay with: pytest --blazen-seed=\1 'test_it.py::test_session'", text)
    assert "seed 5; replay with: pytest --blazen-seed=5 'test_it.py::test_own'" in text
    assert text.count("replay with") == 2
    again = run(pytester, f"--blazen-seed={seed}", test_it=source).stdout.str()
    other = run(pytester, f"--blazen-seed={int(seed) + 1}", test_it=source).stdout.str()
    orders = [re.findall(r"^E +AssertionError: (\[.*\])$", report, re.MULTILINE) for report in (text, again, other)]
    assert [len(found) for found in orders] == [2, 2, 2]
    assert orders[0] == orders[1]
    assert orders[0][0] != orders[2][0]
    assert orders[0][1] == orders[2][1]


def test_other_async_tests_are_left_to_the_plugins_that_take_them(pytester: pytest.Pytester) -> None:
    # What pytest-asyncio does in its automatic mode, and what pytest-trio and anyio do, in few lines.
    conftest = """
        import inspect
        import pytest

        class Taken(pytest.Function):
            def runtest(self):
                self.obj().close()

        @pytest.hookimpl(wrapper=True)
        def pytest_pycollect_makeitem(collector, name, obj):
            made = yield
            if not isinstance(made, list):
                return made
            return [
                Taken.from_parent(item.parent, name=item.name, fixtureinfo=item._fixtureinfo)
                if isinstance(item, pytest.Function) and inspect.iscoroutinefunction(item.obj)
                else item
                for item in made
            ]

        @pytest.hookimpl(tryfirst=True)
        def pytest_pyfunc_call(pyfuncitem):
            assert not inspect.iscoroutinefunction(pyfuncitem.obj), "taken by another plugin"
    """
    source = """
        import pytest
        import trio

        async def test_theirs():
            raise AssertionError("not run, only closed")

        @pytest.mark.blazen
        async def test_ours():
            await trio.sleep(5)
    """
    run(pytester, conftest=conftest, test_it=source).assert_outcomes(passed=2)


def test_each_example_of_hypothesis_has_a_time_of_its_own(pytester: pytest.Pytester) -> None:
    source = """
        import hypothesis
        import hypothesis.strategies as st
        import pytest
        import trio

        seen = []

        @pytest.mark.blazen
        @hypothesis.settings(max_examples=5, database=None)
        @hypothesis.given(seconds=st.integers(1, 9))
        async def test_it(seconds):
            await trio.sleep(seconds)
            seen.append(trio.current_time() == seconds)

        def test_examples():
            assert len(seen) >= 5 and all(seen)
    """
    run(pytester, test_it=source).assert_outcomes(passed=2)


def test_skips_and_warnings_are_pytest_s_business(pytester: pytest.Pytester) -> None:
    source = """
        import warnings
        import pytest
        from blazen.errors import BlazenWarning

        @pytest.mark.blazen
        async def test_skipped():
            pytest.skip("not today")

        @pytest.mark.blazen
        async def test_warned():
            warnings.warn("odd", BlazenWarning)
    """
    run(pytester, test_it=source).assert_outcomes(skipped=1, failed=1)


@pytest.mark.parametrize(
    ("mark", "message"),
    [
        ("(seed='x')", "seed must be an int, got 'x'"),
        ("(autojump=1)", "autojump must be True or False, got 1"),
        ("(seeds=3)", "takes seed= and autojump=, got seeds"),
        ("(3)", "takes seed= and autojump=, got 3"),
    ],
)
def test_a_wrong_mark_is_an_error_that_names_it(pytester: pytest.Pytester, mark: str, message: str) -> None:
    source = f"import pytest\n\n@pytest.mark.blazen{mark}\nasync def test_it():\n    pass\n"
    result = run(pytester, test_it=source)
    result.assert_outcomes(errors=1)
    result.stdout.fnmatch_lines([f"*test_it.py::test_it: pytest.mark.blazen: {message}"])


def test_a_marked_method_of_a_unittest_class_is_refused_instead_of_passing_without_being_run(
    pytester: pytest.Pytester,
) -> None:
    source = """
        import unittest
        import pytest

        pytestmark = pytest.mark.blazen

        class TestOld(unittest.TestCase):
            async def test_never_awaited(self):
                raise AssertionError

            def test_plain(self):
                pass

        class TestTheirs(unittest.IsolatedAsyncioTestCase):
            async def test_awaited(self):
                pass
    """
    result = run(pytester, test_it=source)
    result.assert_outcomes(errors=1, passed=2)
    result.stdout.fnmatch_lines(["*TestOld::test_never_awaited: a unittest.TestCase cannot run an async def test*"])


def test_the_fixture_is_refused_where_there_is_no_virtual_time(pytester: pytest.Pytester) -> None:
    source = """
        import pytest

        def test_plain(virtual_time):
            pass

        @pytest.fixture
        def early(virtual_time):
            virtual_time.jump(1)

        @pytest.mark.blazen
        async def test_early(early):
            pass
    """
    result = run(pytester, test_it=source)
    result.assert_outcomes(errors=2)
    result.stdout.fnmatch_lines(["virtual_time is for async def tests*", "*virtual_time begins with the test*"])


def test_trio_and_the_engine_are_not_loaded_for_tests_that_do_not_use_them(
    pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    pytester.makepyfile(
        """
        import sys

        def test_it(pytestconfig):
            assert pytestconfig.pluginmanager.has_plugin("blazen.testing.plugin")
            assert [name for name in sys.modules if name == "trio" or name.startswith("blazen.engine")] == []
        """
    )
    # The plugin of anyio, which comes with other packages, loads trio.
    result = pytester.runpytest_subprocess("-p", "blazen.testing.plugin", "-p", "no:cacheprovider", "-p", "no:anyio")
    result.assert_outcomes(passed=1)


def test_an_installed_blazen_brings_the_plugin() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    (entry,) = project["entry-points"]["pytest11"].items()
    # Under the module's own name, pytest loads it once, also where `pytest_plugins` or -p names it as well.
    assert entry == (VirtualTime.__module__, VirtualTime.__module__)


# This project's own tests use it too, beside the `async def` tests that conftest.py runs.


@step
async def patient(ev: StartEvent) -> StopEvent:
    await trio.sleep(86400)
    return StopEvent(result=trio.current_time())


async def test_a_day_passes_at_once(virtual_time: VirtualTime) -> None:
    assert (await Workflow[float]("w", [patient]).run()).result == virtual_time.now == 86400.0


@pytest.mark.parametrize("seconds", [-1, float("nan"), float("inf"), "1", True])
async def test_time_jumps_forward_only(virtual_time: VirtualTime, seconds: Any) -> None:
    with pytest.raises(ValueError, match=r"virtual_time\.jump takes seconds, 0 or more"):
        virtual_time.jump(seconds)
