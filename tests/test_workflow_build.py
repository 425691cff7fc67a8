"""`Workflow`, `WorkflowBuilder` and `options`: their arguments, and what is refused."""

from __future__ import annotations

import copy
import gc
import weakref
from collections.abc import Callable
from dataclasses import dataclass
from fractions import Fraction
from typing import Any
from uuid import UUID

import pytest
import trio
from trio.testing import MockClock

from blazen import (
    Context,
    DynamicEvent,
    Event,
    InputRequestEvent,
    Retry,
    StartEvent,
    StopEvent,
    Workflow,
    WorkflowBuilder,
    step,
)
from blazen.errors import TimeoutError, ValidationError

INFINITY = float("inf")
NO_TIMES = [0, 0.0, -1, -0.001, float("nan"), INFINITY, -INFINITY, 1e300, 10**400, True, "5", [5], 5j, Fraction(1, 2)]
A_UUID = "12345678-1234-5678-1234-567812345678"


class Part(Event):
    n: int = 0


class Order(StartEvent):
    item: str
    count: int = 1


@step
async def only(ev: StartEvent) -> StopEvent:
    return StopEvent(result=ev.data)


@step
async def slow(ev: StartEvent) -> StopEvent:
    await trio.sleep(3600)
    return StopEvent()


# ---- Workflow(...)


async def test_a_workflow_has_a_name_a_version_and_a_graph() -> None:
    workflow = Workflow("greeter", [only])
    assert workflow.name == "greeter"
    assert workflow.version == "1"
    assert Workflow("greeter", [only], version="2.0").version == "2.0"
    assert [spec.name for spec in workflow.graph.specs] == ["only"]
    assert "'greeter'" in repr(workflow)


async def test_the_type_of_the_result_may_be_written_down() -> None:
    assert (await Workflow[int]("w", [only]).run(5)).result == 5


@pytest.mark.parametrize("make", [list, tuple, iter, set], ids=str)
async def test_steps_come_in_any_iterable(make: Callable[[Any], Any]) -> None:
    assert (await Workflow("w", make([only])).run(5)).result == 5


@pytest.mark.parametrize("wrong", [only, None, 5, "only", b"only"], ids=str)
def test_steps_that_are_no_list_are_refused(wrong: Any) -> None:
    with pytest.raises(ValidationError, match=r"workflow 'w'.*steps must be a list"):
        Workflow("w", wrong)


@pytest.mark.parametrize("wrong", [None, 5, "only", lambda ev: None, Part, len, object()], ids=str)
def test_what_is_no_step_is_refused(wrong: Any) -> None:
    with pytest.raises(ValidationError, match="@step"):
        Workflow("w", [only, wrong])


def test_no_steps_at_all_are_refused() -> None:
    with pytest.raises(ValidationError, match=r"workflow 'w'.*no steps"):
        Workflow("w", [])


@pytest.mark.parametrize("wrong", ["", " ", None, 5, b"w", ["w"]], ids=repr)
def test_a_name_that_is_no_name_is_refused(wrong: Any) -> None:
    with pytest.raises(ValidationError, match="name of a workflow"):
        Workflow(wrong, [only])
    with pytest.raises(ValidationError, match="name of a workflow"):
        WorkflowBuilder(wrong).step(only).build()


@pytest.mark.parametrize("wrong", NO_TIMES, ids=str)
@pytest.mark.parametrize("which", ["timeout", "step_timeout"])
def test_a_timeout_that_is_not_positive_and_finite_is_refused(which: str, wrong: Any) -> None:
    arguments: dict[str, Any] = {which: wrong}
    with pytest.raises(ValidationError, match=f"workflow 'w': {which}"):
        Workflow("w", [only], **arguments)
    with pytest.raises(ValidationError, match=f"workflow 'w': {which}"):
        getattr(WorkflowBuilder("w"), which)(wrong)
    if which == "timeout":
        with pytest.raises(ValidationError, match="workflow 'w': options: timeout"):
            Workflow("w", [only]).options(timeout=wrong)


@pytest.mark.parametrize("wrong", NO_TIMES, ids=str)
def test_a_steps_timeout_is_checked_at_decoration_naming_the_step(wrong: Any) -> None:
    with pytest.raises(ValidationError, match="step 'mine': timeout"):

        @step(timeout=wrong)
        async def mine(ev: StartEvent) -> StopEvent:
            return StopEvent()


@pytest.mark.parametrize("wrong", [-1, float("nan"), INFINITY, None, True, "5", 10**400], ids=str)
def test_a_cleanup_grace_that_is_no_time_is_refused(wrong: Any) -> None:
    with pytest.raises(ValidationError, match="cleanup_grace"):
        Workflow("w", [only], cleanup_grace=wrong)
    if wrong is not None:
        with pytest.raises(ValidationError, match="cleanup_grace"):
            Workflow("w", [only]).options(cleanup_grace=wrong)


