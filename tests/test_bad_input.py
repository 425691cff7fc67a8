"""Everything wrong that can be given, and that the answer is clear, early, and no crash, hang, guess or half-done run.

One section per kind of mistake. Times and other arguments of `Workflow` are in test_workflow_build.py.
"""

from __future__ import annotations

import asyncio
import gc
import warnings
from collections.abc import Callable
from typing import Any

import pytest
import trio
from trio.testing import MockClock

from blazen import Context, DynamicEvent, Event, Retry, StartEvent, StopEvent, Workflow, step
from blazen.errors import BlazenError, ValidationError, WorkflowError
from blazen.events import decode


class Part(Event):
    n: int


class Other(Event):
    pass


@step
async def only(ev: StartEvent) -> StopEvent:
    return StopEvent(result=ev.data)


async def failure_of(*steps: Callable[..., Any], **options: Any) -> WorkflowError:
    """The error of a run of these steps, the same plain and watched; a good run goes through afterwards."""
    workflow = Workflow("w", steps, **options)
    with pytest.raises(WorkflowError) as plain:
        await workflow.run()
    with pytest.raises(WorkflowError) as watched:
        async with workflow.run_with_handler() as handler:
            await handler.result()
    assert (plain.value.step, plain.value.event_type) == (watched.value.step, watched.value.event_type)
    assert plain.value.run_id != watched.value.run_id
    assert (await Workflow("w", [only]).run(1)).result == 1
    return plain.value


# ---- hints that are no events


@pytest.mark.parametrize("hint", [int, str, None, list[Part], dict[str, Part], Callable, Exception, Part | int, object])
def test_a_parameter_that_is_hinted_as_no_event_is_refused_naming_the_step(hint: Any) -> None:
    def mine(ev: Any) -> StopEvent:
        return StopEvent()

    mine.__annotations__["ev"] = hint
    with pytest.raises(ValidationError, match="'mine'"):
        Workflow("w", [step(mine)])


@pytest.mark.parametrize("hint", [int, str, list[int], dict[str, Part], StopEvent | str, tuple[Part, StopEvent]])
def test_a_return_hint_that_is_no_event_is_refused_naming_the_step(hint: Any) -> None:
    def mine(ev: StartEvent) -> Any:
        return StopEvent()

    mine.__annotations__["return"] = hint
    with pytest.raises(ValidationError, match="'mine'"):
        Workflow("w", [step(mine)])


def test_a_step_without_a_hint_for_its_event_is_refused_and_told_what_to_do() -> None:
    def mine(ev) -> StopEvent:  # type: ignore[no-untyped-def]
        return StopEvent()

    with pytest.raises(ValidationError, match=r"'mine'.*(hint|accepts)"):
        Workflow("w", [step(mine)])


def test_a_hint_that_names_nothing_is_refused_when_the_workflow_is_built() -> None:
    @step
    async def mine(ev: Nowhere) -> StopEvent:  # type: ignore[name-defined]  # noqa: F821
        return StopEvent()

    with pytest.raises(ValidationError, match=r"'mine'.*Nowhere"):
        Workflow("w", [mine])


# ---- two events with one name


def test_two_event_classes_with_one_name_are_refused_naming_both() -> None:
    def make() -> type[Event]:
        class Twin(Event):
            pass

        return Twin

    @step(emits=[make()])
    async def begin(ev: StartEvent) -> Any:
        return None

    @step(accepts=make())
    async def end(ev: Any) -> StopEvent:
        return StopEvent()

    with pytest.raises(ValidationError, match=r"'begin'.*'end'.*'Twin'"):
        Workflow("w", [begin, end])


async def test_an_unknown_class_of_a_known_name_is_refused_when_it_comes() -> None:
    class Impostor(Event, type="Part"):
        n: int = 0

    @step
    async def begin(ctx: Context, ev: StartEvent) -> Any:
        return Impostor()

    @step
    async def end(ev: Part) -> StopEvent:
        return StopEvent()

    error = await failure_of(begin, end)
    assert "'Part'" in str(error)
    assert "Impostor" in str(error)


# ---- data from outside


