"""Random workflows on a seeded scheduler and a virtual clock: what must hold for every run holds for these.

Environment:
    BLAZEN_SIMULATION_SEEDS: how many seeds are tried; 2,000 if it is not set.
    BLAZEN_SIMULATION_FIRST: the first of them; 0 if it is not set.
    BLAZEN_SIMULATION_SEED: this one alone, to replay a failure.
"""

from __future__ import annotations

import collections
import copy
import dataclasses
import os
import traceback
from collections.abc import Callable, Sequence

import pytest
import trio
from simulation.invariants import faults
from simulation.ledger import Ledger
from simulation.plans import Plan, draw
from simulation.trial import run_plan, trace_of

from blazen.testing import seeded_scheduler

BLOCK = 100
SHOWN = 3  # failing seeds of a block that are shown in full


def seeds() -> Sequence[int]:
    if os.environ.get("BLAZEN_SIMULATION_SEED"):
        return [int(os.environ["BLAZEN_SIMULATION_SEED"])]
    first = int(os.environ.get("BLAZEN_SIMULATION_FIRST") or 0)
    return range(first, first + int(os.environ.get("BLAZEN_SIMULATION_SEEDS") or 2_000))


def blocks() -> list[Sequence[int]]:
    every = seeds()
    return [every[start : start + BLOCK] for start in range(0, len(every), BLOCK)]


def differences(trace: list[str], again: list[str]) -> list[str]:
    """Where the trace of the second time is another one."""
    if trace == again:
        return []
    pairs = enumerate(zip(trace, again, strict=False))
    place = next((i for i, (a, b) in pairs if a != b), min(len(trace), len(again)))
    return [f"the second trace differs from line {place} on: {again[place : place + 1]}"]


def judge(seed: int) -> str:
    """What is wrong with a seed, its trace and how to replay it; empty if nothing is."""
    plan = draw(seed)
    trace: list[str] = []
    try:
        first, second = run_plan(plan, times=2)
        found = [fault for ledger in first for fault in faults(plan, ledger)]
        trace, again = trace_of(first), trace_of(second)
    except BaseException as error:
        if isinstance(error, KeyboardInterrupt):
            raise
        found = ["the trial broke off:", *traceback.format_exception(error)]
    else:
        found += differences(trace, again)
    if not found:
        return ""
    replay = f"BLAZEN_SIMULATION_SEED={seed} python -m pytest -q tests/test_simulation.py"
    return "\n".join([f"seed {seed}; replay with: {replay}", *found, str(plan), *trace])


@pytest.mark.simulation
@pytest.mark.parametrize("block", blocks(), ids=lambda block: f"seeds {block[0]} to {block[-1]}")
def test_nothing_is_lost_done_twice_or_left_alive_and_a_seed_repeats_its_trace(block: Sequence[int]) -> None:
    failed = [text for text in map(judge, block) if text]
    if failed:
        others = [text.partition(";")[0] for text in failed[SHOWN:]]
        pytest.fail("\n\n".join(failed[:SHOWN]) + f"\n\n{len(failed)} seeds failed; also {others}", pytrace=False)


def test_the_plans_reach_every_kind_of_outcome_and_event() -> None:
    outcomes: collections.Counter[str] = collections.Counter()
    seen: collections.Counter[str] = collections.Counter()
    for seed in range(300):
        for ledger in run_plan(draw(seed))[0]:
            outcomes[f"{ledger.outcome[0]} {type(ledger.outcome[1]).__name__}"] += 1
            seen.update(entry.what for entry in ledger.entries)
            seen.update(f"ended: {entry.detail[0]}" for entry in ledger.entries if entry.what == "end")
            seen["retries"] += sum(entry.attempt > 1 for entry in ledger.entries)
            seen["joins"] += sum(entry.what == "gather" and entry.detail is not None for entry in ledger.entries)
            seen["edits"] += ledger.edits
            seen["readers"] += len(ledger.seen)
    assert set(outcomes) == {
        "cancelled CancelledError",
        "completed Token",
        "failed TimeoutError",
        "failed WorkflowError",
        "left NoneType",
    }
    expected = {"begin", "handle", "send", "cancel", "cancel_step", "leave", "retries", "joins", "edits", "readers"}
    expected |= {"wait", "got", "gave up", "answer", "signal", "asks in cleanup"}
    expected |= {f"ended: {how}" for how in ("returned", "raised", "cut off", "swallowed", "raised in cleanup")}
    assert {what for what in expected if seen[what] < 10} == set()


