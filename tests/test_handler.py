"""`run_with_handler`: watching and steering one run."""

from __future__ import annotations

import threading
import uuid
from collections.abc import Callable
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
    UsageEvent,
    Workflow,
    step,
)
from blazen.errors import BlazenWarning, CancelledError, TimeoutError, ValidationError, WorkflowError


class Part(Event):
    n: int = 0


@step
async def echo(ev: StartEvent) -> StopEvent:
    return StopEvent(result=ev.data)


@step
async def wait_for_part(ev: StartEvent) -> StopEvent:
    await trio.sleep_forever()
    return StopEvent()


@step
async def take_part(ev: Part) -> StopEvent:
    return StopEvent(result=ev.n)


@step
async def fail(ev: StartEvent) -> StopEvent:
    raise OSError("broken")


waiting = Workflow[int]("waiting", [wait_for_part, take_part])
failing = Workflow[None]("failing", [fail])


# ---- the result


async def test_leaving_the_block_waits_for_the_run(autojump_clock: MockClock) -> None:
    @step
    async def slow(ev: StartEvent) -> StopEvent:
        await trio.sleep(60)
        return StopEvent(result="late")

    began = trio.current_time()
    async with Workflow("w", [slow]).run_with_handler() as handler:
        assert handler.state == "running"
    assert trio.current_time() - began == 60.0
    assert handler.state == "completed"
    assert (await handler.result()).result == "late"


async def test_the_result_is_given_any_number_of_times_to_any_number_of_tasks(autojump_clock: MockClock) -> None:
    answer = object()

    @step
    async def slow(ctx: Context, ev: StartEvent) -> StopEvent:
        ctx.emit_usage(UsageEvent("acme", "small", input_tokens=4))
        await trio.sleep(1)
        return StopEvent(result=answer)

    results: list[Any] = []
    async with Workflow("w", [slow]).run_with_handler() as handler:

        async def ask() -> None:
            results.append(await handler.result())

        async with trio.open_nursery() as nursery:
            for _ in range(5):
                nursery.start_soon(ask)
        results.append(await handler.result())
    results.append(await handler.result())
    assert len(results) == 7
    for result in results:
        assert result.result is answer
        assert result.event is results[0].event
        assert result.run_id == handler.run_id
        assert result.total_input_tokens == 4


async def test_a_failure_is_raised_by_every_call_of_result() -> None:
    caught = []
    async with failing.run_with_handler() as handler:
        for _ in range(3):
            with pytest.raises(WorkflowError) as error:
                await handler.result()
            caught.append(error.value)
    with pytest.raises(WorkflowError):
        await handler.result()
    assert caught[0] is caught[1] is caught[2]
    assert isinstance(caught[0].__cause__, OSError)
    assert (caught[0].step, caught[0].event_type, caught[0].run_id) == ("fail", StartEvent.event_type, handler.run_id)


async def test_asking_for_the_result_in_a_scope_that_ends_leaves_the_run_alone(autojump_clock: MockClock) -> None:
    async with waiting.run_with_handler() as handler:
        with trio.move_on_after(5) as scope:
            await handler.result()
        assert scope.cancelled_caught
        assert handler.state == "running"
        handler.send_event(Part(n=3))
        assert (await handler.result()).result == 3


async def test_the_input_arrives_as_in_run() -> None:
    data = {"a": 1}
    async with Workflow("w", [echo]).run_with_handler(data) as handler:
        assert (await handler.result()).result is data
    async with Workflow("w", [echo]).run_with_handler(a=1) as handler:
        assert (await handler.result()).result == data
    with pytest.raises(ValidationError, match="not both"):
        Workflow("w", [echo]).run_with_handler(data, a=1)


async def test_run_id_is_a_uuid_known_from_the_beginning() -> None:
    async with Workflow("w", [echo]).run_with_handler() as handler:
        run_id = handler.run_id
        assert (await handler.result()).run_id == run_id
    assert str(uuid.UUID(run_id)) == run_id


# ---- failures that nobody asked for


async def test_a_failure_that_nobody_asked_for_is_raised_on_leaving() -> None:
    with pytest.raises(WorkflowError, match="broken") as caught:
        async with failing.run_with_handler():
            pass
    assert isinstance(caught.value.__cause__, OSError)


