"""Steps: what ``@step`` records on a function, and the `StepSpec` a workflow is built from.

``@step`` checks its options and reads the hints at once. What cannot be known yet (a class that is defined further
down, the object a method will be bound to) is settled by `spec_of`, when a workflow is built.
"""

from __future__ import annotations

import functools
import sys
import types
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, Literal, TypeVar, cast, overload

import msgspec

from blazen.errors import ValidationError
from blazen.hints import Hints, Roles, UnresolvedHint, read_roles, type_name, unwrap
from blazen.retry import Retry, check_timeout, show
from blazen.step_options import (
    CO_COROUTINE,
    CO_GENERATORS,
    EventLike,
    Kind,
    StepOptions,
    check_options,
    is_in_class,
    is_sibling,
)

if TYPE_CHECKING:
    from collections.abc import Awaitable, Iterator
    from typing import Protocol, TypeAlias

    from blazen.events import Event

__all__ = ["EventLike", "Retry", "StepSpec", "check_timeout", "make_spec", "show", "spec_of", "step"]

_DECLARATION = "__blazen_step__"


class StepSpec(msgspec.Struct, frozen=True, kw_only=True, eq=False):
    """One step of a workflow, everything decided: the engine reads it and never looks at the function's hints.

    Attributes:
        name: Unique in its workflow.
        fn: What is called; of a method the bound method.
        accepts: Event classes, or type names of dynamic events.
        accepts_names: The type names of `accepts`, in the same order.
        emits: The declared event classes or names; None if the step declares nothing and may emit anything.
        emits_names: The type names of `emits`; None likewise.
        waits: What the step may wait for in its middle.
        waits_names: The type names of `waits`.
        timeout: Seconds for each attempt, or None.
        retry: ``retry.n`` is 0 where nothing is retried.
        on_error: Called as ``on_error(event, exception)`` when the attempts are used up, or None.
        max_concurrency: At most so many invocations at once in one run, or None.
        run: Where it runs.
        subclasses: Subclasses of the classes in `accepts` are routed here too.
        when: The step takes only events for which this is true; None takes every one.
        is_async: `fn` is an ``async def``.
        wants_ctx: `fn` takes the `Context`.
        ctx_first: It takes it before the event. False where `wants_ctx` is.
    """

    name: str
    fn: Callable[..., Any]
    accepts: tuple[EventLike, ...]
    accepts_names: tuple[str, ...]
    emits: tuple[EventLike, ...] | None
    emits_names: tuple[str, ...] | None
    waits: tuple[EventLike, ...]
    waits_names: tuple[str, ...]
    timeout: float | None
    retry: Retry
    on_error: Callable[..., Any] | None
    max_concurrency: int | None
    run: Kind
    subclasses: bool
    when: Callable[[Any], object] | None
    is_async: bool
    wants_ctx: bool
    ctx_first: bool


class _Declaration(msgspec.Struct, frozen=True, eq=False):
    """What ``@step`` leaves on a function."""

    function: Callable[..., Any]
    given: dict[str, Any]
    options: StepOptions
    hints: Hints


if TYPE_CHECKING:
    # What a step may be, for type checkers; at run time the checks of this module say it, and say it better.
    class _Listed(Protocol):
        """A list of events of any kind; `list[Event]` would refuse a `list[Greet]`."""

        def __iter__(self) -> Iterator[Event]: ...
        def append(self, item: Any, /) -> None: ...

    _Result: TypeAlias = Event | _Listed | None
    _Handler: TypeAlias = Callable[[Any, Any], _Result | Awaitable[_Result]]
    # A method of the same class as the step, which is not bound yet where the step is declared.
    _MethodHandler: TypeAlias = Callable[[Any, Any, Any], _Result | Awaitable[_Result]]

_F = TypeVar("_F", bound="Callable[..., _Result | Awaitable[_Result]] | classmethod[Any, Any, Any]")
_AsyncF = TypeVar("_AsyncF", bound="Callable[..., Awaitable[_Result]] | classmethod[Any, Any, Any]")
_PlainF = TypeVar("_PlainF", bound="Callable[..., _Result] | classmethod[Any, Any, Any]")


