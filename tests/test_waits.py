"""Waiting in the middle of a step: `ctx.request_input` and `ctx.wait_for_event`."""

from __future__ import annotations

from typing import Any, Literal

import pytest
import trio
from trio.testing import MockClock, wait_all_tasks_blocked

from blazen import (
    Context,
    DynamicEvent,
    Event,
    InputRequestEvent,
    InputResponseEvent,
    Retry,
    StartEvent,
    StopEvent,
    Workflow,
    step,
)
from blazen.errors import CancelledError, TimeoutError, ValidationError, WorkflowError


class Paid(Event):
    order: int
    amount: float = 0.0


class Go(Event):
    n: int = 0


async def until_waiting(handler: Any) -> None:
    while handler.state != "waiting":
        await trio.sleep(0.001)


def asking(**options: Any) -> Workflow[Any]:
    @step
    async def ask(ctx: Context, ev: StartEvent) -> StopEvent:
        return StopEvent(result=await ctx.request_input("Ship it?", **options))

    return Workflow("asking", [ask])


# --- questions


async def test_a_step_asks_in_its_middle_and_goes_on_with_the_answer(autojump_clock: MockClock) -> None:
    async with asking(metadata={"size": 3}).run_with_handler() as handler:
        await until_waiting(handler)
        (question,) = handler.pending_inputs()
        assert question.prompt == "Ship it?"
        assert question.metadata == {"size": 3}
        handler.respond_to_input(question.request_id, "yes")
        assert handler.pending_inputs() == []
        assert (await handler.result()).result == "yes"
    shown = [event async for event in handler.stream_events()]
    assert shown == [question]


async def test_the_answer_to_a_step_is_not_routed_to_other_steps(autojump_clock: MockClock) -> None:
    routed: list[object] = []

    @step
    async def ask(ctx: Context, ev: StartEvent) -> StopEvent:
        answer = await ctx.request_input("?")
        await trio.sleep(1)
        return StopEvent(result=answer)

    @step
    async def answers(ev: InputResponseEvent) -> None:
        routed.append(ev)

    async with Workflow("w", [ask, answers]).run_with_handler() as handler:
        await until_waiting(handler)
        handler.respond_to_input(handler.pending_inputs()[0].request_id, 1)
        await handler.result()
    assert routed == []


async def test_only_the_step_that_asks_waits(autojump_clock: MockClock) -> None:
    done: list[int] = []

    @step
    async def begin(ev: StartEvent) -> list[Go]:
        return [Go(n=n) for n in range(3)]

    @step
    async def work(ctx: Context, ev: Go) -> StopEvent | None:
        if ev.n == 0:
            await ctx.request_input("?")
            return StopEvent(result=sorted(done))
        await trio.sleep(1)
        done.append(ev.n)
        return None

    async with Workflow("w", [begin, work]).run_with_handler() as handler:
        await trio.sleep(0.5)
        assert handler.state == "running"
        await trio.sleep(1)
        assert handler.state == "waiting"
        assert sorted(done) == [1, 2]
        handler.respond_to_input(handler.pending_inputs()[0].request_id, None)
        assert (await handler.result()).result == [1, 2]


async def test_none_is_an_answer(autojump_clock: MockClock) -> None:
    async with asking(timeout=5.0, default="nobody").run_with_handler() as handler:
        await wait_all_tasks_blocked()
        handler.respond_to_input(handler.pending_inputs()[0].request_id, None)
        assert (await handler.result()).result is None


@pytest.mark.parametrize(
    ("schema", "good", "bad", "path"),
    [
        (bool, True, "yes", "$"),
        (list[int], [1, 2], [1, "2"], "$[1]"),
        (Literal["a", "b"], "a", "c", "$"),
        (dict[str, float], {"x": 1.0}, {"x": None}, "$[...]"),
    ],
)
async def test_an_answer_that_does_not_fit_is_refused_and_the_question_stays_open(
    schema: Any, good: object, bad: object, path: str, autojump_clock: MockClock
) -> None:
    async with asking(schema=schema).run_with_handler() as handler:
        await until_waiting(handler)
        question = handler.pending_inputs()[0]
        with pytest.raises(ValidationError, match="does not fit what was asked for") as caught:
            handler.respond_to_input(question.request_id, bad)
        assert caught.value.path == path
        assert handler.pending_inputs() == [question]
        handler.respond_to_input(question.request_id, good)
        assert (await handler.result()).result == good


