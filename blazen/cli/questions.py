"""Questions of a run (`InputRequestEvent`) to whoever sits at the terminal."""

from __future__ import annotations

import json
import os
import sys
from typing import TYPE_CHECKING, Any

import trio

from blazen import BlazenError, InputRequestEvent
from blazen._drawing_text import printable
from blazen.cli.output import jsonable
from blazen.cli.run_view import as_text
from blazen.retry import show

if TYPE_CHECKING:
    from blazen import RunHandler
    from blazen.cli.display import Display

_LONGEST_LINE = 1 << 16


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
        if self._answers:
            self._respond(event, self._answers.pop(0), handler)
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
            self._display.pause()
            try:
                answer = await _ask(event)
            finally:
                self._display.resume()
            if answer is None:
                self._give_up(Unanswered(f"the workflow asks {show(event.prompt)}: the input has ended"), handler)
                return
            self._respond(event, answer, handler)

    def _respond(self, event: InputRequestEvent, answer: str, handler: RunHandler[Any]) -> None:
        try:
            handler.respond_to_input(event.request_id, answer)
        except BlazenError as error:  # the run has ended meanwhile, or no step accepts answers
            if handler.state in ("running", "waiting"):
                self._give_up(error, handler)

    def _give_up(self, failure: BlazenError | Unanswered, handler: RunHandler[Any]) -> None:
        if self.failure is None:
            self.failure = failure
            handler.cancel(str(failure))


async def _ask(event: InputRequestEvent) -> str | None:
    """What is typed, without the end of the line; None if the input has ended."""
    prompt = "\n".join(printable(line) for line in as_text(event.prompt).splitlines()) or "The workflow asks"
    if event.metadata:
        prompt += "\n" + json.dumps(jsonable(event.metadata), ensure_ascii=True)
    sys.stderr.write(f"{prompt}\n> ")
    sys.stderr.flush()
    # Not input(): a thread that reads a line could be neither cancelled nor left behind.
    try:
        await trio.lowlevel.wait_readable(0)
    except trio.Cancelled:
        sys.stderr.write("\n")
        raise
    line = os.read(0, _LONGEST_LINE)
    if not line:
        sys.stderr.write("\n")
        return None
    return line.decode(sys.stdin.encoding or "utf-8", "replace").rstrip("\r\n")


def _is_terminal(stream: Any) -> bool:
    return stream is not None and not stream.closed and bool(stream.isatty())
