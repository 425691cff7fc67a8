"""Runs every example as a user would, and compares what it prints with `examples/expected/`."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
EXAMPLES = ROOT / "examples"
SCRIPTS = sorted(path.stem for path in EXAMPLES.glob("*.py"))
# `make run`; it reports times and sizes, and has tests of its own.
TESTED_ELSEWHERE = {"text_report"}


def test_every_example_has_an_expected_output() -> None:
    expected = {path.stem for path in (EXAMPLES / "expected").glob("*.txt")}
    assert expected == set(SCRIPTS) - TESTED_ELSEWHERE


@pytest.mark.parametrize("name", [name for name in SCRIPTS if name not in TESTED_ELSEWHERE])
def test_an_example_prints_what_it_promises(name: str, tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-W", "error", str(EXAMPLES / f"{name}.py")],
        capture_output=True,
        encoding="utf-8",
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(ROOT), "PYTHONIOENCODING": "utf-8"},
        timeout=60,
        check=False,
    )
    assert done.stderr == ""
    assert done.returncode == 0
    assert done.stdout == (EXAMPLES / "expected" / f"{name}.txt").read_text(encoding="utf-8")
