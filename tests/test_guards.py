"""Guards: `when=` decides for each event whether a step takes it."""

from __future__ import annotations

from typing import Any

import pytest
import trio
from ways_to_run import every_way, run_to_end

from blazen import (
    Context,
    DynamicEvent,
    Event,
    InputRequestEvent,
    InputResponseEvent,
    StartEvent,
    StopEvent,
    Workflow,
    WorkflowBuilder,
    step,
)
from blazen.errors import ValidationError, WorkflowError


class Order(Event):
    total: int


class Refund(Event):
    total: int


class Checked(Event):
    by: str


@step
async def receive(ev: StartEvent) -> Order:
    return Order(total=ev.total)


@step(when=lambda ev: ev.total < 100)
async def small(ev: Order) -> StopEvent:
    return StopEvent(result="small")


@step(when=lambda ev: ev.total >= 100)
def large(ev: Order) -> StopEvent:
    return StopEvent(result="large")


@pytest.mark.parametrize(("total", "taken_by"), [(99, "small"), (100, "large")])
def test_an_event_goes_to_the_step_whose_guard_takes_it(total: int, taken_by: str) -> None:
    assert Workflow("orders", [receive, small, large]).run_sync(total=total).result == taken_by


def test_a_step_without_a_guard_takes_every_event_beside_those_with_one() -> None:
    seen: list[str] = []

    @step
    def fan(ev: StartEvent) -> list[Order]:
        return [Order(total=n) for n in (1, 200, 3)]

    @step
    def audit(ev: Order) -> None:
        seen.append(f"audit {ev.total}")

    @step(when=lambda ev: ev.total > 100)
    def big(ev: Order) -> StopEvent:
        seen.append(f"big {ev.total}")
        return StopEvent()

    Workflow("w", [fan, audit, big]).run_sync()
    assert seen == ["audit 1", "audit 200", "big 200"]


@every_way
async def test_an_event_that_every_guard_refuses_fails_the_run_and_names_the_guards(way: str) -> None:
    @step(when=lambda ev: ev.total < 0)
    def never(ev: Order) -> StopEvent:
        return StopEvent()

    @step
    def begin(ev: StartEvent) -> Order:
        return Order(total=5)

    with pytest.raises(
        WorkflowError, match=r"takes the event 'Order', which step 'begin' returned.*guard.*'never'"
    ) as e:
        await run_to_end(way, [begin, never])
    assert e.value.step == "begin"
    assert e.value.event_type == "Order"
    assert e.value.run_id is not None


def test_a_list_with_an_event_that_is_refused_is_not_dispatched_at_all() -> None:
    taken: list[int] = []

    @step
    def begin(ev: StartEvent) -> list[Order]:
        return [Order(total=1), Order(total=-1), Order(total=2)]

    @step(when=lambda ev: ev.total > 0)
    def take(ev: Order) -> StopEvent | None:
        taken.append(ev.total)
        return StopEvent() if ev.total == 2 else None

    with pytest.raises(WorkflowError, match="refused by the guard"):
        Workflow("w", [begin, take]).run_sync()
    assert taken == []


def test_a_list_of_mixed_types_is_asked_once_for_each_event() -> None:
    asked: list[str] = []

    def guard(ev: Order | Refund) -> bool:
        asked.append(f"{ev.event_type} {ev.total}")
        return True

    @step
    def begin(ev: StartEvent) -> list[Order | Refund | Checked]:
        return [Checked(by="a"), Order(total=1), Refund(total=2), Checked(by="b"), Order(total=3)]

    @step(when=guard)
    def take(ctx: Context, ev: Order | Refund) -> Checked:
        return Checked(by=str(ev.total))

    @step
    def end(ctx: Context, ev: Checked) -> StopEvent | None:
        found = ctx.collect_events(ev, 5)
        return None if found is None else StopEvent(result=[e.by for e in found])

    assert Workflow("w", [begin, take, end]).run_sync().result == ["a", "b", "1", "2", "3"]
    assert asked == ["Order 1", "Refund 2", "Order 3"]


def test_the_first_event_meets_guards_too() -> None:
    @step(when=lambda ev: "name" in ev.data)
    def named(ev: StartEvent) -> StopEvent:
        return StopEvent(result=ev.name)

    workflow: Workflow[Any] = Workflow("w", [named])
    assert workflow.run_sync(name="Ada").result == "Ada"
    with pytest.raises(WorkflowError, match=r"'blazen::StartEvent', which begins the run.*'named'") as caught:
        workflow.run_sync(other=1)
    assert caught.value.run_id is not None


def test_a_guard_sees_a_dynamic_event_as_the_class_its_step_accepts() -> None:
    @step
    def begin(ev: StartEvent) -> DynamicEvent:
        return DynamicEvent("Order", {"total": 7})

    def is_order(ev: Order) -> bool:
        return type(ev) is Order

    @step(when=is_order)
    def take(ev: Order) -> StopEvent:
        return StopEvent(result=ev.total)

    assert Workflow("w", [begin, take]).run_sync().result == 7


def test_a_guard_on_subclasses_sees_the_event_as_it_is() -> None:
    class Urgent(Order, type="Urgent"):
        pass

    @step
    def begin(ev: StartEvent) -> Urgent:
        return Urgent(total=1)

    @step(accepts=Order, subclasses=True, when=lambda ev: isinstance(ev, Urgent))
    def hurry(ev: Order) -> StopEvent:
        return StopEvent(result="hurried")

    @step(accepts=Order, subclasses=True, when=lambda ev: not isinstance(ev, Urgent))
    def wait(ev: Order) -> StopEvent:
        return StopEvent(result="waited")

    assert Workflow("w", [begin, hurry, wait]).run_sync().result == "hurried"


