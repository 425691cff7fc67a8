"""How a run has ended, as its store has it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from blazen._core import codec
from blazen.durability.loading import read_head
from blazen.engine.result import RunId, Totals, WorkflowResult
from blazen.errors import CancelledError, PersistError, ValidationError, WorkflowError
from blazen.events import StopEvent
from blazen.store.base import ENDED

if TYPE_CHECKING:
    from blazen.store.base import CheckpointStore


async def result_of(store: CheckpointStore, run_id: str, classes: codec.ClassTable) -> WorkflowResult[Any]:
    """The result of a run that has ended. Raises what `Workflow.result_of` says."""
    stored = await store.load(run_id)
    info = stored.info
    if info.state not in ENDED:
        raise ValidationError(f"run {run_id} of workflow {info.workflow!r} has no result yet: it is {info.state}")
    if info.state == "cancelled":
        raise CancelledError((info.error or "").partition(": ")[2].strip() or None, run_id=run_id)
    if info.state == "failed" or info.result is None:
        raise WorkflowError(f"run {run_id} of workflow {info.workflow!r} failed: {info.error}", run_id=run_id)
    event = codec.decode(info.result, classes=classes, trust_native=store.trust_native)
    if not isinstance(event, StopEvent):
        raise PersistError(f"run {run_id} is damaged in the store: its result is no StopEvent")
    head = read_head(stored, classes)
    totals = None
    if head.usage is not None:
        totals = Totals()
        totals.input_tokens, totals.output_tokens, totals.cost_usd = head.usage
    return WorkflowResult(event, RunId(run_id), totals, None)