@overload
def step(function: _F, /) -> _F: ...
@overload
def step(
    *,
    name: str | None = None,
    accepts: EventLike | Sequence[EventLike] | None = None,
    emits: EventLike | Sequence[EventLike] | None = None,
    waits: EventLike | Sequence[EventLike] = (),
    timeout: float | None = None,
    retries: int | Retry = 0,
    on_error: _Handler | _MethodHandler | None = None,
    max_concurrency: int | None = None,
    run: Literal["inline"] = "inline",
    subclasses: bool = False,
    when: Callable[[Any], bool] | None = None,
) -> Callable[[_F], _F]: ...
@overload
def step(
    *,
    run: Literal["asyncio"],
    name: str | None = None,
    accepts: EventLike | Sequence[EventLike] | None = None,
    emits: EventLike | Sequence[EventLike] | None = None,
    waits: EventLike | Sequence[EventLike] = (),
    timeout: float | None = None,
    retries: int | Retry = 0,
    on_error: _Handler | _MethodHandler | None = None,
    max_concurrency: int | None = None,
    subclasses: bool = False,
    when: Callable[[Any], bool] | None = None,
) -> Callable[[_AsyncF], _AsyncF]: ...
@overload
def step(
    *,
    run: Literal["thread", "process"],
    name: str | None = None,
    accepts: EventLike | Sequence[EventLike] | None = None,
    emits: EventLike | Sequence[EventLike] | None = None,
    waits: EventLike | Sequence[EventLike] = (),
    timeout: float | None = None,
    retries: int | Retry = 0,
    on_error: _Handler | _MethodHandler | None = None,
    max_concurrency: int | None = None,
    subclasses: bool = False,
    when: Callable[[Any], bool] | None = None,
) -> Callable[[_PlainF], _PlainF]: ...
def step(
    function: Any = None,
    /,
    *,
    name: str | None = None,
    accepts: EventLike | Sequence[EventLike] | None = None,
    emits: EventLike | Sequence[EventLike] | None = None,
    waits: EventLike | Sequence[EventLike] = (),
    timeout: float | None = None,
    retries: int | Retry = 0,
    on_error: Callable[..., Any] | None = None,
    max_concurrency: int | None = None,
    run: Kind = "inline",
    subclasses: bool = False,
    when: Callable[[Any], bool] | None = None,
) -> Any:
    """Mark a function as a step of a workflow and give it back unchanged.

    Works bare (``@step``) and with keywords, on ``async def`` and plain ``def``, on methods, static methods and
    class methods. The function takes an event and, if it wants, a `Context`, in either order: the hints decide.
    It returns an event, a list of events, or None.

    Args:
        function: What a bare ``@step`` stands above.
        name: The step's name; by default the function's.
        accepts: Event classes or type names the step takes; by default the hint of its event parameter.
        emits: Event classes or type names it may return; by default the return hint. ``[]`` declares that it
            returns none; with neither emits nor a hint that names classes, it may return any.
        waits: Event classes or type names it waits for in its middle.
        timeout: Seconds each attempt may take.
        retries: At most so many more attempts, at once; or a `Retry`, which waits in between.
        on_error: ``on_error(event, exception)``, plain or async, called when the attempts are used up; what it
            returns replaces the step's result. In a class it may also be a method of the same class.
        max_concurrency: At most so many invocations at once in one run.
        run: ``"inline"`` on the event loop; ``"thread"`` for a plain ``def`` that blocks; ``"process"`` for one that
            computes for long and must be killable: it takes the event alone (extra ``blazen[process]``); ``"asyncio"``
            for an ``async def`` that awaits what belongs to asyncio.
        subclasses: Also take subclasses of the classes in `accepts`; otherwise subclassing does not route.
        when: A guard, ``when(event)``: the step takes only the events for which it is true. Plain, quick and without
            effects: it is called when the event is queued, and also in the thread that sends one from outside.

    Raises:
        ValidationError: An option is out of its range, the function cannot be a step, or a hint says nothing about
            events. A hint that names something not yet defined is judged when a workflow is built.
    """
    given = {
        "name": name,
        "accepts": accepts,
        "emits": emits,
        "waits": waits,
        "timeout": timeout,
        "retries": retries,
        "on_error": on_error,
        "max_concurrency": max_concurrency,
        "run": run,
        "subclasses": subclasses,
        "when": when,
    }
    if function is None:
        return lambda decorated: _declare(decorated, given, sys._getframe(1))
    return _declare(function, given, sys._getframe(1))


