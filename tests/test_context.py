"""What a step can do through its context; the store's own rules are in test_state.py."""

from __future__ import annotations

import gc
import uuid
import weakref
from collections.abc import MutableMapping
from dataclasses import dataclass
from typing import Any

import numpy
import pytest
import trio
from trio.testing import MockClock

from blazen import (
    Context,
    Event,
    Retry,
    StartEvent,
    StateValue,
    StopEvent,
    UsageEvent,
    Workflow,
    step,
)
from blazen.errors import BlazenWarning, CancelledError, TimeoutError, ValidationError, WorkflowError


class Part(Event):
    n: int = 0


class Other(Event):
    n: int = 0


@dataclass
class Account:
    owner: str


async def once(body: Any, **options: Any) -> Any:
    """The result of a workflow whose only step returns what `await body(ctx)` returns."""

    @step
    async def only(ctx: Context, ev: StartEvent) -> StopEvent:
        return StopEvent(result=await body(ctx))

    return (await Workflow("w", [only], **options).run()).result


# ---- the shared state


async def test_what_one_step_stores_the_next_one_gets_as_the_same_object() -> None:
    array = numpy.arange(6.0).reshape(2, 3)

    @step
    async def store(ctx: Context, ev: StartEvent) -> Part:
        ctx.set("vectors", array)
        ctx.set("nested", {"a": [1, (2, 3)], 4: {5}})
        return Part()

    @step
    async def load(ctx: Context, ev: Part) -> StopEvent:
        assert ctx.get("nested") == {"a": [1, (2, 3)], 4: {5}}
        return StopEvent(result=ctx.get("vectors"))

    assert (await Workflow("w", [store, load]).run()).result is array


async def test_a_missing_key_gives_the_default_and_none_is_a_value() -> None:
    async def body(ctx: Context) -> None:
        assert ctx.get("a") is None
        assert ctx.get("a", 7) == 7
        assert not ctx.has("a")
        ctx.set("a", None)
        assert ctx.get("a", 7) is None
        assert ctx.has("a")
        assert ctx.keys() == ["a"]
        assert ctx.delete("a") is True
        assert ctx.delete("a") is False
        assert ctx.keys() == []

    await once(body)


async def test_bytes_and_state_values_have_calls_of_their_own() -> None:
    async def body(ctx: Context) -> None:
        ctx.set_bytes("raw", bytearray(b"abc"))
        assert ctx.get_bytes("raw") == b"abc"
        assert ctx.get_bytes("none") is None
        live = object()
        ctx.set_value("live", StateValue.native(live))
        assert ctx.get("live") is live
        described = ctx.get_value("live")
        assert described is not None
        assert described.kind == "native"
        ctx.set("n", 2**80)
        found = ctx.get_value("n")
        assert found is not None
        assert found.value == 2**80
        with pytest.raises(ValidationError, match="'n'"):
            ctx.get_bytes("n")

    await once(body)


async def test_a_value_that_cannot_be_stored_is_refused_with_key_path_and_type_and_nothing_changes() -> None:
    async def body(ctx: Context) -> None:
        ctx.set("job", 1)
        with pytest.raises(ValidationError) as caught:
            ctx.set("job", {"handles": [1, object()]})
        message = str(caught.value)
        assert "'job'" in message
        assert "object" in message
        for way_out in ("types=", "ctx.session", "StateValue.native"):
            assert way_out in message
        assert caught.value.path == "$['handles'][1]" or "handles" in str(caught.value.path)
        assert ctx.get("job") == 1

    await once(body)


async def test_an_error_of_ctx_set_that_a_step_lets_through_fails_the_run_by_name() -> None:
    async def body(ctx: Context) -> None:
        ctx.set("job", object())

    with pytest.raises(WorkflowError, match="'only'") as caught:
        await once(body)
    assert isinstance(caught.value.__cause__, ValidationError)


async def test_classes_named_in_types_and_the_workflows_events_can_be_stored() -> None:
    account = Account("Ada")

    @step
    async def begin(ctx: Context, ev: StartEvent) -> Part:
        ctx.set("account", account)
        ctx.set("event", Part(n=3))
        return Part()

    @step
    async def end(ctx: Context, ev: Part) -> StopEvent:
        return StopEvent(result=(ctx.get("account"), ctx.get("event")))

    found = (await Workflow("w", [begin, end], types=[Account]).run()).result
    assert found[0] is account
    assert found[1] == Part(n=3)
    with pytest.raises(WorkflowError) as caught:
        await Workflow("w", [begin, end]).run()
    assert "Account" in str(caught.value.__cause__)


