"""From the annotations of a function to what a step accepts, emits, and in which order it takes its arguments.

A hint is first flattened into its *alternatives*: unions, aliases, ``Annotated`` and quotes are opened until only
classes and special forms are left. `read_roles` then gives each parameter its part. Nothing is decided by a
parameter's name, and what cannot be understood is a `ValidationError`.

The code object is read directly: ``inspect`` and ``typing.get_type_hints`` cost ten milliseconds of import, resolve
all hints or none, and do not look into the scope around a local function.
"""

from __future__ import annotations

import types
import typing
from collections.abc import Callable, Iterator
from typing import Any

import msgspec

from blazen.annotations import Alternatives, HintProblem, ListOf, NameMissing, Scope, alternatives
from blazen.errors import ValidationError
from blazen.events import DynamicEvent, Event, StopEvent

_CO_VARARGS = 0x04
_CO_VARKEYWORDS = 0x08


class UnresolvedHint(ValidationError):
    """A name in a hint is not there, or not there yet: a later look, when the workflow is built, may find it."""


class Parameter(msgspec.Struct, frozen=True):
    """A parameter that can be given, by position or by keyword."""

    name: str
    has_default: bool


class Roles(msgspec.Struct, frozen=True):
    """What the hints say about a step. `emits` is None if they declare nothing."""

    accepts: tuple[type[Event] | str, ...]
    emits: tuple[type[Event] | str, ...] | None
    wants_ctx: bool
    ctx_first: bool


def type_name(event: type[Event] | str) -> str:
    """The name an event class, or a name itself, is routed by."""
    return event if isinstance(event, str) else event.event_type


def is_routed(event: type[Event]) -> bool:
    """Whether the class names one type of events, by which they can be routed."""
    return event is not Event and event is not DynamicEvent


def context_class() -> type[Any]:
    """The class a hint must name for its parameter to be the Context."""
    # Late, because a program that only declares events and steps needs no compiled core.
    from blazen._core.run import Context

    return Context


def unwrap(function: Callable[..., Any]) -> Callable[..., Any]:
    """The function inside decorators made with `functools.wraps`; its signature is the one that counts."""
    seen = {id(function)}
    while (inner := getattr(function, "__wrapped__", None)) is not None and id(inner) not in seen:
        seen.add(id(inner))
        function = inner
    return function


class Hints:
    """The parameters of one function, and their hints, each resolved once."""

    __slots__ = ("_hints", "_resolved", "_scope", "has_args", "has_kwargs", "keyword_only", "positional")

    def __init__(self, function: types.FunctionType, caller: types.FrameType | None) -> None:
        code = function.__code__
        count, names = code.co_argcount, code.co_varnames
        first_default = count - len(function.__defaults__ or ())
        keyword_defaults = function.__kwdefaults__ or {}
        self.positional = tuple(Parameter(name, at >= first_default) for at, name in enumerate(names[:count]))
        self.keyword_only = tuple(
            Parameter(name, name in keyword_defaults) for name in names[count : count + code.co_kwonlyargcount]
        )
        self.has_args = bool(code.co_flags & _CO_VARARGS)
        self.has_kwargs = bool(code.co_flags & _CO_VARKEYWORDS)
        self._hints: dict[str, object] = dict(function.__annotations__)
        self._resolved: dict[str, Alternatives] = {}
        self._scope = Scope(function, caller)

    def release(self) -> None:
        """Let go of the scopes around the function; what is resolved by now stays known."""
        self._scope.release()

    def is_resolved(self) -> bool:
        """Whether no hint needs another look at the scopes around the function."""
        for name in self._hints:
            try:
                self.of(name)
            except NameMissing:
                return False
            except HintProblem:
                continue
        return True

    def text(self, name: str) -> str:
        """The hint of a parameter (or ``"return"``) as messages show it."""
        hint = self._hints[name]
        if isinstance(hint, str):
            return f"`{hint}`"
        return f"`{hint.__qualname__}`" if isinstance(hint, type) else f"`{hint}`"

    def of(self, name: str) -> Alternatives | None:
        """The alternatives of a parameter's hint, or of ``"return"``; None if it has no hint.

        Raises:
            HintProblem: It cannot be understood or resolved.
        """
        if name not in self._hints:
            return None
        if name not in self._resolved:
            self._resolved[name] = alternatives(self._hints[name], self._scope)
        return self._resolved[name]


