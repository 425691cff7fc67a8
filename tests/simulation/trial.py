"""One seed run once: the same schedule, the same times and the same trace each time."""

from __future__ import annotations

import warnings
from typing import Any

import trio
import trio.testing

from blazen import StepRecord, Workflow
from blazen.errors import BlazenError, CancelledError, ValidationError
from blazen.testing import run_in_virtual_time
from simulation.ledger import Ledger, Passes, Shown
from simulation.plans import Outside, Plan
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
        if ledger.closed or (handler is not None and handler.state != "running"):
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
    else:
        event: Any = ledger.make(act.layer)
        if event is not None:
            try:
                handler.send_event(event)
            except ValidationError as error:
                ledger.wrong.append(f"send_event from outside was refused: {error}")
            ledger.note("send", tag=event.tag, step=OUTSIDE)


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
