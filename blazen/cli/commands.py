"""The commands and their options, and how each way of failing ends."""

from __future__ import annotations

import errno
import os
import sys
import traceback
from collections.abc import Sequence
from typing import Any

import click
import click.shell_completion

import blazen
from blazen.cli import help_texts, messages
from blazen.cli.messages import Mistake, Traceback, say
from blazen.cli.output import Output, ReaderGone
from blazen.cli.runs_commands import runs
from blazen.cli.targets import ImportFailed, load_workflow

_SHELLS = ("bash", "zsh", "fish")


def _complete_files(
    ctx: click.Context, param: click.Parameter, incomplete: str
) -> list[click.shell_completion.CompletionItem]:
    """Leave it to the shell, which knows the files; what is in a module only an import would tell."""
    return [click.shell_completion.CompletionItem(incomplete, type="file")]


@click.group(
    invoke_without_command=True,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
)
@click.version_option(blazen.__version__, message="blazen %(version)s")
@click.pass_context
def cli(ctx: click.Context) -> None:
    """Run, draw and check workflows.

    A workflow is named by its module and its name there, greetings:greeter, or by a file, path/to/greetings.py:greeter.
    The current directory is importable. If the module has only one workflow, its name can be left out.
    """
    if ctx.invoked_subcommand is None:
        click.echo(ctx.get_help())


@cli.command(help=help_texts.RUN, short_help="Run a workflow and show how it goes.")
@click.argument("target", shell_complete=_complete_files, metavar="TARGET")
@click.option("-i", "--input", "given", metavar="JSON", help="The input: JSON, @file.json, or - for standard input.")
@click.option("--timeout", type=float, metavar="SECONDS", help="How long the run may take.")
@click.option("--run-id", metavar="UUID", help="The id of the run, instead of a new one.")
@click.option(
    "--answer", "answers", multiple=True, metavar="TEXT", help="Answer a question of the run; again for more."
)
@click.option("--json/--no-json", "as_json", default=None, help="Lines of JSON, or the result alone.")
@click.option("--record", metavar="FILE", help="Write the record of the run, for `blazen view`.")
@click.option(
    "--traceback",
    "kind",
    type=click.Choice(["short", "full"]),
    default="short",
    show_default=True,
    help="Tracebacks of your code, or also the way through blazen.",
)
def run(
    target: str,
    given: str | None,
    timeout: float | None,
    run_id: str | None,
    answers: tuple[str, ...],
    as_json: bool | None,
    record: str | None,
    kind: Traceback,
) -> int:
    """Run a workflow."""
    from blazen.cli.inputs import read_input
    from blazen.cli.running import RunOptions, run_workflow

    data = None if given is None else read_input(given)
    output = Output()
    workflow = load_workflow(target, kind)
    options = RunOptions(
        input=data,
        timeout=timeout,
        run_id=run_id,
        json=as_json,
        answers=answers,
        record=record,
        traceback=kind,
    )
    return run_workflow(workflow, options, output)


@cli.command(help=help_texts.GRAPH, short_help="Print a picture of a workflow.")
@click.argument("target", shell_complete=_complete_files, metavar="TARGET")
@click.option(
    "-f",
    "--format",
    "form",
    type=click.Choice(["mermaid", "dot", "json"]),
    default="mermaid",
    show_default=True,
    help="What to print.",
)
def graph(target: str, form: str) -> int:
    """Print a picture of a workflow."""
    import json

    output = Output()
    picture = load_workflow(target).graph
    if form == "json":
        text = json.dumps(picture.describe(), indent=2, ensure_ascii=False) + "\n"
    else:
        text = picture.to_mermaid() if form == "mermaid" else picture.to_dot()
    output.write(text)
    return messages.DONE


