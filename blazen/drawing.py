"""Pictures of a workflow: as data, as a Mermaid flowchart, and in DOT.

`describe` says what is known of a workflow before it runs: what its steps declare, and what their code shows beyond
doubt. What is not known is marked as not known and never guessed. The two texts are drawn from that description.
"""

from __future__ import annotations

import types
from collections.abc import Callable, Iterable, Iterator
from typing import TYPE_CHECKING, Any

from blazen import _context_calls, _lambdas
from blazen._drawing_text import dot, mermaid
from blazen.annotations import HintProblem, ListOf
from blazen.errors import ValidationError
from blazen.events import DynamicEvent, Event, InputResponseEvent, StartEvent
from blazen.graph import REQUEST, RESPONSE, START, STOP, Graph
from blazen.hints import Hints, is_event_class, is_routed, type_name, unwrap
from blazen.retry import show
from blazen.steps import EventLike, StepSpec

if TYPE_CHECKING:
    from blazen.workflow import Workflow

__all__ = ["describe", "to_dot", "to_mermaid"]

_Waits = dict[str, list[str]]  # which events each step waits for in its middle

_START, _STOP, _PERSON, _OUTSIDE = "start", "stop", "person", "outside"


def describe(workflow: Workflow[Any] | Graph) -> dict[str, Any]:
    """The picture of a workflow as data that JSON can hold.

    Args:
        workflow: A workflow or its graph.

    Returns:
        A dict with the keys ``workflow``, ``version``, ``nodes`` and ``edges``; docs/command_line.md lists what is in
        them.

    Raises:
        ValidationError: It is neither.
    """
    graph = _graph_of(workflow)
    waits = {spec.name: _context_calls.waits_of(spec) for spec in graph.specs}
    edges = list(_edges(graph, waits))
    return {
        "workflow": graph.name,
        "version": graph.version,
        "nodes": list(_nodes(graph, waits, edges)),
        "edges": edges,
    }


def to_mermaid(workflow: Workflow[Any] | Graph) -> str:
    """The picture of a workflow as a Mermaid flowchart.

    Raises:
        ValidationError: It is neither a workflow nor a graph.
    """
    return mermaid(describe(workflow))


def to_dot(workflow: Workflow[Any] | Graph) -> str:
    """The picture of a workflow in DOT, the language of Graphviz.

    Raises:
        ValidationError: It is neither a workflow nor a graph.
    """
    return dot(describe(workflow))


def _graph_of(workflow: object) -> Graph:
    graph = workflow if isinstance(workflow, Graph) else getattr(workflow, "graph", None)
    if not isinstance(graph, Graph):
        raise ValidationError(f"only a Workflow or its graph can be drawn, got {show(workflow)}")
    return graph


# --- nodes


def _nodes(graph: Graph, waits: _Waits, edges: list[dict[str, Any]]) -> Iterator[dict[str, Any]]:
    used = {edge[end] for edge in edges for end in ("from", "to")}
    start = graph.start_class or StartEvent
    yield {"id": _START, "kind": "start", "label": start.__name__}
    for spec in graph.specs:
        yield _step_node(graph, spec, waits[spec.name])
    if _PERSON in used:
        yield {"id": _PERSON, "kind": "ask", "label": "somebody outside"}
    if _OUTSIDE in used:
        yield {"id": _OUTSIDE, "kind": "outside", "label": "sent by no step that says so"}
    yield {"id": _STOP, "kind": "stop", "label": graph.event_classes[STOP].__name__}


def _step_node(graph: Graph, spec: StepSpec, waits: list[str]) -> dict[str, Any]:
    timeout = spec.timeout if spec.timeout is not None else graph.step_timeout
    return {
        "id": _id(spec),
        "kind": "step",
        "label": spec.name,
        "run": spec.run,
        "timeout": None if timeout is None else float(timeout),
        "retries": spec.retry.n,
        "max_concurrency": spec.max_concurrency,
        # `Event` itself has no type name: a step that takes every event.
        "accepts": [_shown_name(event) for event in spec.accepts],
        "subclasses": spec.subclasses,
        "emits": None if spec.emits_names is None else list(spec.emits_names),
        "waits": waits,
        "when": None if spec.when is None else _name_of(spec.when),
        "on_error": None if spec.on_error is None else _name_of(spec.on_error),
        "joins": _context_calls.joins_of(spec),
    }


def _id(spec: StepSpec) -> str:
    return f"step:{spec.name}"


def _shown_name(event: EventLike) -> str:
    return "*" if event is Event else type_name(event)


def _name_of(function: Callable[..., Any]) -> str:
    """What a predicate or an ``on_error`` is called; a lambda is called by what it says."""
    inner = getattr(function, "func", function)  # of a functools.partial
    name = getattr(inner, "__name__", None)
    if isinstance(inner, types.FunctionType) and name == _lambdas.NAME:
        return _lambdas.body_of(inner) or name
    return name if isinstance(name, str) else type(inner).__name__


# --- edges


