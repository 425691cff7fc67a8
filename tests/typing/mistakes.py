"""Mistakes that mypy --strict must find. Nothing here is run.

`type: ignore` with the code keeps them out of the way of other checks, which complain where one is not found any more;
test_typing.py takes these away and looks for the words after `E:`.
"""

# ruff: noqa: B018, F841

from __future__ import annotations

from blazen import (
    BlazenState,
    CallbackFieldStore,
    Context,
    Event,
    Retry,
    StartEvent,
    StopEvent,
    UsageEvent,
    Workflow,
    step,
)
from blazen.testing import assert_events, cancel_everywhere, run_seeds, run_step, run_step_sync


class Greet(Event):
    name: str


greet = Greet(name="Ada")
Greet()  # type: ignore[call-arg]  # E: Missing positional argument "name"
Greet(name=5)  # type: ignore[arg-type]  # E: Argument "name" to "Greet" has incompatible type "int"
Greet(name="Ada", age=5)  # type: ignore[call-arg]  # E: Unexpected keyword argument "age"
greet.name = "Bob"  # type: ignore[misc]  # E: Property "name" defined in "Greet" is read-only
greet.age  # type: ignore[attr-defined]  # E: "Greet" has no attribute "age"


class Counter(BlazenState):
    count: int = 0
    label: str = ""


counter = Counter(1)
Counter("1")  # type: ignore[arg-type]  # E: Argument 1 to "Counter" has incompatible type "str"
Counter(cuont=1)  # type: ignore[call-arg]  # E: Unexpected keyword argument "cuont"
counter.count = "1"  # type: ignore[assignment]  # E: variable has type "int"
counter.cuont  # type: ignore[attr-defined]  # E: "Counter" has no attribute "cuont"
CallbackFieldStore(print)  # type: ignore[call-arg]  # E: Missing positional argument "load_fn"


@step(timeout="5")  # type: ignore[call-overload, untyped-decorator]  # E: No overload variant of "step" matches
async def timed(ev: StartEvent) -> StopEvent:
    return StopEvent()


@step(run="proces")  # type: ignore[call-overload, untyped-decorator]  # E: No overload variant of "step" matches
def run_wrongly(ev: StartEvent) -> StopEvent:
    return StopEvent()


@step(run="thread", max_concurrency="2")  # type: ignore[call-overload, untyped-decorator]  # E: No overload variant
def limited(ev: StartEvent) -> StopEvent:
    return StopEvent()


@step(accepts=greet)  # type: ignore[call-overload, untyped-decorator]  # E: No overload variant of "step" matches
def accepts_an_event(ev: Greet) -> StopEvent:
    return StopEvent()


@step(retries=1.5)  # type: ignore[call-overload, untyped-decorator]  # E: No overload variant of "step" matches
def retried(ev: Greet) -> StopEvent:
    return StopEvent()


@step(run=["process"])  # type: ignore[call-overload, untyped-decorator]  # E: No overload variant of "step" matches
def run_in_a_list(ev: StartEvent) -> StopEvent:
    return StopEvent()


@step(retry=3)  # type: ignore[call-overload, untyped-decorator]  # E: Unexpected keyword argument "retry"
def misspelt(ev: StartEvent) -> StopEvent:
    return StopEvent()


async def async_guard(ev: Greet) -> bool:
    return True


@step(when=async_guard)  # type: ignore[arg-type]  # E: Argument "when" to "step" has incompatible type
async def guarded(ev: Greet) -> StopEvent:
    return StopEvent()


@step(run="thread", when="name == 'Ada'")  # type: ignore[call-overload, untyped-decorator]  # E: No overload variant
def guarded_by_text(ev: Greet) -> StopEvent:
    return StopEvent()


@step  # type: ignore[type-var]  # E: cannot be "Callable[[StartEvent], Coroutine[Any, Any, str]]"
async def returns_text(ev: StartEvent) -> str:
    return "done"


@step(timeout=5.0)  # type: ignore[type-var]  # E: cannot be "Callable[[StartEvent], tuple[Greet, Greet]]"
def returns_a_tuple(ev: StartEvent) -> tuple[Greet, Greet]:
    return greet, greet


@step(run="thread")  # type: ignore[type-var]  # E: cannot be "Callable[[StartEvent], Coroutine[Any, Any, StopEvent]]"
async def async_in_a_thread(ev: StartEvent) -> StopEvent:
    return StopEvent()


def excuse_without_error(ev: Greet) -> StopEvent:
    return StopEvent()


def excuse_in_words(ev: Greet, exc: Exception) -> str:
    return "sorry"


@step(on_error=excuse_without_error)  # type: ignore[arg-type]  # E: Argument "on_error" to "step" has incompatible type
def excused(ev: Greet) -> StopEvent:
    return StopEvent()


