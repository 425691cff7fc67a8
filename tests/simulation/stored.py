"""Simulated runs that are stored, and whose store, process and owner fail at random moments.

The plans are those of `pausing`, with more in them: what a node writes to the stream, effects that are recorded, rows
that are written in a commit, questions that are returned, events that are sent with a key. A run goes through sessions:
each is what one process does with it, until it crashes, gives the run away, or the run ends.
"""

from __future__ import annotations

import collections
import dataclasses
import random
import warnings
from collections.abc import Callable
from typing import Any

import trio
from between import StoreBetween

from blazen import (
    Context,
    Event,
    InputRequestEvent,
    InputResponseEvent,
    Retry,
    StartEvent,
    StopEvent,
    UsageEvent,
    Workflow,
    recover,
    serve,
    step,
)
from blazen._core import codec
from blazen.errors import BlazenError, PersistError, ValidationError
from blazen.store import MemoryStore
from blazen.store.base import Commit
from blazen.testing import run_in_virtual_time
from simulation.pausing import CLASSES, LAYERS, Layer1, Leaf, Node, Ping, answer_to

WAITS = (0.0, 0.125, 0.25, 0.25, 0.5, 1.0)
SLOW = ((0.0, 0.0), (0.0, 0.0), (0.125, 0.0), (0.0, 0.125), (0.0625, 0.25))
WAYS = (
    "crash",
    "crash before a commit",
    "crash after a commit",
    "fail a commit",
    "lose the claim",
    "leave",
    "pause in place",
    "abort in place",
    "pause and leave",
    "abort and leave",
    "pause through the store",
    "cancel the service",
    "snapshot and resume",
)
RUN_ID = "5a0c1f5e-7f0e-4f6e-9a53-3a1d3a2f9c11"
LONGEST = 1_000.0  # seconds of virtual time after which a run counts as hanging


class Note(Event):
    """What an attempt writes to the stream."""

    name: str
    attempt: int
    part: int


class Extra(Event):
    """What a node sends in its middle."""

    name: str


@dataclasses.dataclass(frozen=True)
class Plan:
    seed: int
    nodes: dict[str, Node]
    roots: tuple[str, ...]
    limits: tuple[int | None, ...]  # per layer
    retry_wait: float
    durability: str
    sessions: tuple[tuple[str, float, int, str], ...]  # way, after so many seconds or commits, then by such a means

    @property
    def asking(self) -> list[str]:
        """Nodes that return a question."""
        return [node.name for node in self.nodes.values() if ("return a question", 0.0) in node.acts]

    @property
    def sending(self) -> list[str]:
        return [node.name for node in self.nodes.values() if ("send", 0.0) in node.acts]

    @property
    def leaves(self) -> list[str]:
        leaves = [f"{node.name}!" for node in self.nodes.values() if not node.children]
        return sorted(leaves + [f"{name}?" for name in self.asking] + [f"{name}+" for name in self.sending])

    @property
    def pings(self) -> list[str]:
        return [node.name for node in self.nodes.values() if any(kind == "wait" for kind, _ in node.acts)]


def draw(seed: int) -> Plan:
    """The plan that belongs to `seed`."""
    dice = random.Random(f"stored {seed}")
    nodes: dict[str, Node] = {}
    kinds = ("sleep", "sleep", "sleep", "ask", "wait", "fail", "once", "return a question", "send", "pass")

    def grow(name: str, layer: int) -> None:
        drawn = [dice.choice(kinds) for _ in range(dice.choice((0, 1, 1, 2, 3)))]
        single = ("wait", "once", "return a question", "send")
        kept = [kind for place, kind in enumerate(drawn) if kind not in single or kind not in drawn[:place]]
        acts = tuple((kind, dice.choice(WAITS) if kind == "sleep" else 0.0) for kind in kept)
        count = 0 if layer == LAYERS else dice.choice((0, 0, 1, 2))
        nodes[name] = Node(name, layer, acts, tuple(f"{name}.{child}" for child in range(count)))
        for child in nodes[name].children:
            grow(child, layer + 1)

    roots = tuple(str(root) for root in range(dice.randint(1, 3)))
    for root in roots:
        grow(root, 1)
    return Plan(
        seed=seed,
        nodes=nodes,
        roots=roots,
        limits=tuple(dice.choice((None, None, 1, 2)) for _ in range(LAYERS)),
        retry_wait=dice.choice((0.0, 0.5, 2.0)),
        durability=dice.choice(("sync", "sync", "sync", "async")),
        sessions=tuple(
            (dice.choice(WAYS), dice.choice(WAITS), dice.randint(1, 8), dice.choice(("resume", "recover", "serve")))
            for _ in range(dice.randint(1, 5))
        ),
    )


