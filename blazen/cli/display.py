"""What is seen of a run on standard error while it goes on: a live view, plain lines, or nothing."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Protocol

import trio

from blazen import Event, ProgressEvent, StepRecord
from blazen._drawing_text import event_label, printable
from blazen.cli import messages
from blazen.cli.run_view import RunView, StepView, as_text

if TYPE_CHECKING:
    from rich.console import Console, Group
    from rich.live import Live
    from rich.text import Text

REFRESH = 0.1  # seconds
_SIGNS = {"running": "●", "retrying": "↻", "failed": "✗", "cancelled": "■", "done": "✓", "waiting": "·"}
_PLAIN_SIGNS = {"running": ">", "retrying": "~", "failed": "x", "cancelled": "#", "done": "+", "waiting": "."}
_STYLES = {
    "running": "cyan",
    "retrying": "yellow",
    "failed": "red",
    "cancelled": "magenta",
    "done": "green",
    "waiting": "dim",
}
_STATE_STYLES = {"running": "cyan", "waiting": "yellow", "stopping": "yellow", "completed": "green"}


class Display(Protocol):
    """How a run is shown."""

    def see(self, event: Event) -> None:
        """An event of the stream, after `RunView` has seen it."""

    def say(self, text: str) -> None:
        """A line that stays."""

    def pause(self) -> None:
        """Leave the terminal to somebody else."""

    def resume(self) -> None:
        """Take it back."""

    async def keep_current(self) -> None:
        """Show what changes, until cancelled."""

    def close(self, state: str) -> None:
        """Show how the run ended, for the last time."""


class NoDisplay:
    """Shows nothing by itself."""

    def see(self, event: Event) -> None:
        """Nothing."""

    def say(self, text: str) -> None:
        """A line on standard error."""
        messages.say(text)

    def pause(self) -> None:
        """Nothing."""

    def resume(self) -> None:
        """Nothing."""

    async def keep_current(self) -> None:
        """Nothing."""

    def close(self, state: str) -> None:
        """Nothing."""


class PlainDisplay(NoDisplay):
    """A line for what ends: for a terminal that cannot move its cursor."""

    def see(self, event: Event) -> None:
        """Write a line."""
        if isinstance(event, ProgressEvent):
            messages.say(_progress_line(event))
        elif isinstance(event, StepRecord) and event.kind != "started":
            after = "" if event.elapsed_ms is None else f" after {event.elapsed_ms / 1000:.1f} s"
            error = "" if event.error is None else f": {messages.one_line(event.error)}"
            kind = event.kind.replace("_", " ")
            messages.say(f"{printable(event.step)} {kind}{after}{error}")


def _progress_line(event: ProgressEvent) -> str:
    total = "" if event.total is None else f" of {as_text(event.total)}"
    label = "" if event.label == "" else f"{as_text(event.label)}: "
    return printable(f"{label}{as_text(event.current)}{total}")


class LiveDisplay:
    """A table of the steps that is drawn again as they go on.

    Args:
        name: Of the workflow.
        view: What is shown.
    """

    def __init__(self, name: str, view: RunView) -> None:
        from rich.console import Console

        self._name = printable(name)
        self._view = view
        # Ours to set: on a terminal that calls itself dumb this class is not used.
        self._console: Console = Console(stderr=True, highlight=False, emoji=False)
        self._signs = _SIGNS if _can_write(self._console, "".join(_SIGNS.values())) else _PLAIN_SIGNS
        self._began = trio.current_time()
        self._state = "running"
        self._live: Live | None = None
        self.resume()

    def see(self, event: Event) -> None:
        """Nothing now: it is drawn a moment later, together with what comes until then."""

    def say(self, text: str) -> None:
        """A line above the table."""
        from rich.text import Text

        self._console.print(Text(text), soft_wrap=True)

    def set_state(self, state: str) -> None:
        """Show another state of the run."""
        self._state = state
        self._refresh()

    def pause(self) -> None:
        """Take the table away, to be drawn again below what is written meanwhile."""
        if self._live is not None:
            self._live.transient = True
            self._live.stop()
            self._live = None

    def resume(self) -> None:
        """Draw the table."""
        from rich.live import Live

        if self._live is None:
            self._live = Live(console=self._console, auto_refresh=False, get_renderable=self._draw)
            self._live.start(refresh=True)

    async def keep_current(self) -> None:
        """Draw it again and again."""
        while True:
            await trio.sleep(REFRESH)
            self._refresh()

    def close(self, state: str) -> None:
        """Draw it as it is at the end, and leave it there."""
        self._state = state
        if self._live is not None:
            self._refresh()
            self._live.stop()
            self._live = None

    def _refresh(self) -> None:
        if self._live is not None:
            self._live.refresh()

    # --- drawing

    def _draw(self) -> Group:
        from rich.console import Group
        from rich.text import Text

        now = trio.current_time()
        lines = [
            Text.assemble(
                (self._name, "bold"),
                "  ",
                (self._state, _STATE_STYLES.get(self._state, "red")),
                f"  {_seconds(now - self._began)}",
            )
        ]
        steps, left_out = self._shown_steps()
        lines += self._step_lines(steps, now)
        if left_out:
            lines.append(Text(f"  and {left_out} more steps", style="dim"))
        lines += [self._progress(event) for event in self._view.progress.values()]
        for line in lines:  # what does not fit is cut off at the right, where the least important stands
            line.no_wrap, line.overflow = True, "ellipsis"
        return Group(*lines)

    def _step_lines(self, steps: list[StepView], now: float) -> list[Text]:
        from rich.cells import cell_len, set_cell_size
        from rich.text import Text

        names = [printable(step.name) for step in steps]
        width = min(max(map(cell_len, names), default=0), max(8, self._console.width // 3))
        lines: list[Text] = []
        for step, name in zip(steps, names, strict=True):
            state, since = step.state, step.since
            shown = name if cell_len(name) <= width else set_cell_size(name, width - 1) + "…"
            parts = [_activity(step), "" if since is None else _seconds(now - since)]
            lines.append(
                Text.assemble(
                    (self._signs[state], _STYLES[state]),
                    f" {set_cell_size(shown, width)}  ",
                    ("  ".join(part for part in parts if part).ljust(24), _STYLES[state]),
                    "  ",
                    (_counts(step), "dim"),
                )
            )
        return lines

    def _shown_steps(self) -> tuple[list[StepView], int]:
        """The steps that fit the terminal: those where something goes on come first if not all do."""
        steps = list(self._view.steps.values())
        room = max(3, self._console.height - 3 - len(self._view.progress))
        if len(steps) <= room:
            return steps, 0
        order = ["running", "retrying", "failed", "cancelled", "done", "waiting"]
        chosen = sorted(steps, key=lambda step: order.index(step.state))[: room - 1]
        return [step for step in steps if step in chosen], len(steps) - len(chosen)

    def _progress(self, event: ProgressEvent) -> Text:
        from rich.text import Text

        text = Text("  ")
        if _is_number(event.current) and _is_number(event.total) and event.total is not None and event.total > 0:
            width = max(5, min(30, self._console.width - 40))
            share = min(1.0, max(0.0, event.current / event.total))
            done, rest = ("━", "─") if self._signs is _SIGNS else ("#", "-")
            text.append(done * round(share * width), style="cyan")
            text.append(rest * (width - round(share * width)), style="dim")
            text.append("  ")
        text.append(_progress_line(event))
        return text


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and value == value and abs(value) != float("inf")


def _can_write(console: Console, text: str) -> bool:
    try:
        text.encode(console.encoding)
    except (UnicodeEncodeError, LookupError):
        return False
    return True


def _activity(step: StepView) -> str:
    state = step.state
    if state != "running":
        return state if state != "waiting" else ""
    running = f"running ({len(step.running)})" if len(step.running) > 1 else "running"
    events = {event_label(record.input_type) for record in step.running.values()}
    on = f" on {printable(events.pop())}" if len(events) == 1 else ""
    return running + (f", attempt {step.attempt}" if step.attempt > 1 else on)


def _counts(step: StepView) -> str:
    named = (
        (step.finished, "done"),
        (step.retried, "retried"),
        (step.failed, "failed"),
        (step.cancelled, "cancelled"),
    )
    return ", ".join(f"{count} {name}" for count, name in named if count)


def _seconds(seconds: float) -> str:
    if seconds < 60:
        return f"{max(0.0, seconds):.1f} s"
    minutes, rest = divmod(int(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"


def is_dumb() -> bool:
    """Whether the terminal cannot move its cursor."""
    return os.environ.get("TERM", "").lower() in ("", "dumb", "unknown")
