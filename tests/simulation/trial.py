"""One seed run once: the same schedule, the same times and the same trace each time."""

from __future__ import annotations

import random
import warnings
from typing import Any

import trio
import trio.testing

from blazen import InputRequestEvent, StepRecord, Workflow
from blazen.errors import BlazenError, CancelledError, ValidationError, WorkflowError
from blazen.testing import run_in_virtual_time
from simulation.ledger import Ledger, Passes, Shown
from simulation.plans import SIGNALS, WAITS, Outside, Plan
from simulation.steps import OF_CALLER, make_workflow, variable

# Seconds of virtual time after which a run counts as hanging, and for which its end is watched.
LONGEST = 10_000.0
AFTERWARDS = 100.0
OUTSIDE = "outside"


def run_plan(plan: Plan, times: int = 1, *, record: bool = False) -> list[list[Ledger]]:
    """The ledgers of the plan's runs, for each time it is run; the workflow is the same object each time."""
    books: list[Ledger] = []
    workflow = make_workflow(plan, books).options(record=record)
    trials = []
    for _ in range(times):
        books.clear()
        _run_once(plan, workflow, books)
        trials.append(books.copy())
    return trials


def _run_once(plan: Plan, workflow: Workflow[Any], books: list[Ledger]) -> None:
    passes = Passes()
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        run_in_virtual_time(_main, plan, workflow, books, passes, seed=plan.seed, instruments=[passes])
    # Real time is the machine's business here, and this one is about real time.
    texts = [str(one.message) for one in caught if "held the event loop" not in str(one.message)]
    for ledger in books:
        ledger.warnings = texts


async def _main(plan: Plan, workflow: Workflow[Any], books: list[Ledger], passes: Passes) -> None:
    books.extend(Ledger(book, passes, trio.current_time, plan.budget) for book in range(plan.runs))
    variable.set(OF_CALLER)
    await trio.lowlevel.checkpoint()
    before = trio.lowlevel.current_statistics().tasks_living
    with trio.move_on_after(LONGEST) as patience:
        async with trio.open_nursery() as nursery:
            for ledger in books:
                nursery.start_soon(_run, plan, workflow, ledger)
    if patience.cancelled_caught:
        for ledger in books:
            ledger.wrong.append(f"the run hung for {LONGEST:g} s of virtual time")
    await trio.testing.wait_all_tasks_blocked()
    left = trio.lowlevel.current_statistics().tasks_living - before
    await trio.sleep(AFTERWARDS)
    if left:
        books[0].wrong.append(f"{left} tasks are alive after the runs")


async def _run(plan: Plan, workflow: Workflow[Any], ledger: Ledger) -> None:
    scope = trio.CancelScope()
    try:
        with scope:
            if plan.with_handler:
                result = await _run_watched(plan, workflow, ledger, scope)
            else:
                result = await _run_alone(plan, workflow, ledger, scope)
            ledger.outcome = ("completed", result.result)
            ledger.record = result.record
    except BlazenError as error:
        ledger.record = error.record
        ledger.outcome = ("cancelled" if isinstance(error, CancelledError) else "failed", error)
    except Exception as error:
        ledger.outcome = ("not wrapped", error)
    if not ledger.outcome:
        ledger.outcome = ("left", None) if scope.cancelled_caught else ("lost", None)
    ledger.note("over", detail=ledger.outcome[0])
    ledger.closed = True


async def _run_alone(plan: Plan, workflow: Workflow[Any], ledger: Ledger, scope: trio.CancelScope) -> Any:
    result = None
    failure: BlazenError | None = None
    async with trio.open_nursery() as nursery:
        if plan.outside:
            nursery.start_soon(_do_outside, plan, ledger, None, scope)
        try:
            result = await workflow.run(ledger.book)
        except BlazenError as error:
            failure = error
        nursery.cancel_scope.cancel()
    if failure is not None:
        raise failure
    return result


async def _run_watched(plan: Plan, workflow: Workflow[Any], ledger: Ledger, scope: trio.CancelScope) -> Any:
    result = None
    failure: BlazenError | None = None
    async with workflow.run_with_handler(ledger.book) as handler:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(_do_outside, plan, ledger, handler, scope)
            if plan.waits or plan.returned_questions:
                nursery.start_soon(_answer, plan, ledger, handler)
            for number in range(plan.seed % 3):
                nursery.start_soon(_read, ledger, handler, number == 0)
            try:
                result = await handler.result()
            except BlazenError as error:
                failure = error
            expected = {type(None): "completed", CancelledError: "cancelled"}.get(type(failure), "failed")
            if handler.state != expected:
                ledger.wrong.append(f"handler.state is {handler.state!r}, not {expected!r}")
            ledger.note("told", detail=handler.state)
            if handler.pending_inputs():
                ledger.wrong.append(f"questions are open after the run: {handler.pending_inputs()}")
            if not plan.seed % 3:
                nursery.cancel_scope.cancel()
    if failure is not None:
        raise failure
    return result


