"""Typical uses of blazen, for mypy --strict; run as well, so that they stay true."""

from __future__ import annotations

from dataclasses import field
from typing import Any, assert_type

from blazen import (
    BlazenState,
    CallbackFieldStore,
    Context,
    DynamicEvent,
    Event,
    InputRequestEvent,
    InputResponseEvent,
    ProgressEvent,
    Retry,
    StartEvent,
    StateValue,
    StepRecord,
    StopEvent,
    UsageEvent,
    Workflow,
    WorkflowBuilder,
    step,
)
from blazen.errors import BlazenError, CancelledError, TimeoutError, ValidationError, WorkflowError
from blazen.record import RunRecord
from blazen.testing import (
    Checkpoint,
    RunOutcome,
    assert_events,
    cancel_everywhere,
    match,
    run_in_virtual_time,
    run_seeds,
    run_step,
    watch,
)


class Greet(Event):
    name: str
    excited: bool = False


class Cut(Event, type="my_app::Cut"):
    part: int
    words: list[str]


class Order(StartEvent):
    item: str
    count: int = 1


class Receipt(StopEvent):
    total: float


@step
async def parse(ctx: Context, ev: StartEvent) -> Greet:
    return Greet(name=ev.name)


def excuse(ev: Greet, exc: Exception) -> StopEvent:
    return StopEvent(result=f"no greeting: {exc}")


@step(timeout=5.0, max_concurrency=4, retries=Retry(3, on=(OSError, ValueError), initial=0.0), on_error=excuse)
async def greet(ev: Greet) -> StopEvent:
    assert_type(ev.name, str)
    assert_type(ev.excited, bool)
    assert_type(ev.event_type, str)
    return StopEvent(result=f"Hello, {ev.name}!")


@step(run="process", timeout=5.0)
def weigh(ev: Greet) -> StopEvent:
    return StopEvent(result=len(ev.name))


greeter: Workflow[str] = Workflow("greeter", [parse, greet], timeout=30.0)


@step(run="thread")
def cut(ctx: Context, ev: Order) -> list[Cut]:
    assert_type(ev.item, str)
    ctx.check_cancelled()
    return [Cut(part=n, words=[ev.item]) for n in range(ev.count)]


@step
async def join(ev: Cut, ctx: Context) -> Receipt | None:
    cuts = ctx.collect_events(ev, 2, key="all")
    assert_type(cuts, list[Cut] | None)
    if cuts is None:
        return None
    return Receipt(total=float(len(cuts)))


orders = Workflow[None]("orders", [cut, join], version="2", stream_keep=100, session_policy="warn_drop")


@step(accepts=["left", "right"], emits=[StopEvent])
async def by_name(ctx: Context, ev: DynamicEvent) -> Event | None:
    both = ctx.collect_events(ev, ["left", "right"])
    assert_type(both, list[Any] | None)
    return StopEvent(result=ev.data)


class Files:
    """A field store."""

    def save(self, key: str, value: list[float], ctx: Context) -> None:
        ctx.session[key] = value

    def load(self, key: str, ctx: Context) -> Any:
        return ctx.session[key]


class Import(BlazenState):
    path: str
    rows: int = 0
    errors: list[str] = []
    connection: object = None
    vectors: list[float] = field(default_factory=list)

    class Meta:
        transient = {"connection"}
        store_by = {"vectors": Files()}

    def restore(self) -> None:
        self.connection = object()


kept: dict[str, Any] = {}


class Longer(Import):
    label: str = ""

    class Meta:
        store_by = {"errors": CallbackFieldStore(save_fn=kept.__setitem__, load_fn=kept.__getitem__)}


@step
async def uses_typed_state(ctx: Context, ev: StartEvent) -> StopEvent:
    ctx.set("import", Import("a.csv", rows=2))
    ctx.set("import.rows", 3)
    job: Import = ctx.get("import")
    assert_type(job.rows, int)
    assert_type(job.errors, list[str])
    assert_type(job.state_type, str)
    assert_type(Import.state_type, str)
    assert_type(Longer("b.csv", label="b"), Longer)
    return StopEvent(result=job == Import("a.csv", 3))


@step
async def uses_context(ctx: Context, ev: StartEvent) -> list[Event] | StopEvent | None:
    ctx.set("n", 1)
    assert_type(ctx.get("n"), Any)
    ctx.set_bytes("raw", b"abc")
    assert_type(ctx.get_bytes("raw"), bytes | None)
    ctx.set_value("live", StateValue.native(object()))
    assert_type(ctx.get_value("live"), StateValue | None)
    assert_type(ctx.has("n"), bool)
    assert_type(ctx.delete("n"), bool)
    assert_type(ctx.keys(), list[str])
    ctx.state["n"] = ctx.state.get("n", 0) + 1
    ctx.session["connection"] = object()
    assert_type(ctx.run_id(), str)
    assert_type(ctx.attempt, int)
    ctx.send_event(Greet(name="Ada"), key=("greet", 1))
    ctx.write_event_to_stream(ProgressEvent(1, total=2, label="half"))
    ctx.emit_usage(UsageEvent("acme", "small", input_tokens=3, cost_usd=0.5))
    async with ctx.edit("n", 0) as cell:
        cell.value += 1
    async with ctx.cleanup():
        pass
    return None


