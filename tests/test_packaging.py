"""What is shipped: the sdist, the wheel, and what `import blazen` costs and says."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import tarfile
import tomllib
import zipfile
from collections.abc import Sequence
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
CORE_MODULES = sorted(path.stem for path in (ROOT / "blazen" / "_core").glob("*.pyx"))
IN_CI = any(os.environ.get(name, "") not in ("", "0", "false") for name in ("CI", "BLAZEN_REQUIRE_ALL"))

WHEEL_LIMIT = 3 * 1024 * 1024
HELLO = """
from blazen import StartEvent, StopEvent, Workflow, step

@step
async def greet(ev: StartEvent) -> StopEvent:
    return StopEvent(result=f"Hello, {ev.name}!")

print(Workflow("greeter", [greet]).run_sync(name="Ada").result)
"""
# Only what needs to be loaded before a first run: each of these costs milliseconds that many programs never get back.
LATE_MODULES = {"trio", "asyncio", "numpy", "cffi", "inspect", "dataclasses", "uuid", "logging", "click", "rich"}


def clean_environment() -> dict[str, str]:
    """This environment without what would bring modules from outside a virtual environment, or change its pip."""
    leaks = {"PYTHONPATH", "PYTHONHOME", "VIRTUAL_ENV", "PIP_TARGET", "PIP_PREFIX", "PIP_NO_DEPS", "PIP_CONSTRAINT"}
    return {name: value for name, value in os.environ.items() if name not in leaks} | {"PIP_USER": "0"}


def run(command: Sequence[str | Path], *, cwd: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        command, cwd=cwd, env=clean_environment(), stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False
    )


def run_or_fail(command: Sequence[str | Path], *, cwd: Path) -> str:
    done = run(command, cwd=cwd)
    assert done.returncode == 0, f"{command} failed:\n{done.stdout}\n{done.stderr}"
    return done.stdout


@pytest.fixture(scope="session")
def distributions(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """A new sdist, and the wheel that is built from that sdist alone."""
    pytest.importorskip("build", reason="the package build is installed in .venv only")
    tree = tmp_path_factory.mktemp("checkout") / "blazen"
    # A copy, so that objects and generated C of the checkout can neither help nor disturb.
    leave_out = shutil.ignore_patterns(
        ".venv*", ".git", "build", "dist", "__pycache__", ".*_cache", ".hypothesis", "*.so", "*.egg-info", ".coverage*"
    )
    shutil.copytree(ROOT, tree, ignore=leave_out)
    for generated in (tree / "blazen" / "_core").glob("*.c"):
        generated.unlink()
    out = tmp_path_factory.mktemp("dist")
    run_or_fail([sys.executable, "-m", "build", "--no-isolation", "--outdir", out], cwd=tree)
    (sdist,) = out.glob("*.tar.gz")
    (wheel,) = out.glob("*.whl")
    return sdist, wheel


@pytest.mark.slow
def test_the_wheel_is_small_and_holds_the_package_only(distributions: tuple[Path, Path]) -> None:
    _, wheel = distributions
    assert wheel.stat().st_size <= WHEEL_LIMIT
    with zipfile.ZipFile(wheel) as archive:
        names = archive.namelist()
    top = {name.split("/")[0] for name in names}
    assert top == {"blazen", f"blazen-{PROJECT['version']}.dist-info"}
    shipped = {Path(name).suffix for name in names if name.startswith("blazen/")}
    assert shipped <= {".py", ".pyi", ".pxd", ".so", ".typed", ".html", ".css", ".js"}
    viewer = {f"blazen/viewer/{path.name}" for path in (ROOT / "blazen" / "viewer").iterdir()}
    assert viewer == {name for name in names if name.startswith("blazen/viewer/")}
    assert "blazen/py.typed" in names
    assert any(name.endswith("dist-info/licenses/LICENSE") for name in names)
    for module in CORE_MODULES:
        assert any(re.fullmatch(rf"blazen/_core/{module}\..*\.so", name) for name in names), module


@pytest.mark.slow
def test_the_stubs_of_the_core_are_in_the_wheel(distributions: tuple[Path, Path]) -> None:
    _, wheel = distributions
    with zipfile.ZipFile(wheel) as archive:
        names = set(archive.namelist())
    assert {path.relative_to(ROOT).as_posix() for path in (ROOT / "blazen").rglob("*.pyi")} <= names


@pytest.mark.slow
def test_the_sdist_holds_all_sources_and_nothing_generated(distributions: tuple[Path, Path]) -> None:
    sdist, _ = distributions
    with tarfile.open(sdist) as archive:
        names = {name.partition("/")[2] for name in archive.getnames()}
    kinds = {".py", ".pyi", ".pyx", ".pxd", ".h", ".md", ".sh", ".typed", ".html", ".css", ".js"}
    expected = {"Makefile", "LICENSE", "README.md", "CHANGELOG.md", "pyproject.toml", "setup.py", ".ci/run"}
    expected |= {"requirements-dev.txt", "requirements-test.txt"}
    for folder in ("blazen", "csrc", "tests", "docs", "examples", "benchmarks", "scripts"):
        expected |= {
            path.relative_to(ROOT).as_posix()
            for path in (ROOT / folder).rglob("*")
            if path.suffix in kinds and "build" not in path.relative_to(ROOT).parts
        }
    expected |= {path.relative_to(ROOT).as_posix() for path in (ROOT / "csrc").glob("*.c")}
    assert expected <= names, sorted(expected - names)
    assert not [name for name in names if name.endswith((".so", ".o", ".pyc")) or name.startswith("build/")]
    assert not [name for name in names if name.startswith("blazen/") and name.endswith(".c")]


@pytest.mark.slow
def test_the_sdist_installs_in_an_empty_environment_and_runs_a_workflow(
    distributions: tuple[Path, Path], tmp_path: Path
) -> None:
    sdist, _ = distributions
    run_or_fail([sys.executable, "-m", "venv", tmp_path / "empty"], cwd=tmp_path)
    python = tmp_path / "empty" / "bin" / "python"
    pins = ["--constraint", str(ROOT / "requirements-test.txt")]
    first = run([python, "-m", "pip", "install", "--retries", "1", *pins, *PROJECT["dependencies"]], cwd=tmp_path)
    if first.returncode != 0 and "connection broken" in first.stderr and not IN_CI:
        pytest.skip("no connection to a package index to install the dependencies from")
    assert first.returncode == 0, first.stderr
    # No option about isolation: pip builds as it does for a user, with build tools it fetches itself.
    run_or_fail([python, "-m", "pip", "install", *pins, sdist], cwd=tmp_path)
    listed = run_or_fail([python, "-m", "pip", "list", "--format=freeze"], cwd=tmp_path).lower()
    for absent in ("numpy", "cython", "pytest"):
        assert f"{absent}==" not in listed
    assert run_or_fail([python, "-I", "-c", HELLO], cwd=tmp_path) == "Hello, Ada!\n"


def test_the_run_time_dependencies_are_three() -> None:
    names = [re.split(r"[<>=~! ]", dependency)[0] for dependency in PROJECT["dependencies"]]
    assert sorted(names) == ["cffi", "msgspec", "trio"]


def test_the_changelog_has_an_entry_for_the_version() -> None:
    assert f"\n## [{PROJECT['version']}]" in (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")


def test_importing_blazen_loads_no_more_than_msgspec_and_the_core() -> None:
    # What msgspec itself loads is not ours to save; all else counts.
    code = "import sys, msgspec, typing; before = set(sys.modules); import blazen; print(*set(sys.modules) - before)"
    loaded = set(run_or_fail([sys.executable, "-c", code], cwd=ROOT).split())
    assert "blazen" in loaded
    assert not loaded & LATE_MODULES


def test_without_the_compiled_core_the_import_names_cause_and_command(tmp_path: Path) -> None:
    shutil.copytree(ROOT / "blazen", tmp_path / "blazen", ignore=shutil.ignore_patterns("*.so", "__pycache__"))
    done = run([sys.executable, "-c", "import blazen"], cwd=tmp_path)
    assert done.returncode != 0
    last = done.stderr.strip().splitlines()[-1]
    assert last.startswith("ImportError: ")
    assert "compiled" in last
    assert "make build" in last
