"""``--input``: JSON from the command line, a file, or standard input."""

from __future__ import annotations

import json
import sys
from typing import Any

from blazen.cli.messages import Mistake, one_line

_LONGEST_SHOWN = 60


def read_input(given: str) -> Any:
    """The value of ``--input``.

    Args:
        given: JSON; ``@path`` for a file that holds it; ``-`` for standard input.

    Raises:
        Mistake: It cannot be read, or is no JSON; the message says where, by line and column.
    """
    if given == "-":
        return parse_json(_read_stdin(), "standard input")
    if given.startswith("@"):
        return parse_json(_read_file(given[1:]), repr(given[1:]))
    if not given.strip():
        raise Mistake("--input is empty; give JSON, @file.json, or - for standard input")
    return parse_json(given, "the text of --input")


def _read_file(path: str) -> str:
    if not path:
        raise Mistake("--input @ names no file; write --input @file.json")
    try:
        with open(path, "rb") as file:
            data = file.read()
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) else str(error)
        raise Mistake(f"--input: {path!r} cannot be read: {reason}") from None
    return _decode(data, repr(path))


def _read_stdin() -> str:
    if sys.stdin is None:
        raise Mistake("--input -: standard input is closed")
    try:
        return _decode(sys.stdin.buffer.read(), "standard input")
    except OSError as error:
        raise Mistake(f"--input -: standard input cannot be read: {error.strerror}") from None


def _decode(data: bytes, where: str) -> str:
    try:
        return data.decode("utf-8-sig")  # some editors begin a file with a mark
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        raise Mistake(f"--input: {where} is not UTF-8: byte {data[error.start]:#04x} in line {line}") from None


def parse_json(text: str, where: str) -> Any:
    """The value that JSON describes; what JSON does not have, or would lose, is refused.

    Raises:
        Mistake: It is no JSON.
    """
    try:
        return json.loads(text, parse_constant=_refuse_constant, object_pairs_hook=_without_repetition)
    except json.JSONDecodeError as error:
        if not text.strip():
            raise Mistake(f"--input: {where} is empty; it must hold JSON") from None
        raise Mistake(
            f"--input: {where} is no JSON: {error.msg} at line {error.lineno}, column {error.colno}{_shown_line(error)}"
        ) from None
    except RecursionError:
        raise Mistake(f"--input: {where} is nested too deeply") from None
    except ValueError as error:
        raise Mistake(f"--input: {where} is no JSON: {one_line(str(error))}") from None


def _shown_line(error: json.JSONDecodeError) -> str:
    lines = error.doc.split("\n")
    line = lines[error.lineno - 1] if error.lineno <= len(lines) else ""
    if not line.strip():
        return ""
    start = max(0, min(error.colno - 1 - _LONGEST_SHOWN // 2, len(line) - _LONGEST_SHOWN))
    part = line[start : start + _LONGEST_SHOWN]
    shown = ("..." if start else "") + part + ("..." if start + _LONGEST_SHOWN < len(line) else "")
    return f", in: {one_line(shown)}"


def _refuse_constant(name: str) -> Any:
    raise ValueError(f"{name} is no JSON number")


def _without_repetition(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        names = [name for name, _ in pairs]
        repeated = next(name for name in names if names.count(name) > 1)
        raise ValueError(f"the key {repeated!r} is there twice")
    return found
