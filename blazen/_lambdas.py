"""What a lambda says, as text, for pictures: ``ev.amount < 50`` tells more than ``<lambda>``."""

from __future__ import annotations

import ast
import inspect
import types

NAME = "<lambda>"
_LONGEST = 40


def body_of(function: types.FunctionType) -> str | None:
    """The expression of a lambda on one line; None where the source does not tell it beyond doubt.

    A long one is cut off, with an ellipsis at the end.
    """
    try:
        lines, _ = inspect.findsource(function)
        tree = ast.parse("".join(lines))
    except (OSError, TypeError, SyntaxError, ValueError, IndexError):
        return None  # typed at a prompt, made by a program, or edited since
    bodies = {
        ast.unparse(node.body)
        for node in ast.walk(tree)
        if isinstance(node, ast.Lambda)
        and node.lineno == function.__code__.co_firstlineno
        and _is_source_of(node, function.__code__)
    }
    if len(bodies) != 1:
        return None
    text = bodies.pop()
    return text if len(text) <= _LONGEST else text[: _LONGEST - 1] + "…"


def _is_source_of(node: ast.Lambda, code: types.CodeType) -> bool:
    """Whether compiling the lambda again gives what runs: the file may have been edited since it was imported."""
    # Inside a function that has the variables of the functions around it, so that they are found where they were.
    tree = ast.parse(f"def around({', '.join(code.co_freevars)}): return None")
    around = tree.body[0]
    assert isinstance(around, ast.FunctionDef)
    around.body = [ast.Return(node, lineno=node.lineno, col_offset=0)]
    return any(
        _essence(inner) == _essence(code) for outer in _inside(compile(tree, "", "exec")) for inner in _inside(outer)
    )


def _inside(code: types.CodeType) -> list[types.CodeType]:
    return [const for const in code.co_consts if isinstance(const, types.CodeType)]


def _essence(code: types.CodeType) -> tuple[object, ...]:
    consts = [(type(const), const) for const in code.co_consts if not isinstance(const, types.CodeType)]
    return code.co_code, code.co_names, code.co_varnames, consts, [_essence(inner) for inner in _inside(code)]
