"""`ctx.collect_events`: joins by number and by types."""

from __future__ import annotations

import gc
import weakref
from collections.abc import Callable, Sequence
from typing import Any

import pytest
import trio
from trio.testing import MockClock

from blazen import Context, DynamicEvent, Event, Retry, StartEvent, StopEvent, Workflow, step
from blazen.errors import ValidationError, WorkflowError


class A(Event):
    n: int = 0


class B(Event):
    n: int = 0


class C(Event):
    n: int = 0


Gather = Callable[[Context, Any], list[Any] | None]


async def gathered(events: Sequence[Event], gather: Gather, lists: int = 1, **options: Any) -> list[list[Any]]:
    """The complete lists that a join gives for these events, of which there are to be so many."""
    found: list[list[Any]] = []

    @step(emits=[A, B, C])
    async def emit(ev: StartEvent) -> Any:
        return list(events)

    @step(**options)
    async def join(ctx: Context, ev: A | B | C) -> StopEvent | None:
        complete = gather(ctx, ev)
        if complete is not None:
            found.append(complete)
            if len(found) == lists:
                return StopEvent()
        return None

    await Workflow("w", [emit, join]).run()
    return found


# ---- by number


async def test_a_number_of_events_is_complete_with_the_last_of_them() -> None:
    given: list[Any] = []

    def gather(ctx: Context, ev: A) -> list[A] | None:
        answer = ctx.collect_events(ev, 3)
        given.append(answer)
        return answer

    events = [A(n=n) for n in range(3)]
    assert await gathered(events, gather) == [events]
    assert given == [None, None, events]


async def test_events_beyond_a_number_that_has_become_smaller_stay_for_the_next_lists() -> None:
    events = [A(n=1), B(n=2), A(n=3), A(n=4), B(n=5)]

    def gather(ctx: Context, ev: A | B) -> list[Any] | None:
        if ev.n < 4:
            return ctx.collect_events(ev, 10)
        return ctx.collect_events(ev, 2) if ev.n == 4 else ctx.collect_events(ev, [B, A])

    assert await gathered(events, gather, lists=2) == [[A(n=1), B(n=2)], [B(n=5), A(n=3)]]


async def test_one_event_is_complete_at_once() -> None:
    assert await gathered([A(n=1)], lambda ctx, ev: ctx.collect_events(ev, 1)) == [[A(n=1)]]


async def test_the_gathered_events_are_the_very_objects() -> None:
    events = [A(n=n) for n in range(2)]
    found = await gathered(events, lambda ctx, ev: ctx.collect_events(ev, 2))
    assert [one is other for one, other in zip(found[0], events, strict=True)] == [True, True]


async def test_equal_events_count_one_by_one() -> None:
    same = A(n=1)
    assert await gathered([same, same, A(n=1)], lambda ctx, ev: ctx.collect_events(ev, 3)) == [[same] * 3]


async def test_a_gathering_is_empty_once_it_was_complete() -> None:
    events = [A(n=n) for n in range(6)]
    found = await gathered(events, lambda ctx, ev: ctx.collect_events(ev, 2), lists=3)
    assert found == [events[0:2], events[2:4], events[4:6]]


async def test_a_number_gathers_events_of_every_type_the_step_takes() -> None:
    events = [A(n=1), B(n=2), A(n=3)]
    assert await gathered(events, lambda ctx, ev: ctx.collect_events(ev, 3)) == [events]


async def test_the_list_is_in_the_order_of_event_numbers_whatever_came_first(autojump_clock: MockClock) -> None:
    @step
    async def emit(ev: StartEvent) -> list[A]:
        return [A(n=n) for n in range(5)]

    @step
    async def join(ctx: Context, ev: A) -> StopEvent | None:
        await trio.sleep(10 - ev.n)  # the last one arrives first
        events = ctx.collect_events(ev, 5)
        return StopEvent(result=events) if events else None

    result = await Workflow("w", [emit, join]).run()
    assert result.result == [A(n=n) for n in range(5)]


async def test_events_of_steps_that_finish_one_after_the_other_are_numbered_as_they_finish(
    autojump_clock: MockClock,
) -> None:
    @step
    async def emit(ev: StartEvent) -> list[A]:
        return [A(n=n) for n in range(5)]

    @step
    async def work(ev: A) -> B:
        await trio.sleep(10 - ev.n)
        return B(n=ev.n)

    @step
    async def join(ctx: Context, ev: B) -> StopEvent | None:
        events = ctx.collect_events(ev, 5)
        return StopEvent(result=events) if events else None

    assert (await Workflow("w", [emit, work, join]).run()).result == [B(n=n) for n in (4, 3, 2, 1, 0)]


