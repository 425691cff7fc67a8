"""Threads that do not stop when they are told to: their run ends without them, and is freed once they have ended."""

from __future__ import annotations

import threading

import trio
from counting import Carries, Payload, check_that_nothing_survives, expect

from blazen import CancelledError, Context, StartEvent, StopEvent, TimeoutError, Workflow, step


async def scenario() -> None:
    release = threading.Event()
    refused: list[str] = []
    ended = trio.Event()
    token = trio.lowlevel.current_trio_token()

    @step
    def begin(ev: StartEvent) -> Carries:
        return Carries(payload=Payload())

    @step(run="thread", timeout=0.01)
    def stubborn(ctx: Context, ev: Carries) -> StopEvent:
        release.wait()
        try:
            ctx.set("late", 1)
        except CancelledError as error:
            refused.append(str(error))
        del ctx, ev
        token.run_sync_soon(ended.set)
        return StopEvent(result=Payload())

    await expect(TimeoutError, Workflow("stubborn", [begin, stubborn], cleanup_grace=0.01).run)
    assert not refused
    release.set()
    await ended.wait()
    assert len(refused) == 1
    while trio.to_thread.current_default_thread_limiter().borrowed_tokens:
        await trio.lowlevel.checkpoint()


check_that_nothing_survives(scenario)
