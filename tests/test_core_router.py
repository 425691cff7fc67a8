"""The router against a model that walks over all steps and remembers nothing."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, rule
from reference.router import ReferenceRouter

from blazen._core.router import Router, StepInfo
from blazen.events import DynamicEvent, Event, InputRequestEvent, InputResponseEvent, StartEvent, StopEvent
from blazen.graph import build_graph
from blazen.steps import make_spec


class Animal(Event):
    pass


class Dog(Animal):
    pass


class Puppy(Dog):
    pass


class Cat(Animal, type="my_app::Cat"):
    pass


class Stone(Event):
    pass


class Order(StartEvent):
    item: str = ""


class Receipt(StopEvent):
    total: int = 0


CLASSES: list[type[Event]] = [Animal, Dog, Puppy, Cat, Stone, InputRequestEvent, InputResponseEvent]
NAMES = ["Animal", "Dog", "Puppy", "my_app::Cat", "Cat", "Stone", "by name", "blazen::InputRequestEvent"]


def spec(name: str, **options: Any) -> Any:
    async def body(ev: Any) -> Any:
        return None

    return make_spec(body, name=name, **{"accepts": StartEvent, **options})


def router_of(*specs: Any) -> Router:
    return Router(build_graph("w", [spec("start", emits=[StopEvent]), *specs]))


ACCEPTED = st.one_of(
    st.lists(st.sampled_from([*CLASSES, *NAMES]), min_size=1, max_size=4).map(lambda events: {"accepts": events}),
    st.lists(st.sampled_from([*CLASSES, Event]), min_size=1, max_size=3).map(
        lambda events: {"accepts": events, "subclasses": True}
    ),
)
EVENTS = st.one_of(
    st.sampled_from(CLASSES).map(lambda cls: cls(*(["id", 1] if cls is InputResponseEvent else []))),
    st.sampled_from([*NAMES, "nobody's", "blazen::StartEvent", "blazen::StopEvent"]).map(lambda n: DynamicEvent(n, {})),
    st.sampled_from([StartEvent(1), Order(), StopEvent(), Receipt()]),
)


class Routers(RuleBasedStateMachine):
    """One workflow, many events: what was routed before must not change where the next one goes."""

    @initialize(steps=st.lists(ACCEPTED, max_size=6))
    def build(self, steps: list[dict[str, Any]]) -> None:
        specs = [spec("start", emits=[StopEvent])]
        specs += [spec(f"step {index}", **options) for index, options in enumerate(steps)]
        graph = build_graph("w", specs)
        self.router = Router(graph)
        self.reference = ReferenceRouter(graph)

    @rule(event=EVENTS)
    def route(self, event: Event) -> None:
        expected = self.reference.lookup(event)
        assert self.router.lookup(event) == expected
        assert self.router.accepts(event) == (expected is not None)

    @rule(base=st.sampled_from([Event, Animal, Dog, Stone]), name=st.sampled_from(["New", "Dog", "my_app::Cat"]))
    def route_a_class_made_just_now(self, base: type[Event], name: str) -> None:
        made = type(Event)(name.rpartition(":")[2], (base,), {}, type=name)
        self.route(made())


TestRouters = Routers.TestCase


def test_steps_get_an_event_in_the_order_of_the_workflow_each_once() -> None:
    router = router_of(
        spec("a", accepts=[Dog]),
        spec("b", accepts=[Animal], subclasses=True),
        spec("c", accepts=["Dog", Dog]),
        spec("d", accepts=[Cat]),
        spec("e", accepts=[Dog, Animal], subclasses=True),
    )
    assert router.lookup(Dog()) == ("a", "b", "c", "e")
    assert router.lookup(Puppy()) == ("b", "e")
    assert router.lookup(Cat()) == ("b", "d", "e")
    assert router.lookup(Stone()) is None


def test_a_stop_event_is_accepted_and_goes_to_no_step() -> None:
    router = router_of(spec("everything", accepts=[Event], subclasses=True))
    for event in (StopEvent(), Receipt(total=3), DynamicEvent("blazen::StopEvent", {})):
        assert router.lookup(event) == ()
        assert router.accepts(event)


def test_a_question_is_accepted_whether_or_not_a_step_takes_it() -> None:
    assert router_of().lookup(InputRequestEvent()) == ()
    assert router_of(spec("a", accepts=[InputRequestEvent])).lookup(InputRequestEvent()) == ("a",)


@pytest.mark.parametrize("wrong", [None, 5, "Dog", Dog, {"event_type": "Dog"}], ids=repr)
def test_what_is_no_event_is_a_type_error(wrong: Any) -> None:
    router = router_of(spec("a", accepts=[Dog]))
    with pytest.raises(TypeError, match="not an event"):
        router.lookup(wrong)
    with pytest.raises(TypeError, match="not an event"):
        router.accepts(wrong)


def test_classes_without_end_are_routed_right() -> None:
    router = router_of(spec("a", accepts=["Fresh"]))
    for _ in range(5000):  # more than the router remembers
        made = type(Event)("Fresh", (Event,), {})
        assert router.lookup(made()) == ("a",)


def test_the_router_knows_its_steps_by_their_options() -> None:
    router = Router(
        build_graph(
            "w",
            [
                spec("start", emits=[StopEvent]),
                spec("limited", accepts=[Dog], max_concurrency=2, timeout=5),
            ],
        ),
        step_timeout=9,
    )
    assert router.workflow == "w"
    assert [(info.name, info.index, info.timeout, info.limit) for info in router.steps] == [
        ("start", 0, 9.0, 0),
        ("limited", 1, 5.0, 2),
    ]
    assert (router.has_timeouts, router.has_limits, router.has_threads) == (True, True, False)
    assert all(isinstance(info, StepInfo) and info.is_async for info in router.steps)


def test_a_workflow_without_timeouts_or_limits_has_none() -> None:
    router = router_of(spec("a", accepts=[Dog]))
    assert (router.has_timeouts, router.has_limits, router.has_threads) == (False, False, False)
    assert [info.timeout for info in router.steps] == [float("inf")] * 2