async def test_a_timeout_that_nobody_asked_for_is_raised_on_leaving(autojump_clock: MockClock) -> None:
    with pytest.raises(TimeoutError) as caught:
        async with waiting.options(timeout=3).run_with_handler():
            pass
    assert (caught.value.step, caught.value.elapsed_ms) == (None, 3000)


async def test_a_failure_that_was_asked_for_is_not_raised_again() -> None:
    async with failing.run_with_handler() as handler:
        with pytest.raises(WorkflowError):
            await handler.result()
    assert handler.state == "failed"


@pytest.mark.parametrize("attempt", range(10))
async def test_a_failure_that_another_task_waits_for_is_not_raised_on_leaving(attempt: int) -> None:
    # Repeated: which of the two tasks goes on first is trio's choice.
    go_on = trio.Event()

    @step
    async def fails(ev: StartEvent) -> StopEvent:
        await go_on.wait()
        raise OSError

    errors: list[BaseException] = []
    async with trio.open_nursery() as nursery:
        async with Workflow("w", [fails]).run_with_handler() as handler:

            async def ask() -> None:
                with pytest.raises(WorkflowError) as caught:
                    await handler.result()
                errors.append(caught.value)

            nursery.start_soon(ask)
            await wait_all_tasks_blocked()
            go_on.set()
    assert len(errors) == 1


async def test_a_failure_that_somebody_stopped_waiting_for_is_raised_on_leaving(autojump_clock: MockClock) -> None:
    go_on = trio.Event()

    @step
    async def fails(ev: StartEvent) -> StopEvent:
        await go_on.wait()
        raise OSError

    async def stop_waiting() -> None:
        async with Workflow("w", [fails]).run_with_handler() as handler:
            with trio.move_on_after(1):
                await handler.result()
            go_on.set()

    with pytest.raises(WorkflowError):
        await stop_waiting()


async def test_reading_the_stream_to_its_end_does_not_count_as_asking() -> None:
    states: list[str] = []

    async def read() -> None:
        async with failing.run_with_handler() as handler:
            assert [event async for event in handler.stream_events()] == []
            states.append(handler.state)

    with pytest.raises(WorkflowError):
        await read()
    assert states == ["failed"]


# ---- the block's own exception


class Mine(Exception):
    pass


@pytest.mark.parametrize("kind", [Mine, KeyboardInterrupt, SystemExit, GeneratorExit, ExceptionGroup])
async def test_the_blocks_own_exception_comes_out_unchanged_after_the_steps_are_out(kind: Any) -> None:
    own = ExceptionGroup("mine", [Mine()]) if kind is ExceptionGroup else kind("mine")
    log: list[str] = []

    @step
    async def waits(ev: StartEvent) -> StopEvent:
        try:
            await trio.sleep_forever()
        finally:
            log.append("out")
        return StopEvent()

    handlers = []

    async def leave_by(error: BaseException) -> None:
        async with Workflow("w", [waits]).run_with_handler() as handler:
            handlers.append(handler)
            await wait_all_tasks_blocked()
            raise error

    with pytest.raises(kind) as caught:
        await leave_by(own)
    assert caught.value is own
    assert own.__cause__ is None
    assert log == ["out"]
    assert handlers[0].state == "cancelled"


async def test_the_blocks_own_exception_wins_over_a_failure_of_the_run_which_is_warned_of() -> None:
    own = Mine()

    async def leave() -> None:
        async with failing.run_with_handler() as handler:
            async for _ in handler.stream_events():
                pass
            raise own

    with pytest.warns(BlazenWarning, match="broken"), pytest.raises(Mine) as caught:
        await leave()
    assert caught.value is own


async def test_the_failure_itself_passes_through_when_the_block_lets_it() -> None:
    seen: list[WorkflowError] = []

    async def let_through() -> None:
        async with failing.run_with_handler() as handler:
            try:
                await handler.result()
            except WorkflowError as error:
                seen.append(error)
                raise

    with pytest.raises(WorkflowError) as caught:
        await let_through()
    assert [caught.value] == seen


async def test_an_exception_raised_before_the_first_step_ran_cancels_the_run() -> None:
    ran: list[str] = []

    @step
    async def only(ev: StartEvent) -> StopEvent:
        ran.append("ran")
        return StopEvent()

    with pytest.raises(Mine):
        async with Workflow("w", [only]).run_with_handler() as handler:
            raise Mine
    assert ran == []
    assert handler.state == "cancelled"


