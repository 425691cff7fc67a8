"""The graph of a workflow: which step gets which event, checked before anything runs."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import msgspec

from blazen.errors import ValidationError
from blazen.events import DynamicEvent, Event, InputRequestEvent, InputResponseEvent, StartEvent, StopEvent
from blazen.hints import is_event_class, is_routed, type_name
from blazen.retry import show
from blazen.steps import EventLike, StepSpec

START, STOP = StartEvent.event_type, StopEvent.event_type
REQUEST, RESPONSE = InputRequestEvent.event_type, InputResponseEvent.event_type


class Graph(msgspec.Struct, frozen=True, eq=False):
    """A checked workflow. Steps are meant by their index in `specs`.

    Attributes:
        name: The name of the workflow.
        specs: Its steps, in the order given.
        event_classes: The classes the workflow mentions, by type name. A typed subclass of `StartEvent` stands in the
            place of `StartEvent`, and the only typed subclass of `StopEvent` in that of `StopEvent`.
        start_class: The typed subclass of `StartEvent`; None if the input of a run is not typed.
        routes: For each accepted type name the steps that accept it, in order.
        subclass_routes: The steps that also accept the subclasses of a class. `steps_for` puts both together.
        version: The version of the workflow.
        step_timeout: Seconds each attempt of a step may take that names no timeout of its own, or None.
    """

    name: str
    specs: tuple[StepSpec, ...]
    event_classes: dict[str, type[Event]]
    start_class: type[StartEvent] | None
    routes: dict[str, tuple[int, ...]]
    subclass_routes: tuple[tuple[type[Event], int], ...]
    version: str = "1"
    step_timeout: float | None = None

    def describe(self) -> dict[str, Any]:
        """The picture of the workflow as data that JSON can hold; see `blazen.drawing.describe`."""
        from blazen.drawing import describe

        return describe(self)

    def to_mermaid(self) -> str:
        """The picture of the workflow as a Mermaid flowchart."""
        from blazen.drawing import to_mermaid

        return to_mermaid(self)

    def to_dot(self) -> str:
        """The picture of the workflow in DOT, the language of Graphviz."""
        from blazen.drawing import to_dot

        return to_dot(self)

    def steps_for(self, name: str, event_class: type[Event] | None = None) -> tuple[int, ...]:
        """The steps that accept an event, each once, in their order; none for a `StopEvent`, which is never routed.

        The answer depends on nothing else: it can be kept.

        Args:
            name: The type name of the event.
            event_class: Its class; None for an event known by name only, which is taken for the class the workflow
                knows under this name.
        """
        if name == STOP:
            return ()
        if event_class is None or event_class is DynamicEvent:
            event_class = self.event_classes.get(name, DynamicEvent)
        by_class = (index for base, index in self.subclass_routes if issubclass(event_class, base))
        return tuple(sorted({*self.routes.get(name, ()), *by_class}))


def build_graph(
    name: str,
    steps: Sequence[StepSpec],
    types: Iterable[object] = (),
    *,
    version: str = "1",
    step_timeout: float | None = None,
) -> Graph:
    """Check a workflow and lay out its routes.

    Args:
        name: The name of the workflow.
        steps: Its steps.
        types: What ``Workflow(types=...)`` named; events among them count as mentioned.
        version: Kept for pictures, as it is.
        step_timeout: Likewise.

    Raises:
        ValidationError: The name is empty; there are no steps, or two of one name; no step accepts `StartEvent`; two
            classes share a type name, or two typed subclasses of `StartEvent` are mentioned; a step declares that it
            emits what nobody accepts; by what the steps declare no run can reach a `StopEvent`; a process step cannot
            be handed to another process, or what runs them is not installed.
    """
    _check_name(name)
    specs = tuple(steps)
    if not specs:
        raise ValidationError(f"workflow {name!r}: has no steps; give it at least one that accepts StartEvent")
    _check_step_names(name, specs)
    classes = _event_classes(name, specs, types)
    graph = Graph(
        name=name,
        specs=specs,
        event_classes=classes,
        start_class=_start_class(classes),
        routes=_routes(specs),
        subclass_routes=tuple(
            (event, index)
            for index, spec in enumerate(specs)
            if spec.subclasses
            for event in spec.accepts
            if is_event_class(event)
        ),
        version=version,
        step_timeout=step_timeout,
    )
    if not graph.steps_for(START):
        raise ValidationError(
            f"workflow {name!r}: no step accepts StartEvent, with which every run begins; "
            "hint the event parameter of the first step as StartEvent"
        )
    _check_emitted_is_accepted(graph)
    _check_stop_can_be_reached(graph)
    if any(spec.run == "process" for spec in specs):
        from blazen.process_steps import check_process_steps

        check_process_steps(graph)
    return graph


def _check_name(name: object) -> None:
    if not isinstance(name, str) or not name.strip():
        raise ValidationError(f"the name of a workflow must be a non-empty str, got {show(name)}")


def _check_step_names(workflow: str, specs: tuple[StepSpec, ...]) -> None:
    seen: set[str] = set()
    for spec in specs:
        if spec.name in seen:
            raise ValidationError(
                f"workflow {workflow!r}: two steps are called {spec.name!r}; give one another name: @step(name=...)"
            )
        seen.add(spec.name)


def _mentioned(specs: tuple[StepSpec, ...], types: Iterable[object]) -> Iterator[tuple[type[Event], str]]:
    """Every event class of the workflow, and who mentions it."""
    for spec in specs:
        for event in (*spec.accepts, *(spec.emits or ()), *spec.waits):
            if is_event_class(event) and is_routed(event):
                yield event, f"step {spec.name!r}"
    for kind in types:
        if is_event_class(kind) and is_routed(kind):
            yield kind, "types="


def _event_classes(workflow: str, specs: tuple[StepSpec, ...], types: Iterable[object]) -> dict[str, type[Event]]:
    found: dict[str, tuple[type[Event], str]] = {}
    stops: list[type[Event]] = []
    for event, who in _mentioned(specs, types):
        name = event.event_type
        if name == STOP:  # typed results may differ from step to step
            if event is not StopEvent and event not in stops:
                stops.append(event)
            continue
        earlier, earlier_who = found.get(name, (event, who))
        if earlier is event or event is StartEvent:
            found.setdefault(name, (event, who))
        elif earlier is StartEvent:
            found[name] = (event, who)
        elif name == START:
            raise ValidationError(
                f"workflow {workflow!r}: {earlier_who} and {who} use two subclasses of StartEvent, "
                f"{_full_name(earlier)} and {_full_name(event)}; a run has one input, so use one class for it"
            )
        else:
            raise ValidationError(
                f"workflow {workflow!r}: {earlier_who} and {who} use two classes of the type name {name!r}, "
                f"{_full_name(earlier)} and {_full_name(event)}; events are routed by this name, so rename one or give "
                f'it another type: class {event.__name__}(Event, type="...")'
            )
    classes = {name: event for name, (event, _) in found.items()}
    classes.setdefault(START, StartEvent)
    classes[STOP] = stops[0] if len(stops) == 1 else StopEvent
    return classes


def _full_name(event: type[Event]) -> str:
    return f"{event.__module__}.{event.__qualname__}"


def _start_class(classes: dict[str, type[Event]]) -> type[StartEvent] | None:
    start = classes[START]
    return start if start is not StartEvent and issubclass(start, StartEvent) else None


def _routes(specs: tuple[StepSpec, ...]) -> dict[str, tuple[int, ...]]:
    routes: dict[str, list[int]] = {}
    for index, spec in enumerate(specs):
        for event in spec.accepts:
            if event is Event:
                continue  # names no type; such a step takes subclasses
            found = routes.setdefault(type_name(event), [])
            if index not in found:
                found.append(index)
    return {name: tuple(found) for name, found in routes.items()}


def _class_of(graph: Graph, event: EventLike) -> type[Event] | None:
    return graph.event_classes.get(event) if isinstance(event, str) else event


def _check_emitted_is_accepted(graph: Graph) -> None:
    waited_for = {name for spec in graph.specs for name in spec.waits_names}
    for spec in graph.specs:
        for event in spec.emits or ():
            name = type_name(event)
            if name == STOP:
                continue
            if name == REQUEST:
                if not graph.steps_for(RESPONSE, InputResponseEvent) and RESPONSE not in waited_for:
                    raise ValidationError(
                        f"workflow {graph.name!r}: step {spec.name!r} emits InputRequestEvent, but no step accepts "
                        "InputResponseEvent, which brings the answer; add a step that accepts it"
                    )
                continue
            event_class = _class_of(graph, event)
            if event_class is None and graph.subclass_routes:
                continue  # known by name only: it may be a subclass of what those steps take
            if not graph.steps_for(name, event_class) and name not in waited_for:
                raise ValidationError(
                    f"workflow {graph.name!r}: step {spec.name!r} emits {name!r}, but no step accepts it or "
                    "waits for it; add a step that does, or remove it from the return hint (or emits=) of that step"
                )


def _check_stop_can_be_reached(graph: Graph) -> None:
    """Follow what the steps declare from `StartEvent` on; give up the check where they do not tell.

    A step that declares nothing, or has an `on_error`, may emit anything. One that takes the Context may send any
    event and wait for one from outside, so every step may come next; but that a run ends is declared by some step.
    """
    reached: list[int] = list(graph.steps_for(START, graph.start_class or StartEvent))
    for index in reached:  # grows while it is walked
        spec = graph.specs[index]
        if spec.emits is None or spec.emits_names is None or spec.on_error is not None or STOP in spec.emits_names:
            return
        if spec.wants_ctx or REQUEST in spec.emits_names:
            following: Iterable[int] = range(len(graph.specs))
        else:
            following = (step for event in spec.emits for step in _followers(graph, event))
        reached.extend(step for step in dict.fromkeys(following) if step not in reached)
    names = ", ".join(repr(graph.specs[index].name) for index in reached)
    raise ValidationError(
        f"workflow {graph.name!r}: no path leads from StartEvent to StopEvent, so no run could end: the steps that "
        f"can be reached are {names}, and none of them declares StopEvent; return one and say "
        "so in the return hint, or with emits=[StopEvent] if it is sent"
    )


def _followers(graph: Graph, event: EventLike) -> Iterable[int]:
    event_class = _class_of(graph, event)
    if event_class is None and graph.subclass_routes:
        return (*graph.steps_for(type_name(event)), *(index for _, index in graph.subclass_routes))
    return graph.steps_for(type_name(event), event_class)
