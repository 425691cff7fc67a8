"""Steps that run in worker processes: real ones, really killed.

The steps themselves are in `killable`, which the workers import. They tell their process id through a pipe with a name,
so a test knows when one runs without looking again and again. A process is not on a test's clock: the few timeouts here
are real, and no test looks at how long anything takes.
"""

from __future__ import annotations

import contextlib
import importlib.util
import os
import select
import signal
import subprocess
import sys
import threading
import traceback
import types
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import killable
import pytest
import trio
from killable import Done, Job
from trio.testing import MockClock, wait_all_tasks_blocked
from ways_to_run import every_way, run_to_end

from blazen import Context, DynamicEvent, Event, Retry, StartEvent, StopEvent, Workflow, WorkflowBuilder, step
from blazen.errors import CancelledError, TimeoutError, ValidationError, WorkflowError

if importlib.util.find_spec("trio_parallel") is None and os.environ.get("BLAZEN_REQUIRE_ALL") != "1":
    pytest.skip("process steps need trio-parallel", allow_module_level=True)

ROOT = Path(__file__).resolve().parent.parent
LONG = 60.0  # seconds until a test that waits for a process is given up


@pytest.fixture
def folder(tmp_path: Path) -> str:
    """Where a step tells its process id; see `pid_of`."""
    os.mkfifo(tmp_path / "pid")
    return str(tmp_path)


async def pid_of(folder: str) -> int:
    """The process id of the step that has been given this folder, as soon as it runs."""
    with trio.fail_after(LONG):
        path = Path(folder) / "pid"
        return int(await trio.to_thread.run_sync(path.read_text, abandon_on_cancel=True))


def is_alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True


def options(fn: Callable[..., Any], **given: Any) -> tuple[Callable[..., Any], dict[str, Any]]:
    """A step with other options. Not by another decorator: a worker finds it under its name."""
    return fn, given


def build(steps: list[Any]) -> Workflow[Any]:
    builder = WorkflowBuilder("w")
    for one in steps:
        fn, given = one if isinstance(one, tuple) else (one, {})
        builder.step(fn, **given)
    return builder.build()


@step
async def one_job(ev: StartEvent) -> Job:
    return Job(n=7, folder=(ev.data or {}).get("folder", ""))


@step
async def end(ev: Done) -> StopEvent:
    return StopEvent(result=(ev.n, ev.pid))


# ---- what they do


@every_way
async def test_a_process_step_runs_in_another_process_and_its_event_goes_on(way: str) -> None:
    n, pid = (await run_to_end(way, [one_job, killable.square, end])).result
    assert n == 49
    assert pid != os.getpid()


def test_runs_that_follow_each_other_share_a_warm_worker() -> None:
    workflow: Workflow[int] = Workflow("w", [killable.own_pid])
    first, second = workflow.run_sync().result, workflow.run_sync().result
    assert first == second != os.getpid()


async def test_runs_in_different_loops_at_once() -> None:
    workflow: Workflow[int] = Workflow("w", [killable.add_one])
    results: list[int] = []
    async with trio.open_nursery() as nursery:
        for n in range(4):
            nursery.start_soon(trio.to_thread.run_sync, lambda n=n: results.append(workflow.run_sync(n).result))
    assert sorted(results) == [1, 2, 3, 4]


async def test_process_steps_overlap(tmp_path: Path) -> None:
    import trio_parallel

    os.mkfifo(tmp_path / "meeting")
    trio_parallel.current_default_worker_limiter().total_tokens = 2

    @step
    async def start(ev: StartEvent) -> list[Job]:
        return [Job(n=n, folder=str(tmp_path)) for n in range(2)]

    @step
    async def join(ctx: Context, ev: Done) -> StopEvent | None:
        both = ctx.collect_events(ev, 2)
        return None if both is None else StopEvent(result={done.pid for done in both})

    with trio.fail_after(LONG):
        pids = (await Workflow("w", [start, killable.meet, join]).run()).result
    assert len(pids) == 2


