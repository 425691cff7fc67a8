"""Runs that go well: what steps get, what they may return, where events go, what a run returns."""

from __future__ import annotations

import asyncio
import contextvars
import gc
import uuid
import weakref
from typing import Any

import pytest
import trio
import trio.testing
from trio.testing import MockClock

from blazen import (
    BlazenError,
    Context,
    DynamicEvent,
    Event,
    StartEvent,
    StopEvent,
    UsageEvent,
    Workflow,
    WorkflowBuilder,
    step,
)
from blazen.errors import ValidationError, WorkflowError

colour = contextvars.ContextVar("colour", default="none")


class Number(Event):
    n: int = 0


class Letter(Event):
    text: str = ""


class Done(Event):
    n: int = 0


class Base(Event):
    n: int = 0


class Derived(Base):
    pass


class Order(StartEvent):
    item: str
    count: int = 1


class Receipt(StopEvent):
    total: int


@step
async def echo(ev: StartEvent) -> StopEvent:
    return StopEvent(result=ev.data)


ECHO = Workflow("echo", [echo])


def summing(count: int) -> Any:
    """A step that ends the run with the numbers of `count` events, in the order of the events."""

    @step
    async def total(ctx: Context, ev: Done) -> StopEvent | None:
        found = ctx.collect_events(ev, count)
        return None if found is None else StopEvent(result=[one.n for one in found])

    return total


# ---- the input


async def test_keywords_become_the_data_of_the_start_event() -> None:
    assert (await ECHO.run(name="Ada", age=36)).result == {"name": "Ada", "age": 36}


async def test_a_key_of_the_input_is_an_attribute_of_the_start_event() -> None:
    @step
    async def greet(ev: StartEvent) -> StopEvent:
        return StopEvent(result=f"Hello, {ev.name}!")

    assert (await Workflow("greeter", [greet]).run(name="Ada")).result == "Hello, Ada!"


async def test_any_object_may_be_the_input_and_keeps_its_identity() -> None:
    thing = object()
    assert (await ECHO.run(thing)).result is thing


@pytest.mark.parametrize("value", [0, "", False, [], {}, 2**80])
async def test_a_false_input_is_an_input(value: object) -> None:
    assert (await ECHO.run(value)).result == value


@pytest.mark.parametrize("given", [{"a": 1}, 0, "", False])
async def test_input_and_keywords_together_are_refused(given: object) -> None:
    with pytest.raises(ValidationError, match="not both"):
        await ECHO.run(given, b=2)


async def test_a_field_of_the_input_may_be_called_input_or_self() -> None:
    assert (await ECHO.run(input=1, self=2)).result == {"input": 1, "self": 2}


async def test_a_typed_start_event_gets_its_fields_and_defaults() -> None:
    @step
    async def take(ev: Order) -> StopEvent:
        return StopEvent(result=(type(ev), ev.item, ev.count))

    workflow = Workflow("orders", [take])
    assert (await workflow.run(item="pen")).result == (Order, "pen", 1)
    assert (await workflow.run({"item": "pen", "count": 3})).result == (Order, "pen", 3)


@pytest.mark.parametrize("fields", [{}, {"item": 3}, {"item": "pen", "count": "many"}])
async def test_an_input_that_does_not_fit_is_refused_before_any_step_runs(fields: dict[str, Any]) -> None:
    ran = []

    @step
    async def take(ev: Order) -> StopEvent:
        ran.append(ev)
        return StopEvent()

    workflow = Workflow("orders", [take])
    with pytest.raises(ValidationError) as caught:
        await workflow.run(**fields)
    assert "count" in str(caught.value) if "count" in fields else "item" in str(caught.value)
    with pytest.raises(ValidationError):
        async with workflow.run_with_handler(**fields):
            pass
    assert not ran


# ---- what steps look like


async def test_the_context_may_stand_first_or_second_or_be_left_out() -> None:
    @step
    async def first(ctx: Context, ev: StartEvent) -> Number:
        assert isinstance(ctx, Context)
        assert isinstance(ev, StartEvent)
        return Number()

    @step
    async def second(ev: Number, ctx: Context) -> Letter:
        assert isinstance(ctx, Context)
        assert isinstance(ev, Number)
        return Letter()

    @step
    async def without(ev: Letter) -> StopEvent:
        return StopEvent(result=type(ev))

    assert (await Workflow("arguments", [first, second, without]).run()).result is Letter


async def test_plain_functions_run_inline_on_the_loop_thread() -> None:
    @step
    def plain(ctx: Context, ev: StartEvent) -> StopEvent:
        return StopEvent(result=trio.lowlevel.current_task())

    assert (await Workflow("plain", [plain]).run()).result is trio.lowlevel.current_task()


