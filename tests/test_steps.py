"""`step`, its options, `Retry`, and the specs a workflow is built from."""

from __future__ import annotations

import functools
import math
import pickle
from collections.abc import Callable
from typing import Any

import hypothesis
import hypothesis.strategies as st
import pytest

from blazen._core.run import Context
from blazen.errors import ValidationError
from blazen.events import DynamicEvent, Event, StartEvent, StopEvent
from blazen.steps import Retry, check_timeout, make_spec, spec_of, step

TEN_YEARS = 10 * 365.25 * 86400


class A(Event):
    pass


class B(Event):
    pass


def declared(function: Callable[..., Any] | None = None, **options: Any) -> Any:
    async def handle(ev: A) -> None: ...

    return step(**options)(function or handle)


# ---- the decorator


def test_step_returns_the_function_itself() -> None:
    async def handle(ev: A) -> B:
        return B()

    assert step(handle) is handle
    assert spec_of(handle).fn is handle


def test_step_with_keywords_returns_the_function_itself() -> None:
    def handle(ev: A) -> None: ...

    assert step(timeout=1)(handle) is handle


def test_a_bare_step_has_the_defaults() -> None:
    spec = spec_of(declared())
    assert spec.name == "handle"
    assert (spec.accepts, spec.accepts_names) == ((A,), ("A",))
    assert (spec.emits, spec.emits_names) == ((), ())
    assert (spec.waits, spec.waits_names) == ((), ())
    assert spec.timeout is None
    assert spec.retry.n == 0
    assert spec.on_error is None
    assert spec.max_concurrency is None
    assert spec.run == "inline"
    assert not spec.subclasses
    assert spec.is_async


def test_every_option_reaches_the_spec() -> None:
    def recover(ev: A, exc: Exception) -> B:
        return B()

    def handle(ev): ...

    spec = spec_of(
        declared(
            handle,
            name="other",
            accepts=A,
            emits=(B, "my_app::C"),
            waits=["my_app::D", B],
            timeout=3,
            retries=Retry(2, on=(OSError, KeyError)),
            on_error=recover,
            max_concurrency=4,
            run="thread",
            subclasses=True,
        )
    )
    assert spec.name == "other"
    assert spec.accepts == (A,)
    assert (spec.emits, spec.emits_names) == ((B, "my_app::C"), ("B", "my_app::C"))
    assert (spec.waits, spec.waits_names) == (("my_app::D", B), ("my_app::D", "B"))
    assert spec.timeout == 3.0
    assert spec.retry == Retry(2, on=(OSError, KeyError))
    assert spec.on_error is recover
    assert spec.max_concurrency == 4
    assert spec.run == "thread"
    assert spec.subclasses
    assert not spec.is_async


