"""What an editor offers where people type: jedi, which many editors ask, on a small program."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent

PROGRAM = """\
from blazen import Context, Event, StartEvent, StopEvent, Workflow, step
from blazen.testing import run_step, watch


class Scored(Event):
    name: str
    points: int = 0


class Order(StartEvent):
    item: str


@step
async def greet(ctx: Context, ev: Scored) -> StopEvent:
    {ev.}
    {ctx.}
    return StopEvent(result=ev.name)


@step(run="thread", timeout=5.0)
def begin(ev: Order) -> Scored:
    {typed ev.}
    return Scored(name=ev.item)


workflow: Workflow[str] = Workflow("w", [begin, greet])


async def main() -> None:
    {workflow.}
    result = await workflow.run()
    {result.}
    {result.result.}
    async with workflow.run_with_handler() as handler:
        {handler.}
    outcome = await run_step(greet, Scored(name="Ada"))
    {outcome.}
    async with watch(workflow) as run:
        {run.}
"""


def completions(place: str) -> dict[str, str]:
    """The names offered at a place of the program, and their docstrings."""
    if os.environ.get("BLAZEN_REQUIRE_ALL") != "1":
        pytest.importorskip("jedi")
    import jedi

    lines = PROGRAM.splitlines()
    number = next(number for number, line in enumerate(lines) if line.strip() == f"{{{place}}}")
    for index, line in enumerate(lines):
        if line.strip().startswith("{"):
            lines[index] = line[: line.index("{")] + ("pass" if index != number else place.rpartition(" ")[2])
    script = jedi.Script("\n".join(lines), path=ROOT / "program.py", project=jedi.Project(ROOT, smart_sys_path=False))
    found = script.complete(number + 1, len(lines[number]))
    return {one.name: one.docstring(raw=True) for one in found if not one.name.startswith("_")}


def test_an_event_offers_its_fields_and_what_every_event_can_do() -> None:
    offered = completions("ev.")
    assert offered.keys() == {"name", "points", "event_type", "to_dict", "to_json", "from_dict", "from_json"}
    assert "item" in completions("typed ev.")


def test_the_context_offers_what_a_step_may_do_with_what_it_does() -> None:
    offered = completions("ctx.")
    methods = {
        *("set", "get", "set_bytes", "get_bytes", "set_value", "get_value", "has", "delete", "keys", "edit"),
        *("send_event", "write_event_to_stream", "collect_events", "emit_usage"),
        *("run_id", "check_cancelled", "cleanup"),
    }
    properties = {"state", "session", "attempt", "cancelled", "step_name", "workflow_name"}
    assert methods | properties <= offered.keys()
    undocumented = {name for name in methods if len(offered[name].splitlines()) < 2}
    assert undocumented == set()
    assert "Queue an event now, in the middle of the step." in offered["send_event"]


@pytest.mark.parametrize(
    ("place", "names"),
    [
        ("workflow.", {"run", "run_sync", "run_with_handler", "options", "name", "version", "graph"}),
        ("result.", {"result", "run_id", "total_input_tokens", "total_output_tokens", "total_cost_usd"}),
        (
            "handler.",
            {
                *("result", "run_id", "state", "stream_events", "cancel", "cancel_step", "send_event"),
                *("pending_inputs", "respond_to_input"),
            },
        ),
        ("outcome.", {"event"}),
        ("run.", {"result", "happened"}),
    ],
)
def test_what_a_run_gives_is_offered_with_what_it_means(place: str, names: set[str]) -> None:
    offered = completions(place)
    assert names <= offered.keys()
    assert {name for name in names if not offered[name]} == set()


def test_attributes_are_offered_too() -> None:
    assert "event" in completions("result.")
    assert {"events", "sent", "stream", "usage", "state", "session", "error"} <= completions("outcome.").keys()
    assert {"stream", "records", "handler"} <= completions("run.").keys()


def test_the_result_is_offered_as_what_the_workflow_says_it_is() -> None:
    assert {"upper", "startswith"} <= completions("result.result.").keys()
