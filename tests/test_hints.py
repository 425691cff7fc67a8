"""What a step accepts, emits and how it is called, read from its hints."""

from __future__ import annotations

import gc
import sys
import typing
import weakref
from collections.abc import Awaitable, Callable, Coroutine, Iterator, Sequence
from typing import TYPE_CHECKING, Annotated, Any, List, NewType, NoReturn, Optional, TypeVar, Union  # noqa: UP035

import pytest

from blazen._core.run import Context
from blazen.errors import ValidationError
from blazen.events import DynamicEvent, Event, StartEvent, StopEvent
from blazen.steps import StepSpec, spec_of, step

if TYPE_CHECKING:
    from somewhere import Invisible  # type: ignore[import-not-found]


class A(Event):
    x: int = 0


class B(Event, type="my_app::B"):
    pass


class Answer(StopEvent):
    text: str


Either = A | B
Quoted = Union["A", "B"]
Circular: object = "Circular"
NewA = NewType("NewA", A)
T = TypeVar("T", bound=Event)


def accepting(hint: object) -> StepSpec:
    """The spec of a step whose event parameter carries `hint`, as it is after evaluation."""

    def handle(ev): ...

    handle.__annotations__ = {"ev": hint}
    return spec_of(step(handle))


def returning(hint: object, **options: Any) -> StepSpec:
    def handle(ev): ...

    handle.__annotations__ = {"ev": StartEvent, "return": hint}
    return spec_of(step(**options)(handle))


def in_module(source: str, **names: Any) -> dict[str, Any]:
    """Run `source` as a module of its own, without postponed annotations."""
    module = {"__name__": "made_for_a_test", "step": step, "A": A, "B": B, "Context": Context, **names}
    exec(compile(source, "<test>", "exec", dont_inherit=True), module)
    return module


# ---- what is accepted


@pytest.mark.parametrize(
    "hint",
    [
        A | B,
        Union[A, B],  # noqa: UP007
        Either,
        Quoted,
        Annotated[A | B, "note"],
        Annotated[A, "note"] | B,
        "A | B",
        "'A' | B",
        "A | 'B'",
        "Union['A', B]",
        "Annotated['A' | B, 'note']",
        "Optional['A' | B]",
        "Union['A' | B, 'A']",
        "Either",
        "Quoted",
        " A | B ",
        "A | B | A",
        A | B | None,
    ],
    ids=repr,
)
def test_each_way_to_write_a_union_accepts_its_classes(hint: object) -> None:
    spec = accepting(hint)
    assert spec.accepts == (A, B)
    assert spec.accepts_names == ("A", "my_app::B")


@pytest.mark.parametrize(
    "hint",
    [
        A,
        "A",
        "'A'",
        Optional[A],  # noqa: UP045
        "Optional['A']",
        "None | 'A'",
        typing.ForwardRef("A"),
        Annotated["A", 1],
    ],
    ids=repr,
)
def test_each_way_to_write_one_class_accepts_it(hint: object) -> None:
    assert accepting(hint).accepts == (A,)


def test_a_class_can_be_reached_through_a_module() -> None:
    module = in_module("import blazen.events as events\n@step\ndef f(ev: 'events.StartEvent'): ...")
    assert spec_of(module["f"]).accepts == (StartEvent,)


@pytest.mark.skipif(sys.version_info < (3, 12), reason="the type statement came with Python 3.12")
def test_a_type_statement_is_opened() -> None:
    module = in_module("type X = A | B\ntype Y = list[X]\n@step\ndef f(ev: X) -> Y: ...")
    spec = spec_of(module["f"])
    assert spec.accepts == spec.emits == (A, B)


@pytest.mark.skipif(sys.version_info < (3, 12), reason="the type statement came with Python 3.12")
def test_a_type_statement_may_name_what_is_defined_later() -> None:
    module = in_module("type X = A | Late\n@step\ndef f(ev: X): ...\nfrom blazen.events import StartEvent as Late")
    assert spec_of(module["f"]).accepts == (A, StartEvent)


@pytest.mark.skipif(sys.version_info < (3, 12), reason="the type statement came with Python 3.12")
def test_a_type_statement_that_refers_to_itself_is_refused() -> None:
    with pytest.raises(ValidationError, match="refers to itself"):
        in_module("type X = A | X\n@step\ndef f(ev: X): ...")


