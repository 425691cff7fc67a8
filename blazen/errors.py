"""Every error blazen raises: one class for each kind of failure, with what it knows as attributes.

All of them are `BlazenError`. The numbers (`status`) are the same in every language blazen speaks: they never change.
"""

from __future__ import annotations

import builtins
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any, ClassVar

if TYPE_CHECKING:
    from blazen.record import RunRecord

__all__ = [
    "ERRORS_BY_STATUS",
    "PEER_ERROR_KINDS",
    "AuthError",
    "BlazenError",
    "BlazenWarning",
    "CacheError",
    "CancelledError",
    "ComputeError",
    "ContentPolicyError",
    "InternalError",
    "MediaError",
    "MemoryStoreError",
    "PeerError",
    "PersistError",
    "PromptError",
    "ProviderError",
    "RateLimitError",
    "TimeoutError",
    "ToolError",
    "UnsupportedError",
    "ValidationError",
    "WorkflowError",
]

PEER_ERROR_KINDS = ("Encode", "Transport", "EnvelopeVersion", "Workflow", "Tls", "UnknownStep")


class BlazenWarning(RuntimeWarning):
    """Warned when something is wrong that need not fail the run, such as a step that blocks the event loop."""


class BlazenError(Exception):
    """The base of every error of blazen: catch it to catch them all.

    It is never raised itself. Exceptions of your own steps are not `BlazenError`: they arrive as the ``__cause__`` of a
    `WorkflowError`. Errors can be pickled and copied with all their attributes; as with any exception, ``__cause__``
    and the traceback stay behind, and so does the record.

    Args:
        message: What went wrong, where, and what to do about it.

    Attributes:
        status: The number of the class, 1 to 18, the same in every language. `BlazenError` itself has none. On an
            instance of `ProviderError` it is the HTTP status; ``type(error).status`` is the number for every error.
    """

    status: int

    # What repr shows after the message, in this order, when it holds anything.
    _payload: ClassVar[tuple[str, ...]] = ()

    def __init__(self, message: str) -> None:
        super().__init__(message)

    @property
    def message(self) -> str:
        """What went wrong, where, and what to do about it: the same as ``str()``."""
        return str(self)

    @property
    def record(self) -> RunRecord | None:
        """What happened in the run that raised this, if it was recorded (`options(record=True)`); else ``None``."""
        recording = self.__dict__.get("_recording")
        return None if recording is None else recording.record()

    def keep_recording(self, recording: Any) -> None:
        """Note where `record` comes from; for the engine."""
        self.__dict__["_recording"] = recording

    def __repr__(self) -> str:
        shown = [repr(self.message)] if self.message else []
        for field in self._payload:
            value = getattr(self, field)
            if value is not None and value != ():
                shown.append(f"{field}={value!r}")
        return f"{type(self).__name__}({', '.join(shown)})"

    def __reduce__(self) -> tuple[Any, ...]:
        # The default calls the class with `args`, which lack the keyword-only payload.
        attributes = {name: value for name, value in self.__dict__.items() if name != "_recording"}
        return _rebuild, (type(self), self.args, attributes)


def _rebuild(cls: type[BlazenError], args: tuple[Any, ...], attributes: dict[str, Any]) -> BlazenError:
    error = cls.__new__(cls)
    error.args = args
    error.__dict__.update(attributes)
    return error


class AuthError(BlazenError):
    """Raised when a provider or a peer does not accept the credentials.

    Trying again with the same credentials fails again. Credentials that are accepted but used too often give
    `RateLimitError`; a certificate that cannot be verified gives `PeerError` of kind ``"Tls"``.
    """

    status = 1


class RateLimitError(BlazenError):
    """Raised when a provider asks us to slow down.

    Wait and try again; the request itself was sound. A request that can never succeed raises `ValidationError`.

    Attributes:
        retry_after_ms: The wait the provider asked for, in milliseconds; ``None`` if it named none.
    """

    status = 2
    _payload = ("retry_after_ms",)

    def __init__(self, message: str, *, retry_after_ms: int | None = None) -> None:
        super().__init__(message)
        self.retry_after_ms = retry_after_ms


