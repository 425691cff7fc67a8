"""What is checked when a workflow is built, and the routes that come out."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from blazen._core.run import Context
from blazen.errors import ValidationError
from blazen.events import (
    DynamicEvent,
    Event,
    InputRequestEvent,
    InputResponseEvent,
    StartEvent,
    StopEvent,
)
from blazen.graph import Graph, build_graph
from blazen.steps import make_spec


class A(Event):
    pass


class B(Event, type="my_app::B"):
    pass


class Base(Event):
    pass


class Derived(Base):
    pass


class Order(StartEvent):
    item: str


class OtherOrder(StartEvent):
    item: str


class SpecialOrder(Order):
    pass


class Answer(StopEvent):
    text: str


class OtherAnswer(StopEvent):
    number: int


def build(
    *functions: Callable[..., Any] | tuple[Callable[..., Any], dict[str, Any]], types: tuple[Any, ...] = ()
) -> Graph:
    specs = [make_spec(f[0], **f[1]) if isinstance(f, tuple) else make_spec(f) for f in functions]
    return build_graph("orders", specs, types)


def refused(*functions: Any, types: tuple[Any, ...] = ()) -> str:
    """The message with which a workflow of these steps is refused."""
    with pytest.raises(ValidationError) as caught:
        build(*functions, types=types)
    assert "workflow 'orders'" in str(caught.value)
    return str(caught.value)


def begin(ev: StartEvent) -> A: ...
def finish(ev: A) -> StopEvent: ...
def only(ev: StartEvent) -> StopEvent: ...
def to_b(ev: A) -> B: ...
def from_b(ev: B) -> A: ...
def finish_b(ev: B) -> StopEvent: ...


# ---- the graph that comes out


def test_a_workflow_becomes_its_routes() -> None:
    graph = build(begin, finish)
    assert graph.name == "orders"
    assert [spec.name for spec in graph.specs] == ["begin", "finish"]
    assert graph.routes == {"blazen::StartEvent": (0,), "A": (1,)}
    assert graph.subclass_routes == ()
    assert graph.start_class is None
    assert graph.event_classes == {"blazen::StartEvent": StartEvent, "blazen::StopEvent": StopEvent, "A": A}


def test_several_steps_of_one_type_are_all_on_its_route_in_their_order() -> None:
    def also(ev: A | B) -> None: ...

    graph = build(finish, begin, also)
    assert graph.routes["A"] == (0, 2)
    assert graph.routes["my_app::B"] == (2,)


def test_a_graph_is_immutable() -> None:
    with pytest.raises(AttributeError):
        build(only).name = "other"  # type: ignore[misc]


def test_a_subclass_goes_only_where_subclasses_are_asked_for() -> None:
    def start(ev: StartEvent) -> Base | Derived: ...
    def exact(ev: Base) -> StopEvent: ...
    def derived_by_name(ev) -> None: ...  # type: ignore[no-untyped-def]

    wide = (exact, {"name": "wide", "subclasses": True})
    named = (derived_by_name, {"accepts": ["Derived"]})
    graph = build(start, exact, wide, named)
    assert graph.subclass_routes == ((Base, 2),)
    assert graph.steps_for("Base", Base) == (1, 2)
    assert graph.steps_for("Derived", Derived) == (2, 3)
    assert graph.steps_for("A", A) == ()


def test_an_event_known_by_name_goes_where_its_class_would() -> None:
    def start(ev: StartEvent) -> Derived: ...
    def wide(ev: Base) -> StopEvent: ...

    graph = build(start, (wide, {"subclasses": True}))
    assert graph.steps_for("Derived") == graph.steps_for("Derived", DynamicEvent) == (1,)
    assert graph.steps_for("Unknown") == ()


def test_a_step_for_every_event_gets_each_but_the_stop() -> None:
    def watch(ev: Event) -> None: ...

    graph = build(only, (watch, {"subclasses": True}))
    assert graph.steps_for("A", A) == graph.steps_for("Unknown") == graph.steps_for("Unknown", DynamicEvent) == (1,)
    assert graph.steps_for("blazen::StartEvent", StartEvent) == (0, 1)
    assert graph.steps_for("blazen::StopEvent", StopEvent) == ()
    assert "Event" not in graph.routes


# ---- names


@pytest.mark.parametrize("name", ["", "  ", None, 3])
def test_a_workflow_without_a_name_is_refused(name: Any) -> None:
    with pytest.raises(ValidationError, match="name of a workflow must be a non-empty str"):
        build_graph(name, [make_spec(only)])


def test_a_workflow_without_steps_is_refused() -> None:
    assert "has no steps" in refused()


def test_two_steps_of_one_name_are_refused() -> None:
    assert "two steps are called 'only'" in refused(only, only)
    assert "two steps are called 'begin'" in refused(begin, (finish, {"name": "begin"}))


def another_a() -> type[Event]:
    class A(Event):
        pass

    return A


def test_two_classes_of_one_type_name_are_refused() -> None:
    other = another_a()

    def second(ev: other) -> StopEvent: ...  # type: ignore[valid-type]

    message = refused(begin, finish, second)
    for part in ("step 'begin' and step 'second'", "'A'", f"{__name__}.A", "another_a.<locals>.A", 'type="..."'):
        assert part in message


@pytest.mark.parametrize("where", ["emits", "waits"])
def test_two_classes_of_one_type_name_are_refused_wherever_they_stand(where: str) -> None:
    options = {"emits": [StopEvent], where: [another_a()]}
    assert "two classes of the type name 'A'" in refused((only, options), finish)


def test_two_classes_of_one_type_name_are_refused_among_the_types() -> None:
    assert "step 'begin' and types=" in refused(begin, finish, types=(another_a(),))


def test_types_that_are_no_events_do_not_matter_to_the_graph() -> None:
    classes = build(only, types=(A, int, Event, DynamicEvent, "text")).event_classes
    assert classes == {"A": A, "blazen::StartEvent": StartEvent, "blazen::StopEvent": StopEvent}


# ---- the start


def test_a_workflow_no_step_of_which_accepts_the_start_is_refused() -> None:
    message = refused(to_b, finish_b)
    assert "no step accepts StartEvent" in message
    assert "hint" in message


@pytest.mark.parametrize(
    "options",
    [
        {"accepts": StartEvent},
        {"accepts": "blazen::StartEvent"},
        {"accepts": Order},
        {"accepts": [A, "blazen::StartEvent"]},
        {"accepts": Event, "subclasses": True},
    ],
    ids=repr,
)
def test_each_way_to_accept_the_start(options: dict[str, Any]) -> None:
    assert build((lambda ev: None, {"name": "first", **options})).steps_for("blazen::StartEvent") == (0,)


def test_a_typed_start_is_the_class_of_the_input() -> None:
    def typed(ev: Order) -> A: ...
    def plain(ev: StartEvent) -> None: ...

    for graph in (build(typed, plain, finish), build(plain, typed, finish)):
        assert graph.start_class is Order
        assert graph.event_classes["blazen::StartEvent"] is Order
        assert len(graph.routes["blazen::StartEvent"]) == 2


def test_a_step_that_names_the_start_twice_is_on_its_route_once() -> None:
    def either(ev: StartEvent | Order) -> StopEvent: ...

    assert build(either).routes == {"blazen::StartEvent": (0,)}


@pytest.mark.parametrize("other", [OtherOrder, SpecialOrder])
def test_two_typed_starts_are_refused(other: type[StartEvent]) -> None:
    def one(ev: Order) -> A: ...
    def two(ev: other) -> A: ...  # type: ignore[valid-type]

    message = refused(one, two, finish)
    for part in ("step 'one' and step 'two'", "two subclasses of StartEvent", "Order", other.__name__, "one input"):
        assert part in message


# ---- what is emitted


def test_an_emitted_event_nobody_accepts_is_refused() -> None:
    message = refused(begin, only)
    for part in ("step 'begin' emits 'A'", "no step accepts it", "return hint"):
        assert part in message


def test_an_emitted_name_nobody_accepts_is_refused() -> None:
    assert "step 'only' emits 'Nowhere'" in refused((only, {"emits": ["Nowhere", StopEvent]}))


def test_an_emitted_subclass_is_not_accepted_by_its_base() -> None:
    def start(ev: StartEvent) -> Derived: ...
    def exact(ev: Base) -> StopEvent: ...

    assert "emits 'Derived'" in refused(start, exact)
    build(start, (exact, {"subclasses": True}))


def test_an_emitted_event_is_accepted_by_name() -> None:
    build(begin, (lambda ev: None, {"name": "last", "accepts": ["A"]}))


def test_an_emitted_name_is_accepted_by_the_class_of_this_name() -> None:
    build((begin, {"emits": ["A"]}), finish)


def test_an_emitted_name_may_be_of_a_subclass_that_is_not_known_yet() -> None:
    def wide(ev: Base) -> StopEvent: ...

    build((begin, {"emits": ["Derived"]}), (wide, {"subclasses": True}))


def test_an_emitted_event_somebody_waits_for_is_accepted() -> None:
    def waiting(ctx: Context, ev: StartEvent) -> StopEvent: ...

    for waits in ([A], ["A"]):
        build(begin, (waiting, {"waits": waits}))
    assert "emits 'A'" in refused(begin, (waiting, {"waits": [B]}))


def test_an_input_request_needs_a_step_for_the_response() -> None:
    def ask(ev: StartEvent) -> InputRequestEvent: ...
    def answered(ev: InputResponseEvent) -> StopEvent: ...

    message = refused(ask, only)
    assert "step 'ask' emits InputRequestEvent" in message
    assert "InputResponseEvent" in message
    build(ask, answered)
    build(ask, (answered, {"accepts": "blazen::InputResponseEvent"}))


def test_an_input_request_may_be_answered_to_a_waiting_step() -> None:
    def ask(ev: StartEvent) -> InputRequestEvent | StopEvent: ...

    build((ask, {"waits": [InputResponseEvent]}))


def test_a_typed_stop_is_a_stop() -> None:
    def typed(ev: StartEvent) -> Answer: ...
    def other(ev: StartEvent) -> OtherAnswer: ...

    assert build(typed).event_classes["blazen::StopEvent"] is Answer
    assert build(typed, only).event_classes["blazen::StopEvent"] is Answer
    assert build(typed, other).event_classes["blazen::StopEvent"] is StopEvent


# ---- the way to the stop


def ends_nowhere(*functions: Any) -> str:
    message = refused(*functions)
    assert "no path leads from StartEvent to StopEvent" in message
    return message


def test_a_cycle_that_never_stops_is_refused() -> None:
    message = ends_nowhere(begin, to_b, from_b)
    assert "'begin', 'to_b', 'from_b'" in message


def test_a_stop_that_cannot_be_reached_is_no_way_out() -> None:
    def elsewhere(ev: Base) -> StopEvent: ...

    message = ends_nowhere(begin, to_b, from_b, elsewhere)
    assert "elsewhere" not in message


def test_a_cycle_with_a_way_out_is_fine() -> None:
    build(begin, to_b, from_b, finish_b)


def test_a_step_that_emits_nothing_ends_no_run() -> None:
    def swallow(ev: A) -> None: ...

    ends_nowhere(begin, swallow)
    ends_nowhere((begin, {"emits": []}), finish)


def test_a_step_that_declares_nothing_may_stop_the_run() -> None:
    def open_ended(ev: A): ...  # type: ignore[no-untyped-def]
    def any_event(ev: A) -> Event: ...

    build(begin, open_ended)
    build(begin, any_event)


def test_a_step_that_declares_nothing_but_cannot_be_reached_changes_nothing() -> None:
    def open_ended(ev: Base): ...  # type: ignore[no-untyped-def]

    ends_nowhere(begin, to_b, from_b, open_ended)


def test_on_error_may_stop_the_run() -> None:
    build(begin, to_b, (from_b, {"on_error": lambda ev, exc: StopEvent()}))


def test_a_step_with_the_context_may_send_what_leads_to_a_stop() -> None:
    def fan_out(ctx: Context, ev: StartEvent) -> None: ...

    build(fan_out, finish)
    ends_nowhere(fan_out, to_b, from_b)


def test_a_step_that_sends_the_stop_itself_says_so_with_emits() -> None:
    def sends(ctx: Context, ev: StartEvent) -> None: ...

    assert "emits=[StopEvent] if it is sent" in ends_nowhere(sends)
    build((sends, {"emits": [StopEvent]}))


def test_while_a_question_is_open_any_event_may_come_from_outside() -> None:
    def ask(ev: StartEvent) -> InputRequestEvent: ...
    def again(ev: InputResponseEvent) -> InputRequestEvent: ...
    def quit_(ev: A) -> StopEvent: ...

    build(ask, again, quit_)
    ends_nowhere(ask, again)


def test_a_name_of_an_unknown_class_may_lead_to_a_step_for_subclasses() -> None:
    def wide(ev: Base) -> StopEvent: ...
    def named(ev) -> None: ...  # type: ignore[no-untyped-def]

    build((begin, {"emits": ["Unknown"]}), (named, {"accepts": ["Unknown"]}), (wide, {"subclasses": True}))
