"""The ledger of a run: what is written of it, and when.

In a *gated* run (`durability="sync"`) whatever takes effect is written before anything comes of it: what a step
returned waits behind a gate, an answered step is not woken, a question is not shown, until the commit is there to stay.
While one commit is under way the next one gathers, so a run has at most one under way, and the store gathers those of
many runs. In any other run (`"async"`) a cut is written every few dozen milliseconds, and nothing waits for it.

The end of a run is written before anybody hears of it.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING, Any

import trio

from blazen._core import codec
from blazen._snapshots import usage_of
from blazen.durability.clock import wall_time
from blazen.durability.gathering import Batch, Gathered, Noted, Waiter, question_of
from blazen.durability.inbox import Inbox
from blazen.engine.life import Happening, State
from blazen.errors import PersistError, ValidationError, WorkflowError
from blazen.events import StopEvent
from blazen.store.base import Claim, Commit, NewRun, OnCommitFailed

if TYPE_CHECKING:
    from blazen._core.run import Context
    from blazen.durability.cut import Contents, Cutter
    from blazen.engine.run import Run
    from blazen.events import Event, InputRequestEvent
    from blazen.store.base import CheckpointStore, RunState, StoredRun

# Between two cuts of a run that is not gated. What it has done since is lost in a crash: 50 ms are promised, and the
# cut has to be written too.
CUT_EVERY = 0.025


class Ledger:
    """What is written of one run. Used on the loop's thread, but for `write_to_stream`, `on_commit` and what the store
    calls.

    Args:
        run: The run, not begun yet.
        store: Where it is written.
        cutter: Takes the cuts.
        version: Of the workflow.
        new: Whether the store does not have it yet.
        fence: The number of its claim.
        survives: Whether the run stays in the store, to be gone on with, when its caller is cancelled.
    """

    __slots__ = (
        "_batch",
        "_classes",
        "_cutter",
        "_end_written",
        "_exists",
        "_fence",
        "_gathered",
        "_goes_on",
        "_hidden",
        "_new",
        "_replaced",
        "_state",
        "_timer",
        "_unwritten_end",
        "_version",
        "_wanted",
        "closing",
        "error",
        "inbox",
        "leaving",
        "released",
        "run",
        "store",
        "survives",
    )

    def __init__(
        self,
        run: Run,
        store: CheckpointStore,
        cutter: Cutter,
        *,
        classes: codec.ClassTable,
        version: str,
        new: NewRun | None,
        fence: int = 1,
        survives: bool = False,
    ) -> None:
        self.run = run
        self.store = store
        self.survives = survives
        self.error: BaseException | None = None  # the store failed: nothing more is written
        self.leaving = False  # the block has been left: the run is let go of once it waits
        self.closing: str | None = None  # why it is being let go of
        self.released = False
        self._cutter = cutter
        self._classes = classes
        self._version = version
        self._new = new
        self._exists = new is None  # in the store, and is this one
        self._fence = fence
        self._state: RunState | None = None  # as it was written last
        self._replaced: tuple[str, ...] | None = None  # the questions of what the next commit writes anew
        self._wanted = False
        self._goes_on = False  # something happens after the next commit, though the run waits until then
        self._batch: Batch | None = None
        self._timer = 0
        self._unwritten_end = False
        self._end_written = False
        self._gathered: Gathered | None = None
        self._hidden: set[str] | None = None  # questions that are not written yet
        self.inbox = Inbox(self, classes)

    def gather(self) -> Gathered:
        """What goes into the next commit."""
        if self._gathered is None:
            self._gathered = Gathered()
        return self._gathered

    # --- what the engine tells

    def begin(self) -> None:
        """The run has begun."""
        self.run.loop  # noqa: B018  # made here, on the loop's own thread, for the store's
        try:
            # Before anything is written: else a run that only waits is let go of before its answer is heard.
            self.store.listen(self.run.run_id, self.inbox.heard)
        except PersistError as error:  # it has been closed
            self.error = error
            self._fail(error)
            return
        self.stir()
        if not self.run.gated:
            self._set_timer()

    def remember(self, contents: Contents, stored: StoredRun, steps: dict[str, int]) -> None:
        """The store has the run already: note what it has."""
        self._cutter.remember(contents, stored.parts, steps)

    def rewrite(self, contents: Contents) -> None:
        """The store has the run already, as it no longer is: the first commit writes all of it anew."""
        self._replaced = tuple(question.request_id for question in contents.questions)

    def stir(self) -> None:
        """Something took effect: it is to be written, at once or after the commit that is under way.

        Where it is the outcome of an attempt (`run.gating`) there may be more of it: whoever takes it stirs afterwards.
        """
        self._wanted = True
        self._flush()

    def rest(self) -> None:
        """Nothing happens until the run is woken: no cuts are taken by time."""
        if self._timer:
            self.run.cancel_timer(self._timer)
            self._timer = 0
        self.run.dozing = not self.run.gated

    def wake(self) -> None:
        """Something happens again in a run that was dozing: cuts are taken again."""
        self.run.dozing = False
        self._set_timer()

    def settled(self, ctx: Context, well: bool) -> None:
        """An attempt that has noted something has ended; `well`: without an error."""
        noted: Noted = ctx.noted
        ctx.noted = None
        gathered = self.gather()
        gathered.items += noted.items
        if well:
            gathered.callbacks += noted.callbacks

    def write_to_stream(self, ctx: Context, event: Event) -> None:
        """A step writes to the stream. Kept with the attempt until it has ended.

        Raises:
            ValidationError: The event holds something that cannot be stored.
        """
        encoded = codec.encode(event, classes=self._classes)
        if ctx.noted is None:
            ctx.noted = Noted()
        ctx.noted.items.append(encoded)

    def shown(self, event: Event) -> None:
        """An event that a step returned, or that came from outside, is on the stream."""
        self.gather().items.append(codec.encode(event, classes=self._classes))

    def on_commit(self, ctx: Context, fn: Callable[[Any], object]) -> None:
        """`ctx.on_commit`."""
        if ctx.noted is None:
            ctx.noted = Noted()
        ctx.noted.callbacks.append((ctx.step_name, fn))

    def after_commit(self, call: Callable[[], object]) -> None:
        """Have something done once what takes effect now is written: the run goes on with it, or others do."""
        self.gather().after.append(call)
        self._goes_on = True

    def hold_question(self, event: InputRequestEvent, schema: Any = None) -> bool:
        """A question is asked. Returns whether it is shown later, once it is written."""
        self.shown(event)
        self.gather().asked.append(question_of(event, self.run.run_id, schema))
        if not self.run.gated:  # the next cut has it: now there may be more that comes of the same attempt
            if self.run.dozing:
                self.wake()
            return False
        if self._hidden is None:
            self._hidden = set()
        self._hidden.add(event.request_id)
        self.after_commit(partial(self.show, event))
        self.stir()
        return True

    def show(self, event: InputRequestEvent) -> None:
        """Show a question that is written, unless it has been."""
        if not self.is_hidden(event.request_id):
            return  # it has been: somebody has answered what the store has shown him
        assert self._hidden is not None
        self._hidden.discard(event.request_id)
        if not self._hidden:
            self._hidden = None
        if event.request_id in self.run.questions:
            self.run.show(event, None)

    @property
    def is_new(self) -> bool:
        """Whether the store has nothing of the run yet."""
        return self._new is not None

    def is_hidden(self, request_id: str) -> bool:
        """Whether a question may not be answered yet, because it is not written."""
        return self._hidden is not None and request_id in self._hidden

    async def written(self) -> bool:
        """Wait until all that has taken effect by now is written. False, at once, in a run that is ending.

        Raises:
            PersistError: It cannot be written.
        """
        if self.error is not None:
            raise self.error
        if self.run.ending or self.released:
            await trio.lowlevel.checkpoint()
            return False
        waiter = Waiter()
        self.gather().waiters.append(waiter)
        self.stir()
        await waiter.done.wait()
        if waiter.error is not None:
            raise waiter.error
        return not self.run.ending

    # --- letting go of the run

    def block_left(self) -> None:
        """The block of the handler has been left normally: the run is let go of when it waits."""
        self.leaving = True
        self.look_whether_waiting()

    def block_left_by(self, error: BaseException) -> None:
        """The block is left by an exception. What stops the process does not end the run: others go on with it."""
        if self._stops_the_process(error) and not self.run.ending and not self.released:
            self.closing = self.closing or "stopped"
            self._unwritten_end = True
            self.stir()

    def _stops_the_process(self, error: BaseException | None) -> bool:
        if isinstance(error, KeyboardInterrupt | SystemExit):
            return True
        if error is not None and not isinstance(error, trio.Cancelled):
            return False
        return self.survives or getattr(error, "source", None) in ("KeyboardInterrupt", "shutdown")

    def caller_left(self, error: BaseException | None) -> None:
        """A step is out because the scope that the run lives in was cancelled: as `block_left_by`, but the step and
        what has come of it are not written, for it has to run again.
        """
        if self._stops_the_process(error) and not self.run.ending and not self.released:
            self.closing = self.closing or "stopped"
            self._unwritten_end = True

    def look_whether_waiting(self) -> None:
        """Let go of a run that nobody watches any more and that waits; note that one waits that is watched."""
        if self.closing is not None or self.run.life is not State.RUNNING or self._batch is not None or self._wanted:
            return
        if self.inbox.pauses:
            return  # it will be paused in a moment, and let go of then
        if (self.leaving or self._state != "waiting") and self.run.state_name == "waiting":
            if self.inbox.early:
                self.inbox.take_early()
            elif self.leaving:
                if self.run.next_deadline() > self.run.now():  # else it goes on in a moment
                    self.let_go("released")
            else:
                self.stir()

    def let_go(self, reason: str) -> None:
        """Write the run as it is, and leave it to others; here it ends as cancelled."""
        self.closing = reason
        self.run.held = True
        self.stir()

    def finish(self) -> None:
        """Every step is out, and the run is over as soon as that is written."""
        if self._batch is None:
            self._write_end()
        # else once the commit that is under way is done

    # --- writing

    def _flush(self) -> None:
        run = self.run
        if not self._wanted or self._batch is not None or self.error is not None or self.released or run.ending:
            return
        if run.gating:
            return
        self._wanted = False
        now = wall_time()
        try:
            change = self._cutter.change(run, now)
        except PersistError as error:
            self._fail(error)
            return
        state: Any = run.state_name
        if self._goes_on and state == "waiting":
            state = "running"  # after a crash others have to go on with it unasked
        if not (
            change.anything
            or state != self._state
            or self.closing is not None
            or self._new is not None
            or self._replaced is not None
            or self._gathered is not None
            or run.behind_gate
        ):
            return
        gathered, self._gathered = self._gathered, None
        if gathered is not None:
            gathered.asked = [question for question in gathered.asked if question.request_id in run.questions]
        commit = Commit(
            run_id=run.run_id,
            fence=self._fence,
            at=now,
            version=self._version,
            state=state,
            due=change.due,
            head=change.head,
            new=self._new,
            put=change.put,
            drop=change.drop,
            release=self.closing is not None,
        )
        if gathered is not None:
            gathered.fill(commit)
        if change.answered:
            commit.answered = change.answered
        if self._replaced is not None:
            commit.clear = True
            commit.answered = [request_id for request_id in self._replaced if request_id not in run.questions]
            self._replaced = None
        self._new = None
        self._state = state
        self._goes_on = False
        self._batch = Batch(gathered, run.behind_gate, lets_go=commit.release)
        self.store.submit(commit, self._done)
        if commit.release and not run.ending:
            run.cancel(self.closing)  # at once: whatever it did from here on, others will do

    def _write_end(self) -> None:
        """Write how the run has ended; or only let go of it, if others are to go on with it."""
        if self._end_written:
            return
        self._end_written = True
        run = self.run
        with contextlib.suppress(PersistError):
            self.store.unlisten(run.run_id)
        stopped = isinstance(run.outcome, KeyboardInterrupt | SystemExit)  # which came out of a step
        if self.released or self.error is not None or self._unwritten_end or stopped:
            self._let_go_unwritten()
            self._over()
            return
        now = wall_time()
        gathered, self._gathered = self._gathered, None
        result, error = self._outcome()
        commit = Commit(
            run_id=run.run_id,
            fence=self._fence,
            at=now,
            version=self._version,
            state=_ENDS[run.life],
            head=codec.encode((now, run.numbered, [], usage_of(run), None)),
            new=self._new,
            clear=True,
            answered=tuple(self._cutter.questions),
            result=result,
            error=error,
            release=True,
        )
        if gathered is not None:
            gathered.asked.clear()  # nobody waits for their answers any more
            gathered.fill(commit)
        self._new = None
        self._batch = Batch(gathered, last=True)
        self.store.submit(commit, self._done)

    def _let_go_unwritten(self) -> None:
        """Leave the run to others as it was written last. Nothing if it never was: the store may have one of its id."""
        if self._exists and not self.released:
            with contextlib.suppress(PersistError):  # then others see when this owner is closed or dies
                self.store.let_go(Claim(run_id=self.run.run_id, fence=self._fence))

    def _outcome(self) -> tuple[bytes | None, str | None]:
        """The result and the error of a run that has ended, as they are written."""
        run = self.run
        if run.life is State.COMPLETING:
            assert isinstance(run.outcome, StopEvent)
            try:
                return codec.encode(run.outcome, classes=self._classes), None
            except ValidationError as error:
                run.happened(
                    Happening.FATAL,
                    WorkflowError(
                        f"the result of run {run.run_id} of workflow {run.router.workflow!r} cannot be stored: {error}",
                        run_id=run.run_id,
                    ),
                )
        outcome = run.outcome
        return None, " ".join(f"{type(outcome).__name__}: {outcome}".split())

    # --- what the store answers

    def _done(self, error: BaseException | None) -> None:
        if self.run.on_own_thread():
            self._take(error)
        else:
            try:
                self.run.loop.post(partial(self._take, error))
            except ValidationError:  # the loop has ended in the middle of everything: nobody is there to be told
                return

    def _take(self, error: BaseException | None) -> None:
        """A commit is there to stay, or has failed."""
        batch, self._batch = self._batch, None
        assert batch is not None
        gathered = batch.gathered
        if gathered is not None:
            for waiter in gathered.waiters:
                waiter.error = error
                waiter.done.set()
        if error is None:
            self._exists = True
            if batch.last:
                self._over()
                return
            if batch.gate:
                self.run.open_gate(batch.gate)
            for call in gathered.after if gathered is not None else ():
                call()
            if batch.lets_go:
                self.released = True
        else:
            self._failed(error, batch)
        if batch.last:
            return
        if self.run.ending:
            self._release_waiters(None)  # nothing more is written until their steps are out
            if not self.run.workers:
                self._write_end()
        else:
            self._flush()
            self.look_whether_waiting()

    def _failed(self, error: BaseException, batch: Batch) -> None:
        if isinstance(error, OnCommitFailed):
            assert batch.gathered is not None
            step = batch.gathered.callbacks[error.index][0]
            failure: BaseException = WorkflowError(
                f"what step {step!r} of workflow {self.run.router.workflow!r} wanted done in its commit failed: "
                f"{type(error.__cause__).__name__}: {error.__cause__}",
                step=step,
                run_id=self.run.run_id,
            )
            failure.__cause__ = error.__cause__
        else:
            self.error = failure = error
        if batch.lets_go:
            self.run.happened(Happening.FATAL, failure)
            return
        if not batch.last:
            self._fail(failure)
            return
        # The end could not be written.
        if self.run.life is State.COMPLETING:
            self.run.happened(Happening.FATAL, failure)
        else:
            self.run.suppressed += (failure,)
        self._end_written = False
        self._write_end()  # without the callbacks; or, if the store has failed, only to let go

    def _fail(self, error: BaseException) -> None:
        """The run cannot go on: it could not be written."""
        self._release_waiters(error)
        if not self.run.ending:
            self.run.fail(error)

    def _over(self) -> None:
        self._release_waiters(None)
        if not self.run.over:
            self.run.happened(Happening.UNWOUND)

    def _release_waiters(self, error: BaseException | None) -> None:
        if self._gathered is not None:
            for waiter in self._gathered.waiters:
                waiter.error = error
                waiter.done.set()
            self._gathered.waiters.clear()

    # --- cuts by time

    def _set_timer(self) -> None:
        if not self._timer and not self.run.ending:
            self._timer = self.run.add_timer(self.run.now() + CUT_EVERY, self._tick)

    def _tick(self) -> None:
        self._timer = 0
        if self.run.ending or self.closing is not None:
            return
        self.stir()
        if self.run.waits_only() or self.run.held:
            self.run.dozing = True
        else:
            self._set_timer()


_ENDS: dict[State, Any] = {
    State.COMPLETING: "completed",
    State.FAILING: "failed",
    State.CANCELLING: "cancelled",
}
