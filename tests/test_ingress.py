"""The door for other threads: a bounded ring, one wake-up each time there is something to fetch."""

from __future__ import annotations

import gc
import threading
import weakref
from collections.abc import Callable

import pytest

from blazen._core.ingress import CLOSED, FULL, POSTED, Ingress


class Bell:
    """Counts wake-ups; one thread may wait for the next."""

    def __init__(self) -> None:
        self.rung = 0
        self._signal = threading.Semaphore(0)

    def __call__(self) -> None:
        self.rung += 1
        self._signal.release()

    def wait(self) -> None:
        assert self._signal.acquire(timeout=60), "nobody rang"


def in_threads(count: int, work: Callable[[int], None]) -> list[threading.Thread]:
    threads = [threading.Thread(target=work, args=(n,)) for n in range(count)]
    for thread in threads:
        thread.start()
    return threads


def test_what_was_posted_is_drained_in_its_order_as_the_very_objects() -> None:
    door = Ingress(8, Bell())
    items = [object() for _ in range(5)]
    assert [door.post(item) for item in items] == [POSTED] * 5
    assert all(one is other for one, other in zip(door.drain(), items, strict=True))
    assert door.drain() == []


def test_the_first_post_rings_and_the_others_do_not_until_it_was_drained() -> None:
    bell = Bell()
    door = Ingress(8, bell)
    for _ in range(3):
        door.post(1)
    assert bell.rung == 1
    door.drain()
    assert bell.rung == 1
    door.post(2)
    door.post(3)
    assert bell.rung == 2


def test_a_full_door_refuses_and_keeps_what_it_has() -> None:
    door = Ingress(4, Bell())
    assert [door.post(n) for n in range(6)] == [POSTED] * 4 + [FULL] * 2
    assert door.drain() == [0, 1, 2, 3]
    assert door.post(6) == POSTED
    assert door.drain() == [6]


@pytest.mark.parametrize("capacity", [1, 2, 64])
def test_the_ring_goes_round_any_number_of_times(capacity: int) -> None:
    door = Ingress(capacity, Bell())
    for start in range(0, 1000, capacity):
        assert [door.post(n) for n in range(start, start + capacity)] == [POSTED] * capacity
        assert door.post("one more") == FULL
        assert door.drain() == list(range(start, start + capacity))


def test_a_closed_door_refuses_and_gives_out_what_is_inside() -> None:
    door = Ingress(4, Bell())
    door.post(1)
    door.close()
    door.close()
    assert door.post(2) == CLOSED
    assert door.drain() == [1]
    assert door.post(3) == CLOSED
    assert door.drain() == []


def test_a_refused_item_and_a_drained_one_are_let_go() -> None:
    class Item:
        pass

    door = Ingress(1, Bell())
    kept, refused = Item(), Item()
    alive = [weakref.ref(kept), weakref.ref(refused)]
    assert [door.post(kept), door.post(refused)] == [POSTED, FULL]
    del kept, refused
    gc.collect()
    assert [ref() is None for ref in alive] == [False, True]
    door.drain()
    gc.collect()
    assert [ref() is None for ref in alive] == [True, True]


def test_an_error_of_the_bell_reaches_the_poster_and_the_item_stays() -> None:
    def broken() -> None:
        raise OSError("no bell")

    door = Ingress(4, broken)
    with pytest.raises(OSError, match="no bell"):
        door.post(1)
    assert door.drain() == [1]


@pytest.mark.parametrize("capacity", [0, 3, 2**32 - 1])
def test_a_capacity_that_is_no_power_of_two_is_refused(capacity: int) -> None:
    with pytest.raises((MemoryError, ValueError)):
        Ingress(capacity, Bell())


def test_nothing_is_lost_or_doubled_between_many_threads_and_one_drainer() -> None:
    threads, per_thread = 6, 5000
    bell = Bell()
    door = Ingress(32, bell)  # small, so that it is full most of the time

    room = threading.Semaphore(0)

    def post(thread: int) -> None:
        for n in range(per_thread):
            while door.post((thread, n)) == FULL:
                assert room.acquire(timeout=60), "nobody made room"

    posters = in_threads(threads, post)
    got: list[tuple[int, int]] = []
    while len(got) < threads * per_thread:
        bell.wait()  # a lost wake-up would be waited for without end
        got.extend(door.drain())
        room.release(threads)
    for poster in posters:
        poster.join()
    assert door.drain() == []
    for thread in range(threads):
        assert [n for sender, n in got if sender == thread] == list(range(per_thread))


def test_every_post_before_the_close_comes_out_and_none_after_it() -> None:
    door = Ingress(1 << 16, Bell())
    accepted = [0] * 4
    begun = threading.Barrier(5)

    def post(thread: int) -> None:
        begun.wait()
        while door.post(thread) == POSTED:
            accepted[thread] += 1
            if accepted[thread] >= 10_000:
                return

    posters = in_threads(4, post)
    begun.wait()
    got = door.drain()
    door.close()
    for poster in posters:
        poster.join()
    got += door.drain()
    assert [got.count(thread) for thread in range(4)] == accepted
