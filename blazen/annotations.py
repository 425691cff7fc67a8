"""Opening annotations: from a hint, quoted or not, to the classes and special forms it consists of.

Names are sought where Python itself would find them: in the scopes around the function, in its closure, in its
module. A name that is not there yet is told apart from a hint that makes no sense, because it may come.
"""

from __future__ import annotations

import types
import typing
from typing import Any

import msgspec

if typing.TYPE_CHECKING:
    import ast

_CO_OPTIMIZED = 0x01

Alternatives = tuple[object, ...]


class HintProblem(Exception):
    """A hint that is no hint: wrong syntax, an alias that refers to itself, an error while it was evaluated."""


class NameMissing(HintProblem):
    """A name in a hint is not there, or not there yet."""


class ListOf(msgspec.Struct, frozen=True):
    """``list[A | B]`` with its alternatives opened."""

    items: Alternatives


def _holds(outer: types.CodeType, inner: types.CodeType) -> bool:
    """Whether `inner` is written directly inside `outer`."""
    for const in outer.co_consts:
        if const is inner:
            return True
        # `def f[T](...)` puts a scope of its own between a function and the place it stands in; a decorator stands
        # outside of it.
        if isinstance(const, types.CodeType) and const.co_name.startswith("<generic parameters of "):
            return _holds(const, inner)
    return False


def _enclosing_frames(code: types.CodeType, caller: types.FrameType | None) -> list[types.FrameType]:
    """The running scopes around a function being defined, innermost first; module scopes are left out.

    A function that is defined elsewhere has none here: only frames whose code contains its code count, so names
    never come from a scope that merely happens to call `step`. A scope further out counts if it is active once;
    of two activations of one function nobody could say which is meant.
    """
    frames: list[types.FrameType] = []
    frame = caller
    while frame is not None:
        if not _holds(frame.f_code, code):
            frame = frame.f_back
            continue
        if frames and frames[-1].f_code.co_flags & _CO_OPTIMIZED and _is_active_twice(frame):
            break
        if frame.f_locals is frame.f_globals:
            break  # the function knows its module; the frame would only keep alive whoever imports it
        frames.append(frame)
        code, frame = frame.f_code, frame.f_back
    return frames


def _is_active_twice(frame: types.FrameType) -> bool:
    older = frame.f_back
    while older is not None:
        if older.f_code is frame.f_code:
            return True
        older = older.f_back
    return False


class Scope:
    """The names a function's hints may use: the scopes it stands in, its closure, its module.

    Holds the frames of the surrounding scopes only until `release`, because a frame keeps every local alive.
    """

    __slots__ = ("_frames", "_function")

    def __init__(self, function: types.FunctionType, caller: types.FrameType | None) -> None:
        self._function = function
        self._frames = _enclosing_frames(function.__code__, caller)

    @property
    def module_names(self) -> dict[str, Any]:
        """The globals of the function."""
        return self._function.__globals__

    def release(self) -> None:
        """Forget the frames; closure and module stay."""
        self._frames = []

    def __getitem__(self, name: str) -> Any:
        for frame in self._frames:
            values = frame.f_locals
            if name in values:
                return values[name]
            code = frame.f_code
            # A local without a value yet hides a global of the same name, as it does everywhere in Python.
            if code.co_flags & _CO_OPTIMIZED and name in code.co_varnames + code.co_cellvars + code.co_freevars:
                raise NameError(f"name {name!r} has no value yet", name=name)
        code = self._function.__code__
        if name in code.co_freevars and self._function.__closure__:
            try:
                return self._function.__closure__[code.co_freevars.index(name)].cell_contents
            except ValueError:
                raise NameError(f"name {name!r} has no value yet", name=name) from None
        raise KeyError(name)  # `eval` goes on to the module and the builtins


