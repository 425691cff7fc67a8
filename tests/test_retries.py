"""Steps that are tried again, and what happens when that does not help."""

from __future__ import annotations

from typing import Any

import pytest
import trio
from trio.testing import MockClock
from ways_to_run import every_way, run_to_end

from blazen import Context, Event, Retry, StartEvent, StopEvent, Workflow, step
from blazen.errors import BlazenError, CancelledError, TimeoutError, WorkflowError


class Number(Event):
    n: int = 0


class Letter(Event):
    text: str = ""


class Page(Event):
    pass


# ---- attempts


@every_way
@pytest.mark.parametrize("kind", ["async", "waiting", "plain", "thread"])
async def test_a_step_is_tried_n_more_times_with_the_same_event_and_counts_its_attempts(way: str, kind: str) -> None:
    async def in_async(ctx: Context, ev: StartEvent) -> StopEvent:
        if kind == "waiting":
            await trio.lowlevel.checkpoint()
        return in_plain(ctx, ev)

    def in_plain(ctx: Context, ev: StartEvent) -> StopEvent:
        attempts.append(ctx.attempt)
        events.append(ev)
        if ctx.attempt < 4:
            raise OSError("again")
        return StopEvent(result="in the end")

    attempts: list[int] = []
    events: list[Event] = []
    fn = in_plain if kind in ("plain", "thread") else in_async
    work = step(name="work", retries=3, run="thread" if kind == "thread" else "inline")(fn)
    assert (await run_to_end(way, [work])).result == "in the end"
    assert attempts == [1, 2, 3, 4]
    assert len({id(event) for event in events}) == 1


@every_way
async def test_when_the_attempts_are_used_up_the_last_error_is_the_cause(way: str) -> None:
    errors: list[Exception] = []

    @step(retries=2)
    async def work(ctx: Context, ev: StartEvent) -> StopEvent:
        errors.append(OSError(f"attempt {ctx.attempt}"))
        raise errors[-1]

    with pytest.raises(WorkflowError, match=r"'work'.*3 attempts.*attempt 3") as caught:
        await run_to_end(way, [work])
    assert len(errors) == 3
    assert caught.value.__cause__ is errors[-1]


@pytest.mark.parametrize("retries", [0, Retry(0)])
async def test_without_retries_there_is_one_attempt(retries: Any) -> None:
    attempts = []

    @step(retries=retries)
    async def work(ctx: Context, ev: StartEvent) -> StopEvent:
        attempts.append(ctx.attempt)
        raise OSError("no")

    with pytest.raises(WorkflowError):
        await Workflow("w", [work]).run()
    assert attempts == [1]


async def test_the_attempts_of_one_event_are_not_counted_for_the_next(autojump_clock: MockClock) -> None:
    @step
    async def start(ev: StartEvent) -> list[Number]:
        return [Number(n=n) for n in range(3)]

    @step(retries=1)
    async def work(ctx: Context, ev: Number) -> StopEvent | None:
        attempts.append((ev.n, ctx.attempt))
        if ctx.attempt == 1:
            raise OSError("again")
        return StopEvent() if ev.n == 2 else None

    attempts: list[tuple[int, int]] = []
    await Workflow("w", [start, work], step_timeout=100).run()
    assert sorted(attempts) == [(0, 1), (0, 2), (1, 1), (1, 2), (2, 1), (2, 2)]


async def test_what_an_attempt_set_and_sent_is_not_undone() -> None:
    @step(retries=1)
    async def work(ctx: Context, ev: StartEvent) -> Page:
        ctx.set("attempts", [*ctx.get("attempts", []), ctx.attempt])
        ctx.send_event(Number(n=ctx.attempt))
        if ctx.attempt == 1:
            raise OSError("again")
        return Page()

    @step
    async def take(ctx: Context, ev: Number | Page) -> StopEvent | None:
        found = ctx.collect_events(ev, 3)
        if found is None:
            return None
        return StopEvent(result=(ctx.get("attempts"), [getattr(one, "n", "page") for one in found]))

    assert (await Workflow("w", [work, take]).run()).result == ([1, 2], [1, 2, "page"])


