"""`ctx.edit(key)`: a key of the shared state held over an await."""

from __future__ import annotations

from typing import Any

import pytest
import trio
from trio.testing import MockClock, wait_all_tasks_blocked

from blazen import BlazenState, Context, Event, StartEvent, StopEvent, Workflow, step
from blazen.errors import CancelledError, TimeoutError, ValidationError, WorkflowError


class Part(Event):
    n: int = 0


class Done(Event):
    n: int = 0


@step
async def fan(ev: StartEvent) -> list[Part]:
    return [Part(n=n) for n in range(ev.parts)]


def join_after(count: int) -> Any:
    @step
    async def join(ctx: Context, ev: Done) -> StopEvent | None:
        if ctx.collect_events(ev, count) is None:
            return None
        return StopEvent(result={key: ctx.get(key) for key in ctx.keys()})

    return join


async def test_an_edit_reads_and_writes_one_key() -> None:
    @step
    async def only(ctx: Context, ev: StartEvent) -> StopEvent:
        ctx.set("n", 1)
        async with ctx.edit("n") as cell:
            assert cell.value == 1
            cell.value += 1
            assert ctx.get("n") == 1  # stored on leaving
        async with ctx.edit("fresh") as cell:
            assert cell.value is None
            cell.value = "made"
        async with ctx.edit("counted", 10) as cell:
            cell.value += 1
        return StopEvent(result={key: ctx.get(key) for key in ctx.keys()})

    assert (await Workflow("w", [only]).run()).result == {"n": 2, "fresh": "made", "counted": 11}


async def test_edits_of_one_key_exclude_each_other_in_the_order_of_asking(autojump_clock: MockClock) -> None:
    @step
    async def add(ctx: Context, ev: Part) -> Done:
        async with ctx.edit("log", []) as cell:
            log = cell.value
            await trio.sleep(1)
            cell.value = [*log, ev.n]
        return Done()

    began = trio.current_time()
    result = await Workflow("w", [fan, add, join_after(20)]).run(parts=20)
    assert result.result == {"log": list(range(20))}
    assert trio.current_time() - began == 20.0


async def test_edits_of_other_keys_do_not_wait(autojump_clock: MockClock) -> None:
    @step
    async def add(ctx: Context, ev: Part) -> Done:
        async with ctx.edit(f"n{ev.n}", 0) as cell:
            await trio.sleep(1)
            cell.value += ev.n
        return Done()

    began = trio.current_time()
    result = await Workflow("w", [fan, add, join_after(5)]).run(parts=5)
    assert result.result == {f"n{n}": n for n in range(5)}
    assert trio.current_time() - began == 1.0


async def test_children_of_one_step_exclude_each_other_too() -> None:
    @step
    async def only(ctx: Context, ev: StartEvent) -> StopEvent:
        async def add() -> None:
            async with ctx.edit("n", 0) as cell:
                before = cell.value
                await trio.lowlevel.checkpoint()
                cell.value = before + 1

        async with trio.open_nursery() as nursery:
            for _ in range(10):
                nursery.start_soon(add)
        return StopEvent(result=ctx.get("n"))

    assert (await Workflow("w", [only]).run()).result == 10


async def test_get_and_set_do_not_wait_for_an_edit() -> None:
    held, go_on = trio.Event(), trio.Event()

    @step
    async def edits(ctx: Context, ev: StartEvent) -> StopEvent:
        ctx.send_event(Part())
        async with ctx.edit("n", 1) as cell:
            held.set()
            await go_on.wait()
            cell.value += 1
        return StopEvent(result=ctx.get("n"))

    @step
    async def looks(ctx: Context, ev: Part) -> None:
        await held.wait()
        assert ctx.get("n") is None
        ctx.set("n", 50)
        go_on.set()

    assert (await Workflow("w", [edits, looks]).run()).result == 2


async def test_an_edit_left_by_an_exception_stores_nothing_and_lets_go() -> None:
    @step
    async def only(ctx: Context, ev: StartEvent) -> StopEvent:
        async def fails() -> None:
            async with ctx.edit("n") as cell:
                cell.value = 2
                raise KeyError

        ctx.set("n", 1)
        with pytest.raises(KeyError):
            await fails()
        assert ctx.get("n") == 1
        async with ctx.edit("n") as cell:
            cell.value = 3
        return StopEvent(result=ctx.get("n"))

    assert (await Workflow("w", [only]).run()).result == 3


async def test_a_value_that_cannot_be_stored_is_refused_on_leaving_and_lets_go() -> None:
    @step
    async def only(ctx: Context, ev: StartEvent) -> StopEvent:
        ctx.set("n", 1)
        with pytest.raises(ValidationError, match="'n'"):
            async with ctx.edit("n") as cell:
                cell.value = object()
        async with ctx.edit("n") as cell:
            assert cell.value == 1
        return StopEvent()

    await Workflow("w", [only]).run()


class Fragile(BlazenState):
    loads: bool = False

    def restore(self) -> None:
        if not self.loads:
            raise OSError("no connection")


async def test_a_value_that_cannot_be_loaded_lets_go_too() -> None:
    @step
    async def only(ctx: Context, ev: StartEvent) -> StopEvent:
        ctx.set("fragile", Fragile())
        with pytest.raises(OSError, match="no connection"):
            async with ctx.edit("fragile"):
                pass
        ctx.set("fragile.loads", True)
        async with ctx.edit("fragile") as cell:
            return StopEvent(result=cell.value)

    assert (await Workflow("w", [only]).run()).result == Fragile(loads=True)


