"""The door for other threads of one trio loop: what happens when it is full, and when the loop has gone."""

from __future__ import annotations

import threading

import pytest
import trio

from blazen.engine import loop as loop_module
from blazen.engine.loop import loop_state
from blazen.errors import ValidationError


async def test_a_thread_that_finds_the_ring_full_waits_for_the_loop_and_loses_nothing() -> None:
    state = loop_state()
    arrived: list[int] = []
    posted = threading.Event()
    count = loop_module.INGRESS_CAPACITY + 50

    def post() -> None:
        for number in range(count):
            state.post(lambda number=number: arrived.append(number))
            if number == loop_module.INGRESS_CAPACITY - 1:
                posted.set()

    thread = threading.Thread(target=post)
    thread.start()
    posted.wait()  # the loop is held here until the ring is full; the thread goes on when it is emptied
    while len(arrived) < count:
        await trio.lowlevel.checkpoint()
    thread.join()
    assert arrived == list(range(count))


def test_a_post_to_a_loop_that_has_ended_is_refused() -> None:
    async def main() -> loop_module.LoopState:
        return loop_state()

    state = trio.run(main)
    for _ in range(2):
        with pytest.raises(ValidationError, match="event loop of this run has ended"):
            state.post(lambda: None)
