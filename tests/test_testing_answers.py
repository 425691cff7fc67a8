"""Steps that ask or wait in their middle, and steps with guards, in the test kit."""

from __future__ import annotations

from typing import Any

import pytest
import trio
import trio.testing

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
from blazen.errors import TimeoutError, ValidationError, WorkflowError
from blazen.testing import (
    UNANSWERED,
    RunOutcome,
    cancel_everywhere,
    fail_everywhere,
    run_seeds,
    run_step,
    run_step_sync,
    run_step_with_sync,
    watch,
)


class Order(Event):
    total: int = 0


class Paid(Event):
    order: int
    amount: float = 0.0


class Go(Event):
    n: int = 0


@step
async def ship(ctx: Context, ev: Order) -> StopEvent:
    sure = await ctx.request_input("Ship it?", schema=bool, metadata={"total": ev.total})
    where = await ctx.request_input("Where to?", timeout=60.0, default="home")
    return StopEvent(result=(sure, where))


@step(waits=[Paid])
async def bill(ctx: Context, ev: Order) -> StopEvent:
    paid = await ctx.wait_for_event(Paid, order=7)
    return StopEvent(result=paid.amount)


# --- one step: questions


@pytest.mark.parametrize(
    "answers",
    [
        {"Ship it?": True, "Where to?": "Ulm", "Never asked?": 1},
        [True, "Ulm"],
        (True, "Ulm", "not asked for"),
        lambda question: True if question.metadata else "Ulm",
    ],
    ids=["dict", "list", "more than is asked for", "function"],
)
def test_a_step_that_asks_is_answered_and_the_outcome_has_what_it_asked(answers: Any) -> None:
    outcome = run_step_sync(ship, Order(total=3), answers=answers)
    assert outcome.event == StopEvent(result=(True, "Ulm"))
    assert [question.prompt for question in outcome.questions] == ["Ship it?", "Where to?"]
    assert outcome.questions[0].metadata == {"total": 3}
    assert outcome.stream == outcome.questions


@pytest.mark.parametrize(
    ("answers", "message"),
    [
        (None, r"step 'ship': 'Ship it\?' is asked.*give answers=\{'Ship it\?': \.\.\.\}"),
        ({}, r"'Ship it\?' is asked.*answers= has nothing; add 'Ship it\?'"),
        ({"Ship it?": True}, r"'Where to\?' is asked.*answers= has 'Ship it\?'; add 'Where to\?'"),
        ([True], r"'Where to\?' is asked.*it is question 2, and answers= is a list of 1"),
        (["yes"], r"answers= has 'yes' for 'Ship it\?', which does not fit.*: Expected `bool`, got `str`$"),
        ({"Ship it?": UNANSWERED}, r"waits for an answer to 'Ship it\?', which answers= leaves UNANSWERED.*no timeout"),
    ],
)
@pytest.mark.parametrize("keep_error", [False, True])
async def test_a_question_without_an_answer_is_an_error_that_says_what_to_give(
    answers: Any, message: str, keep_error: bool
) -> None:
    with trio.fail_after(30), pytest.raises(ValidationError, match=message):
        await run_step(ship, Order(), answers=answers, keep_error=keep_error)


def test_what_a_step_makes_of_its_cancellation_does_not_hide_a_missing_answer() -> None:
    @step(retries=3, on_error=lambda ev, error: StopEvent(result="handled"))
    async def stubborn(ctx: Context, ev: Order) -> StopEvent:
        try:
            await ctx.request_input("Sure?")
        finally:
            raise OSError("in its cleanup")

    with pytest.warns(match="in its cleanup"), pytest.raises(ValidationError, match=r"'Sure\?' is asked"):
        run_step_sync(stubborn, Order(), retries=True, on_error=True)


