"""What a ledger says of a run: its invocations, and what ended it."""

from __future__ import annotations

import dataclasses
import itertools
import math

from blazen.errors import TimeoutError, WorkflowError
from simulation.ledger import ANSWERS, Entry, Ledger
from simulation.plans import Plan, StepPlan, WaitPlan

OVER = ("cut off", "told", "over")  # entries that follow the end of a run


@dataclasses.dataclass
class Waiting:
    """A wait in the middle of an attempt."""

    begin: Entry
    number: int
    plan: WaitPlan
    end: Entry | None = None

    @property
    def over(self) -> float:
        return math.inf if self.end is None else self.end.time

    @property
    def satisfied(self) -> bool:
        return self.end is not None and self.end.what == "got"


@dataclasses.dataclass
class Invocation:
    """One attempt of a step, or one on_error."""

    plan: StepPlan
    begin: Entry
    is_handler: bool
    attempt: int
    cut: Entry | None = None  # it was told to stop
    end: Entry | None = None
    cancelled: bool = False  # by cancel_step
    perhaps_cancelled: bool = False  # by cancel_step at the moment of its deadline
    waits: list[Waiting] = dataclasses.field(default_factory=list)
    asks_in_cleanup: tuple[float, float] = (math.inf, math.inf)  # from one entry to another

    @property
    def key(self) -> tuple[int, str]:
        return self.begin.tag, self.plan.name

    @property
    def deadline(self) -> float:
        if self.is_handler or self.plan.timeout is None:
            return math.inf
        left, since = self.plan.timeout, self.begin.time
        for wait in self.waits:  # the clock stands still meanwhile
            left -= wait.begin.time - since
            since = wait.over
            # At the very moment of the deadline either may come first.
            if left < 0 or (left == 0 and self.end is not None and self.end.time <= wait.begin.time):
                return wait.begin.time + left
        return since + left

    def waits_at(self, index: int) -> bool:
        """Whether it waits in its middle after the entry with this index."""
        if self.asks_in_cleanup[0] <= index < self.asks_in_cleanup[1]:
            return True
        return any(w.begin.index <= index and (w.end is None or index < w.end.index) for w in self.waits)

    @property
    def how(self) -> str:
        return "" if self.end is None else str(self.end.detail[0])

    @property
    def timed_out(self) -> bool:
        return self.end is not None and self.end.time >= self.deadline and not self.cancelled