async def _read(ledger: Ledger, handler: Any, lifecycle: bool) -> None:
    seen: list[int] = []
    async for event in handler.stream_events(lifecycle=lifecycle):
        if isinstance(event, StepRecord):
            ledger.records.append((event.kind, event.step, event.seq, event.attempt))
        elif isinstance(event, Shown):
            seen.append(event.number)
    ledger.seen.append(seen)


async def _do_outside(plan: Plan, ledger: Ledger, handler: Any, scope: trio.CancelScope) -> None:
    for act in plan.outside:
        if act.wait is None:
            await trio.lowlevel.checkpoint()
        else:
            await trio.sleep(act.wait)
        if ledger.closed or (handler is not None and handler.state not in ("running", "waiting")):
            return
        _do_one(act, ledger, handler, scope)


def _do_one(act: Outside, ledger: Ledger, handler: Any, scope: trio.CancelScope) -> None:
    if act.what == "leave":
        ledger.note("leave")
        scope.cancel()
    elif act.what == "cancel":
        ledger.note("cancel")
        handler.cancel("from outside")
    elif act.what == "cancel_step":
        ledger.note("cancel_step", step=act.target)
        handler.cancel_step(act.target)
    elif act.what == "signal":
        _signal(ledger, handler, act.layer % SIGNALS)
    else:
        event: Any = ledger.make(act.layer)
        if event is not None:
            try:
                handler.send_event(event)
            except ValidationError as error:
                ledger.wrong.append(f"send_event from outside was refused: {error}")
            ledger.note("send", tag=event.tag, step=OUTSIDE)


def _signal(ledger: Ledger, handler: Any, kind: int) -> None:
    signal = ledger.signal(kind)
    try:
        handler.send_event(signal)
    except WorkflowError:
        return  # no step waits for one
    ledger.note("signal", detail=(signal.number, kind), step=OUTSIDE)


async def _answer(plan: Plan, ledger: Ledger, handler: Any) -> None:
    """Answer questions at random moments, twice, under wrong ids; bring a run that only waits to its end."""
    dice = random.Random(f"answers {plan.seed} {ledger.book}")
    patience = 0
    while True:
        if dice.random() < 0.3:
            await trio.lowlevel.checkpoint()
        else:
            await trio.sleep(dice.choice(WAITS))
        if handler.state not in ("running", "waiting"):
            return
        patience = patience + 1 if handler.state == "waiting" else 0
        if handler.pending_inputs():
            _answer_one(dice, ledger, handler, dice.choice(handler.pending_inputs()))
        elif patience > 10:
            ledger.note("cancel")
            handler.cancel("from outside")
        elif patience > 3 and plan.waits:
            _signal(ledger, handler, dice.randrange(SIGNALS))


def _answer_one(dice: random.Random, ledger: Ledger, handler: Any, question: InputRequestEvent) -> None:
    if dice.random() < 0.2:
        _expect_refusal(ledger, handler, "wrong id")
    if dice.random() < 0.3:
        return
    value = dice.randrange(1_000_000)
    handler.respond_to_input(question.request_id, value)
    if question.prompt.isdecimal():  # a step has returned it
        ledger.note("send", tag=int(question.prompt), step=OUTSIDE)
    else:
        ledger.note("answer", detail=(question.prompt, value), step=OUTSIDE)
    if question in handler.pending_inputs():
        ledger.wrong.append(f"still open after its answer: {question.prompt}")
    if dice.random() < 0.4:
        _expect_refusal(ledger, handler, question.request_id)


def _expect_refusal(ledger: Ledger, handler: Any, request_id: str) -> None:
    try:
        handler.respond_to_input(request_id, "too late")
    except ValidationError:
        return
    ledger.wrong.append(f"an answer to {request_id!r} was taken, and no such question is open")


def trace_of(books: list[Ledger]) -> list[str]:
    """Everything that two runs of one seed must have in common."""
    lines = []
    for ledger in books:
        lines += [str(entry) for entry in ledger.entries]
        lines += [f"stream {ledger.shown} {ledger.seen}", f"records {ledger.records}", f"edits {ledger.edits}"]
        lines += [f"warning {text}" for text in ledger.warnings]
        lines.append(f"outcome {_outcome_text(ledger)}")
    return lines


def _outcome_text(ledger: Ledger) -> str:
    what, payload = ledger.outcome
    if isinstance(payload, BlazenError):
        text = str(payload)
        suppressed = [str(error) for error in getattr(payload, "suppressed", ())]
        return f"{what} {type(payload).__name__} {text} {suppressed}"
    return f"{what} {getattr(payload, 'invocation', payload)!r}"