async def test_an_event_counts_once_in_a_join_however_often_its_step_is_tried() -> None:
    @step
    async def start(ev: StartEvent) -> list[Number]:
        return [Number(n=n) for n in range(2)]

    @step(retries=3)
    async def join(ctx: Context, ev: Number) -> StopEvent | None:
        found = ctx.collect_events(ev, 2)
        if ctx.attempt < 3:
            raise OSError("again")
        return None if found is None else StopEvent(result=[one.n for one in found])

    assert (await Workflow("w", [start, join]).run()).result == [0, 1]


async def test_a_retried_step_keeps_one_place_of_its_limit(autojump_clock: MockClock) -> None:
    running = peak = 0

    @step
    async def start(ev: StartEvent) -> list[Number]:
        return [Number(n=n) for n in range(6)]

    @step(retries=2, max_concurrency=2)
    async def work(ctx: Context, ev: Number) -> Page:
        nonlocal running, peak
        running += 1
        peak = max(peak, running)
        await trio.sleep(1)
        running -= 1
        if ctx.attempt < 3:
            raise OSError("again")
        return Page()

    @step
    async def join(ctx: Context, ev: Page) -> StopEvent | None:
        return None if ctx.collect_events(ev, 6) is None else StopEvent()

    await Workflow("w", [start, work, join]).run()
    assert peak == 2


# ---- which errors, after which waits


@every_way
async def test_the_waits_grow_by_their_factor_up_to_the_longest(way: str, autojump_clock: MockClock) -> None:
    began = []

    @step(retries=Retry(5, initial=1.0, factor=3.0, max=10.0, jitter=0.0))
    async def work(ev: StartEvent) -> StopEvent:
        began.append(trio.current_time())
        raise OSError("again")

    with pytest.raises(WorkflowError, match="6 attempts"):
        await run_to_end(way, [work])
    assert began == [0.0, 1.0, 4.0, 13.0, 23.0, 33.0]


# Not with a step timeout: the clock would leap to it while a thread works.
@pytest.mark.parametrize("way", ["run", "handler"])
@pytest.mark.parametrize("kind", ["async", "plain", "thread"])
async def test_every_kind_of_step_waits_between_its_attempts(way: str, kind: str, autojump_clock: MockClock) -> None:
    async def in_async(ev: StartEvent) -> StopEvent:
        return in_plain(ev)

    def in_plain(ev: StartEvent) -> StopEvent:
        nonlocal attempts
        attempts += 1
        if attempts < 3:
            raise OSError("again")
        return StopEvent(result="in the end")

    attempts = 0
    retry = Retry(3, initial=10.0, factor=1.0, jitter=0.0)
    fn = in_async if kind == "async" else in_plain
    work = step(name="work", retries=retry, run="thread" if kind == "thread" else "inline")(fn)
    assert (await run_to_end(way, [work])).result == "in the end"
    assert trio.current_time() == 20.0


async def test_jitter_moves_each_wait_by_at_most_its_share_and_repeats_under_a_test_clock(
    autojump_clock: MockClock,
) -> None:
    @step(retries=Retry(6, initial=10.0, factor=1.0, jitter=0.5))
    async def work(ev: StartEvent) -> StopEvent:
        began.append(trio.current_time() - start)
        raise OSError("again")

    traces = []
    for _ in range(2):
        began: list[float] = []
        start = trio.current_time()
        with pytest.raises(WorkflowError):
            await Workflow("w", [work]).run()
        traces.append([round(time, 6) for time in began])
    waits = [later - earlier for earlier, later in zip(traces[0], traces[0][1:], strict=False)]
    assert all(5.0 <= wait <= 15.0 for wait in waits)
    assert len(set(waits)) > 1
    assert traces[0] == traces[1]


async def test_a_step_that_waits_for_its_retry_holds_up_nobody(autojump_clock: MockClock) -> None:
    @step
    async def start(ev: StartEvent) -> list[Number | Letter]:
        return [Number(), Letter()]

    @step(retries=Retry(1, initial=100.0, max=100.0, jitter=0.0), max_concurrency=1)
    async def fails(ctx: Context, ev: Number) -> StopEvent:
        if ctx.attempt == 1:
            raise OSError("again")
        return StopEvent(result=order)

    @step
    async def other(ev: Letter) -> None:
        await trio.sleep(1)
        order.append(trio.current_time())

    order: list[float] = []
    assert (await Workflow("w", [start, fails, other]).run()).result == [1.0]
    assert trio.current_time() == 100.0


