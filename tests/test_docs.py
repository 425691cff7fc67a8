"""Runs the documentation: every ```python block of README.md and docs/*.md.

The blocks of one file run in order and share their names, as a reader would type them; `await` outside a function runs
in trio. A block that is followed by a line ``Output:`` and a ```text block must print exactly that text.
"""

from __future__ import annotations

import ast
import contextlib
import functools
import inspect
import io
import linecache
import re
import sys
import traceback
import types
import warnings
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import trio

ROOT = Path(__file__).resolve().parent.parent
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]

FENCE = re.compile(r"^(?P<indent> *)(?P<fence>`{3,}|~{3,})(?P<info>.*)$")


class Block(NamedTuple):
    """A fenced block: its language, the number of its first line, its text, and the last line of prose before it."""

    language: str
    line: int
    text: str
    heading: str


class Example(NamedTuple):
    """A block of code and what it must print; None where the page does not say."""

    line: int
    code: str
    output: str | None


def blocks_of(markdown: str) -> list[Block]:
    blocks: list[Block] = []
    heading = ""
    opened: re.Match[str] | None = None
    first = 0
    body: list[str] = []
    for number, line in enumerate(markdown.splitlines(), start=1):
        if opened is None:
            opened = FENCE.match(line)
            first, body = number + 1, []
            if opened is None and line.strip():
                heading = line.strip()
        elif re.fullmatch(rf" *{re.escape(opened['fence'])}[`~]* *", line):
            blocks.append(Block(opened["info"].strip(), first, "".join(body), heading))
            opened, heading = None, ""
        else:
            body.append(line.removeprefix(opened["indent"]) + "\n")
    if opened is not None:
        raise ValueError(f"line {first - 1}: a block is opened and never closed")
    return blocks


def examples_of(markdown: str) -> list[Example]:
    examples: list[Example] = []
    previous: Block | None = None
    for block in blocks_of(markdown):
        if block.language == "python":
            examples.append(Example(block.line, block.text, None))
        elif re.match(r"\{?\.?py", block.language, re.IGNORECASE):
            raise ValueError(
                f"line {block.line - 1}: write ```python, and nothing after it, instead of {block.language!r}"
            )
        elif block.language == "text" and block.heading == "Output:":
            if previous is None or previous.language != "python":
                raise ValueError(f"line {block.line - 1}: the output of which block? None of Python comes right before")
            examples[-1] = examples[-1]._replace(output=block.text)
        previous = block
    return examples


def run_example(example: Example, page: str, namespace: dict[str, Any]) -> str:
    """Run one block in `namespace` and return what it printed."""
    # Empty lines in front give every line of the block the number it has on the page.
    source = "\n" * (example.line - 1) + example.code
    code = compile(source, page, "exec", flags=ast.PyCF_ALLOW_TOP_LEVEL_AWAIT, dont_inherit=True)
    linecache.cache[page] = (len(source), None, source.splitlines(keepends=True), page)
    printed = io.StringIO()
    with contextlib.redirect_stdout(printed):
        if code.co_flags & inspect.CO_COROUTINE:
            trio.run(functools.partial(eval, code, namespace))
        else:
            exec(code, namespace)
    return printed.getvalue()


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_block_runs_and_prints_what_the_page_says(
    page: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.chdir(tmp_path)
    module = types.ModuleType("__main__")
    # For worker processes, which import the main script again; those of other tests have imported another one.
    module.__file__ = str(tmp_path / "page.py")
    if "trio_parallel" in sys.modules:
        with warnings.catch_warnings(action="ignore"):
            sys.modules["trio_parallel"].configure_default_context()
    # Where typing, msgspec and pickle look for the names of a program.
    monkeypatch.setitem(sys.modules, "__main__", module)
    examples = examples_of(page.read_text(encoding="utf-8"))
    Path(module.__file__).write_text("\n".join(example.code for example in examples), encoding="utf-8")
    for example in examples:
        printed = run_example(example, str(page), vars(module))
        if example.output is not None:
            assert printed == example.output, f"{page.name}:{example.line} prints something else"


def anchor_of(heading: str) -> str:
    """The anchor that GitHub gives a heading."""
    return re.sub(r"[^\w\- ]", "", heading.strip().lower()).replace(" ", "-")


def prose_of(markdown: str) -> str:
    """The page without its blocks of code."""
    return re.sub(r"^(`{3,}).*?^\1`*$", "", markdown, flags=re.MULTILINE | re.DOTALL)


def anchors_of(page: Path) -> set[str]:
    prose = prose_of(page.read_text(encoding="utf-8"))
    return {anchor_of(heading) for heading in re.findall(r"^#+ (.+)$", prose, re.MULTILINE)}


@pytest.mark.parametrize("page", [*PAGES, ROOT / "CONTRIBUTING.md", ROOT / "CHANGELOG.md"], ids=lambda page: page.name)
def test_every_link_to_a_page_or_a_heading_leads_somewhere(page: Path) -> None:
    prose = re.sub(r"`[^`\n]+`", "code", prose_of(page.read_text(encoding="utf-8")))
    links = re.findall(r"\]\(([^()\s]+)\)", prose)
    for link in links:
        path, _, anchor = link.partition("#")
        if ":" in path:  # of the web
            continue
        target = page.parent / path if path else page
        assert target.exists(), f"{page.name}: {link} leads nowhere"
        assert not anchor or anchor in anchors_of(target), f"{page.name}: {link} names no heading there"


PAGE = """\
Text.

```python
x = 1
```

1. In a list:

   ```python
   import trio
   await trio.sleep(0)
   print(x + 1)
   ```

Output:

```text
2
```

```text
not an output
```
"""


def test_blocks_share_names_and_may_await() -> None:
    first, second = examples_of(PAGE)
    assert (first.line, first.output, second.line, second.output) == (4, None, 10, "2\n")
    namespace: dict[str, Any] = {}
    assert run_example(first, "page.md", namespace) == ""
    assert run_example(second, "page.md", namespace) == "2\n"


def test_a_failing_block_is_reported_with_its_line_on_the_page() -> None:
    (example,) = examples_of("# Title\n\n```python\nx = 1\nx / 0\n```\n")
    with pytest.raises(ZeroDivisionError) as caught:
        run_example(example, "page.md", {})
    frame = traceback.extract_tb(caught.tb)[-1]
    assert (frame.filename, frame.lineno) == ("page.md", 5)


@pytest.mark.parametrize("info", ["python noexec", "py", "Python", "pycon", "{.python}"])
def test_a_block_of_python_cannot_be_left_out(info: str) -> None:
    with pytest.raises(ValueError, match="line 2: write ```python"):
        examples_of(f"Text.\n```{info}\nx\n```\n")


def test_an_unclosed_block_is_refused() -> None:
    with pytest.raises(ValueError, match="line 1: a block is opened"):
        examples_of("```python\nx = 1\n")


def test_output_without_a_program_is_refused() -> None:
    with pytest.raises(ValueError, match="line 3: the output of which block"):
        examples_of("Output:\n\n```text\n2\n```\n")
