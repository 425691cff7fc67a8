"""`assert_events`, `match` and `watch`."""

from __future__ import annotations

from typing import Any

import numpy
import pytest
import trio

from blazen import Context, DynamicEvent, Event, ProgressEvent, StartEvent, StopEvent, Workflow, step
from blazen.errors import BlazenWarning, ValidationError, WorkflowError
from blazen.testing import assert_events, match, watch


class Greet(Event):
    name: str
    loud: bool = False


class Score(Event):
    value: float


class Image(Event):
    pixels: Any


def test_equal_events_classes_and_matches_pass() -> None:
    events = [Greet(name="Ada"), Greet(name="Bob", loud=True), Score(value=0.1 + 0.2), StopEvent(result=1)]
    assert_events(events, [Greet(name="Ada"), match(Greet, loud=True), match(Score, value=pytest.approx(0.3)), Event])
    assert_events([], [])
    assert_events([StartEvent({"name": "Ada"})], [match(StartEvent, name="Ada")])
    assert_events([DynamicEvent("greeting", {"text": "hi"})], [match("greeting", text="hi")])
    assert_events(iter([StopEvent(result=1)]), [StopEvent(result=1)])


def test_the_message_shows_both_lists_and_which_field_differs() -> None:
    came = [Greet(name="Ada"), Score(value=1.0), Greet(name="Bob"), StopEvent(result=2)]
    with pytest.raises(AssertionError) as caught:
        assert_events(came, [Greet(name="Ada"), match(Greet, name="Rob"), StopEvent(result=2), Score])
    assert str(caught.value).splitlines() == [
        "the events differ: 4 came, 4 expected (- expected, + came)",
        "    Greet(name='Ada', loud=False)",
        "  + Score(value=1.0)",
        "  - match(Greet, name='Rob')",
        "  + Greet(name='Bob', loud=False)",
        "      name: expected 'Rob', got 'Bob'",
        "    StopEvent(result=2)",
        "  - any Score",
    ]


def difference(came: list[Any], expected: list[Any]) -> list[str]:
    with pytest.raises(AssertionError) as caught:
        assert_events(came, expected)
    return [line.strip() for line in str(caught.value).splitlines()[1:]]


def test_the_class_counts_and_not_only_the_fields() -> None:
    assert difference([Score(value=1.0)], [Greet(name="Ada")])[-1] == "expected Greet, got Score"
    assert difference([Score(value=1.0)], [Greet])[-1] == "expected Greet, got Score"
    assert difference([DynamicEvent("a")], [match("b")])[-1] == "expected 'b', got 'a'"
    assert difference(["text"], [Greet])[-1] == "expected Greet, got str"


def test_a_field_that_is_not_there_is_said() -> None:
    assert difference([StartEvent({})], [match(StartEvent, name="Ada")])[-1] == (
        "name: expected 'Ada', and there is no such field"
    )


def test_too_few_and_too_many_are_told_apart() -> None:
    ada = Greet(name="Ada")
    assert difference([ada], [ada, ada]) == [repr(ada), f"- {ada!r}"]
    assert difference([ada, ada], [ada]) == [repr(ada), f"+ {ada!r}"]


def test_arrays_are_compared_by_their_elements() -> None:
    pixels = numpy.arange(4)
    assert_events([Image(pixels=pixels)], [match(Image, pixels=numpy.arange(4))])
    assert len(difference([Image(pixels=pixels)], [match(Image, pixels=numpy.arange(1, 5))])) == 3
    assert len(difference([Image(pixels=pixels)], [match(Image, pixels=numpy.arange(4).reshape(1, 4))])) == 3


def test_long_lists_are_compared_place_by_place() -> None:
    events = [Score(value=float(n)) for n in range(1100)]
    assert_events(events, events)
    assert difference(events[:-1], events)[-1] == "- Score(value=1099.0)"