@pytest.mark.parametrize(
    ("data", "path"),
    [
        ({}, "n"),
        ({"n": "1"}, "$.n"),
        ({"n": 1, "m": 2}, "m"),
        ({"n": None}, "$.n"),
        ([1], "$"),
        (None, "$"),
        ("n", "$"),
    ],
    ids=str,
)
def test_outside_data_with_missing_or_ill_typed_fields_is_refused_with_the_path(data: Any, path: str) -> None:
    with pytest.raises(ValidationError) as caught:
        decode("Part", data, [Part])
    assert path in f"{caught.value} {caught.value.path}"


async def test_a_dynamic_event_that_does_not_fit_its_class_fails_the_run_naming_step_and_field() -> None:
    @step
    async def begin(ev: StartEvent) -> Any:
        return DynamicEvent("Part", {"n": "many"})

    @step
    async def end(ev: Part) -> StopEvent:
        return StopEvent()

    error = await failure_of(begin, end)
    assert error.step == "end"
    assert error.event_type == "Part"
    assert "$.n" in str(error)
    assert error.run_id is not None


# ---- steps that return the wrong thing


class Almost:
    event_type = "Part"


@pytest.mark.parametrize("kind", ["async", "plain", "thread"])
@pytest.mark.parametrize(
    "wrong",
    [
        1,
        0,
        "",
        "Part",
        True,
        False,
        {},
        {"n": 1},
        (),
        (Part(n=1),),
        {1},
        object(),
        Part,
        StopEvent,
        Almost(),
        OSError(),
    ],
    ids=repr,
)
async def test_a_step_that_returns_no_event_fails_the_run_by_name(wrong: Any, kind: str) -> None:
    async def mine(ev: StartEvent) -> Any:
        return wrong

    def plain(ev: StartEvent) -> Any:
        return wrong

    made = (
        step(name="mine")(mine)
        if kind == "async"
        else step(name="mine", run="thread" if kind == "thread" else "inline")(plain)
    )
    error = await failure_of(made)
    assert error.step == "mine"
    assert "'mine'" in str(error)
    assert type(wrong).__name__ in str(error)


@pytest.mark.parametrize("wrong", [[1], [None], [Part(n=1), None], [[Part(n=1)]], [Part]], ids=str)
async def test_a_list_with_something_else_than_events_fails_and_none_of_it_is_dispatched(wrong: list[Any]) -> None:
    taken: list[Part] = []

    @step
    async def mine(ev: StartEvent) -> Any:
        return wrong

    @step
    async def takes(ev: Part) -> StopEvent:
        taken.append(ev)
        return StopEvent()

    error = await failure_of(mine, takes)
    assert error.step == "mine"
    assert taken == []


async def test_an_empty_list_is_no_event_and_the_run_goes_idle() -> None:
    @step
    async def mine(ev: StartEvent) -> Any:
        return []

    assert "idle" in str(await failure_of(mine))


async def test_a_plain_def_that_returns_a_coroutine_is_told_to_be_async() -> None:
    async def inner() -> StopEvent:
        return StopEvent()

    @step
    def mine(ev: StartEvent) -> Any:
        return inner()

    with warnings.catch_warnings():
        warnings.simplefilter("error")  # no coroutine is left that was never awaited
        error = await failure_of(mine)
        gc.collect()
    assert error.step == "mine"
    assert "async def" in str(error)


async def test_an_event_outside_the_declared_ones_fails_naming_both() -> None:
    @step
    async def mine(ev: StartEvent) -> Part | StopEvent:
        return Other()  # type: ignore[return-value]

    @step
    async def takes(ev: Part | Other) -> StopEvent:
        return StopEvent()

    error = await failure_of(mine, takes)
    assert (error.step, error.event_type) == ("mine", "Other")
    assert "Part" in str(error)


async def test_a_returned_event_nobody_accepts_fails_naming_type_and_step() -> None:
    @step
    async def mine(ev: StartEvent) -> Any:
        return Other()

    error = await failure_of(mine)
    assert (error.step, error.event_type) == ("mine", "Other")
    assert "'Other'" in str(error)


async def test_an_on_error_that_returns_the_wrong_thing_fails_by_name() -> None:
    def handle(ev: StartEvent, exc: Exception) -> Any:
        return "handled"

    @step(on_error=handle)
    async def mine(ev: StartEvent) -> StopEvent:
        raise OSError

    assert (await failure_of(mine)).step == "mine"


