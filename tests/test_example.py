"""Runs examples/text_report.py as a user would, and computes what it reports a second time, in plain Python."""

from __future__ import annotations

import importlib.util
import math
import os
import pty
import re
import signal
import subprocess
import sys
import zlib
from collections import Counter
from pathlib import Path

import pytest

EXAMPLES = Path(__file__).resolve().parent.parent / "examples"
SCRIPT = EXAMPLES / "text_report.py"

pytestmark = pytest.mark.skipif(importlib.util.find_spec("numpy") is None, reason="the example needs NumPy")

RIVER = "The river runs to the sea. Water of the river carries sand, and the sea takes sand and water.\n\n"
BOAT = "A boat sails on the river. The boat and its crew carry timber, and the crew sings to the sea.\n\n"
BREAD = "Flour, water and salt make bread. The baker kneads flour, waits, and bakes bread in a hot oven.\n\n"
TEXTS = {
    "river.md": RIVER * 2 + "Sand banks move.\n",
    "boat.txt": BOAT * 3,
    "deeper/bread.rst": BREAD * 7 + "Rye bread is dark.\n",
    "deeper/oven.md": BREAD + "An oven needs stone and fire; stone keeps the heat, and the baker keeps the fire.\n",
    "long.md": "".join(f"Chapter {number} tells of stone, fire and timber.\n\n" for number in range(60)),
}
STAGED = "long.md"  # the largest


def run(
    *arguments: str, script: tuple[str, ...] = (str(SCRIPT),), cwd: Path | None = None
) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, *script, *arguments],
        capture_output=True,
        encoding="utf-8",
        cwd=cwd,
        env=environment(),
        timeout=120,
        check=False,
    )


def environment() -> dict[str, str]:
    return {**os.environ, "PYTHONIOENCODING": "utf-8", "COLUMNS": "110"}


def write_texts(folder: Path) -> None:
    for name, text in TEXTS.items():
        path = folder / name
        path.parent.mkdir(exist_ok=True)
        path.write_text(text, encoding="utf-8")


@pytest.fixture(scope="module")
def report(tmp_path_factory: pytest.TempPathFactory) -> subprocess.CompletedProcess[str]:
    """The report on five texts and five files that are none."""
    folder = tmp_path_factory.mktemp("texts")
    write_texts(folder)
    (folder / "latin.txt").write_bytes(b"caf\xe9 au lait")
    (folder / "binary.md").write_bytes(b"words and\0bytes")
    (folder / "numbers.txt").write_text("1 2 3\n")
    (folder / "gone.md").symlink_to("nowhere.md")
    os.mkfifo(folder / "pipe.txt")
    (folder / "picture.png").write_bytes(b"not asked for")
    (folder / ".hidden").mkdir()
    (folder / ".hidden" / "secret.md").write_text("hidden words")
    result = run(str(folder))
    assert result.returncode == 0, result.stderr
    return result


def section(report: subprocess.CompletedProcess[str], title: str) -> list[list[str]]:
    """The lines below a title, cut into columns."""
    lines = report.stdout.splitlines()
    start = next(number for number, line in enumerate(lines) if line.startswith(title)) + 1
    found = []
    for line in lines[start:]:
        if not line.strip():
            break
        found.append(re.split(r" {2,}", line.strip()))
    return found


def documents(report: subprocess.CompletedProcess[str]) -> dict[str, list[str]]:
    rows = [row for row in section(report, "Documents")[1:] if len(row) == 6]
    return {row[0]: row[1:] for row in rows}


# --- the same numbers by other means


def common_words() -> set[str]:
    source = (EXAMPLES / "texts" / "documents.py").read_text(encoding="utf-8")
    return set(source.partition('COMMON = """')[2].partition('"""')[0].split())


def words_of(text: str) -> list[str]:
    return [word for word in re.split(r"[^A-Za-z_]+", text) if len(word) > 1]