async def test_no_more_than_max_concurrency_at_once() -> None:
    @step
    async def start(ev: StartEvent) -> list[Job]:
        return [Job(n=n) for n in range(6)]

    @step
    async def join(ctx: Context, ev: Done) -> StopEvent | None:
        done = ctx.collect_events(ev, 6)
        return None if done is None else StopEvent(result=[(one.n, one.pid) for one in done])

    result = (await Workflow("w", [start, killable.one_by_one, join]).run()).result
    assert [n for n, _ in result] == [0, 1, 4, 9, 16, 25]
    assert len({pid for _, pid in result}) == 1  # the second one began when the first had given its worker back


async def test_inline_steps_run_while_a_process_computes(folder: str) -> None:
    @step
    async def start(ev: StartEvent) -> Job:
        return Job(folder=folder)

    @step
    async def beside(ev: StartEvent) -> StopEvent:
        return StopEvent(result=await pid_of(folder))

    pid = (await Workflow("w", [start, killable.spin_job, end, beside]).run()).result
    assert not is_alive(pid)


async def test_a_process_step_may_return_a_list_and_none() -> None:
    @step
    async def count(ctx: Context, ev: Job) -> StopEvent | None:
        jobs = ctx.collect_events(ev, 3)
        return None if jobs is None else StopEvent(result=[job.n for job in jobs])

    assert (await Workflow("w", [killable.several, killable.nothing, count]).run()).result == [0, 1, 2]


async def test_events_known_by_name_only_go_in_and_out() -> None:
    @step(emits=["Told"])
    async def start(ev: StartEvent) -> DynamicEvent:
        return DynamicEvent("Told", {"n": 1})

    @step(accepts=["Heard"])
    async def hear(ev: DynamicEvent) -> StopEvent:
        return StopEvent(result=ev.n)

    assert (await Workflow("w", [start, killable.by_name, hear]).run()).result == 2


async def test_methods_static_methods_class_methods_and_wrapped_functions() -> None:
    assert (await Workflow("w", [killable.Adder(3).add]).run(4)).result == 7
    assert (await Workflow("w", [killable.Adder.double]).run(4)).result == 8
    assert (await Workflow("w", [killable.Adder.name_it]).run()).result == "Adder"
    assert (await Workflow("w", [killable.wrapped]).run()).result == "wrapped"


async def test_large_events_go_both_ways() -> None:
    data = os.urandom(3_000_000)
    assert (await Workflow("w", [killable.echo]).run(data)).result == data


async def test_context_variables_stay_behind() -> None:
    token = killable.NAME.set("set")
    try:
        assert (await Workflow("w", [killable.read_name]).run()).result == "unset"
    finally:
        killable.NAME.reset(token)


async def test_step_records_tell_of_attempts() -> None:
    async with Workflow("w", [killable.square, one_job, end]).run_with_handler() as handler:
        kinds = [
            (record.kind, record.step, record.attempt)
            async for record in handler.stream_events(lifecycle=True)
            if getattr(record, "step", None) == "square"
        ]
    assert kinds == [("started", "square", 1), ("finished", "square", 1)]


# ---- stopped


async def warm_up() -> None:
    """Start a worker, which takes longer than the timeouts of these tests."""
    await Workflow("w", [killable.own_pid]).run()


@every_way
async def test_a_step_over_its_timeout_is_killed_before_the_run_reports_it(way: str, folder: str) -> None:
    await warm_up()
    pids: list[int] = []

    @step
    async def watch(ev: StartEvent) -> None:
        pids.append(await pid_of(folder))

    @step
    async def start(ev: StartEvent) -> Job:
        return Job(folder=folder)

    with pytest.raises(TimeoutError) as caught:
        await run_to_end(way, [start, watch, killable.spin_job, end], step_timeout=1.0)
    assert caught.value.step == "spin"
    assert caught.value.elapsed_ms == 1000
    assert caught.value.abandoned == ()
    assert len(pids) == 1
    assert not is_alive(pids[0])


async def killed_while(folder: str, run: Callable[[], Awaitable[object]]) -> int:
    """Run something that waits for a spinning step; cancel it once the step runs; its process id."""
    async with trio.open_nursery() as nursery:
        nursery.start_soon(run)
        pid = await pid_of(folder)
        assert is_alive(pid)
        nursery.cancel_scope.cancel()
    return pid


@every_way
async def test_cancelling_the_caller_kills_the_process(way: str, folder: str) -> None:
    @step
    async def start(ev: StartEvent) -> Job:
        return Job(folder=folder)

    async def run() -> None:
        await run_to_end(way, [start, killable.spin_job, end])

    assert not is_alive(await killed_while(folder, run))