async def test_a_thousand_steps_that_yield_once_are_joined_in_order() -> None:
    @step
    async def emit(ev: StartEvent) -> list[A]:
        return [A(n=n) for n in range(1000)]

    @step
    async def work(ev: A) -> B:
        await trio.lowlevel.checkpoint()
        return B(n=ev.n)

    @step
    def join(ctx: Context, ev: B) -> StopEvent | None:
        events = ctx.collect_events(ev, 1000)
        return StopEvent(result=[event.n for event in events]) if events else None

    assert sorted((await Workflow("w", [emit, work, join]).run()).result) == list(range(1000))


async def test_a_join_that_never_completes_leaves_the_run_idle() -> None:
    with pytest.raises(WorkflowError, match="idle"):
        await gathered([A(n=1), A(n=2)], lambda ctx, ev: ctx.collect_events(ev, 3))


# ---- by types


async def test_types_are_given_back_in_the_order_in_which_they_were_named() -> None:
    events = [C(n=3), A(n=1), B(n=2)]
    assert await gathered(events, lambda ctx, ev: ctx.collect_events(ev, [A, B, C])) == [[A(n=1), B(n=2), C(n=3)]]


async def test_a_tuple_of_types_and_type_names_do_as_well() -> None:
    events = [B(n=2), A(n=1)]
    assert await gathered(events, lambda ctx, ev: ctx.collect_events(ev, (A, "B"))) == [[A(n=1), B(n=2)]]


async def test_a_type_named_twice_takes_two_events_the_older_first() -> None:
    events = [A(n=1), A(n=2), B(n=3), A(n=4)]
    found = await gathered(events, lambda ctx, ev: ctx.collect_events(ev, [B, A, A]))
    assert found == [[B(n=3), A(n=1), A(n=2)]]


async def test_events_that_were_not_needed_stay_for_the_next_list() -> None:
    events = [A(n=1), A(n=2), A(n=3), B(n=4), B(n=5), B(n=6)]
    found = await gathered(events, lambda ctx, ev: ctx.collect_events(ev, [A, B]), lists=3)
    assert found == [[A(n=1), B(n=4)], [A(n=2), B(n=5)], [A(n=3), B(n=6)]]


async def test_a_type_that_is_not_wanted_does_not_complete_a_list() -> None:
    with pytest.raises(WorkflowError, match="idle"):
        await gathered([A(n=1), C(n=2), C(n=3)], lambda ctx, ev: ctx.collect_events(ev, [A, B]))


async def test_dynamic_events_are_gathered_by_their_type_names() -> None:
    @step
    async def emit(ev: StartEvent) -> Any:
        return [DynamicEvent("right", {"n": 2}), DynamicEvent("left", {"n": 1})]

    @step(accepts=["left", "right"])
    async def join(ctx: Context, ev: Any) -> StopEvent | None:
        events = ctx.collect_events(ev, ["left", "right"])
        return StopEvent(result=[event.n for event in events]) if events else None

    assert (await Workflow("w", [emit, join]).run()).result == [1, 2]


async def test_a_dynamic_event_that_was_converted_counts_as_its_class() -> None:
    @step
    async def emit(ev: StartEvent) -> Any:
        return [DynamicEvent("A", {"n": 1}), B(n=2)]

    @step
    async def join(ctx: Context, ev: A | B) -> StopEvent | None:
        events = ctx.collect_events(ev, [B, A])
        return StopEvent(result=events) if events else None

    assert (await Workflow("w", [emit, join]).run()).result == [B(n=2), A(n=1)]


async def test_a_gathering_by_types_costs_the_same_for_every_event() -> None:
    looked_at = 0

    class Name(str):
        __slots__ = ()

        def __hash__(self) -> int:
            nonlocal looked_at
            looked_at += 1
            return super().__hash__()

    async def cost(size: int) -> int:
        nonlocal looked_at

        @step
        async def emit(ev: StartEvent) -> Any:
            return [DynamicEvent(Name(name), {}) for name in ("left", "right") for _ in range(size)]

        pairs = 0

        @step(accepts=["left", "right"])
        async def join(ctx: Context, ev: Any) -> StopEvent | None:
            nonlocal pairs
            if ctx.collect_events(ev, ["left", "right"]) is not None:
                pairs += 1
            return StopEvent() if pairs == size else None

        looked_at = 0
        await Workflow("w", [emit, join]).run()
        return looked_at

    small, large = await cost(20), await cost(200)
    assert large <= 11 * small


