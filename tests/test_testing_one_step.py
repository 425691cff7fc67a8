"""`run_step` and its kin: one step alone, on the real engine."""

from __future__ import annotations

import threading
from typing import Any

import pytest
import trio

from blazen import (
    Context,
    DynamicEvent,
    Event,
    InputRequestEvent,
    ProgressEvent,
    Retry,
    StartEvent,
    StopEvent,
    UsageEvent,
    step,
)
from blazen.errors import BlazenWarning, TimeoutError, ValidationError, WorkflowError
from blazen.testing import run_step, run_step_sync, run_step_with, run_step_with_sync


class Order(Event):
    item: str
    count: int = 1


class Packed(Event):
    item: str


class Priced(Event):
    amount: float


class Typed(StartEvent):
    item: str


@step
async def pack(ctx: Context, ev: Order) -> list[Packed]:
    return [Packed(item=ev.item) for _ in range(ev.count)]


async def test_what_a_step_returns_sends_shows_and_stores_is_in_its_outcome() -> None:
    @step
    async def busy(ctx: Context, ev: Order) -> list[Packed | StopEvent]:
        ctx.send_event(Order(item="nut"))
        ctx.send_event(Priced(amount=1.0))
        ctx.write_event_to_stream(ProgressEvent(1))
        ctx.emit_usage(UsageEvent("acme", "small", input_tokens=3))
        ctx.set("last", ev.item)
        ctx.session["seen"].append(ev.item)
        return [Packed(item=ev.item), StopEvent(result="done"), Packed(item="more")]

    session: dict[str, Any] = {"seen": []}
    outcome = await run_step(busy, Order(item="bolt"), state={"n": 1}, session=session)
    assert outcome.events == [Packed(item="bolt"), StopEvent(result="done"), Packed(item="more")]
    assert outcome.sent == [Order(item="nut"), Priced(amount=1.0)]
    assert outcome.stream == [ProgressEvent(1), UsageEvent("acme", "small", input_tokens=3)]
    assert outcome.usage == [UsageEvent("acme", "small", input_tokens=3)]
    assert outcome.state == {"n": 1, "last": "bolt"}
    assert outcome.session is session
    assert session == {"seen": ["bolt"]}
    assert outcome.error is None
    assert outcome.attempts == 1


async def test_the_step_is_not_called_again_for_an_event_of_its_own_kind_that_it_emits() -> None:
    called = []

    @step
    async def again(ctx: Context, ev: Order) -> Order:
        called.append(ev.item)
        ctx.send_event(Order(item="sent"))
        return Order(item="returned")

    outcome = await run_step(again, Order(item="bolt"))
    assert called == ["bolt"]
    assert (outcome.event, outcome.sent) == (Order(item="returned"), [Order(item="sent")])


async def test_an_event_is_sent_once_per_key() -> None:
    @step
    async def twice(ctx: Context, ev: Order) -> None:
        ctx.send_event(Packed(item="a"), key=1)
        ctx.send_event(Packed(item="b"), key=1)

    assert (await run_step(twice, Order(item="bolt"))).sent == [Packed(item="a")]


async def test_sending_a_stop_event_or_asking_does_not_cut_the_step_short() -> None:
    @step
    async def ends(ctx: Context, ev: Order) -> InputRequestEvent:
        ctx.send_event(StopEvent(result=1))
        await trio.lowlevel.checkpoint()
        return InputRequestEvent(request_id="q", prompt="sure?")

    outcome = await run_step(ends, Order(item="bolt"))
    assert outcome.sent == [StopEvent(result=1)]
    assert outcome.event == InputRequestEvent(request_id="q", prompt="sure?")
    assert outcome.stream == [outcome.event]


@pytest.mark.parametrize("count", [0, 2])
def test_event_is_the_only_one_or_an_error_that_shows_them(count: int) -> None:
    outcome = run_step_sync(pack, Order(item="bolt", count=count))
    with pytest.raises(AssertionError, match=rf"returned {count} events, not one") as caught:
        outcome.event  # noqa: B018
    assert str(caught.value).count("Packed(item='bolt')") == count


def test_what_a_step_raises_comes_out_as_it_is() -> None:
    broken = KeyError("bolt")

    @step
    def fails(ev: Order) -> None:
        raise broken

    with pytest.raises(KeyError) as caught:
        run_step_sync(fails, Order(item="bolt"))
    assert caught.value is broken
    assert run_step_sync(fails, Order(item="bolt"), keep_error=True).error is broken


def test_a_workflow_error_of_the_step_itself_is_not_taken_for_that_of_the_engine() -> None:
    inner = ValueError("inner")

    @step
    async def fails(ev: Order) -> None:
        raise WorkflowError("mine") from inner

    with pytest.raises(WorkflowError, match=r"^mine$"):
        run_step_sync(fails, Order(item="bolt"))


def test_what_ctrl_c_raises_comes_out_even_where_errors_are_kept() -> None:
    @step
    async def interrupted(ev: Order) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run_step_sync(interrupted, Order(item="bolt"), keep_error=True)