async def test_ctx_state_is_the_same_store_as_a_mapping() -> None:
    async def body(ctx: Context) -> None:
        assert isinstance(ctx.state, MutableMapping)
        ctx.state["a"] = 1
        assert ctx.get("a") == 1
        ctx.set("b", None)
        assert dict(ctx.state) == {"a": 1, "b": None}
        assert "b" in ctx.state
        del ctx.state["a"]
        assert not ctx.has("a")
        with pytest.raises(ValidationError):
            ctx.state["c"] = object()

    await once(body)


async def test_runs_of_one_workflow_share_no_state() -> None:
    seen: list[Any] = []
    both = trio.Event()

    @step
    async def only(ctx: Context, ev: StartEvent) -> StopEvent:
        ctx.set("who", ev.who)
        seen.append(ev.who)
        if len(seen) == 2:
            both.set()
        await both.wait()
        return StopEvent(result=(ctx.get("who"), ctx.keys()))

    workflow = Workflow("w", [only])
    results = []

    async def one(who: str) -> None:
        results.append((await workflow.run(who=who)).result)

    async with trio.open_nursery() as nursery:
        nursery.start_soon(one, "a")
        nursery.start_soon(one, "b")
    assert sorted(results) == [("a", ["who"]), ("b", ["who"])]


async def test_what_a_failed_attempt_has_stored_stays() -> None:
    @step(retries=1)
    async def only(ctx: Context, ev: StartEvent) -> StopEvent:
        ctx.set("attempts", [*ctx.get("attempts", []), ctx.attempt])
        if ctx.attempt == 1:
            raise OSError
        return StopEvent(result=ctx.get("attempts"))

    assert (await Workflow("w", [only]).run()).result == [1, 2]


async def test_a_thread_step_reads_and_writes_the_same_state() -> None:
    @step(run="thread")
    def work(ctx: Context, ev: StartEvent) -> Part:
        ctx.set("n", 1)
        ctx.state["m"] = [2]
        return Part(n=ctx.get("n"))

    @step
    def end(ctx: Context, ev: Part) -> StopEvent:
        return StopEvent(result=(ev.n, ctx.get("m")))

    assert (await Workflow("w", [work, end]).run()).result == (1, [2])


# ---- the session


async def test_the_session_keeps_live_objects_by_identity() -> None:
    connection = object()

    @step
    async def connect(ctx: Context, ev: StartEvent) -> Part:
        assert ctx.session == {}
        ctx.session["connection"] = connection
        return Part()

    @step
    async def use(ctx: Context, ev: Part) -> StopEvent:
        assert "connection" not in ctx.state
        return StopEvent(result=ctx.session["connection"])

    workflow = Workflow("w", [connect, use])
    assert (await workflow.run()).result is connection
    assert (await workflow.run()).result is connection  # the second run began with an empty one


async def test_a_session_given_by_options_is_the_very_dict() -> None:
    given: dict[str, object] = {"log": []}

    async def body(ctx: Context) -> bool:
        ctx.session["seen"] = True
        return ctx.session is given

    @step
    async def only(ctx: Context, ev: StartEvent) -> StopEvent:
        return StopEvent(result=await body(ctx))

    assert (await Workflow("w", [only]).options(session=given).run()).result is True
    assert given == {"log": [], "seen": True}


# ---- the run


async def test_run_id_is_one_uuid_for_all_steps_and_the_result() -> None:
    @step
    async def first(ctx: Context, ev: StartEvent) -> Part:
        ctx.set("id", ctx.run_id())
        return Part()

    @step
    def second(ctx: Context, ev: Part) -> StopEvent:
        return StopEvent(result=[ctx.get("id"), ctx.run_id()])

    workflow = Workflow("w", [first, second])
    result = await workflow.run()
    assert result.result == [result.run_id, result.run_id]
    assert str(uuid.UUID(result.run_id)) == result.run_id
    assert (await workflow.run()).run_id != result.run_id


async def test_a_context_names_its_step_and_workflow() -> None:
    async def body(ctx: Context) -> Any:
        assert "'only'" in repr(ctx)
        return ctx.step_name, ctx.workflow_name, ctx.attempt, ctx.cancelled

    assert await once(body) == ("only", "w", 1, False)


def test_a_context_cannot_be_made() -> None:
    with pytest.raises(TypeError, match="handed to steps"):
        Context()


