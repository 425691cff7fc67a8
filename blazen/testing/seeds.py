"""A workflow under many schedules."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from blazen.errors import ValidationError
from blazen.retry import show
from blazen.testing.answers import Answerer, Answers
from blazen.testing.checkpoints import Prober
from blazen.testing.everywhere import AnyWorkflow
from blazen.testing.scheduling import check_seed, refuse_inside_trio
from blazen.testing.trial import Check, RunOutcome, explain, run_trial, workflow_of


def run_seeds(
    workflow: AnyWorkflow,
    input: Any = None,
    *,
    seeds: Iterable[int] = range(100),
    check: Check | None = None,
    answers: Answers | None = None,
) -> list[RunOutcome]:
    """Run a workflow once per seed: each gives another order of the steps that are ready at the same time.

    Each run has a trio loop of its own, and virtual time. A failure names its seed, which repeats it. For a plain `def`
    test.

    Args:
        workflow: A workflow; or a function that makes one, called for each run.
        input: As of `Workflow.run`; the same object each time.
        seeds: Ints.
        check: Called with the `RunOutcome` of each run, in its loop; it raises if something is not as it must be, or
            returns False. May be async. Without it, a run that does not complete raises what it failed with.
        answers: As of `cancel_everywhere`; by prompt, since the order in which steps ask may depend on the seed.
    Returns:
        The outcomes, in the order of the seeds.
    Raises:
        AssertionError: Of `check`; or a run does not end. A note names the seed and how to replay it.
        ValidationError: There are no seeds, one is no int, something is asked that `answers` has no answer to, or a
            trio loop runs in this thread.
        Exception: What a run fails with, where there is no `check`; with the same note.
    """
    refuse_inside_trio("run_seeds")
    if isinstance(seeds, str | bytes) or not isinstance(seeds, Iterable):
        raise ValidationError(f"run_seeds: seeds must be ints, such as range(100), got {show(seeds)}")
    outcomes = []
    for seed in seeds:
        check_seed(seed)
        made = workflow_of("run_seeds", workflow)
        try:
            answerer = Answerer("run_seeds", answers)
            outcomes.append(
                run_trial(made, input, prober=Prober(), answerer=answerer, check=check or _completed, seed=seed)
            )
        except Exception as exc:
            explain(exc, f"run_seeds: seed {seed}; replay with run_seeds(..., seeds=[{seed}])")
            raise
    if not outcomes:
        raise ValidationError("run_seeds: there are no seeds, so nothing was run")
    return outcomes


def _completed(outcome: RunOutcome) -> None:
    if outcome.error is not None:
        raise outcome.error