def alternatives(hint: object, scope: Scope, opening: tuple[object, ...] = ()) -> Alternatives:
    """Open unions, aliases, ``Annotated``, ``list[...]`` and quotes. ``None`` stands for itself.

    Args:
        hint: An annotation, as it stands in ``__annotations__``.
        scope: Where names in quotes are sought.
        opening: The quotes and aliases being opened around this one, to notice one that refers to itself.

    Raises:
        NameMissing: A name is not known, or not yet.
        HintProblem: The hint makes no sense otherwise.
    """
    if hint is None or hint is type(None):
        return (None,)
    if isinstance(hint, typing.ForwardRef):
        hint = hint.__forward_arg__
    if isinstance(hint, str):
        _refuse_circle(hint, opening)
        return _open_text(hint, scope, (*opening, hint))
    if type(hint).__name__ == "TypeAliasType" and hasattr(type(hint), "__value__"):  # `type X = A | B`
        _refuse_circle(hint, opening)
        return alternatives(_alias_value(hint), scope, (*opening, hint))
    origin = typing.get_origin(hint)
    if origin is typing.Union or origin is types.UnionType:
        found: list[object] = []
        for part in typing.get_args(hint):
            found.extend(alternatives(part, scope, opening))
        return tuple(found)
    if origin is typing.Annotated:
        return alternatives(typing.get_args(hint)[0], scope, opening)
    if origin is list:
        args = typing.get_args(hint)
        return (ListOf(alternatives(args[0], scope, opening)),) if args else (list,)
    return (hint,)


def _refuse_circle(hint: object, opening: tuple[object, ...]) -> None:
    if any(hint is outer or (isinstance(hint, str) and hint == outer) for outer in opening):
        raise HintProblem("it refers to itself")


def _alias_value(alias: Any) -> object:
    try:
        return alias.__value__  # computed by Python on first use, so its names may be missing now and there later
    except (NameError, AttributeError) as error:
        raise NameMissing(str(error)) from None
    except Exception as error:
        raise HintProblem(f"{type(error).__name__}: {error}") from None


def _open_text(text: str, scope: Scope, opening: tuple[object, ...]) -> Alternatives:
    try:
        code = compile(text.strip(), "<hint>", "eval", dont_inherit=True)
    except (SyntaxError, ValueError):
        raise HintProblem("it is no Python expression") from None
    try:
        value = _evaluate(code, scope)
    except TypeError as error:
        # A quoted part inside a union, '"A" | B', is no valid expression but a valid hint: go by the syntax instead.
        import ast

        tree = ast.parse(text.strip(), mode="eval").body
        if not isinstance(tree, ast.BinOp | ast.Subscript):
            raise HintProblem(f"TypeError: {error}") from None
        return _open_syntax(tree, scope, opening)
    return alternatives(value, scope, opening)


def _evaluate(code: types.CodeType, scope: Scope) -> object:
    """The value of a hint's expression. A TypeError comes out as it is."""
    try:
        return eval(code, scope.module_names, typing.cast("dict[str, Any]", scope))
    except (NameError, AttributeError) as error:
        raise NameMissing(str(error)) from None
    except TypeError:
        raise
    except Exception as error:
        raise HintProblem(f"{type(error).__name__}: {error}") from None


def _open_syntax(tree: ast.expr, scope: Scope, opening: tuple[object, ...]) -> Alternatives:
    import ast

    if isinstance(tree, ast.BinOp) and isinstance(tree.op, ast.BitOr):
        return (*_open_syntax(tree.left, scope, opening), *_open_syntax(tree.right, scope, opening))
    if isinstance(tree, ast.Subscript):
        outer = _value_of(tree.value, scope)
        inner = tree.slice.elts if isinstance(tree.slice, ast.Tuple) else [tree.slice]
        if typing.get_origin(outer) is list or outer is list:
            return (ListOf(_open_syntax(tree.slice, scope, opening)),)
        if outer is typing.Annotated:
            return _open_syntax(inner[0], scope, opening)
        if outer is typing.Union or outer is typing.Optional:
            found = [part for node in inner for part in _open_syntax(node, scope, opening)]
            return (*found, None) if outer is typing.Optional else tuple(found)
    return alternatives(_value_of(tree, scope), scope, opening)


def _value_of(tree: ast.expr, scope: Scope) -> object:
    import ast

    try:
        return _evaluate(compile(ast.Expression(tree), "<hint>", "eval", dont_inherit=True), scope)
    except TypeError as error:
        raise HintProblem(f"TypeError: {error}") from None
