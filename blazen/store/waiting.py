"""Waiting in trio for what a thread of a store does."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeAlias, TypeVar

import outcome
import trio

T = TypeVar("T")

Settle: TypeAlias = Callable[[T | None, BaseException | None], None]


async def wait_for(start: Callable[[Settle[T]], None], undo: Callable[[T], None] | None = None) -> T:
    """Call `start` with a function that it has to call once, from any thread, and wait until it has.

    Whoever waits can be cancelled at once. What was started goes on: a write that was submitted is still written.

    Args:
        start: Begins the work. It must not wait.
        undo: Called with the result, from any thread, when there is nobody any more whom it could be given to.
    """
    task = trio.lowlevel.current_task()
    token = trio.lowlevel.current_trio_token()
    given_up = False

    def settle(result: Any, error: BaseException | None) -> None:
        def hand_over() -> None:
            if not given_up:
                trio.lowlevel.reschedule(task, outcome.Value(result) if error is None else outcome.Error(error))
            elif error is None and undo is not None:
                undo(result)

        try:
            token.run_sync_soon(hand_over)
        except trio.RunFinishedError:  # nobody waits who has not been cancelled
            if error is None and undo is not None:
                undo(result)

    def give_up(_: object) -> trio.lowlevel.Abort:
        nonlocal given_up
        given_up = True
        return trio.lowlevel.Abort.SUCCEEDED

    start(settle)
    result: T = await trio.lowlevel.wait_task_rescheduled(give_up)
    return result
