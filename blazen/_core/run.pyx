"""The dispatch loop of a run: everything that happens once per event.

A worker is a trio task that takes one event after the other and drives the step's coroutine in place, so a step costs
no task of its own. While a step waits inside trio its worker waits with it, and whoever has more work wakes or starts
another one. What happens once per run, and everything that waits, is in `blazen.engine`, which extends `RunCore`.

One module in five files, because its classes know each other: `journal.pxi`, `join.pxi`, `context.pxi` and `worker.pxi`
are included.

Who owns what: all of this belongs to the thread that runs trio. Other threads come in through `RunCore.post`.
"""

from heapq import heapify, heappop, heappush

cimport cython
from cpython.object cimport PyObject, PyTypeObject
from cpython.ref cimport Py_DECREF, Py_INCREF
from libc.math cimport INFINITY
from libc.stdint cimport uint32_t, uint64_t

from blazen._core.queue cimport EventQueue, bz_record, bz_ring_len, bz_ring_peek
from blazen._core.router cimport ASKS, AWAITED, ENDS_RUN, SHOWN, Route, Router, StepInfo
from blazen._core.state cimport StateStore
from blazen._core.stream cimport EventStream


cdef extern from "Python.h":
    ctypedef enum PySendResult:
        PYGEN_RETURN
        PYGEN_ERROR
        PYGEN_NEXT
    PySendResult PyIter_Send(PyObject *iterator, PyObject *value, PyObject **result) noexcept
    object PyContext_Copy(object context)
    int PyContext_Enter(object context) except -1
    int PyContext_Exit(object context) except -1
    unsigned long PyThread_get_thread_ident()
    bint PyCoro_CheckExact(object value)
    bint PyObject_TypeCheck(object value, PyTypeObject *kind) noexcept
    Py_ssize_t Py_REFCNT(PyObject *value) noexcept
    PyTypeObject *Py_TYPE(PyObject *value) noexcept


cdef extern from "pyglue.h":
    ctypedef int (*sendfunc)(PyObject *, PyObject *, PyObject **) except -1
    void bz_set_am_send(PyTypeObject *type, sendfunc send)
    PyObject *bz_take_exception() noexcept
    PyObject *bz_call1(PyObject *f, PyObject *a) noexcept
    PyObject *bz_call2(PyObject *f, PyObject *a, PyObject *b) noexcept
    Py_ssize_t bz_slot_offset(object descriptor)
    PyObject *bz_slot_read(PyObject *object, Py_ssize_t offset) noexcept
    Py_ssize_t bz_find_variables(object plain, object copy, object changed) noexcept


cdef extern from "bz_clock.h" nogil:
    double bz_now() noexcept
    int bz_ticks_work() noexcept
    uint64_t bz_ticks() noexcept


# Why a worker came back to Python (Worker.code).
DRY = 0                                     # nothing to do
YIELD = 1                                   # it has had the loop for long enough
SETTLE = 2                                  # outcomes wait for the next pass of the scheduler
IN_THREAD = 3                               # its step is to run in a thread, a process or asyncio
UNWOUND = 4                                 # its step was aborted; the scope it ran in is spent
ENDED = 5                                   # the run is ending
NEEDS_NURSERY = 6                           # the next step may need others beside it

# Why an invocation was aborted (Context.abort_reason).
TIMED_OUT = 1
STEP_CANCELLED = 2
RUN_ENDING = 3
PUT_BACK = 4                                # its event goes back into the queue, for a pause that does not wait

cdef enum:
    TAKEN_NOTHING = 0
    TAKEN_DONE = 1
    TAKEN_COROUTINE = 2
    TAKEN_THREAD = 3
    TAKEN_NEEDS_NURSERY = 4

