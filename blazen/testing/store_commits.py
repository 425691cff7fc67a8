"""Tests of what a store writes, and of whom it lets write."""

from __future__ import annotations

import threading
from typing import Any

import pytest
import trio

from blazen.errors import PersistError, ValidationError
from blazen.store.base import Claim, OnCommitFailed, OwnershipLost, StoredRun
from blazen.testing.store_base import (
    NOW,
    StoreTests,
    change,
    claimed,
    first,
    question,
    refused,
    until,
    until_claimed,
    write,
)


class CommitTests(StoreTests):
    """`submit` and what is in a `Commit`."""

    async def test_the_first_commit_makes_the_run_and_claim_1(self) -> None:
        store = self.opened()
        await write(
            store, first("r", at=NOW, version="7", due=NOW + 5, head=b"\0h", put=[("a", b""), ("ä/1", b"\xff")])
        )
        stored = await store.load("r")
        assert stored.head == b"\0h"
        assert stored.parts == {"a": b"", "ä/1": b"\xff"}
        info = stored.info
        assert (info.run_id, info.workflow, info.version, info.state) == ("r", "wf", "7", "running")
        assert (info.created, info.updated, info.due) == (NOW, NOW, NOW + 5)
        assert (info.fence, info.owned, info.live) == (1, True, True)
        assert (info.questions, info.streamed, info.result, info.error) == (0, 0, None, None)
        assert await store.info("r") == info

    async def test_a_commit_replaces_head_and_header_but_not_the_creation(self) -> None:
        store = self.opened()
        await write(store, first("r", due=NOW + 1))
        await write(store, change("r", at=NOW + 2, version="2", state="waiting", head=b"second"))
        stored = await store.load("r")
        assert stored.head == b"second"
        assert (stored.info.created, stored.info.updated, stored.info.due) == (NOW, NOW + 2, None)
        assert (stored.info.version, stored.info.state, stored.info.fence) == ("2", "waiting", 1)

    async def test_commits_that_change_only_the_head_are_written_too(self) -> None:
        store = self.opened()
        await write(store, first("r"), change("r", head=b"1"), change("r", at=NOW + 1, version="3", head=b"2"))
        stored = await store.load("r")
        assert (stored.head, stored.info.updated, stored.info.version) == (b"2", NOW + 1, "3")

    async def test_parts_are_put_replaced_and_dropped(self) -> None:
        store = self.opened()
        await write(store, first("r", put=[("a", b"1"), ("b", b"2")]), first("other", put=[("a", b"other")]))
        await write(store, change("r", put=[("b", b"3"), ("c", b"4")], drop=["a", "never there"]))
        assert (await store.load("r")).parts == {"b": b"3", "c": b"4"}
        await write(store, change("r", put=[("d", b"5")], drop=["d", "c"]))
        assert (await store.load("r")).parts == {"b": b"3"}
        assert (await store.load("other")).parts == {"a": b"other"}

    async def test_clear_drops_all_parts_before_put(self) -> None:
        store = self.opened()
        await write(store, first("r", put=[("a", b"1"), ("b", b"2")]))
        await write(store, change("r", clear=True, put=[("b", b"3")]))
        assert (await store.load("r")).parts == {"b": b"3"}

    async def test_the_stream_only_grows(self) -> None:
        store = self.opened()
        await write(store, first("r", stream=[b"0", b""]), change("r"), change("r", stream=[b"2"]))
        await write(store, change("r", stream=[b"3", b"4"]))
        assert await store.stream("r") == [b"0", b"", b"2", b"3", b"4"]
        assert (await store.info("r")).streamed == 5

    async def test_what_came_of_a_run_is_kept(self) -> None:
        store = self.opened()
        await write(store, first("r"), change("r", state="completed", result=b"42", release=True))
        info = await store.info("r")
        assert (info.state, info.result, info.error, info.owned) == ("completed", b"42", None, False)
        await write(store, first("f", state="failed", error="ValueError: no"))
        info = await store.info("f")
        assert (info.state, info.result, info.error) == ("failed", None, "ValueError: no")

    async def test_done_is_called_once_for_each_commit(self) -> None:
        store = self.opened()
        calls: list[tuple[int, BaseException | None]] = []
        numbers = range(50)
        for number in numbers:
            store.submit(first(f"r{number}"), lambda error, number=number: calls.append((number, error)))  # type: ignore[misc]
        await until(lambda: len(calls) >= 50, "every commit is acknowledged")
        await write(store, first("last"))
        assert sorted(calls, key=lambda call: call[0]) == [(number, None) for number in numbers]

    async def test_commits_of_many_runs_at_once_are_all_written(self) -> None:
        store = self.opened()

        async def one_run(run_id: str) -> None:
            await write(store, first(run_id, put=[("p0", b"0")]))
            for number in range(1, 20):
                text = str(number).encode()
                await write(
                    store,
                    change(run_id, head=text, put=[(f"p{number}", text)], drop=[f"p{number - 1}"], stream=[text]),
                )

        run_ids = [f"run {number}" for number in range(20)]
        async with trio.open_nursery() as nursery:
            for run_id in run_ids:
                nursery.start_soon(one_run, run_id)
        for run_id in run_ids:
            stored = await store.load(run_id)
            assert (stored.head, stored.parts) == (b"19", {"p19": b"19"})
            assert await store.stream(run_id) == [str(number).encode() for number in range(1, 20)]

    async def test_one_that_fails_among_many_leaves_the_others_alone(self) -> None:
        store, other = self.opened(), self.opened()
        run_ids = [f"r{number}" for number in range(8)]
        for run_id in run_ids:
            await write(store, first(run_id))
        await other.claim("r3", force=True)
        outcomes: dict[str, BaseException | None] = {}
        for run_id in run_ids:
            store.submit(
                change(run_id, head=b"new", stream=[b"item"]),
                lambda error, run_id=run_id: outcomes.__setitem__(run_id, error),  # type: ignore[misc]
            )
        await until(lambda: len(outcomes) == 8, "every commit is acknowledged")
        assert isinstance(outcomes.pop("r3"), OwnershipLost)
        assert set(outcomes.values()) == {None}
        assert [(await store.load(run_id)).head for run_id in run_ids].count(b"new") == 7
        assert (await store.load("r3")).head == b"head"
        assert await store.stream("r3") == []
        await write(store, change("r4", stream=[b"next"]))
        assert await store.stream("r4") == [b"item", b"next"]

    # --- new runs

    async def test_a_second_run_of_an_id_is_refused(self) -> None:
        store = self.opened()
        await write(store, first("r", head=b"old"))
        error = await refused(store, first("r", head=b"new"), PersistError)
        assert "'r'" in str(error)
        await write(store, change("r", head=b"old still", release=True))
        await refused(store, first("r", head=b"new"), PersistError)
        assert (await store.load("r")).head == b"old still"

    async def test_a_run_begins_with_claim_1(self) -> None:
        store = self.opened()
        commit = first("r")
        commit.fence = 2
        await refused(store, commit, PersistError)
        assert await store.runs() == []

    # --- callbacks

    async def test_callbacks_are_called_in_order_inside_of_the_commit(self) -> None:
        store = self.opened()
        seen: list[tuple[int, object]] = []
        await write(store, first("r", callbacks=[lambda one: seen.append((1, one)), lambda one: seen.append((2, one))]))
        assert [number for number, _ in seen] == [1, 2]
        assert seen[0][1] is seen[1][1]

    async def test_nothing_of_a_commit_takes_effect_when_a_callback_raises(self) -> None:
        store = self.opened()
        await write(store, first("r", head=b"old", put=[("a", b"1")], stream=[b"0"], asked=[question("q", "r")]))
        before = await store.load("r")

        def fails(_: Any) -> None:
            raise LookupError("nothing there")

        for release in (True, False):
            error = await refused(
                store,
                change(
                    "r", at=NOW + 1, state="waiting", head=b"new", put=[("b", b"2")], drop=["a"], stream=[b"1"],
                    asked=[question("q2", "r")], answered=["q"], release=release, callbacks=[lambda _: None, fails],
                ),
                OnCommitFailed,
            )  # fmt: skip
            assert isinstance(error, OnCommitFailed)
            assert error.index == 1
            assert isinstance(error.__cause__, LookupError)
        assert await store.load("r") == before
        assert await store.stream("r") == [b"0"]
        assert [one.request_id for one in await store.questions()] == ["q"]
        await write(store, change("r", stream=[b"1"]))
        assert await store.stream("r") == [b"0", b"1"]
        await refused(store, first("never", callbacks=[fails]), OnCommitFailed)
        assert [info.run_id for info in await store.runs()] == ["r"]

    async def test_an_async_callback_fails_the_commit(self) -> None:
        store = self.opened()

        async def waits(_: Any) -> None:
            raise AssertionError("called")

        await refused(store, first("r", callbacks=[waits]), OnCommitFailed)
        assert await store.runs() == []


