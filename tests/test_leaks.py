"""Nothing of a run outlives it, and memory does not grow: each scenario is a script in a process of its own."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

SCRIPTS = Path(__file__).parent / "leaks"
SOURCES = SCRIPTS.parents[1]

KEEPS_A_PAYLOAD = """
from counting import Payload, check_that_nothing_survives
kept = []
async def scenario():
    kept.append(Payload())
check_that_nothing_survives(scenario)
"""

KEEPS_A_CONTEXT = """
from blazen import Context, StartEvent, StopEvent, Workflow, step
from counting import check_that_nothing_survives
kept = []
@step
def keep(ctx: Context, ev: StartEvent) -> StopEvent:
    kept[:] = [ctx]
    return StopEvent()
async def scenario():
    await Workflow("keeps", [keep]).run()
check_that_nothing_survives(scenario)
"""

KEEPS_MEMORY = """
from counting import MIB, check_memory
kept = []
check_memory(lambda: kept.append(bytearray(b"x" * (2 * MIB))), warm_up=lambda: None, most=MIB)
"""


def run_python(*arguments: str) -> subprocess.CompletedProcess[str]:
    paths = [str(SOURCES), str(SCRIPTS), str(SCRIPTS.parent)]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(paths), "PYTHONWARNINGS": "error::ResourceWarning"}
    return subprocess.run(
        [sys.executable, *arguments], env=environment, capture_output=True, text=True, timeout=600, check=False
    )


@pytest.mark.parametrize(
    "script", ["completed", "failed", "cancelled", "timed_out", "left_early", "reader_abandoned", "thread_abandoned"]
)
def test_nothing_survives_a_run_that_was(script: str) -> None:
    done = run_python(str(SCRIPTS / f"{script}.py"))
    assert (done.returncode, done.stderr) == (0, "")


def test_an_emptied_queue_gives_its_memory_back() -> None:
    done = run_python(str(SCRIPTS / "queue_peak.py"))
    assert (done.returncode, done.stderr) == (0, "")


@pytest.mark.slow
@pytest.mark.parametrize("script", ["many_runs", "many_watched_runs", "many_steps"])
def test_memory_stays_flat_over(script: str) -> None:
    done = run_python(str(SCRIPTS / f"{script}.py"))
    assert (done.returncode, done.stderr) == (0, "")


@pytest.mark.parametrize("script", ["process_steps", "process_killed"])
def test_process_steps_leave_nothing_behind(script: str) -> None:
    if os.environ.get("BLAZEN_REQUIRE_ALL") != "1":
        pytest.importorskip("trio_parallel")
    done = run_python(str(SCRIPTS / f"{script}.py"))
    assert (done.returncode, done.stderr) == (0, "")


@pytest.mark.parametrize(
    ("leak", "said"),
    [(KEEPS_A_PAYLOAD, "'Payload': 6"), (KEEPS_A_CONTEXT, "'Context': 1"), (KEEPS_MEMORY, "memory grew by 2.")],
)
def test_what_is_kept_is_noticed(leak: str, said: str) -> None:
    done = run_python("-c", leak)
    assert done.returncode == 1
    assert said in done.stderr