@step(on_error=excuse_in_words)  # type: ignore[arg-type]  # E: Argument "on_error" to "step" has incompatible type
def excused_in_words(ev: Greet) -> StopEvent:
    return StopEvent()


@step
async def only(ctx: Context, ev: StartEvent) -> StopEvent:
    ctx.set(5, 1)  # type: ignore[arg-type]  # E: expected "str"
    ctx.send_event("Greet")  # type: ignore[arg-type]  # E: expected "Event"
    ctx.emit_usage(greet)  # type: ignore[arg-type]  # E: expected "UsageEvent"
    ctx.write_event_to_stream({"name": "Ada"})  # type: ignore[arg-type]  # E: expected "Event"
    ctx.attempt = 2  # type: ignore[misc]  # E: Property "attempt" defined in "Context" is read-only
    with ctx.edit("n"):  # type: ignore[attr-defined]  # E: has no attribute "__enter__"
        pass
    greets: list[Greet] = ctx.collect_events(greet, 2)  # type: ignore[assignment]  # E: "list[Greet] | None"
    ctx.set_value("key", 5)  # type: ignore[arg-type]  # E: expected "StateValue"
    ctx.request_input("Ship it?")  # type: ignore[unused-coroutine]  # E: must be used
    ctx.wait_for_event(Greet)  # type: ignore[unused-coroutine]  # E: must be used
    await ctx.request_input(5)  # type: ignore[call-overload]  # E: No overload variant of "request_input"
    await ctx.wait_for_event(Greet, timeout="5")  # type: ignore[call-overload]  # E: No overload variant
    (await ctx.wait_for_event(Greet)).age  # type: ignore[attr-defined]  # E: "Greet" has no attribute "age"
    await ctx.wait_for_event(Greet, where=lambda ev: ev.age)  # type: ignore[attr-defined]  # E: has no attribute "age"
    ctx.collect_events(greet, 2, "key")  # type: ignore[call-overload]  # E: No overload variant of "collect_events"
    return "done"  # type: ignore[return-value]  # E: Incompatible return value type (got "str", expected "StopEvent")


workflow = Workflow[int]("w", [only])
Workflow("w", [only], session_policy="drop")  # type: ignore[arg-type]  # E: Argument "session_policy" to "Workflow"
Workflow("w", only)  # type: ignore[arg-type]  # E: Argument 2 to "Workflow" has incompatible type
Workflow("w", [only], timeout="30")  # type: ignore[arg-type]  # E: expected "float | None"
Workflow("w", [only], time_out=30)  # type: ignore[call-arg]  # E: Unexpected keyword argument "time_out"
Retry(3, on="OSError")  # type: ignore[arg-type]  # E: Argument "on" to "Retry" has incompatible type "str"
UsageEvent("acme")  # type: ignore[call-arg]  # E: Missing positional argument "model"


async def run() -> None:
    text: str = (await workflow.run()).result  # type: ignore[assignment]  # E: variable has type "str"
    workflow.run().result  # type: ignore[attr-defined]  # E: has no attribute "result"
    number: Workflow[str] = workflow  # type: ignore[assignment]  # E: variable has type "Workflow[str]"
    workflow.run()  # type: ignore[unused-coroutine]  # E: must be used
    with workflow.run_with_handler() as handler:  # type: ignore[attr-defined]  # E: has no attribute "__enter__"
        pass
    async with workflow.run_with_handler() as handler:
        handler.send_event("Greet")  # type: ignore[arg-type]  # E: expected "Event"
        handler.cancel(5)  # type: ignore[arg-type]  # E: expected "str | None"
        handler.answer  # type: ignore[attr-defined]  # E: has no attribute "answer"
        handler.result()  # type: ignore[unused-coroutine]  # E: must be used
        for _ in handler.stream_events():  # type: ignore[attr-defined]  # E: has no attribute "__iter__"
            pass
        await handler.stream_events()  # type: ignore[misc]  # E: Incompatible types in "await"
        async for _ in handler:  # type: ignore[attr-defined]  # E: has no attribute "__aiter__"
            pass
        handler.stream_events(buffer="1")  # type: ignore[arg-type]  # E: expected "int | None"
        async for seen in handler.stream_events():
            seen.name  # type: ignore[attr-defined]  # E: "Event" has no attribute "name"


def test() -> None:
    run_step_sync(only, Greet)  # type: ignore[arg-type]  # E: expected "Event"
    run_step(only, StartEvent())  # type: ignore[unused-coroutine]  # E: must be used
    assert_events([greet], ["Greet"])  # type: ignore[list-item]  # E: has incompatible type "str"
    cancel_everywhere([only])  # type: ignore[arg-type]  # E: Argument 1 to "cancel_everywhere"
    run_seeds(workflow, seeds=3)  # type: ignore[arg-type]  # E: expected "Iterable[int]"
