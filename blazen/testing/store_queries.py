"""Tests of what a store tells of its runs, and of removing them."""

from __future__ import annotations

import pytest

from blazen.errors import PersistError, ValidationError
from blazen.store.base import CheckpointStore
from blazen.testing.store_base import NOW, StoreTests, change, first, question, refused, write


async def ids(store: CheckpointStore, now: float = NOW, workflows: list[str] | None = None) -> list[str]:
    """The runs that are runnable."""
    return [info.run_id for info in await store.runnable(workflows, now)]


class QueryTests(StoreTests):
    """`load`, `stream`, `runs`, `info`, `questions`, `runnable`, `delete` and `prune`."""

    async def test_what_is_not_there_cannot_be_read(self) -> None:
        store = self.opened()
        for read in (store.load, store.info, store.stream, store.delete):
            with pytest.raises(ValidationError, match="no run 'r'"):
                await read("r")
        assert await store.requests("r") == []
        assert await store.questions("r") == []

    async def test_every_owner_sees_the_same(self) -> None:
        store, other = self.opened(), self.opened()
        await write(
            store, first("r", put=[("a", b"1")], stream=[b"0"], asked=[question("q", "r", details=b'{"a": 1}')])
        )
        assert await other.load("r") == await store.load("r")
        assert await other.stream("r") == [b"0"]
        assert await other.questions() == [question("q", "r", details=b'{"a": 1}')]
        assert (await other.info("r")).live

    async def test_a_part_of_a_stream(self) -> None:
        store = self.opened()
        await write(store, first("r", stream=[b"0", b"1", b"2", b"3"]))
        assert await store.stream("r", 1) == [b"1", b"2", b"3"]
        assert await store.stream("r", 1, 2) == [b"1", b"2"]
        assert await store.stream("r", limit=1) == [b"0"]
        assert await store.stream("r", limit=0) == await store.stream("r", 4) == await store.stream("r", 9) == []
        for start, limit in ((-1, None), (0, -1)):
            with pytest.raises(ValidationError):
                await store.stream("r", start, limit)

    async def test_runs_by_workflow_state_and_time_newest_first(self) -> None:
        store = self.opened()
        await write(
            store,
            first("a", workflow="w1", at=NOW + 2),
            first("b", workflow="w2", at=NOW + 1, state="completed", result=b"1"),
            first("c", workflow="w1", at=NOW + 3, state="waiting"),
            first("d", workflow="w1", at=NOW + 3, state="failed", error="no"),
        )

        async def found(**wanted: object) -> list[str]:
            return [info.run_id for info in await store.runs(**wanted)]  # type: ignore[arg-type]

        assert await found() == ["d", "c", "a", "b"]
        assert await found(limit=2) == ["d", "c"]
        assert await found(limit=0) == []
        assert await found(workflow="w1") == ["d", "c", "a"]
        assert await found(workflow="none") == []
        assert await found(states=["completed", "waiting"]) == ["c", "b"]
        assert await found(states=[]) == []
        assert await found(created_after=NOW + 1) == ["d", "c", "a"]
        assert await found(created_before=NOW + 3) == ["a", "b"]
        assert await found(created_after=NOW + 1, created_before=NOW + 3) == ["a"]
        assert await found(workflow="w1", states=["running", "failed"], limit=1) == ["d"]
        assert [info for info in await store.runs() if info.run_id == "d"] == [await store.info("d")]
        with pytest.raises(ValidationError):
            await store.runs(limit=-1)

    async def test_whether_a_run_is_there(self) -> None:
        store = self.opened()
        await write(store, first("r", state="completed", release=True))
        assert await store.has("r")
        assert not await store.has("none")
        await store.delete("r")
        assert not await store.has("r")

    # --- questions

    async def test_open_questions_oldest_first(self) -> None:
        store = self.opened()
        newer, older = question("q1", "a", asked=NOW + 1, prompt="?"), question("q2", "b")
        await write(store, first("a", state="waiting", asked=[newer]), first("b", state="waiting", asked=[older]))
        assert await store.questions() == [older, newer]
        assert await store.questions("a") == [newer]
        third = question("q3", "a", asked=NOW + 1)
        await write(store, change("a", asked=[third]))
        assert await store.questions("a") == [newer, third]
        assert (await store.info("a")).questions == 2
        await write(store, change("a", answered=["q1", "never asked", "q2"]))
        assert await store.questions() == [older, third]

    async def test_a_question_that_is_asked_again_is_replaced(self) -> None:
        store = self.opened()
        await write(store, first("a", asked=[question("q", "a")]))
        again = question("q", "a", prompt="Really?", asked=NOW + 5)
        await write(store, change("a", asked=[again]))
        assert await store.questions() == [again]
        await write(store, change("a", asked=[question("q", "a"), question("p", "a")], answered=["q"]))
        assert [one.request_id for one in await store.questions()] == ["p"]

    async def test_the_id_of_a_question_is_of_one_run(self) -> None:
        store = self.opened()
        await write(store, first("a", asked=[question("q", "a")]), first("b"))
        await refused(store, change("b", head=b"new", stream=[b"0"], asked=[question("q", "b")]), PersistError)
        stored = await store.load("b")
        assert (stored.head, stored.info.questions, stored.info.streamed) == (b"head", 0, 0)
        await refused(store, first("c", asked=[question("q", "c")]), PersistError)
        assert len(await store.runs()) == 2
        await write(store, change("a", answered=["q"]), change("b", asked=[question("q", "b")]))

    # --- what is runnable

    async def test_what_runs_and_has_no_owner_is_runnable_oldest_first(self) -> None:
        store, other = self.opened(), self.opened()
        await write(store, first("newer", at=NOW + 1), first("older", workflow="w2"))
        assert await ids(other) == []
        self.kill(store)
        assert await ids(other) == ["older", "newer"]
        assert await ids(other, workflows=["w2", "w3"]) == ["older"]
        assert await ids(other, workflows=[]) == []
        await other.claim("older")
        assert await ids(other) == ["newer"]

    async def test_what_waits_is_runnable_when_it_is_due(self) -> None:
        store = self.opened()
        await write(store, first("r", state="waiting", due=NOW + 5, release=True))
        await write(store, first("never", state="waiting", release=True))
        assert await ids(store, NOW + 4.9) == []
        assert await ids(store, NOW + 5) == ["r"]

    async def test_what_waits_is_runnable_when_something_is_wanted_of_it(self) -> None:
        store = self.opened()
        await write(store, first("r", state="waiting", asked=[question("q", "r")], release=True))
        assert await ids(store) == []
        request = await store.request(None, "answer", key="q", data=b"1")
        assert await ids(store) == ["r"]
        claim = await store.claim("r")
        assert await ids(store) == []
        await write(store, change("r", claim.fence, state="waiting", refused=[(request.number, "no")], release=True))
        assert await ids(store) == []
        await store.request("r", "event")
        claim = await store.claim("r")
        last = (await store.requests("r"))[-1]
        await write(store, change("r", claim.fence, state="waiting", taken=[last.number], release=True))
        assert await ids(store) == []

    async def test_what_is_paused_is_runnable_to_cancel_or_to_resume_it(self) -> None:
        store = self.opened()
        for kind in ("cancel", "resume"):
            await write(store, first(kind, state="paused", due=NOW - 1, release=True))
            await store.request(kind, "event")
            await store.request(kind, "pause")
            assert await ids(store) == []
            await store.request(kind, kind)
            assert await ids(store) == [kind]
            await store.delete(kind)

    async def test_what_has_ended_is_not_runnable(self) -> None:
        store = self.opened()
        await write(store, first("r", state="waiting"))
        await store.request("r", "event")
        await write(store, change("r", state="completed", due=NOW - 1, release=True))
        assert await ids(store) == []

    # --- removing

    async def test_deleting_leaves_nothing_of_a_run(self) -> None:
        store = self.opened()
        await write(store, first("keep", put=[("a", b"1")], stream=[b"0"]))
        await write(store, first("r", put=[("a", b"1")], stream=[b"0", b"1"], asked=[question("q", "r")]))
        await store.request("r", "event", key="k")
        await write(store, change("r", release=True))
        await store.delete("r")
        with pytest.raises(ValidationError):
            await store.info("r")
        assert await store.questions() == []
        assert await store.requests("r") == []
        await write(store, first("r", asked=[question("q", "r")]))
        assert (await store.load("r")).parts == {}
        assert await store.stream("r") == []
        assert await store.requests("r") == []
        assert (await store.request("r", "event", key="k")).data == b""
        assert (await store.load("keep")).parts == {"a": b"1"}
        assert await store.stream("keep") == [b"0"]

    async def test_what_lives_is_not_deleted_and_what_is_orphaned_is(self) -> None:
        store, other = self.opened(), self.opened()
        await write(store, first("r"))
        for asks in (store, other):
            with pytest.raises(ValidationError, match="alive"):
                await asks.delete("r")
        self.kill(store)
        await other.delete("r")
        assert await other.runs() == []

    async def test_who_owned_a_run_that_was_deleted_cannot_write_to_one_of_the_same_id(self) -> None:
        store, other = self.opened(), self.opened()
        await write(store, first("r"))
        await other.claim("r", force=True)
        other.let_go(await other.claim("r", force=True))
        assert not (await other.info("r")).owned
        await other.delete("r")
        await refused(store, change("r"), PersistError)
        await write(other, first("r", head=b"new"))
        await refused(store, change("r", head=b"late"), PersistError)
        assert (await store.load("r")).head == b"new"

    async def test_pruning_removes_what_ended_before(self) -> None:
        store, other = self.opened(), self.opened()
        for state in ("completed", "failed", "cancelled"):
            await write(store, first(state, stream=[b"0"]), change(state, at=NOW + 1, state=state, release=True))
        await write(store, first("live", state="completed"), first("waiting", state="waiting", release=True))
        assert await other.prune(ended_before=NOW + 1) == 0
        assert await other.prune(ended_before=NOW + 1.5, states=["failed"]) == 1
        assert {info.run_id for info in await store.runs()} == {"completed", "cancelled", "live", "waiting"}
        assert await other.prune(ended_before=NOW + 2) == 2
        assert {info.run_id for info in await store.runs()} == {"live", "waiting"}
        with pytest.raises(ValidationError, match="waiting"):
            await store.prune(ended_before=NOW, states=["waiting"])
        assert await store.prune(ended_before=NOW + 2, states=[]) == 0
