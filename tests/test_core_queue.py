"""The event queue against a list, and what happens when its memory runs out, alone and in a run."""

from __future__ import annotations

import gc
import weakref
from collections.abc import Iterator
from typing import Any

import pytest
import trio
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule
from reference.queue import ReferenceQueue
from trio.testing import MockClock, wait_all_tasks_blocked
from ways_to_run import every_way, run_to_end

from blazen import Context, Event, Retry, StartEvent, StopEvent, Workflow, step
from blazen._core.queue import EventQueue, fail_allocation_after
from blazen.errors import WorkflowError

NUMBERS = st.integers(0, 2**64 - 1)
ROUTES = st.integers(0, 2**32 - 1)
LARGEST_NUMBER, LARGEST_ROUTE = 2**64 - 1, 2**32 - 1


@pytest.fixture(autouse=True)
def _allocations_succeed_again() -> Iterator[None]:
    yield
    fail_allocation_after(0)


class Payload:
    pass


# ---- as a queue


class Queues(RuleBasedStateMachine):
    """Every call goes to the queue and to the list; both must say the same."""

    def __init__(self) -> None:
        super().__init__()
        self.queue = EventQueue()
        self.reference = ReferenceQueue()
        self.made = 0
        self.alive: list[weakref.ref[Payload]] = []

    def make(self) -> Payload:
        payload = Payload()
        self.alive.append(weakref.ref(payload))
        return payload

    @rule(seq=NUMBERS, route=ROUTES, count=st.sampled_from([1, 1, 1, 2, 7, 100, 600]))
    def put(self, seq: int, route: int, count: int) -> None:
        for _ in range(count):
            payload = self.make()
            self.queue.put_nowait(payload, seq, route)
            self.reference.put_nowait(payload, seq, route)

    @rule(seq=NUMBERS, route=ROUTES)
    def put_front(self, seq: int, route: int) -> None:
        payload = self.make()
        self.queue.put_front_nowait(payload, seq, route)
        self.reference.put_front_nowait(payload, seq, route)

    @rule(count=st.sampled_from([1, 1, 2, 8, 300, 2000]))
    def get(self, count: int) -> None:
        for _ in range(count):
            expected = self.reference.get_nowait()
            got = self.queue.get_nowait()
            assert got == expected
            if got is None:
                break
            assert expected is not None
            assert got[0] is expected[0]

    @rule()
    def clear(self) -> None:
        self.queue.clear()
        self.reference.clear()

    @rule(after=st.integers(1, 3), front=st.booleans())
    def put_without_memory(self, after: int, front: bool) -> None:
        """Whichever allocation fails, the queue is as it was."""
        fail_allocation_after(after)
        try:
            for _ in range(40):
                payload = self.make()
                if front:
                    self.queue.put_front_nowait(payload, 1, 2)
                    self.reference.put_front_nowait(payload, 1, 2)
                else:
                    self.queue.put_nowait(payload, 1, 2)
                    self.reference.put_nowait(payload, 1, 2)
        except MemoryError:
            pass
        finally:
            fail_allocation_after(0)

    @invariant()
    def same_length(self) -> None:
        assert len(self.queue) == len(self.reference)

    @invariant()
    def holds_exactly_what_is_queued(self) -> None:
        self.alive = [ref for ref in self.alive if ref() is not None]
        assert len(self.alive) == len(self.reference)

    def teardown(self) -> None:
        while (expected := self.reference.get_nowait()) is not None:
            assert self.queue.get_nowait() == expected
        assert self.queue.get_nowait() is None
        super().teardown()


TestQueues = Queues.TestCase


def test_an_empty_queue_gives_none_also_after_use() -> None:
    queue = EventQueue()
    assert queue.get_nowait() is None
    queue.put_nowait("a")
    assert queue.get_nowait() == ("a", 0, 0)
    assert queue.get_nowait() is None
    assert len(queue) == 0


def test_none_can_be_queued() -> None:
    queue = EventQueue()
    queue.put_nowait(None, 1, 2)
    assert queue.get_nowait() == (None, 1, 2)


