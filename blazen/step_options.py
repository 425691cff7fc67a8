"""The keywords of ``@step``, checked one by one."""

from __future__ import annotations

import types
from collections.abc import Callable
from typing import Any, Literal, cast

import msgspec

from blazen.errors import ValidationError
from blazen.events import Event, StopEvent
from blazen.hints import check_accepted, is_event_class, is_routed, type_name
from blazen.retry import Retry, check_timeout, show

EventLike = type[Event] | str
Kind = Literal["inline", "thread", "process", "asyncio"]

CO_VARARGS = 0x04
CO_GENERATORS = 0x20 | 0x200  # plain and async
CO_COROUTINE = 0x80


class StepOptions(msgspec.Struct, frozen=True, kw_only=True, eq=False):
    """The keywords of ``@step``, checked. None in `accepts` and `emits` means: go by the hints."""

    name: str
    accepts: tuple[EventLike, ...] | None
    emits: tuple[EventLike, ...] | None
    waits: tuple[EventLike, ...]
    timeout: float | None
    retry: Retry
    on_error: Callable[..., Any] | None
    max_concurrency: int | None
    run: Kind
    subclasses: bool
    when: Callable[[Any], object] | None


def check_options(function: Callable[..., Any], given: dict[str, Any]) -> StepOptions:
    """Check the keywords given for a function.

    Raises:
        ValidationError: One is out of its range, or does not fit the function.
    """
    name = given.get("name")
    if name is None:
        name = function.__name__
        if name == "<lambda>":
            raise ValidationError("a lambda cannot be a step without a name; use a def, or give name=")
    if not isinstance(name, str) or not name.strip():
        raise ValidationError(f"step {function.__name__!r}: name must be a non-empty str, got {show(name)}")
    label = f"step {name!r}"
    subclasses = given.get("subclasses", False)
    if not isinstance(subclasses, bool):
        raise ValidationError(f"{label}: subclasses must be True or False, got {show(subclasses)}")
    concurrency = given.get("max_concurrency")
    if concurrency is not None and (
        isinstance(concurrency, bool) or not isinstance(concurrency, int) or concurrency < 1
    ):
        raise ValidationError(f"{label}: max_concurrency must be an int, 1 or more, or None, got {show(concurrency)}")
    return StepOptions(
        name=name,
        accepts=_check_accepts(name, given.get("accepts"), subclasses),
        emits=_check_events(name, "emits", given.get("emits")),
        waits=_check_waits(name, given.get("waits")),
        timeout=check_timeout(given.get("timeout"), f"{label}: timeout"),
        retry=_check_retries(label, given.get("retries", 0)),
        on_error=_check_on_error(label, function, given.get("on_error")),
        max_concurrency=concurrency,
        run=_check_run(label, function, given.get("run", "inline")),
        subclasses=subclasses,
        when=_check_when(label, function, given.get("when")),
    )


def _check_events(name: str, keyword: str, given: object) -> tuple[EventLike, ...] | None:
    """One event class or type name, or a list of them, as a tuple without repetitions."""
    if given is None:
        return None
    listed = given if isinstance(given, list | tuple) else [given]
    found: list[EventLike] = []
    for event in listed:
        if isinstance(event, str):
            if not event.strip():
                raise ValidationError(f"step {name!r}: {keyword} holds an empty type name")
        elif not is_event_class(event):
            raise ValidationError(
                f"step {name!r}: {keyword} must be event classes or type names, or a list of them, got {show(event)}"
            )
        if event not in found:
            found.append(event)
    classes = {type_name(event) for event in found if not isinstance(event, str) and is_routed(event)}
    # A class says more than its name: with both, events known by name only are converted to it.
    found = [event for event in found if not isinstance(event, str) or event not in classes]
    for event in found:
        if keyword != "accepts" and not isinstance(event, str) and not is_routed(event):
            raise ValidationError(f"step {name!r}: {keyword} must name concrete events, and {event.__name__} is none")
    return tuple(found)


def _check_accepts(name: str, given: object, subclasses: bool) -> tuple[EventLike, ...] | None:
    accepts = _check_events(name, "accepts", given)
    if accepts is None:
        return None
    if not accepts:
        raise ValidationError(f"step {name!r}: accepts is empty; leave it out to go by the hint, or name an event")
    for event in accepts:
        check_accepted(name, event, subclasses)
        if subclasses and isinstance(event, str):
            raise ValidationError(f"step {name!r}: subclasses=True needs event classes, but accepts names {event!r}")
    return accepts


