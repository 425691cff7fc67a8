"""Comparing events with what was expected, and saying readably where they differ."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from blazen.errors import ValidationError
from blazen.events import DynamicEvent, Event
from blazen.retry import show

# Beyond so many comparisons two lists are compared place by place, without looking for what was inserted.
_LARGEST_TABLE = 1_000_000
_MISSING = object()


class match:  # noqa: N801  # reads as a verb: match(Greet, name="Ada")
    """Stands for any event of a class, or of a type name, with these fields: `match(Greet, name="Ada")`.

    Other fields may be anything. A value may be whatever compares equal, such as `pytest.approx(0.5)`.

    Args:
        event_type: An event class, its subclasses included, or a type name.
        **fields: What the named fields must be equal to.
    Raises:
        ValidationError: `event_type` is neither, or the class has no such field.
    """

    __slots__ = ("_event_type", "_fields")

    def __init__(self, event_type: type[Event] | str, /, **fields: object) -> None:
        if not (isinstance(event_type, str) or (isinstance(event_type, type) and issubclass(event_type, Event))):
            raise ValidationError(f"match takes an event class or a type name, got {show(event_type)}")
        if isinstance(event_type, type) and not issubclass(event_type, DynamicEvent):
            known = event_type.__struct_fields__  # none of a plain StartEvent: its data decides
            for field in fields:
                if known and field not in known:
                    raise ValidationError(
                        f"match: {event_type.__name__} has no field {field!r}; its fields are {', '.join(known)}"
                    )
        self._event_type = event_type
        self._fields = fields

    def differences(self, event: object) -> list[str]:
        """What of `event` is not as it should be; empty if it matches."""
        if isinstance(self._event_type, str):
            fits = isinstance(event, Event) and event.event_type == self._event_type
        else:
            fits = isinstance(event, self._event_type)
        if not fits:
            return [f"expected {_type_text(self._event_type)}, got {_type_of(event)}"]
        return _field_differences(self._fields, event)

    def __eq__(self, other: object) -> bool:
        return not self.differences(other)

    __hash__ = None  # type: ignore[assignment]

    def __repr__(self) -> str:
        fields = "".join(f", {name}={value!r}" for name, value in self._fields.items())
        return f"match({_type_text(self._event_type)}{fields})"


Expected = Event | type[Event] | match


def assert_events(actual: Iterable[object], expected: Iterable[Expected]) -> None:
    """Assert that these are the events, in this order; the message shows both lists and which field differs.

    Args:
        actual: Events, such as `outcome.events` or `run.stream`.
        expected: For each an event that is equal, a class that it is of, or a `match`.
    Raises:
        AssertionError: They differ.
        ValidationError: Something in `expected` is none of these, or `actual` cannot be gone through.
    """
    if isinstance(actual, Event) or not isinstance(actual, Iterable):
        raise ValidationError(f"assert_events takes a list of events, got {show(actual)}; put it into a list")
    if isinstance(expected, Event | type | match) or not isinstance(expected, Iterable):
        raise ValidationError(f"assert_events expects a list, got {show(expected)}; put it into a list")
    got, wanted = list(actual), list(expected)
    for one in wanted:
        if not (isinstance(one, Event | match) or (isinstance(one, type) and issubclass(one, Event))):
            raise ValidationError(f"assert_events expects events, event classes and match(...), got {show(one)}")
    pairs = _align(got, wanted)
    if all(have is not _MISSING and want is not _MISSING and not _differences(have, want) for have, want in pairs):
        return
    lines = [f"the events differ: {len(got)} came, {len(wanted)} expected (- expected, + came)"]
    for have, want in pairs:
        if want is not _MISSING and have is not _MISSING:
            found = _differences(have, want)
            if not found:
                lines.append(f"    {have!r}")
                continue
            lines += [f"  - {_expected_text(want)}", f"  + {have!r}", *(f"      {line}" for line in found)]
        elif have is _MISSING:
            lines.append(f"  - {_expected_text(want)}")
        else:
            lines.append(f"  + {have!r}")
    raise AssertionError("\n".join(lines))


def _differences(event: Any, expected: Any) -> list[str]:
    if isinstance(expected, match):
        return expected.differences(event)
    if isinstance(expected, type):
        return [] if isinstance(event, expected) else [f"expected {expected.__name__}, got {_type_of(event)}"]
    if type(event) is not type(expected):
        return [f"expected {_type_of(expected)}, got {_type_of(event)}"]
    names = expected.__struct_fields__
    return _field_differences({name: getattr(expected, name) for name in names}, event)


def _field_differences(fields: dict[str, Any], event: Any) -> list[str]:
    found = []
    for name, value in fields.items():
        have = getattr(event, name, _MISSING)
        if have is _MISSING:
            found.append(f"{name}: expected {value!r}, and there is no such field")
        elif not _equal(have, value):
            found.append(f"{name}: expected {value!r}, got {have!r}")
    return found


def _equal(have: Any, value: Any) -> bool:
    if have is value:
        return True
    shape = getattr(value, "shape", None)
    if shape is not None and hasattr(value, "__array__"):  # arrays compare element by element
        return bool(getattr(have, "shape", None) == shape and (value == have).all())
    return bool(value == have)


def _align(got: list[Any], wanted: list[Any]) -> list[tuple[Any, Any]]:
    """Pair the two lists so that as many pairs as possible agree; what has no partner stands with `_MISSING`."""
    if len(got) * len(wanted) > _LARGEST_TABLE:
        longest = max(len(got), len(wanted))
        return [
            (got[i] if i < len(got) else _MISSING, wanted[i] if i < len(wanted) else _MISSING) for i in range(longest)
        ]
    # Pairs that agree count most; of the others, those of one class, whose fields can be compared.
    most = len(got) + len(wanted)
    agree = [[most if not _differences(have, want) else _alike(have, want) for want in wanted] for have in got]
    # best[i][j]: what the pairs can be worth from place i of `got` and place j of `wanted` on.
    best = [[0] * (len(wanted) + 1) for _ in range(len(got) + 1)]
    for i in reversed(range(len(got))):
        for j in reversed(range(len(wanted))):
            best[i][j] = max(best[i + 1][j], best[i][j + 1], agree[i][j] + best[i + 1][j + 1])
    pairs: list[tuple[Any, Any]] = []
    i = j = 0
    while i < len(got) and j < len(wanted):
        if best[i][j] == agree[i][j] + best[i + 1][j + 1]:  # also where they disagree: shown as one that changed
            pairs.append((got[i], wanted[j]))
            i, j = i + 1, j + 1
        elif best[i][j] == best[i + 1][j]:
            pairs.append((got[i], _MISSING))
            i += 1
        else:
            pairs.append((_MISSING, wanted[j]))
            j += 1
    return pairs + [(have, _MISSING) for have in got[i:]] + [(_MISSING, want) for want in wanted[j:]]


def _alike(event: Any, expected: Any) -> bool:
    if isinstance(expected, match):
        return not match(expected._event_type).differences(event)
    return type(event) is type(expected)


def _expected_text(expected: Any) -> str:
    return f"any {expected.__name__}" if isinstance(expected, type) else repr(expected)


def _type_text(event_type: type[Event] | str) -> str:
    return repr(event_type) if isinstance(event_type, str) else event_type.__name__


def _type_of(event: object) -> str:
    return repr(event.event_type) if isinstance(event, DynamicEvent) else type(event).__name__