class Book:
    """What is seen of one run, in all its sessions."""

    def __init__(self, plan: Plan) -> None:
        self.plan = plan
        self.trace: list[str] = []
        self.begun: dict[str, list[int]] = {}  # the attempts at a node, or at a leaf's join
        self.committed: set[str] = set()  # what the store has as done
        self.names: dict[str, str] = {}  # of attempts in the store: part -> node
        self.effects: collections.Counter[str] = collections.Counter()
        self.recorded: set[str] = set()  # effects whose result a step has been given
        self.ways: list[str] = []
        self.wrong: list[str] = []
        self.result: Any = None
        self.tokens = 0
        self.streamed: list[tuple[str, int, int]] = []  # in the store, at the end
        self.rows: collections.Counter[str] = collections.Counter()

    def note(self, what: str) -> None:
        self.trace.append(f"t={trio.current_time():g} {what}")

    def fault(self, what: str) -> None:
        self.wrong.append(f"t={trio.current_time():g} {what}")

    def began(self, name: str, attempt: int) -> None:
        self.note(f"begin {name} attempt {attempt}")
        if name in self.committed:
            self.fault(f"{name} begins again although it has been committed")
        self.begun.setdefault(name, []).append(attempt)

    def took_effect(self, commit: Commit, classes: Any) -> None:
        """Read from a commit what is done with it."""
        put = sorted(_without_id(name) for name, _ in commit.put)
        self.note(f"commit {commit.state} {put} {sorted(map(_without_id, commit.drop))}")
        for part, encoded in commit.put:
            if part.startswith("attempt/"):
                event = codec.decode(encoded, classes=classes)[2]
                if isinstance(event, InputResponseEvent):
                    self.names[part] = f"answer to {event.request_id}"
                elif not isinstance(event, StartEvent):
                    self.names[part] = f"{type(event).__name__} {event.name}"  # type: ignore[attr-defined]
        for part in commit.drop:
            if part in self.names:
                self.committed.add(self.names[part])


def _without_id(part: str) -> str:
    """The name of a part, but for the id of a question, which is another one each time."""
    return "question" if part.startswith("question/") else part


class Session:
    """What one process does with the run."""

    def __init__(self, book: Book, memory: MemoryStore, slow: tuple[float, float]) -> None:
        self.book = book
        self.alive = True
        self.memory = memory
        self.store = StoreBetween(memory, before=slow[0], after=slow[1])
        self.over = trio.Event()  # it has crashed, or lost its claim
        self.workflow = make_workflow(book.plan, self)
        self.classes = self.workflow._class_table()
        self.store.noted = lambda commit: book.took_effect(commit, self.classes)

    def crash(self) -> None:
        self.book.note("crash")
        self.alive = False
        self.memory.crash()
        self.over.set()


def _copy_of(work: Any) -> Any:
    """A function of its own, for a step of its own."""

    async def work_of_layer(ctx: Context, event: Any) -> list[Event]:
        made: list[Event] = await work(ctx, event)
        return made

    return work_of_layer


