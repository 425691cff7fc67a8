"""A run of the engine that consists of one step: what it emits is caught instead of routed."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import msgspec

from blazen._core.router import Router
from blazen._core.state import StateStore
from blazen._core.stream import EventStream
from blazen.engine.calling import unguard_steps
from blazen.engine.handler import RunHandler
from blazen.engine.life import Happening, State
from blazen.engine.run import Run
from blazen.errors import WorkflowError
from blazen.events import DynamicEvent, Event, ProgressEvent, StartEvent, StopEvent, UsageEvent
from blazen.graph import Graph
from blazen.hints import is_event_class, is_routed
from blazen.steps import StepSpec, make_spec

if TYPE_CHECKING:
    from blazen._core.run import Context
    from blazen.events import InputRequestEvent

_NAME = "one step"  # of the workflow, in messages


def _catch(ev: Event) -> None:
    """Where events go that the step emits: `LoneStep` has noted them."""


def _graph_of(spec: StepSpec) -> Graph:
    """The step, which nothing is routed to, and one that takes whatever it emits."""
    catcher = make_spec(_catch, name=f"what {spec.name} emits", accepts=[Event], subclasses=True)
    classes = {
        event.event_type: event
        for event in (*spec.accepts, *(spec.emits or ()), *spec.waits)
        if is_event_class(event) and is_routed(event)
    }
    # Named, so that the engine shows them on the stream on their way.
    shown: dict[str, tuple[int, ...]] = {event.event_type: (1,) for event in (ProgressEvent, UsageEvent)}
    return Graph(
        name=_NAME,
        specs=(spec, catcher),
        event_classes={**classes, StartEvent.event_type: StartEvent, StopEvent.event_type: StopEvent},
        start_class=None,
        routes=shown,
        subclass_routes=((Event, 1),),
    )


class LoneStep(Run):
    """A run of one step, which ends when the step has had all its events."""

    __slots__ = ("attempts", "first_attempt", "given", "kept", "raised", "returned", "sent")

    def __init__(self, spec: StepSpec, given: list[Event], attempt: int, types: Any, session: dict[str, Any]) -> None:
        self.attempts = 0
        self.kept = 0  # of what was returned, that is from before the attempt that runs
        self.returned: list[Any] = []
        self.sent: list[Any] = []
        self.raised: list[BaseException] = []
        self.given = given
        self.first_attempt = attempt
        watched = {"fn": self._noting(spec.fn, spec.is_async, counts=True)}
        if spec.on_error is not None:
            watched["on_error"] = self._noting(spec.on_error, False, counts=False)
        graph = _graph_of(spec)
        unguard_steps(graph)
        watching = msgspec.structs.replace(spec, **watched)
        graph = msgspec.structs.replace(graph, specs=(watching, graph.specs[1]))
        events = {type(event) for event in given} | set(graph.event_classes.values()) | {DynamicEvent}
        super().__init__(Router(graph), StateStore(types, events), session=session, stream=EventStream(0))

    def _noting(self, fn: Callable[..., Any], is_async: bool, *, counts: bool) -> Callable[..., Any]:
        """`fn`, and what it returns and raises is noted; the engine judges it."""

        def called(*arguments: Any) -> Any:
            self._begin_attempt(counts)
            try:
                result = fn(*arguments)
            except BaseException as error:
                self.raised.append(error)
                raise
            if hasattr(result, "__await__"):  # an on_error that is an async def
                return awaited(result)
            self._note(result)
            return result

        async def awaited(waiting: Any) -> Any:
            try:
                result = await waiting
            except BaseException as error:
                self.raised.append(error)
                raise
            self._note(result)
            return result

        async def called_async(*arguments: Any) -> Any:
            self._begin_attempt(counts)
            return await awaited(fn(*arguments))

        return called_async if is_async else called

    def _begin_attempt(self, counts: bool) -> None:
        self.attempts += counts
        self.kept = len(self.returned)

    def _note(self, result: Any) -> None:
        if result is not None:
            self.returned.extend(result if type(result) is list else [result])

    # --- what the engine calls

    def begin(self, start: Event) -> None:
        """Queue the events for the step, and nothing else."""
        self.happened(Happening.START)
        step = self.router.steps[0]
        for event in self.given:
            self.start_at(step, event, self.first_attempt)

    def on_failed(self, ctx: Context, error: Exception) -> None:
        """An attempt failed: what it returned, too late for instance, does not count."""
        del self.returned[self.kept :]
        super().on_failed(ctx, error)

    def receive(self, event: Event, emitter: str | None = None, cause: tuple[int, int, int] | None = None) -> None:
        """The step has sent an event."""
        super().receive(event, emitter, cause)
        self.sent.append(event)

    def on_stop(self, event: StopEvent) -> None:
        """Not the end: there may be more events for the step."""

    def on_ask(self, event: InputRequestEvent) -> None:
        """Nobody will answer."""
        assert self.stream is not None
        self.stream.append(event)

    def on_idle(self) -> None:
        """The step has had all its events."""
        self.happened(Happening.STOP, StopEvent())

    # --- the outcome

    async def run_to_end(self) -> Exception | None:
        """Run the step on all its events; returns what it raised, as it raised it."""
        handler: RunHandler[Any] = RunHandler(self, self.given[0])
        async with handler:
            try:
                await handler.result()
            except Exception as exc:
                if self.life is State.CANCELLED:
                    raise
                del self.returned[self.kept :]
                return self._as_raised(exc)
        return None

    async def read_stream(self) -> list[Event]:
        """What the step has written to the stream."""
        assert self.stream is not None
        return [event async for event in self.stream.read()]

    def _as_raised(self, error: Exception) -> Exception:
        """The exception as the step raised it; in a workflow it is the cause of a `WorkflowError`."""
        cause = error.__cause__
        if (
            isinstance(error, WorkflowError)
            and isinstance(cause, Exception)
            and any(cause is one for one in self.raised)
        ):
            return cause
        return error
