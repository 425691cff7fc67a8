"""The command in pipes: what it writes, what it refuses, and how it ends."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
from command import BLAZEN, FLOWS, ROOT, Running, blazen, blazen_many, environment, lines_of

pytest.importorskip("click", reason="the command line needs the extra blazen[cli]")
pytest.importorskip("rich", reason="the command line needs the extra blazen[cli]")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "flows.py").write_text(FLOWS, encoding="utf-8")
    return tmp_path


@pytest.fixture
def clean(folder: Path) -> None:
    """Let the careful step be out at once."""
    (folder / "clean").touch()


# --- a run that completes


def test_in_a_pipe_each_event_and_step_record_is_a_line_of_json_and_the_last_is_the_result(folder: Path) -> None:
    done = blazen("run", "flows:weather", cwd=folder)
    assert done.returncode == 0, done.stderr
    lines = lines_of(done.stdout)
    assert {line["type"] for line in lines[:-1]} == {"step", "event"}
    steps = [(line["step"], line["kind"], line["attempt"]) for line in lines if line["type"] == "step"]
    assert steps[:2] == [("plan", "started", 1), ("plan", "finished", 1)]
    assert ("ask", "retrying", 1) in steps
    assert ("ask", "finished", 2) in steps
    events = [line for line in lines if line["type"] == "event"]
    assert events[0] == {
        "type": "event",
        "event_type": "blazen::ProgressEvent",
        "data": {"current": 1, "total": 2, "label": "Oslo"},
    }
    assert len(lines[-1].pop("run_id")) == 36
    assert lines[-1] == {
        "type": "result",
        "state": "completed",
        "result": {"cities": ["Oslo", "Rome"]},
        "total_input_tokens": 0,
        "total_output_tokens": 0,
        "total_cost_usd": 0.0,
    }


def test_what_steps_and_their_children_print_goes_to_standard_error(folder: Path) -> None:
    done = blazen("run", "flows:weather", "--no-json", cwd=folder)
    assert json.loads(done.stdout) == {"cities": ["Oslo", "Rome"]}
    assert sorted(done.stderr.splitlines()) == ["planning", "planning in a child"]


def test_without_lines_of_json_the_output_is_the_result_alone(folder: Path) -> None:
    done = blazen("run", "flows:greeter", "--no-json", "--input", '{"name": "Ada", "age": 36}', cwd=folder)
    assert (done.returncode, done.stdout, done.stderr) == (0, "Hello, Ada (36)!\n", "")


@pytest.mark.parametrize("given", ["text", "file", "stdin"])
def test_the_input_comes_from_the_command_line_a_file_or_standard_input(folder: Path, given: str) -> None:
    value = {"name": "Ada", "list": [1, 2.5, None, "é"]}
    (folder / "in.json").write_text("\ufeff" + json.dumps(value), encoding="utf-8")
    argument = {"text": json.dumps(value), "file": "@in.json", "stdin": "-"}[given]
    done = blazen("run", "flows:echoing", "-i", argument, "--no-json", cwd=folder, stdin=json.dumps(value))
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout) == value


def test_a_typed_stop_event_is_the_result_with_its_fields(folder: Path) -> None:
    assert lines_of(blazen("run", "flows:reporting", cwd=folder).stdout)[-1]["result"] == {"lines": ["a", "b"]}


def test_a_result_that_json_cannot_hold_is_shown_by_type_and_repr(folder: Path) -> None:
    done = blazen("run", "flows:odds", cwd=folder)
    assert done.returncode == 0, done.stderr
    assert lines_of(done.stdout)[-1]["result"] == {
        "set": [1],
        "class": {"$type": "builtins.type", "$repr": repr(Path)},
        "half": "\ud800",
    }


def test_run_id_and_timeout_are_those_of_the_run(folder: Path, clean: None) -> None:
    uuid = "12345678-1234-5678-1234-567812345678"
    done = blazen("run", "flows:stuck", "--run-id", uuid, "--timeout", "0.05", cwd=folder)
    assert done.returncode == 1
    last = lines_of(done.stdout)[-1]
    assert (last["run_id"], last["state"], last["error"]["type"]) == (uuid, "failed", "TimeoutError")
    assert done.stderr.splitlines()[-1] == "blazen run: workflow 'stuck' was over its timeout of 0.05 s"


@pytest.mark.parametrize("where", ["flows.py:echoing", "./flows.py:echoing", "{folder}/flows.py:echoing"])
def test_a_workflow_is_named_by_its_file_too(folder: Path, where: str) -> None:
    done = blazen("run", where.format(folder=folder), "--no-json", "-i", "[1]", cwd=folder)
    assert (done.returncode, done.stdout) == (0, "[\n  1\n]\n")


def test_a_file_of_a_package_is_imported_as_a_part_of_it(tmp_path: Path) -> None:
    package = tmp_path / "below" / "shop"
    package.mkdir(parents=True)
    (package / "__init__.py").write_text("")
    (package / "names.py").write_text("NAME = 'shop'\n")
    (package / "flow.py").write_text(
        "from blazen import StartEvent, StopEvent, Workflow, step\nfrom .names import NAME\n"
        "@step\ndef go(ev: StartEvent) -> StopEvent:\n    return StopEvent(result=[NAME, __name__])\n"
        "flow = Workflow('flow', [go])\n"
    )
    done = blazen("run", "below/shop/flow.py", "--no-json", cwd=tmp_path)
    assert (done.returncode, json.loads(done.stdout)) == (0, ["shop", "shop.flow"]), done.stderr
    assert blazen("run", "shop.flow", "--no-json", cwd=tmp_path / "below").stdout == done.stdout


# --- a run that fails


def test_a_failing_step_is_told_with_the_users_frames_only(folder: Path) -> None:
    done = blazen("run", "flows:failing", cwd=folder)
    assert done.returncode == 1
    lines = done.stderr.splitlines()
    assert lines[0] == "Traceback (most recent call last):"
    frames = [line.split(", ")[-1] for line in lines if line.startswith("  File ")]
    assert frames == ["in divide", "in inverse"]
    assert lines[-2] == "ZeroDivisionError: division by zero"
    assert lines[-1] == (
        "blazen run: step 'divide' of workflow 'failing' failed on 'blazen::StartEvent': "
        "ZeroDivisionError: division by zero"
    )
    last = lines_of(done.stdout)[-1]
    del last["run_id"]
    assert last == {
        "type": "result",
        "state": "failed",
        "error": {
            "type": "WorkflowError",
            "message": lines[-1].removeprefix("blazen run: "),
            "step": "divide",
            "event_type": "blazen::StartEvent",
            "cause": "ZeroDivisionError: division by zero",
        },
    }


def test_the_full_traceback_leads_through_blazen_too(folder: Path) -> None:
    done = blazen("run", "flows:failing", "--traceback=full", cwd=folder)
    assert done.returncode == 1
    assert "in inverse" in done.stderr
    assert f"{os.sep}blazen{os.sep}engine{os.sep}" in done.stderr
    assert "The above exception was the direct cause" in done.stderr


def test_an_error_that_blazen_raises_in_a_step_is_shown_where_the_step_called_it(folder: Path) -> None:
    done = blazen("run", "flows:storing", cwd=folder)
    assert done.returncode == 1
    frames = [line.split(", ")[-1] for line in done.stderr.splitlines() if line.startswith("  File ")]
    assert frames == ["in store"]


def test_a_step_over_its_timeout_has_no_traceback(folder: Path) -> None:
    done = blazen("run", "flows:lateness", "--no-json", cwd=folder)
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr == "blazen run: step 'late' of workflow 'lateness' was over its timeout of 0.01 s\n"


def test_a_step_that_leaves_the_process_decides_the_exit_code(folder: Path) -> None:
    assert blazen("run", "flows:leaving", cwd=folder).returncode == 7


def test_a_warning_of_the_engine_is_one_line(folder: Path) -> None:
    done = blazen("run", "flows:warning", "--no-json", cwd=folder)
    assert (done.stdout, done.stderr) == ("warned\n", "blazen run: warning: look out\n")


# --- mistakes


MISTAKES = {
    "no such module": (["run", "flowz:weather"], "there is no module 'flowz'; did you mean 'flows'?"),
    "no such package": (["run", "no.such:thing"], "there is no module 'no'; it is neither installed nor in"),
    "a dot for a colon": (["run", "flows.weather"], "there is no module 'flows.weather'; did you mean flows:weather?"),
    "no such file": (["run", "flow.py:weather"], "'flow.py': there is no such file"),
    "no python": (["run", "./flows.txt:weather"], "'./flows.txt': a file must end in .py"),
    "a name that is taken": (["run", "json.py:flow"], "'json.py': another module is called 'json' and loaded already"),
    "no such workflow": (["run", "flows:wether"], "'flows' (flows.py) has no 'wether'; did you mean flows:weather?"),
    "nothing alike": (["run", "flows.py:qqq"], "'flows.py' has no 'qqq'; its workflows are weather, echoing"),
    "several workflows": (["run", "flows"], "workflows; name one of flows:weather, flows:echoing"),
    "no workflow": (["run", "command_flows"], "'command_flows' has no workflow at module level"),
    "an empty name": (["run", "flows:"], "'flows:' names no workflow; write module:workflow or"),
    "a builder": (["run", "flows:builder"], "it is a WorkflowBuilder; build it in the module, `workflow = builder.bu"),
    "a function": (["run", "flows:make"], "it is a function; if it returns one, call it in the module, `workflow = ma"),
    "a step": (["run", "flows:divide"], "it is a step; put it into one, `workflow = Workflow('name', [divide])`"),
    "a class": (["run", "flows:City"], "it is an event class; name a Workflow object"),
    "a module": (["run", "flows:trio"], "it is a module; name a workflow in it: trio:..."),
    "a value": (["run", "flows:__name__"], "'flows:__name__' is no workflow: it is of type str"),
    "no json": (
        ["run", "flows:echoing", "-i", '{"a": 1,\n "b" 2}'],
        "is no JSON: Expecting ':' delimiter at line 2, column 6, in: \"b\" 2}",
    ),
    "empty input": (["run", "flows:echoing", "-i", " "], "--input is empty; give JSON, @file.json, or - for"),
    "empty standard input": (["run", "flows:echoing", "-i", "-"], "--input: standard input is empty; it must hold"),
    "nan": (["run", "flows:echoing", "-i", "[NaN]"], "--input: the text of --input is no JSON: NaN is no JSON number"),
    "a key twice": (["run", "flows:echoing", "-i", '{"a": 1, "a": 2}'], "is no JSON: the key 'a' is there twice"),
    "deep input": (["run", "flows:echoing", "-i", "@deep.json"], "--input: 'deep.json' is nested too deeply"),
    "latin input": (["run", "flows:echoing", "-i", "@latin.json"], "'latin.json' is not UTF-8: byte 0xe9 in line 2"),
    "no input file": (["run", "flows:echoing", "-i", "@no.json"], "--input: 'no.json' cannot be read: No such file"),
    "a folder as input": (["run", "flows:echoing", "-i", "@."], "--input: '.' cannot be read: Is a directory"),
    "an input that does not fit": (
        ["run", "flows:greeter", "-i", '{"name": 3}'],
        "--input does not fit workflow 'greeter': Person: expected `str`, got `int`, at $.name",
    ),
    "an input of another kind": (["run", "flows:greeter", "-i", "[1]"], "Person: expected a mapping with its fields"),
    "a timeout": (["run", "flows:echoing", "--timeout", "0"], "blazen run: timeout must be above 0 seconds, got 0.0"),
    "no timeout": (
        ["run", "flows:echoing", "--timeout", "soon"],
        "'soon' is not a valid float (see blazen run --help)",
    ),
    "a run id": (["run", "flows:echoing", "--run-id", "x"], "blazen run: run_id must be a UUID such as"),
    "no folder": (["run", "flows:echoing", "--record", "no/r.json"], "--record: there is no directory 'no'"),
    "a folder": (["run", "flows:echoing", "--record", "."], "--record: '.' is a directory"),
    "the folder here": (["run", "."], "blazen run: '.': this is a directory; name a file in it"),
    "relative": (["check", "..flows:weather"], "blazen check: '..flows': there is no such file"),
    "another file": (["check", "flows.txt"], "blazen check: 'flows.txt': a file must end in .py"),
    "an unknown option": (["run", "flows:echoing", "--fast"], "blazen run: No such option"),
    "an unknown command": (["fly"], "blazen: No such command 'fly' (see blazen --help)"),
    "no target": (["run"], "blazen run: Missing argument 'TARGET' (see blazen run --help)"),
    "an unknown format": (["graph", "flows:echoing", "-f", "png"], "'png' is not one of 'mermaid', 'dot', 'json'"),
    "no record": (["view", "no.json"], "blazen view: 'no.json': there is no such file"),
    "code as record": (
        ["view", "flows.py"],
        "blazen view: run record 'flows.py': this is no JSON, or not all of it: JSON is malformed",
    ),
    "the record as page": (["view", "no.json", "-o", "./no.json"], "is the record itself; give another file with"),
    "a question": (["run", "flows:asking"], "the workflow asks 'Delete it?' and nobody can answer: standard input and"),
}


@pytest.fixture(scope="module")
def told(tmp_path_factory: pytest.TempPathFactory) -> dict[str, tuple[int, str, str]]:
    """What the command says to each of the mistakes."""
    folder = tmp_path_factory.mktemp("mistakes")
    (folder / "flows.py").write_text(FLOWS, encoding="utf-8")
    (folder / "json.py").write_text("")
    (folder / "command_flows.py").write_text("x = 1\n")
    (folder / "flows.txt").write_text("")
    (folder / "deep.json").write_text("[" * 100_000)
    (folder / "latin.json").write_bytes(b'{"a":\n "caf\xe9"}')
    said = blazen_many([arguments for arguments, _ in MISTAKES.values()], folder)
    return dict(zip(MISTAKES, said, strict=True))


@pytest.mark.parametrize("name", MISTAKES)
def test_a_mistake_is_one_line_that_says_what_and_where_and_exit_code_2(
    told: dict[str, tuple[int, str, str]], name: str
) -> None:
    code, out, err = told[name]
    assert code == 2
    assert MISTAKES[name][1] in err
    assert err.startswith("blazen")
    assert err.count("\n") == 1
    assert not out or name == "a question"


def test_a_module_that_raises_is_told_with_the_users_frames_only(folder: Path) -> None:
    (folder / "broken.py").write_text("import further\n")
    (folder / "further.py").write_text("def f():\n    return nothing\n\n\nf()\n")
    done = blazen("run", "broken:x", cwd=folder)
    assert done.returncode == 2
    lines = done.stderr.splitlines()
    assert [line.split(", ")[-1] for line in lines if line.startswith("  File ")] == [
        "in <module>",
        "in <module>",
        "in f",
    ]
    assert lines[-1] == "blazen run: 'broken' cannot be imported: NameError: name 'nothing' is not defined"


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ("import not_there\n", "cannot be imported: ModuleNotFoundError: No module named 'not_there'"),
        ("def f(:\n", "cannot be imported: SyntaxError: invalid syntax"),
        ("import sys\nsys.exit(4)\n", "it ends the process (SystemExit: 4); what a script does goes below"),
    ],
)
def test_a_module_that_cannot_be_imported_is_told_with_the_line(folder: Path, source: str, message: str) -> None:
    (folder / "broken.py").write_text(source)
    done = blazen("run", "broken.py:x", cwd=folder)
    assert (done.returncode, done.stdout) == (2, "")
    assert "broken.py" in done.stderr.splitlines()[1 if source.startswith("import") else 0]
    assert message in done.stderr.splitlines()[-1]
    assert "importlib" not in done.stderr


def test_a_fault_of_blazen_itself_shows_its_traceback_and_exits_with_70(folder: Path) -> None:
    program = (
        "import sys\nfrom blazen.cli import main, run_view\n"
        "run_view.RunView.see = lambda self, event: 1 / 0\n"
        "sys.exit(main(['run', 'flows:echoing']))"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], cwd=folder, env=environment(), capture_output=True, text=True, check=False
    )
    assert done.returncode == 70
    assert "ZeroDivisionError" in done.stderr
    assert f"blazen{os.sep}cli{os.sep}running.py" in done.stderr
    assert "this is a fault of blazen" in done.stderr.splitlines()[-1]


def test_without_the_extra_one_line_says_how_to_install_it(tmp_path: Path) -> None:
    program = "import sys\nsys.modules['click'] = None\nfrom blazen.cli import main\nsys.exit(main(['--version']))"
    done = subprocess.run(
        [sys.executable, "-c", program], cwd=tmp_path, env=environment(), capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr == ('blazen: the command line needs click, not installed here: pip install "blazen[cli]"\n')


# --- questions


def test_answers_given_beforehand_are_used_in_order(folder: Path) -> None:
    done = blazen("run", "flows:asking", "--answer", "yes", "--no-json", cwd=folder)
    assert (done.returncode, done.stdout) == (0, "answered 'yes'\n"), done.stderr


def test_a_question_that_nobody_can_answer_ends_the_run(folder: Path) -> None:
    done = blazen("run", "flows:asking", cwd=folder)
    assert done.returncode == 2
    last = lines_of(done.stdout)[-1]
    assert last["state"] == "cancelled"
    assert last["error"]["message"] == done.stderr.strip().removeprefix("blazen run: ")
    assert done.stderr.endswith("give the answer with --answer TEXT\n")


def test_questions_of_a_step_in_its_middle_are_answered_as_text_or_as_the_json_they_ask_for(folder: Path) -> None:
    given = ("--answer", "42", "--answer", "42", "--answer", "true")
    done = blazen("run", "flows:interviewing", *given, "--no-json", cwd=folder)
    assert (done.returncode, done.stderr) == (0, "")
    assert json.loads(done.stdout) == {"name": "42", "age": 42, "sure": True}


@pytest.mark.parametrize(("answer", "kind"), [("old", "str"), ("[1]", "array"), ("true", "bool")])
def test_an_answer_that_does_not_fit_its_question_is_a_mistake(folder: Path, answer: str, kind: str) -> None:
    done = blazen("run", "flows:interviewing", "--answer", "Ada", "--answer", answer, cwd=folder)
    assert done.returncode == 2
    assert done.stderr == (
        f"blazen run: --answer {answer!r} does not fit the question 'How old?': Expected `int`, got `{kind}`; "
        "what is to be more than text is written as JSON: true, 7, [1, 2]\n"
    )
    assert lines_of(done.stdout)[-1]["state"] == "cancelled"


def test_a_question_of_a_step_in_its_middle_that_nobody_can_answer_ends_the_run(folder: Path) -> None:
    done = blazen("run", "flows:interviewing", "--answer", "Ada", cwd=folder)
    assert done.returncode == 2
    assert done.stderr.startswith("blazen run: the workflow asks 'How old?' and nobody can answer: ")


# --- stopped from outside


def test_ctrl_c_cancels_the_run_and_says_what_it_stopped_when_that_is_out(folder: Path, clean: None) -> None:
    with Running("run", "flows:stuck", cwd=folder) as running:
        running.read_errors_until("careful is in")
        running.send(signal.SIGINT)
        code, out, err = running.end()
    assert code == 130
    assert err.splitlines()[-1] == "blazen run: interrupted; stopped careful, forever"
    assert err.index("forever is out") < err.index("interrupted")
    assert "Traceback" not in err
    last = lines_of(out)[-1]
    assert (last["state"], last["error"]["type"]) == ("cancelled", "CancelledError")


def test_a_second_ctrl_c_says_what_is_still_unwinding(folder: Path) -> None:
    with Running("run", "flows:stuck", cwd=folder) as running:
        running.read_errors_until("careful is in")
        running.send(signal.SIGINT)
        running.read_errors_until("careful cleans up")
        running.send(signal.SIGINT)
        running.read_errors_until("blazen run: still unwinding: careful")
        (folder / "clean").touch()
        code, _, err = running.end()
    assert code == 130
    assert err.endswith("blazen run: interrupted; stopped careful, forever\n")


def test_sigterm_ends_the_run_likewise_with_143(folder: Path, clean: None) -> None:
    with Running("run", "flows:stuck", cwd=folder) as running:
        running.read_errors_until("careful is in")
        running.send(signal.SIGTERM)
        code, _, err = running.end()
    assert code == 143
    assert err.endswith("blazen run: terminated; stopped careful, forever\n")


def test_ctrl_c_interrupts_a_step_that_holds_the_event_loop(folder: Path) -> None:
    with Running("run", "flows:holding", "--no-json", cwd=folder) as running:
        running.read_errors_until("hold is in")
        running.send(signal.SIGINT)
        code, out, err = running.end()
    assert (code, out) == (130, "")
    assert err.splitlines()[-1] == "blazen run: interrupted; stopped hold"


def test_a_reader_that_goes_away_ends_the_run_quietly(folder: Path) -> None:
    with Running("run", "flows:ticking", cwd=folder) as running:
        assert running.process.stdout is not None
        running.process.stdout.readline()
        running.process.stdout.close()
        running.process.stdout = None
        code, _, err = running.end()
    assert (code, err) == (141, "")
    assert (folder / "ticked").exists()


def test_a_full_disk_is_told_in_one_line(folder: Path) -> None:
    with open("/dev/full", "w") as full:
        done = subprocess.run(
            [*BLAZEN, "run", "flows:ticking"], cwd=folder, env=environment(), stdout=full, stderr=subprocess.PIPE
        )
    assert done.returncode == 2
    assert done.stderr == b"blazen run: standard output cannot be written: No space left on device\n"


def test_a_full_disk_is_told_in_one_line_by_help_too(tmp_path: Path) -> None:
    with open("/dev/full", "w") as full:
        done = subprocess.run([*BLAZEN, "--help"], cwd=tmp_path, env=environment(), stdout=full, stderr=subprocess.PIPE)
    assert done.returncode == 2
    assert done.stderr == b"blazen: standard output cannot be written: No space left on device\n"


def test_ctrl_c_while_the_command_itself_is_imported_is_told_in_one_line(tmp_path: Path) -> None:
    program = """
