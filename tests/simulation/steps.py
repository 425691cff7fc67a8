"""The steps of a simulated workflow: each does what its dice say and writes down what it sees."""

from __future__ import annotations

import gc
import random
from collections.abc import Callable, Sequence
from contextvars import ContextVar
from typing import Any

import trio

from blazen import (
    Context,
    Event,
    InputRequestEvent,
    InputResponseEvent,
    Retry,
    StartEvent,
    StopEvent,
    Workflow,
    step,
)
from blazen.errors import TimeoutError
from simulation.ledger import ANSWERS, CLASSES, Entry, Ledger, Shown, Signal
from simulation.plans import LAYERS, SIGNALS, WAITS, Plan, StepPlan, WaitPlan, dice_for

CLEANUP_GRACE = 5.0
OF_CALLER = "the caller's"
variable: ContextVar[object] = ContextVar("simulated")


class Token:
    """The result of a run, to be found again by identity."""

    def __init__(self, invocation: int) -> None:
        self.invocation = invocation


class Doing:
    """One attempt of a step, or one on_error."""

    def __init__(self, plan: Plan, step: StepPlan, ledger: Ledger, ctx: Context | None, entry: Entry) -> None:
        self.plan = plan
        self.step = step
        self.ledger = ledger
        self.ctx = ctx
        self.entry = entry
        self.layer = 0 if entry.tag == 0 else ledger.layer_of[entry.tag]
        self.dice = dice_for(plan, step.name, entry.tag, entry.attempt)

    def note(self, what: str, **fields: Any) -> None:
        self.ledger.note(
            what,
            invocation=self.entry.invocation,
            step=self.step.name,
            **{"tag": self.entry.tag, "seq": self.entry.seq, **fields},
        )

    def wrong(self, what: str) -> None:
        self.ledger.wrong.append(f"{what}: {self.entry}")

    # --- what it does

    def look_at_variable(self, expected: object) -> None:
        if variable.get() is not expected:
            self.wrong(f"the context variable is {variable.get()!r}, not {expected!r}")

    def deeper(self) -> Event | None:
        return self.ledger.make(self.dice.randint(self.layer + 1, LAYERS)) if self.layer < LAYERS else None

    def send(self) -> None:
        assert self.ctx is not None
        event: Any = self.deeper()
        if event is not None:
            self.ctx.send_event(event)
            self.note("send", tag=event.tag, seq=None)

    def show(self) -> None:
        assert self.ctx is not None
        number = len(self.ledger.shown)
        self.ledger.shown.append(number)
        self.ctx.write_event_to_stream(Shown(number=number))

    def gather(self, event: Event) -> bool:
        """Whether the join is complete, or there is none."""
        if self.step.gathers is None:
            return True
        assert self.ctx is not None
        events: list[Any] | None = self.ctx.collect_events(event, self.step.gathers)
        self.note("gather", detail=None if events is None else [_tag_of(one)[0] for one in events])
        return events is not None

    def result(self) -> tuple[Event | list[Event] | None, object]:
        """What it returns, and how the ledger calls it."""
        dice = self.dice
        if dice.random() < (self.plan.stops if self.layer == LAYERS else self.plan.stops / 10):
            token = Token(self.entry.invocation)
            return StopEvent(result=token), "stop"
        wanted = dice.randint(1, 5) if self.layer == 0 else dice.choice((0, 1, 1, 2, 3))
        events = [event for event in (self.deeper() for _ in range(wanted)) if event is not None]
        if self.plan.returned_questions and len(self.ledger.events) < self.plan.budget and dice.random() < 0.1:
            events.append(self.ledger.ask())
        tags = [_tag_of(event)[0] for event in events]
        if not events:
            return None, tags
        return (events[0] if len(events) == 1 and dice.random() < 0.5 else events), tags

    def fail_perhaps(self) -> None:
        if self.dice.random() < self.plan.fails:
            error: Exception = self.dice.choice((ValueError, KeyError))(f"attempt #{self.entry.invocation}")
            raise error

    def acts(self) -> list[str]:
        kinds = ["checkpoint", "sleep", "sleep", "nursery"]
        if self.ctx is not None:
            kinds += ["send", "show", "edit"]
            if self.plan.waits:
                kinds.append("signal")
        count = (
            self.dice.randint(0, 3) if self.dice.random() < max(self.step.wildness, 0.3) else self.dice.randint(0, 1)
        )
        return [self.dice.choice(kinds) for _ in range(count)]

    async def act(self, kind: str) -> None:
        if kind == "checkpoint":
            await trio.lowlevel.checkpoint()
        elif kind == "sleep":
            await trio.sleep(self.dice.choice(WAITS))
        elif kind == "nursery":
            async with trio.open_nursery() as nursery:
                nursery.start_soon(trio.sleep, self.dice.choice(WAITS))
                nursery.start_soon(trio.lowlevel.checkpoint)
        elif kind == "edit":
            await self.edit()
        elif kind == "send":
            self.send()
        elif kind == "signal":
            self.signal()
        else:
            self.show()

    def signal(self) -> None:
        assert self.ctx is not None
        event = self.ledger.signal(self.dice.randrange(SIGNALS))
        self.ctx.send_event(event)
        self.note("signal", detail=(event.number, event.kind))

    async def wait(self, number: int, wait: WaitPlan) -> None:
        """Wait in the middle, and write down what came."""
        assert self.ctx is not None
        prompt = f"{self.step.name}/{self.entry.tag}/{number}"
        self.note("wait", detail=(number, wait))
        got: object
        try:
            if wait.what == "ask":
                default = {"default": "default"} if wait.when_over == "default" and wait.timeout is not None else {}
                got = await self.ctx.request_input(prompt, timeout=wait.timeout, **default)
            elif wait.what == "signal":
                got = (await self.ctx.wait_for_event(Signal, kind=wait.kind, timeout=wait.timeout)).number
            else:
                got = (await self.ctx.wait_for_event(CLASSES[wait.kind - 1], timeout=wait.timeout)).tag
        except TimeoutError:
            self.note("gave up", detail=number)
            if wait.when_over == "raise":
                raise
            return
        self.note("got", detail=(number, got))

    async def edit(self) -> None:
        assert self.ctx is not None
        async with self.ctx.edit("number", 0) as cell:
            number: Any = cell.value
            if self.dice.random() < 0.5:
                await trio.sleep(self.dice.choice(WAITS))
            cell.value = number + 1
        self.ledger.edits += 1
        self.ledger.number = self.ctx.get("number")

    # --- how it ends

    def ended(self, how: str, detail: object = None) -> None:
        self.note("end", detail=(how, detail))

    async def cut_off(self, error: BaseException) -> Event | list[Event] | None:
        """The step was told to stop: it cleans up, in one of the ways that steps do."""
        self.note("cut off")
        dice = random.Random(f"{self.plan.seed} cut off {self.step.name} {self.entry.tag} {self.entry.attempt}")
        way = dice.choice(("out", "out", "out", "cleanup", "cleanup", "raise", "swallow", "overrun"))
        if way == "cleanup" and self.ctx is not None:
            async with self.ctx.cleanup():
                if self.plan.with_handler and dice.random() < 0.5:
                    self.note("asks in cleanup")
                    await self.ctx.request_input(f"cleanup {self.entry.invocation}", timeout=1.0, default=None)
                    self.note("asked in cleanup")
                else:
                    await trio.sleep(dice.choice(WAITS))
        elif way == "overrun" and dice.random() < 0.3:
            with trio.CancelScope(shield=True):
                await trio.sleep(CLEANUP_GRACE + 2.0)
        elif way == "raise":
            self.ended("raised in cleanup")
            raise RuntimeError(f"cleanup of #{self.entry.invocation}")
        elif way == "swallow":
            result, name = self.result()
            self.ended("swallowed", name)
            return result
        self.ended("cut off")
        raise error


