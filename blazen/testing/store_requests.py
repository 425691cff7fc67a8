"""Tests of requests: leaving them, hearing them, and being told when there is something to run."""

from __future__ import annotations

import time
from functools import partial

import pytest

from blazen.errors import ValidationError
from blazen.store.base import Request
from blazen.testing.store_base import NOW, SOON, StoreTests, change, first, question, until, until_claimed, write


class RequestTests(StoreTests):
    """`request`, `requests`, `listen`, `unlisten`, `watch` and `unwatch`."""

    async def test_requests_are_kept_in_order_until_they_are_taken(self) -> None:
        store, other = self.opened(), self.opened()
        await write(store, first("r"), first("other"))
        before = time.time()
        made = [
            await other.request("r", "event", data=b"\0\xff"),
            await store.request("other", "pause"),
            await store.request("r", "cancel", data=b"enough"),
        ]
        numbers = [request.number for request in made]
        assert numbers == sorted(set(numbers))
        assert (made[0].run_id, made[0].kind, made[0].key, made[0].data) == ("r", "event", None, b"\0\xff")
        assert before - 1 <= made[0].created <= time.time() + 1
        assert made[0].refused is None
        assert await store.requests("r") == [made[0], made[2]]
        await write(store, change("r", taken=[made[0].number, made[1].number]))
        assert await other.requests("r") == [made[2]]
        assert await other.requests("other") == [made[1]]

    async def test_a_request_that_was_refused_stays_with_the_reason(self) -> None:
        store = self.opened()
        await write(store, first("r"), first("other"))
        request = await store.request("r", "event", data=b"1")
        await write(store, change("other", refused=[(request.number, "not mine")]))
        await write(store, change("r", refused=[(request.number, "no step accepts it")]))
        (left,) = await store.requests("r")
        assert (left.number, left.data, left.refused) == (request.number, b"1", "no step accepts it")

    async def test_requests_for_what_is_not_there_or_has_ended_are_refused(self) -> None:
        store = self.opened()
        await write(store, first("r", state="completed"))
        for kind in ("event", "cancel", "pause", "resume"):
            with pytest.raises(ValidationError, match="ended"):
                await store.request("r", kind)
            with pytest.raises(ValidationError, match="no run 'none'"):
                await store.request("none", kind)
            with pytest.raises(ValidationError):
                await store.request(None, kind)
        with pytest.raises(ValidationError, match="stop"):
            await store.request("r", "stop")  # type: ignore[arg-type]

    async def test_a_question_is_answered_by_its_id(self) -> None:
        store, other = self.opened(), self.opened()
        await write(store, first("r", asked=[question("q", "r"), question("q2", "r")]), first("other"))
        answer = await other.request(None, "answer", key="q", data=b"42")
        assert (answer.run_id, answer.kind, answer.key, answer.data) == ("r", "answer", "q", b"42")
        assert (await other.request("r", "answer", key="q2")).run_id == "r"
        assert len(await store.requests("r")) == 2

    async def test_only_questions_that_are_open_are_answered_and_once(self) -> None:
        store = self.opened()
        await write(store, first("r", asked=[question("q", "r")]), first("other"))
        for run_id in (None, "r"):
            with pytest.raises(ValidationError, match="'none'"):
                await store.request(run_id, "answer", key="none")
        with pytest.raises(ValidationError, match="'q'"):
            await store.request("other", "answer", key="q")
        with pytest.raises(ValidationError, match="no run 'nobody'"):
            await store.request("nobody", "answer", key="q")
        with pytest.raises(ValidationError, match="key"):
            await store.request("r", "answer")
        answer = await store.request(None, "answer", key="q")
        with pytest.raises(ValidationError, match="answered"):
            await store.request(None, "answer", key="q")
        await write(store, change("r", taken=[answer.number], answered=["q"]))
        with pytest.raises(ValidationError, match="answered"):
            await store.request("r", "answer", key="q")
        assert await store.requests("r") == []

    async def test_a_question_whose_answer_was_refused_can_be_answered_again(self) -> None:
        store = self.opened()
        await write(store, first("r", asked=[question("q", "r")]))
        wrong = await store.request(None, "answer", key="q", data=b"wrong")
        await write(store, change("r", refused=[(wrong.number, "not a number")]))
        right = await store.request(None, "answer", key="q", data=b"right")
        assert right.number > wrong.number
        assert [request.data for request in await store.requests("r")] == [b"wrong", b"right"]

    async def test_a_key_makes_a_request_count_once(self) -> None:
        store, other = self.opened(), self.opened()
        await write(store, first("r"), first("other"))
        made = await store.request("r", "event", key="k", data=b"1")
        assert await other.request("r", "event", key="k", data=b"2") == made
        assert (await store.request("r", "pause", key="k")).number != made.number
        assert (await store.request("other", "event", key="k")).number != made.number
        assert (await store.request("r", "event", key="k2")).number != made.number
        without = [await store.request("r", "event"), await store.request("r", "event")]
        assert without[0].number != without[1].number
        assert len(await store.requests("r")) == 5

    async def test_a_key_is_remembered_when_its_request_was_taken_or_refused(self) -> None:
        store = self.opened()
        await write(store, first("r"))
        taken = await store.request("r", "event", key="k1", data=b"1")
        denied = await store.request("r", "event", key="k2", data=b"2")
        await write(store, change("r", taken=[taken.number], refused=[(denied.number, "no")]))
        again = await store.request("r", "event", key="k1", data=b"1")
        assert (again.number, again.data) == (taken.number, b"")
        again = await store.request("r", "event", key="k2", data=b"2")
        assert (again.number, again.refused) == (denied.number, "no")
        assert [request.number for request in await store.requests("r")] == [denied.number]

    # --- listening

    async def test_an_owner_hears_what_is_there_and_what_comes_once_and_in_order(self) -> None:
        store, other = self.opened(), self.opened()
        await write(store, first("r"), first("deaf"))
        numbers = [(await other.request("r", "event")).number for _ in range(3)]
        heard: list[Request] = []
        store.listen("r", heard.extend)
        await until(lambda: len(heard) == 3, "what was there is heard", SOON)
        for number in range(10):
            numbers.append((await (store, other)[number % 2].request("r", "event")).number)
            await other.request("deaf", "event")
        await until(lambda: len(heard) >= 13, "what others leave is heard within half a second", SOON)
        assert [request.number for request in heard] == numbers
        assert heard == await store.requests("r")

    async def test_what_this_process_leaves_is_heard_at_once(self) -> None:
        store, other = self.opened(), self.opened()
        await write(store, first("r"))
        heard: list[Request] = []
        store.listen("r", heard.extend)
        began = time.monotonic()
        for number in range(10):
            await (store, other)[number % 2].request("r", "event")
            await until(lambda number=number: len(heard) > number, "it is heard", SOON)  # type: ignore[misc]
        assert time.monotonic() - began < 10 * SOON / 5, "this process is heard no sooner than others"

    async def test_what_was_refused_is_not_heard_again(self) -> None:
        store = self.opened()
        await write(store, first("r"))
        denied = await store.request("r", "event")
        await write(store, change("r", refused=[(denied.number, "no")]))
        heard: list[Request] = []
        store.listen("r", heard.extend)
        wanted = await store.request("r", "event")
        await until(lambda: bool(heard), "the second request is heard", SOON)
        assert heard == [wanted]

    async def test_only_the_owner_hears(self) -> None:
        store, other = self.opened(), self.opened()
        await write(store, first("r"), first("mine"))
        await write(other, first("r2"))
        heard: list[str] = []
        others: list[str] = []
        for run_id in ("r", "r2", "mine"):
            store.listen(run_id, lambda requests: heard.extend(one.run_id for one in requests))
            other.listen(run_id, lambda requests: others.extend(one.run_id for one in requests))
        for run_id in ("r", "r2"):
            await store.request(run_id, "event")
        await until(lambda: bool(heard and others), "both hear their own", SOON)
        store.let_go(await store.claim("r", force=True))
        claim = await until_claimed(other, "r")
        await until(lambda: len(others) == 2, "who claims a run hears what is there", SOON)
        await store.request("r", "event")
        await until(lambda: len(others) == 3, "and what comes", SOON)
        await store.request("mine", "event")
        await until(lambda: len(heard) == 2, "and who has lost it hears what it has", SOON)
        assert (heard, others) == (["r", "mine"], ["r2", "r", "r"])
        assert claim.run_id == "r"

    async def test_what_is_there_is_heard_before_a_later_commit_is_done(self) -> None:
        store, other = self.opened(), self.opened()
        await write(store, *(first(f"r{number}") for number in range(20)))
        for number in range(20):
            await other.request(f"r{number}", "event")
        order: list[str] = []

        def note(run_id: str, error: BaseException | None) -> None:
            order.append(f"{run_id} {error}")

        for number in range(20):
            run_id = f"r{number}"
            store.listen(run_id, lambda requests: order.extend(one.run_id for one in requests))
            store.submit(change(run_id), partial(note, run_id))
        await until(lambda: len(order) == 40, "all is heard and done")
        for number in range(20):
            assert order.index(f"r{number}") < order.index(f"r{number} None")

    async def test_listening_may_begin_before_the_run_is_there(self) -> None:
        store = self.opened()
        heard: list[Request] = []
        store.listen("r", heard.extend)
        await write(store, first("r"))
        request = await store.request("r", "event")
        await until(lambda: bool(heard), "it is heard", SOON)
        assert heard == [request]

    async def test_nothing_is_heard_after_unlisten_and_all_by_who_listens_anew(self) -> None:
        store = self.opened()
        await write(store, first("r"), first("marker"))
        heard: list[int] = []
        marked: list[int] = []
        store.listen("r", lambda requests: heard.extend(one.number for one in requests))
        store.listen("marker", lambda requests: marked.extend(one.number for one in requests))
        numbers = [(await store.request("r", "event")).number]
        await until(lambda: heard == numbers, "it is heard", SOON)
        store.unlisten("r")
        store.unlisten("r")
        numbers.append((await store.request("r", "event")).number)
        await store.request("marker", "event")
        await until(lambda: bool(marked), "the other is heard", SOON)
        assert heard == numbers[:1]
        again: list[int] = []
        store.listen("r", lambda requests: again.extend(one.number for one in requests))
        await until(lambda: again == numbers, "all is heard anew", SOON)
        third: list[int] = []
        store.listen("r", lambda requests: third.extend(one.number for one in requests))
        numbers.append((await store.request("r", "event")).number)
        await until(lambda: third == numbers, "who listens last hears", SOON)
        assert (heard, again) == (numbers[:1], numbers[:2])

    # --- watching

    async def test_who_watches_is_told_when_there_may_be_something_to_run(self) -> None:
        store, other = self.opened(), self.opened()
        await write(store, first("r", state="waiting"), first("let go"), first("closed"))
        mine: list[float] = []
        others: list[float] = []
        store.watch(lambda: mine.append(time.monotonic()))
        other.watch(lambda: others.append(time.monotonic()))
        for act in ("release", "request", "let go", "close"):
            told, told_other = len(mine), len(others)
            if act == "release":
                await write(store, change("r", state="waiting", due=NOW, release=True))
            elif act == "request":
                await store.request("r", "event")
            elif act == "let go":
                claim = await store.claim("let go", force=True)
                store.let_go(claim)
            else:
                store.close()
            if act != "close":
                await until(lambda told=told: len(mine) > told, f"the owner is told of: {act}", SOON)  # type: ignore[misc]
            await until(lambda told=told_other: len(others) > told, f"others are told of: {act}", SOON)  # type: ignore[misc]

    async def test_nobody_is_told_after_unwatch(self) -> None:
        store = self.opened()
        await write(store, first("r"))
        told: list[str] = []

        def gone() -> None:
            told.append("gone")

        store.watch(gone)
        store.watch(lambda: told.append("stays"))
        store.unwatch(gone)
        store.unwatch(gone)
        await store.request("r", "event")
        await until(lambda: bool(told), "the other is told", SOON)
        assert set(told) == {"stays"}
