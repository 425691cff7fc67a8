"""Waits in the middle of a step, where two things happen at once or a wait ends otherwise than by what it waits for."""

from __future__ import annotations

import gc
import weakref
from typing import Any

import pytest
import trio
from trio.testing import MockClock, wait_all_tasks_blocked

from blazen import (
    Context,
    Event,
    InputRequestEvent,
    InputResponseEvent,
    StartEvent,
    StopEvent,
    Workflow,
    step,
)
from blazen.errors import BlazenWarning, CancelledError, TimeoutError, ValidationError, WorkflowError


class Paid(Event):
    order: int = 0


class Go(Event):
    n: int = 0


async def until_waiting(handler: Any) -> None:
    while handler.state != "waiting":
        await trio.sleep(0.001)


@step
async def fan(ev: StartEvent) -> list[Go]:
    return [Go(n=1), Go(n=2)]


# --- two ends at the same moment


async def test_a_wait_and_its_run_that_are_over_their_time_at_the_same_moment(autojump_clock: MockClock) -> None:
    @step(waits=[Paid])
    async def order(ctx: Context, ev: StartEvent) -> StopEvent:
        await trio.sleep(1)  # the run's time is watched from here on, and is over first
        await ctx.wait_for_event(Paid, timeout=1.0)
        return StopEvent()

    with pytest.raises(TimeoutError) as caught:
        await Workflow("w", [order], timeout=2.0).run()
    assert caught.value.elapsed_ms == 2000
    assert caught.value.step is None


@pytest.mark.parametrize("accepted", [True, False])
@pytest.mark.parametrize("end", ["time", "cancel_step", "scope"])
async def test_an_answer_in_the_pass_in_which_its_question_ends_is_refused_and_not_routed(
    end: str, accepted: bool, autojump_clock: MockClock
) -> None:
    scopes: list[trio.CancelScope] = []
    routed: list[object] = []

    @step
    async def ask(ctx: Context, ev: StartEvent) -> None:
        with trio.CancelScope() as scope:
            scopes.append(scope)
            await ctx.request_input("?", timeout=5.0, default="none")

    @step
    async def other(ev: StartEvent) -> StopEvent:
        await trio.sleep(20)
        return StopEvent()

    @step
    async def take(ev: InputResponseEvent) -> None:
        routed.append(ev.response)

    steps = [ask, other, take] if accepted else [ask, other]
    async with Workflow("w", steps).run_with_handler() as handler:
        await wait_all_tasks_blocked()
        (question,) = handler.pending_inputs()
        if end == "time":
            await trio.sleep(4.9)
            run = handler._run
            run.waits.open[0].wake()  # as the run's timer does
        elif end == "cancel_step":
            handler.cancel_step("ask")
        else:
            scopes[0].cancel()
        assert handler.pending_inputs() == []
        with pytest.raises(ValidationError, match="no open question has the id"):
            handler.respond_to_input(question.request_id, "late")
    assert routed == []


async def test_an_answer_that_came_before_its_step_was_cancelled_is_kept_for_nobody(autojump_clock: MockClock) -> None:
    got: list[object] = []

    @step
    async def ask(ctx: Context, ev: StartEvent) -> StopEvent:
        got.append(await ctx.request_input("?"))
        await trio.sleep(1)
        return StopEvent(result="went on")

    with pytest.raises(WorkflowError, match="idle"):  # noqa: PT012
        async with Workflow("w", [ask]).run_with_handler() as handler:
            await until_waiting(handler)
            handler.respond_to_input(handler.pending_inputs()[0].request_id, "yes")
            handler.cancel_step("ask")
    assert got == ["yes"]


# --- the run's clock


async def test_the_runs_clock_goes_on_when_the_step_itself_gives_up_waiting(autojump_clock: MockClock) -> None:
    @step
    async def ask(ctx: Context, ev: StartEvent) -> StopEvent:
        with trio.move_on_after(100):
            await ctx.request_input("?")
        await trio.sleep(50)
        return StopEvent()

    with pytest.raises(TimeoutError):
        async with Workflow("w", [ask], timeout=5.0).run_with_handler():
            pass
    assert trio.current_time() == 105