async def test_a_step_that_never_lets_another_thread_run_is_killed_too(folder: str) -> None:
    async def run() -> None:
        await Workflow("w", [killable.hold_the_gil]).run(folder=folder)

    assert not is_alive(await killed_while(folder, run))


async def test_a_run_over_its_timeout_kills_the_process(folder: str) -> None:
    await warm_up()
    async with trio.open_nursery() as nursery:

        async def run() -> None:
            with pytest.raises(TimeoutError, match="workflow 'w' was over its timeout of 1 s"):
                await Workflow("w", [killable.spin], timeout=1.0).run(folder=folder)

        nursery.start_soon(run)
        pid = await pid_of(folder)
    assert not is_alive(pid)


async def test_cancelling_the_run_kills_the_process(folder: str) -> None:
    async with Workflow("w", [killable.spin]).run_with_handler(folder=folder) as handler:
        pid = await pid_of(folder)
        handler.cancel("enough")
        with pytest.raises(CancelledError, match="enough"):
            await handler.result()
        assert not is_alive(pid)


async def test_cancelling_the_step_kills_the_process_and_the_run_goes_on(folder: str) -> None:
    asked = trio.Event()
    calls: list[object] = []

    @step
    async def wait(ev: StartEvent) -> StopEvent:
        await asked.wait()
        return StopEvent(result="went on")

    def rescue(ev: Job, error: Exception) -> None:
        calls.append(error)

    spinning = options(killable.spin_job, retries=2, on_error=rescue)
    workflow = build([one_job, wait, spinning, end])
    async with workflow.run_with_handler(folder=folder) as handler:
        pid = await pid_of(folder)
        handler.cancel_step("spin")
        while is_alive(pid):
            await trio.lowlevel.checkpoint()
        asked.set()
        assert (await handler.result()).result == "went on"
    assert calls == []


async def test_the_failure_of_a_sibling_kills_the_process(folder: str) -> None:
    pids: list[int] = []

    @step
    async def fail(ev: StartEvent) -> None:
        pids.append(await pid_of(folder))
        raise LookupError("beside")

    with pytest.raises(WorkflowError, match="LookupError: beside"):
        await Workflow("w", [fail, killable.spin]).run(folder=folder)
    assert not is_alive(pids[0])


async def test_a_program_that_the_step_has_started_does_not_hold_up_the_abort(folder: str) -> None:
    async def run() -> None:
        await Workflow("w", [killable.leave_a_program_running]).run(folder=folder)

    def release() -> None:
        with contextlib.suppress(OSError):  # nobody reads: the program has ended
            os.close(os.open(f"{folder}/release", os.O_WRONLY | os.O_NONBLOCK))

    os.mkfifo(f"{folder}/release")
    late = threading.Timer(LONG, release)
    late.start()
    try:
        assert not is_alive(await killed_while(folder, run))
        assert late.is_alive()  # or the program had to end first
    finally:
        late.cancel()
        release()


async def test_after_a_kill_the_next_call_works(folder: str) -> None:
    async def run() -> None:
        await Workflow("w", [killable.spin]).run(folder=folder)

    pid = await killed_while(folder, run)
    assert (await Workflow("w", [killable.own_pid]).run()).result not in (pid, os.getpid())


async def test_on_error_has_the_last_word_on_a_timeout(folder: str) -> None:
    def rescue(ev: StartEvent, error: Exception) -> StopEvent:
        return StopEvent(result=type(error))

    spinning = options(killable.spin, timeout=0.05, on_error=rescue)
    assert (await build([spinning]).run(folder=folder)).result is TimeoutError


async def test_time_spent_waiting_for_a_place_does_not_count(mock_clock: MockClock) -> None:
    import trio_parallel

    limiter = trio_parallel.current_default_worker_limiter()
    limiter.total_tokens = 1
    adding = options(killable.add_one, timeout=5)
    results: list[int] = []

    async def run() -> None:
        results.append((await build([adding]).run(1)).result)

    async with trio.open_nursery() as nursery:
        async with limiter:
            nursery.start_soon(run)
            await wait_all_tasks_blocked()
            mock_clock.jump(1000)
            await wait_all_tasks_blocked()
            assert results == []
    assert results == [2]


