"""A run whose stream and step records are written down."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Generic, TypeVar

import trio

from blazen.engine.failures import without_cancelled
from blazen.events import StepRecord
from blazen.testing.answers import Answerer, Answers

if TYPE_CHECKING:
    from types import TracebackType

    from blazen._core.stream import StreamIterator
    from blazen.engine.handler import RunHandler
    from blazen.engine.result import WorkflowResult
    from blazen.workflow import Workflow

Out = TypeVar("Out")


class WatchedRun(Generic[Out]):
    """What `watch` gives: a run, and what has been seen of it so far.

    Attributes:
        stream: The events of its stream, in order. All of them once `result()` has returned or the block is left.
        records: A `StepRecord` for each thing that has happened to a step, in order; likewise.
        handler: The run's handler, to steer it.
    """

    def __init__(self, handler: RunHandler[Out]) -> None:
        self.stream: list[Any] = []
        self.records: list[StepRecord] = []
        self.handler = handler
        self._seen_all = trio.Event()

    async def result(self) -> WorkflowResult[Out]:
        """Wait for the end of the run and return its result; raises what it failed with."""
        try:
            return await self.handler.result()
        finally:
            if self.handler.state in ("completed", "failed", "cancelled"):
                await self._seen_all.wait()

    def happened(self, kind: str) -> list[tuple[str, int]]:
        """The step and the attempt of each record of one kind: `run.happened("retrying") == [("ask", 1)]`."""
        return [(record.step, record.attempt) for record in self.records if record.kind == kind]

    async def _read(self, reader: StreamIterator) -> None:
        async for event in reader:
            if isinstance(event, StepRecord):
                self.records.append(event)
            else:
                self.stream.append(event)
        self._seen_all.set()


class _Watching(Generic[Out]):
    __slots__ = ("_answerer", "_handler", "_manager", "_nursery")

    def __init__(self, handler: RunHandler[Out], answerer: Answerer) -> None:
        self._handler = handler
        self._answerer = answerer

    async def __aenter__(self) -> WatchedRun[Out]:
        run = WatchedRun(await self._handler.__aenter__())
        inner = self._handler._run
        if self._answerer.given:
            inner.nursery.start_soon(self._answerer.keep_answering, self._handler, inner, name="blazen test answers")
        reader = self._handler.stream_events(lifecycle=True)  # before the first step: nothing is missed
        self._manager = trio.open_nursery()
        self._nursery = await self._manager.__aenter__()
        self._nursery.start_soon(run._read, reader)
        return run

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        # The nursery with the reader stands inside of the handler's, so it is left first: the reader ends with the
        # stream, and the stream with the run. Errors of the block go to the handler alone, and so come out unchanged.
        if error is not None:
            self._handler.cancel()
        interrupted: BaseException | None = None
        try:
            await self._manager.__aexit__(None, None, None)
        except BaseExceptionGroup as group:
            interrupted = without_cancelled(group)
        if error is None and interrupted is not None:  # Ctrl-C
            await self._handler.__aexit__(type(interrupted), interrupted, interrupted.__traceback__)
            raise interrupted
        await self._handler.__aexit__(kind, error, traceback)


def watch(
    workflow: Workflow[Out], input: Any = None, /, *, answers: Answers | None = None, **fields: Any
) -> _Watching[Out]:
    """Run a workflow and write down its stream and its step records. Inside trio.

    Used as `async with watch(workflow, ...) as run:`. The block is left as that of `run_with_handler`: normally once
    the run is over, and a failure that nobody asked for is raised; by an exception after the run was cancelled.

    Args:
        workflow: What to run.
        input: As of `Workflow.run`.
        answers: What the run is answered when it asks: a dict of prompt and answer, a list in the order of the
            questions, or a function of the `InputRequestEvent`. A question for which there is none fails the run;
            `UNANSWERED` in the place of an answer leaves it open. Without `answers`, answer by `run.handler`. A field
            of the input that is called `answers` has to be given with the others in a dict.
        **fields: As of `Workflow.run`.
    Raises:
        ValidationError: As of `Workflow.run`; or `answers` is none of its forms, or `workflow` no workflow.
    """
    from blazen.testing.trial import workflow_of

    run = workflow_of("watch", workflow).run_with_handler(input, **fields)
    return _Watching(run, Answerer("watch", answers))
