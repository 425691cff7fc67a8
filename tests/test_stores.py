"""The conformance suite for our own stores, and what only `MemoryStore` has."""

from __future__ import annotations

from pathlib import Path

import pytest

from blazen.store import CheckpointStore, MemoryStore, SqliteStore
from blazen.testing.stores import StoreSuite


class TestMemoryStore(StoreSuite):
    @pytest.fixture(autouse=True)
    def data(self) -> None:
        self.root = MemoryStore()

    def open_store(self) -> CheckpointStore:
        return self.root.view()

    def kill(self, store: CheckpointStore) -> None:
        assert isinstance(store, MemoryStore)
        store.crash()


class TestSqliteStore(StoreSuite):
    @pytest.fixture(autouse=True)
    def data(self, tmp_path: Path) -> None:
        self.path = tmp_path / "runs.db"

    def open_store(self) -> CheckpointStore:
        return SqliteStore(self.path)

    def kill(self, store: CheckpointStore) -> None:
        assert isinstance(store, SqliteStore)
        store.crash()


@pytest.mark.blazen
class TestSqliteStoreInVirtualTime(TestSqliteStore):
    """The suite runs where trio's time stands still."""