async def test_only_the_named_errors_are_tried_again() -> None:
    attempts = []

    @step(retries=Retry(5, on=(OSError, KeyError), initial=0.0))
    async def work(ctx: Context, ev: StartEvent) -> StopEvent:
        attempts.append(ctx.attempt)
        raise [FileNotFoundError("an OSError"), KeyError("a KeyError"), LookupError("none of them")][ctx.attempt - 1]

    with pytest.raises(WorkflowError, match="none of them"):
        await Workflow("w", [work]).run()
    assert attempts == [1, 2, 3]


async def test_timeouts_are_tried_again_each_with_its_own_time(autojump_clock: MockClock) -> None:
    began = []

    @step(timeout=5, retries=2)
    async def slow(ctx: Context, ev: StartEvent) -> StopEvent:
        began.append(trio.current_time())
        await trio.sleep(3600 if ctx.attempt < 3 else 4)
        return StopEvent(result="in the end")

    assert (await Workflow("w", [slow]).run()).result == "in the end"
    assert began == [0.0, 5.0, 10.0]


async def test_timeouts_in_every_attempt_end_in_the_last_ones_error(autojump_clock: MockClock) -> None:
    @step(timeout=5, retries=2)
    async def slow(ev: StartEvent) -> StopEvent:
        await trio.sleep(3600)
        return StopEvent()

    with pytest.raises(TimeoutError) as caught:
        await Workflow("w", [slow]).run()
    assert (caught.value.step, caught.value.elapsed_ms) == ("slow", 5000)
    assert trio.current_time() == 15.0


async def test_timeouts_may_be_all_that_is_tried_again(autojump_clock: MockClock) -> None:
    attempts = []

    @step(timeout=5, retries=Retry(5, on=TimeoutError, initial=0.0))
    async def work(ctx: Context, ev: StartEvent) -> StopEvent:
        attempts.append(ctx.attempt)
        if ctx.attempt < 3:
            await trio.sleep(3600)
        raise OSError("not tried again")

    with pytest.raises(WorkflowError, match="not tried again"):
        await Workflow("w", [work]).run()
    assert attempts == [1, 2, 3]


async def test_a_cancelled_step_is_not_tried_again(autojump_clock: MockClock) -> None:
    attempts = []

    @step(retries=5, on_error=lambda ev, exc: attempts.append("on_error"))
    async def work(ctx: Context, ev: StartEvent) -> StopEvent:
        attempts.append(ctx.attempt)
        await trio.sleep_forever()
        return StopEvent()

    with trio.move_on_after(1):
        await Workflow("w", [work]).run()
    async with Workflow("w", [work]).run_with_handler() as handler:
        await trio.sleep(1)
        handler.cancel()
        with pytest.raises(CancelledError):
            await handler.result()
    assert attempts == [1, 1]


async def test_what_a_step_returns_wrongly_is_not_tried_again() -> None:
    attempts = []

    @step(retries=5)
    async def work(ctx: Context, ev: StartEvent) -> Any:
        attempts.append(ctx.attempt)
        return 7

    with pytest.raises(WorkflowError, match="'work'"):
        await Workflow("w", [work]).run()
    assert attempts == [1]


# ---- on_error


@every_way
@pytest.mark.parametrize("kind", ["plain", "async", "waiting"])
async def test_on_error_gets_the_event_and_the_error_and_its_event_replaces_the_result(
    way: str, kind: str, autojump_clock: MockClock
) -> None:
    def in_plain(ev: StartEvent, exc: Exception) -> StopEvent:
        seen.append((ev.name, exc))
        return StopEvent(result="rescued")

    async def in_async(ev: StartEvent, exc: Exception) -> StopEvent:
        if kind == "waiting":
            await trio.sleep(10)
        return in_plain(ev, exc)

    original = OSError("no")
    seen: list[Any] = []

    @step(retries=2, on_error=in_plain if kind == "plain" else in_async)
    async def work(ev: StartEvent) -> StopEvent:
        attempts.append(1)
        raise original

    attempts: list[int] = []
    workflow_input = {"name": "Ada"}
    if way == "handler":
        async with Workflow("w", [work]).run_with_handler(workflow_input) as handler:
            result = await handler.result()
    else:
        result = await Workflow("w", [work], step_timeout=1e6 if way == "scoped" else None).run(workflow_input)
    assert result.result == "rescued"
    assert seen == [("Ada", original)]
    assert len(attempts) == 3


