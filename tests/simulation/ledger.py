"""What is written down while a simulated run goes on. The entries in their order are the trace of the run."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import trio

from blazen import Event, InputRequestEvent


class Layer1(Event):
    tag: int
    book: int


class Layer2(Event):
    tag: int
    book: int


class Layer3(Event):
    tag: int
    book: int


class Layer4(Event):
    tag: int
    book: int


class Signal(Event):
    """What no step accepts, and some wait for in their middle."""

    kind: int
    number: int
    book: int


class Shown(Event):
    """What steps write to the stream."""

    number: int


CLASSES: tuple[type[Any], ...] = (Layer1, Layer2, Layer3, Layer4)
ANSWERS = len(CLASSES) + 1  # the layer of answers to questions that steps return


class Passes(trio.abc.Instrument):
    """Counts the passes of the scheduler, apart from the engine's own count."""

    def __init__(self) -> None:
        self.number = 0

    def before_io_wait(self, timeout: float) -> None:
        self.number += 1


@dataclasses.dataclass
class Entry:
    """One thing that happened."""

    index: int
    time: float
    at_pass: int
    what: str
    invocation: int = -1
    step: str = ""
    tag: int = -1
    seq: int | None = None
    attempt: int = 0
    detail: Any = None

    def __str__(self) -> str:
        parts = [f"{self.index:4} t={self.time:<6g} pass={self.at_pass:<4} {self.what}"]
        if self.step:
            parts.append(f"{self.step} #{self.invocation}")
        if self.tag >= 0:
            parts.append(f"event {self.tag}")
        if self.seq is not None:
            parts.append(f"seq {self.seq}")
        if self.attempt:
            parts.append(f"attempt {self.attempt}")
        if self.detail is not None:
            parts.append(repr(self.detail))
        return ", ".join(parts)


class Ledger:
    """The entries of one run."""

    def __init__(self, book: int, passes: Passes, clock: Callable[[], float], budget: int) -> None:
        self.book = book
        self.entries: list[Entry] = []
        self.events: dict[int, Event] = {}
        self.layer_of: dict[int, int] = {}  # tag -> layer
        self.attempts: dict[tuple[int, str], int] = {}
        self.shown: list[int] = []  # numbers written to the stream
        self.seen: list[list[int]] = []  # what each reader of the stream got
        self.records: list[tuple[str, str, int, int]] = []  # step records: kind, step, event number, attempt
        self.wrong: list[str] = []  # what a step itself found to be wrong
        self.edits = 0  # edits of the shared number that were completed
        self.number: object = 0  # the shared number as the last edit left it
        self.warnings: list[str] = []
        self.outcome: tuple[Any, ...] = ()
        self.record: Any = None  # the RunRecord of a run that was recorded

        self.signals = 0
        self.ids: dict[str, str] = {}  # of the questions asked in the middle of a step, by their prompts
        self.budget = budget
        self.closed = False
        self._passes = passes
        self._clock = clock
        self._invocations = 0

    def note(self, what: str, **fields: Any) -> Entry:
        entry = Entry(len(self.entries), self._clock(), self._passes.number, what, **fields)
        if self.closed:
            self.wrong.append(f"something happened after the run had ended: {entry}")
        self.entries.append(entry)
        return entry

    def begin(self, step: str, tag: int, seq: int | None) -> Entry:
        """An attempt begins."""
        self._invocations += 1
        attempt = self.attempts[tag, step] = self.attempts.get((tag, step), 0) + 1
        return self.note("begin", invocation=self._invocations, step=step, tag=tag, seq=seq, attempt=attempt)

    def handle(self, step: str, tag: int, error: Exception) -> Entry:
        """An on_error begins."""
        self._invocations += 1
        return self.note("handle", invocation=self._invocations, step=step, tag=tag, detail=type(error).__name__)

    def signal(self, kind: int) -> Signal:
        """A new signal."""
        self.signals += 1
        return Signal(kind=kind, number=self.signals, book=self.book)

    def ask(self) -> InputRequestEvent:
        """A question for a step to return; its answer is an event with this tag."""
        tag = len(self.events) + 1
        self.layer_of[tag] = ANSWERS
        question = InputRequestEvent(request_id=f"{self.book} {tag}", prompt=str(tag))
        self.events[tag] = question  # until its answer is known
        return question

    def make(self, layer: int) -> Event | None:
        """A new event of a layer; None when the run has had enough of them."""
        if len(self.events) >= self.budget or layer > len(CLASSES):
            return None
        tag = len(self.events) + 1
        event: Event = CLASSES[layer - 1](tag=tag, book=self.book)
        self.events[tag] = event
        self.layer_of[tag] = layer
        return event