async def test_a_step_that_waits_for_a_place_is_cancelled_at_once(folder: str) -> None:
    import trio_parallel

    limiter = trio_parallel.current_default_worker_limiter()
    limiter.total_tokens = 1
    async with limiter:
        async with trio.open_nursery() as nursery:

            async def run() -> None:
                await Workflow("w", [killable.spin]).run(folder=folder)

            nursery.start_soon(run)
            await wait_all_tasks_blocked()
            nursery.cancel_scope.cancel()
        assert limiter.borrowed_tokens == 1


# ---- workers that die


@pytest.mark.parametrize(
    ("dying", "said"),
    [
        (killable.segfault, r"killed by signal 11 \(SIGSEGV\) \(process \d+\)$"),
        (killable.kill_itself, r"killed by signal 9 \(SIGKILL\) \(process \d+\); if nobody killed it, memory ran out"),
        (killable.exit_three, r"exit code 3, as from os._exit\(3\) \(process \d+\)$"),
        (killable.exit_zero, r"exit code 0, as from os._exit\(0\) \(process \d+\)$"),
    ],
)
async def test_a_worker_that_dies_is_named_and_the_next_call_works(dying: Any, said: str) -> None:
    with pytest.raises(
        WorkflowError, match=rf"^the worker process of step '{dying.__name__}' of workflow 'w' died: {said}"
    ) as caught:
        await Workflow("w", [dying]).run()
    assert caught.value.step == dying.__name__
    assert caught.value.event_type == "blazen::StartEvent"
    assert caught.value.run_id is not None
    assert caught.value.__cause__ is None
    assert (await Workflow("w", [killable.add_one]).run(1)).result == 2


async def test_a_worker_killed_while_idle_costs_nobody_anything() -> None:
    pid = (await Workflow("w", [killable.own_pid]).run()).result
    with os.fdopen(os.pidfd_open(pid)) as process:
        os.kill(pid, signal.SIGKILL)
        select.select([process], [], [], LONG)
    assert (await Workflow("w", [killable.own_pid]).run()).result not in (pid, os.getpid())


async def test_a_death_is_tried_again_and_given_to_on_error(tmp_path: Path) -> None:
    assert (await Workflow("w", [killable.die_once]).run(folder=str(tmp_path))).result == "alive"
    seen: list[Exception] = []

    def rescue(ev: StartEvent, error: Exception) -> StopEvent:
        seen.append(error)
        return StopEvent(result="rescued")

    dying = options(killable.exit_three, retries=Retry(1, on=WorkflowError, initial=0), on_error=rescue)
    assert (await build([dying]).run()).result == "rescued"
    assert [type(error) for error in seen] == [WorkflowError]


async def test_sys_exit_ends_neither_the_host_nor_silently() -> None:
    with pytest.raises(WorkflowError, match=r"'call_exit' of workflow 'w' called sys.exit\(3\) in its worker process"):
        await Workflow("w", [killable.call_exit]).run()


async def test_any_other_base_exception_comes_out_as_itself() -> None:
    def rescue(ev: StartEvent, error: Exception) -> StopEvent:
        return StopEvent(result="rescued")

    with pytest.raises(killable.Interrupt, match="stop"):
        await build([options(killable.interrupt, retries=3, on_error=rescue)]).run()


async def test_no_worker_can_be_started(monkeypatch: pytest.MonkeyPatch) -> None:
    import multiprocessing.context

    import trio_parallel

    def refuse(self: object) -> None:
        raise OSError(24, "Too many open files")

    monkeypatch.setattr(multiprocessing.context.SpawnProcess, "_Popen", staticmethod(refuse))
    async with trio_parallel.cache_scope():  # workers of its own: none is there yet
        with pytest.raises(WorkflowError, match=r"'add_one' of workflow 'w' got no worker process: OSError:.*Too many"):
            await Workflow("w", [killable.add_one]).run(1)


async def test_a_worker_that_is_never_ready(monkeypatch: pytest.MonkeyPatch) -> None:
    import trio_parallel

    monkeypatch.setattr("blazen.engine.processes._LONGEST_START", 0.001)
    async with trio_parallel.cache_scope():
        with pytest.raises(WorkflowError, match=r"step 'add_one' of workflow 'w' was not ready within 0\.001 s; what"):
            await Workflow("w", [killable.add_one]).run(1)


