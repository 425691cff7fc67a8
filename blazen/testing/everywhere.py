"""A workflow that is run again and again, each time with a cancellation or a fault at another of its checkpoints."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, TypeVar

import msgspec

from blazen._core.router import Router
from blazen.errors import ValidationError
from blazen.retry import show
from blazen.steps import StepSpec
from blazen.testing.answers import Answerer, Answers
from blazen.testing.checkpoints import WAITS, Canceller, Checkpoint, Prober, Saboteur
from blazen.testing.scheduling import check_seed, refuse_inside_trio
from blazen.testing.trial import Check, RunOutcome, explain, run_trial, workflow_of
from blazen.workflow import Workflow

AnyWorkflow = Workflow[Any] | Callable[[], Workflow[Any]]
_P = TypeVar("_P", bound=Prober)


class InjectedFault(Exception):
    """What `fail_everywhere` raises unless told otherwise."""


def cancel_everywhere(
    workflow: AnyWorkflow,
    input: Any = None,
    *,
    check: Check | None = None,
    steps: Sequence[str] | None = None,
    only: int | None = None,
    most: int = 1000,
    seed: int = 0,
    answers: Answers | None = None,
) -> list[Checkpoint]:
    """Run a workflow again and again, and cancel it at its first checkpoint, its second, its third ... until the last.

    First it is run undisturbed, to see that it completes. Then whoever called it is cancelled at one checkpoint after
    the other: while a step waits, and once more when what it waited for has come and it is about to go on, so that the
    next checkpoint of any kind raises. Each run has a loop of its own, the same schedule, and virtual time, so the
    checkpoints are the same ones each time; with work in threads they may differ. For a plain `def` test.

    Args:
        workflow: A workflow; or a function that makes one, called for each run, where steps share something that must
            be new each time.
        input: As of `Workflow.run`; the same object each time.
        check: Called with the `RunOutcome` of each run, the undisturbed one included, in its loop; it raises if
            something is not as it must be, or returns False. May be async. Without it, a run must not fail, and no
            step may raise while it is stopped.
        steps: Only checkpoints of these steps.
        only: Only the checkpoint of this number, to replay a failure.
        most: How many runs there may be.
        seed: Of the schedule.
        answers: What the run is answered when it asks: a dict of prompt and answer, a list in the order of the
            questions (of each run), or a function of the `InputRequestEvent`. `UNANSWERED` in the place of an answer
            leaves a question open. With answers the run has a handler, as one that asks must have.
    Returns:
        The checkpoints at which it was cancelled.
    Raises:
        AssertionError: Of `check`, or what is said there; a note names the step and the line, and how to replay it.
        ValidationError: Steps are named that are not there, no step waits anywhere, there are more than `most`
            checkpoints, something is asked that `answers` has no answer to, or a trio loop runs in this thread.
        Exception: What the undisturbed run fails with.
    """
    return _at_each(
        "cancel_everywhere",
        workflow,
        input,
        lambda made, names, number: (made, Canceller(names, number)),
        check=_stopped_cleanly if check is None else check,
        steps=steps,
        only=only,
        most=most,
        seed=seed,
        answers=answers,
    )


def fail_everywhere(
    workflow: AnyWorkflow,
    input: Any = None,
    *,
    error: Exception | type[Exception] | Callable[[], Exception] = InjectedFault,
    check: Check | None = None,
    steps: Sequence[str] | None = None,
    only: int | None = None,
    most: int = 1000,
    seed: int = 0,
    answers: Answers | None = None,
) -> list[Checkpoint]:
    """Run a workflow again and again, and have another step call, or another wait in a step, raise each time.

    First it is run undisturbed, to see that it completes. Then the first call of a step raises instead of running it,
    then the first wait inside of a step, and so on, in the order in which the run comes to them. What a step retries or
    handles does not fail the run. For a plain `def` test.

    Args:
        workflow: As of `cancel_everywhere`.
        input: As of `cancel_everywhere`.
        error: What is raised: an exception, its class, or a function that makes it.
        check: As of `cancel_everywhere`. Without it, a run must complete, or fail with what was raised as a cause.
        steps: Only calls of and waits in these steps.
        only: As of `cancel_everywhere`.
        most: As of `cancel_everywhere`.
        seed: As of `cancel_everywhere`.
        answers: As of `cancel_everywhere`.
    Returns:
        The checkpoints at which something was raised.
    Raises:
        AssertionError: As of `cancel_everywhere`.
        ValidationError: As of `cancel_everywhere`; or `error` is no exception.
        Exception: As of `cancel_everywhere`.
    """
    if not isinstance(error, Exception) and not callable(error):
        raise ValidationError(f"fail_everywhere: error must be an exception or make one, got {show(error)}")

    def make_error(checkpoint: Checkpoint) -> Exception:
        if error is InjectedFault:
            return InjectedFault(str(checkpoint))
        made = error.with_traceback(None) if isinstance(error, Exception) else error()
        if not isinstance(made, Exception):
            raise ValidationError(f"fail_everywhere: error must be an exception or make one, it made {show(made)}")
        return made

    def prepare(made: Workflow[Any], names: frozenset[str] | None, number: int | None) -> tuple[Workflow[Any], Prober]:
        saboteur = Saboteur(names, number, make_error)
        current.append(saboteur)
        return _with_calls_seen(made, saboteur), saboteur

    def judge(outcome: RunOutcome) -> None:
        fault = current[-1].error
        if outcome.error is not None and not _leads_to(outcome.error, fault):
            raise AssertionError(f"the run failed with something else: {outcome.error!r}") from outcome.error

    make_error(Checkpoint(1, WAITS, "", 1, "", 0))  # for what it refuses
    current: list[Saboteur] = []
    return _at_each(
        "fail_everywhere",
        workflow,
        input,
        prepare,
        check=judge if check is None else check,
        steps=steps,
        only=only,
        most=most,
        seed=seed,
        answers=answers,
    )


def _at_each(
    call: str,
    workflow: AnyWorkflow,
    input: Any,
    prepare: Callable[[Workflow[Any], frozenset[str] | None, int | None], tuple[Workflow[Any], Prober]],
    *,
    check: Check,
    steps: Sequence[str] | None,
    only: int | None,
    most: int,
    seed: int,
    answers: Answers | None,
) -> list[Checkpoint]:
    refuse_inside_trio(call)
    check_seed(seed)
    for name, value in (("most", most), ("only", only)):
        if value is not None and (isinstance(value, bool) or not isinstance(value, int) or value < 1):
            raise ValidationError(f"{call}: {name} must be an int, 1 or more, got {show(value)}")
    made = workflow_of(call, workflow)
    names = None if steps is None else _check_steps(call, made, steps)

    made, prober = prepare(made, names, None)
    try:
        run_trial(made, input, prober=prober, answerer=Answerer(call, answers), check=_once_completed(check), seed=seed)
    except Exception as exc:
        explain(exc, f"{call}: this is the run that nothing was done to")
        raise
    expected = prober.count
    if not expected:
        whose = "no step" if names is None else f"none of the steps {', '.join(sorted(names))}"
        raise ValidationError(f"{call}: {whose} of workflow {made.name!r} waits for anything, so nothing can be tried")
    if expected > most and only is None:
        raise ValidationError(
            f"{call}: a run of workflow {made.name!r} has {expected} checkpoints, more than most={most}: name the "
            "steps that matter with steps=[...], give a smaller input, or raise most"
        )
    reached: list[Checkpoint] = []
    number = 1 if only is None else only
    while True:
        made, prober = prepare(workflow_of(call, workflow), names, number)
        try:
            run_trial(
                made, input, prober=prober, answerer=Answerer(call, answers), check=_once_disturbed(check), seed=seed
            )
        except Exception as exc:
            if prober.reached is not None:
                explain(
                    exc,
                    f"{call}: checkpoint {number} of {expected}: {prober.reached}; replay with only={number}",
                )
            raise
        if prober.reached is None:
            break
        reached.append(prober.reached)
        if only is not None or number == most:  # work in threads may add some to what was counted
            break
        number += 1
    if only is not None and not reached:
        raise ValidationError(f"{call}: only={only}, and a run of workflow {made.name!r} has {expected} checkpoints")
    return reached


def _once_completed(check: Check) -> Check:
    """The undisturbed run has to complete, before anybody looks at what it did."""

    async def both(outcome: RunOutcome) -> object:
        if outcome.error is not None:
            raise outcome.error
        verdict: Any = check(outcome)
        return await verdict if hasattr(verdict, "__await__") else verdict

    return both


def _once_disturbed(check: Check) -> Check:
    """The last run comes to no checkpoint any more; it is the undisturbed one again."""
    return lambda outcome: None if outcome.checkpoint is None else check(outcome)


def _stopped_cleanly(outcome: RunOutcome) -> None:
    if outcome.how == "failed":
        raise AssertionError(f"the run was cancelled and failed: {outcome.error!r}") from outcome.error
    for error in outcome.suppressed:
        raise AssertionError(f"a step raised while it was stopped: {error!r}") from error


def _check_steps(call: str, workflow: Workflow[Any], steps: Sequence[str]) -> frozenset[str]:
    known = [spec.name for spec in workflow.graph.specs]
    if isinstance(steps, str) or not isinstance(steps, Sequence) or not steps:
        raise ValidationError(f"{call}: steps must be a list of names of steps, got {show(steps)}")
    for name in steps:
        if name not in known:
            raise ValidationError(
                f"{call}: workflow {workflow.name!r} has no step {show(name)}; it has {', '.join(known)}"
            )
    return frozenset(steps)


def _with_calls_seen(workflow: Workflow[Any], saboteur: Saboteur) -> Workflow[Any]:
    """A copy of the workflow that tells the saboteur of each call of a step."""
    specs = tuple(
        _with_call_seen(info.spec, info.timeout, info.has_timeout, saboteur) for info in workflow._router.steps
    )
    copy = workflow.options()
    copy._graph = msgspec.structs.replace(workflow.graph, specs=specs)
    copy._router = Router(copy._graph)
    copy._guarded = False
    return copy


def _with_call_seen(spec: StepSpec, timeout: float, has_timeout: bool, saboteur: Saboteur) -> StepSpec:
    fn, name = spec.fn, spec.name
    if has_timeout:  # it may be the workflow's, which the copy would not know
        spec = msgspec.structs.replace(spec, timeout=timeout)
    if spec.run == "process":  # its function is called elsewhere; `TriedRun` tells of it
        return spec

    def seen(*arguments: Any) -> Any:
        saboteur.call(name, fn)
        return fn(*arguments)

    async def seen_async(*arguments: Any) -> Any:
        saboteur.call(name, fn)
        return await fn(*arguments)

    return msgspec.structs.replace(spec, fn=seen_async if spec.is_async else seen)


def _leads_to(error: BaseException, fault: BaseException | None) -> bool:
    """Whether `fault` is among the causes of `error`, in groups too."""
    seen: set[int] = set()
    left: list[BaseException | None] = [error]
    while left:
        one = left.pop()
        if one is None or id(one) in seen:
            continue
        if one is fault:
            return True
        seen.add(id(one))
        left += [one.__cause__, one.__context__]
        if isinstance(one, BaseExceptionGroup):
            left += one.exceptions
    return False