def test_a_match_compares_as_an_event_does() -> None:
    assert Greet(name="Ada") == match(Greet, name="Ada")
    assert match(Greet, name="Ada") != Greet(name="Bob")
    assert [Greet(name="Ada"), 1] == [match(Greet), 1]


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: match(Greet, nmae="Ada"), "match: Greet has no field 'nmae'; its fields are name, loud"),
        (lambda: match(5), "match takes an event class or a type name, got 5"),
        (lambda: assert_events(Greet(name="Ada"), []), "put it into a list"),
        (lambda: assert_events([], Greet), "put it into a list"),
        (lambda: assert_events(5, []), "takes a list of events, got 5"),
        (lambda: assert_events([], ["Greet"]), "expects events, event classes and match"),
    ],
)
def test_a_mistake_in_the_test_is_no_failure_of_what_it_tests(call: Any, message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        call()


# --- watch


@step
async def count(ctx: Context, ev: StartEvent) -> StopEvent:
    for number in range(3):
        ctx.write_event_to_stream(ProgressEvent(number))
        await trio.sleep(1)
    return StopEvent(result=ev.name)


@step(retries=1)
async def fails(ctx: Context, ev: StartEvent) -> StopEvent:
    ctx.write_event_to_stream(ProgressEvent(ctx.attempt))
    await trio.lowlevel.checkpoint()
    raise OSError("broken")


async def test_a_watched_run_writes_down_its_stream_and_its_records(autojump_clock: trio.testing.MockClock) -> None:
    async with watch(Workflow[str]("w", [count]), name="Ada") as run:
        assert (run.stream, run.records) == ([], [])
        await trio.sleep(1.5)
        assert len(run.stream) == 2
        assert (await run.result()).result == "Ada"
        assert_events(run.stream, [ProgressEvent(0), ProgressEvent(1), ProgressEvent(2)])
    assert run.happened("started") == run.happened("finished") == [("count", 1)]
    assert [record.at for record in run.records] == [0.0, 3.0]


async def test_all_is_written_down_when_the_block_is_left_without_asking() -> None:
    async with watch(Workflow("w", [count]), {"name": "Ada"}) as run:
        run.handler.cancel("enough")
    assert run.handler.state == "cancelled"
    assert len(run.records) == 2 or run.happened("started") == []


async def test_a_failure_that_nobody_asked_for_is_raised_on_leaving_and_the_records_are_there() -> None:
    with pytest.raises(WorkflowError, match="broken"):
        async with watch(Workflow("w", [fails])) as run:
            pass
    assert run.happened("retrying") == [("fails", 1)]
    assert run.happened("failed") == [("fails", 2)]
    assert run.stream == [ProgressEvent(1), ProgressEvent(2)]


async def test_result_raises_what_the_run_failed_with_once_all_is_written_down() -> None:
    async with watch(Workflow("w", [fails])) as run:
        with pytest.raises(WorkflowError, match="broken"):
            await run.result()
        assert run.happened("failed") == [("fails", 2)]


async def test_an_error_of_the_block_comes_out_unchanged_and_cancels_the_run(
    autojump_clock: trio.testing.MockClock,
) -> None:
    error = KeyError("mine")
    runs = []

    async def leave_by_error() -> None:
        async with watch(Workflow("w", [count]), name="Ada") as run:
            runs.append(run)
            await trio.sleep(1.5)
            raise error

    with pytest.raises(KeyError) as caught:
        await leave_by_error()
    assert caught.value is error
    assert runs[0].happened("cancelled") == [("count", 1)]
    assert trio.current_time() == 1.5


async def test_a_failure_behind_an_error_of_the_block_is_warned_of() -> None:
    async def leave_by_error() -> None:
        async with watch(Workflow("w", [fails])) as run:
            while run.handler.state == "running":
                await trio.lowlevel.checkpoint()
            raise KeyError

    with pytest.warns(BlazenWarning, match="a run failed while its block was left"), pytest.raises(KeyError):
        await leave_by_error()


async def test_cancelling_whoever_watches_cancels_the_run(autojump_clock: trio.testing.MockClock) -> None:
    with trio.move_on_after(1.5) as scope:
        async with watch(Workflow("w", [count]), name="Ada") as run:
            await run.result()
    assert scope.cancelled_caught
    assert run.handler.state == "cancelled"
    assert trio.current_time() == 1.5


async def test_only_a_workflow_can_be_watched() -> None:
    for wrong in (3, None, "greeter", lambda: 3):
        with pytest.raises(ValidationError, match="watch takes a workflow"):
            watch(wrong)  # type: ignore[arg-type]