def test_a_question_that_is_left_unanswered_comes_to_its_own_timeout() -> None:
    answers = {"Ship it?": False, "Where to?": UNANSWERED}
    assert run_step_sync(ship, Order(), answers=answers).event.result == (False, "home")

    @step
    async def strict(ctx: Context, ev: Order) -> None:
        await ctx.request_input("Sure?", timeout=3600.0)

    with pytest.raises(TimeoutError, match=r"waited 3600 s for an answer to 'Sure\?'"):
        run_step_sync(strict, Order(), answers=[UNANSWERED])


def test_a_function_that_raises_or_is_async_is_the_tests_own_mistake() -> None:
    def fails(question: InputRequestEvent) -> object:
        raise LookupError(question.prompt)

    async def waits(question: InputRequestEvent) -> object:
        return True

    with pytest.raises(LookupError, match=r"^Ship it\?$"):
        run_step_sync(ship, Order(), answers=fails, keep_error=True)
    with pytest.raises(ValidationError, match="answers= must be a plain function, and it is async"):
        run_step_sync(ship, Order(), answers=waits)


def test_an_attempt_that_begins_anew_is_not_answered_twice() -> None:
    @step(retries=Retry(1, on=OSError))
    async def again(ctx: Context, ev: Order) -> StopEvent:
        first = await ctx.request_input("First?")
        if ctx.attempt == 1:
            raise OSError
        return StopEvent(result=(first, await ctx.request_input("Second?")))

    outcome = run_step_sync(again, Order(), answers=[1, 2], retries=True)
    assert outcome.event.result == (1, 2)
    assert [question.prompt for question in outcome.questions] == ["First?", "Second?"]
    assert outcome.attempts == 2


def test_a_question_that_is_asked_again_by_a_retry_is_one_question() -> None:
    @step(retries=1)
    async def ask(ctx: Context, ev: Order) -> None:
        await ctx.request_input("Sure?", timeout=60.0)

    outcome = run_step_sync(ask, Order(), answers=[UNANSWERED], retries=True, keep_error=True)
    assert isinstance(outcome.error, TimeoutError)
    assert outcome.attempts == 2
    assert [question.prompt for question in outcome.questions] == ["Sure?"]


def test_a_question_that_is_left_open_takes_one_place_in_a_list() -> None:
    @step
    async def ask(ctx: Context, ev: Order) -> StopEvent:
        answers: list[object] = []

        async def first() -> None:
            answers.append(await ctx.request_input("First?", timeout=60.0, default="none"))

        async with trio.open_nursery() as nursery:
            nursery.start_soon(first)
            await trio.sleep(1)
            answers.append(await ctx.request_input("Second?"))
            answers.append(await ctx.request_input("Third?"))
        return StopEvent(result=answers)

    outcome = run_step_sync(ask, Order(), answers=[UNANSWERED, "b", "c"])
    assert outcome.event.result == ["b", "c", "none"]


def test_one_list_of_answers_is_for_all_inputs() -> None:
    @step
    async def ask(ctx: Context, ev: Go) -> StopEvent:
        return StopEvent(result=(ev.n, await ctx.request_input("Sure?")))

    outcome = run_step_with_sync(ask, [Go(n=1), Go(n=2)], answers=["a", "b"])
    assert [event.result for event in outcome.events] == [(1, "a"), (2, "b")]
    with pytest.raises(ValidationError, match="it is question 2"):
        run_step_with_sync(ask, [Go(n=1), Go(n=2)], answers=["a"])


def test_a_thread_step_is_answered_and_stops_at_once_where_there_is_no_answer() -> None:
    raised: list[str] = []

    @step(run="thread")
    def ask(ctx: Context, ev: Order) -> StopEvent:
        try:
            return StopEvent(result=trio.from_thread.run(ctx.request_input, "Sure?"))
        except Exception as exc:
            raised.append(type(exc).__name__)
            raise

    assert run_step_sync(ask, Order(), answers=["yes"]).event.result == "yes"
    with pytest.raises(ValidationError, match=r"'Sure\?' is asked"):
        run_step_sync(ask, Order())
    assert raised == ["CancelledError"]


