"""blazen: an event-driven workflow engine that you embed.

from blazen import Context, Event, StartEvent, StopEvent, Workflow, step
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

try:
    from blazen._core.run import Context
    from blazen._core.state import StateValue
except ImportError as exc:
    raise ImportError(
        f"the compiled core of blazen cannot be loaded ({exc}); it was probably not built for this Python: run "
        "`make build` in a checkout, or install blazen anew with `python -m pip install --force-reinstall blazen`"
    ) from exc

from blazen import errors
from blazen.errors import BlazenError
from blazen.events import (
    DynamicEvent,
    Event,
    InputRequestEvent,
    InputResponseEvent,
    ProgressEvent,
    StartEvent,
    StepRecord,
    StopEvent,
    StreamGap,
    UsageEvent,
)
from blazen.steps import Retry, step
from blazen.workflow import Workflow, WorkflowBuilder

if TYPE_CHECKING:
    from blazen.durability.service import Recovered, recover, serve
    from blazen.engine.handler import RunHandler
    from blazen.engine.result import WorkflowResult
    from blazen.migrations import ParkedRun
    from blazen.snapshot import Snapshot
    from blazen.state import BlazenState, CallbackFieldStore
    from blazen.store import CheckpointStore, MemoryStore, SqliteStore

__version__ = "0.1.0"

__all__ = [
    "BlazenError",
    "BlazenState",
    "CallbackFieldStore",
    "CheckpointStore",
    "Context",
    "DynamicEvent",
    "Event",
    "InputRequestEvent",
    "InputResponseEvent",
    "MemoryStore",
    "ProgressEvent",
    "ParkedRun",
    "Recovered",
    "Retry",
    "RunHandler",
    "Snapshot",
    "SqliteStore",
    "StartEvent",
    "StateValue",
    "StepRecord",
    "StopEvent",
    "StreamGap",
    "UsageEvent",
    "Workflow",
    "WorkflowBuilder",
    "WorkflowResult",
    "errors",
    "recover",
    "serve",
    "step",
]


def __getattr__(name: str) -> Any:
    # The engine imports trio, which takes ten times as long as all of blazen: only when it is needed.
    if name == "RunHandler":
        from blazen.engine.handler import RunHandler

        return RunHandler
    if name == "WorkflowResult":
        from blazen.engine.result import WorkflowResult

        return WorkflowResult
    if name == "Snapshot":
        from blazen.snapshot import Snapshot

        return Snapshot
    if name in ("BlazenState", "CallbackFieldStore"):  # dataclasses take longer to import than most programs need them
        from blazen import state

        return getattr(state, name)
    if name in ("CheckpointStore", "MemoryStore", "SqliteStore"):
        from blazen import store

        return getattr(store, name)
    if name == "ParkedRun":
        from blazen.migrations import ParkedRun

        return ParkedRun
    if name in ("Recovered", "recover", "serve"):
        from blazen.durability import service

        return getattr(service, name)
    from blazen import errors

    if name in errors.__all__:
        return getattr(errors, name)
    raise AttributeError(f"module 'blazen' has no attribute {name!r}")
