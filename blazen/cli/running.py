"""``blazen run``: one run, watched, until it ends by itself or by a signal."""

from __future__ import annotations

import os
import signal
import sys
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

import msgspec
import trio

from blazen import BlazenError, Event, InputRequestEvent, StopEvent, Workflow, WorkflowResult, errors
from blazen._drawing_text import printable
from blazen.cli import messages
from blazen.cli.display import Display, LiveDisplay, NoDisplay, PlainDisplay, is_dumb
from blazen.cli.messages import Mistake, Traceback, say
from blazen.cli.output import LineWriter, Output, event_data, jsonable, shown_value
from blazen.cli.questions import Questions, Unanswered
from blazen.cli.run_view import RunView, counted
from blazen.cli.stopping import Stopper

_COMMAND = "blazen run"


class RunOptions(msgspec.Struct, frozen=True, kw_only=True):
    """What ``blazen run`` was told.

    Attributes:
        input: The run's input; None for none.
        timeout: Seconds the run may take, or None for what the workflow says.
        run_id: The id of the run, or None for a new one.
        json: Lines of JSON (True) or the result alone (False); None: lines unless the output is a terminal.
        answers: To the questions of the run, in order.
        record: Where the record of the run is written, or None.
        traceback: How much of the traceback of a failing step is shown.
    """

    input: Any = None
    timeout: float | None = None
    run_id: str | None = None
    json: bool | None = None
    answers: tuple[str, ...] = ()
    record: str | None = None
    traceback: Traceback = "short"


class _Outcome:
    """How a run ended."""

    def __init__(self) -> None:
        self.result: WorkflowResult[Any] | None = None
        self.error: BaseException | None = None
        self.run_id = ""
        self.signal: int | None = None
        self.unanswered: Unanswered | None = None

    @property
    def state(self) -> str:
        if self.result is not None:
            return "completed"
        if isinstance(self.error, errors.CancelledError | KeyboardInterrupt):
            return "cancelled"
        return "failed"


def run_workflow(workflow: Workflow[Any], options: RunOptions, output: Output) -> int:
    """Run a workflow, show how it goes, and write its result to the output.

    Returns:
        The exit code.

    Raises:
        Mistake: An option does not fit the workflow, or the record or output cannot be written.
        ReaderGone: Nobody reads the output any more; the run has been cancelled and has unwound.
    """
    workflow = _with_options(workflow, options)
    as_lines = not output.is_terminal if options.json is None else options.json
    run = _WatchedRun(workflow, options, output, as_lines)
    outcome = trio.run(run.main)
    if run.writer is not None:
        run.writer.put(_last_line(outcome))
        run.writer.close()
    return _report(outcome, run, options, output)


def _with_options(workflow: Workflow[Any], options: RunOptions) -> Workflow[Any]:
    given: dict[str, Any] = {"timeout": options.timeout, "run_id": options.run_id}
    if options.record is not None:
        _check_writable(options.record)
        given["record"] = True
    try:
        return workflow.options(**given)
    except errors.ValidationError as error:
        raise Mistake(str(error).removeprefix(f"workflow {workflow.name!r}: options: ")) from None


def _check_writable(path: str) -> None:
    """Find out before the run that its record could not be written after it."""
    folder = os.path.dirname(path) or "."
    if os.path.isdir(path):
        raise Mistake(f"--record: {path!r} is a directory")
    if not os.path.isdir(folder):
        raise Mistake(f"--record: there is no directory {folder!r}")
    if not os.access(path if os.path.exists(path) else folder, os.W_OK):
        raise Mistake(f"--record: {path!r} cannot be written: permission denied")


class _WatchedRun:
    """One run and all that watches it."""

    def __init__(self, workflow: Workflow[Any], options: RunOptions, output: Output, as_lines: bool) -> None:
        self._workflow = workflow
        self._options = options
        self._output = output
        self._as_lines = as_lines
        self.view = RunView(spec.name for spec in workflow.graph.specs)
        self.display: Display = NoDisplay()
        self.writer: LineWriter | None = None
        self.outcome = _Outcome()

    async def main(self) -> _Outcome:
        try:
            manager: Any = self._workflow.run_with_handler(self._options.input)
        except errors.ValidationError as error:
            raise Mistake(f"--input does not fit workflow {self._workflow.name!r}: {error}") from None
        self.display = self._new_display()
        try:
            with _warnings_shown_by(self.display):
                await self._watch(manager)
        except BaseExceptionGroup as group:  # the nursery's: of exceptions that are no outcome of the run
            only: BaseException = group
            while isinstance(only, BaseExceptionGroup) and len(only.exceptions) == 1:
                only = only.exceptions[0]
            raise only from only.__cause__
        finally:
            self.display.close(self.outcome.state)
        return self.outcome

    def _new_display(self) -> Display:
        if self._as_lines or not self._output.is_terminal or sys.stderr is None or not sys.stderr.isatty():
            return NoDisplay()
        return PlainDisplay() if is_dumb() else LiveDisplay(self._workflow.name, self.view)

    async def _watch(self, manager: Any) -> None:
        questions = Questions(list(self._options.answers), self.display)
        async with trio.open_nursery() as nursery, manager as handler:
            self.outcome.run_id = handler.run_id
            if self._as_lines:
                self.writer = LineWriter(self._output, partial(handler.cancel, "nobody reads the output"))
            nursery.start_soon(self.display.keep_current)
            nursery.start_soon(questions.ask_all, handler)
            with Stopper(partial(self._stop, handler), self._say_what_unwinds) as stopper:
                async for event in handler.stream_events(lifecycle=True):
                    self.view.see(event)
                    self.display.see(event)
                    if self.writer is not None:
                        self.writer.put(_line(event))
                    if isinstance(event, InputRequestEvent):
                        questions.see(event, handler)
                try:
                    self.outcome.result = await handler.result()
                except BaseException as error:  # whatever it is, it came out of the run
                    if isinstance(error, trio.Cancelled):
                        raise
                    self.outcome.error = error
            self.outcome.signal = stopper.signal
            self.view.end()
            self._take_failure(questions)
            self._save_record(handler)
            nursery.cancel_scope.cancel()

    def _take_failure(self, questions: Questions) -> None:
        """A question that nobody could answer is why the run was cancelled."""
        if self.outcome.signal is None and isinstance(self.outcome.error, errors.CancelledError):
            if isinstance(questions.failure, Unanswered):
                self.outcome.unanswered = questions.failure
            elif questions.failure is not None:
                self.outcome.error = questions.failure

    def _save_record(self, handler: Any) -> None:
        if self._options.record is None:
            return
        try:
            handler.record.save(self._options.record)
        except errors.PersistError as error:
            raise Mistake(f"--record: {error}") from None

    def _stop(self, handler: Any) -> None:
        handler.cancel("interrupted")
        if isinstance(self.display, LiveDisplay):
            self.display.set_state("stopping")

    def _say_what_unwinds(self) -> None:
        running = counted(self.view.running) or "the run"
        self.display.say(f"{_COMMAND}: still unwinding: {running}")