async def test_the_runs_clock_goes_on_when_the_only_step_that_asks_is_cancelled(autojump_clock: MockClock) -> None:
    @step(waits=[Paid])
    async def work(ctx: Context, ev: Go) -> StopEvent:
        await (ctx.request_input("?") if ev.n == 1 else ctx.wait_for_event(Paid))
        return StopEvent()

    with pytest.raises(TimeoutError):  # noqa: PT012
        async with Workflow("w", [fan, work], timeout=5.0).run_with_handler() as handler:
            await trio.sleep(100)
            run = handler._run
            asking = next(ctx for ctx in run.running() if ctx.event.n == 1)
            run.abort_step(asking, 2)
    assert trio.current_time() == 105


async def test_the_runs_clock_goes_on_while_a_step_that_was_cancelled_cleans_up(autojump_clock: MockClock) -> None:
    @step
    async def ask(ctx: Context, ev: StartEvent) -> None:
        try:
            await ctx.request_input("?")
        finally:
            async with ctx.cleanup():
                await trio.sleep(4)

    @step
    async def other(ctx: Context, ev: StartEvent) -> StopEvent:
        await ctx.request_input("another?")
        await trio.sleep(2)
        return StopEvent()

    with pytest.raises(TimeoutError):  # noqa: PT012
        async with Workflow("w", [ask, other], timeout=5.0).run_with_handler() as handler:
            await trio.sleep(100)
            handler.cancel_step("ask")
            await trio.sleep(100)
            handler.respond_to_input(handler.pending_inputs()[0].request_id, 1)
    assert trio.current_time() == 201


async def test_the_runs_clock_stands_still_while_the_second_of_two_questions_of_a_step_is_open(
    autojump_clock: MockClock,
) -> None:
    @step
    async def ask(ctx: Context, ev: StartEvent) -> StopEvent:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(ctx.request_input, "a")
            nursery.start_soon(ctx.request_input, "b")
        return StopEvent()

    async with Workflow("w", [ask], timeout=5.0).run_with_handler() as handler:
        for _ in range(2):
            await trio.sleep(100)
            handler.respond_to_input(handler.pending_inputs()[0].request_id, 1)


async def test_the_runs_clock_stands_still_after_an_event_that_is_kept_or_refused(autojump_clock: MockClock) -> None:
    @step(waits=[Paid])
    async def ask(ctx: Context, ev: StartEvent) -> StopEvent:
        await ctx.request_input("?")
        return StopEvent(result=(await ctx.wait_for_event(Paid)).order)

    @step
    async def wait(ctx: Context, ev: StartEvent) -> None:
        await ctx.wait_for_event(Go, where=lambda go: 1 / go.n > 0)

    @step
    async def take(ev: Go) -> None: ...

    async with Workflow("w", [ask, wait, take], timeout=5.0).run_with_handler() as handler:
        await trio.sleep(10)
        handler.send_event(Paid(order=3))
        await trio.sleep(10)
        with pytest.raises(WorkflowError, match="ZeroDivisionError"):
            handler.send_event(Go(n=0))
        await trio.sleep(10)
        handler.respond_to_input(handler.pending_inputs()[0].request_id, 1)
        assert (await handler.result()).result == 3


# --- plain runs


async def test_a_plain_run_goes_on_when_the_step_bounds_its_wait_by_a_scope_of_its_own(
    autojump_clock: MockClock,
) -> None:
    @step(waits=[Paid])
    async def order(ctx: Context, ev: StartEvent) -> StopEvent:
        with trio.move_on_after(3):
            await ctx.wait_for_event(Paid)
        return StopEvent(result="went on")

    with trio.fail_after(10):
        assert (await Workflow("w", [order]).run()).result == "went on"
    assert trio.current_time() == 3


