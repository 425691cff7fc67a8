"""What the command says on standard error, and with which code it ends."""

from __future__ import annotations

import importlib
import os
import sys
import traceback
from types import TracebackType
from typing import Literal

import blazen
from blazen._drawing_text import printable

DONE = 0
FAILED = 1
MISTAKE = 2
FAULT = 70  # EX_SOFTWARE of sysexits.h
INTERRUPTED = 130  # 128 and the number of SIGINT, as shells count
BROKEN_PIPE = 141
TERMINATED = 143

Traceback = Literal["short", "full"]

_PACKAGE = os.path.dirname(os.path.abspath(blazen.__file__)) + os.sep
# Compiled code knows its source by the name it had in the checkout.
_COMPILED = "blazen" + os.sep + "_core" + os.sep
_IMPORTS = os.path.dirname(importlib.__file__) + os.sep


class Mistake(Exception):
    """What was asked for cannot be done as it was asked: one line on standard error, exit code 2."""


def say(text: str) -> None:
    """Write a line to standard error."""
    if sys.stderr is None:  # closed before the process began
        return
    try:
        print(text, file=sys.stderr, flush=True)
    except BrokenPipeError:
        pass  # nobody reads it, and there is nobody else to tell
    except UnicodeEncodeError:
        print(text.encode("ascii", "backslashreplace").decode("ascii"), file=sys.stderr, flush=True)


def one_line(text: str) -> str:
    """`text` as one line that can command no terminal."""
    return printable(" ".join(text.split()))


def _is_own(filename: str) -> bool:
    return filename.startswith((_PACKAGE, _COMPILED, _IMPORTS, "<frozen importlib"))


def has_own_frames_only(tb: TracebackType | None) -> bool:
    """Whether a traceback leads through no code of the user."""
    return all(_is_own(frame.f_code.co_filename) for frame, _ in traceback.walk_tb(tb))


def last_place(tb: TracebackType | None) -> str | None:
    """Where the user's code was when something was raised, as ``file:line``."""
    places = [(frame.f_code.co_filename, line) for frame, line in traceback.walk_tb(tb)]
    for filename, line in reversed(places):
        if not _is_own(filename):
            return f"{shown_path(filename)}:{line}"
    return None


def shown_path(path: str) -> str:
    """A path as people would type it: relative to the current directory if it is below it."""
    try:
        relative = os.path.relpath(path)
    except (OSError, ValueError):
        return path
    return path if relative.startswith("..") else relative


def traceback_text(error: BaseException, kind: Traceback) -> str:
    """The traceback of an error, without the frames of blazen and of the import system if it is to be short.

    Where nothing else would be left, nothing is cut out.
    """
    described = traceback.TracebackException.from_exception(error, compact=True)
    if kind == "short":
        _cut(described)
    return "".join(described.format())


def _cut(described: traceback.TracebackException) -> None:
    kept = [frame for frame in described.stack if not _is_own(frame.filename)]
    if kept:
        described.stack[:] = kept
    elif isinstance(described, traceback.TracebackException) and _is_syntax_error(described):
        described.stack.clear()  # the place is in the message
    for other in (described.__cause__, described.__context__, *(getattr(described, "exceptions", None) or ())):
        if other is not None:
            _cut(other)


def _is_syntax_error(described: traceback.TracebackException) -> bool:
    return hasattr(described, "lineno") and hasattr(described, "text")
