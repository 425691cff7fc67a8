"""A slow, obvious model of the router: it walks over all steps for every event and remembers nothing."""

from __future__ import annotations

from typing import Any

from blazen.events import DynamicEvent, Event, StopEvent
from blazen.graph import Graph

ASK = "blazen::InputRequestEvent"


class ReferenceRouter:
    """Which steps an event goes to, by the words of the documentation."""

    def __init__(self, graph: Graph) -> None:
        self.graph = graph

    def class_of(self, event: Event) -> type[Event]:
        """An event known by name only counts as the class that the workflow knows under this name."""
        if type(event) is DynamicEvent:
            return self.graph.event_classes.get(event.event_type, DynamicEvent)
        return type(event)

    def takes(self, spec: Any, event: Event) -> bool:
        """Whether a step accepts an event: by its type name, or as a subclass where these are asked for."""
        for accepted in spec.accepts:
            name = accepted if isinstance(accepted, str) else accepted.__dict__.get("event_type")
            if accepted is not Event and name == event.event_type:
                return True
            if spec.subclasses and not isinstance(accepted, str) and issubclass(self.class_of(event), accepted):
                return True
        return False

    def lookup(self, event: Event) -> tuple[str, ...] | None:
        """The names of the steps in the order of the workflow; None if nobody accepts the event."""
        if event.event_type == StopEvent.event_type:
            return ()
        names = tuple(spec.name for spec in self.graph.specs if self.takes(spec, event))
        return names if names or event.event_type == ASK else None
