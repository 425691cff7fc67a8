"""Whether a store does what it must: a suite of tests for your own `CheckpointStore`.

    class TestMyStore(StoreSuite):
        @pytest.fixture(autouse=True)
        def data(self, tmp_path):
            self.path = tmp_path / "runs.db"

        def open_store(self):
            return MyStore(self.path)

        def kill(self, store):
            store.crash()

Each test is a coroutine function for trio: mark the class `@pytest.mark.blazen`, or use another plugin that runs such
tests.
"""

from __future__ import annotations

from blazen.testing.store_commits import CommitTests, OwnerTests
from blazen.testing.store_queries import QueryTests
from blazen.testing.store_requests import RequestTests

__all__ = ["StoreSuite"]


class StoreSuite(CommitTests, OwnerTests, QueryTests, RequestTests):
    """Every promise of `CheckpointStore` as a test. Inherit from it, and say how your store is opened and killed.

    The tests assume that what `open_store` returns in a test begins empty, and is closed by them; that opening again
    gives another owner of the same data; and that the owners of a test live in this process. Nothing in them waits
    for the clock of trio: they run in virtual time as well.
    """

    __test__ = False  # it is only run where it is inherited

    def __init_subclass__(cls) -> None:
        super().__init_subclass__()
        cls.__test__ = True