async def test_a_question_is_answered_exactly_once(autojump_clock: MockClock) -> None:
    @step
    async def ask(ctx: Context, ev: StartEvent) -> StopEvent:
        answer = await ctx.request_input("?")
        await trio.sleep(1)
        return StopEvent(result=answer)

    async with Workflow("w", [ask]).run_with_handler() as handler:
        await until_waiting(handler)
        request_id = handler.pending_inputs()[0].request_id
        handler.respond_to_input(request_id, "first")
        for _ in range(2):
            with pytest.raises(ValidationError, match="no open question has the id"):
                handler.respond_to_input(request_id, "second")
            await wait_all_tasks_blocked()
        assert (await handler.result()).result == "first"


async def test_two_questions_of_one_step_may_be_open_at_once(autojump_clock: MockClock) -> None:
    @step
    async def ask(ctx: Context, ev: StartEvent) -> StopEvent:
        answers: dict[str, object] = {}

        async def one(prompt: str) -> None:
            answers[prompt] = await ctx.request_input(prompt)

        async with trio.open_nursery() as nursery:
            nursery.start_soon(one, "a")
            nursery.start_soon(one, "b")
        return StopEvent(result=answers)

    async with Workflow("w", [ask]).run_with_handler() as handler:
        await until_waiting(handler)
        for question in reversed(handler.pending_inputs()):
            handler.respond_to_input(question.request_id, question.prompt * 2)
            await wait_all_tasks_blocked()
        assert (await handler.result()).result == {"a": "aa", "b": "bb"}


async def test_a_question_nobody_answers_in_time_times_out_or_gives_its_default(autojump_clock: MockClock) -> None:
    async with asking(timeout=30.0, default="no").run_with_handler() as handler:
        assert (await handler.result()).result == "no"
        assert handler.pending_inputs() == []
    assert trio.current_time() == 30.0
    with pytest.raises(TimeoutError, match="waited 2 s for an answer to 'Ship it") as caught:
        async with asking(timeout=2.0).run_with_handler() as handler:
            pass
    assert caught.value.elapsed_ms == 2000
    assert caught.value.step == "ask"
    assert handler.pending_inputs() == []


async def test_a_plain_run_that_asks_fails_at_once_and_says_how_to_answer() -> None:
    with pytest.raises(WorkflowError, match=r"nobody can answer a plain run\(\)"):
        await asking().run()


async def test_a_retry_gets_the_same_answers_and_nobody_is_asked_twice(autojump_clock: MockClock) -> None:
    @step(retries=Retry(2, initial=1.0, jitter=0.0))
    async def ask(ctx: Context, ev: StartEvent) -> StopEvent:
        first = await ctx.request_input("first?")
        if ctx.attempt == 1:
            raise OSError("after the first answer")
        second = await ctx.request_input("second?")
        if ctx.attempt == 2:
            raise OSError("after the second answer")
        return StopEvent(result=[first, second, ctx.attempt])

    async with Workflow("w", [ask]).run_with_handler() as handler:
        async for event in handler.stream_events():
            assert isinstance(event, InputRequestEvent)
            handler.respond_to_input(event.request_id, event.prompt.upper())
        assert (await handler.result()).result == ["FIRST?", "SECOND?", 3]
    assert len([event async for event in handler.stream_events()]) == 2


async def test_an_answer_belongs_to_one_event_and_not_to_the_next_that_the_step_gets(autojump_clock: MockClock) -> None:
    @step
    async def begin(ev: StartEvent) -> list[Go]:
        return [Go(n=1), Go(n=2)]

    @step(max_concurrency=1)
    async def ask(ctx: Context, ev: Go) -> StopEvent | None:
        answer = await ctx.request_input(f"{ev.n}?")
        ctx.set(str(ev.n), answer)
        return StopEvent(result=[ctx.get("1"), ctx.get("2")]) if ctx.has("1") and ctx.has("2") else None

    async with Workflow("w", [begin, ask]).run_with_handler() as handler:
        async for event in handler.stream_events():
            assert isinstance(event, InputRequestEvent)
            handler.respond_to_input(event.request_id, event.prompt)
        assert (await handler.result()).result == ["1?", "2?"]


