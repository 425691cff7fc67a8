"""Event classes: type names, construction, start and stop events, dynamic events, and a run's first event."""

from __future__ import annotations

import copy
import inspect
import pickle
import subprocess
import sys
from typing import Any, ClassVar

import msgspec
import pytest

from blazen._core.construct import call_like_base, construct_plain_form
from blazen.errors import ValidationError
from blazen.events import (
    DynamicEvent,
    Event,
    InputRequestEvent,
    InputResponseEvent,
    ProgressEvent,
    StartEvent,
    StepRecord,
    StopEvent,
    StreamGap,
    UsageEvent,
    convert,
    decode,
    start_event,
)


class Greet(Event):
    name: str
    excited: bool = False


class Named(Event, type="my_app::Named"):
    type: str


class LoudGreet(Greet):
    volume: int = 11


class Order(StartEvent):
    sku: str
    qty: int = 1


class RushOrder(Order):
    days: int = 1


class Report(StopEvent):
    text: str


class Total(StopEvent):
    result: int


class Keyword(Event, kw_only=True):
    count: int = 0
    name: str


class Shelf:
    class Box(Event):
        size: int


class Unhashable:
    __hash__ = None  # type: ignore[assignment]


EVERY_KIND: list[Event] = [
    Greet("Ada", excited=True),
    Named(type="x"),
    LoudGreet("Ada"),
    Order("bolt"),
    RushOrder("bolt", 2, 3),
    Report("done"),
    Total(3),
    Keyword(name="k"),
    Shelf.Box(2),
    StartEvent({"name": "Ada"}),
    StartEvent(),
    StopEvent([1, 2]),
    StopEvent(),
    DynamicEvent("Order", {"sku": "bolt"}),
    DynamicEvent("Order"),
    InputRequestEvent("r1", "Sure?", {"a": 1}),
    InputRequestEvent(),
    InputResponseEvent("r1", {"yes": True}),
    ProgressEvent(1, 2.5, "pages"),
    UsageEvent("openai", "gpt", 10, 20, cost_usd=0.5, latency_ms=12.0),
    StreamGap(3),
    StepRecord("started", "fetch", "Order", 7, 1, 0.5),
]

every_kind = pytest.mark.parametrize("event", EVERY_KIND, ids=repr)


@pytest.mark.parametrize(
    ("cls", "type_name"),
    [
        (Greet, "Greet"),
        (Named, "my_app::Named"),
        (LoudGreet, "LoudGreet"),
        (Shelf.Box, "Box"),
        (StartEvent, "blazen::StartEvent"),
        (Order, "blazen::StartEvent"),
        (RushOrder, "blazen::StartEvent"),
        (StopEvent, "blazen::StopEvent"),
        (Report, "blazen::StopEvent"),
        (Total, "blazen::StopEvent"),
        (InputRequestEvent, "blazen::InputRequestEvent"),
        (InputResponseEvent, "blazen::InputResponseEvent"),
        (ProgressEvent, "blazen::ProgressEvent"),
        (UsageEvent, "blazen::UsageEvent"),
        (StreamGap, "blazen::StreamGap"),
        (StepRecord, "blazen::StepRecord"),
    ],
)
def test_the_type_name_of_a_class(cls: type[Event], type_name: str) -> None:
    assert cls.event_type == type_name


@every_kind
def test_an_event_has_the_type_name_of_its_class(event: Event) -> None:
    expected = "Order" if isinstance(event, DynamicEvent) else type(event).event_type
    assert event.event_type == expected


def test_a_subclass_of_a_class_with_a_given_type_has_its_own_class_name() -> None:
    class Other(Named):
        pass

    assert Other.event_type == "Other"


def test_fields_are_given_by_position_or_keyword_and_defaults_are_honoured() -> None:
    assert Greet("Ada") == Greet(name="Ada", excited=False)
    assert LoudGreet("Ada", True, 3).volume == 3
    assert Keyword(name="k").count == 0


def test_a_default_that_can_change_is_made_anew_for_each_event() -> None:
    class Cart(Event):
        items: list[int] = []

    first = Cart()
    first.items.append(1)
    assert Cart().items == []