async def test_a_return_out_of_the_block_waits_for_the_run() -> None:
    async def leave() -> Any:
        async with Workflow("w", [echo]).run_with_handler(1) as handler:
            return handler

    handler = await leave()
    assert (await handler.result()).result == 1


async def test_a_cancelled_caller_gets_its_cancellation_after_the_steps_are_out(autojump_clock: MockClock) -> None:
    log: list[str] = []

    @step
    async def waits(ctx: Context, ev: StartEvent) -> StopEvent:
        try:
            await trio.sleep_forever()
        finally:
            async with ctx.cleanup():
                await trio.sleep(1)
                log.append("step out")
        return StopEvent()

    with trio.move_on_after(5) as scope:
        async with Workflow("w", [waits]).run_with_handler() as handler:
            pass
    assert scope.cancelled_caught
    assert log == ["step out"]
    assert handler.state == "cancelled"


# ---- cancelling


async def test_a_run_cancelled_on_purpose_raises_nothing_on_leaving() -> None:
    async with waiting.run_with_handler() as handler:
        handler.cancel("no longer needed")
    assert handler.state == "cancelled"
    with pytest.raises(CancelledError) as caught:
        await handler.result()
    assert caught.value.reason == "no longer needed"
    assert caught.value.run_id == handler.run_id


async def test_cancelling_without_a_reason_has_an_empty_message() -> None:
    async with waiting.run_with_handler() as handler:
        handler.cancel()
        with pytest.raises(CancelledError) as caught:
            await handler.result()
    assert caught.value.reason is None
    assert str(caught.value) == ""


async def test_cancelling_again_changes_nothing() -> None:
    async with waiting.run_with_handler() as handler:
        handler.cancel("first")
        handler.cancel("second")
        with pytest.raises(CancelledError) as caught:
            await handler.result()
        handler.cancel("third")
    handler.cancel("fourth")
    assert caught.value.reason == "first"
    with pytest.raises(CancelledError) as again:
        await handler.result()
    assert again.value.reason == "first"


async def test_cancelling_a_run_that_completed_changes_nothing() -> None:
    async with Workflow("w", [echo]).run_with_handler(7) as handler:
        await handler.result()
        handler.cancel("late")
        assert (await handler.result()).result == 7
    assert handler.state == "completed"


@pytest.mark.parametrize("wrong", [5, b"x", OSError("x"), ["x"]], ids=repr)
async def test_a_reason_that_is_no_str_is_refused_and_the_run_goes_on(wrong: Any) -> None:
    async with waiting.run_with_handler() as handler:
        with pytest.raises(ValidationError, match="reason"):
            handler.cancel(wrong)
        handler.send_event(Part(n=1))
        assert (await handler.result()).result == 1


# ---- events from outside


async def test_an_event_from_outside_is_routed() -> None:
    async with waiting.run_with_handler() as handler:
        handler.send_event(Part(n=5))
        assert (await handler.result()).result == 5


async def test_an_event_sent_before_the_first_step_has_run_is_not_lost() -> None:
    got: list[int] = []

    @step
    async def begin(ev: StartEvent) -> StopEvent | None:
        await trio.lowlevel.checkpoint()
        return None

    @step
    async def take(ctx: Context, ev: Part) -> StopEvent | None:
        got.append(ev.n)
        return StopEvent() if len(got) == 3 else None

    async with Workflow("w", [begin, take]).run_with_handler() as handler:
        for n in range(3):
            handler.send_event(Part(n=n))
    assert got == [0, 1, 2]


async def test_a_stop_event_from_outside_ends_the_run() -> None:
    async with waiting.run_with_handler() as handler:
        handler.send_event(StopEvent(result="from outside"))
        assert (await handler.result()).result == "from outside"


async def in_threads(count: int, work: Callable[[int], None]) -> None:
    """Run `work(n)` in so many threads of the operating system at once, none of them trio's."""
    threads = [threading.Thread(target=work, args=(n,)) for n in range(count)]
    for thread in threads:
        thread.start()
    for thread in threads:
        await trio.to_thread.run_sync(thread.join)