async def test_a_step_that_returns_nothing_where_an_event_was_needed_ends_idle() -> None:
    @step
    async def mine(ev: StartEvent) -> StopEvent | None:
        return None

    error = await failure_of(mine)
    assert "idle" in str(error)
    assert error.step is None


# ---- input that refers to itself


async def test_input_that_refers_to_itself_passes_through_untyped() -> None:
    circle: list[Any] = []
    circle.append(circle)
    assert (await Workflow("w", [only]).run(circle)).result is circle


async def test_input_that_refers_to_itself_is_refused_by_a_typed_start() -> None:
    class Order(StartEvent):
        items: list[list[int]]

    ran: list[Any] = []

    @step
    async def take(ev: Order) -> StopEvent:
        ran.append(ev)
        return StopEvent()

    circle: list[Any] = []
    circle.append(circle)
    with pytest.raises(ValidationError, match="items"):
        await Workflow("w", [take]).run(items=circle)
    assert ran == []


async def test_input_nested_without_end_is_refused_and_not_a_crash() -> None:
    class Order(StartEvent):
        data: Any

    @step
    async def take(ctx: Context, ev: Order) -> StopEvent:
        with pytest.raises(ValidationError, match="'deep'"):
            ctx.set("deep", ev.data)
        return StopEvent()

    deep: list[Any] = []
    for _ in range(100_000):
        deep = [deep]
    await Workflow("w", [take]).run(data=deep)
    while deep:  # taken apart from the top: dropping it in one go would recurse
        deep = deep.pop()


async def test_a_value_that_refers_to_itself_is_refused_by_the_state() -> None:
    @step
    async def mine(ctx: Context, ev: StartEvent) -> StopEvent:
        circle: dict[str, Any] = {}
        circle["self"] = [circle]
        with pytest.raises(ValidationError, match=r"'circle'.*itself"):
            ctx.set("circle", circle)
        assert not ctx.has("circle")
        return StopEvent()

    await Workflow("w", [mine]).run()


# ---- values that cannot be stored


@pytest.mark.parametrize(
    ("value", "kind"),
    [
        (object(), "object"),
        (lambda: 1, "function"),
        ({"a": [1, {"b": open}]}, "builtin"),
        ([iter([])], "list_iterator"),
        ({(1, object()): 1}, "object"),
        (OSError("x"), "OSError"),
        (trio.Event(), "Event"),
    ],
    ids=str,
)
async def test_a_value_that_cannot_be_stored_names_key_and_type(value: Any, kind: str) -> None:
    @step
    async def mine(ctx: Context, ev: StartEvent) -> StopEvent:
        ctx.set("place", value)
        return StopEvent()

    error = await failure_of(mine)
    assert error.step == "mine"
    assert isinstance(error.__cause__, ValidationError)
    for word in ("'place'", kind, "ctx.session"):
        assert word in str(error.__cause__)


# ---- runs in the wrong place


def test_a_run_started_outside_of_any_loop_says_what_to_do() -> None:
    coroutine = Workflow("w", [only]).run()
    with pytest.raises(ValidationError, match=r"'w'.*outside of trio.*run_sync"):
        coroutine.send(None)
    with pytest.raises(ValidationError, match=r"'w'.*outside of trio"):
        Workflow("w", [only]).run_with_handler()


def test_a_run_started_in_asyncio_says_what_to_do() -> None:
    async def main() -> None:
        await Workflow("w", [only]).run()

    with pytest.raises(ValidationError, match="outside of trio"):
        asyncio.run(main())


async def test_run_sync_inside_a_running_trio_loop_is_refused() -> None:
    ran: list[str] = []

    @step
    async def mine(ev: StartEvent) -> StopEvent:
        ran.append("ran")
        return StopEvent()

    with pytest.raises(ValidationError, match=r"'w'.*trio.*await workflow\.run"):
        Workflow("w", [mine]).run_sync()
    assert ran == []


def test_run_sync_inside_a_running_asyncio_loop_is_refused() -> None:
    async def main() -> None:
        Workflow("w", [only]).run_sync()

    with pytest.raises(ValidationError, match=r"'w'.*asyncio"):
        asyncio.run(main())


