"""What a type checker tells users: nothing about typical uses, the right words about mistakes."""

from __future__ import annotations

import importlib.util
import os
import re
from pathlib import Path

import pytest
import trio

HERE = Path(__file__).resolve().parent / "typing"
CONFIG = str(HERE.parent.parent / "pyproject.toml")


def check(*paths: Path) -> list[str]:
    """The lines of mypy's report on some files."""
    if os.environ.get("BLAZEN_REQUIRE_ALL") != "1":
        pytest.importorskip("mypy")
    from mypy import api

    report, trouble, _ = api.run(["--config-file", CONFIG, *map(str, paths)])
    assert not trouble
    return report.splitlines()


@pytest.mark.slow
def test_typical_uses_pass_strict_checking() -> None:
    assert check(HERE / "uses.py") == ["Success: no issues found in 1 source file"]


@pytest.mark.slow
def test_every_mistake_is_found_and_nothing_else(tmp_path: Path) -> None:
    text = re.sub(r"  # type: ignore\[[a-z, -]+\]", "", (HERE / "mistakes.py").read_text(encoding="utf-8"))
    copied = tmp_path / "mistakes.py"
    copied.write_text(text, encoding="utf-8")
    found: dict[int, list[str]] = {}
    for line in check(copied):
        report = re.match(r".*mistakes\.py:(\d+): error: (.*)", line)
        if report:
            found.setdefault(int(report[1]), []).append(report[2])
    expected = {
        number: line.partition("# E: ")[2] for number, line in enumerate(text.splitlines(), 1) if "# E: " in line
    }
    assert len(expected) >= 45
    assert found.keys() == expected.keys()
    for number, words in expected.items():
        assert any(words in message for message in found[number]), (number, words, found[number])


def test_typical_uses_do_what_their_types_say() -> None:
    spec = importlib.util.spec_from_file_location("typical_uses", HERE / "uses.py")
    assert spec is not None
    assert spec.loader is not None
    uses = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(uses)
    uses.events()
    assert uses.build().run_sync(name="Ada").result == "Hello, Ada!"
    trio.run(uses.run)
    trio.run(uses.watch_run)
    trio.run(uses.test_kit)