import sys
from blazen.cli import main

class Interrupt:
    def find_spec(name, path, target=None):
        if name == "blazen.cli.commands":
            raise KeyboardInterrupt

sys.meta_path.insert(0, Interrupt)
sys.exit(main(["--version"]))
"""
    done = subprocess.run(
        [sys.executable, "-c", program], cwd=tmp_path, env=environment(), capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stdout, done.stderr) == (130, "", "blazen: interrupted\n")


# --- the other commands


def test_graph_prints_what_the_library_draws(folder: Path) -> None:
    program = (
        "import flows, json; g = flows.weather.graph; print(json.dumps([g.to_mermaid(), g.to_dot(), g.describe()]))"
    )
    drawn = subprocess.run(
        [sys.executable, "-c", program], cwd=folder, env=environment(), capture_output=True, text=True, check=True
    )
    mermaid, dot, described = json.loads(drawn.stdout)
    assert blazen("graph", "flows:weather", cwd=folder).stdout == mermaid
    assert blazen("graph", "flows:weather", "--format", "dot", cwd=folder).stdout == dot
    assert json.loads(blazen("graph", "flows:weather", "-f", "json", cwd=folder).stdout) == described
    assert "joins several events" in mermaid


BROKEN = """
from blazen import Event, StartEvent, Workflow, step


