"""Events: the typed, immutable messages that steps receive and return.

Here are the ones blazen knows by itself, and the ways in: `start_event`, `convert` and `decode` make events of what
comes from outside. What an event is as such stands in `_event_class`.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, Any, TypeVar

from msgspec import StructMeta
from msgspec.structs import force_setattr

from blazen import _outside
from blazen._core.construct import call_like_base, construct_plain_form
from blazen._event_class import PER_INSTANCE, Event, EventMeta, class_to_fill
from blazen.errors import ValidationError

__all__ = [
    "DynamicEvent",
    "Event",
    "InputRequestEvent",
    "InputResponseEvent",
    "ProgressEvent",
    "StartEvent",
    "StepRecord",
    "StopEvent",
    "StreamGap",
    "UsageEvent",
    "convert",
    "decode",
    "start_event",
]

_E = TypeVar("_E", bound=Event)


def _item(data: Any, owner: str, key: str) -> Any:
    """Return ``data[key]`` for an attribute access on an event."""
    if key.startswith("__"):  # asked for by Python itself: copy, pickle, inspect
        raise AttributeError(key)
    if not isinstance(data, dict):
        raise AttributeError(f"{owner} has no attribute {key!r}: its data is a {type(data).__name__}, not a dict")
    try:
        return data[key]
    except KeyError:
        keys = ", ".join(map(repr, data)) or "none"
        raise AttributeError(f"{owner} has no attribute or key {key!r}; the keys of its data: {keys}") from None


if TYPE_CHECKING:
    # What users see. Below is how it is made: typed subclasses must not inherit the field of the plain event, so that
    # one sits in a hidden subclass, which is what calling StartEvent or StopEvent gives.
    class StartEvent(Event):
        """The event a run begins with."""

        __match_args__ = ("data",)

        def __init__(self, data: Any = None) -> None: ...
        @property
        def data(self) -> Any:
            """The input of the run."""

        def __getattr__(self, name: str) -> Any: ...

    class StopEvent(Event):
        """The event that ends a run."""

        __match_args__ = ("result",)

        def __init__(self, result: Any = None) -> None: ...
        @property
        def result(self) -> Any:
            """What the run results in."""

else:

    @call_like_base
    class _PlainFormMeta(EventMeta):
        """The class of `StartEvent`, `StopEvent` and their subclasses: tells how the first two are really called."""

        @property
        def __match_args__(self):
            return StructMeta.__match_args__.__get__(class_to_fill(self))

        @property
        def __signature__(self):
            return StructMeta.__signature__.__get__(class_to_fill(self))

    class StartEvent(Event, metaclass=_PlainFormMeta, type="blazen::StartEvent"):
        """The event a run begins with; its type is ``blazen::StartEvent``.

        ``ev.data`` is the input of the run, any object. If that is a dict, ``ev.name`` reads its key ``"name"``.

        A subclass with typed fields keeps the type name and has only its own fields; the input of the run is then
        checked against them before any step runs, and ``.data`` is the dict of them.
        """

        _subclasses_keep_type = True

        @property
        def data(self):
            """The fields by name."""
            return self.to_dict()

    class StopEvent(Event, metaclass=_PlainFormMeta, type="blazen::StopEvent"):
        """The event that ends a run; its type is ``blazen::StopEvent``, and it is never routed.

        ``result`` is what the run results in: the same object, not a copy. A subclass with typed fields keeps the type
        name and has only its own fields; ``.result`` is ``None`` if none of them is called that.
        """

        _subclasses_keep_type = True

        @property
        def result(self):
            """None: this event has no such field."""
            return None

    class _PlainStart(StartEvent):
        data: Any = None

        def __getattr__(self, name):
            return _item(self.data, "StartEvent", name)

        def __reduce__(self):
            return StartEvent, (self.data,)

    class _PlainStop(StopEvent):
        result: Any = None

        def __reduce__(self):
            return StopEvent, (self.result,)

    for _public, _plain in ((StartEvent, _PlainStart), (StopEvent, _PlainStop)):
        _public._plain_form = _plain
        construct_plain_form(_public)
        _plain.__name__ = _public.__name__
        _plain.__qualname__ = _public.__qualname__
        _plain.__doc__ = _public.__doc__
    del _public, _plain


class DynamicEvent(Event, type=PER_INSTANCE):
    """An event known by name only, as hosts and peers send it. ``ev.name`` reads the key ``"name"`` of its data.

    Two are equal if type and data are. When one reaches a step that accepts a class, it is converted to that class.

    Args:
        event_type: The name it is routed by.
        data: Its fields by name; an empty dict if left out.

    Raises:
        ValidationError: `event_type` is empty or no string; `data` is no dict, or has a key that is no string.
    """

    if TYPE_CHECKING:
        event_type: str  # type: ignore[misc]
        data: dict[str, Any]

        def __init__(self, event_type: str, data: dict[str, Any] | None = None) -> None: ...
        def __getattr__(self, name: str) -> Any: ...

    else:
        _no_subclasses = True

        event_type: str
        data: dict[str, Any] | None = None

        def __post_init__(self):
            event_type, data = self.event_type, self.data
            if not isinstance(event_type, str) or not event_type.strip():
                raise ValidationError(
                    f"DynamicEvent: event_type must be a string that is not empty, got {event_type!r}",
                    path="$.event_type",
                )
            if data is None:
                force_setattr(self, "data", {})
                return
            if not isinstance(data, dict):
                raise ValidationError(
                    f"DynamicEvent({event_type!r}): data must be a dict, got {type(data).__name__}", path="$.data"
                )
            for key in data:
                if not isinstance(key, str):
                    raise ValidationError(
                        f"DynamicEvent({event_type!r}): the keys of data must be strings, got {key!r}", path="$.data"
                    )

        def __getattr__(self, name):
            return _item(self.data, f"DynamicEvent({self.event_type!r})", name)


class InputRequestEvent(Event, type="blazen::InputRequestEvent"):
    """A question to somebody outside the run: return it from a step, and accept an `InputResponseEvent` in another.

    Attributes:
        request_id: What the answer will name; made up if left out.
        prompt: The question, for a person to read.
        metadata: Anything else whoever answers should know.
    """

    if TYPE_CHECKING:
        request_id: str
        prompt: str
        metadata: dict[str, Any] | None

        def __init__(
            self, request_id: str | None = None, prompt: str = "", metadata: dict[str, Any] | None = None
        ) -> None: ...

    else:
        request_id: str | None = None
        prompt: str = ""
        metadata: dict[str, Any] | None = None

        def __post_init__(self):
            if self.request_id is None:
                import uuid  # only for a question: too much to load for every `import blazen`

                force_setattr(self, "request_id", uuid.uuid4().hex)


class InputResponseEvent(Event, type="blazen::InputResponseEvent"):
    """The answer to an `InputRequestEvent`.

    Attributes:
        request_id: The id of the question.
        response: The answer.
    """

    request_id: str
    response: Any


class ProgressEvent(Event, type="blazen::ProgressEvent"):
    """How far something has come, for whoever watches the stream.

    Attributes:
        current: What is done, in units of your choice.
        total: What there is to do, in the same units; ``None`` if that is not known.
        label: What it is that progresses, for a person to read.
    """

    current: int | float
    total: int | float | None = None
    label: str = ""


class UsageEvent(Event, type="blazen::UsageEvent"):
    """What one call of a model used up. The result of the run adds them up.

    Attributes:
        provider: Who was called.
        model: Which model it was.
        input_tokens: The tokens that were sent.
        output_tokens: The tokens that came back.
        cost_usd: What it cost, in US dollars; ``None`` if that is not known.
        latency_ms: How long it took, in milliseconds; ``None`` if that was not measured.
        modality: What kind of model it was.
    """

    provider: str
    model: str
    input_tokens: int = 0
    output_tokens: int = 0
    cost_usd: float | None = None
    latency_ms: float | None = None
    modality: str = "llm"


class StreamGap(Event, type="blazen::StreamGap"):
    """What a late reader of a stream gets first if the stream no longer keeps all of its events.

    Attributes:
        lost: How many events came before those it will see.
    """

    lost: int


class StepRecord(Event, type="blazen::StepRecord"):
    """What happened to a step, for whoever reads the stream with ``lifecycle=True``.

    Attributes:
        kind: ``"started"``, ``"finished"``, ``"failed"``, ``"retrying"``, ``"timed_out"`` or ``"cancelled"``.
        step: The name of the step.
        input_type: The type of the event it was given.
        seq: The number of that event in the run.
        attempt: Which attempt it was, from 1.
        at: When it happened, in seconds of the engine's clock.
        elapsed_ms: How long the attempt took, in milliseconds; ``None`` when it has just started.
        error: What went wrong; ``None`` if nothing did.
    """

    kind: str
    step: str
    input_type: str
    seq: int
    attempt: int
    at: float
    elapsed_ms: float | None = None
    error: str | None = None


_BUILT_IN: tuple[type[Event], ...] = (
    StartEvent,
    StopEvent,
    InputRequestEvent,
    InputResponseEvent,
    ProgressEvent,
    UsageEvent,
    StreamGap,
    StepRecord,
)


def convert(event: DynamicEvent, cls: type[_E]) -> _E:
    """Return `event` as the `cls` whose type name it carries.

    Raises:
        ValidationError: It carries another name, or its data does not fit the fields of `cls`; ``path`` says where.
    """
    if event.event_type != cls.event_type:
        raise ValidationError(
            f"an event of type {event.event_type!r} cannot become a {cls.__name__}, whose type is {cls.event_type!r}"
        )
    return _fill(cls, event.data)


def decode(event_type: str, data: Any, classes: Iterable[type[Event]] = ()) -> Event:
    """Return the event that a host or a peer describes by a type name and its data.

    Args:
        event_type: The name the event is routed by.
        data: Its fields by name. Those of a typed `StartEvent` may also come as the input of a plain one would:
            ``{"data": {…}}``.
        classes: The event classes of the workflow; those of blazen need not be among them. An event of no known class
            becomes a `DynamicEvent`.

    Raises:
        ValidationError: `data` does not fit the fields of the class; ``path`` says where.
    """
    for cls in (*classes, *_BUILT_IN):
        if cls.event_type == event_type:
            return _fill(cls, data)
    return DynamicEvent(event_type, data)


def _fill(cls: type[_E], data: Any) -> _E:
    target = class_to_fill(cls)
    wrapped = (
        issubclass(target, StartEvent)
        and isinstance(data, dict)
        and data.keys() == {"data"}
        and "data" not in target.__struct_encode_fields__
    )
    return _outside.from_mapping(target, data["data"] if wrapped else data)


def start_event(cls: type[StartEvent] | None, input: Any) -> StartEvent:
    """Return the event that begins a run with this input.

    Args:
        cls: The typed start event of the workflow; ``None`` if it takes the plain one, which holds any object.
        input: What the run was given. A typed start event takes a mapping (``None`` counts as an empty one), an event
            of its class, or a plain `StartEvent` whose data is a mapping.

    Raises:
        ValidationError: `input` does not fit the fields of `cls`; ``path`` says where.
    """
    if cls is None or cls is StartEvent:
        return input if isinstance(input, StartEvent) else StartEvent(input)
    if isinstance(input, cls):
        return input
    if isinstance(input, StartEvent):
        if type(input) is not class_to_fill(StartEvent):
            raise ValidationError(f"the workflow begins with {cls.__name__}, the input is a {type(input).__name__}")
        input = input.data
    return _outside.from_mapping(cls, {} if input is None else input)
