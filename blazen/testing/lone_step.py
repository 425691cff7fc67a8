"""A run of the engine that consists of one step: what it emits is caught instead of routed."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING, Any

import msgspec
import trio

from blazen._core.router import Router
from blazen._core.state import StateStore
from blazen._core.stream import EventStream
from blazen.engine.calling import unguard_steps
from blazen.engine.handler import RunHandler
from blazen.engine.life import Happening, State
from blazen.engine.run import Run
from blazen.errors import ValidationError, WorkflowError
from blazen.events import DynamicEvent, Event, ProgressEvent, StartEvent, StopEvent, UsageEvent
from blazen.graph import Graph
from blazen.hints import is_event_class, is_routed
from blazen.process_steps import check_process_steps
from blazen.retry import show
from blazen.steps import StepSpec, make_spec
from blazen.testing.answers import Answerer

if TYPE_CHECKING:
    from blazen._core.run import Context
    from blazen.engine.waits import Wait
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

    __slots__ = (
        "_look_scope",
        "answerer",
        "attempts",
        "awaited",
        "first_attempt",
        "given",
        "graph",
        "kept",
        "questions_asked",
        "raised",
        "returned",
        "sent",
    )

    def __init__(
        self,
        spec: StepSpec,
        given: list[Event],
        *,
        awaited: list[Event],
        answerer: Answerer,
        attempt: int,
        types: Any,
        session: dict[str, Any],
    ) -> None:
        self.attempts = 0
        self.answerer = answerer
        self.awaited = awaited
        self.questions_asked: list[InputRequestEvent] = []
        self._look_scope: trio.CancelScope | None = None
        self.kept = 0  # of what was returned, that is from before the attempt that runs
        self.returned: list[Any] = []
        self.sent: list[Any] = []
        self.raised: list[BaseException] = []
        self.given = given
        self.first_attempt = attempt
        graph = _graph_of(spec)
        check_process_steps(graph)
        unguard_steps(graph)
        fn = spec.fn
        watched: dict[str, Any] = {}
        if spec.run == "process":
            # Called here, where a test sees what it does; what goes in and comes out is pickled as for a worker.
            watched["run"] = "thread"
            fn = partial(self._call_as_a_worker_would, fn)
        watched["fn"] = self._noting(fn, spec.is_async, counts=True)
        if spec.on_error is not None:
            watched["on_error"] = self._noting(spec.on_error, False, counts=False)
        watching = msgspec.structs.replace(spec, **watched)
        graph = msgspec.structs.replace(graph, specs=(watching, graph.specs[1]))
        self.graph = graph
        events = {type(event) for event in (*given, *awaited)} | set(graph.event_classes.values()) | {DynamicEvent}
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

    def _call_as_a_worker_would(self, fn: Callable[..., Any], event: Event) -> Any:
        from blazen.engine import process_worker, processes

        (ctx,) = self.running()
        answer = process_worker.answer_of(processes.pickle_job(self, ctx, fn))
        result, error = processes.read_answer(self, ctx, answer)
        if error is not None:
            raise error
        return result

    # --- what the engine calls

    def begin(self, start: Event) -> None:
        """Queue the events for the step, and nothing else."""
        self.happened(Happening.START)
        step = self.router.steps[0]
        if self.awaited:
            self.open_waits().kept.extend(self.awaited)
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

    def on_ask(self, event: InputRequestEvent, schema: object = None) -> None:
        """The step asks in its middle; or it has returned a question, which is for other steps to be answered."""
        assert self.stream is not None
        if any(entry.request_id == event.request_id for ctx in self.running() for entry in _calls_of(ctx)):
            if event not in self.questions_asked:  # an attempt that begins anew may ask again
                self.questions_asked.append(event)
            super().on_ask(event)
        else:
            self.stream.append(event)

    def look_whether_stuck(self, *, again: bool = False) -> None:
        """Fail at once when the step waits for what was not given: nothing else runs that could bring it.

        A step in asyncio may have bounded its wait there, which cannot be seen: it fails when it is looked `again`.
        """
        if self.ending or self.waits is None or not self.waits.open:
            return
        if self._look_scope is None:
            self._look_scope = trio.CancelScope()
            self.nursery.start_soon(self._look_again, name="blazen test watch")
        waits: list[Wait] = self.waits.open
        if any(wait.timer for wait in waits):
            return
        for wait in waits:
            if wait.matches is None and not self.answerer.leaves_open(wait.entry.request_id or ""):
                return  # its answer is on its way
        waiting = {wait.task for wait in waits}
        for worker in self.workers:
            if worker.ctx is None or worker.ctx.step.in_thread or (worker.ctx.step.in_asyncio and again):
                continue
            if not _only_waits(worker.task, waiting):
                return
        self.answerer.give_up(self, self._stuck(waits[0]))

    def _stuck(self, wait: Wait) -> ValidationError:
        where = f"step {wait.ctx.step_name!r} waits for {wait.what}"
        if wait.matches is None:
            return ValidationError(
                f"{where}, which answers= leaves UNANSWERED, and the question has no timeout: it would wait for ever"
            )
        left = self.waits.kept
        given = f"events= has none that it takes ({show(left[0])} is left)" if left else "there is none"
        return ValidationError(f"{where}, and {given}: give events=[...], in the order in which they come")

    async def _look_again(self) -> None:
        """Look now and then, ever more seldom: other tasks of the step may have ended, and it waits for ever now."""
        assert self._look_scope is not None
        seconds = 1.0
        with self._look_scope:
            while self.workers:
                await trio.sleep(seconds)
                seconds *= 2
                self.look_whether_stuck(again=True)

    def _stop_watching(self) -> None:
        super()._stop_watching()
        if self._look_scope is not None:
            self._look_scope.cancel()

    def on_idle(self) -> None:
        """The step has had all its events."""
        self.happened(Happening.STOP, StopEvent())

    # --- the guard

    def ask_guard(self, event: Event) -> None:
        """Ask the step's guard, past which events enter here; the engine asks it, on the event as the step gets it.

        Raises:
            ValidationError: It refuses the event.
            WorkflowError: It fails.
        """
        spec = self.graph.specs[0]
        if spec.when is None:
            return
        guarded = msgspec.structs.replace(
            self.graph, specs=(spec,), routes={event.event_type: (0,)}, subclass_routes=()
        )
        try:
            Router(guarded).accepts(event)
        except WorkflowError as exc:
            if exc.__cause__ is not None:
                raise
            raise ValidationError(
                f"step {spec.name!r} does not take this event: its guard (when=) refuses {show(event)}, so in a "
                "workflow the step would not be called; give an event for which the guard is true"
            ) from None

    # --- the outcome

    async def run_to_end(self) -> Exception | None:
        """Run the step on all its events; returns what it raised, as it raised it."""
        handler: RunHandler[Any] = RunHandler(self, self.given[0])
        async with handler:
            self.nursery.start_soon(self.answerer.keep_answering, handler, self, name="blazen test answers")
            try:
                await handler.result()
            except Exception as exc:
                if self.life is State.CANCELLED:
                    raise
                if self.answerer.mistake is not None:
                    raise self.answerer.mistake from None
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


def _calls_of(ctx: Context) -> list[Any]:
    return [] if ctx.replay is None else list(ctx.replay.entries)


def _only_waits(task: trio.lowlevel.Task, waiting: set[trio.lowlevel.Task | None]) -> bool:
    """Whether a task and those it has started do nothing but wait in `waiting`, or for each other."""
    if task in waiting:
        return True
    nurseries: list[Any] = task.child_nurseries
    if not nurseries or not getattr(nurseries[-1], "_parent_waiting_in_aexit", False):
        return False
    return all(_only_waits(child, waiting) for nursery in nurseries for child in nursery.child_tasks)