# A worker gives way after this time ...
cdef double LONGEST_SLICE = 0.001
# ... or, under a clock that is not the system's, after this many events, so that a trace repeats.
cdef uint64_t LONGEST_SLICE_EVENTS = 1000
# A plain `def` step that holds the loop for longer is named in a warning.
cdef double LONGEST_BLOCK = 0.1
# How many workers may be on their way to work at once, at most.
cdef Py_ssize_t LARGEST_ALLOWANCE = 64
# The clock is read when the processor's counter has moved this far: at most 0.1 ms, on today's machines 0.02 ms.
cdef uint64_t TICKS_PER_READING = 50000
# Looking whether another step can finish in this pass is given up after this many workers, and it is assumed.
cdef Py_ssize_t WORKERS_LOOKED_AT = 16

cdef object _Cancelled = None               # trio's
cdef object _Event = None
cdef object _UsageEvent = None
cdef object _ValidationError = None
cdef object _WorkflowError = None
cdef object _CancelledError = None
cdef Py_ssize_t _status_offset = 0          # of Task._cancel_status
cdef Py_ssize_t _abort_offset = 0           # of Task._abort_func
cdef dict _lock_owners = None               # trio's table of tasks that hold locks
cdef bint _ticks_work = bz_ticks_work()
cdef Py_ssize_t _variables_offset = 0       # of the variables in a contextvars.Context


def configure_errors(event_class, usage_class, validation_error, workflow_error, cancelled_error):
    """Hand over the classes that this module may not import."""
    global _Event, _UsageEvent, _ValidationError, _WorkflowError, _CancelledError
    _Event = event_class
    _UsageEvent = usage_class
    _ValidationError = validation_error
    _WorkflowError = workflow_error
    _CancelledError = cancelled_error


def configure_trio(cancelled, task_class, lock_owners):
    """Hand over what the loop needs of trio.

    Args:
        cancelled: `trio.Cancelled`.
        task_class: `trio.lowlevel.Task`. Two of its slots are read: the cancel status, to find a scope that a step left
            open, and the abort function, to know whether a task has been woken.
        lock_owners: trio's dict from a task to the locks it holds, or None.
    """
    global _Cancelled, _status_offset, _abort_offset, _lock_owners
    _Cancelled = cancelled
    _status_offset = bz_slot_offset(getattr(task_class, "_cancel_status", None))
    _abort_offset = bz_slot_offset(getattr(task_class, "_abort_func", None))
    _lock_owners = lock_owners


def _look_for_variables():
    """Find out how to see whether a step has set a context variable."""
    global _variables_offset
    from contextvars import Context as Variables, ContextVar

    probe = ContextVar("blazen_probe")
    plain = Variables()
    plain.run(probe.set, 1)
    changed = plain.copy()
    changed.run(probe.set, 2)
    _variables_offset = bz_find_variables(plain, plain.copy(), changed)


_look_for_variables()


def sees_into_contexts():
    """Whether an unchanged context can be told from a changed one; else each invocation gets a copy of its own."""
    return _variables_offset > 0


def sees_into_trio():
    """Whether the two slots of trio's tasks and its table of locks were found; a test holds trio to it."""
    return _status_offset > 0 and _abort_offset > 0 and _lock_owners is not None


@cython.final
cdef class PassCounter:
    """A trio instrument that counts the passes of the scheduler."""
    cdef readonly uint64_t number

    def before_io_wait(self, timeout):
        self.number += 1


include "journal.pxi"
include "join.pxi"


@cython.final
cdef class Limit:
    """How many invocations of a limited step run, and which wait."""
    cdef:
        Py_ssize_t running
        EventQueue backlog