async def test_any_thread_may_send_events_and_nothing_is_lost() -> None:
    per_thread, count = 1500, 4
    got: list[tuple[int, int]] = []

    class Message(Event):
        thread: int
        n: int

    @step
    async def begin(ev: StartEvent) -> StopEvent:
        await trio.sleep_forever()
        return StopEvent()

    @step
    def take(ev: Message) -> StopEvent | None:
        got.append((ev.thread, ev.n))
        return StopEvent() if len(got) == per_thread * count else None

    async with Workflow("w", [begin, take]).run_with_handler() as handler:

        def send(thread: int) -> None:
            for n in range(per_thread):
                handler.send_event(Message(thread=thread, n=n))

        await in_threads(count, send)
        await handler.result()
    for thread in range(count):
        assert [n for sender, n in got if sender == thread] == list(range(per_thread))


async def test_any_thread_may_cancel() -> None:
    async with waiting.run_with_handler() as handler:
        await in_threads(3, lambda n: handler.cancel("from a thread"))
        with pytest.raises(CancelledError) as caught:
            await handler.result()
    assert caught.value.reason == "from a thread"


@pytest.mark.parametrize("thread", [False, True])
async def test_an_event_nobody_accepts_or_no_event_is_refused_and_the_run_goes_on(thread: bool) -> None:
    class Unknown(Event):
        pass

    errors: list[BaseException] = []

    async with waiting.run_with_handler() as handler:

        def send(n: int) -> None:
            for wrong in (Unknown(), "Part", None):
                try:
                    handler.send_event(wrong)  # type: ignore[arg-type]
                except (WorkflowError, ValidationError) as error:
                    errors.append(error)

        if thread:
            await in_threads(1, send)
        else:
            send(0)
        handler.send_event(Part(n=1))
        assert (await handler.result()).result == 1
    assert [type(error) for error in errors] == [WorkflowError, ValidationError, ValidationError]
    assert "'Unknown'" in str(errors[0])
    assert "outside" in str(errors[0])


async def test_sending_to_a_run_that_has_ended_is_refused() -> None:
    async with waiting.run_with_handler() as handler:
        handler.send_event(Part(n=1))
        await handler.result()
        with pytest.raises(ValidationError, match="has ended"):
            handler.send_event(Part(n=2))
    with pytest.raises(ValidationError, match="has ended"):
        handler.send_event(Part(n=3))


def test_sending_after_the_event_loop_has_ended_is_refused() -> None:
    async def main() -> Any:
        async with waiting.run_with_handler() as handler:
            handler.send_event(Part(n=1))
        return handler

    handler = trio.run(main)
    with pytest.raises(ValidationError, match="has ended"):
        handler.send_event(Part(n=2))
    handler.cancel()
    assert handler.state == "completed"


# ---- one step alone


async def test_cancel_step_aborts_that_step_and_the_run_goes_on() -> None:
    log: list[str] = []

    @step
    async def begin(ev: StartEvent) -> list[Part]:
        return [Part(n=1), Part(n=2)]

    @step
    async def stuck(ev: Part) -> StopEvent:
        try:
            await trio.sleep_forever()
        finally:
            log.append(f"stuck {ev.n} out")
        return StopEvent(result="stuck")

    @step
    async def other(ev: Part) -> StopEvent | None:
        await released.wait()
        return StopEvent(result="other") if ev.n == 2 else None

    released = trio.Event()
    async with Workflow("w", [begin, stuck, other]).run_with_handler() as handler:
        await wait_all_tasks_blocked()
        handler.cancel_step("stuck")
        await wait_all_tasks_blocked()
        assert sorted(log) == ["stuck 1 out", "stuck 2 out"]
        assert handler.state == "running"
        released.set()
        assert (await handler.result()).result == "other"


@pytest.mark.parametrize("wrong", ["nobody", "", None, 5, ["fail"]], ids=repr)
async def test_cancel_step_of_an_unknown_step_is_refused_and_names_the_steps(wrong: Any) -> None:
    async with waiting.run_with_handler() as handler:
        with pytest.raises(ValidationError, match="wait_for_part, take_part"):
            handler.cancel_step(wrong)
        handler.send_event(Part(n=1))


async def test_cancel_step_without_a_running_invocation_or_after_the_end_does_nothing() -> None:
    async with waiting.run_with_handler() as handler:
        handler.cancel_step("take_part")
        handler.send_event(Part(n=1))
        assert (await handler.result()).result == 1
        handler.cancel_step("take_part")
    handler.cancel_step("take_part")
    assert handler.state == "completed"