async def test_cancelling_a_run_or_a_step_that_asks_closes_its_question(autojump_clock: MockClock) -> None:
    @step
    async def begin(ev: StartEvent) -> list[Go]:
        return [Go(n=1), Go(n=2)]

    @step
    async def ask(ctx: Context, ev: Go) -> StopEvent:
        await ctx.request_input("?")
        return StopEvent()

    @step
    async def wait(ev: Go) -> StopEvent:
        await trio.sleep(10)
        return StopEvent()

    async with Workflow("w", [begin, ask, wait]).run_with_handler() as handler:
        await trio.sleep(1)
        assert len(handler.pending_inputs()) == 2
        handler.cancel_step("ask")
        await trio.sleep(1)
        assert handler.pending_inputs() == []
        assert handler.state == "running"
        handler.cancel("enough")
        with pytest.raises(CancelledError):
            await handler.result()


async def test_an_answer_to_a_step_that_was_just_cancelled_is_refused_and_not_routed(
    autojump_clock: MockClock,
) -> None:
    routed: list[object] = []

    @step
    async def begin(ev: StartEvent) -> Go:
        return Go()

    @step
    async def ask(ctx: Context, ev: Go) -> StopEvent:
        await ctx.request_input("?")
        return StopEvent()

    @step
    async def other(ev: Go) -> StopEvent:
        await trio.sleep(10)
        return StopEvent()

    @step
    async def answers(ev: InputResponseEvent) -> None:
        routed.append(ev)

    async with Workflow("w", [begin, ask, other, answers]).run_with_handler() as handler:
        await trio.sleep(1)
        (question,) = handler.pending_inputs()
        handler.cancel_step("ask")  # told, and not out yet
        with pytest.raises(ValidationError, match="no open question has the id"):
            handler.respond_to_input(question.request_id, "late")
        await handler.result()
    assert routed == []


@pytest.mark.parametrize("when", ["while it waits", "before"])
async def test_a_thread_step_that_waits_is_told_to_stop_at_once_and_is_not_abandoned(when: str) -> None:
    raised: list[str] = []

    @step(run="thread")
    def ask(ctx: Context, ev: StartEvent) -> StopEvent:
        if when == "before":
            trio.from_thread.run_sync(handler.cancel)
        try:
            trio.from_thread.run(ctx.request_input, "?")
        except CancelledError as exc:
            raised.append(type(exc).__name__)
            raise
        return StopEvent()

    # In real time: a clock that leaps would leap over the grace of a thread.
    async with Workflow("w", [ask], cleanup_grace=3600.0).run_with_handler() as handler:
        if when == "while it waits":
            async for _ in handler.stream_events():
                handler.cancel()
        with pytest.raises(CancelledError) as caught:
            await handler.result()
    assert raised == ["CancelledError"]
    assert caught.value.abandoned == ()
    assert caught.value.suppressed == ()


async def test_a_question_from_a_thread_step_goes_through_the_loop(autojump_clock: MockClock) -> None:
    @step(run="thread")
    def ask(ctx: Context, ev: StartEvent) -> StopEvent:
        with pytest.raises(ValidationError, match=r"trio\.from_thread\.run"):
            ctx.request_input("?").send(None)
        return StopEvent(result=trio.from_thread.run(ctx.request_input, "from a thread?"))

    async with Workflow("w", [ask]).run_with_handler() as handler:
        async for event in handler.stream_events():
            assert isinstance(event, InputRequestEvent)
            handler.respond_to_input(event.request_id, "yes")
        assert (await handler.result()).result == "yes"


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        ({"prompt": 1}, "prompt must be a str"),
        ({"metadata": [1]}, "metadata must be a dict"),
        ({"timeout": -1}, "timeout must be"),
        ({"timeout": float("nan")}, "timeout must be"),
        ({"default": 1}, "give a timeout too"),
        ({"schema": 3}, "schema must be a type"),
    ],
)
async def test_what_cannot_be_asked_is_refused_and_nobody_sees_a_question(
    arguments: dict[str, Any], complaint: str
) -> None:
    @step
    async def ask(ctx: Context, ev: StartEvent) -> StopEvent:
        with pytest.raises(ValidationError, match=complaint):
            await ctx.request_input(**{"prompt": "?", **arguments})
        return StopEvent()

    async with Workflow("w", [ask]).run_with_handler() as handler:
        await handler.result()
    assert [event async for event in handler.stream_events()] == []