@pytest.mark.skipif(sys.version_info < (3, 12), reason="type parameters came with Python 3.12")
def test_names_around_a_generic_function_are_found() -> None:
    module = in_module(
        "def make():\n"
        "    class Inner(A): ...\n"
        "    @step\n"
        "    def f[T](ev: 'Inner', extra: T = None): ...\n"
        "    return Inner, f"
    )
    inner, function = module["make"]()
    assert spec_of(function).accepts == (inner,)


@pytest.mark.parametrize(
    ("hint", "said"),
    [
        (int, "int is no event class"),
        (A | int, "int is no event class"),
        (Any, "Any is no event class"),
        (object, "object is no event class"),
        (None, "names no event class"),
        (NewA, "NewA is no event class"),
        (T, "T is no event class"),
        (list[A], "a list is no event class"),
        (type[A], "is no event class"),
        (Callable[[], A], "is no event class"),
        ("A |", "no Python expression"),
        ("A\0", "no Python expression"),
        ("1 / 0", "ZeroDivisionError"),
        ("A + B", "TypeError"),
        ("len(3)", "TypeError"),
        ("'A' | len(3)", "TypeError"),
        ("'A' | dict[str]", "dict.* is no event class"),
        ("A() | 'B'", "is no event class"),
        ("Circular", "refers to itself"),
        (Event, "subclasses=True"),
        (DynamicEvent, r"accepts=\['Name'\]"),
        (StopEvent, "never routed"),
        (Answer, "never routed"),
    ],
    ids=repr,
)
def test_a_hint_that_names_no_acceptable_event_is_refused_at_decoration(hint: object, said: str) -> None:
    def handle(ev): ...

    handle.__annotations__ = {"ev": hint}
    with pytest.raises(ValidationError, match=said) as caught:
        step(handle)
    assert "step 'handle'" in str(caught.value)


def test_a_name_known_to_type_checkers_only_is_refused_with_advice() -> None:
    @step
    async def handle(ev: Invisible) -> None: ...

    with pytest.raises(ValidationError) as caught:
        spec_of(handle)
    assert type(caught.value) is ValidationError
    for part in ("step 'handle'", "parameter 'ev'", "`Invisible`", "TYPE_CHECKING", "accepts=[...]"):
        assert part in str(caught.value)


def test_an_event_parameter_without_a_hint_is_refused() -> None:
    with pytest.raises(ValidationError, match=r"parameter 'ev' has no hint.*accepts="):

        @step
        async def handle(ev): ...


def test_subclasses_makes_the_hint_event_mean_every_event() -> None:
    @step(subclasses=True)
    async def handle(ev: Event) -> None: ...

    assert spec_of(handle).accepts == (Event,)


# ---- where names are sought


def test_local_classes_are_found() -> None:
    class Local(Event):
        pass

    @step
    async def handle(ev: Local) -> Local: ...

    assert spec_of(handle).accepts == spec_of(handle).emits == (Local,)


def test_a_local_class_hides_a_global_of_the_same_name() -> None:
    hidden = A

    def make() -> tuple[type[Event], Callable[..., Any]]:
        class A(Event):
            pass

        @step
        async def handle(ev: A) -> None: ...

        return A, handle

    local, handle = make()
    assert local is not hidden
    assert spec_of(handle).accepts == (local,)


def test_a_local_class_defined_later_is_found_when_the_workflow_is_built() -> None:
    @step
    async def handle(ev: Later) -> Later | None: ...

    class Later(Event):
        pass

    assert spec_of(handle).accepts == spec_of(handle).emits == (Later,)


def test_a_local_without_a_value_yet_hides_a_global_of_the_same_name() -> None:
    def make() -> tuple[Callable[..., Any], type[Event]]:
        @step
        async def handle(ev: A) -> None: ...

        class A(Event):
            pass

        return handle, A

    handle, local = make()
    assert spec_of(handle).accepts == (local,)


def test_a_local_class_is_found_after_its_function_has_returned() -> None:
    def make() -> Callable[..., Any]:
        @step
        async def handle(ev: Later) -> None: ...

        class Later(Event):
            pass

        return handle

    assert spec_of(make()).accepts_names == ("Later",)


def test_a_global_class_defined_later_is_found_when_the_workflow_is_built() -> None:
    module = in_module("@step\ndef f(ev: 'Late'): ...\nfrom blazen.events import StartEvent as Late")
    assert spec_of(module["f"]).accepts == (StartEvent,)