def terms_of(text: str) -> Counter[str]:
    ignored = common_words()
    return Counter(word.lower() for word in words_of(text) if word.lower() not in ignored)


def hashed(terms: Counter[str]) -> Counter[int]:
    found: Counter[int] = Counter()
    for term, count in terms.items():
        found[zlib.crc32(term.encode()) % 2048] += count
    return found


def weights() -> dict[int, float]:
    used_by: Counter[int] = Counter()
    for text in TEXTS.values():
        used_by.update(set(hashed(terms_of(text))))
    return {place: math.log((1 + len(TEXTS)) / (1 + count)) + 1 for place, count in used_by.items()}


def alike(one: str, other: str) -> float:
    """The cosine of the TF-IDF vectors of two texts."""
    scale = weights()
    vectors = [
        {place: (1 + math.log(count)) * scale[place] for place, count in hashed(terms_of(text)).items()}
        for text in (one, other)
    ]
    dot = sum(value * vectors[1].get(place, 0.0) for place, value in vectors[0].items())
    return dot / math.prod(math.sqrt(sum(value**2 for value in vector.values())) for vector in vectors)


def nearest(name: str) -> tuple[str, float]:
    others = [(alike(TEXTS[name], text), other) for other, text in TEXTS.items() if other != name]
    similarity, other = max(others)
    return other, similarity


def key_terms_of(terms: Counter[str]) -> list[str]:
    """The four with the best score; a term that every document has says nothing."""
    texts = [terms_of(text) for text in TEXTS.values()]
    scores = {
        term: (1 + math.log(count)) * math.log(len(texts) / sum(term in text for text in texts))
        for term, count in terms.items()
    }
    return sorted((term for term in scores if scores[term] > 0), key=lambda term: (-scores[term], term))[:4]


# --- the report


@pytest.mark.parametrize("name", TEXTS)
def test_the_numbers_of_a_document_are_those_of_a_plain_computation(
    report: subprocess.CompletedProcess[str], name: str
) -> None:
    words, _, terms, neighbour, similarity = documents(report)[name + "*" * (name == STAGED)]
    assert int(words) == len(words_of(TEXTS[name]))
    assert terms.split(", ") == key_terms_of(terms_of(TEXTS[name]))
    expected, how_much = nearest(name)
    assert neighbour == expected
    assert similarity == f"{how_much:.2f}"


def test_a_passage_has_80_words_and_ends_with_a_paragraph(report: subprocess.CompletedProcess[str]) -> None:
    # bread.rst has seven paragraphs of 17 words: five fill a passage. long.md has 60 of 7 words: twelve do.
    assert len(words_of(BREAD)) == 17
    assert {name: row[1] for name, row in documents(report).items()} == {
        "river.md": "1",
        "boat.txt": "1",
        "deeper/bread.rst": "2",
        "deeper/oven.md": "1",
        "long.md*": "5",
    }


def test_the_closest_passages_are_those_of_a_plain_computation(report: subprocess.CompletedProcess[str]) -> None:
    # Only documents with a neighbour that was not cut off, and the closest pair of passages of each such two.
    passages = {
        "river.md": [TEXTS["river.md"]],
        "boat.txt": [TEXTS["boat.txt"]],
        "deeper/bread.rst": [BREAD * 5, BREAD * 2 + "Rye bread is dark.\n"],
        "deeper/oven.md": [TEXTS["deeper/oven.md"]],
    }
    expected = set()
    for name in passages:
        other, _ = nearest(name)
        if other != STAGED:
            left, right = sorted((name, other))
            similarity, row, column = max(
                (alike(one, two), row, column)
                for row, one in enumerate(passages[left], start=1)
                for column, two in enumerate(passages[right], start=1)
            )
            shared = key_terms_of(terms_of(passages[left][row - 1]) & terms_of(passages[right][column - 1]))
            expected.add((f"{similarity:.2f}", f"{left} #{row}", f"{right} #{column}", ", ".join(shared)))
    found = {tuple(line) for line in section(report, "Closest passages")[1:]}
    assert found == expected
    assert len(found) >= 2