def test_a_missing_or_unknown_field_is_a_type_error() -> None:
    with pytest.raises(TypeError, match="name"):
        Greet()  # type: ignore[call-arg]
    with pytest.raises(TypeError, match="nom"):
        Greet("Ada", nom="x")  # type: ignore[call-arg]
    with pytest.raises(TypeError, match="positional"):
        Greet("Ada", True, 3)  # type: ignore[call-arg]


def test_construction_does_not_check_types() -> None:
    wrong: Any = 5
    assert Greet(wrong).name == 5


@every_kind
def test_an_event_cannot_be_changed(event: Event) -> None:
    field = event.__struct_fields__[0]
    for name in (field, "something_new", "event_type"):
        with pytest.raises(AttributeError):
            setattr(event, name, 1)
    with pytest.raises(AttributeError):
        delattr(event, field)


@every_kind
@pytest.mark.parametrize("protocol", range(2, pickle.HIGHEST_PROTOCOL + 1))
def test_an_event_comes_back_equal_from_pickle(event: Event, protocol: int) -> None:
    back = pickle.loads(pickle.dumps(event, protocol))
    assert type(back) is type(event)
    assert back == event


@every_kind
def test_a_copy_of_an_event_is_equal(event: Event) -> None:
    for back in (copy.copy(event), copy.deepcopy(event)):
        assert type(back) is type(event)
        assert back == event


@every_kind
def test_repr_is_the_call_that_makes_the_event(event: Event) -> None:
    text = repr(event) if not isinstance(event, Shelf.Box) else f"Shelf.{event!r}"
    assert eval(text) == event


def test_events_are_equal_only_to_events_of_their_class_with_equal_fields() -> None:
    class Twin(Event):
        name: str
        excited: bool = False

    assert Greet("Ada") == Greet("Ada")
    assert Greet("Ada") != Greet("Bob")
    assert Greet("Ada") != Twin("Ada")
    assert Greet("Ada") != LoudGreet("Ada")
    assert StartEvent(1) != StopEvent(1)
    assert DynamicEvent("A", {"x": 1}) == DynamicEvent("A", {"x": 1})
    assert DynamicEvent("A", {"x": 1}) != DynamicEvent("B", {"x": 1})
    assert DynamicEvent("A", {"x": 1}) != DynamicEvent("A", {"x": 2})


def test_events_are_hashable_if_their_fields_are() -> None:
    assert len({Greet("Ada"), Greet("Ada"), Greet("Bob")}) == 2
    assert hash(StopEvent(3)) == hash(StopEvent(3))
    with pytest.raises(TypeError, match="unhashable"):
        hash(StopEvent([3]))
    with pytest.raises(TypeError, match="unhashable"):
        hash(StopEvent(Unhashable()))


@pytest.mark.parametrize("event", [Greet("Ada"), StartEvent("Ada"), Order("Ada"), StopEvent("Ada"), Report("Ada")])
def test_events_match_patterns_by_position(event: Event) -> None:
    match event:
        case Greet(name) | Order(name) | Report(name) | StartEvent(name) | StopEvent(name):
            assert name == "Ada"
        case _:
            pytest.fail("no pattern matched")


@pytest.mark.parametrize("cls", [StartEvent, StopEvent])
def test_the_signature_of_a_plain_event_shows_its_one_argument(cls: type[Event]) -> None:
    (parameter,) = inspect.signature(cls).parameters.values()
    assert (parameter.name, parameter.default) == ({StartEvent: "data", StopEvent: "result"}[cls], None)


# What an event class cannot be.


@pytest.mark.parametrize("given", ["", "  ", 5, b"Name", ["Name"]])
def test_a_type_that_is_empty_or_no_string_is_refused(given: Any) -> None:
    with pytest.raises(ValidationError, match=r"class Bad: type must be a string"):

        class Bad(Event, type=given):
            pass


