"""The command in a terminal: the live view, questions, and terminals that can do less."""

from __future__ import annotations

import os
import re
import subprocess
from pathlib import Path

import pytest
from command import BLAZEN, FLOWS, environment, lines_of
from terminal import Terminal

pytest.importorskip("click", reason="the command line needs the extra blazen[cli]")
pytest.importorskip("rich", reason="the command line needs the extra blazen[cli]")

COLOUR = re.compile(r"\x1b\[[0-9;]*3[0-9][0-9;]*m")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "flows.py").write_text(FLOWS, encoding="utf-8")
    return tmp_path


def terminal(
    folder: Path, *arguments: str, size: tuple[int, int] = (30, 100), stdout: int | None = None, **changes: str
) -> Terminal:
    return Terminal([*BLAZEN, *arguments], cwd=folder, env=environment(**changes), size=size, stdout=stdout)


def last_view(text: str, name: str) -> list[str]:
    """The lines of the view as it was drawn last, and what came after."""
    return text[text.rindex(f"{name}  ") :].splitlines()


def test_the_steps_are_shown_and_the_result_is_printed_last(folder: Path) -> None:
    with terminal(folder, "run", "flows:weather") as shown:
        assert shown.end() == 0
    assert COLOUR.search(shown.written)
    lines = last_view(shown.text, "weather")
    assert re.fullmatch(r"weather  completed  \d+\.\d s", lines[0])
    assert [line.split() for line in lines[1:4]] == [
        ["✓", "plan", "done", "1", "done"],
        ["✓", "ask", "done", "2", "done,", "1", "retried"],
        ["✓", "pick", "done", "2", "done"],
    ]
    assert [line.split()[-4:] for line in lines[4:6]] == [["Oslo:", "1", "of", "2"], ["Rome:", "1", "of", "2"]]
    assert "".join(lines[6:]).replace(" ", "") == '{"cities":["Oslo","Rome"]}'
    assert "planning" in shown.text


def test_a_step_that_runs_is_seen_running_and_ctrl_c_is_seen_to_be_heard(folder: Path) -> None:
    with terminal(folder, "run", "flows:stuck") as shown:
        shown.read_until("● careful  running on StartEvent")
        shown.interrupt()
        shown.read_until("stuck  stopping")
        shown.read_until("■ forever  cancelled")
        shown.interrupt()
        shown.read_until("blazen run: still unwinding: careful")
        (folder / "clean").touch()
        assert shown.end() == 130
    lines = last_view(shown.text, "stuck")
    assert lines[0].startswith("stuck  cancelled")
    assert [line.split() for line in lines[1:3]] == [
        ["■", "forever", "cancelled", "1", "cancelled"],
        ["■", "careful", "cancelled", "1", "cancelled"],
    ]
    assert lines[3:] == ["blazen run: interrupted; stopped careful, forever"]
    assert shown.written.count("\x1b[?25l") == shown.written.count("\x1b[?25h")  # the cursor is there again


def test_a_failing_step_is_marked_and_its_traceback_comes_below(folder: Path) -> None:
    with terminal(folder, "run", "flows:failing") as shown:
        assert shown.end() == 1
    lines = last_view(shown.text[: shown.text.index("Traceback")], "failing")
    assert [line.split() for line in lines[1:]] == [["✗", "divide", "failed", "1", "failed"]]
    assert shown.text.splitlines()[-1].startswith("blazen run: step 'divide' of workflow 'failing' failed")


def test_a_question_is_asked_and_the_answer_read(folder: Path) -> None:
    with terminal(folder, "run", "flows:asking") as shown:
        shown.read_until('Delete it?\n{"file": "notes.txt"}\n> ')
        shown.type("yes, please\n")
        assert shown.end() == 0
    assert shown.text.splitlines()[-1] == "answered 'yes, please'"


def test_a_step_that_asks_in_its_middle_is_answered_until_the_answer_fits(folder: Path) -> None:
    with terminal(folder, "run", "flows:interviewing", size=(30, 200)) as shown:
        shown.read_until('Who is it?\n{"of": "the form"}\n> ')
        shown.type("Ada\n")
        shown.read_until("How old?\n> ")
        shown.type("old\n")
        shown.read_until(
            "This does not fit: Expected `int`, got `str`; what is to be more than text is written as JSON: "
            "true, 7, [1, 2]\n> "
        )
        shown.type("36\n")
        shown.read_until("Sure?\n> ")
        shown.type("true\n")
        assert shown.end() == 0
    assert '"age": 36' in shown.text


def test_a_question_that_is_taken_back_is_no_longer_asked(folder: Path) -> None:
    with terminal(folder, "run", "flows:hurrying") as shown:
        shown.read_until("Quick?\n> ")
        shown.type("half an ans")
        (folder / "too late").touch()
        shown.read_until("No longer asked.\n")
        shown.read_until("Now?\n> ")
        shown.type("yes\n")
        assert shown.end() == 0
    assert shown.text.splitlines()[-1] == "yes"


def test_ctrl_c_at_a_question_of_a_step_in_its_middle_stops_the_step(folder: Path) -> None:
    with terminal(folder, "run", "flows:interviewing") as shown:
        shown.read_until("> ")
        shown.interrupt()
        assert shown.end() == 130
    assert shown.text.splitlines()[-1] == "blazen run: interrupted; stopped interview"


