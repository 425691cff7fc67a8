"""What is known of a run from its stream: which steps run, how often each has ended and how, how far it says it is.

Nothing here draws or waits: events go in, facts come out.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable

from blazen import Event, ProgressEvent, StepRecord
from blazen._drawing_text import printable
from blazen.retry import show

_MOST_PROGRESS = 8


class StepView:
    """One step of the workflow."""

    __slots__ = ("cancelled", "failed", "finished", "name", "retried", "running", "waiting")

    def __init__(self, name: str) -> None:
        self.name = name
        self.running: dict[int, StepRecord] = {}  # by the number of the event
        self.waiting: dict[int, StepRecord] = {}  # failed attempts that are to be made again
        self.finished = 0
        self.failed = 0
        self.retried = 0
        self.cancelled = 0

    @property
    def state(self) -> str:
        """``"running"``, ``"retrying"``, ``"failed"``, ``"cancelled"``, ``"done"`` or ``"waiting"``."""
        if self.running:
            return "running"
        if self.waiting:
            return "retrying"
        if self.failed:
            return "failed"
        if self.cancelled:
            return "cancelled"
        return "done" if self.finished else "waiting"

    @property
    def attempt(self) -> int:
        """The highest attempt that is going on."""
        return max((record.attempt for record in self.running.values()), default=1)

    @property
    def since(self) -> float | None:
        """When the invocation began that runs longest, in seconds of the engine's clock."""
        return min((record.at for record in self.running.values()), default=None)

    def see(self, record: StepRecord) -> None:
        """Take in what has happened to the step."""
        if record.kind == "started":
            self.waiting.pop(record.seq, None)
            self.running[record.seq] = record
            return
        self.running.pop(record.seq, None)
        if record.kind == "finished":
            self.finished += 1
        elif record.kind == "retrying":
            self.retried += 1
            self.waiting[record.seq] = record
        elif record.kind == "cancelled":
            self.cancelled += 1
        else:
            self.failed += 1


class RunView:
    """A run.

    Args:
        steps: The names of the workflow's steps, in order.
    """

    def __init__(self, steps: Iterable[str]) -> None:
        self.steps = {name: StepView(name) for name in steps}
        self.progress: dict[str, ProgressEvent] = {}  # the last one of each label
        self.stopped: Counter[str] = Counter()

    def see(self, event: Event) -> None:
        """Take in an event of the stream."""
        if isinstance(event, StepRecord):
            self.steps[event.step].see(event)
            if event.kind == "cancelled":
                self.stopped[event.step] += 1
        elif isinstance(event, ProgressEvent):
            label = as_text(event.label)
            self.progress.pop(label, None)  # the newest comes last
            self.progress[label] = event
            while len(self.progress) > _MOST_PROGRESS:
                del self.progress[next(iter(self.progress))]

    def end(self) -> None:
        """The run is over. What it has not seen out was stopped where it was: a plain `def` that held the loop."""
        for name, step in self.steps.items():
            self.stopped[name] += len(step.running)
            step.cancelled += len(step.running)
            step.running.clear()
            step.waiting.clear()

    @property
    def running(self) -> Counter[str]:
        """How many invocations of each step are running."""
        return Counter({name: len(step.running) for name, step in self.steps.items() if step.running})


def as_text(value: object) -> str:
    """A field of an event as text. What a step puts there is not checked: it may be anything."""
    return value if isinstance(value, str) else show(value)


def counted(steps: Counter[str]) -> str:
    """Steps in a sentence: ``ask (2), cut``."""
    return ", ".join(
        printable(name) + (f" ({count})" if count > 1 else "") for name, count in sorted(steps.items()) if count
    )
