"""Simulated runs that are paused, written down and resumed at random moments.

A plan is a tree: each node is one invocation, which may sleep, fail once, ask, wait for an event and make child nodes;
its leaves meet in one join. So the result, what must finish, and how often, are known before anything runs.
"""

from __future__ import annotations

import dataclasses
import random
from typing import Any

import trio

from blazen import Context, Event, Retry, Snapshot, StartEvent, StopEvent, UsageEvent, Workflow, step
from blazen.errors import BlazenError
from blazen.testing import run_in_virtual_time

LAYERS = 3
WAITS = (0.0, 0.25, 0.25, 0.5, 1.0)
WAYS = ("pause", "abort", "pause and move", "abort and move", "snapshot and move")
LONGEST = 1_000.0  # seconds of virtual time after which a run counts as hanging


class Layer1(Event):
    name: str


class Layer2(Event):
    name: str


class Layer3(Event):
    name: str


class Leaf(Event):
    name: str


class Ping(Event):
    name: str


CLASSES: tuple[Any, ...] = (Layer1, Layer2, Layer3, Leaf)


@dataclasses.dataclass(frozen=True)
class Node:
    name: str
    layer: int
    acts: tuple[tuple[str, float], ...]  # "sleep", "ask", "wait" or "fail", and seconds
    children: tuple[str, ...]


@dataclasses.dataclass(frozen=True)
class Plan:
    seed: int
    nodes: dict[str, Node]
    roots: tuple[str, ...]
    limits: tuple[int | None, ...]  # per layer
    retry_wait: float
    disturbances: tuple[tuple[float, str], ...]  # after so many seconds, in such a way

    @property
    def leaves(self) -> list[str]:
        return sorted(f"{node.name}!" for node in self.nodes.values() if not node.children)

    @property
    def pings(self) -> list[str]:
        return [node.name for node in self.nodes.values() if any(kind == "wait" for kind, _ in node.acts)]


@dataclasses.dataclass
class Ledger:
    trace: list[str] = dataclasses.field(default_factory=list)
    begun: dict[str, list[int]] = dataclasses.field(default_factory=dict)  # the attempts at a node
    finished: dict[str, int] = dataclasses.field(default_factory=dict)
    undisturbed: int = 0  # disturbances that came after the end
    ways: list[str] = dataclasses.field(default_factory=list)
    result: Any = None
    tokens: int = 0
    wrong: list[str] = dataclasses.field(default_factory=list)

    def note(self, what: str) -> None:
        self.trace.append(f"t={trio.current_time():g} {what}")


def draw(seed: int) -> Plan:
    """The plan that belongs to `seed`."""
    dice = random.Random(f"pausing {seed}")
    nodes: dict[str, Node] = {}

    def grow(name: str, layer: int) -> str:
        kinds = ["sleep", "sleep", "sleep", "ask", "wait", "fail"]
        drawn = [dice.choice(kinds) for _ in range(dice.choice((0, 1, 1, 2, 3)))]
        kept = [kind for place, kind in enumerate(drawn) if kind != "wait" or kind not in drawn[:place]]
        acts = tuple((kind, dice.choice(WAITS)) for kind in kept)
        count = 0 if layer == LAYERS else dice.choice((0, 1, 2, 3))
        nodes[name] = Node(name, layer, acts, tuple(f"{name}.{child}" for child in range(count)))
        for child in nodes[name].children:
            grow(child, layer + 1)
        return name

    roots = tuple(grow(str(root), 1) for root in range(dice.randint(1, 4)))
    return Plan(
        seed=seed,
        nodes=nodes,
        roots=roots,
        limits=tuple(dice.choice((None, None, 1, 2)) for _ in range(LAYERS)),
        retry_wait=dice.choice((0.0, 0.5, 2.0)),
        disturbances=tuple((dice.choice(WAITS), dice.choice(WAYS)) for _ in range(dice.randint(1, 6))),
    )


def answer_to(name: str) -> int:
    """What the person outside answers to a node."""
    return len(name) * 1000 + sum(map(ord, name))


def _copy_of(work: Any) -> Any:
    """A function of its own, for a step of its own."""

    async def work_of_layer(ctx: Context, event: Any) -> list[Event]:
        made: list[Event] = await work(ctx, event)
        return made

    return work_of_layer


