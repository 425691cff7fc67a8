"""Where blazen meets what is not its own: other loops, closed scopes, events known by name only, usage by any way."""

from __future__ import annotations

import contextlib
import threading
from typing import Any

import pytest
import trio
from trio.testing import wait_all_tasks_blocked

from blazen import (
    Context,
    DynamicEvent,
    Event,
    InputRequestEvent,
    InputResponseEvent,
    ProgressEvent,
    StartEvent,
    StopEvent,
    UsageEvent,
    Workflow,
    step,
)
from blazen.errors import ValidationError, WorkflowError


class Part(Event):
    n: int


@step
async def waits(ev: StartEvent) -> StopEvent:
    await trio.sleep_forever()
    return StopEvent()


async def test_another_loop_cannot_wait_for_a_result_or_read_the_stream() -> None:
    async with Workflow("w", [waits]).run_with_handler() as handler:

        async def elsewhere() -> None:
            with pytest.raises(ValidationError, match="another event loop"):
                await handler.result()
            with pytest.raises(ValidationError, match="another event loop"):
                handler.stream_events()

        await trio.to_thread.run_sync(trio.run, elsewhere)
        assert handler.state == "running"
        handler.cancel()


async def test_a_handler_in_a_cancelled_scope_starts_nothing() -> None:
    ran = []

    @step
    def work(ev: StartEvent) -> StopEvent:
        ran.append(ev)
        return StopEvent()

    with trio.CancelScope() as scope:
        scope.cancel()
        async with Workflow("w", [work]).run_with_handler():
            ran.append("entered")
    assert scope.cancelled_caught
    assert ran == []


async def test_a_base_exception_that_was_asked_for_is_not_raised_again_on_leaving() -> None:
    class Mine(BaseException):
        pass

    @step
    async def raises(ev: StartEvent) -> StopEvent:
        raise Mine

    async with Workflow("w", [raises]).run_with_handler() as handler:
        with pytest.raises(Mine):
            await handler.result()


async def test_a_reader_can_be_closed_and_the_others_read_on() -> None:
    @step
    def write(ctx: Context, ev: StartEvent) -> StopEvent:
        for n in range(3):
            ctx.write_event_to_stream(Part(n))
        return StopEvent()

    async with Workflow("w", [write]).run_with_handler() as handler:
        async with contextlib.aclosing(handler.stream_events()) as events:  # type: ignore[type-var]
            first = await anext(events)
        assert first == Part(0)
        with pytest.raises(StopAsyncIteration):
            await anext(events)
        assert [event async for event in handler.stream_events()] == [Part(0), Part(1), Part(2)]


async def test_usage_and_progress_on_their_way_to_a_step_are_shown_and_counted_too() -> None:
    usage, progress = UsageEvent("here", "small", 3, 4), ProgressEvent(1)

    @step
    def reports(ev: StartEvent) -> list[UsageEvent | ProgressEvent]:
        return [usage, progress]

    @step
    def takes(ctx: Context, ev: UsageEvent | ProgressEvent) -> StopEvent | None:
        both = ctx.collect_events(ev, 2)
        return None if both is None else StopEvent(result=both)

    async with Workflow[Any]("w", [reports, takes]).run_with_handler() as handler:
        result = await handler.result()
        assert [event async for event in handler.stream_events()] == [usage, progress]
    assert result.result == [usage, progress]
    assert (result.total_input_tokens, result.total_output_tokens) == (3, 4)


async def test_usage_that_is_written_to_the_stream_counts_also_where_nobody_reads_it() -> None:
    @step
    def work(ctx: Context, ev: StartEvent) -> StopEvent:
        ctx.write_event_to_stream(UsageEvent("here", "small", 3, 4, cost_usd=0.5))
        return StopEvent()

    result = await Workflow("w", [work]).run()
    assert (result.total_input_tokens, result.total_output_tokens, result.total_cost_usd) == (3, 4, 0.5)