class _Reader:
    """Reads the hints of one step; exists to name the step in every message."""

    def __init__(self, step: str, hints: Hints) -> None:
        self.step = step
        self.hints = hints

    def error(self, text: str) -> ValidationError:
        return ValidationError(f"step {self.step!r}: {text}")

    def resolved(self, name: str, remedy: str) -> Alternatives | None:
        try:
            return self.hints.of(name)
        except HintProblem as problem:
            kind: type[ValidationError] = UnresolvedHint if isinstance(problem, NameMissing) else ValidationError
            where = "the return hint" if name == "return" else f"the hint of parameter {name!r}"
            text = f"step {self.step!r}: {where}, {self.hints.text(name)}, cannot be resolved: {problem}; {remedy}"
            raise kind(text) from None

    def parameters(self, bound: bool) -> tuple[Parameter, ...]:
        """Those the engine fills by position; the object a method is bound to is not among them."""
        hints = self.hints
        if hints.has_args or hints.has_kwargs:
            raise self.error("takes *args or **kwargs; name the event parameter (and the Context parameter) instead")
        for parameter in hints.keyword_only:
            if not parameter.has_default:
                raise self.error(
                    f"parameter {parameter.name!r} is keyword-only and has no default; "
                    "a step is called with the event and the Context by position"
                )
        if bound and not hints.positional:
            raise self.error("is a method without a `self` parameter")
        return hints.positional[1:] if bound else hints.positional


def read_roles(
    step: str,
    hints: Hints,
    *,
    bound: bool,
    accepts: tuple[type[Event] | str, ...] | None,
    emits: tuple[type[Event] | str, ...] | None,
    subclasses: bool,
) -> Roles:
    """Decide which parameter is the event, which the Context, what is accepted and what emitted.

    Args:
        step: The step's name, for messages.
        hints: The parameters and hints of its function.
        bound: The first parameter is the object a method is bound to.
        accepts: What ``accepts=`` named, or None to go by the hint.
        emits: What ``emits=`` named, or None to go by the hint.
        subclasses: Whether ``subclasses=True`` was given; it alone makes the hint ``Event`` mean something.

    Raises:
        UnresolvedHint: A name in a hint that matters is not known, or not yet.
        ValidationError: The signature or a hint does not fit a step.
    """
    reader = _Reader(step, hints)
    parameters = reader.parameters(bound)
    event_at, context_at = _find_roles(reader, parameters, accepts)
    name = parameters[event_at].name
    if accepts is None:
        accepts = _accepts_from_hint(reader, name, subclasses)
    else:
        _check_hint_against(reader, name, accepts)
    if emits is None:
        emits = _emits_from_hint(reader)
    return Roles(accepts, emits, context_at is not None, context_at == 0)


def _find_roles(
    reader: _Reader, parameters: tuple[Parameter, ...], accepts: tuple[type[Event] | str, ...] | None
) -> tuple[int, int | None]:
    """The positions of the event and of the Context."""
    required = [parameter.name for parameter in parameters if not parameter.has_default]
    contexts: list[int] = []
    events: list[int] = []
    optional: list[int] = []
    for at, parameter in enumerate(parameters):
        if accepts is not None and required == [parameter.name] and not _can_resolve(reader, parameter.name):
            events.append(at)  # the only one that could be the event, and what it takes is told by accepts=
            continue
        if at > 1 and parameter.has_default and not _can_resolve(reader, parameter.name):
            continue  # too late to be the event or the Context, so its hint is of no interest
        hint = reader.resolved(
            parameter.name,
            "import what it names at run time (not only under TYPE_CHECKING), or hint the event's class directly; "
            "with accepts=[...] the event parameter needs no hint",
        )
        if _is_context(reader, parameter.name, hint):
            contexts.append(at)
        elif not parameter.has_default:
            events.append(at)
        elif accepts is not None or any(is_event_class(part) for part in hint or ()):
            optional.append(at)
    for parameter in reader.hints.keyword_only:
        if _can_resolve(reader, parameter.name) and _is_context(
            reader, parameter.name, reader.hints.of(parameter.name)
        ):
            raise reader.error(f"the Context parameter {parameter.name!r} is keyword-only; make it positional")
    if len(contexts) > 1:
        raise reader.error("two parameters are hinted Context; a step gets one")
    if not events:
        events = optional
    if not events:
        raise reader.error(
            "takes no event; give it one parameter hinted with the event class, such as `ev: StartEvent`"
        )
    if len(events) > 1:
        raise _two_candidates(reader, [parameters[at].name for at in events])
    used = sorted([*events, *contexts])
    if used != list(range(len(used))):
        raise reader.error("the event and the Context must be the first parameters, in either order")
    return events[0], contexts[0] if contexts else None


def _can_resolve(reader: _Reader, name: str) -> bool:
    try:
        reader.hints.of(name)
    except HintProblem:
        return False
    return True


def _is_context(reader: _Reader, name: str, hint: Alternatives | None) -> bool:
    parts = [part for part in hint or () if part is not None]
    if not any(part is context_class() for part in parts):
        return False
    if len(parts) > 1:
        raise reader.error(
            f"parameter {name!r} is hinted {reader.hints.text(name)}; it is either the Context or the event, not both"
        )
    return True


def _two_candidates(reader: _Reader, names: list[str]) -> ValidationError:
    listed = " and ".join(repr(name) for name in names)
    unhinted = [name for name in names if reader.hints.of(name) is None]
    advice = f"hint the Context parameter as `{unhinted[0]}: Context`" if unhinted else "hint one of them as `Context`"
    return reader.error(
        f"cannot tell which of the parameters {listed} is the event: a step takes one event and at most one Context; "
        f"{advice}, and give further parameters a default"
    )