def test_a_question_that_is_returned_or_sent_needs_no_answer() -> None:
    @step
    async def ask(ctx: Context, ev: Order) -> InputRequestEvent:
        ctx.send_event(InputRequestEvent(prompt="sent"))
        return InputRequestEvent(prompt="returned")

    outcome = run_step_sync(ask, Order(), answers={})
    assert [question.prompt for question in outcome.stream] == ["sent", "returned"]
    assert outcome.questions == []


@pytest.mark.parametrize("answers", ["yes", b"yes", 5, {1: "yes"}, StopEvent, {"a", "b"}])
async def test_what_cannot_be_answers_is_refused(answers: Any) -> None:
    workflow: Workflow[Any] = Workflow("w", [ship_from_the_start])
    with pytest.raises(ValidationError, match=r"step 'ship': answers"):
        await run_step(ship, Order(), answers=answers)
    with pytest.raises(ValidationError, match="watch: answers"):
        watch(workflow, answers=answers)


# --- one step: events


def test_a_wait_gets_the_first_of_the_events_that_matches_and_is_left() -> None:
    events = [Paid(order=6), DynamicEvent("Paid", {"order": 7, "amount": 1.5}), Paid(order=7, amount=2.5)]
    assert run_step_sync(bill, Order(), events=events).event.result == 1.5
    assert [ev.result for ev in run_step_with_sync(bill, [Order(), Order()], events=events).events] == [1.5, 2.5]


def test_a_wait_for_an_event_that_has_a_timeout_comes_to_it() -> None:
    @step
    async def wait(ctx: Context, ev: Order) -> None:
        await ctx.wait_for_event("Paid", timeout=3600.0)

    with pytest.raises(TimeoutError, match="waited 3600 s for an event 'Paid'"):
        run_step_sync(wait, Order())


@pytest.mark.parametrize(
    ("events", "message"),
    [
        ([], r"step 'bill' waits for an event 'Paid', and there is none: give events=\["),
        ([Paid(order=6)], r"'Paid', and events= has none that it takes \(Paid\(order=6, amount=0.0\) is left\)"),
    ],
)
@pytest.mark.parametrize("keep_error", [False, True])
async def test_a_wait_for_an_event_that_is_not_given_is_an_error_at_once(
    events: list[Event], message: str, keep_error: bool
) -> None:
    with trio.fail_after(30), pytest.raises(ValidationError, match=message):
        await run_step(bill, Order(), events=events, keep_error=keep_error)


def test_a_wait_is_no_error_while_another_task_of_the_step_may_end_it() -> None:
    @step
    async def both(ctx: Context, ev: Order) -> StopEvent:
        got: list[Event] = []

        async def wait() -> None:
            got.append(await ctx.wait_for_event(Paid))

        async with trio.open_nursery() as nursery:
            nursery.start_soon(wait)
            await trio.sleep(100)
            if ev.total:
                ctx.send_event(Paid(order=1))
        return StopEvent(result=got)

    assert run_step_sync(both, Order(total=1)).event.result == [Paid(order=1)]
    with pytest.raises(ValidationError, match="waits for an event 'Paid'"):
        run_step_sync(both, Order(total=0))


@pytest.mark.parametrize("events", [Paid(order=1), "Paid", [Paid], [None], 5])
async def test_what_cannot_be_events_is_refused(events: Any) -> None:
    with pytest.raises(ValidationError, match="step 'bill': events must be a list of events"):
        await run_step(bill, Order(), events=events)


# --- workflows that ask


@step
async def ship_from_the_start(ctx: Context, ev: StartEvent) -> StopEvent:
    ctx.session["asking"] = True
    try:
        sure = await ctx.request_input("Ship it?", schema=bool)
        await trio.sleep(5)
        return StopEvent(result=sure)
    finally:
        ctx.session["asking"] = False


@step
async def propose(ev: StartEvent) -> InputRequestEvent:
    await trio.sleep(1)
    return InputRequestEvent(prompt="Ship it?")


@step
async def decide(ev: InputResponseEvent) -> StopEvent:
    await trio.sleep(5)
    return StopEvent(result=ev.response)


