"""``blazen runs``: looking at the runs of a store, and steering them from another process."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from command import PATIENCE, blazen, environment, lines_of

pytest.importorskip("click", reason="the command line needs the extra blazen[cli]")
pytest.importorskip("rich", reason="the command line needs the extra blazen[cli]")

FLOWS = """
import sys

import trio

from blazen import (
    Context, InputRequestEvent, InputResponseEvent, ProgressEvent, SqliteStore, StartEvent, StopEvent, Workflow, step,
)

UUID = "00000000-0000-4000-8000-00000000000%s"


@step
async def propose(ctx: Context, ev: StartEvent) -> InputRequestEvent:
    ctx.write_event_to_stream(ProgressEvent(1, 2, label="proposed"))
    return InputRequestEvent(prompt="Buy\\tit?", metadata={"price": 7})


@step
async def decide(ev: InputResponseEvent) -> StopEvent:
    return StopEvent(result={"bought": ev.response})


buying = Workflow("buying", [propose, decide])


@step
async def count(ctx: Context, ev: StartEvent) -> StopEvent:
    number = await ctx.request_input("How many?", schema=int)
    return StopEvent(result=number * 2)


counting = Workflow("counting", [count])


@step
async def fail(ev: StartEvent) -> StopEvent:
    raise ValueError("no luck")


failing = Workflow("failing", [fail])


async def begin(store, workflow, number):
    try:
        async with workflow.options(store=store, run_id=UUID % number).run_with_handler() as handler:
            if workflow is failing:
                await handler.result()
            while not await store.questions(handler.run_id):
                await trio.sleep(0.001)
    except BaseException as error:
        if workflow is not failing:
            raise


async def make(path):
    with SqliteStore(path) as store:
        await begin(store, buying, 1)
        await begin(store, counting, 2)
        await begin(store, failing, 3)


async def live(path):
    with SqliteStore(path) as store:
        async with buying.options(store=store, run_id=UUID % 4).run_with_handler() as handler:
            while not await store.questions(handler.run_id):
                await trio.sleep(0.001)
            print("waiting", flush=True)
            try:
                await handler.result()
            finally:
                print(handler.state, flush=True)


if __name__ == "__main__":
    trio.run({"make": make, "live": live}[sys.argv[1]], "runs.db")
"""
BUYING, COUNTING, FAILING, LIVE = (f"00000000-0000-4000-8000-00000000000{number}" for number in (1, 2, 3, 4))


def script(folder: Path, part: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "flows.py", part],
        cwd=folder,
        env=environment(),
        stdout=subprocess.PIPE,
        encoding="utf-8",
    )


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A folder with a store: a run that waits for an answer, one that waits for a number, and one that has failed."""
    (tmp_path / "flows.py").write_text(FLOWS, encoding="utf-8")
    maker = script(tmp_path, "make")
    maker.communicate(timeout=PATIENCE)
    assert maker.returncode == 0
    return tmp_path


@pytest.fixture
def live(folder: Path) -> Iterator[subprocess.Popen[str]]:
    """A process with a run that waits."""
    process = script(folder, "live")
    try:
        assert process.stdout is not None
        assert process.stdout.readline() == "waiting\n"
        yield process
    finally:
        process.kill()
        process.communicate()