async def test_a_context_that_a_step_keeps_is_not_given_to_another_invocation() -> None:
    kept: list[Context] = []

    @step(retries=1)
    async def first(ctx: Context, ev: StartEvent) -> Part:
        kept.append(ctx)
        if ctx.attempt == 1:
            raise OSError
        return Part()

    @step
    async def second(ctx: Context, ev: Part) -> Other:
        kept.append(ctx)
        return Other()

    @step
    def third(ctx: Context, ev: Other) -> StopEvent:
        return StopEvent(result=(ctx.step_name, ctx.attempt))

    assert (await Workflow("w", [first, second, third]).run()).result == ("third", 1)
    assert [(ctx.step_name, ctx.attempt) for ctx in kept] == [("first", 2), ("first", 2), ("second", 1)]


async def test_a_context_kept_beyond_its_run_is_refused_to_send() -> None:
    kept: list[Context] = []

    async def body(ctx: Context) -> None:
        kept.append(ctx)

    await once(body)
    with pytest.raises(ValidationError, match="has ended"):
        kept[0].send_event(Part())


async def test_contexts_and_events_of_a_finished_run_are_freed() -> None:
    class Payload:
        pass

    gone: list[weakref.ref[Payload]] = []

    @step
    async def first(ctx: Context, ev: StartEvent) -> Part:
        payload = Payload()
        gone.append(weakref.ref(payload))
        ctx.session["payload"] = payload
        return Part(n=payload)  # type: ignore[arg-type]

    @step
    async def second(ctx: Context, ev: Part) -> StopEvent:
        ctx.session["ctx"] = ctx  # a cycle through the run
        return StopEvent()

    await Workflow("w", [first, second]).run()
    gc.collect()
    assert gone[0]() is None


# ---- sending


async def test_send_event_is_a_plain_call_and_the_event_is_taken_while_the_step_goes_on() -> None:
    answered = trio.Event()

    @step
    async def ask(ctx: Context, ev: StartEvent) -> StopEvent:
        assert ctx.send_event(Part(n=5)) is None  # type: ignore[func-returns-value]
        await answered.wait()
        return StopEvent(result=ctx.get("answer"))

    @step
    async def answer(ctx: Context, ev: Part) -> None:
        ctx.set("answer", ev.n)
        answered.set()

    assert (await Workflow("w", [ask, answer]).run()).result == 5


@pytest.mark.parametrize("wait", [False, True])
async def test_a_stop_event_that_is_sent_ends_the_run(wait: bool) -> None:
    after: list[str] = []

    @step
    async def sends(ctx: Context, ev: StartEvent) -> StopEvent | None:
        ctx.send_event(StopEvent(result="sent"))
        if wait:
            await trio.sleep_forever()
        after.append("on its way out")
        return StopEvent(result="returned")

    assert (await Workflow("w", [sends]).run()).result == "sent"
    assert after == ([] if wait else ["on its way out"])


async def test_a_plain_def_may_send_the_stop_event() -> None:
    @step
    def sends(ctx: Context, ev: StartEvent) -> StopEvent | None:
        ctx.send_event(StopEvent(result="sent"))
        return None

    assert (await Workflow("w", [sends]).run()).result == "sent"
    async with Workflow("w", [sends]).run_with_handler() as handler:
        assert (await handler.result()).result == "sent"


async def test_an_event_nobody_accepts_is_refused_where_it_is_sent_naming_type_and_step() -> None:
    async def body(ctx: Context) -> str:
        with pytest.raises(WorkflowError) as caught:
            ctx.send_event(Part())
        assert caught.value.step == "only"
        assert caught.value.event_type == "Part"
        assert caught.value.run_id == ctx.run_id()
        return str(caught.value)

    message = await once(body)
    assert "'Part'" in message
    assert "'only'" in message


@pytest.mark.parametrize("wrong", [None, "Part", 5, Part, {"n": 1}, [Part()]], ids=str)
async def test_what_is_no_event_cannot_be_sent_or_streamed(wrong: Any) -> None:
    async def body(ctx: Context) -> None:
        with pytest.raises(ValidationError, match="event"):
            ctx.send_event(wrong)
        with pytest.raises(ValidationError, match=r"'only'.*write_event_to_stream"):
            ctx.write_event_to_stream(wrong)

    await once(body)


