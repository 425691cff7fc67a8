"""What one seed stands for: a workflow, and what happens to it from outside. Plain data, drawn before anything runs."""

from __future__ import annotations

import dataclasses
import random

LAYERS = 4  # events of layer n are made by steps that accept lower layers, so every run comes to an end
# Quarters add up exactly in binary, so that a wait and a deadline that should coincide do.
WAITS = (0.25, 0.25, 0.5, 0.5, 0.75, 1.0, 2.0)
TIMEOUTS = (0.25, 0.5, 1.0, 1.5)
SIGNALS = 3  # kinds of events that steps wait for in their middle


@dataclasses.dataclass(frozen=True)
class StepPlan:
    name: str
    layers: tuple[int, ...]  # what it accepts; 0 is the StartEvent
    is_async: bool
    wants_ctx: bool
    timeout: float | None
    retries: int
    retry_wait: float  # seconds before the second attempt, doubled for each one after
    retries_all: bool  # False: only after ValueError
    on_error: str | None  # "plain" or "async"
    limit: int | None
    gathers: int | None  # joins this many events
    wildness: float  # from 0 to 1: how much of what a step can do this one does
    guard: int | None = None  # takes only events whose tag leaves this remainder, divided by 2

    def takes(self, tag: int) -> bool:
        return self.guard is None or tag % 2 == self.guard


@dataclasses.dataclass(frozen=True)
class WaitPlan:
    """A wait in the middle of a step."""

    what: str  # "ask", "signal", "layer" (for events that steps accept too)
    kind: int  # of the signal, or the layer
    timeout: float | None
    when_over: str  # "catch", "raise", "default"


@dataclasses.dataclass(frozen=True)
class Outside:
    """Something done from outside of the run, after a wait."""

    wait: float | None  # seconds; None is one checkpoint
    what: str  # "send", "signal", "cancel", "cancel_step", "leave" (the caller's scope is cancelled)
    target: str = ""
    layer: int = 0


@dataclasses.dataclass(frozen=True)
class Plan:
    seed: int
    steps: tuple[StepPlan, ...]
    with_handler: bool
    runs: int  # of the same workflow, at the same time
    timeout: float | None
    outside: tuple[Outside, ...]
    stops: float  # how probably a step of the last layer returns a StopEvent
    fails: float  # how probably an attempt fails
    budget: int  # events that may be made in one run
    waits: float  # how probably an event makes a step wait in its middle
    returned_questions: bool

    def step(self, name: str) -> StepPlan:
        return next(step for step in self.steps if step.name == name)

    def takers(self, layer: int, tag: int) -> tuple[StepPlan, ...]:
        return tuple(step for step in self.steps if layer in step.layers and step.takes(tag))

    def waits_of(self, step: StepPlan, tag: int) -> tuple[WaitPlan, ...]:
        """The waits of a step at an event: in each attempt the same, as the engine demands."""
        dice = random.Random(f"waits {self.seed} {step.name} {tag}")
        if not (step.wants_ctx and step.is_async) or dice.random() >= self.waits:
            return ()
        kinds = ("ask", "ask", "signal", "layer") if self.with_handler else ("signal", "signal", "layer")
        return tuple(_wait(dice, dice.choice(kinds)) for _ in range(dice.choice((1, 1, 2, 3))))


def _wait(dice: random.Random, what: str) -> WaitPlan:
    timeout = dice.choice((None, None, None, *WAITS))
    over = dice.choice(("catch", "catch", "raise", "default" if what == "ask" else "catch"))
    return WaitPlan(what, dice.randint(1, LAYERS) if what == "layer" else dice.randrange(SIGNALS), timeout, over)


def _with_guards(dice: random.Random, steps: list[StepPlan]) -> list[StepPlan]:
    """Some steps with a guard; of each layer some step takes every event, so that none is refused by all."""
    guarded = list(steps)
    for place, step in enumerate(steps):
        others = [one for one in guarded if one is not step and one.guard is None]
        if dice.random() < 0.6 and all(any(layer in one.layers for one in others) for layer in step.layers):
            guarded[place] = dataclasses.replace(step, guard=dice.randint(0, 1))
    return guarded


def _step(dice: random.Random, name: str, layers: tuple[int, ...], calm: bool) -> StepPlan:
    is_async = dice.random() < 0.8
    retries = dice.choice((0, 0, 1, 2))
    gathers = dice.choice((2, 3, 5)) if dice.random() < 0.2 and 0 not in layers else None
    return StepPlan(
        name=name,
        layers=layers,
        is_async=is_async,
        wants_ctx=gathers is not None or dice.random() < 0.75,
        timeout=dice.choice(TIMEOUTS) if is_async and not calm and dice.random() < 0.35 else None,
        retries=retries,
        retry_wait=dice.choice((0.0, 0.25, 1.0)) if retries else 0.0,
        retries_all=dice.random() < 0.7,
        on_error=dice.choice((None, None, "plain", "async")),
        limit=dice.choice((1, 1, 2, 3)) if dice.random() < 0.3 else None,
        gathers=gathers,
        wildness=0.0 if calm else dice.random(),
    )


def _outside(dice: random.Random, steps: tuple[StepPlan, ...], with_handler: bool) -> tuple[Outside, ...]:
    acts = []
    for _ in range(dice.choice((0, 0, 1, 1, 2, 4))):
        wait = dice.choice((*WAITS, None, None))
        what = (
            dice.choice(("send", "send", "signal", "signal", "cancel_step", "cancel_step", "cancel", "leave"))
            if with_handler
            else "leave"
        )
        acts.append(Outside(wait, what, target=dice.choice(steps).name, layer=dice.randint(1, LAYERS)))
    return tuple(acts)


def draw(seed: int) -> Plan:
    """The plan that belongs to `seed`; the same one each time."""
    dice = random.Random(f"plan {seed}")
    calm = dice.random() < 0.25  # nothing waits long or is cut off: such runs show best whether anything was lost
    steps = [_step(dice, "begin", (0,), calm)]
    for layer in range(1, LAYERS + 1):
        for copy in range(dice.choice((1, 1, 1, 2))):
            also = (dice.randint(1, LAYERS),) if dice.random() < 0.2 else ()
            steps.append(_step(dice, f"layer{layer}_{copy}", tuple(sorted({layer, *also})), calm))
    with_handler = dice.random() < 0.6
    steps = _with_guards(dice, steps)
    returned_questions = with_handler and dice.random() < 0.3
    if returned_questions:
        steps.append(_step(dice, "answered", (LAYERS + 1,), calm))
    finished = tuple(steps)
    return Plan(
        seed=seed,
        steps=finished,
        with_handler=with_handler,
        runs=2 if dice.random() < 0.1 else 1,
        timeout=dice.choice((0.5, 1.0, 2.0, 5.0)) if not calm and dice.random() < 0.25 else None,
        outside=() if calm and dice.random() < 0.7 else _outside(dice, finished, with_handler),
        stops=dice.choice((0.0, 0.05, 0.3)),
        fails=0.0 if calm else dice.choice((0.0, 0.05, 0.2, 0.5)),
        budget=dice.choice((10, 40, 40, 120)),
        waits=dice.choice((0.0, 0.0, 0.3, 0.7)),
        returned_questions=returned_questions,
    )


def dice_for(plan: Plan, step: str, tag: int, attempt: int) -> random.Random:
    """What decides the behaviour of one attempt: it does not depend on what else goes on."""
    return random.Random(f"{plan.seed} {step} {tag} {attempt}")
