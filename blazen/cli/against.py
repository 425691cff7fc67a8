"""``blazen check --against``: whether workflows can go on with the unfinished runs of a store."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from blazen import SqliteStore, Workflow
from blazen.cli import messages
from blazen.cli.checking import check_targets
from blazen.cli.messages import one_line, say
from blazen.cli.output import Output
from blazen.cli.stores import opened
from blazen.durability.fitting import misfit, unfinished


def check_against(targets: Sequence[str], path: str, output: Output, *, trust_native: bool) -> int:
    """Check what the targets name, then every unfinished run of a store that is of one of them.

    Returns:
        The exit code: that of a mistake if there was one, else that of a failure if a workflow does not fit together or
        a run does not fit its workflow.
    """
    found: list[Workflow[Any]] = []
    worst = check_targets(targets, output, found.append)
    if worst == messages.MISTAKE:
        return worst

    async def act(store: SqliteStore) -> int:
        return max(worst, await _check_runs(store, found, output))

    return opened(path, act, trust_native=trust_native)


async def _check_runs(store: SqliteStore, workflows: Sequence[Workflow[Any]], output: Output) -> int:
    by_name = {workflow.name: workflow for workflow in workflows}
    fit = 0
    misfits = 0
    others: dict[str, int] = {}
    for info in await unfinished(store):
        workflow = by_name.get(info.workflow)
        if workflow is None:
            others[info.workflow] = others.get(info.workflow, 0) + 1
            continue
        why = await misfit(store, workflow, info.run_id)
        if why is None:
            fit += 1
        else:
            misfits += 1
            output.write(f"FAILED  run {info.run_id}, which is {info.state}: {one_line(why)}\n")
    output.write(f"{'FAILED' if misfits else 'ok':<6}  {store.path}: {fit} unfinished runs fit, {misfits} do not\n")
    for name, number in sorted(others.items()):
        say(f"blazen check: {number} unfinished run{'s' * (number != 1)} of workflow {name!r}, which was not named")
    return messages.FAILED if misfits else messages.DONE