def test_a_parameter_of_a_factory_is_found() -> None:
    def make(Kind: type[Event]) -> Callable[..., Any]:
        @step
        async def handle(ev: Kind) -> None: ...  # type: ignore[valid-type]

        return handle

    assert spec_of(make(A)).accepts == (A,)
    assert spec_of(make(B)).accepts == (B,)


def test_the_closure_of_a_function_is_searched_when_its_scope_is_gone() -> None:
    def make(Kind: type[Event]) -> Callable[..., Any]:
        async def handle(ev: Kind) -> object:  # type: ignore[valid-type]
            return Kind

        del handle.__annotations__["return"]
        return handle

    assert spec_of(step(make(A))).accepts == (A,)


def test_a_variable_of_the_closure_without_a_value_yet_is_sought_again_at_the_build() -> None:
    def make(unset: bool = False) -> tuple[Callable[..., Any], Callable[..., Any]]:
        async def handle(ev: Kind) -> None:  # type: ignore[valid-type]
            Kind()

        def fill() -> None:
            nonlocal Kind
            Kind = A

        if unset:
            Kind: type[Event] = A
        return handle, fill

    handle, fill = make()
    step(handle)
    with pytest.raises(ValidationError, match="'Kind' has no value yet"):
        spec_of(handle)
    fill()
    assert spec_of(handle).accepts == (A,)


def test_names_of_the_scope_that_calls_step_on_a_function_from_elsewhere_do_not_count() -> None:
    module = in_module("def f(ev: 'A'): ...")

    class A(Event):
        pass

    assert spec_of(step(module["f"])).accepts == (module["A"],)
    assert module["A"] is not A


def test_classes_of_an_enclosing_function_are_found() -> None:
    class Outer(Event):
        pass

    def make() -> Callable[..., Any]:
        @step
        async def handle(ev: Outer) -> None: ...

        return handle

    assert spec_of(make()).accepts == (Outer,)


def test_of_two_activations_of_an_enclosing_function_none_is_guessed() -> None:
    def outer(depth: int) -> Callable[..., Any]:
        class Outer(Event):
            pass

        def make() -> Callable[..., Any]:
            @step
            async def handle(ev: Outer) -> None: ...

            return handle

        return outer(depth - 1) if depth else make()

    assert spec_of(outer(0)).accepts_names == ("Outer",)
    with pytest.raises(ValidationError, match="'Outer' is not defined"):
        spec_of(outer(1))


def test_a_step_under_a_decorator_of_ones_own_finds_its_local_classes() -> None:
    class Local(Event):
        pass

    def quick(function: Callable[..., Any]) -> Callable[..., Any]:
        return step(timeout=1.0)(function)

    @quick
    async def handle(ev: Local) -> None: ...

    assert spec_of(handle).accepts == (Local,)


def test_a_step_in_a_comprehension_finds_its_local_classes() -> None:
    def make() -> list[Callable[..., Any]]:
        class Local(Event):
            pass

        async def one(ev: Local) -> None: ...
        async def two(ev: Local) -> None: ...

        return [step(function) for function in (one, two)]

    assert [spec_of(function).accepts_names for function in make()] == [("Local",), ("Local",)]


def test_names_of_the_class_around_a_method_are_found() -> None:
    class Local(Event):
        pass

    class Steps:
        class Inner(Event):
            pass

        @step
        async def handle(self, ctx: Context, ev: Inner | Local) -> Inner: ...

        @step
        async def early(self, ev: LaterInner) -> None: ...

        @staticmethod
        @step
        async def static(ev: LaterInner) -> None: ...

        class LaterInner(Event):
            pass

    spec = spec_of(Steps().handle)
    assert spec.accepts == (Steps.Inner, Local)
    assert spec.emits == (Steps.Inner,)
    assert spec_of(Steps().early).accepts == (Steps.LaterInner,)
    assert spec_of(Steps.static).accepts == (Steps.LaterInner,)


def test_no_local_is_kept_alive_by_a_step_whose_hints_are_resolved() -> None:
    class Marker:
        pass

    def make() -> tuple[Callable[..., Any], weakref.ref[Marker]]:
        class Local(Event):
            pass

        marker = Marker()

        @step
        async def handle(ev: Local) -> None: ...

        return handle, weakref.ref(marker)

    handle, marker = make()
    gc.collect()
    assert marker() is None
    assert spec_of(handle).accepts_names == ("Local",)