# ---- keys and steps


async def test_keys_keep_gatherings_apart() -> None:
    events = [A(n=0), A(n=1), A(n=2), A(n=3)]
    found = await gathered(events, lambda ctx, ev: ctx.collect_events(ev, 2, key=ev.n % 2), lists=2)
    assert found == [[A(n=0), A(n=2)], [A(n=1), A(n=3)]]


async def test_one_event_may_be_gathered_under_several_keys() -> None:
    def gather(ctx: Context, ev: A) -> list[Any] | None:
        pairs = ctx.collect_events(ev, 2, key="pairs")
        everything = ctx.collect_events(ev, 4, key=("all", 4))
        return [pairs, everything] if everything else None

    events = [A(n=n) for n in range(4)]
    assert await gathered(events, gather) == [[events[2:], events]]


async def test_steps_that_gather_the_same_events_do_not_share_them() -> None:
    @step
    async def emit(ev: StartEvent) -> list[A]:
        return [A(n=1), A(n=2)]

    @step
    async def first(ctx: Context, ev: A) -> B | None:
        return B(n=1) if ctx.collect_events(ev, 2) else None

    @step
    async def second(ctx: Context, ev: A) -> B | None:
        return B(n=2) if ctx.collect_events(ev, 2) else None

    @step
    async def both(ctx: Context, ev: B) -> StopEvent | None:
        events = ctx.collect_events(ev, 2)
        return StopEvent(result=events) if events else None

    assert (await Workflow("w", [emit, first, second, both]).run()).result == [B(n=1), B(n=2)]


async def test_runs_do_not_share_a_gathering() -> None:
    @step
    async def join(ctx: Context, ev: StartEvent) -> StopEvent | None:
        return StopEvent() if ctx.collect_events(ev, 2) else None

    workflow = Workflow("w", [join])
    for _ in range(2):
        with pytest.raises(WorkflowError, match="idle"):
            await workflow.run()


async def test_threads_gather_into_one_list() -> None:
    @step
    async def emit(ev: StartEvent) -> list[A]:
        return [A(n=n) for n in range(50)]

    @step(run="thread")
    def join(ctx: Context, ev: A) -> StopEvent | None:
        events = ctx.collect_events(ev, 50)
        return StopEvent(result=events) if events else None

    assert (await Workflow("w", [emit, join]).run()).result == [A(n=n) for n in range(50)]


# ---- retries


@pytest.mark.parametrize("retries", [3, Retry(3, initial=1.0, jitter=0.0)], ids=["at once", "after a wait"])
async def test_an_event_counts_once_however_often_its_step_is_retried(
    retries: int | Retry, autojump_clock: MockClock
) -> None:
    answers: list[Any] = []

    @step
    async def emit(ev: StartEvent) -> list[A]:
        return [A(n=1), A(n=2), A(n=3)]

    @step(retries=retries)
    async def join(ctx: Context, ev: A) -> StopEvent | None:
        events = ctx.collect_events(ev, 3)
        answers.append((ev.n, ctx.attempt, events))
        if ctx.attempt < 3:
            raise OSError
        return StopEvent(result=events) if events else None

    complete = [A(n=1), A(n=2), A(n=3)]
    assert (await Workflow("w", [emit, join]).run()).result == complete
    per_event = {n: [events for m, _, events in answers if m == n] for n in (1, 2, 3)}
    assert [len(given) for given in per_event.values()] == [3, 3, 3]
    # The one that completed the list is given it again in each of its attempts; the others never are.
    assert sum(events is not None for _, _, events in answers) == 3


async def test_a_retry_after_the_list_was_complete_gets_the_whole_list_again() -> None:
    answers: list[Any] = []

    def gather(ctx: Context, ev: A) -> list[A] | None:
        events = ctx.collect_events(ev, 2)
        answers.append(events)
        if events and ctx.attempt < 3:
            events.clear()  # whatever a step does to its list, the next attempt gets all of it
            raise OSError
        return events

    events = [A(n=1), A(n=2)]
    assert await gathered(events, gather, retries=2) == [events]
    assert answers == [None, [], [], events]


async def test_what_a_retried_step_completed_does_not_leak_into_the_next_list() -> None:
    def gather(ctx: Context, ev: A) -> list[A] | None:
        events = ctx.collect_events(ev, 2)
        if events and ctx.attempt == 1:
            raise OSError
        return events

    events = [A(n=n) for n in range(4)]
    assert await gathered(events, gather, lists=2, retries=1) == [events[:2], events[2:]]