async def test_methods_of_an_object_are_steps_of_that_object() -> None:
    class Counter:
        def __init__(self, start: int) -> None:
            self.n = start

        @step
        async def count(self, ctx: Context, ev: StartEvent) -> StopEvent:
            self.n += 1
            return StopEvent(result=self.n)

    one, other = Counter(10), Counter(20)
    assert (await Workflow("one", [one.count]).run()).result == 11
    assert (await Workflow("other", [other.count]).run()).result == 21


async def test_a_step_of_a_union_gets_each_of_its_types() -> None:
    seen = []

    @step
    async def start(ev: StartEvent) -> list[Number | Letter]:
        return [Number(), Letter()]

    @step
    async def both(ctx: Context, ev: Number | Letter) -> StopEvent | None:
        seen.append(type(ev))
        return StopEvent() if len(seen) == 2 else None

    await Workflow("union", [start, both]).run()
    assert seen == [Number, Letter]


async def test_dynamic_events_go_to_steps_that_accept_their_name() -> None:
    @step(emits=["made"])
    async def start(ev: StartEvent) -> Event:
        return DynamicEvent("made", {"n": 7})

    @step(accepts=["made"])
    async def take(ev: DynamicEvent) -> StopEvent:
        return StopEvent(result=(ev.data, ev.n))

    assert (await Workflow("dynamic", [start, take]).run()).result == ({"n": 7}, 7)


async def test_a_dynamic_event_is_converted_for_a_step_typed_with_its_class() -> None:
    @step(emits=[Number])
    async def start(ev: StartEvent) -> Event:
        return DynamicEvent("Number", {"n": 7})

    @step
    async def take(ev: Number) -> StopEvent:
        return StopEvent(result=ev)

    assert (await Workflow("dynamic", [start, take]).run()).result == Number(n=7)


async def test_a_dynamic_event_that_cannot_be_converted_names_step_and_field() -> None:
    @step(emits=[Number])
    async def start(ev: StartEvent) -> Event:
        return DynamicEvent("Number", {"n": "seven"})

    @step
    async def take(ev: Number) -> StopEvent:
        return StopEvent()

    with pytest.raises(WorkflowError, match=r"'take'.*\$?\.?n") as caught:
        await Workflow("dynamic", [start, take]).run()
    assert caught.value.step == "take"


async def test_a_typed_event_reaches_a_step_that_accepts_its_name_as_it_is() -> None:
    sent = Number(n=1)

    @step
    async def start(ev: StartEvent) -> Event:
        return sent

    @step(accepts=["Number"])
    async def take(ev: Event) -> StopEvent:
        return StopEvent(result=ev)

    assert (await Workflow("typed", [start, take]).run()).result is sent


async def test_subclasses_are_routed_only_where_a_step_asks_for_them() -> None:
    seen = []

    @step
    async def start(ev: StartEvent) -> Event:
        return Derived(n=1)

    @step(accepts=Base, subclasses=True)
    async def wide(ev: Event) -> StopEvent:
        seen.append("wide")
        return StopEvent()

    @step
    async def narrow(ev: Base) -> None:
        seen.append("narrow")

    await Workflow("bases", [start, wide, narrow]).run()
    assert seen == ["wide"]


async def test_a_subclass_of_an_accepted_event_is_not_accepted() -> None:
    @step
    async def start(ev: StartEvent) -> Event:
        return Derived(n=1)

    @step
    async def narrow(ev: Base) -> StopEvent:
        return StopEvent()

    with pytest.raises(WorkflowError, match="'Derived'"):
        await Workflow("bases", [start, narrow]).run()


# ---- what steps return


async def test_a_list_is_dispatched_in_its_order() -> None:
    @step
    async def start(ev: StartEvent) -> list[Done]:
        return [Done(n=n) for n in range(10)]

    assert (await Workflow("list", [start, summing(10)]).run()).result == list(range(10))


async def test_none_and_an_empty_list_dispatch_nothing() -> None:
    @step
    async def start(ev: StartEvent) -> list[Number]:
        return [Number(n=n) for n in range(3)]

    @step
    async def maybe(ev: Number) -> Any:
        return [None, [], StopEvent(result="third")][ev.n]

    assert (await Workflow("nothing", [start, maybe]).run()).result == "third"


@pytest.mark.parametrize("wrong", [7, "text", (), {"a": 1}, True, Number, [Number(), 7], [[Number()]], [None]])
async def test_a_step_that_returns_something_else_fails_the_run_by_name(wrong: object) -> None:
    taken = []

    @step
    async def start(ev: StartEvent) -> Any:
        return wrong

    @step
    async def take(ev: Number) -> StopEvent:
        taken.append(ev)
        return StopEvent()

    with pytest.raises(WorkflowError, match="'start'") as caught:
        await Workflow("wrong", [start, take]).run()
    assert caught.value.step == "start"
    assert not taken


