"""Fails when the tests reach too little: lines of the compiled core, branches of the engine.

Usage: coverage_gate.py COVERAGE_JSON
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

AT_LEAST = 95.0


def percent(files: dict[str, dict[str, dict[str, int]]], room: str, covered: str, total: str) -> float | None:
    """What part of `total` in the files of `room` is `covered`, in percent; None if nothing there was measured."""
    summaries = [entry["summary"] for name, entry in files.items() if name.startswith(room)]
    whole = sum(summary[total] for summary in summaries)
    return 100.0 * sum(summary[covered] for summary in summaries) / whole if whole else None


def main(report: str) -> int:
    """Print the two numbers and return the exit status."""
    files = json.loads(Path(report).read_text())["files"]
    measured = {
        "lines of blazen/_core": percent(files, "blazen/_core/", "covered_lines", "num_statements"),
        "branches of blazen/engine": percent(files, "blazen/engine/", "covered_branches", "num_branches"),
    }
    enough = True
    for what, value in measured.items():
        if value is None:
            # Also how a build without line tracing shows: no number is a failure, never a pass.
            print(f"{what}: nothing was measured")
            enough = False
        else:
            print(f"{what}: {value:.1f} % (at least {AT_LEAST:.0f} %)")
            enough = enough and value >= AT_LEAST
    return 0 if enough else 1


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