# ---- states


async def test_the_state_names_where_the_run_stands() -> None:
    @step
    async def ask(ev: StartEvent) -> InputRequestEvent:
        return InputRequestEvent(prompt="go on?")

    @step
    async def end(ev: InputResponseEvent) -> StopEvent:
        await trio.lowlevel.checkpoint()
        return StopEvent()

    async with Workflow("w", [ask, end]).run_with_handler() as handler:
        assert handler.state == "running"
        await wait_all_tasks_blocked()
        assert handler.state == "waiting"
        handler.respond_to_input(handler.pending_inputs()[0].request_id, "yes")
        assert handler.state == "running"
        await handler.result()
        assert handler.state == "completed"
    assert "completed" in repr(handler)


@pytest.mark.parametrize("way", ["failed", "cancelled"])
async def test_the_state_names_how_the_run_ended(way: str) -> None:
    async with (failing if way == "failed" else waiting).run_with_handler() as handler:
        if way == "cancelled":
            handler.cancel()
        with pytest.raises((WorkflowError, CancelledError)):
            await handler.result()
        assert handler.state == way
    assert handler.state == way


# ---- questions


async def test_open_questions_are_listed_and_answered_by_id() -> None:
    @step
    async def ask(ev: StartEvent) -> list[InputRequestEvent]:
        return [InputRequestEvent("a", "first?", {"n": 1}), InputRequestEvent("b", "second?")]

    @step
    async def take(ctx: Context, ev: InputResponseEvent) -> StopEvent | None:
        answers = ctx.collect_events(ev, 2)
        return StopEvent(result=[(one.request_id, one.response) for one in answers]) if answers else None

    async with Workflow("w", [ask, take]).run_with_handler() as handler:
        assert handler.pending_inputs() == []
        await wait_all_tasks_blocked()
        assert [question.request_id for question in handler.pending_inputs()] == ["a", "b"]
        assert handler.pending_inputs()[0].metadata == {"n": 1}
        handler.respond_to_input("b", {"any": "object"})
        assert [question.request_id for question in handler.pending_inputs()] == ["a"]
        for wrong in ("b", "c", None, ["a"]):
            with pytest.raises(ValidationError, match="'a'"):
                handler.respond_to_input(wrong, "again")  # type: ignore[arg-type]
        handler.respond_to_input("a", None)
        assert (await handler.result()).result == [("b", {"any": "object"}), ("a", None)]
        with pytest.raises(ValidationError):
            handler.respond_to_input("a", 1)


# ---- used at the wrong time


async def test_a_handler_that_was_not_entered_says_how_to() -> None:
    handler = waiting.run_with_handler()
    for use in (
        handler.stream_events,
        handler.cancel,
        lambda: handler.send_event(Part()),
        lambda: handler.cancel_step("x"),
    ):
        with pytest.raises(ValidationError, match="async with"):
            use()
    with pytest.raises(ValidationError, match="async with"):
        await handler.result()


async def test_a_handler_is_entered_once() -> None:
    handler = Workflow("w", [echo]).run_with_handler()
    async with handler:
        pass
    with pytest.raises(ValidationError, match="another run"):
        async with handler:
            pass
    assert handler.state == "completed"


async def test_awaiting_a_handler_says_what_to_write() -> None:
    with pytest.raises(ValidationError, match="async with"):
        await waiting.run_with_handler()


async def test_handlers_of_one_workflow_are_independent() -> None:
    async with waiting.run_with_handler() as one, waiting.run_with_handler() as other:
        assert one.run_id != other.run_id
        one.cancel("this one only")
        other.send_event(Part(n=2))
        assert (await other.result()).result == 2
    assert (one.state, other.state) == ("cancelled", "completed")


async def test_a_run_inside_a_step_of_a_watched_run_is_its_own() -> None:
    @step
    async def outer(ctx: Context, ev: StartEvent) -> StopEvent:
        async with waiting.run_with_handler() as inner:
            inner.send_event(Part(n=4))
            return StopEvent(result=(await inner.result()).result)

    async with Workflow("outer", [outer]).run_with_handler() as handler:
        assert (await handler.result()).result == 4