def test_timeout_retries_and_on_error_are_heeded_only_when_asked_for() -> None:
    attempts = []

    def excuse(ev: Order, exc: Exception) -> Packed:
        return Packed(item=f"{ev.item}: {type(exc).__name__}")

    @step(timeout=5.0, retries=Retry(2, initial=10.0), on_error=excuse)
    async def slow(ctx: Context, ev: Order) -> Packed:
        attempts.append((ctx.attempt, trio.current_time()))
        await trio.sleep(60)
        raise OSError("no packer")

    with pytest.raises(OSError, match="no packer"):
        run_step_sync(slow, Order(item="bolt"))
    with pytest.raises(TimeoutError) as caught:
        run_step_sync(slow, Order(item="bolt"), timeout=True)
    assert (caught.value.step, caught.value.elapsed_ms) == ("slow", 5000)
    assert [number for number, _ in attempts] == [1, 1]
    attempts.clear()
    outcome = run_step_sync(slow, Order(item="bolt"), retries=True, keep_error=True)
    assert [number for number, _ in attempts] == [1, 2, 3]
    assert outcome.attempts == 3
    outcome = run_step_sync(slow, Order(item="bolt"), on_error=True)
    assert outcome.event == Packed(item="bolt: OSError")


def test_what_a_step_returns_after_its_timeout_does_not_count() -> None:
    async def excuse(ev: Order, exc: Exception) -> Packed:
        await trio.lowlevel.checkpoint()
        return Packed(item="late")

    @step(timeout=1.0, on_error=excuse)
    async def stubborn(ev: Order) -> Packed:
        with trio.CancelScope(shield=True):
            await trio.sleep(2)
        return Packed(item="bolt")

    assert run_step_sync(stubborn, Order(item="bolt"), timeout=True, on_error=True).events == [Packed(item="late")]


def test_the_attempt_is_what_was_asked_for() -> None:
    @step(retries=4)
    def counts(ctx: Context, ev: Order) -> StopEvent:
        if ctx.attempt < 4:
            raise OSError
        return StopEvent(result=ctx.attempt)

    assert run_step_sync(counts, Order(item="bolt"), attempt=4).event.result == 4
    assert run_step_sync(counts, Order(item="bolt"), attempt=2, retries=True).attempts == 3


def test_a_join_gets_its_events_one_after_the_other_in_one_run() -> None:
    order = []

    @step
    async def join(ctx: Context, ev: Order) -> StopEvent | None:
        order.append(f"begin {ev.item}")
        await trio.sleep(10 - ev.count)
        order.append(f"end {ev.item}")
        got = ctx.collect_events(ev, 2)
        return None if got is None else StopEvent(result=[one.item for one in got])

    outcome = run_step_with_sync(join, [Order(item=item, count=n) for n, item in enumerate("abcd")])
    assert [event.result for event in outcome.events] == [["a", "b"], ["c", "d"]]
    assert order == [f"{what} {item}" for item in "abcd" for what in ("begin", "end")]
    assert outcome.attempts == 4


def test_an_error_ends_the_events_that_follow_and_what_came_before_is_kept() -> None:
    @step
    async def picky(ev: Order) -> Packed:
        if ev.item == "b":
            raise ValueError(ev.item)
        return Packed(item=ev.item)

    outcome = run_step_with_sync(picky, [Order(item=item) for item in "abc"], keep_error=True)
    assert outcome.events == [Packed(item="a")]
    assert repr(outcome.error) == "ValueError('b')"


def test_a_thread_step_runs_in_a_thread_and_its_effects_are_seen() -> None:
    @step(run="thread")
    def works(ctx: Context, ev: Order) -> Packed:
        ctx.send_event(Priced(amount=2.0))
        ctx.write_event_to_stream(ProgressEvent(1))
        ctx.set("thread", threading.current_thread() is threading.main_thread())
        return Packed(item=ev.item)

    outcome = run_step_sync(works, Order(item="bolt"))
    assert outcome.event == Packed(item="bolt")
    assert (outcome.sent, outcome.stream) == ([Priced(amount=2.0)], [ProgressEvent(1)])
    assert outcome.state == {"thread": False}


def test_methods_of_an_object_and_their_on_error_are_steps_too() -> None:
    class Shop:
        def __init__(self) -> None:
            self.errors: list[str] = []

        def note(self, ev: Order, exc: Exception) -> None:
            self.errors.append(ev.item)

        @step(on_error=note)
        async def sell(self, ev: Order) -> Packed:
            raise OSError

    shop = Shop()
    assert run_step_sync(shop.sell, Order(item="bolt"), on_error=True).events == []
    assert shop.errors == ["bolt"]