def runs(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    return blazen("runs", *arguments, cwd=folder, BLAZEN_STORE="runs.db")


def output(folder: Path, *arguments: str) -> str:
    done = runs(folder, *arguments)
    assert (done.returncode, done.stderr) == (0, ""), done.stderr
    return done.stdout


def said(folder: Path, *arguments: str) -> str:
    """What a command that writes nothing says."""
    done = runs(folder, *arguments)
    assert (done.returncode, done.stdout) == (0, ""), done.stderr
    return done.stderr


def refusal(folder: Path, *arguments: str) -> str:
    done = runs(folder, *arguments)
    assert (done.returncode, done.stdout) == (2, ""), done.stdout
    assert done.stderr.count("\n") == 1
    return done.stderr


def shown(folder: Path, run: str) -> dict[str, Any]:
    return json.loads(output(folder, "show", run, "--json"))  # type: ignore[no-any-return]


def question_of(folder: Path, run: str) -> str:
    return str(shown(folder, run)["questions"][0]["request_id"])


# --- looking


def test_runs_are_listed_newest_first(folder: Path) -> None:
    head, *lines = output(folder, "list").splitlines()
    assert head.split() == ["RUN", "WORKFLOW", "VERSION", "STATE", "CREATED", "WRITTEN"]
    assert [line.split()[:4] for line in lines] == [
        [FAILING, "failing", "1", "failed"],
        [COUNTING, "counting", "1", "waiting"],
        [BUYING, "buying", "1", "waiting"],
    ]
    assert "no luck" in lines[0]
    assert "1 open question" in lines[2]


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ([], [FAILING, COUNTING, BUYING]),
        (["--workflow", "buying"], [BUYING]),
        (["--state", "waiting"], [COUNTING, BUYING]),
        (["--state", "waiting", "--state", "failed", "--limit", "2"], [FAILING, COUNTING]),
        (["--stranded"], [COUNTING, BUYING]),
        (["--stranded", "--limit", "1"], [COUNTING]),
        (["--since", "1"], [FAILING, COUNTING, BUYING]),
        (["--since", "0"], []),
    ],
)
def test_the_list_is_of_what_was_asked_for(folder: Path, options: list[str], expected: list[str]) -> None:
    done = runs(folder, "list", "--json", *options)
    assert done.returncode == 0, done.stderr
    assert [line["run_id"] for line in lines_of(done.stdout)] == expected


def test_an_empty_list_says_so(folder: Path) -> None:
    assert said(folder, "list", "--workflow", "none") == "no runs\n"


def test_one_run_is_shown_with_its_questions(folder: Path) -> None:
    text = output(folder, "show", BUYING)
    assert f"run       {BUYING}\n" in text
    assert "question  " + question_of(folder, BUYING) + ": Buy it?\n" in text
    assert 'metadata {"price": 7}' in text
    found = shown(folder, COUNTING)
    assert (found["workflow"], found["state"], found["owner"], found["open_questions"]) == (
        "counting",
        "waiting",
        None,
        1,
    )
    assert found["questions"][0]["schema"] == {"type": "integer"}
    assert "no luck" in shown(folder, FAILING)["error"]


def test_the_stream_is_printed_without_the_classes_of_the_workflow(folder: Path) -> None:
    (folder / "flows.py").unlink()
    items = lines_of(output(folder, "events", BUYING, "--json"))
    assert [item["number"] for item in items] == [0, 1]
    assert items[0]["event"] == {"$class": "blazen::ProgressEvent", "current": 1.0, "total": 2.0, "label": "proposed"}
    assert items[1]["event"]["prompt"] == "Buy\tit?"
    assert lines_of(output(folder, "events", BUYING, "--json", "--from", "1")) == items[1:]
    assert len(output(folder, "events", BUYING).splitlines()) == 2


# --- steering


def test_an_answer_is_taken_by_the_next_recover(folder: Path) -> None:
    question = question_of(folder, BUYING)
    assert "the next `serve` or `blazen runs recover`" in said(folder, "answer", question, "yes")
    assert "has been answered already" in refusal(folder, "answer", question, "no")
    assert [request["kind"] for request in shown(folder, BUYING)["requests"]] == ["answer"]
    done = runs(folder, "recover", "flows", "--json")
    assert (done.returncode, done.stderr) == (0, "")
    assert lines_of(done.stdout) == [{"run_id": BUYING, "workflow": "buying", "state": "completed", "error": None}]
    assert shown(folder, BUYING)["result"] == {"$class": "blazen::StopEvent", "result": {"bought": "yes"}}
    assert said(folder, "recover", "flows") == "nothing to do\n"


def test_an_answer_to_a_question_that_takes_no_text_is_json(folder: Path) -> None:
    question = question_of(folder, COUNTING)
    assert "takes no text, but JSON" in refusal(folder, "answer", question, "many")
    said(folder, "answer", question[:12], "21")
    assert output(folder, "recover", "flows:counting").split() == [COUNTING, "counting", "completed"]
    assert shown(folder, COUNTING)["result"]["result"] == 42