@contextmanager
def _warnings_shown_by(display: Display) -> Iterator[None]:
    """Show the engine's warnings as a line each, without disturbing what is drawn; others as Python does."""
    with warnings.catch_warnings():
        usual = warnings.showwarning

        def show(message: Warning | str, category: type[Warning], *where: Any, **more: Any) -> None:
            if issubclass(category, errors.BlazenWarning):
                display.say(f"{_COMMAND}: warning: {messages.one_line(str(message))}")
            else:
                usual(message, category, *where, **more)

        warnings.showwarning = show
        yield


# --- lines of JSON


def _line(event: Event) -> dict[str, Any]:
    if event.event_type == "blazen::StepRecord":
        return {"type": "step", **event.to_dict()}
    return {"type": "event", "event_type": event.event_type, "data": event_data(event)}


def _last_line(outcome: _Outcome) -> dict[str, Any]:
    line: dict[str, Any] = {"type": "result", "state": outcome.state, "run_id": outcome.run_id}
    if outcome.result is not None:
        line["result"] = jsonable(_value_of(outcome.result))
        line["total_input_tokens"] = outcome.result.total_input_tokens
        line["total_output_tokens"] = outcome.result.total_output_tokens
        line["total_cost_usd"] = outcome.result.total_cost_usd
        return line
    error = outcome.unanswered or outcome.error
    cause = error.__cause__ if error is not None else None
    line["error"] = {
        "type": type(error).__name__,
        "message": str(error),
        "step": getattr(error, "step", None),
        "event_type": getattr(error, "event_type", None),
        "cause": None if cause is None else f"{type(cause).__name__}: {cause}",
    }
    return line


def _value_of(result: WorkflowResult[Any]) -> Any:
    """The result; of a typed StopEvent its fields."""
    event: StopEvent = result.event
    fields = event.to_dict()
    return result.result if not fields or "result" in fields else fields


# --- the end


def _report(outcome: _Outcome, run: _WatchedRun, options: RunOptions, output: Output) -> int:
    """Say how the run ended, and return the exit code."""
    if outcome.result is not None:
        if run.writer is None:
            output.write(shown_value(_value_of(outcome.result)) + "\n")
        return messages.DONE
    if outcome.unanswered is not None:
        raise Mistake(str(outcome.unanswered))
    error = outcome.error
    assert error is not None
    if outcome.signal is not None and outcome.state == "cancelled":
        return _report_stopped(outcome.signal, run, error)
    if isinstance(error, KeyboardInterrupt):
        return _report_stopped(signal.SIGINT, run, error)
    if isinstance(error, SystemExit):
        raise error
    if isinstance(error, errors.InternalError) or (
        isinstance(error, Exception) and not isinstance(error, BlazenError | errors.BlazenWarning)
    ):
        raise error
    # What the step raised; of an error of the engine's own, such as a timeout, the message says it all.
    shown = error if options.traceback == "full" or not isinstance(error, BlazenError) else error.__cause__
    if shown is not None:
        say(messages.traceback_text(shown, options.traceback).rstrip("\n"))
    say(f"{_COMMAND}: {messages.one_line(str(error) or type(error).__name__)}")
    _say_what_else(error)
    return messages.FAILED


def _report_stopped(number: int, run: _WatchedRun, error: BaseException) -> int:
    what = "interrupted" if number == signal.SIGINT else "terminated"
    stopped = counted(run.view.stopped)
    say(f"{_COMMAND}: {what}; " + (f"stopped {stopped}" if stopped else "no step was running"))
    _say_what_else(error)
    return messages.INTERRUPTED if number == signal.SIGINT else messages.TERMINATED


def _say_what_else(error: BaseException) -> None:
    for other in getattr(error, "suppressed", ()):
        say(f"{_COMMAND}: while steps were stopped: {messages.one_line(f'{type(other).__name__}: {other}')}")
    abandoned = getattr(error, "abandoned", ())
    if abandoned:
        say(f"{_COMMAND}: did not stop and was left behind: {', '.join(map(printable, abandoned))}")