async def test_a_plain_function_that_returns_a_coroutine_fails_the_run_by_name() -> None:
    async def later() -> StopEvent:
        return StopEvent()

    @step
    def start(ev: StartEvent) -> Any:
        return later()

    with pytest.raises(WorkflowError, match=r"'start'.*async def"):
        await Workflow("wrong", [start]).run()


async def test_returning_a_type_that_was_not_declared_fails_the_run() -> None:
    @step
    async def start(ev: StartEvent) -> Number:
        return Letter()  # type: ignore[return-value]

    @step
    async def take(ev: Number | Letter) -> StopEvent:
        return StopEvent()

    with pytest.raises(WorkflowError, match=r"'start'.*'Letter'.*declares Number") as caught:
        await Workflow("declared", [start, take]).run()
    assert (caught.value.step, caught.value.event_type) == ("start", "Letter")


async def test_sending_a_type_that_was_not_declared_is_allowed() -> None:
    @step
    async def start(ctx: Context, ev: StartEvent) -> Number:
        ctx.send_event(Letter(text="sent"))
        return Number()

    @step
    async def take(ev: Letter) -> StopEvent:
        return StopEvent(result=ev.text)

    @step
    async def drop(ev: Number) -> None: ...

    assert (await Workflow("sent", [start, take, drop]).run()).result == "sent"


async def test_a_hint_of_event_declares_nothing() -> None:
    @step
    async def start(ev: StartEvent) -> Event:
        return Letter(text="any")

    @step
    async def take(ev: Letter) -> StopEvent:
        return StopEvent(result=ev.text)

    assert (await Workflow("any", [start, take]).run()).result == "any"


# ---- where events go


async def test_each_step_that_accepts_a_type_gets_the_event_and_they_overlap(autojump_clock: MockClock) -> None:
    arrived = []
    together = trio.Event()

    def taker(name: str) -> Any:
        @step(name=name)
        async def take(ev: Number) -> Done:
            arrived.append(ev)
            if len(arrived) == 3:
                together.set()
            await together.wait()
            return Done(n=ev.n)

        return take

    sent = Number(n=5)

    @step
    async def start(ev: StartEvent) -> Number:
        return sent

    workflow = Workflow("each", [start, taker("a"), taker("b"), taker("c"), summing(3)])
    assert (await workflow.run()).result == [5, 5, 5]
    assert all(ev is sent for ev in arrived)


async def test_a_step_may_send_an_event_and_wait_for_what_it_brings_about(autojump_clock: MockClock) -> None:
    reached = trio.Event()

    @step
    async def ask(ctx: Context, ev: StartEvent) -> StopEvent:
        ctx.send_event(Number(n=1))
        await reached.wait()
        return StopEvent(result="answered")

    @step
    async def answer(ev: Number) -> None:
        reached.set()

    assert (await Workflow("consequence", [ask, answer]).run()).result == "answered"


async def test_a_chain_of_steps_each_waiting_for_the_next_goes_fifty_deep(autojump_clock: MockClock) -> None:
    reached = [trio.Event() for _ in range(51)]

    @step
    async def begin(ctx: Context, ev: StartEvent) -> StopEvent:
        ctx.send_event(Number(n=0))
        await reached[0].wait()
        return StopEvent(result=[event.is_set() for event in reached])

    @step
    async def deeper(ctx: Context, ev: Number) -> None:
        if ev.n < 50:
            ctx.send_event(Number(n=ev.n + 1))
            await reached[ev.n + 1].wait()
        reached[ev.n].set()

    assert (await Workflow("deep", [begin, deeper]).run()).result == [True] * 51


async def test_a_sent_stop_event_ends_the_run_and_the_step_that_sent_it() -> None:
    left = []

    @step
    async def start(ctx: Context, ev: StartEvent) -> StopEvent:
        try:
            ctx.send_event(StopEvent(result="sent"))
            await trio.sleep_forever()
        finally:
            left.append("start")
        return StopEvent(result="returned")

    assert (await Workflow("stop", [start]).run()).result == "sent"
    assert left == ["start"]


async def test_an_event_with_a_key_is_sent_once() -> None:
    @step
    async def start(ctx: Context, ev: StartEvent) -> Done:
        for n in range(3):
            ctx.send_event(Done(n=n), key="once")
        return Done(n=9)

    assert (await Workflow("key", [start, summing(2)]).run()).result == [0, 9]