async def test_a_plain_run_that_waits_for_nothing_is_idle_also_in_a_scope_of_its_caller(
    autojump_clock: MockClock,
) -> None:
    @step(waits=[Paid])
    async def order(ctx: Context, ev: StartEvent) -> StopEvent:
        await ctx.wait_for_event(Paid)
        return StopEvent()

    with trio.fail_after(10), pytest.raises(WorkflowError, match="idle: step 'order' waits"):
        await Workflow("w", [order]).run()
    assert trio.current_time() == 0


@pytest.mark.parametrize("sends", [True, False])
async def test_a_plain_run_whose_step_works_beside_its_own_wait_is_idle_only_when_that_has_ended(
    sends: bool, autojump_clock: MockClock
) -> None:
    @step(waits=[Paid])
    async def order(ctx: Context, ev: StartEvent) -> StopEvent:
        async def work() -> None:
            await trio.sleep(7)
            if sends:
                ctx.send_event(Paid(order=4))

        async with trio.open_nursery() as nursery:
            nursery.start_soon(work)
            paid = await ctx.wait_for_event(Paid)
        return StopEvent(result=paid.order)

    if sends:
        assert (await Workflow("w", [order]).run()).result == 4
    else:
        with pytest.raises(WorkflowError, match="idle: step 'order' waits"):
            await Workflow("w", [order]).run()
        assert 7 <= trio.current_time() < 20


async def test_a_plain_run_is_idle_when_one_of_two_waits_of_a_step_is_over_its_time(autojump_clock: MockClock) -> None:
    @step(waits=[Paid])
    async def order(ctx: Context, ev: StartEvent) -> StopEvent:
        async def bounded() -> None:
            with pytest.raises(TimeoutError):
                await ctx.wait_for_event(Paid, timeout=3.0)

        async with trio.open_nursery() as nursery:
            nursery.start_soon(bounded)
            nursery.start_soon(ctx.wait_for_event, Paid)
        return StopEvent()

    with pytest.raises(WorkflowError, match="idle: step 'order' waits"):
        await Workflow("w", [order]).run()
    assert 3 <= trio.current_time() < 20


# --- what others return and send while somebody waits


@pytest.mark.parametrize("nonsense", [42, [42], "Paid"])
async def test_what_is_no_event_is_named_also_while_somebody_waits(nonsense: Any, autojump_clock: MockClock) -> None:
    @step
    async def wait(ctx: Context, ev: StartEvent) -> None:
        await ctx.wait_for_event("Paid")

    @step
    async def wrong(ev: StartEvent):  # type: ignore[no-untyped-def]
        await trio.sleep(1)
        return nonsense

    with pytest.raises(WorkflowError, match="step 'wrong' of workflow 'w' returned a") as caught:
        async with Workflow("w", [wait, wrong]).run_with_handler():
            pass
    assert caught.value.step == "wrong"


async def test_an_event_that_guards_refuse_reaches_the_step_that_waits_for_it(autojump_clock: MockClock) -> None:
    taken: list[int] = []

    @step
    async def order(ctx: Context, ev: StartEvent) -> StopEvent:
        first = await ctx.wait_for_event(Paid)
        second = await ctx.wait_for_event(Paid)
        third = await ctx.wait_for_event(Paid)
        return StopEvent(result=[first.order, second.order, third.order])

    @step(when=lambda ev: ev.order > 10)
    async def large(ctx: Context, ev: Paid) -> Paid | None:
        taken.append(ev.order)
        await trio.sleep(1)
        ctx.send_event(Paid(order=3))
        await trio.sleep(1)
        return Paid(order=4)

    async with Workflow("w", [order, large]).run_with_handler() as handler:
        await until_waiting(handler)
        handler.send_event(Paid(order=11))
        assert (await handler.result()).result == [11, 3, 4]
    assert taken == [11]