def make_asking() -> Workflow[Any]:
    return Workflow("asking", [ship_from_the_start]).options(session={})


def make_proposing() -> Workflow[Any]:
    return Workflow("proposing", [propose, decide])


@pytest.mark.parametrize("answers", [{"Ship it?": True}, [True], lambda question: question.prompt == "Ship it?"])
def test_a_workflow_that_asks_is_cancelled_everywhere(answers: Any) -> None:
    outcomes: list[RunOutcome] = []

    def check(outcome: RunOutcome) -> None:
        assert not outcome.session["asking"]
        outcomes.append(outcome)

    checkpoints = cancel_everywhere(make_asking, check=check, answers=answers)
    assert [checkpoint.what for checkpoint in checkpoints] == ["waits", "goes on", "waits", "goes on"]
    assert [outcome.how for outcome in outcomes] == ["completed", *["cancelled"] * 4]
    assert outcomes[0].result is True
    assert outcomes[0].elapsed == 5.0


def test_a_workflow_that_returns_its_question_is_tried_too() -> None:
    checkpoints = cancel_everywhere(make_proposing, answers=["yes"])
    assert [(c.step, c.what) for c in checkpoints] == [
        ("propose", "waits"),
        ("propose", "goes on"),
        ("decide", "waits"),
        ("decide", "goes on"),
    ]
    failed = fail_everywhere(make_proposing, answers=["yes"])
    assert [(c.step, c.what) for c in failed] == [
        ("propose", "is called"),
        ("propose", "waits"),
        ("decide", "is called"),
        ("decide", "waits"),
    ]


def test_a_question_that_fails_and_is_asked_again_has_one_answer() -> None:
    @step(retries=1)
    async def ask(ctx: Context, ev: StartEvent) -> StopEvent:
        return StopEvent(result=[await ctx.request_input("First?"), await ctx.request_input("Second?")])

    results = []
    checkpoints = fail_everywhere(
        Workflow("w", [ask]), answers=[1, 2], check=lambda outcome: results.append(outcome.result)
    )
    assert [checkpoint.what for checkpoint in checkpoints] == ["is called", "waits", "waits"]
    assert results == [[1, 2]] * 4


def test_many_schedules_are_answered_each_anew() -> None:
    @step
    async def begin(ev: StartEvent) -> list[Go]:
        return [Go(n=n) for n in range(3)]

    @step
    async def ask(ctx: Context, ev: Go) -> StopEvent | None:
        await trio.sleep(1)
        answer = await ctx.request_input(f"{ev.n}?")
        answered = ctx.collect_events(ev, 3)
        ctx.set(str(ev.n), answer)
        return StopEvent(result=[ctx.get(str(n)) for n in range(3)]) if answered else None

    outcomes = run_seeds(Workflow("w", [begin, ask]), seeds=range(10), answers={f"{n}?": n * n for n in range(3)})
    assert [outcome.result for outcome in outcomes] == [[0, 1, 4]] * 10
    first = run_seeds(Workflow("w", [begin, ask]), seeds=range(10), answers=["a", "b", "c"])
    assert all(sorted(outcome.result) == ["a", "b", "c"] for outcome in first)
    assert len({tuple(outcome.result) for outcome in first}) > 1


@pytest.mark.parametrize("make", [make_asking, make_proposing])
@pytest.mark.parametrize(
    ("answers", "message"),
    [
        (None, r"'Ship it\?' is asked, and there is no answer to it: give answers="),
        ({"Sure?": 1}, r"'Ship it\?' is asked.*answers= has 'Sure\?'; add 'Ship it\?'"),
    ],
)
def test_a_workflow_that_asks_what_is_not_answered_says_what_to_give(make: Any, answers: Any, message: str) -> None:
    for call in (cancel_everywhere, fail_everywhere):
        with pytest.raises(ValidationError, match=f"{call.__name__}: {message}") as caught:
            call(make, answers=answers, check=lambda outcome: None)
        assert "nothing was done to" in caught.value.__notes__[0]
    with pytest.raises(ValidationError, match=f"run_seeds: {message}") as caught:
        run_seeds(make, answers=answers, check=lambda outcome: None, seeds=[3])
    assert "seed 3" in caught.value.__notes__[0]


