"""A slow, obvious model of a run whose steps never wait: queue, routes, settling, retries, joins, and nothing else.

A program says what each step does; `predict` says what has to come of it. The test builds the engine's side from the
same program. Only names and numbers are used here: nothing of the compiled code takes part.
"""

from __future__ import annotations

import collections
import dataclasses
from typing import Any

START = "blazen::StartEvent"
STOP = "blazen::StopEvent"
# Each event type with the types a step that takes subclasses takes it for.
BASES: dict[str, tuple[str, ...]] = {"A": (), "B": (), "C": (), "D": (), "SubOfA": ("A",)}
TYPES = tuple(BASES)


@dataclasses.dataclass(frozen=True)
class Made:
    """An event a step makes."""

    type: str
    number: int | None = 0  # None: a dynamic event without the field
    dynamic: bool = False


@dataclasses.dataclass(frozen=True)
class Send:
    event: Made
    key: str | None = None


@dataclasses.dataclass(frozen=True)
class Collect:
    wanted: int | tuple[str, ...]
    key: str | None = None


@dataclasses.dataclass(frozen=True)
class Count:
    """Adds one to a number of the shared state."""

    key: str


@dataclasses.dataclass(frozen=True)
class Fail:
    error: str  # "ValueError" or "KeyError"


@dataclasses.dataclass(frozen=True)
class Give:
    """Ends the script with a result."""

    events: tuple[Made, ...] = ()
    as_list: bool = False
    what: str = "events"  # or "nonsense": something that is no event


Act = Send | Collect | Count | Fail | Give


@dataclasses.dataclass(frozen=True)
class Step:
    name: str
    accepts: tuple[str, ...]
    subclasses: bool
    emits: tuple[str, ...] | None
    retries: int
    on_value_error_only: bool
    on_error: tuple[Act, ...] | None
    scripts: tuple[tuple[Act, ...], ...]  # chosen by event number and attempt
    is_async: bool
    max_concurrency: int | None


@dataclasses.dataclass(frozen=True)
class Program:
    steps: tuple[Step, ...]
    fuel: int  # so many steps, then the next one stops the run

    def script(self, step: Step, seq: int, attempt: int) -> tuple[Act, ...]:
        return step.scripts[(seq * 7 + attempt) % len(step.scripts)]


@dataclasses.dataclass
class Item:
    step: Step
    event: Made
    seq: int
    attempt: int = 0
    handling: str | None = None  # the error that on_error is to handle
    joined: dict[str | None, list[int] | None] = dataclasses.field(default_factory=dict)


class StepError(Exception):
    """Something a step raised."""


@dataclasses.dataclass(frozen=True)
class Outcome:
    """What came of a run: what each step saw, in order, and how it ended."""

    trace: tuple[tuple[Any, ...], ...]
    kind: str  # "completed", "step failed", "refused", "idle"
    step: str | None = None
    event_type: str | None = None
    detail: Any = None


class _Over(Exception):
    def __init__(self, kind: str, step: str | None = None, event_type: str | None = None, detail: Any = None) -> None:
        self.ending = kind, step, event_type, detail