def test_a_guard_that_raises_fails_the_run_with_its_error_as_the_cause() -> None:
    def broken(ev: Order) -> bool:
        raise LookupError("no such list")

    @step(when=broken)
    def take(ev: Order) -> StopEvent:
        return StopEvent()

    with pytest.raises(WorkflowError, match=r"guard \(when=\) of step 'take'.*LookupError: no such list") as caught:
        Workflow("w", [receive, take]).run_sync(total=1)
    assert caught.value.step == "take"
    assert isinstance(caught.value.__cause__, LookupError)


def test_a_guard_that_turns_out_to_be_async_is_refused_and_not_taken_for_true() -> None:
    async def later(ev: Order) -> bool:
        return False

    @step(when=lambda ev: later(ev))
    def take(ev: Order) -> StopEvent:
        return StopEvent()

    with pytest.raises(WorkflowError, match="must be a plain function"):
        Workflow("w", [receive, take]).run_sync(total=1)


def test_keyboard_interrupt_in_a_guard_comes_out_as_itself() -> None:
    def interrupted(ev: Order) -> bool:
        raise KeyboardInterrupt

    @step(when=interrupted)
    def take(ev: Order) -> StopEvent:
        return StopEvent()

    with pytest.raises(KeyboardInterrupt):
        Workflow("w", [receive, take]).run_sync(total=1)


@pytest.mark.parametrize("kind", ["inline", "thread"])
async def test_a_step_that_sends_what_is_refused_gets_the_error_and_the_run_goes_on(kind: Any) -> None:
    def work(ctx: Context, ev: StartEvent) -> StopEvent:
        with pytest.raises(WorkflowError, match="refused by the guard"):
            ctx.send_event(Order(total=-5))
        return StopEvent(result="went on")

    @step(when=lambda ev: ev.total > 0)
    def take(ev: Order) -> None: ...

    workflow = WorkflowBuilder("w").step(work, run=kind, emits=[StopEvent]).step(take).build()
    assert (await workflow.run()).result == "went on"


async def test_an_event_from_outside_that_is_refused_leaves_the_run_undisturbed() -> None:
    @step
    async def waits(ev: StartEvent) -> StopEvent:
        await trio.sleep_forever()
        return StopEvent()

    @step(when=lambda ev: ev.total > 0)
    def take(ev: Order) -> StopEvent:
        return StopEvent(result=ev.total)

    async with Workflow("w", [waits, take]).run_with_handler() as handler:
        with pytest.raises(WorkflowError, match=r"sent from outside the run.*refused by the guard"):
            handler.send_event(Order(total=-5))
        with pytest.raises(WorkflowError, match=r"sent from outside the run.*refused by the guard") as caught:
            await trio.to_thread.run_sync(handler.send_event, Order(total=-6))
        assert caught.value.run_id == handler.run_id
        assert handler.state == "running"
        handler.send_event(Order(total=5))
        assert (await handler.result()).result == 5


async def test_answers_can_be_told_apart_by_guards() -> None:
    @step
    def ask(ev: StartEvent) -> InputRequestEvent:
        return InputRequestEvent(prompt="Ship it?")

    @step(when=lambda ev: ev.response == "yes")
    def ship(ev: InputResponseEvent) -> StopEvent:
        return StopEvent(result="shipped")

    @step(when=lambda ev: ev.response != "yes")
    def keep(ev: InputResponseEvent) -> StopEvent:
        return StopEvent(result="kept")

    for answer, result in (("yes", "shipped"), ("no", "kept")):
        async with Workflow("w", [ask, ship, keep]).run_with_handler() as handler:
            async for event in handler.stream_events():
                assert isinstance(event, InputRequestEvent)
                handler.respond_to_input(event.request_id, answer)
            assert (await handler.result()).result == result


def test_a_guard_may_be_a_method_of_the_steps_class_or_a_bound_method() -> None:
    class Desk:
        limit = 10

        def affordable(self, ev: StartEvent) -> bool:
            return bool(ev.total <= self.limit)

        @step(when=affordable)
        def buy(self, ev: StartEvent) -> StopEvent:
            return StopEvent(result="bought")

    desk = Desk()

    def leave(ev: StartEvent) -> StopEvent:
        return StopEvent(result="left")

    class Other:
        def too_much(self, ev: StartEvent) -> bool:
            return bool(ev.total > 10)

    workflow = WorkflowBuilder("w").step(desk.buy).step(leave, when=Other().too_much).build()
    assert workflow.run_sync(total=10).result == "bought"
    assert workflow.run_sync(total=11).result == "left"


async def _async_guard(ev: Order) -> bool:
    return True


@pytest.mark.parametrize(
    ("guard", "complaint"),
    [
        (True, "when must be a function taking the event, got True"),
        (Order, "when must be a function"),
        (_async_guard, "plain def that returns True or False"),
        (lambda: True, "must take one argument"),
        (lambda ev, more: True, "must take one argument"),
    ],
)
def test_what_cannot_be_a_guard_is_refused_when_the_step_is_declared(guard: Any, complaint: str) -> None:
    with pytest.raises(ValidationError, match=complaint):

        @step(when=guard)
        def take(ev: Order) -> StopEvent:
            return StopEvent()


def test_a_retry_does_not_ask_the_guard_again() -> None:
    asked: list[int] = []
    attempts: list[int] = []

    def guard(ev: Order) -> bool:
        asked.append(ev.total)
        return len(asked) == 1

    @step(when=guard, retries=1)
    def take(ctx: Context, ev: Order) -> StopEvent:
        attempts.append(ctx.attempt)
        if ctx.attempt == 1:
            raise OSError("once")
        return StopEvent(result="done")

    assert Workflow("w", [receive, take]).run_sync(total=1).result == "done"
    assert asked == [1]
    assert attempts == [1, 2]