def is_event_class(part: object) -> typing.TypeGuard[type[Event]]:
    """Whether it is a class of events, `Event` itself included."""
    return isinstance(part, type) and issubclass(part, Event)


def _accepts_from_hint(reader: _Reader, name: str, subclasses: bool) -> tuple[type[Event] | str, ...]:
    hint = reader.resolved(name, "give accepts=[...]")
    if hint is None:
        raise reader.error(
            f"parameter {name!r} has no hint; hint it with the event class, "
            "or name what the step takes with accepts=[...]"
        )
    text = reader.hints.text(name)
    found: list[type[Event] | str] = []
    for part in hint:
        if part is None:
            continue  # `A | None` takes A; the engine never passes None
        if not is_event_class(part):
            raise reader.error(f"parameter {name!r} is hinted {text}, but {_shown(part)} is no event class")
        if part is DynamicEvent:
            raise reader.error(
                f"parameter {name!r} is hinted {text}; name the dynamic events the step takes: accepts=['Name']"
            )
        check_accepted(reader.step, part, subclasses)
        if part not in found:
            found.append(part)
    if not found:
        raise reader.error(f"parameter {name!r} is hinted {text}, which names no event class")
    return tuple(found)


def check_accepted(step: str, event: type[Event] | str, subclasses: bool) -> None:
    """Refuse what no step can be given.

    Raises:
        ValidationError: A `StopEvent`, which is never routed; `Event` without ``subclasses=True``; `DynamicEvent`.
    """
    if event is Event and not subclasses:
        raise ValidationError(
            f"step {step!r}: accepts Event, the base of all events, which matches none by itself; "
            "name the event classes, or take every event with subclasses=True"
        )
    if event is DynamicEvent:
        raise ValidationError(f"step {step!r}: accepts DynamicEvent; give the type names instead: accepts=['Name']")
    if type_name(event) == StopEvent.event_type:
        raise ValidationError(
            f"step {step!r}: accepts StopEvent, which ends the run and is never routed to a step; use another event"
        )


def _check_hint_against(reader: _Reader, name: str, accepts: tuple[type[Event] | str, ...]) -> None:
    """With accepts= the hint decides nothing, but it must not contradict."""
    if not _can_resolve(reader, name):
        return
    hint = [part for part in reader.hints.of(name) or () if part is not None and part is not Any]
    text = reader.hints.text(name) if hint else ""
    for part in hint:
        if not is_event_class(part):
            raise reader.error(f"parameter {name!r} is hinted {text}, but {_shown(part)} is no event class")
    for event in accepts:
        if hint and is_event_class(event) and not any(issubclass(event, typing.cast("type", part)) for part in hint):
            raise reader.error(
                f"accepts {event.__qualname__}, but parameter {name!r} is hinted {text}; make the two agree"
            )


def _emits_from_hint(reader: _Reader) -> tuple[type[Event] | str, ...] | None:
    hint = reader.resolved("return", "import what it names at run time, or declare emits=[...]")
    if hint is None:
        return None
    found: list[type[Event] | str] = []
    declares = True
    for part in _returned(reader, hint):
        if part is Any or (is_event_class(part) and not is_routed(part)):
            declares = False
        elif not is_event_class(part):
            raise reader.error(_why_not_returned(reader.hints.text("return"), part))
        elif part not in found:
            found.append(part)
    return tuple(found) if declares else None


def _returned(reader: _Reader, hint: Alternatives) -> Iterator[object]:
    """The alternatives of a return hint with lists opened and what emits nothing left out."""
    for part in hint:
        if part is list:
            yield Any
        elif isinstance(part, ListOf):
            for item in part.items:
                if item is None:
                    raise reader.error(
                        f"the return hint {reader.hints.text('return')} puts None into a list; "
                        "a step returns an event, a list of events, or None"
                    )
                yield item
        elif part is not None and part is not typing.NoReturn and part is not typing.Never:
            yield part


def _why_not_returned(text: str, part: object) -> str:
    origin = typing.get_origin(part) or part
    module, name = getattr(origin, "__module__", ""), getattr(origin, "__name__", "")
    if module in ("collections.abc", "typing", "types") and name in ("Awaitable", "Coroutine", "CoroutineType"):
        return f"the return hint is {text}; write `async def` and hint the event it returns"
    if origin is tuple or name in ("Sequence", "Iterable", "Iterator", "Generator", "AsyncIterator", "AsyncGenerator"):
        return f"the return hint is {text}; several events are returned as a list: `list[...]`"
    return (
        f"the return hint is {text}, but {_shown(part)} is no event class; "
        "a step returns an event, a list of events, or None"
    )


def _shown(part: object) -> str:
    if isinstance(part, ListOf):
        return "a list"
    return part.__qualname__ if isinstance(part, type) else str(part)