def test_the_largest_numbers_come_back_and_larger_ones_are_refused() -> None:
    queue = EventQueue()
    queue.put_nowait("a", LARGEST_NUMBER, LARGEST_ROUTE)
    assert queue.get_nowait() == ("a", LARGEST_NUMBER, LARGEST_ROUTE)
    for seq, route in [(LARGEST_NUMBER + 1, 0), (0, LARGEST_ROUTE + 1), (-1, 0), (0, -1)]:
        with pytest.raises(OverflowError):
            queue.put_nowait("a", seq, route)
    assert len(queue) == 0


def test_a_queued_event_in_a_cycle_with_its_queue_is_collected() -> None:
    queue = EventQueue()
    payload = Payload()
    payload.queue = queue  # type: ignore[attr-defined]
    queue.put_nowait(payload)
    gone = weakref.ref(payload)
    del payload, queue
    gc.collect()
    assert gone() is None


def test_finalisers_may_use_the_queue_that_drops_their_objects() -> None:
    queue = EventQueue()
    lengths: list[int] = []

    class Nosy:
        def __del__(self) -> None:
            lengths.append(len(queue))
            if len(lengths) == 1:
                queue.put_nowait("left by the finaliser")

    for _ in range(3):
        queue.put_nowait(Nosy())
    queue.clear()
    gc.collect()
    assert len(lengths) == 3
    assert queue.get_nowait() == ("left by the finaliser", 0, 0)
    assert queue.get_nowait() is None


@pytest.mark.slow
def test_a_million_events_come_out_in_their_order() -> None:
    queue = EventQueue()
    count = 1_000_000
    for n in range(count):
        queue.put_nowait(n, n, n % 7)
    assert len(queue) == count
    assert all(queue.get_nowait() == (n, n, n % 7) for n in range(count))
    assert queue.get_nowait() is None


@pytest.mark.parametrize("queued", [0, 1, 7, 8, 9, 64])
@pytest.mark.parametrize("allocation", [1, 2])
def test_a_queue_without_memory_says_so_is_unchanged_and_works_again(queued: int, allocation: int) -> None:
    queue = EventQueue()
    for n in range(queued):
        queue.put_nowait(n, n)
    added = 0

    def put_many() -> None:
        nonlocal added
        for _ in range(1000):
            queue.put_nowait("new", queued + added)
            added += 1

    fail_allocation_after(allocation)
    with pytest.raises(MemoryError, match="queue"):
        put_many()
    assert len(queue) == queued + added
    queue.put_nowait("last")
    items = []
    while (entry := queue.get_nowait()) is not None:
        items.append(entry[0])
    assert items == [*range(queued), *["new"] * added, "last"]


# ---- in a run


class Part(Event):
    n: int = 0


@step
async def fan(ev: StartEvent) -> list[Part]:
    fail_allocation_after(1)
    return [Part(n=n) for n in range(1000)]


@step
async def take(ctx: Context, ev: Part) -> StopEvent | None:
    return StopEvent(result="all") if ctx.collect_events(ev, 1000) else None


def is_out_of_memory(error: WorkflowError) -> bool:
    return isinstance(error.__cause__, MemoryError) and "MemoryError" in str(error) and error.run_id is not None


async def still_works(way: str) -> bool:
    """Whether a run on the same loop goes well afterwards."""

    @step
    async def begin(ev: StartEvent) -> list[Part]:
        return [Part(n=n) for n in range(1000)]

    return (await run_to_end(way, [begin, take])).result == "all"


@every_way
async def test_a_run_whose_queue_cannot_grow_fails_naming_the_step(way: str) -> None:
    with pytest.raises(WorkflowError, match="'fan'") as caught:
        await run_to_end(way, [fan, take])
    assert is_out_of_memory(caught.value)
    assert caught.value.step == "fan"
    assert await still_works(way)