def test_a_class_and_its_name_in_accepts_are_one() -> None:
    assert spec_of(declared(accepts=["A", A, "A"])).accepts == (A,)


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"name": ""}, "name must be a non-empty str"),
        ({"name": "  "}, "name must be a non-empty str"),
        ({"name": 3}, "name must be a non-empty str"),
        ({"accepts": []}, "accepts is empty"),
        ({"accepts": [""]}, "empty type name"),
        ({"accepts": [int]}, "accepts must be event classes or type names"),
        ({"accepts": A()}, "accepts must be event classes or type names"),
        ({"accepts": {"A"}}, "accepts must be event classes or type names"),
        ({"accepts": StopEvent}, "never routed"),
        ({"accepts": "blazen::StopEvent"}, "never routed"),
        ({"accepts": Event}, "subclasses=True"),
        ({"accepts": DynamicEvent}, "type names instead"),
        ({"accepts": "A", "subclasses": True}, "needs event classes"),
        ({"emits": [A, 3]}, "emits must be event classes or type names"),
        ({"emits": Event}, "emits must name concrete events, and Event is none"),
        ({"waits": [Event]}, "waits must name concrete events"),
        ({"waits": DynamicEvent}, "waits must name concrete events"),
        ({"waits": [StopEvent]}, "waits for StopEvent"),
        ({"waits": " "}, "waits holds an empty type name"),
        ({"retries": -1}, "retries must be an int, 0 or more"),
        ({"retries": True}, "retries must be an int, 0 or more"),
        ({"retries": 1.5}, "retries must be an int, 0 or more"),
        ({"retries": None}, "retries must be an int, 0 or more"),
        ({"max_concurrency": 0}, "max_concurrency must be an int, 1 or more"),
        ({"max_concurrency": True}, "max_concurrency must be an int, 1 or more"),
        ({"max_concurrency": 2.0}, "max_concurrency must be an int, 1 or more"),
        ({"subclasses": 1}, "subclasses must be True or False"),
        ({"run": "fiber"}, "run must be 'inline', 'thread', 'process' or 'asyncio'"),
        ({"run": None}, "run must be 'inline', 'thread', 'process' or 'asyncio'"),
        ({"run": "thread"}, "takes a plain def"),
        ({"run": "process"}, "takes a plain def"),
        ({"on_error": 3}, "on_error must be a function"),
        ({"on_error": ValueError}, "on_error must be a function"),
        ({"on_error": lambda ev: None}, r"\(event, exception\)"),
        ({"on_error": lambda ev, exc, more: None}, r"\(event, exception\)"),
        ({"on_error": lambda ev, exc, *, more: None}, r"\(event, exception\)"),
        ({"on_error": lambda ev, exc: (yield)}, "on_error is a generator"),
        ({"timeout": 0}, "timeout must be above 0"),
    ],
    ids=repr,
)
def test_an_option_out_of_its_range_is_refused_at_decoration(options: dict[str, Any], said: str) -> None:
    with pytest.raises(ValidationError, match=said) as caught:
        declared(**options)
    if "name" not in options:
        assert "step 'handle'" in str(caught.value)


class Recovery:
    def recover(self, ev: A, exc: Exception) -> None: ...

    def with_too_much(self, ev: A, exc: Exception, more: int) -> None: ...


@pytest.mark.parametrize(
    "handler",
    [
        lambda ev, exc: None,
        lambda ev, exc, more=1: None,
        lambda *both: None,
        lambda ev, *rest, more=1: None,
        functools.partial(print, "failed"),
        Recovery().recover,
        [].append,
    ],
)
def test_whatever_can_take_an_event_and_an_exception_may_be_on_error(handler: Callable[..., Any]) -> None:
    assert spec_of(declared(on_error=handler)).on_error is handler


def test_a_bound_method_that_wants_more_is_no_on_error() -> None:
    with pytest.raises(ValidationError, match=r"method Recovery.with_too_much does not"):
        declared(on_error=Recovery().with_too_much)


def test_an_unknown_option_is_a_type_error() -> None:
    with pytest.raises(TypeError, match="tiemout"):
        step(tiemout=3)  # type: ignore[call-overload]


# ---- what can be a step


def generator(ev: A):  # type: ignore[no-untyped-def]
    yield B()


async def async_generator(ev: A):  # type: ignore[no-untyped-def]
    yield B()


class Callable_:
    def __call__(self, ev: A) -> None: ...


@pytest.mark.parametrize(
    ("thing", "said"),
    [
        (generator, "step 'generator': is a generator"),
        (async_generator, "step 'async_generator': is a generator"),
        (functools.partial(declared(), None), "wrap it in a def"),
        (functools.partial(generator), "functools.partial.*wrap it in a def"),
        (A, "class 'tests?.*A'|A'.*cannot be a step"),
        (Callable_(), "cannot be a step"),
        (print, "cannot be a step"),
        ("name", "'name' cannot be a step"),
        (lambda ev: None, "lambda"),
        (Callable_().__call__, "bound already"),
    ],
    ids=repr,
)
def test_what_is_no_function_of_an_event_is_refused(thing: Any, said: str) -> None:
    with pytest.raises(ValidationError, match=said):
        step(thing)


def test_a_step_decorated_twice_is_refused() -> None:
    with pytest.raises(ValidationError, match="applied twice"):
        step(declared())