async def excuse_later(ev: Greet, exc: Exception) -> list[Greet | Cut] | None:
    return None


@step(retries=2, on_error=excuse_later)
async def with_async_handler(ev: Greet) -> list[Greet]:
    return [ev]


@step(run="thread", on_error=lambda ev, exc: None)
def with_lambda(ev: Greet) -> None: ...


@step(run="thread")
def without_hint_of_its_result(ctx: Context, ev: Greet):  # type: ignore[no-untyped-def]  # allowed in files less strict
    return [ev]


@step(when=lambda ev: ev.name != "", waits=[Greet])
async def waits_in_the_middle(ctx: Context, ev: Greet) -> StopEvent:
    assert_type(await ctx.wait_for_event(Greet, where=lambda other: other.name != ev.name, timeout=5), Greet)
    assert_type(await ctx.request_input("Ship it?", schema=bool), bool)
    assert_type(await ctx.request_input("How many?", schema=int, timeout=5, default=None), int | None)
    return StopEvent(result=await ctx.request_input("Why?", metadata={"lines": 5}))


class Steps:
    """Steps may be methods."""

    def excuse(self, ev: StartEvent, exc: Exception) -> StopEvent:
        return StopEvent(result=str(exc))

    @step(on_error=excuse)
    async def excused(self, ev: StartEvent) -> StopEvent:
        return StopEvent()

    @staticmethod
    @step
    async def static(ev: StartEvent) -> StopEvent | None:
        return None

    @step
    @classmethod
    def of_class(cls, ev: StartEvent) -> list[StopEvent]:
        return [StopEvent()]

    @step
    async def ask(self, ev: StartEvent) -> InputRequestEvent:
        return InputRequestEvent(prompt=f"{ev.data}?")

    @step
    async def answer(self, ctx: Context, ev: InputResponseEvent) -> StopEvent:
        return StopEvent(result=ev.response)


async def watch_run() -> None:
    steps = Steps()
    workflow: Workflow[str] = Workflow("asks", [steps.ask, steps.answer])
    async with workflow.run_with_handler("go on") as handler:
        assert_type(handler.run_id, str)
        async for event in handler.stream_events(lifecycle=True):
            assert_type(event, Event)
            if isinstance(event, InputRequestEvent):
                handler.respond_to_input(event.request_id, "yes")
        newest = handler.stream_events(buffer=1)
        assert_type(await anext(newest, None), Event | None)
        assert_type(newest.lost, int)
        result = await handler.result()
        assert_type(result.result, str)
        assert_type(handler.pending_inputs(), list[InputRequestEvent])
        handler.cancel("enough")
        handler.cancel_step("ask")


async def run() -> None:
    result = await greeter.run(name="Ada")
    assert_type(result.result, str)
    assert_type(result.event, StopEvent)
    assert_type(result.run_id, str)
    assert_type(result.total_input_tokens, int)
    assert_type(result.total_cost_usd, float)
    assert_type(result.record, RunRecord | None)
    assert result.result == "Hello, Ada!"
    receipt = (await orders.run(item="tea", count=2)).event
    assert isinstance(receipt, Receipt)
    assert_type(receipt.total, float)
    try:
        await greeter.options(timeout=5.0, session={}).run({"name": "Ada"})
    except TimeoutError as error:
        assert_type(error.elapsed_ms, int)
        assert_type(error.step, str | None)
    except WorkflowError as error:
        assert_type(error.suppressed, tuple[BaseException, ...])
    except CancelledError as error:
        assert_type(error.reason, str | None)
    except ValidationError as error:
        assert_type(error.path, str | None)
    except BlazenError:
        raise


def build() -> Workflow[Any]:
    return WorkflowBuilder("greeter").step(parse).step(greet, name="hello").step_timeout(5.0).timeout(30).build()


async def test_kit() -> None:
    outcome = await run_step(greet, Greet(name="Ada"), state={"n": 1}, retries=True)
    assert_type(outcome.sent, list[Any])
    assert_type(outcome.usage, list[UsageEvent])
    assert_type(outcome.state, dict[str, Any])
    assert_events([*outcome.events, StopEvent(result=1)], [match(StopEvent), StopEvent])
    async with watch(greeter, name="Ada") as run:
        assert_type((await run.result()).result, str)
        assert_type(run.records, list[StepRecord])


def test_everywhere(workflow: Workflow[str]) -> None:
    def check(ended: RunOutcome) -> None:
        assert_type(ended.how, str)
        assert_type(ended.event, StopEvent | None)

    assert_type(cancel_everywhere(workflow, {"name": "Ada"}, check=check), list[Checkpoint])
    assert_type(run_seeds(lambda: workflow, {"name": "Ada"}, seeds=[1, 2]), list[RunOutcome])
    assert_type(run_in_virtual_time(workflow.run, {"name": "Ada"}).result, str)


def events() -> None:
    event = Greet("Ada", excited=True)
    assert_type(Greet.from_json(event.to_json()), Greet)
    assert_type(Greet.from_dict({"name": "Ada"}), Greet)
    assert_type(event.to_dict(), dict[str, Any])
    assert_type(Greet.event_type, str)
    assert_type(DynamicEvent("greeting", {"text": "hello"}).event_type, str)
