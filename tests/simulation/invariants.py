"""What must hold for every simulated run, read from its ledger alone. `faults` names what does not.

The entries are replayed in their order against the rules. Where the rules leave something open (two things at the very
same moment), both ways are right here too; what is marked `sure` must have happened.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterator

from blazen.errors import CancelledError, TimeoutError, WorkflowError
from simulation.ledger import ANSWERS, Entry, Ledger
from simulation.plans import Plan
from simulation.reading import Invocation, Reading
from simulation.waiting import wait_faults

EXPECTED_WARNINGS = (
    "was cancelled and its cleanup raised",
    "shields itself from it and is still running",
    "raised while it was stopped",
    "a run failed while its block was left by another exception",
)


@dataclasses.dataclass
class Due:
    """Something that has to begin: a delivery, another attempt, an on_error."""

    time: float
    attempt: int
    sure: bool


class Audit(Reading):
    """A replay of the ledger, and the rules that concern more than one moment."""

    # --- the replay

    def replay(self) -> None:
        self.due: dict[tuple[int, str], Due] = {}
        self.handlers: dict[tuple[int, str], Due] = {}
        self.active: dict[int, Invocation] = {}
        self.effective: set[int] = {0}
        self.returned: list[tuple[Invocation, list[int]]] = []  # whose events certainly were dispatched
        self.sent: list[int] = []
        self._deliver(0, self.first, sure=True)
        now = self.first
        for entry in self.ledger.entries:
            if entry.time > now:
                self._time_goes_on(now)
                now = entry.time
            if entry.what in ("begin", "handle"):
                self._begin(entry)
            elif entry.what == "end":
                self._end(entry)
            elif entry.what == "send":
                self.sent.append(entry.tag)
                self._deliver(entry.tag, entry.time, sure=entry.index < self.end_index)
        if self.what == "failed" and "is idle" in str(self.payload):
            self._check_idle()
        for one in self.active.values():
            self.fault("the run is over and this has not ended", one.begin)

    def _deliver(self, tag: int, time: float, *, sure: bool) -> None:
        self.effective.add(tag)
        layer = 0 if tag == 0 else self.ledger.layer_of[tag]
        for step in self.plan.takers(layer, tag):
            self.due[tag, step.name] = Due(time, 1, sure)

    def _time_goes_on(self, now: float) -> None:
        """Before time goes on, everything that can begin has begun."""
        if now >= self.end_time:
            return
        for dues in (self.due, self.handlers):
            for (tag, name), due in dues.items():
                step = self.plan.step(name)
                running = sum(one.plan is step for one in self.active.values())
                if due.sure and due.time <= now and (step.limit is None or running < step.limit):
                    what = "on_error of " if dues is self.handlers else f"attempt {due.attempt} of "
                    self.fault(f"lost at t={now:g}: {what}{name} for event {tag}, due since t={due.time:g}")

    def _begin(self, entry: Entry) -> None:
        one = self.invocations[entry.invocation]
        dues = self.handlers if one.is_handler else self.due
        due = dues.pop(one.key, None)
        if due is None:
            known = entry.tag in self.effective
            self.fault(
                "this is done twice, or again after a cancel" if known else "its event was never dispatched", entry
            )
        elif not one.is_handler and due.attempt != entry.attempt:
            self.fault(f"this should be attempt {due.attempt}", entry)
        elif entry.time < due.time:
            self.fault(f"this should not begin before t={due.time:g}", entry)
        if not one.is_handler and entry.attempt > one.plan.retries + 1:
            self.fault("more attempts than retries + 1", entry)
        if entry.at_pass > self.end_pass or (self.what == "cancelled" and entry.index > self.end_index):
            self.fault("this begins although the run has ended", entry)
        self.active[entry.invocation] = one
        running = sum(other.plan is one.plan and not other.is_handler for other in self.active.values())
        if one.plan.limit is not None and running > one.plan.limit and not one.is_handler:
            self.fault(f"{running} invocations run and max_concurrency is {one.plan.limit}", entry)

    def _end(self, entry: Entry) -> None:
        one = self.invocations[entry.invocation]
        del self.active[entry.invocation]
        if one.cancelled:
            return
        sure = entry.index < self.end_index and not one.perhaps_cancelled
        if one.timed_out or one.how == "raised":
            if one.timed_out and not sure and one.cut is not None and one.cut.time < one.deadline:
                return  # it was cancelled with the run before its deadline
            self._failed(one, entry, sure=sure)
        elif one.how == "returned" or (one.how == "swallowed" and self.left is not None):
            tags = entry.detail[1]
            if tags != "stop":
                tags = [tag for tag in tags if self.ledger.layer_of[tag] != ANSWERS]  # those are questions
                for tag in tags:
                    self._deliver(tag, entry.time, sure=sure)
                if sure:
                    self.returned.append((one, tags))
        elif sure:
            self.fault("this was cut off and nobody had asked for it", entry)

    def _failed(self, one: Invocation, entry: Entry, *, sure: bool) -> None:
        if self.is_retried(one):
            wait = one.plan.retry_wait * 2.0 ** (one.attempt - 1)
            self.due[one.key] = Due(entry.time + wait, one.attempt + 1, sure)
        elif not one.is_handler and one.plan.on_error is not None:
            self.handlers[one.key] = Due(entry.time, 1, sure)

    def _check_idle(self) -> None:
        for name, dues in (("step", self.due), ("on_error of step", self.handlers)):
            for (tag, step), due in dues.items():
                full = sum(
                    one.plan.name == step and one.waits_at(self.end_index - 1) for one in self.invocations.values()
                )
                if due.sure and (dues is self.handlers or full < (self.plan.step(step).limit or math.inf)):
                    self.fault(f"the run ended as idle, and {name} {step} was due for event {tag}")
        for one in self.invocations.values():
            for wait in one.waits:
                if wait.end is not None and wait.end.index >= self.end_index and wait.plan.timeout is not None:
                    self.fault("the run ended as idle, and this wait would have ended by itself", wait.begin)

    # --- rules about single things

    def check_promptness(self) -> None:
        """Whoever is told to stop hears of it at once, and nobody else does."""
        cancels = [e for e in self.ledger.entries if e.what == "cancel_step"]
        for one in self.invocations.values():
            if one.end is None:
                continue
            limits = [(one.deadline, "its timeout"), (self.end_time, "the end of the run")]
            limits += [
                (e.time, "cancel_step")
                for e in cancels
                if e.step == one.plan.name and one.begin.index < e.index < one.end.index
            ]
            for time, why in limits:
                heard = one.end.time if one.cut is None else one.cut.time
                if heard > max(time, one.begin.time):
                    self.fault(f"{why} at t={time:g} was heard of at t={heard:g}", one.end)
            if (
                one.cut is not None
                and one.cut.time not in [time for time, _ in limits]
                and one.cut.time < self.end_time
            ):
                self.fault("nobody had told this to stop", one.cut)
        over = next((e for e in self.ledger.entries if e.what == "told"), self.ledger.entries[-1])
        for one in self.invocations.values():
            if one.end is not None and one.end.index > over.index and (self.what != "left"):
                self.fault("this ended after the run had been reported", one.end)

    def check_first_cause(self) -> None:
        """The first that ends a run decides its outcome."""
        for one in self.invocations.values():
            if one is self.cause or not self.is_terminal(one) or one.end is None:
                continue
            if one.end.index >= self.end_index:
                self._check_later_cause(one, one.end)
            elif self.cause is None or self.cause.end is None:
                near = self.end_index < len(self.ledger.entries) and (
                    self.ledger.entries[self.end_index].at_pass <= one.end.at_pass + 1
                )
                unwinding = self.what == "left" and any(
                    other.end is not None and other.begin.index < self.end_index < other.end.index
                    for other in self.invocations.values()
                )
                if not near and not unwinding:
                    self.fault(f"this should have ended the run, which came to {self.what}", one.end)
            elif one.end.at_pass < self.cause.end.at_pass or self.goes_first(one, self.cause):
                self.fault("this should have decided the outcome", one.end)

    def _check_later_cause(self, one: Invocation, end: Entry) -> None:
        cause = self.cause
        if cause is None or cause.end is None or self.left is not None or one.cut is not None:
            return
        if end.at_pass == cause.end.at_pass and one.begin.index < cause.end.index and self.goes_first(one, cause):
            self.fault("this finished in the same pass, has the lower number and should have decided the outcome", end)

    def goes_first(self, one: Invocation, other: Invocation) -> bool:
        """Whether `one` has to be taken before `other` when both finish in one pass; not if a number is unknown."""
        mine, others = self.seqs.get(one.begin.tag), self.seqs.get(other.begin.tag)
        return mine is not None and others is not None and mine < others

    def check_numbers(self) -> None:
        """Events are numbered in the order in which they come about."""
        numbers = [self.seqs[tag] for tag in self.sent if tag in self.seqs]
        if numbers != sorted(numbers):
            self.fault(f"events that were sent one after the other have the numbers {numbers}")
        for one, tags in self.returned:
            own = [self.seqs[tag] for tag in tags if tag in self.seqs]
            if own != sorted(own):
                self.fault(f"its events have the numbers {own}", one.end)
        for one, tags in self.returned:
            for other, later in self.returned:
                if self._must_precede(one, other):
                    first = [self.seqs[tag] for tag in tags if tag in self.seqs]
                    second = [self.seqs[tag] for tag in later if tag in self.seqs]
                    if first and second and max(first) > min(second):
                        self.fault(f"its events {first} come after {second} of {other.end}", one.end)
        begun = [
            one.begin.seq
            for one in self.invocations.values()
            if one.begin.seq is not None and one.attempt == 1 and one.plan.limit is None
        ]
        if begun != sorted(begun):
            self.fault(f"events were delivered in the order {begun}")

    def _must_precede(self, one: Invocation, other: Invocation) -> bool:
        assert one.end is not None
        assert other.end is not None
        if one.end.at_pass != other.end.at_pass:
            return one.end.at_pass < other.end.at_pass
        return one.begin.index < other.end.index and self.goes_first(one, other)

    def check_joins(self) -> None:
        """`collect_events` against the obvious way to do it."""
        waiting: dict[str, dict[int, int]] = {}  # step -> event number -> tag
        counted: set[tuple[str, int]] = set()
        answers: dict[tuple[str, int], list[int]] = {}
        for entry in self.ledger.entries:
            if entry.what != "gather":
                continue
            assert entry.seq is not None
            wanted = self.plan.step(entry.step).gathers or 0
            place = (entry.step, entry.tag)
            buffer = waiting.setdefault(entry.step, {})
            if place not in counted:
                counted.add(place)
                buffer[entry.seq] = entry.tag
            expected = answers.get(place)
            if expected is None and len(buffer) >= wanted:
                expected = answers[place] = [buffer.pop(seq) for seq in sorted(buffer)[:wanted]]
            if entry.detail != expected:
                self.fault(f"the join should give {expected}", entry)

    def check_rest(self) -> None:
        """The stream, the shared number, the step records, the warnings."""
        for seen in self.ledger.seen:
            if seen != self.ledger.shown:
                self.fault(f"a reader of the stream saw {seen} of {self.ledger.shown}")
        if self.ledger.edits and self.ledger.number != self.ledger.edits:
            self.fault(f"{self.ledger.edits} edits made the number {self.ledger.number}")
        begun = {(one.plan.name, one.begin.seq, one.attempt) for one in self.invocations.values()}
        numberless = {(one.plan.name, one.attempt) for one in self.invocations.values() if one.begin.seq is None}
        for kind, step, seq, attempt in self.ledger.records:
            if kind == "started" and (step, seq, attempt) not in begun and (step, attempt) not in numberless:
                handled = any(one.is_handler and one.plan.name == step for one in self.invocations.values())
                if not handled:
                    self.fault(f"a record says that attempt {attempt} of {step} for event number {seq} started")
        for text in self.ledger.warnings:
            if not any(expected in text for expected in EXPECTED_WARNINGS):
                self.fault(f"an unexpected warning: {text}")
        if isinstance(self.payload, WorkflowError | TimeoutError | CancelledError) and self.payload.abandoned:
            self.fault(f"abandoned: {self.payload.abandoned}")


def faults(plan: Plan, ledger: Ledger) -> Iterator[str]:
    """What was not as it must be."""
    audit = Audit(plan, ledger)
    audit.replay()
    audit.check_promptness()
    audit.check_first_cause()
    audit.check_numbers()
    audit.check_joins()
    audit.check_rest()
    yield from audit.faults
    yield from wait_faults(audit)
