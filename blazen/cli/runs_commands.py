"""``blazen runs``: its commands and their options."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

from blazen.cli import help_texts

if TYPE_CHECKING:
    from collections.abc import Callable

    from blazen.cli.runs import OpenStore

_STATES = ("running", "waiting", "paused", "completed", "failed", "cancelled")
_JSON = click.option("--json", "as_json", is_flag=True, help="Lines of JSON instead of text.")


@click.group(help=help_texts.RUNS, short_help="List, answer and steer the runs of a store.")
@click.option("-s", "--store", metavar="FILE", envvar="BLAZEN_STORE", help="The file of the store; or BLAZEN_STORE.")
@click.pass_context
def runs(ctx: click.Context, store: str | None) -> None:
    """List, answer and steer the runs of a store."""
    ctx.obj = store


def _in_store(ctx: click.Context, act: Callable[[OpenStore], Any]) -> int:
    from blazen.cli.runs import in_store

    return in_store(ctx.obj, act)


@runs.command("list", help=help_texts.RUNS_LIST, short_help="List runs, newest first.")
@click.option("--workflow", metavar="NAME", help="Only runs of this workflow.")
@click.option(
    "--state", "states", multiple=True, type=click.Choice(_STATES), help="Only in this state; again for more."
)
@click.option("--stranded", is_flag=True, help="Only runs that are unfinished and that no live process owns.")
@click.option("--since", type=float, metavar="HOURS", help="Only runs created in the last HOURS.")
@click.option("--limit", type=click.IntRange(1), metavar="N", help="At most N runs.")
@_JSON
@click.pass_context
def list_(
    ctx: click.Context,
    workflow: str | None,
    states: tuple[str, ...],
    stranded: bool,
    since: float | None,
    limit: int | None,
    as_json: bool,
) -> int:
    """List runs."""
    return _in_store(
        ctx,
        lambda store: store.list_runs(
            workflow=workflow, states=states, stranded=stranded, since=since, limit=limit, as_json=as_json
        ),
    )


@runs.command(help=help_texts.RUNS_SHOW, short_help="Show one run, its questions and what is wanted of it.")
@click.argument("run")
@_JSON
@click.pass_context
def show(ctx: click.Context, run: str, as_json: bool) -> int:
    """Show one run."""
    return _in_store(ctx, lambda store: store.show(run, as_json=as_json))


@runs.command(short_help="Print what a run has written to its stream.")
@click.argument("run")
@click.option(
    "--from", "start", type=click.IntRange(0), default=0, metavar="N", help="Begin with item N; 0 is the first."
)
@_JSON
@click.pass_context
def events(ctx: click.Context, run: str, start: int, as_json: bool) -> int:
    """Print the items of a run's stream, as far as they are written."""
    return _in_store(ctx, lambda store: store.events(run, start, as_json=as_json))


@runs.command(help=help_texts.RUNS_ANSWER, short_help="Answer an open question.")
@click.argument("question")
@click.argument("text", required=False)
@click.option("--value", metavar="JSON", help="The answer as JSON, instead of TEXT.")
@click.pass_context
def answer(ctx: click.Context, question: str, text: str | None, value: str | None) -> int:
    """Answer an open question."""
    return _in_store(ctx, lambda store: store.answer(question, text, value))


@runs.command(short_help="Pause a run.")
@click.argument("run")
@click.pass_context
def pause(ctx: click.Context, run: str) -> int:
    """Have a run pause, wherever it is, and stay in the store until it is resumed."""
    return _in_store(ctx, lambda store: store.pause(run))


@runs.command(short_help="Let a paused run go on.")
@click.argument("run")
@click.pass_context
def resume(ctx: click.Context, run: str) -> int:
    """Let a paused run go on: where it is, or with the next `serve` or `recover`."""
    return _in_store(ctx, lambda store: store.resume(run))


@runs.command(short_help="Cancel a run.")
@click.argument("run")
@click.option("--reason", metavar="TEXT", help="What the run says it was cancelled for.")
@click.pass_context
def cancel(ctx: click.Context, run: str, reason: str | None) -> int:
    """Have a run end as cancelled, wherever it is."""
    return _in_store(ctx, lambda store: store.cancel(run, reason))


@runs.command(help=help_texts.RUNS_RECOVER, short_help="Go on with the runs that nobody goes on with.")
@click.argument("targets", metavar="TARGET...", nargs=-1, required=True)
@_JSON
@click.pass_context
def recover(ctx: click.Context, targets: tuple[str, ...], as_json: bool) -> int:
    """Go on with the runs of some workflows."""
    return _in_store(ctx, lambda store: store.recover(targets, as_json=as_json))


@runs.command(short_help="Remove runs from the store.")
@click.argument("runs", metavar="RUN...", nargs=-1, required=True)
@click.option("--unfinished", is_flag=True, help="Also runs that have not ended.")
@click.pass_context
def delete(ctx: click.Context, runs: tuple[str, ...], unfinished: bool) -> int:
    """Remove runs, and all that belongs to them. A run that a live process owns stays: cancel it first."""
    return _in_store(ctx, lambda store: store.delete(runs, unfinished=unfinished))
