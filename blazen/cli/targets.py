"""From ``module:workflow`` or ``path/to/file.py:workflow`` to the workflow."""

from __future__ import annotations

import difflib
import importlib
import importlib.util
import os
import sys
from pathlib import Path
from types import FunctionType, ModuleType
from typing import Any, NamedTuple

from blazen import Event, Workflow, WorkflowBuilder
from blazen.cli.messages import Mistake, Traceback, has_own_frames_only, shown_path, traceback_text


class Target(NamedTuple):
    """What was named: a module or a file, and an attribute of it, None for the module as a whole."""

    text: str
    source: str
    attribute: str | None
    is_file: bool


class ImportFailed(Mistake):
    """The module raised while it was imported. Its `traceback` says where, in the user's code."""

    def __init__(self, message: str, error: BaseException, traceback: str) -> None:
        super().__init__(message)
        self.error = error
        self.traceback = traceback


def parse_target(text: str) -> Target:
    """Take a target apart.

    Raises:
        Mistake: It has an empty part.
    """
    if text.endswith(".py"):
        return Target(text, text, None, True)
    source, colon, attribute = text.rpartition(":")
    if not colon:
        source, attribute = text, ""
    is_file = source.endswith(".py") or os.sep in source or _is_no_module(source)
    if not source.strip() or (colon and not attribute.strip()):
        raise Mistake(f"{text!r} names no workflow; write module:workflow or path/to/file.py:workflow")
    return Target(text, source, attribute if colon else None, is_file)


def _is_no_module(source: str) -> bool:
    """Whether a name with dots can only be that of a file: to look for `notes` in `notes.txt` would import it."""
    return "." in source and (not all(source.split(".")) or os.path.isfile(source))


def load_module(target: Target, kind: Traceback = "short") -> ModuleType:
    """Import the module or file of a target. The current directory is importable.

    Raises:
        ImportFailed: It raised; the user's own code, or what that imports.
        Mistake: There is no such module or file.
    """
    try:
        here = os.getcwd()
    except OSError as error:
        raise Mistake(f"the current directory cannot be read: {error.strerror}") from None
    if here not in sys.path:
        sys.path.insert(0, here)
    name, path = _name_of_file(target) if target.is_file else (target.source, None)
    try:
        return _import(name, path)
    except (KeyboardInterrupt, GeneratorExit):
        raise
    except BaseException as error:
        if isinstance(error, ModuleNotFoundError) and _is_missing_itself(name, error):
            raise _no_module(target, error) from None
        raise ImportFailed(
            f"{target.source!r} cannot be imported: {_short(error)}", error, traceback_text(error, kind)
        ) from None


def _short(error: BaseException) -> str:
    if isinstance(error, SystemExit):
        return f"it ends the process (SystemExit: {error.code}); what a script does goes below `if __name__ == ...`"
    return f"{type(error).__name__}: {error}"


def _import(name: str, path: Path | None) -> ModuleType:
    if path is None:
        return importlib.import_module(name)
    loaded = sys.modules.get(name)
    if loaded is not None:
        return loaded
    if "." in name:  # in a package: its __init__ comes first
        return importlib.import_module(name)
    spec = importlib.util.spec_from_file_location(name, path)
    if spec is None or spec.loader is None:
        raise ImportError(f"{path} is no Python module")
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module  # as an import would: classes are found again by module and name
    try:
        spec.loader.exec_module(module)
    except BaseException:
        sys.modules.pop(name, None)
        raise
    return module


def _name_of_file(target: Target) -> tuple[str, Path]:
    """The name a file is imported by, with its folder (or that of its package) in front of the import path."""
    path = Path(target.source)
    if not path.is_file():
        what = "this is a directory; name a file in it" if path.is_dir() else "there is no such file"
        raise Mistake(f"{target.source!r}: {what}")
    if path.suffix != ".py":
        raise Mistake(f"{target.source!r}: a file must end in .py")
    path = path.resolve()
    parts = [path.stem]
    folder = path.parent
    while (folder / "__init__.py").is_file():
        parts.insert(0, folder.name)
        folder = folder.parent
    if parts[-1] == "__init__":
        parts.pop()
    name = ".".join(parts)
    loaded = sys.modules.get(name)
    if loaded is not None and not _is_module_of(loaded, path):
        raise Mistake(f"{target.source!r}: another module is called {name!r} and loaded already; rename the file")
    if str(folder) not in sys.path:
        sys.path.insert(0, str(folder))
    return name, path