@pytest.mark.parametrize("grace", [0, 0.0, 0.5, 5])
async def test_a_cleanup_grace_may_be_zero(grace: float) -> None:
    assert (await Workflow("w", [only], cleanup_grace=grace).run(1)).result == 1


@pytest.mark.parametrize(
    ("argument", "wrong"),
    [
        *[("version", wrong) for wrong in (None, "", 1, b"1")],
        *[("stream_keep", wrong) for wrong in (0, -1, True, 2.0, "5", 2**31, 2**70)],
        *[("session_policy", wrong) for wrong in (None, "", "drop", 1, ["warn_drop"])],
        *[("types", wrong) for wrong in (None, 5, "Account", [1], [Part()], ["Account"], [int], [object])],
    ],
    ids=str,
)
def test_other_arguments_are_checked_by_name(argument: str, wrong: Any) -> None:
    arguments: dict[str, Any] = {argument: wrong}
    with pytest.raises(ValidationError, match=argument):
        Workflow("w", [only], **arguments)


@pytest.mark.parametrize("policy", ["pickle_or_error", "warn_drop", "hard_error"])
def test_every_session_policy_is_known(policy: str) -> None:
    Workflow("w", [only], session_policy=policy)


def test_an_unknown_argument_is_a_type_error_as_in_python() -> None:
    with pytest.raises(TypeError, match="time_out"):
        Workflow("w", [only], time_out=5)  # type: ignore[call-arg]


async def test_no_timeout_means_no_timeout(autojump_clock: MockClock) -> None:
    @step
    async def sleeps(ev: StartEvent) -> StopEvent:
        await trio.sleep(10**7)
        return StopEvent(result="in the end")

    assert (await Workflow("w", [sleeps]).run()).result == "in the end"


async def test_a_steps_own_timeout_goes_before_the_workflows(autojump_clock: MockClock) -> None:
    @step(timeout=50)
    async def patient(ev: StartEvent) -> StopEvent:
        await trio.sleep(20)
        return StopEvent()

    await Workflow("w", [patient], step_timeout=10).run()
    with pytest.raises(TimeoutError) as caught:
        await Workflow("w", [slow], step_timeout=10).run()
    assert (caught.value.step, caught.value.elapsed_ms) == ("slow", 10_000)


def test_building_a_workflow_changes_nothing_about_its_steps() -> None:
    first, second = Workflow("first", [only]), Workflow("second", [only])
    assert first.run_sync(1).result == 1
    assert second.run_sync(2).result == 2


def test_a_workflow_nobody_holds_is_freed() -> None:
    workflow = Workflow("w", [only])
    workflow.run_sync()
    gone = weakref.ref(workflow)
    del workflow
    gc.collect()
    assert gone() is None


async def test_one_workflow_object_serves_many_event_loops() -> None:
    workflow = Workflow("w", [only])
    results = [await trio.to_thread.run_sync(lambda n=n: workflow.run_sync(n).result) for n in range(3)]
    assert results == [0, 1, 2]


# ---- options(...)


async def test_options_is_a_copy_and_leaves_the_workflow_as_it_was(autojump_clock: MockClock) -> None:
    workflow = Workflow("w", [slow])
    hurried = workflow.options(timeout=5)
    began = trio.current_time()
    with pytest.raises(TimeoutError) as caught:
        await hurried.run()
    assert caught.value.elapsed_ms == 5000
    await workflow.run()
    assert trio.current_time() - began == 3605.0
    assert hurried.graph is workflow.graph
    assert hurried.name == "w"


async def test_options_add_up_and_the_later_one_wins(autojump_clock: MockClock) -> None:
    session: dict[str, object] = {}
    workflow = Workflow("w", [slow]).options(timeout=5).options(session=session, run_id=A_UUID).options(timeout=7)
    with pytest.raises(TimeoutError) as caught:
        await workflow.run()
    assert caught.value.elapsed_ms == 7000
    assert caught.value.run_id == A_UUID


@pytest.mark.parametrize("given", [A_UUID, A_UUID.upper(), A_UUID.replace("-", ""), UUID(A_UUID)], ids=str)
async def test_a_run_id_is_taken_as_a_uuid_in_any_spelling(given: Any) -> None:
    @step
    async def tell(ctx: Context, ev: StartEvent) -> StopEvent:
        return StopEvent(result=ctx.run_id())

    result = await Workflow("w", [tell]).options(run_id=given).run()
    assert result.run_id == result.result == A_UUID