def test_the_scheduler_follows_its_own_dice_again_afterwards() -> None:
    core = trio._core._run
    before = core._ALLOW_DETERMINISTIC_SCHEDULING, core._r.getstate()
    run_plan(draw(1))
    assert (core._ALLOW_DETERMINISTIC_SCHEDULING, core._r.getstate()) == before


def test_another_schedule_gives_another_trace() -> None:
    async def order() -> list[int]:
        done: list[int] = []

        async def one(number: int) -> None:
            await trio.lowlevel.checkpoint()
            done.append(number)

        async with trio.open_nursery() as nursery:
            for number in range(20):
                nursery.start_soon(one, number)
        return done

    orders = []
    for seed in (1, 2, 1):
        with seeded_scheduler(seed):
            orders.append(trio.run(order))
    assert orders[0] == orders[2] != orders[1]


# The invariants themselves: a ledger that was tampered with is found out.


def _renumber(ledger: Ledger) -> None:
    for index, entry in enumerate(ledger.entries):
        entry.index = index


def _forget_last_delivery(plan: Plan, ledger: Ledger) -> None:
    number = next(e.invocation for e in reversed(ledger.entries) if e.what == "begin" and e.attempt == 1)
    ledger.entries = [e for e in ledger.entries if e.invocation != number]


def _deliver_twice(plan: Plan, ledger: Ledger) -> None:
    begin = next(e for e in reversed(ledger.entries) if e.what == "begin")
    end = next(e for e in ledger.entries if e.what == "end" and e.invocation == begin.invocation)
    place = ledger.entries.index(end) + 1
    twins = [copy.copy(begin), copy.copy(end)]
    for twin in twins:
        twin.invocation = 10_000
        twin.time, twin.at_pass = end.time, end.at_pass
    ledger.entries[place:place] = twins


def _leave_one_running(plan: Plan, ledger: Ledger) -> None:
    ledger.entries.remove(next(e for e in reversed(ledger.entries) if e.what == "end"))


def _retry_once_more(plan: Plan, ledger: Ledger) -> None:
    entry = next(e for e in ledger.entries if e.what == "begin" and e.attempt > 1)
    entry.attempt = 99


def _retry_too_early(plan: Plan, ledger: Ledger) -> None:
    for entry in ledger.entries:
        if entry.what == "end" and entry.detail[0] == "raised" and entry is not ledger.entries[-1]:
            entry.time += 1000.0
            return
    raise StopIteration


def _swap_numbers(plan: Plan, ledger: Ledger) -> None:
    unlimited = {step.name for step in plan.steps if step.limit is None}
    begins = [e for e in ledger.entries if e.what == "begin" and e.step in unlimited and e.attempt == 1]
    seqs = sorted({e.seq for e in begins if e.seq is not None})
    low, high = next(zip(seqs, seqs[3:], strict=False))
    for entry in ledger.entries:
        entry.seq = {low: high, high: low}.get(entry.seq or -1, entry.seq)


def _exceed_limit(plan: Plan, ledger: Ledger) -> None:
    name = next(step.name for step in plan.steps if step.limit == 1 and _count(ledger, step.name) > 2)
    begins = [e for e in ledger.entries if e.what == "begin" and e.step == name]
    ledger.entries.remove(begins[1])
    ledger.entries.insert(ledger.entries.index(begins[0]) + 1, begins[1])


def _count(ledger: Ledger, name: str) -> int:
    return sum(e.what == "begin" and e.step == name for e in ledger.entries)


def _answer_join_wrongly(plan: Plan, ledger: Ledger) -> None:
    entry = next(e for e in ledger.entries if e.what == "gather")
    entry.detail = [entry.tag] if entry.detail is None else None


