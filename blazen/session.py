"""What becomes of `ctx.session`, the live objects of a run, when the run is written down.

`Workflow(session_policy=...)` decides:

- ``"pickle_or_error"``: every value is pickled; if one cannot be, nothing is written and the error names it.
- ``"warn_drop"``: nothing is kept; one warning names what was dropped.
- ``"hard_error"``: a session that holds anything is an error.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import msgspec

from blazen.errors import BlazenWarning, ValidationError

__all__ = ["SESSION_POLICIES", "Packed", "pack", "unpack"]

SESSION_POLICIES = ("pickle_or_error", "warn_drop", "hard_error")
_NAMED = 20  # keys in one message


class Packed(msgspec.Struct, frozen=True):
    """A session as it is written down.

    Attributes:
        keys: What is in `data`, in the order of the session.
        data: One pickle of all values, so that objects they share stay shared; None if nothing was kept.
        dropped: What was in the session and was not kept.
    """

    keys: tuple[str, ...] = ()
    data: bytes | None = None
    dropped: tuple[str, ...] = ()


def pack(session: Mapping[str, object], policy: str) -> Packed:
    """Make of a session what its policy wants to be written.

    Args:
        session: The objects by name. It is not changed.
        policy: One of `SESSION_POLICIES`.
    Raises:
        ValidationError: ``pickle_or_error``: a key is no str, or a value cannot be pickled, the first of which is named
            with the reason; it is the ``__cause__``. ``hard_error``: the session is not empty. Or there is no such
            policy, or `session` is no mapping.
    Warns:
        BlazenWarning: ``warn_drop``: the session is not empty.
    """
    if policy not in SESSION_POLICIES:
        raise ValidationError(f"a session policy is one of {', '.join(SESSION_POLICIES)}, not {_name(policy)}")
    if not isinstance(session, Mapping):
        raise ValidationError(f"a session is a mapping from names to objects, not a {type(session).__name__!r}")
    values = dict(session)  # steps may change it meanwhile
    if not values:
        return Packed()
    if policy == "hard_error":
        raise ValidationError(
            f"the session holds {_names(values)}, and with session_policy='hard_error' it must be empty when the run "
            "is written: remove them first, or choose another policy"
        )
    if policy == "warn_drop":
        import warnings

        warnings.warn(
            f"not written, as session_policy='warn_drop' says: {_names(values)} of the session",
            BlazenWarning,
            stacklevel=2,
        )
        return Packed(dropped=tuple(key if type(key) is str else _name(key) for key in values))
    for key in values:
        if type(key) is not str:
            raise ValidationError(f"the session cannot be written: a key of it must be a str, and {_name(key)} is none")
    return Packed(keys=tuple(values), data=_pickled(values))


def _pickled(values: dict[str, object]) -> bytes:
    import pickle

    try:
        return pickle.dumps(values, protocol=pickle.HIGHEST_PROTOCOL)
    except Exception as error:
        problem = error
    for key, value in values.items():
        try:
            pickle.dumps(value, protocol=pickle.HIGHEST_PROTOCOL)
        except Exception as error:
            raise ValidationError(
                f"the session cannot be written: {_name(key)}, a {_kind(value)}, cannot be pickled "
                f"({_reason(error)}): keep it out of the session when the run is written, or choose another "
                "session_policy than 'pickle_or_error'",
                path=f"$[{_name(key)}]",
            ) from error
    raise ValidationError(
        f"the session cannot be written: {_names(values)} can be pickled each, but not together ({_reason(problem)})"
    ) from problem


def unpack(packed: Packed, *, trust_native: bool = False) -> dict[str, object]:
    """Make a session of what `pack` returned.

    Args:
        packed: As it was written.
        trust_native: Whether a pickle may be loaded. Loading one can run any code: only if you know who wrote it.
    Raises:
        ValidationError: It holds a pickle, and `trust_native` is not True; or the pickle cannot be loaded, or holds
            something else than it should.
    """
    if packed.data is None:
        return {}
    if trust_native is not True:
        raise ValidationError(
            f"the session that was written ({_names(packed.keys)}) is a pickle, and loading it can run any code: give "
            "trust_native=True if you know who wrote it"
        )
    import pickle

    try:
        values = pickle.loads(packed.data)
    except Exception as error:
        raise ValidationError(
            f"the session that was written ({_names(packed.keys)}) cannot be loaded: {_reason(error)}"
        ) from error
    if type(values) is not dict or tuple(values) != tuple(packed.keys):
        raise ValidationError(f"the session that was written is damaged: it does not hold {_names(packed.keys)}")
    return values


def _kind(value: object) -> str:
    return f"{type(value).__module__}.{type(value).__qualname__}".removeprefix("builtins.")


def _reason(error: Exception) -> str:
    """The error in one short line, also where its own text cannot be made."""
    try:
        text = str(error)
    except Exception:
        text = ""
    return f"{type(error).__name__}: {text[:200]}" if text else type(error).__name__


def _name(key: object) -> str:
    """A key for a message: short, and without calling the `__repr__` of a user's class."""
    if type(key) is str:
        return repr(key) if len(key) <= 60 else f"{key[:60]!r}..."
    if type(key) in (float, bool, type(None)) or (type(key) is int and key.bit_length() <= 200):
        return repr(key)
    return f"<{_kind(key)}>"


def _names(keys: Iterable[object]) -> str:
    names = [_name(key) for key in keys]
    more = len(names) - _NAMED
    return ", ".join(names[:_NAMED]) + (f" and {more} more" if more > 0 else "")