# --- clocks


async def test_the_steps_clock_stands_still_while_it_waits(autojump_clock: MockClock) -> None:
    @step(timeout=2.0)
    async def ask(ctx: Context, ev: StartEvent) -> StopEvent:
        await trio.sleep(1)
        await ctx.request_input("?")
        await ctx.wait_for_event(Go)
        await trio.sleep(ev.more)
        return StopEvent()

    async def drive(more: float) -> None:
        async with Workflow("w", [ask]).run_with_handler(more=more) as handler:
            await trio.sleep(100)
            handler.respond_to_input(handler.pending_inputs()[0].request_id, 1)
            await trio.sleep(100)
            handler.send_event(DynamicEvent("Go", {"n": 1}))

    await drive(0.9)
    with pytest.raises(TimeoutError) as caught:
        await drive(1.1)
    assert caught.value.step == "ask"
    assert caught.value.elapsed_ms == 2000
    assert trio.current_time() == pytest.approx(200.9 + 201)


async def test_the_clock_of_a_step_that_asks_from_a_task_of_its_own_goes_on_afterwards(
    autojump_clock: MockClock,
) -> None:
    @step(timeout=2.0)
    async def ask(ctx: Context, ev: StartEvent) -> StopEvent:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(ctx.request_input, "?")
            await trio.sleep_forever()
        return StopEvent()

    async with Workflow("w", [ask]).run_with_handler() as handler:
        await trio.sleep(50)
        handler.respond_to_input(handler.pending_inputs()[0].request_id, 1)
        with pytest.raises(TimeoutError) as caught:
            await handler.result()
    assert caught.value.step == "ask"
    assert trio.current_time() == pytest.approx(52)


@pytest.mark.parametrize("way", ["returned", "awaited"])
async def test_the_runs_clock_stands_still_while_it_waits_for_an_answer_only(
    way: str, autojump_clock: MockClock
) -> None:
    @step
    async def begin(ctx: Context, ev: StartEvent) -> InputRequestEvent | Go:
        await trio.sleep(1)
        if way == "returned":
            return InputRequestEvent(prompt="?")
        await ctx.request_input("?")
        return Go()

    @step
    async def end(ev: InputResponseEvent | Go) -> StopEvent:
        await trio.sleep(3)
        return StopEvent()

    async def drive(timeout: float) -> None:
        async with Workflow("w", [begin, end], timeout=timeout).run_with_handler() as handler:
            await trio.sleep(1000)
            handler.respond_to_input(handler.pending_inputs()[0].request_id, 1)

    await drive(4.5)
    with pytest.raises(TimeoutError) as caught:
        await drive(3.5)
    assert caught.value.step is None
    assert caught.value.elapsed_ms == 3500
    assert trio.current_time() == pytest.approx(1003 + 1002.5)


async def test_the_runs_clock_goes_on_while_another_step_works(autojump_clock: MockClock) -> None:
    @step
    async def begin(ev: StartEvent) -> list[Go]:
        return [Go(n=1), Go(n=2)]

    @step
    async def work(ctx: Context, ev: Go) -> StopEvent:
        if ev.n == 1:
            await ctx.request_input("?")
        await trio.sleep(10)
        return StopEvent()

    with pytest.raises(TimeoutError):
        async with Workflow("w", [begin, work], timeout=5.0).run_with_handler():
            pass
    assert trio.current_time() == 5.0


# --- events


async def test_a_step_waits_for_an_event_that_another_step_sends(autojump_clock: MockClock) -> None:
    @step(waits=[Paid])
    async def order(ctx: Context, ev: StartEvent) -> StopEvent:
        ctx.send_event(Go(n=7))
        paid = await ctx.wait_for_event(Paid, order=7)
        return StopEvent(result=paid.amount)

    @step
    async def pay(ev: Go) -> list[Paid]:
        await trio.sleep(1)
        return [Paid(order=6, amount=1.0), Paid(order=7, amount=2.5)]

    workflow: Workflow[float] = Workflow("w", [order, pay])
    assert (await workflow.run()).result == 2.5
    async with workflow.run_with_handler() as handler:
        assert (await handler.result()).result == 2.5