def make_workflow(plan: Plan, books: list[Ledger]) -> Workflow[Any]:
    """Its steps write into the last of `books`."""

    async def work(ctx: Context, event: Any) -> list[Event]:
        ledger = books[-1]
        node = plan.nodes[event.name]
        ledger.note(f"begin {node.name} attempt {ctx.attempt}")
        ledger.begun.setdefault(node.name, []).append(ctx.attempt)
        total = 0
        for kind, seconds in node.acts:
            if kind == "sleep":
                await trio.sleep(seconds)
            elif kind == "ask":
                total += await ctx.request_input(node.name, schema=int)
            elif kind == "wait":
                total += len((await ctx.wait_for_event(Ping, name=node.name)).name)
            elif ctx.attempt == 1 and not ctx.cancelled:  # what fails while it is aborted is only warned of
                raise ValueError(node.name)
        if ctx.cancelled:  # it finishes in spite of that and will run again
            ledger.note(f"dropped {node.name}")
            return []
        ctx.set(node.name, (total, {len(node.name): node.name}))
        ctx.emit_usage(UsageEvent("p", "m", input_tokens=1))
        ledger.note(f"end {node.name}")
        ledger.finished[node.name] = ledger.finished.get(node.name, 0) + 1
        return [CLASSES[node.layer](child) for child in node.children] or [Leaf(f"{node.name}!")]

    @step(name="begin")
    async def begin(ev: StartEvent) -> list[Layer1]:
        return [Layer1(name) for name in plan.roots]

    @step(name="join")
    async def join(ctx: Context, ev: Leaf) -> StopEvent | None:
        events: Any = ctx.collect_events(ev, len(plan.leaves), key=("leaves", 1))
        await trio.sleep(0.25)  # where it may be aborted after its event was counted
        if events is None:
            return None
        return StopEvent(result=(sorted(event.name for event in events), dict(ctx.state)))

    layers = [
        step(
            name=f"layer{layer}",
            accepts=[CLASSES[layer - 1]],
            waits=[Ping],
            max_concurrency=plan.limits[layer - 1],
            retries=Retry(1000, initial=plan.retry_wait, factor=1.0, jitter=0.0),
        )(_copy_of(work))
        for layer in range(1, LAYERS + 1)
    ]
    return Workflow(f"pausing {plan.seed}", [begin, *layers, join], types=CLASSES)


def run_plan(plan: Plan, *, disturbed: bool = True) -> Ledger:
    """Run it once, in virtual time and on the schedule of its seed."""
    books = [Ledger()]
    run_in_virtual_time(_main, plan, books, disturbed, seed=plan.seed)
    return books[0]


async def _main(plan: Plan, books: list[Ledger], disturbed: bool) -> None:
    (ledger,) = books
    workflow = make_workflow(plan, books)
    to_come = list(plan.disturbances) if disturbed else []
    pings = plan.pings
    snapshot: Snapshot | None = None
    with trio.move_on_after(LONGEST) as patience:
        while True:
            dice = random.Random(f"person {plan.seed} {len(to_come)}")
            manager = workflow.run_with_handler() if snapshot is None else workflow.resume(snapshot)
            async with manager as handler, trio.open_nursery() as nursery:
                nursery.start_soon(_answer, handler, dice, pings)
                snapshot = await _disturb(handler, ledger, to_come)
                if snapshot is None:
                    try:
                        result = await handler.result()
                        ledger.result, ledger.tokens = result.result, result.total_input_tokens
                    except BlazenError as error:
                        ledger.wrong.append(f"the run failed: {error!r}")
                elif handler.state != "paused":
                    handler.cancel()
                nursery.cancel_scope.cancel()
            if snapshot is None:
                break
    if patience.cancelled_caught:
        ledger.wrong.append("the run hung")


async def _answer(handler: Any, dice: random.Random, pings: list[str]) -> None:
    """Be the person outside."""
    while True:
        await trio.sleep(dice.choice(WAITS[1:]))
        if handler.state not in ("running", "waiting", "paused"):
            return
        for question in handler.pending_inputs():
            if dice.random() < 0.6:
                handler.respond_to_input(question.request_id, answer_to(question.prompt))
        while pings and dice.random() < 0.5:
            handler.send_event(Ping(pings.pop()))


async def _disturb(handler: Any, ledger: Ledger, to_come: list[tuple[float, str]]) -> Snapshot | None:
    """Do the next things; the snapshot to go on with in another run, if it comes to that."""
    while to_come:
        seconds, way = to_come.pop(0)
        await trio.sleep(seconds)
        try:
            if way == "snapshot and move":
                snapshot = await handler.snapshot()
            else:
                snapshot = await handler.pause(abort=way.startswith("abort"))
        except BlazenError as error:
            if "has ended" not in str(error):
                ledger.wrong.append(f"{way}: {error!r}")
            ledger.undisturbed += 1
            return None
        ledger.note(way)
        ledger.ways.append(way)
        if way.endswith("move"):
            return Snapshot.from_bytes(snapshot.to_bytes())
        finished = dict(ledger.finished)
        await trio.sleep(seconds)
        if handler.state != "paused" or finished != ledger.finished:
            ledger.wrong.append(f"something went on while the run was paused: it is {handler.state}")
        handler.resume_in_place()
    return None


def faults(plan: Plan, ledger: Ledger) -> list[str]:
    """What was not as it must be."""
    found = list(ledger.wrong)
    for name in plan.nodes:
        if ledger.finished.get(name, 0) != 1:
            found.append(f"node {name} has finished {ledger.finished.get(name, 0)} times")
        attempts = ledger.begun.get(name, [])
        if attempts != list(range(1, len(attempts) + 1)):
            found.append(f"node {name} began with the attempts {attempts}")
    state = {}
    for name, node in plan.nodes.items():
        total = sum({"ask": answer_to(name), "wait": len(name)}.get(kind, 0) for kind, _ in node.acts)
        state[name] = (total, {len(name): name})
    if ledger.result != (plan.leaves, state):
        found.append(f"the result is {ledger.result}, not {(plan.leaves, state)}")
    if ledger.tokens != len(plan.nodes):
        found.append(f"{len(plan.nodes)} nodes have used {ledger.tokens} tokens")
    return found