@pytest.mark.parametrize("given", ["blazen::Mine", "blazen::StopEvent", "blazen::"])
def test_the_prefix_of_blazen_is_reserved(given: str) -> None:
    with pytest.raises(ValidationError, match=r"class Bad: types that begin with 'blazen::'"):

        class Bad(Event, type=given):
            pass


@pytest.mark.parametrize("base", [StartEvent, StopEvent, Order, Report])
def test_a_subclass_of_a_start_or_stop_event_cannot_have_another_type(base: Any) -> None:
    with pytest.raises(ValidationError, match=r"class Bad: it keeps the type 'blazen::St"):

        class Bad(base, type="mine"):
            pass


def test_a_subclass_of_a_start_event_may_repeat_its_type() -> None:
    class Same(StartEvent, type="blazen::StartEvent"):
        pass

    assert Same.event_type == "blazen::StartEvent"


def test_an_event_cannot_be_a_start_and_a_stop_event() -> None:
    with pytest.raises(ValidationError, match=r"class Bad: an event cannot be of two types"):

        class Bad(StartEvent, StopEvent):
            pass


def test_a_field_called_event_type_is_refused() -> None:
    with pytest.raises(ValidationError, match=r"class Bad: event_type is the name the event is routed by"):

        class Bad(Event):
            event_type: str  # type: ignore[misc]

    with pytest.raises(ValidationError, match=r"class Worse: event_type is"):

        class Worse(Event):
            event_type = "Worse"


@pytest.mark.parametrize("name", ["to_dict", "to_json", "from_dict", "from_json"])
def test_a_field_cannot_hide_a_method_of_events(name: str) -> None:
    with pytest.raises(ValidationError, match=f"class Bad: a field cannot be called {name}"):
        type(Event)("Bad", (Event,), {"__annotations__": {name: int}, "__module__": __name__})


@pytest.mark.parametrize(
    "option", [{"frozen": False}, {"eq": False}, {"array_like": True}, {"tag": "x"}, {"dict": True}]
)
def test_a_class_option_that_contradicts_what_events_are_is_refused(option: dict[str, Any]) -> None:
    with pytest.raises(ValidationError, match=f"class Bad: the class option {next(iter(option))}="):

        class Bad(Event, **option):
            pass


def test_class_options_that_say_what_events_are_anyway_are_allowed() -> None:
    class Fine(Event, frozen=True, eq=True, forbid_unknown_fields=True, order=True, weakref=True):
        number: int

    assert Fine(1) < Fine(2)


def test_an_event_class_made_at_run_time_has_its_name_as_type() -> None:
    made = type(Event)("Made", (Event,), {"__annotations__": {"x": int}})
    assert (made.event_type, made(3).to_dict()) == ("Made", {"x": 3})


def test_class_variables_are_no_fields() -> None:
    class Versioned(Event):
        version: ClassVar[int] = 2
        name: str

    assert Versioned.__struct_fields__ == ("name",)
    assert Versioned("x").version == 2


# Start and stop events.


def test_a_plain_start_event_holds_any_object_itself() -> None:
    data = object()
    assert StartEvent(data).data is data
    assert StartEvent(data=data).data is data
    assert StartEvent().data is None


def test_a_plain_start_event_reads_the_keys_of_its_data() -> None:
    assert StartEvent({"name": "Ada"}).name == "Ada"
    assert StartEvent({"none": None}).none is None


def test_a_key_that_is_not_in_the_data_is_an_attribute_error_that_names_those_there_are() -> None:
    with pytest.raises(AttributeError, match=r"StartEvent has no attribute or key 'nam'; .*: 'name', 'age'"):
        _ = StartEvent({"name": "Ada", "age": 3}).nam
    with pytest.raises(AttributeError, match=r"no attribute or key 'nam'; .*: none"):
        _ = StartEvent({}).nam


def test_an_attribute_of_data_that_is_no_dict_is_an_attribute_error_that_says_so() -> None:
    with pytest.raises(AttributeError, match=r"StartEvent has no attribute 'name': its data is a list, not a dict"):
        _ = StartEvent(["name"]).name


def test_getattr_with_a_default_works_on_start_and_dynamic_events() -> None:
    assert getattr(StartEvent({"a": 1}), "b", "none") == "none"
    assert getattr(DynamicEvent("X"), "b", "none") == "none"