def make_workflow(plan: Plan, session: Session) -> Workflow[Any]:
    """Its steps write into the book of the session, as long as that is alive."""
    book = session.book

    def began(name: str, ctx: Context) -> None:
        if session.alive:
            book.began(name, ctx.attempt)
        ctx.write_event_to_stream(Note(name, ctx.attempt, 0))

    def row(name: str) -> Callable[[Any], object]:
        return lambda connection: connection.execute("INSERT INTO done VALUES (?)", (name,))

    async def work(ctx: Context, event: Any) -> list[Event]:
        node = plan.nodes[event.name]
        name = f"{type(event).__name__} {node.name}"
        began(name, ctx)
        total = 0
        more: list[Event] = []
        for kind, seconds in node.acts:
            if kind == "sleep":
                await trio.sleep(seconds)
            elif kind == "pass":
                await trio.lowlevel.checkpoint()
            elif kind == "ask":
                total += await ctx.request_input(node.name, schema=int)
            elif kind == "wait":
                total += len((await ctx.wait_for_event(Ping, name=node.name)).name)
            elif kind == "once":
                total += await ctx.once(node.name, effect)
                if session.alive:
                    book.recorded.add(node.name)
            elif kind == "send":
                ctx.send_event(Extra(node.name), key=node.name)
            elif kind == "return a question":
                more.append(InputRequestEvent(f"returned {node.name}", node.name))
            elif ctx.attempt == 1 and not ctx.cancelled:
                raise ValueError(node.name)
        if ctx.cancelled:
            return []
        ctx.write_event_to_stream(Note(name, ctx.attempt, 1))
        ctx.set(node.name, (total, {len(node.name): node.name}))
        ctx.emit_usage(UsageEvent("p", "m", input_tokens=1))
        ctx.on_commit(row(name))
        if session.alive:
            book.note(f"end {name}")
        children = [CLASSES[node.layer](child) for child in node.children] or [Leaf(f"{node.name}!")]
        return [*more, *children] if len(node.name) % 2 else [*children, *more]

    async def effect(run_id: str, key: str) -> int:
        assert run_id == RUN_ID
        if session.alive:
            if key in book.recorded:
                book.fault(f"the effect of {key} takes place although its result is recorded")
            book.effects[key] += 1
        await trio.sleep(0.125)
        return len(key)

    @step(name="begin")
    async def begin(ev: StartEvent) -> list[Layer1]:
        return [Layer1(name) for name in plan.roots]

    @step(name="extra", retries=3)
    async def extra(ctx: Context, ev: Extra) -> Leaf:
        began(f"Extra {ev.name}", ctx)
        await trio.sleep(0.125)
        ctx.on_commit(row(f"Extra {ev.name}"))
        return Leaf(f"{ev.name}+")

    @step(name="answered")
    async def answered(ctx: Context, ev: InputResponseEvent) -> Leaf:
        began(f"answer to {ev.request_id}", ctx)
        name = ev.request_id.partition(" ")[2]
        assert ev.response == answer_to(name)
        ctx.on_commit(row(f"answer to {ev.request_id}"))
        return Leaf(f"{name}?")

    @step(name="join")
    async def join(ctx: Context, ev: Leaf) -> StopEvent | None:
        began(f"Leaf {ev.name}", ctx)
        events: Any = ctx.collect_events(ev, len(plan.leaves), key=("leaves", 1))
        await trio.sleep(0.125)
        ctx.on_commit(row(f"Leaf {ev.name}"))
        if events is None:
            return None
        return StopEvent(result=(sorted(event.name for event in events), dict(ctx.state)))

    layers = [
        step(
            name=f"layer{layer}",
            accepts=[CLASSES[layer - 1]],
            waits=[Ping],
            max_concurrency=plan.limits[layer - 1],
            retries=Retry(1000, on=ValueError, initial=plan.retry_wait, factor=1.0, jitter=0.0),
        )(_copy_of(work))
        for layer in range(1, LAYERS + 1)
    ]
    steps: list[Any] = [begin, *layers, extra, answered, join]
    return Workflow("stored", steps, types=[*CLASSES, Note, Extra, Ping])


def run_plan(plan: Plan) -> Book:
    """Run it, in virtual time and on the schedule of its seed."""
    book = Book(plan)
    with warnings.catch_warnings():
        # A process that has crashed in here goes on for a moment, and its runs fail for want of their store.
        warnings.filterwarnings("ignore", "a run failed while its block was left by another exception")
        run_in_virtual_time(_main, plan, book, seed=plan.seed)
    return book


