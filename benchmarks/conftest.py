"""What the benchmarks share: two ways through the same work, taken in turn, and the ratio of their times.

A number in seconds says something about this machine, now. A ratio of two things timed in turn in one process says
something about the code. Each gate is such a ratio, and each benchmark first checks that the work was really done.
"""

from __future__ import annotations

import gc
import statistics
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any

import pytest
import trio


@dataclass
class Compared:
    """Times of `ours` and of the yardstick, in seconds for one round each."""

    ours: list[float]
    yardstick: list[float]

    @property
    def ratio(self) -> float:
        """The median of our times over the median of the yardstick's."""
        return statistics.median(self.ours) / statistics.median(self.yardstick)

    @property
    def best(self) -> float:
        """Our fastest round over the yardstick's fastest: what is left when the machine's other work is taken out."""
        return min(self.ours) / min(self.yardstick)


class Gate:
    """Compares, hands the times to pytest-benchmark, and fails above the limit."""

    def __init__(self, benchmark: Any) -> None:
        self._benchmark = benchmark

    def check(self, name: str, compared: Compared, target: float, *, limit: float | None = None) -> None:
        """Report, and fail if the ratio is above the limit. The better ratio of the two counts: noise only adds.

        Args:
            target: What the ratio should be at most.
            limit: What it must be at most, where the target has not been reached yet; `docs/performance.md` says why.
        """
        ratio = min(compared.ratio, compared.best)
        missed = "" if limit is None else f", target {target:g} x"
        limit = target if limit is None else limit
        self._benchmark.extra_info.update(ratio=round(ratio, 3), target=target, limit=limit)
        print(
            f"\n{name}: {ratio:.2f} x (at most {limit:g} x{missed}); medians "
            f"{statistics.median(compared.ours) * 1e6:.1f} us and {statistics.median(compared.yardstick) * 1e6:.1f} us"
        )
        assert ratio <= limit, f"{name}: {ratio:.3f} times the yardstick, at most {limit} is allowed"

    async def compare(
        self,
        ours: Callable[[], Awaitable[object]],
        yardstick: Callable[[], Awaitable[object]],
        *,
        rounds: int = 30,
        repeat: int = 1,
    ) -> Compared:
        """Time both in turn, after a warm-up, with the garbage of one collected before the other."""
        compared = Compared([], [])
        for _ in range(3):
            await ours()
            await yardstick()
        for _ in range(rounds):
            for fn, times in ((ours, compared.ours), (yardstick, compared.yardstick)):
                gc.collect()
                start = time.perf_counter()
                for _ in range(repeat):
                    await fn()
                times.append((time.perf_counter() - start) / repeat)
        return compared

    def run(self, main: Callable[[], Awaitable[Compared]]) -> Compared:
        """Run `main` in trio as the one round that pytest-benchmark sees."""
        return self.call(lambda: trio.run(main))

    def call(self, main: Callable[[], Compared]) -> Compared:
        """Call `main` as that round, where it makes its own loops."""
        result: list[Compared] = []

        def once() -> None:
            result.append(main())

        self._benchmark.pedantic(once, rounds=1, iterations=1)
        return result[0]


@pytest.fixture
def gate(benchmark: Any) -> Gate:
    """The comparison of this benchmark."""
    return Gate(benchmark)