class Model:
    def __init__(self, program: Program) -> None:
        self.program = program
        self.queue: collections.deque[Item] = collections.deque()
        self.numbered = 0
        self.trace: list[tuple[Any, ...]] = []
        self.state: dict[str, int] = {}
        self.keys: set[str] = set()
        self.joins: dict[tuple[str, str | None], dict[int, str]] = {}
        self.steps_run = 0
        self.over: tuple[Any, ...] | None = None
        self.mentioned = {kind for step in program.steps for kind in (*step.accepts, *(step.emits or ()))}

    def takers(self, event: Made) -> list[Step]:
        # A class that the workflow does not mention is not known to be a subclass when it comes by name only.
        known = not event.dynamic or event.type in self.mentioned
        bases = BASES.get(event.type, ()) if known else ()
        return [
            step
            for step in self.program.steps
            if event.type in step.accepts or (step.subclasses and any(base in step.accepts for base in bases))
        ]

    def deliver(self, event: Made) -> None:
        self.numbered += 1
        if event.type == STOP:
            self.over = self.over or ("completed", None, None, event.number)
            return
        self.queue.extend(Item(step, event, self.numbered) for step in self.takers(event))

    def run(self) -> Outcome:
        self.deliver(Made(START))
        while self.over is None:
            if not self.queue:
                self.over = ("idle", None, None, None)
                break
            try:
                self.run_one(self.queue.popleft())
            except _Over as over:
                self.over = self.over or over.ending
        return Outcome(tuple(self.trace), *self.over)

    def run_one(self, item: Item) -> None:
        step = item.step
        if item.event.number is None:  # it cannot be converted to the class the step is typed with
            raise _Over("refused", step.name, item.event.type)
        if item.handling is None:
            item.attempt += 1
        self.steps_run += 1
        seen = (step.name, item.event.type, item.event.number, item.seq, item.attempt, item.handling)
        self.trace.append(seen)
        if self.steps_run > self.program.fuel:
            script: tuple[Act, ...] = (Give((Made(STOP, -1),)),)
        elif item.handling is not None:
            script = step.on_error or ()
        else:
            script = self.program.script(step, item.seq, item.attempt)
        try:
            result = self.perform(item, script)
        except StepError as error:
            self.fail(item, str(error))
            return
        if self.over is None:
            self.dispatch(step, item.event.type, result, rescued=item.handling is not None)

    def perform(self, item: Item, script: tuple[Act, ...]) -> Give:
        for act in script:
            if isinstance(act, Give):
                return act
            if isinstance(act, Fail):
                raise StepError(act.error)
            if isinstance(act, Send):
                self.send(act)
            elif isinstance(act, Count):
                self.state[act.key] = self.state.get(act.key, 0) + 1
                self.trace.append((act.key, self.state[act.key]))
            else:
                self.trace.append(("joined", self.collect(item, act)))
        return Give()

    def send(self, act: Send) -> None:
        if act.key is not None and act.key in self.keys:
            return
        if act.event.type != STOP and not self.takers(act.event):
            raise StepError("WorkflowError")
        if act.key is not None:
            self.keys.add(act.key)
        if self.over is None:
            self.deliver(act.event)

    def collect(self, item: Item, act: Collect) -> list[int] | None:
        place = item.step.name, act.key
        buffer = self.joins.setdefault(place, {})
        if act.key in item.joined and (item.joined[act.key] is not None or item.seq not in buffer):
            return item.joined[act.key]
        buffer[item.seq] = item.event.type
        item.joined[act.key] = None
        if isinstance(act.wanted, int):
            if len(buffer) < act.wanted:
                return None
            chosen = sorted(buffer)[: act.wanted]
        else:
            chosen = []
            for kind in act.wanted:
                number = next((seq for seq in sorted(buffer) if buffer[seq] == kind and seq not in chosen), None)
                if number is None:
                    return None
                chosen.append(number)
        for number in chosen:
            del buffer[number]
        item.joined[act.key] = chosen
        return chosen

    def fail(self, item: Item, error: str) -> None:
        step = item.step
        if self.over is not None:
            return
        if item.handling is None:
            if item.attempt <= step.retries and (not step.on_value_error_only or error == "ValueError"):
                self.queue.appendleft(item)
                return
            if step.on_error is not None:
                item.handling = error
                self.queue.appendleft(item)
                return
        raise _Over("step failed", step.name, item.event.type, error)

    def dispatch(self, step: Step, taken: str, result: Give, *, rescued: bool) -> None:
        """Queue what a step or its on_error returned; the latter need not be declared."""
        if result.what == "nonsense":
            raise _Over("refused", step.name, taken)
        for event in result.events:
            if step.emits is not None and event.type not in step.emits and not rescued:
                raise _Over("refused", step.name, event.type)
            if event.type != STOP and not self.takers(event):
                raise _Over("refused", step.name, event.type)
        for event in result.events:
            if self.over is None:
                self.deliver(event)


def predict(program: Program) -> Outcome:
    """What has to come of a run of the program."""
    return Model(program).run()
