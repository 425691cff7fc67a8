"""`make run-approval`: a run that asks a person, is killed while it waits, and goes on."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.terminal import Terminal

SCRIPT = Path(__file__).resolve().parent.parent / "examples" / "approval.py"


def environment(**variables: str) -> dict[str, str]:
    kept = {name: value for name, value in os.environ.items() if name != "ANSWER"}
    return {**kept, "PYTHONIOENCODING": "utf-8", **variables}


def outline(answer: str, result: str) -> str:
    return (
        "1. A process starts a run, which asks and waits.\n"
        "    step look_up: the price of bolts\n"
        "    step ask: a person has to decide\n"
        "2. The process is killed: kill -9. Another one asks you.\n"
        "    in the store: run 0b7d3c52 of 'buying' is waiting, its owner is dead\n"
        f"    Buy 120 bolts for 510.00? [yes/no] {answer}\n"
        "3. A third one continues the run. What was finished does not run again.\n"
        f"    step decide: the answer is '{answer}'\n"
        f"    result: {result}\n"
    )


@pytest.mark.parametrize(
    ("variables", "answer", "result"),
    [
        ({"ANSWER": "yes"}, "yes", "120 bolts: bought"),
        ({"ANSWER": "no"}, "no", "120 bolts: not bought"),
        ({}, "no", "120 bolts: not bought"),
    ],
    ids=["yes", "no", "unsaid"],
)
def test_without_a_terminal_the_answer_is_that_of_the_environment(
    variables: dict[str, str], answer: str, result: str, tmp_path: Path
) -> None:
    for _ in range(2):
        done = subprocess.run(
            [sys.executable, str(SCRIPT)],
            stdin=subprocess.DEVNULL,
            capture_output=True,
            encoding="utf-8",
            cwd=tmp_path,
            env=environment(**variables),
            timeout=60,
            check=False,
        )
        assert (done.returncode, done.stderr, done.stdout) == (0, "", outline(answer, result))
    assert list(tmp_path.iterdir()) == []


def test_at_a_terminal_the_person_is_asked(tmp_path: Path) -> None:
    with Terminal([sys.executable, str(SCRIPT)], cwd=tmp_path, env=environment(ANSWER="no")) as terminal:
        terminal.read_until("Buy 120 bolts for 510.00? [yes/no] ")
        terminal.type("yes\n")
        assert terminal.end() == 0
        assert terminal.text == outline("yes", "120 bolts: bought")