def _only_cancelled(error: BaseException) -> bool:
    if isinstance(error, BaseExceptionGroup):
        return all(_only_cancelled(one) for one in error.exceptions)
    return isinstance(error, trio.Cancelled)


async def _run_async(doing: Doing, event: Event, acts: Sequence[str]) -> Event | list[Event] | None:
    doing.look_at_variable(OF_CALLER)
    mine = doing.entry.invocation
    variable.set(mine)
    try:
        complete = doing.gather(event)
        for number, wait in enumerate(doing.plan.waits_of(doing.step, doing.entry.tag)):
            await doing.wait(number, wait)
            doing.look_at_variable(mine)
        for kind in acts:
            await doing.act(kind)
            doing.look_at_variable(mine)
        doing.fail_perhaps()
    except Exception as error:
        doing.ended("raised", type(error).__name__)
        raise
    except BaseException as error:
        if not _only_cancelled(error):
            raise
        return await doing.cut_off(error)
    result, name = doing.result() if complete else (None, [])
    doing.ended("returned", name)
    return result


def _run_plain(doing: Doing, event: Event, acts: Sequence[str]) -> Event | list[Event] | None:
    doing.look_at_variable(OF_CALLER)
    if doing.dice.random() < 0.3:
        variable.set(doing.entry.invocation)
    try:
        complete = doing.gather(event)
        for kind in acts:
            if kind == "send":
                doing.send()
            elif kind == "signal":
                doing.signal()
            elif kind == "show":
                doing.show()
        doing.fail_perhaps()
    except Exception as error:
        doing.ended("raised", type(error).__name__)
        raise
    result, name = doing.result() if complete else (None, [])
    doing.ended("returned", name)
    return result