async def test_an_event_sent_with_a_key_comes_once_however_often_it_is_sent() -> None:
    got: list[int] = []

    @step(retries=2)
    async def sends(ctx: Context, ev: StartEvent) -> StopEvent:
        ctx.send_event(Part(n=ctx.attempt), key=("part", 1))
        ctx.send_event(Part(n=10 * ctx.attempt))
        if ctx.attempt < 3:
            raise OSError
        await trio.testing.wait_all_tasks_blocked()
        return StopEvent()

    @step
    async def takes(ev: Part) -> None:
        got.append(ev.n)

    await Workflow("w", [sends, takes]).run()
    assert got == [1, 10, 20, 30]


async def test_a_key_whose_event_was_refused_can_be_sent_again() -> None:
    got: list[int] = []

    @step
    async def sends(ctx: Context, ev: StartEvent) -> StopEvent:
        with pytest.raises(WorkflowError):
            ctx.send_event(Other(), key="k")
        ctx.send_event(Part(n=1), key="k")
        ctx.send_event(Part(n=2), key="k")
        await trio.testing.wait_all_tasks_blocked()
        return StopEvent()

    @step
    async def takes(ev: Part) -> None:
        got.append(ev.n)

    await Workflow("w", [sends, takes]).run()
    assert got == [1]


async def test_keys_of_one_run_mean_nothing_to_another() -> None:
    @step
    async def sends(ctx: Context, ev: StartEvent) -> StopEvent | None:
        ctx.send_event(Part(n=1), key="k")

    @step
    async def takes(ev: Part) -> StopEvent:
        return StopEvent(result=ev.n)

    workflow = Workflow("w", [sends, takes])
    assert [(await workflow.run()).result for _ in range(2)] == [1, 1]


async def test_events_sent_by_a_thread_come_in_their_order_before_what_the_step_returns() -> None:
    got: list[int] = []

    @step(run="thread")
    def sends(ctx: Context, ev: StartEvent) -> Part:
        for n in range(2000):  # more than fit into the door for threads at once
            ctx.send_event(Part(n=n))
        ctx.send_event(Part(n=-1), key="k")
        ctx.send_event(Part(n=-2), key="k")
        return Part(n=2000)

    @step
    async def takes(ev: Part) -> StopEvent | None:
        got.append(ev.n)
        return StopEvent() if ev.n == 2000 else None

    await Workflow("w", [sends, takes]).run()
    assert got == [*range(2000), -1, 2000]


async def test_a_thread_is_told_at_once_that_nobody_accepts_its_event() -> None:
    @step(run="thread")
    def sends(ctx: Context, ev: StartEvent) -> StopEvent:
        with pytest.raises(WorkflowError, match="'Part'"):
            ctx.send_event(Part())
        with pytest.raises(ValidationError, match="event"):
            ctx.send_event("Part")  # type: ignore[arg-type]
        return StopEvent(result="told")

    assert (await Workflow("w", [sends]).run()).result == "told"


# ---- usage


async def test_usage_adds_up_in_the_result() -> None:
    @step
    async def first(ctx: Context, ev: StartEvent) -> Part:
        ctx.emit_usage(UsageEvent("acme", "small", input_tokens=3, output_tokens=5, cost_usd=0.25))
        ctx.emit_usage(UsageEvent("acme", "small", input_tokens=1))
        return Part()

    @step
    def second(ctx: Context, ev: Part) -> StopEvent:
        ctx.emit_usage(UsageEvent("acme", "large", output_tokens=10**20, cost_usd=1.5))
        return StopEvent()

    workflow = Workflow("w", [first, second])
    for _ in range(2):
        result = await workflow.run()
        assert result.total_input_tokens == 4
        assert result.total_output_tokens == 5 + 10**20
        assert result.total_cost_usd == 1.75


async def test_a_run_without_usage_has_totals_of_zero() -> None:
    @step
    async def only(ev: StartEvent) -> StopEvent:
        return StopEvent()

    result = await Workflow("w", [only]).run()
    assert (result.total_input_tokens, result.total_output_tokens, result.total_cost_usd) == (0, 0, 0.0)


async def test_usage_of_threads_counts_and_is_shown() -> None:
    @step
    async def fan(ev: StartEvent) -> list[Part]:
        return [Part(n=n) for n in range(20)]

    @step(run="thread")
    def work(ctx: Context, ev: Part) -> Other:
        for _ in range(50):
            ctx.emit_usage(UsageEvent("acme", "small", input_tokens=1, cost_usd=0.5))
        return Other()

    @step
    async def join(ctx: Context, ev: Other) -> StopEvent | None:
        return StopEvent() if ctx.collect_events(ev, 20) else None

    async with Workflow("w", [fan, work, join]).run_with_handler() as handler:
        shown = [event async for event in handler.stream_events()]  # also while it waits for more
        result = await handler.result()
    assert result.total_input_tokens == len(shown) == 1000
    assert result.total_cost_usd == 500.0