async def test_what_is_queued_behind_a_stop_event_is_dropped() -> None:
    taken = []

    @step
    async def start(ev: StartEvent) -> list[Number | StopEvent]:
        return [Number(n=1), StopEvent(result="stopped"), Number(n=2)]

    @step
    async def take(ev: Number) -> None:
        taken.append(ev.n)

    assert (await Workflow("list", [start, take]).run()).result == "stopped"
    assert not taken


async def test_events_that_a_step_sends_reach_it_again_in_a_loop() -> None:
    @step
    async def start(ev: StartEvent) -> Number:
        return Number(n=0)

    @step
    async def count(ev: Number) -> Number | StopEvent:
        return StopEvent(result=ev.n) if ev.n == 5000 else Number(n=ev.n + 1)

    assert (await Workflow("loop", [start, count]).run()).result == 5000


# ---- concurrency


async def test_a_thousand_steps_overlap(autojump_clock: MockClock) -> None:
    running = peak = 0

    @step
    async def start(ev: StartEvent) -> list[Number]:
        return [Number(n=n) for n in range(1000)]

    @step
    async def wait(ev: Number) -> Done:
        nonlocal running, peak
        running += 1
        peak = max(peak, running)
        await trio.sleep(3600)
        running -= 1
        return Done(n=ev.n)

    assert (await Workflow("wide", [start, wait, summing(1000)]).run()).result == list(range(1000))
    assert peak == 1000
    assert trio.current_time() == 3600.0


@pytest.mark.parametrize("limit", [1, 3])
async def test_max_concurrency_is_never_exceeded_and_always_used(autojump_clock: MockClock, limit: int) -> None:
    running = peak = 0

    @step
    async def start(ev: StartEvent) -> list[Number]:
        return [Number(n=n) for n in range(9)]

    @step(max_concurrency=limit)
    async def work(ev: Number) -> Done:
        nonlocal running, peak
        running += 1
        peak = max(peak, running)
        await trio.sleep(1)
        running -= 1
        return Done(n=ev.n)

    assert (await Workflow("limited", [start, work, summing(9)]).run()).result == list(range(9))
    assert peak == limit
    assert trio.current_time() == 9 / limit


async def test_a_limited_step_takes_its_events_in_order(autojump_clock: MockClock) -> None:
    begun = []

    @step
    async def start(ev: StartEvent) -> list[Number]:
        return [Number(n=n) for n in range(20)]

    @step(max_concurrency=2)
    async def work(ev: Number) -> Done:
        begun.append(ev.n)
        await trio.sleep(1)
        return Done(n=ev.n)

    await Workflow("limited", [start, work, summing(20)]).run()
    assert begun == list(range(20))


async def test_max_concurrency_counts_per_run(autojump_clock: MockClock) -> None:
    @step(max_concurrency=1)
    async def work(ev: StartEvent) -> StopEvent:
        await trio.sleep(1)
        return StopEvent()

    workflow = Workflow("limited", [work])
    async with trio.open_nursery() as nursery:
        for _ in range(10):
            nursery.start_soon(workflow.run)
    assert trio.current_time() == 1.0


async def test_other_steps_pass_a_limited_one_that_is_full(autojump_clock: MockClock) -> None:
    order = []

    @step
    async def start(ev: StartEvent) -> list[Number | Letter]:
        return [Number(n=1), Number(n=2), Letter()]

    @step(max_concurrency=1)
    async def slow(ev: Number) -> Done:
        await trio.sleep(1)
        order.append(f"slow {ev.n}")
        return Done(n=ev.n)

    @step
    async def quick(ev: Letter) -> None:
        order.append("quick")

    await Workflow("limited", [start, slow, quick, summing(2)]).run()
    assert order == ["quick", "slow 1", "slow 2"]


async def test_one_workflow_runs_many_times_at_once_each_with_its_own_state(autojump_clock: MockClock) -> None:
    @step
    async def put(ctx: Context, ev: StartEvent) -> Number:
        ctx.set("n", ev.n)
        await trio.sleep(1)
        return Number(n=ev.n)

    @step
    async def check(ctx: Context, ev: Number) -> StopEvent:
        await trio.sleep(1)
        return StopEvent(result=(ev.n, ctx.get("n"), ctx.keys()))

    workflow = Workflow("own", [put, check])
    results = {}

    async def run(n: int) -> None:
        results[n] = (await workflow.run(n=n)).result

    async with trio.open_nursery() as nursery:
        for n in range(200):
            nursery.start_soon(run, n)
    assert results == {n: (n, n, ["n"]) for n in range(200)}
    assert trio.current_time() == 2.0