async def test_a_value_that_cannot_be_loaded_after_a_wait_lets_the_next_one_in(autojump_clock: MockClock) -> None:
    @step
    async def edits(ctx: Context, ev: Part) -> Done:
        await trio.sleep(ev.n)
        if ev.n == 0:
            async with ctx.edit("fragile", Fragile(loads=True)) as cell:
                await trio.sleep(10)
                cell.value = Fragile()
        elif ev.n == 1:
            with pytest.raises(OSError, match="no connection"):
                async with ctx.edit("fragile"):
                    pass
            ctx.set("fragile.loads", True)
        else:
            async with ctx.edit("fragile") as cell:
                assert cell.value.loads
        return Done()

    await Workflow("w", [fan, edits, join_after(3)], timeout=100).run(parts=3)


async def test_an_edit_within_an_edit_of_the_same_key_is_refused_instead_of_waiting_for_itself() -> None:
    @step
    async def only(ctx: Context, ev: StartEvent) -> StopEvent:
        async with ctx.edit("n", 1) as cell:
            with pytest.raises(ValidationError, match=r"'only'.*'n'"):
                async with ctx.edit("n"):
                    pass
            async with ctx.edit("m", 2) as other:
                other.value = 3
            cell.value = 4
        return StopEvent(result={key: ctx.get(key) for key in ctx.keys()})

    assert (await Workflow("w", [only]).run()).result == {"m": 3, "n": 4}


@pytest.mark.parametrize("wrong", [None, "", 5, ["n"]], ids=repr)
async def test_what_is_no_key_is_refused_before_anybody_waits(wrong: Any) -> None:
    @step
    async def only(ctx: Context, ev: StartEvent) -> StopEvent:
        for _ in range(2):
            with pytest.raises(ValidationError, match="key"):
                async with ctx.edit(wrong):
                    pass
        return StopEvent()

    await Workflow("w", [only]).run()


@pytest.mark.parametrize("held_by", [0, 1])
async def test_a_step_that_is_aborted_while_it_waits_leaves_the_line(held_by: int, autojump_clock: MockClock) -> None:
    # Part 2 gives up its place while part `held_by` has the key: as the first holder, or as one that inherited it.
    got: list[int] = []

    @step
    async def add(ctx: Context, ev: Part) -> Done:
        async with ctx.edit("n", 0) as cell:
            got.append(ev.n)
            await trio.sleep(10)
            cell.value += 1
        return Done()

    @step
    async def impatient(ctx: Context, ev: Part) -> Done:
        if ev.n == 2:
            with trio.move_on_after(5 + 10 * held_by):
                async with ctx.edit("n", 0):
                    got.append(-1)
        return Done()

    await Workflow("w", [fan, add, impatient, join_after(8)]).run(parts=4)
    assert got == [0, 1, 2, 3]


@pytest.mark.parametrize("holder", [0, 1])
async def test_a_run_cancelled_while_steps_wait_for_a_key_ends_cleanly(holder: int, autojump_clock: MockClock) -> None:
    @step
    async def add(ctx: Context, ev: Part) -> Done:
        async with ctx.edit("n", 0) as cell:
            await trio.sleep(10)
            cell.value += 1
        return Done()

    async with Workflow("w", [fan, add, join_after(5)]).run_with_handler(parts=5) as handler:
        await trio.sleep(5 + 10 * holder)
        handler.cancel("enough")
        with pytest.raises(CancelledError):
            await handler.result()


async def test_a_step_cancelled_while_it_holds_a_key_gives_it_to_the_next() -> None:
    @step
    async def begin(ev: StartEvent) -> Part:
        return Part()

    @step
    async def holds(ctx: Context, ev: Part) -> None:
        async with ctx.edit("n", 0) as cell:
            cell.value = "never stored"
            await trio.sleep_forever()

    @step
    async def waits(ctx: Context, ev: Part) -> StopEvent:
        await wait_all_tasks_blocked()
        async with ctx.edit("n", 0) as cell:
            cell.value += 1
        return StopEvent(result=ctx.get("n"))

    async with Workflow("w", [begin, holds, waits]).run_with_handler() as handler:
        await wait_all_tasks_blocked(0.01)
        handler.cancel_step("holds")
        assert (await handler.result()).result == 1


async def test_waiting_for_a_key_counts_against_the_steps_timeout(autojump_clock: MockClock) -> None:
    @step
    async def begin(ev: StartEvent) -> Part:
        return Part()

    @step
    async def holds(ctx: Context, ev: Part) -> StopEvent:
        async with ctx.edit("n", 0):
            await trio.sleep(100)
        return StopEvent()

    @step(timeout=5)
    async def waits(ctx: Context, ev: Part) -> None:
        await trio.sleep(1)
        async with ctx.edit("n", 0):
            pass

    with pytest.raises(TimeoutError) as caught:
        await Workflow("w", [begin, holds, waits]).run()
    assert (caught.value.step, caught.value.elapsed_ms) == ("waits", 5000)


async def test_an_edit_is_a_checkpoint() -> None:
    @step
    async def only(ctx: Context, ev: StartEvent) -> StopEvent:
        with trio.CancelScope() as scope:
            scope.cancel()
            async with ctx.edit("n", 0) as cell:
                cell.value = 1
        assert scope.cancelled_caught
        async with ctx.edit("n", 0) as cell:  # and the key was let go
            assert cell.value == 0
        return StopEvent()

    await Workflow("w", [only]).run()


async def test_an_error_out_of_an_edit_fails_the_run_as_any_other() -> None:
    @step
    async def only(ctx: Context, ev: StartEvent) -> StopEvent:
        async with ctx.edit("n", 0):
            raise OSError("inside")

    with pytest.raises(WorkflowError, match="inside"):
        await Workflow("w", [only]).run()
