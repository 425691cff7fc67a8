"""Runs of workflows whose steps never wait, against the plain model in `reference.run`: step for step the same."""

from __future__ import annotations

import contextlib
import dataclasses
import random
import sys
import warnings
from collections.abc import Callable, Iterator
from typing import Any

import hypothesis
import hypothesis.strategies as st
import pytest
import trio
from reference.run import (
    START,
    STOP,
    TYPES,
    Act,
    Collect,
    Count,
    Fail,
    Give,
    Made,
    Outcome,
    Program,
    Send,
    Step,
    predict,
)

from blazen import Context, DynamicEvent, Event, Retry, StartEvent, StopEvent, Workflow, step
from blazen.errors import WorkflowError

# "scoped": each worker has a cancel scope of its own. "traced": a debugger or coverage looks on; Python then resumes
# coroutines in another way.
WAYS = ("run", "run_sync", "handler", "scoped", "traced")


class A(Event):
    number: int


class B(Event):
    number: int


class C(Event):
    number: int


class D(Event):
    number: int


class SubOfA(A):
    pass


CLASSES: dict[str, Any] = {START: StartEvent, "A": A, "B": B, "C": C, "D": D, "SubOfA": SubOfA}


# --- programs


def draw_program(dice: random.Random, fuel: int) -> Program:
    """A random program. `dice` may be Hypothesis's, which then makes failing programs small."""
    steps = [draw_step(dice, "begin", (START,))]
    for number in range(dice.randint(1, 4)):
        accepts = tuple(dice.sample(TYPES, dice.choice((1, 1, 2, 3))))
        steps.append(draw_step(dice, f"step{number}", accepts))
    accepted = tuple({kind: None for one in steps for kind in one.accepts if kind != START})
    declared = [
        dataclasses.replace(one, emits=(STOP, *accepted[: dice.randint(0, 3)])) if dice.random() < 0.1 else one
        for one in steps
    ]
    return Program(tuple(declared), fuel)


def draw_step(dice: random.Random, name: str, accepts: tuple[str, ...]) -> Step:
    return Step(
        name=name,
        accepts=accepts,
        subclasses=START not in accepts and dice.random() < 0.3,
        emits=None,
        retries=dice.choice((0, 0, 1, 3)),
        on_value_error_only=dice.random() < 0.3,
        on_error=draw_script(dice, with_ctx=False) if dice.random() < 0.4 else None,
        scripts=tuple(draw_script(dice, with_ctx=True) for _ in range(dice.randint(1, 4))),
        is_async=dice.random() < 0.5,
        max_concurrency=dice.choice((None, None, 1, 2)),
    )


def draw_script(dice: random.Random, *, with_ctx: bool) -> tuple[Act, ...]:
    acts: list[Act] = []
    if with_ctx:
        for _ in range(dice.choice((0, 0, 1, 2))):
            acts.append(draw_act(dice))
    if len([act for act in acts if isinstance(act, Collect)]) > 1:
        acts = acts[:1]
    if dice.random() < 0.15:
        return (*acts, Fail(dice.choice(("ValueError", "KeyError"))))
    if dice.random() < 0.01:
        return (*acts, Give(what="nonsense"))
    events = tuple(draw_event(dice) for _ in range(dice.choice((0, 1, 1, 1, 2, 3))))
    return (*acts, Give(events, as_list=len(events) != 1 or dice.random() < 0.3))


def draw_act(dice: random.Random) -> Act:
    kind = dice.choice(("send", "send", "collect", "collect", "count"))
    if kind == "send":
        return Send(draw_event(dice), dice.choice((None, None, "k1", "k2")))
    if kind == "count":
        return Count(dice.choice(("x", "y")))
    if dice.random() < 0.6:
        return Collect(dice.randint(1, 4), dice.choice((None, "j")))
    return Collect(tuple(dice.choice(TYPES) for _ in range(dice.randint(1, 3))), dice.choice((None, "j")))


def draw_event(dice: random.Random) -> Made:
    if dice.random() < 0.02:
        return Made(STOP, dice.randint(0, 9))
    kind = dice.choice(TYPES)
    if dice.random() < 0.1:
        return Made(kind, None if dice.random() < 0.05 else dice.randint(0, 9), dynamic=True)
    return Made(kind, dice.randint(0, 9))


# --- the same program in the engine


class Book:
    """What the steps of one run write down."""

    def __init__(self, program: Program) -> None:
        self.program = program
        self.trace: list[tuple[Any, ...]] = []
        self.steps_run = 0
        self.last = (0, 0)
        self.seqs: dict[int, int] = {}  # id of an event -> its number
        self.held: list[Event] = []  # keeps the ids from being used again

    def begin(self, one: Step, event: Any, seq: int, attempt: int, handling: str | None) -> bool:
        """Note that a step begins; whether it may still do as it likes."""
        self.steps_run += 1
        number = 0 if isinstance(event, StartEvent) else event.number
        kind = "not converted" if isinstance(event, DynamicEvent) else event.event_type
        self.trace.append((one.name, kind, number, seq, attempt, handling))
        self.last = seq, attempt
        return self.steps_run <= self.program.fuel


