"""What can be known of process steps before anything runs: whether another process can be handed them at all."""

from __future__ import annotations

import os
import sys
import types
from typing import Any

from blazen.errors import ValidationError
from blazen.graph import Graph
from blazen.hints import is_event_class
from blazen.retry import show
from blazen.steps import StepSpec

INSTALL = "pip install 'blazen[process]'"


def check_process_steps(graph: Graph) -> None:
    """Check that the steps with ``run="process"`` can be handed to a worker process, and the events they name too.

    Raises:
        ValidationError: What runs worker processes is not installed; or a step's function, the object it is bound to,
            or an event class it accepts or emits cannot be pickled. Names the workflow, the step and what to do.
    """
    from importlib.util import find_spec

    for spec in graph.specs:
        if spec.run != "process":
            continue
        where = f"workflow {graph.name!r}: step {spec.name!r}"
        if find_spec("trio_parallel") is None:
            raise ValidationError(
                f"{where} has run='process', which needs trio-parallel, and that is not installed: {INSTALL}"
            )
        _check_main(where)
        _check_function(where, spec)
        for event in (*spec.accepts, *(spec.emits or ())):
            if is_event_class(event):
                _check_reference(where, f"its event {event.__name__}", event)


def _check_function(where: str, spec: StepSpec) -> None:
    fn = spec.fn
    if not isinstance(fn, types.MethodType):
        _check_reference(where, "its function", fn)
        return
    owner = fn.__self__
    _check_reference(where, "the class of its object", owner if isinstance(owner, type) else type(owner))
    problem = problem_of(fn)
    if problem is not None:
        raise ValidationError(
            f"{where} is a method of {show(owner)}, which is pickled for each call of a process step and cannot "
            f"be: {problem}; make the step a function at the top level of a module, or take what cannot be pickled out "
            "of the object (__getstate__)"
        )


def _check_reference(where: str, what: str, target: Any) -> None:
    """Check a function or class, of which another process is told only the module and the name."""
    name = f"{target.__module__}.{target.__qualname__}"
    problem = problem_of(target)
    if problem is not None:
        raise ValidationError(
            f"{where} has run='process', and {what} cannot be found by a worker process under its name {name}: "
            f"{problem}; define it with def or class at the top level of a module, under that name, and leave it there"
        )
    if target.__module__ == "__main__" and _main_file() is None:
        raise ValidationError(
            f"{where} has run='process', and {what}, {name}, was typed at a prompt or given with -c, where a worker "
            "process cannot find it: put it into a file"
        )


def _check_main(where: str) -> None:
    """Check that the main module can be imported again, with which `multiprocessing` begins each worker process."""
    from multiprocessing import process

    path = _main_file()
    began_in: str = getattr(process, "ORIGINAL_DIR", None) or ""  # what it takes a relative path against
    if path is not None and not os.path.exists(os.path.join(began_in, path)):
        raise ValidationError(
            f"{where} has run='process', and a worker process cannot import the main script again, because there is no "
            f"file {path!r}: put the program into a file and run that"
        )


def _main_file() -> str | None:
    """Where the main module came from; None if nobody but this process has it, as at a prompt."""
    main = sys.modules["__main__"]
    if getattr(getattr(main, "__spec__", None), "name", None) is not None:
        return __file__  # started with -m: imported again by its name
    path: str | None = getattr(main, "__file__", None)
    return path


def problem_of(target: object) -> str | None:
    """Why something cannot be pickled, in a few words; None if it can."""
    import pickle

    try:
        pickle.dumps(target, pickle.HIGHEST_PROTOCOL)
    except Exception as exc:  # whatever a __reduce__ or __getstate__ of the user's raises
        return f"{type(exc).__name__}: {exc}"
    return None
