"""Random workflows, with and without a record: recording changes nothing, and the record accounts for every attempt."""

from __future__ import annotations

import collections
from collections.abc import Sequence

import pytest
from simulation.ledger import Ledger
from simulation.plans import draw
from simulation.trial import run_plan, trace_of

from blazen.record import RunRecord

SEEDS = 200
BLOCK = 50


def faults(ledger: Ledger) -> list[str]:
    """Where the record of a run is not what the run's own ledger says."""
    record = ledger.record
    if record is None:  # trio's own cancellation came out, which carries none
        return [] if ledger.outcome[0] == "left" else ["there is no record"]
    found = []
    if RunRecord.from_json(record.to_json()) != record:
        found.append("it is another record after JSON")
    if record.state != ledger.outcome[0]:
        found.append(f"state {record.state!r} instead of {ledger.outcome[0]!r}")
    noted: collections.Counter[tuple[str, int]] = collections.Counter()
    for entry in ledger.entries:
        if entry.what in ("begin", "handle"):
            noted[entry.step, 0 if entry.what == "handle" else entry.attempt] += 1
    kept: collections.Counter[tuple[str, int]] = collections.Counter()
    for invocation in record.invocations:
        for number, attempt in enumerate(invocation.attempts, start=1):
            kept[invocation.step, 0 if attempt.handler else number] += 1
            if attempt.ended is None or attempt.outcome == "running":
                found.append(f"{invocation.step} on {invocation.event} never ended")
            if attempt.outcome == "cancelled" and attempt.stopped is None:
                found.append(f"nobody had {invocation.step} on {invocation.event} stop")
    if noted != kept:
        found.append(f"attempts {kept - noted} too many, {noted - kept} missing")
    return found


@pytest.mark.simulation
@pytest.mark.parametrize(
    "block", [range(n, n + BLOCK) for n in range(0, SEEDS, BLOCK)], ids=lambda block: str(block[0])
)
def test_recording_changes_nothing_and_accounts_for_every_attempt(block: Sequence[int]) -> None:
    wrong: list[str] = []
    for seed in block:
        plan = draw(seed)
        (plain,) = run_plan(plan)
        (recorded,) = run_plan(plan, record=True)
        if trace_of(plain) != trace_of(recorded):
            wrong.append(f"seed {seed}: another trace")
        wrong += [f"seed {seed}: {fault}" for ledger in recorded for fault in faults(ledger)]
    assert wrong == []