def test_every_file_that_is_no_text_is_named_with_its_reason(report: subprocess.CompletedProcess[str]) -> None:
    assert {line[0] for line in section(report, "Skipped")} == {
        "binary.md: looks like a binary file",
        "gone.md: cannot be read: No such file or directory",
        "latin.txt: is not UTF-8: byte 0xe9 at position 3",
        "numbers.txt: has no words in it",
        "pipe.txt: is no regular file",
    }
    assert "5 documents" in report.stdout
    assert "5 skipped" in report.stdout
    assert "secret" not in report.stdout
    assert "picture" not in report.stdout


def test_the_staged_document_is_cut_off_and_said_to_be_staged(report: subprocess.CompletedProcess[str]) -> None:
    text = " ".join(report.stdout.split())
    assert "The embedding of long.md was cut off after 0.8 s" in text
    assert "That source is staged" in text
    steps = {row[0]: row[1:] for row in section(report, "Time per step")[1:]}
    assert steps["embed"][:2] == ["6", "1"]  # five documents, and on_error once


def test_each_step_is_listed_with_how_often_it_ran(report: subprocess.CompletedProcess[str]) -> None:
    steps = {row[0]: row[1] for row in section(report, "Time per step")[1:]}
    assert steps == {
        "find": "1",
        "read": "9",
        "cut": "5",
        "count": "5",
        "embed": "6",
        "pair": "15",
        "gather": "10",
        "compare": "1",
    }


def test_progress_goes_to_stderr_in_plain_lines_when_that_is_no_terminal(
    report: subprocess.CompletedProcess[str],
) -> None:
    lines = report.stderr.splitlines()
    assert len(lines) == 10
    assert [line[:18] for line in lines] == [f"{number:>2} of 10 documents" for number in range(1, 11)]
    assert "\r" not in report.stderr
    assert "\x1b" not in report.stderr


def test_progress_is_one_line_written_anew_on_a_terminal(tmp_path: Path) -> None:
    write_texts(tmp_path)
    ours, theirs = pty.openpty()
    try:
        result = subprocess.run(
            [sys.executable, str(SCRIPT), str(tmp_path)],
            stdout=subprocess.PIPE,
            stderr=theirs,
            env=environment(),
            timeout=120,
            check=False,
        )
        written = os.read(ours, 65536).decode()
    finally:
        os.close(ours)
        os.close(theirs)
    assert result.returncode == 0
    assert "\n" not in written
    assert written.count("\r") == len(TEXTS) + 1
    assert written.endswith("\r\x1b[K")


# --- the page of the run


def test_the_run_is_written_as_a_page_and_its_path_is_said(tmp_path: Path) -> None:
    write_texts(tmp_path / "texts")
    result = run("texts", "--page", "pages/run.html", cwd=tmp_path)
    assert result.returncode == 0, result.stderr
    assert result.stdout.splitlines()[-1].endswith(f": {Path('pages', 'run.html')}")
    page = (tmp_path / "pages" / "run.html").read_text(encoding="utf-8")
    assert page.startswith("<!DOCTYPE html>")
    for expected in ("river.md", "compare", "timed_out"):
        assert expected in page


def test_a_page_that_cannot_be_written_does_not_spoil_the_report(tmp_path: Path) -> None:
    write_texts(tmp_path / "texts")
    (tmp_path / "file").write_text("")
    result = run("texts", "--page", "file/run.html", cwd=tmp_path)
    assert result.returncode == 0
    assert result.stderr.splitlines()[-1] == "text_report: 'file/run.html' cannot be written: File exists"
    assert "Time per step" in result.stdout


# --- other folders


def test_the_default_is_the_documentation_of_the_project(tmp_path: Path) -> None:
    result = run(cwd=tmp_path)
    assert result.returncode == 0, result.stderr
    names = {name.removesuffix("*") for name in documents(result)}
    assert names == {path.name for path in (EXAMPLES.parent / "docs").glob("*.md")}