def _check_waits(name: str, given: object) -> tuple[EventLike, ...]:
    waits = _check_events(name, "waits", given) or ()
    for event in waits:
        if type_name(event) == StopEvent.event_type:
            raise ValidationError(f"step {name!r}: waits for StopEvent, which ends the run and is never routed")
    return waits


def _check_retries(label: str, given: object) -> Retry:
    if isinstance(given, Retry):
        return given
    if isinstance(given, bool) or not isinstance(given, int) or given < 0:
        raise ValidationError(f"{label}: retries must be an int, 0 or more, or a Retry, got {show(given)}")
    return Retry(given, initial=0.0)


def _check_run(label: str, function: Callable[..., Any], given: object) -> Kind:
    if given == "inline":
        return "inline"
    is_async = bool(function.__code__.co_flags & CO_COROUTINE)
    if given == "asyncio":
        if not is_async:
            raise ValidationError(f"{label}: run='asyncio' takes an async def; a plain def runs inline or in a thread")
        return "asyncio"
    if given != "thread" and given != "process":
        raise ValidationError(f"{label}: run must be 'inline', 'thread', 'process' or 'asyncio', got {show(given)}")
    if is_async:
        raise ValidationError(f"{label}: run={given!r} takes a plain def; an async def runs inline or in asyncio")
    return "thread" if given == "thread" else "process"


def _check_on_error(label: str, function: Callable[..., Any], handler: Any) -> Callable[..., Any] | None:
    if handler is None:
        return None
    if not callable(handler) or isinstance(handler, type):
        raise ValidationError(f"{label}: on_error must be a function taking (event, exception), got {show(handler)}")
    code = getattr(handler, "__code__", None)
    if code is None:
        return cast("Callable[..., Any]", handler)  # an object with __call__, a partial: known only when called
    if code.co_flags & CO_GENERATORS:
        raise ValidationError(f"{label}: on_error is a generator; return an event or a list of events instead")
    if not _takes(handler, 2) and not is_sibling(function, handler, arguments=2):
        raise ValidationError(
            f"{label}: on_error must take two arguments, (event, exception); {show(handler)} does not"
        )
    return cast("Callable[..., Any]", handler)


def _check_when(label: str, function: Callable[..., Any], guard: Any) -> Callable[[Any], object] | None:
    if guard is None:
        return None
    if not callable(guard) or isinstance(guard, type):
        raise ValidationError(f"{label}: when must be a function taking the event, got {show(guard)}")
    code = getattr(guard, "__code__", None)
    if code is not None:
        if code.co_flags & (CO_COROUTINE | CO_GENERATORS):
            raise ValidationError(f"{label}: when must be a plain def that returns True or False, not an async one")
        if not _takes(guard, 1) and not is_sibling(function, guard, arguments=1):
            raise ValidationError(f"{label}: when must take one argument, the event; {show(guard)} does not")
    return cast("Callable[[Any], object]", guard)


def _takes(handler: Any, count: int) -> bool:
    """Whether a function or bound method can be called with so many positional arguments."""
    code, function = handler.__code__, getattr(handler, "__func__", handler)
    if isinstance(handler, types.MethodType):
        count += 1
    keyword_defaults = function.__kwdefaults__ or {}
    if len(keyword_defaults) < code.co_kwonlyargcount:
        return False
    required = code.co_argcount - len(function.__defaults__ or ())
    return required <= count and (count <= code.co_argcount or bool(code.co_flags & CO_VARARGS))


def is_in_class(function: Callable[..., Any]) -> bool:
    """Whether a function is written in the body of a class: as a method, a class method or a static method."""
    owner = function.__qualname__.rpartition(".")[0]
    return bool(owner) and not owner.endswith("<locals>")


def is_sibling(function: Callable[..., Any], handler: Any, *, arguments: int) -> bool:
    """Whether ``on_error`` or ``when`` is a method of the class the step stands in, with so many arguments and self."""
    return (
        isinstance(handler, types.FunctionType)
        and is_in_class(function)
        and handler.__module__ == function.__module__
        and handler.__qualname__.rpartition(".")[0] == function.__qualname__.rpartition(".")[0]
        and _takes(handler, arguments + 1)
        and not _takes(handler, arguments)
    )
