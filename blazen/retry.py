"""The times and repetitions of steps: timeouts in seconds, and `Retry`."""

from __future__ import annotations

import types

import msgspec

from blazen.errors import ValidationError

_LONGEST = 10 * 365.25 * 86400.0  # seconds; whoever asks for more than ten years has the unit wrong


_LARGEST_EXPONENT = 10**15  # a larger one would only overflow the conversion to float


def show(value: object) -> str:
    """A short repr for messages; never raises, also where `repr` itself would (an int of 10,000 digits)."""
    if isinstance(value, types.FunctionType | types.MethodType):
        return f"{type(value).__name__} {value.__qualname__}"  # its repr would be an address
    try:
        text = repr(value)
    except Exception:
        return f"an object of type {type(value).__name__}"
    return text if len(text) <= 80 else text[:77] + "..."


def check_timeout(value: object, what: str) -> float | None:
    """Give back `value` as a float of seconds, or None for "no timeout".

    Args:
        value: Seconds, an int or float above 0 and at most ten years; or None.
        what: How messages call it, such as ``"step 'greet': timeout"``.

    Raises:
        ValidationError: `value` is anything else: zero, negative, NaN, infinite, huge, a bool, no number.
    """
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise ValidationError(f"{what} must be a number of seconds or None, got {show(value)}")
    if not value > 0:  # written so that NaN is refused too
        raise ValidationError(f"{what} must be above 0 seconds, got {show(value)}; leave it out for no timeout")
    if value > _LONGEST:
        raise ValidationError(f"{what} must be at most ten years of seconds, got {show(value)}; None means no timeout")
    return float(value)


def _check_seconds(value: object, what: str, *, least: float = 0.0) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise ValidationError(f"{what} must be a number, got {show(value)}")
    if not least <= value <= _LONGEST:
        raise ValidationError(f"{what} must be from {least:g} to {_LONGEST:g}, got {show(value)}")
    return float(value)


def _check_count(n: object) -> None:
    if isinstance(n, bool) or not isinstance(n, int) or n < 0:
        raise ValidationError(f"Retry: n must be an int, 0 or more, got {show(n)}")


class Retry(msgspec.Struct, frozen=True):
    """How often, after which errors and after which waits a failed step is tried again.

    Attributes:
        n: At most so many more attempts after the first; 0 means none.
        on: The `Exception` class, or tuple of classes, that is worth another attempt. Others fail the step at once.
        initial: Seconds to wait before the second attempt.
        factor: What the wait is multiplied with after each attempt.
        max: The longest wait in seconds, before jitter.
        jitter: From 0 to 1: each wait is shortened or lengthened by a random share of it, up to this one.

    Raises:
        ValidationError: A value is out of its range, or `on` holds something that is no `Exception` class.
    """

    n: int
    on: type[Exception] | tuple[type[Exception], ...] = Exception
    initial: float = 0.1
    factor: float = 2.0
    max: float = 30.0
    jitter: float = 0.1

    def __post_init__(self) -> None:
        _check_count(self.n)
        classes: tuple[object, ...] = self.on if isinstance(self.on, tuple) else (self.on,)
        if not classes:
            raise ValidationError("Retry: on is an empty tuple; name an Exception class, or use n=0 for no retries")
        for cls in classes:
            if not isinstance(cls, type) or not issubclass(cls, Exception):
                raise ValidationError(
                    f"Retry: on must be a subclass of Exception or a tuple of them, got {show(cls)}; "
                    "exceptions outside Exception end the run and are never retried"
                )
        _check_seconds(self.initial, "Retry: initial (seconds)")
        _check_seconds(self.max, "Retry: max (seconds)")
        _check_seconds(self.factor, "Retry: factor")
        if not self.factor > 0:
            raise ValidationError("Retry: factor must be above 0; for retries without a wait use initial=0")
        _check_seconds(self.jitter, "Retry: jitter")
        if self.jitter > 1:
            raise ValidationError(f"Retry: jitter is a share from 0 to 1, got {show(self.jitter)}")
        if self.initial > self.max:
            raise ValidationError(
                f"Retry: initial ({self.initial:g} s) is above max ({self.max:g} s), "
                "which would cut every wait; raise max"
            )

    def delay(self, attempt: int, random: float) -> float:
        """Seconds to wait after a failed attempt.

        Args:
            attempt: The number of the attempt that failed; the first is 1.
            random: From 0 to 1; decides where in the jitter's range the wait lies, 0.5 is its middle.
        """
        try:
            wait = min(self.initial * self.factor ** min(attempt - 1, _LARGEST_EXPONENT), self.max)
        except OverflowError:  # only a factor above 1 grows out of a float
            wait = self.max if self.initial else 0.0
        return wait * (1.0 + self.jitter * (2.0 * random - 1.0))
