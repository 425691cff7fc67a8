"""`ctx.edit(key)`: a key held while its value is changed over an await."""

from __future__ import annotations

from typing import TYPE_CHECKING

from trio.lowlevel import Abort, checkpoint, current_task, reschedule, wait_task_rescheduled

from blazen.errors import ValidationError

if TYPE_CHECKING:
    from types import TracebackType

    import trio

    from blazen._core.run import Context
    from blazen.engine.run import Run


class Edit:
    """Holds one key of the shared state. `value` may be read and set.

    Not a `trio.Lock`: a lock would belong to the worker's task, which runs other steps too.
    """

    __slots__ = ("_ctx", "_default", "_held", "_key", "_queue", "_run", "_task", "value")

    def __init__(self, run: Run, ctx: Context, key: str, default: object, held: dict[str, Edit]) -> None:
        self._run = run
        self._ctx = ctx
        self._key = key
        self._default = default
        self._held = held  # of the run: key -> the edit that holds it
        # Who waits for this edit to end, in order; the next holder takes over the list itself, which the waiters know.
        self._queue: list[tuple[trio.lowlevel.Task, Edit]] = []

    async def __aenter__(self) -> Edit:
        holder = self._held.get(self._key)
        if holder is None:
            self._held[self._key] = self
            self._task = current_task()
            try:
                await checkpoint()
            except BaseException:
                self._let_go()
                raise
        else:
            if self._waits_for_itself(holder):
                raise ValidationError(
                    f"step {self._ctx.step_name!r} edits key {self._key!r} already and would wait for itself"
                )
            await self._wait_behind(holder)
        try:
            self.value: object = self._ctx.get(self._key, self._default)
        except BaseException:  # of a user's restore() or field store
            self._let_go()
            raise
        return self

    async def _wait_behind(self, holder: Edit) -> None:
        task = self._task = current_task()
        queue = holder._queue
        entry = (task, self)

        def abort(_: object) -> Abort:
            queue.remove(entry)
            return Abort.SUCCEEDED

        queue.append(entry)
        await wait_task_rescheduled(abort)

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        try:
            if error is None:
                self._ctx.set(self._key, self.value)
        finally:
            self._let_go()

    def _waits_for_itself(self, holder: Edit) -> bool:
        return holder._task is current_task()

    def _let_go(self) -> None:
        if not self._queue:
            del self._held[self._key]
            return
        task, heir = self._queue.pop(0)
        heir._queue, self._queue = self._queue, heir._queue
        self._held[self._key] = heir
        reschedule(task)