cdef class RunCore:
    """Queue, dispatch and settling of one run.

    `blazen.engine.run.Run` extends it with what happens once per run and with the hooks that are called from here:
    `on_stop`, `on_ask`, `on_shown`, `on_failed`, `on_waits_aborted`, `end_waits`, `on_unwound`, `on_base_exception`,
    `on_blocked`, `on_scope_left_open`, `on_lock_left_held`, `timeout_error`, `spawn`, `wake`, `watch`, `record`,
    `pass_counter`, `send`, `post`, `post_to_stream`, `add_usage`, `edit`, `cleanup`, `keep_for_waits`,
    `wait_for_event`, `request_input`, `once`, `on_commit` and `payload_of`.
    """

    def __cinit__(self):
        bz_timers_init(&self._timers)
        self._queue = EventQueue.__new__(EventQueue)
        self.workers = {}
        self._parked = []
        self._finished = []
        self._allowance = 1
        self._real_clock = True
        self.deadline = INFINITY

    def __dealloc__(self):
        bz_timers_free(&self._timers)

    def prepare(self, Router router not None, StateStore state not None, session, context, EventStream stream):
        """Set the parts of the run; called once, before `bind`.

        Args:
            context: The caller's `contextvars.Context`; each invocation gets a copy of it.
            stream: Where outside events go; None when nobody can read them.
        """
        self.router = router
        self.state = state
        self.session = session
        self._context = context
        self.stream = stream
        self._log = stream
        self._observed = stream is not None
        if router.has_limits:
            self._limits = [Limit.__new__(Limit) if (<StepInfo> step).limit else None for step in router.steps]

    def keep_ledger(self, ledger, bint gated):
        """Have the run written down; called before it begins.

        Args:
            ledger: Is told by `stir()` that something took effect, and by `wake()` if the run was `dozing`.
            gated: What steps return, and what comes from outside, waits behind a gate until `open_gate`.
        """
        self.ledger = ledger
        self.gated = gated
        self._gate = []

    def bind(self, clock):
        """Note the thread and the clock that the run lives on; called in trio before anything is dispatched.

        Args:
            clock: None for the system clock, else a function that gives the clock's seconds.
        """
        self._thread = PyThread_get_thread_ident()
        self._clock = clock
        self._real_clock = clock is None
        if self._log is not None:
            self._log.real_clock = self._real_clock

    # --- the clock

    cdef double _now(self) except? -1.0:
        if self._real_clock:
            return bz_now()
        return self._clock()

    cdef int _look_at_clock(self, Context ctx) except -1:
        """The processor's counter has moved on: read the clock, and name a plain `def` that held the loop."""
        cdef double now = bz_now()
        cdef double held = now - self._last_time
        self._last_time = now
        if _ticks_work:
            self._last_ticks = bz_ticks()
        if held > LONGEST_BLOCK and not (ctx._step.is_async or ctx._step.off_loop or ctx._handling):
            self.on_blocked(ctx, held)
        return 0

    def now(self):
        """Seconds on the engine's clock."""
        return self._now()

    # --- timers: deadlines of waiting steps, of the run, of retries and of cleanups, as data

    def add_timer(self, double deadline, target):
        """Have `due()` report `target` once `deadline` (engine's clock, seconds) has come. Returns a token."""
        return self._arm(deadline, target)

    def cancel_timer(self, uint64_t token):
        """Take a timer back; one that was reported or taken back already is left alone."""
        self._disarm(token)

    def restart_clock(self, Context ctx not None):
        """Let an invocation's time begin now: it has waited for its turn until here."""
        ctx.started = self._now()
        if ctx._step.has_timeout:
            ctx.deadline = ctx.started + ctx._step.timeout

    def arm_deadline(self, Context ctx not None):
        """Watch the deadline of an invocation that is about to wait, if it has one."""
        if ctx.deadline != INFINITY and ctx._timer == 0:
            ctx._timer = self._arm(ctx.deadline, ctx)

    cdef uint64_t _arm(self, double deadline, object target) except 0:
        cdef bz_timer timer
        if self._timer_targets is None:
            self._timer_targets = {}
        cdef uint64_t token = self._timer_count + 1
        if bz_timers_add(&self._timers, deadline, token, &timer) != 0:
            raise MemoryError("no memory for a timer")
        self._timer_count = token
        self._timer_targets[token] = (timer, target)
        self.watch(deadline)
        return token

    cdef int _disarm(self, uint64_t token) except -1:
        entry = self._timer_targets.pop(token, None)
        if entry is not None:
            bz_timers_cancel(&self._timers, entry[0])
        return 0

    def arm_run_deadline(self):
        """Watch the run's deadline; done when something waits for the first time."""
        if self.deadline != INFINITY and not self._deadline_armed:
            self._deadline_armed = True
            self._deadline_timer = self._arm(self.deadline, self)

    def disarm_run_deadline(self):
        """Stop watching it: the run's clock stands still."""
        if self._deadline_armed:
            self._deadline_armed = False
            self._disarm(self._deadline_timer)

    def hold_clock(self, Context ctx not None):
        """An invocation begins to wait in its middle: its clock stands still until `release_clock`."""
        if ctx.holds == 0:
            self.waiting += 1
            ctx._held_at = self._now()
            ctx._left = ctx.deadline - ctx._held_at
            ctx.deadline = INFINITY
            if ctx._timer != 0:
                self._disarm(ctx._timer)
                ctx._timer = 0
        ctx.holds += 1

    def release_clock(self, Context ctx not None):
        """The wait is over; its clock goes on."""
        ctx.holds -= 1
        cdef double now
        if ctx.holds == 0:
            self.waiting -= 1
            now = self._now()
            ctx.started += now - ctx._held_at
            if ctx._left != INFINITY:
                ctx.deadline = now + ctx._left
                self.arm_deadline(ctx)

    def next_deadline(self):
        """The earliest deadline, infinite if there is none."""
        cdef double deadline
        if bz_timers_next(&self._timers, &deadline):
            return deadline
        return INFINITY

    def due(self):
        """The targets of all timers whose time has come, earliest first."""
        cdef uint64_t token
        targets = []
        cdef double now = self._now()
        while bz_timers_pop_due(&self._timers, now, &token):
            targets.append(self._timer_targets.pop(token)[1])
        return targets

    # --- events in

    def start(self, event):
        """Queue the run's first event."""
        cdef Route route = self.router.find(event)
        if route.guarded:
            route = self.router.narrow(route, event, "begins the run", None, False)
        self._cause = START
        self.gating = self.gated
        try:
            self._deliver(route, event)
        finally:
            self.gating = False

    def start_at(self, StepInfo step not None, event, int attempt=1):
        """Queue an event for one step, whatever the routes say; a test of that step begins so.

        Args:
            attempt: The number its first attempt will have.
        """
        cdef Context ctx = Context.__new__(Context)
        ctx._run = self
        ctx._step = step
        ctx._event = event if type(event) is step.accept_class else self.router.adapt(step, event)
        self._numbered += 1
        ctx.seq = self._numbered
        ctx.attempt = attempt - 1                # counted up when it is taken, as for a retry
        ctx.deadline = INFINITY
        ctx._used = True
        self._enqueue(step, ctx, ctx.seq)

    def receive(self, event, str emitter=None, tuple cause=None):
        """Queue an event that no step returned: from outside, or sent in the middle of a step.

        Args:
            emitter: The step that sent it, for messages.
            cause: The attempt that sent it, for the journal; None if it comes from outside.
        Raises:
            WorkflowError: Nobody accepts the event. Nothing was queued.
        """
        try:
            route = self.router.find(event)
        except TypeError as exc:
            raise _ValidationError(f"send_event takes an event: {exc}") from None
        if route is None and self._is_awaited(event):
            route = Route(event.event_type, AWAITED, ())
        if route is None:
            sender = "from outside the run" if emitter is None else f"by step {emitter!r}"
            raise _WorkflowError(
                f"no step of workflow {self.router.workflow!r} accepts {event.event_type!r}, which was sent {sender}",
                step=emitter,
                event_type=event.event_type,
            )
        if self.ending:
            return
        if (<Route> route).guarded:
            sender = "was sent from outside the run" if emitter is None else f"step {emitter!r} sent"
            route = self.router.narrow(route, event, sender, emitter, self._is_awaited(event))
        self._cause = cause
        if emitter is None and (self.gated or self.behind_gate):
            self.gating = True
            try:
                self._deliver(route, event)
            finally:
                self.gating = False
            self.ledger.stir()
            return
        self._deliver(route, event)
        if self._active is None and self._has_work():
            self._need_spare()

    def requeue(self, Context ctx not None, *, bint handle):
        """Run an invocation again: its step, or with `handle` the step's `on_error`. It goes before what is queued."""
        ctx._handling = handle
        ctx._used = True
        if self.gated or self.behind_gate:       # behind it also where only what was loaded waits there
            self._gate.append((ctx._step, ctx, ctx.seq))
            self.ledger.stir()
            return
        self._enqueue_front(ctx._step, ctx, ctx.seq)
        if self._active is None:
            self._need_spare()

    def postpone(self, Py_ssize_t change):
        """Count a retry that begins (+1) or ends (-1) waiting for its time."""
        self.postponed += change

    @property
    def has_work(self):
        """Whether events are queued or outcomes wait to be settled."""
        return self._has_work()

    def on_own_thread(self):
        """Whether the caller is in the thread the run lives in."""
        return PyThread_get_thread_ident() == self._thread

    cdef bint _has_work(self) noexcept:
        return self._next_step is not None or bz_ring_len(&self._queue._ring) > 0 or len(self._finished) > 0

    cdef inline int _enqueue(self, StepInfo step, object item, uint64_t seq) except -1:
        if self.gating:
            self._gate.append((step, item, seq))
            return 0
        if self._next_step is None and bz_ring_len(&self._queue._ring) == 0:
            self._next_step = step
            self._next_item = item
            self._next_seq = seq
            return 0
        return self._queue.put(item, seq, <uint32_t> step.index)

    cdef int _enqueue_front(self, StepInfo step, object item, uint64_t seq) except -1:
        if self._next_step is not None:
            self._queue.put_front(self._next_item, self._next_seq, <uint32_t> self._next_step.index)
        self._next_step = step
        self._next_item = item
        self._next_seq = seq
        return 0

    cdef int _deliver(self, Route route, object event) except -1:
        """Number an event and queue it for each step that accepts it."""
        cdef StepInfo step
        self._numbered += 1
        cdef uint64_t seq = self._numbered
        if self.journal is not None:
            self._write_event(seq, route, event)
        cdef bint taken = self.waits is not None and self.waits.offer(event)
        if route.only is not None:
            return self._enqueue(route.only, event, seq)
        if route.kind == ENDS_RUN:
            self.on_stop(event)
            return 0
        if route.kind == ASKS:
            self.on_ask(event)
        elif route.kind == SHOWN:
            self.on_shown(event)
        elif route.kind == AWAITED and not taken:
            self.keep_for_waits(event)
        for step in route.steps:
            self._enqueue(step, event, seq)
        return 0

    cdef bint _is_awaited(self, object event) except -1:
        """Whether a step waits for this event in its middle."""
        return self.waits is not None and self.waits.wants(event)

    # --- what steps produce

    cdef int _dispatch(self, StepInfo step, object result, bint rescued) except -1:
        """Queue what a step returned; all of it or, if something is wrong with it, nothing.

        `rescued`: it comes from `on_error`, which may return what the step itself does not declare.
        """
        cdef Route route
        if type(result) is step.last_class:
            return self._deliver(step.last_route, result)
        if type(result) is not list:
            route = self.router.route_result(step, result, rescued, False, self._is_awaited(result))
            return self._deliver(route, result)
        events = list(<list> result)
        cdef Py_ssize_t place
        cdef dict narrowed = None
        for place, event in enumerate(events):
            if type(event) is not step.last_class:
                route = self.router.route_result(step, event, rescued, True, self._is_awaited(event))
                if self.router.has_guards or self.waits is not None:
                    narrowed = {} if narrowed is None else narrowed
                    narrowed[place] = route
        for place, event in enumerate(events):
            if self.ending:
                break
            if type(event) is step.last_class:
                self._deliver(step.last_route, event)
            else:
                route = None if narrowed is None else narrowed.get(place)
                self._deliver(self.router.find(event) if route is None else route, event)
        return 0

    cdef int _settle(self, Context ctx, object result, object error) except -1:
        """The one place where an invocation's outcome takes effect."""
        self.busy -= 1
        self._settled += 1
        if ctx._holds_slot:
            self._release(ctx)
        if self._observed and error is None:
            self._note("finished", ctx)
        if self.ledger is None:
            return self._take_effect(ctx, result, error)
        if ctx.noted is not None:
            self.ledger.settled(ctx, error is None)
        if not self.gated:
            return self._take_effect(ctx, result, error)
        cdef bint with_others = self.gating      # of the same pass: they are written together
        self.gating = True
        try:
            self._take_effect(ctx, result, error)
        finally:
            self.gating = with_others
        if not with_others:
            self.ledger.stir()
        return 0

    cdef int _take_effect(self, Context ctx, object result, object error) except -1:
        if error is not None:
            self.on_failed(ctx, error)
        elif result is not None and not self.ending:
            if self.journal is not None:
                self._cause = ctx._place()
            self._dispatch(ctx._step, result, ctx._handling)
        return 0

    cdef int _note(self, str kind, Context ctx) except -1:
        """Write an attempt's begin or end into the journal and a step record, where anybody wants them."""
        if self.journal is not None:
            self._write_attempt(STARTED if kind == "started" else FINISHED, ctx)
        if self._log is None:
            return 0
        if self._log.with_steps:
            self.record(kind, ctx, None)
        else:
            self._log.unrecorded += 1
        return 0

    cdef int _write_attempt(self, object kind, Context ctx) except -1:
        # All that can fail, or let another thread look, comes before the first append: an entry is there whole or not.
        now = self._now()
        seq = ctx.seq
        cdef list journal = self.journal
        journal.append(kind)
        journal.append(now)
        journal.append(seq)
        journal.append(ctx._step.index)
        journal.append(0 if ctx._handling else ctx.attempt)
        journal.append(None)
        return 0

    cdef int _write_event(self, uint64_t seq, Route route, object event) except -1:
        kept = self._keep(event)
        self.journal += [NUMBERED, self._now(), seq, route, kept, self._cause]
        return 0

    cdef object _keep(self, object event):
        """What the journal keeps of an event: itself if it cannot change, else its payload as it is now."""
        for name in type(event).__struct_fields__:
            value = getattr(event, name)
            if type(value) is str:
                if len(<str> value) > LONGEST_KEPT:
                    return self.payload_of(event)
            elif type(value) not in _UNCHANGING:
                return self.payload_of(event)
        return event

    cdef int _settle_finished(self) except -1:
        """Settle the outcomes of an earlier pass in the order of their events' numbers."""
        entries, self._finished = self._finished, []
        self._settler_called = False
        entries.sort(key=_entry_order)
        cdef Py_ssize_t done = 0
        cdef Context ctx
        self.gating = self.gated
        try:
            for ctx, result, error in entries:
                if self.ending:
                    break
                done += 1
                self._settle(ctx, result, error)
        finally:
            self.gating = False
            self._drop_finished(entries[done:])
        if self.gated:
            self.ledger.stir()
        return 0

    cdef int _drop_finished(self, list entries) except -1:
        """Count outcomes out that the end of the run has overtaken; their errors are kept beside its own."""
        cdef Context ctx
        self.busy -= len(entries)
        for ctx, _, error in entries:
            if error is not None:
                self.on_failed(ctx, error)
            elif self.journal is not None:
                self._write_attempt(DROPPED, ctx)
        return 0

    cdef bint _must_wait_for_pass(self, Worker worker, Context ctx) except -1:
        """Whether another step may finish in this same pass and has to be taken first."""
        cdef Worker other
        cdef Py_ssize_t looked_at = 0
        if len(self._finished) > 0:
            return True
        if self._suspended == 0:
            return False
        if _abort_offset == 0:
            return True
        for other in self.workers:
            if other is worker or not other.suspended:
                continue
            looked_at += 1
            if looked_at > WORKERS_LOOKED_AT:
                return True
            # A task without an abort function has been woken: it runs in this pass or has run in it.
            if (
                bz_slot_read(<PyObject *> other.task, _abort_offset) is <PyObject *> None
                and (
                    other._ctx.seq < ctx.seq
                    or (other._ctx.seq == ctx.seq and other._ctx._step.index < ctx._step.index)
                )
            ):
                return True
        return False

    cdef int _refill(self) except -1:
        """Move the oldest queued event to the head."""
        cdef bz_record record
        item = self._queue.take(&record)
        self._next_step = <StepInfo> (<tuple> self.router.steps)[record.route]
        self._next_item = item
        self._next_seq = record.seq
        return 0

    cdef int _release(self, Context ctx) except -1:
        """Give a limited step's place to the invocation that has waited longest."""
        cdef Limit limit = <Limit> self._limits[ctx._step.index]
        ctx._holds_slot = False
        limit.running -= 1
        if limit.backlog is not None and limit.backlog.size() > 0 and not self.ending:
            # A place, not the event: who takes it takes what has waited longest, however many places come free at once.
            self._enqueue_front(ctx._step, None, 0)
        return 0

    # --- workers

    cdef int _need_spare(self) except -1:
        """Wake or start as many workers as the work asks for.

        One at a time, so that steps that finish soon are taken by few workers; twice as many each time a worker arrives
        and nothing has been settled since it was called, so that steps that wait long all start soon.
        """
        cdef Py_ssize_t want = bz_ring_len(&self._queue._ring) + (1 if self._next_step is not None else 0)
        cdef Worker worker
        if self.held:
            return 0
        if want == 0:
            want = 1
        if want > self._allowance:
            want = self._allowance
        while self._woken < want:
            if self._parked:
                worker = <Worker> self._parked.pop()
                self.wake(worker)
            else:
                worker = <Worker> self.spawn()
            worker._woken = True
            worker._settled_at_wake = self._settled
            self._woken += 1
        return 0

    def park(self, Worker worker not None):
        """Note that a worker waits for work."""
        self._parked.append(worker)

    @property
    def parked(self):
        """How many workers wait for work."""
        return len(self._parked)

    def unpark(self, Worker worker not None):
        """Take a worker off the list of those that wait; False if it had been woken."""
        if worker in self._parked:
            self._parked.remove(worker)
            return True
        return False

    def take_parked(self):
        """All workers that wait for work, who from now on count as called."""
        parked, self._parked = self._parked, []
        return parked

    # --- the end

    @property
    def behind_gate(self):
        """How many events and attempts wait for a commit."""
        return 0 if self._gate is None else len(self._gate)

    def open_gate(self, Py_ssize_t count):
        """Queue the first `count` events and attempts that wait for a commit; attempts go before what is queued."""
        cdef StepInfo step
        if self.ending:
            return
        passed, self._gate = self._gate[:count], self._gate[count:]
        for step, item, seq in passed:
            if type(item) is not Context:
                self._enqueue(step, item, seq)
        for step, item, seq in reversed(passed):
            if type(item) is Context:
                self._enqueue_front(step, item, seq)
        if self._active is None and self._has_work():
            self._need_spare()

    def stop_dispatching(self):
        """Drop what is queued and dispatch nothing more. Returns the invocations that are still running."""
        cdef Limit limit
        cdef Worker worker
        self.ending = True
        self._gate = None if self._gate is None else []
        self._next_step = None
        self._next_item = None
        self._queue.drop_all()
        entries, self._finished = self._finished, []
        entries.sort(key=_entry_order)
        self._drop_finished(entries)
        if self._limits is not None:
            for limit in self._limits:
                if limit is not None and limit.backlog is not None:
                    limit.backlog.drop_all()
        return [worker._ctx for worker in self.workers if worker._live]

    # --- taking a run apart and putting it together again, for snapshots

    @property
    def unsettled(self):
        """How many outcomes wait for the end of this pass."""
        return len(self._finished)

    @property
    def finished(self):
        """The attempts whose outcomes wait for the end of this pass: they run no longer, nothing has come of them."""
        return [entry[0] for entry in self._finished]

    @property
    def numbered(self):
        """The number of the last event."""
        return self._numbered

    def queued(self):
        """What is queued, as `(item, seq, step)` in order; an item is an event, or the context of an attempt.

        Attempts that are to begin anew come first, as they do in the queue; then what limited steps have no room for,
        which has been taken from the queue before all that is in it still.
        """
        cdef Limit limit
        steps = self.router.steps
        queued = []
        if self._next_step is not None:
            queued.append((self._next_item, self._next_seq, self._next_step))
        queued.extend([(item, seq, steps[route]) for item, seq, route in self._queue.entries()])
        held_back = []
        if self._limits is not None:
            for limit in self._limits:
                if limit is not None and limit.backlog is not None:
                    held_back.extend([(item, seq, steps[route]) for item, seq, route in limit.backlog.entries()])
        if self._gate is not None:
            queued.extend([(item, seq, step) for step, item, seq in self._gate])
        queued = [entry for entry in queued if entry[0] is not None]  # None: a limited step has room again
        again = [entry for entry in queued if type(entry[0]) is Context]
        return again + held_back + [entry for entry in queued if type(entry[0]) is not Context]

    def joins(self):
        """The gatherings of `collect_events`, as `(step, key, {number: event})`."""
        cdef Join join
        if self._joins is None:
            return []
        return [
            (self.router.steps[index], key, dict((<Join> join)._events))
            for (index, key), join in self._joins.items()
        ]

    def attempt_of(self, event, uint64_t seq, StepInfo step not None, int attempt, joined, replay):
        """The context of an attempt that a snapshot held; it begins anew as the next one."""
        cdef Context ctx = Context.__new__(Context)
        ctx._run = self
        ctx.attempt = attempt
        ctx.deadline = INFINITY
        ctx._step = step
        ctx._event = event if type(event) is step.accept_class else self.router.adapt(step, event)
        ctx.seq = seq
        ctx._used = True
        ctx._joined = joined
        ctx.replay = replay
        return ctx

    def put_back(self, event, uint64_t seq, StepInfo step not None):
        """Queue an event that a snapshot held."""
        self._enqueue(step, event, seq)

    def put_back_attempt(self, Context ctx not None, *, bint handle):
        """Queue what `attempt_of` has made, to begin anew; with `handle` its `on_error` is to run."""
        ctx._handling = handle
        self._enqueue(ctx._step, ctx, ctx.seq)

    def put_back_joins(self, joins, uint64_t numbered):
        """Set what `joins` and `numbered` have given."""
        cdef Join join
        self._numbered = numbered
        for step, key, events in joins:
            if self._joins is None:
                self._joins = {}
            join = self._joins[((<StepInfo> step).index, key)] = Join.__new__(Join)
            for seq, event in sorted(events.items()):
                join._events[seq] = event
                heappush(join._numbers.setdefault(event.event_type, []), seq)

    def release(self):
        """Dispatch again what is queued."""
        self.held = False
        if self._has_work():
            self._need_spare()

    def abort(self, Context ctx not None, int reason):
        """Mark an invocation as aborted, for the first reason only. False if it was aborted or over already."""
        if ctx.abort_reason != 0 or ctx._worker is None or ctx._worker._ctx is not ctx or not ctx._worker._live:
            return False
        ctx.abort_reason = reason
        ctx._waits_aborted = False
        return True

    def waits_aborted(self, Context ctx not None):
        """An invocation waits although it was told to stop; reported once per attempt."""
        if not ctx._waits_aborted:
            ctx._waits_aborted = True
            self.on_waits_aborted(ctx)

    def is_active(self, Worker worker not None):
        """Whether this worker's step is what runs right now, and does not wait."""
        return self._active is worker

    def running(self, str step_name=None):
        """The invocations that are running, all of them or those of one step."""
        cdef Worker worker
        return [
            worker._ctx for worker in self.workers
            if worker._live and (step_name is None or worker._ctx._step.name == step_name)
        ]


def _entry_order(entry):
    cdef Context ctx = <Context> entry[0]
    return ctx.seq, ctx._step.index


include "context.pxi"
include "worker.pxi"
