"""``blazen check``: workflows are checked when they are built, so to check one is to import its module."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

from blazen import Workflow
from blazen.cli import messages
from blazen.cli.messages import Mistake, say
from blazen.cli.output import Output
from blazen.cli.targets import (
    ImportFailed,
    Target,
    find_workflow,
    load_module,
    no_workflow_in,
    parse_target,
    workflows_of,
)
from blazen.errors import ValidationError


def check_targets(
    targets: Iterable[str], output: Output, found: Callable[[Workflow[Any]], object] = lambda _: None
) -> int:
    """Check what the targets name, all of it, and write a line for each workflow; `found` is called with each.

    Returns:
        The exit code: that of a mistake if there was one, else that of a failure if there was one.
    """
    worst = messages.DONE
    for text in targets:
        try:
            code = _check(parse_target(text), output, found)
        except ImportFailed as failure:
            say(failure.traceback.rstrip("\n"))
            say(f"blazen check: {messages.one_line(str(failure))}")
            code = messages.MISTAKE
        except Mistake as mistake:
            say(f"blazen check: {messages.one_line(str(mistake))}")
            code = messages.MISTAKE
        worst = max(worst, code)
    return worst


def _check(target: Target, output: Output, found: Callable[[Workflow[Any]], object]) -> int:
    try:
        module = load_module(target)
    except ImportFailed as failure:
        if not isinstance(failure.error, ValidationError):
            raise
        place = messages.last_place(failure.error.__traceback__)
        where = "" if place is None else f" ({place})"
        output.write(f"FAILED  {target.text}: {messages.one_line(str(failure.error))}{where}\n")
        return messages.FAILED
    if target.attribute is not None:
        workflow = find_workflow(target, module)
        _write_line(output, target.text, workflow)
        found(workflow)
        return messages.DONE
    workflows = workflows_of(module)
    if not workflows:
        raise Mistake(no_workflow_in(target))
    for name, workflow in workflows.items():
        _write_line(output, f"{target.source}:{name}", workflow)
        found(workflow)
    return messages.DONE


def _write_line(output: Output, text: str, workflow: Workflow[Any]) -> None:
    graph = workflow.graph
    steps, events = len(graph.specs), len(graph.event_classes)
    output.write(
        f"ok      {messages.one_line(text)}: workflow {workflow.name!r}, {steps} step{'s' * (steps != 1)}, "
        f"{events} event class{'es' * (events != 1)}\n"
    )