async def test_a_step_may_await_another_workflow(autojump_clock: MockClock) -> None:
    @step
    async def outer(ctx: Context, ev: StartEvent) -> StopEvent:
        ctx.set("who", "outer")
        inner = await inner_workflow.run(depth=ev.depth)
        return StopEvent(result=(ctx.get("who"), inner.result))

    @step
    async def inner(ctx: Context, ev: StartEvent) -> StopEvent:
        await trio.sleep(1)
        return StopEvent(result=ctx.get("who"))

    inner_workflow = Workflow("inner", [inner], timeout=10)
    outer_workflow = Workflow("outer", [outer], timeout=10)
    assert (await outer_workflow.run(depth=1)).result == ("outer", None)


async def test_a_workflow_may_run_itself_inside_its_own_step(autojump_clock: MockClock) -> None:
    @step
    async def descend(ev: StartEvent) -> StopEvent:
        await trio.sleep(1)
        below = (await workflow.run(n=ev.n - 1)).result if ev.n else []
        return StopEvent(result=[ev.n, *below])

    workflow = Workflow("recursive", [descend])
    assert (await workflow.run(n=20)).result == list(range(20, -1, -1))


async def test_a_stop_event_waits_for_the_cleanup_of_siblings(autojump_clock: MockClock) -> None:
    left = []

    @step
    async def start(ev: StartEvent) -> list[Number | Letter]:
        return [Number(n=1), Number(n=2), Letter()]

    @step
    async def forever(ctx: Context, ev: Number) -> None:
        try:
            await trio.sleep_forever()
        finally:
            async with ctx.cleanup():
                await trio.sleep(ev.n)
            left.append(ev.n)

    @step
    async def stop(ev: Letter) -> StopEvent:
        await trio.sleep(10)
        return StopEvent(result="stopped")

    assert (await Workflow("siblings", [start, forever, stop]).run()).result == "stopped"
    assert left == [1, 2]
    assert trio.current_time() == 12.0


async def test_the_first_stop_event_wins(autojump_clock: MockClock) -> None:
    @step
    async def start(ev: StartEvent) -> list[Number]:
        return [Number(n=3), Number(n=1), Number(n=2)]

    @step
    async def race(ev: Number) -> StopEvent:
        await trio.sleep(ev.n)
        return StopEvent(result=ev.n)

    assert (await Workflow("race", [start, race]).run()).result == 1


@pytest.mark.slow
async def test_a_million_queued_events_lose_nothing() -> None:
    count = 1_000_000
    taken = bytearray(count)

    @step
    async def start(ctx: Context, ev: StartEvent) -> None:  # async: a plain def that takes so long is warned of
        for n in range(count):
            ctx.send_event(Number(n=n))

    @step
    def take(ev: Number) -> StopEvent | None:
        taken[ev.n] += 1
        return StopEvent() if ev.n == count - 1 else None

    await Workflow("million", [start, take]).run()
    assert taken == b"\x01" * count


@pytest.mark.slow
async def test_a_step_gets_its_answer_behind_a_million_queued_events() -> None:
    count = 1_000_000
    taken = 0
    answered = trio.Event()

    @step
    async def start(ctx: Context, ev: StartEvent) -> StopEvent:
        for n in range(count):
            ctx.send_event(Number(n=n))
        ctx.send_event(Letter())
        await answered.wait()
        return StopEvent(result=taken)

    @step
    def take(ev: Number) -> None:
        nonlocal taken
        taken += 1

    @step
    async def answer(ev: Letter) -> None:
        answered.set()

    assert (await Workflow("million", [start, take, answer]).run()).result == count


# ---- context variables


async def test_each_invocation_sees_the_callers_context_variables() -> None:
    @step
    async def first(ev: StartEvent) -> Number:
        seen.append(colour.get())
        return Number()

    @step
    def second(ev: Number) -> Letter:
        seen.append(colour.get())
        return Letter()

    @step(run="thread")
    def third(ev: Letter) -> StopEvent:
        seen.append(colour.get())
        return StopEvent()

    seen: list[str] = []
    workflow = Workflow("variables", [first, second, third])
    colour.set("red")
    await workflow.run()
    colour.set("blue")
    async with workflow.run_with_handler():
        pass
    assert seen == ["red"] * 3 + ["blue"] * 3