def _tag_of(event: Any) -> tuple[int, int]:
    """The event's tag and the number of its run."""
    if isinstance(event, InputRequestEvent | InputResponseEvent):
        book, _, tag = str(event.request_id).partition(" ")
        return int(tag), int(book)
    return (0, event.data) if isinstance(event, StartEvent) else (event.tag, event.book)


def _make_step(plan: Plan, one: StepPlan, books: list[Ledger]) -> Callable[..., Any]:
    def begin(ctx: Context | None, event: Event) -> tuple[Doing, list[str]]:
        tag, book = _tag_of(event)
        ledger = books[book]
        doing = Doing(plan, one, ledger, ctx, ledger.begin(one.name, tag, None if ctx is None else ctx.seq))
        if doing.entry.invocation % 10 == 0:
            gc.collect(1)  # what is used again, and when, may depend on what is still referred to
        if ctx is not None and ctx.worker.task is not trio.lowlevel.current_task():
            doing.wrong("its context names another worker, so it could not be aborted")
        if ctx is not None and ctx.attempt != doing.entry.attempt:
            doing.wrong(f"ctx.attempt is {ctx.attempt}")
        if isinstance(ledger.events.get(tag), InputRequestEvent):
            ledger.events[tag] = event
        if ledger.events.setdefault(tag, event) is not event:
            doing.wrong("this is a copy of the event")
        return doing, doing.acts()

    def begin_handler(event: Event, error: Exception) -> Doing:
        tag, book = _tag_of(event)
        ledger = books[book]
        doing = Doing(plan, one, ledger, None, ledger.handle(one.name, tag, error))
        doing.look_at_variable(OF_CALLER)
        return doing

    async def with_ctx(ctx: Context, ev: Event) -> Event | list[Event] | None:
        doing, acts = begin(ctx, ev)
        return await _run_async(doing, ev, acts)

    async def without_ctx(ev: Event) -> Event | list[Event] | None:
        doing, acts = begin(None, ev)
        return await _run_async(doing, ev, acts)

    def plain_with_ctx(ctx: Context, ev: Event) -> Event | list[Event] | None:
        doing, acts = begin(ctx, ev)
        return _run_plain(doing, ev, acts)

    def plain_without_ctx(ev: Event) -> Event | list[Event] | None:
        doing, acts = begin(None, ev)
        return _run_plain(doing, ev, acts)

    async def handle(ev: Event, exc: Exception) -> Event | list[Event] | None:
        doing = begin_handler(ev, exc)
        waits = ["sleep"] if doing.dice.random() < 0.5 else []
        return await _run_async_handler(doing, waits)

    def handle_plain(ev: Event, exc: Exception) -> Event | list[Event] | None:
        doing = begin_handler(ev, exc)
        return _end_handler(doing)

    if one.is_async:
        fn: Callable[..., Any] = with_ctx if one.wants_ctx else without_ctx
    else:
        fn = plain_with_ctx if one.wants_ctx else plain_without_ctx
    known: dict[int, Any] = {0: StartEvent, ANSWERS: InputResponseEvent}
    accepts: list[Any] = [known.get(layer) or CLASSES[layer - 1] for layer in one.layers]
    return step(
        name=one.name,
        accepts=accepts,
        timeout=one.timeout,
        retries=Retry(
            one.retries,
            on=Exception if one.retries_all else ValueError,
            initial=one.retry_wait,
            factor=2.0,
            jitter=0.0,
        ),
        on_error={None: None, "plain": handle_plain, "async": handle}[one.on_error],
        max_concurrency=one.limit,
        waits=[Signal] if plan.waits and one.name == "begin" else None,
        when=None if one.guard is None else lambda event: one.takes(_tag_of(event)[0]),
    )(fn)


def _end_handler(doing: Doing) -> Event | list[Event] | None:
    if doing.dice.random() < 0.1:
        doing.ended("raised", "ValueError")
        raise ValueError(f"on_error #{doing.entry.invocation}")
    result, name = doing.result()
    doing.ended("returned", name)
    return result


async def _run_async_handler(doing: Doing, acts: Sequence[str]) -> Event | list[Event] | None:
    try:
        for kind in acts:
            await doing.act(kind)
    except trio.Cancelled as error:
        return await doing.cut_off(error)
    return _end_handler(doing)


def make_workflow(plan: Plan, books: list[Ledger]) -> Workflow[Any]:
    return Workflow(
        f"seed {plan.seed}",
        [_make_step(plan, one, books) for one in plan.steps],
        timeout=plan.timeout,
        cleanup_grace=CLEANUP_GRACE,
    )
