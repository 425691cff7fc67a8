"""Stores: where runs are kept so that they outlive the process that runs them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from blazen.store.base import CheckpointStore

if TYPE_CHECKING:
    from blazen.store.memory import MemoryStore
    from blazen.store.sqlite import SqliteStore

__all__ = ["CheckpointStore", "MemoryStore", "SqliteStore"]


def __getattr__(name: str) -> Any:
    if name == "MemoryStore":
        from blazen.store.memory import MemoryStore

        return MemoryStore
    if name == "SqliteStore":
        from blazen.store.sqlite import SqliteStore

        return SqliteStore
    raise AttributeError(f"module 'blazen.store' has no attribute {name!r}")