def _edges(graph: Graph, waits: _Waits) -> Iterator[dict[str, Any]]:
    """Every edge once: from the start, then those of each step in order, then what comes from outside."""
    seen: set[tuple[str, str, str, str]] = set()
    fed: set[tuple[str, str]] = set()
    for edge in _declared_edges(graph, waits):
        key = (edge["from"], edge["to"], edge["event"], edge["via"])
        if key not in seen:
            seen.add(key)
            fed.add((edge["to"], edge["event"]))
            yield edge
    yield from _edges_from_outside(graph, waits, fed)


def _edge(source: str, to: str, event: str, via: str, spec: StepSpec | None = None) -> dict[str, Any]:
    """One edge; `spec` is the step it leads to, where its predicate decides whether the event is taken."""
    edge = {"from": source, "to": to, "event": event, "via": via}
    if spec is not None and spec.when is not None:
        edge["when"] = _name_of(spec.when)
    return edge


def _declared_edges(graph: Graph, waits: _Waits) -> Iterator[dict[str, Any]]:
    yield from _edges_to_steps(graph, waits, _START, graph.start_class or StartEvent, "start")
    for spec in graph.specs:
        for event in spec.emits or ():
            yield from _emitted(graph, waits, spec, event, "emits")
        for event in _declared_by(spec.on_error):
            yield from _emitted(graph, waits, spec, event, "on_error")
    answered = [graph.specs[index] for index in graph.steps_for(RESPONSE, InputResponseEvent)]
    asks = any(REQUEST in (spec.emits_names or ()) for spec in graph.specs)
    for spec in answered:
        if asks or RESPONSE in spec.accepts_names:  # a step that takes every event says nothing of questions
            yield _edge(_PERSON, _id(spec), RESPONSE, "answer", spec)
    for spec in graph.specs:
        if _context_calls.asks(spec):
            yield _edge(_id(spec), _PERSON, REQUEST, "asks")
            yield _edge(_PERSON, _id(spec), RESPONSE, "answer")
        elif RESPONSE in waits[spec.name]:
            yield _edge(_PERSON, _id(spec), RESPONSE, "answer")


def _emitted(graph: Graph, waits: _Waits, spec: StepSpec, event: EventLike, via: str) -> Iterator[dict[str, Any]]:
    name = type_name(event)
    if name == STOP:
        yield _edge(_id(spec), _STOP, STOP, via)
        return
    if name == REQUEST:
        yield _edge(_id(spec), _PERSON, REQUEST, via)
    yield from _edges_to_steps(graph, waits, _id(spec), event, via)


def _edges_to_steps(graph: Graph, waits: _Waits, source: str, event: EventLike, via: str) -> Iterator[dict[str, Any]]:
    name = type_name(event)
    event_class = graph.event_classes.get(name) if isinstance(event, str) else event
    by_name = graph.routes.get(name, ())
    for index in graph.steps_for(name, event_class):
        spec = graph.specs[index]
        yield _edge(source, _id(spec), name, via if index in by_name or via == "on_error" else "subclasses", spec)
    if event_class is None:
        # Known by name only: what comes may be of a class that these steps take.
        for base, index in graph.subclass_routes:
            if not issubclass(DynamicEvent, base):
                yield _edge(source, _id(graph.specs[index]), name, "possible", graph.specs[index])
    for spec in graph.specs:
        if name in waits[spec.name]:
            yield _edge(source, _id(spec), name, "waits")


def _edges_from_outside(graph: Graph, waits: _Waits, fed: set[tuple[str, str]]) -> Iterator[dict[str, Any]]:
    """What no step declares to emit: sent with `send_event`, by a step or through the handler of a run."""
    fed_at_all = {to for to, _ in fed}
    for spec in graph.specs:
        for event in spec.accepts:
            name = _shown_name(event)
            if spec.subclasses:
                missing = _id(spec) not in fed_at_all
            else:
                missing = (_id(spec), name) not in fed
            if missing and name != START:
                yield _edge(_OUTSIDE, _id(spec), name, "undeclared", spec)
        for name in waits[spec.name]:
            if (_id(spec), name) not in fed:
                yield _edge(_OUTSIDE, _id(spec), name, "waits")


def _declared_by(on_error: Callable[..., Any] | None) -> Iterable[type[Event]]:
    """The events that the return hint of an ``on_error`` names; none if it says less than that.

    It may return what the step itself does not declare, so the hints of the step do not tell.
    """
    function = on_error.__func__ if isinstance(on_error, types.MethodType) else on_error
    if function is None:
        return ()
    function = unwrap(function)
    if not isinstance(function, types.FunctionType):
        return ()
    try:
        hint = Hints(function, None).of("return") or ()
    except HintProblem:
        return ()
    parts = [inner for part in hint for inner in (part.items if isinstance(part, ListOf) else (part,))]
    events = [part for part in parts if is_event_class(part) and is_routed(part)]
    return events if len(events) == sum(part is not None for part in parts) else ()