async def test_a_process_step_within_a_process_step_is_told_what_to_do() -> None:
    with pytest.raises(WorkflowError) as caught:
        await Workflow("w", [killable.run_another]).run()
    assert isinstance(caught.value.__cause__, ValidationError)
    assert str(caught.value.__cause__) == (
        "workflow 'inner' has process steps and is run inside a worker process, which can have none of its own: run it "
        "in the host, such as in an async step, or use run='thread'"
    )


async def test_workers_that_all_die_before_they_take_the_event(monkeypatch: pytest.MonkeyPatch) -> None:
    import trio_parallel

    monkeypatch.setattr("blazen.engine.processes._FRESH_WORKERS", 0)
    async with trio_parallel.cache_scope():
        with pytest.raises(WorkflowError, match="'add_one' of workflow 'w' got no worker process: one after the other"):
            await Workflow("w", [killable.add_one]).run(1)


# ---- exceptions


async def test_an_exception_is_the_cause_with_its_attributes_and_its_traceback() -> None:
    with pytest.raises(WorkflowError, match=r"step 'fail' of workflow 'w' failed on .*: Broken: too deep") as caught:
        await Workflow("w", [killable.fail]).run()
    cause = caught.value.__cause__
    assert type(cause) is killable.Broken
    assert cause.level == 7
    frames = []
    traceback = cause.__traceback__
    while traceback is not None:
        frames.append(traceback.tb_frame.f_code.co_name)
        traceback = traceback.tb_next
    assert frames == ["fail", "fail_deep"]


async def test_what_an_exception_came_of_arrives_with_it() -> None:
    with pytest.raises(WorkflowError) as caught:
        await Workflow("w", [killable.fail_from]).run()
    cause = caught.value.__cause__
    assert isinstance(cause, LookupError)
    assert isinstance(cause.__cause__, killable.Broken)


async def test_exceptions_in_groups() -> None:
    with pytest.raises(WorkflowError) as caught:
        await Workflow("w", [killable.fail_in_groups]).run()
    cause = caught.value.__cause__
    assert isinstance(cause, ExceptionGroup)
    assert [type(error) for error in cause.exceptions] == [ValueError, FileNotFoundError]


async def test_an_exception_that_cannot_be_pickled_is_told_by_its_repr_and_traceback() -> None:
    with pytest.raises(WorkflowError, match=r"raised Unpicklable\('holds a lock'\) in its worker process") as caught:
        await Workflow("w", [killable.fail_unpicklably]).run()
    assert caught.value.step == "fail_unpicklably"
    assert 'raise Unpicklable("holds a lock")' in caught.value.__notes__[0]


async def test_an_exception_is_kept_where_only_what_it_came_of_cannot_be_pickled() -> None:
    with pytest.raises(WorkflowError) as caught:
        await Workflow("w", [killable.fail_because_of_the_unpicklable]).run()
    cause = caught.value.__cause__
    assert isinstance(cause, KeyError)
    assert "Unpicklable: holds a lock" in cause.__notes__[0]


async def test_an_exception_is_kept_where_only_its_traceback_cannot_be_pickled() -> None:
    with pytest.raises(WorkflowError) as caught:
        await Workflow("w", [killable.fail_endlessly]).run()
    cause = caught.value.__cause__
    assert isinstance(cause, RecursionError)
    # In a note; or, where Python can pickle so deep a traceback, as under 3.13, in the traceback.
    assert "return fail_endlessly(ev)" in "".join(traceback.format_exception(cause))


async def test_an_exception_whose_text_raises() -> None:
    with pytest.raises(WorkflowError, match="raised an object of type Mute in its worker process"):
        await Workflow("w", [killable.fail_mutely]).run()


async def test_an_exception_that_only_the_worker_can_read() -> None:
    with pytest.raises(WorkflowError, match=r"raised Elsewhere\('there'\) in its worker process"):
        await Workflow("w", [killable.fail_elsewhere]).run()