async def test_run_sync_inside_a_step_is_refused_and_inside_a_thread_step_works() -> None:
    @step
    def inline(ev: StartEvent) -> StopEvent:
        return StopEvent(result=Workflow("inner", [only]).run_sync(1).result)

    @step(run="thread")
    def thread(ev: StartEvent) -> StopEvent:
        return StopEvent(result=Workflow("inner", [only]).run_sync(1).result)

    with pytest.raises(WorkflowError) as caught:
        await Workflow("w", [inline]).run()
    assert isinstance(caught.value.__cause__, ValidationError)
    assert (await Workflow("w", [thread]).run()).result == 1


# ---- a handler after its run has ended


async def test_a_handler_used_after_its_run_ended_answers_or_refuses_and_never_hangs() -> None:
    async with Workflow("w", [only]).run_with_handler(5) as handler:
        pass
    assert handler.state == "completed"
    assert (await handler.result()).result == 5
    assert [event async for event in handler.stream_events()] == []
    assert handler.pending_inputs() == []
    handler.cancel("late")
    handler.cancel_step("only")
    assert handler.state == "completed"
    with pytest.raises(ValidationError, match="ended"):
        handler.send_event(StopEvent())
    with pytest.raises(ValidationError, match="no open question"):
        handler.respond_to_input("x", 1)
    with pytest.raises(ValidationError):
        async with handler:
            pass


# ---- locks and scopes left behind


@pytest.mark.parametrize("returns", [True, False])
async def test_a_step_that_leaves_a_lock_held_is_named(returns: bool) -> None:
    locks: list[trio.Lock] = []

    @step
    async def mine(ev: StartEvent) -> StopEvent:
        lock = trio.Lock()
        locks.append(lock)
        await lock.acquire()
        if not returns:
            raise OSError
        return StopEvent()

    error = await failure_of(mine)
    assert error.step == "mine"
    if returns:
        assert "lock" in str(error)


async def test_a_step_that_leaves_a_scope_open_is_named_and_the_caller_is_not_harmed(
    autojump_clock: MockClock,
) -> None:
    @step
    async def mine(ev: StartEvent) -> StopEvent:
        trio.CancelScope(deadline=trio.current_time() + 1).__enter__()
        return StopEvent()

    error = await failure_of(mine)
    assert error.step == "mine"
    assert "scope" in str(error)
    await trio.sleep(10)  # the scope left open would end this


# ---- times


@pytest.mark.parametrize("wrong", [-1, True, 1.5, "3", None, float("nan")], ids=repr)
def test_retries_that_are_no_count_are_refused_naming_the_step(wrong: Any) -> None:
    with pytest.raises(ValidationError, match="'mine': retries"):

        @step(retries=wrong)
        async def mine(ev: StartEvent) -> StopEvent:
            return StopEvent()


@pytest.mark.parametrize(
    "wrong",
    [
        *[{"n": -1}, {"initial": -1.0}, {"initial": float("nan")}, {"max": float("inf")}, {"factor": 0.0}],
        *[{"jitter": 2.0}, {"on": BaseException}, {"on": KeyboardInterrupt}, {"on": "OSError"}, {"on": ()}],
    ],
    ids=str,
)
def test_a_retry_out_of_its_range_is_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(ValidationError, match=f"Retry.*{next(iter(wrong))}"):
        Retry(**{"n": 1, **wrong})


@pytest.mark.parametrize("wrong", [0, -1, True, 1.5, "3"], ids=repr)
def test_a_concurrency_below_one_is_refused_naming_the_step(wrong: Any) -> None:
    with pytest.raises(ValidationError, match="'mine': max_concurrency"):

        @step(max_concurrency=wrong)
        async def mine(ev: StartEvent) -> StopEvent:
            return StopEvent()


# ---- every message


def test_every_refusal_is_a_blazen_error_that_can_be_caught_as_one() -> None:
    for wrong in (lambda: Workflow("", [only]), lambda: Workflow("w", []), lambda: Workflow("w", [only], timeout=-1)):
        with pytest.raises(BlazenError):
            wrong()