def _declare(decorated: Any, given: dict[str, Any], caller: types.FrameType) -> Any:
    function = decorated.__func__ if isinstance(decorated, staticmethod | classmethod) else decorated
    if isinstance(function, types.MethodType):
        raise ValidationError(f"{show(function)} is bound already; put @step on the function in the class")
    if isinstance(getattr(function, _DECLARATION, None), _Declaration):
        earlier = getattr(function, _DECLARATION)
        if earlier.function is function:
            raise ValidationError(f"step {function.__name__!r}: @step is applied twice; keep one")
    declaration = _examine(function, given, caller)
    _read_early(declaration)
    if declaration.hints.is_resolved():
        declaration.hints.release()
    setattr(function, _DECLARATION, declaration)
    return decorated


def _read_early(declaration: _Declaration) -> None:
    """Read the hints for their errors alone; a name that is missing may come, so the build looks for it again.

    Whether a first parameter is `self` shows only when the step is passed to a workflow, so both readings are tried.
    """
    in_class = is_in_class(declaration.function)
    try:
        _read(declaration, bound=in_class)
    except UnresolvedHint:
        return
    except ValidationError as as_method:
        if not in_class:
            raise
        try:
            _read(declaration, bound=False)  # a static method
        except UnresolvedHint:
            return
        except ValidationError:
            raise as_method from None


def _examine(function: Any, given: dict[str, Any], caller: types.FrameType | None) -> _Declaration:
    """Check that a function can be a step at all, and its options. The roles of its parameters come later."""
    if isinstance(function, functools.partial):
        raise ValidationError(f"{show(function)} cannot be a step: it has no hints of its own; wrap it in a def")
    if isinstance(function, type) or not callable(function) or not hasattr(function, "__code__"):
        raise ValidationError(
            f"{show(function)} cannot be a step: @step takes a function (def or async def) or a method"
        )
    label = f"step {given.get('name') or function.__name__!r}"
    inner = unwrap(function)
    flags = function.__code__.co_flags
    if flags & CO_GENERATORS:
        raise ValidationError(f"{label}: is a generator; return an event or a list of events instead of yielding them")
    if not hasattr(inner, "__code__"):
        raise ValidationError(f"{label}: wraps {show(inner)}, which is no function; wrap it in a def")
    if inner.__code__.co_flags & CO_COROUTINE and not flags & CO_COROUTINE:
        raise ValidationError(
            f"{label}: an async def inside a decorator that is a plain def; make the wrapper async def"
        )
    options = check_options(function, given)
    return _Declaration(function, given, options, Hints(cast("types.FunctionType", inner), caller))


def _read(declaration: _Declaration, *, bound: bool) -> Roles:
    options = declaration.options
    roles = read_roles(
        options.name,
        declaration.hints,
        bound=bound,
        accepts=options.accepts,
        emits=options.emits,
        subclasses=options.subclasses,
    )
    if options.run == "process" and roles.wants_ctx:
        raise ValidationError(
            f"step {options.name!r}: run='process' takes the event alone, since a Context cannot leave its process; "
            "leave the Context parameter out, or use run='thread'"
        )
    return roles