async def _main(plan: Plan, book: Book) -> None:
    memory = MemoryStore()
    connection = memory.connection
    connection.execute("CREATE TABLE done (name TEXT)")
    to_come = list(plan.sessions)
    dice = random.Random(f"sessions {plan.seed}")
    means = "run"
    with trio.move_on_after(LONGEST) as patience:
        while not await _has_ended(memory):
            way, seconds, commits, next_means = to_come.pop(0) if to_come else ("go on", 0.0, 0, "resume")
            session = Session(book, memory.view(), dice.choice(SLOW))
            book.note(f"{means}, then {way}")
            book.ways += [way, means]
            try:
                await _hold_session(session, memory, dice, means, way, seconds, commits)
            except* BlazenError as group:
                for error in _leaves(group):
                    # A request to pause that came in an earlier session may be heard in any later one.
                    expected = "the disk is full" in str(error) or getattr(error, "reason", None) == "paused"
                    if session.alive and not expected:
                        book.fault(f"{means}, {way}: {error!r}")
            if session.alive:
                session.alive = False
                session.memory.close()
            else:
                session.memory.crash()  # now, and not when it is collected: others are told of it
            means = next_means if await memory.has(RUN_ID) else "run"
            if await memory.has(RUN_ID) and (await memory.info(RUN_ID)).state == "paused":
                if means == "serve" or means == "recover":
                    await memory.resume(RUN_ID)
    if patience.cancelled_caught:
        book.fault("the run hung")
        return
    info = await memory.info(RUN_ID)
    if info.state != "completed" or info.owned or await memory.questions():
        book.fault(f"at the end the store has {info} and {await memory.questions()}")
        return
    workflow = make_workflow(plan, Session(book, memory.view(), (0.0, 0.0)))
    result = await workflow.options(store=memory).result_of(RUN_ID)
    book.result, book.tokens = result.result, result.total_input_tokens
    for item in await memory.stream(RUN_ID):
        event = codec.decode(item, classes=workflow._class_table())
        if isinstance(event, Note):
            book.streamed.append((event.name, event.attempt, event.part))
    book.rows.update(name for (name,) in connection.execute("SELECT name FROM done"))


def _leaves(group: BaseExceptionGroup[Any]) -> list[BaseException]:
    return [
        leaf for one in group.exceptions for leaf in (_leaves(one) if isinstance(one, BaseExceptionGroup) else [one])
    ]


async def _has_ended(memory: MemoryStore) -> bool:
    return await memory.has(RUN_ID) and (await memory.info(RUN_ID)).state in ("completed", "failed", "cancelled")


async def _hold_session(
    session: Session,
    memory: MemoryStore,
    dice: random.Random,
    means: str,
    way: str,
    seconds: float,
    commits: int,
) -> None:
    """One session, until it ends in its way."""
    store = session.store
    count = 0

    def fault(commit: Commit) -> BaseException | None:
        nonlocal count
        count += 1
        if count != commits:
            return None
        if way == "crash before a commit":
            session.crash()
        elif way == "fail a commit":
            session.book.note("fail a commit")
            return PersistError("the disk is full")
        return None

    def noted(commit: Commit) -> None:
        session.book.took_effect(commit, session.classes)
        if count == commits and way == "crash after a commit":
            session.crash()

    store.fault, store.noted = fault, noted
    workflow = session.workflow.options(store=store, durability=session.book.plan.durability)
    with trio.CancelScope() as scope:
        async with trio.open_nursery() as nursery:

            async def end_when_over() -> None:
                await session.over.wait()
                scope.cancel()

            nursery.start_soon(end_when_over)
            nursery.start_soon(_answer, session, memory, dice)
            if means in ("recover", "serve"):
                nursery.start_soon(_cut_off, session, memory, way, seconds, scope)
                if means == "recover":
                    await recover(store, [workflow])
                    await trio.sleep(dice.choice(WAITS))  # for answers
                else:
                    nursery.start_soon(serve, store, [workflow])
                    while not await _has_ended(memory) and not session.over.is_set():
                        await trio.sleep(0.25)
                        if await memory.has(RUN_ID) and (await memory.info(RUN_ID)).state == "paused":
                            await memory.resume(RUN_ID)
                        if to_rest(way) and trio.current_time() % 16 == 0:
                            break
            else:
                await _watch(session, memory, workflow, means, way, seconds, scope)
            nursery.cancel_scope.cancel()