def _is_module_of(module: ModuleType, path: Path) -> bool:
    file = getattr(module, "__file__", None)
    return file is not None and Path(file).resolve() == path


def _is_missing_itself(name: str, error: ModuleNotFoundError) -> bool:
    """Whether the module that was asked for is missing, and not one that it imports."""
    missing = error.name or ""
    return (name == missing or name.startswith(missing + ".")) and has_own_frames_only(error.__traceback__)


def _no_module(target: Target, error: ModuleNotFoundError) -> Mistake:
    package, _, last = target.source.rpartition(".")
    if package and error.name == target.source and package in sys.modules and hasattr(sys.modules[package], last):
        return Mistake(f"there is no module {target.source!r}; did you mean {package}:{last}?")
    nearby = {path.stem for path in Path.cwd().glob("*.py")} | {
        path.parent.name for path in Path.cwd().glob("*/__init__.py")
    }
    close = difflib.get_close_matches(target.source, sorted(nearby), n=1)
    hint = f"did you mean {close[0]!r}?" if close else "it is neither installed nor in the current directory"
    return Mistake(f"there is no module {error.name or target.source!r}; {hint}")


# --- attributes


def workflows_of(module: ModuleType) -> dict[str, Workflow[Any]]:
    """The workflows of a module by the name they have there, each once."""
    found: dict[int, tuple[str, Workflow[Any]]] = {}
    for name, value in vars(module).items():
        if isinstance(value, Workflow):
            found.setdefault(id(value), (name, value))
    return dict(found.values())


def load_workflow(text: str, kind: Traceback = "short") -> Workflow[Any]:
    """The workflow that a target names. A module that has exactly one need not be followed by its name.

    Raises:
        Mistake: There is none; the message says what is there instead.
    """
    target = parse_target(text)
    module = load_module(target, kind)
    if target.attribute is None:
        return _only_workflow(target, module)
    return find_workflow(target, module)


def _only_workflow(target: Target, module: ModuleType) -> Workflow[Any]:
    found = workflows_of(module)
    if len(found) == 1:
        return next(iter(found.values()))
    if not found:
        raise Mistake(no_workflow_in(target))
    listed = ", ".join(f"{target.source}:{name}" for name in found)
    raise Mistake(f"{target.source!r} has {len(found)} workflows; name one of {listed}")


def no_workflow_in(target: Target) -> str:
    """What to say of a module that has no workflow."""
    return f"{target.source!r} has no workflow at module level, such as `greeter = Workflow('greeter', [...])`"


def find_workflow(target: Target, module: ModuleType) -> Workflow[Any]:
    """The workflow that the attribute of a target names.

    Raises:
        Mistake: There is no such attribute, or it is something else.
    """
    assert target.attribute is not None
    value: object = module
    for part in target.attribute.split("."):
        try:
            value = getattr(value, part)
        except AttributeError:
            raise Mistake(_no_attribute(target, module)) from None
    if isinstance(value, Workflow):
        return value
    raise Mistake(f"{target.text!r} is no workflow: {_what_it_is(target.attribute, value)}")


def _no_attribute(target: Target, module: ModuleType) -> str:
    attribute = target.attribute or ""
    found = list(workflows_of(module))
    close = difflib.get_close_matches(attribute, found, n=1)
    if close:
        hint = f"did you mean {target.source}:{close[0]}?"
    elif found:
        hint = f"its workflows are {', '.join(found)}"
    else:
        hint = "and no workflow at module level"
    file = getattr(module, "__file__", None)
    where = f" ({shown_path(file)})" if file and not target.is_file else ""
    return f"{target.source!r}{where} has no {attribute!r}{';' if found else ','} {hint}"


def _what_it_is(name: str, value: object) -> str:
    if isinstance(value, WorkflowBuilder):
        return f"it is a WorkflowBuilder; build it in the module, `workflow = {name}.build()`, and name that"
    if isinstance(value, type):
        kind = "an event class" if issubclass(value, Event) else "a class"
        return f"it is {kind}; name a Workflow object"
    if isinstance(value, ModuleType):
        return f"it is a module; name a workflow in it: {value.__name__}:..."
    if hasattr(value, "__blazen_step__"):
        return f"it is a step; put it into one, `workflow = Workflow('name', [{name}])`, and name that"
    if isinstance(value, FunctionType) or callable(value):
        return f"it is a function; if it returns one, call it in the module, `workflow = {name}()`, and name that"
    return f"it is of type {type(value).__name__}"