def test_events_reach_the_step_as_a_workflow_brings_them() -> None:
    @step
    def typed(ev: Typed) -> StopEvent:
        return StopEvent(result=(type(ev).__name__, ev.item))

    @step(accepts=["shop::Order"])
    def by_name(ev: DynamicEvent) -> StopEvent:
        return StopEvent(result=ev.item)

    @step(accepts=[Event], subclasses=True)
    def anything(ev: Event) -> StopEvent:
        return StopEvent(result=type(ev).__name__)

    assert run_step_sync(typed, StartEvent({"item": "bolt"})).event.result == ("Typed", "bolt")
    assert run_step_sync(typed, Typed(item="bolt")).event.result == ("Typed", "bolt")
    assert run_step_sync(pack, DynamicEvent("Order", {"item": "bolt"})).event == Packed(item="bolt")
    assert run_step_sync(by_name, DynamicEvent("shop::Order", {"item": "bolt"})).event.result == "bolt"
    assert run_step_sync(anything, Packed(item="bolt")).event.result == "Packed"


def test_what_a_step_returns_is_held_against_what_it_declares() -> None:
    @step
    def lies(ev: Order) -> Packed:
        return Priced(amount=1.0)  # type: ignore[return-value]

    @step
    def text(ev: Order) -> Any:
        return "packed"

    with pytest.raises(WorkflowError, match=r"step 'lies' .* returned 'Priced' and declares Packed"):
        run_step_sync(lies, Order(item="bolt"))
    with pytest.raises(WorkflowError, match=r"step 'text' .* returned a 'str' object"):
        run_step_sync(text, Order(item="bolt"))
    assert run_step_sync(text, Order(item="bolt"), keep_error=True).events == []


def test_values_that_cannot_be_stored_are_refused_as_in_a_workflow() -> None:
    @step
    def stores(ctx: Context, ev: Order) -> None:
        ctx.set("own", ctx.session["own"])

    class Own:
        pass

    with pytest.raises(ValidationError, match="cannot store 'own'"):
        run_step_sync(stores, Order(item="bolt"), session={"own": Own()})
    with pytest.raises(ValidationError, match="cannot store 'own'"):
        run_step_sync(pack, Order(item="bolt"), state={"own": Own()})


async def test_cancelling_the_caller_cancels_the_step(autojump_clock: trio.testing.MockClock) -> None:
    cleaned = []

    @step
    async def waits(ctx: Context, ev: Order) -> None:
        try:
            await trio.sleep_forever()
        finally:
            async with ctx.cleanup():
                await trio.sleep(1)
                cleaned.append(ev.item)

    with trio.move_on_after(3) as scope:
        await run_step(waits, Order(item="bolt"), keep_error=True)
    assert scope.cancelled_caught
    assert (cleaned, trio.current_time()) == (["bolt"], 4.0)


def not_a_step(ev: Order) -> None: ...


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((not_a_step, Order(item="bolt")), "function not_a_step is no step; put @step on"),
        ((pack, Packed(item="bolt")), r"step 'pack' accepts Order, and the event is Packed\(item='bolt'\)"),
        ((pack, Order), r"step 'pack': run_step takes an event, got .*; make one: Order\(...\)"),
        ((pack, {"item": "bolt"}), "step 'pack': run_step takes an event, got {'item': 'bolt'}"),
    ],
)
def test_what_cannot_be_run_is_refused(arguments: tuple[Any, Any], message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        run_step_sync(*arguments)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"attempt": 0}, "step 'pack': attempt must be an int, 1 or more, got 0"),
        ({"attempt": True}, "attempt must be an int"),
        ({"session": []}, "session must be a dict"),
        ({"state": [1]}, "state must be a mapping"),
        ({"types": [1]}, "types"),
        ({"seed": "x"}, "a seed is an int, got 'x'"),
    ],
)
def test_options_out_of_range_are_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        run_step_sync(pack, Order(item="bolt"), **options)


def test_a_class_of_the_same_type_name_is_refused() -> None:
    other: Any = type("Order", (Event,), {"__annotations__": {"item": str}, "__module__": "elsewhere"})
    with pytest.raises(ValidationError, match=r"and the event is a elsewhere\.Order: two classes with the type name"):
        run_step_sync(pack, other(item="bolt"))


async def test_several_events_are_a_list() -> None:
    events: Any = Order(item="bolt")
    with pytest.raises(ValidationError, match="run_step_with takes a list of events"):
        await run_step_with(pack, events)
    with pytest.raises(ValidationError, match="needs at least one event"):
        await run_step_with(pack, [])


async def test_the_sync_twins_are_not_for_async_tests() -> None:
    with pytest.raises(ValidationError, match="is called inside one: make the test a plain def"):
        run_step_sync(pack, Order(item="bolt"))
    with pytest.raises(ValidationError, match="is called inside one"):
        run_step_with_sync(pack, [Order(item="bolt")])


def test_a_step_that_shields_itself_from_its_timeout_is_warned_of_as_in_a_workflow() -> None:
    @step(timeout=1.0)
    async def stubborn(ev: Order) -> None:
        with trio.CancelScope(shield=True):
            await trio.sleep(60)

    with pytest.warns(BlazenWarning, match="'stubborn' .* shields itself"), pytest.raises(TimeoutError):
        run_step_sync(stubborn, Order(item="bolt"), timeout=True)