@pytest.mark.parametrize(("name", "reason"), [("missing", "No such file or directory"), ("file.md", "Not a directory")])
def test_a_bad_folder_is_refused_with_exit_code_2(tmp_path: Path, name: str, reason: str) -> None:
    (tmp_path / "file.md").write_text("words")
    result = run(str(tmp_path / name))
    assert (result.returncode, result.stdout) == (2, "")
    assert result.stderr == f"text_report: the folder {str(tmp_path / name)!r} cannot be read: {reason}\n"


def test_a_folder_without_documents_is_said_to_have_none(tmp_path: Path) -> None:
    (tmp_path / "picture.png").write_bytes(b"")
    result = run(str(tmp_path))
    assert (result.returncode, result.stdout) == (1, "")
    assert result.stderr == f"text_report: no .md, .txt, .rst files in {str(tmp_path)!r} or below\n"


def test_a_folder_of_unreadable_files_gives_the_reasons_and_exit_code_1(tmp_path: Path) -> None:
    (tmp_path / "binary.md").write_bytes(b"\0")
    result = run(str(tmp_path))
    assert result.returncode == 1
    assert section(result, "Skipped") == [["binary.md: looks like a binary file"]]


def test_a_single_document_has_no_neighbour(tmp_path: Path) -> None:
    (tmp_path / "bread.md").write_text(BREAD)
    result = run(str(tmp_path))
    assert result.returncode == 0
    assert documents(result) == {"bread.md*": ["17", "1", "bread, flour, baker, bakes", "-", "-"]}


def test_nothing_in_a_name_or_a_text_can_command_the_terminal(tmp_path: Path) -> None:
    (tmp_path / "a\x1b[31m.md").write_text(RIVER + "\x1b]0;title\x07")
    (tmp_path / "b.md").write_text("\x1b[2J" + RIVER)
    (tmp_path / "c.md").write_text(BREAD * 9)
    (tmp_path / os.fsdecode(b"caf\xe9.md")).write_text(BREAD)
    result = run(str(tmp_path))
    assert result.returncode == 0, result.stderr
    assert "\x1b" not in result.stdout + result.stderr
    assert "Closest passages" in result.stdout


# --- ends before the end


def test_ctrl_c_stops_every_step_and_exits_with_130(tmp_path: Path) -> None:
    write_texts(tmp_path)
    # The workflow with an endless patience, so that the signal always finds the staged document waiting.
    program = f"""
import signal, sys
signal.signal(signal.SIGINT, signal.default_int_handler)  # whatever the parent has set
sys.path.insert(0, {str(EXAMPLES)!r})
import text_report
from blazen import WorkflowBuilder
patient = WorkflowBuilder("text_report")
for name in ("find", "read", "cut", "count", "pair", "gather", "compare"):
    patient.step(getattr(text_report, name))
text_report.report_on = patient.step(text_report.embed, timeout=3600.0).build()
sys.exit(text_report.main([{str(tmp_path)!r}]))
"""
    process = subprocess.Popen(
        [sys.executable, "-c", program],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        encoding="utf-8",
        env=environment(),
    )
    assert process.stderr is not None
    for line in process.stderr:
        if line.startswith(f"{len(TEXTS) - 1} of"):
            break
    process.send_signal(signal.SIGINT)
    stdout, stderr = process.communicate(timeout=120)
    assert process.returncode == 130
    assert stdout == ""
    assert stderr == "text_report: interrupted; every step has stopped.\n"


def test_without_numpy_one_line_says_how_to_install_it() -> None:
    program = f"""
import runpy, sys
sys.modules["numpy"] = None
sys.path.insert(0, {str(EXAMPLES)!r})
runpy.run_path({str(SCRIPT)!r})
"""
    result = run(script=("-c", program))
    assert (result.returncode, result.stdout) == (1, "")
    assert result.stderr == "This example needs NumPy, which is not installed: python -m pip install numpy\n"