class TimeoutError(BlazenError, builtins.TimeoutError):
    """Raised when a step or a run used up its timeout; every step has unwound by then.

    It is also a builtin ``TimeoutError``. You do *not* get it when you end a run yourself (`CancelledError`), nor when
    a step raises a ``TimeoutError`` of its own, of a socket for example (`WorkflowError`, with that one as its cause).

    Attributes:
        elapsed_ms: How long it had run, in milliseconds; time the clock stood still is left out.
        step: The step that was over its timeout; ``None`` if the run was.
        run_id: The run, as a UUID string; ``None`` outside a run.
        suppressed: Errors that steps raised while they unwound, in the order they came.
        abandoned: Steps that did not stop within the cleanup grace and were left behind, by name.
    """

    status = 3
    _payload = ("elapsed_ms", "step", "run_id", "suppressed", "abandoned")

    def __init__(
        self,
        message: str,
        *,
        elapsed_ms: int,
        step: str | None = None,
        run_id: str | None = None,
        suppressed: Iterable[BaseException] = (),
        abandoned: Iterable[str] = (),
    ) -> None:
        super().__init__(message)
        self.elapsed_ms = elapsed_ms
        self.step = step
        self.run_id = run_id
        self.suppressed = tuple(suppressed)
        self.abandoned = tuple(abandoned)


class ValidationError(BlazenError, ValueError):
    """Raised when what you gave cannot be right: a step, a workflow, an argument, an input, an event from outside.

    It is also a ``ValueError``. Nothing has happened yet: trying again without a change fails again. You do *not* get
    it for what goes wrong while a run is on its way, such as a step that returns the wrong thing (`WorkflowError`).

    Attributes:
        path: Where in the data the fault is, such as ``"$.user.age"`` or ``"$.items[0].qty"``; ``"$"`` is the whole of
            it. ``None`` if the fault is in no data.
    """

    status = 4
    _payload = ("path",)

    def __init__(self, message: str, *, path: str | None = None) -> None:
        super().__init__(message)
        self.path = path


class ContentPolicyError(BlazenError):
    """Raised when a provider refuses a request, or holds back its answer, because of what it says.

    A request that is refused for its form raises `ValidationError`.
    """

    status = 5


class UnsupportedError(BlazenError):
    """Raised when a provider, a platform or a build cannot do what was asked, however it is asked.

    An argument that has no meaning anywhere raises `ValidationError`.
    """

    status = 6


class ComputeError(BlazenError):
    """Raised when a computation handed to a device or a compute service fails there.

    A provider that answers with an HTTP error raises `ProviderError`; a step of yours that raises, `WorkflowError`.
    """

    status = 7


class MediaError(BlazenError):
    """Raised when an image, a sound or a video cannot be read, converted or written.

    A format that no build can handle raises `UnsupportedError`.
    """

    status = 8


class ProviderError(BlazenError):
    """Raised when a provider fails in a way that none of the more precise classes tells.

    Refused credentials raise `AuthError`, too many requests `RateLimitError`, a request refused for what it says
    `ContentPolicyError`.

    Attributes:
        kind: The backend and what failed in it, such as ``"OpenAIHttp"`` or ``"LlamaCppModelLoad"``.
        provider: The provider's name; ``None`` if it is not known.
        status: The HTTP status; ``None`` if there was no answer. The number of the class is ``ProviderError.status``.
        endpoint: The address that was called; ``None`` if none was.
        request_id: The id the provider gave the request, for its support; ``None`` if it gave none.
        detail: What the provider said, unchanged; ``None`` if it said nothing.
        retry_after_ms: The wait the provider asked for, in milliseconds; ``None`` if it named none.
    """

    # On the class the number shared by all languages, on an instance the HTTP status: both names are fixed.
    status: int | None = 9  # type: ignore[assignment]
    _payload = ("kind", "provider", "status", "endpoint", "request_id", "detail", "retry_after_ms")

    def __init__(
        self,
        message: str,
        *,
        kind: str,
        provider: str | None = None,
        status: int | None = None,
        endpoint: str | None = None,
        request_id: str | None = None,
        detail: str | None = None,
        retry_after_ms: int | None = None,
    ) -> None:
        super().__init__(message)
        self.kind = kind
        self.provider = provider
        self.status = status
        self.endpoint = endpoint
        self.request_id = request_id
        self.detail = detail
        self.retry_after_ms = retry_after_ms


class WorkflowError(BlazenError):
    """Raised when a run fails; every step has unwound by then.

    A step raised (its exception is the ``__cause__``, traceback included), returned what it may not, emitted an event
    nobody accepts, or the run had nothing left to do. You do *not* get it for a timeout (`TimeoutError`), for a run
    that was ended on purpose (`CancelledError`), or for a workflow that cannot be built (`ValidationError`). A
    ``BaseException`` that is no ``Exception``, such as ``KeyboardInterrupt``, comes out as itself.

    Attributes:
        step: The step that failed; ``None`` if the fault is no step's.
        event_type: The type of the event it was given; ``None`` if there was none.
        run_id: The run, as a UUID string; ``None`` outside a run.
        suppressed: Errors that steps raised while they unwound, in the order they came; they never replace the first.
        abandoned: Steps that did not stop within the cleanup grace and were left behind, by name.
    """

    status = 10
    _payload = ("step", "event_type", "run_id", "suppressed", "abandoned")

    def __init__(
        self,
        message: str,
        *,
        step: str | None = None,
        event_type: str | None = None,
        run_id: str | None = None,
        suppressed: Iterable[BaseException] = (),
        abandoned: Iterable[str] = (),
    ) -> None:
        super().__init__(message)
        self.step = step
        self.event_type = event_type
        self.run_id = run_id
        self.suppressed = tuple(suppressed)
        self.abandoned = tuple(abandoned)