def make_event(made: Made) -> Event:
    if made.type == STOP:
        return StopEvent(result=made.number)
    if made.dynamic:
        return DynamicEvent(made.type, {} if made.number is None else {"number": made.number})
    event: Event = CLASSES[made.type](number=made.number)
    return event


def perform(book: Book, script: tuple[Act, ...], ctx: Context | None, event: Event) -> Any:
    for act in script:
        if isinstance(act, Fail):
            raise {"ValueError": ValueError, "KeyError": KeyError}[act.error]("simulated")
        if isinstance(act, Give):
            if act.what == "nonsense":
                return 42
            events = [make_event(made) for made in act.events]
            return events if act.as_list else events[0]
        assert ctx is not None
        if isinstance(act, Send):
            ctx.send_event(make_event(act.event), key=act.key)
        elif isinstance(act, Count):
            ctx.set(act.key, ctx.get(act.key, 0) + 1)
            book.trace.append((act.key, ctx.get(act.key)))
        else:
            wanted = act.wanted if isinstance(act.wanted, int) else list(act.wanted)
            events = ctx.collect_events(event, wanted, key=act.key)
            book.trace.append(("joined", None if events is None else [book.seqs[id(one)] for one in events]))
    return None


def make_step(one: Step, books: list[Book]) -> Callable[..., Any]:
    def do(ctx: Context, ev: Event) -> Any:
        book = books[-1]
        if not book.begin(one, ev, ctx.seq, ctx.attempt, None):
            return StopEvent(result=-1)
        book.seqs[id(ev)] = ctx.seq
        book.held.append(ev)
        return perform(book, book.program.script(one, ctx.seq, ctx.attempt), ctx, ev)

    async def do_async(ctx: Context, ev: Event) -> Any:
        return do(ctx, ev)

    def handle(ev: Event, exc: Exception) -> Any:
        book = books[-1]
        if not book.begin(one, ev, *book.last, type(exc).__name__):
            return StopEvent(result=-1)
        return perform(book, one.on_error or (), None, ev)

    return step(
        name=one.name,
        accepts=[CLASSES[kind] for kind in one.accepts],
        subclasses=one.subclasses,
        emits=None if one.emits is None else [StopEvent if kind == STOP else CLASSES[kind] for kind in one.emits],
        retries=Retry(one.retries, on=ValueError if one.on_value_error_only else Exception, initial=0.0),
        on_error=None if one.on_error is None else handle,
        max_concurrency=one.max_concurrency,
    )(do_async if one.is_async else do)


def make_workflow(program: Program, books: list[Book], *, scoped: bool) -> Workflow[Any]:
    return Workflow("model", [make_step(one, books) for one in program.steps], step_timeout=1e6 if scoped else None)


async def run_watched(workflow: Workflow[Any]) -> Any:
    async with workflow.run_with_handler() as handler:
        return (await handler.result()).result


async def run_plainly(workflow: Workflow[Any]) -> Any:
    return (await workflow.run()).result


@contextlib.contextmanager
def tracing(*, on: bool) -> Iterator[None]:
    before = sys.gettrace()
    if on:
        sys.settrace(lambda frame, event, argument: None)
    try:
        yield
    finally:
        sys.settrace(before)


def execute(program: Program, way: str) -> Outcome:
    """What the engine makes of the program."""
    books = [Book(program)]
    workflow = make_workflow(program, books, scoped=way == "scoped")
    ending: tuple[Any, ...]
    with warnings.catch_warnings():
        # A step that has stopped its run and then fails is warned of; that is tested elsewhere.
        warnings.simplefilter("ignore")
        try:
            if way in ("run_sync", "traced"):
                with tracing(on=way == "traced"):
                    result = workflow.run_sync().result
            else:
                result = trio.run(run_watched if way == "handler" else run_plainly, workflow)
        except WorkflowError as error:
            ending = ending_of(error)
        else:
            ending = ("completed", None, None, result)
    return Outcome(tuple(books[0].trace), *ending)


def ending_of(error: WorkflowError) -> tuple[Any, ...]:
    if "is idle" in str(error):
        return "idle", None, None, None
    if error.__cause__ is not None and "cannot take the event" not in str(error):
        return "step failed", error.step, error.event_type, type(error.__cause__).__name__
    return "refused", error.step, error.event_type, None


def compare(program: Program, way: str) -> Outcome:
    expected = predict(program)
    assert execute(program, way) == expected
    return expected


@pytest.mark.parametrize("way", WAYS)
@hypothesis.given(dice=st.randoms(use_true_random=False))
def test_a_run_does_step_for_step_what_the_model_does(way: str, dice: random.Random) -> None:
    compare(draw_program(dice, fuel=40), way)


@pytest.mark.slow
def test_over_200000_steps_are_those_of_the_model() -> None:
    dice = random.Random(1)
    steps = 0
    kinds = set()
    while steps < 200_000:
        outcome = compare(draw_program(dice, fuel=2_000), dice.choice(WAYS))
        steps += sum(len(entry) > 2 for entry in outcome.trace)
        kinds.add(outcome.kind)
    assert kinds == {"completed", "step failed", "refused", "idle"}