@pytest.mark.parametrize("kind", ["async", "waiting", "plain", "thread"])
async def test_what_a_step_sets_is_seen_by_no_other_step(kind: str) -> None:
    seen = []

    @step
    async def start(ev: StartEvent) -> Number:
        return Number(n=0)

    async def in_async(ev: Number) -> Number | StopEvent:
        seen.append(colour.get())
        colour.set(f"set by {ev.n}")
        if kind == "waiting":
            await trio.lowlevel.checkpoint()
            assert colour.get() == f"set by {ev.n}"
        return Number(n=ev.n + 1) if ev.n < 50 else StopEvent()

    def in_plain(ev: Number) -> Number | StopEvent:
        seen.append(colour.get())
        colour.set(f"set by {ev.n}")
        return Number(n=ev.n + 1) if ev.n < 50 else StopEvent()

    if kind == "thread":
        work = step(name="work", run="thread")(in_plain)
    else:
        work = step(name="work")(in_plain if kind == "plain" else in_async)
    colour.set("caller's")
    await Workflow("variables", [start, work]).run()
    assert seen == ["caller's"] * 51
    assert colour.get() == "caller's"


async def test_steps_that_overlap_keep_their_context_variables_apart(autojump_clock: MockClock) -> None:
    @step
    async def start(ev: StartEvent) -> list[Number]:
        return [Number(n=n) for n in range(50)]

    @step
    async def work(ev: Number) -> Done:
        colour.set(f"{ev.n}")
        for _ in range(3):
            await trio.sleep(1 + ev.n % 3)
            assert colour.get() == f"{ev.n}"
        return Done(n=ev.n)

    result = (await Workflow("variables", [start, work, summing(50)]).run()).result
    assert sorted(result) == list(range(50))


async def test_what_a_step_sets_is_seen_by_its_children_and_its_threads() -> None:
    seen = []

    async def child() -> None:
        seen.append(colour.get())

    @step
    async def parent(ev: StartEvent) -> StopEvent:
        colour.set("parent's")
        async with trio.open_nursery() as nursery:
            nursery.start_soon(child)
        seen.append(await trio.to_thread.run_sync(colour.get))
        return StopEvent()

    await Workflow("variables", [parent]).run()
    assert seen == ["parent's", "parent's"]


async def test_a_token_of_a_context_variable_is_good_for_the_whole_step(autojump_clock: MockClock) -> None:
    @step
    async def work(ev: StartEvent) -> StopEvent:
        token = colour.set("inside")
        await trio.sleep(1)
        colour.reset(token)
        return StopEvent(result=colour.get())

    colour.set("outside")
    assert (await Workflow("variables", [work]).run()).result == "outside"


async def test_a_retried_step_sees_the_callers_context_variables_again() -> None:
    seen = []

    @step(retries=2)
    async def work(ctx: Context, ev: StartEvent) -> StopEvent:
        seen.append(colour.get())
        colour.set("left behind")
        if ctx.attempt < 3:
            raise OSError("again")
        return StopEvent()

    colour.set("caller's")
    await Workflow("variables", [work]).run()
    assert seen == ["caller's"] * 3


# ---- what a run returns


async def test_the_result_is_the_stop_events_own_object() -> None:
    result, stop = object(), []

    @step
    async def work(ev: StartEvent) -> StopEvent:
        stop.append(StopEvent(result=result))
        return stop[0]

    outcome = await Workflow("identity", [work]).run()
    assert outcome.result is result
    assert outcome.event is stop[0]


async def test_a_typed_stop_event_is_the_runs_event_and_has_no_result() -> None:
    @step
    async def work(ev: StartEvent) -> Receipt:
        return Receipt(total=3)

    outcome = await Workflow("typed", [work]).run()
    assert outcome.event == Receipt(total=3)
    assert outcome.result is None


async def test_the_result_sums_the_usage_that_steps_report() -> None:
    @step
    async def start(ctx: Context, ev: StartEvent) -> Number:
        ctx.emit_usage(UsageEvent(provider="p", model="m", input_tokens=3, output_tokens=5, cost_usd=0.25))
        return Number()

    @step
    async def more(ctx: Context, ev: Number) -> StopEvent:
        ctx.emit_usage(UsageEvent(provider="p", model="m", input_tokens=4, output_tokens=1))
        ctx.emit_usage(UsageEvent(provider="q", model="m", cost_usd=0.5))
        return StopEvent()

    outcome = await Workflow("usage", [start, more]).run()
    totals = (outcome.total_input_tokens, outcome.total_output_tokens, outcome.total_cost_usd)
    assert totals == (7, 6, 0.75)


async def test_a_run_without_usage_has_totals_of_zero() -> None:
    outcome = await ECHO.run()
    assert (outcome.total_input_tokens, outcome.total_output_tokens, outcome.total_cost_usd) == (0, 0, 0.0)