@cli.command(help=help_texts.CHECK, short_help="Check that workflows fit together.")
@click.argument("targets", shell_complete=_complete_files, metavar="TARGET...", nargs=-1, required=True)
@click.option("--against", metavar="STORE", help="Also: can they go on with the unfinished runs of this store?")
@click.option("--trust-native", is_flag=True, help="Pickles in that store may be loaded.")
def check(targets: tuple[str, ...], against: str | None, trust_native: bool) -> int:
    """Check workflows without running them."""
    if against is not None:
        from blazen.cli.against import check_against

        return check_against(targets, against, Output(), trust_native=trust_native)
    from blazen.cli.checking import check_targets

    return check_targets(targets, Output())


@cli.command(help=help_texts.VIEW, short_help="Make a page of the record of a run.")
@click.argument("record", type=click.Path(), metavar="RECORD")
@click.option("-o", "--output", "page", metavar="FILE", help="Where to write it; by default beside the record.")
def view(record: str, page: str | None) -> int:
    """Make a page of the record of a run."""
    from blazen.cli.viewing import write_page

    path = write_page(record, page)
    Output().write(f"{path}\n")
    return messages.DONE


cli.add_command(runs)


@cli.command(help=help_texts.COMPLETION, short_help="Print the completion script of a shell.")
@click.argument("shell", type=click.Choice(_SHELLS))
def completion(shell: str) -> int:
    """Print the completion script of a shell."""
    kind = click.shell_completion.get_completion_class(shell)
    assert kind is not None
    script = kind(cli, {}, "blazen", "_BLAZEN_COMPLETE")
    # Not `script.source()`: for bash that starts a bash to look at its version.
    Output().write(script.source_template % script.source_vars() + "\n")
    return messages.DONE


def execute(arguments: Sequence[str] | None = None) -> int:
    """Run the command; every way of failing becomes a message and an exit code here.

    Raises:
        SystemExit: A step called ``sys.exit``; or a shell asked for completions.
    """
    try:
        code: Any = cli.main(
            args=None if arguments is None else list(arguments), prog_name="blazen", standalone_mode=False
        )
        if sys.stdout is not None:
            sys.stdout.flush()
    except click.UsageError as error:
        path = error.ctx.command_path if error.ctx is not None else "blazen"
        say(f"{path}: {messages.one_line(error.format_message()).rstrip('.')} (see {path} --help)")
        return messages.MISTAKE
    except click.ClickException as error:
        say(f"blazen: {messages.one_line(error.format_message())}")
        return messages.MISTAKE
    except ImportFailed as error:
        say(error.traceback.rstrip("\n"))
        say(f"{_command()}: {messages.one_line(str(error))}")
        return messages.MISTAKE
    except Mistake as error:
        say(f"{_command()}: {messages.one_line(str(error))}")
        return messages.MISTAKE
    except (KeyboardInterrupt, click.Abort):
        say(f"{_command()}: interrupted")
        return messages.INTERRUPTED
    except (ReaderGone, BrokenPipeError):
        _forget_stdout()
        return messages.BROKEN_PIPE
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EDQUOT, errno.EIO):
            return _fault(error)
        _forget_stdout()  # click's own: of a help text, say; `Output` tells of what is written by us
        say(f"{_command()}: standard output cannot be written: {error.strerror}")
        return messages.MISTAKE
    except Exception as error:
        return _fault(error)
    return code if isinstance(code, int) else messages.DONE


def _fault(error: Exception) -> int:
    say("".join(traceback.format_exception(error)).rstrip("\n"))
    say(f"{_command()}: this is a fault of blazen {blazen.__version__}; please report it with the lines above")
    return messages.FAULT


def _command() -> str:
    """The command that was called, as messages begin with it."""
    called = [word for word in sys.argv[1:2] if word in cli.commands]
    return " ".join(["blazen", *called])


def _forget_stdout() -> None:
    """Keep Python from writing to a pipe that nobody reads when it ends."""
    if sys.stdout is not None:
        null = os.open(os.devnull, os.O_WRONLY)
        os.dup2(null, sys.stdout.fileno())
        os.close(null)
