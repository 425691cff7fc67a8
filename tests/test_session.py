"""What each policy makes of `ctx.session`."""

from __future__ import annotations

import pickle
import threading
import warnings
from typing import Any

import pytest

from blazen import BlazenState
from blazen.errors import BlazenWarning, ValidationError
from blazen.session import SESSION_POLICIES, Packed, pack, unpack


class Opaque:
    def __init__(self, content: object = None) -> None:
        self.content = content


class Refuses:
    """Says so when it is pickled."""

    def __init__(self, error: BaseException) -> None:
        self.error = error

    def __reduce__(self) -> Any:
        raise self.error


class Unprintable(Exception):
    def __str__(self) -> str:
        raise RuntimeError("cannot be printed")


class Once:
    """Fails the first time only."""

    def __init__(self) -> None:
        self.failed = False

    def __reduce__(self) -> Any:
        if not self.failed:
            self.failed = True
            raise OSError("not yet")
        return Once, ()


class FailsToLoad:
    def __reduce__(self) -> Any:
        return int, ("no number",)


class Login(BlazenState):
    user: str
    password: str = ""

    class Meta:
        transient = {"password"}


@pytest.mark.parametrize("policy", SESSION_POLICIES)
def test_an_empty_session_is_nothing_to_any_policy(policy: str) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        packed = pack({}, policy)
    assert packed == Packed()
    assert unpack(packed) == {}


def test_every_value_is_pickled_and_what_they_share_stays_shared() -> None:
    shared = Opaque([1])
    session = {"a": shared, "b": Opaque(shared), "text": "äö", "none": None, "huge": bytes(32 * 1024 * 1024)}
    packed = pack(session, "pickle_or_error")
    assert packed.keys == ("a", "b", "text", "none", "huge")
    assert packed.dropped == ()
    assert packed.data is not None
    assert len(packed.data) < 33 * 1024 * 1024
    found: Any = unpack(packed, trust_native=True)
    assert list(found) == list(session)
    assert found["b"].content is found["a"]
    assert found["a"].content == [1]
    assert found["text"] == "äö"
    assert found["huge"] == session["huge"]
    assert found["a"] is not shared


def test_the_first_value_that_cannot_be_pickled_is_named_with_the_reason() -> None:
    session = {"fine": 1, "lock": threading.Lock(), "later": Refuses(OSError("gone"))}
    with pytest.raises(ValidationError) as caught:
        pack(session, "pickle_or_error")
    assert str(caught.value).startswith(
        "the session cannot be written: 'lock', a _thread.lock, cannot be pickled (TypeError: cannot pickle"
    )
    assert "session_policy" in str(caught.value)
    assert caught.value.path == "$['lock']"
    assert isinstance(caught.value.__cause__, TypeError)


@pytest.mark.parametrize(
    ("error", "reason"),
    [
        (OSError("gone"), "OSError: gone"),
        (MemoryError(), "MemoryError"),
        (RecursionError("too deep"), "RecursionError: too deep"),
        (Unprintable(), "Unprintable"),
        (ValueError("x" * 10_000), "ValueError: " + "x" * 200 + ")"),
    ],
    ids=lambda value: type(value).__name__,
)
def test_whatever_a_value_raises_when_it_is_pickled_becomes_the_reason(error: Exception, reason: str) -> None:
    with pytest.raises(ValidationError) as caught:
        pack({"a": Opaque(Refuses(error))}, "pickle_or_error")
    assert f"({reason}" in str(caught.value)
    assert caught.value.__cause__ is error
    assert len(str(caught.value)) < 600


def test_an_interrupt_while_pickling_comes_out_as_itself() -> None:
    with pytest.raises(KeyboardInterrupt):
        pack({"a": Refuses(KeyboardInterrupt())}, "pickle_or_error")


def test_values_that_fail_only_together_are_all_named() -> None:
    with pytest.raises(ValidationError, match=r"'a', 'b' can be pickled each, but not together \(OSError: not yet\)"):
        pack({"a": Once(), "b": 1}, "pickle_or_error")


