"""What `import blazen` costs a program."""

from __future__ import annotations

import compileall
import statistics
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import blazen
from benchmarks.conftest import Compared, Gate


def seconds_of(code: str) -> float:
    start = time.perf_counter()
    subprocess.run([sys.executable, "-c", code], check=True)
    return time.perf_counter() - start


def test_import(gate: Gate, benchmark: Any) -> None:
    # An installed package is compiled to bytecode, as trio is; a checkout need not be.
    assert compileall.compile_dir(Path(blazen.__file__).parent, quiet=1)

    def main() -> Compared:
        times: dict[str, list[float]] = {"pass": [], "import blazen": [], "import trio": []}
        for _ in range(15):
            for code, measured in times.items():
                measured.append(seconds_of(code))
        bare = statistics.median(times["pass"])
        return Compared(
            [seconds - bare for seconds in times["import blazen"]], [seconds - bare for seconds in times["import trio"]]
        )

    gate.check("import blazen / import trio", benchmark.pedantic(main, rounds=1, iterations=1), 0.35)