async def test_an_attempt_that_raises_is_tried_again(tmp_path: Path) -> None:
    assert (await Workflow("w", [killable.fail_twice]).run(folder=str(tmp_path))).result == "at last"
    assert len((tmp_path / "attempts").read_text().splitlines()) == 3


# ---- what may come out


@pytest.mark.parametrize(
    ("returning", "said"),
    [
        (killable.return_text, "returned a 'str' object: return an event, a list of events or None"),
        (killable.return_pair, "returned a 'tuple' object: return a list of events, not a tuple or set"),
        (killable.return_mixed, "returned a list with a 'int' object: put only events into it"),
        (killable.return_coroutine, "returned a 'coroutine' object: declare the step with `async def`"),
        (killable.return_undeclared, "returned 'Job' and declares blazen::StopEvent"),
    ],
)
async def test_what_is_no_event_is_refused_as_of_any_step(returning: Any, said: str) -> None:
    with pytest.raises(WorkflowError, match=f"step '{returning.__name__}' of workflow 'w' {said}") as caught:
        await Workflow("w", [returning]).run()
    assert caught.value.step == returning.__name__


async def test_a_result_that_cannot_be_pickled_names_the_field() -> None:
    with pytest.raises(
        WorkflowError,
        match=r"step 'return_lock' of workflow 'w' returned what cannot leave its worker process, 'blazen::StopEvent': "
        "its field 'result' cannot be pickled.*lock",
    ):
        await Workflow("w", [killable.return_lock]).run()


async def test_a_result_that_only_the_worker_can_read() -> None:
    with pytest.raises(WorkflowError, match="'return_elsewhere' of workflow 'w' returned what cannot be read back"):
        await Workflow("w", [killable.return_elsewhere]).run()


async def test_an_event_that_cannot_be_pickled_names_the_field() -> None:
    @step
    async def start(ev: StartEvent) -> killable.Holds:
        return killable.Holds(n=1, lock=threading.Lock())

    with pytest.raises(
        WorkflowError,
        match="step 'take_no_lock' of workflow 'w' cannot be handed to a worker process, because of its event 'Holds': "
        "its field 'lock' cannot be pickled",
    ) as caught:
        await Workflow("w", [start, killable.take_no_lock]).run()
    assert isinstance(caught.value.__cause__, TypeError)
    assert caught.value.step == "take_no_lock"


async def test_an_object_that_can_no_longer_be_pickled() -> None:
    adder = killable.Adder(3)
    workflow = Workflow("w", [adder.add])
    adder.held = threading.Lock()
    with pytest.raises(
        WorkflowError, match=r"'add' of workflow 'w' cannot be handed to a worker.*its function: TypeError"
    ):
        await workflow.run(1)


# ---- refused when they are declared or built


def test_a_context_is_refused() -> None:
    with pytest.raises(ValidationError, match=r"step 'work': run='process' takes the event alone.*run='thread'"):

        @step(run="process")
        def work(ctx: Context, ev: StartEvent) -> StopEvent:
            return StopEvent()


def test_an_async_def_is_refused() -> None:
    with pytest.raises(ValidationError, match="step 'work': run='process' takes a plain def"):

        @step(run="process")
        async def work(ev: StartEvent) -> StopEvent:
            return StopEvent()


def test_a_local_function_is_refused() -> None:
    @step(run="process")
    def work(ev: StartEvent) -> StopEvent:
        return StopEvent()

    with pytest.raises(
        ValidationError,
        match=r"workflow 'w': step 'work' has run='process', and its function cannot be found.*top level",
    ):
        Workflow("w", [work])


def test_a_lambda_is_refused() -> None:
    named = step(run="process", name="work", accepts=StartEvent)(lambda ev: StopEvent())
    with pytest.raises(ValidationError, match="workflow 'w': step 'work' has run='process', and its function cannot"):
        Workflow("w", [named])


def test_a_method_of_what_cannot_be_pickled_is_refused() -> None:
    with pytest.raises(ValidationError, match=r"step 'add' is a method of .*Adder.*cannot be: TypeError.*lock"):
        Workflow("w", [killable.Adder(1, threading.Lock()).add])


def test_a_method_of_a_local_class_is_refused() -> None:
    class Local(killable.Adder):
        pass

    with pytest.raises(
        ValidationError, match="step 'add' has run='process', and the class of its object cannot be found"
    ):
        Workflow("w", [Local(1).add])