class Lost(Event):
    pass


@step
async def lose(ev: StartEvent) -> Lost: ...


broken = Workflow("broken", [lose])
"""


def test_check_has_a_line_for_each_workflow(folder: Path) -> None:
    done = blazen("check", "flows:weather", "flows.py", cwd=folder)
    assert (done.returncode, done.stderr) == (0, "")
    lines = done.stdout.splitlines()
    assert lines[0] == "ok      flows:weather: workflow 'weather', 3 steps, 4 event classes"
    assert lines[1] == "ok      flows.py:weather: workflow 'weather', 3 steps, 4 event classes"
    assert "ok      flows.py:echoing: workflow 'echoing', 1 step, 2 event classes" in lines
    assert len(lines) == 1 + FLOWS.count("= Workflow(")


def test_check_of_what_does_not_fit_together_exits_with_1_and_checks_the_rest(folder: Path) -> None:
    (folder / "broken.py").write_text(BROKEN)
    done = blazen("check", "broken", "flows:echoing", cwd=folder)
    assert (done.returncode, done.stderr) == (1, "")
    first, second = done.stdout.splitlines()
    assert first.startswith("FAILED  broken: workflow 'broken': step 'lose' emits 'Lost', but no step accepts it")
    assert first.endswith("(broken.py:13)")
    assert second.startswith("ok      flows:echoing")


def test_check_of_what_cannot_be_found_exits_with_2_and_checks_the_rest(folder: Path) -> None:
    (folder / "broken.py").write_text("1 / 0\n")
    done = blazen("check", "nothing", "broken", "flows:make", "flows:echoing", cwd=folder)
    assert done.returncode == 2
    assert done.stdout.startswith("ok      flows:echoing")
    told = [line for line in done.stderr.splitlines() if line.startswith("blazen check: ")]
    assert len(told) == 3
    assert "division by zero" in told[1]


def test_the_version_is_that_of_the_package(tmp_path: Path) -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    assert blazen("--version", cwd=tmp_path).stdout == f"blazen {project['version']}\n"
    assert project["scripts"] == {"blazen": "blazen.cli:main"}


def test_help_is_on_standard_output_and_fits_a_terminal(tmp_path: Path) -> None:
    for arguments in ([], ["--help"], ["run", "--help"], ["graph", "-h"], ["check", "-h"], ["view", "-h"]):
        done = blazen(*arguments, cwd=tmp_path, COLUMNS="100")
        assert (done.returncode, done.stderr) == (0, "")
        assert done.stdout.startswith("Usage: blazen")
        assert max(map(len, done.stdout.splitlines())) <= 100


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_completion_prints_the_script_of_a_shell(tmp_path: Path, shell: str) -> None:
    done = blazen("completion", shell, cwd=tmp_path)
    assert done.returncode == 0
    assert "_BLAZEN_COMPLETE" in done.stdout
    if shell == "bash":
        (tmp_path / "script").write_text(done.stdout)
        assert subprocess.run(["bash", "-n", "script"], cwd=tmp_path, check=False).returncode == 0


def test_the_script_completes_commands_and_options(tmp_path: Path) -> None:
    def completed(words: str) -> list[str]:
        done = blazen(
            cwd=tmp_path, _BLAZEN_COMPLETE="bash_complete", COMP_WORDS=words, COMP_CWORD=str(len(words.split()) - 1)
        )
        return [line.partition(",")[2] for line in done.stdout.splitlines()]

    assert completed("blazen ch") == ["check"]
    assert completed("blazen run --t") == ["--timeout", "--traceback"]


# --- records


def test_a_record_that_cannot_be_written_after_the_run_is_told_in_one_line(folder: Path) -> None:
    (folder / "out").mkdir()
    done = blazen("run", "flows:vanishing", "--record", "out/run.json", cwd=folder)
    assert (done.returncode, done.stderr) == (
        2,
        "blazen run: --record: the run record cannot be written to 'out/run.json': No such file or directory\n",
    )


def test_the_record_of_a_run_is_kept_also_when_it_fails_and_view_makes_a_page_of_it(folder: Path) -> None:
    for name, code in (("weather", 0), ("failing", 1)):
        assert blazen("run", f"flows:{name}", "--record", "run.json", cwd=folder).returncode == code
        assert isinstance(json.loads((folder / "run.json").read_text(encoding="utf-8")), dict)
        done = blazen("view", "run.json", cwd=folder)
        assert (done.returncode, done.stdout) == (0, "run.html\n"), done.stderr
        assert "<html" in (folder / "run.html").read_text(encoding="utf-8")
    (folder / "run.json").write_text("{}")
    done = blazen("view", "run.json", cwd=folder)
    assert (done.returncode, done.stderr.count("\n")) == (2, 1)
