"""What must hold for the waits in the middle of steps: each gets what it waits for, exactly once, and when it comes."""

from __future__ import annotations

from collections.abc import Iterator

from simulation.ledger import ANSWERS, Entry
from simulation.reading import Reading, Waiting

Place = tuple[int, str, int]  # tag of the event, step, number of the call: the same in each attempt


class _Waits:
    """A replay of the entries about waits. Nothing is sure to reach a wait at the very moment of its end."""

    def __init__(self, reading: Reading) -> None:
        self.reading = reading
        self.faults: list[str] = []
        self.owner = {id(wait): one for one in reading.invocations.values() for wait in one.waits}
        self.begins = {wait.begin.index: wait for one in reading.invocations.values() for wait in one.waits}
        self.ends = {wait.end.index: wait for wait in self.begins.values() if wait.end is not None}
        self.open: dict[Place, Waiting] = {}
        self.given: dict[Place, object] = {}  # what the call has to return, in this attempt and all later ones
        self.kept: list[tuple[int, int]] = []  # signals that came early: number and kind
        self.answered: set[str] = set()
        self.asked: set[int] = set()

    def replay(self) -> None:
        now = 0.0
        for entry in self.reading.ledger.entries:
            if entry.time > now:
                self._check_the_given(entry.time)
                now = entry.time
            if entry.what == "wait":
                self._begin(self.begins[entry.index])
            elif entry.what == "signal":
                self._signal(entry)
            elif entry.what == "answer":
                self._answer(entry)
            elif entry.what == "send":
                self._send(entry)
            if entry.index in self.ends:
                self._end(self.ends[entry.index])

    def place(self, wait: Waiting) -> Place:
        one = self.owner[id(wait)]
        return one.begin.tag, one.plan.name, wait.number

    def takes(self, wait: Waiting, what: str, kind: int, time: float) -> bool:
        if (wait.plan.what, wait.plan.kind) != (what, kind):
            return False
        return wait.satisfied or time < wait.over

    def _begin(self, wait: Waiting) -> None:
        place = self.place(wait)
        if place in self.given:
            return
        early = [(n, kind) for n, kind in self.kept if self.takes(wait, "signal", kind, wait.begin.time)]
        if early:
            self.kept.remove(early[0])
            self.given[place] = early[0][0]
        else:
            self.open[place] = wait

    def _signal(self, entry: Entry) -> None:
        number, kind = entry.detail
        takers = [place for place, wait in self.open.items() if self.takes(wait, "signal", kind, entry.time)]
        for place in takers:
            del self.open[place]
            self.given[place] = number
        if not takers and entry.index < self.reading.end_index:
            self.kept.append((number, kind))

    def _answer(self, entry: Entry) -> None:
        prompt, value = entry.detail
        if prompt in self.answered:
            self.fault("this question was answered before", entry)
        self.answered.add(prompt)
        if prompt.startswith("cleanup"):
            return
        step, tag, number = prompt.split("/")
        place = int(tag), step, int(number)
        wait = self.open.pop(place, None)
        if wait is None or not self.takes(wait, "ask", wait.plan.kind, entry.time):
            self.fault("nobody waits for this answer", entry)
        self.given[place] = value

    def _send(self, entry: Entry) -> None:
        layer = self.reading.ledger.layer_of[entry.tag]
        if layer == ANSWERS:
            if entry.tag in self.asked:
                self.fault("this question was answered before", entry)
            self.asked.add(entry.tag)
        for place, wait in list(self.open.items()):
            if self.takes(wait, "layer", layer, entry.time) and entry.index < self.reading.end_index:
                # What steps have returned before may still have come before it, unseen.
                self.given.setdefault(place, None)

    def _end(self, wait: Waiting) -> None:
        assert wait.end is not None
        place = self.place(wait)
        self.open.pop(place, None)
        if wait.end.what == "cut off":
            return
        if wait.end.what == "gave up":
            if wait.plan.timeout is None or wait.end.time != wait.begin.time + wait.plan.timeout:
                self.fault("this wait was not over its time", wait.end)
            if place in self.given and wait.end.time > wait.begin.time:
                self.fault(f"this wait was given {self.given[place]!r}", wait.end)
            return
        got = wait.end.detail[1]
        if got == "default" and place not in self.given:
            if wait.plan.timeout is None or wait.end.time != wait.begin.time + wait.plan.timeout:
                self.fault("this wait was not over its time", wait.end)
        elif wait.plan.what == "layer":
            if self.given.get(place) not in (None, got) or not self._came(got, wait):
                self.fault("this event should not have reached the wait", wait.end)
        elif place not in self.given or self.given[place] != got:
            self.fault(f"this wait should get {self.given.get(place)!r}", wait.end)
        self.given[place] = got

    def _came(self, tag: int, wait: Waiting) -> bool:
        """Whether an event of the right layer came while somebody waited here for it."""
        reading = self.reading
        if reading.ledger.layer_of.get(tag) != wait.plan.kind:
            return False
        mine = self.place(wait)
        first = min(one.begin.index for one in self.begins.values() if self.place(one) == mine)
        assert wait.end is not None
        for entry in reading.ledger.entries[first : wait.end.index]:
            if entry.what == "send" and entry.tag == tag:
                return True
        return any(
            one.end is not None
            and one.end.detail[1] != "stop"
            and isinstance(one.end.detail[1], list)
            and tag in one.end.detail[1]
            and one.end.index < wait.end.index
            for one in reading.invocations.values()
        )

    def _check_the_given(self, now: float) -> None:
        """Before time goes on, each wait that was given something has gone on."""
        for wait in self.begins.values():
            place = self.place(wait)
            began = wait.begin.time < now
            if began and place in self.given and wait.over >= now and wait.begin.time < self.reading.end_time:
                self.fault(f"this wait was given {self.given[place]!r} and has not gone on at t={now:g}", wait.begin)
                del self.given[place]

    def fault(self, text: str, entry: Entry) -> None:
        self.faults.append(f"{text}: {entry}")


def wait_faults(reading: Reading) -> Iterator[str]:
    """What was not as it must be with the waits of a run."""
    waits = _Waits(reading)
    waits.replay()
    yield from waits.faults
