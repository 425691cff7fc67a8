"""A `BlazenState` inside a list or another value is written with it, as one value, and read as `ctx.get` reads one."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest
import trio
import trio.testing

from blazen import (
    BlazenState,
    CallbackFieldStore,
    Context,
    Event,
    Snapshot,
    StartEvent,
    StateValue,
    StopEvent,
    Workflow,
    step,
)
from blazen._core.codec import Described, decode, describe, encode
from blazen._core.state import StateStore
from blazen.errors import ValidationError
from blazen.state import put_back, stored_states


class Connection(BlazenState):
    host: str
    port: int = 80
    socket: object = None

    class Meta:
        transient = {"socket"}

    def restore(self) -> None:
        self.socket = f"to {self.host}"


class Pair(BlazenState):
    first: Any
    second: Any


class Kept(BlazenState):
    large: object

    class Meta:
        store_by = {"large": CallbackFieldStore(lambda key, value: None, lambda key: None)}


@dataclasses.dataclass
class Box:
    inside: Any


class Found(Event):
    state: Any


def made(*, host: str = "here", port: int = 80) -> Connection:
    return Connection(host, port, socket=object())


@pytest.mark.parametrize("named", [(), (Connection, Pair, Box)], ids=["found by module", "named in types"])
def test_a_state_in_a_list_comes_back_without_its_transient_fields_and_restored(named: tuple[type, ...]) -> None:
    (back,) = decode(encode([made(port=81)], classes=named), classes=named)
    assert type(back) is Connection
    assert vars(back) == {"host": "here", "port": 81, "socket": "to here"}


def test_a_state_is_written_wherever_a_value_may_be() -> None:
    classes = [Box, Found]
    value = {"a": (made(),), 1: Box(made(host="there")), "event": Found(Pair(made(), [made()]))}
    back = decode(encode(value, classes=classes), classes=classes)
    assert back["a"][0].socket == "to here"
    assert back[1].inside.socket == "to there"
    assert back["event"].state.second[0].socket == "to here"


def test_what_was_assigned_besides_comes_back_and_what_was_never_set_does_not() -> None:
    state = made()
    del state.port
    state.note = "x"  # type: ignore[attr-defined]
    (back,) = decode(encode([state]))
    assert back.note == "x"
    assert back.port == 80  # the default, as of `ctx.get`
    pair = Pair(1, 2)
    del pair.second
    (back,) = decode(encode([pair]))
    assert not hasattr(back, "second")


def test_a_state_that_is_reached_by_two_ways_comes_back_as_one() -> None:
    state = made()
    first, second = decode(encode([state, [state]]))
    assert first is second[0]


def test_a_state_that_holds_itself_is_refused() -> None:
    state = Pair(1, [])
    state.second.append(state)
    with pytest.raises(ValidationError, match="refers to itself"):
        encode([state])


def test_a_state_with_a_field_store_is_refused_without_a_key() -> None:
    with pytest.raises(ValidationError, match="its field 'large' has a field store, which needs a key") as caught:
        encode([Kept(b"x")])
    assert caught.value.path == "$[0]"


def local_class() -> type[BlazenState]:
    class Local(BlazenState):
        x: int = 1

    return Local


def test_a_class_that_could_not_be_found_again_is_refused_when_it_is_written() -> None:
    local = local_class()
    with pytest.raises(ValidationError, match=r"there is no BlazenState class '.*Local'"):
        encode([local()])
    (back,) = decode(encode([local(x=2)], classes=[local]), classes=[local])  # type: ignore[call-arg]
    assert type(back) is local
    assert back.x == 2  # type: ignore[attr-defined]
    with pytest.raises(ValidationError, match=r"there is no BlazenState class '.*Local'"):
        decode(encode([local()], classes=[local]))


def altered(names: Any, *values: Any, state_type: Any = Connection.state_type) -> bytes:
    """What is written of a state, with other contents."""
    return b"\x01\x00\x60" + encode((state_type, names, *values))[2:]


def test_what_does_not_fit_the_class_any_more_is_refused() -> None:
    assert decode(altered(("host",), "x")).socket == "to x"
    for data, problem in [
        (altered(("socket",), 1), "'socket' was written, and is a transient field"),
        (altered(("__dict__",), {}), "'__dict__' was written, and cannot be a field"),
        (altered(("large",), 1, state_type=Kept.state_type), "has a field store by now"),
        (altered(("host",), "x", state_type="nowhere.Nothing"), "there is no BlazenState class 'nowhere.Nothing'"),
        (altered(("restore",), 1), "not callable"),
        (altered(("host",)), "damaged"),
        (altered((), 1), "damaged"),
        (altered(5), "damaged"),
        (altered(([],), 1), "damaged"),
        (altered(("host", "host"), 1, 2), "damaged"),
        (altered(("a b",), 1), "damaged"),
        (altered((), state_type=5), "damaged"),
        (b"\x01\x00\x60\x00", "damaged"),
    ]:
        with pytest.raises(ValidationError, match=problem):
            decode(data)


def test_one_can_look_at_a_state_without_its_class() -> None:
    found = describe(altered(("host", "gone"), "x", 1, state_type="elsewhere.State"))
    assert type(found) is Described
    assert (found.name, found.fields, found.values) == ("elsewhere.State", ("host", "gone"), ("x", 1))
    with pytest.raises(ValidationError, match="damaged"):
        describe(altered(5))


async def test_states_in_a_list_survive_a_snapshot(autojump_clock: Any) -> None:
    @step
    async def begin(ctx: Context, ev: StartEvent) -> StopEvent:
        if not ctx.has("servers"):
            ctx.set("servers", [made(), made(host="there")])
        await trio.sleep(1)
        return StopEvent(result=[server.socket for server in ctx.get("servers")])

    workflow = Workflow("servers", [begin])
    async with workflow.run_with_handler() as handler:
        await trio.testing.wait_all_tasks_blocked()
        data = (await handler.snapshot()).to_bytes()
    async with workflow.resume(Snapshot.from_bytes(data)) as handler:
        assert (await handler.result()).result == ["to here", "to there"]


def test_what_a_snapshot_writes_of_a_store_is_put_back_as_it_was() -> None:
    store = StateStore()
    store.update({"plain": [1], "none": None, "held": StateValue.json([2])})
    store.set_value("native", StateValue.native(object))
    store.set("pair", Pair(1, made()))
    written = store.written()
    assert list(written) == [
        "plain",
        "none",
        "held",
        "native",
        "pair.first",
        "pair.second.host",
        "pair.second.port",
    ]
    again = StateStore()
    for state in stored_states(store):
        put_back(again, state)
    again.put_back(written)
    assert again.get("pair").second.port == 80
    assert again.get_value("native") == StateValue.native(object)
    assert again.written() == written
    assert again.get("plain") is store.get("plain")


@pytest.mark.parametrize("key", ["", 5, (1,)])
def test_a_key_that_is_none_is_refused_when_it_is_put_back(key: Any) -> None:
    with pytest.raises(ValidationError, match="a state key"):
        StateStore().put_back({key: 1})