def test_no_answer_is_a_mistake(folder: Path) -> None:
    with terminal(folder, "run", "flows:asking") as shown:
        shown.read_until("> ")
        shown.type("\x04")
        assert shown.end() == 2
    assert shown.text.splitlines()[-1] == "blazen run: the workflow asks 'Delete it?': the input has ended"


def test_ctrl_c_at_a_question_ends_the_run(folder: Path) -> None:
    with terminal(folder, "run", "flows:asking") as shown:
        shown.read_until("> ")
        shown.interrupt()
        assert shown.end() == 130
    assert shown.text.splitlines()[-1] == "blazen run: interrupted; no step was running"


def test_a_question_is_asked_on_standard_error_while_the_output_goes_elsewhere(folder: Path) -> None:
    with (folder / "out").open("wb") as out, terminal(folder, "run", "flows:asking", stdout=out.fileno()) as shown:
        shown.read_until("> ")
        shown.type("no\n")
        assert shown.end() == 0
    assert lines_of((folder / "out").read_text(encoding="utf-8"))[-1]["result"] == "answered 'no'"
    assert "decide" not in shown.text  # no live view beside a pipe that may end in the same terminal


def test_lines_of_json_can_be_had_on_a_terminal(folder: Path) -> None:
    with terminal(folder, "run", "flows:echoing", "--json", size=(30, 1000)) as shown:
        assert shown.end() == 0
    assert [line["type"] for line in lines_of(shown.text)] == ["step", "step", "result"]


def test_a_terminal_that_cannot_move_its_cursor_gets_plain_lines(folder: Path) -> None:
    with terminal(folder, "run", "flows:weather", TERM="dumb") as shown:
        assert shown.end() == 0
    assert "\x1b" not in shown.written
    text = re.sub(r"\d+\.\d s", "0.0 s", shown.text)
    assert "plan finished after 0.0 s\n" in text
    assert "ask retrying after 0.0 s: ValueError: Rome is [busy]\n" in text
    assert "Oslo: 1 of 2\n" in text
    assert text.endswith("}\n")


def test_no_color_is_obeyed(folder: Path) -> None:
    with terminal(folder, "run", "flows:weather", NO_COLOR="1") as shown:
        assert shown.end() == 0
    assert "✓ plan" in shown.text
    assert not COLOUR.search(shown.written)


@pytest.mark.parametrize("size", [(5, 20), (3, 12), (24, 40)])
def test_a_small_terminal_is_not_written_over_its_edge(folder: Path, size: tuple[int, int]) -> None:
    with terminal(folder, "run", "flows:weather", size=size) as shown:
        assert shown.end() == 0
    view = shown.text[: shown.text.rindex("{")]
    drawn = [line for line in view.splitlines() if "planning" not in line]
    assert max(map(len, drawn)) <= size[1]
    assert "weather" in view


def test_a_terminal_without_utf_8_gets_plain_signs(folder: Path) -> None:
    with terminal(folder, "run", "flows:weather", PYTHONIOENCODING="ascii", LC_ALL="C", PYTHONUTF8="0") as shown:
        assert shown.end() == 0, shown.text
    assert "+ plan" in shown.text
    assert shown.text.isascii()


def test_names_can_command_no_terminal(folder: Path) -> None:
    (folder / "evil.py").write_text(
        "from blazen import Context, InputRequestEvent, InputResponseEvent, ProgressEvent\n"
        "from blazen import StartEvent, StopEvent, Workflow, step\n"
        "@step(name='[bold]\\x1b]0;title\\x07')\n"
        "async def ask(ctx: Context, ev: StartEvent) -> InputRequestEvent:\n"
        "    ctx.write_event_to_stream(ProgressEvent('\\x1b[2J', label='\\x1b[3J'))\n"
        "    return InputRequestEvent(prompt='\\x1b[5m?')\n"
        "@step\nasync def go(ev: InputResponseEvent) -> StopEvent:\n    raise ValueError('\\x1b[6m')\n"
        "flow = Workflow('\\x1b[7m', [ask, go])\n"
    )
    with terminal(folder, "run", "evil", "--traceback", "short") as shown:
        shown.read_until("> ")
        shown.type("x\n")
        assert shown.end() == 1
    before = shown.written[: shown.written.index("Traceback")]
    for command in ("\x1b]0;", "\x1b[2J", "\x1b[3J", "\x1b[5m", "\x1b[7m"):
        assert command not in before
    assert "[bold]\\x1b]0;title" in shown.text


def test_without_a_terminal_for_errors_the_result_is_printed_alone(folder: Path) -> None:
    command = [*BLAZEN, "run", "flows:greeter", "-i", '{"name": "Ada"}']
    with (folder / "err").open("wb") as err:
        read, write = os.openpty()
        done = subprocess.run(command, cwd=folder, env=environment(), stdout=write, stderr=err, check=False)
        os.close(write)
        text = os.read(read, 4096)
        os.close(read)
    assert (done.returncode, text) == (0, b"Hello, Ada (0)!\r\n")
    assert (folder / "err").read_bytes() == b""