async def test_an_event_goes_to_every_wait_that_it_matches_and_to_the_steps_that_accept_it(
    autojump_clock: MockClock,
) -> None:
    seen: list[str] = []

    @step
    async def begin(ev: StartEvent) -> list[Go]:
        return [Go(n=1), Go(n=2), Go(n=3)]

    @step
    async def wait(ctx: Context, ev: Go) -> None:
        paid = await ctx.wait_for_event(Paid, where=lambda paid: paid.order != ev.n)
        seen.append(f"{ev.n} got {paid.order}")

    @step
    async def accept(ev: Paid) -> StopEvent | None:
        await trio.sleep(1)
        seen.append(f"accepted {ev.order}")
        return StopEvent() if ev.order == 9 else None

    async with Workflow("w", [begin, wait, accept]).run_with_handler() as handler:
        await until_waiting(handler)
        handler.send_event(Paid(order=1))
        await trio.sleep(2)
        assert sorted(seen) == ["2 got 1", "3 got 1", "accepted 1"]
        handler.send_event(Paid(order=9))
    assert sorted(seen[3:]) == ["1 got 9", "accepted 9"]


async def test_an_event_of_a_declared_type_that_comes_early_is_kept_for_the_wait(autojump_clock: MockClock) -> None:
    @step(waits=[Paid])
    async def order(ctx: Context, ev: StartEvent) -> StopEvent:
        await trio.sleep(5)
        second = await ctx.wait_for_event(Paid, order=2)
        first = await ctx.wait_for_event(Paid)
        return StopEvent(result=[second.amount, first.amount])

    async with Workflow("w", [order]).run_with_handler() as handler:
        handler.send_event(Paid(order=1, amount=0.1))
        handler.send_event(Paid(order=2, amount=0.2))
        handler.send_event(Paid(order=2, amount=0.3))
        assert (await handler.result()).result == [0.2, 0.1]


async def test_an_undeclared_event_is_accepted_only_while_somebody_waits_for_it(autojump_clock: MockClock) -> None:
    @step
    async def order(ctx: Context, ev: StartEvent) -> StopEvent:
        await trio.sleep(5)
        return StopEvent(result=(await ctx.wait_for_event("Paid", order=1)).data)

    async with Workflow("w", [order]).run_with_handler() as handler:
        with pytest.raises(WorkflowError, match="no step of workflow 'w' accepts 'Paid'"):
            handler.send_event(DynamicEvent("Paid", {"order": 1}))
        await trio.sleep(6)
        with pytest.raises(WorkflowError, match="accepts 'Paid'"):
            handler.send_event(DynamicEvent("Paid", {"order": 2}))
        handler.send_event(DynamicEvent("Paid", {"order": 1, "more": True}))
        assert (await handler.result()).result == {"order": 1, "more": True}


async def test_a_dynamic_event_is_converted_for_a_wait_and_refused_if_it_does_not_fit(
    autojump_clock: MockClock,
) -> None:
    @step(waits=[Paid])
    async def order(ctx: Context, ev: StartEvent) -> StopEvent:
        return StopEvent(result=await ctx.wait_for_event(Paid))

    async with Workflow("w", [order]).run_with_handler() as handler:
        await until_waiting(handler)
        with pytest.raises(WorkflowError, match="waits for 'Paid' and cannot take"):
            handler.send_event(DynamicEvent("Paid", {"order": "seven"}))
        await trio.to_thread.run_sync(handler.send_event, DynamicEvent("Paid", {"order": 7}))
        assert (await handler.result()).result == Paid(order=7)


async def test_a_wait_for_an_event_times_out_and_a_retry_gets_what_came_before(autojump_clock: MockClock) -> None:
    @step(waits=[Paid], retries=1)
    async def order(ctx: Context, ev: StartEvent) -> StopEvent:
        first = await ctx.wait_for_event(Paid, timeout=10.0)
        second = await ctx.wait_for_event(Paid, timeout=10.0)
        return StopEvent(result=[first.order, second.order, ctx.attempt])

    async with Workflow("w", [order]).run_with_handler() as handler:
        await trio.sleep(5)
        handler.send_event(Paid(order=1))
        await trio.sleep(15)  # the second wait is over; the next attempt waits for it again
        handler.send_event(Paid(order=2))
        assert (await handler.result()).result == [1, 2, 2]


