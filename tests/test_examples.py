"""Each program in examples/ prints exactly what examples/expected/ says, and the tests among them pass."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
EXAMPLES = ROOT / "examples"
EXPECTED = sorted((EXAMPLES / "expected").glob("*.txt"))
# What `make run` runs; it reports times and sizes, and has tests of its own.
TESTED_ELSEWHERE = {"text_report"}
# It says how long the real killing of a real process took, for which a busy machine may need longer.
ATTEMPTS = {"killable_steps": 5}


def run(*arguments: str) -> subprocess.CompletedProcess[str]:
    path = os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH")]))
    return subprocess.run(
        [sys.executable, "-W", "error", *arguments],
        cwd=EXAMPLES,
        env={**os.environ, "PYTHONPATH": path, "PYTHONDONTWRITEBYTECODE": "1"},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        encoding="utf-8",
        timeout=120,
        check=False,
    )


def test_every_example_has_an_expected_output() -> None:
    scripts = {path.stem for path in EXAMPLES.glob("*.py") if not path.stem.startswith("test_")}
    assert {path.stem for path in EXPECTED} == scripts - TESTED_ELSEWHERE


def test_every_example_is_in_the_list_of_examples() -> None:
    page = (ROOT / "docs" / "examples.md").read_text(encoding="utf-8")
    assert sorted(re.findall(r"^\| \[(\w+\.py)\]\(\.\./examples/\1\)", page, re.MULTILINE)) == sorted(
        path.name for path in EXAMPLES.glob("*.py")
    )


@pytest.mark.parametrize("expected", EXPECTED, ids=lambda path: path.stem)
def test_an_example_prints_what_is_expected_of_it(expected: Path) -> None:
    wanted = expected.read_text(encoding="utf-8")
    done = run(f"{expected.stem}.py")
    for _ in range(ATTEMPTS.get(expected.stem, 1) - 1):
        if done.stdout != wanted:
            done = run(f"{expected.stem}.py")
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout == wanted


def test_the_tests_that_a_user_would_write_pass() -> None:
    done = run(
        *("-m", "pytest", "-q", "-p", "blazen.testing.plugin", "-p", "no:cacheprovider"),
        *("-c", os.devnull, "--rootdir", ".", "test_greeter.py"),
    )
    assert "8 passed" in done.stdout, done.stdout + done.stderr
