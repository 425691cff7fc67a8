"""What tests of workflows need: virtual time, one step alone, asserts on events, cancellations and faults everywhere.

from blazen.testing import assert_events, cancel_everywhere, match, run_seeds, run_step, watch

The pytest plugin is `blazen.testing.plugin`; pytest finds it by itself where blazen is installed. Everything here needs
trio, which is loaded when the first name is used, so that the plugin costs a test run nothing that does not use it.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from blazen.testing.answers import UNANSWERED
    from blazen.testing.checkpoints import Checkpoint
    from blazen.testing.everywhere import InjectedFault, cancel_everywhere, fail_everywhere
    from blazen.testing.matching import assert_events, match
    from blazen.testing.one_step import StepOutcome, run_step, run_step_sync, run_step_with, run_step_with_sync
    from blazen.testing.scheduling import run_in_virtual_time, seeded_scheduler
    from blazen.testing.seeds import run_seeds
    from blazen.testing.stores import StoreSuite
    from blazen.testing.trial import RunOutcome
    from blazen.testing.watching import WatchedRun, watch

_HOMES = {
    "UNANSWERED": "answers",
    "Checkpoint": "checkpoints",
    "InjectedFault": "everywhere",
    "RunOutcome": "trial",
    "StepOutcome": "one_step",
    "StoreSuite": "stores",
    "WatchedRun": "watching",
    "assert_events": "matching",
    "cancel_everywhere": "everywhere",
    "fail_everywhere": "everywhere",
    "match": "matching",
    "run_in_virtual_time": "scheduling",
    "run_seeds": "seeds",
    "run_step": "one_step",
    "run_step_sync": "one_step",
    "run_step_with": "one_step",
    "run_step_with_sync": "one_step",
    "seeded_scheduler": "scheduling",
    "watch": "watching",
}

__all__ = [
    "UNANSWERED",
    "Checkpoint",
    "InjectedFault",
    "RunOutcome",
    "StepOutcome",
    "StoreSuite",
    "WatchedRun",
    "assert_events",
    "cancel_everywhere",
    "fail_everywhere",
    "match",
    "run_in_virtual_time",
    "run_seeds",
    "run_step",
    "run_step_sync",
    "run_step_with",
    "run_step_with_sync",
    "seeded_scheduler",
    "watch",
]


def __getattr__(name: str) -> Any:
    if name in _HOMES:
        return getattr(importlib.import_module(f"blazen.testing.{_HOMES[name]}"), name)
    raise AttributeError(f"module 'blazen.testing' has no attribute {name!r}")
