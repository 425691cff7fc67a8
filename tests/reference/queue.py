"""A slow, obvious model of the event queue."""

from __future__ import annotations

from typing import Any


class ReferenceQueue:
    """First in, first out; what is put back goes to the front."""

    def __init__(self) -> None:
        self.entries: list[tuple[Any, int, int]] = []

    def put_nowait(self, item: Any, seq: int = 0, route: int = 0) -> None:
        self.entries.append((item, seq, route))

    def put_front_nowait(self, item: Any, seq: int = 0, route: int = 0) -> None:
        self.entries.insert(0, (item, seq, route))

    def get_nowait(self) -> tuple[Any, int, int] | None:
        return self.entries.pop(0) if self.entries else None

    def clear(self) -> None:
        self.entries.clear()

    def __len__(self) -> int:
        return len(self.entries)
