"""Branching: who handles what is decided by the type of an event, or by a guard.

A mail is read and becomes one of two events; each has a step of its own. Complaints are divided once more by their
value, with guards: the same type, two steps.
"""

from __future__ import annotations

from blazen import Event, StartEvent, StopEvent, Workflow, step


class Mail(StartEvent):
    subject: str
    amount: float = 0.0


class Question(Event):
    subject: str


class Complaint(Event):
    subject: str
    amount: float


@step
async def read(ev: Mail) -> Question | Complaint:
    if ev.subject.endswith("?"):
        return Question(ev.subject)
    return Complaint(ev.subject, ev.amount)


@step
async def answer(ev: Question) -> StopEvent:
    return StopEvent(result=f"answered: {ev.subject}")


@step(when=lambda ev: ev.amount < 50)
async def refund(ev: Complaint) -> StopEvent:
    return StopEvent(result=f"refunded {ev.amount:.2f}: {ev.subject}")


@step(when=lambda ev: ev.amount >= 50)
async def escalate(ev: Complaint) -> StopEvent:
    return StopEvent(result=f"a person looks at {ev.amount:.2f}: {ev.subject}")


inbox: Workflow[str] = Workflow("inbox", [read, answer, refund, escalate])

if __name__ == "__main__":
    for subject, amount in [
        ("When do you open?", 0.0),
        ("The cup is broken", 12.5),
        ("The piano is broken", 4800.0),
    ]:
        print(inbox.run_sync(subject=subject, amount=amount).result)
