"""The rooms of the code import one way: csrc <- blazen/_core <- blazen/engine <- blazen <- blazen/cli."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pytest

ROOT = Path(__file__).resolve().parent.parent
CORE = ROOT / "blazen" / "_core"
ENGINE = ROOT / "blazen" / "engine"
STORE = ROOT / "blazen" / "store"
CLI = ROOT / "blazen" / "cli"
ASYNCIO = ROOT / "blazen" / "asyncio"

# The modules of blazen that the lower rooms share: they hold what events, errors, steps, records and snapshots are,
# and run nothing.
SHARED_BY_CORE = {"blazen.errors", "blazen.events"}
SHARED_BY_ENGINE = {*SHARED_BY_CORE, "blazen.steps", "blazen.graph", "blazen.record", "blazen.snapshot"}

CYTHON_IMPORT = re.compile(
    r"^(?P<indent>\s*)(?:from\s+(?P<source>[\w.]+)\s+c?import\s+(?P<names>.+)|c?import\s+(?P<modules>.+))$"
)
C_INCLUDE = re.compile(r'^\s*#\s*include\s*([<"])([^>"]+)[>"]', re.MULTILINE)


class Import(NamedTuple):
    """One imported module, and whether importing the importer is enough to import it."""

    module: str
    line: int
    at_module_level: bool


def resolve(source: str, package: str) -> str:
    """The absolute name of `source` as a module of `package` writes it: ``.queue`` is ``blazen._core.queue``."""
    dots = len(source) - len(source.lstrip("."))
    if not dots:
        return source
    return ".".join([*package.split(".")[: len(package.split(".")) - dots + 1], source.lstrip(".")]).rstrip(".")


def imported_names(source: str, names: list[str]) -> Iterator[str]:
    """The modules that ``from source import names`` may mean: from a package each name can be a module of its own."""
    if (ROOT / source.replace(".", "/")).is_dir():
        for name in names:
            yield f"{source}.{name}"
    else:
        yield source


def python_imports(code: str, package: str) -> Iterator[Import]:
    tree = ast.parse(code)
    inner = {
        id(node)
        for function in ast.walk(tree)
        if isinstance(function, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda)
        for node in ast.walk(function)
    }
    for node in ast.walk(tree):
        at_module_level = id(node) not in inner
        if isinstance(node, ast.Import):
            for alias in node.names:
                yield Import(alias.name, node.lineno, at_module_level)
        elif isinstance(node, ast.ImportFrom):
            source = resolve("." * node.level + (node.module or ""), package)
            for name in imported_names(source, [alias.name for alias in node.names]):
                yield Import(name, node.lineno, at_module_level)


def cython_imports(code: str, package: str) -> Iterator[Import]:
    # Names in parentheses over several lines become one line; the count of lines stays right up to there.
    joined = re.sub(r"\(([^()]*)\)", lambda names: "(" + names[1].replace("\n", " ") + ")", code)
    for number, line in enumerate(joined.splitlines(), start=1):
        found = CYTHON_IMPORT.match(line.split("#")[0].rstrip())
        if not found:
            continue
        at_module_level = not found["indent"]
        if found["modules"]:
            for module in found["modules"].split(","):
                yield Import(module.split(" as ")[0].strip(), number, at_module_level)
        else:
            names = [name.split(" as ")[0].strip() for name in found["names"].strip("() ").split(",") if name.strip()]
            for name in imported_names(resolve(found["source"], package), names):
                yield Import(name, number, at_module_level)


def imports_of(path: Path) -> list[Import]:
    package = ".".join(path.parent.relative_to(ROOT).parts)
    read = python_imports if path.suffix == ".py" else cython_imports
    return list(read(path.read_text(encoding="utf-8"), package))


def is_in(module: str, room: str) -> bool:
    return module == room or module.startswith(room + ".")


def is_one_of(module: str, rooms: set[str]) -> bool:
    return any(is_in(module, room) for room in rooms)


def name_of(path: Path) -> str:
    return str(path.relative_to(ROOT))


CORE_FILES = sorted(path for kind in ("*.pyx", "*.pxd", "*.py") for path in CORE.glob(kind))
STORE_FILES = sorted(STORE.rglob("*.py"))
ENGINE_FILES = sorted(ENGINE.rglob("*.py"))
PACKAGE_FILES = sorted((ROOT / "blazen").rglob("*.py"))
C_FILES = sorted(path for kind in ("*.c", "*.h") for path in (ROOT / "csrc").glob(kind))


@pytest.mark.parametrize("path", C_FILES, ids=name_of)
def test_the_c_part_knows_nothing_of_python(path: Path) -> None:
    includes = C_INCLUDE.findall(path.read_text(encoding="utf-8"))
    assert "Python.h" not in [header for _, header in includes]
    for quote, header in includes:
        assert quote == "<" or (path.parent / header).is_file(), f"{name_of(path)} includes {header}, not of csrc"


@pytest.mark.parametrize("path", CORE_FILES, ids=name_of)
def test_the_core_imports_nothing_above_it(path: Path) -> None:
    for module, line, at_module_level in imports_of(path):
        where = f"{name_of(path)}:{line} imports {module}"
        if is_in(module, "blazen"):
            assert is_in(module, "blazen._core") or is_one_of(module, SHARED_BY_CORE), where
            assert is_in(module, "blazen._core") or not at_module_level, f"{where} at module level"
        assert not (is_in(module, "trio") and at_module_level), f"{where} at module level"


@pytest.mark.parametrize("path", ENGINE_FILES, ids=name_of)
def test_the_engine_imports_the_core_and_what_events_and_steps_are(path: Path) -> None:
    allowed = {"blazen._core", "blazen.engine", *SHARED_BY_ENGINE}
    for module, line, _ in imports_of(path):
        if is_in(module, "blazen"):
            assert is_one_of(module, allowed), f"{name_of(path)}:{line} imports {module}"


@pytest.mark.parametrize("path", STORE_FILES, ids=name_of)
def test_a_store_knows_nothing_of_what_it_keeps(path: Path) -> None:
    allowed = {"blazen._core", "blazen.errors", "blazen.events", "blazen.store"}
    for module, line, _ in imports_of(path):
        if is_in(module, "blazen"):
            assert is_one_of(module, allowed), f"{name_of(path)}:{line} imports {module}"


@pytest.mark.parametrize("path", [path for path in PACKAGE_FILES if CLI not in path.parents], ids=name_of)
def test_only_the_command_line_imports_itself_and_what_it_alone_needs(path: Path) -> None:
    for module, line, _ in imports_of(path):
        where = f"{name_of(path)}:{line} imports {module}"
        assert not is_one_of(module, {"click", "rich"}), where
        assert not is_in(module, "blazen.cli") or path.name == "__main__.py", where


@pytest.mark.parametrize("path", PACKAGE_FILES, ids=name_of)
def test_the_package_imports_no_test_example_or_benchmark(path: Path) -> None:
    for module, line, _ in imports_of(path):
        assert not is_one_of(module, {"tests", "examples", "benchmarks"}), f"{name_of(path)}:{line} imports {module}"


@pytest.mark.parametrize("path", [path for path in PACKAGE_FILES if ASYNCIO not in path.parents], ids=name_of)
def test_asyncio_is_imported_where_it_is_needed(path: Path) -> None:
    crossing = {"asyncio_steps", "asyncio_thread", "crossing"}
    crosses = path.parent == ENGINE and path.stem in crossing
    for module, line, at_module_level in imports_of(path):
        where = f"{name_of(path)}:{line} imports {module}"
        assert not is_in(module, "blazen.asyncio"), where
        assert not is_in(module, "asyncio") or crosses, where
        if is_one_of(module, {f"blazen.engine.{name}" for name in crossing}):
            assert crosses or not at_module_level, f"{where} at module level"


@pytest.mark.parametrize("path", PACKAGE_FILES, ids=name_of)
def test_the_test_kit_is_imported_by_itself_alone(path: Path) -> None:
    if path.is_relative_to(ROOT / "blazen" / "testing"):
        return
    for module, line, _ in imports_of(path):
        assert not is_in(module, "blazen.testing"), f"{name_of(path)}:{line} imports {module}"


def test_the_reader_of_imports_sees_each_way_of_writing_one() -> None:
    python = "import trio\nfrom . import queue\nfrom ..events import Event\ndef f():\n    from blazen import workflow\n"
    assert list(python_imports(python, "blazen._core")) == [
        Import("trio", 1, True),
        Import("blazen._core.queue", 2, True),
        Import("blazen.events", 3, True),
        Import("blazen.workflow", 5, False),
    ]
    cython = (
        "from blazen._core.queue cimport EventQueue  # the queue\n"
        "cimport cython, libc.stdint as stdint\n"
        "from blazen cimport (\n    engine,\n    events as e,\n)\n"
        "cdef f():\n    import trio\n"
    )
    assert [(found.module, found.at_module_level) for found in cython_imports(cython, "blazen._core")] == [
        ("blazen._core.queue", True),
        ("cython", True),
        ("libc.stdint", True),
        ("blazen.engine", True),
        ("blazen.events", True),
        ("trio", False),
    ]
