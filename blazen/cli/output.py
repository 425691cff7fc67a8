"""Standard output, kept for what the command itself has to say, and values as JSON."""

from __future__ import annotations

import base64
import json
import math
import os
import queue
import sys
import threading
from collections.abc import Callable
from contextlib import suppress
from typing import Any

import msgspec

from blazen import BlazenError, DynamicEvent, Event
from blazen.cli.messages import Mistake

_DEEPEST = 200


class ReaderGone(Exception):
    """Nobody reads the output any more. Not a BrokenPipeError: that one click would take for its own to handle."""


class Output:
    """Standard output.

    If that is no terminal, what steps and imported modules print goes to standard error from now on, that of child
    processes too: whoever reads the output gets what the command writes and nothing else.
    """

    def __init__(self) -> None:
        if sys.stdout is None:
            raise Mistake("standard output is closed")
        self.is_terminal = sys.stdout.isatty()
        self._fd = sys.stdout.fileno()
        if not self.is_terminal:
            sys.stdout.flush()
            own = os.dup(self._fd)
            if sys.stderr is not None:
                os.dup2(sys.stderr.fileno(), self._fd)
            else:
                null = os.open(os.devnull, os.O_WRONLY)
                os.dup2(null, self._fd)
                os.close(null)
            sys.stdout.reconfigure(line_buffering=True)  # type: ignore[union-attr]
            self._fd = own

    def write(self, text: str) -> None:
        """Write `text` in UTF-8, all of it, now.

        Raises:
            ReaderGone: Nobody reads any more.
            Mistake: It cannot be written: a full disk.
        """
        if self.is_terminal:
            sys.stdout.flush()
        # Half a surrogate pair becomes an escape that JSON understands.
        rest = memoryview(text.encode("utf-8", "backslashreplace"))
        try:
            while rest:
                rest = rest[os.write(self._fd, rest) :]
        except BrokenPipeError:
            raise ReaderGone from None
        except OSError as error:
            raise Mistake(f"standard output cannot be written: {error.strerror}") from None


class LineWriter:
    """Writes objects as lines of JSON from a thread of its own, so that a slow reader does not hold up the run.

    Args:
        output: Where to.
        on_error: Called in that thread when writing fails; nothing is written after that.
    """

    def __init__(self, output: Output, on_error: Callable[[], object]) -> None:
        self._output = output
        self._on_error = on_error
        self._lines: queue.SimpleQueue[str | None] = queue.SimpleQueue()
        self.error: BaseException | None = None
        # A daemon: a reader that has stopped reading must not keep the process from ending.
        self._thread = threading.Thread(target=self._write_all, name="blazen output", daemon=True)
        self._thread.start()

    def put(self, value: dict[str, Any]) -> None:
        """Write an object, soon. What it holds may change afterwards."""
        self._lines.put(json.dumps(value, ensure_ascii=False, allow_nan=False) + "\n")

    def close(self) -> None:
        """Wait until all is written.

        Raises:
            ReaderGone: Nobody reads any more.
            Mistake: It could not be written.
        """
        self._lines.put(None)
        self._thread.join()
        if self.error is not None:
            raise self.error

    def _write_all(self) -> None:
        while (line := self._lines.get()) is not None:
            try:
                self._output.write(line)
            except BaseException as error:
                self.error = error
                with suppress(BlazenError):  # the run is over already
                    self._on_error()
                return


# --- values


def event_data(event: Event) -> Any:
    """The fields of an event as JSON can hold them."""
    return jsonable(event.data if isinstance(event, DynamicEvent) else event.to_dict())


def jsonable(value: Any) -> Any:
    """`value` as JSON can hold it.

    What it cannot hold becomes ``{"$type": "module.Class", "$repr": "..."}``; nothing is left out, nothing raises.
    """
    return _jsonable(value, ())


def _jsonable(value: Any, parents: tuple[int, ...]) -> Any:
    kind = type(value)
    if value is None or kind is bool or kind is str:
        return value
    if kind is int:
        return value if abs(value).bit_length() < 2_000 else _tagged(value)
    if kind is float:
        return value if math.isfinite(value) else _tagged(value)
    if kind in (bytes, bytearray):
        return base64.b64encode(value).decode("ascii")  # as `Event.to_json` writes it
    if id(value) in parents or len(parents) >= _DEEPEST:
        return _tagged(value)
    parents = (*parents, id(value))
    if kind is dict and all(type(key) is str for key in value):
        return {key: _jsonable(item, parents) for key, item in value.items()}
    if kind in (list, tuple, set, frozenset):
        return [_jsonable(item, parents) for item in value]
    if isinstance(value, Event):
        return {"event_type": value.event_type, "data": _jsonable(_fields(value), parents)}
    return _other(value, parents)


def _fields(event: Event) -> Any:
    return event.data if isinstance(event, DynamicEvent) else event.to_dict()


def _other(value: Any, parents: tuple[int, ...]) -> Any:
    """Dates, UUIDs, dataclasses and whatever else `msgspec` knows how to write."""
    if isinstance(value, dict):  # its keys are no strings
        return _tagged(value)
    try:
        encoded = msgspec.to_builtins(value, builtin_types=(bytes, bytearray))
    except Exception:  # of foreign code too: a property, an enum
        return _tagged(value)
    return _jsonable(encoded, parents)


def _tagged(value: Any) -> dict[str, str]:
    kind = type(value)
    try:
        text = repr(value)
    except BaseException as error:
        if isinstance(error, KeyboardInterrupt | SystemExit):
            raise
        text = f"<its repr raised {type(error).__name__}>"
    return {"$type": f"{kind.__module__}.{kind.__qualname__}", "$repr": text}


def _is_json(value: Any) -> bool:
    """Whether JSON can hold `value` and nothing of it is lost."""
    kind = type(value)
    if kind is dict:
        return all(type(key) is str and _is_json(item) for key, item in value.items())
    if kind is list:
        return all(map(_is_json, value))
    return value is None or kind in (bool, str, int) or (kind is float and math.isfinite(value))


def shown_value(value: Any) -> str:
    """A result as people read it: text as it is, what JSON has as JSON, anything else by its repr."""
    if isinstance(value, str):
        return value
    try:
        if _is_json(value):
            return json.dumps(value, ensure_ascii=False, indent=2)
    except (RecursionError, ValueError):  # it contains itself, or an int that is too long to be written
        pass
    return _tagged(value)["$repr"]