def test_no_local_is_kept_alive_once_a_late_name_is_resolved() -> None:
    class Marker:
        pass

    def make() -> tuple[Callable[..., Any], weakref.ref[Marker]]:
        marker = Marker()

        @step
        async def handle(ev: Late) -> None: ...

        class Late(Event):
            pass

        return handle, weakref.ref(marker)

    handle, marker = make()
    spec_of(handle)
    gc.collect()
    assert marker() is None


# ---- which parameter is what


def test_the_hints_decide_the_order() -> None:
    @step
    async def first(ctx: Context, ev: A) -> None: ...
    @step
    async def last(ev: A, ctx: Context) -> None: ...
    @step
    async def without(ev: A) -> None: ...

    assert [(spec.wants_ctx, spec.ctx_first) for spec in map(spec_of, (first, last, without))] == [
        (True, True),
        (True, False),
        (False, False),
    ]


def test_names_of_parameters_decide_nothing() -> None:
    @step
    async def handle(ev: Context, ctx: A) -> None: ...

    spec = spec_of(handle)
    assert spec.accepts == (A,)
    assert spec.ctx_first


@pytest.mark.parametrize("hint", [Context, "Context", "'Context'", "Context | None", Annotated[Context, 1]], ids=repr)
def test_each_way_to_write_the_context(hint: object) -> None:
    def handle(one, two): ...

    handle.__annotations__ = {"one": hint, "two": A}
    spec = spec_of(step(handle))
    assert spec.wants_ctx
    assert spec.ctx_first


def test_the_context_may_have_a_default() -> None:
    @step
    async def handle(ev: A, ctx: Context | None = None) -> None: ...

    assert spec_of(handle).wants_ctx


def test_the_event_may_have_a_default_if_it_is_the_only_one() -> None:
    @step
    async def handle(ev: A = A()) -> None: ...  # noqa: B008

    assert spec_of(handle).accepts == (A,)


def test_further_parameters_with_defaults_are_left_alone() -> None:
    @step
    async def handle(ev: A, flag: bool = False, client: Invisible = None, *, other: B | None = None) -> None: ...

    spec = spec_of(handle)
    assert spec.accepts == (A,)
    assert not spec.wants_ctx


def of_no_use(*, first: object = None, second: object = None) -> list[tuple[Callable[..., Any], str]]:
    def unhinted_context(ctx, ev: A): ...
    def two_events(ev: A, other: B): ...
    def two_contexts(ctx: Context, again: Context, ev: A): ...
    def context_or_event(ev: A, ctx: Context | B): ...
    def only_context(ctx: Context): ...
    def nothing(): ...
    def variadic(*args: A): ...
    def keywords(ev: A, **kwargs: A): ...
    def keyword_event(*, ev: A): ...
    def keyword_required(ev: A, *, other: B): ...
    def keyword_context(ev: A, *, ctx: Context | None = None): ...
    def late_context(ev: A, flag: bool = False, ctx: Context | None = None): ...
    def default_of_unknown_type(ev: A, client: Invisible = None): ...
    def hidden_context(ctx: Invisible, ev: A): ...

    return [
        (unhinted_context, r"'ctx' and 'ev'.*`ctx: Context`"),
        (two_events, "'ev' and 'other'.*at most one Context"),
        (two_contexts, "two parameters are hinted Context"),
        (context_or_event, "either the Context or the event"),
        (only_context, "takes no event"),
        (nothing, "takes no event"),
        (variadic, r"\*args"),
        (keywords, r"\*\*kwargs"),
        (keyword_event, "'ev' is keyword-only"),
        (keyword_required, "'other' is keyword-only"),
        (keyword_context, "'ctx' is keyword-only"),
        (late_context, "must be the first parameters"),
        (default_of_unknown_type, "parameter 'client'.*cannot be resolved"),
        (hidden_context, "parameter 'ctx'.*cannot be resolved"),
    ]


@pytest.mark.parametrize(("function", "said"), of_no_use(), ids=lambda value: getattr(value, "__name__", ""))
def test_a_signature_no_step_can_have_is_refused(function: Callable[..., Any], said: str) -> None:
    with pytest.raises(ValidationError, match=said) as caught:
        spec_of(step(function))
    assert f"step '{function.__name__}'" in str(caught.value)


# ---- accepts= beside the hints