def to_rest(way: str) -> bool:
    """Whether a service that nothing ends is ended all the same."""
    return way not in ("crash", "lose the claim", "cancel the service")


async def _cut_off(session: Session, memory: MemoryStore, way: str, seconds: float, scope: trio.CancelScope) -> None:
    """End a session in which nobody watches the run."""
    await trio.sleep(seconds)
    if way == "crash":
        session.crash()
    elif way == "lose the claim":
        await _take_away(session, memory)
    elif way == "cancel the service":
        scope.cancel()
    elif way == "pause through the store" and not await _has_ended(memory):
        await memory.pause(RUN_ID)
        await trio.sleep(seconds)
        if not await _has_ended(memory):
            await memory.resume(RUN_ID)


async def _take_away(session: Session, memory: MemoryStore) -> None:
    if await memory.has(RUN_ID) and not await _has_ended(memory):
        session.book.note("the claim is lost")
        session.alive = False
        memory.let_go(await memory.claim(RUN_ID, force=True))
        session.over.set()


async def _watch(
    session: Session,
    memory: MemoryStore,
    workflow: Workflow[Any],
    means: str,
    way: str,
    seconds: float,
    scope: trio.CancelScope,
) -> None:
    """A session with a handler."""
    book = session.book
    manager: Any
    if means == "run":
        manager = workflow.options(run_id=RUN_ID).run_with_handler()
    else:
        manager = workflow.resume(RUN_ID)
    before = [_note(session, item) for item in (await memory.stream(RUN_ID) if means == "resume" else [])]
    seen: list[Any] = []
    resumed = None
    try:
        async with trio.open_nursery() as nursery:
            async with manager as handler:
                nursery.start_soon(_read, handler, seen)
                nursery.start_soon(_answer_here, handler, book, session)
                await trio.sleep(seconds)
                if way == "crash":
                    session.crash()
                elif way == "lose the claim":
                    await _take_away(session, memory)
                elif way == "leave":
                    book.note("leave")
                elif way == "pause through the store":
                    if await memory.has(RUN_ID) and not await _has_ended(memory):
                        await memory.pause(RUN_ID)
                elif way in ("pause in place", "abort in place", "pause and leave", "abort and leave"):
                    resumed = await _pause(handler, book, way, seconds)
                elif way == "snapshot and resume":
                    resumed = await _pause(handler, book, "pause and leave", seconds)
                if way in ("go on", "pause in place", "abort in place") or "commit" in way:
                    await handler.result()
            nursery.cancel_scope.cancel()
    finally:
        if seen[: len(before)] != before and seen and session.alive:
            book.fault(f"the stream of a resumed run begins with {seen[: len(before)]}, not with {before}")
        notes = [note for note in seen if note is not None]
        if len(set(notes)) != len(notes):
            book.fault(f"the stream repeats itself: {notes}")
    if way == "snapshot and resume" and resumed is not None and session.alive:
        book.note("resume the snapshot")
        try:
            async with workflow.resume(resumed) as handler:
                await trio.sleep(seconds)
                session.crash()
        except ValidationError as error:
            if "is another moment of it" not in str(
                error
            ):  # something came between the snapshot and the end of the block
                raise