@every_way
@pytest.mark.parametrize("allocation", [1, 2])
async def test_a_run_whose_first_event_cannot_be_queued_fails(way: str, allocation: int) -> None:
    ran: list[str] = []

    def one(name: str) -> Any:
        @step(name=name)
        async def body(ev: StartEvent) -> StopEvent | None:
            ran.append(name)
            return None

        return body

    steps = [one("a"), one("b"), one("c")]
    Workflow("w", steps)
    fail_allocation_after(allocation)
    with pytest.raises(WorkflowError) as caught:
        await run_to_end(way, steps)
    assert is_out_of_memory(caught.value)
    assert ran == []
    assert await still_works(way)


@every_way
async def test_siblings_are_out_before_a_run_without_memory_fails(way: str) -> None:
    log: list[str] = []

    @step
    async def begin(ev: StartEvent) -> list[Part]:
        return [Part(n=n) for n in range(3)]

    @step
    async def work(ev: Part) -> list[Part] | StopEvent:
        if ev.n == 2:
            await wait_all_tasks_blocked()
            fail_allocation_after(1)
            return [Part(n=9) for _ in range(1000)]
        try:
            await trio.sleep_forever()
        finally:
            log.append(f"{ev.n} out")
        return StopEvent()

    with pytest.raises(WorkflowError, match="'work'") as caught:
        await run_to_end(way, [begin, work])
    assert is_out_of_memory(caught.value)
    assert sorted(log) == ["0 out", "1 out"]


@every_way
async def test_a_step_that_sends_without_memory_gets_the_error_and_may_go_on(way: str) -> None:
    @step
    async def sends(ctx: Context, ev: StartEvent) -> StopEvent:
        def send_many() -> None:
            for _ in range(1000):
                ctx.send_event(Part())

        fail_allocation_after(1)
        with pytest.raises(MemoryError):
            send_many()
        return StopEvent(result="went on")

    @step
    async def takes(ev: Part) -> None:
        return None

    assert (await run_to_end(way, [sends, takes])).result == "went on"


async def test_an_event_posted_by_a_thread_that_cannot_be_queued_fails_the_run_not_the_loop() -> None:
    @step(run="thread")
    def sends(ctx: Context, ev: StartEvent) -> StopEvent | None:
        fail_allocation_after(1)
        for _ in range(100):
            ctx.send_event(Part())
        return None

    @step
    async def takes(ev: Part) -> None:
        await trio.sleep_forever()

    with pytest.raises(WorkflowError) as caught:
        await Workflow("w", [sends, takes]).run()
    assert is_out_of_memory(caught.value)
    assert await still_works("run")


@every_way
async def test_a_retry_that_cannot_be_queued_fails_the_run(way: str, autojump_clock: MockClock) -> None:
    first_attempts = 0

    @step
    async def begin(ctx: Context, ev: StartEvent) -> StopEvent:
        for n in range(20):  # one after the other, so that the queue has no room for all at once
            ctx.send_event(Part(n=n))
            while first_attempts <= n:
                await trio.lowlevel.checkpoint()
        fail_allocation_after(1)
        await trio.sleep_forever()
        return StopEvent()

    @step(retries=Retry(1, initial=1.0, jitter=0.0))
    async def fails(ctx: Context, ev: Part) -> None:
        nonlocal first_attempts
        if ctx.attempt == 1:
            first_attempts += 1
            raise OSError

    with pytest.raises(WorkflowError) as caught:
        await run_to_end(way, [begin, fails])
    assert isinstance(caught.value.__cause__, MemoryError)
    assert await still_works(way)


async def test_an_event_from_outside_that_cannot_be_queued_leaves_the_run_undisturbed() -> None:
    @step
    async def begin(ev: StartEvent) -> StopEvent:
        await trio.sleep_forever()
        return StopEvent()

    @step
    async def takes(ctx: Context, ev: Part) -> StopEvent | None:
        return StopEvent(result="all") if ctx.collect_events(ev, 10) else None

    async with Workflow("w", [begin, takes]).run_with_handler() as handler:
        await wait_all_tasks_blocked()
        sent = 0
        fail_allocation_after(1)
        while sent < 10:
            try:
                handler.send_event(Part(n=sent))
            except MemoryError:
                continue
            sent += 1
        assert (await handler.result()).result == "all"