class OwnerTests(StoreTests):
    """Owners: `claim`, `let_go`, `close`, and death."""

    async def test_only_the_owner_can_write(self) -> None:
        store, other = self.opened(), self.opened()
        await write(store, first("r"))
        await refused(other, change("r", head=b"stolen"), OwnershipLost)
        await refused(store, change("r", 2), OwnershipLost)
        await refused(store, change("r", 0), OwnershipLost)
        await refused(store, change("no such run"), OwnershipLost)
        assert (await store.load("r")).head == b"head"

    async def test_a_run_that_was_released_can_be_claimed_by_others_and_written_by_nobody(self) -> None:
        store, other = self.opened(), self.opened()
        await write(store, first("r"), change("r", state="waiting", release=True))
        info = await store.info("r")
        assert (info.owned, info.live, info.fence) == (False, False, 1)
        await refused(store, change("r"), OwnershipLost)
        assert await other.claim("r") == Claim(run_id="r", fence=2)
        info = await store.info("r")
        assert (info.owned, info.live, info.fence) == (True, True, 2)
        await refused(store, change("r"), OwnershipLost)
        await refused(other, change("r", 1), OwnershipLost)
        await write(other, change("r", 2, head=b"other"))
        assert (await store.load("r")).head == b"other"

    async def test_a_first_commit_may_release_at_once(self) -> None:
        store, other = self.opened(), self.opened()
        await write(store, first("r", state="waiting", release=True, stream=[b"0"]))
        assert not (await store.info("r")).owned
        await claimed(other, "r", stream=[b"1"])
        assert await store.stream("r") == [b"0", b"1"]

    async def test_a_live_owner_is_not_robbed(self) -> None:
        store, other = self.opened(), self.opened()
        await write(store, first("r"))
        for asks in (store, other):
            with pytest.raises(ValidationError, match="alive"):
                await asks.claim("r")
        await write(store, change("r"))

    async def test_unless_by_force_and_then_its_writes_are_refused(self) -> None:
        store, other = self.opened(), self.opened()
        await write(store, first("r"))
        assert (await other.claim("r", force=True)).fence == 2
        await refused(store, change("r", head=b"late", put=[("a", b"late")], stream=[b"late"]), OwnershipLost)
        stored: StoredRun = await other.load("r")
        assert (stored.head, stored.parts, stored.info.streamed) == (b"head", {}, 0)
        assert (await store.claim("r", force=True)).fence == 3
        await refused(other, change("r", 2), OwnershipLost)
        await write(store, change("r", 3))

    async def test_what_has_ended_or_is_not_there_cannot_be_claimed(self) -> None:
        store = self.opened()
        with pytest.raises(ValidationError, match="no run 'r'"):
            await store.claim("r")
        for state in ("completed", "failed", "cancelled"):
            await write(store, first(state, state=state, release=True))
            for force in (False, True):
                with pytest.raises(ValidationError, match="ended"):
                    await store.claim(state, force=force)

    async def test_letting_go_changes_nothing_but_the_owner(self) -> None:
        store, other = self.opened(), self.opened()
        await write(store, first("r", put=[("a", b"1")]))
        store.let_go(Claim(run_id="r", fence=1))
        stored = await store.load("r")
        assert (stored.head, stored.parts, stored.info.updated) == (b"head", {"a": b"1"}, NOW)
        assert (stored.info.owned, stored.info.fence) == (False, 1)
        await refused(store, change("r"), OwnershipLost)
        assert (await other.claim("r")).fence == 2

    async def test_what_is_asked_after_letting_go_finds_it_done(self) -> None:
        store = self.opened()
        await write(store, first("r"))
        claim = Claim(run_id="r", fence=1)
        for fence in range(2, 30):
            store.let_go(claim)
            if fence % 3 == 0:
                assert not (await store.info("r")).owned
            elif fence % 3 == 1:
                assert [info.run_id for info in await store.runnable(None, NOW)] == ["r"]
            claim = await store.claim("r")
            assert claim.fence == fence
        outcomes: list[BaseException | None] = []
        store.let_go(claim)
        store.submit(change("r", claim.fence, head=b"late"), outcomes.append)
        await until(lambda: bool(outcomes), "the commit is settled")
        assert isinstance(outcomes[0], OwnershipLost)
        assert (await store.load("r")).head == b"head"
        store.close()
        store.let_go(claim)

    async def test_a_claim_that_is_no_longer_valid_is_left_alone(self) -> None:
        store, other = self.opened(), self.opened()
        await write(store, first("r"))
        await other.claim("r", force=True)
        store.let_go(Claim(run_id="r", fence=1))
        store.let_go(Claim(run_id="r", fence=2))
        other.let_go(Claim(run_id="r", fence=1))
        other.let_go(Claim(run_id="no such run", fence=1))
        assert (await store.info("r")).live
        await write(other, change("r", 2))

    async def test_of_many_that_claim_at_once_one_succeeds(self) -> None:
        stores = [self.opened() for _ in range(4)]
        await write(stores[0], first("r", release=True))
        won: list[int] = []

        async def claim(number: int) -> None:
            try:
                await stores[number].claim("r")
            except ValidationError:
                return
            won.append(number)

        async with trio.open_nursery() as nursery:
            for number in range(4):
                nursery.start_soon(claim, number)
        assert len(won) == 1
        await write(stores[won[0]], change("r", 2))

    async def test_the_runs_of_an_owner_that_has_died_are_seen_to_be_orphans_at_once(self) -> None:
        store, other = self.opened(), self.opened()
        await write(store, first("r", put=[("a", b"1")]))
        self.kill(store)
        info = await other.info("r")
        assert (info.owned, info.live) == (True, False)
        assert [one.run_id for one in await other.runnable(None, NOW)] == ["r"]
        assert (await other.claim("r")).fence == 2
        assert (await other.load("r")).parts == {"a": b"1"}
        await write(other, change("r", 2))

    async def test_closing_lets_go_of_everything(self) -> None:
        store, other = self.opened(), self.opened()
        await write(store, first("r1"), first("r2"))
        store.close()
        for run_id in ("r1", "r2"):
            assert not (await other.info(run_id)).owned
            assert (await other.claim(run_id)).fence == 2

    async def test_what_was_submitted_is_written_before_a_store_closes(self) -> None:
        store, other = self.opened(), self.opened()
        outcomes: list[BaseException | None] = []
        for number in range(30):
            store.submit(first(f"r{number}"), outcomes.append)
        store.close()
        assert outcomes == [None] * 30
        assert len(await other.runs()) == 30

    async def test_a_closed_store_says_so(self) -> None:
        with self.opened() as store:
            await write(store, first("r"))
        store.close()
        store.close()
        await refused(store, change("r"), PersistError)
        with pytest.raises(PersistError, match="closed"):
            await store.info("r")
        with pytest.raises(PersistError, match="closed"):
            await store.request("r", "cancel")
        with pytest.raises(PersistError, match="closed"):
            await store.claim("r")
        with pytest.raises(PersistError, match="closed"):
            store.listen("r", lambda _: None)
        store.unlisten("r")

    async def test_a_store_works_from_any_loop_and_any_thread(self) -> None:
        store = self.opened()
        found: list[object] = []

        async def elsewhere() -> None:
            await write(store, first("r"))
            found.append((await store.info("r")).run_id)

        thread = threading.Thread(target=trio.run, args=(elsewhere,))
        thread.start()
        await trio.to_thread.run_sync(thread.join)
        assert found == ["r"]
        assert (await store.info("r")).live

    async def test_whoever_waits_for_a_store_can_be_cancelled(self) -> None:
        store = self.opened()
        await write(store, first("r", release=True))
        with trio.CancelScope() as scope:
            scope.cancel()
            await store.info("r")
        with trio.CancelScope() as scope:
            scope.cancel()
            await store.request("r", "event", key="k")
        assert (await store.info("r")).run_id == "r"
        await store.request("r", "event", key="k")
        assert [one.key for one in await store.requests("r")] == ["k"]

    async def test_a_claim_that_nobody_waits_for_any_more_is_given_back(self) -> None:
        store, other = self.opened(), self.opened()
        await write(store, first("r", release=True))
        claim = None
        with trio.CancelScope() as scope:
            scope.cancel()
            claim = await store.claim("r")
        if claim is None:
            await until_claimed(other, "r")
        else:
            await write(store, change("r", claim.fence))
