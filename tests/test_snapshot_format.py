"""Snapshots that earlier versions have written keep loading, and their runs go on.

``tests/data/snapshot_v1.bin`` was written once and is never written again. A later format version gets a file of its
own, which `python -c "from tests.test_snapshot_format import write; write('PATH')"` writes in the current format.
"""

from __future__ import annotations

import datetime as dt
import json
from pathlib import Path
from typing import Any

import numpy
import pytest
import trio
import trio.testing

from blazen import (
    BlazenState,
    Context,
    Event,
    InputRequestEvent,
    InputResponseEvent,
    Snapshot,
    StartEvent,
    StateValue,
    StopEvent,
    UsageEvent,
    Workflow,
    step,
)

DATA = Path(__file__).resolve().parent / "data"
KEY = b"a key only for this test"
RUN_ID = "12345678-1234-5678-1234-567812345678"


class Part(Event):
    number: int
    label: str = ""


class Approval(Event):
    asked: str


class Shelf(BlazenState):
    name: str
    free: int = 0
    handle: object = None

    class Meta:
        transient = {"handle"}

    def restore(self) -> None:
        self.handle = f"handle of {self.name}"


VALUES: dict[str, Any] = {
    "big": 2**100,
    "exact": (1, -0.0, "é", None),
    "days": {dt.date(2024, 2, 29): {"leap"}, 7: b"\x00"},
    "array": numpy.arange(6, dtype="int16").reshape(2, 3),
    "shelves": [Shelf("inner", 3)],
    "twice": [["shared"]] * 2,
}


@step
async def begin(ctx: Context, ev: StartEvent) -> list[Part | Approval]:
    ctx.state.update(VALUES)
    ctx.set("shelf", Shelf("outer", 1))
    ctx.set_value("json", StateValue.json({"a": [1]}))
    ctx.set_value("native", StateValue.native(complex(1, 2)))
    ctx.session["token"] = "kept"
    ctx.emit_usage(UsageEvent("acme", "small-1", input_tokens=10, output_tokens=2, cost_usd=0.5))
    ctx.send_event(Part(1, "sent"), key="first")
    return [Part(2), Part(3), Approval("now"), Approval("later")]


@step(max_concurrency=1)
async def gather(ctx: Context, ev: Part) -> StopEvent | None:
    if ev.number == 2 and ctx.attempt == 1:
        ctx.collect_events(ev, 3)
        await trio.sleep_forever()
    parts = ctx.collect_events(ev, 3)
    if parts is None:
        return None
    while not ctx.has("answer") or not ctx.has("approved"):
        await trio.sleep(1)
    return StopEvent(
        result={
            "parts": parts,
            "answer": ctx.get("answer"),
            "approved": ctx.get("approved"),
            "values": {key: ctx.get(key) for key in VALUES},
            "shelf": ctx.get("shelf"),
            "json": ctx.get_value("json"),
            "native": ctx.get("native"),
            "session": dict(ctx.session),
            "attempt": ctx.attempt,
        }
    )


@step
async def approve(ctx: Context, ev: Approval) -> InputRequestEvent | None:
    if ev.asked == "later":
        return InputRequestEvent(request_id="routed", prompt="which?", metadata={"of": [1, 2]})
    ctx.set("approved", await ctx.request_input("approve?", schema=bool))
    return None


@step
async def answered(ctx: Context, ev: InputResponseEvent) -> None:
    ctx.set("answer", ev.response)


WORKFLOW = Workflow("format", [begin, gather, approve, answered], timeout=100.0, version="7")


async def make() -> bytes:
    """A snapshot with something in every part of it."""
    async with WORKFLOW.options(run_id=RUN_ID).run_with_handler() as handler:
        await trio.sleep(5)
        data = (await handler.snapshot()).to_bytes(KEY)
        handler.cancel()
    return data


def write(path: str) -> None:
    """Keep a snapshot in the current format."""
    Path(path).write_bytes(trio.run(make, clock=trio.testing.MockClock(autojump_threshold=0)))


def check_result(found: dict[str, Any]) -> None:
    assert found["parts"] == [Part(1, "sent"), Part(2), Part(3)]
    assert (found["answer"], found["approved"]) == ("the second", True)
    values = found["values"]
    numpy.testing.assert_array_equal(values.pop("array"), VALUES["array"], strict=True)
    (inner,) = values.pop("shelves")
    assert (inner.name, inner.free, inner.handle) == ("inner", 3, "handle of inner")
    assert values == {key: value for key, value in VALUES.items() if key not in ("array", "shelves")}
    assert str(values["exact"][1]) == "-0.0"
    assert values["twice"][0] is values["twice"][1]
    assert found["shelf"].handle == "handle of outer"
    assert (found["shelf"].name, found["shelf"].free) == ("outer", 1)
    assert found["json"] == StateValue.json({"a": [1]})
    assert found["native"] == complex(1, 2)
    assert found["session"] == {"token": "kept"}


@pytest.mark.parametrize("path", sorted(DATA.glob("snapshot_v*.bin")), ids=lambda path: path.stem)
async def test_a_run_of_an_earlier_format_version_goes_on(path: Path, autojump_clock: Any) -> None:
    await goes_on(path.read_bytes())


async def test_a_run_of_this_format_version_goes_on(autojump_clock: Any) -> None:
    await goes_on(await make())


async def goes_on(data: bytes) -> None:
    snapshot = Snapshot.from_bytes(data, key=KEY, trust_native=True)
    assert (snapshot.workflow, snapshot.version, snapshot.run_id) == ("format", "7", RUN_ID)
    started = trio.current_time()
    async with WORKFLOW.resume(snapshot) as handler:
        asked = {question.prompt: question for question in handler.pending_inputs()}
        assert asked.keys() == {"approve?", "which?"}
        assert asked["which?"].metadata == {"of": [1, 2]}
        handler.respond_to_input("routed", "the second")
        handler.respond_to_input(asked["approve?"].request_id, True)
        result = await handler.result()
    check_result(result.result)
    assert (result.run_id, result.total_input_tokens, result.total_cost_usd) == (RUN_ID, 10, 0.5)
    assert trio.current_time() - started < 95


async def test_the_time_that_a_run_had_used_in_an_earlier_format_version_counts(autojump_clock: Any) -> None:
    snapshot = Snapshot.from_bytes((DATA / "snapshot_v1.bin").read_bytes(), key=KEY, trust_native=True)
    started = trio.current_time()
    with pytest.raises(TimeoutError):  # its questions are open, but a step is busy
        async with WORKFLOW.resume(snapshot) as handler:
            await handler.result()
    assert trio.current_time() - started == pytest.approx(95.0)


def test_the_first_format_version_is_there_and_has_something_in_every_part() -> None:
    snapshot = Snapshot.from_bytes((DATA / "snapshot_v1.bin").read_bytes(), key=KEY)
    found = json.loads(snapshot.to_json())
    run = found["run"]
    assert sorted((one["step"], one["attempt"]) for one in run["attempts"]) == [
        ("approve", 1),
        ("gather", 0),
        ("gather", 1),
    ]
    assert all(run[part] for part in ("numbered", "joins", "questions", "sent_keys", "usage"))
    assert found["state"]["typed"]
    assert found["session"]["keys"] == ["token"]