async def test_a_condition_that_answers_a_question_or_sends_an_event_does_no_harm(autojump_clock: MockClock) -> None:
    handlers: list[Any] = []

    def answers(paid: Paid) -> bool:
        for question in handlers[0].pending_inputs():
            handlers[0].respond_to_input(question.request_id, paid.order)
        if paid.order == 1:
            handlers[0].send_event(Paid(order=2))
        return True

    @step(waits=[Paid])
    async def work(ctx: Context, ev: Go) -> StopEvent | None:
        if ev.n == 1:
            ctx.set("paid", (await ctx.wait_for_event(Paid, where=answers)).order)
            await trio.sleep(1)
            return StopEvent(result=[ctx.get("paid"), ctx.get("answer")])
        ctx.set("answer", await ctx.request_input("?"))
        return None

    async with Workflow("w", [fan, work]).run_with_handler() as handler:
        handlers.append(handler)
        await until_waiting(handler)
        handler.send_event(Paid(order=1))
        result = (await handler.result()).result
    assert result[0] in (1, 2)
    assert result[1] == 1


# --- threads


async def test_an_answer_from_another_thread_is_refused_and_the_question_stays_open(autojump_clock: MockClock) -> None:
    @step
    async def ask(ctx: Context, ev: StartEvent) -> StopEvent:
        return StopEvent(result=await ctx.request_input("?"))

    async with Workflow("w", [ask]).run_with_handler() as handler:
        await until_waiting(handler)
        (question,) = handler.pending_inputs()

        def answer() -> None:
            with pytest.raises(ValidationError, match=r"trio\.from_thread\.run_sync"):
                handler.respond_to_input(question.request_id, 1)
            trio.from_thread.run_sync(handler.respond_to_input, question.request_id, 2)

        await trio.to_thread.run_sync(answer)
        assert (await handler.result()).result == 2


@pytest.mark.parametrize("what", ["question", "event"])
@pytest.mark.parametrize("how", ["cancel_step", "cancel"])
async def test_a_thread_step_that_waits_is_told_to_stop_at_once(how: str, what: str) -> None:
    stopped = trio.Event()
    caught: list[BaseException] = []

    @step(run="thread", waits=[Paid])
    def ask(ctx: Context, ev: StartEvent) -> None:
        try:
            if what == "question":
                trio.from_thread.run(ctx.request_input, "?")
            else:
                trio.from_thread.run(ctx.wait_for_event, Paid)
        except BaseException as exc:
            caught.append(exc)
            raise

    @step
    async def other(ev: StartEvent) -> StopEvent:
        await stopped.wait()
        return StopEvent()

    async with Workflow("w", [ask, other]).run_with_handler() as handler:
        while handler._run.waiting == 0:
            await trio.lowlevel.checkpoint()
        if how == "cancel":
            handler.cancel()
            with pytest.raises(CancelledError) as error:
                await handler.result()
            assert error.value.abandoned == ()
        else:
            handler.cancel_step("ask")
            assert handler.pending_inputs() == []
            while handler._run.running("ask"):
                await trio.lowlevel.checkpoint()
            stopped.set()
            await handler.result()
    assert [type(one) for one in caught] == [CancelledError]


# --- what is left


async def test_no_question_is_open_after_the_run(autojump_clock: MockClock) -> None:
    @step
    async def ask(ev: Go) -> InputRequestEvent:
        return InputRequestEvent(prompt=str(ev.n))

    @step
    async def stop(ev: StartEvent) -> StopEvent:
        await trio.sleep(1)
        return StopEvent()

    @step
    async def take(ev: InputResponseEvent) -> None: ...

    async with Workflow("w", [fan, ask, stop, take]).run_with_handler() as handler:
        await wait_all_tasks_blocked()
        assert len(handler.pending_inputs()) == 2
        await handler.result()
        assert handler.pending_inputs() == []