def test_special_names_are_never_looked_up_in_the_data() -> None:
    with pytest.raises(AttributeError):
        _ = StartEvent({"__special__": 1}).__special__


def test_a_typed_start_event_has_only_its_own_fields() -> None:
    assert Order.__struct_fields__ == ("sku", "qty")
    assert RushOrder.__struct_fields__ == ("sku", "qty", "days")
    with pytest.raises(TypeError):
        Order(data={"sku": "bolt"})  # type: ignore[call-arg]
    with pytest.raises(AttributeError):
        _ = Order("bolt").color


def test_the_data_of_a_typed_start_event_are_its_fields() -> None:
    assert Order("bolt").data == {"sku": "bolt", "qty": 1}


def test_a_typed_start_event_may_have_a_field_called_data() -> None:
    class Upload(StartEvent):
        data: bytes

    assert Upload(b"x").data == b"x"


def test_the_result_of_a_stop_event_is_the_same_object() -> None:
    result = object()
    assert StopEvent(result).result is result
    assert StopEvent(result=result).result is result
    assert StopEvent().result is None


def test_a_typed_stop_event_without_a_result_field_has_the_result_none() -> None:
    assert Report("done").result is None
    assert Total(3).result == 3
    assert Report.__struct_fields__ == ("text",)


@pytest.mark.parametrize(
    ("event", "base"),
    [
        (StartEvent(1), StartEvent),
        (Order("bolt"), StartEvent),
        (RushOrder("bolt"), Order),
        (StopEvent(1), StopEvent),
        (Report("x"), StopEvent),
        (StopEvent(1), Event),
    ],
)
def test_start_and_stop_events_are_instances_of_their_bases(event: Event, base: type[Event]) -> None:
    assert isinstance(event, base)
    assert issubclass(type(event), base)


def test_plain_and_typed_forms_are_told_apart() -> None:
    assert not isinstance(StartEvent(1), Order)
    assert not isinstance(Order("x"), StopEvent)


@pytest.mark.parametrize("cls", [StartEvent, StopEvent])
def test_a_plain_event_looks_like_its_public_class(cls: type[Event]) -> None:
    made = type(cls())
    assert (made.__name__, made.__qualname__, made.__module__) == (cls.__name__, cls.__qualname__, cls.__module__)


@pytest.mark.parametrize("cls", [StartEvent, StopEvent])
def test_a_plain_event_refuses_arguments_it_does_not_have(cls: Any) -> None:
    with pytest.raises(TypeError):
        cls(1, 2)
    with pytest.raises(TypeError, match="nope"):
        cls(nope=1)


def test_a_start_event_without_fields_takes_no_input() -> None:
    class Go(StartEvent):
        pass

    assert start_event(Go, None) == Go()
    with pytest.raises(ValidationError, match=r"Go: unknown field 'a', at \$.a; it has no fields"):
        start_event(Go, {"a": 1})


# Dynamic events and the others blazen knows.


def test_a_dynamic_event_reads_the_keys_of_its_data() -> None:
    event = DynamicEvent("Order", {"sku": "bolt", "data": 1})
    assert (event.event_type, event.sku) == ("Order", "bolt")
    assert event.data == {"sku": "bolt", "data": 1}
    with pytest.raises(
        AttributeError, match=r"DynamicEvent\('Order'\) has no attribute or key 'qty'; .*: 'sku', 'data'"
    ):
        _ = event.qty


def test_a_dynamic_event_without_data_has_an_empty_dict_of_its_own() -> None:
    first = DynamicEvent("A")
    first.data["x"] = 1
    assert DynamicEvent("A").data == {}


@pytest.mark.parametrize(
    ("event_type", "data", "path"),
    [
        ("", {}, "$.event_type"),
        (" ", {}, "$.event_type"),
        (5, {}, "$.event_type"),
        (None, {}, "$.event_type"),
        ("A", [], "$.data"),
        ("A", "text", "$.data"),
        ("A", {1: 2}, "$.data"),
    ],
)
def test_a_dynamic_event_that_cannot_be_is_refused(event_type: Any, data: Any, path: str) -> None:
    with pytest.raises(ValidationError, match="DynamicEvent") as caught:
        DynamicEvent(event_type, data)
    assert caught.value.path == path