async def test_a_stop_event_known_by_name_becomes_the_class_the_workflow_declares() -> None:
    class Out(StopEvent):
        answer: int

    @step
    def begin(ev: StartEvent) -> Out:
        return DynamicEvent("blazen::StopEvent", {"answer": ev.answer})  # type: ignore[return-value]

    workflow = Workflow[Any]("w", [begin])
    result = await workflow.run(answer=42)
    assert result.event == Out(answer=42)
    assert result.result is None
    with pytest.raises(WorkflowError, match="answer"):
        await workflow.run(answer="no int")


async def test_a_plain_stop_event_known_by_name_carries_its_result() -> None:
    @step
    def begin(ev: StartEvent) -> StopEvent:
        return DynamicEvent("blazen::StopEvent", {"result": [1]})  # type: ignore[return-value]

    result = await Workflow[Any]("w", [begin]).run()
    assert isinstance(result.event, StopEvent)
    assert result.result == [1]


async def test_events_that_a_workflow_knows_by_name_only_can_be_stored() -> None:
    event = DynamicEvent("Named", {"a": 1})

    @step
    def begin(ev: StartEvent) -> Any:
        return event

    @step(accepts=["Named"])
    def keep(ctx: Context, ev: DynamicEvent) -> StopEvent:
        ctx.set("event", ev)
        return StopEvent(result=ctx.get("event"))

    assert (await Workflow[Any]("w", [begin, keep]).run()).result is event


@pytest.mark.parametrize(("wrong", "word"), [(5, "'int'"), ([None], "list with a 'NoneType'"), (Part(1), "'Part'")])
async def test_what_is_wrong_with_on_errors_result_is_said_of_on_error_and_keeps_the_first_error(
    wrong: Any, word: str
) -> None:
    first = OSError("of the step")

    def rescue(ev: Event, exc: Exception) -> Any:
        return wrong

    @step(on_error=rescue)
    async def fails(ev: StartEvent) -> StopEvent:
        raise first

    with pytest.raises(WorkflowError, match=f"on_error of step 'fails'|{word}") as caught:
        await Workflow("w", [fails]).run()
    assert word in str(caught.value)
    assert "on_error of step 'fails'" in str(caught.value)
    assert caught.value.__context__ is first
    assert caught.value.event_type is not None


async def test_progress_on_its_way_to_a_step_of_a_run_that_nobody_watches_is_routed() -> None:
    @step
    def reports(ev: StartEvent) -> ProgressEvent:
        return ProgressEvent(1)

    @step
    def takes(ev: ProgressEvent) -> StopEvent:
        return StopEvent(result=ev)

    assert (await Workflow("w", [reports, takes]).run()).result == ProgressEvent(1)


async def test_a_question_in_a_run_that_nobody_watches_fails_it_and_names_the_way_out() -> None:
    @step
    def asks(ev: StartEvent) -> InputRequestEvent:
        return InputRequestEvent(prompt="name?")

    @step
    def end(ev: InputResponseEvent) -> StopEvent:
        return StopEvent()

    with pytest.raises(WorkflowError, match=r"asks 'name\?'.*run_with_handler"):
        await Workflow("w", [asks, end]).run()


async def test_an_event_from_another_thread_that_arrives_after_the_end_is_dropped() -> None:
    ran = []

    @step
    def work(ctx: Context, ev: StartEvent) -> StopEvent:
        sender = threading.Thread(target=handler.send_event, args=(Part(1),))
        sender.start()
        sender.join()  # the loop is held here, so the event arrives when the run has ended
        return StopEvent(result="ended")

    @step
    def take(ev: Part) -> StopEvent:
        ran.append(ev)
        return StopEvent()

    async with Workflow("w", [work, take]).run_with_handler() as handler:
        assert (await handler.result()).result == "ended"
        await wait_all_tasks_blocked()
    assert ran == []
