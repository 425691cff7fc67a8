"""What a run returns, and what it counts on the way."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any, Generic, TypeVar

if TYPE_CHECKING:
    from blazen.engine.recording import Finished, Recording
    from blazen.events import StopEvent
    from blazen.record import RunRecord

Out = TypeVar("Out")


class RunId:
    """A UUID that is drawn when somebody looks at it: most runs end without."""

    __slots__ = ("_text",)

    def __init__(self, text: str | None = None) -> None:
        self._text = text

    def __str__(self) -> str:
        if self._text is None:
            # A version 4 UUID as in RFC 9562, section 5.4, without importing uuid for it.
            digits = bytearray(os.urandom(16))
            digits[6] = digits[6] & 0x0F | 0x40
            digits[8] = digits[8] & 0x3F | 0x80
            text = digits.hex()
            self._text = f"{text[:8]}-{text[8:12]}-{text[12:16]}-{text[16:20]}-{text[20:]}"
        return self._text


class Totals:
    """Usage that the steps of a run have reported."""

    __slots__ = ("cost_usd", "input_tokens", "output_tokens")

    def __init__(self) -> None:
        self.input_tokens = 0
        self.output_tokens = 0
        self.cost_usd = 0.0


class WorkflowResult(Generic[Out]):
    """The outcome of a run that completed.

    Attributes:
        event: The `StopEvent` that ended the run, as the step returned it.
        result: Its `result`, the same object; None if its class has no such field.
        run_id: The run's id, a UUID.
        total_input_tokens: Sum over the run's `UsageEvent`s.
        total_output_tokens: Likewise.
        total_cost_usd: Likewise, in US dollars.
        record: What happened in the run, if it was recorded (`options(record=True)`); else None.
    """

    __slots__ = ("_recording", "_run_id", "_totals", "event")

    def __init__(
        self, event: StopEvent, run_id: RunId, totals: Totals | None, recording: Recording | Finished | None = None
    ) -> None:
        self.event = event
        self._run_id = run_id
        self._totals = totals
        self._recording = recording

    @property
    def result(self) -> Out:
        """The `result` of that event, the same object; None if its class has no such field."""
        result: Any = self.event.result
        return result  # type: ignore[no-any-return]

    @property
    def run_id(self) -> str:
        """The run's id, a UUID."""
        return str(self._run_id)

    @property
    def total_input_tokens(self) -> int:
        """Sum over the run's `UsageEvent`s."""
        return 0 if self._totals is None else self._totals.input_tokens

    @property
    def total_output_tokens(self) -> int:
        """Sum over the run's `UsageEvent`s."""
        return 0 if self._totals is None else self._totals.output_tokens

    @property
    def total_cost_usd(self) -> float:
        """Sum over the run's `UsageEvent`s, in US dollars."""
        return 0.0 if self._totals is None else self._totals.cost_usd

    @property
    def record(self) -> RunRecord | None:
        return None if self._recording is None else self._recording.record()

    def __repr__(self) -> str:
        return f"WorkflowResult(event={self.event!r}, run_id={self.run_id!r})"
