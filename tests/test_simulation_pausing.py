"""Random runs that are paused, written down and resumed at random moments: nothing is lost, nothing is done twice.

Environment:
    BLAZEN_SIMULATION_SEEDS: how many seeds are tried; 200 if it is not set.
    BLAZEN_SIMULATION_FIRST: the first of them; 0 if it is not set.
    BLAZEN_SIMULATION_SEED: this one alone, to replay a failure.
"""

from __future__ import annotations

import collections
import os
from collections.abc import Sequence

import pytest
from simulation.pausing import WAYS, draw, faults, run_plan

BLOCK = 100
SHOWN = 3  # failing seeds of a block that are shown in full


def seeds() -> Sequence[int]:
    if os.environ.get("BLAZEN_SIMULATION_SEED"):
        return [int(os.environ["BLAZEN_SIMULATION_SEED"])]
    first = int(os.environ.get("BLAZEN_SIMULATION_FIRST") or 0)
    return range(first, first + int(os.environ.get("BLAZEN_SIMULATION_SEEDS") or 200))


def blocks() -> list[Sequence[int]]:
    every = seeds()
    return [every[start : start + BLOCK] for start in range(0, len(every), BLOCK)]


def judge(seed: int) -> str:
    """What is wrong with a seed; empty if nothing is."""
    plan = draw(seed)
    calm = run_plan(plan, disturbed=False)
    ledger, again = run_plan(plan), run_plan(plan)
    found = [f"undisturbed: {fault}" for fault in faults(plan, calm)] + faults(plan, ledger)
    if ledger.result != calm.result:
        found.append("the result is not that of the undisturbed run")
    if ledger.trace != again.trace:
        found.append("the second trace differs")
    if not found:
        return ""
    replay = f"BLAZEN_SIMULATION_SEED={seed} python -m pytest -q tests/test_simulation_pausing.py"
    return "\n".join([f"seed {seed}; replay with: {replay}", *found, str(plan), *ledger.trace])


@pytest.mark.simulation
@pytest.mark.parametrize("block", blocks(), ids=lambda block: f"seeds {block[0]} to {block[-1]}")
def test_nothing_is_lost_or_done_twice_and_the_result_is_that_of_the_undisturbed_run(block: Sequence[int]) -> None:
    failed = [text for text in map(judge, block) if text]
    if failed:
        others = [text.partition(";")[0] for text in failed[SHOWN:]]
        pytest.fail("\n\n".join(failed[:SHOWN]) + f"\n\n{len(failed)} seeds failed; also {others}", pytrace=False)


def test_the_plans_reach_every_way_and_many_attempts() -> None:
    ways: collections.Counter[str] = collections.Counter()
    again = 0
    for seed in range(100):
        ledger = run_plan(draw(seed))
        ways.update(ledger.ways)
        again += sum(len(attempts) > 1 for attempts in ledger.begun.values())
    assert set(ways) == set(WAYS)
    assert min(ways.values()) >= 10
    assert again >= 50


def test_a_ledger_that_was_tampered_with_is_found_out() -> None:
    plan = draw(1)
    name = plan.roots[0]
    ledger = run_plan(plan)
    assert faults(plan, ledger) == []
    ledger.finished[name] = 2
    ledger.begun[name] = [1, 3]
    ledger.tokens += 1
    ledger.result = None
    assert len(faults(plan, ledger)) == 4
