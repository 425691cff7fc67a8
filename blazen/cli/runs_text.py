"""Runs as text for people."""

from __future__ import annotations

import datetime as dt
from collections.abc import Sequence

from blazen.cli.messages import one_line
from blazen.store.base import ENDED, RunInfo

_GAP = "  "
_UNITS = ((86400.0, "d"), (3600.0, "h"), (60.0, "min"))


def columns(rows: Sequence[Sequence[str]]) -> str:
    """Rows of as many cells each, below each other."""
    cells = [[one_line(cell) for cell in row] for row in rows]
    widths = [max(len(row[place]) for row in cells) for place in range(len(cells[0]))]
    lines = [_GAP.join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in cells]
    return "\n".join(lines) + "\n"


def fields(shown: Sequence[tuple[str, str]]) -> str:
    """Names and values; a value of several lines stays so. Without a value, nothing is shown."""
    width = max(len(name) for name, _ in shown)
    lines = []
    for name, value in shown:
        first, *rest = value.splitlines() or [""]
        if not first:
            continue
        lines.append(f"{name.ljust(width)}{_GAP}{one_line(first)}")
        lines += [f"{' ' * width}{_GAP}{line}" for line in rest]
    return "\n".join(lines) + "\n"


def moment(when: float, now: float) -> str:
    """A moment: how long ago it was, or its date if that is over a week ago."""
    ago = now - when
    if ago < 0 or ago >= 7 * 86400:
        return dt.datetime.fromtimestamp(when).astimezone().strftime("%Y-%m-%d %H:%M")
    return f"{duration(ago)} ago"


def duration(seconds: float) -> str:
    """A length of time, roughly."""
    for length, unit in _UNITS:
        if seconds >= length:
            return f"{seconds / length:.0f} {unit}"
    return f"{seconds:.0f} s"


def condition(info: RunInfo, now: float) -> str:
    """What a run needs to go on, in a few words; for one that has failed, why."""
    if info.state in ENDED:
        return info.error or ""
    said = []
    if info.questions:
        said.append(f"{info.questions} open question{'s' * (info.questions != 1)}")
    if info.due is not None:
        said.append(f"goes on by itself in {duration(info.due - now)}" if info.due > now else "is due")
    if info.state == "running" and not info.live:
        said.append("stranded: its process is gone")
    elif info.state == "paused":
        said.append("waits for `blazen runs resume`")
    elif info.owned and not info.live:
        said.append("its process is gone")
    return ", ".join(said)