def test_a_local_event_class_is_refused() -> None:
    class Local(Event):
        pass

    @step
    async def start(ev: StartEvent) -> Local:
        return Local()

    sent = options(killable.take_anything, accepts=[Local])
    with pytest.raises(
        ValidationError, match="step 'take_anything' has run='process', and its event Local cannot be found"
    ):
        build([start, sent])


def test_the_missing_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "trio_parallel", None)
    with pytest.raises(ValidationError, match=r"workflow 'w': step 'add_one' .*pip install 'blazen\[process\]'"):
        Workflow("w", [killable.add_one])


# ---- whole programs

PROGRAM = """
import os, signal, sys, time
from blazen import StartEvent, StopEvent, Workflow, step

@step(run="process")
def work(ev: StartEvent) -> StopEvent:
    if ev.data == "modules":
        return StopEvent(result=[name for name in ("trio", "trio_parallel", "numpy") if name in sys.modules])
    print(os.getpid(), flush=True)
    while ev.data == "spin":
        pass
    return StopEvent(result=len(ev.data))
"""

GUARDED = """
if "slow" in sys.argv and __name__ == "__mp_main__":  # a worker that has not begun to ignore Ctrl-C
    print(os.getpid(), flush=True)
    while signal.SIGINT not in signal.sigpending():
        time.sleep(0.001)
    print("pending", flush=True)

if __name__ == "__main__":
    try:
        print("ready", flush=True)
        print(Workflow("w", [work]).run_sync(sys.argv[1]).result)
    except KeyboardInterrupt:
        print("interrupted")
"""


def start_program(folder: Path, text: str, *arguments: str, prefix: tuple[str, ...] = ()) -> subprocess.Popen[str]:
    """Start a program as the head of a process group of its own."""
    script = folder / "program.py"
    script.write_text(PROGRAM + text)
    return subprocess.Popen(
        [sys.executable, *(prefix or (str(script),)), *arguments],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
        cwd=folder,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
    )


def lines_of(program: subprocess.Popen[str], count: int) -> list[str]:
    assert program.stdout is not None
    return [program.stdout.readline().strip() for _ in range(count)]


def test_steps_of_the_main_script_work_and_a_worker_imports_no_more_than_the_script(tmp_path: Path) -> None:
    out, err = start_program(tmp_path, GUARDED, "modules").communicate(timeout=LONG)
    assert (out, err) == ("ready\n[]\n", "")


def test_a_script_without_the_guard_is_told_of_it_and_ends(tmp_path: Path) -> None:
    program = start_program(tmp_path, 'Workflow("w", [work]).run_sync("x")')
    out, err = program.communicate(timeout=LONG)
    assert program.returncode == 1
    assert out == ""
    assert err.count("ValidationError: workflow 'w' is run while a worker process imports program.py") == 1
    assert "WorkflowError: a worker process for step 'work' of workflow 'w' died while it started: exit code 1" in err
    assert "put that under `if __name__ == '__main__':`" in err


def test_steps_under_the_guard_are_told_of_it(tmp_path: Path) -> None:
    inside = "\n".join("    " + line for line in PROGRAM.splitlines())
    text = f'if __name__ == "__main__":\n    def work(): pass\n{inside}\n    Workflow("w", [work]).run_sync("x")'
    script = tmp_path / "inside.py"
    script.write_text("import sys\n" + text)
    program = start_program(tmp_path, "", prefix=(str(script),))
    _, err = program.communicate(timeout=LONG)
    assert program.returncode == 1
    assert "step 'work' of workflow 'w' could not be loaded in a worker process: AttributeError" in err
    assert "not under `if __name__ == '__main__':`" in err


async def test_a_module_that_only_the_host_can_import_is_told_of_it(monkeypatch: pytest.MonkeyPatch) -> None:
    module = types.ModuleType("only_here")  # as of a test that pytest has loaded by --import-mode=importlib
    exec(PROGRAM, vars(module))
    monkeypatch.setitem(sys.modules, "only_here", module)
    with pytest.raises(WorkflowError, match=r"No module named 'only_here'; .* of a module that `import` finds"):
        await Workflow("w", [module.work]).run("x")