def test_with_accepts_the_one_other_parameter_is_the_event() -> None:
    @step(accepts=["my_app::Greet"])
    async def bare(ev): ...
    @step(accepts=["my_app::Greet", A])
    async def with_context(thing, run: Context): ...
    @step(accepts=["my_app::Greet"])
    async def dynamic(run: Context, thing: DynamicEvent): ...
    @step(accepts=["my_app::Greet"])
    async def hidden(thing: Invisible): ...
    @step(accepts=[A])
    async def wide(thing: A | B | None): ...

    assert spec_of(bare).accepts == spec_of(dynamic).accepts == spec_of(hidden).accepts == ("my_app::Greet",)
    assert spec_of(with_context).accepts == ("my_app::Greet", A)
    assert (spec_of(with_context).wants_ctx, spec_of(with_context).ctx_first) == (True, False)
    assert spec_of(dynamic).ctx_first
    assert spec_of(wide).accepts == (A,)


def test_with_accepts_two_candidates_are_refused() -> None:
    with pytest.raises(ValidationError, match=r"'ev' and 'ctx'.*Context"):

        @step(accepts=["Greet"])
        async def handle(ev, ctx): ...


@pytest.mark.parametrize(("hint", "said"), [(B, "make the two agree"), (dict, "dict is no event class")])
def test_a_hint_that_contradicts_accepts_is_refused(hint: object, said: str) -> None:
    def handle(ev): ...

    handle.__annotations__ = {"ev": hint}
    with pytest.raises(ValidationError, match=said):
        step(accepts=[A])(handle)


def test_a_base_class_as_hint_agrees_with_accepts() -> None:
    @step(accepts=[A, B])
    async def handle(ev: Event) -> None: ...

    assert spec_of(handle).accepts == (A, B)


# ---- what is emitted


@pytest.mark.parametrize(
    ("hint", "emits"),
    [
        (A, (A,)),
        (A | None, (A,)),
        (A | B, (A, B)),
        (list[A], (A,)),
        (List[A], (A,)),  # noqa: UP006
        (list[A | B], (A, B)),
        (list["A"], (A,)),
        (A | list[B] | None, (A, B)),
        ("list['A' | B]", (A, B)),
        ("List['A'] | 'B' | None", (A, B)),
        ("list[A] | 'A'", (A,)),
        (Answer | A, (Answer, A)),
        (StopEvent, (StopEvent,)),
        (None, ()),
        (NoReturn, ()),
        (typing.Never, ()),
        (Event, None),
        (A | Event, None),
        (list[Event], None),
        (DynamicEvent, None),
        (A | DynamicEvent, None),
        (Any, None),
        (list[Any], None),
        (list, None),
        (List, None),  # noqa: UP006
    ],
    ids=repr,
)
def test_what_a_return_hint_declares(hint: object, emits: tuple[type[Event], ...] | None) -> None:
    assert returning(hint).emits == emits


def test_no_return_hint_declares_nothing() -> None:
    @step
    def handle(ev: A): ...  # type: ignore[no-untyped-def]

    assert spec_of(handle).emits is None
    assert spec_of(handle).emits_names is None


@pytest.mark.parametrize(
    ("hint", "said"),
    [
        (int, "int is no event class"),
        (A | str, "str is no event class"),
        (list[int], "int is no event class"),
        (list[list[A]], "a list is no event class"),
        (list[A | None], "puts None into a list"),
        (tuple[A, B], "returned as a list"),
        (tuple, "returned as a list"),
        (Sequence[A], "returned as a list"),
        (Iterator[A], "returned as a list"),
        (Awaitable[A], "write `async def`"),
        (Coroutine[Any, Any, A], "write `async def`"),
        (typing.Coroutine, "write `async def`"),
        (T, "T is no event class"),
        (dict[str, A], "is no event class"),
        ("A |", "return hint.*no Python expression"),
    ],
    ids=repr,
)
def test_a_return_hint_that_names_no_events_is_refused_at_decoration(hint: object, said: str) -> None:
    with pytest.raises(ValidationError, match=said) as caught:
        returning(hint)
    assert "step 'handle'" in str(caught.value)


def test_an_unknown_name_in_the_return_hint_is_refused_with_advice() -> None:
    with pytest.raises(ValidationError, match=r"the return hint, `Invisible`.*emits=\[\.\.\.\]"):
        returning("Invisible")


def test_emits_takes_the_place_of_the_return_hint() -> None:
    assert returning("Invisible", emits=[A, "Named"]).emits == (A, "Named")
    assert returning("A |", emits=[A]).emits == (A,)
    assert returning(A, emits=[]).emits == ()
    assert returning(A, emits=B).emits_names == ("my_app::B",)