async def test_a_question_in_a_cleanup_is_asked_and_answered(autojump_clock: MockClock) -> None:
    got: list[object] = []

    @step
    async def work(ctx: Context, ev: StartEvent) -> None:
        try:
            await trio.sleep_forever()
        finally:
            async with ctx.cleanup():
                got.append(await ctx.request_input("keep it?"))
            async with ctx.cleanup():
                got.append(await ctx.request_input("really?"))

    @step
    async def other(ev: StartEvent) -> StopEvent:
        await trio.sleep(20)
        return StopEvent()

    with pytest.warns(BlazenWarning, match=r"was cut off in ctx\.cleanup"):  # noqa: PT031
        async with Workflow("w", [work, other]).run_with_handler() as handler:
            await wait_all_tasks_blocked()
            handler.cancel_step("work")
            await trio.sleep(1)
            handler.respond_to_input(handler.pending_inputs()[0].request_id, "yes")
            await handler.result()
            assert handler.pending_inputs() == []
    assert got == ["yes"]


async def test_a_step_that_shields_itself_is_warned_of_once(autojump_clock: MockClock) -> None:
    @step
    async def work(ctx: Context, ev: StartEvent) -> None:
        with trio.CancelScope(shield=True):
            for _ in range(20):
                await trio.sleep(1)

    @step
    async def other(ev: StartEvent) -> StopEvent:
        await trio.sleep(40)
        return StopEvent()

    with pytest.warns(BlazenWarning) as warned:  # noqa: PT031
        async with Workflow("w", [work, other]).run_with_handler() as handler:
            await trio.sleep(0.5)
            handler.cancel_step("work")
            await handler.result()
    assert len(warned) == 1


async def test_a_wait_that_is_over_leaves_no_reference_to_its_run(autojump_clock: MockClock) -> None:
    class Payload: ...

    kept: list[weakref.ref[Payload]] = []

    @step(waits=[Paid], timeout=50.0)
    async def order(ctx: Context, ev: StartEvent) -> StopEvent:
        with pytest.raises(TimeoutError):
            await ctx.wait_for_event(Paid, timeout=1.0)
        with trio.move_on_after(1):
            await ctx.wait_for_event(Paid, timeout=1000.0)
        await ctx.request_input("?", timeout=2000.0)
        return StopEvent()

    async def once() -> None:
        async with Workflow("w", [order]).run_with_handler() as handler:
            payload = handler._run.session["payload"] = Payload()
            kept.append(weakref.ref(payload))
            await trio.sleep(5)
            handler.respond_to_input(handler.pending_inputs()[0].request_id, 1)

    await once()
    gc.collect()
    assert kept[0]() is None


async def test_a_step_that_is_closed_while_it_waits_waits_no_longer_and_starts_no_clock(
    autojump_clock: MockClock,
) -> None:
    @step(waits=[Paid], timeout=50.0)
    async def order(ctx: Context, ev: StartEvent) -> StopEvent:
        await ctx.wait_for_event(Paid, timeout=10.0)
        return StopEvent()

    async with Workflow("w", [order], timeout=100.0).run_with_handler() as handler:
        await until_waiting(handler)
        run = handler._run
        next(iter(run.workers)).close()  # as when its loop has been torn down
        assert run.waits.open == []
        assert run.next_deadline() > 90
        handler.cancel()


@pytest.mark.parametrize("asks", [True, False])
async def test_a_wait_that_outlives_its_step_ends_with_it_and_none_begins_afterwards(
    asks: bool, autojump_clock: MockClock
) -> None:
    caught: list[BaseException] = []

    async def ask(ctx: Context) -> None:
        try:
            await (ctx.request_input("?") if asks else ctx.wait_for_event(Paid))
        except Exception as exc:
            caught.append(exc)

    async with trio.open_nursery() as nursery:

        @step(waits=[Paid])
        async def work(ctx: Context, ev: StartEvent) -> StopEvent | None:
            nursery.start_soon(ask, ctx)
            await trio.sleep(1)
            nursery.start_soon(ask, ctx)
            return None

        with pytest.raises(WorkflowError, match="idle: nothing is queued"):
            async with Workflow("w", [work]).run_with_handler() as handler:
                await handler.result()
        assert handler.pending_inputs() == []
    caught.sort(key=lambda exc: type(exc).__name__)
    assert [type(exc) for exc in caught] == [CancelledError, ValidationError]
    assert "after the step has ended" in str(caught[1])


