"""One step alone, on the real engine: it gets a real `Context`, and whatever it emits is shown instead of routed."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial
from typing import Any

import msgspec
import trio

from blazen._core.state import check_types
from blazen.errors import ValidationError
from blazen.events import DynamicEvent, Event, InputRequestEvent, StartEvent, UsageEvent, start_event
from blazen.retry import Retry, show
from blazen.steps import StepSpec, spec_of
from blazen.testing.answers import Answerer, Answers
from blazen.testing.lone_step import LoneStep
from blazen.testing.scheduling import run_in_virtual_time


class StepOutcome:
    """What a step did, run alone.

    Attributes:
        events: What it returned, in order: one event, the events of a list, none for None. What its `on_error` returned
            if that was called.
        sent: What it sent with `ctx.send_event`, in order.
        stream: What it wrote to the stream, `UsageEvent`s included.
        usage: The `UsageEvent`s alone.
        state: The state afterwards, by key.
        session: `ctx.session` afterwards; the same dict that was given.
        questions: What it asked with `ctx.request_input`, in order; each has a `prompt`.
        error: What it raised; None if it did not, and always None without `keep_error`.
        attempts: How many attempts there were, over all events.
    """

    __slots__ = ("attempts", "error", "events", "questions", "sent", "session", "state", "stream", "usage")

    def __init__(self, run: LoneStep, stream: list[Event], error: Exception | None) -> None:
        self.events: list[Any] = run.returned
        self.sent: list[Any] = run.sent
        self.stream: list[Any] = stream
        self.usage = [event for event in stream if isinstance(event, UsageEvent)]
        self.state: dict[str, Any] = dict(run.state.items())
        self.session: dict[str, Any] = run.session
        self.questions: list[InputRequestEvent] = run.questions_asked
        self.error = error
        self.attempts = run.attempts

    @property
    def event(self) -> Any:
        """The only event that was returned.

        Raises:
            AssertionError: There were none, or more than one.
        """
        if len(self.events) != 1:
            listed = "".join(f"\n    {event!r}" for event in self.events)
            raise AssertionError(f"the step returned {len(self.events)} events, not one{':' if listed else ''}{listed}")
        return self.events[0]

    def __repr__(self) -> str:
        shown = [f"events={self.events!r}"]
        for field in ("sent", "stream", "state", "error"):
            value = getattr(self, field)
            if value:
                shown.append(f"{field}={value!r}")
        return f"StepOutcome({', '.join(shown)})"


async def run_step(
    fn: Callable[..., Any],
    event: Event,
    *,
    state: Mapping[str, object] | None = None,
    session: dict[str, Any] | None = None,
    attempt: int = 1,
    answers: Answers | None = None,
    events: Sequence[Event] = (),
    timeout: bool = False,
    retries: bool = False,
    on_error: bool = False,
    keep_error: bool = False,
    types: Iterable[type] = (),
) -> StepOutcome:
    """Run one step on one event and return what it did. Inside trio.

    The step runs on the engine, once, and gets a real `Context`. What it returns is held against what it declares, as
    in a workflow; where it would go is not asked. An exception that the step raises comes out as it is.

    Args:
        fn: A function decorated with `@step`, or a bound method that is.
        event: An event that the step accepts.
        state: What `ctx.get` finds, by key.
        session: The dict that the step sees as `ctx.session`.
        attempt: What `ctx.attempt` is at first.
        answers: What `ctx.request_input` gets: a dict of prompt and answer, a list in the order of the questions, or a
            function of the `InputRequestEvent`. `UNANSWERED` in the place of an answer lets the question's own timeout
            come.
        events: What `ctx.wait_for_event` gets: each call the first of them that matches and is left. A call without a
            timeout for which there is none is an error at once.
        timeout: Heed the step's own `timeout`; otherwise there is none.
        retries: Heed its `retries`; otherwise there is one attempt.
        on_error: Heed its `on_error`; otherwise what the step raises comes out.
        keep_error: Put what is raised into `.error` instead of raising it.
        types: Classes of your own that the step stores, as of `Workflow`.
    Raises:
        ValidationError: `fn` is no step, does not accept `event`, its guard refuses it, or an argument is out of its
            range; or the step asks or waits for what was not given. Raised with `keep_error` too.
        TimeoutError: The step was over its timeout, or a wait in it.
        WorkflowError: What it returned is no event, or not one that it declares.
    """
    return await run_step_with(
        fn,
        [event],
        state=state,
        session=session,
        attempt=attempt,
        answers=answers,
        events=events,
        timeout=timeout,
        retries=retries,
        on_error=on_error,
        keep_error=keep_error,
        types=types,
    )


async def run_step_with(
    fn: Callable[..., Any],
    inputs: Sequence[Event],
    *,
    state: Mapping[str, object] | None = None,
    session: dict[str, Any] | None = None,
    attempt: int = 1,
    answers: Answers | None = None,
    events: Sequence[Event] = (),
    timeout: bool = False,
    retries: bool = False,
    on_error: bool = False,
    keep_error: bool = False,
    types: Iterable[type] = (),
) -> StepOutcome:
    """Run one step on several events, one after the other in one run: for steps that collect events. Inside trio.

    A `StopEvent` does not end it: the events that follow are given to the step too. An error does.

    Args:
        fn: As of `run_step`.
        inputs: In the order in which the step gets them.
        state: As of `run_step`.
        session: As of `run_step`.
        attempt: As of `run_step`; for each input.
        answers: As of `run_step`; one list for all inputs.
        events: As of `run_step`; likewise.
        timeout: As of `run_step`.
        retries: As of `run_step`.
        on_error: As of `run_step`.
        keep_error: As of `run_step`.
        types: As of `run_step`.
    Raises:
        ValidationError: As of `run_step`.
        TimeoutError: As of `run_step`.
        WorkflowError: As of `run_step`.
    """
    spec = _spec_for(fn, timeout=timeout, retries=retries, on_error=on_error)
    where = f"step {spec.name!r}"
    if isinstance(inputs, Event) or not isinstance(inputs, Sequence):
        raise ValidationError(f"{where}: run_step_with takes a list of events, got {show(inputs)}")
    given = [_fitting(spec, event) for event in inputs]
    if not given:
        raise ValidationError(f"{where}: run_step_with needs at least one event")
    if isinstance(attempt, bool) or not isinstance(attempt, int) or attempt < 1:
        raise ValidationError(f"{where}: attempt must be an int, 1 or more, got {show(attempt)}")
    if session is not None and not isinstance(session, dict):
        raise ValidationError(f"{where}: session must be a dict, got {show(session)}")
    if state is not None and not isinstance(state, Mapping):
        raise ValidationError(f"{where}: state must be a mapping, got {show(state)}")
    if not trio.lowlevel.in_trio_task():
        raise ValidationError(f"{where}: run_step is awaited outside of trio; use run_step_sync")
    run = LoneStep(
        spec,
        given,
        awaited=_check_awaited(where, events),
        answerer=Answerer(where, answers),
        attempt=attempt,
        types=check_types(tuple(types)),
        session={} if session is None else session,
    )
    for event in given:
        run.ask_guard(event)
    if state:
        run.state.update(state)
    error = await run.run_to_end()
    if error is not None and not keep_error:
        raise error
    return StepOutcome(run, await run.read_stream(), error)


def run_step_sync(fn: Callable[..., Any], event: Event, *, seed: int = 0, **options: Any) -> StepOutcome:
    """`run_step` for tests that are a plain `def`: in a trio loop of its own, on a seeded schedule, in virtual time.

    Args:
        fn: As of `run_step`.
        event: As of `run_step`.
        seed: Of the schedule.
        **options: The keywords of `run_step`.
    Raises:
        ValidationError: As of `run_step`; or a trio loop runs in this thread.
        TimeoutError: As of `run_step`.
        WorkflowError: As of `run_step`.
    """
    return run_in_virtual_time(partial(run_step, fn, event, **options), seed=seed)


def run_step_with_sync(
    fn: Callable[..., Any], inputs: Sequence[Event], *, seed: int = 0, **options: Any
) -> StepOutcome:
    """`run_step_with` for tests that are a plain `def`; see `run_step_sync`.

    Args:
        fn: As of `run_step`.
        inputs: As of `run_step_with`.
        seed: Of the schedule.
        **options: The keywords of `run_step_with`.
    Raises:
        ValidationError: As of `run_step`; or a trio loop runs in this thread.
        TimeoutError: As of `run_step`.
        WorkflowError: As of `run_step`.
    """
    return run_in_virtual_time(partial(run_step_with, fn, inputs, **options), seed=seed)


def _spec_for(fn: Callable[..., Any], *, timeout: bool, retries: bool, on_error: bool) -> StepSpec:
    spec = spec_of(fn)
    if not timeout:
        spec = msgspec.structs.replace(spec, timeout=None)
    if not retries:
        spec = msgspec.structs.replace(spec, retry=Retry(0))
    if not on_error:
        spec = msgspec.structs.replace(spec, on_error=None)
    if spec.run == "process" and spec.timeout is not None:
        raise ValidationError(
            f"step {spec.name!r}: run_step calls a process step in this process, where nothing can kill it, so its "
            "timeout cannot be heeded: leave out timeout=True, and test the timeout by running a workflow"
        )
    # One after the other: what a step does with the second event may depend on what it did with the first.
    return msgspec.structs.replace(spec, max_concurrency=1)


def _check_awaited(where: str, events: object) -> list[Event]:
    if isinstance(events, str | bytes | Event) or not isinstance(events, Sequence):
        raise ValidationError(f"{where}: events must be a list of events for ctx.wait_for_event, got {show(events)}")
    for event in events:
        if not isinstance(event, Event):
            raise ValidationError(f"{where}: events must be a list of events, and it has {show(event)}")
    return list(events)


def _fitting(spec: StepSpec, event: object) -> Event:
    """The event as a workflow with this step would bring it.

    Raises:
        ValidationError: The step does not accept it.
    """
    if not isinstance(event, Event):
        hint = "" if not isinstance(event, type) else f"; make one: {event.__name__}(...)"
        raise ValidationError(f"step {spec.name!r}: run_step takes an event, got {show(event)}{hint}")
    for accepted in spec.accepts:
        if isinstance(accepted, str):
            if accepted == event.event_type:
                return event
        elif accepted.event_type == event.event_type:
            if issubclass(accepted, StartEvent):
                return start_event(accepted, event)
            if isinstance(event, accepted | DynamicEvent):
                return event
            raise ValidationError(
                f"step {spec.name!r} accepts {accepted.__module__}.{accepted.__qualname__}, and the event is a "
                f"{type(event).__module__}.{type(event).__qualname__}: two classes with the type name "
                f"{event.event_type!r}"
            )
        elif spec.subclasses and isinstance(event, accepted):
            return event
    names = ", ".join(one if isinstance(one, str) else one.__name__ for one in spec.accepts)
    raise ValidationError(f"step {spec.name!r} accepts {names}, and the event is {show(event)}")