def _lose_a_stream_event(plan: Plan, ledger: Ledger) -> None:
    seen = next(seen for seen in ledger.seen if seen)
    seen.pop()


def _lose_an_edit(plan: Plan, ledger: Ledger) -> None:
    ledger.edits += next(1 for _ in range(ledger.edits))


def _complete_without_a_stop(plan: Plan, ledger: Ledger) -> None:
    ledger.outcome = ("completed", object())


def _cut_off_for_nothing(plan: Plan, ledger: Ledger) -> None:
    told = {e.time for e in ledger.entries if e.what == "cancel_step"} | {e.time for e in ledger.entries[-5:]}
    end = next(e for e in ledger.entries if e.what == "end" and e.detail[0] == "returned" and e.time not in told)
    cut = copy.copy(end)
    cut.what = "cut off"
    ledger.entries.insert(ledger.entries.index(end), cut)


def _give_a_wait_something_else(plan: Plan, ledger: Ledger) -> None:
    entry = next(e for e in ledger.entries if e.what == "got" and e.detail[1] != "default")
    entry.detail = (entry.detail[0], -1)


def _answer_twice(plan: Plan, ledger: Ledger) -> None:
    entry = next(e for e in ledger.entries if e.what == "answer")
    ledger.entries.insert(ledger.entries.index(entry) + 1, copy.copy(entry))


def _lose_a_signal(plan: Plan, ledger: Ledger) -> None:
    waits = {(e.invocation, e.detail[0]): e for e in ledger.entries if e.what == "wait"}
    got = next(
        e for e in ledger.entries if e.what == "got" and waits[e.invocation, e.detail[0]].detail[1].what == "signal"
    )
    signal = next(e for e in ledger.entries if e.what == "signal" and e.detail[0] == got.detail[1])
    ledger.entries.remove(signal)


def _go_on_late(plan: Plan, ledger: Ledger) -> None:
    entry = next(e for e in ledger.entries if e.what == "got" and e.detail[1] != "default")
    for later in ledger.entries[ledger.entries.index(entry) :]:
        later.time += 1000.0


def _give_up_early(plan: Plan, ledger: Ledger) -> None:
    over = {(e.invocation, e.detail) for e in ledger.entries if e.what == "gave up"}
    entry = next(e for e in ledger.entries if e.what == "wait" and (e.invocation, e.detail[0]) in over)
    entry.time -= 0.125


def _take_a_refused_event(plan: Plan, ledger: Ledger) -> None:
    guards = {step.name: step.guard for step in plan.steps if step.guard is not None}
    entry = next(e for e in ledger.entries if e.what == "begin" and e.step in guards)
    plan.__dict__["steps"] = tuple(
        dataclasses.replace(step, guard=1 - (entry.tag % 2)) if step.name == entry.step else step for step in plan.steps
    )


def _warn(plan: Plan, ledger: Ledger) -> None:
    ledger.warnings = ["something odd"]


@pytest.mark.parametrize(
    "tamper",
    [
        _forget_last_delivery,
        _deliver_twice,
        _leave_one_running,
        _retry_once_more,
        _retry_too_early,
        _swap_numbers,
        _exceed_limit,
        _answer_join_wrongly,
        _lose_a_stream_event,
        _lose_an_edit,
        _complete_without_a_stop,
        _cut_off_for_nothing,
        _give_a_wait_something_else,
        _answer_twice,
        _lose_a_signal,
        _go_on_late,
        _give_up_early,
        _take_a_refused_event,
        _warn,
    ],
)
def test_the_invariants_notice_what_was_tampered_with(tamper: Callable[[Plan, Ledger], None]) -> None:
    found = 0
    for seed in range(300):
        plan = draw(seed)
        ledger = run_plan(plan)[0][0]
        if "is idle" not in str(ledger.outcome[1]) or list(faults(plan, ledger)):
            continue
        try:
            tamper(plan, ledger)
        except StopIteration:  # this run has nothing of the kind
            continue
        _renumber(ledger)
        assert list(faults(plan, ledger)), f"seed {seed}"
        found += 1
        if found == 3:
            return
    raise AssertionError("no run that could be tampered with")