class Reading:
    """The ledger of one run, read once: its invocations, and what ended it."""

    def __init__(self, plan: Plan, ledger: Ledger) -> None:
        self.plan = plan
        self.ledger = ledger
        self.faults: list[str] = list(ledger.wrong)
        self.invocations: dict[int, Invocation] = {}
        self.seqs: dict[int, int] = {}  # tag -> event number
        self.what, self.payload = ledger.outcome
        self._collect()
        self._mark_cancelled()
        self.first = ledger.entries[0].time if ledger.entries else 0.0
        self.left = next((e for e in ledger.entries if e.what == "leave"), None)
        self.cause: Invocation | None = None  # what ended the run
        self.end_index = len(ledger.entries)  # up to here the run certainly goes on
        self.end_time = math.inf
        self.end_pass = 10**9  # after this pass nothing may begin
        self._find_the_end()

    def fault(self, text: str, entry: Entry | None = None) -> None:
        self.faults.append(text if entry is None else f"{text}: {entry}")

    # --- what the ledger says

    def _collect(self) -> None:
        for entry in self.ledger.entries:
            if entry.what in ("begin", "handle"):
                self.invocations[entry.invocation] = Invocation(
                    self.plan.step(entry.step), entry, entry.what == "handle", entry.attempt
                )
            elif entry.what == "wait":
                self.invocations[entry.invocation].waits.append(Waiting(entry, *entry.detail))
            elif entry.what in ("got", "gave up"):
                self.invocations[entry.invocation].waits[-1].end = entry
            elif entry.what == "asks in cleanup":
                self.invocations[entry.invocation].asks_in_cleanup = (entry.index, math.inf)
            elif entry.what == "asked in cleanup":
                since = self.invocations[entry.invocation].asks_in_cleanup[0]
                self.invocations[entry.invocation].asks_in_cleanup = (since, entry.index)
            elif entry.what == "cut off":
                self.invocations[entry.invocation].cut = entry
                waits = self.invocations[entry.invocation].waits
                if waits and waits[-1].end is None:
                    waits[-1].end = entry
            elif entry.what == "end":
                if self.invocations[entry.invocation].end is not None:
                    self.fault("it ended twice", entry)
                self.invocations[entry.invocation].end = entry
            if (
                entry.what == "begin"
                and entry.seq is not None
                and self.seqs.setdefault(entry.tag, entry.seq) != entry.seq
            ):
                self.fault(f"one event has the numbers {self.seqs[entry.tag]} and {entry.seq}", entry)
        if len(set(self.seqs.values())) != len(self.seqs):
            self.fault(f"two events have one number: {self.seqs}")

    def _mark_cancelled(self) -> None:
        for entry in self.ledger.entries:
            if entry.what == "cancel_step":
                for one in self.invocations.values():
                    running = one.begin.index < entry.index and (one.end is None or entry.index < one.end.index)
                    if running and one.plan.name == entry.step and entry.time <= one.deadline:
                        one.cancelled |= entry.time < one.deadline
                        one.perhaps_cancelled |= entry.time == one.deadline

    def _find_the_end(self) -> None:
        """What ended the run, as its outcome says, and whether the outcome says it rightly."""
        error = self.payload
        if self.what == "completed":
            self.cause = self.invocations.get(getattr(error, "invocation", -1))
            if self.cause is None or self.cause.end is None or self.cause.end.detail[1] != "stop":
                self.fault("the result is not that of a StopEvent a step returned")
                return
        elif self.what == "cancelled":
            asked = next((e for e in self.ledger.entries if e.what == "cancel"), None)
            if asked is None or error.reason != "from outside":
                self.fault(f"the run ended as cancelled with reason {error.reason!r}")
                return
            self._ends_at(asked, asked.at_pass)
            return
        elif self.what == "left":
            self._find_what_came_before()
            return
        elif self.what == "failed":
            self._find_failure()
        else:
            self.fault(f"the run came to {self.what}: {error!r}")
        if self.cause is not None and self.cause.end is not None:
            self._ends_at(self.cause.end, self.cause.end.at_pass + 1)

    def _find_what_came_before(self) -> None:
        """The caller left; but the run may have been at its end already, and have unwound."""
        assert self.left is not None
        self._ends_at(self.left, 10**9)
        before = [
            one
            for one in self.invocations.values()
            if self.is_terminal(one) and self._end_of(one).index < self.left.index
        ]
        asked = next((e for e in self.ledger.entries if e.what == "cancel" and e.index < self.left.index), None)
        if before:
            self.cause = min(before, key=self._order)
            self._ends_at(self._end_of(self.cause), self._end_of(self.cause).at_pass + 1)
        if asked is not None and asked.index < self.end_index:
            self.cause = None
            self._ends_at(asked, asked.at_pass)
        if self.run_deadline() <= self.end_time:
            self._ends_by_timeout()
        stuck = self._found_stuck()
        if stuck is not None and stuck.index <= self.end_index:
            self.cause = None
            self.end_index, self.end_time, self.end_pass = stuck.index, stuck.time, 10**9

    def _found_stuck(self) -> Entry | None:
        """The first entry after a plain run was found stuck: all that ran waited without limit, and is cut off."""
        for entry in self.ledger.entries if not self.plan.with_handler else ():
            if entry.what == "cut off":
                active = [
                    one
                    for one in self.invocations.values()
                    if one.begin.index < entry.index and (one.end is None or one.end.index >= entry.index)
                ]
                waits = [one.waits[-1] for one in active if one.waits_at(entry.index - 1) and one.waits]
                if len(waits) == len(active) and all(wait.plan.timeout is None for wait in waits):
                    return entry
        return None

    def _ends_by_timeout(self) -> None:
        self.cause = None
        self.end_time = self.run_deadline()
        self.end_index = next(
            (e.index for e in self.ledger.entries if e.time >= self.end_time), len(self.ledger.entries)
        )

    def run_deadline(self) -> float:
        """When the run's time is over: its clock stands still while nothing runs and a question is open."""
        if self.plan.timeout is None:
            return math.inf
        left, since = self.plan.timeout, self.first
        entries = self.ledger.entries
        for entry, following in itertools.pairwise(entries):
            left -= entry.time - since
            since = entry.time
            # At the very moment of the deadline either may come first.
            if left < 0 or (left == 0 and any(e.time == since and e.what in OVER for e in entries)):
                return since + left
            if following.time > since and self._rests_after(entry.index):
                since = following.time
        return since + left

    def _rests_after(self, index: int) -> bool:
        """Whether the run does nothing after this entry but wait, and a question is open."""
        now = self.ledger.entries[index].time
        asked = False
        for one in self.invocations.values():
            if one.begin.index > index:
                continue
            if one.end is None or one.end.index > index:
                if not one.waits_at(index):
                    return False
                waits = [w for w in one.waits if w.begin.index <= index and (w.end is None or index < w.end.index)]
                asked |= not waits or waits[-1].plan.what == "ask"  # or it asks in its cleanup
            elif one.end.time + self.pause_after(one) > now:
                return False
            elif one.how in ("returned", "swallowed") and one.end.detail[1] != "stop" and not one.cancelled:
                asked |= any(self.is_open(tag, index) for tag in one.end.detail[1])
        return asked

    def is_open(self, tag: int, index: int) -> bool:
        """Whether this is a question that a step has returned, and not answered yet after the entry."""
        if self.ledger.layer_of[tag] != ANSWERS:
            return False
        answer = next((e.index for e in self.ledger.entries if e.what == "send" and e.tag == tag), math.inf)
        return index < answer

    def pause_after(self, one: Invocation) -> float:
        """For how long the retry that follows this attempt waits."""
        failed = one.timed_out or one.how == "raised"
        if one.cancelled or not failed or not self.is_retried(one):
            return 0.0
        return one.plan.retry_wait * 2.0 ** (one.attempt - 1)

    def _order(self, one: Invocation) -> tuple[int, int]:
        """Which of several that end the run is taken first."""
        return self._end_of(one).at_pass, self.seqs.get(one.begin.tag, one.begin.tag)

    @staticmethod
    def _end_of(one: Invocation) -> Entry:
        assert one.end is not None
        return one.end

    def _ends_at(self, entry: Entry, last_pass: int) -> None:
        self.end_index, self.end_time, self.end_pass = entry.index, entry.time, last_pass
        if self.left is not None and self.left.index < entry.index:
            self.end_index, self.end_time = self.left.index, self.left.time

    def _find_failure(self) -> None:
        error = self.payload
        if isinstance(error, TimeoutError) and error.step is None:
            self._ends_by_timeout()
            if error.elapsed_ms != round((self.plan.timeout or 0) * 1000):
                self.fault(f"the run's timeout says elapsed_ms={error.elapsed_ms}")
        elif isinstance(error, TimeoutError) and " waited " in str(error):
            over = [
                i
                for i in self.invocations.values()
                if i.plan.name == error.step and i.how == "raised" and i.end and i.end.detail[1] == "TimeoutError"
            ]
            self.cause = min(filter(self.is_final, over), key=self._order, default=None)
            if self.cause is None:
                self.fault(f"no wait of step {error.step!r} was over its time: {error}")
            elif error.elapsed_ms != round((self.cause.waits[-1].plan.timeout or 0) * 1000):
                self.fault(f"the wait's timeout says elapsed_ms={error.elapsed_ms}", self.cause.end)
        elif isinstance(error, TimeoutError):
            late = [
                i for i in self.invocations.values() if i.plan.name == error.step and i.timed_out and self.is_final(i)
            ]
            self.cause = min(late, key=self._order, default=None)
            if self.cause is None:
                self.fault(f"step {error.step!r} was not over its time: {error}")
            elif error.elapsed_ms != round((self.cause.plan.timeout or 0) * 1000):
                self.fault(f"the step's timeout says elapsed_ms={error.elapsed_ms}", self.cause.end)
        elif isinstance(error, WorkflowError) and error.__cause__ is not None:
            number = str(error.__cause__).rpartition("#")[2].rstrip("'")
            self.cause = self.invocations.get(int(number)) if number.isdecimal() else None
            if self.cause is None or self.cause.how not in ("raised", "raised in cleanup"):
                self.fault(f"the run failed with what no step raised: {error!r}")
            elif error.step != self.cause.plan.name or error.event_type != self._type_of(self.cause.begin.tag):
                self.fault(f"the error names {error.step!r} and {error.event_type!r}", self.cause.end)
            elif not (self.is_final(self.cause) or self.left is not None):
                self.fault("the run failed with an attempt that was not the last", self.cause.end)
        elif isinstance(error, WorkflowError) and "is idle" in str(error):
            # It may be so as soon as nothing runs any more; what comes from outside after that is too late.
            stuck = "waits for an event" in str(error)
            ends = [one.end for one in self.invocations.values() if one.end is not None and not (stuck and one.cut)]
            if stuck:
                ends += [wait.begin for one in self.invocations.values() for wait in one.waits]
            last = max((end.index for end in ends), default=0)
            self._ends_at(self.ledger.entries[last], 10**9)
            self.end_index += 1
        else:
            self.fault(f"an error nobody made: {error!r}")

    def _type_of(self, tag: int) -> str:
        return "blazen::StartEvent" if tag == 0 else self.ledger.events[tag].event_type

    # --- what follows from an invocation's end

    def is_final(self, one: Invocation) -> bool:
        """Whether its failure is one for good."""
        return not self.is_retried(one) and (one.is_handler or one.plan.on_error is None)

    def is_retried(self, one: Invocation) -> bool:
        if one.is_handler or one.attempt > one.plan.retries:
            return False
        name = "TimeoutError" if one.timed_out else str(one.end.detail[1] if one.end else "")
        return one.plan.retries_all or name == "ValueError"

    def is_terminal(self, one: Invocation) -> bool:
        """Whether its end would end a run that goes on."""
        if one.end is None or one.cancelled or one.perhaps_cancelled:
            return False
        if one.timed_out or one.how == "raised":
            return self.is_final(one)
        return one.how == "returned" and one.end.detail[1] == "stop"