def _spec(declaration: _Declaration, target: Callable[..., Any]) -> StepSpec:
    bound = isinstance(target, types.MethodType)
    options = declaration.options
    try:
        roles = _read(declaration, bound=bound)
    except UnresolvedHint as error:
        raise ValidationError(str(error)) from None
    except ValidationError as error:
        if not bound and is_in_class(declaration.function):
            owner_name = declaration.function.__qualname__.rpartition(".")[0]
            raise ValidationError(
                f"{error} (if {declaration.function.__qualname__} is a method, pass it from an object of {owner_name})"
            ) from None
        raise
    declaration.hints.release()
    on_error = _bound("on_error", options.name, declaration.function, options.on_error, target, arguments=2)
    when = _bound("when", options.name, declaration.function, options.when, target, arguments=1)
    return StepSpec(
        name=options.name,
        fn=target,
        accepts=roles.accepts,
        accepts_names=tuple(type_name(event) for event in roles.accepts),
        emits=roles.emits,
        emits_names=None if roles.emits is None else tuple(type_name(event) for event in roles.emits),
        waits=options.waits,
        waits_names=tuple(type_name(event) for event in options.waits),
        timeout=options.timeout,
        retry=options.retry,
        on_error=on_error,
        max_concurrency=options.max_concurrency,
        run=options.run,
        subclasses=options.subclasses,
        when=when,
        is_async=bool(declaration.function.__code__.co_flags & CO_COROUTINE),
        wants_ctx=roles.wants_ctx,
        ctx_first=roles.ctx_first,
    )


def _bound(keyword: str, name: str, function: Any, given: Any, target: Any, *, arguments: int) -> Any:
    """What `on_error` or `when` names; a method of the step's own class bound to the step's object."""
    if given is None or not is_sibling(function, given, arguments=arguments):
        return given
    if not isinstance(target, types.MethodType):
        raise ValidationError(f"step {name!r}: {keyword} is a method, but the step is not bound to an object")
    return types.MethodType(given, target.__self__)


def _function_of(obj: object) -> Any:
    return obj.__func__ if isinstance(obj, types.MethodType | staticmethod | classmethod) else obj


def _declaration_of(obj: object) -> _Declaration | None:
    function = _function_of(obj)
    declaration = getattr(function, _DECLARATION, None)
    if isinstance(function, type) or not isinstance(declaration, _Declaration):
        return None
    if declaration.function is not function:  # `functools.wraps` copied it from the function inside
        raise ValidationError(
            f"step {declaration.options.name!r}: another decorator stands above @step; put @step on top of it"
        )
    return declaration


def spec_of(obj: object) -> StepSpec:
    """The finished description of a step, for a workflow that is being built.

    Args:
        obj: A function decorated with ``@step``, or such a method bound to its object.

    Raises:
        ValidationError: `obj` is anything else, or its hints cannot be resolved.
    """
    declaration = _declaration_of(obj)
    if declaration is None:
        raise ValidationError(f"{show(obj)} is no step; put @step on the function and pass the function itself")
    if isinstance(obj, staticmethod | classmethod):
        raise ValidationError(f"step {declaration.options.name!r}: pass it from its class or an object of its class")
    return _spec(declaration, cast("Callable[..., Any]", obj))


def make_spec(function: Callable[..., Any], **options: Any) -> StepSpec:
    """The same as `spec_of`, with the keywords of ``@step`` given here; the function needs no decorator.

    Args:
        function: A function or bound method. If it is a step already, `options` replace what was declared there.
        **options: As in `step`.

    Raises:
        ValidationError: As in `step` and `spec_of`.
        TypeError: A keyword that `step` does not have.
    """
    known = {*StepOptions.__struct_fields__, "retries"} - {"retry"}
    unknown = [key for key in options if key not in known]
    if unknown:
        raise TypeError(f"a step has no option {unknown[0]!r}")
    declaration = _declaration_of(function)
    if declaration is None:
        declaration = _examine(_function_of(function), options, sys._getframe(1))
    elif options:
        given = {**declaration.given, **options}
        inner = declaration.hints
        declaration = _Declaration(declaration.function, given, check_options(declaration.function, given), inner)
    return _spec(declaration, function)