def test_a_value_nested_too_deep_for_pickle_is_named() -> None:
    deep: list[Any] = []
    for _ in range(100_000):
        deep = [deep]
    try:
        with pytest.raises(ValidationError, match=r"'deep', a list, cannot be pickled \(RecursionError"):
            pack({"deep": deep}, "pickle_or_error")
    finally:
        while deep:  # its own destruction must not recurse either
            deep = deep[0]


@pytest.mark.parametrize(
    ("key", "shown"),
    [(5, "5"), (None, "None"), (("a", 1), "<tuple>"), (1 << 20_000, "<int>"), (b"k", "<bytes>")],
    ids=["int", "None", "tuple", "huge", "bytes"],
)
def test_a_key_that_is_no_str_is_refused_and_named(key: Any, shown: str) -> None:
    session: Any = {"a": 1, key: 2}
    with pytest.raises(ValidationError, match=f"a key of it must be a str, and {shown} is none"):
        pack(session, "pickle_or_error")
    with pytest.raises(ValidationError, match=f"the session holds 'a', {shown}, and"):
        pack(session, "hard_error")
    with pytest.warns(BlazenWarning, match=f"'a', {shown} of the session"):
        assert pack(session, "warn_drop").dropped == ("a", shown)


def test_warn_drop_keeps_nothing_and_warns_once() -> None:
    session = {"lock": threading.Lock(), "n": 1}
    with pytest.warns(BlazenWarning) as caught:
        packed = pack(session, "warn_drop")
    assert [str(warning.message) for warning in caught] == [
        "not written, as session_policy='warn_drop' says: 'lock', 'n' of the session"
    ]
    assert packed == Packed(dropped=("lock", "n"))
    assert unpack(packed) == {}
    assert list(session) == ["lock", "n"]


def test_hard_error_refuses_what_is_not_empty() -> None:
    with pytest.raises(ValidationError, match=r"the session holds 'a', 'b', and with session_policy='hard_error'"):
        pack({"a": 1, "b": None}, "hard_error")
    many = {f"key{number}": number for number in range(1_000)} | {"x" * 10_000: 1}
    with pytest.raises(ValidationError, match=r"'key19' and 981 more, and with") as caught:
        pack(many, "hard_error")
    assert len(str(caught.value)) < 600


def test_a_pickle_is_loaded_only_by_those_who_trust_it() -> None:
    packed = pack({"a": Opaque(1)}, "pickle_or_error")
    for trust in ({}, {"trust_native": False}, {"trust_native": 1}):
        with pytest.raises(ValidationError, match=r"\('a'\) is a pickle, .* give trust_native=True"):
            unpack(packed, **trust)  # type: ignore[arg-type]
    assert unpack(packed, trust_native=True)["a"].content == 1  # type: ignore[attr-defined]


@pytest.mark.parametrize(
    ("data", "problem"),
    [
        (b"", "cannot be loaded: EOFError"),
        (b"no pickle", "cannot be loaded: "),
        (pickle.dumps({"a": 1})[:-3], "cannot be loaded: "),
        (pickle.dumps({"a": FailsToLoad()}), "cannot be loaded: ValueError: invalid literal"),
        (pickle.dumps([1]), "is damaged"),
        (pickle.dumps({"b": 1}), "is damaged: it does not hold 'a'"),
    ],
)
def test_a_damaged_pickle_is_refused(data: bytes, problem: str) -> None:
    with pytest.raises(ValidationError, match=problem):
        unpack(Packed(keys=("a",), data=data), trust_native=True)


@pytest.mark.parametrize("policy", ["", "drop", None, 5, ["warn_drop"], Opaque()])
def test_an_unknown_policy_is_refused(policy: Any) -> None:
    with pytest.raises(
        ValidationError, match="a session policy is one of pickle_or_error, warn_drop, hard_error, not "
    ):
        pack({}, policy)


@pytest.mark.parametrize("session", [None, [1], "text", 5])
def test_a_session_must_be_a_mapping(session: Any) -> None:
    with pytest.raises(ValidationError, match="a session is a mapping from names to objects, not a "):
        pack(session, "pickle_or_error")


def test_transient_fields_of_a_state_in_the_session_are_not_written() -> None:
    packed = pack({"login": Login("ada", "s3cret")}, "pickle_or_error")
    assert packed.data is not None
    assert b"s3cret" not in packed.data
    assert unpack(packed, trust_native=True) == {"login": Login("ada")}
