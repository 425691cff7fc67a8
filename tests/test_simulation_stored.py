"""Random runs that are stored and crash, fail, wait and move at random moments: nothing is lost or done twice.

Environment:
    BLAZEN_SIMULATION_SEEDS: how many seeds are tried; 2,000 if it is not set.
    BLAZEN_SIMULATION_FIRST: the first of them; 0 if it is not set.
    BLAZEN_SIMULATION_SEED: this one alone, to replay a failure.
"""

from __future__ import annotations

import collections
import os
from collections.abc import Sequence

import pytest
from simulation.stored import WAYS, draw, faults, run_plan

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


def judge(seed: int) -> str:
    """What is wrong with a seed; empty if nothing is."""
    plan = draw(seed)
    book = run_plan(plan)
    found = faults(plan, book)
    if seed % 20 == 0 and book.trace != run_plan(plan).trace:
        found.append("the second trace differs")
    if not found:
        return ""
    replay = f"BLAZEN_SIMULATION_SEED={seed} python -m pytest -q tests/test_simulation_stored.py"
    return "\n".join([f"seed {seed}; replay with: {replay}", *found, str(plan), *book.trace])


@pytest.mark.simulation
@pytest.mark.parametrize("block", blocks(), ids=lambda block: f"seeds {block[0]} to {block[-1]}")
def test_no_event_is_lost_and_nothing_committed_is_done_again(block: Sequence[int]) -> None:
    failed = [text for text in map(judge, block) if text]
    if failed:
        others = [text.partition(";")[0] for text in failed[SHOWN:]]
        pytest.fail("\n\n".join(failed[:SHOWN]) + f"\n\n{len(failed)} seeds failed; also {others}", pytrace=False)


def test_the_plans_reach_every_way_and_many_attempts() -> None:
    ways: collections.Counter[str] = collections.Counter()
    again = effects = 0
    for seed in range(200):
        book = run_plan(draw(seed))
        ways.update(book.ways)
        again += sum(len(attempts) > 1 for attempts in book.begun.values())
        effects += sum(book.effects.values())
    assert set(ways) - {"go on"} == {*WAYS, "run", "resume", "recover", "serve"}
    assert min(ways.values()) >= 10
    assert again >= 100
    assert effects >= 50