async def test_a_step_over_its_time_has_its_own_waits_ended_and_its_next_attempt_waits_anew(
    autojump_clock: MockClock,
) -> None:
    @step(waits=[Paid], timeout=2.0, retries=1)
    async def order(ctx: Context, ev: StartEvent) -> StopEvent:
        if ctx.attempt == 1:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(ctx.wait_for_event, Paid)
                nursery.start_soon(ctx.request_input, "?")
                await trio.sleep(3)
                nursery.cancel_scope.cancel()
            await trio.sleep(2.5)
        return StopEvent(result=(await ctx.wait_for_event(Paid)).order)

    async with Workflow("w", [order]).run_with_handler() as handler:
        await trio.sleep(5.25)
        assert handler.state == "waiting"
        assert handler.pending_inputs() == []
        handler.send_event(Paid(order=7))
        assert (await handler.result()).result == 7


async def test_an_event_of_a_declared_type_that_guards_refuse_is_kept_for_the_wait(autojump_clock: MockClock) -> None:
    @step(waits=[Paid])
    async def order(ctx: Context, ev: StartEvent) -> StopEvent:
        await trio.sleep(5)
        return StopEvent(result=(await ctx.wait_for_event(Paid)).order)

    @step(when=lambda ev: ev.order > 10)
    async def large(ev: Paid) -> None: ...

    async with Workflow("w", [order, large]).run_with_handler() as handler:
        handler.send_event(Paid(order=3))
        assert (await handler.result()).result == 3


async def test_two_events_returned_together_that_only_a_wait_takes_reach_one_wait_after_the_other(
    autojump_clock: MockClock,
) -> None:
    @step
    async def order(ctx: Context, ev: StartEvent) -> StopEvent:
        ctx.send_event(Go())
        first = await ctx.wait_for_event("Paid")
        second = await ctx.wait_for_event("Paid")
        return StopEvent(result=[first.order, second.order])

    @step
    async def pay(ev: Go) -> list[Event]:
        return [Paid(order=1), Paid(order=2)]

    assert (await Workflow("w", [order, pay]).run()).result == [1, 2]


@pytest.mark.parametrize("second", ["ask", "other event"])
async def test_a_retry_that_waits_for_something_else_in_the_same_place_is_told_so(
    second: str, autojump_clock: MockClock
) -> None:
    @step(waits=[Paid, Go], retries=1)
    async def order(ctx: Context, ev: StartEvent) -> StopEvent:
        if ctx.attempt == 1:
            await ctx.wait_for_event(Paid)
            raise OSError
        await (ctx.request_input("?") if second == "ask" else ctx.wait_for_event(Go))
        return StopEvent()

    with pytest.raises(WorkflowError, match=r"call 1 of attempt 2 .* same order in each attempt"):
        async with Workflow("w", [order]).run_with_handler() as handler:
            handler.send_event(Paid())


async def test_a_plain_run_with_timeouts_that_is_found_idle_by_a_worker_without_work_ends(
    autojump_clock: MockClock,
) -> None:
    @step(waits=[Paid])
    async def order(ctx: Context, ev: StartEvent) -> StopEvent:
        await ctx.wait_for_event(Paid)
        return StopEvent()

    @step(timeout=50.0)
    async def other(ev: StartEvent) -> None:
        await trio.sleep(3)

    with trio.fail_after(10), pytest.raises(WorkflowError, match="idle: step 'order' waits"):
        await Workflow("w", [order, other]).run()
    assert trio.current_time() == 3