async def _pause(handler: Any, book: Book, way: str, seconds: float) -> Any:
    try:
        snapshot = await handler.pause(abort=way.startswith("abort"))
    except ValidationError as error:
        if "has ended" not in str(error):
            book.fault(f"{way}: {error!r}")
        return None
    book.note(way)
    if way.endswith("in place"):
        begun = {name: len(attempts) for name, attempts in book.begun.items()}
        await trio.sleep(seconds)
        if handler.state != "paused" or begun != {name: len(attempts) for name, attempts in book.begun.items()}:
            book.fault(f"something went on while the run was paused: it is {handler.state}")
        handler.resume_in_place()
    return snapshot


def _note(session: Session, item: bytes) -> Any:
    event = codec.decode(item, classes=session.classes)
    return _told(event)


def _told(event: object) -> Any:
    return (event.name, event.attempt, event.part) if isinstance(event, Note) else None


async def _read(handler: Any, seen: list[Any]) -> None:
    async for event in handler.stream_events():
        seen.append(_told(event))


async def _answer(session: Session, memory: MemoryStore, dice: random.Random) -> None:
    """Be somebody in another process."""
    while True:
        await trio.sleep(dice.choice(WAITS[1:]))
        if not await memory.has(RUN_ID) or await _has_ended(memory):
            continue
        for question in await memory.questions():
            if dice.random() < 0.4:
                try:
                    answer = "no number" if dice.random() < 0.1 else answer_to(question.prompt)
                    if answer == "no number" and question.request_id.startswith("returned"):
                        continue
                    await memory.respond_to_input(question.request_id, answer)
                    session.book.note(f"answer {answer} to {question.prompt}")
                except ValidationError as error:
                    if "answered already" not in str(error) and "no open question" not in str(error):
                        raise
        for name in session.book.plan.pings:
            if dice.random() < 0.3 and not await _has_ended(memory):
                await memory.send_event(RUN_ID, Ping(name), key=f"ping {name}")


async def _answer_here(handler: Any, book: Book, session: Session) -> None:
    """Be somebody in this process."""
    dice = random.Random(f"here {book.plan.seed} {len(book.trace)}")
    while session.alive and handler.state in ("running", "waiting", "paused"):
        await trio.sleep(dice.choice(WAITS[1:]))
        for question in handler.pending_inputs():
            if dice.random() < 0.3 and handler.state in ("running", "waiting", "paused"):
                handler.respond_to_input(question.request_id, answer_to(question.prompt))


def faults(plan: Plan, book: Book) -> list[str]:
    """What was not as it must be."""
    found = list(book.wrong)
    if book.result is None:
        return found or ["there is no result"]
    state = {}
    for name, node in plan.nodes.items():
        gains = {"ask": answer_to(name), "wait": len(name), "once": len(name)}
        state[name] = (sum(gains.get(kind, 0) for kind, _ in node.acts), {len(name): name})
    if book.result != (plan.leaves, state):
        found.append(f"the result is {book.result}, not {(plan.leaves, state)}")
    names = [f"Layer{node.layer} {name}" for name, node in plan.nodes.items()]
    names += [f"Leaf {name}" for name in plan.leaves]
    names += [f"Extra {name}" for name in plan.sending]
    names += [f"answer to returned {name}" for name in plan.asking]
    if book.rows != dict.fromkeys(names, 1):
        wrong = {name: book.rows[name] for name in {*names, *book.rows} if book.rows[name] != 1}
        found.append(f"rows are not there once: {wrong}")
    if plan.durability == "sync":
        for name, attempts in book.begun.items():
            sent = name.startswith("Extra ") or (name.startswith("Leaf ") and name.endswith("+"))
            if not sent and attempts != sorted(set(attempts)):
                found.append(f"{name} began with the attempts {attempts}")
    if book.tokens < len(plan.nodes):
        found.append(f"{len(plan.nodes)} nodes have used {book.tokens} tokens")
    if len(set(book.streamed)) != len(book.streamed):
        found.append(f"the stored stream repeats itself: {book.streamed}")
    for name in set(names):
        parts = [part for other, _, part in book.streamed if other == name]
        if not parts or (name.startswith("Layer") and parts[-1] != 1):
            found.append(f"the stored stream has a gap: of {name} it has the parts {parts}")
    return found