async def test_every_run_has_a_uuid_of_its_own_that_steps_see_too() -> None:
    @step
    async def work(ctx: Context, ev: StartEvent) -> StopEvent:
        return StopEvent(result=ctx.run_id())

    workflow = Workflow("ids", [work])
    first, second = await workflow.run(), await workflow.run()
    assert first.result == first.run_id
    assert second.result == second.run_id
    assert first.run_id != second.run_id
    assert str(uuid.UUID(first.run_id)) == first.run_id
    assert uuid.UUID(first.run_id).version == 4


async def test_a_run_that_has_ended_is_not_kept_alive() -> None:
    class Big:
        pass

    @step
    async def work(ctx: Context, ev: StartEvent) -> StopEvent:
        ctx.session["big"] = ev.data
        await trio.lowlevel.checkpoint()
        return StopEvent(result=1)

    workflow = Workflow("memory", [work])
    big = Big()
    gone = weakref.ref(big)
    outcome = await workflow.run(big)
    del big
    gc.collect()
    assert gone() is None
    assert outcome.result == 1


async def test_run_takes_a_checkpoint_even_when_no_step_waits() -> None:
    with trio.testing.assert_checkpoints():
        await ECHO.run()


async def test_a_long_chain_lets_other_tasks_run() -> None:
    stop = False

    async def other() -> None:
        nonlocal stop
        for _ in range(5):
            await trio.lowlevel.checkpoint()
        stop = True

    @step
    async def start(ev: StartEvent) -> Number:
        return Number()

    @step
    def spin(ev: Number) -> Number | StopEvent:
        return StopEvent() if stop else ev

    async with trio.open_nursery() as nursery:
        nursery.start_soon(other)
        await Workflow("fair", [start, spin]).run()


# ---- options


async def test_options_set_the_run_id() -> None:
    run_id = "12345678-1234-4234-8234-123456789abc"
    assert (await ECHO.options(run_id=run_id).run()).run_id == run_id
    assert (await ECHO.run()).run_id != run_id


@pytest.mark.parametrize("run_id", ["", "not a uuid", 7, b"12345678-1234-4234-8234-123456789abc"])
def test_a_run_id_that_is_no_uuid_is_refused(run_id: Any) -> None:
    with pytest.raises(ValidationError, match="run_id must be a UUID"):
        ECHO.options(run_id=run_id)


async def test_options_give_the_steps_the_very_session() -> None:
    @step
    async def work(ctx: Context, ev: StartEvent) -> StopEvent:
        ctx.session["seen"] = ctx.session["given"]
        return StopEvent()

    session: dict[str, object] = {"given": object()}
    await Workflow("session", [work]).options(session=session).run()
    assert session["seen"] is session["given"]


async def test_without_options_each_run_has_an_empty_session() -> None:
    @step
    async def work(ctx: Context, ev: StartEvent) -> StopEvent:
        before = dict(ctx.session)
        ctx.session["left"] = 1
        return StopEvent(result=before)

    workflow = Workflow("session", [work])
    assert [(await workflow.run()).result for _ in range(2)] == [{}, {}]


async def test_options_leave_the_workflow_as_it_is_and_add_up(autojump_clock: MockClock) -> None:
    @step
    async def work(ev: StartEvent) -> StopEvent:
        await trio.sleep(10)
        return StopEvent(result="done")

    workflow = Workflow("options", [work], timeout=20)
    run_id = str(uuid.uuid4())
    short = workflow.options(run_id=run_id).options(timeout=5)
    with pytest.raises(TimeoutError) as caught:
        await short.run()
    assert caught.value.run_id == run_id  # type: ignore[attr-defined]
    assert (await workflow.run()).result == "done"


@pytest.mark.parametrize("seconds", [0, -1, float("nan"), float("inf"), True, "5", 1e12])
def test_a_timeout_that_is_not_positive_and_finite_is_refused(seconds: Any) -> None:
    with pytest.raises(ValidationError, match="timeout"):
        ECHO.options(timeout=seconds)
    with pytest.raises(ValidationError, match="timeout"):
        Workflow("bad", [echo], timeout=seconds)
    with pytest.raises(ValidationError, match="step_timeout"):
        Workflow("bad", [echo], step_timeout=seconds)
    with pytest.raises(ValidationError, match="timeout"):
        WorkflowBuilder("bad").timeout(seconds)


async def test_a_builder_makes_the_same_workflow_whatever_the_order_of_calls(autojump_clock: MockClock) -> None:
    async def slow(ev: StartEvent) -> StopEvent:
        await trio.sleep(10)
        return StopEvent()

    for builder in (
        WorkflowBuilder("w").step_timeout(5).step(slow).timeout(50),
        WorkflowBuilder("w").timeout(50).step(slow).step_timeout(5),
    ):
        with pytest.raises(TimeoutError) as caught:
            await builder.build().run()
        assert (caught.value.step, caught.value.elapsed_ms) == ("slow", 5000)  # type: ignore[attr-defined]