@pytest.mark.parametrize(
    ("wrong", "named"),
    [
        (Part(), "Part"),
        ({"input_tokens": 1}, "dict"),
        (UsageEvent("p", "m", input_tokens="3"), "input_tokens"),  # type: ignore[arg-type]
        (UsageEvent("p", "m", input_tokens=3, output_tokens=None), "output_tokens"),  # type: ignore[arg-type]
        (UsageEvent("p", "m", input_tokens=3, cost_usd="1"), "cost_usd"),  # type: ignore[arg-type]
        (UsageEvent("p", "m", input_tokens=True), "input_tokens"),
    ],
)
async def test_usage_that_cannot_be_added_up_is_refused_and_counts_nothing(wrong: Any, named: str) -> None:
    @step
    async def only(ctx: Context, ev: StartEvent) -> StopEvent:
        with pytest.raises(ValidationError, match=f"'only'.*{named}"):
            ctx.emit_usage(wrong)
        return StopEvent()

    result = await Workflow("w", [only]).run()
    assert (result.total_input_tokens, result.total_output_tokens, result.total_cost_usd) == (0, 0, 0.0)


async def test_usage_of_failed_attempts_counts_too() -> None:
    @step(retries=1)
    async def only(ctx: Context, ev: StartEvent) -> StopEvent:
        ctx.emit_usage(UsageEvent("acme", "small", input_tokens=2))
        if ctx.attempt == 1:
            raise OSError
        return StopEvent()

    assert (await Workflow("w", [only]).run()).total_input_tokens == 4


# ---- cleaning up


async def test_cleanup_may_await_after_an_abort(autojump_clock: MockClock) -> None:
    log: list[float] = []

    @step(timeout=5)
    async def slow(ctx: Context, ev: StartEvent) -> StopEvent:
        try:
            await trio.sleep(3600)
        finally:
            async with ctx.cleanup():
                await trio.sleep(2)
                log.append(trio.current_time())
        return StopEvent()

    began = trio.current_time()
    with pytest.raises(TimeoutError) as caught:
        await Workflow("w", [slow]).run()
    assert [at - began for at in log] == [7.0]
    assert caught.value.elapsed_ms == 5000


async def test_cleanup_is_cut_off_after_the_grace_and_the_step_is_named(autojump_clock: MockClock) -> None:
    reached: list[str] = []

    @step(timeout=5)
    async def slow(ctx: Context, ev: StartEvent) -> StopEvent:
        try:
            await trio.sleep(3600)
        finally:
            async with ctx.cleanup():
                await trio.sleep(100)
                reached.append("the end of the cleanup")
        return StopEvent()

    began = trio.current_time()
    with pytest.warns(BlazenWarning, match=r"'slow'.*cleanup"), pytest.raises(TimeoutError):
        await Workflow("w", [slow], cleanup_grace=3).run()
    assert trio.current_time() - began == 8.0
    assert reached == []


async def test_cleanup_without_an_abort_is_just_a_block(autojump_clock: MockClock) -> None:
    async def body(ctx: Context) -> str:
        async with ctx.cleanup():
            await trio.sleep(1)
        with pytest.raises(KeyError):
            async with ctx.cleanup():
                raise KeyError
        return "done"

    assert await once(body) == "done"


async def test_a_step_of_a_cancelled_run_sees_cancelled_in_its_context() -> None:
    seen: list[bool] = []

    @step
    async def waits(ctx: Context, ev: StartEvent) -> StopEvent:
        ctx.check_cancelled()
        try:
            await trio.sleep_forever()
        finally:
            seen.append(ctx.cancelled)
            with pytest.raises(CancelledError):
                ctx.check_cancelled()

    async with Workflow("w", [waits]).run_with_handler() as handler:
        await trio.testing.wait_all_tasks_blocked()
        handler.cancel()
    assert seen == [True]


async def test_attempts_are_counted_from_one(autojump_clock: MockClock) -> None:
    attempts: list[int] = []

    @step(retries=Retry(3, initial=1.0))
    async def fails(ctx: Context, ev: StartEvent) -> StopEvent:
        attempts.append(ctx.attempt)
        raise OSError

    with pytest.raises(WorkflowError, match="after 4 attempts"):
        await Workflow("w", [fails]).run()
    assert attempts == [1, 2, 3, 4]