@pytest.mark.parametrize("wrong", ["", "abc", 5, b"x" * 16, A_UUID + "0", A_UUID.encode()], ids=repr)
def test_a_run_id_that_is_no_uuid_is_refused(wrong: Any) -> None:
    with pytest.raises(ValidationError, match=r"workflow 'w'.*run_id"):
        Workflow("w", [only]).options(run_id=wrong)


@pytest.mark.parametrize("wrong", [[], "session", 5, {"a"}], ids=repr)
def test_a_session_that_is_no_dict_is_refused(wrong: Any) -> None:
    with pytest.raises(ValidationError, match=r"workflow 'w'.*session"):
        Workflow("w", [only]).options(session=wrong)


def test_an_unknown_option_is_a_type_error_as_in_python() -> None:
    with pytest.raises(TypeError, match="retries"):
        Workflow("w", [only]).options(retries=3)  # type: ignore[call-arg]


def test_the_run_methods_take_only_the_input() -> None:
    result = Workflow("w", [only]).run_sync(timeout=5, run_id="mine").result
    assert result == {"timeout": 5, "run_id": "mine"}


# ---- the input


@pytest.mark.parametrize("given", [5, "text", b"bytes", [1], (), {"a": 1}, object(), False, 0], ids=str)
async def test_the_input_may_be_any_object_and_keeps_its_identity(given: Any) -> None:
    assert (await Workflow("w", [only]).run(given)).result is given


async def test_fields_are_the_input_as_a_dict() -> None:
    fields: dict[str, Any] = {"input": 1, "self": 2, "data": 3}
    assert (await Workflow("w", [only]).run(**fields)).result == fields


async def test_no_input_is_none() -> None:
    assert (await Workflow("w", [only]).run()).result is None


@pytest.mark.parametrize("given", [{}, 0, "", False])
async def test_input_and_fields_together_are_refused(given: Any) -> None:
    workflow = Workflow("w", [only])
    with pytest.raises(ValidationError, match=r"workflow 'w'.*not both"):
        await workflow.run(given, a=1)
    with pytest.raises(ValidationError, match="not both"):
        workflow.run_with_handler(given, a=1)
    with pytest.raises(ValidationError, match="not both"):
        await trio.to_thread.run_sync(lambda: workflow.run_sync(given, a=1))


def ordering(ran: list[Order]) -> Workflow[None]:
    @step
    async def take(ev: Order) -> StopEvent:
        ran.append(ev)
        return StopEvent()

    return Workflow("orders", [take])


async def test_a_typed_start_event_takes_fields_a_mapping_and_itself() -> None:
    ran: list[Order] = []
    workflow = ordering(ran)
    await workflow.run(item="tea")
    await workflow.run({"item": "tea", "count": 1})
    await workflow.run(Order(item="tea"))
    await workflow.run(StartEvent({"item": "tea"}))
    assert ran == [Order(item="tea")] * 4


@pytest.mark.parametrize(
    ("given", "path"),
    [
        ({}, "item"),
        (None, "item"),
        ({"item": 5}, "$.item"),
        ({"item": "tea", "count": "many"}, "$.count"),
        ({"item": "tea", "size": 1}, "size"),
        (5, "Order"),
        ([], "Order"),
        ("tea", "Order"),
        (Part(), "Order"),
    ],
    ids=str,
)
async def test_input_that_does_not_fit_a_typed_start_event_is_refused_before_any_step(given: Any, path: str) -> None:
    ran: list[Order] = []
    workflow = ordering(ran)
    with pytest.raises(ValidationError) as caught:
        await workflow.run(given)
    with pytest.raises(ValidationError):
        workflow.run_with_handler(given)
    with pytest.raises(ValidationError):
        await trio.to_thread.run_sync(workflow.run_sync, given)
    assert path in str(caught.value)
    assert ran == []


async def test_input_that_refers_to_itself_is_no_harm_where_it_is_not_typed_and_refused_where_it_is() -> None:
    circle: dict[str, Any] = {}
    circle["item"] = circle
    assert (await Workflow("w", [only]).run(circle)).result is circle
    with pytest.raises(ValidationError, match="item"):
        await ordering([]).run(circle)


# ---- WorkflowBuilder


def build_calls() -> list[Callable[[WorkflowBuilder], WorkflowBuilder]]:
    return [
        lambda builder: builder.step(slow),
        lambda builder: builder.timeout(20),
        lambda builder: builder.step_timeout(10),
        lambda builder: builder.options(version="7"),
    ]


@pytest.mark.parametrize("turn", range(4))
async def test_the_order_of_a_builders_calls_does_not_matter(turn: int, autojump_clock: MockClock) -> None:
    calls = build_calls()
    builder = WorkflowBuilder("w")
    for call in calls[turn:] + calls[:turn]:
        assert call(builder) is builder
    workflow = builder.build()
    assert workflow.version == "7"
    with pytest.raises(TimeoutError) as caught:
        await workflow.run()
    assert (caught.value.step, caught.value.elapsed_ms) == ("slow", 10_000)


