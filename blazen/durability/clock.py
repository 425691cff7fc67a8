"""Wall-clock time: what two processes agree on, roughly. Nothing is decided by it but when something is due."""

from __future__ import annotations

import time

from trio.lowlevel import current_clock

from blazen.engine.loop import SYSTEM_CLOCK

# Where a test's clock begins: 2026-01-01, so that moments look like moments.
_EPOCH = 1767225600.0


def wall_time() -> float:
    """Seconds since 1970, UTC; of a test's clock where one is in use."""
    clock = current_clock()
    return time.time() if type(clock) is SYSTEM_CLOCK else _EPOCH + clock.current_time()