def test_dynamic_event_cannot_be_subclassed() -> None:
    with pytest.raises(ValidationError, match=r"class Bad: DynamicEvent cannot be subclassed"):

        class Bad(DynamicEvent):
            pass


def test_an_input_request_without_an_id_gets_one_of_its_own() -> None:
    first, second = InputRequestEvent(prompt="Sure?"), InputRequestEvent(request_id=None)
    assert len(first.request_id) == 32
    assert first.request_id != second.request_id
    assert InputRequestEvent("mine").request_id == "mine"
    assert InputRequestEvent.from_dict({"prompt": "Sure?"}).request_id != ""


def test_the_defaults_of_the_events_blazen_knows() -> None:
    assert ProgressEvent(1) == ProgressEvent(current=1, total=None, label="")
    assert UsageEvent("p", "m") == UsageEvent("p", "m", 0, 0, None, None, "llm")
    assert InputRequestEvent("r") == InputRequestEvent("r", "", None)


# What comes from outside: the input of a run, and what hosts send.


@pytest.mark.parametrize("cls", [None, StartEvent])
@pytest.mark.parametrize("given", [None, 5, "text", [1], {"name": "Ada"}, object()])
def test_a_plain_start_takes_any_object_as_it_is(cls: type[StartEvent] | None, given: Any) -> None:
    event = start_event(cls, given)
    assert event.data is given


def test_a_start_event_given_as_input_begins_the_run_itself() -> None:
    for given in (StartEvent({"a": 1}), Order("bolt")):
        assert start_event(None, given) is given


def test_a_typed_start_is_filled_from_a_mapping() -> None:
    class ReadOnly(dict[str, Any]):
        pass

    from types import MappingProxyType

    for given in (
        {"sku": "bolt"},
        MappingProxyType({"sku": "bolt"}),
        ReadOnly(sku="bolt"),
        StartEvent({"sku": "bolt"}),
    ):
        assert start_event(Order, given) == Order("bolt")


def test_a_typed_start_takes_an_event_of_its_class() -> None:
    for given in (Order("bolt"), RushOrder("bolt")):
        assert start_event(Order, given) is given


def test_a_typed_start_refuses_an_event_of_another_class() -> None:
    class Visit(StartEvent):
        pass

    with pytest.raises(ValidationError, match="the workflow begins with Order, the input is a Visit"):
        start_event(Order, Visit())


@pytest.mark.parametrize("given", [5, "text", [("sku", "bolt")], StartEvent(5)])
def test_a_typed_start_refuses_input_that_is_no_mapping(given: Any) -> None:
    with pytest.raises(ValidationError, match=r"Order: expected a mapping with its fields \(sku, qty\), got "):
        start_event(Order, given)


def test_a_typed_start_without_input_needs_defaults_for_every_field() -> None:
    with pytest.raises(ValidationError, match=r"Order: the required field 'sku' is missing, at \$\.sku") as caught:
        start_event(Order, None)
    assert caught.value.path == "$.sku"


def test_values_of_the_input_keep_their_identity_in_a_field_of_any_type() -> None:
    class Load(StartEvent):
        thing: Any
        other: object

    things: list[Any] = [[1], object()]
    event = start_event(Load, {"thing": things[0], "other": things[1]})
    assert isinstance(event, Load)
    assert event.thing is things[0]
    assert event.other is things[1]


def test_a_dynamic_event_is_converted_to_the_class_of_its_type() -> None:
    assert convert(DynamicEvent("Greet", {"name": "Ada"}), Greet) == Greet("Ada")
    assert convert(DynamicEvent("blazen::StopEvent", {"result": 3}), StopEvent) == StopEvent(3)
    assert convert(DynamicEvent("blazen::StopEvent"), StopEvent) == StopEvent()


