"""The 18 errors: numbers, payloads, and that none of it is lost on the way through pickle and copy."""

from __future__ import annotations

import builtins
import copy
import pickle
from typing import Any

import pytest

from blazen import errors
from blazen.errors import ERRORS_BY_STATUS, PEER_ERROR_KINDS, BlazenError

RUN = "0b3c6a0e-5d7e-4b0e-8c39-6a1f0d3f7f11"

EVERY_ERROR: list[BlazenError] = [
    errors.AuthError("bad key"),
    errors.RateLimitError("slow down", retry_after_ms=1500),
    errors.TimeoutError("too slow", elapsed_ms=5000, step="fetch", run_id=RUN, abandoned=["fetch"]),
    errors.ValidationError("wrong", path="$.user.age"),
    errors.ContentPolicyError("refused"),
    errors.UnsupportedError("no such thing"),
    errors.ComputeError("device lost"),
    errors.MediaError("no image"),
    errors.ProviderError(
        "it failed",
        kind="OpenAIHttp",
        provider="openai",
        status=503,
        endpoint="https://example.com/v1",
        request_id="r1",
        detail="overloaded",
        retry_after_ms=20,
    ),
    errors.WorkflowError("failed", step="fetch", event_type="Page", run_id=RUN, abandoned=("a", "b")),
    errors.ToolError("tool failed"),
    errors.PeerError("no answer", kind="Transport"),
    errors.PersistError("disk full"),
    errors.PromptError("no such variable", kind="MissingVariable"),
    errors.MemoryStoreError("store failed", kind="Backend"),
    errors.CacheError("no room", kind="Download"),
    errors.CancelledError("user left", run_id=RUN, abandoned=("a",)),
    errors.InternalError("a rule was broken"),
]

each_error = pytest.mark.parametrize("error", EVERY_ERROR, ids=lambda error: type(error).__name__)


def test_the_numbers_are_the_same_as_in_every_other_language() -> None:
    names = [
        "AuthError",
        "RateLimitError",
        "TimeoutError",
        "ValidationError",
        "ContentPolicyError",
        "UnsupportedError",
        "ComputeError",
        "MediaError",
        "ProviderError",
        "WorkflowError",
        "ToolError",
        "PeerError",
        "PersistError",
        "PromptError",
        "MemoryStoreError",
        "CacheError",
        "CancelledError",
        "InternalError",
    ]
    assert {status: cls.__name__ for status, cls in ERRORS_BY_STATUS.items()} == dict(enumerate(names, start=1))


def test_every_error_class_of_the_module_has_a_number() -> None:
    classes = {value for value in vars(errors).values() if isinstance(value, type) and issubclass(value, BlazenError)}
    assert classes - {BlazenError} == set(ERRORS_BY_STATUS.values())


def test_all_is_what_the_module_offers() -> None:
    public = {name for name, value in vars(errors).items() if getattr(value, "__module__", None) == errors.__name__}
    constants = {"ERRORS_BY_STATUS", "PEER_ERROR_KINDS"}
    assert set(errors.__all__) == {name for name in public if not name.startswith("_")} | constants


@each_error
def test_an_error_says_in_its_docstring_when_it_is_raised(error: BlazenError) -> None:
    assert (type(error).__doc__ or "").startswith("Raised when") or "Raised where" in (type(error).__doc__ or "")


@each_error
@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
def test_an_error_comes_back_from_pickle_with_its_payload(error: BlazenError, protocol: int) -> None:
    back = pickle.loads(pickle.dumps(error, protocol))
    assert type(back) is type(error)
    assert (str(back), back.args, vars(back), repr(back)) == (str(error), error.args, vars(error), repr(error))


@each_error
def test_a_copy_of_an_error_has_its_payload(error: BlazenError) -> None:
    for back in (copy.copy(error), copy.deepcopy(error)):
        assert type(back) is type(error)
        assert (str(back), vars(back)) == (str(error), vars(error))


@each_error
def test_repr_shows_the_message_and_the_payload(error: BlazenError) -> None:
    text = repr(error)
    assert text.startswith(f"{type(error).__name__}({str(error)!r}")
    for name, value in vars(error).items():
        if value not in (None, ()) and name != "reason":
            assert f"{name}={value!r}" in text