def test_an_answer_may_be_any_json(folder: Path) -> None:
    question = question_of(folder, BUYING)
    assert "give one of them" in refusal(folder, "answer", question)
    assert "give one of them" in refusal(folder, "answer", question, "yes", "--value", "1")
    assert "--value" in refusal(folder, "answer", question, "--value", "{")
    said(folder, "answer", question, "--value", '{"sure": [true, null]}')
    output(folder, "recover", "flows:buying")
    assert shown(folder, BUYING)["result"]["result"] == {"bought": {"sure": [True, None]}}


def test_an_answer_that_does_not_fit_is_refused_and_the_reason_is_shown(folder: Path) -> None:
    question = question_of(folder, COUNTING)
    said(folder, "answer", question, "1.5")
    assert output(folder, "recover", "flows:counting").split() == [COUNTING, "counting", "waiting"]
    (request,) = shown(folder, COUNTING)["requests"]
    assert "1.5" in request["refused"] or "float" in request["refused"]
    assert "refused: " in output(folder, "show", COUNTING)
    said(folder, "answer", question, "2")


def test_a_run_of_a_live_process_is_steered_from_another(folder: Path, live: subprocess.Popen[str]) -> None:
    assert shown(folder, LIVE)["owner"] == "alive"
    assert "sees that within a second" in said(folder, "answer", question_of(folder, LIVE), "no")
    out, _ = live.communicate(timeout=PATIENCE)
    assert out == "completed\n"
    assert shown(folder, LIVE)["state"] == "completed"


def test_a_run_of_a_live_process_is_cancelled_from_another(folder: Path, live: subprocess.Popen[str]) -> None:
    assert "in a process that lives; cancel it first" in refusal(folder, "delete", LIVE, "--unfinished")
    said(folder, "cancel", LIVE, "--reason", "changed my mind")
    out, _ = live.communicate(timeout=PATIENCE)
    assert out == "cancelled\n"
    found = shown(folder, LIVE)
    assert found["state"] == "cancelled"
    assert "changed my mind" in found["error"]


def test_a_run_of_a_killed_process_goes_on(folder: Path, live: subprocess.Popen[str]) -> None:
    os.kill(live.pid, signal.SIGKILL)
    live.wait(PATIENCE)
    found = shown(folder, LIVE)
    assert (found["owner"], found["stranded"]) == ("dead", True)
    said(folder, "answer", question_of(folder, LIVE), "yes")
    assert LIVE in output(folder, "recover", "flows.py")
    assert shown(folder, LIVE)["state"] == "completed"


def test_a_paused_run_goes_on_only_when_it_is_resumed(folder: Path) -> None:
    said(folder, "pause", BUYING)
    runs(folder, "recover", "flows")
    assert shown(folder, BUYING)["state"] == "paused"
    said(folder, "answer", question_of(folder, BUYING), "yes")
    assert said(folder, "recover", "flows") == "nothing to do\n"
    said(folder, "resume", BUYING)
    assert "completed" in output(folder, "recover", "flows")


def test_a_run_that_cannot_be_gone_on_with_is_told_of_and_the_exit_code_is_1(folder: Path) -> None:
    source = (folder / "flows.py").read_text(encoding="utf-8")
    (folder / "flows.py").write_text(
        source.replace('Workflow("buying", [propose, decide])', 'Workflow("buying", [propose, decide], version="2")'),
        encoding="utf-8",
    )
    said(folder, "answer", question_of(folder, BUYING), "yes")
    done = runs(folder, "recover", "flows", "--json")
    assert done.returncode == 1
    (line,) = lines_of(done.stdout)
    assert (line["run_id"], line["state"]) == (BUYING, "waiting")
    assert "version '1'" in line["error"]


# --- removing


def test_runs_that_have_ended_are_removed(folder: Path) -> None:
    assert said(folder, "delete", FAILING) == f"removed run {FAILING}\n"
    assert "there is no run" in refusal(folder, "show", FAILING)


def test_either_all_are_removed_or_none(folder: Path) -> None:
    assert "has not ended" in refusal(folder, "delete", FAILING, BUYING)
    assert "there is no run" in refusal(folder, "delete", FAILING, "12345678")
    assert len(lines_of(output(folder, "list", "--json"))) == 3
    said(folder, "delete", FAILING, BUYING, FAILING, "--unfinished")
    assert [line["run_id"] for line in lines_of(output(folder, "list", "--json"))] == [COUNTING]


# --- mistakes