def test_steps_that_no_file_holds_are_refused_when_built(tmp_path: Path) -> None:
    program = start_program(tmp_path, "", prefix=("-c", PROGRAM + 'Workflow("w", [work])'))
    _, err = program.communicate(timeout=LONG)
    assert "its function, __main__.work, was typed at a prompt or given with -c" in err
    done = subprocess.run(
        [sys.executable, "-"],
        input=PROGRAM + 'Workflow("w", [work])',
        capture_output=True,
        text=True,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        timeout=LONG,
        check=False,
    )
    assert "there is no file '<stdin>': put the program into a file" in done.stderr


def test_ctrl_c_ends_the_program_and_no_worker_prints_a_traceback(tmp_path: Path) -> None:
    program = start_program(tmp_path, GUARDED, "spin")
    worker = int(lines_of(program, 2)[1])
    os.killpg(program.pid, signal.SIGINT)
    out, err = program.communicate(timeout=LONG)
    assert (out, err, program.returncode) == ("interrupted\n", "", 0)
    assert not is_alive(worker)


def test_ctrl_c_does_not_reach_a_worker_that_starts(tmp_path: Path) -> None:
    program = start_program(tmp_path, GUARDED, "spin", "slow")
    worker = int(lines_of(program, 2)[1])
    os.kill(worker, signal.SIGINT)
    assert lines_of(program, 2) == ["pending", str(worker)]  # it has gone on, and runs the step
    os.killpg(program.pid, signal.SIGINT)
    out, err = program.communicate(timeout=LONG)
    assert (out, err, program.returncode) == ("interrupted\n", "", 0)


def test_a_worker_does_not_outlive_a_host_that_is_killed(tmp_path: Path) -> None:
    program = start_program(tmp_path, GUARDED, "spin")
    with program:
        worker = int(lines_of(program, 2)[1])
        with os.fdopen(os.pidfd_open(worker)) as process:
            program.kill()
            assert select.select([process], [], [], LONG)[0] == [process]


@pytest.mark.parametrize("way", ["end_with", "watch"])
def test_both_ways_to_end_with_the_host(way: str) -> None:
    reading, writing = os.pipe()  # the host's end is the one for writing
    code = (
        f"from blazen.engine import process_worker as w\nw.{way}({reading})\nprint('up', flush=True)\nwhile True: pass"
    )
    with subprocess.Popen(
        [sys.executable, "-c", code], pass_fds=[reading], stdout=subprocess.PIPE, cwd=ROOT
    ) as program:
        assert program.stdout is not None
        assert program.stdout.readline() == b"up\n"
        os.close(writing)
        assert program.wait(LONG) == -signal.SIGKILL
    os.close(reading)


def test_a_host_that_has_ended_before_is_noticed() -> None:
    reading, writing = os.pipe()
    os.close(writing)
    code = f"from blazen.engine import process_worker as w\nw.end_with({reading})\nwhile True: pass"
    done = subprocess.run([sys.executable, "-c", code], pass_fds=[reading], cwd=ROOT, timeout=LONG, check=False)
    assert done.returncode == -signal.SIGKILL
    os.close(reading)


async def test_a_worker_ignores_ctrl_c_and_hands_none_of_its_pipes_on() -> None:
    inherited, blocked, ignored = (await Workflow("w", [killable.open_files]).run()).result
    assert inherited == []
    assert not blocked
    assert ignored


async def test_workers_are_started_with_ctrl_c_blocked() -> None:
    """Holds the installed trio-parallel to the one place of its inside that is used."""
    from trio_parallel import _proc

    from blazen.engine.process_worker import QuietContext

    await Workflow("w", [killable.add_one]).run(1)
    assert isinstance(_proc.SpawnProcWorker.mp_context, QuietContext)


def test_the_example_prints_what_it_says() -> None:
    script = ROOT / "examples" / "killable_steps.py"
    expected = (ROOT / "examples" / "expected" / "killable_steps.txt").read_text()
    assert all(f"    {line}\n" in script.read_text() for line in expected.splitlines())
    for _ in range(3):  # it measures 50 ms, and other work on the machine can only add to that
        done = subprocess.run([sys.executable, str(script)], capture_output=True, text=True, timeout=LONG, check=False)
        if done.stdout == expected:
            break
    assert (done.stdout, done.stderr) == (expected, "")