# ---- where a run may be started


def test_a_run_outside_of_trio_is_refused() -> None:
    coroutine = ECHO.run()
    with pytest.raises(ValidationError, match="outside of trio"):
        coroutine.send(None)
    with pytest.raises(ValidationError, match="outside of trio"):
        ECHO.run_with_handler()


def test_a_run_inside_asyncio_is_refused() -> None:
    async def main() -> None:
        await ECHO.run()

    with pytest.raises(ValidationError, match="outside of trio"):
        asyncio.run(main())


# ---- runs that come to nothing


@pytest.mark.parametrize("answer", [None, []])
async def test_a_run_whose_step_returns_nothing_is_idle_and_fails_at_once(answer: Any) -> None:
    @step
    async def work(ev: StartEvent) -> StopEvent | None:
        return answer  # type: ignore[no-any-return]

    with pytest.raises(WorkflowError, match="idle"):
        await Workflow("idle", [work]).run()


async def test_a_join_that_never_completes_is_idle() -> None:
    @step
    async def start(ev: StartEvent) -> list[Done]:
        return [Done(n=1), Done(n=2)]

    with pytest.raises(WorkflowError, match="idle"):
        await Workflow("idle", [start, summing(3)]).run()


async def test_a_run_is_idle_only_after_its_last_step_is_out(autojump_clock: MockClock) -> None:
    @step
    async def start(ev: StartEvent) -> list[Number]:
        return [Number(n=n) for n in range(1, 4)]

    @step
    async def work(ev: Number) -> StopEvent | None:
        await trio.sleep(ev.n)
        return None

    with pytest.raises(WorkflowError, match="idle"):
        await Workflow("idle", [start, work]).run()
    assert trio.current_time() == 3.0


async def test_a_thread_step_that_returns_nothing_leaves_the_run_idle() -> None:
    @step(run="thread")
    def work(ev: StartEvent) -> StopEvent | None:
        return None

    with pytest.raises(WorkflowError, match="idle"):
        await Workflow("idle", [work]).run()


async def test_a_run_under_a_handler_is_idle_as_well() -> None:
    @step
    async def work(ev: StartEvent) -> StopEvent | None:
        return None

    with pytest.raises(WorkflowError, match="idle"):
        async with Workflow("idle", [work]).run_with_handler() as handler:
            await handler.result()


async def test_an_event_nobody_accepts_names_its_type_and_who_returned_it() -> None:
    @step
    async def work(ev: StartEvent) -> Event:
        return Number()

    @step
    async def other(ev: Letter) -> StopEvent:
        return StopEvent()

    with pytest.raises(WorkflowError, match=r"'Number'.*'work'") as caught:
        await Workflow("lost", [work, other]).run()
    assert (caught.value.step, caught.value.event_type) == ("work", "Number")


async def test_sending_an_event_nobody_accepts_fails_at_the_call() -> None:
    @step
    async def work(ctx: Context, ev: StartEvent) -> StopEvent:
        with pytest.raises(WorkflowError, match=r"'Number'.*'work'"):
            ctx.send_event(Number())
        return StopEvent(result="went on")

    assert (await Workflow("lost", [work]).run()).result == "went on"


async def test_sending_something_that_is_no_event_fails_at_the_call() -> None:
    @step
    async def work(ctx: Context, ev: StartEvent) -> StopEvent:
        with pytest.raises(ValidationError, match="send_event takes an event"):
            ctx.send_event("text")  # type: ignore[arg-type]
        return StopEvent(result="went on")

    assert (await Workflow("lost", [work]).run()).result == "went on"


async def test_one_event_of_a_list_that_nobody_accepts_keeps_all_of_it_from_being_dispatched() -> None:
    taken = []

    @step
    async def work(ev: StartEvent) -> Any:
        return [Number(), Letter()]

    @step
    async def take(ev: Number) -> StopEvent:
        taken.append(ev)
        return StopEvent()

    with pytest.raises(WorkflowError, match="'Letter'"):
        await Workflow("lost", [work, take]).run()
    assert not taken


async def test_every_failure_is_a_blazen_error_with_the_id_of_its_run() -> None:
    @step
    async def work(ctx: Context, ev: StartEvent) -> Any:
        ids.append(ctx.run_id())
        return ev.data

    ids: list[str] = []
    workflow = Workflow("ids", [work])
    for answer in (7, None, Number()):
        with pytest.raises(BlazenError) as caught:
            await workflow.run(answer)
        assert caught.value.run_id == ids[-1]  # type: ignore[attr-defined]