@each_error
def test_the_message_is_what_str_gives(error: BlazenError) -> None:
    assert error.message == str(error) != ""


def test_notes_are_kept_by_pickle() -> None:
    error = errors.PersistError("disk full")
    error.add_note("on the second disk")
    assert pickle.loads(pickle.dumps(error)).__notes__ == ["on the second disk"]


class OrderError(errors.ToolError):
    """An error of a user, with a constructor of its own."""

    def __init__(self, sku: str, *, count: int) -> None:
        super().__init__(f"{count} of {sku}")
        self.sku = sku


def test_a_subclass_with_its_own_constructor_comes_back_from_pickle() -> None:
    back = pickle.loads(pickle.dumps(OrderError("bolt", count=3)))
    assert (type(back), str(back), back.sku) == (OrderError, "3 of bolt", "bolt")


def test_timeout_error_is_caught_as_the_builtin() -> None:
    with pytest.raises(builtins.TimeoutError) as caught:
        raise errors.TimeoutError("too slow", elapsed_ms=12)
    assert str(caught.value) == "too slow"


def test_timeout_error_of_a_whole_run_names_no_step() -> None:
    error = errors.TimeoutError("too slow", elapsed_ms=12)
    assert (error.elapsed_ms, error.step, error.run_id, error.suppressed, error.abandoned) == (12, None, None, (), ())


def test_validation_error_is_caught_as_a_value_error() -> None:
    with pytest.raises(ValueError, match="wrong") as caught:
        raise errors.ValidationError("wrong", path="$.user.age")
    assert isinstance(caught.value, errors.ValidationError)
    assert caught.value.path == "$.user.age"


def test_cancelled_error_has_no_message_unless_a_reason_was_given() -> None:
    silent = errors.CancelledError()
    assert (str(silent), silent.reason, repr(silent)) == ("", None, "CancelledError()")
    spoken = errors.CancelledError("user left")
    assert (str(spoken), spoken.reason) == ("user left", "user left")


@pytest.mark.parametrize("cls", [errors.WorkflowError, errors.CancelledError])
def test_suppressed_and_abandoned_are_tuples_whatever_was_given(cls: type[Any]) -> None:
    first, second = ValueError("a"), KeyError("b")
    error = cls("failed", suppressed=[first, second], abandoned=iter(["slow"]))
    assert error.suppressed == (first, second)
    assert error.abandoned == ("slow",)
    assert (cls("failed").suppressed, cls("failed").abandoned) == ((), ())


@pytest.mark.parametrize("kind", PEER_ERROR_KINDS)
def test_peer_error_takes_each_of_its_kinds(kind: str) -> None:
    assert errors.PeerError("no answer", kind=kind).kind == kind


def test_peer_error_refuses_an_unknown_kind_and_names_those_there_are() -> None:
    with pytest.raises(errors.ValidationError, match=r"'transport'.*Encode, Transport, EnvelopeVersion"):
        errors.PeerError("no answer", kind="transport")


def test_provider_error_has_the_http_status_and_its_class_the_number() -> None:
    error = errors.ProviderError("it failed", kind="OpenAIHttp", status=503)
    assert (error.status, type(error).status) == (503, 9)
    assert errors.ProviderError("no answer", kind="OpenAIHttp").status is None


@pytest.mark.parametrize(
    ("cls", "payload"),
    [
        (errors.RateLimitError, (5,)),
        (errors.TimeoutError, (5,)),
        (errors.ValidationError, ("$.a",)),
        (errors.ProviderError, ("OpenAIHttp",)),
        (errors.WorkflowError, ("fetch",)),
        (errors.PeerError, ("Tls",)),
        (errors.CancelledError, (RUN,)),
    ],
)
def test_the_payload_is_given_by_keyword(cls: type[Any], payload: tuple[Any, ...]) -> None:
    with pytest.raises(TypeError):
        cls("message", *payload)


def test_the_warning_can_be_filtered_as_a_runtime_warning() -> None:
    assert issubclass(errors.BlazenWarning, RuntimeWarning)