async def test_a_builder_takes_decorated_and_plain_functions_and_options_of_a_step() -> None:
    attempts: list[int] = []

    def begin(ev: StartEvent) -> Part:
        return Part()

    async def end(ctx: Context, ev: Part) -> StopEvent:
        attempts.append(ctx.attempt)
        if ctx.attempt < 3:
            raise OSError
        return StopEvent()

    workflow = WorkflowBuilder("w").step(begin).step(end, name="last", retries=Retry(2, initial=0)).build()
    await workflow.run()
    assert attempts == [1, 2, 3]
    assert [spec.name for spec in workflow.graph.specs] == ["begin", "last"]


def test_a_builder_is_checked_as_a_workflow_is() -> None:
    with pytest.raises(ValidationError, match="no steps"):
        WorkflowBuilder("w").build()
    with pytest.raises(ValidationError, match="two steps are called 'only'"):
        WorkflowBuilder("w").step(only).step(only).build()
    with pytest.raises(ValidationError, match="StartEvent"):
        WorkflowBuilder("w").step(only, name="other", accepts=[Part]).build()
    with pytest.raises(ValidationError, match="'colour'"):
        WorkflowBuilder("w").step(only).options(colour="red").build()
    with pytest.raises(ValidationError, match="stream_keep"):
        WorkflowBuilder("w").step(only).options(stream_keep=0).build()
    with pytest.raises(TypeError, match="colour"):
        WorkflowBuilder("w").step(only, colour="red")


def test_a_builder_may_go_on_after_it_has_built() -> None:
    builder = WorkflowBuilder("w").step(only)
    first = builder.build()
    second = builder.step(slow).build()
    assert [len(workflow.graph.specs) for workflow in (first, second)] == [1, 2]


def test_a_builder_finds_event_classes_in_the_scope_of_its_caller() -> None:
    class Local(Event):
        n: int

    def begin(ev: StartEvent) -> Local:
        return Local(n=3)

    def end(ev: Local) -> StopEvent:
        return StopEvent(result=ev.n)

    assert WorkflowBuilder("w").step(begin).step(end).build().run_sync().result == 3


# ---- the graph, as the whole workflow sees it


def test_declared_events_that_nobody_accepts_are_refused() -> None:
    @step
    async def begin(ev: StartEvent) -> Part | StopEvent:
        return StopEvent()

    with pytest.raises(ValidationError, match=r"'begin'.*'Part'"):
        Workflow("w", [begin])


def test_a_question_without_a_step_for_its_answer_is_refused() -> None:
    @step
    async def ask(ev: StartEvent) -> InputRequestEvent | StopEvent:
        return InputRequestEvent()

    with pytest.raises(ValidationError, match=r"'ask'.*InputResponseEvent"):
        Workflow("w", [ask])


def test_two_classes_of_one_type_name_are_refused() -> None:
    def other() -> type[Event]:
        class Part(Event):
            m: int = 0

        return Part

    @step
    async def begin(ev: StartEvent) -> Part:
        return Part()

    @step(accepts=other())
    async def end(ev: Any) -> StopEvent:
        return StopEvent()

    with pytest.raises(ValidationError, match=r"'begin'.*'end'.*'Part'"):
        Workflow("w", [begin, end])


def test_a_workflow_can_be_copied_by_options_many_times() -> None:
    workflow = Workflow("w", [only])
    for _ in range(100):
        workflow = workflow.options(timeout=5)
    assert workflow.run_sync(3).result == 3


async def test_types_are_checked_and_used() -> None:
    @dataclass
    class Account:
        owner: str

    @step
    async def store(ctx: Context, ev: StartEvent) -> StopEvent:
        ctx.set("account", Account("Ada"))
        return StopEvent(result=ctx.get("account"))

    for types in ([Account], (Account,), {Account}, iter([Account])):
        assert (await Workflow("w", [store], types=types).run()).result == Account("Ada")  # type: ignore[arg-type]


def test_copying_what_a_workflow_made_does_not_disturb_it() -> None:
    result = Workflow("w", [only]).run_sync([1])
    assert copy.deepcopy(result.event) == StopEvent(result=[1])


async def test_events_known_by_name_only_run_without_any_class() -> None:
    @step(emits=["greeting"])
    async def begin(ev: StartEvent) -> Any:
        return DynamicEvent("greeting", {"text": "hello"})

    @step(accepts=["greeting"])
    async def end(ev: Any) -> StopEvent:
        return StopEvent(result=ev.text)

    assert (await Workflow("w", [begin, end]).run()).result == "hello"