async def test_a_plain_run_in_which_everybody_waits_is_idle_and_fails_at_once(autojump_clock: MockClock) -> None:
    @step(waits=[Paid])
    async def order(ctx: Context, ev: StartEvent) -> StopEvent:
        await ctx.wait_for_event(Paid)
        return StopEvent()

    @step
    async def other(ev: StartEvent) -> None:
        await trio.sleep(3)

    for steps in ([order], [order, other]):
        with pytest.raises(WorkflowError, match="idle: step 'order' waits for an event"):
            await Workflow("w", steps).run()
    assert trio.current_time() == 3.0


async def test_a_plain_run_with_a_wait_that_ends_by_itself_is_not_idle(autojump_clock: MockClock) -> None:
    @step(waits=[Paid])
    async def order(ctx: Context, ev: StartEvent) -> StopEvent:
        with pytest.raises(TimeoutError):
            await ctx.wait_for_event(Paid, timeout=3.0)
        return StopEvent(result="went on")

    assert (await Workflow("w", [order]).run()).result == "went on"


async def test_a_condition_that_raises_tells_the_sender_and_leaves_the_wait(autojump_clock: MockClock) -> None:
    @step(waits=[Paid])
    async def order(ctx: Context, ev: StartEvent) -> StopEvent:
        paid = await ctx.wait_for_event(Paid, where=lambda paid: 1 / paid.order > 0)
        return StopEvent(result=paid.order)

    async with Workflow("w", [order]).run_with_handler() as handler:
        await until_waiting(handler)
        with pytest.raises(WorkflowError, match=r"where= of wait_for_event.*ZeroDivisionError"):
            handler.send_event(Paid(order=0))
        handler.send_event(Paid(order=5))
        assert (await handler.result()).result == 5


class Measured(Event):
    values: Any


async def test_a_field_that_cannot_be_compared_is_told_to_the_sender(autojump_clock: MockClock) -> None:
    np = pytest.importorskip("numpy")
    wanted = np.arange(3)

    @step(waits=[Measured])
    async def only(ctx: Context, ev: StartEvent) -> StopEvent:
        measured = await ctx.wait_for_event(Measured, values=wanted)
        return StopEvent(result=measured.values)

    async with Workflow("w", [only]).run_with_handler() as handler:
        await until_waiting(handler)
        with pytest.raises(WorkflowError, match=r"compare the field 'values' of an event 'Measured' .*where="):
            handler.send_event(Measured(np.arange(3)))
        handler.send_event(Measured(wanted))
        assert (await handler.result()).result is wanted


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        ((7,), "takes an event class or a type name"),
        ((Event,), "takes an event class or a type name"),
        ((StopEvent,), "cannot be waited for"),
        ((" ",), "takes an event class or a type name"),
        ((Paid, {"where": 3}), "where must be a function"),
        ((Paid, {"colour": "red"}), "Paid has no field 'colour'"),
        ((Paid, {"timeout": 0}), "timeout must be"),
    ],
)
async def test_what_cannot_be_waited_for_is_refused(arguments: tuple[Any, ...], complaint: str) -> None:
    @step
    async def order(ctx: Context, ev: StartEvent) -> StopEvent:
        with pytest.raises(ValidationError, match=complaint):
            await ctx.wait_for_event(arguments[0], **(arguments[1] if len(arguments) > 1 else {}))
        return StopEvent()

    await Workflow("w", [order]).run()


async def test_a_step_that_is_aborted_while_it_waits_unwinds_and_its_event_goes_to_the_next(
    autojump_clock: MockClock,
) -> None:
    unwound: list[int] = []

    @step
    async def begin(ev: StartEvent) -> Go:
        await trio.sleep(10)
        return Go(n=1)

    @step(waits=[Paid])
    async def order(ctx: Context, ev: Go) -> StopEvent:
        try:
            return StopEvent(result=(await ctx.wait_for_event(Paid)).order)
        finally:
            unwound.append(ev.n)

    async with Workflow("w", [begin, order]).run_with_handler() as handler:
        handler.send_event(Go(n=2))
        await wait_all_tasks_blocked()
        handler.cancel_step("order")
        await wait_all_tasks_blocked()
        assert unwound == [2]
        handler.send_event(Paid(order=3))  # nobody waits: it is kept
        handler.send_event(Go(n=4))
        assert (await handler.result()).result == 3
