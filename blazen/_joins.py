"""Finds out which steps wait for several events, by looking for ``ctx.collect_events(...)`` in their code.

Nothing declares a join, so this is the one thing about a workflow that only its code tells. The compiled code says
whether there is such a call; the source, where it can be had, says of what, if that stands there literally.
"""

from __future__ import annotations

import ast
import dis
import inspect
import textwrap
import types
from collections.abc import Iterator
from typing import Any

from blazen.events import Event
from blazen.hints import is_event_class, type_name, unwrap
from blazen.steps import StepSpec

_CALL = "collect_events"
_MISSING = object()


def joins_of(spec: StepSpec) -> list[dict[str, Any]]:
    """The joins of a step, in the order of its code.

    Returns:
        For each ``{"count": n}`` or ``{"types": [names]}``, or ``{}`` where that does not stand there literally.
    """
    function = unwrap(spec.fn.__func__ if isinstance(spec.fn, types.MethodType) else spec.fn)
    code = getattr(function, "__code__", None)
    if code is None or not spec.wants_ctx:
        return []
    name = _context_name(spec, code)
    if name is None:
        return []
    found = _count_calls(code, name)
    if not found:
        return []
    wanted = _wanted_in_source(function, name)
    # The source is read from the file as it is now; where it does not fit the code that runs, the code counts.
    return wanted if len(wanted) == found else [{} for _ in range(found)]


def _context_name(spec: StepSpec, code: types.CodeType) -> str | None:
    at = (1 if isinstance(spec.fn, types.MethodType) else 0) + (0 if spec.ctx_first else 1)
    return code.co_varnames[at] if at < code.co_argcount else None


def _count_calls(code: types.CodeType, context: str) -> int:
    """How often the code, functions inside it included, calls the method on the variable that holds the Context."""
    count = 0
    loaded: object = None
    for instruction in dis.get_instructions(code):
        if instruction.opname in ("LOAD_ATTR", "LOAD_METHOD"):
            count += instruction.argval == _CALL and loaded == context
            loaded = None
        elif "LOAD_FAST" in instruction.opname or instruction.opname == "LOAD_DEREF":
            # Python 3.13 loads two variables, or stores one and loads another, with one instruction.
            loaded = instruction.argval[-1] if isinstance(instruction.argval, tuple) else instruction.argval
        elif instruction.opname not in ("CACHE", "EXTENDED_ARG"):
            loaded = None
    return count + sum(_count_calls(const, context) for const in code.co_consts if isinstance(const, types.CodeType))


def _wanted_in_source(function: Any, context: str) -> list[dict[str, Any]]:
    try:
        tree = ast.parse(textwrap.dedent(inspect.getsource(function)))
    except (OSError, TypeError, SyntaxError, ValueError):
        return []  # typed at a prompt, made by a program, or edited since
    calls = sorted(_calls(tree, context), key=lambda call: (call.lineno, call.col_offset))
    return [_wanted(call, function) for call in calls]


def _calls(tree: ast.AST, context: str) -> Iterator[ast.Call]:
    for node in ast.walk(tree):
        if (
            isinstance(node, ast.Call)
            and isinstance(node.func, ast.Attribute)
            and node.func.attr == _CALL
            and isinstance(node.func.value, ast.Name)
            and node.func.value.id == context
        ):
            yield node


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