@pytest.mark.parametrize("run", ["inline", "thread"])
async def test_on_error_of_a_plain_or_thread_step_runs_on_the_loop(run: str) -> None:
    async def rescue(ev: Event, exc: Exception) -> StopEvent:
        await trio.lowlevel.checkpoint()
        return StopEvent(result=type(exc))

    @step(run=run, on_error=rescue)  # type: ignore[call-overload]
    def work(ev: StartEvent) -> StopEvent:
        raise OSError("no")

    assert (await Workflow("w", [work]).run()).result is OSError


async def test_on_error_is_called_for_errors_that_are_not_tried_again() -> None:
    @step(retries=Retry(5, on=KeyError, initial=0.0), on_error=lambda ev, exc: StopEvent(result=repr(exc)))
    async def work(ev: StartEvent) -> StopEvent:
        raise OSError("no")

    assert (await Workflow("w", [work]).run()).result == "OSError('no')"


async def test_on_error_is_called_after_timeouts(autojump_clock: MockClock) -> None:
    @step(timeout=5, retries=1, on_error=lambda ev, exc: StopEvent(result=exc))
    async def slow(ev: StartEvent) -> StopEvent:
        await trio.sleep(3600)
        return StopEvent()

    error = (await Workflow("w", [slow]).run()).result
    assert isinstance(error, TimeoutError)
    assert (error.step, error.elapsed_ms) == ("slow", 5000)
    assert trio.current_time() == 10.0


async def test_the_steps_timeout_does_not_bound_its_on_error(autojump_clock: MockClock) -> None:
    async def rescue(ev: Event, exc: Exception) -> StopEvent:
        await trio.sleep(60)
        return StopEvent(result="rescued")

    @step(timeout=5, on_error=rescue)
    async def slow(ev: StartEvent) -> StopEvent:
        await trio.sleep(3600)
        return StopEvent()

    assert (await Workflow("w", [slow]).run()).result == "rescued"
    assert trio.current_time() == 65.0


async def test_the_runs_timeout_bounds_on_error(autojump_clock: MockClock) -> None:
    left = []

    async def rescue(ev: Event, exc: Exception) -> StopEvent:
        try:
            await trio.sleep(60)
        finally:
            left.append(trio.current_time())
        return StopEvent(result="rescued")

    @step(on_error=rescue)
    async def fails(ev: StartEvent) -> StopEvent:
        raise OSError("no")

    with pytest.raises(TimeoutError) as caught:
        await Workflow("w", [fails], timeout=10).run()
    assert caught.value.step is None
    assert left == [10.0]


async def test_on_error_may_return_a_list() -> None:
    @step(on_error=lambda ev, exc: [Number(n=1), Number(n=2)])
    async def fails(ev: StartEvent) -> Number:
        raise OSError("no")

    @step
    async def join(ctx: Context, ev: Number) -> StopEvent | None:
        found = ctx.collect_events(ev, 2)
        return None if found is None else StopEvent(result=[one.n for one in found])

    assert (await Workflow("w", [fails, join]).run()).result == [1, 2]


async def test_on_error_may_return_nothing() -> None:
    @step(on_error=lambda ev, exc: None)
    async def fails(ev: StartEvent) -> StopEvent:
        raise OSError("no")

    with pytest.raises(WorkflowError, match="idle"):
        await Workflow("w", [fails]).run()


async def test_on_error_may_return_what_the_step_itself_does_not_declare() -> None:
    def rescue(ev: Event, exc: Exception) -> StopEvent:
        return StopEvent(result="rescued")

    @step(on_error=rescue)
    async def fetch(ev: StartEvent) -> Page:
        raise OSError("no")

    @step
    async def use(ev: Page) -> StopEvent:
        return StopEvent(result="used")

    assert (await Workflow("w", [fetch, use]).run()).result == "rescued"