class ToolError(BlazenError):
    """Raised when a tool that a model called fails, or is called with arguments it cannot take.

    A step that raises gives `WorkflowError`.
    """

    status = 11


class PeerError(BlazenError):
    """Raised when two engines cannot talk to each other.

    A run that fails at the peer for a reason of its own raises that error; this one is about the way there and back.

    Attributes:
        kind: ``"Encode"``, ``"Transport"``, ``"EnvelopeVersion"``, ``"Workflow"``, ``"Tls"`` or ``"UnknownStep"``.

    Raises:
        ValidationError: `kind` is none of these.
    """

    status = 12
    _payload = ("kind",)

    def __init__(self, message: str, *, kind: str) -> None:
        if kind not in PEER_ERROR_KINDS:
            raise ValidationError(f"PeerError has no kind {kind!r}; the kinds are {', '.join(PEER_ERROR_KINDS)}")
        super().__init__(message)
        self.kind = kind


class PersistError(BlazenError):
    """Raised when what must be stored cannot be written or read back: a full disk, a broken file, a lost database.

    A value that can be stored nowhere raises `ValidationError` when it is set.
    """

    status = 13


class PromptError(BlazenError):
    """Raised when a prompt template cannot be found or filled in.

    Attributes:
        kind: What failed, such as ``"MissingVariable"``.
    """

    status = 14
    _payload = ("kind",)

    def __init__(self, message: str, *, kind: str) -> None:
        super().__init__(message)
        self.kind = kind


class MemoryStoreError(BlazenError):
    """Raised when a store of memories (texts and their vectors) fails.

    A computer that runs out of memory raises Python's ``MemoryError``; a store of runs that fails, `PersistError`.

    Attributes:
        kind: What failed, such as ``"Backend"``.
    """

    status = 15
    _payload = ("kind",)

    def __init__(self, message: str, *, kind: str) -> None:
        super().__init__(message)
        self.kind = kind


class CacheError(BlazenError):
    """Raised when a cache of models or answers cannot be read or filled.

    You do *not* get it when something is simply not in the cache.

    Attributes:
        kind: What failed, such as ``"Download"``.
    """

    status = 16
    _payload = ("kind",)

    def __init__(self, message: str, *, kind: str) -> None:
        super().__init__(message)
        self.kind = kind


class CancelledError(BlazenError):
    """Raised where the result of a run is asked for that was cancelled on purpose; every step has unwound by then.

    You do *not* get it inside a step: there trio's own ``Cancelled`` arrives at the next checkpoint. Nor when your own
    scope is cancelled while you wait: then that cancellation reaches you. A timeout raises `TimeoutError`.

    Args:
        reason: What was given when it was cancelled; the message is empty if nothing was.

    Attributes:
        reason: As given; ``None`` if nothing was.
        run_id: The run, as a UUID string; ``None`` outside a run.
        suppressed: Errors that steps raised while they unwound, in the order they came.
        abandoned: Steps that did not stop within the cleanup grace and were left behind, by name.
    """

    status = 17
    _payload = ("run_id", "suppressed", "abandoned")

    def __init__(
        self,
        reason: str | None = None,
        *,
        run_id: str | None = None,
        suppressed: Iterable[BaseException] = (),
        abandoned: Iterable[str] = (),
    ) -> None:
        super().__init__("" if reason is None else reason)
        self.reason = reason
        self.run_id = run_id
        self.suppressed = tuple(suppressed)
        self.abandoned = tuple(abandoned)


class InternalError(BlazenError):
    """Raised when blazen itself is at fault: one of its own rules was broken.

    Whatever you did, it should have been another error. Please report it, with the traceback.
    """

    status = 18


_IN_ORDER: tuple[type[BlazenError], ...] = (
    AuthError,
    RateLimitError,
    TimeoutError,
    ValidationError,
    ContentPolicyError,
    UnsupportedError,
    ComputeError,
    MediaError,
    ProviderError,
    WorkflowError,
    ToolError,
    PeerError,
    PersistError,
    PromptError,
    MemoryStoreError,
    CacheError,
    CancelledError,
    InternalError,
)

ERRORS_BY_STATUS: dict[int, type[BlazenError]] = {cls.status: cls for cls in _IN_ORDER}
"""The class for each number."""