def test_an_on_error_cannot_hide_that_there_are_no_answers() -> None:
    @step(on_error=lambda ev, error: StopEvent(result="handled"))
    async def ask(ctx: Context, ev: StartEvent) -> StopEvent:
        return StopEvent(result=await ctx.request_input("Sure?"))

    with pytest.raises(ValidationError, match=r"'Sure\?' is asked"):
        run_seeds(Workflow("w", [ask]), seeds=[1])


@pytest.mark.parametrize(
    ("make", "where"), [(make_asking, "step 'ship_from_the_start' waits at"), (make_proposing, r"nobody answers 'Ship")]
)
def test_a_question_that_is_left_unanswered_and_has_no_timeout_does_not_hang(make: Any, where: str) -> None:
    with pytest.raises(AssertionError, match=rf"(?s)does not end by itself.*{where}"):
        run_seeds(make, answers=[UNANSWERED], seeds=[1])


@pytest.mark.parametrize("make", [make_asking, make_proposing])
async def test_a_watched_run_is_answered(make: Any, autojump_clock: trio.testing.MockClock) -> None:
    async with watch(make(), answers={"Ship it?": True}) as run:
        assert (await run.result()).result is True
    assert [event.prompt for event in run.stream] == ["Ship it?"]


@pytest.mark.parametrize("asked_for", [True, False])
async def test_a_watched_run_fails_where_there_is_no_answer(
    asked_for: bool, autojump_clock: trio.testing.MockClock
) -> None:
    async def go() -> None:
        async with watch(make_asking(), answers={}) as run:
            if asked_for:
                await run.result()

    with pytest.raises(ValidationError, match=r"watch: 'Ship it\?' is asked"):
        await go()
    async with watch(make_asking()) as run:  # no answers=: by the handler
        await trio.sleep(1)
        run.handler.respond_to_input(run.handler.pending_inputs()[0].request_id, False)
        assert (await run.result()).result is False


# --- guards


class Shop:
    def __init__(self, most: int) -> None:
        self.most = most

    def is_small(self, ev: Order) -> bool:
        return ev.total <= self.most

    @step(when=is_small)
    async def small(self, ev: Order) -> StopEvent:
        return StopEvent(result="small")


def test_an_event_that_the_guard_refuses_is_refused_and_the_step_is_not_called() -> None:
    called: list[int] = []

    @step(when=lambda ev: ev.total < 100)
    async def small(ev: Order) -> StopEvent:
        called.append(ev.total)
        return StopEvent()

    run_step_sync(small, Order(total=99))
    run_step_sync(small, DynamicEvent("Order", {"total": 99}))
    for event in (Order(total=100), DynamicEvent("Order", {"total": 100})):
        with pytest.raises(
            ValidationError, match=r"step 'small' does not take this event: its guard \(when=\) refuses"
        ):
            run_step_sync(small, event)
    with pytest.raises(ValidationError, match=r"refuses Order\(total=500\)"):
        run_step_with_sync(small, [Order(total=1), Order(total=500)])
    assert called == [99, 99]


def test_the_guard_of_a_method_is_asked_with_its_object() -> None:
    shop = Shop(most=10)
    assert run_step_sync(shop.small, Order(total=10)).event.result == "small"
    with pytest.raises(ValidationError, match="step 'small' does not take this event"):
        run_step_sync(shop.small, Order(total=11))


def test_a_guard_that_fails_says_so() -> None:
    @step(when=lambda ev: 1 / ev.total > 0)
    async def divided(ev: Order) -> None:
        pass

    with pytest.raises(WorkflowError, match=r"the guard \(when=\) of step 'divided'.*ZeroDivisionError"):
        run_step_sync(divided, Order(total=0))