async def test_on_error_that_returns_no_event_fails_the_run_by_name() -> None:
    @step(on_error=lambda ev, exc: 7)
    async def fails(ev: StartEvent) -> StopEvent:
        raise OSError("no")

    with pytest.raises(WorkflowError, match="'fails'") as caught:
        await Workflow("w", [fails]).run()
    assert caught.value.step == "fails"


@every_way
@pytest.mark.parametrize("kind", ["plain", "async"])
async def test_an_on_error_that_raises_fails_the_run_once_and_loses_neither_error(way: str, kind: str) -> None:
    def in_plain(ev: Event, exc: Exception) -> StopEvent:
        calls.append(exc)
        raise second

    async def in_async(ev: Event, exc: Exception) -> StopEvent:
        return in_plain(ev, exc)

    first, second = OSError("of the step"), LookupError("of on_error")
    calls: list[Exception] = []

    @step(retries=2, on_error=in_plain if kind == "plain" else in_async)
    async def fails(ev: StartEvent) -> StopEvent:
        raise first

    with pytest.raises(WorkflowError, match=r"on_error of step 'fails'.*of on_error") as caught:
        await run_to_end(way, [fails])
    assert calls == [first]
    assert caught.value.step == "fails"
    assert caught.value.__cause__ is second
    assert first in (second.__context__, *caught.value.suppressed)


async def test_on_error_may_raise_the_steps_error_again() -> None:
    original = OSError("no")

    def reraise(ev: Event, exc: Exception) -> StopEvent:
        raise exc

    @step(on_error=reraise)
    async def fails(ev: StartEvent) -> StopEvent:
        raise original

    with pytest.raises(WorkflowError) as caught:
        await Workflow("w", [fails]).run()
    assert caught.value.__cause__ is original


async def test_on_error_is_cancelled_with_the_run(autojump_clock: MockClock) -> None:
    left = []

    async def rescue(ev: Event, exc: Exception) -> StopEvent:
        try:
            await trio.sleep_forever()
        finally:
            left.append(trio.current_time())
        return StopEvent()

    @step(on_error=rescue)
    async def fails(ev: StartEvent) -> StopEvent:
        raise OSError("no")

    for way in ("run", "scoped", "handler"):
        with trio.move_on_after(1) as scope:
            await run_to_end(way, [fails])
        assert scope.cancelled_caught
    assert left == [1.0, 2.0, 3.0]


async def test_on_error_of_many_events_at_once_gets_each_with_its_own_error(autojump_clock: MockClock) -> None:
    @step
    async def start(ev: StartEvent) -> list[Number]:
        return [Number(n=n) for n in range(20)]

    async def rescue(ev: Number, exc: Exception) -> Page:
        await trio.sleep(1)
        pairs.append((ev.n, str(exc)))
        return Page()

    @step(on_error=rescue)
    async def fails(ev: Number) -> Page:
        await trio.sleep(1 + ev.n % 3)
        raise OSError(str(ev.n))

    @step
    async def join(ctx: Context, ev: Page) -> StopEvent | None:
        return None if ctx.collect_events(ev, 20) is None else StopEvent()

    pairs: list[tuple[int, str]] = []
    await Workflow("w", [start, fails, join]).run()
    assert sorted(pairs) == [(n, str(n)) for n in range(20)]


async def test_methods_may_be_on_error() -> None:
    class Fetcher:
        def give_up(self, ev: StartEvent, exc: Exception) -> StopEvent:
            return StopEvent(result=(self, type(exc)))

        @step(on_error=give_up)
        async def fetch(self, ev: StartEvent) -> StopEvent:
            raise OSError("no")

    fetcher = Fetcher()
    assert (await Workflow("w", [fetcher.fetch]).run()).result == (fetcher, OSError)


async def test_every_error_a_run_raises_is_one_of_blazens(autojump_clock: MockClock) -> None:
    @step(retries=1, timeout=5)
    async def work(ev: StartEvent) -> StopEvent:
        if ev.data == "slow":
            await trio.sleep(3600)
        raise OSError("no")

    for given in ("slow", "fails"):
        with pytest.raises(BlazenError):
            await Workflow("w", [work]).run(given)