def keep(function: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(function)
    async def wrapper(*args: Any) -> Any:
        return await function(*args)

    return wrapper


def test_the_hints_of_a_wrapped_function_count() -> None:
    @step
    @keep
    async def handle(ctx: Context, ev: A) -> B:
        return B()

    spec = spec_of(handle)
    assert (spec.accepts, spec.emits, spec.ctx_first, spec.is_async) == ((A,), (B,), True, True)
    assert spec.fn is handle


def test_a_wrapper_around_a_step_can_be_a_step_of_its_own() -> None:
    inner = declared(timeout=1)
    outer = step(timeout=2)(keep(inner))
    assert (spec_of(inner).timeout, spec_of(outer).timeout) == (1.0, 2.0)
    assert spec_of(outer).fn is outer


def test_a_plain_wrapper_around_an_async_def_is_refused() -> None:
    async def handle(ev: A) -> None: ...

    @functools.wraps(handle)
    def wrapper(ev: A) -> Any: ...

    with pytest.raises(ValidationError, match="make the wrapper async def"):
        step(wrapper)


def test_a_wrapper_around_no_function_is_refused() -> None:
    def wrapper(ev: A) -> None: ...

    wrapper.__wrapped__ = 3  # type: ignore[attr-defined]
    with pytest.raises(ValidationError, match="wraps 3, which is no function"):
        step(wrapper)


def test_a_decorator_above_step_is_refused_when_the_workflow_is_built() -> None:
    @keep
    @step
    async def handle(ev: A) -> None: ...

    with pytest.raises(ValidationError, match="put @step on top"):
        spec_of(handle)


# ---- methods


def recover_outside(ev: A, exc: Exception) -> None: ...


class Steps:
    def recover(self, ev: A, exc: Exception) -> B:
        return B()

    @step(on_error=recover)
    async def method(self, ctx: Context, ev: A) -> B:
        return B()

    @step
    @staticmethod
    def static_below(ctx: Context, ev: A) -> B:
        return B()

    @staticmethod
    @step(on_error=recover_outside)
    def static_above(ev: A, ctx: Context) -> B:
        return B()

    @step
    @classmethod
    def of_class_below(cls, ev: A) -> B:
        return B()

    @classmethod
    @step
    def of_class_above(cls, ev: A) -> B:
        return B()

    @staticmethod
    @step(on_error=recover)
    def static_with_recover(ev: A) -> B:
        return B()

    @step(accepts=["Named"])
    def named(self, ev) -> None: ...  # type: ignore[no-untyped-def]


def test_a_method_is_bound_to_its_object() -> None:
    steps = Steps()
    spec = spec_of(steps.method)
    assert spec.fn == steps.method
    assert (spec.accepts, spec.emits) == ((A,), (B,))
    assert (spec.wants_ctx, spec.ctx_first) == (True, True)
    assert spec.on_error == steps.recover


def test_two_objects_give_two_steps() -> None:
    one, two = Steps(), Steps()
    assert spec_of(one.method).fn.__self__ is one  # type: ignore[attr-defined]
    assert spec_of(two.method).fn.__self__ is two  # type: ignore[attr-defined]


@pytest.mark.parametrize("owner", [Steps, Steps()], ids=["class", "object"])
def test_static_and_class_methods_are_steps_in_either_order_of_decorators(owner: Any) -> None:
    for function in (owner.static_below, owner.static_above, owner.of_class_below, owner.of_class_above):
        spec = spec_of(function)
        assert (spec.accepts, spec.emits) == ((A,), (B,))
        assert spec.fn == function
    assert spec_of(owner.static_below).ctx_first
    assert spec_of(owner.static_above).on_error is recover_outside


def test_self_is_not_taken_for_the_event() -> None:
    assert spec_of(Steps().named).accepts == ("Named",)


def test_a_method_passed_from_the_class_is_refused() -> None:
    with pytest.raises(ValidationError, match=r"step 'method'.*pass it from an object of Steps"):
        spec_of(Steps.method)


def test_a_method_as_on_error_of_a_static_step_is_refused() -> None:
    with pytest.raises(ValidationError, match="on_error is a method, but the step is not bound"):
        spec_of(Steps.static_with_recover)


def test_a_method_with_more_arguments_is_no_on_error() -> None:
    with pytest.raises(ValidationError, match=r"recover does not"):

        class Greedy:
            def recover(self, ev: A, exc: Exception, more: int) -> None: ...

            @step(on_error=recover)
            def handle(self, ev: A) -> None: ...


def test_a_method_of_another_class_is_no_on_error() -> None:
    with pytest.raises(ValidationError, match=r"function Steps.recover does not"):

        class Other:
            @step(on_error=Steps.recover)
            def handle(self, ev: A) -> None: ...


def test_a_method_without_self_is_refused_when_it_is_bound() -> None:
    class NoSelf:
        @step(accepts=["Named"])
        def handle(ev): ...  # type: ignore[no-untyped-def]

    with pytest.raises(ValidationError, match="takes no event"):
        spec_of(NoSelf().handle)


def test_a_method_without_any_parameter_is_refused_at_decoration() -> None:
    with pytest.raises(ValidationError, match="without a `self` parameter"):

        class Bad:
            @step
            def handle() -> None: ...  # type: ignore[misc]


def test_a_bad_method_is_refused_at_decoration() -> None:
    with pytest.raises(ValidationError, match="int is no event class"):

        class Bad:
            @step
            def handle(self, ev: int) -> None: ...


# ---- specs


@pytest.mark.parametrize(
    "thing",
    [None, 3, "handle", A, Steps, generator, lambda ev: None, Callable_(), recover_outside, Steps().recover],
    ids=repr,
)
def test_what_was_not_decorated_is_no_step(thing: object) -> None:
    with pytest.raises(ValidationError, match="is no step; put @step on the function"):
        spec_of(thing)


def test_the_message_about_a_missing_decorator_names_the_function() -> None:
    with pytest.raises(ValidationError, match=r"^function recover_outside is no step"):
        spec_of(recover_outside)


def test_a_static_method_object_itself_is_refused() -> None:
    with pytest.raises(ValidationError, match=r"step 'static_below'.*from its class"):
        spec_of(Steps.__dict__["static_below"])


def test_make_spec_needs_no_decorator() -> None:
    class Local(Event):
        pass

    def handle(ev: Local) -> Local | None: ...

    spec = make_spec(handle, timeout=2, retries=1)
    assert (spec.name, spec.accepts, spec.emits, spec.timeout, spec.retry.n) == ("handle", (Local,), (Local,), 2.0, 1)
    with pytest.raises(ValidationError, match="is no step"):
        spec_of(handle)


def test_make_spec_binds_a_method() -> None:
    class Plain:
        def handle(self, ev: A) -> None: ...

    plain = Plain()
    assert make_spec(plain.handle).fn == plain.handle


def test_make_spec_takes_a_lambda_with_a_name_and_accepts() -> None:
    assert make_spec(lambda ev: None, name="drop", accepts=[A]).accepts == (A,)


def test_options_of_make_spec_replace_those_of_the_decorator() -> None:
    handle = declared(timeout=1, retries=2)
    spec = make_spec(handle, timeout=5, name="other")
    assert (spec.name, spec.timeout, spec.retry.n) == ("other", 5.0, 2)
    assert spec_of(handle).timeout == 1.0
    assert make_spec(handle).timeout == 1.0


def test_make_spec_refuses_an_option_it_does_not_know() -> None:
    with pytest.raises(TypeError, match="no option 'retry'"):
        make_spec(declared(), retry=Retry(1))


def test_make_spec_refuses_bad_hints() -> None:
    def handle(ev: Nowhere) -> None: ...  # type: ignore[name-defined]  # noqa: F821

    with pytest.raises(ValidationError, match="`Nowhere`"):
        make_spec(handle)


# ---- times


@pytest.mark.parametrize(
    "value",
    [
        0,
        -1,
        0.0,
        -0.5,
        math.nan,
        math.inf,
        -math.inf,
        1e300,
        10**5000,
        TEN_YEARS * 1.01,
        True,
        False,
        "3",
        b"3",
        1j,
        [1],
    ],
    ids=lambda value: type(value).__name__,
)
def test_a_timeout_that_is_no_time_is_refused(value: object) -> None:
    with pytest.raises(ValidationError, match=r"^workflow 'w': timeout must be"):
        check_timeout(value, "workflow 'w': timeout")
    with pytest.raises(ValidationError, match=r"^step 'handle': timeout must be"):
        declared(timeout=value)


@hypothesis.given(st.one_of(st.floats(5e-324, TEN_YEARS), st.integers(1, int(TEN_YEARS))))
def test_every_positive_time_up_to_ten_years_is_a_timeout(value: float) -> None:
    checked = check_timeout(value, "timeout")
    assert checked == value
    assert type(checked) is float


def test_none_is_no_timeout() -> None:
    assert check_timeout(None, "timeout") is None


def test_a_value_without_a_repr_is_named_by_its_type() -> None:
    class Shy:
        def __repr__(self) -> str:
            raise RuntimeError

    with pytest.raises(ValidationError, match="an object of type Shy"):
        check_timeout(Shy(), "timeout")


# ---- retries


def test_a_number_of_retries_retries_at_once() -> None:
    retry = spec_of(declared(retries=3)).retry
    assert retry.n == 3
    assert [retry.delay(attempt, 0.9) for attempt in (1, 2, 3)] == [0.0, 0.0, 0.0]


def test_waits_grow_by_the_factor_up_to_the_longest() -> None:
    retry = Retry(9, initial=1.0, factor=3.0, max=20.0, jitter=0.0)
    assert [retry.delay(attempt, 0.0) for attempt in (1, 2, 3, 4, 5)] == [1.0, 3.0, 9.0, 20.0, 20.0]


def test_jitter_spreads_a_wait_to_both_sides() -> None:
    retry = Retry(1, initial=10.0, jitter=0.2)
    assert [retry.delay(1, random) for random in (0.0, 0.5, 1.0)] == [8.0, 10.0, 12.0]


@pytest.mark.parametrize(
    ("retry", "wait"),
    [
        (Retry(1, initial=1.0, jitter=0.0), 30.0),
        (Retry(1, initial=0.0, factor=1e8, jitter=0.0), 0.0),
        (Retry(1, initial=1.0, factor=0.5, jitter=0.0), 0.0),
    ],
)
def test_a_huge_attempt_has_a_wait(retry: Retry, wait: float) -> None:
    assert retry.delay(10**9, 0.5) == wait
    assert retry.delay(10**400, 0.5) == wait


@hypothesis.given(st.integers(1, 10**6), st.floats(0, 1), st.floats(0, 100), st.floats(0.01, 100), st.floats(0, 1))
def test_a_wait_is_never_negative_and_exceeds_the_longest_by_no_more_than_the_jitter(
    attempt: int, random: float, initial: float, factor: float, jitter: float
) -> None:
    wait = Retry(1, initial=initial, factor=factor, max=100.0, jitter=jitter).delay(attempt, random)
    assert 0.0 <= wait <= 100.0 * (1 + jitter)


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"n": -1}, "n must be"),
        ({"n": True}, "n must be"),
        ({"n": 1.0}, "n must be"),
        ({"n": 1, "on": BaseException}, "subclass of Exception"),
        ({"n": 1, "on": (OSError, KeyboardInterrupt)}, "never retried"),
        ({"n": 1, "on": ()}, "empty tuple"),
        ({"n": 1, "on": OSError()}, "subclass of Exception"),
        ({"n": 1, "on": [OSError]}, "subclass of Exception"),
        ({"n": 1, "initial": -0.1}, "initial"),
        ({"n": 1, "initial": math.nan}, "initial"),
        ({"n": 1, "initial": "1"}, "initial"),
        ({"n": 1, "initial": 60.0}, "raise max"),
        ({"n": 1, "factor": 0}, "factor"),
        ({"n": 1, "factor": math.inf}, "factor"),
        ({"n": 1, "max": math.inf}, "max"),
        ({"n": 1, "max": True}, "max"),
        ({"n": 1, "jitter": 1.1}, "jitter"),
        ({"n": 1, "jitter": -0.1}, "jitter"),
    ],
    ids=repr,
)
def test_a_retry_out_of_its_range_is_refused(options: dict[str, Any], said: str) -> None:
    with pytest.raises(ValidationError, match=f"^Retry: .*{said}"):
        Retry(**options)


def test_a_retry_is_immutable_comparable_and_picklable() -> None:
    retry = Retry(2, on=OSError)
    with pytest.raises(AttributeError):
        retry.n = 3  # type: ignore[misc]
    assert pickle.loads(pickle.dumps(retry)) == retry == Retry(2, OSError)


def test_a_start_and_a_stop_make_a_step() -> None:
    @step
    async def only(ev: StartEvent) -> StopEvent:
        return StopEvent()

    assert spec_of(only).accepts_names == ("blazen::StartEvent",)
    assert spec_of(only).emits_names == ("blazen::StopEvent",)