def test_ids_may_be_cut_as_long_as_they_are_clear(folder: Path) -> None:
    assert "is the beginning of 3 ids" in refusal(folder, "show", "00000000")
    said(folder, "delete", FAILING)
    said(folder, "delete", COUNTING, "--unfinished")
    assert shown(folder, "0000")["run_id"] == BUYING
    assert "4 or more characters" in refusal(folder, "show", "000")
    assert "no open question" in refusal(folder, "answer", "12345678", "yes")


def test_what_has_ended_is_not_steered(folder: Path) -> None:
    for command in ("pause", "resume", "cancel"):
        assert "ended" in refusal(folder, command, FAILING)


def test_a_store_has_to_be_named_and_to_be_there(folder: Path) -> None:
    done = blazen("runs", "list", cwd=folder, BLAZEN_STORE="")
    assert done.returncode == 2
    assert "--store" in done.stderr
    assert "BLAZEN_STORE" in done.stderr
    done = blazen("runs", "--store", "none.db", "list", cwd=folder)
    assert (done.returncode, "no such file" in done.stderr) == (2, True)
    assert not (folder / "none.db").exists()
    assert "directory" in blazen("runs", "--store", ".", "list", cwd=folder).stderr
    (folder / "text.db").write_text("not a database, but long enough to be looked at as one " * 20, encoding="utf-8")
    done = blazen("runs", "--store", "text.db", "list", cwd=folder)
    assert (done.returncode, done.stderr.count("\n")) == (2, 1)
    assert "text.db" in done.stderr


def test_recover_needs_a_workflow(folder: Path) -> None:
    (folder / "empty.py").write_text("", encoding="utf-8")
    assert "no workflow" in refusal(folder, "recover", "empty")
    assert "no module" in refusal(folder, "recover", "nothing_here")


# --- blazen check --against


def check(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    return blazen("check", *arguments, "--against", "runs.db", cwd=folder)


def edit(folder: Path, old: str, new: str) -> None:
    source = (folder / "flows.py").read_text(encoding="utf-8")
    assert old in source
    (folder / "flows.py").write_text(source.replace(old, new), encoding="utf-8")


def test_unchanged_workflows_fit_their_runs(folder: Path) -> None:
    before = lines_of(output(folder, "list", "--json"))
    done = check(folder, "flows")
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.splitlines()[-1].endswith("runs.db: 2 unfinished runs fit, 0 do not")
    assert lines_of(output(folder, "list", "--json")) == before


@pytest.mark.parametrize(
    ("old", "new", "run", "why"),
    [
        ('Workflow("buying", [propose, decide])', 'Workflow("buying", [propose, decide], version="2")', BUYING, "'1'"),
        ("async def count(", "async def counted(", COUNTING, "no such step any more"),
        (
            "async def count(ctx: Context, ev: StartEvent)",
            "async def count(ctx: Context, ev: Begun)",
            COUNTING,
            "accepts flows.Begun",
        ),
    ],
    ids=["version", "step", "type"],
)
def test_runs_that_newer_code_cannot_go_on_with_are_named(folder: Path, old: str, new: str, run: str, why: str) -> None:
    edit(
        folder, "@step\nasync def count(", "class Begun(StartEvent):\n    amount: int = 1\n\n\n@step\nasync def count("
    )
    edit(folder, old, new)
    edit(folder, "[count]", "[counted]" if "counted" in new else "[count]")
    done = check(folder, "flows")
    assert done.returncode == 1, done.stdout
    (line,) = [line for line in done.stdout.splitlines() if line.startswith("FAILED  run")]
    assert run in line
    assert why in line
    assert done.stdout.splitlines()[-1].endswith("runs.db: 1 unfinished runs fit, 1 do not")


def test_unfinished_runs_of_workflows_that_were_not_named_are_told_of(folder: Path) -> None:
    done = check(folder, "flows:counting")
    assert done.returncode == 0
    assert done.stderr == "blazen check: 1 unfinished run of workflow 'buying', which was not named\n"


def test_a_store_to_check_against_has_to_be_there(folder: Path) -> None:
    done = blazen("check", "flows", "--against", "none.db", cwd=folder)
    assert (done.returncode, "no such file" in done.stderr) == (2, True)
    assert not (folder / "none.db").exists()