async def test_an_attempt_that_timed_out_leaves_its_event_gathered_once(autojump_clock: MockClock) -> None:
    @step
    async def emit(ev: StartEvent) -> list[A]:
        return [A(n=1), A(n=2)]

    @step(timeout=5, retries=1)
    async def join(ctx: Context, ev: A) -> StopEvent | None:
        events = ctx.collect_events(ev, 2)
        if ctx.attempt == 1:
            await trio.sleep(3600)
        return StopEvent(result=events) if events else None

    assert (await Workflow("w", [emit, join]).run()).result == [A(n=1), A(n=2)]


async def test_an_event_whose_step_failed_for_good_stays_gathered() -> None:
    @step
    async def emit(ev: StartEvent) -> list[A]:
        return [A(n=1), A(n=2)]

    def give_up(ev: A, exc: Exception) -> None:
        return None

    @step(on_error=give_up)
    async def join(ctx: Context, ev: A) -> StopEvent | None:
        events = ctx.collect_events(ev, 2)
        if ev.n == 1:
            raise OSError
        return StopEvent(result=events) if events else None

    assert (await Workflow("w", [emit, join]).run()).result == [A(n=1), A(n=2)]


@pytest.mark.parametrize("retries", [0, 1])
async def test_asking_twice_in_one_attempt_counts_the_event_once(retries: int) -> None:
    def gather(ctx: Context, ev: A) -> list[A] | None:
        first = ctx.collect_events(ev, 2)
        assert ctx.collect_events(ev, 2) == first
        return first

    events = [A(n=n) for n in range(4)]
    assert await gathered(events, gather, lists=2, retries=retries) == [events[:2], events[2:]]


# ---- what is refused


@pytest.mark.parametrize("wrong", [0, -1, True, None, 2.0, "A", [], (), [1], [A, None], [int], {A: 1}, A], ids=str)
async def test_a_number_below_one_or_something_else_than_types_is_refused(wrong: Any) -> None:
    def gather(ctx: Context, ev: A) -> list[Any] | None:
        with pytest.raises(ValidationError, match=r"'join'.*collect_events"):
            ctx.collect_events(ev, wrong)
        return ctx.collect_events(ev, 1)

    assert await gathered([A(n=1)], gather) == [[A(n=1)]]


@pytest.mark.parametrize("wrong", [A(n=1), None, "A", 5, [A(n=1)]], ids=str)
async def test_only_the_event_that_the_step_was_given_can_be_gathered(wrong: Any) -> None:
    def gather(ctx: Context, ev: A) -> list[Any] | None:
        with pytest.raises(ValidationError, match=r"'join'.*the event the step was given"):
            ctx.collect_events(wrong, 1)
        return ctx.collect_events(ev, 1)

    assert await gathered([A(n=1)], gather) == [[A(n=1)]]


@pytest.mark.parametrize("call", ["collect_events", "send_event"])
async def test_a_key_that_cannot_be_a_key_is_refused_by_name(call: str) -> None:
    def gather(ctx: Context, ev: A) -> list[Any] | None:
        key: Any = ["unhashable"]
        calls = {
            "collect_events": lambda: ctx.collect_events(ev, 1, key=key),
            "send_event": lambda: ctx.send_event(ev, key),
        }
        with pytest.raises(ValidationError, match=f"'join'.*{call}.*key"):
            calls[call]()
        return ctx.collect_events(ev, 1)

    assert await gathered([A(n=1)], gather) == [[A(n=1)]]


# ---- memory


async def test_gathered_events_are_let_go_once_their_list_is_complete() -> None:
    class Payload:
        pass

    alive: list[weakref.ref[Payload]] = []
    counts: list[int] = []

    @step
    async def emit(ctx: Context, ev: StartEvent | C) -> list[A] | StopEvent:
        gc.collect()
        counts.append(sum(ref() is not None for ref in alive))
        if len(counts) == 4:
            return StopEvent()
        events = []
        for _ in range(10):
            payload = Payload()
            alive.append(weakref.ref(payload))
            events.append(A(n=payload))  # type: ignore[arg-type]
        return events

    @step
    async def join(ctx: Context, ev: A) -> C | None:
        return C() if ctx.collect_events(ev, 10) else None

    await Workflow("w", [emit, join]).run()
    # A context that is about to be used again may hold the event of its last step.
    assert counts[0] == 0
    assert all(count <= 1 for count in counts[1:])
