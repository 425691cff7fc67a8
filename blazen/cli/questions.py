"""Questions of a run (`InputRequestEvent`) to whoever sits at the terminal."""

from __future__ import annotations

import json
import os
import sys
import termios
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import trio

from blazen import BlazenError, InputRequestEvent
from blazen._drawing_text import printable
from blazen.cli.display import REFRESH
from blazen.cli.inputs import parse_json
from blazen.cli.messages import Mistake, one_line
from blazen.cli.output import jsonable
from blazen.cli.run_view import as_text
from blazen.errors import ValidationError
from blazen.retry import show

if TYPE_CHECKING:
    from blazen import RunHandler
    from blazen.cli.display import Display

_LONGEST_LINE = 1 << 16


_JSON_HINT = "what is to be more than text is written as JSON: true, 7, [1, 2]"


class Unanswered(Exception):
    """A question that nobody here can answer."""


class Questions:
    """Answers the questions of one run: first with the answers given beforehand, then from the terminal.

    Args:
        answers: Given with ``--answer``, in order.
        display: Makes room while somebody is asked.
    """

    def __init__(self, answers: list[str], display: Display) -> None:
        self._answers = list(answers)
        self._display = display
        self._at_terminal = _is_terminal(sys.stdin) and _is_terminal(sys.stderr)
        self._asked, self._to_ask = trio.open_memory_channel[InputRequestEvent](float("inf"))
        self.failure: BlazenError | Unanswered | None = None

    def see(self, event: InputRequestEvent, handler: RunHandler[Any]) -> None:
        """Take in a question. If nobody can answer it the run is cancelled, and `failure` says why."""
        if not _is_open(event, handler):
            return
        if self._answers:
            answer = self._answers.pop(0)
            problem = self._respond(event, answer, handler)
            if problem is not None:
                failure = f"--answer {show(answer)} does not fit the question {show(event.prompt)}: {problem}"
                self._give_up(Unanswered(f"{failure}; {_JSON_HINT}"), handler)
        elif self._at_terminal:
            self._asked.send_nowait(event)
        else:
            self._give_up(
                Unanswered(
                    f"the workflow asks {show(event.prompt)} and nobody can answer: standard input and standard error "
                    "are no terminal; give the answer with --answer TEXT"
                ),
                handler,
            )

    async def ask_all(self, handler: RunHandler[Any]) -> None:
        """Ask one question after the other, until cancelled."""
        async for event in self._to_ask:
            if not _is_open(event, handler):
                continue
            self._display.pause()
            try:
                answered = await self._ask_until_it_fits(event, handler)
            finally:
                self._display.resume()
            if not answered:
                self._give_up(Unanswered(f"the workflow asks {show(event.prompt)}: the input has ended"), handler)
                return

    async def _ask_until_it_fits(self, event: InputRequestEvent, handler: RunHandler[Any]) -> bool:
        """Ask a question until it is no longer open. Returns False if the input has ended."""
        _write_question(event)
        while True:
            sys.stderr.write("> ")
            sys.stderr.flush()
            if not await _readable_while_open(event, handler):
                return True
            line = os.read(0, _LONGEST_LINE)
            if not line:
                sys.stderr.write("\n")
                return False
            answer = line.decode(sys.stdin.encoding or "utf-8", "replace").rstrip("\r\n")
            problem = self._respond(event, answer, handler)
            if problem is None:
                return True
            sys.stderr.write(f"This does not fit: {problem}; {_JSON_HINT}\n")

    def _respond(self, event: InputRequestEvent, answer: str, handler: RunHandler[Any]) -> str | None:
        """Answer a question. Returns why the answer does not fit what was asked for, or None if it does."""
        problem = None
        for reading in _readings(answer):
            try:
                handler.respond_to_input(event.request_id, reading)
                return None
            except ValidationError as error:
                if error.path is None:  # the question is no longer open: somebody was faster, or the run has ended
                    return None
                problem = one_line(str(error).rpartition("what was asked for: ")[2])
            except BlazenError as error:  # no step accepts answers
                self._give_up(error, handler)
                return None
        return problem

    def _give_up(self, failure: BlazenError | Unanswered, handler: RunHandler[Any]) -> None:
        if self.failure is None:
            self.failure = failure
            handler.cancel(str(failure))


def _readings(answer: str) -> Iterator[Any]:
    """What an answer may mean: its text, and if the question takes no text, the value that it is as JSON."""
    yield answer
    try:
        yield parse_json(answer, "the answer")
    except Mistake:
        return


def _is_open(event: InputRequestEvent, handler: RunHandler[Any]) -> bool:
    return any(question.request_id == event.request_id for question in handler.pending_inputs())


def _write_question(event: InputRequestEvent) -> None:
    prompt = "\n".join(printable(line) for line in as_text(event.prompt).splitlines()) or "The workflow asks"
    if event.metadata:
        prompt += "\n" + json.dumps(jsonable(event.metadata), ensure_ascii=True)
    sys.stderr.write(f"{prompt}\n")


async def _readable_while_open(event: InputRequestEvent, handler: RunHandler[Any]) -> bool:
    """Wait until a line has been typed. Returns False when the question is no longer open before that."""
    # Not input(): a thread that reads a line could be neither cancelled nor left behind.
    try:
        while True:
            # Looked at again and again, since nothing on the stream tells that a question has run out of time.
            with trio.move_on_after(REFRESH):
                await trio.lowlevel.wait_readable(0)
                return True
            if not _is_open(event, handler):
                break
    except trio.Cancelled:
        sys.stderr.write("\n")
        raise
    termios.tcflush(0, termios.TCIFLUSH)  # half a line typed for this question is no answer to the next
    sys.stderr.write("\nNo longer asked.\n")
    return False


def _is_terminal(stream: Any) -> bool:
    return stream is not None and not stream.closed and bool(stream.isatty())