def test_a_conversion_that_does_not_fit_names_the_field() -> None:
    with pytest.raises(ValidationError, match=r"Greet: expected `str`, got `int`, at \$\.name") as caught:
        convert(DynamicEvent("Greet", {"name": 5}), Greet)
    assert caught.value.path == "$.name"


def test_a_dynamic_event_of_another_type_is_not_converted() -> None:
    with pytest.raises(ValidationError, match=r"'Meet' cannot become a Greet, whose type is 'Greet'"):
        convert(DynamicEvent("Meet", {"name": "Ada"}), Greet)


@pytest.mark.parametrize("data", [{"sku": "bolt"}, {"data": {"sku": "bolt"}}])
def test_a_typed_start_from_a_host_comes_as_its_fields_or_as_the_input(data: dict[str, Any]) -> None:
    assert decode("blazen::StartEvent", data, [Order]) == Order("bolt")
    assert convert(DynamicEvent("blazen::StartEvent", data), Order) == Order("bolt")


def test_a_typed_start_from_a_host_is_not_unwrapped_when_fields_stand_beside_the_input() -> None:
    with pytest.raises(ValidationError, match="Order: unknown field 'data'"):
        decode("blazen::StartEvent", {"data": {"sku": "bolt"}, "sku": "nut"}, [Order])


def test_a_typed_start_with_a_field_called_data_is_not_unwrapped() -> None:
    class Upload(StartEvent):
        data: dict[str, int]

    assert decode("blazen::StartEvent", {"data": {"data": 1}}, [Upload]) == Upload({"data": 1})


def test_decode_finds_the_classes_of_blazen_by_itself() -> None:
    assert decode("blazen::StartEvent", {"data": {"name": "Ada"}}) == StartEvent({"name": "Ada"})
    assert decode("blazen::ProgressEvent", {"current": 3}) == ProgressEvent(3)


def test_decode_prefers_the_classes_of_the_workflow() -> None:
    assert decode("Greet", {"name": "Ada"}, [Named, Greet]) == Greet("Ada")
    assert decode("blazen::StopEvent", {"text": "x"}, [Report]) == Report("x")


def test_decode_makes_a_dynamic_event_of_what_nobody_knows() -> None:
    assert decode("Unknown", {"a": 1}, [Greet]) == DynamicEvent("Unknown", {"a": 1})


# What construction costs rests on two things in the compiled core.


def test_event_classes_are_called_through_the_vectorcall_slot() -> None:
    have_vectorcall = 1 << 11  # Py_TPFLAGS_HAVE_VECTORCALL
    for cls in (Greet, Order, Report, StartEvent):
        assert type(cls).__flags__ & have_vectorcall
        assert type(cls).__call__ is type(msgspec.Struct).__call__


def test_a_metaclass_with_a_call_of_its_own_is_not_passed_over() -> None:
    class Counting(type(Event)):  # type: ignore[misc]
        def __call__(cls, *args: Any) -> Any:
            return "mine"

    with pytest.raises(TypeError, match="Counting is not called the way"):
        call_like_base(Counting)
    for wrong in (5, Greet):
        with pytest.raises(TypeError, match="expected a metaclass"):
            call_like_base(wrong)  # type: ignore[type-var]


def test_a_class_that_is_not_called_through_the_slot_cannot_give_its_plain_form() -> None:
    class Counting(type(Event)):  # type: ignore[misc]
        def __call__(cls, *args: Any) -> Any:
            return "mine"

    class Odd(Event, metaclass=Counting):
        pass

    with pytest.raises(TypeError, match="Odd is not called through the vectorcall slot"):
        construct_plain_form(Odd)
    with pytest.raises(TypeError, match="expected a class, got 5"):
        construct_plain_form(5)  # type: ignore[arg-type]


def test_importing_events_loads_nothing_that_is_seldom_needed() -> None:
    code = (
        "import sys, msgspec, typing; before = set(sys.modules); import blazen.events; "
        "print(*{'uuid', 'difflib', 'json', 'inspect', 'trio', 're', 'dataclasses'} & (set(sys.modules) - before))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == []
