"""Finds out what steps do with their Context in the middle: which join, which wait for events, which ask.

Nothing declares that, so it is the one thing about a workflow that only the code of its steps tells. The compiled code
says whether there is such a call; the source, where it can be had, says of what, if that stands there literally.
"""

from __future__ import annotations

import ast
import dis
import inspect
import textwrap
import types
from typing import Any

from blazen.events import Event
from blazen.hints import is_event_class, type_name, unwrap
from blazen.steps import StepSpec

_MISSING = object()


def joins_of(spec: StepSpec) -> list[dict[str, Any]]:
    """The calls of ``ctx.collect_events`` of a step, in the order of its code.

    Returns:
        For each ``{"count": n}`` or ``{"types": [names]}``, or ``{}`` where that does not stand there literally.
    """
    return [{} if call is None else _wanted(call, _function(spec)) for call in _calls_of(spec, "collect_events")]


def waits_of(spec: StepSpec) -> list[str]:
    """The type names of the events that a step waits for: what it declares, then what its code names literally."""
    names = list(spec.waits_names)
    for call in _calls_of(spec, "wait_for_event"):
        event = _argument(call, 0, "event_type", _function(spec))
        if isinstance(event, str) or (is_event_class(event) and event is not Event):
            name = type_name(event)
            if name not in names:
                names.append(name)
    return names


def asks(spec: StepSpec) -> bool:
    """Whether a step calls ``ctx.request_input``."""
    return bool(_calls_of(spec, "request_input"))


def _function(spec: StepSpec) -> Any:
    return unwrap(spec.fn.__func__ if isinstance(spec.fn, types.MethodType) else spec.fn)


def _calls_of(spec: StepSpec, method: str) -> list[ast.Call | None]:
    """The calls of a method of its Context that a step makes; None where the source of a call is not known."""
    function = _function(spec)
    code = getattr(function, "__code__", None)
    if code is None or not spec.wants_ctx:
        return []
    context = _context_name(spec, code)
    found = 0 if context is None else _count_calls(code, context, method)
    if context is None or not found:
        return []
    calls = _calls_in_source(function, context, method)
    # The source is read from the file as it is now; where it does not fit the code that runs, the code counts.
    return list(calls) if len(calls) == found else [None] * found


def _context_name(spec: StepSpec, code: types.CodeType) -> str | None:
    at = (1 if isinstance(spec.fn, types.MethodType) else 0) + (0 if spec.ctx_first else 1)
    return code.co_varnames[at] if at < code.co_argcount else None


def _count_calls(code: types.CodeType, context: str, method: str) -> int:
    """How often the code, functions inside it included, calls the method on the variable that holds the Context."""
    count = 0
    loaded: object = None
    for instruction in dis.get_instructions(code):
        if instruction.opname in ("LOAD_ATTR", "LOAD_METHOD"):
            count += instruction.argval == method and loaded == context
            loaded = None
        elif "LOAD_FAST" in instruction.opname or instruction.opname == "LOAD_DEREF":
            # Python 3.13 loads two variables, or stores one and loads another, with one instruction.
            loaded = instruction.argval[-1] if isinstance(instruction.argval, tuple) else instruction.argval
        elif instruction.opname not in ("CACHE", "EXTENDED_ARG"):
            loaded = None
    inner = (const for const in code.co_consts if isinstance(const, types.CodeType))
    return count + sum(_count_calls(one, context, method) for one in inner)


def _calls_in_source(function: Any, context: str, method: str) -> list[ast.Call]:
    """The same in the source; attributes that are passed on (``start_soon(ctx.request_input, ...)``) are no calls."""
    try:
        tree = ast.parse(textwrap.dedent(inspect.getsource(function)))
    except (OSError, TypeError, SyntaxError, ValueError):
        return []  # typed at a prompt, made by a program, or edited since
    calls = [
        node
        for node in ast.walk(tree)
        if isinstance(node, ast.Call)
        and isinstance(node.func, ast.Attribute)
        and node.func.attr == method
        and isinstance(node.func.value, ast.Name)
        and node.func.value.id == context
    ]
    return sorted(calls, key=lambda call: (call.lineno, call.col_offset))


def _argument(call: ast.Call | None, place: int, name: str, function: Any) -> Any:
    """What stands for an argument of a call, or _MISSING."""
    if call is None or any(isinstance(argument, ast.Starred) for argument in call.args[: place + 1]):
        return _MISSING
    given = call.args[place : place + 1] or [keyword.value for keyword in call.keywords if keyword.arg == name]
    return _value_of(given[0], function) if given else _MISSING


def _wanted(call: ast.Call, function: Any) -> dict[str, Any]:
    given = call.args[1:2] or [keyword.value for keyword in call.keywords if keyword.arg == "wanted"]
    if not given or any(isinstance(argument, ast.Starred) for argument in call.args):
        return {}
    wanted = given[0]
    if isinstance(wanted, ast.Constant) and type(wanted.value) is int:
        return {"count": wanted.value}
    if not isinstance(wanted, ast.List | ast.Tuple):
        return {}
    events = [_value_of(item, function) for item in wanted.elts]
    if any(not isinstance(event, str) and not (is_event_class(event) and event is not Event) for event in events):
        return {}
    return {"types": [type_name(event) for event in events]}


def _value_of(item: ast.expr, function: Any) -> Any:
    """What an item of a literal list is: a text, or what a name stands for in the function's closure or module."""
    if isinstance(item, ast.Constant):
        return item.value
    if isinstance(item, ast.Attribute):
        return getattr(_value_of(item.value, function), item.attr, _MISSING)
    if not isinstance(item, ast.Name):
        return _MISSING
    code = function.__code__
    if item.id in code.co_freevars:
        try:
            return function.__closure__[code.co_freevars.index(item.id)].cell_contents
        except ValueError:
            return _MISSING
    if item.id in code.co_varnames or item.id in code.co_cellvars:
        return _MISSING
    return function.__globals__.get(item.id, _MISSING)
